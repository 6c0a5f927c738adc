//! The rows of a message, read straight into a batch: their texts are copied once, and nothing is allocated for a row.

use std::fmt;
use std::ops::Range;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{EXTRA, MessageError, NEW_CELLS, OVERTAKEN, Provenance, STRAY_QUOTE};
use crate::Domain;
use crate::cells::{Cells, NewCellsWriter, RowWriter};
use crate::columns::{Span, Text};

/// Appends the rows of a message to a batch: those that are in its value, in their order. `place` is told of each where it
/// comes from and which bytes of the value are its own, to be kept if it is rejected. What cannot be read is a row too, a
/// malformed one.
///
/// This is the one place that knows how rows lie in a message; a message carries one, which its origin is of.
pub fn push_rows(
    domain: &Domain,
    origin: Provenance,
    value: &[u8],
    cells: &mut Cells,
    mut place: impl FnMut(Provenance, Range<usize>),
) {
    if let Err(error) = push_row(domain, value, cells) {
        cells.push_malformed(error.to_string());
    }
    place(origin, 0..value.len());
}

/// Appends the row of a JSON object to a batch, or nothing.
pub(crate) fn push_row(domain: &Domain, value: &[u8], cells: &mut Cells) -> Result<(), MessageError> {
    let mut writer = cells.begin();
    let mut deserializer = serde_json::Deserializer::from_slice(value);
    RowSeed { domain, writer: &mut writer }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    writer.end();
    Ok(())
}

/// Reads a row, straight into its batch.
struct RowSeed<'d, 'w, 'c> {
    domain: &'d Domain,
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
        let RowSeed { domain, writer } = self;
        // Columns nearly always come in declaration order: look at the next one first.
        let mut next = 0;
        while let Some(name) = map.next_key_seed(NameSeed { domain, next })? {
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
                Name::NewCells => map.next_value_seed(NewCellsSeed(writer.new_cells()))?,
                Name::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// What a name in the object is.
enum Name {
    Column(usize),
    Extra,
    StrayQuote,
    Overtaken,
    NewCells,
    Unknown,
}

struct NameSeed<'d> {
    domain: &'d Domain,
    /// The column that the name is likely of.
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
        let columns = self.domain.columns;
        let found = match columns.get(self.next) {
            Some(column) if column.name == name => Some(self.next),
            _ => columns.iter().position(|column| column.name == name),
        };
        Ok(match (found, name) {
            (Some(index), _) => Name::Column(index),
            (None, EXTRA) => Name::Extra,
            (None, STRAY_QUOTE) => Name::StrayQuote,
            (None, OVERTAKEN) => Name::Overtaken,
            (None, NEW_CELLS) if self.domain.on_new_column.keeps() => Name::NewCells,
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

/// The cells of new columns, by heading.
struct NewCellsSeed<'c>(NewCellsWriter<'c>);

impl<'de> DeserializeSeed<'de> for NewCellsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NewCellsSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(heading) = map.next_key_seed(TextSeed(self.0.text()))? {
            let text = map.next_value_seed(TextSeed(self.0.text()))?;
            self.0.push((heading, text));
        }
        self.0.end();
        Ok(())
    }
}
