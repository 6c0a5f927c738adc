//! Analyses the columns of a sample file: types, gaps, bounds and values. Of its rows, only the shown values and the
//! data for guessing a key are kept.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use freshet_ingest::frame::{FrameLimits, Framer, Record};
use freshet_topics::cast;

use super::key;

/// Rows of a sample that are looked at: more show nothing new, and this many are read within seconds.
const ROWS_MAX: u64 = 200_000;
/// Rows that become a test of the draft.
const SAMPLES: usize = 3;
/// Different values of a column that are shown; with more of them it is no list of values.
const VALUES_MAX: usize = 12;
/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Postgres cuts longer names.
const NAME_CHARACTERS_MAX: usize = 63;

/// A sample file, looked at.
#[derive(Debug)]
pub(super) struct Looked {
    /// The name of the domain, from the file's.
    pub(super) name: String,
    /// The file's name, for people.
    pub(super) file: String,
    /// In the order of the file.
    pub(super) columns: Vec<Column>,
    /// How many rows were looked at.
    pub(super) rows: u64,
    /// The first rows, as they stand.
    pub(super) samples: Vec<Vec<String>>,
    /// Indexes of columns that together are unique; empty if there are none.
    pub(super) key: Option<Vec<usize>>,
}

/// What was seen of a column.
#[derive(Debug)]
pub(super) struct Column {
    /// The original heading, trimmed.
    pub(super) heading: String,
    /// A name that Postgres takes without quotes.
    pub(super) name: String,
    /// Cells without a value.
    pub(super) empty: u64,
    /// The narrowest type that all other cells have.
    pub(super) kind: Kind,
    /// The least and the greatest value, as they stand; of text none.
    pub(super) bounds: Option<(String, String)>,
    /// All its values where they are few.
    pub(super) values: Option<BTreeSet<String>>,
}

/// What all cells of a column can be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No cell has a value.
    Unknown,
    Date,
    Int4,
    Int8,
    Float8,
    Bool,
    Text,
}

/// Reads a sample.
///
/// # Errors
/// If the file cannot be read, is not CSV, or has no header or no rows.
pub(super) fn at(path: &Path) -> Result<Looked> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader = Reader::default();
    let mut input = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut framer = Framer::new(FrameLimits::default(), b',');
    let mut chunk = vec![0; CHUNK_BYTES];
    while reader.rows < ROWS_MAX {
        let read = input.read(&mut chunk).with_context(|| format!("read {}", path.display()))?;
        let mut rest = &chunk[..read];
        let failed = || format!("{}: this is not CSV", path.display());
        while let Some(record) = framer.next(&mut rest).with_context(failed)? {
            reader.take(&record);
        }
        if read == 0 {
            while let Some(record) = framer.finish().with_context(failed)? {
                reader.take(&record);
            }
            break;
        }
    }
    ensure!(reader.rows > 0, "{}: it has no rows to draft a contract from", path.display());
    Ok(reader.looked(identifier(&stem), file))
}

/// What was seen so far.
#[derive(Default)]
struct Reader {
    columns: Vec<Seen>,
    rows: u64,
    samples: Vec<Vec<String>>,
}

impl Reader {
    fn take(&mut self, record: &Record<'_>) {
        if record.row().is_none() {
            self.columns = record.iter().map(Seen::of).collect();
            return;
        }
        self.rows += 1;
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.take(record.get(index).unwrap_or_default());
        }
        if self.samples.len() < SAMPLES {
            self.samples.push(record.iter().map(str::to_owned).collect());
        }
    }

    fn looked(self, name: String, file: String) -> Looked {
        let mut taken = BTreeSet::new();
        let hashes: Vec<Vec<u64>> = self.columns.iter().map(|column| column.hashes.clone()).collect();
        let mut columns: Vec<Column> = self.columns.into_iter().map(|seen| seen.column(&mut taken)).collect();
        let key = key::guess(&columns, &hashes);
        // Every table has an `id` of its own, unless that is its whole key.
        let is_key = |index| key.as_ref().is_some_and(|key| *key == [index]);
        if let Some(index) = columns.iter().position(|column| column.name == "id").filter(|index| !is_key(*index)) {
            columns[index].name = format!("{name}_id");
        }
        Looked { name, file, columns, rows: self.rows, samples: self.samples, key }
    }
}

/// A column so far: which types it can still have.
struct Seen {
    heading: String,
    empty: u64,
    filled: u64,
    date: bool,
    int4: bool,
    int8: bool,
    float8: bool,
    bool: bool,
    least: Option<(f64, String)>,
    greatest: Option<(f64, String)>,
    values: Option<BTreeSet<String>>,
    hashes: Vec<u64>,
}

impl Seen {
    fn of(heading: &str) -> Seen {
        Seen {
            heading: cast::trim(heading).to_owned(),
            empty: 0,
            filled: 0,
            date: true,
            int4: true,
            int8: true,
            float8: true,
            bool: true,
            least: None,
            greatest: None,
            values: Some(BTreeSet::new()),
            hashes: Vec::new(),
        }
    }

