//! The processors: from Kafka to Postgres, and from Postgres to the derived outputs.
//!
//! [`run`] promises that every row of a domain's topic is applied exactly once, however often the process is
//! killed: consume → validate → apply. The consumer ([`consumer`](self)) starts at the bookmark in Postgres;
//! each record is judged as it arrives ([`validate`]); batches are applied in order by one writer, one
//! transaction each, which moves the bookmark with the rows (`freshet_sinks::apply`).
//!
//! [`replay`] sends rows that a topic holds the same way once more, and [`refresh`] keeps the derived outputs fresh.

mod batch;
mod consumer;
mod derive;
mod metrics;
mod ranges;
pub mod refresh;
pub mod replay;
mod settings;
mod start;
pub mod validate;
mod windows;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_sinks::place::Place;
use freshet_sinks::upsert::Upsert;
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use sentry_arroyo::processing::strategies::commit_offsets::CommitOffsets;
use sentry_arroyo::processing::strategies::reduce::Reduce;
use sentry_arroyo::processing::strategies::run_task_in_threads::{
    ConcurrencyConfig, RunTaskError, RunTaskFunc, RunTaskInThreads,
};
use sentry_arroyo::processing::strategies::{
    CommitRequest, ProcessingStrategy, ProcessingStrategyFactory, StrategyError, SubmitError,
};
use sentry_arroyo::processing::{Callbacks, ConsumerState, RunError, StreamProcessor};
use sentry_arroyo::types::{InnerMessage, Message, Partition};
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Consumed};
use crate::consumer::{BookmarkConsumer, Ownership, Source};
pub use crate::ranges::RangeError;
pub use crate::settings::ProcessSettings;
use crate::writer::{Job, QUEUE_BATCHES_MAX, Writer, WriterError};

/// What a processor needs of the world.
#[derive(Clone)]
pub struct Context {
    /// The domain it processes.
    pub domain: &'static Domain,
    /// Batching.
    pub settings: ProcessSettings,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Postgres.
    pub pool: PgPool,
    /// A name for this process, for people who look at `pipeline.bookmarks`.
    pub owner: String,
}

/// How often Kafka's own group commit follows the bookmark.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the epochs of the bookmarks are looked at, where no batch does it: `freshet bookmarks` and the swap of a
/// shadow raise them.
const EPOCHS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// First wait before a processor that failed joins its group again; doubled each time.
const REJOIN_BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait before joining again.
const REJOIN_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A processor that ran this long has got over what it failed of before.
const REJOIN_BACKOFF_RESET: Duration = Duration::from_secs(60);
/// Pause of the consumer loop while the writer is full, instead of spinning.
const REJECTED_PAUSE: Duration = Duration::from_millis(2);

/// Processes one domain until `shutdown`: then drains what was read and leaves the group. Errors of the world
/// never end it: it leaves the group and joins again with back-off. Several at once, in whatever processes,
/// share the partitions.
pub async fn run(context: Context, shutdown: CancellationToken) {
    metrics::declare(context.domain);
    let mut backoff = REJOIN_BACKOFF_MIN;
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let (run_context, run_shutdown, runtime) = (context.clone(), shutdown.clone(), Handle::current());
        // Arroyo's loop and librdkafka's calls block: they have a thread of their own.
        let ended = tokio::task::spawn_blocking(move || run_once(&run_context, &run_shutdown, runtime)).await;
        let error = match ended {
            Ok(Ok(())) if shutdown.is_cancelled() => return,
            Ok(Ok(())) => "its bookmarks were set by hand, adopted, or are of a new table".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => panic.to_string(),
        };
        if begun.elapsed() > REJOIN_BACKOFF_RESET {
            backoff = REJOIN_BACKOFF_MIN;
        }
        tracing::warn!(domain = context.domain.name, error, "processor stopped, joining again in {backoff:?}");
        metrics::restarted(context.domain.name);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(REJOIN_BACKOFF_MAX);
    }
}

