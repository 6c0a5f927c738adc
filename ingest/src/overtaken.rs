//! Rows whose key comes again further down in their file: of such rows the last one loads, and the others leave no trace in the
//! table. Whoever sends readings of each hour under a key that ends at the day is to know.
//!
//! Counted in the first pass, so that the number is a function of the bytes: however the rows are batched, sent twice or
//! read again, it is the same.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use freshet_topics::judge::{self, Notes};
use freshet_topics::{Column, Domain, Value};

use crate::frame::Record;
use crate::header::Header;

/// Keys of a file that are remembered: 16 MB or so. In a file with more, rows of the first of them are counted.
const KEYS_MAX: usize = 1_000_000;

/// Counts them.
pub(crate) struct Overtaken {
    /// The columns of the key, with their place in the domain.
    key: Vec<(usize, &'static Column)>,
    seen: HashSet<u64>,
    keys_max: usize,
    rows: i64,
}

impl Overtaken {
    pub(crate) fn new(domain: &'static Domain) -> Self {
        let place = |name: &&'static str| (domain.index_of(name), &domain.columns[domain.index_of(name)]);
        Overtaken { key: domain.key.iter().map(place).collect(), seen: HashSet::new(), keys_max: KEYS_MAX, rows: 0 }
    }

    /// Takes the next row. One whose key cannot be read is a reject, and overtakes nothing.
    pub(crate) fn take(&mut self, header: &Header, record: &Record<'_>) {
        if record.stray_quote().is_some() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        for (place, column) in &self.key {
            match judge::cell(column, &header.cell(*place, record), &mut Notes::default()) {
                Ok(value) => hash(&value, &mut hasher),
                Err(_) => return,
            }
        }
        let key = hasher.finish();
        if self.seen.contains(&key) {
            self.rows += 1;
        } else if self.seen.len() < self.keys_max {
            self.seen.insert(key);
        }
    }

    /// Rows so far that a later one of their key has overtaken.
    pub(crate) fn rows(&self) -> i64 {
        self.rows
    }
}

/// What is one key in the table is one number here: NULL is a value, zero has no sign, NaN is one.
fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Int(value) => value.hash(hasher),
        Value::BigInt(value) => value.hash(hasher),
        Value::Double(value) if value.is_nan() => f64::NAN.to_bits().hash(hasher),
        Value::Double(value) => (value + 0.0).to_bits().hash(hasher),
        Value::Numeric(value) => value.hash(hasher),
        Value::Bool(value) => value.hash(hasher),
        Value::Date(value) => value.hash(hasher),
        Value::Timestamp(value) => value.hash(hasher),
        Value::Text(value) => value.hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;
    use crate::frame::{FrameLimits, Framer};

    fn counted(domain: &'static Domain, text: &str, keys_max: usize) -> i64 {
        let mut rest = text.as_bytes();
        let mut framer = Framer::new(FrameLimits::default(), domain.delimiter);
        let record = framer.next(&mut rest).expect("a header that frames").expect("a header");
        let header = Header::read(domain, &[], &record).expect("a header of the domain");
        let mut overtaken = Overtaken { keys_max, ..Overtaken::new(domain) };
        while let Some(record) = framer.next(&mut rest).expect("a row that frames") {
            overtaken.take(&header, &record);
        }
        overtaken.rows()
    }

    #[test]
    fn a_row_whose_key_comes_again_is_counted_once_however_the_key_is_written() {
        let health = DOMAINS[2];
        let cases = [
            ("1,2025-01-01,5\n1,2025-01-02,5\n2,2025-01-01,5\n", 0),
            ("1,2025-01-01,5\n1,2025-01-01,5\n1,2025-01-01,7\n", 2),
            // Readings of each hour of a day, and a number written otherwise.
            ("1,2025-01-01 00:00,5\n1,2025-01-01 01:00,6\n001,2025-01-01T02:00,7\n", 2),
            // A reject overtakes nothing, and is not overtaken.
            ("x,2025-01-01,5\nx,2025-01-01,5\n1,,5\n1,,5\n", 0),
        ];
        for (rows, expected) in cases {
            assert_eq!(counted(health, &format!("location_id,date,dengue_cases\n{rows}"), 10), expected, "{rows}");
        }
        let climate =
            "location_id,date,temperature,projection_year\n1,2025-01-01,1,\n1,2025-01-01,1,2030\n1,2025-01-01,1,\n";
        assert_eq!(counted(DOMAINS[1], climate, 10), 1, "NULL is a value of the key");
    }

    #[test]
    fn the_keys_that_are_remembered_are_bounded() {
        let rows =
            "location_id,date,dengue_cases\n1,2025-01-01\n2,2025-01-01\n3,2025-01-01\n1,2025-01-01\n3,2025-01-01\n";
        assert_eq!([2, 3].map(|keys_max| counted(DOMAINS[2], rows, keys_max)), [1, 2]);
    }

    #[test]
    fn what_is_one_key_in_the_table_is_one_number() {
        let number = |value: Value| {
            let mut hasher = DefaultHasher::new();
            hash(&value, &mut hasher);
            hasher.finish()
        };
        assert_eq!(number(Value::Double(0.0)), number(Value::Double(-0.0)));
        assert_eq!(number(Value::Double(f64::NAN)), number(Value::Double(-f64::NAN)));
        assert_ne!(number(Value::Double(1.0)), number(Value::Double(-1.0)));
    }
}
