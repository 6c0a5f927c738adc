//! Restarts objects at their first row on request: sent again, sent as new, adopted.
//!
//! A published object goes back to `discovered`. A listener reads the same version and sends the same rows under the
//! same numbers: rows that were received are duplicates, missing ones are added, and a replay finds all of them in the
//! topic. A file sent *as new* gets a position above everything in its domain, and a new generation: its rows win over
//! the rows of all other files.
//!
//! Two requests at once, or one beside a listener, do everything once: an object in progress is not touched.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::object::{COLUMNS, NEWEST_OF_ITS_KEY_SQL, Object};
use super::reason::Reason;
use super::register::lock_domain;
use super::state::{ObjectState, UNFINISHED_SQL};
use super::transition::Event;
use super::write::{BATCH, change_all};
use crate::transactions::{self, Limits};

/// The files to send again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These keys.
    pub keys: Vec<String>,
    /// Also keys that begin with this.
    pub prefix: Option<String>,
    /// Only versions last modified at or after this time. Without keys and a prefix, all such versions.
    pub since: Option<DateTime<Utc>>,
    /// Only the newest version of each key, to be sent as new.
    pub as_new: bool,
    /// Only of these domains; of all if empty. Nobody would claim a file of a domain that no pipeline has any more.
    pub domains: Vec<&'static str>,
}

/// The selected objects of `bucket`, in the order of their domains.
///
/// # Errors
/// If Postgres does not answer.
pub async fn select(pool: &PgPool, bucket: &str, selection: &Selection) -> Result<Vec<Object>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o
         WHERE o.bucket = $1
            AND (o.key = ANY ($2) OR starts_with(o.key, $3) OR ($3 IS NULL AND cardinality($2::text[]) = 0))
            AND ($4::timestamptz IS NULL OR o.last_modified >= $4)
            AND (NOT $5 OR {NEWEST_OF_ITS_KEY_SQL})
            AND (cardinality($6::text[]) = 0 OR o.domain = ANY ($6))
         ORDER BY o.domain, o.src_ord"
    )))
    .bind(bucket)
    .bind(&selection.keys)
    .bind(&selection.prefix)
    .bind(selection.since)
    .bind(selection.as_new)
    .bind(&selection.domains)
    .fetch_all(pool)
    .await
}

/// Whether a version may be sent again.
///
/// | state | again | as new |
/// |---|---|---|
/// | applied, rejected | yes | yes |
/// | superseded, with the content that the version before had | no: none of its rows is missing | yes: this is how to
/// insist |
/// | superseded otherwise | no: S3 does not have it | no |
/// | any other: in progress | no | no |
pub fn is_sendable(object: &Object, as_new: bool) -> bool {
    match object.state {
        ObjectState::Applied | ObjectState::Rejected => true,
        ObjectState::Superseded => as_new && object.reason().and_then(Reason::same_content_as).is_some(),
        _ => false,
    }
}

/// Sets objects back so that they are published again from their first row. Returns how many; objects that are in
/// progress by now are not touched.
///
/// # Errors
/// If Postgres does not answer.
pub async fn send_again(pool: &PgPool, objects: &[Object]) -> Result<usize, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    Ok(change_all(&mut connection, objects, |_| Event::SendAgain).await?.len())
}

/// The transaction `send_as_new`: gives versions places above all others of their domains, in the order of `candidates`,
/// and sets them back to be published in a new generation. Returns how many; a version that is in progress, or whose key
/// has a newer version in the domain, is not touched. `candidates` are in the order of their domains, as [`select`]
/// returns them.
///
/// All are placed or none. If only the first were, they would be applied by the time the command is given again, and it
/// would place them above the others: the order would be reversed.
///
/// No clock is needed: a file that is dropped later has this second or a later one by S3's clock, and ranks above it. Nor
/// are the keys locked: whoever registers a version takes the lock on the domain too, and places it above what its key has
/// by then.
///
/// # Errors
/// If Postgres does not answer. Nothing has changed then, unless it does not answer for long after a COMMIT either.
pub async fn send_as_new(pool: &PgPool, candidates: &[Object]) -> Result<usize, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "send_as_new", Limits::SHORT).await?;
    let by_domain = || candidates.chunk_by(|one, other| one.domain == other.domain);
    // All of them before any object: whoever registers locks its domain first, and then objects, of other domains too.
    for of_domain in by_domain() {
        lock_domain(&mut transaction, &of_domain[0].domain).await?;
    }
    let (mut sent, mut last) = (0, None);
    for of_domain in by_domain() {
        let (placed, last_placed) = place_on_top(&mut transaction, of_domain).await?;
        sent += placed;
        last = last_placed.or(last);
    }
    let Err(error) = transaction.commit().await else { return Ok(sent) };
    let Some(last) = last else { return Err(error) };
    match transactions::is_committed(|| is_placed(pool, last)).await {
        Some(true) => Ok(sent),
        _ => Err(error),
    }
}

