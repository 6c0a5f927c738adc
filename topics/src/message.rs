//! A row as a Kafka message.
//!
//! The value is a JSON object of raw text by canonical column name, so that any consumer can read it and a replay sees
//! exactly what the file said. Three cases are distinguished: a column that the file does not have is not in the
//! object, a cell that a short row does not reach is `null`, an empty cell is `""`. Cells beyond the header are under
//! [`EXTRA`]; [`OVERTAKEN`] is the number of earlier rows of the file that it replaces. The row's origin is in the
//! header [`ORIGIN_HEADER`].
//!
//! This is the form of a message with one row. [`packed`] has several rows in one; a topic may have both.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use rdkafka::message::{Header, Headers, OwnedHeaders};
use uuid::Uuid;

use crate::Domain;
use crate::cells::Cells;

pub mod packed;
mod raw;
mod read;

pub use self::raw::RawText;
pub(crate) use self::read::push_row;
pub use self::read::push_rows;

/// The JSON name for cells beyond the header, an array of text.
pub const EXTRA: &str = "_extra";

/// The JSON name for cells of new columns, an object of text by heading, if the contract keeps them.
pub const NEW_CELLS: &str = "_new";

/// The JSON name of a line with a stray quote.
pub const STRAY_QUOTE: &str = "_stray_quote";

/// The JSON name for the number of earlier rows of the file with the same key; absent if it is 0.
pub const OVERTAKEN: &str = "_overtaken";

/// The header of record 0 of a partition; its value is the stream id. A record that has it carries no row.
pub const STREAM_HEADER: &str = "stream";

/// A row's origin: it locates the row in the file, orders it, and shows missing rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Provenance {
    /// `pipeline.objects.id` of the object version.
    pub object: i64,
    /// Counts the readings of that object; a new one begins when the parser version or the partition count changes.
    pub generation: i32,
    /// Data row within the object, from 0, without the header.
    pub row: i64,
    /// Line on which the row starts, from 1, for people.
    pub line: i64,
    /// The object's place in the domain's order; the newest data wins by (`src_ord`, `generation`, `row`).
    pub src_ord: i64,
    /// 0, 1, 2, … without gaps per (object, generation, partition).
    pub seq: i64,
    /// [`crate::PARSER_VERSION`] of the listener that numbered the row.
    pub parser: i32,
    /// `pipeline.objects.nonce`: a random number of the object. A restored or recreated ledger assigns the same ids
    /// again, but never the same nonce. Nil for objects registered before there were nonces.
    pub nonce: Uuid,
    /// The partition count that the rows were numbered for; 0 in messages of earlier versions.
    pub partitions: i32,
}

/// Which row of which reading of which object a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage {
    /// See [`Provenance::object`].
    pub object: i64,
    /// See [`Provenance::generation`].
    pub generation: i32,
    /// See [`Provenance::row`].
    pub row: i64,
}

/// A row's place in the order of its domain's data: the greatest wins, and equal places mean the same row. Compared field by
/// field from the first; the statements that write rows compare the same three, and a test checks that (`tests/model`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// See [`Provenance::src_ord`].
    pub src_ord: i64,
    /// See [`Provenance::generation`].
    pub generation: i32,
    /// See [`Provenance::row`].
    pub row: i64,
}

impl Provenance {
    /// Which row it is.
    pub fn lineage(&self) -> Lineage {
        Lineage { object: self.object, generation: self.generation, row: self.row }
    }

    /// Its place in the order of the data.
    pub fn order(&self) -> Order {
        Order { src_ord: self.src_ord, generation: self.generation, row: self.row }
    }
}

