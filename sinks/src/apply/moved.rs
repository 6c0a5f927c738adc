//! Rows that leave a date: an update that changes the date of a fact, or takes it out of the observed ones, must also
//! mark the date that the row had. `RETURNING` gives only the new row (the old one since PostgreSQL 18), so the old dates
//! are read before the update.
//!
//! Only a table whose key does not contain the columns in question has such rows. There the batches of all writers follow
//! each other, because a row that another transaction is about to move would be read at its former date.

use chrono::NaiveDate;
use freshet_topics::{Domain, EventTime};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::arrays::{self, unnest};
use super::upsert::{Candidate, Upsert, quoted, same_key};
use crate::destination::Destination;

/// The event time of a table whose rows may leave their date. A shadow is marked as a whole when it is swapped.
fn event_time(upsert: &Upsert) -> Option<&'static EventTime> {
    let domain = upsert.domain();
    let may_move = |it: &&EventTime| it.columns().any(|column| !domain.key.contains(&column));
    domain.event_time.as_ref().filter(may_move).filter(|_| upsert.destination() != Destination::Shadow)
}

/// Waits until no other transaction moves rows of such a table; the lock lasts until the end of this one.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn lock(connection: &mut PgConnection, upsert: &Upsert) -> Result<(), sqlx::Error> {
    if event_time(upsert).is_none() {
        return Ok(());
    }
    let sql = "SELECT pg_advisory_xact_lock(hashtextextended('freshet rows that move in ' || $1, 4))";
    sqlx::query(sql).bind(upsert.domain().name).execute(connection).await.map(drop)
}

/// The dates that rows of the table will leave when these rows, one for each key, are written. The lock is held.
///
/// # Errors
/// As for the statement that writes the rows.
pub(super) async fn dates_left(
    connection: &mut PgConnection,
    upsert: &Upsert,
    rows: &[Candidate<'_>],
) -> Result<Vec<NaiveDate>, sqlx::Error> {
    let (Some(event_time), false) = (event_time(upsert), rows.is_empty()) else { return Ok(Vec::new()) };
    let sql = statement(upsert.domain(), event_time);
    let query = arrays::bind(upsert.domain(), sqlx::query(AssertSqlSafe(sql)), rows);
    let left = query.fetch_all(connection).await?;
    left.iter().map(|row| row.try_get(0)).collect()
}

fn statement(domain: &Domain, event_time: &EventTime) -> String {
    // One index lookup for each row: the limit keeps the planner from reading the whole table instead.
    format!(
        "SELECT DISTINCT t.\"{date}\" FROM {rows}
         JOIN LATERAL (SELECT * FROM {table} AS l WHERE {same_key} LIMIT 1) AS t ON true
         WHERE {observed} AND ROW({old}) IS DISTINCT FROM ROW({new})
            AND (u.src_ord, u.src_gen, u.src_row) >= (t.src_ord, t.src_gen, t.src_row)",
        date = event_time.date,
        rows = unnest(domain, ""),
        table = Destination::Live.table(domain),
        same_key = same_key(domain, "l", "u"),
        observed = event_time.observed_sql("t."),
        old = quoted(event_time.columns(), "t."),
        new = quoted(event_time.columns(), "u."),
    )
}
