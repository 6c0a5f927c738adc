//! Sending files again: the ledger's way to bring back what a topic no longer holds.
//!
//! A file that was published is set back to be found by a listener, which reads the same version and sends the same
//! rows under the same numbers: what was received is a duplicate, what was not fits in, and a replay finds all of it in
//! the topic. Sent *as new*, a file gets a place above all its domain has had, and a new generation: its rows win over
//! whatever other files have said since.
//!
//! Two at once, or one beside a listener, do each thing once: an object on its way is left alone.

use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt};
use sqlx::PgPool;

use crate::claim::is_same_content;
use crate::object::{ObjectReader, ObjectVersion, ReadError};
use crate::register;

/// S3 is asked about so many versions at once.
const HEADS_AT_ONCE: usize = 16;

/// Which files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These keys.
    pub keys: Vec<String>,
    /// And keys that begin with this.
    pub prefix: Option<String>,
    /// Of them, versions last modified then or later; of all, where neither keys nor prefix are given.
    pub since: Option<DateTime<Utc>>,
    /// Only the newest version of each key.
    pub newest_only: bool,
}

/// A version in the ledger that may be sent again.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Candidate {
    /// Object id.
    pub id: i64,
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Version, where the bucket keeps them.
    pub version_id: Option<String>,
    /// ETag.
    pub etag: String,
    /// Size in bytes.
    pub size_bytes: i64,
    /// Last modified.
    pub last_modified: DateTime<Utc>,
    /// Domain name.
    pub domain: String,
    /// State.
    pub state: String,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// Rows; unknown of a file that was rejected.
    pub rows: Option<i64>,
}

impl Candidate {
    fn version(&self) -> ObjectVersion {
        ObjectVersion {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            version_id: self.version_id.clone(),
            etag: self.etag.clone(),
            size_bytes: self.size_bytes,
            last_modified: self.last_modified,
        }
    }
}

/// What is known of the files selected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selected {
    /// They can be sent again.
    pub ready: Vec<Candidate>,
    /// S3 does not have these versions any more.
    pub gone: Vec<Candidate>,
    /// These are on their way at present, or were overtaken before they were read.
    pub passed_over: Vec<Candidate>,
}

/// Looks up in the ledger what is selected of `bucket`, and in S3 whether it is still there.
///
/// # Errors
/// If Postgres or S3 does not answer.
pub async fn select(
    pool: &PgPool,
    reader: &ObjectReader,
    bucket: &str,
    selection: &Selection,
) -> Result<Selected, SelectError> {
    let found: Vec<Candidate> = sqlx::query_as(
        "SELECT o.id, o.bucket, o.key, o.version_id, o.etag, o.size_bytes, o.last_modified, o.domain, o.state, o.reason,
            o.rows
         FROM pipeline.objects o
         WHERE o.bucket = $1
            AND (o.key = ANY ($2) OR starts_with(o.key, $3) OR ($3 IS NULL AND cardinality($2::text[]) = 0))
            AND ($4::timestamptz IS NULL OR o.last_modified >= $4)
            AND (NOT $5 OR NOT EXISTS (
                SELECT FROM pipeline.objects n WHERE n.bucket = o.bucket AND n.key = o.key AND n.src_ord > o.src_ord))
         ORDER BY o.domain, o.src_ord",
    )
    .bind(bucket)
    .bind(&selection.keys)
    .bind(&selection.prefix)
    .bind(selection.since)
    .bind(selection.newest_only)
    .fetch_all(pool)
    .await?;
    let mut selected = Selected::default();
    let may_be_sent = |one: &Candidate| is_sendable(&one.state, one.reason.as_deref(), selection.newest_only);
    let (sendable, passed_over): (Vec<Candidate>, Vec<Candidate>) = found.into_iter().partition(may_be_sent);
    selected.passed_over = passed_over;
    let looked_up = stream::iter(sendable).map(async |candidate: Candidate| {
        let exists = reader.exists(&candidate.version()).await?;
        Ok::<_, ReadError>((candidate, exists))
    });
    let mut looked_up = looked_up.buffered(HEADS_AT_ONCE);
    while let Some(looked_up) = looked_up.next().await {
        let (candidate, exists) = looked_up?;
        if exists { &mut selected.ready } else { &mut selected.gone }.push(candidate);
    }
    Ok(selected)
}

/// Whether a version may be sent again.
///
/// | state | again | as new |
/// |---|---|---|
/// | applied, rejected | yes | yes |
/// | superseded, with the content that the version before had | no: nothing of it is missing | yes: that is to insist |
/// | superseded otherwise | no: S3 does not have it | no |
/// | any other: on its way | no | no |
fn is_sendable(state: &str, reason: Option<&str>, as_new: bool) -> bool {
    match state {
        "applied" | "rejected" => true,
        "superseded" => as_new && reason.is_some_and(is_same_content),
        _ => false,
    }
}

/// Why files cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// Postgres.
    #[error("look the files up in the ledger: {0}")]
    Ledger(#[from] sqlx::Error),
    /// S3.
    #[error(transparent)]
    Object(#[from] ReadError),
}

/// Sets objects back to be published again from their first row. Gives how many; one that is on its way by now is
/// left alone.
///
/// # Errors
/// If Postgres does not answer.
pub async fn send_again(pool: &PgPool, objects: &[i64]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'discovered', repairs = repairs + 1, attempts = 0,
            lease_epoch = lease_epoch + 1, lease_owner = NULL, lease_until = NULL, next_attempt_at = now(),
            resume_byte = 0, resume_line = 0, resume_row = 0, resume_seqs = NULL, end_offsets = NULL,
            reason = 'sent again'
         WHERE id = ANY ($1) AND state IN ('applied', 'rejected')",
    )
    .bind(objects)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Sets an object back to be published again as the newest of its domain. `false`: it is on its way by now.
///
/// # Errors
/// If Postgres does not answer.
pub async fn send_as_new(pool: &PgPool, candidate: &Candidate) -> Result<bool, sqlx::Error> {
    register::place_anew(pool, &candidate.bucket, &candidate.domain, &candidate.key, candidate.id).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::same_content_reason;

    #[test]
    fn what_is_on_its_way_or_lost_is_not_sent_again() {
        let same = same_content_reason(3);
        let cases = [
            ("applied", None, true, true),
            ("rejected", Some("no header"), true, true),
            ("superseded", Some(same.as_str()), false, true),
            ("superseded", Some("overwritten before it was read"), false, false),
            ("discovered", None, false, false),
            ("publishing", None, false, false),
            ("published", None, false, false),
        ];
        for (state, reason, again, as_new) in cases {
            assert_eq!(is_sendable(state, reason, false), again, "{state} {reason:?}");
            assert_eq!(is_sendable(state, reason, true), as_new, "{state} {reason:?} as new");
        }
    }
}
