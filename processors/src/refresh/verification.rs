//! Periodic checks whether the published files still exist. They run beside the publications, which do not wait for
//! them.
//!
//! A check lists all data files, so it takes longer the longer the history is, and new changes should not wait for it.
//! Only a publisher's first check comes before its first publication, so that earlier deletions are known from the
//! start.

use std::time::{Duration, Instant};

use freshet_sinks::outputs::{Damage, OutputError, Store};
use tokio_util::task::AbortOnDropHandle;

use super::metrics;
use super::pace::measured;

/// The time between two checks is this many times as long as one takes, if that is longer than the interval.
const REST_FACTOR: u32 = 20;
/// The longest time between two checks, unless the interval is longer. A check takes long while S3 is slow, which says
/// little about the next one, and what is deleted by hand must not stay away for hours.
const REST_MAX: Duration = Duration::from_secs(3_600);

/// The result of one check, and how long it worked.
type Look = (Result<Damage, OutputError>, Duration);

/// The checks of a publisher.
pub(super) struct Verification {
    store: Store,
    interval: Duration,
    /// What the last check found and no publication has restored yet.
    pub(super) damage: Damage,
    /// When the next check begins; `None`: now.
    next_at: Option<Instant>,
    is_first: bool,
    running: Option<AbortOnDropHandle<Look>>,
}

impl Verification {
    pub(super) fn new(store: Store, interval: Duration) -> Self {
        Verification { store, interval, damage: Damage::default(), next_at: None, is_first: true, running: None }
    }

    /// Requests a check as soon as possible, because something was found missing.
    pub(super) fn soon(&mut self) {
        self.next_at = None;
    }

    /// Takes the result of a finished check, and begins the next one if it is time. Waits for the first check.
    pub(super) async fn take_up(&mut self) {
        if self.is_first || self.running.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            self.ended().await;
        }
        self.begin_if_due();
    }

    /// Returns once a check has ended, the current one or the next. May be dropped and called again.
    pub(super) async fn ended(&mut self) {
        if self.running.is_none() {
            let wait = self.next_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            tokio::time::sleep(wait).await;
            self.begin_if_due();
        }
        let Some(running) = &mut self.running else { return };
        let ended = running.await;
        self.running = None;
        self.is_first = false;
        match ended {
            Ok((found, took)) => self.found(found, took),
            // It panicked, or the program is stopping.
            Err(error) => {
                self.next_at = Some(Instant::now() + self.interval);
                tracing::warn!(%error, "cannot verify the outputs, trying again");
            }
        }
    }

    fn begin_if_due(&mut self) {
        let is_due = self.next_at.is_none_or(|at| at <= Instant::now());
        if !is_due || self.running.is_some() {
            return;
        }
        let (store, resume_after) = (self.store.clone(), self.damage.resume_after.clone());
        let look = async move { measured(store.verify(resume_after.as_deref())).await };
        // If something is found missing from now on, another check is made.
        self.next_at = Some(Instant::now() + self.interval);
        self.running = Some(AbortOnDropHandle::new(tokio::spawn(look)));
    }

    /// Records the result. An error does not prevent publishing.
    fn found(&mut self, found: Result<Damage, OutputError>, took: Duration) {
        match found {
            Ok(damage) => {
                // There is more damage than one check covers: the next one follows as soon as this is restored.
                let more = damage.resume_after.is_some() && !damage.missing.is_empty();
                // `None` if a check was requested meanwhile.
                let rest = rest_after(took, self.interval);
                self.next_at = self.next_at.filter(|_| !more).map(|_| Instant::now() + rest);
                self.damage = damage;
            }
            Err(error) => {
                self.next_at = Some(Instant::now() + self.interval);
                metrics::ERRORS.inc();
                tracing::warn!(%error, "cannot verify the outputs, trying again");
            }
        }
    }
}

/// How long until the next check, after one that ended without an error.
///
/// | interval | took | rest |
/// |---|---|---|
/// | 5 minutes | 1 s | 5 minutes |
/// | 5 minutes | 60 s | 20 minutes |
/// | 5 minutes | 10 minutes | an hour |
/// | 2 hours | 10 minutes | 2 hours |
fn rest_after(took: Duration, interval: Duration) -> Duration {
    (took * REST_FACTOR).min(REST_MAX).max(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_check_makes_the_next_one_wait_for_an_hour_at_most() {
        let cases = [(300, 1, 300), (300, 60, 1_200), (300, 600, 3_600), (300, 100_000, 3_600), (7_200, 600, 7_200)];
        for (interval_s, took_s, rest_s) in cases {
            let rest = rest_after(Duration::from_secs(took_s), Duration::from_secs(interval_s));
            assert_eq!(rest, Duration::from_secs(rest_s), "{interval_s} {took_s}");
        }
    }
}
