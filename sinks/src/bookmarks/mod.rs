//! The bookmark: how far each partition is applied. It is in Postgres and moves in the same transaction as the rows.
//!
//! An assignment *takes* the bookmarks of its partitions and raises their epoch; a transaction *advances* them only if
//! they are still where this owner left them. So a former owner of a partition finds that its epoch is gone and can
//! write nothing, however late its transaction arrives.

pub mod adopt;
pub mod set;
pub mod streams;

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool, Row};
use uuid::Uuid;

use crate::destination::Destination;
use crate::postgres::is_lock_timeout;
use crate::transactions::{self, Limits};

/// A partition's bookmark.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Bookmark {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to apply.
    pub next_offset: i64,
    /// Why the partition is halted; `None` while it runs.
    pub halted: Option<String>,
    /// How an operator accepted its record 0 ([`freshet_topics::stream::FirstRecord::accepted_as`]).
    pub accepted_beginning: Option<String>,
}

/// The bookmarks of a domain in the order of their partitions: those made on `stream`, or all if it is `None`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn read(
    executor: impl PgExecutor<'_>,
    domain: &str,
    stream: Option<Uuid>,
) -> Result<Vec<Bookmark>, sqlx::Error> {
    sqlx::query_as(
        "SELECT partition, next_offset, halted, accepted_beginning FROM pipeline.bookmarks
         WHERE domain = $1 AND ($2::uuid IS NULL OR stream_id = $2) ORDER BY partition",
    )
    .bind(domain)
    .bind(stream)
    .fetch_all(executor)
    .await
}

/// The same, as partition → the offset of the next record to apply.
///
/// # Errors
/// If Postgres does not answer.
pub async fn offsets(
    executor: impl PgExecutor<'_>,
    domain: &str,
    stream: Option<Uuid>,
) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
    let bookmarks = read(executor, domain, stream).await?;
    Ok(bookmarks.into_iter().map(|bookmark| (bookmark.partition, bookmark.next_offset)).collect())
}

/// A partition's bookmark as an assignment took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to apply.
    pub next_offset: i64,
    /// This owner's epoch.
    pub epoch: i64,
    /// The stream that the bookmark was made on.
    pub stream_id: Uuid,
}

/// How one batch moves the bookmark of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookmarkMove {
    /// The partition.
    pub partition: i32,
    /// Where the bookmark must be.
    pub expected: i64,
    /// Where it moves to.
    pub next: i64,
    /// The epoch of the moving owner.
    pub epoch: i64,
}

/// Whether a batch may apply to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveDecision {
    /// It is the next batch.
    Go,
    /// It was applied before: the connection dropped before COMMIT was confirmed.
    AlreadyApplied,
    /// Another process owns the partition, or the bookmark was set by hand: apply nothing and join the group again.
    Lost,
}

/// Decides whether a batch may apply, from the bookmark read under its lock.
///
/// | bookmark | epoch | decision |
/// |---|---|---|
/// | none | – | lost |
/// | at `expected` | mine | go |
/// | at `next` | mine | already applied |
/// | elsewhere | mine | lost (set by hand) |
/// | anywhere | another's | lost |
pub fn decide_move(found: Option<(i64, i64)>, wanted: BookmarkMove) -> MoveDecision {
    match found {
        Some((at, epoch)) if epoch == wanted.epoch && at == wanted.expected => MoveDecision::Go,
        Some((at, epoch)) if epoch == wanted.epoch && at == wanted.next => MoveDecision::AlreadyApplied,
        _ => MoveDecision::Lost,
    }
}

/// Whether a bookmark is unchanged since its owner last saw it: nobody has taken it, and it has not gone back. `found`
/// is its offset, its epoch, and whether it is halted; `applied` is how far the owner has applied, `None` if it found
/// the partition halted.
///
/// | bookmark | epoch | is as its owner left it |
/// |---|---|---|
/// | none: Postgres went back to before it was made | – | no |
/// | – | another's | no |
/// | at `applied` or later (a batch was just committed) | mine | yes |
/// | before `applied`: Postgres went back | mine | no |
/// | halted, as its owner found it | mine | yes |
/// | not halted any more: Postgres went back, and epochs come again | mine | no |
pub fn is_as_left(found: Option<(i64, i64, bool)>, epoch: i64, applied: Option<i64>) -> bool {
    found.is_some_and(|(at, found_epoch, is_halted)| {
        found_epoch == epoch && applied.map_or(is_halted, |applied| at >= applied)
    })
}

