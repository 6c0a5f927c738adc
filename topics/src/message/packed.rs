//! Rows of one object and one partition, packed into a message.
//!
//! With one message for each row, most of the cost for the broker and its clients is per message. So consecutive rows
//! (with consecutive sequence numbers) are sent together: common data is stored once, in the headers, and the value has
//! one line for each row, readable with any tool. Compression removes the repetition.
//!
//! | header | holds |
//! |---|---|
//! | [`PACK_HEADER`] | the origin of the first row, in the form of [`ORIGIN_HEADER`](super::ORIGIN_HEADER) |
//! | [`ROWS_HEADER`] | how many rows there are |
//! | [`COLUMNS_HEADER`] | the columns that the file has, separated by commas |
//!
//! A line is a JSON array: the row's number, its line in the file, a cell for each column (`null` if a short row does
//! not reach it), and optionally an object of rare attributes at the end: [`EXTRA`], [`NEW_CELLS`], [`STRAY_QUOTE`] and
//! [`OVERTAKEN`]. Attributes that a version does not know are ignored.
//!
//! The header is not called `origin`, so that a version without packed messages finds no origin and rejects the message
//! visibly. Its rows count as not received and are sent again.

pub(super) mod lines;

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use serde::Serialize;

use super::{Cell, EXTRA, MessageError, NEW_CELLS, OVERTAKEN, Provenance, RawRow, STRAY_QUOTE};
use super::{header_text, push_json, push_rows};
use crate::Domain;
use crate::cells::Cells;

/// The header with the origin of the first row.
pub const PACK_HEADER: &str = "pack";
/// The header with the number of rows, a decimal number.
pub const ROWS_HEADER: &str = "rows";
/// The header with the names of the columns, separated by commas, which no name contains.
pub const COLUMNS_HEADER: &str = "columns";

/// No row is added to a value of this length. It is a thirtieth of a broker's default limit; about a hundred ordinary
/// rows fit, so a batch of 5,000 rows still has many messages.
pub const PACK_BYTES_MAX: usize = 32 * 1024;

/// The most rows that may be packed: more would make the limits of a batch coarse and save nothing.
pub const PACK_ROWS_MAX: usize = 1_000;

/// A packed message under construction.
#[derive(Debug, Default)]
pub struct Pack {
    first: Option<Provenance>,
    rows: usize,
    value: Vec<u8>,
}

impl Pack {
    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether it must be sent before more is added: it has `rows_max` rows, or is long enough.
    pub fn is_full(&self, rows_max: usize) -> bool {
        self.rows >= rows_max || self.value.len() >= PACK_BYTES_MAX
    }

    /// Whether a row with this many bytes of text should go into another message.
    pub fn is_too_full_for(&self, bytes: usize) -> bool {
        self.rows > 0 && self.value.len() + bytes > PACK_BYTES_MAX
    }

    /// The value so far.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The Kafka headers; `columns` are those of all its rows, separated by commas. `None` without a row.
    pub fn headers(&self, columns: &str) -> Option<OwnedHeaders> {
        let (origin, rows) = (self.first?.to_string(), self.rows.to_string());
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new_with_capacity(3).insert(header(PACK_HEADER, origin.as_str()));
        Some(headers.insert(header(ROWS_HEADER, rows.as_str())).insert(header(COLUMNS_HEADER, columns)))
    }

    /// Removes the rows, for another message.
    pub fn clear(&mut self) {
        self.first = None;
        self.rows = 0;
        self.value.clear();
    }

    /// Begins the line of the next row, which must have the same object and partition and the next sequence number.
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

    /// Adds a row of a file with its columns.
    pub fn push(&mut self, provenance: &Provenance, row: &RawRow<'_>) {
        let mut line = self.line(provenance);
        for cell in &row.cells {
            match cell {
                Cell::Absent => {}
                Cell::Missing => line.cell(None),
                Cell::Text(text) => line.cell(Some(text)),
            }
        }
        if !row.extra.is_empty() {
            line.attribute(EXTRA, &row.extra);
        }
        if !row.new_cells.is_empty() {
            line.attribute(NEW_CELLS, &row.new_cells);
        }
        if let Some(text) = &row.stray_quote {
            line.attribute(STRAY_QUOTE, text.as_ref());
        }
        if row.overtaken > 0 {
            line.attribute(OVERTAKEN, &row.overtaken);
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
    /// Adds the next cell; `None` if the row is too short to reach it.
    pub fn cell(&mut self, text: Option<&str>) {
        self.value.push(b',');
        push_json(self.value, &text);
    }

    /// Adds one of the row's rare attributes.
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

/// The contents of a message, from its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The origin of its row, or of its first one.
    pub first: Provenance,
    /// How the rows are packed; `None` if it is one row in the form of [`RawRow::encode`].
    pub packed: Option<PackedHead>,
}

/// How the rows of a packed message are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedHead {
    /// How many there are.
    pub rows: usize,
    /// The names of their columns, separated by commas.
    pub columns: Arc<str>,
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

    /// The rows of a message, one by one, each with its origin; for callers that need only a few.
    ///
    /// # Errors
    /// Those of [`push_rows`](super::push_rows).
    pub fn rows(&self, domain: &Domain, value: &[u8]) -> Result<Vec<(Provenance, RawRow<'static>)>, MessageError> {
        let (mut cells, mut origins) = (Cells::of(domain), Vec::new());
        let value = Bytes::copy_from_slice(value);
        push_rows(domain, self, &value, &mut cells, |provenance, _| origins.push(provenance))?;
        Ok(origins.into_iter().enumerate().map(|(at, origin)| (origin, cells.raw_row(at))).collect())
    }
}

#[cfg(test)]
mod tests;
