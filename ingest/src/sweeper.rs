//! The sweeper: checks periodically whether published objects have arrived, and logs the result.
//!
//! A domain that fails waits by itself: a table that somebody has locked, or a row that cannot be removed, delays no
//! file of another domain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_sinks::ledger::{self, Arrived, Object, ObjectState, Swept};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::{Domain, trace};
use tokio_util::sync::CancellationToken;

use crate::{IngestError, Listener, metrics};

/// Time between two looks for what is seldom there: overwritten versions that are not replaced yet (most are replaced when
/// the newer one is applied), and late rows, for which all versions that were ever given up are read.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// While no object waits, the time between two sweeps grows up to this many intervals.
const IDLE_INTERVALS_MAX: u32 = 8;
/// A domain rests at least so many times as long as its sweep took, so that sweeps over many waiting objects take a fifth
/// of the time: batches of rows compete with them. The other domains do not rest with it.
const PAUSE_PER_SWEEP: u32 = 4;
/// The longest of these rests. A sweep takes seconds at most; one that takes longer has waited, for a lock or for
/// Postgres, and its files are late already.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sweeps every domain at the interval: four times as often while published objects wait for their rows, and less and
/// less often while none does.
pub(crate) async fn run(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let interval = Duration::from_millis(listener.settings.sweep_interval_ms);
    let mut turns: Vec<Turn> = listener.domains.iter().copied().map(Turn::new).collect();
    let mut pause = interval;
    while !stop.is_cancelled() {
        for turn in &mut turns {
            if turn.is_due() {
                turn.sweep(&listener).await?;
                turn.look(&listener).await?;
            }
        }
        pause = next_pause(pause, interval, turns.iter().map(|turn| turn.waiting).sum());
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

/// What is remembered of a domain between two sweeps.
struct Turn {
    domain: &'static Domain,
    /// Sweeps in a row that failed.
    failures: u32,
    /// After a failure or a long sweep, when it is swept again.
    again_at: Option<Instant>,
    /// How many of its objects waited in the last sweep that did not fail.
    waiting: u64,
    /// When what is seldom there was last looked for.
    looked_at: Option<Instant>,
}

impl Turn {
    fn new(domain: &'static Domain) -> Self {
        Turn { domain, failures: 0, again_at: None, waiting: 0, looked_at: None }
    }

    fn is_due(&self) -> bool {
        self.again_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Sweeps the domain. After a failure or a long sweep it is passed over for a while.
    async fn sweep(&mut self, listener: &Listener) -> Result<(), IngestError> {
        let error = match sweep_domain(listener, self.domain).await {
            Ok((waiting, took)) => {
                self.swept(waiting, took);
                return Ok(());
            }
            Err(error) => tolerated(error)?,
        };
        self.failures += 1;
        let pause = listener.back_off().after(self.failures);
        self.again_at = Some(Instant::now() + pause);
        let (domain, failures, pause_ms) = (self.domain.name, self.failures, pause.as_millis() as u64);
        tracing::warn!(domain, %error, failures, pause_ms, "cannot sweep the ledger, trying again");
        Ok(())
    }

    /// Notes a sweep that did not fail: how many objects wait, and how long it took.
    fn swept(&mut self, waiting: u64, took: Duration) {
        (self.failures, self.waiting) = (0, waiting);
        self.again_at = Some(Instant::now() + (took * PAUSE_PER_SWEEP).min(PAUSE_MAX));
    }

    /// From time to time looks for what is seldom there. After a failure too, the next look is that of the next interval.
    async fn look(&mut self, listener: &Listener) -> Result<(), IngestError> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        if let Err(error) = look_at_versions(listener, self.domain).await {
            let (domain, error) = (self.domain.name, tolerated(error)?);
            tracing::warn!(domain, %error, "cannot replace overwritten versions or name late rows, trying again");
        }
        Ok(())
    }
}

/// The error again, unless it has to end the process.
fn tolerated(error: sqlx::Error) -> Result<sqlx::Error, IngestError> {
    match error_kind(&error) {
        ErrorKind::Schema => Err(IngestError::Schema { action: "sweep the ledger", source: error }),
        ErrorKind::Row | ErrorKind::Transient => Ok(error),
    }
}

/// Sweeps a domain once; returns how many objects wait, and how long it took.
async fn sweep_domain(listener: &Listener, domain: &Domain) -> Result<(u64, Duration), sqlx::Error> {
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
    swept.failure.map_or(Ok((swept.waiting, swept.took)), Err)
}

/// Names late rows, and replaces overwritten versions that are not replaced yet.
async fn look_at_versions(listener: &Listener, domain: &Domain) -> Result<(), sqlx::Error> {
    ledger::name_late_rows(&listener.pool, domain.name).await?.iter().for_each(report_late_rows);
    report_replaced(domain, ledger::replace_overwritten(&listener.pool, domain).await?);
    Ok(())
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

    #[test]
    fn a_domain_rests_after_a_long_sweep_four_times_as_long_but_not_for_ever() {
        let mut turn = Turn::new(freshet_topics::DOMAINS[0]);
        assert!(turn.is_due());
        turn.swept(7, Duration::ZERO);
        assert!(turn.is_due());
        for (took_s, rest_s) in [(5, 20), (3_600, 30)] {
            let now = Instant::now();
            turn.swept(7, Duration::from_secs(took_s));
            let rest = turn.again_at.map(|at| at - now).expect("it rests");
            assert!(!turn.is_due() && rest.abs_diff(Duration::from_secs(rest_s)) < Duration::from_secs(1), "{rest:?}");
        }
    }
}