/// A new owner waits this long for a former owner's transaction, then logs what blocks it and tries again.
const TAKE_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts before an assignment fails and is repeated. Long before that, the server ends the transaction of an owner that
/// is frozen or gone ([`Limits::SHORT`]).
const TAKE_TRIES_MAX: u32 = 10;

/// Takes the bookmarks of partitions at a destination for a new owner. `starts` has (partition, offset): the log's
/// start, where a partition without a bookmark begins. If two take the same partition at once, the row lock orders
/// them; the later one owns it.
///
/// # Errors
/// If Postgres does not answer, or another session holds a bookmark and does not release it.
pub async fn take(
    pool: &PgPool,
    destination: Destination,
    domain: &str,
    stream_id: Uuid,
    owner: &str,
    starts: &[(i32, i64)],
) -> Result<Vec<Assigned>, sqlx::Error> {
    let mut tries = 1;
    loop {
        match take_once(pool, destination, domain, stream_id, owner, starts).await {
            Err(error) if is_lock_timeout(&error) && tries < TAKE_TRIES_MAX => {
                let holders = holders(pool, destination, domain).await?.join("; ");
                tracing::warn!(domain, holders, "waiting for bookmarks that another transaction has locked");
                for backend in end_frozen_copies(pool, destination, domain).await? {
                    tracing::warn!(domain, backend, "ended a session whose client went silent in the middle of a COPY");
                }
                tries += 1;
            }
            taken => return taken,
        }
    }
}

/// The sessions that hold bookmarks of a domain at this moment, found by `xmax`, the transaction that has locked the
/// row.
async fn holders(pool: &PgPool, destination: Destination, domain: &str) -> Result<Vec<String>, sqlx::Error> {
    let sql = format!(
        "SELECT format('partitions %s: backend %s of %s, %s for %s s', string_agg(b.partition::text, ', '), a.pid,
            coalesce(a.client_addr::text || ':' || a.client_port, 'this machine'), a.state,
            round(extract(epoch FROM clock_timestamp() - a.state_change)))
         FROM {} AS b JOIN pg_stat_activity AS a ON a.backend_xid = b.xmax
         WHERE b.domain = $1
         GROUP BY a.pid, a.client_addr, a.client_port, a.state, a.state_change ORDER BY a.pid",
        destination.bookmarks()
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(domain).fetch_all(pool).await
}

/// Ends the sessions that hold bookmarks of a domain while their COPY waits for a client that has been silent for
/// longer than [`Limits::SHORT`] allows. Postgres' own timeout applies only to clients that are silent between two
/// statements, not within one. Nothing is lost: the transactions are rolled back, and the new owner of the partition
/// repeats the work. Returns the backends.
async fn end_frozen_copies(pool: &PgPool, destination: Destination, domain: &str) -> Result<Vec<i32>, sqlx::Error> {
    let sql = format!(
        "SELECT pid FROM (
            SELECT DISTINCT a.pid FROM {} AS b JOIN pg_stat_activity AS a ON a.backend_xid = b.xmax
            WHERE b.domain = $1 AND a.usename = current_user AND a.application_name = 'freshet'
                AND a.state = 'active' AND a.wait_event = 'ClientRead' AND a.query LIKE 'COPY %'
                AND a.state_change < clock_timestamp() - make_interval(secs => $2)
         ) AS frozen WHERE pg_terminate_backend(pid)",
        destination.bookmarks()
    );
    let silent_s = Limits::SHORT.idle.unwrap_or_default().as_secs_f64();
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(domain).bind(silent_s).fetch_all(pool).await
}

async fn take_once(
    pool: &PgPool,
    destination: Destination,
    domain: &str,
    stream_id: Uuid,
    owner: &str,
    starts: &[(i32, i64)],
) -> Result<Vec<Assigned>, sqlx::Error> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = starts.iter().copied().unzip();
    let sql = format!(
        "INSERT INTO {} AS b (domain, partition, next_offset, stream_id, owner_epoch, owner)
         SELECT $1, u.partition, u.next_offset, $2, 1, $3
         FROM UNNEST($4::int4[], $5::int8[]) AS u (partition, next_offset) ORDER BY u.partition
         ON CONFLICT (domain, partition) DO UPDATE SET owner_epoch = b.owner_epoch + 1, owner = excluded.owner
         RETURNING partition, next_offset, owner_epoch, stream_id",
        destination.bookmarks()
    );
    let mut transaction =
        transactions::begin(pool, "take_bookmarks", Limits::SHORT.waiting_at_most(TAKE_LOCK_TIMEOUT)).await?;
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(domain)
        .bind(stream_id)
        .bind(owner)
        .bind(partitions)
        .bind(offsets)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    rows.iter()
        .map(|row| {
            Ok(Assigned {
                partition: row.try_get(0)?,
                next_offset: row.try_get(1)?,
                epoch: row.try_get(2)?,
                stream_id: row.try_get(3)?,
            })
        })
        .collect()
}

