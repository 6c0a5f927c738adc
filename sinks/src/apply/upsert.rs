//! The statement that writes rows to a domain's table, generated from the declaration.
//!
//! Rows are passed as one array per column, sorted by key, one row for each key. The newest data by (`src_ord`,
//! `src_gen`, `src_row`) wins, in whatever order it arrives. The statement returns, for each object, which rows it
//! wrote and what they changed, so that counts and change marks come from what Postgres did, not from what was sent.
//!
//! In a shadow, a row gets the `id` that the live table has for its key, so that a swap keeps the ids.

use std::cmp::Ordering;

use freshet_topics::columns::Columns;
use freshet_topics::{Domain, Provenance};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::ReceivedRow;
use super::arrays::{self, unnest};
use super::ids::Ids;
use super::written::{Changed, Written};
use super::{moved, written};
use crate::destination::Destination;

/// The upsert of one domain at one destination.
#[derive(Debug)]
pub struct Upsert {
    domain: &'static Domain,
    destination: Destination,
    ids: Ids,
    key: Vec<usize>,
    sql: String,
}

/// One row to write. All rows of a statement belong to one batch.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'b> {
    /// The row. It has no refusal.
    pub row: ReceivedRow<'b>,
    /// The caller's index of it.
    pub index: usize,
}

impl<'b> Candidate<'b> {
    /// Where it comes from.
    pub(crate) fn provenance(&self) -> &'b Provenance {
        self.row.provenance()
    }

    /// The columns that hold its values.
    pub(crate) fn columns(&self) -> &'b Columns {
        &self.row.rows().judged.values
    }

    /// Its index in those columns.
    pub(crate) fn place(&self) -> usize {
        self.row.at()
    }
}

impl Upsert {
    /// Prepares the statement of a domain.
    pub fn new(domain: &'static Domain, destination: Destination) -> Self {
        Upsert::with_ids(domain, destination, Ids::at(domain, destination))
    }

    /// The same for a table whose `id`s come from somewhere else ([`crate::shadow::ids`]).
    pub fn with_ids(domain: &'static Domain, destination: Destination, ids: Ids) -> Self {
        let key = domain.key.iter().map(|name| domain.index_of(name)).collect();
        Upsert { domain, destination, ids, key, sql: statement(domain, destination, ids) }
    }

    /// The domain it writes.
    pub fn domain(&self) -> &'static Domain {
        self.domain
    }

    /// Its destination.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// Where the `id`s of its rows come from.
    pub(super) fn ids(&self) -> Ids {
        self.ids
    }

    /// Orders rows by key, the newest of a key first.
    pub fn compare(&self, left: &Candidate, right: &Candidate) -> Ordering {
        self.compare_keys(left, right).then_with(|| right.provenance().order().cmp(&left.provenance().order()))
    }

    /// Orders rows by key alone.
    pub fn compare_keys(&self, left: &Candidate, right: &Candidate) -> Ordering {
        let columns = left.columns();
        self.key
            .iter()
            .map(|&column| columns.compare(column, left.place(), right.place()))
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// Writes rows that are sorted by key, one for each key.
    ///
    /// # Errors
    /// Any error of Postgres; an error of the kind [`ErrorKind::Row`](crate::postgres::ErrorKind::Row) means that at
    /// least one of these rows is refused.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        rows: &[Candidate<'_>],
    ) -> Result<Vec<Written>, sqlx::Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let left = moved::dates_left(connection, self, rows).await?;
        let query = sqlx::query(AssertSqlSafe(self.sql.as_str()));
        let answer = arrays::bind(self.domain, query, rows).fetch_all(connection).await?;
        let written: Result<Vec<Written>, sqlx::Error> = answer
            .iter()
            .map(|row| {
                let changed = match self.domain.event_time {
                    Some(_) => Changed::Dates(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                    None => Changed::Keys(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                };
                Ok(Written { object: row.try_get(0)?, generation: row.try_get(1)?, rows: row.try_get(2)?, changed })
            })
            .collect();
        let mut written = written?;
        written::add_dates(&mut written, left);
        Ok(written)
    }
}

/// Names such as `"type"` need quotes; declarations contain no quote characters.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    names.into_iter().map(|name| format!("{prefix}\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The columns that say which row of which file a row of the table comes from.
pub(crate) const LINEAGE: [&str; 4] = ["src_object", "src_gen", "src_row", "src_ord"];

/// The columns that a row of a file fills: the domain's own, and those that its contract stores besides.
pub(crate) fn filled_columns(domain: &Domain) -> impl Iterator<Item = &'static str> + use<> {
    domain.columns.iter().map(|column| column.name).chain(domain.kept_columns().map(|(name, _)| name))
}

/// Those of them that are not part of the key.
pub(crate) fn value_columns(domain: &Domain) -> impl Iterator<Item = &'static str> {
    filled_columns(domain).filter(|name| !domain.key.contains(name))
}

/// Whether `left` and `right` have the same key; NULL equals NULL. A column that is never NULL is compared in a form
/// that can use an index.
pub(crate) fn same_key(domain: &Domain, left: &str, right: &str) -> String {
    let column = |name: &&str| {
        let column = &domain.columns[domain.index_of(name)];
        let same = if domain.never_null(column) { "=" } else { "IS NOT DISTINCT FROM" };
        format!("{left}.\"{name}\" {same} {right}.\"{name}\"")
    };
    domain.key.iter().map(column).collect::<Vec<_>>().join(" AND ")
}

