//! Sets bookmarks by hand, safely while roles run.
//!
//! Owners find the epoch raised, drop their work and continue from the new bookmark. If it moves back, rows are read
//! again and recognized as duplicates by their sequence numbers. If it moves forward, rows are skipped; the sweep finds
//! the files with missing rows and publishes them again. So nothing is lost or counted twice either way.

use crate::transactions::{self, Limits};
use sqlx::PgPool;

/// A bookmark before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// The partition.
    pub partition: i32,
    /// The next offset before.
    pub before: i64,
    /// The next offset now.
    pub after: i64,
}

/// Sets bookmarks of a domain in one transaction. A partition without a bookmark is left out. If a bookmark moves back,
/// the stream's epoch is raised, because the published outputs were made at later bookmarks.
///
/// # Errors
/// If Postgres does not answer. Nothing has changed then.
pub async fn set(pool: &PgPool, domain: &str, offsets: &[(i32, i64)]) -> Result<Vec<Reset>, sqlx::Error> {
    let (partitions, wanted): (Vec<i32>, Vec<i64>) = offsets.iter().copied().unzip();
    let mut transaction = transactions::begin(pool, "set_bookmark", Limits::SHORT).await?;
    let found: Vec<(i32, i64, i64)> = sqlx::query_as(
        "SELECT b.partition, b.next_offset, u.next_offset FROM pipeline.bookmarks b
         JOIN UNNEST($2::int4[], $3::int8[]) AS u (partition, next_offset) USING (partition)
         WHERE b.domain = $1 ORDER BY b.partition FOR UPDATE OF b",
    )
    .bind(domain)
    .bind(&partitions)
    .bind(&wanted)
    .fetch_all(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE pipeline.bookmarks b SET next_offset = u.next_offset, owner_epoch = b.owner_epoch + 1,
            halted = NULL, updated_at = now()
         FROM UNNEST($2::int4[], $3::int8[]) AS u (partition, next_offset)
         WHERE b.domain = $1 AND b.partition = u.partition",
    )
    .bind(domain)
    .bind(&partitions)
    .bind(&wanted)
    .execute(&mut *transaction)
    .await?;
    if found.iter().any(|(_, before, after)| after < before) {
        sqlx::query("UPDATE pipeline.streams SET epoch = epoch + 1 WHERE domain = $1")
            .bind(domain)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(found.into_iter().map(|(partition, before, after)| Reset { partition, before, after }).collect())
}
