//! The S3 change listener: a CSV file dropped in the raw bucket becomes messages in its domain's topic.
//!
//! This crate promises that every version of every object under a domain's prefixes is published exactly as
//! its bytes say, or rejected with a reason, or known to have been overtaken by a newer version; that
//! publishing it twice is harmless, because a row's number is a function of the bytes; and that publishing
//! less than all of it is noticed and mended.
//!
//! One file's path through it: [`discover`] lists the bucket, or the one key that a store told of ([`hints`]), and finds
//! it; [`register`] gives it its identity and its place in the order of the [`ledger`]; a worker claims it
//! ([`publish`]), opens it at the pinned version ([`object`]), frames it into rows ([`frame`], [`header`]) and checks
//! all of them, then sends them chunk by chunk; and once the processors have passed its end, [`sweep`] finds it
//! applied, or has it published again.

mod check;
pub mod claim;
pub mod discover;
pub mod frame;
mod gate;
pub mod header;
pub mod hints;
mod known;
mod leases;
pub mod ledger;
mod limits;
mod metrics;
pub mod object;
pub mod order;
mod producer;
mod publish;
pub mod register;
pub mod republish;
mod rows;
pub mod settings;
pub mod sweep;
mod truncation;

use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use discover::{Discovery, Found};
pub use hints::Hints;
pub use settings::IngestSettings;
pub use sweep::{Swept, sweep_once};

use crate::frame::FrameLimits;
use crate::gate::Gate;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::object::{ObjectReader, ReadError};
use crate::producer::Producer;
use crate::publish::Turn;

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
    /// The domains that are published.
    pub domains: Vec<&'static Domain>,
    /// The listener's name in the ledger, unique among those that run.
    pub listener: String,
    /// What stores tell it.
    pub hints: Hints,
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
    #[error("{action}: {source}; run `freshet migrate`, and check what the database user may do")]
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

/// A listener: what its tasks share.
pub struct Listener {
    settings: IngestSettings,
    pool: PgPool,
    reader: ObjectReader,
    bucket: String,
    domains: Vec<&'static Domain>,
    name: String,
    producer: Arc<Producer>,
    gate: Gate,
    limits: Arc<Limits>,
    leases: Arc<Leases>,
    /// Objects were registered, or may be claimed again.
    work_to_do: Arc<Notify>,
    /// An object was published.
    sweep_to_do: Notify,
    turn: Turn,
    hints: Hints,
}

impl Listener {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// If a setting cannot work.
    pub fn new(context: Context) -> Result<Arc<Self>, IngestError> {
        let Context { settings, kafka, pool, s3, raw_bucket, domains, listener, hints } = context;
        let names: Vec<&str> = domains.iter().map(|domain| domain.name).collect();
        settings.check(&names).map_err(IngestError::Setting)?;
        metrics::declare(&domains);
        let producer = Arc::new(Producer::new(&kafka, settings.linger_ms)?);
        let work_to_do = Arc::new(Notify::new());
        let opened = Arc::clone(&work_to_do);
        let gate = Gate::new(pool.clone(), kafka, Arc::clone(&producer), settings.lag_rows_max, &domains, opened);
        Ok(Arc::new(Listener {
            reader: ObjectReader::new(s3).with_limits(settings.read_limits()),
            limits: Arc::new(Limits::new(&settings)),
            leases: Arc::default(),
            sweep_to_do: Notify::new(),
            turn: Turn::new(0),
            hints,
            bucket: raw_bucket,
            name: listener,
            settings,
            pool,
            domains,
            producer,
            gate,
            work_to_do,
        }))
    }

    fn domain(&self, name: &str) -> Option<&'static Domain> {
        self.domains.iter().copied().find(|domain| domain.name == name)
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms)
    }

    /// One request to S3, at its turn.
    async fn s3<T>(&self, request: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        self.limits.s3_request().await;
        request.await
    }

    fn frame_limits(&self) -> FrameLimits {
        let IngestSettings { record_bytes_max, fields_max, field_bytes_max, .. } = self.settings;
        FrameLimits { record_bytes_max, fields_max, field_bytes_max }
    }
}

/// Listens until `shutdown`, then drains: the chunks under way are finished, their resume points saved, and
/// the leases given back, within `drain_ms`.
///
/// # Errors
/// [`IngestError`]; S3, Kafka and Postgres out of reach are not among them.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), IngestError> {
    let listener = Listener::new(context)?;
    let (stop, support_stop) = (shutdown.child_token(), CancellationToken::new());
    let mut support = support(&listener, &support_stop);
    let mut tasks: JoinSet<Result<(), IngestError>> = JoinSet::new();
    tasks.spawn(discover::discover(Arc::clone(&listener), stop.clone()));
    tasks.spawn(sweep(Arc::clone(&listener), stop.clone()));
    for _ in 0..listener.settings.workers {
        tasks.spawn(publish::work(Arc::clone(&listener), stop.clone()));
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
    note(&mut outcome, first);
    let drained = tokio::time::timeout(Duration::from_millis(listener.settings.drain_ms), async {
        while let Some(ended) = tasks.join_next().await {
            note(&mut outcome, Some(ended));
        }
    });
    if drained.await.is_err() {
        // The process is about to end; leases run out, and another listener goes on from the resume points.
        tracing::warn!(tasks = tasks.len(), "not drained in time: leaving the rest to the resume points");
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
    support.spawn(async move { leases.leases.keep(&leases.pool, leases.lease(), leases_stop).await });
    support
}

/// Keeps the first error.
fn note(outcome: &mut Result<(), IngestError>, ended: Option<Result<Result<(), IngestError>, JoinError>>) {
    let ended = match ended {
        None => return,
        Some(Ok(ended)) => ended,
        Some(Err(source)) => Err(IngestError::Task(source)),
    };
    if outcome.is_ok() {
        *outcome = ended;
    }
}

/// Sweeps every domain at the interval, and four times as often while published objects wait for their rows.
async fn sweep(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let interval = Duration::from_millis(listener.settings.sweep_interval_ms);
    let mut failures = 0;
    while !stop.is_cancelled() {
        let pause = match sweep_domains(&listener).await {
            Ok(Swept { waiting: 0, .. }) => interval,
            Ok(_) => interval / 4,
            Err(error) if error_kind(&error) == ErrorKind::Schema => {
                return Err(IngestError::Schema { action: "sweep the ledger", source: error });
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "sweep the ledger, trying again");
                stop.run_until_cancelled(tokio::time::sleep(listener.settings.back_off(failures))).await;
                continue;
            }
        };
        failures = 0;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // What was just published is not applied yet: look soon, not at once.
            () = async { listener.sweep_to_do.notified().await; tokio::time::sleep(interval / 4).await } => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

async fn sweep_domains(listener: &Listener) -> Result<Swept, sqlx::Error> {
    let mut all = Swept::default();
    for domain in &listener.domains {
        let swept = sweep_once(&listener.pool, domain, &listener.settings).await?;
        metrics::OBJECTS_APPLIED.with_label_values(&[domain.name]).inc_by(swept.applied);
        metrics::OBJECTS_REPAIRED.with_label_values(&[domain.name]).inc_by(swept.repaired);
        if swept.repaired > 0 {
            listener.work_to_do.notify_waiters();
        }
        all += swept;
    }
    Ok(all)
}
