//! The declaration of a domain: topic, statements, metric labels, CLI arguments and tests are all derived from these
//! values.

use std::time::Duration;

use crate::Value;
use crate::judge;
use crate::kept;
use crate::rules::{Otherwise, RowRule, Rule};
use crate::sample::Sample;
use crate::types::Cast;

/// One kind of file, one topic, one table, one processor.
#[derive(Debug, Clone, Copy)]
pub struct Domain {
    /// The one spelling: prefix, topic suffix, metric label, CLI argument.
    pub name: &'static str,
    /// Description for people; empty if the contract has none.
    pub description: &'static str,
    /// The Postgres table, under the name that existing readers use.
    pub table: &'static str,
    /// Object keys that belong to the domain: a pattern ending in `/` matches as a prefix, any other matches
    /// the whole key. Settings may add to them.
    pub patterns: &'static [&'static str],
    /// The unique key of the table, in index order; NULL counts as a value.
    pub key: &'static [&'static str],
    /// The column whose canonical text is the Kafka message key.
    pub partition_by: &'static str,
    /// How rows are placed in event time; `None` for a dimension, which has no dates.
    pub event_time: Option<EventTime>,
    /// Columns in table order.
    pub columns: &'static [Column],
    /// Rules over several columns, applied in order after each column's own.
    pub row_rules: &'static [RowRule],
    /// How columns of a file that the domain does not have are handled.
    pub on_new_column: NewColumn,
    /// How rows that exist only in an older version of an object are handled.
    pub on_overwrite: Overwrite,
    /// How a file is handled that lacks a column but has a heading with nearly its name.
    pub on_near_miss: NearMiss,
    /// The delimiter of cells: one ASCII character.
    pub delimiter: u8,
    /// The text encoding of files.
    pub encoding: TextEncoding,
    /// Whether a row says in the column `corrections` which of its values were changed.
    pub keeps_corrections: bool,
    /// Cells that mean "not known" in every column.
    pub missing_values: &'static [&'static str],
    /// How long a row may take from the drop of its file to the table; `None` if the contract has no limit.
    pub latency: Option<Duration>,
    /// How long without a new file is too long; `None` if the contract has no limit.
    pub frequency: Option<Duration>,
}

/// How rows are placed in event time.
#[derive(Debug, Clone, Copy)]
pub struct EventTime {
    /// The date column.
    pub date: &'static str,
    /// The condition for an observed row: only observed rows make windows dirty or move the watermark. `None`: all
    /// rows.
    pub observed_when: Option<Observed>,
}

/// A row is observed if a column has a value.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    /// The column.
    pub column: &'static str,
    /// The value, of the column's type and not NULL.
    pub value: &'static Value<'static>,
}

/// How columns of a file that its domain does not have are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewColumn {
    /// They are left out, and reported once for each file.
    Ignore,
    /// Their cells are kept in the column `extra` of the row.
    Keep,
    /// As for `Keep`, and each setup adds a text column for every new one it finds.
    Add,
    /// The file is rejected.
    Reject,
}

impl NewColumn {
    /// Whether their cells are kept with the row.
    pub fn keeps(self) -> bool {
        matches!(self, NewColumn::Keep | NewColumn::Add)
    }
}

/// How rows that exist only in an older version of an object are handled once a newer one is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// They stay: a file only speaks for the keys that it contains.
    Merge,
    /// They are removed: the newest version of a file replaces the older one completely.
    Replace,
}

/// How a file is handled that lacks a column but has a heading with nearly its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NearMiss {
    /// The file is rejected, and the column named.
    Reject,
    /// The heading is an unknown column like any other.
    Ignore,
}

/// The text encoding of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-8.
    Utf8,
    /// Windows-1252, one byte for each character.
    Windows1252,
    /// UTF-16 in the byte order of its byte order mark, little-endian without one.
    Utf16Le,
    /// UTF-16 in the byte order of its byte order mark, big-endian without one.
    Utf16Be,
}

/// A column of a domain.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Canonical name: in the table, in messages, in metrics.
    pub name: &'static str,
    /// Description for people, with its unit; empty if the contract has none.
    pub description: &'static str,
    /// Other header spellings, lower case.
    pub aliases: &'static [&'static str],
    /// How text becomes a value.
    pub cast: Cast,
    /// The value in all rows if a file lacks this column; [`Instead::Reject`] rejects the file.
    pub absent: Instead,
    /// The value of an empty cell.
    pub empty: Instead,
    /// The value of a cell that does not cast.
    pub uncastable: Instead,
    /// Rules on the value, in order.
    pub rules: &'static [Rule],
    /// The column of another domain that it refers to.
    pub references: Option<Reference>,
    /// Whether its numbers have a decimal comma, and points between groups of three digits.
    pub decimal_comma: bool,
    /// Whether it is personal data: its values are not shown in logs and on pages.
    pub personal: bool,
    /// Cells that stand for "not known": the domain's and the column's own.
    pub missing_values: &'static [&'static str],
    /// How its sample data looks; `None` if the contract does not describe it.
    pub sample: Option<Sample>,
}

/// The value to use if a cell has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Instead {
    /// No value: the row or, for an absent column, the file is rejected.
    Reject,
    /// NULL.
    Null,
    /// This value.
    Value(&'static Value<'static>),
}

/// A column of another domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The domain.
    pub domain: &'static str,
    /// Its column.
    pub column: &'static str,
}