/// A message without an origin, or with headers or a value that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A field of the origin is missing or not a number.
    #[error("field `{0}` of header `origin` is missing or out of range")]
    Origin(&'static str),
    /// The value is not a JSON object of text.
    #[error("the value is not a JSON object of text cells: {0}")]
    Value(#[from] serde_json::Error),
    /// A header of a packed message is missing or invalid.
    #[error("header `{0}` of a packed message is missing or cannot be read")]
    Pack(&'static str),
    /// A line of a packed message cannot be read.
    #[error("line {number} of the value is not a row: {why}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A packed message was cut, or composed from several.
    #[error("the value has {found} rows, and the header `rows` says {said}")]
    Rows {
        /// The number in the header.
        said: usize,
        /// The number in the value.
        found: usize,
    },
}

/// The header that carries a row's [`Provenance`].
///
/// One header with all fields, not one header per field: librdkafka allocates, copies and frees each header on both
/// sides, which costs more than everything else that freshet does with a row.
pub const ORIGIN_HEADER: &str = "origin";

/// The numbers at the beginning of the origin, in order. The nonce and the partition count follow; version 0.1 did not
/// write them. A later version may append fields; it never reorders them.
const ORIGIN_FIELDS: [&str; 7] = ["object", "generation", "row", "line", "src_ord", "seq", "parser"];

/// Hexadecimal digits of a nonce, without hyphens.
const NONCE_DIGITS: usize = 32;

/// The text of an origin: decimal numbers and the nonce's 32 hexadecimal digits, `12,1,0,2,30199…,0,1,5b9e…,4`.
impl fmt::Display for Provenance {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Provenance { object, generation, row, line, src_ord, seq, parser, nonce, partitions } = self;
        let nonce = nonce.simple();
        write!(formatter, "{object},{generation},{row},{line},{src_ord},{seq},{parser},{nonce},{partitions}")
    }
}

impl Provenance {
    /// The Kafka header, as text that any tool can read.
    pub fn to_headers(&self) -> OwnedHeaders {
        let origin = self.to_string();
        OwnedHeaders::new_with_capacity(1).insert(Header { key: ORIGIN_HEADER, value: Some(&origin) })
    }

    /// Reads the headers of a row.
    ///
    /// # Errors
    /// [`MessageError::Origin`] names the first field that is missing or not a number. Additional fields and unknown
    /// headers are ignored, so that a later version may add some.
    pub fn from_headers(headers: Option<&impl Headers>) -> Result<Self, MessageError> {
        Self::from_text(header_text(headers, ORIGIN_HEADER).unwrap_or_default())
    }

    /// Reads the text of an origin.
    fn from_text(origin: &str) -> Result<Self, MessageError> {
        let mut fields = origin.split(',');
        let mut numbers = [0; ORIGIN_FIELDS.len()];
        for (number, name) in numbers.iter_mut().zip(ORIGIN_FIELDS) {
            let field = fields.next().and_then(|field| field.parse::<i64>().ok());
            // Below the greatest number: adding one must still give a number.
            *number = field.filter(|field| (0..i64::MAX).contains(field)).ok_or(MessageError::Origin(name))?;
        }
        let [object, generation, row, line, src_ord, seq, parser] = numbers;
        // Object 0 is not a file: messages that are not rows of a file are recorded under it.
        if object == 0 {
            return Err(MessageError::Origin("object"));
        }
        let small = |number: i64, name| i32::try_from(number).map_err(|_| MessageError::Origin(name));
        let (generation, parser) = (small(generation, "generation")?, small(parser, "parser")?);
        let nonce = match fields.next() {
            None => Uuid::nil(),
            Some(digits) if digits.len() == NONCE_DIGITS => {
                Uuid::try_parse(digits).map_err(|_| MessageError::Origin("nonce"))?
            }
            Some(_) => return Err(MessageError::Origin("nonce")),
        };
        let partitions = match fields.next() {
            None => 0,
            Some(count) => {
                let count = count.parse().ok().filter(|count| *count >= 0);
                count.ok_or(MessageError::Origin("partitions"))?
            }
        };
        Ok(Provenance { object, generation, row, line, src_ord, seq, parser, nonce, partitions })
    }
}

/// The text of a header, if there is one.
fn header_text<'h>(headers: Option<&'h impl Headers>, name: &str) -> Option<&'h str> {
    let header = headers?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(header.value?).ok()
}

/// One raw cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The file has no such column.
    Absent,
    /// The row is too short to reach the column.
    Missing,
    /// The text of the cell, possibly empty.
    Text(Cow<'a, str>),
}

/// A row as the file has it: one [`Cell`] for each column of the domain, in declaration order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow<'a> {
    /// One for each column of the domain.
    pub cells: Vec<Cell<'a>>,
    /// Cells beyond the header; a row that has any is rejected.
    pub extra: Vec<Cow<'a, str>>,
    /// Cells of columns that the domain does not have, by heading, if its contract keeps them.
    pub new_cells: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// The original line, if a quote on it is never closed or has text after its end: the row has no cells, and is
    /// rejected.
    pub stray_quote: Option<Cow<'a, str>>,
    /// Earlier rows of its file with the same key.
    pub overtaken: u32,
}

