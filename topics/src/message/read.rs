//! Reads the rows of a message directly into a batch: their texts are copied once, and nothing is allocated per row.

use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::packed::{Head, lines};
use super::{EXTRA, MessageError, NEW_CELLS, OVERTAKEN, Provenance, RawText, STRAY_QUOTE};
use crate::cells::{Cells, NewCellsWriter, RowWriter};
use crate::columns::{Span, Text};
use crate::{Column, Domain};

/// Appends the rows of a message to a batch, in their order. `place` gets the origin of each row, and the text to store
/// if it is rejected.
///
/// # Errors
/// An error in any row of the message: then none is appended, and the calls of `place` do not count.
pub fn push_rows(
    domain: &Domain,
    head: &Head,
    value: &Bytes,
    cells: &mut Cells,
    mut place: impl FnMut(Provenance, RawText),
) -> Result<(), MessageError> {
    let Some(packed) = &head.packed else {
        push_row(domain, value, cells)?;
        place(head.first, RawText::Alone(value.clone()));
        return Ok(());
    };
    let before = cells.end();
    let pushed = lines::push(domain, head.first, packed, value, cells, |provenance, own| {
        place(provenance, RawText::Packed { columns: packed.columns.clone(), line: value.slice(own) });
    });
    if pushed.is_err() {
        cells.truncate(before);
    }
    pushed
}

/// Appends the row of a JSON object to a batch, or nothing.
pub(crate) fn push_row(domain: &Domain, value: &[u8], cells: &mut Cells) -> Result<(), MessageError> {
    let mut writer = cells.begin();
    let mut deserializer = serde_json::Deserializer::from_slice(value);
    RowSeed { domain, columns: domain.columns, writer: &mut writer }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    writer.end();
    Ok(())
}

/// Reads the rare attributes of a row: an object without cells of columns.
pub(super) fn read_attributes(domain: &Domain, json: &str, writer: &mut RowWriter<'_>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    RowSeed { domain, columns: &[], writer }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads a JSON string to the texts of a batch.
pub(super) fn read_text(json: &str, text: &mut Text) -> serde_json::Result<Span> {
    TextSeed(text).deserialize(&mut serde_json::Deserializer::from_str(json))
}

/// Reads a row directly into its batch.
struct RowSeed<'d, 'w, 'c> {
    domain: &'d Domain,
    /// The columns that it may have cells of.
    columns: &'d [Column],
    writer: &'w mut RowWriter<'c>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "an object of text cells of domain {}", self.domain.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let RowSeed { domain, columns, writer } = self;
        // Columns nearly always are in declaration order: try the next one first.
        let mut next = 0;
        while let Some(name) = map.next_key_seed(NameSeed { columns, next })? {
            match name {
                Name::Column(index) => {
                    let text = map.next_value_seed(CellSeed(writer.text()))?;
                    writer.cell(index, text);
                    next = index + 1;
                }
                Name::Extra => map.next_value_seed(ExtraSeed(&mut *writer))?,
                Name::StrayQuote => {
                    let line = map.next_value_seed(TextSeed(writer.text()))?;
                    writer.stray_quote(line);
                }
                Name::Overtaken => {
                    let count = map.next_value()?;
                    writer.overtaken(count);
                }
                Name::NewCells => map.next_value_seed(NewCellsSeed { domain, cells: writer.new_cells() })?,
                Name::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The meaning of a name in the object.
enum Name {
    Column(usize),
    Extra,
    StrayQuote,
    Overtaken,
    NewCells,
    Unknown,
}

struct NameSeed<'d> {
    columns: &'d [Column],
    /// The column that the name probably belongs to.
    next: usize,
}

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = Name;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        let found = match self.columns.get(self.next) {
            Some(column) if column.name == name => Some(self.next),
            _ => self.columns.iter().position(|column| column.name == name),
        };
        Ok(match (found, name) {
            (Some(index), _) => Name::Column(index),
            (None, EXTRA) => Name::Extra,
            (None, STRAY_QUOTE) => Name::StrayQuote,
            (None, OVERTAKEN) => Name::Overtaken,
            (None, NEW_CELLS) => Name::NewCells,
            (None, _) => Name::Unknown,
        })
    }
}

/// A text, appended to those of the batch.
struct TextSeed<'c>(&'c mut Text);

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Span;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TextSeed<'_> {
    type Value = Span;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Span, E> {
        Ok(self.0.push(text))
    }
}

/// A cell: text, or `null` where the row is too short.
struct CellSeed<'c>(&'c mut Text);

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = Option<Span>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = Option<Span>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        TextSeed(self.0).deserialize(deserializer).map(Some)
    }
}

/// The cells beyond the header.
struct ExtraSeed<'w, 'c>(&'w mut RowWriter<'c>);

impl<'de> DeserializeSeed<'de> for ExtraSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ExtraSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<(), A::Error> {
        self.0.no_extra();
        while let Some(text) = texts.next_element_seed(TextSeed(self.0.text()))? {
            self.0.extra(text);
        }
        Ok(())
    }
}

/// The cells of columns that were new when the message was written, by heading.
struct NewCellsSeed<'d, 'c> {
    domain: &'d Domain,
    cells: NewCellsWriter<'c>,
}

impl<'de> DeserializeSeed<'de> for NewCellsSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NewCellsSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(heading) = map.next_key_seed(TextSeed(self.cells.text()))? {
            let text = map.next_value_seed(TextSeed(self.cells.text()))?;
            self.cells.push_of(self.domain, (heading, text));
        }
        self.cells.end();
        Ok(())
    }
}
