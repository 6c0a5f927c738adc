//! The report on a file, built row by row.

use std::collections::BTreeMap;
use std::path::Path;

use freshet_ingest::inspect::{Inspected, visible};
use freshet_topics::judge::{Judged, Note, Refusal};
use freshet_topics::{Cell, Domain, RawRow};
use serde::Serialize;

use crate::status::personal;

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 60;

/// What would happen to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Every row loads.
    Loads,
    /// Some rows are rejected, the others load.
    LoadsInPart,
    /// No row loads: the file is rejected as a whole, or each of its rows is.
    Rejected,
    /// Its name matches a pattern of `ingest.not_data`, so it is not read.
    NotData,
}

/// A reported cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The line on which the row begins.
    pub(super) line: u64,
    pub(super) column: Option<&'static str>,
    /// As it was sent.
    pub(super) value: Option<String>,
    /// Of a correction: the value that is stored for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<String>,
    pub(super) rule: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(super) file: String,
    /// None where it is no domain's.
    pub(super) domain: Option<&'static str>,
    pub(super) state: State,
    /// Why it is rejected as a whole, and what to do.
    pub(super) reason: Option<String>,
    pub(super) rows: i64,
    pub(super) rejected: i64,
    /// Values that are changed for their rows to load.
    pub(super) corrected: i64,
    /// Rows whose key comes again further down: of each key the last row loads.
    pub(super) overtaken: i64,
    pub(super) unknown_columns: Vec<String>,
    /// Columns that it lacks, and for which all of its rows have the contract's value.
    pub(super) absent_defaults: Vec<String>,
    /// Rule → rows.
    pub(super) rejects_by_rule: BTreeMap<&'static str, i64>,
    /// Column and rule → values, as `column:rule`.
    pub(super) corrections_by_rule: BTreeMap<String, i64>,
    /// The first of them.
    pub(super) rejects: Vec<Place>,
    /// The first of them.
    pub(super) corrections: Vec<Place>,
    #[serde(skip)]
    domain_of: Option<&'static Domain>,
    #[serde(skip)]
    listed_max: usize,
}

impl Report {
    /// Of a file of a domain, of which nothing is known yet.
    pub(super) fn new(path: &Path, domain: &'static Domain, listed_max: usize) -> Self {
        Report { domain: Some(domain.name), domain_of: Some(domain), listed_max, ..Report::blank(path, State::Loads) }
    }

    /// The report on a file that would not be read.
    pub(super) fn not_data(path: &Path, pattern: &str) -> Self {
        let reason = format!("its name matches `{pattern}` of ingest.not_data, so it is not read");
        Report { reason: Some(reason), ..Report::blank(path, State::NotData) }
    }

    /// The report on a file that every domain would reject.
    pub(super) fn of_nobody(path: &Path, reason: String) -> Self {
        Report { reason: Some(reason), ..Report::blank(path, State::Rejected) }
    }

    fn blank(path: &Path, state: State) -> Self {
        Report {
            file: path.display().to_string(),
            domain: None,
            state,
            reason: None,
            rows: 0,
            rejected: 0,
            corrected: 0,
            overtaken: 0,
            unknown_columns: Vec::new(),
            absent_defaults: Vec::new(),
            rejects_by_rule: BTreeMap::new(),
            corrections_by_rule: BTreeMap::new(),
            rejects: Vec::new(),
            corrections: Vec::new(),
            domain_of: None,
            listed_max: 0,
        }
    }

    /// Whether every row loads.
    pub(super) fn is_clean(&self) -> bool {
        self.state == State::Loads
    }

    /// A row, judged alone.
    pub(super) fn take(&mut self, line: u64, row: &RawRow<'_>, judged: &Judged) {
        if let Some(Refusal { rule, column, value }) = judged.refusal(0) {
            self.rejected += 1;
            *self.rejects_by_rule.entry(rule).or_default() += 1;
            if self.rejects.len() < self.listed_max {
                let value = value.as_deref().map(|value| self.shown(*column, value));
                self.rejects.push(Place { line, column: *column, value, stored: None, rule });
            }
        }
        for (_, Note { column, rule }) in judged.corrections.iter() {
            self.corrected += 1;
            *self.corrections_by_rule.entry(format!("{column}:{rule}")).or_default() += 1;
            if self.corrections.len() < self.listed_max {
                let (value, stored) = (self.cell(row, column), self.stored(judged, column));
                self.corrections.push(Place { line, column: Some(column), value, stored, rule });
            }
        }
    }

    fn cell(&self, row: &RawRow<'_>, column: &'static str) -> Option<String> {
        match row.cells.get(self.domain_of?.index_of(column))? {
            Cell::Text(text) => Some(self.shown(Some(column), text)),
            Cell::Absent | Cell::Missing => None,
        }
    }

    /// The value that the table gets.
    fn stored(&self, judged: &Judged, column: &'static str) -> Option<String> {
        let value = judged.values.get(self.domain_of?.index_of(column), 0);
        Some(self.shown(Some(column), &value.to_string()))
    }

    fn shown(&self, column: Option<&str>, value: &str) -> String {
        let shown = personal::shown(self.domain_of, column, Some(visible(value, VALUE_CHARS_MAX)));
        shown.unwrap_or_default()
    }

    /// There are no more rows.
    pub(super) fn end(&mut self, inspected: Inspected) {
        let Inspected { rows, unknown_columns, absent_defaults, overtaken } = inspected;
        (self.rows, self.overtaken) = (rows, overtaken);
        (self.unknown_columns, self.absent_defaults) = (unknown_columns, absent_defaults);
        self.state = match self.rejected {
            0 => State::Loads,
            rejected if rejected < rows => State::LoadsInPart,
            _ => State::Rejected,
        };
    }

    /// The file is rejected as a whole.
    pub(super) fn reject(&mut self, reason: String) {
        (self.state, self.reason) = (State::Rejected, Some(reason));
    }
}
