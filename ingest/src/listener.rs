//! What the tasks of a listener share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use freshet_sinks::ledger::{Claimant, Numbering};
use freshet_sinks::s3::Versions;
use freshet_topics::{Domain, PARSER_VERSION};
use sqlx::PgPool;
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::frame::FrameLimits;
use crate::gate::Gate;
use crate::hints::Hints;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::names::Name;
use crate::object::{ObjectReader, ReadError};
use crate::producer::Producer;
use crate::retries::Retries;
use crate::settings::IngestSettings;
use crate::start::reading_rules;
use crate::{Context, IngestError, metrics};

/// A listener.
pub(crate) struct Listener {
    /// The section `ingest`.
    pub(crate) settings: IngestSettings,
    /// The database with the ledger.
    pub(crate) pool: PgPool,
    /// The store.
    pub(crate) reader: ObjectReader,
    /// The raw bucket.
    pub(crate) bucket: String,
    /// Whether versions are listed.
    pub(crate) versions: Versions,
    /// The domains that are published.
    pub(crate) domains: Vec<&'static Domain>,
    /// By domain, see [`reading_rules`].
    reading_rules: BTreeMap<&'static str, i64>,
    /// The listener's name in the ledger.
    pub(crate) name: String,
    /// The most rows of a message.
    pub(crate) rows_per_message: usize,
    /// The one producer.
    pub(crate) producer: Arc<Producer>,
    /// Whether each domain may be published to now.
    pub(crate) gate: Gate,
    /// How fast it may go.
    pub(crate) limits: Arc<Limits>,
    /// The leases on the objects that it works on.
    pub(crate) leases: Arc<Leases>,
    /// The announcements of stores.
    pub(crate) hints: Hints,
    /// Notified when objects were registered, or may be claimed again.
    pub(crate) work_to_do: Arc<Notify>,
    /// Held by the worker that looks for work; the others wait for it.
    pub(crate) looks: Mutex<()>,
    /// Places to wait for the lag in the middle of a file: for half of the workers, so that the others go on with the
    /// files of other domains.
    pub(crate) lag_waits: Semaphore,
    /// Places for files of groups that are not in memory: as many as there are workers, since each holds a chunk.
    pub(crate) group_streams: Semaphore,
    /// Whose turn it is among the files with failed attempts, and who may take one.
    pub(crate) retries: Retries,
    /// Notified when an object was published.
    pub(crate) sweep_to_do: Notify,
}

impl Listener {
    /// Does not connect yet.
    ///
    /// # Errors
    /// If a setting cannot work.
    pub(crate) fn new(context: Context) -> Result<Arc<Self>, IngestError> {
        let Context { settings, kafka, pool, s3, raw_bucket, versions, domains, listener, hints, events: _ } = context;
        settings.check(&domains).map_err(IngestError::Setting)?;
        metrics::declare(&domains);
        let rules_of = |domain: &&'static Domain| (domain.name, reading_rules(domain, settings.frame_limits()));
        let reading_rules = domains.iter().map(rules_of).collect();
        let producer = Arc::new(Producer::new(&kafka, settings.linger_ms)?);
        let rows_per_message = kafka.rows_per_message;
        let work_to_do = Arc::new(Notify::new());
        let opened = Arc::clone(&work_to_do);
        let gate = Gate::new(pool.clone(), kafka, Arc::clone(&producer), settings.lag_rows_max, &domains, opened);
        Ok(Arc::new(Listener {
            reader: ObjectReader::new(s3).with_limits(settings.read_limits()),
            limits: Arc::new(Limits::new(&settings)),
            leases: Arc::default(),
            looks: Mutex::new(()),
            lag_waits: Semaphore::new(settings.workers / 2),
            group_streams: Semaphore::new(settings.workers),
            retries: Retries::new(settings.workers),
            sweep_to_do: Notify::new(),
            hints,
            bucket: raw_bucket,
            versions,
            name: listener,
            settings,
            pool,
            domains,
            reading_rules,
            rows_per_message,
            producer,
            gate,
            work_to_do,
        }))
    }

    pub(crate) fn domain(&self, name: &str) -> Option<&'static Domain> {
        self.domains.iter().copied().find(|domain| domain.name == name)
    }

    /// The domain that a key belongs to: the first one, if several name it.
    pub(crate) fn domain_of(&self, key: &str) -> Option<&'static Domain> {
        self.domains.iter().copied().find(|domain| self.settings.name_of(domain, key) == Name::File)
    }

    /// How long an object is kept without renewing.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms)
    }

    /// The waits after failures.
    pub(crate) fn back_off(&self) -> Backoff {
        self.settings.back_off()
    }

    pub(crate) fn claimant(&self) -> Claimant<'_> {
        Claimant { owner: &self.name, lease: self.lease(), back_off: self.back_off() }
    }

    /// One request to S3, within the rate limit.
    pub(crate) async fn s3<T>(&self, request: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        self.limits.s3_request().await;
        request.await
    }

    /// How rows of files of a domain are numbered for a topic of so many partitions.
    pub(crate) fn numbering(&self, domain: &Domain, partitions: i32) -> Numbering {
        Numbering { parser_version: PARSER_VERSION, partitions, reading_rules: self.reading_rules[domain.name] }
    }

    pub(crate) fn frame_limits(&self) -> FrameLimits {
        self.settings.frame_limits()
    }
}
