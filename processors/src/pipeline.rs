//! The steps of a processor, put together for each assignment: consume → batch → judge → apply → commit.
//!
//! Each is a strategy of arroyo's that hands on to the next. A step that takes nothing more for now rejects what comes, up
//! to the loop, which waits: what is not read stays in Kafka.
//!
//! The partitions of an assignment are dealt out to several writers (`writer`): a batch is cut along them, and is done
//! when each writer has applied its part. The rows of a partition always go to one writer, in the order of the topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::destination::Destination;
use freshet_topics::Domain;
use sentry_arroyo::processing::strategies::ProcessingStrategy;
use sentry_arroyo::processing::strategies::commit_offsets::CommitOffsets;
use sentry_arroyo::processing::strategies::reduce::Reduce;
use sentry_arroyo::processing::strategies::run_task_in_threads::{
    ConcurrencyConfig, RunTaskError, RunTaskFunc, RunTaskInThreads,
};
use sentry_arroyo::types::{InnerMessage, Message, Partition};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::Context;
use crate::batch::Batch;
use crate::consumer::{Ownership, Position};
use crate::record::Consumed;
use crate::settings::{BATCH_ROWS_MAX, ProcessSettings};
use crate::steps::{Finishing, Resting, Steps};
use crate::writer::{Job, QUEUE_BATCHES_MAX, Writer, WriterError};

/// How often Kafka's own group commit follows the bookmark.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Batches that are judged while others are written: with fewer, a writer that is quicker than the rest of its batch has
/// nothing to do until the consumer looks again.
pub(crate) const BATCHES_AHEAD: usize = 3;

/// Makes the steps of each assignment.
pub(crate) struct Pipeline {
    pub(crate) context: Context,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) runtime: Handle,
}

/// Where a record stands in the topic.
fn position<T>(message: &Message<T>) -> (i32, i64) {
    match &message.inner_message {
        // Offsets are Kafka's own 63 bits.
        InnerMessage::BrokerMessage(record) => (record.partition.index.into(), record.offset as i64),
        InnerMessage::AnyMessage(_) => unreachable!("the consumer gives one record at a time"),
    }
}

/// Gathers records, until they are many or the first of them has waited long enough.
#[expect(clippy::result_large_err, reason = "arroyo's own error: it hands the message back")]
fn batch(
    settings: &ProcessSettings,
    next: impl ProcessingStrategy<Batch> + 'static,
) -> impl ProcessingStrategy<Consumed> + 'static {
    let add = |mut batch: Batch, message: Message<Consumed>| {
        let (partition, offset) = position(&message);
        batch.push(partition, offset, message.into_payload());
        Ok(batch)
    };
    let age_max = Duration::from_millis(settings.batch_age_ms_max);
    // Each writer gets a part of it, which may be all.
    let rows_max = (settings.batch_rows_max * settings.writers).min(BATCH_ROWS_MAX);
    Reduce::new(next, Arc::new(add), Arc::new(Batch::default), rows_max, age_max, Consumed::weight)
}

impl Pipeline {
    /// The steps of an assignment that begins at these positions.
    pub(crate) fn begin(&self, positions: BTreeMap<i32, Position>) -> Steps {
        let finishing = Finishing::default();
        let commit = Resting::new(commit(), finishing.clone());
        Steps::new(batch(&self.context.settings, self.judge_and_apply(positions, commit)), finishing)
    }

    /// Judges batches, several at once, and hands them to the writers of this assignment in order.
    fn judge_and_apply(
        &self,
        positions: BTreeMap<i32, Position>,
        next: impl ProcessingStrategy<()> + 'static,
    ) -> impl ProcessingStrategy<Batch> + 'static {
        let writers = self.writers(positions);
        RunTaskInThreads::new(
            next,
            move |message: Message<Batch>| writers.hand_over(message),
            &ConcurrencyConfig::with_runtime(BATCHES_AHEAD, self.runtime.clone()),
            Some("apply"),
        )
    }

    /// Starts the writers of this assignment, and deals its partitions out to them.
    fn writers(&self, positions: BTreeMap<i32, Position>) -> Writers {
        let Context { domain, pool, kafka, settings, .. } = &self.context;
        let dealt = deal(positions, settings.writers);
        let mut writers =
            Writers { domain, runtime: self.runtime.clone(), of_partition: BTreeMap::new(), jobs: Vec::new() };
        for positions in dealt {
            let (jobs, queue) = mpsc::channel(QUEUE_BATCHES_MAX);
            writers.of_partition.extend(positions.keys().map(|partition| (*partition, writers.jobs.len())));
            writers.jobs.push(jobs);
            let writer = Writer {
                pool: pool.clone(),
                upsert: Upsert::new(domain, Destination::Live),
                topic: domain.topic(&kafka.topic_prefix),
                positions,
                ownership: Arc::clone(&self.ownership),
                recent: Default::default(),
                copy_guess: Default::default(),
            };
            self.runtime.spawn(writer.run(queue));
        }
        writers
    }
}

/// Deals partitions out to at most so many writers, one after the other, so that those of neighbours differ.
fn deal(positions: BTreeMap<i32, Position>, writers: usize) -> Vec<BTreeMap<i32, Position>> {
    let mut dealt = vec![BTreeMap::new(); writers.min(positions.len())];
    for (at, (partition, position)) in positions.into_iter().enumerate() {
        let writer = at % dealt.len();
        dealt[writer].insert(partition, position);
    }
    dealt
}

