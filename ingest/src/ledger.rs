//! The object ledger, from a listener's side: claim an object, move its resume point, say how it ended.
//!
//! Any number of listeners share it. A claim raises the object's lease epoch, and every later write carries
//! that epoch, and the object's nonce, because ids and epochs come again where Postgres was restored
//! (`freshet_sinks::lives`): `false` says that another listener has the object now, or that the ledger has forgotten it,
//! and that nothing was written. The lease only saves work; two that publish the same object at once write the same
//! rows under the same numbers.
//!
//! ```text
//! discovered ──claim──► publishing ──publish──► published ──(sweep)──► applied
//!      ▲                    │  └──► rejected, superseded      │
//!      └──release, expiry───┘◄───────────(repair)─────────────┘
//! ```

use std::time::Duration;

use freshet_topics::PARSER_VERSION;
use sqlx::PgPool;
use uuid::Uuid;

use crate::claim::{ATTEMPTS_HOLDING_BACK, Claim, Content, Progress, same_content_reason};

/// Reasons are for people; the details of a long list are in the tables.
const REASON_CHARS_MAX: usize = 2_000;

/// Claims the next object: the first of `domains` (with the partition count each topic has now) that has one
/// which [`may_claim`](crate::claim::may_claim), and in it the lowest `src_ord`. Two that claim at once get different objects.
///
/// A generation that has just begun is frozen here, before its first row can be published. A lease that
/// expired counts as a failed attempt: its listener may have died of this very object.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(
    pool: &PgPool,
    owner: &str,
    lease: Duration,
    domains: &[(&str, i32)],
) -> Result<Option<Claim>, sqlx::Error> {
    let (names, partitions): (Vec<&str>, Vec<i32>) = domains.iter().copied().unzip();
    sqlx::query_as(
        "WITH candidate AS (
            -- In the order given: the join stops at the first domain that has an object.
            SELECT c.*, d.partitions
            FROM UNNEST($1::text[], $2::integer[]) AS d (domain, partitions)
            CROSS JOIN LATERAL (
                SELECT o.id, o.bucket, o.key, o.src_ord
                FROM pipeline.objects o
                WHERE o.domain = d.domain
                  AND o.state IN ('discovered', 'publishing')
                  AND (o.state = 'discovered' OR o.lease_until IS NULL OR o.lease_until < now())
                  AND o.next_attempt_at <= now()
                  AND NOT EXISTS (
                      SELECT FROM pipeline.objects e
                      WHERE e.bucket = o.bucket AND e.key = o.key AND e.src_ord < o.src_ord
                        AND e.state IN ('discovered', 'publishing') AND e.attempts < $3)
                ORDER BY o.src_ord
                LIMIT 1
                FOR UPDATE SKIP LOCKED
            ) AS c
            LIMIT 1
        )
        UPDATE pipeline.objects o SET
            state = 'publishing',
            lease_owner = $4,
            lease_epoch = o.lease_epoch + 1,
            lease_until = now() + $5 * interval '1 millisecond',
            attempts = o.attempts + (o.state = 'publishing')::integer,
            parser_version = coalesce(o.parser_version, $6),
            partition_count = coalesce(o.partition_count, candidate.partitions)
        FROM candidate
        LEFT JOIN LATERAL (
            SELECT e.id, e.state, e.sha256, e.reason FROM pipeline.objects e
            WHERE e.bucket = candidate.bucket AND e.key = candidate.key AND e.src_ord < candidate.src_ord
            ORDER BY e.src_ord DESC
            LIMIT 1
        ) AS earlier ON true
        WHERE o.id = candidate.id
        RETURNING o.id, o.nonce, o.bucket, o.key, o.version_id, o.etag, o.size_bytes, o.last_modified, o.domain, o.src_ord,
            o.lease_epoch, o.attempts, o.generation, o.parser_version, o.partition_count, o.resume_byte,
            o.resume_line, o.resume_row, o.resume_seqs, o.end_offsets, o.stream_id, o.rows, o.sha256,
            o.ignored_columns, o.repairs, earlier.id AS earlier_id, earlier.state AS earlier_state,
            earlier.sha256 AS earlier_sha256, earlier.reason AS earlier_reason",
    )
    .bind(names)
    .bind(partitions)
    .bind(ATTEMPTS_HOLDING_BACK)
    .bind(owner)
    .bind(milliseconds(lease))
    .bind(PARSER_VERSION)
    .fetch_optional(pool)
    .await
}

