//! The end of an attempt to publish an object: an event for the ledger, a log line, a count and a trace.

use std::time::{Duration, SystemTime};

use freshet_sinks::ledger::{self, Claim, Event, Lost, ObjectState, ObjectVersion, Recorded};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::trace;
use tokio::task::JoinError;

use crate::check::FileReject;
use crate::object::ReadError;
use crate::producer::ProduceError;
use crate::rows::SendError;
use crate::{Listener, metrics};

/// How an attempt ended without all rows published.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The file is at fault.
    Rejected(String),
    /// S3 says that it no longer has this version.
    Gone(String),
    /// It has the same content as an older version, the object with this number.
    SameContent(i64, Vec<u8>),
    /// Another listener has the object now.
    LeaseLost,
    /// The domain is closed or the listener shuts down: another attempt continues at the resume point.
    Paused,
    /// The ledger does not answer, or refuses.
    Ledger(sqlx::Error),
    /// Anything else: another attempt may succeed.
    Transient(String),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Stop::Ledger(error)
    }
}

impl From<FileReject> for Stop {
    fn from(reject: FileReject) -> Self {
        Stop::Rejected(reject.to_string())
    }
}

impl From<ProduceError> for Stop {
    fn from(error: ProduceError) -> Self {
        Stop::Transient(error.to_string())
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Stop::Transient(error.to_string())
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Gone { .. } => Stop::Gone(text),
            ReadError::Rejected { .. } => Stop::Rejected(text),
            ReadError::Transient { .. } | ReadError::Denied { .. } => Stop::Transient(text),
        }
    }
}

/// A write that finds another listener's epoch ends the attempt.
pub(crate) fn still_mine(recorded: Recorded) -> Result<(), Stop> {
    if recorded.is_written() { Ok(()) } else { Err(Stop::LeaseLost) }
}

/// Logs how an attempt ended, and writes it to the ledger if it is not written yet.
///
/// # Errors
/// If the ledger refuses.
pub(crate) async fn ended_with(
    listener: &Listener,
    claim: Claim,
    ended: Result<i64, Stop>,
    took: Duration,
    began: SystemTime,
) -> Result<(), sqlx::Error> {
    match ended {
        Ok(rows) => {
            published(listener, &claim, rows, took, began);
            Ok(())
        }
        // The caller logs it; logging it here too would repeat it.
        Err(Stop::Ledger(error)) if error_kind(&error) == ErrorKind::Schema => Err(error),
        Err(stop) => stopped(listener, claim, stop).await,
    }
}

/// Writes nothing: this claim does not know how far the attempt came. The lease expires, which counts as a failed
/// attempt.
pub(crate) fn panicked(id: i64, object: &ObjectVersion, panic: &JoinError) {
    tracing::error!(%object, id, %panic, "a bug in freshet; retried when the lease expires");
}

/// Handles an object whose rows are all in the topic and recorded in the ledger.
fn published(listener: &Listener, claim: &Claim, rows: i64, took: Duration, began: SystemTime) {
    let domain = claim.object.domain.as_str();
    metrics::OBJECTS_PUBLISHED.with_label_values(&[domain]).inc();
    if !claim.object.ignored_columns.is_empty() {
        metrics::UNKNOWN_COLUMNS.with_label_values(&[domain]).inc();
    }
    for column in &claim.object.absent_defaults {
        metrics::ABSENT_DEFAULTS.with_label_values(&[domain, column]).inc();
    }
    metrics::ROWS_OVERTAKEN.with_label_values(&[domain]).inc_by(claim.object.overtaken.unsigned_abs());
    metrics::PUBLISH_DURATION.with_label_values(&[domain]).observe(took.as_secs_f64());
    listener.sweep_to_do.notify_one();
    trace::passed(claim.object.id, "publish", began, detail(claim, Some(rows), None));
    tracing::info!(
        domain,
        key = claim.object.version.key,
        object = claim.object.id,
        rows,
        overtaken = claim.object.overtaken,
        elapsed_ms = took.as_millis() as u64,
        "published"
    );
}

/// Writes to the ledger how an attempt ended that did not publish the object, and logs it.
async fn stopped(listener: &Listener, claim: Claim, stop: Stop) -> Result<(), sqlx::Error> {
    match stop {
        Stop::Rejected(reason) => reject(listener, claim, reason).await,
        Stop::Gone(reason) => gone(listener, claim, reason).await,
        Stop::SameContent(original, sha256) => set_aside(listener, claim, original, sha256).await,
        Stop::LeaseLost => {
            tracing::debug!(
                object = claim.object.id,
                key = claim.object.version.key,
                "another listener has the object"
            );
            Ok(())
        }
        Stop::Paused => record(listener, claim, Event::Release).await.map(|_| ()),
        Stop::Transient(reason) => fail(listener, claim, reason).await,
        Stop::Ledger(error) => fail(listener, claim, format!("write to the ledger: {error}")).await,
    }
}

