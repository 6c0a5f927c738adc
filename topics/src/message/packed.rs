//! Rows of one object and one partition, packed into a message.
//!
//! What a message a row costs a broker and its clients is mostly the message. So consecutive rows (their seqs follow one
//! another) travel together: what they have in common stands once, in the headers, and the value has a line a row, which
//! any tool shows as it is. Kept readable rather than small: compression takes what repeats.
//!
//! | header | holds |
//! |---|---|
//! | [`PACK_HEADER`] | the origin of the first row, in the form of [`ORIGIN_HEADER`](super::ORIGIN_HEADER) |
//! | [`ROWS_HEADER`] | how many rows there are |
//! | [`COLUMNS_HEADER`] | the columns that the file has, separated by commas |
//!
//! A line is a JSON array: the row's number, its line in the file, a cell a column (`null` where a short row does not reach
//! it), and at the end, where there is something rare to say, an object of attributes: [`EXTRA`], [`NEW_CELLS`] and
//! [`STRAY_QUOTE`]. Attributes that a version does not know are ignored.
//!
//! The header is not called `origin`, so that a version before packed messages finds no origin, and rejects the message as
//! none of a file's, where people see it. Its rows count as not received, and are sent again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use memchr::{memchr, memchr2};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use serde::Serialize;

use super::{Cell, EXTRA, MessageError, NEW_CELLS, Provenance, RawRow, STRAY_QUOTE, Text, header_text, push_json};
use crate::Domain;

/// The header with the origin of the first row.
pub const PACK_HEADER: &str = "pack";
/// The header with the number of rows, a decimal number.
pub const ROWS_HEADER: &str = "rows";
/// The header with the names of the columns, separated by commas: no name has one.
pub const COLUMNS_HEADER: &str = "columns";

/// A value that is this long takes no further row. A thirtieth of what a broker takes unless told otherwise; some hundred
/// ordinary rows fit, and a batch of 5,000 rows still has more than a hundred such messages.
pub const PACK_BYTES_MAX: usize = 32 * 1024;

/// The greatest number of rows that may be packed: more would make a batch's bounds coarse and save nothing.
pub const PACK_ROWS_MAX: usize = 1_000;

/// A packed message under construction.
#[derive(Debug, Default)]
pub struct Pack {
    first: Option<Provenance>,
    rows: usize,
    value: Vec<u8>,
}

impl Pack {
    /// Whether there is no row in it.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether it is to be sent before more is added: it has `rows_max` rows, or is long enough.
    pub fn is_full(&self, rows_max: usize) -> bool {
        self.rows >= rows_max || self.value.len() >= PACK_BYTES_MAX
    }

    /// Whether a row with so many bytes of text is better sent in a message of its own.
    pub fn is_too_full_for(&self, bytes: usize) -> bool {
        self.rows > 0 && self.value.len() + bytes > PACK_BYTES_MAX
    }

    /// The value so far.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The Kafka headers; `columns` are those of every row in it, separated by commas. None without a row.
    pub fn headers(&self, columns: &str) -> Option<OwnedHeaders> {
        let (origin, rows) = (self.first?.to_string(), self.rows.to_string());
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new_with_capacity(3).insert(header(PACK_HEADER, origin.as_str()));
        Some(headers.insert(header(ROWS_HEADER, rows.as_str())).insert(header(COLUMNS_HEADER, columns)))
    }

    /// Makes room for the rows of another message.
    pub fn clear(&mut self) {
        self.first = None;
        self.rows = 0;
        self.value.clear();
    }

    /// Begins the line of the next row: of the same object and partition, its seq the next one.
    pub fn line(&mut self, provenance: &Provenance) -> Line<'_> {
        match self.first {
            None => self.first = Some(*provenance),
            Some(_) => self.value.push(b'\n'),
        }
        self.rows += 1;
        self.value.push(b'[');
        push_json(&mut self.value, &provenance.row);
        self.value.push(b',');
        push_json(&mut self.value, &provenance.line);
        Line { value: &mut self.value, has_attributes: false }
    }

    /// Adds a row, as a file with its columns has it.
    pub fn push(&mut self, provenance: &Provenance, row: &RawRow<'_>) {
        let mut line = self.line(provenance);
        match &row.stray_quote {
            Some(text) => line.attribute(STRAY_QUOTE, text.as_ref()),
            None => {
                for cell in &row.cells {
                    match cell {
                        Cell::Absent => {}
                        Cell::Missing => line.cell(None),
                        Cell::Text(text) => line.cell(Some(text)),
                    }
                }
            }
        }
        if !row.extra.is_empty() {
            line.attribute(EXTRA, &row.extra);
        }
        if !row.new_cells.is_empty() {
            line.attribute(NEW_CELLS, &row.new_cells);
        }
        line.end();
    }
}

