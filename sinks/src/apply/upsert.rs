//! The statement that writes rows into a domain's table, made from the declaration.
//!
//! Rows go in as one array a column, sorted by key, one row a key. The newest data wins by
//! (`src_ord`, `src_gen`, `src_row`), whatever order it arrives in. The statement answers, per object, which of
//! its rows were written and what they changed, so that counts and change marks follow from what Postgres did,
//! not from what was sent.
//!
//! Into a shadow, a row takes the `id` that the live table has for its key, so that a swap keeps the ids.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, Utc};
use freshet_topics::{Cast, Domain, Kept, Provenance, Value};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

use crate::destination::Destination;

/// The upsert of one domain at one place.
#[derive(Debug)]
pub struct Upsert {
    domain: &'static Domain,
    destination: Destination,
    key: Vec<usize>,
    sql: String,
}

/// One row to write.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// One value a column of the domain.
    pub values: &'a [Value],
    /// What stands beside them.
    pub kept: &'a Kept,
    /// Where it comes from.
    pub provenance: &'a Provenance,
    /// The caller's index of the row.
    pub index: usize,
}

/// What the statement did with the rows of one object and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The object.
    pub object: i64,
    /// The generation.
    pub generation: i32,
    /// `src_row` of every row that is now in the table; the others lost to newer data.
    pub rows: Vec<i64>,
    /// What changed: values of written rows that differ from what stood there before.
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

impl Upsert {
    /// Prepares the statement of a domain.
    pub fn new(domain: &'static Domain, destination: Destination) -> Self {
        let key = domain.key.iter().map(|name| domain.index_of(name)).collect();
        Upsert { domain, destination, key, sql: statement(domain, destination) }
    }

    /// The domain it writes.
    pub fn domain(&self) -> &'static Domain {
        self.domain
    }

    /// Where it writes.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// Orders rows by key, the newest of a key first.
    pub fn compare(&self, left: &Candidate, right: &Candidate) -> Ordering {
        self.compare_keys(left, right).then_with(|| order(right.provenance).cmp(&order(left.provenance)))
    }

    /// Orders rows by key alone.
    pub fn compare_keys(&self, left: &Candidate, right: &Candidate) -> Ordering {
        self.key
            .iter()
            .map(|&column| left.values[column].compare(&right.values[column]))
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// Writes rows that are sorted by key, one a key.
    ///
    /// # Errors
    /// Whatever Postgres says; an error of the row's kind means that at least one of these rows is refused.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        rows: &[Candidate<'_>],
    ) -> Result<Vec<Written>, sqlx::Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.bind(&self.sql, rows).fetch_all(connection).await?;
        answer
            .iter()
            .map(|row| {
                let changed = match self.domain.event_time {
                    Some(_) => Changed::Dates(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                    None => Changed::Keys(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                };
                Ok(Written { object: row.try_get(0)?, generation: row.try_get(1)?, rows: row.try_get(2)?, changed })
            })
            .collect()
    }
}

impl Upsert {
    /// A statement with the rows as arrays: one a column, one a kept column, then `src_object`, `src_gen`, `src_row` and `src_ord`.
    pub(crate) fn bind<'q>(&self, sql: &'q str, rows: &[Candidate<'_>]) -> Query<'q, Postgres, PgArguments> {
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (index, column) in self.domain.columns.iter().enumerate() {
            query = bind_column(query, column.cast, rows.iter().map(|row| &row.values[index]));
        }
        for (column, _) in self.domain.kept_columns() {
            let texts = rows.iter().map(|row| row.kept.get(column).map(str::to_owned));
            query = query.bind(texts.collect::<Vec<Option<String>>>());
        }
        query
            .bind(rows.iter().map(|row| row.provenance.object).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.generation).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.row).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.src_ord).collect::<Vec<_>>())
    }
}

/// The order of the data: the greatest wins, and what is as great is the same row. The statement compares the same
/// three, and a test holds it to that (`tests/model`).
pub fn order(provenance: &Provenance) -> (i64, i32, i64) {
    (provenance.src_ord, provenance.generation, provenance.row)
}

/// What [`bind_column`] binds, cast to an array of the column's type. Decimals travel as text.
fn array_type(cast: Cast) -> String {
    let to = cast.sql_type();
    match cast {
        Cast::Numeric { .. } => format!("text[]::{to}[]"),
        _ => format!("{to}[]"),
    }
}

/// Binds one column as an array. Arrays hold `Option`s because UNNEST takes its type from the first value.
fn bind_column<'q, 'v>(
    query: Query<'q, Postgres, PgArguments>,
    cast: Cast,
    values: impl Iterator<Item = &'v Value>,
) -> Query<'q, Postgres, PgArguments> {
    macro_rules! array {
        ($variant:path, $type:ty) => {
            query.bind(
                values
                    .map(|value| match value {
                        $variant(value) => Some(value.clone()),
                        _ => None,
                    })
                    .collect::<Vec<Option<$type>>>(),
            )
        };
    }
    match cast {
        Cast::Int => array!(Value::Int, i32),
        Cast::BigInt => array!(Value::BigInt, i64),
        Cast::Double => array!(Value::Double, f64),
        Cast::Bool => array!(Value::Bool, bool),
        Cast::Date => array!(Value::Date, NaiveDate),
        Cast::Timestamp => array!(Value::Timestamp, DateTime<Utc>),
        Cast::Numeric { .. } | Cast::Text | Cast::TrimmedText => {
            let text = |value: &Value| (!value.is_null()).then(|| value.to_string());
            query.bind(values.map(text).collect::<Vec<Option<String>>>())
        }
    }
}

