//! State of the listings of the raw bucket: which parts could not be listed, since when overwritten versions count, and
//! which listener lists.
//!
//! None of it changes a domain's table: it is for people and for the next listing. Two listeners that list at once
//! waste work but do no harm.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::ledger::milliseconds;
use crate::transactions::{self, Limits};

/// A part of the raw bucket that could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Unlisted {
    /// Domain name.
    pub domain: String,
    /// Keys with this prefix were not listed completely.
    pub prefix: String,
    /// S3's answer.
    pub reason: String,
    /// Since when, by Postgres' clock.
    pub since: DateTime<Utc>,
}

/// Records what the last listing of a domain could not list (prefix and reason), replacing the earlier record.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replace_unlisted(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    found: &[(&str, &str)],
) -> Result<(), sqlx::Error> {
    let (prefixes, reasons): (Vec<&str>, Vec<&str>) = found.iter().copied().unzip();
    let mut transaction = transactions::begin(pool, "unlisted", Limits::SHORT).await?;
    sqlx::query("DELETE FROM pipeline.unlisted WHERE domain = $2 AND (bucket <> $1 OR NOT (prefix = ANY ($3)))")
        .bind(bucket)
        .bind(domain)
        .bind(&prefixes)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "INSERT INTO pipeline.unlisted AS u (bucket, domain, prefix, reason)
         SELECT $1, $2, n.prefix, n.reason FROM UNNEST($3::text[], $4::text[]) AS n (prefix, reason) ORDER BY n.prefix
         ON CONFLICT (bucket, domain, prefix) DO UPDATE SET reason = excluded.reason",
    )
    .bind(bucket)
    .bind(domain)
    .bind(prefixes)
    .bind(reasons)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// What could not be listed, in all domains.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unlisted(connection: &mut PgConnection) -> Result<Vec<Unlisted>, sqlx::Error> {
    sqlx::query_as("SELECT domain, prefix, reason, since FROM pipeline.unlisted ORDER BY domain, prefix")
        .fetch_all(connection)
        .await
}

/// Since when overwritten versions are registered too; `None` before the first listing by versions.
///
/// # Errors
/// If Postgres does not answer.
pub async fn versions_from(pool: &PgPool, bucket: &str, domain: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let found = sqlx::query_scalar("SELECT versions_from FROM pipeline.listings WHERE bucket = $1 AND domain = $2")
        .bind(bucket)
        .bind(domain)
        .fetch_optional(pool)
        .await?;
    Ok(found.flatten())
}

/// Sets since when they count, unless it is already set; returns the value in force.
///
/// # Errors
/// If Postgres does not answer.
pub async fn begin_versions(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    from: DateTime<Utc>,
) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO pipeline.listings AS l (bucket, domain, versions_from) VALUES ($1, $2, $3)
         ON CONFLICT (bucket, domain) DO UPDATE SET versions_from = coalesce(l.versions_from, excluded.versions_from)
         RETURNING versions_from",
    )
    .bind(bucket)
    .bind(domain)
    .bind(from)
    .fetch_one(pool)
    .await
}

/// Takes or renews the lease on listing a domain; `false` while another listener has it. The same listener keeps the
/// lease, because its memory of earlier listings is of no use to others.
///
/// # Errors
/// If Postgres does not answer.
pub async fn hold(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    listener: &str,
    hold: Duration,
) -> Result<bool, sqlx::Error> {
    let held: Option<bool> = sqlx::query_scalar(
        "INSERT INTO pipeline.listings AS l (bucket, domain, lister, held_from, held_until)
         SELECT $1, $2, $3, t.now, t.now + $4 * interval '1 millisecond' FROM (SELECT clock_timestamp() AS now) AS t
         ON CONFLICT (bucket, domain) DO UPDATE
            SET lister = excluded.lister, held_from = excluded.held_from, held_until = excluded.held_until
            WHERE l.lister IS NULL OR l.lister = excluded.lister
                OR clock_timestamp() NOT BETWEEN l.held_from AND l.held_until
         RETURNING true",
    )
    .bind(bucket)
    .bind(domain)
    .bind(listener)
    .bind(milliseconds(hold))
    .fetch_optional(pool)
    .await?;
    Ok(held.is_some())
}

/// Releases the leases on all domains that this listener lists, so that another one can list them immediately.
///
/// # Errors
/// If Postgres does not answer. Then others wait until the leases expire.
pub async fn release(pool: &PgPool, listener: &str) -> Result<(), sqlx::Error> {
    let release = "UPDATE pipeline.listings SET lister = NULL, held_from = NULL, held_until = NULL WHERE lister = $1";
    sqlx::query(release).bind(listener).execute(pool).await?;
    Ok(())
}
