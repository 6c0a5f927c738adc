//! The S3 change listener: a CSV file dropped in the raw bucket becomes messages in its domain's topic.
//!
//! This crate guarantees that every version of every object under a domain's prefixes is published exactly as its bytes
//! say, or rejected with a reason, or recorded as replaced by a newer version; that publishing it twice is harmless,
//! because a row's number is a function of the bytes; and that an incomplete publication is noticed and repaired.
//!
//! The path of one file: `discover` lists the bucket, or the one key that a store announced ([`hints`], [`events`]),
//! finds the file, and registers it in the ledger ([`freshet_sinks::ledger`]). A `worker` claims it, opens it at the
//! pinned version ([`object`]), frames it into rows ([`frame`], [`header`]) and checks all of them, then sends them
//! chunk by chunk (`publish`). Once the processors have passed its end, the `sweeper` marks it applied, or has it
//! published again.

mod check;
pub mod decisions;
mod discover;
pub mod events;
mod format;
pub mod frame;
mod gate;
mod group;
pub mod header;
pub mod hints;
pub mod inspect;
mod known;
mod leases;
mod limits;
mod listener;
mod listing;
mod logged_once;
mod metrics;
pub mod names;
pub mod object;
mod outcome;
mod overtaken;
mod producer;
mod publish;
pub mod republish;
mod retries;
mod rows;
pub mod settings;
mod start;
mod sweeper;
mod truncation;
mod unmatched;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use freshet_sinks::s3::Versions;
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use sqlx::PgPool;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use events::EventQueue;
pub use hints::Hints;
pub(crate) use listener::Listener;
pub use settings::IngestSettings;

/// How long the producer may take to send what is left when all workers have ended; normally nothing is left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a listener needs.
#[derive(Clone)]
pub struct Context {
    /// The section `ingest`.
    pub settings: IngestSettings,
    /// The section `kafka`.
    pub kafka: KafkaSettings,
    /// The database with the ledger. A listener uses at most one connection per worker and one per domain at once.
    pub pool: PgPool,
    /// The store with the raw bucket.
    pub s3: aws_sdk_s3::Client,
    /// The bucket that is listened to.
    pub raw_bucket: String,
    /// Whether versions that were overwritten before they were seen are found.
    pub versions: Versions,
    /// The domains that are published.
    pub domains: Vec<&'static Domain>,
    /// The listener's name in the ledger, unique among those that run.
    pub listener: String,
    /// The announcements of stores.
    pub hints: Hints,
    /// The queue with the store's events, if there is one.
    pub events: Option<EventQueue>,
}

/// Why a listener ends. Everything else is retried for ever.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),
    /// librdkafka refuses the configuration.
    #[error("configure the Kafka producer: {0}")]
    Producer(#[from] rdkafka::error::KafkaError),
    /// The schema of the database is wrong.
    #[error("{action}: {source}; run `freshet setup`, and check what the database user may do")]
    Schema {
        /// Verb and object of the attempted action.
        action: &'static str,
        /// Postgres' error.
        source: sqlx::Error,
    },
    /// A task panicked.
    #[error("a task of the listener ended early: {0}")]
    Task(#[source] JoinError),
}

/// Listens until `shutdown`, then drains within `drain_ms`: current chunks are finished, their resume points saved, and
/// the leases returned.
///
/// # Errors
/// [`IngestError`]; unreachable S3, Kafka or Postgres is not an error.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), IngestError> {
    let events = context.events.clone();
    let listener = Listener::new(context)?;
    let stop = shutdown.child_token();
    let mut support = support(&listener);
    let mut tasks: JoinSet<Result<(), IngestError>> = JoinSet::new();
    tasks.spawn(discover::discover(Arc::clone(&listener), stop.clone()));
    tasks.spawn(unmatched::run(Arc::clone(&listener), stop.clone()));
    tasks.spawn(sweeper::run(Arc::clone(&listener), stop.clone()));
    match events {
        Some(queue) => drop(tasks.spawn(events::run(Arc::clone(&listener), queue, stop.clone()))),
        None => {
            let pool = listener.pool.clone();
            drop(tokio::spawn(async move { events::forget(&pool).await }));
        }
    }
    let turn = Arc::new(AtomicUsize::new(0));
    for _ in 0..listener.settings.workers {
        tasks.spawn(worker::run(Arc::clone(&listener), Arc::clone(&turn), stop.clone()));
    }
    tracing::info!(listener = listener.name, bucket = listener.bucket, "listening");
    let mut outcome = Ok(());
    let first = tokio::select! {
        first = tasks.join_next() => first,
        // The gate, or the task that keeps the leases: without them the listener would close its domains, or share its
        // objects.
        Some(ended) = support.join_next() => Some(ended.map(Ok)),
        () = stop.cancelled() => None,
    };
    stop.cancel();
    keep_first_error(&mut outcome, first);
    let drained = tokio::time::timeout(Duration::from_millis(listener.settings.drain_ms), async {
        while let Some(ended) = tasks.join_next().await {
            keep_first_error(&mut outcome, Some(ended));
        }
    });
    if drained.await.is_err() {
        // The process is about to end; leases expire, and another listener continues from the resume points.
        tracing::warn!(tasks = tasks.len(), "not drained in time: the rest continues from its resume points later");
        tasks.abort_all();
    }
    // Neither has to finish what it is at: it is as if the process had died in the middle, which loses nothing.
    support.abort_all();
    while let Some(ended) = support.join_next().await {
        let panicked = ended.err().filter(JoinError::is_panic);
        keep_first_error(&mut outcome, panicked.map(Err));
    }
    listener.producer.close(FLUSH_TIMEOUT).await;
    outcome
}

/// The tasks that the others need until they have ended. They run until they are aborted.
fn support(listener: &Arc<Listener>) -> JoinSet<()> {
    let mut support = JoinSet::new();
    let gate = Arc::clone(listener);
    support.spawn(async move { gate.gate.keep().await });
    let leases = Arc::clone(listener);
    support.spawn(async move { leases.leases.keep(&leases.pool, leases.lease(), leases.back_off()).await });
    support
}

fn keep_first_error(outcome: &mut Result<(), IngestError>, ended: Option<Result<Result<(), IngestError>, JoinError>>) {
    let ended = match ended {
        None => return,
        Some(Ok(ended)) => ended,
        Some(Err(source)) => Err(IngestError::Task(source)),
    };
    if outcome.is_ok() {
        *outcome = ended;
    }
}

/// An object that was just found, for tests.
#[cfg(test)]
fn example_object() -> freshet_sinks::ledger::Object {
    let version = freshet_sinks::ledger::ObjectVersion {
        bucket: "raw".into(),
        key: "climate/a.csv".into(),
        version_id: None,
        etag: "e".into(),
        size_bytes: 1,
        last_modified: chrono::DateTime::UNIX_EPOCH,
    };
    freshet_sinks::ledger::Object::new(9, version, "climate")
}
