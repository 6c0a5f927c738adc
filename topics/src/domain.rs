//! The declaration of a domain: everything that follows from it (topic, statements, metric labels, CLI
//! arguments, tests) is derived from the values here, so that a new domain is one file beside
//! [`crate::domains`] and one line in the registry.

use crate::Value;

/// One kind of file, one topic, one table, one processor.
#[derive(Debug, Clone, Copy)]
pub struct Domain {
    /// The one spelling: prefix, topic suffix, metric label, CLI argument.
    pub name: &'static str,
    /// The Postgres table, as today's readers know it.
    pub table: &'static str,
    /// Object keys that belong to the domain: a pattern ending in `/` matches as a prefix, any other matches
    /// the whole key. Settings may add to them.
    pub patterns: &'static [&'static str],
    /// The unique key of the table, in index order; NULL counts as a value.
    pub key: &'static [&'static str],
    /// The column whose canonical text is the Kafka message key.
    pub partition_by: &'static str,
    /// Which columns place a row in event time; `None` where rows have no date (locations).
    pub event_time: Option<EventTime>,
    /// Columns in table order.
    pub columns: &'static [Column],
    /// Rules over several columns, applied in order after each column's own.
    pub row_rules: &'static [RowRule],
    /// Rows good and bad, with what must become of them; every test that iterates the registry uses them.
    pub examples: &'static [Example],
}

/// The columns that place a row in event time.
#[derive(Debug, Clone, Copy)]
pub struct EventTime {
    /// The date column.
    pub date: &'static str,
    /// The boolean column that marks a projection; only rows where it is false make windows dirty or move
    /// the watermark.
    pub projected: &'static str,
}

/// A column of a domain.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Canonical name: in the table, in messages, in metrics.
    pub name: &'static str,
    /// Other header spellings, lower case.
    pub aliases: &'static [&'static str],
    /// How text becomes a value.
    pub cast: Cast,
    /// What a file without this column gets.
    pub absent: Absent,
    /// Whether an empty cell rejects the row instead of being NULL.
    pub reject_empty: bool,
    /// Whether a cell that does not cast rejects the row instead of becoming NULL with a correction.
    pub reject_uncastable: bool,
    /// Rules on the value, in order.
    pub rules: &'static [Rule],
}

/// The type a cell is cast to; the accepted spellings are in [`crate::cast`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// 32-bit signed integer.
    Int,
    /// Double precision.
    Double,
    /// Boolean.
    Bool,
    /// Calendar date.
    Date,
    /// Text as it stands; blanks alone are empty.
    Text,
    /// Text with blanks (0x01–0x20) trimmed from both ends.
    TrimmedText,
}

/// What a file gets whose header lacks a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Absent {
    /// The file is rejected.
    RejectFile,
    /// NULL in every row.
    Null,
    /// This integer in every row.
    Int(i32),
    /// This double in every row.
    Double(f64),
    /// This boolean in every row.
    Bool(bool),
    /// This text in every row.
    Text(&'static str),
}

impl Absent {
    /// The value that a row of a file without the column holds.
    pub fn value(self) -> Value {
        match self {
            Absent::RejectFile | Absent::Null => Value::Null,
            Absent::Int(value) => Value::Int(value),
            Absent::Double(value) => Value::Double(value),
            Absent::Bool(value) => Value::Bool(value),
            Absent::Text(value) => Value::Text(value.into()),
        }
    }
}

/// A rule on one value. A rule that changes the value is a correction, counted by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A negative count becomes 0.
    NegativeToZero,
    /// A negative amount rejects the row.
    NegativeRejected,
    /// A probability outside 0..=1, or NaN, becomes 0.0.
    ProbabilityToZero,
}

/// A rule over two columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowRule {
    /// `column` is lowered to `limit` where it is greater and both are known.
    Cap {
        /// The integer column that is lowered.
        column: &'static str,
        /// The integer column that bounds it.
        limit: &'static str,
        /// The name the correction is counted under.
        rule: &'static str,
    },
}

/// A row in the domain's canonical column order, and what must become of it.
#[derive(Debug)]
pub struct Example {
    /// Raw cells, one a column of the domain.
    pub cells: &'static [&'static str],
    /// What the processor must make of it.
    pub expected: Expected,
}

/// The verdict an [`Example`] must get.
#[derive(Debug)]
pub enum Expected {
    /// Applied, with these corrections as (column, rule).
    Applied(&'static [(&'static str, &'static str)]),
    /// Rejected because of this column under this rule.
    Rejected(&'static str, &'static str),
}

impl Column {
    /// A column that every file must have and every row must fill.
    pub const fn required(name: &'static str, cast: Cast) -> Self {
        Column {
            name,
            aliases: &[],
            cast,
            absent: Absent::RejectFile,
            reject_empty: true,
            reject_uncastable: true,
            rules: &[],
        }
    }

    /// A column that may be absent or empty (NULL); what does not cast becomes NULL with a correction.
    pub const fn optional(name: &'static str, cast: Cast) -> Self {
        Column {
            name,
            aliases: &[],
            cast,
            absent: Absent::Null,
            reject_empty: false,
            reject_uncastable: false,
            rules: &[],
        }
    }

    /// Accepts other header spellings too (lower case).
    pub const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Column { aliases, ..self }
    }

    /// What a file without the column gets.
    pub const fn absent(self, absent: Absent) -> Self {
        Column { absent, ..self }
    }

    /// Rejects rows whose cell is empty.
    pub const fn reject_empty(self) -> Self {
        Column { reject_empty: true, ..self }
    }

    /// Rejects rows whose cell is not empty and does not cast.
    pub const fn reject_uncastable(self) -> Self {
        Column { reject_uncastable: true, ..self }
    }

    /// Adds rules on the value.
    pub const fn rules(self, rules: &'static [Rule]) -> Self {
        Column { rules, ..self }
    }
}

impl Domain {
    /// The index of a column by its canonical name.
    ///
    /// # Panics
    /// If the declaration names a column it does not have; a test walks every domain so that this cannot
    /// reach a user.
    pub fn index_of(&self, column: &str) -> usize {
        self.columns
            .iter()
            .position(|candidate| candidate.name == column)
            .unwrap_or_else(|| panic!("domain {} has no column {column}", self.name))
    }

    /// Whether an object key belongs to this domain, by its own patterns or the `extra` ones of the settings.
    pub fn matches<'a>(&'a self, key: &str, extra: impl IntoIterator<Item = &'a str>) -> bool {
        let matches = |pattern: &str| match pattern.ends_with('/') {
            true => key.starts_with(pattern) && !key.ends_with('/'),
            false => key == pattern,
        };
        self.patterns.iter().copied().any(matches) || extra.into_iter().any(matches)
    }

    /// The Kafka topic that carries the domain, under the prefix of the settings (`freshet.`).
    pub fn topic(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }
}

/// Domains are declared once, so identity is the name.
impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Domain {}
