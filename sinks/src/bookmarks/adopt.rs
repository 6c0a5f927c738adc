//! The way out of a halt: accept the topic as it is now.
//!
//! After a topic was recreated, or Kafka was lost, the bookmarks belong to a log that no longer exists. Adopting moves
//! them to the start of the new log and publishes every object again that was not fully applied. Rows that were
//! received before are duplicates and count once, because the received sequence numbers are kept. If the topic is still
//! the same log (retention was too fast, or the log lost its end), bookmarks within it stay. An unexpected first record
//! of a partition is recorded as accepted and no longer halts it.

use std::collections::BTreeMap;

use freshet_topics::log::{Ends, PartitionLog};
use freshet_topics::stream::{self, Beginning};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::ledger;
use crate::transactions::{self, Limits};

/// The topic to adopt, with its present log.
#[derive(Debug, Clone)]
pub struct Adopting<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// Its stream id from now on.
    pub stream_id: Uuid,
    /// Whether it is the log that the bookmarks were made on.
    pub is_known_log: bool,
    /// Its partitions.
    pub partitions: &'a BTreeMap<i32, PartitionLog>,
}

/// The result of adopting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Bookmarks that were moved, and where to.
    pub moved: Vec<(i32, i64)>,
    /// Bookmarks that stay where they are.
    pub kept: usize,
    /// Objects that are published again from their first row.
    pub objects: usize,
}

/// Where a bookmark is after the log is adopted.
///
/// | the log | bookmark | goes to |
/// |---|---|---|
/// | another | – | the log's start |
/// | the known one | none | the log's start |
/// | the known one | before the log's start: retention was faster | the log's start |
/// | the known one | within the log | stays |
/// | the known one | beyond the log's end: the log lost what was applied | the log's end |
///
/// Rows skipped by moving a bookmark to the end belong to objects that are not fully applied; all of those are
/// published again.
pub fn adopted_bookmark(is_known_log: bool, bookmark: Option<i64>, ends: Ends) -> i64 {
    match bookmark.filter(|_| is_known_log) {
        Some(bookmark) => bookmark.clamp(ends.low, ends.high),
        None => ends.low,
    }
}

/// Adopts a topic in one transaction, `adopt`. It raises epochs and leases, so every process that works on the domain
/// drops its work and starts over. Running it twice sends objects again; their rows are duplicates.
///
/// # Errors
/// If Postgres does not answer.
pub async fn adopt(pool: &PgPool, domain: &str, adopting: &Adopting<'_>) -> Result<Adopted, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "adopt", Limits::SHORT).await?;
    // Bookmarks before streams: every transaction locks them in this order.
    let (moved, kept) = move_bookmarks(&mut transaction, domain, adopting).await?;
    sqlx::query(
        "INSERT INTO pipeline.streams AS s (domain, topic, stream_id) VALUES ($1, $2, $3)
         ON CONFLICT (domain) DO UPDATE SET topic = excluded.topic, stream_id = excluded.stream_id, epoch = s.epoch + 1",
    )
    .bind(domain)
    .bind(adopting.topic)
    .bind(adopting.stream_id)
    .execute(&mut *transaction)
    .await?;
    // Replays of the old log write nothing any more.
    for table in ["pipeline.replay_bookmarks", "shadow.bookmarks"] {
        let sql = format!("UPDATE {table} SET owner_epoch = owner_epoch + 1 WHERE domain = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(domain).execute(&mut *transaction).await?;
    }
    if !adopting.is_known_log {
        // Malformed messages are identified by their offsets, which start again at 0.
        sqlx::query("DELETE FROM pipeline.progress WHERE domain = $1 AND object = 0")
            .bind(domain)
            .execute(&mut *transaction)
            .await?;
    }
    let objects = ledger::adopt(&mut transaction, domain).await?;
    transaction.commit().await?;
    Ok(Adopted { moved, kept, objects })
}

/// Moves the bookmarks by [`adopted_bookmark`], and records the first records of partitions that need acceptance.
async fn move_bookmarks(
    connection: &mut PgConnection,
    domain: &str,
    adopting: &Adopting<'_>,
) -> Result<(Vec<(i32, i64)>, usize), sqlx::Error> {
    let found: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT partition, next_offset FROM pipeline.bookmarks WHERE domain = $1 ORDER BY partition FOR UPDATE",
    )
    .bind(domain)
    .fetch_all(&mut *connection)
    .await?;
    let found: BTreeMap<i32, i64> = found.into_iter().collect();
    let (mut partitions, mut offsets, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, log) in adopting.partitions {
        let bookmark = found.get(partition).copied();
        partitions.push(*partition);
        offsets.push(adopted_bookmark(adopting.is_known_log, bookmark, log.ends));
        let is_unfit = stream::judge_beginning(log.first, adopting.stream_id, None) == Beginning::Unfit;
        accepted.push(log.first.accepted_as().filter(|_| is_unfit));
    }
    sqlx::query(
        "INSERT INTO pipeline.bookmarks AS b
            (domain, partition, next_offset, stream_id, owner_epoch, accepted_beginning)
         SELECT $1, u.partition, u.next_offset, $2, 1, u.accepted
         FROM UNNEST($3::int4[], $4::int8[], $5::text[]) AS u (partition, next_offset, accepted) ORDER BY u.partition
         ON CONFLICT (domain, partition) DO UPDATE SET next_offset = excluded.next_offset,
             stream_id = excluded.stream_id, owner_epoch = b.owner_epoch + 1, halted = NULL,
             accepted_beginning = excluded.accepted_beginning, updated_at = now()",
    )
    .bind(domain)
    .bind(adopting.stream_id)
    .bind(&partitions)
    .bind(&offsets)
    .bind(&accepted)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM pipeline.bookmarks WHERE domain = $1 AND partition <> ALL ($2)")
        .bind(domain)
        .bind(&partitions)
        .execute(&mut *connection)
        .await?;
    let count = partitions.len();
    let all = partitions.into_iter().zip(offsets);
    let moved: Vec<(i32, i64)> = all.filter(|(partition, offset)| found.get(partition) != Some(offset)).collect();
    let kept = count - moved.len();
    Ok((moved, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_stays_only_within_the_log_that_it_belongs_to() {
        let ends = Ends { low: 5, high: 9 };
        let cases = [
            (false, Some(7), 5),
            (false, None, 5),
            (true, None, 5),
            (true, Some(0), 5),
            (true, Some(5), 5),
            (true, Some(7), 7),
            (true, Some(9), 9),
            (true, Some(12), 9),
        ];
        for (is_known_log, bookmark, expected) in cases {
            assert_eq!(adopted_bookmark(is_known_log, bookmark, ends), expected, "{is_known_log} {bookmark:?}");
        }
    }
}
