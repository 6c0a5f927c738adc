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

/// The time between two checks is at least this many times as long as one takes.
const REST_FACTOR: u32 = 20;

/// The result of one check, and how long it took.
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
        let look = async move {
            let began = Instant::now();
            (store.verify(resume_after.as_deref()).await, began.elapsed())
        };
        // If something is found missing from now on, another check is made.
        self.next_at = Some(Instant::now() + self.interval);
        self.running = Some(AbortOnDropHandle::new(tokio::spawn(look)));
    }

    /// Records the result. An error does not prevent publishing.
    fn found(&mut self, found: Result<Damage, OutputError>, took: Duration) {
        let rest = self.interval.max(took * REST_FACTOR);
        match found {
            Ok(damage) => {
                // There is more damage than one check covers: the next one follows as soon as this is restored.
                let more = damage.resume_after.is_some() && !damage.missing.is_empty();
                // `None` if a check was requested meanwhile.
                self.next_at = self.next_at.filter(|_| !more).map(|_| Instant::now() + rest);
                self.damage = damage;
            }
            Err(error) => {
                self.next_at = Some(Instant::now() + rest);
                metrics::ERRORS.inc();
                tracing::warn!(%error, "cannot verify the outputs, trying again");
            }
        }
    }
}