async fn record(listener: &Listener, mut claim: Claim, event: Event<'_>) -> Result<(Claim, Recorded), sqlx::Error> {
    let recorded = ledger::record(&listener.pool, &mut claim, event).await?;
    Ok((claim, recorded))
}

/// A reading before, under another contract, may have published rows that a rejection does not take back.
async fn reject(listener: &Listener, claim: Claim, reason: String) -> Result<(), sqlx::Error> {
    let reason = match ledger::has_rows(&listener.pool, &claim.object).await? {
        true => format!("{reason}; rows of it that an earlier contract took were published, and stay"),
        false => reason,
    };
    let (claim, recorded) = record(listener, claim, Event::Reject { detail: reason.clone() }).await?;
    if recorded.is_written() {
        tracing::warn!(object = %claim.object.version, id = claim.object.id, reason, "rejected the file");
        ended(&claim);
    }
    Ok(())
}

async fn set_aside(listener: &Listener, claim: Claim, original: i64, sha256: Vec<u8>) -> Result<(), sqlx::Error> {
    let (claim, recorded) = record(listener, claim, Event::SetAside { original, sha256 }).await?;
    if recorded == Recorded::OriginalGone {
        tracing::info!(object = %claim.object.version, id = claim.object.id, original, "the object that it copies was given up");
        listener.work_to_do.notify_waiters();
    }
    if recorded.is_written() {
        tracing::info!(object = %claim.object.version, id = claim.object.id, original, "nothing to do: same content");
        ended(&claim);
    }
    Ok(())
}

/// The attempt failed: another one follows after a pause.
async fn fail(listener: &Listener, claim: Claim, reason: String) -> Result<(), sqlx::Error> {
    let attempt = claim.object.attempts + 1;
    let back_off = listener.back_off().after(attempt.unsigned_abs());
    let (claim, recorded) = record(listener, claim, Event::Fail { detail: reason.clone(), back_off }).await?;
    if !recorded.is_written() {
        return Ok(());
    }
    let pause_ms = back_off.as_millis() as u64;
    let (object, id) = (&claim.object.version, claim.object.id);
    tracing::warn!(%object, id, reason, attempt, pause_ms, "publish failed, trying again");
    metrics::OBJECT_FAILURES.with_label_values(&[claim.object.domain.as_str()]).inc();
    Ok(())
}

/// Handles a version that S3 says is gone. While the bucket still lists it, that is not believed. Otherwise missing
/// rows are recorded, and versions that were set aside as copies of it are published themselves.
async fn gone(listener: &Listener, mut claim: Claim, reason: String) -> Result<(), sqlx::Error> {
    match listener.s3(listener.reader.is_listed(&claim.object.version)).await {
        Ok(false) => {}
        Ok(true) => {
            return fail(listener, claim, format!("S3 says {reason}, but the bucket still has it")).await;
        }
        Err(error) => return fail(listener, claim, format!("S3 says {reason}; {error}")).await,
    }
    let (recorded, lost) = ledger::record_gone(&listener.pool, &mut claim, reason).await?;
    let Recorded::Written { woken } = recorded else { return Ok(()) };
    let (object, id) = (&claim.object.version, claim.object.id);
    match (claim.object.state, &lost) {
        (ObjectState::Applied, _) => {
            tracing::info!(%object, id, "S3 no longer has this version; all of its rows were received before");
            return Ok(());
        }
        (_, Lost::Nothing) => tracing::info!(%object, id, "superseded: S3 no longer has this version"),
        (_, lost) => tracing::warn!(%object, id, %lost, "superseded: S3 no longer has this version, rows are missing"),
    }
    ended(&claim);
    if woken > 0 {
        listener.work_to_do.notify_waiters();
    }
    Ok(())
}

/// Counts and traces that the file is not processed further.
fn ended(claim: &Claim) {
    let domain = claim.object.domain.as_str();
    let counter = match claim.object.state {
        ObjectState::Rejected => &metrics::OBJECTS_REJECTED,
        _ => &metrics::OBJECTS_SUPERSEDED,
    };
    counter.with_label_values(&[domain]).inc();
    let outcome = claim.object.state.name();
    let began = claim.object.version.last_modified.into();
    trace::passed(claim.object.id, trace::FILE, began, detail(claim, None, Some(outcome)));
}

fn detail<'a>(claim: &'a Claim, rows: Option<i64>, outcome: Option<&'a str>) -> trace::Detail<'a> {
    let (domain, key) = (Some(claim.object.domain.as_str()), Some(claim.object.version.key.as_str()));
    trace::Detail { domain, key, rows, outcome, ..trace::Detail::default() }
}
