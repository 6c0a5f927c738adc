//! The header of a file, matched to the columns of its domain: by name, in any order and case, blanks trimmed.
//!
//! A canonical name beats an alias: where a file of locations has both `id` and `location_id`, the latter is
//! an extra column. Which cell belongs to which column is decided once a file, so that a row costs no look-up.

use std::borrow::Cow;

use freshet_topics::cast;
use freshet_topics::{Cell, Column, Domain, Instead, NewColumn, RawRow};

use crate::frame::Record;

/// Names listed in an error, and characters of each: an error stays readable whatever the file holds.
const NAMES_SHOWN_MAX: usize = 30;
const NAME_CHARS_MAX: usize = 40;

/// Why a file cannot be of its domain. The text is the file's reject reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No line but blank ones.
    #[error("the file is empty: it has no header")]
    NoHeader,
    /// The file lacks columns that every file of the domain must have.
    #[error("header: no column {missing}, which {domain} files must have; found: {found}")]
    Missing {
        /// The domain's name.
        domain: &'static str,
        /// The columns, with the other spellings that would do.
        missing: String,
        /// The header as it stands, shortened.
        found: String,
    },
    /// The file has columns that the domain does not have, and its contract rejects such files.
    #[error("header: {names} {verb} no column of {domain}, whose contract rejects files with new columns")]
    New {
        /// The domain's name.
        domain: &'static str,
        /// The columns, shortened.
        names: String,
        /// `is` or `are`.
        verb: &'static str,
    },
    /// Two columns of the file are the same column of the domain, and nothing says which one counts.
    #[error(
        "header: columns {} (`{}`) and {} (`{}`) are both `{column}`; remove one",
        first.0, first.1, second.0, second.1
    )]
    Ambiguous {
        /// The column of the domain.
        column: &'static str,
        /// Position in the file from 1, and name as it stands.
        first: (usize, String),
        /// Position in the file from 1, and name as it stands.
        second: (usize, String),
    },
}

/// Which cell of a row belongs to which column of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// For each column of the domain its place in the file, if it has one.
    places: Vec<Option<usize>>,
    /// Place of the column that messages are keyed by.
    partition_place: Option<usize>,
    /// Columns of the file.
    width: usize,
    ignored: Vec<String>,
    /// Columns that the domain does not have and keeps: their places, and what their cells are kept under.
    kept: Vec<(usize, String)>,
}

impl Header {
    /// Matches the first record of a file.
    ///
    /// # Errors
    /// If a required column is missing, or two columns claim to be the same one.
    pub fn read(domain: &'static Domain, record: &Record<'_>) -> Result<Header, HeaderError> {
        let names: Vec<&str> = record.iter().map(trimmed).collect();
        let mut places = Vec::with_capacity(domain.columns.len());
        for column in domain.columns {
            places.push(place_of(domain, column, &names)?);
        }
        check_required(domain, &places, &names)?;
        let is_ignored = |(place, _): &(usize, &&str)| !places.contains(&Some(*place));
        let ignored: Vec<String> =
            names.iter().enumerate().filter(is_ignored).map(|(_, name)| shortened(name)).collect();
        if domain.on_new_column == NewColumn::Reject && !ignored.is_empty() {
            let verb = if ignored.len() == 1 { "is" } else { "are" };
            return Err(HeaderError::New {
                domain: domain.name,
                names: listed(ignored.iter().map(String::as_str)),
                verb,
            });
        }
        let kept = if domain.on_new_column.keeps() { kept(&names, &places) } else { Vec::new() };
        let partition_place = places[domain.index_of(domain.partition_by)];
        Ok(Header { partition_place, width: names.len(), ignored, kept, places })
    }

    /// Whether the file has the column at this place of the domain.
    pub(crate) fn has(&self, column: usize) -> bool {
        self.places.get(column).is_some_and(Option::is_some)
    }

