//! Writes changes of objects: the one place that turns the decisions of [`transition()`](super::transition()) into SQL.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use super::claim::Claim;
use super::lost::{Lost, lost_rows, received};
use super::object::{COLUMNS, Content, Guard, Object, ResumePoint};
use super::reason::Reason;
use super::state::ObjectState;
use super::transition::{Change, Event, Lease, Wait, transition};
use crate::transactions::{self, Limits, Named};

/// Objects written by one statement.
pub(super) const BATCH: usize = 1_000;

/// The result of a listener's write.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// Another listener has the object now; nothing was written.
    LeaseLost,
    /// It is written; this many copies of the object will be published themselves.
    Written { woken: usize },
    /// The version that it copies has been given up meanwhile: it was released instead, and will be published itself.
    OriginalGone,
}

impl Recorded {
    /// Whether it was written.
    pub fn is_written(&self) -> bool {
        matches!(self, Recorded::Written { .. })
    }
}

/// Writes an event of a claimed object, and keeps the claim up to date.
///
/// # Errors
/// If Postgres does not answer.
pub async fn record(pool: &PgPool, claim: &mut Claim, event: Event<'_>) -> Result<Recorded, sqlx::Error> {
    // A claim is in the state `publishing`, which allows every event of a listener.
    let Some(change) = transition(&claim.object, event) else { return Ok(Recorded::LeaseLost) };
    if change.wakes_copies {
        return give_up(transactions::begin(pool, "give_up", Limits::SHORT).await?, claim, change).await;
    }
    if let Some(original) = change.object.reason().and_then(Reason::same_content_as) {
        return set_aside(pool, claim, change, original).await;
    }
    let mut connection = pool.acquire().await?;
    if save(&mut connection, &[(&claim.object, &change)]).await?.is_empty() {
        return Ok(Recorded::LeaseLost);
    }
    claim.object = change.object;
    Ok(Recorded::Written { woken: 0 })
}

/// A claimed object whose rows are all acknowledged.
#[derive(Debug)]
pub struct Finished<'a> {
    /// Its claim; kept up to date.
    pub claim: &'a mut Claim,
    /// The stream that it was published to.
    pub stream: Uuid,
    /// Where it ends.
    pub point: &'a ResumePoint,
    /// What is known about it.
    pub content: &'a Content,
}

impl Finished<'_> {
    /// A claim is in the state `publishing`, which allows this event.
    fn change(&self) -> Option<Change<'_>> {
        let Finished { claim, stream, point, content } = self;
        transition(&claim.object, Event::Publish { stream: *stream, point, content })
    }
}

/// Records several claimed objects as published: one statement, each object guarded on its own. Returns the result of
/// each.
///
/// # Errors
/// If Postgres does not answer. None is written then.
pub async fn record_published(pool: &PgPool, finished: &mut [Finished<'_>]) -> Result<Vec<Recorded>, sqlx::Error> {
    let changes: Vec<Option<Change>> = finished.iter().map(Finished::change).collect();
    let pairs = finished.iter().zip(&changes).filter_map(|(one, change)| Some((&one.claim.object, change.as_ref()?)));
    let pairs: Vec<(&Object, &Change)> = pairs.collect();
    let written = save(&mut *pool.acquire().await?, &pairs).await?;
    let objects: Vec<Option<Object>> = changes.into_iter().map(|change| Some(change?.object)).collect();
    let record = |(one, after): (&mut Finished<'_>, Option<Object>)| match after {
        Some(after) if written.contains(&after.id) => {
            one.claim.object = after;
            Recorded::Written { woken: 0 }
        }
        _ => Recorded::LeaseLost,
    };
    Ok(finished.iter_mut().zip(objects).map(record).collect())
}

/// The transaction `set_aside`: sets a copy aside, unless its original was given up since the copy was claimed.
///
/// The original is locked: giving it up either happens before, and is seen here, or after, and then wakes the copy.
async fn set_aside(
    pool: &PgPool,
    claim: &mut Claim,
    change: Change<'_>,
    original: i64,
) -> Result<Recorded, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "set_aside", Limits::SHORT).await?;
    let state: Option<ObjectState> = sqlx::query_scalar("SELECT state FROM pipeline.objects WHERE id = $1 FOR SHARE")
        .bind(original)
        .fetch_optional(&mut *transaction)
        .await?;
    let is_kept = state.is_some_and(ObjectState::keeps_copies);
    let change = if is_kept { Some(change) } else { transition(&claim.object, Event::Release) };
    let Some(change) = change else { return Ok(Recorded::LeaseLost) };
    let written = save(&mut transaction, &[(&claim.object, &change)]).await?;
    transaction.commit().await?;
    if written.is_empty() {
        return Ok(Recorded::LeaseLost);
    }
    claim.object = change.object;
    Ok(if is_kept { Recorded::Written { woken: 0 } } else { Recorded::OriginalGone })
}

