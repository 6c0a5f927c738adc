//! Counts rows with the same key as a later row of their file: only the last one loads, and the others would otherwise
//! be lost silently. A typical cause is hourly readings under a daily key.
//!
//! The first pass counts them for the file. If there are any, the second pass adds to each row how many rows with its
//! key came before. Both numbers are functions of the bytes: however the rows are batched, sent twice or read again,
//! they are the same. For that, a second pass that resumes reads the keys of the rows before once more.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use foldhash::fast::RandomState;
use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cell, Column, Domain, Value};

use crate::frame::Record;
use crate::header::Header;

/// The most keys of a file that are remembered: about 32 MB. In a file with more keys, only rows of the remembered ones
/// are counted.
const KEYS_MAX: usize = 1_000_000;
/// Room is made for the keys of a file as if each row had this many bytes: most have fewer, and a set that becomes too
/// small is made once more.
const ROW_BYTES: usize = 64;

/// Counts the rows of a file that a later one overtakes.
pub(crate) struct Overtaken {
    key: Key,
    seen: HashSet<u64, RandomState>,
    keys_max: usize,
    rows: i64,
}

impl Overtaken {
    /// For a file of about this many bytes.
    pub(crate) fn new(domain: &'static Domain, expected_bytes: usize) -> Self {
        let expected = (expected_bytes / ROW_BYTES).min(KEYS_MAX);
        let seen = HashSet::with_capacity_and_hasher(expected, RandomState::default());
        Overtaken { key: Key::of(domain), seen, keys_max: KEYS_MAX, rows: 0 }
    }

    /// Takes the next row.
    pub(crate) fn take(&mut self, header: &Header, record: &Record<'_>) {
        let Some(key) = self.key.number(header, record) else { return };
        let is_overtaking = match self.seen.len() < self.keys_max {
            true => !self.seen.insert(key),
            false => self.seen.contains(&key),
        };
        self.rows += i64::from(is_overtaking);
    }

    /// How many rows were overtaken so far by a later one with the same key.
    pub(crate) fn rows(&self) -> i64 {
        self.rows
    }
}

/// Tells for each row of a file how many rows it overtakes.
pub(crate) struct Overtaking {
    key: Key,
    /// Rows so far, by key.
    seen: HashMap<u64, u32, RandomState>,
    keys_max: usize,
}

impl Overtaking {
    /// For a file in which the first pass found this many overtaken rows: `None` if it found none.
    pub(crate) fn of(domain: &'static Domain, overtaken: i64) -> Option<Self> {
        (overtaken > 0).then(|| Overtaking { key: Key::of(domain), seen: HashMap::default(), keys_max: KEYS_MAX })
    }

    /// Takes the next row; returns how many rows with its key came before.
    pub(crate) fn take(&mut self, header: &Header, record: &Record<'_>) -> u32 {
        let Some(key) = self.key.number(header, record) else { return 0 };
        if let Some(rows) = self.seen.get_mut(&key) {
            let before = *rows;
            *rows = rows.saturating_add(1);
            return before;
        }
        if self.seen.len() < self.keys_max {
            self.seen.insert(key, 1);
        }
        0
    }
}

/// The columns of a domain's key.
struct Key(Vec<KeyColumn>);

/// A column of the key, with what its last cell was read as. Most files are ordered by a column of the key, so that many of
/// these cells have the text of the row before.
struct KeyColumn {
    /// Its index in the domain.
    place: usize,
    column: &'static Column,
    /// The text of the last cell that was read, and the hash of its value; `None`: it is refused. The text alone
    /// tells the value: a file has the column in all rows or in none, and a row that is too short is judged like one with
    /// an empty cell.
    last: Option<(String, Option<u64>)>,
}

impl Key {
    fn of(domain: &'static Domain) -> Self {
        let place = |name: &&'static str| domain.index_of(name);
        let column = |place: usize| KeyColumn { place, column: &domain.columns[place], last: None };
        Key(domain.key.iter().map(place).map(column).collect())
    }

    /// A hash of a row's key. A row with an unreadable key has none: it is a reject, and overtakes nothing.
    fn number(&mut self, header: &Header, record: &Record<'_>) -> Option<u64> {
        if record.stray_quote().is_some() {
            return None;
        }
        self.0.iter_mut().try_fold(0, |number, column| {
            let value = column.number(&header.cell(column.place, record))?;
            Some(combined(number, value))
        })
    }
}

impl KeyColumn {
    fn number(&mut self, cell: &Cell<'_>) -> Option<u64> {
        let text = cell.as_ref().text();
        if let Some((last, number)) = &self.last
            && last == text
        {
            return *number;
        }
        let value = judge::cell(self.column, cell, &mut Notes::default()).ok();
        let number = value.map(|value| hash(&value));
        let (last, known) = self.last.get_or_insert_default();
        last.clear();
        last.push_str(text);
        *known = number;
        number
    }
}

