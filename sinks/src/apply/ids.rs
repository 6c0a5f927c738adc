//! The `id`s of a shadow's rows: those that the live table has for their keys, so that a swap keeps them.

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::arrays;
use super::upsert::{Candidate, has_surrogate_id, quoted, same_key};
use crate::destination::Destination;

/// Whether rows get them: in a shadow, unless `id` is a column of the domain's own.
pub(super) fn are_kept(domain: &Domain, destination: Destination) -> bool {
    destination == Destination::Shadow && has_surrogate_id(domain)
}

/// The id of a row `u`, and the join that it needs: that of the live table, or the next one for a key that it does not have.
pub(super) fn of_key(domain: &Domain) -> (String, String) {
    let live = Destination::Live.table(domain);
    let id = format!("coalesce(live.id, nextval(pg_get_serial_sequence('{live}', 'id')))");
    // One index lookup for each row: the limit keeps the planner from reading the whole table instead.
    let looked_up = format!("SELECT l.id FROM {live} AS l WHERE {} LIMIT 1", same_key(domain, "l", "u"));
    (id, format!("LEFT JOIN LATERAL ({looked_up}) AS live ON true"))
}

fn statement(domain: &Domain) -> String {
    let (id, join) = of_key(domain);
    let types = domain.key.iter().map(|name| domain.columns[domain.index_of(name)].cast.sql_type());
    let arrays: Vec<String> = (1..).zip(types).map(|(at, of)| format!("${at}::{of}[]")).collect();
    format!(
        "SELECT array_agg(n.id ORDER BY n.ord)
         FROM (SELECT {id} AS id, u.ord FROM UNNEST({}) WITH ORDINALITY AS u ({}, ord) {join}) AS n",
        arrays.join(", "),
        quoted(domain.key.iter().copied(), ""),
    )
}

/// An id for each of these rows, of which there is at least one, in their order; `None` if there is no next one, because
/// the column has no sequence.
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
    // One array in place of a row for each id: thousands of rows less to send and to read.
    let ids: Vec<Option<i64>> = query.fetch_one(connection).await?.try_get(0)?;
    Ok(ids.into_iter().collect())
}
