//! The sweeper: checks periodically whether published objects have arrived, and logs the result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_sinks::ledger::{self, Arrived, Object, ObjectState, Swept};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::{Domain, trace};
use tokio_util::sync::CancellationToken;

use crate::{IngestError, Listener, metrics};

/// Time between two looks for overwritten versions that are not replaced yet: most are replaced when the newer one is
/// applied.
const REPLACE_INTERVAL: Duration = Duration::from_secs(60);
/// While no object waits, the time between two sweeps grows up to this many intervals.
const IDLE_INTERVALS_MAX: u32 = 8;

/// Sweeps every domain at the interval: four times as often while published objects wait for their rows, and less and
/// less often while none does.
pub(crate) async fn run(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let interval = Duration::from_millis(listener.settings.sweep_interval_ms);
    let (mut failures, mut replaced_at, mut pause) = (0, None, interval);
    while !stop.is_cancelled() {
        pause = match sweep_all(&listener, &mut replaced_at).await {
            Ok(waiting) => next_pause(pause, interval, waiting),
            Err(error) if error_kind(&error) == ErrorKind::Schema => {
                return Err(IngestError::Schema { action: "sweep the ledger", source: error });
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "cannot sweep the ledger, trying again");
                stop.run_until_cancelled(tokio::time::sleep(listener.back_off().after(failures))).await;
                continue;
            }
        };
        failures = 0;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A newly published object is not applied yet: look soon, not immediately.
            () = async { listener.sweep_to_do.notified().await; tokio::time::sleep(interval / 4).await } => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// The time until the next sweep. An object published by this listener ends it early.
///
/// | objects wait | next |
/// |---|---|
/// | some | a quarter of the interval |
/// | none | twice as long as before, from one interval to [`IDLE_INTERVALS_MAX`] |
fn next_pause(so_far: Duration, interval: Duration, waiting: u64) -> Duration {
    match waiting {
        0 => (so_far * 2).clamp(interval, interval * IDLE_INTERVALS_MAX),
        _ => interval / 4,
    }
}

/// Sweeps, and from time to time looks for overwritten versions that are not replaced yet.
async fn sweep_all(listener: &Listener, replaced_at: &mut Option<Instant>) -> Result<u64, sqlx::Error> {
    if replaced_at.is_none_or(|at| at.elapsed() >= REPLACE_INTERVAL) {
        for domain in &listener.domains {
            report_replaced(domain, ledger::replace_overwritten(&listener.pool, domain).await?);
        }
        *replaced_at = Some(Instant::now());
    }
    sweep_domains(listener).await
}

/// Sweeps each domain once; returns how many objects wait.
async fn sweep_domains(listener: &Listener) -> Result<u64, sqlx::Error> {
    let mut waiting = 0;
    for domain in &listener.domains {
        let mut looked_at = Vec::new();
        let swept = ledger::sweep(&listener.pool, domain, listener.back_off(), |object| {
            looked_at.push(object.id);
            listener.gate.observe_loss(domain.name, object)
        })
        .await?;
        listener.gate.forget_all_but(domain.name, &looked_at);
        report(domain, &swept);
        if !swept.repaired.is_empty() {
            listener.work_to_do.notify_waiters();
        }
        waiting += swept.waiting;
        ledger::name_late_rows(&listener.pool, domain.name).await?.iter().for_each(report_late_rows);
    }
    Ok(waiting)
}

fn report(domain: &Domain, swept: &Swept) {
    let label = [domain.name];
    report_replaced(domain, swept.replaced);
    metrics::OBJECTS_APPLIED.with_label_values(&label).inc_by(swept.applied.len() as u64);
    metrics::OBJECTS_REPAIRED.with_label_values(&label).inc_by(swept.repaired.len() as u64);
    for (object, received) in &swept.repaired {
        report_repair(object, *received);
    }
    // The freshness of a file that was sent again is that of the first time.
    for Arrived { object, freshness_seconds, .. } in swept.applied.iter().filter(|arrived| arrived.is_new) {
        metrics::FRESHNESS.with_label_values(&label).observe(*freshness_seconds);
        let detail = trace::Detail {
            domain: Some(domain.name),
            key: Some(&object.version.key),
            outcome: Some(ObjectState::Applied.name()),
            rows: object.rows,
            ..trace::Detail::default()
        };
        trace::passed(object.id, trace::FILE, object.version.last_modified.into(), detail);
    }
}

fn report_replaced(domain: &Domain, rows: i64) {
    if rows > 0 {
        metrics::ROWS_REPLACED.with_label_values(&[domain.name]).inc_by(rows.unsigned_abs());
        tracing::info!(
            domain = domain.name,
            rows,
            "removed rows from the table that newer versions of their files no longer have"
        );
    }
}

fn report_late_rows(object: &Object) {
    tracing::warn!(
        object = %object.version,
        id = object.id,
        "rows arrived from a version that S3 no longer has: an earlier failed attempt had sent them"
    );
}

fn report_repair(object: &Object, received: i64) {
    tracing::warn!(
        domain = object.domain,
        bucket = object.version.bucket,
        key = object.version.key,
        object = object.id,
        rows = object.rows,
        received,
        repair = object.repairs + 1,
        "rows of a published object are missing in the topic: publishing it again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_come_often_while_objects_wait_and_seldom_while_none_does() {
        let interval = Duration::from_millis(100);
        let (mut pause, mut seen) = (interval, Vec::new());
        for waiting in [0, 0, 0, 0, 0, 5, 1, 0, 0] {
            pause = next_pause(pause, interval, waiting);
            seen.push(pause.as_millis());
        }
        assert_eq!(seen, [200, 400, 800, 800, 800, 25, 25, 100, 200]);
    }
}
