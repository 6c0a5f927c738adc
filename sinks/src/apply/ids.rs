//! The `id`s of a shadow's rows: those that the live table has for their keys, so that a swap keeps them.

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection};

use super::arrays;
use super::upsert::{Candidate, quoted, same_key};
use crate::destination::Destination;

/// The next id, for a key that the live table does not have.
pub(super) fn next(live: &str) -> String {
    format!("nextval(pg_get_serial_sequence('{live}', 'id'))")
}

/// The id that the live table has for the key of `u`; NULL if it has none. One index lookup: the limit keeps the planner
/// from reading the whole table instead.
pub(super) fn looked_up(domain: &Domain, live: &str) -> String {
    format!("(SELECT l.id FROM {live} AS l WHERE {} LIMIT 1)", same_key(domain, "l", "u"))
}

fn statement(domain: &Domain) -> String {
    let live = Destination::Live.table(domain);
    let types = domain.key.iter().map(|name| domain.columns[domain.index_of(name)].cast.sql_type());
    let arrays: Vec<String> = (1..).zip(types).map(|(at, of)| format!("${at}::{of}[]")).collect();
    format!(
        "SELECT coalesce(live.id, {}) FROM UNNEST({}) WITH ORDINALITY AS u ({}, ord)
         LEFT JOIN LATERAL {} AS live ON true ORDER BY u.ord",
        next(&live),
        arrays.join(", "),
        quoted(domain.key.iter().copied(), ""),
        looked_up(domain, &live),
    )
}

/// An id for each of these rows, in their order; `None` if there is no next one, because the column has no sequence.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn of_live(
    connection: &mut PgConnection,
    domain: &Domain,
    rows: &[Candidate<'_>],
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let sql = statement(domain);
    let key = domain.key.iter().map(|name| domain.index_of(name));
    let query = key.fold(sqlx::query(AssertSqlSafe(sql)), |query, column| arrays::bind_column(query, column, rows));
    let found = query.fetch_all(connection).await?;
    found.iter().map(|row| sqlx::Row::try_get(row, 0)).collect()
}
