//! Objects of the raw bucket that belong to no domain. They are only reported, so that a misspelled prefix is noticed.
//!
//! The table has the result of the last listing of the bucket. Objects that were deleted since, or belong to a domain
//! now, are removed with the next one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::transactions::{self, Limits};

/// The most objects stored, the newest.
pub const KEPT_MAX: usize = 1_000;

/// An object that belongs to no domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Unmatched {
    /// Its key.
    pub key: String,
    /// Size as stored, in bytes.
    pub size_bytes: i64,
    /// S3's last-modified time.
    pub last_modified: DateTime<Utc>,
    /// What to do about it; `None` if no prefix is similar.
    pub hint: Option<String>,
}

/// How many there are, and the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AllUnmatched {
    /// Objects, counted up to [`KEPT_MAX`].
    pub objects: i64,
    /// The newest of them, the newest first.
    pub newest: Vec<Unmatched>,
}

/// Records the result of a listing of the whole bucket, replacing the earlier one.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replace(pool: &PgPool, bucket: &str, found: &[Unmatched]) -> Result<(), sqlx::Error> {
    let mut transaction = transactions::begin(pool, "unmatched", Limits::SHORT).await?;
    // Two listeners at once would wait for each other's rows.
    sqlx::query("LOCK TABLE pipeline.unmatched IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let keys: Vec<&str> = found.iter().map(|object| object.key.as_str()).collect();
    sqlx::query("DELETE FROM pipeline.unmatched WHERE bucket <> $1 OR NOT (key = ANY($2))")
        .bind(bucket)
        .bind(&keys)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "INSERT INTO pipeline.unmatched AS u (bucket, key, size_bytes, last_modified, hint)
         SELECT $1, n.* FROM UNNEST($2::text[], $3::bigint[], $4::timestamptz[], $5::text[]) AS n
         ON CONFLICT (bucket, key) DO UPDATE
            SET size_bytes = excluded.size_bytes, last_modified = excluded.last_modified, hint = excluded.hint
            WHERE (u.size_bytes, u.last_modified, u.hint) IS DISTINCT FROM
                (excluded.size_bytes, excluded.last_modified, excluded.hint)",
    )
    .bind(bucket)
    .bind(&keys)
    .bind(found.iter().map(|object| object.size_bytes).collect::<Vec<_>>())
    .bind(found.iter().map(|object| object.last_modified).collect::<Vec<_>>())
    .bind(found.iter().map(|object| object.hint.as_deref()).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// The result of the last listing; `shown`: how many objects to return.
///
/// # Errors
/// If Postgres does not answer.
pub async fn read(connection: &mut PgConnection, shown: i64) -> Result<AllUnmatched, sqlx::Error> {
    let objects = sqlx::query_scalar("SELECT count(*) FROM pipeline.unmatched").fetch_one(&mut *connection).await?;
    let newest = sqlx::query_as(
        "SELECT key, size_bytes, last_modified, hint FROM pipeline.unmatched ORDER BY last_modified DESC, key LIMIT $1",
    )
    .bind(shown)
    .fetch_all(connection)
    .await?;
    Ok(AllUnmatched { objects, newest })
}
