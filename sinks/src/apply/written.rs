//! What was written: for counts, and for the marks of what must be derived again.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use freshet_topics::{Domain, Value};

use super::upsert::Candidate;

/// What a statement did with the rows of one object and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The object.
    pub object: i64,
    /// The generation.
    pub generation: i32,
    /// `src_row` of every row that is now in the table; the others lost to newer data.
    pub rows: Vec<i64>,
    /// What changed: values of written rows that differ from the table's values before. Dates that the rows of a statement
    /// left are with its first object.
    pub changed: Changed,
}

/// What must be derived again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Dates of facts that are not projections.
    Dates(Vec<NaiveDate>),
    /// Rows of a dimension, by the text of their key.
    Keys(Vec<String>),
}

/// Rows that are all written and have all changed.
pub(super) fn of(domain: &Domain, rows: &[Candidate<'_>]) -> Vec<Written> {
    let mut found: BTreeMap<(i64, i32), Vec<&Candidate<'_>>> = BTreeMap::new();
    for row in rows {
        let provenance = row.provenance();
        found.entry((provenance.object, provenance.generation)).or_default().push(row);
    }
    let one = |((object, generation), rows): ((i64, i32), Vec<&Candidate<'_>>)| Written {
        object,
        generation,
        rows: rows.iter().map(|row| row.provenance().row).collect(),
        changed: changed(domain, &rows),
    };
    found.into_iter().map(one).collect()
}

fn changed(domain: &Domain, rows: &[&Candidate<'_>]) -> Changed {
    let Some(event_time) = &domain.event_time else {
        let key = domain.dimension_key();
        return Changed::Keys(rows.iter().map(|row| value(domain, row, key).to_string()).collect());
    };
    let is_observed = |row: &&&Candidate<'_>| {
        event_time.observed_when.is_none_or(|observed| value(domain, row, observed.column) == *observed.value)
    };
    let dates = rows.iter().filter(is_observed).filter_map(|row| match value(domain, row, event_time.date) {
        Value::Date(date) => Some(date),
        // A contract places rows in event time only by a column of type date.
        _ => None,
    });
    Changed::Dates(dates.collect())
}

fn value<'b>(domain: &Domain, row: &Candidate<'b>, column: &str) -> Value<'b> {
    row.columns().get(domain.index_of(column), row.place())
}

/// Adds dates that rows left to those that changed.
pub(super) fn add_dates(written: &mut [Written], left: Vec<NaiveDate>) {
    if let Some(Written { changed: Changed::Dates(dates), .. }) = written.first_mut() {
        dates.extend(left);
    }
}
