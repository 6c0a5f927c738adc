//! Records the state of the event queue in Postgres, for `freshet status` and the status page, and has listings find the
//! files once it is long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use freshet_sinks::event_queue::{self, Seen};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::queue::{EventQueue, Fate};
use crate::Listener;

/// The time between two records: each costs a small write and a request.
const INTERVAL: Duration = Duration::from_secs(5);
/// While more messages wait, listings are due: one request lists a thousand files, and a message takes several requests.
const WAITING_MAX: i64 = 1_000;
/// The most characters stored of a failure: SDKs print everything that they know.
const FAILURE_CHARS_MAX: usize = 500;

/// The observations of the queue since the last record.
#[derive(Default)]
pub(super) struct SeenQueue(Mutex<Seen>);

impl SeenQueue {
    pub(super) fn answered(&self, is_told: bool) {
        self.change(|seen| {
            (seen.is_answered, seen.failure) = (true, None);
            seen.is_told |= is_told;
        });
    }

    pub(super) fn failed(&self, error: &str) {
        self.change(|seen| seen.failure = Some(error.chars().take(FAILURE_CHARS_MAX).collect()));
    }

    pub(super) fn became(&self, fate: Fate) {
        self.change(|Seen { counts, .. }| {
            let count = match fate {
                Fate::Settled => &mut counts.settled,
                Fate::Other => &mut counts.other,
                Fate::Left => &mut counts.come_again,
                Fate::Unreadable => &mut counts.unreadable,
            };
            *count += 1;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the observations to be written. A failure stays until the queue answers.
    fn take(&self) -> Seen {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = seen.failure.clone();
        std::mem::replace(&mut *seen, Seen { failure, ..Seen::default() })
    }

    /// The write failed: its counts are added to the next one.
    fn put_back(&self, old: &Seen) {
        self.change(|seen| {
            seen.is_answered |= old.is_answered;
            seen.is_told |= old.is_told;
            seen.counts += old.counts;
        });
    }

    /// Writes until `stop`, and once more then. What is written is for people only: if Postgres does not answer, it is
    /// written later.
    pub(super) async fn keep(&self, listener: &Listener, queue: &EventQueue, stop: &CancellationToken) {
        let mut goes_on = true;
        while goes_on {
            goes_on = stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some();
            let mut seen = self.take();
            if goes_on {
                seen.messages = stop.run_until_cancelled(queue.messages()).await.flatten();
            }
            if seen.messages.is_some_and(|(waiting, _)| waiting > WAITING_MAX) {
                // Which domains the messages are about is known only once they are received.
                listener.domains.iter().for_each(|domain| listener.hints.want_listing(domain));
            }
            if let Err(error) = event_queue::note(&listener.pool, queue.url(), &seen).await {
                tracing::debug!(%error, "note the state of the event queue");
                self.put_back(&seen);
            }
        }
    }
}

/// Deletes what is known about an earlier queue if none is set. It is for people only: no listener waits for it.
pub(crate) async fn forget(pool: &PgPool) {
    if let Err(error) = event_queue::forget(pool).await {
        tracing::debug!(%error, "forget the event queue that is no longer set");
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::event_queue::MessageCounts;

    use super::*;

    #[test]
    fn what_was_not_written_is_written_the_next_time_and_a_failure_lasts_until_an_answer() {
        let seen = SeenQueue::default();
        seen.answered(true);
        seen.became(Fate::Settled);
        seen.became(Fate::Unreadable);
        seen.failed("access denied");
        let first = seen.take();
        let failure = Some("access denied".to_owned());
        let counts = MessageCounts { settled: 1, unreadable: 1, ..MessageCounts::default() };
        let expected = Seen { is_answered: true, is_told: true, counts, failure: failure.clone(), messages: None };
        assert_eq!(first, expected);
        seen.put_back(&first);
        seen.became(Fate::Settled);
        assert_eq!(seen.take(), Seen { counts: MessageCounts { settled: 2, ..counts }, ..expected });
        assert_eq!(seen.take(), Seen { failure, ..Seen::default() });
        seen.answered(false);
        assert_eq!(seen.take(), Seen { is_answered: true, ..Seen::default() });
    }
}
