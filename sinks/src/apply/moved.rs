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
use super::upsert::{Candidate, Upsert, quoted};
use crate::advisory;
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
    sqlx::query(advisory::MOVED).bind(upsert.domain().name).execute(connection).await.map(drop)
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

/// Conditions of which one holds if `l` and `u` have the same key. `IS NOT DISTINCT FROM` uses no index, so there is one for
/// each choice of the columns that are NULL, of those that may be.
fn same_key_by_index(domain: &Domain) -> Vec<String> {
    let mut choices = vec![String::new()];
    for name in domain.key {
        let same = format!("l.\"{name}\" = u.\"{name}\"");
        let mut ways = vec![same];
        if !domain.never_null(&domain.columns[domain.index_of(name)]) {
            ways.push(format!("l.\"{name}\" IS NULL AND u.\"{name}\" IS NULL"));
        }
        let with =
            |choice: &String, way: &String| if choice.is_empty() { way.clone() } else { format!("{choice} AND {way}") };
        choices = choices.iter().flat_map(|choice| ways.iter().map(move |way| with(choice, way))).collect();
    }
    choices
}

fn statement(domain: &Domain, event_time: &EventTime) -> String {
    let table = Destination::Live.table(domain);
    let lookups: Vec<String> = same_key_by_index(domain)
        .iter()
        .map(|same_key| format!("SELECT * FROM {table} AS l WHERE {same_key}"))
        .collect();
    // One index lookup for each row: the limit keeps the planner from reading the whole table instead.
    format!(
        "SELECT DISTINCT t.\"{date}\" FROM {rows}
         JOIN LATERAL ({lookups} LIMIT 1) AS t ON true
         WHERE {observed} AND ROW({old}) IS DISTINCT FROM ROW({new})
            AND (u.src_ord, u.src_gen, u.src_row) >= (t.src_ord, t.src_gen, t.src_row)",
        date = event_time.date,
        rows = unnest(domain, ""),
        lookups = lookups.join(" UNION ALL "),
        observed = event_time.observed_sql("t."),
        old = quoted(event_time.columns(), "t."),
        new = quoted(event_time.columns(), "u."),
    )
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, Column};

    use super::*;

    #[test]
    fn a_key_that_may_be_null_is_looked_up_in_its_index_too() {
        let health = *freshet_topics::domains::by_name("health").expect("a domain");
        const COLUMNS: &[Column] = &[Column::required("place", Cast::Int), Column::optional("visit", Cast::Int)];
        let of = |key: &'static [&'static str]| same_key_by_index(&Domain { columns: COLUMNS, key, ..health });
        assert_eq!(of(&["place"]), ["l.\"place\" = u.\"place\""]);
        assert_eq!(
            of(&["place", "visit"]),
            [
                "l.\"place\" = u.\"place\" AND l.\"visit\" = u.\"visit\"",
                "l.\"place\" = u.\"place\" AND l.\"visit\" IS NULL AND u.\"visit\" IS NULL",
            ]
        );
    }
}
