//! A worker: claims an object, or several small ones, attempts to publish them, and writes the outcome to the ledger;
//! one claim after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use freshet_sinks::ledger::{self, Claim, OpenDomain, Take};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::Domain;
use freshet_topics::failpoint::{self, Point};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{IngestError, Listener, group, metrics, outcome, publish};

/// One in this many rounds is for objects that are sent again.
const ROUNDS: usize = 4;
const RECORD_OUTCOME: &str = "write the end of an attempt to the ledger";

/// Claims and publishes until `stop`; the current chunk is finished first. `turn` selects the next domain: the workers
/// share it, so that the files of a domain wait for the files in progress at most, and not for the backlog of another
/// domain. Files with failed attempts are for half of the workers; if there is one worker, for every second turn.
pub(crate) async fn run(
    listener: Arc<Listener>,
    turn: Arc<AtomicUsize>,
    stop: CancellationToken,
) -> Result<(), IngestError> {
    let pause = Duration::from_millis(listener.settings.claim_interval_ms);
    let is_alone = listener.settings.workers == 1;
    let mut may_retry = true;
    let mut failures = 0;
    let mut has_waited = false;
    while !stop.is_cancelled() {
        // Listens before it looks, so that objects registered in between are not missed.
        let woken = listener.work_to_do.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let place = listener.retries.place().filter(|_| may_retry);
        may_retry = !is_alone || place.is_none();
        match claim(&listener, &turn, place).await {
            Ok((claims, place)) if !claims.is_empty() => {
                failures = 0;
                if std::mem::take(&mut has_waited) {
                    // Nobody announced this work: there may be more, and the other workers do not look while they wait.
                    listener.work_to_do.notify_waiters();
                }
                attempt_all(&listener, claims, &stop).await?;
                drop(place);
            }
            // Nothing new: those with failed attempts are next.
            Ok(_) if is_alone && may_retry => {}
            Ok(_) => {
                has_waited = tokio::select! {
                    () = woken => false,
                    () = wait_for_a_look(&listener, pause) => true,
                    () = stop.cancelled() => false,
                };
            }
            Err(error) => {
                failures += 1;
                end_or_wait(&listener, "claim an object in the ledger", error, failures, &stop).await?;
            }
        }
    }
    Ok(())
}

/// Waits until it is this worker's turn to look for work that was not announced: one waiting worker looks in each pause.
async fn wait_for_a_look(listener: &Listener, pause: Duration) {
    let _turn = listener.looks.lock().await;
    tokio::time::sleep(pause).await;
}

/// Takes files with failed attempts only if there is a place for them. It is kept for such a file, and given back with
/// any other.
async fn claim<'a>(
    listener: &'a Listener,
    turns: &AtomicUsize,
    place: Option<SemaphorePermit<'a>>,
) -> Result<(Vec<Claim>, Option<SemaphorePermit<'a>>), sqlx::Error> {
    let retries = &listener.retries;
    let turns = if place.is_some() { &retries.turn } else { turns };
    let turn = turns.fetch_add(1, Ordering::Relaxed);
    let open = |(domain, partitions): (&'static Domain, i32)| OpenDomain {
        name: domain.name,
        numbering: listener.numbering(domain, partitions),
        tried: retries.tried(domain.name),
    };
    let domains: Vec<OpenDomain<'_>> = listener.gate.open_domains(turn).into_iter().map(open).collect();
    if domains.is_empty() {
        return Ok((Vec::new(), None));
    }
    let take = Take {
        sent_again_first: is_turn_of_sent_again(turn, listener.domains.len()),
        failed: place.is_some(),
        objects_max: group::OBJECTS_MAX as i64,
        small_bytes: group::small_bytes(listener.settings.chunk_bytes) as i64,
    };
    let claims = ledger::claim(&listener.pool, listener.claimant(), &domains, take).await?;
    if let (Some(_), Some(first)) = (&place, claims.first()) {
        retries.claimed(&first.object);
    }
    let has_failed = claims.iter().any(|claim| claim.object.attempts > 0);
    Ok((claims, place.filter(|_| has_failed)))
}

/// Whether objects that are sent again come before new ones: in one of [`ROUNDS`] rounds (in a round, each domain is
/// first once). So a history that is sent again does not delay new files for long, and a steady stream of new files
/// does not stop it.
fn is_turn_of_sent_again(turn: usize, domains: usize) -> bool {
    (turn / domains.max(1)) % ROUNDS == ROUNDS - 1
}

/// Waits after a transient error; an error of the schema or of permissions ends the listener.
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
    tracing::warn!(%error, "cannot {action}, trying again");
    stop.run_until_cancelled(tokio::time::sleep(listener.back_off().after(failures))).await;
    Ok(())
}

async fn attempt_all(
    listener: &Arc<Listener>,
    mut claims: Vec<Claim>,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    metrics::CLAIMED_OBJECTS.observe(claims.len() as f64);
    let recorded = match (claims.len(), claims.pop()) {
        (1, Some(claim)) => attempt_apart(listener, claim, stop).await,
        (_, last) => {
            claims.extend(last);
            group::attempt(listener, claims, stop).await
        }
    };
    match recorded {
        Ok(()) => Ok(()),
        Err(error) => end_or_wait(listener, RECORD_OUTCOME, error, 1, stop).await,
    }
}

/// Makes one attempt in its own task: a panic caused by one object is a failed attempt, and stops neither the listener
/// nor the other objects.
async fn attempt_apart(listener: &Arc<Listener>, claim: Claim, stop: &CancellationToken) -> Result<(), sqlx::Error> {
    let (id, version) = (claim.object.id, claim.object.version.clone());
    let task = tokio::spawn(attempt(Arc::clone(listener), claim, stop.clone()));
    task.await.unwrap_or_else(|panic| {
        outcome::panicked(id, &version, &panic);
        Ok(())
    })
}

/// One attempt at one object, and its outcome in the ledger. If the outcome cannot be written, the lease expires and
/// another attempt follows.
async fn attempt(listener: Arc<Listener>, mut claim: Claim, stop: CancellationToken) -> Result<(), sqlx::Error> {
    let listener = listener.as_ref();
    let lease = listener.leases.hold(&claim.object);
    failpoint::reach(Point::Claimed);
    let (started, began) = (Instant::now(), SystemTime::now());
    let ended = publish::publish(listener, &mut claim, &lease, &stop).await;
    outcome::ended_with(listener, claim, ended, started.elapsed(), began).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_have_three_turns_of_four_and_each_domain_is_first_in_either_kind() {
        let domains = 3;
        let turns: Vec<(usize, bool)> =
            (0..24).map(|turn| (turn % domains, is_turn_of_sent_again(turn, domains))).collect();
        assert_eq!(turns.iter().filter(|(_, again)| *again).count(), 24 / ROUNDS);
        for domain in 0..domains {
            let of_domain = |again: bool| turns.iter().filter(|turn| **turn == (domain, again)).count();
            assert_eq!((of_domain(true), of_domain(false)), (2, 6), "domain {domain}");
        }
        assert!(is_turn_of_sent_again(3, 0), "no domain, no fault");
    }
}
