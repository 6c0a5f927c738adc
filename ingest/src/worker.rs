//! A worker: claims an object, attempts to publish it, and has the outcome written to the ledger; one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use freshet_sinks::ledger::{self, Claim};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::failpoint::{self, Point};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::outcome::{self, Stop};
use crate::{IngestError, Listener, publish};

const RECORD_OUTCOME: &str = "write the end of an attempt to the ledger";

/// Claims and publishes until `stop`; the chunk under way is finished first. `turn` says whose turn it is among the
/// domains: the workers share it, so that a big backlog of one domain does not hold up the others.
pub(crate) async fn run(
    listener: Arc<Listener>,
    turn: Arc<AtomicUsize>,
    stop: CancellationToken,
) -> Result<(), IngestError> {
    let pause = Duration::from_millis(listener.settings.claim_interval_ms);
    let mut failures = 0;
    while !stop.is_cancelled() {
        // Listening before looking: what is registered in between is not missed.
        let woken = listener.work_to_do.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        match claim(&listener, turn.fetch_add(1, Ordering::Relaxed)).await {
            Ok(Some(claim)) => {
                failures = 0;
                attempt_apart(&listener, claim, &stop).await?;
            }
            Ok(None) => {
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => {
                failures += 1;
                end_or_wait(&listener, "claim an object in the ledger", error, failures, &stop).await?;
            }
        }
    }
    Ok(())
}

async fn claim(listener: &Listener, turn: usize) -> Result<Option<Claim>, sqlx::Error> {
    let domains = listener.gate.open_domains(turn);
    if domains.is_empty() {
        return Ok(None);
    }
    ledger::claim(&listener.pool, listener.claimant(), &domains).await
}

/// A transient error is waited out; one of the schema or of permissions ends the listener.
async fn end_or_wait(
    listener: &Listener,
    action: &'static str,
    error: sqlx::Error,
    failures: u32,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    if error_kind(&error) == ErrorKind::Schema {
        return Err(IngestError::Schema { action, source: error });
    }
    tracing::warn!(%error, "{action}");
    stop.run_until_cancelled(tokio::time::sleep(listener.back_off().after(failures))).await;
    Ok(())
}

/// One attempt in a task of its own: an object that makes freshet panic is a failed attempt, and stops neither
/// the listener nor the other objects.
async fn attempt_apart(listener: &Arc<Listener>, claim: Claim, stop: &CancellationToken) -> Result<(), IngestError> {
    let task = tokio::spawn(attempt(Arc::clone(listener), claim.clone(), stop.clone()));
    let recorded = match task.await {
        Ok(recorded) => recorded,
        Err(panic) => {
            // Nothing is written: this claim does not know how far the attempt came. The lease runs out, which counts as
            // a failed attempt.
            let (object, id) = (&claim.object.version, claim.object.id);
            tracing::error!(%object, id, %panic, "a fault of freshet itself; tried again when the lease has run out");
            Ok(())
        }
    };
    match recorded {
        Ok(()) => Ok(()),
        Err(error) => end_or_wait(listener, RECORD_OUTCOME, error, 1, stop).await,
    }
}

/// One attempt at one object, and its outcome in the ledger. Where that cannot be written, the lease runs out and
/// another attempt follows.
async fn attempt(listener: Arc<Listener>, mut claim: Claim, stop: CancellationToken) -> Result<(), sqlx::Error> {
    let listener = listener.as_ref();
    let object = &claim.object;
    let lease = listener.leases.hold(object);
    failpoint::reach(Point::Claimed);
    let (started, began) = (Instant::now(), SystemTime::now());
    match publish::publish(listener, &mut claim, &lease, &stop).await {
        Ok(rows) => {
            outcome::published(listener, &claim, rows, started.elapsed(), began);
            Ok(())
        }
        // Said by whoever handles it; the outcome would meet it again.
        Err(Stop::Ledger(error)) if error_kind(&error) == ErrorKind::Schema => Err(error),
        Err(stop) => outcome::stopped(listener, claim, stop).await,
    }
}
