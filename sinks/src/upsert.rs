//! The statement that writes rows into a domain's table, made from the declaration.
//!
//! Rows go in as one array a column, sorted by key, one row a key. The newest data wins by
//! (`src_ord`, `src_gen`, `src_row`), whatever order it arrives in. The statement answers, per object, which of
//! its rows were written and what they changed, so that counts and change marks follow from what Postgres did,
//! not from what was sent.

use std::cmp::Ordering;

use chrono::NaiveDate;
use freshet_topics::{Cast, Domain, Provenance, Value};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

/// The upsert of one domain.
#[derive(Debug)]
pub struct Upsert {
    domain: &'static Domain,
    key: Vec<usize>,
    sql: String,
}

/// One row to write.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// One value a column of the domain.
    pub values: &'a [Value],
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
    /// Locations.
    Locations(Vec<i32>),
}

impl Upsert {
    /// Prepares the statement of a domain.
    pub fn new(domain: &'static Domain) -> Self {
        Upsert { domain, key: domain.key.iter().map(|name| domain.index_of(name)).collect(), sql: statement(domain) }
    }

    /// The domain it writes.
    pub fn domain(&self) -> &'static Domain {
        self.domain
    }

    /// Orders rows by key, the newest of a key first.
    pub fn compare(&self, left: &Candidate, right: &Candidate) -> Ordering {
        self.compare_keys(left, right).then_with(|| lineage(right).cmp(&lineage(left)))
    }

    /// Orders rows by key alone.
    pub fn compare_keys(&self, left: &Candidate, right: &Candidate) -> Ordering {
        self.key
            .iter()
            .map(|&column| compare_values(&left.values[column], &right.values[column]))
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
        let mut query = sqlx::query(AssertSqlSafe(self.sql.as_str()));
        for (index, column) in self.domain.columns.iter().enumerate() {
            query = bind_column(query, column.cast, rows.iter().map(|row| &row.values[index]));
        }
        let answer = query
            .bind(rows.iter().map(|row| row.provenance.object).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.generation).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.row).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.provenance.src_ord).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
        answer
            .iter()
            .map(|row| {
                let changed = match self.domain.event_time {
                    Some(_) => Changed::Dates(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                    None => Changed::Locations(row.try_get::<Option<_>, _>(3)?.unwrap_or_default()),
                };
                Ok(Written { object: row.try_get(0)?, generation: row.try_get(1)?, rows: row.try_get(2)?, changed })
            })
            .collect()
    }
}

/// The order of the data: the greatest wins.
fn lineage(row: &Candidate) -> (i64, i32, i64) {
    (row.provenance.src_ord, row.provenance.generation, row.provenance.row)
}

/// A total order over the values of one key column; NULL counts as a value and comes first.
fn compare_values(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Date(left), Value::Date(right)) => left.cmp(right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Double(left), Value::Double(right)) => left.total_cmp(right),
        _ => unreachable!("the values of one column have one type"),
    }
}

const fn sql_type(cast: Cast) -> &'static str {
    match cast {
        Cast::Int => "int4",
        Cast::Double => "float8",
        Cast::Bool => "bool",
        Cast::Date => "date",
        Cast::Text | Cast::TrimmedText => "text",
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
        Cast::Double => array!(Value::Double, f64),
        Cast::Bool => array!(Value::Bool, bool),
        Cast::Date => array!(Value::Date, NaiveDate),
        Cast::Text | Cast::TrimmedText => {
            let texts: Vec<Option<String>> = values
                .map(|value| match value {
                    Value::Text(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect();
            query.bind(texts)
        }
    }
}

/// `"type"` and the like need quotes; declarations hold no quote characters.
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    names.into_iter().map(|name| format!("{prefix}\"{name}\"")).collect::<Vec<_>>().join(", ")
}

const LINEAGE: [&str; 4] = ["src_object", "src_gen", "src_row", "src_ord"];

fn statement(domain: &Domain) -> String {
    let columns = || domain.columns.iter().map(|column| column.name);
    let values = || columns().filter(|name| !domain.key.contains(name));
    let arrays = domain
        .columns
        .iter()
        .map(|column| sql_type(column.cast))
        .chain(["int8", "int4", "int8", "int8"])
        .enumerate()
        .map(|(index, sql_type)| format!("${}::{sql_type}[]", index + 1))
        .collect::<Vec<_>>()
        .join(", ");
    let assignments =
        values().chain(LINEAGE).map(|name| format!("\"{name}\" = excluded.\"{name}\"")).collect::<Vec<_>>().join(", ");
    let changed = match &domain.event_time {
        Some(event_time) => format!(
            "array_agg(\"{}\") FILTER (WHERE changed AND \"{}\" IS FALSE)",
            event_time.date, event_time.projected
        ),
        None => format!("array_agg(\"{}\") FILTER (WHERE changed)", domain.partition_by),
    };
    let returned = match &domain.event_time {
        Some(event_time) => quoted([event_time.date, event_time.projected], ""),
        None => quoted([domain.partition_by], ""),
    };
    format!(
        "WITH written AS (
             INSERT INTO \"{table}\" AS t ({all}, {lineage}, value_ord)
             SELECT u.*, u.src_ord FROM UNNEST({arrays}) AS u ({all}, {lineage})
             ON CONFLICT ({key}) DO UPDATE SET {assignments}, value_ord = CASE
                 WHEN ({old}) IS DISTINCT FROM ({new}) THEN excluded.src_ord ELSE t.value_ord END
             WHERE (excluded.src_ord, excluded.src_gen, excluded.src_row) >= (t.src_ord, t.src_gen, t.src_row)
             RETURNING src_object, src_gen, src_row, {returned}, value_ord = src_ord AS changed
         )
         SELECT src_object, src_gen, array_agg(src_row), {changed} FROM written GROUP BY src_object, src_gen",
        table = domain.table,
        all = quoted(columns(), ""),
        lineage = LINEAGE.join(", "),
        key = quoted(domain.key.iter().copied(), ""),
        old = quoted(values(), "t."),
        new = quoted(values(), "excluded."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::DOMAINS;

    #[test]
    fn the_newest_row_of_a_key_comes_first() {
        let upsert = Upsert::new(DOMAINS[0]);
        let row = |id: i32| vec![Value::Int(id), Value::Null, Value::Null, Value::Null, Value::Null];
        let from =
            |src_ord, generation, row| Provenance { object: 1, generation, row, line: 0, src_ord, seq: 0, parser: 1 };
        let (one, two) = (row(1), row(2));
        let lineages = [from(5, 1, 9), from(5, 2, 0), from(6, 1, 0), from(5, 1, 8)];
        let mut rows: Vec<Candidate> = lineages
            .iter()
            .enumerate()
            .flat_map(|(index, provenance)| [&two, &one].map(|values| Candidate { values, provenance, index }))
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

    #[test]
    fn null_is_a_value_of_a_key() {
        assert_eq!(compare_values(&Value::Null, &Value::Null), Ordering::Equal);
        assert_eq!(compare_values(&Value::Null, &Value::Int(i32::MIN)), Ordering::Less);
        assert_eq!(compare_values(&Value::Bool(true), &Value::Bool(false)), Ordering::Greater);
    }
}
