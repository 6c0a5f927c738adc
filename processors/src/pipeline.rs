//! The steps of a processor, put together for each assignment: consume → batch → judge → apply → commit.
//!
//! Each is a strategy of arroyo's that hands on to the next. A step that takes nothing more for now rejects what comes,
//! up to the consumer, which waits: what is not read stays in Kafka.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::destination::Destination;
use freshet_topics::Domain;
use sentry_arroyo::processing::strategies::commit_offsets::CommitOffsets;
use sentry_arroyo::processing::strategies::reduce::Reduce;
use sentry_arroyo::processing::strategies::run_task_in_threads::{
    ConcurrencyConfig, RunTaskError, RunTaskFunc, RunTaskInThreads,
};
use sentry_arroyo::processing::strategies::{
    CommitRequest, ProcessingStrategy, ProcessingStrategyFactory, StrategyError, SubmitError,
};
use sentry_arroyo::types::{InnerMessage, Message, Partition};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::Context;
use crate::batch::Batch;
use crate::consumer::Ownership;
use crate::record::Consumed;
use crate::settings::ProcessSettings;
use crate::writer::{Job, QUEUE_BATCHES_MAX, Writer, WriterError};

/// How often Kafka's own group commit follows the bookmark.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause of the consumer loop while the writer is full, instead of spinning.
const REJECTED_PAUSE: Duration = Duration::from_millis(2);

/// Builds the strategy of each assignment.
pub(crate) struct Pipeline {
    pub(crate) context: Context,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) runtime: Handle,
}

impl ProcessingStrategyFactory<Consumed> for Pipeline {
    fn update_partitions(&self, _partitions: &HashMap<Partition, u64>) {}

    fn create(&self) -> Box<dyn ProcessingStrategy<Consumed>> {
        Box::new(paced(batch(&self.context.settings, self.judge_and_apply(commit()))))
    }
}

/// Lets the consumer loop rest while the next step takes nothing: arroyo would spin.
fn paced<N>(next: N) -> Paced<N> {
    Paced { next }
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
    Reduce::new(next, Arc::new(add), Arc::new(Batch::default), settings.batch_rows_max, age_max, Consumed::weight)
}

impl Pipeline {
    /// Judges batches, several at once, and hands them to the writer of this assignment in order.
    fn judge_and_apply(&self, next: impl ProcessingStrategy<()> + 'static) -> impl ProcessingStrategy<Batch> + 'static {
        let Context { domain, pool, kafka, .. } = &self.context;
        let (jobs, queue) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = Writer {
            pool: pool.clone(),
            upsert: Upsert::new(domain, Destination::Live),
            topic: domain.topic(&kafka.topic_prefix),
            positions: self.ownership.positions(),
            ownership: Arc::clone(&self.ownership),
            recent: Default::default(),
            copies: Default::default(),
        };
        self.runtime.spawn(writer.run(queue));
        let (domain, runtime): (&'static Domain, _) = (domain, self.runtime.clone());
        RunTaskInThreads::new(
            next,
            move |message: Message<Batch>| hand_over(domain, &runtime, &jobs, message),
            &ConcurrencyConfig::with_runtime(1, self.runtime.clone()),
            Some("apply"),
        )
    }
}

/// Lets Kafka's own group commit follow what was applied.
fn commit() -> CommitOffsets {
    CommitOffsets::new(GROUP_COMMIT_INTERVAL)
}

/// Queues a batch for the writer at once, in stream order, to be judged meanwhile, and returns a task that only waits for
/// the answer.
fn hand_over(
    domain: &'static Domain,
    runtime: &Handle,
    jobs: &mpsc::Sender<Job>,
    message: Message<Batch>,
) -> RunTaskFunc<(), WriterError> {
    let (done, answer) = oneshot::channel();
    let committable: BTreeMap<Partition, u64> = message.committable().collect();
    let batch = message.into_payload();
    // Not by the consumer's thread, which reads on, nor by the runtime's own, which must not be held up.
    let batch = runtime.spawn_blocking(move || batch.judged(domain));
    let queued = jobs.try_send(Job { batch, done });
    Box::pin(async move {
        queued.map_err(|_| RunTaskError::Other(WriterError::Stopped))?;
        match answer.await {
            Ok(Ok(())) => Ok(Message::new_any_message((), committable)),
            Ok(Err(error)) => Err(RunTaskError::Other(error)),
            Err(_) => Err(RunTaskError::Other(WriterError::Stopped)),
        }
    })
}

/// See [`paced`].
struct Paced<N> {
    next: N,
}

impl<N: ProcessingStrategy<Consumed>> ProcessingStrategy<Consumed> for Paced<N> {
    fn poll(&mut self) -> Result<Option<CommitRequest>, StrategyError> {
        self.next.poll()
    }

    fn submit(&mut self, message: Message<Consumed>) -> Result<(), SubmitError<Consumed>> {
        let submitted = self.next.submit(message);
        if matches!(submitted, Err(SubmitError::MessageRejected(_))) {
            std::thread::sleep(REJECTED_PAUSE);
        }
        submitted
    }

    fn terminate(&mut self) {
        self.next.terminate();
    }

    fn join(&mut self, timeout: Option<Duration>) -> Result<Option<CommitRequest>, StrategyError> {
        self.next.join(timeout)
    }
}