    /// Names of the file's columns that the domain does not have, shortened, in their order.
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }

    /// The cells of a data row in the order of the domain's columns. None of them is copied.
    pub fn raw_row<'a>(&self, record: &Record<'a>) -> RawRow<'a> {
        let cell = |place: &Option<usize>| match place {
            None => Cell::Absent,
            Some(place) => record.get(*place).map_or(Cell::Missing, |text| Cell::Text(Cow::Borrowed(text))),
        };
        // A blank cell says nothing.
        let said = |place: &usize| record.get(*place).filter(|text| !cast::is_blank(text)).map(Cow::Borrowed);
        let new_cell = |(place, name): &(usize, String)| Some((Cow::Owned(name.clone()), said(place)?));
        RawRow {
            new_cells: self.kept.iter().filter_map(new_cell).collect(),
            cells: self.places.iter().map(cell).collect(),
            extra: (self.width..record.len()).filter_map(|place| record.get(place)).map(Cow::Borrowed).collect(),
        }
    }

    /// The cell of one column of the domain in a data row.
    pub(crate) fn cell<'a>(&self, column: usize, record: &Record<'a>) -> Cell<'a> {
        match self.places.get(column).copied().flatten() {
            None => Cell::Absent,
            Some(place) => record.get(place).map_or(Cell::Missing, |text| Cell::Text(Cow::Borrowed(text))),
        }
    }

    /// Bytes that the headings of kept columns take in a row at most.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.iter().map(|(_, name)| name.len()).sum()
    }

    /// The cell that the row's message is keyed by, as it stands; `None` where the file or the row has none.
    pub fn partition_cell<'a>(&self, record: &Record<'a>) -> Option<&'a str> {
        record.get(self.partition_place?)
    }
}

/// What the cells of columns that no column of the domain has its place in are kept under: the heading, or the column's
/// number in the file; a heading that is there again has its number too.
fn kept(names: &[&str], places: &[Option<usize>]) -> Vec<(usize, String)> {
    let mut kept: Vec<(usize, String)> = Vec::new();
    for (place, name) in names.iter().enumerate().filter(|(place, _)| !places.contains(&Some(*place))) {
        let number = place + 1;
        let name = match *name {
            "" => format!("column {number}"),
            name if kept.iter().any(|(_, other)| other == name) => format!("{name} (column {number})"),
            name => name.to_owned(),
        };
        kept.push((place, name));
    }
    kept
}

/// Where the file has the column: under its canonical name, else under an alias that is no column's canonical
/// name.
fn place_of(domain: &'static Domain, column: &'static Column, names: &[&str]) -> Result<Option<usize>, HeaderError> {
    let is_canonical = |name: &str| name.eq_ignore_ascii_case(column.name);
    if let Some(place) = single(column, names, is_canonical)? {
        return Ok(Some(place));
    }
    let is_taken = |name: &str| domain.columns.iter().any(|other| name.eq_ignore_ascii_case(other.name));
    let is_alias = |name: &str| column.aliases.iter().any(|alias| name.eq_ignore_ascii_case(alias)) && !is_taken(name);
    single(column, names, is_alias)
}

fn single(
    column: &'static Column,
    names: &[&str],
    matches: impl Fn(&str) -> bool,
) -> Result<Option<usize>, HeaderError> {
    let mut places = names.iter().enumerate().filter(|(_, name)| matches(name)).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(first), Some(second)) => {
            let shown = |place: usize| (place + 1, shortened(names[place]));
            Err(HeaderError::Ambiguous { column: column.name, first: shown(first), second: shown(second) })
        }
        (place, _) => Ok(place),
    }
}

fn check_required(domain: &'static Domain, places: &[Option<usize>], names: &[&str]) -> Result<(), HeaderError> {
    let spellings = |column: &Column| match column.aliases {
        [] => format!("`{}`", column.name),
        aliases => format!("`{}` (or `{}`)", column.name, aliases.join("`, `")),
    };
    let missing: Vec<String> = domain
        .columns
        .iter()
        .zip(places)
        .filter(|(column, place)| place.is_none() && column.absent == Instead::Reject)
        .map(|(column, _)| spellings(column))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let found = listed(names.iter().copied());
    Err(HeaderError::Missing { domain: domain.name, missing: missing.join(", "), found })
}

/// Names of a file, shortened, and no more than a few of them.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    let count = names.len();
    let mut listed: Vec<String> = names.take(NAMES_SHOWN_MAX).map(|name| format!("`{}`", shortened(name))).collect();
    if count > NAMES_SHOWN_MAX {
        listed.push(format!("and {} more", count - NAMES_SHOWN_MAX));
    }
    listed.join(", ")
}

/// Without the blanks around it: characters 0x01 to 0x20, as in cells.
fn trimmed(name: &str) -> &str {
    name.trim_matches(|character| ('\u{1}'..='\u{20}').contains(&character))
}

