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

use super::object::{COLUMNS, Object};
use super::reason::Reason;
use super::register::{lock_domain, lock_keys};
use super::state::{ObjectState, UNFINISHED_SQL};
use super::transition::Event;
use super::write::change_all;
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
            AND (NOT $5 OR NOT EXISTS (
                SELECT FROM pipeline.objects n
                WHERE n.bucket = o.bucket AND n.key = o.key AND n.domain = o.domain AND n.src_ord > o.src_ord))
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

/// The transaction `send_as_new`: gives a version a place above all others in its domain, and sets it back to be
/// published in a new generation. `false` if it is in progress, or its key has a newer version in the domain.
///
/// No clock is needed: a file that is dropped later has this second or a later one by S3's clock, and ranks above it.
///
/// # Errors
/// If Postgres does not answer. Nothing has changed then.
pub async fn send_as_new(pool: &PgPool, candidate: &Object) -> Result<bool, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "send_as_new", Limits::SHORT).await?;
    let bucket = &candidate.version.bucket;
    lock_keys(&mut transaction, bucket, std::slice::from_ref(&candidate.version.key)).await?;
    lock_domain(&mut transaction, &candidate.domain).await?;
    let newest_of_domain: i64 =
        sqlx::query_scalar("SELECT coalesce(max(src_ord), 0) FROM pipeline.objects WHERE domain = $1")
            .bind(&candidate.domain)
            .fetch_one(&mut *transaction)
            .await?;
    let newest_of_key: Option<Object> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o WHERE o.bucket = $1 AND o.key = $2 AND o.domain = $3
         ORDER BY o.src_ord DESC LIMIT 1"
    )))
    .bind(bucket)
    .bind(&candidate.version.key)
    .bind(&candidate.domain)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(object) = newest_of_key.filter(|newest| newest.id == candidate.id) else {
        transaction.rollback().await?;
        return Ok(false);
    };
    let event = |_: &Object| Event::SendAsNew { src_ord: newest_of_domain + 1 };
    let written = change_all(&mut transaction, std::slice::from_ref(&object), event).await?;
    transaction.commit().await?;
    Ok(!written.is_empty())
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
