//! Rows as the arrays of a statement: one array per column, encoded straight from the columns of the batch, without a
//! copy.
//!
//! Arrays hold `Option`s because UNNEST takes its type from the first value.

use freshet_topics::Domain;
use freshet_topics::columns::{Columns, Values};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgBindIterExt};
use sqlx::query::Query;

use super::upsert::{Candidate, LINEAGE, filled_columns, quoted};

/// `UNNEST($1::int4[], …) AS u (columns, lineage)`: the values that [`bind`] binds, as rows.
pub(crate) fn unnest(domain: &Domain, more: &str) -> String {
    let types = domain.columns.iter().map(|column| format!("{}[]", column.cast.sql_type()));
    let types = types.chain(domain.kept_columns().map(|_| "text[]::jsonb[]".to_owned()));
    let types = types.chain(["int8[]", "int4[]", "int8[]", "int8[]"].map(str::to_owned));
    let arrays: Vec<String> = types.enumerate().map(|(at, array_type)| format!("${}::{array_type}", at + 1)).collect();
    let columns = quoted(filled_columns(domain), "");
    let ordinality = if more.is_empty() { "" } else { " WITH ORDINALITY" };
    format!("UNNEST({}){ordinality} AS u ({columns}, {}{more})", arrays.join(", "), LINEAGE.join(", "))
}

/// Binds rows: an array for each column and each kept column, then `src_object`, `src_gen`, `src_row` and `src_ord`.
pub(crate) fn bind<'q>(
    domain: &Domain,
    mut query: Query<'q, Postgres, PgArguments>,
    rows: &[Candidate<'_>],
) -> Query<'q, Postgres, PgArguments> {
    for column in 0..filled_columns(domain).count() {
        query = bind_column(query, column, rows);
    }
    query
        .bind(rows.iter().map(|row| row.provenance().object).bind_iter())
        .bind(rows.iter().map(|row| row.provenance().generation).bind_iter())
        .bind(rows.iter().map(|row| row.provenance().row).bind_iter())
        .bind(rows.iter().map(|row| row.provenance().src_ord).bind_iter())
}

/// Binds one column as an array.
pub(super) fn bind_column<'q>(
    query: Query<'q, Postgres, PgArguments>,
    column: usize,
    rows: &[Candidate<'_>],
) -> Query<'q, Postgres, PgArguments> {
    // All rows of a statement belong to one batch.
    let Some(columns) = rows.first().map(Candidate::columns) else { return query };
    bind_values(query, columns, column, rows.iter().map(Candidate::place))
}

fn bind_values<'q>(
    query: Query<'q, Postgres, PgArguments>,
    columns: &Columns,
    column: usize,
    rows: impl Iterator<Item = usize>,
) -> Query<'q, Postgres, PgArguments> {
    let (values, text) = columns.values(column);
    match values {
        Values::Int(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::BigInt(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Double(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Bool(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Date(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Timestamp(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Numeric(cells) => query.bind(rows.map(|row| cells[row]).bind_iter()),
        Values::Text(cells) => query.bind(rows.map(|row| cells[row].map(|span| text.get(span))).bind_iter()),
    }
}