/// The line of a row under construction: its cells in the order of the columns, then its attributes, then the end.
#[derive(Debug)]
#[must_use = "a line has an end"]
pub struct Line<'p> {
    value: &'p mut Vec<u8>,
    has_attributes: bool,
}

impl Line<'_> {
    /// The next cell; `None` where the row is too short to reach it.
    pub fn cell(&mut self, text: Option<&str>) {
        self.value.push(b',');
        push_json(self.value, &text);
    }

    /// One of the rare things to say of the row.
    pub fn attribute<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.value.extend_from_slice(if self.has_attributes { b"," } else { b",{" });
        self.has_attributes = true;
        push_json(self.value, name);
        self.value.push(b':');
        push_json(self.value, value);
    }

    /// Ends the line.
    pub fn end(self) {
        self.value.extend_from_slice(if self.has_attributes { b"}]" } else { b"]" });
    }
}

/// What the headers of a message say: what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The origin of its row, or of its first one.
    pub first: Provenance,
    /// How the rows are packed; `None` where it is one row in the form of [`RawRow::encode`].
    pub packed: Option<PackedHead>,
}

/// How the rows of a packed message are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedHead {
    /// How many there are.
    pub rows: usize,
    /// The names of their columns, separated by commas.
    pub columns: Box<str>,
}

impl Head {
    /// Reads the headers of a message, of either kind.
    ///
    /// # Errors
    /// [`MessageError`] names what is missing.
    pub fn from_headers(headers: Option<&impl Headers>) -> Result<Self, MessageError> {
        let Some(origin) = header_text(headers, PACK_HEADER) else {
            return Ok(Head { first: Provenance::from_headers(headers)?, packed: None });
        };
        let text = |name| header_text(headers, name).ok_or(MessageError::Pack(name));
        let rows = text(ROWS_HEADER)?.parse().ok().filter(|rows| *rows > 0).ok_or(MessageError::Pack(ROWS_HEADER))?;
        let packed = PackedHead { rows, columns: text(COLUMNS_HEADER)?.into() };
        Ok(Head { first: Provenance::from_text(origin)?, packed: Some(packed) })
    }

    /// Hands over each row of a message, in order, with its origin. Where `each` fails, the reading ends.
    ///
    /// # Errors
    /// The message's fault, in any of its rows: then none of those handed over counts.
    pub fn for_each_row<'v>(
        &self,
        domain: &Domain,
        value: &'v [u8],
        mut each: impl FnMut(Provenance, Row<'v, '_>) -> Result<(), MessageError>,
    ) -> Result<(), MessageError> {
        let Some(packed) = &self.packed else { return each(self.first, Row::Alone(value)) };
        let place = |name| domain.columns.iter().position(|column| column.name == name);
        let columns: Vec<Option<usize>> = match packed.columns.is_empty() {
            true => Vec::new(),
            false => packed.columns.split(',').map(place).collect(),
        };
        let value = std::str::from_utf8(value).map_err(|_| MessageError::Line { number: 1, why: "it is not UTF-8" })?;
        let (mut rest, mut found) = (value, 0);
        loop {
            let end = memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            found += 1;
            let at = |why| MessageError::Line { number: found, why };
            let (row, line, cells) = numbers(&rest[..end]).map_err(at)?;
            let seq = self.first.seq.checked_add(found as i64 - 1).ok_or_else(|| at("its seq is out of range"))?;
            each(Provenance { row, line, seq, ..self.first }, Row::Packed { number: found, cells, columns: &columns })?;
            match rest.get(end + 1..) {
                Some(more) => rest = more,
                None => break,
            }
        }
        match found == packed.rows {
            true => Ok(()),
            false => Err(MessageError::Rows { said: packed.rows, found }),
        }
    }
}

