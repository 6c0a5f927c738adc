//! The lines of a packed message, read directly into a batch: nothing is allocated for a row without escapes.

use std::ops::Range;

use memchr::{memchr, memchr_iter};

use super::super::read::{read_attributes, read_text};
use super::{MessageError, PackedHead, Provenance};
use crate::Domain;
use crate::cells::{Cells, RowWriter};

/// Appends each row of a message to a batch, and reports its origin and the position of its line in the value.
///
/// # Errors
/// An error in any line. The rows before it have been appended.
pub(in crate::message) fn push(
    domain: &Domain,
    first: Provenance,
    packed: &PackedHead,
    value: &[u8],
    cells: &mut Cells,
    mut place: impl FnMut(Provenance, Range<usize>),
) -> Result<(), MessageError> {
    let value = std::str::from_utf8(value).map_err(|error| not_text(&value[..error.valid_up_to()]))?;
    let columns = columns(domain, &packed.columns);
    let (mut start, mut found) = (0, 0);
    loop {
        let end = memchr(b'\n', &value.as_bytes()[start..]).map_or(value.len(), |length| start + length);
        found += 1;
        if found > packed.rows {
            // Never reads more lines than the header says.
            let found = found + memchr_iter(b'\n', &value.as_bytes()[start..]).count();
            return Err(MessageError::Rows { said: packed.rows, found });
        }
        let at = |why| MessageError::Line { number: found, why };
        let (row, line, rest) = numbers(&value[start..end]).map_err(at)?;
        let seq = first.seq.checked_add(found as i64 - 1).ok_or_else(|| at("its seq is out of range"))?;
        let mut writer = cells.begin();
        read_cells(domain, &columns, rest, &mut writer).map_err(at)?;
        writer.end();
        place(Provenance { row, line, seq, ..first }, start..end);
        if end == value.len() {
            break;
        }
        start = end + 1;
    }
    match found == packed.rows {
        true => Ok(()),
        false => Err(MessageError::Rows { said: packed.rows, found }),
    }
}

/// The error for a value that is not UTF-8 after a certain point.
fn not_text(text: &[u8]) -> MessageError {
    MessageError::Line { number: memchr_iter(b'\n', text).count() + 1, why: "it is not UTF-8" }
}

/// The indexes of a message's columns in the domain; `None` for a column that this version does not know.
fn columns(domain: &Domain, names: &str) -> Vec<Option<usize>> {
    let mut columns = Vec::with_capacity(domain.columns.len());
    if !names.is_empty() {
        columns.extend(names.split(',').map(|name| domain.columns.iter().position(|column| column.name == name)));
    }
    columns
}

/// A line as an object by column name, like the value of a message with one row.
///
/// # Errors
/// What is wrong with it.
pub(in crate::message) fn object(columns: &str, line: &str) -> Result<String, &'static str> {
    let (_, _, cells) = numbers(line)?;
    let mut names = columns.split(',');
    let mut object = String::with_capacity(columns.len() + 3 * line.len());
    let mut separator = '{';
    let mut items = Items { rest: cells };
    while let Some(item) = items.next()? {
        let entry = match item {
            Item::Text { json, .. } => [names.next().ok_or(TOO_MANY)?, json],
            Item::Null => [names.next().ok_or(TOO_MANY)?, "null"],
            Item::Attributes(json) => {
                let entries = json.trim().strip_prefix('{').and_then(|json| json.strip_suffix('}')).ok_or(NO_CELL)?;
                if !entries.trim().is_empty() {
                    object.push(separator);
                    object.push_str(entries);
                    separator = ',';
                }
                continue;
            }
        };
        object.push(std::mem::replace(&mut separator, ','));
        // Names are words, without any character that JSON escapes.
        object.extend(["\"", entry[0], "\":", entry[1]]);
    }
    object.push_str(if separator == '{' { "{}" } else { "}" });
    Ok(object)
}

const TOO_MANY: &str = "it has more cells than there are columns";
const NO_CELL: &str = "a cell is neither text nor null";
const END: &str = "it does not end like an array";

/// The two numbers at the beginning of a line, and the rest of it.
fn numbers(line: &str) -> Result<(i64, i64, &str), &'static str> {
    let inner = line.strip_prefix('[').ok_or("it is not an array")?;
    let (row, rest) = number(inner).ok_or("it does not begin with a row number")?;
    let rest = rest.strip_prefix(',').ok_or("it has no line number")?;
    let (line, rest) = number(rest).ok_or("it has no line number")?;
    Ok((row, line, rest))
}

/// The number at the beginning of a text, if it is below the greatest, and the rest.
fn number(text: &str) -> Option<(i64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok().filter(|number| *number < i64::MAX)?;
    Some((number, &text[digits..]))
}

/// Reads the part of a line after its numbers: `,"7",null,{"_extra":["x"]}]`.
fn read_cells(
    domain: &Domain,
    columns: &[Option<usize>],
    text: &str,
    writer: &mut RowWriter<'_>,
) -> Result<(), &'static str> {
    let mut columns = columns.iter();
    let mut items = Items { rest: text };
    while let Some(item) = items.next()? {
        if let Item::Attributes(json) = item {
            return read_attributes(domain, json, writer).map_err(|_| NO_CELL);
        }
        let Some(column) = *columns.next().ok_or(TOO_MANY)? else { continue };
        let text = match item {
            Item::Text { json, has_escapes: false } => Some(writer.text().push(&json[1..json.len() - 1])),
            // Escapes are rare; serde_json handles all of them.
            Item::Text { json, .. } => {
                Some(read_text(json, writer.text()).map_err(|_| "a cell has an unknown escape")?)
            }
            Item::Null | Item::Attributes(_) => None,
        };
        writer.cell(column, text);
    }
    Ok(())
}

/// The items of a line after its numbers.
enum Item<'v> {
    /// A cell with text: a JSON string, with its quotes.
    Text { json: &'v str, has_escapes: bool },
    /// A cell that the row does not reach.
    Null,
    /// The object at the end.
    Attributes(&'v str),
}

/// Splits a line into items.
struct Items<'v> {
    rest: &'v str,
}

impl<'v> Items<'v> {
    /// The next item; `None` at the correct end of the line.
    fn next(&mut self) -> Result<Option<Item<'v>>, &'static str> {
        let Some(next) = self.rest.strip_prefix(',') else {
            return if self.rest == "]" { Ok(None) } else { Err(END) };
        };
        if next.starts_with('"') {
            let (json, has_escapes) = string(next).ok_or("a cell has no closing quote")?;
            self.rest = &next[json.len()..];
            return Ok(Some(Item::Text { json, has_escapes }));
        }
        if let Some(rest) = next.strip_prefix("null") {
            self.rest = rest;
            return Ok(Some(Item::Null));
        }
        self.rest = "]";
        Ok(Some(Item::Attributes(next.strip_suffix(']').ok_or(END)?)))
    }
}

/// The JSON string at the beginning of a text, and whether it has escapes.
fn string(text: &str) -> Option<(&str, bool)> {
    let (bytes, mut at, mut has_escapes) = (text.as_bytes(), 1, false);
    loop {
        match bytes.get(at)? {
            b'"' => return Some((&text[..=at], has_escapes)),
            // An escaped quote does not end the string.
            b'\\' => (has_escapes, at) = (true, at + 2),
            _ => at += 1,
        }
    }
}