/// The writers of one assignment.
struct Writers {
    domain: &'static Domain,
    runtime: Handle,
    /// Which of them each partition belongs to.
    of_partition: BTreeMap<i32, usize>,
    /// What each of them has to do.
    jobs: Vec<mpsc::Sender<Job>>,
}

impl Writers {
    /// Queues each writer's part of a batch at once, in stream order, to be judged meanwhile, and returns a task that only
    /// waits for the answers.
    fn hand_over(&self, message: Message<Batch>) -> RunTaskFunc<(), WriterError> {
        let committable: BTreeMap<Partition, u64> = message.committable().collect();
        let parts = message.into_payload().split(|partition| self.of_partition.get(&partition).copied());
        let answers: Result<Vec<_>, WriterError> = match parts {
            Ok(parts) => parts.into_iter().map(|(writer, part)| self.queue(writer, part)).collect(),
            Err(partition) => Err(WriterError::NotAssigned(partition)),
        };
        Box::pin(async move {
            for answer in answers.map_err(RunTaskError::Other)? {
                answer.await.unwrap_or(Err(WriterError::Stopped)).map_err(RunTaskError::Other)?;
            }
            Ok(Message::new_any_message((), committable))
        })
    }

    fn queue(&self, writer: usize, part: Batch) -> Result<oneshot::Receiver<Result<(), WriterError>>, WriterError> {
        let (done, answer) = oneshot::channel();
        let domain = self.domain;
        // Not by the consumer's thread, which reads on, nor by the runtime's own, which must not be held up.
        let batch = self.runtime.spawn_blocking(move || part.judged(domain));
        self.jobs[writer].try_send(Job { batch, done }).map_err(|_| WriterError::Stopped)?;
        Ok(answer)
    }
}

/// Lets Kafka's own group commit follow what was applied.
fn commit() -> CommitOffsets {
    CommitOffsets::new(GROUP_COMMIT_INTERVAL)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sentry_arroyo::processing::strategies::{CommitRequest, StrategyError, SubmitError};
    use sentry_arroyo::types::{BrokerMessage, Topic};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::clock;

    /// A last step that counts how often it is looked at.
    struct Counted(Arc<AtomicUsize>);

    impl ProcessingStrategy<()> for Counted {
        fn poll(&mut self) -> Result<Option<CommitRequest>, StrategyError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(None)
        }

        fn submit(&mut self, _: Message<()>) -> Result<(), SubmitError<()>> {
            Ok(())
        }

        fn terminate(&mut self) {}

        fn join(&mut self, _: Option<Duration>) -> Result<Option<CommitRequest>, StrategyError> {
            Ok(None)
        }
    }

    /// Steps that take no more for now, whose batches take so long to apply.
    fn full_steps(runtime: &Runtime, takes: Duration, looks: &Arc<AtomicUsize>) -> Steps {
        let finishing = Finishing::default();
        let apply = move |message: Message<Batch>| -> RunTaskFunc<(), WriterError> {
            let committable: BTreeMap<Partition, u64> = message.committable().collect();
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                Ok(Message::new_any_message((), committable))
            })
        };
        let last = Resting::new(Counted(Arc::clone(looks)), finishing.clone());
        let concurrency = ConcurrencyConfig::with_runtime(BATCHES_AHEAD, runtime.handle().clone());
        let apply = RunTaskInThreads::new(last, apply, &concurrency, Some("test"));
        let settings = ProcessSettings { batch_rows_max: 1, writers: 1, ..ProcessSettings::default() };
        let mut steps = Steps::new(batch(&settings, apply), finishing);
        let partition = Partition::new(Topic::new("pipeline-test"), 0);
        let taken = (0..100).take_while(|offset| {
            let record = BrokerMessage::new(Consumed::Stream, partition, *offset, Default::default());
            steps.go_on(Some(record)).expect("taken, or held back");
            steps.held_for().is_none()
        });
        assert!(taken.count() < 100, "the steps are not full");
        steps
    }

    #[test]
    fn steps_rest_while_they_finish_and_say_when_the_time_is_over() {
        clock::start();
        for (takes, is_in_time) in [(Duration::from_millis(200), true), (Duration::from_secs(600), false)] {
            let (runtime, looks) = (Runtime::new().expect("a runtime"), Arc::default());
            let steps = full_steps(&runtime, takes, &looks);
            let before = looks.load(Ordering::Relaxed);
            let timeout = Duration::from_secs(if is_in_time { 60 } else { 1 });
            let finished = steps.finish(timeout).map_err(|error| error.to_string());
            let looks = looks.load(Ordering::Relaxed) - before;
            assert!((10..1_000).contains(&looks), "{looks} looks");
            match finished {
                Ok(_) => assert!(is_in_time, "not told that the time was over"),
                Err(error) => assert_eq!((is_in_time, error.as_str()), (false, "they did not finish within 1s")),
            }
        }
    }

    #[test]
    fn partitions_are_dealt_out_evenly_and_no_writer_has_none() {
        let of = |partitions: &[i32], writers| -> Vec<Vec<i32>> {
            let position = Position { next_offset: 0, epoch: 1 };
            let positions = partitions.iter().map(|partition| (*partition, position)).collect();
            deal(positions, writers).iter().map(|of| of.keys().copied().collect()).collect()
        };
        assert_eq!(of(&[0, 1, 2, 3], 2), [[0, 2], [1, 3]]);
        assert_eq!(of(&[4, 6, 8], 2), [vec![4, 8], vec![6]], "whatever their numbers");
        assert_eq!(of(&[5], 2), [[5]]);
        assert_eq!(of(&[0, 1], 1), [[0, 1]]);
        assert!(of(&[], 2).is_empty());
    }
}