/// Records why a partition is halted, or with `None` that it is not. Only the owner of `epoch` may do this.
///
/// # Errors
/// If Postgres does not answer.
pub async fn set_halted(
    pool: &PgPool,
    domain: &str,
    partition: i32,
    epoch: i64,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE pipeline.bookmarks SET halted = $4, updated_at = now()
         WHERE domain = $1 AND partition = $2 AND owner_epoch = $3 AND halted IS DISTINCT FROM $4",
    )
    .bind(domain)
    .bind(partition)
    .bind(epoch)
    .bind(reason)
    .execute(pool)
    .await?;
    Ok(())
}

/// The first step of the transaction `apply`: locks the bookmarks in partition order, so that two batches cannot
/// deadlock, decides about each with [`decide_move`] and moves those that may move.
pub(crate) async fn move_all(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    moves: &[BookmarkMove],
) -> Result<Vec<MoveDecision>, sqlx::Error> {
    let partitions: Vec<i32> = moves.iter().map(|one| one.partition).collect();
    let bookmarks = destination.bookmarks();
    let found = sqlx::query_as::<_, (i32, i64, i64)>(AssertSqlSafe(format!(
        "SELECT partition, next_offset, owner_epoch FROM {bookmarks}
         WHERE domain = $1 AND partition = ANY($2) ORDER BY partition FOR UPDATE"
    )))
    .bind(domain)
    .bind(partitions)
    .fetch_all(&mut *connection)
    .await?;
    let decisions: Vec<MoveDecision> = moves
        .iter()
        .map(|one| {
            let bookmark = found.iter().find(|(partition, ..)| *partition == one.partition);
            decide_move(bookmark.map(|(_, at, epoch)| (*at, *epoch)), *one)
        })
        .collect();
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = moves
        .iter()
        .zip(&decisions)
        .filter(|(_, decision)| **decision == MoveDecision::Go)
        .map(|(one, _)| (one.partition, one.next))
        .unzip();
    sqlx::query(AssertSqlSafe(format!(
        "UPDATE {bookmarks} AS b SET next_offset = u.next_offset, halted = NULL, updated_at = now()
         FROM UNNEST($2::int4[], $3::int8[]) AS u (partition, next_offset)
         WHERE b.domain = $1 AND b.partition = u.partition"
    )))
    .bind(domain)
    .bind(partitions)
    .bind(offsets)
    .execute(connection)
    .await?;
    Ok(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_notices_that_its_bookmark_was_taken_or_went_back() {
        let cases = [
            (None, Some(10), false),
            (Some((10, 7, false)), Some(10), true),
            (Some((20, 7, false)), Some(10), true),
            (Some((10, 7, true)), Some(10), true),
            (Some((9, 7, false)), Some(10), false),
            (Some((10, 8, false)), Some(10), false),
            (Some((10, 6, false)), Some(10), false),
            (Some((9, 7, true)), None, true),
            (Some((9, 7, false)), None, false),
            (Some((9, 8, true)), None, false),
        ];
        for (found, applied, expected) in cases {
            assert_eq!(is_as_left(found, 7, applied), expected, "{found:?} {applied:?}");
        }
    }

    #[test]
    fn a_batch_applies_once_and_only_for_its_owner() {
        let wanted = BookmarkMove { partition: 0, expected: 10, next: 20, epoch: 7 };
        let cases = [
            (None, MoveDecision::Lost),
            (Some((10, 7)), MoveDecision::Go),
            (Some((20, 7)), MoveDecision::AlreadyApplied),
            (Some((15, 7)), MoveDecision::Lost),
            (Some((10, 8)), MoveDecision::Lost),
            (Some((20, 8)), MoveDecision::Lost),
            (Some((10, 6)), MoveDecision::Lost),
        ];
        for (found, expected) in cases {
            assert_eq!(decide_move(found, wanted), expected, "{found:?}");
        }
    }
}