/// Places versions of one domain, whose order the caller has locked. Returns how many, and the id and place of the last.
async fn place_on_top(
    connection: &mut PgConnection,
    candidates: &[Object],
) -> Result<(usize, Option<(i64, i64)>), sqlx::Error> {
    lock_in_order(connection, candidates).await?;
    let mut highest: i64 =
        sqlx::query_scalar("SELECT coalesce(max(src_ord), 0) FROM pipeline.objects WHERE domain = $1")
            .bind(&candidates[0].domain)
            .fetch_one(&mut *connection)
            .await?;
    let (mut sent, mut last) = (0, None);
    for candidates in candidates.chunks(BATCH) {
        let mut objects = newest_of_their_keys(connection, candidates).await?;
        objects.retain(|object| is_sendable(object, true));
        let next = |object: &Object| {
            highest += 1;
            last = Some((object.id, highest));
            Event::SendAsNew { src_ord: highest }
        };
        sent += change_all(connection, &objects, next).await?.len();
    }
    Ok((sent, last))
}

/// Locks all of them in the order of their ids, as every write of several objects does: they are written in the order of
/// their places, and two such transactions would wait for each other.
async fn lock_in_order(connection: &mut PgConnection, objects: &[Object]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT count(*) FROM (
            SELECT o.id FROM pipeline.objects o WHERE o.id = ANY ($1) ORDER BY o.id FOR UPDATE
         ) AS locked",
    )
    .bind(objects.iter().map(|object| object.id).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Those that are the newest versions of their keys in their domain, as they are now, in the order given.
async fn newest_of_their_keys(
    connection: &mut PgConnection,
    candidates: &[Object],
) -> Result<Vec<Object>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM UNNEST($1::bigint[], $2::uuid[]) WITH ORDINALITY AS c (id, nonce, place)
         JOIN pipeline.objects o ON o.id = c.id AND o.nonce = c.nonce
         WHERE {NEWEST_OF_ITS_KEY_SQL}
         ORDER BY c.place"
    )))
    .bind(candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>())
    .bind(candidates.iter().map(|candidate| candidate.nonce).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Whether an object has this place. While the transaction that gives it is under way, this waits.
async fn is_placed(pool: &PgPool, (id, src_ord): (i64, i64)) -> Result<bool, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar("SELECT src_ord FROM pipeline.objects WHERE id = $1 FOR SHARE")
        .bind(id)
        .fetch_optional(pool)
        .await?;
    Ok(found == Some(src_ord))
}

/// Sets every object of a domain that is not final back to its first row, as part of adopting its topic. Returns how
/// many.
///
/// # Errors
/// If Postgres does not answer.
pub async fn adopt(connection: &mut PgConnection, domain: &str) -> Result<usize, sqlx::Error> {
    let objects: Vec<Object> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o WHERE o.domain = $1 AND o.state IN {UNFINISHED_SQL}
         ORDER BY o.id FOR UPDATE"
    )))
    .bind(domain)
    .fetch_all(&mut *connection)
    .await?;
    Ok(change_all(connection, &objects, |_| Event::Adopt).await?.len())
}

#[cfg(test)]
mod tests {
    use sqlx::types::Json;

    use super::super::lost::Lost;
    use super::*;

    #[test]
    fn what_is_on_its_way_or_lost_is_not_sent_again() {
        let copy = Some(Json(Reason::SameContent { object: 3 }));
        let gone = Some(Json(Reason::Gone { detail: "gone".into(), lost: Lost::Nothing }));
        let cases = [
            (ObjectState::Applied, None, true, true),
            (ObjectState::Rejected, None, true, true),
            (ObjectState::Superseded, copy, false, true),
            (ObjectState::Superseded, gone, false, false),
            (ObjectState::Discovered, None, false, false),
            (ObjectState::Publishing, None, false, false),
            (ObjectState::Published, None, false, false),
        ];
        for (state, cause, again, as_new) in cases {
            let object = Object { state, cause, ..Object::example() };
            assert_eq!(is_sendable(&object, false), again, "{state}");
            assert_eq!(is_sendable(&object, true), as_new, "{state} as new");
        }
    }
}