/// Renews leases; the result names the objects that are still this listener's.
///
/// # Errors
/// If Postgres does not answer.
pub async fn renew(pool: &PgPool, objects: &[i64], epochs: &[i64], lease: Duration) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE pipeline.objects o SET lease_until = now() + $3 * interval '1 millisecond'
         FROM UNNEST($1::bigint[], $2::bigint[]) AS mine (id, lease_epoch)
         WHERE o.id = mine.id AND o.lease_epoch = mine.lease_epoch AND o.state = 'publishing'
         RETURNING o.id",
    )
    .bind(objects)
    .bind(epochs)
    .bind(milliseconds(lease))
    .fetch_all(pool)
    .await
}

/// Opens the next generation of the claimed object at row 0, frozen to this listener's parser version and to
/// the partition count given.
///
/// # Errors
/// If Postgres does not answer.
pub async fn open_generation(pool: &PgPool, claim: &Claim, partitions: i32) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET generation = generation + 1, parser_version = $3, partition_count = $4,
            resume_byte = 0, resume_line = 0, resume_row = 0, resume_seqs = NULL, end_offsets = NULL,
            partition_rows = NULL, rows = NULL, stream_id = NULL
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $5 AND state = 'publishing'",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(PARSER_VERSION)
    .bind(partitions)
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the resume point: everything before it is acknowledged by the topic `stream`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn checkpoint(
    pool: &PgPool,
    claim: &Claim,
    stream: Uuid,
    progress: &Progress,
    content: &Content,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET resume_byte = $3, resume_line = $4, resume_row = $5, resume_seqs = $6,
            end_offsets = $7, stream_id = $8, sha256 = $9, ignored_columns = $10, attempts = 0
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $11 AND state = 'publishing'",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(progress.at.byte.cast_signed())
    .bind(progress.at.line.cast_signed())
    .bind(progress.at.row)
    .bind(&progress.seqs)
    .bind(&progress.ends)
    .bind(stream)
    .bind(&content.sha256)
    .bind(&content.ignored_columns)
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// All rows are acknowledged by the topic `stream`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn publish(
    pool: &PgPool,
    claim: &Claim,
    stream: Uuid,
    progress: &Progress,
    content: &Content,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'published', published_at = now(), rows = $3, partition_rows = $4,
            resume_byte = $5, resume_line = $6, resume_row = $3, resume_seqs = $4, end_offsets = $7,
            stream_id = $8, sha256 = $9, ignored_columns = $10, reason = NULL, attempts = 0, lease_until = NULL
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $11 AND state = 'publishing'",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(progress.at.row)
    .bind(&progress.seqs)
    .bind(progress.at.byte.cast_signed())
    .bind(progress.at.line.cast_signed())
    .bind(&progress.ends)
    .bind(stream)
    .bind(&content.sha256)
    .bind(&content.ignored_columns)
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The file is at fault: no row of it is published.
///
/// # Errors
/// If Postgres does not answer.
pub async fn reject(pool: &PgPool, claim: &Claim, reason: &str) -> Result<bool, sqlx::Error> {
    finish(pool, claim, "rejected", reason, None).await
}

/// This version need not or cannot be published. `sha256`: its content, where it was read.
///
/// # Errors
/// If Postgres does not answer.
pub async fn supersede(pool: &PgPool, claim: &Claim, reason: &str, sha256: Option<&[u8]>) -> Result<bool, sqlx::Error> {
    finish(pool, claim, "superseded", reason, sha256).await
}

async fn finish(
    pool: &PgPool,
    claim: &Claim,
    state: &str,
    reason: &str,
    sha256: Option<&[u8]>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = $3, reason = $4, sha256 = coalesce($5, sha256), lease_until = NULL
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $6 AND state = 'publishing'",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(state)
    .bind(bounded(reason))
    .bind(sha256)
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Hands the object back, to go on from its resume point after a pause. `failure`: why the attempt failed;
/// none where the listener shuts down or the domain is paused.
///
/// # Errors
/// If Postgres does not answer.
pub async fn release(
    pool: &PgPool,
    claim: &Claim,
    pause: Duration,
    failure: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'discovered', lease_until = NULL,
            next_attempt_at = now() + $3 * interval '1 millisecond',
            attempts = attempts + ($4::text IS NOT NULL)::integer, reason = $4
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $5 AND state = 'publishing'",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(milliseconds(pause))
    .bind(failure.map(bounded))
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// An object that was applied before and sent again cannot be read any more: it is applied all the same.
///
/// # Errors
/// If Postgres does not answer.
pub async fn applied_before(pool: &PgPool, claim: &Claim, reason: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'applied', reason = $3, lease_until = NULL
         WHERE id = $1 AND lease_epoch = $2 AND nonce = $4 AND state = 'publishing' AND rows IS NOT NULL",
    )
    .bind(claim.id)
    .bind(claim.lease_epoch)
    .bind(bounded(reason))
    .bind(claim.nonce)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The rows of a published object that were never received, as `partition 3: seqs {[7,9)}`, for the reason of
/// one that S3 no longer has; `None` where none are missing.
///
/// # Errors
/// If Postgres does not answer.
pub async fn missing_rows(pool: &PgPool, claim: &Claim) -> Result<Option<String>, sqlx::Error> {
    let missing: Vec<(i32, i64, String)> = sqlx::query_as(
        "SELECT m.partition, (SELECT sum(upper(r) - lower(r)) FROM unnest(m.seqs) AS r)::bigint, m.seqs::text
         FROM (
            SELECT (n.ord - 1)::integer AS partition,
                int8multirange(int8range(0, n.rows)) - coalesce(p.received, '{}') AS seqs
            FROM pipeline.objects o
            CROSS JOIN LATERAL UNNEST(o.partition_rows) WITH ORDINALITY AS n (rows, ord)
            LEFT JOIN pipeline.progress p
                ON p.object = o.id AND p.generation = o.generation AND p.partition = n.ord - 1
            WHERE o.id = $1
         ) AS m
         WHERE NOT isempty(m.seqs)
         ORDER BY m.partition",
    )
    .bind(claim.id)
    .fetch_all(pool)
    .await?;
    let rows: i64 = missing.iter().map(|(_, count, _)| count).sum();
    if missing.is_empty() {
        return Ok(None);
    }
    let places: Vec<String> =
        missing.iter().map(|(partition, _, seqs)| format!("partition {partition}: seqs {seqs}")).collect();
    Ok(Some(bounded(&format!("{rows} rows are missing ({})", places.join("; ")))))
}

/// An object was given up with rows missing: newer versions that were set aside because they had its content
/// go their own way. Gives how many.
///
/// # Errors
/// If Postgres does not answer.
pub async fn wake_same_content(pool: &PgPool, claim: &Claim) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'discovered', reason = NULL, next_attempt_at = now()
         WHERE bucket = $1 AND key = $2 AND state = 'superseded' AND reason = $3",
    )
    .bind(&claim.bucket)
    .bind(&claim.key)
    .bind(same_content_reason(claim.id))
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn bounded(reason: &str) -> String {
    match reason.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = "ü".repeat(REASON_CHARS_MAX + 1);
        assert_eq!(bounded(&long).chars().count(), REASON_CHARS_MAX + 1);
        assert_eq!(bounded("short"), "short");
    }
}