/// `"type"` and the like need quotes; declarations hold no quote characters.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    names.into_iter().map(|name| format!("{prefix}\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// Which row of which file a row of the table comes from.
pub(crate) const LINEAGE: [&str; 4] = ["src_object", "src_gen", "src_row", "src_ord"];

/// The columns that a row of a file fills: the domain's own, and those that its contract keeps beside them.
fn filled_columns(domain: &Domain) -> impl Iterator<Item = &'static str> + use<> {
    domain.columns.iter().map(|column| column.name).chain(domain.kept_columns().map(|(name, _)| name))
}

/// Those of them that are no part of the key.
pub(crate) fn value_columns(domain: &Domain) -> impl Iterator<Item = &'static str> {
    filled_columns(domain).filter(|name| !domain.key.contains(name))
}

/// `UNNEST($1::int4[], …) AS u (columns, lineage)`: what [`Upsert::bind`] binds, as rows.
pub(crate) fn unnest(domain: &Domain, more: &str) -> String {
    let types = domain.columns.iter().map(|column| array_type(column.cast));
    let types = types.chain(domain.kept_columns().map(|_| "text[]::jsonb[]".to_owned()));
    let types = types.chain(["int8[]", "int4[]", "int8[]", "int8[]"].map(str::to_owned));
    let arrays: Vec<String> = types.enumerate().map(|(at, array_type)| format!("${}::{array_type}", at + 1)).collect();
    let columns = quoted(filled_columns(domain), "");
    let ordinality = if more.is_empty() { "" } else { " WITH ORDINALITY" };
    format!("UNNEST({}){ordinality} AS u ({columns}, {}{more})", arrays.join(", "), LINEAGE.join(", "))
}

/// Whether `left` and `right` have one key, NULL being a value of it. A column that is never NULL is compared so that
/// an index serves.
pub(crate) fn same_key(domain: &Domain, left: &str, right: &str) -> String {
    let column = |name: &&str| {
        let column = &domain.columns[domain.index_of(name)];
        let same = if domain.never_null(column) { "=" } else { "IS NOT DISTINCT FROM" };
        format!("{left}.\"{name}\" {same} {right}.\"{name}\"")
    };
    domain.key.iter().map(column).collect::<Vec<_>>().join(" AND ")
}

/// Whether the table has an `id` that means nothing, beside the domain's own columns.
pub(crate) fn has_surrogate_id(domain: &Domain) -> bool {
    domain.columns.iter().all(|column| column.name != "id")
}

/// Where the rows to write come from, with the columns to write them to.
fn source(domain: &Domain, destination: Destination) -> (String, String) {
    let columns = quoted(filled_columns(domain), "");
    let (columns, lineage) = (columns.as_str(), LINEAGE.join(", "));
    let rows = unnest(domain, "");
    if destination != Destination::Shadow || !has_surrogate_id(domain) {
        return (format!("({columns}, {lineage}, value_ord)"), format!("SELECT u.*, u.src_ord FROM {rows}"));
    }
    let live = Destination::Live.table(domain);
    let target = format!("(id, {columns}, {lineage}, value_ord) OVERRIDING SYSTEM VALUE");
    let id = format!("coalesce(live.id, nextval(pg_get_serial_sequence('{live}', 'id')))");
    // A look-up a row, by the key's index: the limit keeps the planner from reading the whole table instead.
    let looked_up = format!("SELECT l.id FROM {live} AS l WHERE {} LIMIT 1", same_key(domain, "l", "u"));
    (target, format!("SELECT {id}, u.*, u.src_ord FROM {rows} LEFT JOIN LATERAL ({looked_up}) AS live ON true"))
}

fn statement(domain: &Domain, destination: Destination) -> String {
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
    let (columns, rows) = source(domain, destination);
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
    use freshet_topics::DOMAINS;

    #[test]
    fn the_newest_row_of_a_key_comes_first() {
        let upsert = Upsert::new(DOMAINS[0], Destination::Live);
        let row = |id: i32| vec![Value::Int(id), Value::Null, Value::Null, Value::Null, Value::Null];
        let from = |src_ord, generation, row| Provenance {
            object: 1,
            generation,
            row,
            line: 0,
            src_ord,
            seq: 0,
            parser: 1,
            nonce: uuid::Uuid::nil(),
            partitions: 4,
        };
        let (one, two, kept) = (row(1), row(2), Kept::default());
        let lineages = [from(5, 1, 9), from(5, 2, 0), from(6, 1, 0), from(5, 1, 8)];
        let mut rows: Vec<Candidate> = lineages
            .iter()
            .enumerate()
            .flat_map(|(index, provenance)| {
                [&two, &one].map(|values| Candidate { values, kept: &kept, provenance, index })
            })
            .collect();
        rows.sort_by(|left, right| upsert.compare(left, right));
        let order: Vec<(i32, usize)> = rows
            .iter()
            .map(|row| match row.values[0] {
                Value::Int(id) => (id, row.index),
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(order, [(1, 2), (1, 1), (1, 0), (1, 3), (2, 2), (2, 1), (2, 0), (2, 3)]);
    }
}