/// Ends a claimed object that S3 no longer has, and keeps the claim up to date. The lost rows are looked up in the
/// transaction that records them: between two transactions, Postgres might go back in time and have fewer rows.
///
/// # Errors
/// If Postgres does not answer.
pub async fn record_gone(pool: &PgPool, claim: &mut Claim, detail: String) -> Result<(Recorded, Lost), sqlx::Error> {
    let mut transaction = transactions::begin(pool, "give_up", Limits::SHORT).await?;
    let lost = lost_rows(&claim.object, &received(&mut transaction, &claim.object).await?);
    let Some(change) = transition(&claim.object, Event::Gone { detail, lost: lost.clone() }) else {
        return Ok((Recorded::LeaseLost, lost));
    };
    Ok((give_up(transaction, claim, change).await?, lost))
}

/// The end of the transaction `give_up`: the object ends, and its copies wake if they should.
async fn give_up(
    mut transaction: Named<'static>,
    claim: &mut Claim,
    change: Change<'_>,
) -> Result<Recorded, sqlx::Error> {
    if save(&mut transaction, &[(&claim.object, &change)]).await?.is_empty() {
        transaction.rollback().await?;
        return Ok(Recorded::LeaseLost);
    }
    let original = claim.object.id;
    if !change.wakes_copies {
        transaction.commit().await?;
        claim.object = change.object;
        return Ok(Recorded::Written { woken: 0 });
    }
    let copies: Vec<Object> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o
         WHERE o.bucket = $1 AND o.key = $2 AND o.state = 'superseded' AND o.cause = $3
         ORDER BY o.id FOR UPDATE"
    )))
    .bind(&claim.object.version.bucket)
    .bind(&claim.object.version.key)
    .bind(Json(Reason::SameContent { object: original }))
    .fetch_all(&mut *transaction)
    .await?;
    let woken = change_all(&mut transaction, &copies, |_| Event::OriginalGone { original }).await?.len();
    transaction.commit().await?;
    claim.object = change.object;
    Ok(Recorded::Written { woken })
}

/// Applies an event to each of `objects`, in their order; returns the ids of those that changed. The others do not allow
/// the event, or were changed meanwhile.
pub(super) async fn change_all<'a>(
    connection: &mut PgConnection,
    objects: &[Object],
    mut event: impl FnMut(&Object) -> Event<'a>,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut written = Vec::new();
    for objects in objects.chunks(BATCH) {
        let changes: Vec<(&Object, Change)> =
            objects.iter().filter_map(|object| Some((object, transition(object, event(object))?))).collect();
        let pairs: Vec<(&Object, &Change)> = changes.iter().map(|(object, change)| (*object, change)).collect();
        written.extend(save(connection, &pairs).await?);
    }
    Ok(written)
}