impl EventTime {
    /// The SQL condition for an observed row; `prefix` is put before the column's name (`t.`).
    pub fn observed_sql(&self, prefix: &str) -> String {
        match self.observed_when {
            None => "true".to_owned(),
            Some(Observed { column, value: Value::Bool(flag) }) => {
                format!("{prefix}\"{column}\" IS {}", if *flag { "TRUE" } else { "FALSE" })
            }
            Some(Observed { column, value }) => {
                format!("{prefix}\"{column}\" = '{}'", value.to_string().replace('\'', "''"))
            }
        }
    }

    /// The columns that place a row in event time and tell whether it is observed, without repetition.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.date].into_iter().chain(self.observed_when.map(|observed| observed.column))
    }
}

impl Instead {
    /// The value itself; NULL for [`Instead::Reject`].
    pub fn value(self) -> Value<'static> {
        match self {
            Instead::Reject | Instead::Null => Value::Null,
            Instead::Value(value) => *value,
        }
    }
}

impl Column {
    /// A column that every file must have and every row must fill.
    pub const fn required(name: &'static str, cast: Cast) -> Self {
        let reject = Instead::Reject;
        Column { absent: reject, empty: reject, uncastable: reject, ..Column::optional(name, cast) }
    }

    /// A column that may be absent or empty (NULL); a cell that does not cast becomes NULL with a correction.
    pub const fn optional(name: &'static str, cast: Cast) -> Self {
        Column {
            name,
            description: "",
            aliases: &[],
            cast,
            absent: Instead::Null,
            empty: Instead::Null,
            uncastable: Instead::Null,
            rules: &[],
            references: None,
            personal: false,
            decimal_comma: false,
            missing_values: &[],
            sample: None,
        }
    }

    /// Whether a row that loads always has a value here, regardless of the rules over two columns.
    pub fn is_filled(&self) -> bool {
        [self.absent, self.empty, self.uncastable].iter().all(|instead| *instead != Instead::Null)
            && self.rules.iter().all(|rule| rule.otherwise != Otherwise::Null)
    }
}

impl Domain {
    /// The index of a column by its canonical name.
    ///
    /// # Panics
    /// If the domain has no such column; a test checks every domain, so this cannot reach a user.
    pub fn index_of(&self, column: &str) -> usize {
        self.columns
            .iter()
            .position(|candidate| candidate.name == column)
            .unwrap_or_else(|| panic!("domain {} has no column {column}", self.name))
    }

    /// The column with this name.
    pub fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The JSON columns that the contract adds after the domain's own columns, with their descriptions.
    pub fn kept_columns(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let extra = self
            .on_new_column
            .keeps()
            .then_some((kept::EXTRA, "Cells of columns that the contract does not have, by heading."));
        let corrections = self.keeps_corrections.then_some((
            kept::CORRECTIONS,
            "The rules by which values were changed, by column; _overtaken counts the \
             earlier rows of the same file that this row replaced. NULL: nothing was \
             changed.",
        ));
        extra.into_iter().chain(corrections)
    }

    /// The column that identifies a changed row of a dimension: its key, which facts refer to, if that is one column.
    pub fn dimension_key(&self) -> &'static str {
        match self.key {
            [key] => key,
            _ => self.partition_by,
        }
    }

    /// Whether it has a column whose values are not shown in logs and on pages.
    pub fn has_personal_columns(&self) -> bool {
        self.columns.iter().any(|column| column.personal)
    }

    /// The rules that count a value but let it load, as (column, rule).
    pub fn warning_rules(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let of_column = |column: &'static Column| column.rules.iter().map(|it| (column.name, it.name, it.otherwise));
        let of_rows = self.row_rules.iter().map(|it| (it.column, it.name, it.otherwise));
        let all = self.columns.iter().flat_map(of_column).chain(of_rows);
        all.filter(|(.., otherwise)| *otherwise == Otherwise::Warn).map(|(column, rule, _)| (column, rule))
    }

    /// Everything that a value may be corrected for, as (column, rule).
    pub fn correcting_rules(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let of_column =
            |column: &'static Column| judge::corrections(column).into_iter().map(move |rule| (column.name, rule));
        let of_rows = self.row_rules.iter().filter(|rule| rule.otherwise.corrects());
        self.columns.iter().flat_map(of_column).chain(of_rows.map(|rule| (rule.column, rule.name)))
    }

    /// The non-key columns that get the contract's default in every row of a file that lacks them: the default
    /// overwrites the value in the table.
    pub fn columns_with_a_default(&self) -> impl Iterator<Item = &'static Column> + use<> {
        let key = self.key;
        let has_default =
            move |column: &&Column| matches!(column.absent, Instead::Value(_)) && !key.contains(&column.name);
        self.columns.iter().filter(has_default)
    }

    /// The names of the domain's own rules that reject rows.
    pub fn rejecting_rules(&self) -> impl Iterator<Item = &'static str> + use<> {
        let of_columns = self.columns.iter().flat_map(|column| column.rules).map(|rule| (rule.name, rule.otherwise));
        let of_rows = self.row_rules.iter().map(|rule| (rule.name, rule.otherwise));
        let rejects = |otherwise| matches!(otherwise, Otherwise::Reject | Otherwise::Fail);
        of_columns.chain(of_rows).filter(move |(_, otherwise)| rejects(*otherwise)).map(|(name, _)| name)
    }

    /// Whether the column is never NULL in the table.
    pub fn never_null(&self, column: &Column) -> bool {
        let nulled = |rule: &RowRule| rule.column == column.name && rule.otherwise == Otherwise::Null;
        column.is_filled() && !self.row_rules.iter().any(nulled)
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
