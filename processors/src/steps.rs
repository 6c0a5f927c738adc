//! The steps of the current assignment, as the loop sees them: they take records in their order, or hold one back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use freshet_topics::causes::in_one_line;
use sentry_arroyo::processing::strategies::{
    CommitRequest, InvalidMessage, MessageRejected, ProcessingStrategy, StrategyError, SubmitError,
};
use sentry_arroyo::types::{BrokerMessage, InnerMessage, Message};
use sentry_arroyo::utils::timing::Deadline;

use crate::clock;
use crate::record::Consumed;

/// How long steps that finish rest before they look again.
const FINISHING_PAUSE: Duration = Duration::from_millis(2);

/// The steps of the current assignment, if there is one. The loop uses them; assignments put them there and take them away.
#[derive(Clone, Default)]
pub(crate) struct CurrentSteps(Arc<Mutex<Option<Steps>>>);

impl CurrentSteps {
    /// The steps, until the guard is dropped. The consumer must not be polled or dropped meanwhile: it takes this lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Steps>> {
        // Steps that have panicked are only dropped.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps of an assignment.
pub(crate) struct Steps {
    first: Box<dyn ProcessingStrategy<Consumed>>,
    finishing: Finishing,
    held: Option<Held>,
    /// Whether going on has failed: that is known, and what follows from it is not told.
    has_failed: bool,
    /// Whether the partitions are paused, because a record has been held back for long. A new assignment is not.
    pub(crate) is_paused: bool,
}

/// A record that the steps do not take for now.
struct Held {
    message: Message<Consumed>,
    since: Instant,
}

/// Why an assignment cannot go on; the processor joins its group again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepsError {
    #[error("{0}")]
    Step(String),
    #[error("they did not finish within {0:?}")]
    TimeOver(Duration),
    #[error("a step refused the record of partition {} at offset {}", .0.partition.index, .0.offset)]
    Refused(InvalidMessage),
    #[error("a record of partition {0} came while no partition is assigned")]
    NotAssigned(u16),
    #[error("a record of partition {0} came while another one is held back")]
    Unexpected(u16),
}

impl From<InvalidMessage> for StepsError {
    fn from(refused: InvalidMessage) -> Self {
        StepsError::Refused(refused)
    }
}

impl From<StrategyError> for StepsError {
    fn from(error: StrategyError) -> Self {
        match error {
            StrategyError::Other(error) => StepsError::Step(in_one_line(error.as_ref())),
            StrategyError::InvalidMessage(refused) => refused.into(),
        }
    }
}

impl Steps {
    /// Steps of which the first one is this; the last one rests with `finishing`.
    pub(crate) fn new(first: impl ProcessingStrategy<Consumed> + 'static, finishing: Finishing) -> Steps {
        Steps { first: Box::new(first), finishing, held: None, has_failed: false, is_paused: false }
    }

    /// Hands a record to the steps, or the one that they did not take before, and lets them go on. Gives how far Kafka's
    /// group may commit.
    ///
    /// # Errors
    /// If the assignment cannot go on: a step failed, or a record came while another one, which it would overtake, is held
    /// back.
    pub(crate) fn go_on(
        &mut self,
        record: Option<BrokerMessage<Consumed>>,
    ) -> Result<Option<CommitRequest>, StepsError> {
        let gone_on = self.try_go_on(record);
        self.has_failed |= gone_on.is_err();
        gone_on
    }

    fn try_go_on(&mut self, record: Option<BrokerMessage<Consumed>>) -> Result<Option<CommitRequest>, StepsError> {
        if let Some(record) = record {
            if self.held.is_some() {
                return Err(StepsError::Unexpected(record.partition.index));
            }
            let message = Message { inner_message: InnerMessage::BrokerMessage(record) };
            self.held = Some(Held { message, since: Instant::now() });
        }
        if let Some(Held { message, since }) = self.held.take() {
            match self.first.submit(message) {
                Ok(()) => {}
                Err(SubmitError::MessageRejected(MessageRejected { message })) => {
                    self.held = Some(Held { message, since });
                }
                Err(SubmitError::InvalidMessage(refused)) => return Err(refused.into()),
            }
        }
        Ok(self.first.poll()?)
    }

    /// How long a record has been held back, if one is.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        self.held.as_ref().map(|held| held.since.elapsed())
    }

    /// Writes what was taken, for as long as `timeout` allows; the rest is read again by the next owner.
    ///
    /// # Errors
    /// If not all of it could be written, or the time was over before, unless that follows from an error that
    /// [`Steps::go_on`] gave.
    pub(crate) fn finish(mut self, timeout: Duration) -> Result<Option<CommitRequest>, StepsError> {
        // Arroyo's steps give up without an error, by this clock.
        clock::set();
        let deadline = Deadline::new(timeout);
        self.finishing.0.store(true, Ordering::Relaxed);
        // The consumer, which waits for it, has to give its partitions back whatever happens here.
        let joined = catch_unwind(AssertUnwindSafe(|| self.first.join(Some(timeout))));
        let joined = joined.unwrap_or_else(|_| Err(StrategyError::Other("a step panicked".into())));
        match joined {
            Err(_) if self.has_failed => Ok(None),
            Ok(_) if deadline.has_elapsed() && !self.has_failed => Err(StepsError::TimeOver(timeout)),
            joined => Ok(joined?),
        }
    }
}