/// Writes objects after a change, each only if it is unchanged since it was read. Returns the ids of those that were
/// written.
///
/// What must be unchanged is its [`Guard`](super::Guard). Rows are locked in the order of their ids, so that there are
/// no deadlocks. The condition on the count of `locked` only makes Postgres lock all of them first, each once: as a table
/// to join with, `locked` could be read anew for each row.
pub(super) async fn save(
    connection: &mut PgConnection,
    changes: &[(&Object, &Change<'_>)],
) -> Result<Vec<i64>, sqlx::Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let (mut owners, mut leases_ms, mut waits_ms) = (Vec::new(), Vec::new(), Vec::new());
    for (_, change) in changes {
        let (owner, lease) = match change.lease {
            Lease::Keep => (None, None),
            Lease::Release => (None, Some(Duration::ZERO)),
            Lease::Grant(owner, lease) => (Some(owner), Some(lease)),
        };
        owners.push(owner);
        leases_ms.push(lease.map(milliseconds));
        waits_ms.push(match change.wait {
            Wait::Keep => None,
            Wait::Until(wait) => Some(milliseconds(wait)),
        });
    }
    let guards: Vec<Guard> = changes.iter().map(|(object, _)| object.guard()).collect();
    sqlx::query_scalar(
        "WITH locked AS (SELECT id FROM pipeline.objects WHERE id = ANY ($2) ORDER BY id FOR UPDATE)
         UPDATE pipeline.objects o SET
            state = n.state, cause = n.cause, reason = n.reason, src_ord = n.src_ord, attempts = n.attempts,
            repairs = n.repairs, generation = n.generation, parser_version = n.parser_version,
            partition_count = n.partition_count, reading_rules = n.reading_rules, resume_byte = n.resume_byte, resume_line = n.resume_line,
            resume_row = n.resume_row, resume_seqs = n.resume_seqs, rows = n.rows, partition_rows = n.partition_rows,
            end_offsets = n.end_offsets, stream_id = n.stream_id, sha256 = n.sha256,
            ignored_columns = n.ignored_columns, absent_defaults = n.absent_defaults,
            overtaken = n.overtaken, lease_epoch = n.lease_epoch,
            lease_owner = CASE WHEN b.lease_ms IS NULL THEN o.lease_owner ELSE b.owner END,
            lease_from = CASE WHEN b.lease_ms IS NULL THEN o.lease_from WHEN b.lease_ms > 0 THEN t.now END,
            lease_until = CASE WHEN b.lease_ms IS NULL THEN o.lease_until
                WHEN b.lease_ms > 0 THEN t.now + b.lease_ms * interval '1 millisecond' END,
            wait_from = CASE WHEN b.wait_ms IS NULL THEN o.wait_from ELSE t.now END,
            next_attempt_at = CASE WHEN b.wait_ms IS NULL THEN o.next_attempt_at
                ELSE t.now + b.wait_ms * interval '1 millisecond' END,
            published_at = CASE n.state WHEN 'published' THEN t.now ELSE o.published_at END,
            applied_at = CASE n.state WHEN 'applied' THEN coalesce(o.applied_at, t.now) ELSE o.applied_at END
         FROM (SELECT clock_timestamp() AS now) AS t,
            UNNEST($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::double precision[],
                $9::double precision[], $10::uuid[])
                AS b (id, state, lease_epoch, repairs, generation, owner, lease_ms, wait_ms, nonce)
            JOIN jsonb_populate_recordset(NULL::pipeline.objects, $1) AS n ON n.id = b.id
         WHERE (SELECT count(*) FROM locked) > 0 AND o.id = b.id AND o.state = b.state
            AND o.lease_epoch = b.lease_epoch AND o.repairs = b.repairs AND o.generation = b.generation AND o.nonce = b.nonce
         RETURNING o.id",
    )
    .bind(Json(changes.iter().map(|(_, change)| row(&change.object)).collect::<Vec<_>>()))
    .bind(changes.iter().map(|(object, _)| object.id).collect::<Vec<_>>())
    .bind(guards.iter().map(|guard| guard.state.name()).collect::<Vec<_>>())
    .bind(guards.iter().map(|guard| guard.lease_epoch).collect::<Vec<_>>())
    .bind(guards.iter().map(|guard| i64::from(guard.repairs)).collect::<Vec<_>>())
    .bind(guards.iter().map(|guard| i64::from(guard.generation)).collect::<Vec<_>>())
    .bind(owners)
    .bind(leases_ms)
    .bind(waits_ms)
    .bind(guards.iter().map(|guard| guard.nonce).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// The columns that a change may alter.
fn row(object: &Object) -> Value {
    json!({
        "id": object.id,
        "state": object.state,
        "cause": object.reason(),
        "reason": object.reason().map(Reason::text),
        "src_ord": object.src_ord,
        "lease_epoch": object.lease_epoch,
        "attempts": object.attempts,
        "repairs": object.repairs,
        "generation": object.generation,
        "parser_version": object.parser_version,
        "partition_count": object.partition_count,
        "reading_rules": object.reading_rules,
        "resume_byte": object.resume_byte,
        "resume_line": object.resume_line,
        "resume_row": object.resume_row,
        "resume_seqs": object.resume_seqs,
        "rows": object.rows,
        "partition_rows": object.partition_rows,
        "end_offsets": object.end_offsets,
        "stream_id": object.stream_id,
        // Postgres' text form of bytes.
        "sha256": object.sha256.as_ref().map(|hash| format!("\\x{}", hex::encode(hash))),
        "ignored_columns": object.ignored_columns,
        "absent_defaults": object.absent_defaults,
        "overtaken": object.overtaken,
    })
}

/// An interval as passed to Postgres.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