/// A row as it stands in a message, not yet decoded.
#[derive(Debug, Clone, Copy)]
pub enum Row<'v, 'c> {
    /// The whole value: an object by column name.
    Alone(&'v [u8]),
    /// A line among others.
    Packed {
        /// Which line it is, from 1.
        number: usize,
        /// What follows the two numbers: `,"7","Goa"]`.
        cells: &'v str,
        /// For each column of the message, its place in the domain; `None` for one that this version does not know.
        columns: &'c [Option<usize>],
    },
}

impl<'v> Row<'v, '_> {
    /// The row's cells, and what else is said of it.
    ///
    /// # Errors
    /// Where it is not of the form that it should have.
    pub fn decode(&self, domain: &Domain) -> Result<RawRow<'v>, MessageError> {
        let (number, cells, columns) = match *self {
            Row::Alone(value) => return RawRow::decode(domain, value),
            Row::Packed { number, cells, columns } => (number, cells, columns),
        };
        let mut row = RawRow {
            cells: vec![Cell::Absent; domain.columns.len()],
            extra: Vec::new(),
            new_cells: BTreeMap::new(),
            stray_quote: None,
        };
        let attributes = read_cells(cells, columns, |place, cell| row.cells[place] = cell)
            .map_err(|why| MessageError::Line { number, why })?;
        row.extra = attributes.extra.into_iter().map(|text| text.0).collect();
        row.stray_quote = attributes.stray_quote.map(|text| text.0);
        if domain.on_new_column.keeps() {
            row.new_cells = attributes.new_cells.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        }
        Ok(row)
    }
}

/// The rare things said of a row, at the end of its line. Those that this version does not know are left alone.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Attributes<'v> {
    #[serde(borrow, rename = "_extra")]
    extra: Vec<Text<'v>>,
    #[serde(rename = "_new")]
    new_cells: BTreeMap<String, String>,
    #[serde(borrow, rename = "_stray_quote")]
    stray_quote: Option<Text<'v>>,
}

/// The two numbers that a line begins with, and the rest of it.
fn numbers(line: &str) -> Result<(i64, i64, &str), &'static str> {
    let inner = line.strip_prefix('[').ok_or("it is no array")?;
    let (row, rest) = number(inner).ok_or("it does not begin with a row number")?;
    let rest = rest.strip_prefix(',').ok_or("it has no line number")?;
    let (line, rest) = number(rest).ok_or("it has no line number")?;
    Ok((row, line, rest))
}

/// The number that a text begins with, one below the greatest at most, and the rest.
fn number(text: &str) -> Option<(i64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok().filter(|number| *number < i64::MAX)?;
    Some((number, &text[digits..]))
}

/// Reads what follows the numbers of a line: `,"7",null,{"_extra":["x"]}]`. Gives each cell of a known column with its
/// place in the domain.
fn read_cells<'v>(
    text: &'v str,
    columns: &[Option<usize>],
    mut each: impl FnMut(usize, Cell<'v>),
) -> Result<Attributes<'v>, &'static str> {
    const END: &str = "it does not end as an array does";
    let mut rest = text;
    let mut columns = columns.iter();
    while let Some(next) = rest.strip_prefix(',') {
        let cell = if let Some(after) = next.strip_prefix('"') {
            let (text, after) = string(next, after)?;
            rest = after;
            Cell::Text(text)
        } else if let Some(after) = next.strip_prefix("null") {
            rest = after;
            Cell::Missing
        } else {
            let attributes = next.strip_suffix(']').ok_or(END)?;
            return serde_json::from_str(attributes).map_err(|_| "a cell is neither text nor null");
        };
        let column = columns.next().ok_or("it has more cells than there are columns")?;
        if let Some(place) = *column {
            each(place, cell);
        }
    }
    if rest == "]" { Ok(Attributes::default()) } else { Err(END) }
}

/// The JSON string that `text` begins with, and what follows it. `inner` is `text` behind its quote.
fn string<'v>(text: &'v str, inner: &'v str) -> Result<(Cow<'v, str>, &'v str), &'static str> {
    const OPEN: &str = "a cell has no closing quote";
    match memchr2(b'"', b'\\', inner.as_bytes()) {
        Some(end) if inner.as_bytes()[end] == b'"' => Ok((Cow::Borrowed(&inner[..end]), &inner[end + 1..])),
        Some(_) => {
            // Escapes are rare; serde_json knows them all.
            let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
            match strings.next() {
                Some(Ok(cell)) => Ok((Cow::Owned(cell), &text[strings.byte_offset()..])),
                _ => Err(OPEN),
            }
        }
        None => Err(OPEN),
    }
}

#[cfg(test)]
mod tests;
