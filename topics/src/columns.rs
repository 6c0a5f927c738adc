//! The values of a batch, stored by column with one shared text buffer: nothing is allocated per row.
//!
//! A row is an index. NULL is `None`; text is a [`Span`] of the batch's [`Text`]. Data that only a few rows have is
//! stored [by row](ByRow) beside the columns.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;

use crate::value::compare_doubles;
use crate::{Cast, Domain, Value};

/// The position of a text in a [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

/// All text of a batch in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Text {
    all: String,
}

impl Text {
    /// Appends a text.
    ///
    /// # Panics
    /// Beyond 4 GiB. A row takes about a KiB, and the setting `process.batch_rows_max` bounds the rows: a batch has at
    /// most a quarter of that.
    pub fn push(&mut self, text: &str) -> Span {
        let start = self.all.len();
        self.all.push_str(text);
        let at = |place: usize| u32::try_from(place).expect("the text of a batch is far below 4 GiB");
        Span { start: at(start), end: at(self.all.len()) }
    }

    /// The text of a span.
    pub fn get(&self, span: Span) -> &str {
        &self.all[span.start as usize..span.end as usize]
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Truncates the buffer to this many bytes.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        self.all.truncate(bytes);
    }
}

/// Data that only a few rows of a batch have, in the order of the rows.
#[derive(Debug, Clone)]
pub struct ByRow<T>(Vec<(usize, T)>);

impl<T> Default for ByRow<T> {
    fn default() -> Self {
        ByRow(Vec::new())
    }
}

/// From entries in any order of rows; entries of one row keep their order.
impl<T> FromIterator<(usize, T)> for ByRow<T> {
    fn from_iter<I: IntoIterator<Item = (usize, T)>>(items: I) -> Self {
        let mut items: Vec<(usize, T)> = items.into_iter().collect();
        items.sort_by_key(|(row, _)| *row);
        ByRow(items)
    }
}

impl<T> ByRow<T> {
    /// Whether no row has any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, with their rows.
    pub fn iter(&self) -> std::slice::Iter<'_, (usize, T)> {
        self.0.iter()
    }

    /// Each row that has any, with its items.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[(usize, T)])> {
        self.0.chunk_by(|(left, _), (right, _)| left == right).filter_map(|items| Some((items.first()?.0, items)))
    }

    /// The items of one row.
    pub fn of(&self, row: usize) -> &[(usize, T)] {
        let from = self.0.partition_point(|(other, _)| *other < row);
        let rest = &self.0[from..];
        &rest[..rest.iter().take_while(|(other, _)| *other == row).count()]
    }

    /// The first item of a row.
    pub fn first_of(&self, row: usize) -> Option<&T> {
        self.of(row).first().map(|(_, first)| first)
    }

    /// Adds an item to the last row that has any, or to a later one.
    pub(crate) fn push(&mut self, row: usize, item: T) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| *last <= row), "rows come in their order");
        self.0.push((row, item));
    }

    /// Removes a row and all rows after it.
    pub(crate) fn truncate(&mut self, row: usize) {
        self.0.truncate(self.0.partition_point(|(other, _)| *other < row));
    }
}

/// The values of one column.
#[derive(Debug, Clone)]
pub enum Values {
    /// [`Value::Int`].
    Int(Vec<Option<i32>>),
    /// [`Value::BigInt`].
    BigInt(Vec<Option<i64>>),
    /// [`Value::Double`].
    Double(Vec<Option<f64>>),
    /// [`Value::Numeric`].
    Numeric(Vec<Option<Decimal>>),
    /// [`Value::Bool`].
    Bool(Vec<Option<bool>>),
    /// [`Value::Date`].
    Date(Vec<Option<NaiveDate>>),
    /// [`Value::Timestamp`].
    Timestamp(Vec<Option<DateTime<Utc>>>),
    /// [`Value::Text`].
    Text(Vec<Option<Span>>),
}

/// Runs the same code for a column of any type.
macro_rules! each_type {
    ($values:expr, $cells:ident => $do:expr) => {
        match $values {
            Values::Int($cells) => $do,
            Values::BigInt($cells) => $do,
            Values::Double($cells) => $do,
            Values::Numeric($cells) => $do,
            Values::Bool($cells) => $do,
            Values::Date($cells) => $do,
            Values::Timestamp($cells) => $do,
            Values::Text($cells) => $do,
        }
    };
}