impl RawRow<'_> {
    /// Appends the row to `buffer` as the JSON object of a message value.
    pub fn encode(&self, domain: &Domain, buffer: &mut Vec<u8>) {
        let mut separator = b'{';
        for (column, cell) in domain.columns.iter().zip(&self.cells) {
            if matches!(cell, Cell::Absent) {
                continue;
            }
            match cell {
                Cell::Text(text) => push_entry(buffer, &mut separator, column.name, text.as_ref()),
                Cell::Absent | Cell::Missing => push_entry(buffer, &mut separator, column.name, &()),
            }
        }
        if !self.extra.is_empty() {
            push_entry(buffer, &mut separator, EXTRA, &self.extra);
        }
        if !self.new_cells.is_empty() {
            push_entry(buffer, &mut separator, NEW_CELLS, &self.new_cells);
        }
        if let Some(line) = &self.stray_quote {
            push_entry(buffer, &mut separator, STRAY_QUOTE, line.as_ref());
        }
        if self.overtaken > 0 {
            push_entry(buffer, &mut separator, OVERTAKEN, &self.overtaken);
        }
        if separator == b'{' {
            buffer.push(b'{');
        }
        buffer.push(b'}');
    }
}

/// Appends an entry of an object, with `()` for `null`; `separator` is written before it, and is a comma afterwards.
fn push_entry<T: serde::Serialize + ?Sized>(buffer: &mut Vec<u8>, separator: &mut u8, name: &str, value: &T) {
    buffer.push(std::mem::replace(separator, b','));
    push_json(buffer, name);
    buffer.push(b':');
    push_json(buffer, value);
}

/// Appends a text, or texts, as JSON.
pub(crate) fn push_json<T: serde::Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(buffer, value).expect("text always serialises, and writing to a Vec cannot fail");
}

