//! The way out of a halt: accept the topic as it is now.
//!
//! After a topic was made again, or Kafka was lost, the bookmarks belong to a log that is gone. Adopting moves
//! them to the start of the new one and sends every object that was not wholly applied on its way again; rows of
//! it that were received before come as duplicates and are counted once, because the received sequence numbers
//! are kept.

use freshet_topics::catalog::TopicState;
use sqlx::{AssertSqlSafe, PgPool};

/// The states of an object that is not through, as SQL lists them.
pub const UNFINISHED: &str = "('discovered', 'publishing', 'published')";

/// What adopting did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Bookmarks that were moved.
    pub partitions: usize,
    /// Objects that are published again from their first row.
    pub objects: u64,
}

/// Adopts a topic in one transaction, `adopt`. `starts` gives (partition, first offset of its log). Epochs and
/// leases are raised, so that whoever works on the domain drops what it holds and begins anew; run twice, it
/// moves the bookmarks to the start again, and what is read again is a duplicate.
///
/// # Errors
/// If Postgres does not answer, or the topic has no stream id.
pub async fn adopt(
    pool: &PgPool,
    domain: &str,
    state: &TopicState,
    starts: &[(i32, i64)],
) -> Result<Adopted, sqlx::Error> {
    let stream_id = state
        .stream_id
        .ok_or_else(|| sqlx::Error::Configuration(format!("topic {} has no stream id to adopt", state.topic).into()))?;
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = starts.iter().copied().unzip();
    let mut transaction = pool.begin().await?;
    sqlx::query(
        "INSERT INTO pipeline.streams AS s (domain, topic, stream_id) VALUES ($1, $2, $3)
         ON CONFLICT (domain) DO UPDATE SET topic = excluded.topic, stream_id = excluded.stream_id, epoch = s.epoch + 1",
    )
    .bind(domain)
    .bind(&state.topic)
    .bind(stream_id)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO pipeline.bookmarks AS b (domain, partition, next_offset, stream_id, owner_epoch)
         SELECT $1, u.partition, u.next_offset, $2, 1
         FROM UNNEST($3::int4[], $4::int8[]) AS u (partition, next_offset) ORDER BY u.partition
         ON CONFLICT (domain, partition) DO UPDATE SET next_offset = excluded.next_offset,
             stream_id = excluded.stream_id, owner_epoch = b.owner_epoch + 1, halted = NULL, updated_at = now()",
    )
    .bind(domain)
    .bind(stream_id)
    .bind(&partitions)
    .bind(offsets)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("DELETE FROM pipeline.bookmarks WHERE domain = $1 AND partition <> ALL ($2)")
        .bind(domain)
        .bind(&partitions)
        .execute(&mut *transaction)
        .await?;
    // Replays of the log that is gone write nothing any more.
    for table in ["pipeline.replay_bookmarks", "shadow.bookmarks"] {
        let sql = format!("UPDATE {table} SET owner_epoch = owner_epoch + 1 WHERE domain = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(domain).execute(&mut *transaction).await?;
    }
    // Malformed messages are told apart by their offsets, which begin anew.
    sqlx::query("DELETE FROM pipeline.progress WHERE domain = $1 AND object = 0")
        .bind(domain)
        .execute(&mut *transaction)
        .await?;
    let objects = sqlx::query(AssertSqlSafe(format!(
        "UPDATE pipeline.objects SET state = 'discovered', lease_owner = NULL, lease_until = NULL,
             lease_epoch = lease_epoch + 1, attempts = 0, next_attempt_at = now(),
             resume_byte = 0, resume_line = 0, resume_row = 0, resume_seqs = NULL, end_offsets = NULL
         WHERE domain = $1 AND state IN {UNFINISHED}"
    )))
    .bind(domain)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    transaction.commit().await?;
    Ok(Adopted { partitions: starts.len(), objects })
}
