//! The S3 change listener: a CSV file dropped in the raw bucket becomes messages in its domain's topic.
//!
//! This crate promises that every version of every object under a domain's prefixes is published exactly as
//! its bytes say, or rejected with a reason, or known to have been overtaken by a newer version; that
//! publishing it twice is harmless, because a row's number is a function of the bytes; and that publishing less than
//! all of it is noticed and repaired.
//!
//! One file's path through it: [`discover`] lists the bucket, or the one key that a store announced ([`hints`],
//! [`events`]), finds it, and has it registered in the ledger ([`freshet_sinks::ledger`]); a [`worker`](self) claims
//! it, opens it at the pinned version ([`object`]), frames it into rows ([`frame`], [`header`]) and checks all of them,
//! then sends them chunk by chunk ([`publish`](self)); and once the processors have passed its end, the
//! [`sweeper`](self) finds it applied, or has it published again.

mod check;
pub mod decisions;
pub mod discover;
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
mod metrics;
pub mod names;
pub mod object;
mod outcome;
mod overtaken;
mod producer;
mod publish;
pub mod republish;
mod rows;
mod said;
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

pub use discover::{Discovery, Found};
pub use events::EventQueue;
pub use hints::Hints;
pub use listener::Listener;
pub use settings::IngestSettings;

/// What the producer still holds when all workers have ended gets this long; normally it is nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a listener needs.
#[derive(Clone)]
pub struct Context {
    /// The section `ingest`.
    pub settings: IngestSettings,
    /// The section `kafka`.
    pub kafka: KafkaSettings,
    /// The database with the ledger. A listener uses up to a connection a worker and one a domain at once.
    pub pool: PgPool,
    /// The store with the raw bucket.
    pub s3: aws_sdk_s3::Client,
    /// The bucket that is listened to.
    pub raw_bucket: String,
    /// Whether versions that were overwritten before they were seen are looked for.
    pub versions: Versions,
    /// The domains that are published.
    pub domains: Vec<&'static Domain>,
    /// The listener's name in the ledger, unique among those that run.
    pub listener: String,
    /// What stores tell it.
    pub hints: Hints,
    /// The queue that the store tells through, if there is one.
    pub events: Option<EventQueue>,
}

/// Why a listener ends. Everything else is tried again for ever.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),
    /// librdkafka refuses the configuration.
    #[error("configure the Kafka producer: {0}")]
    Producer(#[from] rdkafka::error::KafkaError),
    /// The database is not what it should be.
    #[error("{action}: {source}; run `freshet setup`, and check what the database user may do")]
    Schema {
        /// Verb and object of what was tried.
        action: &'static str,
        /// What Postgres says.
        source: sqlx::Error,
    },
    /// A task panicked.
    #[error("a task of the listener ended early: {0}")]
    Task(JoinError),
}

/// Listens until `shutdown`, then drains: current chunks are finished, their resume points saved, and the leases
/// returned, within `drain_ms`.
///
/// # Errors
/// [`IngestError`]; S3, Kafka and Postgres out of reach are not among them.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), IngestError> {
    let events = context.events.clone();
    let listener = Listener::new(context)?;
    let (stop, support_stop) = (shutdown.child_token(), CancellationToken::new());
    let mut support = support(&listener, &support_stop);
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
        // The gate or the leases' keeper: without them the listener would close its domains, or share its objects.
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
        // The process is about to end; leases run out, and another listener continues from the resume points.
        tracing::warn!(tasks = tasks.len(), "not drained in time: the rest continues from its resume points later");
        tasks.abort_all();
    }
    support_stop.cancel();
    support.join_all().await;
    listener.producer.close(FLUSH_TIMEOUT).await;
    outcome
}

/// The tasks that others rely on to their very end.
fn support(listener: &Arc<Listener>, stop: &CancellationToken) -> JoinSet<()> {
    let mut support = JoinSet::new();
    let (gate, gate_stop) = (Arc::clone(listener), stop.clone());
    support.spawn(async move { gate.gate.keep(gate_stop).await });
    let (leases, leases_stop) = (Arc::clone(listener), stop.clone());
    support
        .spawn(async move { leases.leases.keep(&leases.pool, leases.lease(), leases.back_off(), leases_stop).await });
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