impl RawRow<'_> {
    /// Reads the value of a message with one row. Names that the domain does not know are ignored, so that a message of
    /// a later version can still be read.
    ///
    /// # Errors
    /// [`MessageError::Value`] if the bytes are not a JSON object of text cells.
    pub fn decode(domain: &Domain, value: &[u8]) -> Result<RawRow<'static>, MessageError> {
        let mut cells = Cells::of(domain);
        push_row(domain, value, &mut cells)?;
        Ok(cells.raw_row(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DOMAINS, NewColumn};

    #[test]
    fn a_row_reads_back_as_it_was_written_in_every_domain() {
        for domain in DOMAINS {
            let mut cells: Vec<Cell> = domain
                .columns
                .iter()
                .enumerate()
                .map(|(index, _)| Cell::Text(Cow::Owned(format!("text \"{index}\" \\ \u{1}\n π"))))
                .collect();
            cells[0] = Cell::Absent;
            cells[1] = Cell::Missing;
            cells[2] = Cell::Text("".into());
            for extra in [vec![], vec!["beyond".into(), "".into()]] {
                let (cells, new_cells, stray_quote) = (cells.clone(), BTreeMap::new(), None);
                let row = RawRow { cells, extra, new_cells, stray_quote, overtaken: 0 };
                let mut buffer = Vec::new();
                row.encode(domain, &mut buffer);
                assert_eq!(RawRow::decode(domain, &buffer).expect("decode"), row);
            }
            let cells = vec![Cell::Absent; domain.columns.len()];
            let (new_cells, stray_quote) = (BTreeMap::new(), None);
            let nothing = RawRow { cells, extra: vec![], new_cells, stray_quote, overtaken: 0 };
            let mut buffer = Vec::new();
            nothing.encode(domain, &mut buffer);
            assert_eq!(buffer, b"{}");
        }
    }

    #[test]
    fn cells_of_new_columns_travel_where_the_contract_keeps_them() {
        let keeping = Domain { on_new_column: NewColumn::Keep, ..*DOMAINS[0] };
        let mut row = RawRow::decode(&keeping, br#"{"id":"7","_new":{"note":"a \"b\"","":"x"}}"#).expect("decode");
        assert_eq!(row.new_cells["note"], "a \"b\"");
        let mut buffer = Vec::new();
        row.encode(&keeping, &mut buffer);
        assert_eq!(RawRow::decode(&keeping, &buffer).expect("decode"), row);
        row.new_cells.clear();
        let ignoring = Domain { on_new_column: NewColumn::Ignore, ..*DOMAINS[0] };
        assert_eq!(RawRow::decode(&ignoring, &buffer).expect("decode"), row);
    }

    #[test]
    fn the_line_of_a_stray_quote_travels_as_it_stands() {
        let cells = vec![Cell::Absent; DOMAINS[0].columns.len()];
        let line = Some("7,\"Goa,\u{e9}".into());
        let row = RawRow { cells, extra: vec![], new_cells: BTreeMap::new(), stray_quote: line, overtaken: 0 };
        let mut buffer = Vec::new();
        row.encode(DOMAINS[0], &mut buffer);
        assert_eq!(String::from_utf8_lossy(&buffer), "{\"_stray_quote\":\"7,\\\"Goa,\u{e9}\"}");
        assert_eq!(RawRow::decode(DOMAINS[0], &buffer).expect("decode"), row);
    }

    #[test]
    fn a_row_says_how_many_rows_of_its_file_it_takes_the_place_of() {
        let mut row = RawRow::decode(DOMAINS[0], br#"{"id":"7","_overtaken":23}"#).expect("decode");
        assert_eq!(row.overtaken, 23);
        for (overtaken, value) in [(4_000_000_000, r#"{"id":"7","_overtaken":4000000000}"#), (0, r#"{"id":"7"}"#)] {
            row.overtaken = overtaken;
            let mut buffer = Vec::new();
            row.encode(DOMAINS[0], &mut buffer);
            assert_eq!(String::from_utf8_lossy(&buffer), value);
            assert_eq!(RawRow::decode(DOMAINS[0], &buffer).expect("decode"), row);
        }
    }

    #[test]
    fn unknown_names_of_a_later_version_are_ignored() {
        let row = RawRow::decode(DOMAINS[0], br#"{"colour":{"deep":[1]},"name":"Goa","id":"7"}"#).expect("decode");
        assert_eq!(row.cells[0], Cell::Text("7".into()));
        assert_eq!(row.cells[1], Cell::Text("Goa".into()));
        for bad in ["", "[]", "{", r#"{"id":1}"#, r#"{"id":"1"} x"#] {
            assert!(RawRow::decode(DOMAINS[0], bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// Topics keep messages for ever: every later version must read a message as 0.1 wrote it. Add such a test with
    /// each version that changes the format; never change this one.
    #[test]
    fn a_message_as_version_0_1_wrote_it_is_read() {
        let origin =
            OwnedHeaders::new().insert(Header { key: "origin", value: Some("12,1,3,5,29360150283550720,2,1") });
        let provenance = Provenance::from_headers(Some(&origin)).expect("read");
        let expected = Provenance {
            object: 12,
            generation: 1,
            row: 3,
            line: 5,
            src_ord: 29_360_150_283_550_720,
            seq: 2,
            parser: 1,
            nonce: Uuid::nil(),
            partitions: 0,
        };
        assert_eq!(provenance, expected);
        let value = br#"{"id":"7","name":"Goa","type":null,"population":"","_extra":["beyond"]}"#;
        let locations = crate::domains::by_name("locations").expect("declared");
        let row = RawRow::decode(locations, value).expect("read");
        let of = |name| &row.cells[locations.columns.iter().position(|column| column.name == name).expect(name)];
        assert_eq!((of("id"), of("name")), (&Cell::Text("7".into()), &Cell::Text("Goa".into())));
        assert_eq!((of("type"), of("population"), of("area")), (&Cell::Missing, &Cell::Text("".into()), &Cell::Absent));
        assert_eq!(row.extra, ["beyond"]);
    }

    #[test]
    fn provenance_survives_the_headers_and_names_what_is_missing() {
        let nonce = Uuid::from_u128(0x5b9e_0000_0000_0001_8000_0000_0000_0002);
        let provenance = Provenance {
            object: i64::MAX - 1,
            generation: 3,
            row: 4,
            line: 9,
            src_ord: 1 << 60,
            seq: 0,
            parser: 1,
            nonce,
            partitions: 12,
        };
        assert_eq!(Provenance::from_headers(Some(&provenance.to_headers())).expect("read"), provenance);
        let with = |origin: &str| OwnedHeaders::new().insert(Header { key: ORIGIN_HEADER, value: Some(origin) });
        let later = format!("1,2,3,4,5,6,7,{},8,9", nonce.simple());
        let later = Provenance::from_headers(Some(&with(&later))).expect("a later version's");
        assert_eq!((later.parser, later.nonce, later.partitions), (7, nonce, 8));
        for (origin, missing) in [
            ("", "object"),
            ("0,2,3,4,5,6,7", "object"),
            ("1", "generation"),
            ("1,x", "generation"),
            ("1,2,-3,4,5,6,7", "row"),
            ("1,2,3,4,5,6", "parser"),
            ("1,2,3,4,5,6,7,8", "nonce"),
            ("1,2,3,4,5,6,7,5b9e0000-0000-0001-8000-000000000002", "nonce"),
            ("1,2,3,4,5,6,7,5b9e0000000000018000000000000002,-1", "partitions"),
        ] {
            let error = Provenance::from_headers(Some(&with(origin))).expect_err(origin);
            assert!(error.to_string().contains(&format!("`{missing}`")), "{error}");
        }
    }
}