/// Runs the same code for a cell of a column and a value of its type.
macro_rules! each_value {
    ($values:expr, $value:expr, $text:expr, $cells:ident, $cell:ident => $do:expr) => {
        each_value!(@ $values, $value, $text, $cells, $cell => $do; Int BigInt Double Numeric Bool Date Timestamp)
    };
    (@ $values:expr, $value:expr, $text:expr, $cells:ident, $cell:ident => $do:expr; $($type:ident)*) => {
        match ($values, $value) {
            $((Values::$type($cells), Value::$type(value)) => {
                let $cell = Some(value);
                $do
            })*
            (Values::Text($cells), Value::Text(value)) => {
                let $cell = Some($text.push(value));
                $do
            }
            (values, Value::Null) => each_type!(values, $cells => {
                let $cell = None;
                $do
            }),
            _ => unreachable!("the values of one column have one type"),
        }
    };
}

impl Values {
    /// An empty column of a type, with room for this many rows.
    fn of(cast: Cast, rows: usize) -> Self {
        match cast {
            Cast::Int => Values::Int(Vec::with_capacity(rows)),
            Cast::BigInt => Values::BigInt(Vec::with_capacity(rows)),
            Cast::Double => Values::Double(Vec::with_capacity(rows)),
            Cast::Numeric { .. } => Values::Numeric(Vec::with_capacity(rows)),
            Cast::Bool => Values::Bool(Vec::with_capacity(rows)),
            Cast::Date => Values::Date(Vec::with_capacity(rows)),
            Cast::Timestamp => Values::Timestamp(Vec::with_capacity(rows)),
            Cast::Text | Cast::TrimmedText => Values::Text(Vec::with_capacity(rows)),
        }
    }

    /// Appends a row with a value.
    fn push(&mut self, value: Value<'_>, text: &mut Text) {
        each_value!(self, value, text, cells, cell => cells.push(cell));
    }

    fn set(&mut self, row: usize, value: Value<'_>, text: &mut Text) {
        each_value!(self, value, text, cells, cell => cells[row] = cell);
    }
}

/// The values of a batch.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    columns: Vec<Values>,
    text: Text,
}

impl Columns {
    /// An empty batch with room for this many rows: the domain's columns in their order, then those that its contract
    /// keeps besides.
    pub fn of(domain: &Domain, rows: usize) -> Self {
        let kept = domain.kept_columns().map(|_| Cast::Text);
        let casts = domain.columns.iter().map(|column| column.cast).chain(kept);
        Columns { columns: casts.map(|cast| Values::of(cast, rows)).collect(), text: Text::default() }
    }

    /// Appends a value to a column.
    ///
    /// # Panics
    /// If it has another type than the column.
    pub fn push(&mut self, column: usize, value: Value<'_>) {
        self.columns[column].push(value, &mut self.text);
    }

    /// Overwrites a value.
    ///
    /// # Panics
    /// If it has another type than the column, or there is no such row.
    pub fn set(&mut self, column: usize, row: usize, value: Value<'_>) {
        self.columns[column].set(row, value, &mut self.text);
    }

    /// Copies a row's value from one column to another of the same type.
    pub(crate) fn copy(&mut self, row: usize, from: usize, to: usize) {
        // Text is not copied: its span is valid in the other column too.
        let Ok([from, to]) = self.columns.get_disjoint_mut([from, to]) else { return };
        match (from, to) {
            (Values::Int(from), Values::Int(to)) => to[row] = from[row],
            (Values::BigInt(from), Values::BigInt(to)) => to[row] = from[row],
            (Values::Double(from), Values::Double(to)) => to[row] = from[row],
            (Values::Numeric(from), Values::Numeric(to)) => to[row] = from[row],
            (Values::Bool(from), Values::Bool(to)) => to[row] = from[row],
            (Values::Date(from), Values::Date(to)) => to[row] = from[row],
            (Values::Timestamp(from), Values::Timestamp(to)) => to[row] = from[row],
            (Values::Text(from), Values::Text(to)) => to[row] = from[row],
            _ => unreachable!("a contract compares columns of one type"),
        }
    }