/// Whether the steps of an assignment finish.
#[derive(Clone, Default)]
pub(crate) struct Finishing(Arc<AtomicBool>);

/// The last step, which rests whenever it is looked at while the steps finish. Arroyo's steps look at the next one again and
/// again until their work is done, and would keep a core busy for as long as Postgres takes.
pub(crate) struct Resting<N> {
    last: N,
    finishing: Finishing,
}

impl<N> Resting<N> {
    pub(crate) fn new(last: N, finishing: Finishing) -> Self {
        Resting { last, finishing }
    }
}

impl<T, N: ProcessingStrategy<T>> ProcessingStrategy<T> for Resting<N> {
    fn poll(&mut self) -> Result<Option<CommitRequest>, StrategyError> {
        if self.finishing.0.load(Ordering::Relaxed) {
            thread::sleep(FINISHING_PAUSE);
        }
        self.last.poll()
    }

    fn submit(&mut self, message: Message<T>) -> Result<(), SubmitError<T>> {
        self.last.submit(message)
    }

    fn terminate(&mut self) {
        self.last.terminate();
    }

    fn join(&mut self, timeout: Option<Duration>) -> Result<Option<CommitRequest>, StrategyError> {
        self.last.join(timeout)
    }
}

#[cfg(test)]
mod tests {
    use sentry_arroyo::types::{Partition, Topic};

    use super::*;

    /// A step that takes records or not, and counts those that it took as applied.
    #[derive(Clone, Default)]
    struct Fake {
        is_full: Arc<AtomicBool>,
        taken: Arc<Mutex<Vec<u64>>>,
    }

    impl Fake {
        fn taken(&self) -> Vec<u64> {
            self.taken.lock().expect("not poisoned").clone()
        }
    }

    impl ProcessingStrategy<Consumed> for Fake {
        fn poll(&mut self) -> Result<Option<CommitRequest>, StrategyError> {
            Ok(self.taken().last().map(|offset| CommitRequest { positions: [(partition(), offset + 1)].into() }))
        }

        fn submit(&mut self, message: Message<Consumed>) -> Result<(), SubmitError<Consumed>> {
            let InnerMessage::BrokerMessage(BrokerMessage { offset, .. }) = message.inner_message else { panic!() };
            if self.is_full.load(Ordering::Relaxed) {
                return Err(MessageRejected { message }.into());
            }
            self.taken.lock().expect("not poisoned").push(offset);
            Ok(())
        }

        fn terminate(&mut self) {}

        fn join(&mut self, _timeout: Option<Duration>) -> Result<Option<CommitRequest>, StrategyError> {
            self.poll()
        }
    }

    fn partition() -> Partition {
        Partition::new(Topic::new("steps-test"), 3)
    }

    fn record(offset: u64) -> Option<BrokerMessage<Consumed>> {
        Some(BrokerMessage::new(Consumed::Stream, partition(), offset, Default::default()))
    }

    fn committed(positions: Option<CommitRequest>) -> Option<u64> {
        positions?.positions.get(&partition()).copied()
    }

    #[test]
    fn a_record_that_is_not_taken_is_held_back_and_comes_before_the_next() {
        let step = Fake::default();
        let mut steps = Steps::new(step.clone(), Finishing::default());
        assert_eq!(committed(steps.go_on(record(5)).expect("taken")), Some(6));
        step.is_full.store(true, Ordering::Relaxed);
        for record in [record(6), None] {
            assert_eq!(committed(steps.go_on(record).expect("held back")), Some(6));
            assert!(steps.held_for().is_some());
        }
        let unexpected = steps.go_on(record(7)).expect_err("it would overtake the other").to_string();
        assert_eq!(unexpected, "a record of partition 3 came while another one is held back");
        step.is_full.store(false, Ordering::Relaxed);
        assert_eq!(committed(steps.go_on(None).expect("taken")), Some(7));
        assert_eq!(steps.held_for(), None);
        steps.go_on(record(7)).expect("taken");
        assert_eq!(step.taken(), [5, 6, 7]);
    }

    #[test]
    fn a_record_that_is_held_back_at_the_end_is_left_to_the_next_owner() {
        let step = Fake::default();
        let mut steps = Steps::new(step.clone(), Finishing::default());
        steps.go_on(record(5)).expect("taken");
        step.is_full.store(true, Ordering::Relaxed);
        steps.go_on(record(6)).expect("held back");
        assert_eq!(committed(steps.finish(Duration::from_secs(60)).expect("written")), Some(6));
    }
}