/// On one line, and of bounded length.
fn shortened(name: &str) -> String {
    let mut characters = name.chars();
    let mut text: String = characters.by_ref().take(NAME_CHARS_MAX).flat_map(visible).collect();
    if characters.next().is_some() {
        text.push('…');
    }
    text
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use freshet_topics::DOMAINS;

    use super::*;
    use crate::frame::{FrameLimits, Framer};

    /// Reads a file of a header and rows.
    fn read(domain: &'static Domain, text: &str) -> Result<(Header, Vec<RawRow<'static>>), HeaderError> {
        let text = format!("{text}\n");
        let mut rest = text.as_bytes();
        let mut framer = Framer::new(FrameLimits::default());
        let header = match framer.next(&mut rest).expect("a header that frames") {
            Some(record) => Header::read(domain, &record)?,
            None => return Err(HeaderError::NoHeader),
        };
        let mut rows = Vec::new();
        while let Some(record) = framer.next(&mut rest).expect("a row that frames") {
            let row = header.raw_row(&record);
            let partition_cell = &row.cells[domain.index_of(domain.partition_by)];
            match (header.partition_cell(&record), partition_cell) {
                (Some(key), Cell::Text(text)) => assert_eq!(key, text),
                (None, Cell::Absent | Cell::Missing) => {}
                other => panic!("{other:?}"),
            }
            rows.push(RawRow { cells: row.cells.into_iter().map(owned).collect(), ..nothing() });
            let new_cells = row.new_cells.into_iter();
            rows.last_mut().expect("just pushed").new_cells =
                new_cells.map(|(name, text)| (Cow::Owned(name.into_owned()), Cow::Owned(text.into_owned()))).collect();
            rows.last_mut().expect("just pushed").extra =
                row.extra.into_iter().map(|text| Cow::Owned(text.into_owned())).collect();
        }
        Ok((header, rows))
    }

    fn nothing() -> RawRow<'static> {
        RawRow { cells: vec![], extra: vec![], new_cells: BTreeMap::new() }
    }

    fn owned(cell: Cell<'_>) -> Cell<'static> {
        match cell {
            Cell::Absent => Cell::Absent,
            Cell::Missing => Cell::Missing,
            Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
        }
    }

    fn text(text: &str) -> Cell<'static> {
        Cell::Text(Cow::Owned(text.to_owned()))
    }

    fn domain(name: &str) -> &'static Domain {
        DOMAINS.iter().find(|domain| domain.name == name).expect("a domain of the registry")
    }

    #[test]
    fn every_order_case_and_alias_gives_the_same_row_in_every_domain() {
        for domain in DOMAINS {
            let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
            let cells: Vec<String> = (0..names.len()).map(|index| format!("cell {index}")).collect();
            let aliased: Vec<&str> =
                domain.columns.iter().map(|column| *column.aliases.last().unwrap_or(&column.name)).collect();
            let backwards = |of: &[&str]| of.iter().rev().copied().collect::<Vec<_>>().join(",");
            let cells_backwards = cells.iter().rev().cloned().collect::<Vec<_>>().join(",");
            for file in [
                format!("{}\n{}", names.join(","), cells.join(",")),
                format!("{}\n{}", names.join(" ,\t").to_uppercase(), cells.join(",")),
                format!("\u{feff}\"{}\"\n{}", aliased.join("\",\""), cells.join(",")),
                format!("{}\n{cells_backwards}", backwards(&names)),
                format!("{}\n{cells_backwards}", backwards(&aliased)),
            ] {
                let (header, rows) = read(domain, &file).expect("a header of the domain");
                let expected: Vec<Cell> = cells.iter().map(|cell| text(cell)).collect();
                assert_eq!(rows, [RawRow { cells: expected, ..nothing() }], "{file}");
                assert!(header.ignored_columns().is_empty());
            }
        }
    }

    #[test]
    fn a_column_may_be_absent_unless_every_file_must_have_it() {
        for domain in DOMAINS {
            for (index, column) in domain.columns.iter().enumerate() {
                let others: Vec<&str> =
                    domain.columns.iter().map(|other| other.name).filter(|name| *name != column.name).collect();
                match read(domain, &format!("{}\n1", others.join(","))) {
                    Ok((_, rows)) => {
                        assert_ne!(column.absent, Instead::Reject, "{}.{}", domain.name, column.name);
                        assert_eq!(rows[0].cells[index], Cell::Absent);
                    }
                    Err(error) => {
                        assert_eq!(column.absent, Instead::Reject, "{error}");
                        let said = error.to_string();
                        assert!(said.contains(&format!("no column `{}`", column.name)), "{said}");
                        assert!(others.iter().all(|name| said.contains(name)) && said.contains(domain.name), "{said}");
                    }
                }
            }
        }
    }

    #[test]
    fn two_columns_that_are_the_same_one_reject_the_file() {
        for domain in DOMAINS {
            for column in domain.columns {
                let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
                let error = read(domain, &format!("{}, {} ", names.join(","), column.name.to_uppercase()))
                    .expect_err("the same name twice");
                let said = error.to_string();
                let second = format!("{} (`{}`)", names.len() + 1, column.name.to_uppercase());
                assert!(said.contains(&second) && said.contains("both"), "{said}");
                // Beside the canonical name an alias is just another column.
                for alias in column.aliases {
                    let (header, _) = read(domain, &format!("{alias},{}", names.join(","))).expect("a clear header");
                    assert_eq!(header.ignored_columns(), [*alias]);
                }
            }
        }
        let error = read(domain("locations"), "LocationID,name,location_id").expect_err("two aliases");
        assert_eq!(
            error.to_string(),
            "header: columns 1 (`LocationID`) and 3 (`location_id`) are both `id`; remove one"
        );
        read(domain("locations"), "id,name,note,note").expect("extra columns may repeat");
    }

    #[test]
    fn a_contract_may_reject_files_with_new_columns() {
        let strict = Domain { on_new_column: NewColumn::Reject, ..*domain("locations") };
        let strict: &'static Domain = Box::leak(Box::new(strict));
        read(strict, "id,name,District Type").expect_err("a new column");
        let said = read(strict, "id,note,name,\"x\ty\"").expect_err("new columns").to_string();
        assert_eq!(
            said,
            "header: `note`, `x\\ty` are no column of locations, whose contract rejects files with new columns"
        );
        read(strict, "location_id,name,area").expect("no new column");
    }

    #[test]
    fn a_contract_may_keep_the_cells_of_new_columns() {
        let keeping = Domain { on_new_column: NewColumn::Add, ..*domain("locations") };
        let keeping: &'static Domain = Box::leak(Box::new(keeping));
        let file = "note,id,name,,note\nopen,1,Goa,x,late\n ,2,Assam,\n";
        let (header, rows) = read(keeping, file).expect("a header");
        assert_eq!(header.ignored_columns(), ["note", "", "note"]);
        let kept = |row: &RawRow<'_>| {
            let cells = row.new_cells.iter().map(|(name, text)| format!("{name}={text}"));
            cells.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(kept(&rows[0]), "column 4=x, note=open, note (column 5)=late");
        assert_eq!(kept(&rows[1]), "");
        let (_, rows) = read(domain("locations"), file).expect("a header");
        assert_eq!(kept(&rows[0]), "");
    }

    #[test]
    fn short_and_long_rows_and_extra_columns_are_told_apart() {
        let (header, rows) =
            read(domain("locations"), "note,id,name,,population\nx,1,Goa,y,5\n,2\n,3,Assam,,7,more,\n,4,\"\",,\" 8\"")
                .expect("a header");
        assert_eq!(header.ignored_columns(), ["note", ""]);
        let absent = || Cell::Absent;
        let row = |id: &str, name: Cell<'static>, population: Cell<'static>, extra: &[&'static str]| RawRow {
            cells: vec![text(id), name, absent(), population, absent()],
            extra: extra.iter().map(|text| Cow::Borrowed(*text)).collect(),
            ..nothing()
        };
        assert_eq!(
            rows,
            [
                row("1", text("Goa"), text("5"), &[]),
                row("2", Cell::Missing, Cell::Missing, &[]),
                row("3", text("Assam"), text("7"), &["more", ""]),
                row("4", text(""), text(" 8"), &[]),
            ]
        );
    }

    #[test]
    fn what_was_found_is_said_within_bounds() {
        let climate = domain("climate");
        assert_eq!(read(climate, "\n \n").expect_err("empty"), HeaderError::NoHeader);
        assert_eq!(
            read(climate, "location_id;date;\"tempe\u{7}rature\"").expect_err("semicolons").to_string(),
            "header: no column `location_id`, `date`, `temperature`, which climate files must have; \
             found: `location_id;date;\"tempe\\u{7}rature\"`"
        );
        let wide = vec!["n".repeat(500); 500].join(",");
        let said = read(climate, &wide).expect_err("wide").to_string();
        assert!(said.contains("and 470 more") && said.len() < 2_000, "{said}");
    }
}