/// One membership of the group, from joining to leaving.
fn run_once(context: &Context, shutdown: &CancellationToken, runtime: Handle) -> Result<(), String> {
    let ownership = Arc::new(Ownership::default());
    let factory = Pipeline { context: context.clone(), ownership: Arc::clone(&ownership), runtime: runtime.clone() };
    let state = ConsumerState::new(Box::new(factory), None);
    let source = Source {
        domain: context.domain,
        kafka: context.kafka.clone(),
        pool: context.pool.clone(),
        runtime: runtime.clone(),
        owner: context.owner.clone(),
        ownership: Arc::clone(&ownership),
    };
    let consumer = BookmarkConsumer::join(source, Callbacks(state.clone())).map_err(|error| error.to_string())?;
    let mut processor = StreamProcessor::new(Box::new(consumer), state);
    let mut looked = Instant::now();
    while !shutdown.is_cancelled() {
        processor.run_once().map_err(|error| describe(&error))?;
        if looked.elapsed() > EPOCHS_LOOK_INTERVAL {
            looked = Instant::now();
            if runtime.block_on(were_taken(context, &ownership.epochs())) {
                return Ok(());
            }
        }
    }
    // Dropping the processor revokes the assignment, which drains and commits.
    Ok(())
}

/// An error with its causes: arroyo's own display names only the outermost.
fn describe(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether somebody raised the epoch of a partition that this owner has, or has halted.
async fn were_taken(context: &Context, epochs: &BTreeMap<i32, i64>) -> bool {
    if epochs.is_empty() {
        return false;
    }
    let (partitions, epochs): (Vec<i32>, Vec<i64>) = epochs.iter().map(|(p, e)| (*p, *e)).unzip();
    sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (
             SELECT FROM UNNEST($2::int4[], $3::int8[]) AS u (partition, epoch)
             JOIN pipeline.bookmarks AS b ON b.domain = $1 AND b.partition = u.partition
             WHERE b.owner_epoch <> u.epoch)",
    )
    .bind(context.domain.name)
    .bind(partitions)
    .bind(epochs)
    .fetch_one(&context.pool)
    .await
    .unwrap_or(false)
}

/// Builds the strategy of each assignment: validate → batch → apply → commit.
struct Pipeline {
    context: Context,
    ownership: Arc<Ownership>,
    runtime: Handle,
}

impl ProcessingStrategyFactory<Consumed> for Pipeline {
    fn update_partitions(&self, _partitions: &HashMap<Partition, u64>) {}

    #[allow(clippy::result_large_err, reason = "the accumulator's signature is arroyo's")]
    fn create(&self) -> Box<dyn ProcessingStrategy<Consumed>> {
        let domain = self.context.domain;
        let (jobs, queue) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = Writer {
            pool: self.context.pool.clone(),
            upsert: Upsert::new(domain, Place::Live),
            topic: domain.topic(&self.context.kafka.topic_prefix),
            positions: self.ownership.positions(),
            recent: Default::default(),
        };
        self.runtime.spawn(writer.run(queue));
        let apply = RunTaskInThreads::new(
            CommitOffsets::new(GROUP_COMMIT_INTERVAL),
            move |message: Message<Batch>| hand_over(&jobs, message),
            &ConcurrencyConfig::with_runtime(1, self.runtime.clone()),
            Some("apply"),
        );
        let batch = Reduce::new(
            apply,
            Arc::new(move |mut batch: Batch, message: Message<Consumed>| {
                if let InnerMessage::BrokerMessage(record) = message.inner_message {
                    // Offsets are Kafka's own 63 bits.
                    batch.push(domain, record.partition.index.into(), record.offset as i64, record.payload);
                }
                Ok(batch)
            }),
            Arc::new(Batch::default),
            self.context.settings.batch_rows_max,
            Duration::from_millis(self.context.settings.batch_age_ms_max),
            weight,
        );
        Box::new(Paced { next: batch })
    }
}

/// How much of a batch a record fills: one row, and more for a long one, so that a batch is bounded in bytes too.
fn weight(record: &Consumed) -> usize {
    const ORDINARY_ROW_BYTES: usize = 1024;
    match record {
        Consumed::Row { value, .. } => 1 + value.len() / ORDINARY_ROW_BYTES,
        Consumed::Stream => 1,
    }
}

/// Queues a batch for the writer at once, in stream order, and returns a task that only waits for the answer.
fn hand_over(jobs: &mpsc::Sender<Job>, message: Message<Batch>) -> RunTaskFunc<(), WriterError> {
    let (done, answer) = oneshot::channel();
    let committable: BTreeMap<Partition, u64> = message.committable().collect();
    let queued = jobs.try_send(Job { batch: message.into_payload(), done });
    Box::pin(async move {
        queued.map_err(|_| RunTaskError::Other(WriterError::Stopped))?;
        match answer.await {
            Ok(Ok(())) => Ok(Message::new_any_message((), committable)),
            Ok(Err(error)) => Err(RunTaskError::Other(error)),
            Err(_) => Err(RunTaskError::Other(WriterError::Stopped)),
        }
    })
}

/// Lets the consumer loop rest while the next step takes nothing: arroyo would spin.
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