/// The row `l` of a table that has the key of `u`, by one index lookup: the limit keeps the planner from reading the whole
/// table instead.
pub(crate) fn row_of_key(domain: &Domain, table: &str, columns: &str) -> String {
    format!("SELECT {columns} FROM {table} AS l WHERE {} LIMIT 1", same_key(domain, "l", "u"))
}

/// For each value column, whether `left` differs from `u` in it.
pub(crate) fn differs(domain: &Domain, left: &str) -> String {
    let differs = value_columns(domain).map(|name| format!("{left}.\"{name}\" IS DISTINCT FROM u.\"{name}\""));
    differs.collect::<Vec<_>>().join(", ")
}

/// Whether the table has an `id` without meaning besides the domain's own columns.
pub(crate) fn has_surrogate_id(domain: &Domain) -> bool {
    domain.columns.iter().all(|column| column.name != "id")
}

/// The source of the rows to write, with the columns to write to.
fn source(domain: &Domain, ids: Ids) -> (String, String) {
    let columns = quoted(filled_columns(domain), "");
    let (columns, lineage) = (columns.as_str(), LINEAGE.join(", "));
    let rows = unnest(domain, "");
    let Some((id, join)) = ids.sql(domain) else {
        return (format!("({columns}, {lineage}, value_ord)"), format!("SELECT u.*, u.src_ord FROM {rows}"));
    };
    let target = format!("(id, {columns}, {lineage}, value_ord) OVERRIDING SYSTEM VALUE");
    (target, format!("SELECT {id}, u.*, u.src_ord FROM {rows} {join}"))
}

fn statement(domain: &Domain, destination: Destination, ids: Ids) -> String {
    let assignments = value_columns(domain)
        .chain(LINEAGE)
        .map(|name| format!("\"{name}\" = excluded.\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let changed = match &domain.event_time {
        Some(event_time) => {
            let observed = event_time.observed_sql("");
            format!("array_agg(\"{}\") FILTER (WHERE changed AND {observed})", event_time.date)
        }
        None => format!("array_agg(\"{}\"::text) FILTER (WHERE changed)", domain.dimension_key()),
    };
    let returned = match &domain.event_time {
        Some(event_time) => quoted(event_time.columns(), ""),
        None => quoted([domain.dimension_key()], ""),
    };
    let (columns, rows) = source(domain, ids);
    format!(
        "WITH written AS (
             INSERT INTO {table} AS t {columns}
             {rows}
             ON CONFLICT ({key}) DO UPDATE SET {assignments}, value_ord = CASE
                 WHEN ({old}) IS DISTINCT FROM ({new}) THEN excluded.src_ord ELSE t.value_ord END
             WHERE (excluded.src_ord, excluded.src_gen, excluded.src_row) >= (t.src_ord, t.src_gen, t.src_row)
             RETURNING src_object, src_gen, src_row, {returned}, value_ord = src_ord AS changed
         )
         SELECT src_object, src_gen, array_agg(src_row), {changed} FROM written GROUP BY src_object, src_gen",
        table = destination.table(domain),
        key = quoted(domain.key.iter().copied(), ""),
        old = quoted(value_columns(domain), "t."),
        new = quoted(value_columns(domain), "excluded."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Origin, Rows};
    use freshet_topics::cells::Cells;
    use freshet_topics::message::RawText;
    use freshet_topics::{DOMAINS, RawRow, Value, judge};

    #[test]
    fn the_newest_row_of_a_key_comes_first() {
        let domain = DOMAINS[0];
        let upsert = Upsert::new(domain, Destination::Live);
        let mut cells = Cells::of(domain);
        let mut origins = Vec::new();
        for (src_ord, generation, row) in [(5, 1, 9), (5, 2, 0), (6, 1, 0), (5, 1, 8)] {
            for id in [2, 1] {
                let value = format!(r#"{{"id":"{id}","name":"Goa"}}"#);
                cells.push(&RawRow::decode(domain, value.as_bytes()).expect("a row"));
                let nonce = uuid::Uuid::nil();
                let (object, line, seq, parser, partitions) = (1, 0, 0, 1, 4);
                let provenance = Provenance { object, generation, row, line, src_ord, seq, parser, nonce, partitions };
                origins.push(Origin { partition: 0, offset: 0, provenance, raw: RawText::default() });
            }
        }
        let rows = Rows { origins, judged: judge::columns(domain, &cells) };
        let mut candidates: Vec<Candidate> =
            (0..rows.origins.len()).map(|at| Candidate { row: rows.row(at), index: at / 2 }).collect();
        candidates.sort_by(|left, right| upsert.compare(left, right));
        let order: Vec<(i32, usize)> = candidates
            .iter()
            .map(|candidate| match candidate.columns().get(0, candidate.place()) {
                Value::Int(id) => (id, candidate.index),
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(order, [(1, 2), (1, 1), (1, 0), (1, 3), (2, 2), (2, 1), (2, 0), (2, 3)]);
    }
}