    fn take(&mut self, cell: &str) {
        if self.hashes.len() < key::ROWS_MAX {
            let mut hasher = DefaultHasher::new();
            cell.hash(&mut hasher);
            self.hashes.push(hasher.finish());
        }
        if cast::is_blank(cell) {
            self.empty += 1;
            return;
        }
        self.filled += 1;
        self.date = self.date && cast::date(cell).is_some();
        // A number that would lose its fraction is none of these.
        self.int4 = self.int4 && cast::int(cell).is_some_and(|casted| casted.correction.is_none());
        self.int8 = self.int8 && (self.int4 || cast::trim(cell).parse::<i64>().is_ok());
        let number = cast::double(cell).map(|casted| casted.value);
        self.float8 = self.float8 && number.is_some();
        self.bool = self.bool && cast::boolean(cell).is_some();
        if let Some(values) = &mut self.values {
            values.insert(cell.to_owned());
            if values.len() > VALUES_MAX {
                self.values = None;
            }
        }
        if let Some(number) = number.filter(|number| number.is_finite()) {
            if self.least.as_ref().is_none_or(|(least, _)| number < *least) {
                self.least = Some((number, cast::trim(cell).to_owned()));
            }
            if self.greatest.as_ref().is_none_or(|(greatest, _)| number > *greatest) {
                self.greatest = Some((number, cast::trim(cell).to_owned()));
            }
        }
    }

    fn kind(&self) -> Kind {
        match () {
            () if self.filled == 0 => Kind::Unknown,
            () if self.date => Kind::Date,
            () if self.int4 => Kind::Int4,
            () if self.int8 => Kind::Int8,
            () if self.float8 => Kind::Float8,
            () if self.bool => Kind::Bool,
            () => Kind::Text,
        }
    }

    fn column(self, taken: &mut BTreeSet<String>) -> Column {
        let kind = self.kind();
        let is_number = matches!(kind, Kind::Int4 | Kind::Int8 | Kind::Float8);
        let bounds = self.least.zip(self.greatest).filter(|_| is_number);
        let mut name = identifier(&self.heading);
        while !taken.insert(name.clone()) {
            name.push_str("_2");
        }
        Column {
            heading: self.heading,
            name,
            empty: self.empty,
            kind,
            bounds: bounds.map(|((_, least), (_, greatest))| (least, greatest)),
            values: self.values.filter(|values| !values.is_empty() && matches!(kind, Kind::Text | Kind::Bool)),
        }
    }
}

/// A name of lower-case letters, digits and `_`, as Postgres takes it without quotes.
///
/// | text | name |
/// |---|---|
/// | `Clinic ID` | `clinic_id` |
/// | `PM2.5 (µg/m³)` | `pm2_5_g_m` |
/// | `2024 cases` | `n2024_cases` |
/// | `` | `column` |
pub(super) fn identifier(text: &str) -> String {
    let mut name = String::new();
    for character in text.chars().flat_map(char::to_lowercase) {
        match character {
            'a'..='z' | '0'..='9' => name.push(character),
            _ if name.ends_with('_') || name.is_empty() => {}
            _ => name.push('_'),
        }
    }
    let name = name.trim_end_matches('_');
    let name = match name.chars().next() {
        None => "column".to_owned(),
        Some('0'..='9') => format!("n{name}"),
        Some(_) => name.to_owned(),
    };
    name.chars().take(NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(text: &str) -> Looked {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("Water Quality.csv");
        std::fs::write(&path, text).expect("write");
        at(&path).expect("a sample")
    }

    #[test]
    fn names_are_taken_without_quotes() {
        let cases = [
            ("Clinic ID", "clinic_id"),
            ("PM2.5 (µg/m³)", "pm2_5_g_m"),
            ("2024 cases", "n2024_cases"),
            ("", "column"),
            ("_x_", "x"),
        ];
        for (text, name) in cases {
            assert_eq!(identifier(text), name, "{text}");
        }
    }

    #[test]
    fn types_gaps_bounds_and_values_are_seen() {
        let found = looked(
            "\u{feff}Site,day,count,big,ph,safe,note,empty\n\
             A,2025-01-01,5,3000000000,7.5,yes,\"x, y\",\n\
             B,2025-01-02,-2.0,1,8,no,,\n",
        );
        assert_eq!((found.name.as_str(), found.rows, found.samples.len()), ("water_quality", 2, 2));
        let kinds: Vec<Kind> = found.columns.iter().map(|column| column.kind).collect();
        use Kind::{Bool, Date, Float8, Int4, Int8, Text, Unknown};
        assert_eq!(kinds, [Text, Date, Int4, Int8, Float8, Bool, Text, Unknown]);
        assert_eq!(found.columns[2].bounds, Some(("-2.0".to_owned(), "5".to_owned())));
        assert_eq!((found.columns[6].empty, found.columns[7].empty), (1, 2));
        assert_eq!(found.columns[0].values.as_ref().map(BTreeSet::len), Some(2));
    }

    #[test]
    fn headings_that_make_one_name_are_told_apart() {
        let found = looked("a b,A-B,a_b_2\n1,2,3\n");
        let names: Vec<&str> = found.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["a_b", "a_b_2", "a_b_2_2"]);
    }

    #[test]
    fn an_id_that_is_not_the_whole_key_is_called_otherwise() {
        let name_of = |text: &str| looked(text).columns[0].name.clone();
        assert_eq!(name_of("ID,day\n1,2025-01-01\n2,2025-01-01\n"), "id");
        assert_eq!(name_of("ID,day\n1,2025-01-01\n1,2025-01-02\n"), "water_quality_id");
    }

    #[test]
    fn a_sample_without_rows_teaches_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "a,b\n").expect("write");
        let error = at(&path).expect_err("no rows");
        assert!(error.to_string().contains("no rows"), "{error}");
    }
}