/// A hash of two hashes, the one of `first` and `second` another than the one of `second` and `first`. Both are hashes of
/// all bits already, so a multiplication by a large odd number (2^64 divided by the golden ratio) is enough.
fn combined(first: u64, second: u64) -> u64 {
    (first.rotate_left(5) ^ second).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Values that are equal as keys in the table have the same hash: NULL equals NULL, zero has no sign, NaN equals NaN.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    match value {
        Value::Null => 0u8.hash(&mut hasher),
        Value::Int(value) => value.hash(&mut hasher),
        Value::BigInt(value) => value.hash(&mut hasher),
        Value::Double(value) if value.is_nan() => f64::NAN.to_bits().hash(&mut hasher),
        Value::Double(value) => (value + 0.0).to_bits().hash(&mut hasher),
        Value::Numeric(value) => value.hash(&mut hasher),
        Value::Bool(value) => value.hash(&mut hasher),
        Value::Date(value) => value.hash(&mut hasher),
        Value::Timestamp(value) => value.hash(&mut hasher),
        Value::Text(value) => value.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;
    use crate::frame::{FrameLimits, Framer};

    /// How many rows the first pass counts, and the number that the second pass gives each row.
    fn counted(domain: &'static Domain, text: &str, keys_max: usize) -> (i64, Vec<u32>) {
        let mut rest = text.as_bytes();
        let mut framer = Framer::new(FrameLimits::default(), domain.delimiter);
        let record = framer.next(&mut rest).expect("a header that frames").expect("a header");
        let header = Header::read(domain, &[], &record).expect("a header of the domain");
        let mut overtaken = Overtaken { keys_max, ..Overtaken::new(domain, 0) };
        let mut overtaking = Overtaking { keys_max, ..Overtaking::of(domain, 1).expect("there may be some") };
        let mut told = Vec::new();
        while let Some(record) = framer.next(&mut rest).expect("a row that frames") {
            overtaken.take(&header, &record);
            told.push(overtaking.take(&header, &record));
        }
        assert_eq!(told.iter().filter(|before| **before > 0).count() as i64, overtaken.rows(), "{text}");
        (overtaken.rows(), told)
    }

    #[test]
    fn a_row_whose_key_comes_again_is_counted_once_however_the_key_is_written() {
        let health = DOMAINS[2];
        let cases = [
            ("1,2025-01-01,5\n1,2025-01-02,5\n2,2025-01-01,5\n", vec![0, 0, 0]),
            ("1,2025-01-01,5\n1,2025-01-01,5\n2,2025-01-01,5\n1,2025-01-01,7\n", vec![0, 1, 0, 2]),
            // Hourly readings of a day, and a number in another spelling.
            ("1,2025-01-01 00:00,5\n1,2025-01-01 01:00,6\n001,2025-01-01T02:00,7\n", vec![0, 1, 2]),
            // A reject overtakes nothing, and is not overtaken.
            ("x,2025-01-01,5\nx,2025-01-01,5\n1,,5\n1,,5\n", vec![0; 4]),
            ("1,2025-01-01,5\n1,2025-01-01,\"5\"6\n1,2025-01-01,7\n", vec![0, 0, 1]),
            // A cell is read anew where its text is another, also after one that is refused or missing.
            ("1,2025-01-01,5\nx,2025-01-01,5\n1,2025-01-01,5\n1\n1,2025-01-01,5\n", vec![0, 0, 1, 0, 2]),
        ];
        for (rows, expected) in cases {
            let (_, told) = counted(health, &format!("location_id,date,dengue_cases\n{rows}"), 10);
            assert_eq!(told, expected, "{rows}");
        }
        let climate = "location_id,date,temperature,projection_year\n\
                       1,2025-01-01,1,\n1,2025-01-01,1,2030\n1,2025-01-01,1,\n1,2025-01-01,1\n";
        assert_eq!(
            counted(DOMAINS[1], climate, 10).1,
            [0, 0, 1, 2],
            "NULL is a value of the key, and a short row has it"
        );
        assert!(Overtaking::of(health, 0).is_none(), "where none is, nothing is remembered");
    }

    #[test]
    fn the_keys_that_are_remembered_are_bounded() {
        let rows =
            "location_id,date,dengue_cases\n1,2025-01-01\n2,2025-01-01\n3,2025-01-01\n1,2025-01-01\n3,2025-01-01\n";
        assert_eq!([2, 3].map(|keys_max| counted(DOMAINS[2], rows, keys_max).0), [1, 2]);
    }

    #[test]
    fn what_is_one_key_in_the_table_is_one_number() {
        assert_eq!(hash(&Value::Double(0.0)), hash(&Value::Double(-0.0)));
        assert_eq!(hash(&Value::Double(f64::NAN)), hash(&Value::Double(-f64::NAN)));
        assert_ne!(hash(&Value::Double(1.0)), hash(&Value::Double(-1.0)));
        let [one, two] = [1, 2].map(|number| hash(&Value::BigInt(number)));
        assert_ne!(combined(combined(0, one), two), combined(combined(0, two), one), "the order of columns counts");
    }
}