    /// The value of a row in a column.
    pub fn get(&self, column: usize, row: usize) -> Value<'_> {
        match &self.columns[column] {
            Values::Int(cells) => cells[row].map_or(Value::Null, Value::Int),
            Values::BigInt(cells) => cells[row].map_or(Value::Null, Value::BigInt),
            Values::Double(cells) => cells[row].map_or(Value::Null, Value::Double),
            Values::Numeric(cells) => cells[row].map_or(Value::Null, Value::Numeric),
            Values::Bool(cells) => cells[row].map_or(Value::Null, Value::Bool),
            Values::Date(cells) => cells[row].map_or(Value::Null, Value::Date),
            Values::Timestamp(cells) => cells[row].map_or(Value::Null, Value::Timestamp),
            Values::Text(cells) => cells[row].map_or(Value::Null, |span| Value::Text(self.text.get(span))),
        }
    }

    /// Orders two rows by a column, like [`Value::compare`]: NULL counts as a value, and as the least.
    pub fn compare(&self, column: usize, left: usize, right: usize) -> Ordering {
        match &self.columns[column] {
            Values::Int(cells) => cells[left].cmp(&cells[right]),
            Values::BigInt(cells) => cells[left].cmp(&cells[right]),
            Values::Numeric(cells) => cells[left].cmp(&cells[right]),
            Values::Bool(cells) => cells[left].cmp(&cells[right]),
            Values::Date(cells) => cells[left].cmp(&cells[right]),
            Values::Timestamp(cells) => cells[left].cmp(&cells[right]),
            Values::Double(cells) => match (cells[left], cells[right]) {
                (Some(left), Some(right)) => compare_doubles(left, right),
                (left, right) => left.is_some().cmp(&right.is_some()),
            },
            Values::Text(cells) => {
                let text = |row: usize| cells[row].map(|span| self.text.get(span));
                text(left).cmp(&text(right))
            }
        }
    }

    /// The values of a column, by row, and the text of their spans.
    pub fn values(&self, column: usize) -> (&Values, &Text) {
        (&self.columns[column], &self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Column;

    const CASTS: [Cast; 8] = [
        Cast::Int,
        Cast::BigInt,
        Cast::Double,
        Cast::Numeric { precision: 10, scale: 2 },
        Cast::Bool,
        Cast::Date,
        Cast::Timestamp,
        Cast::Text,
    ];

    /// A domain with a column of each type.
    fn domain() -> Domain {
        let columns: Vec<Column> = CASTS.iter().map(|cast| Column::optional("a", *cast)).collect();
        Domain { columns: columns.leak(), ..*crate::DOMAINS[0] }
    }

    /// Texts that are values of several types, including special cases of their order.
    const TEXTS: [&str; 14] =
        ["", "0", "-0.0", "1", "1.0", "-7.25", "NaN", "inf", "-inf", "t", "no", "2025-09-05", "2025-09-05T10:00Z", "é"];

    proptest! {
        #[test]
        fn a_column_gives_back_its_values_and_orders_rows_as_they_are_ordered(
            texts in proptest::collection::vec(0..TEXTS.len(), 1..40)
        ) {
            let domain = domain();
            let mut columns = Columns::of(&domain, 0);
            let value = |cast: Cast, text: usize| cast.read(TEXTS[text]).map_or(Value::Null, |read| read.value);
            for text in &texts {
                for (column, cast) in CASTS.into_iter().enumerate() {
                    columns.push(column, value(cast, *text));
                }
            }
            for (column, cast) in CASTS.into_iter().enumerate() {
                for (left, left_text) in texts.iter().enumerate() {
                    let left_value = value(cast, *left_text);
                    prop_assert!(columns.get(column, left).compare(&left_value).is_eq());
                    for (right, right_text) in texts.iter().enumerate() {
                        let expected = left_value.compare(&value(cast, *right_text));
                        prop_assert_eq!(columns.compare(column, left, right), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_is_written_over_another_and_copied_from_column_to_column() {
        let columns = vec![Column::optional("a", Cast::Text), Column::optional("b", Cast::Text)];
        let mut columns = Columns::of(&Domain { columns: columns.leak(), ..*crate::DOMAINS[0] }, 2);
        for (column, text) in [(0, "one"), (1, "two"), (0, ""), (1, "three")] {
            columns.push(column, Value::Text(text));
        }
        columns.set(0, 0, Value::Null);
        columns.copy(1, 1, 0);
        let all = |column| [0, 1].map(|row| columns.get(column, row));
        assert_eq!(all(0), [Value::Null, Value::Text("three")]);
        assert_eq!(all(1), [Value::Text("two"), Value::Text("three")]);
    }

    #[test]
    fn what_a_few_rows_have_is_found_by_row() {
        let mut by_row: ByRow<&str> = [(7, "c"), (2, "a"), (7, "d"), (2, "b")].into_iter().collect();
        assert_eq!(by_row.of(2), [(2, "a"), (2, "b")]);
        assert_eq!((by_row.first_of(7), by_row.first_of(3)), (Some(&"c"), None));
        by_row.push(9, "e");
        by_row.truncate(7);
        assert_eq!(by_row.iter().map(|(_, item)| *item).collect::<Vec<_>>(), ["a", "b"]);
        assert!(!by_row.is_empty());
    }
}
