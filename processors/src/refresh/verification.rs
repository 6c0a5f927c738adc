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
    /// When the next check begins; `None`: now. A check that begins sets it, so `None` while one runs means that another
    /// one was requested.
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
                self.rest(self.interval);
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
                match more {
                    true => self.soon(),
                    false => self.rest(rest_after(took, self.interval)),
                }
                self.damage = damage;
            }
            Err(error) => {
                self.rest(self.interval);
                metrics::ERRORS.inc();
                tracing::warn!(%error, "cannot verify the outputs, trying again");
            }
        }
    }

    /// The check that has just ended is followed by the next one after `rest`, or now if it was requested meanwhile:
    /// what was found missing then may be what this one did not see. Each request is good for one check.
    fn rest(&mut self, rest: Duration) {
        self.next_at = self.next_at.map(|_| Instant::now() + rest);
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
    use freshet_sinks::s3::{self, S3Settings};

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    /// The checks of a publisher, one of which is running, in a store that is never asked.
    async fn one_is_running() -> Verification {
        let endpoint = "http://127.0.0.1:9".to_owned();
        let (access_key_id, secret_access_key) = ("key".into(), "secret".into());
        let region = "us-east-1".to_owned();
        let settings = S3Settings { endpoint, region, access_key_id, secret_access_key, ..S3Settings::default() };
        let store = Store::new(s3::client(&settings).await, "processed");
        let mut verification = Verification::new(store, INTERVAL);
        verification.next_at = Some(Instant::now() + INTERVAL);
        verification.running = Some(AbortOnDropHandle::new(tokio::spawn(std::future::pending())));
        verification
    }

    /// Ends the check that is running like this; `None`: it is killed.
    async fn end(verification: &mut Verification, found: Option<Result<Damage, OutputError>>) {
        let look = match found {
            Some(found) => tokio::spawn(async move { (found, Duration::ZERO) }),
            None => {
                let look = tokio::spawn(std::future::pending());
                look.abort();
                look
            }
        };
        verification.running = Some(AbortOnDropHandle::new(look));
        verification.ended().await;
    }

    fn no_answer() -> OutputError {
        let (bucket, key) = ("processed".to_owned(), "metrics/current.json".to_owned());
        OutputError::Request { action: "read", bucket, key, message: "no answer".into() }
    }

    fn is_resting(verification: &Verification) -> bool {
        verification.next_at.is_some_and(|at| at > Instant::now())
    }

    #[tokio::test]
    async fn a_check_that_was_requested_while_another_one_ran_comes_next_however_that_one_ended() {
        let ends = || [Some(Ok(Damage::default())), Some(Err(no_answer())), None];
        for (index, found) in ends().into_iter().enumerate() {
            let mut verification = one_is_running().await;
            verification.soon();
            end(&mut verification, found).await;
            assert_eq!(verification.next_at, None, "{index}");
        }
        for (index, found) in ends().into_iter().enumerate() {
            let mut verification = one_is_running().await;
            end(&mut verification, found).await;
            assert!(is_resting(&verification), "{index}");
        }
    }

    #[tokio::test]
    async fn a_requested_check_that_fails_is_repeated_after_a_rest() {
        let mut verification = one_is_running().await;
        verification.soon();
        end(&mut verification, Some(Err(no_answer()))).await;
        verification.begin_if_due();
        assert!(verification.running.is_some());
        end(&mut verification, Some(Err(no_answer()))).await;
        assert!(is_resting(&verification));
    }

    #[test]
    fn a_slow_check_makes_the_next_one_wait_for_an_hour_at_most() {
        let cases = [(300, 1, 300), (300, 60, 1_200), (300, 600, 3_600), (300, 100_000, 3_600), (7_200, 600, 7_200)];
        for (interval_s, took_s, rest_s) in cases {
            let rest = rest_after(Duration::from_secs(took_s), Duration::from_secs(interval_s));
            assert_eq!(rest, Duration::from_secs(rest_s), "{interval_s} {took_s}");
        }
    }
}
