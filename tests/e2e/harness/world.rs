//! A pipeline of its own on the shared stack: database, buckets, topics and groups.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use freshet::commands::setup::{self, Mode, Standing};
use freshet::config::{self, Base, Config, Sources};
use freshet::local::Endpoints;
use freshet::roles::{self, Role, Services};
use freshet::status::{self, observe};
use freshet::telemetry::LogFormat;
use freshet_processors::ProcessSettings;
use freshet_processors::refresh::{self, Publication, RefreshContext};
use freshet_sinks::outputs::{self, Manifest};
use freshet_sinks::s3::Versions;
use freshet_topics::Overwrite;
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{oracles, stack};

/// Worlds at once: each runs a whole pipeline.
static SLOTS: Semaphore = Semaphore::const_new(3);
static WORLDS: AtomicU32 = AtomicU32::new(0);
static LOG: Once = Once::new();
/// Buckets of worlds that ended: the S3 server has room for some dozens, so the next world deletes them.
static ENDED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How long everything that was dropped may take to be through (oracle O5).
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How long a single condition may take to come true.
pub(crate) const TRUE_WITHIN: Duration = Duration::from_secs(40);

pub(crate) struct World {
    pub(crate) services: Services,
    /// Every content that was put, by (key, ETag), uncompressed.
    contents: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    /// The highest version of the outputs seen so far.
    version: Mutex<u64>,
    name: String,
    slot: Option<SemaphorePermit<'static>>,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(crate) struct Object {
    pub(crate) id: i64,
    pub(crate) key: String,
    pub(crate) etag: String,
    pub(crate) domain: String,
    pub(crate) src_ord: i64,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) generation: i32,
    pub(crate) rows: Option<i64>,
    pub(crate) repairs: i32,
}

impl World {
    /// A world with the local stack's settings.
    pub(crate) async fn new(story: &str) -> World {
        World::with(story, |_| ()).await
    }

    /// A world with settings of its own.
    pub(crate) async fn with(story: &str, change: impl FnOnce(&mut Config)) -> World {
        let slot = SLOTS.acquire().await.expect("never closed");
        let name = format!("{story}-{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let endpoints = tokio::task::spawn_blocking(stack::endpoints).await.expect("the stack is up");
        World::on(endpoints, name, Some(slot), change).await
    }

    /// A world with settings of its own, in which nothing is prepared: an empty database, and no buckets or topics.
    pub(crate) async fn unprepared(story: &str, change: impl FnOnce(&mut Config)) -> World {
        let slot = SLOTS.acquire().await.expect("never closed");
        let name = format!("{story}-{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let endpoints = tokio::task::spawn_blocking(stack::endpoints).await.expect("the stack is up");
        let services = services(endpoints, &name, change).await;
        delete_ended_buckets(&services).await;
        World::bare(name, services, Some(slot))
    }

    /// A world on a stack.
    pub(crate) async fn on(
        endpoints: &Endpoints,
        name: String,
        slot: Option<SemaphorePermit<'static>>,
        change: impl FnOnce(&mut Config),
    ) -> World {
        let services = services(endpoints, &name, change).await;
        if slot.is_some() {
            delete_ended_buckets(&services).await;
        }
        prepare(&services).await;
        World::over(name, services, slot).await
    }

    /// A world on services that are prepared already.
    pub(crate) async fn over(name: String, services: Services, slot: Option<SemaphorePermit<'static>>) -> World {
        let world = World::bare(name, services, slot);
        oracles::watch(&world).await;
        world
    }

    fn bare(name: String, services: Services, slot: Option<SemaphorePermit<'static>>) -> World {
        if std::env::var_os("FRESHET_TEST_LOG").is_some() {
            LOG.call_once(|| _ = freshet::telemetry::init(false, LogFormat::Text, None).expect("start logging"));
        }
        World { services, contents: Mutex::default(), version: Mutex::new(0), name, slot }
    }

    /// Goes on with another database.
    pub(crate) async fn move_to(&mut self, database_url: String) {
        let mut config = self.services.config.clone();
        config.postgres.url = database_url.into();
        self.services = Services::new(config).await.expect("services");
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its database is, with the login.
    pub(crate) fn database_url(&self) -> &str {
        self.services.config.postgres.url.expose_secret()
    }

    pub(crate) fn raw_bucket(&self) -> &str {
        &self.services.config.s3.raw_bucket
    }

    pub(crate) fn processed_bucket(&self) -> &str {
        &self.services.config.s3.processed_bucket
    }

    /// Domains in whose contract an overwrite replaces all that was said under a name.
    pub(crate) fn replacing_domains(&self) -> Vec<&'static str> {
        let domains = self.services.config.pipeline.domains.iter();
        domains.filter(|domain| domain.on_overwrite == Overwrite::Replace).map(|domain| domain.name).collect()
    }

    /// Runs roles in this process until they are stopped.
    pub(crate) fn run(&self, roles: &[Role]) -> Roles {
        let (services, shutdown) = (self.services.clone(), CancellationToken::new());
        // A world may have a pipeline of its own, with domains of the same names.
        let own = |role: &Role| match role {
            Role::Process(domain) => Role::Process(services.config.pipeline.domain(domain.name).unwrap_or(domain)),
            role => *role,
        };
        let roles: Vec<Role> = roles.iter().map(own).collect();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { roles::run(&services, &roles, token).await });
        Roles { task: Some(task), shutdown }
    }

    /// Runs every role.
    pub(crate) fn run_all(&self) -> Roles {
        self.run(&super::all_roles())
    }

    /// Drops a file.
    pub(crate) async fn put(&self, key: &str, text: impl AsRef<[u8]>) {
        self.put_packed(key, text.as_ref().to_vec(), text.as_ref()).await;
    }

    /// Drops bytes that unpack to `text`.
    pub(crate) async fn put_packed(&self, key: &str, bytes: Vec<u8>, text: &[u8]) {
        let request = self.services.s3.put_object().bucket(self.raw_bucket()).key(key).body(ByteStream::from(bytes));
        let answer = request.send().await.unwrap_or_else(|error| panic!("drop {key}: {error:?}"));
        self.was_dropped(key, answer.e_tag().expect("an ETag"), text);
    }

    /// Counts a file as dropped that came into the bucket some other way.
    pub(crate) fn was_dropped(&self, key: &str, etag: &str, text: &[u8]) {
        self.contents.lock().expect("not poisoned").insert((key.to_owned(), etag.to_owned()), text.to_vec());
    }

    pub(crate) async fn delete(&self, key: &str) {
        let request = self.services.s3.delete_object().bucket(self.raw_bucket()).key(key);
        request.send().await.unwrap_or_else(|error| panic!("delete {key}: {error:?}"));
    }

    /// What was put as this version of an object.
    pub(crate) fn content(&self, object: &Object) -> Vec<u8> {
        let contents = self.contents.lock().expect("not poisoned");
        let content = contents.get(&(object.key.clone(), object.etag.clone()));
        content.unwrap_or_else(|| panic!("{object:?} was never dropped")).clone()
    }

    /// Waits until everything dropped so far is applied and published.
    pub(crate) async fn settle(&self) -> status::Waited {
        let list = async || observe::dropped(&self.services).await;
        let outputs = async || observe::outputs(&self.services).await;
        let (pool, pipeline) = (&self.services.pool, self.services.config.pipeline);
        let waited = status::wait(pool, self.raw_bucket(), pipeline, list, outputs, SETTLED_WITHIN).await;
        match waited {
            Ok(waited) => waited,
            Err(error) => panic!("{}: {error:#}\n{:#?}", self.name, self.objects().await),
        }
    }

    /// Waits until everything dropped so far is applied, for a world without the role that publishes.
    pub(crate) async fn applied(&self) {
        let started = Instant::now();
        loop {
            let objects = self.objects().await;
            let is_through = |(key, etag): &(String, String)| {
                let object = objects.iter().find(|object| object.key == *key && object.etag == *etag);
                object.is_some_and(|object| matches!(object.state.as_str(), "applied" | "rejected" | "superseded"))
            };
            if self.contents.lock().expect("not poisoned").keys().all(is_through) {
                return;
            }
            assert!(started.elapsed() < SETTLED_WITHIN, "{}: not applied in time\n{objects:#?}", self.name);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Publishes the outputs once.
    pub(crate) async fn publish(&self) -> Publication {
        let context = RefreshContext {
            settings: self.services.config.metrics.clone(),
            pool: self.services.pool.clone(),
            s3: self.services.s3.clone(),
            bucket: self.processed_bucket().to_owned(),
            domains: self.services.config.pipeline.domains,
            outputs: self.services.config.pipeline.outputs,
        };
        refresh::publish_once(&context).await.expect("publish")
    }

    /// Waits until a query says true; bounded.
    pub(crate) async fn until(&self, what: &str, sql: &str) {
        self.until_within(TRUE_WITHIN, what, sql).await;
    }

    /// The same within a time of its own, for what waits for more than one thing.
    pub(crate) async fn until_within(&self, limit: Duration, what: &str, sql: &str) {
        let started = Instant::now();
        while self.query::<Option<bool>>(sql).await != Some(true) {
            assert!(
                started.elapsed() < limit,
                "{}: not within {limit:?}: {what}\n{:#?}",
                self.name,
                self.objects().await
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Returns in a second that S3 has not stamped on anything yet: what is dropped then is later.
    pub(crate) async fn next_second(&self) {
        let listed = observe::dropped(&self.services).await.expect("list the raw bucket");
        let listed = listed.iter().map(|object| object.last_modified.timestamp()).max().unwrap_or(0);
        // Also of objects that are deleted by now: only whole seconds tell a version of the same content from another.
        let known = "SELECT coalesce(floor(extract(epoch FROM max(last_modified))), 0)::bigint FROM pipeline.objects";
        let newest = listed.max(self.query::<i64>(known).await);
        while chrono::Utc::now().timestamp() <= newest {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The single value of a query.
    pub(crate) async fn query<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.services.pool)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The values of a query of one column.
    pub(crate) async fn column<T>(&self, sql: &str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&self.services.pool)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    pub(crate) async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.services.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// The ledger, in order.
    pub(crate) async fn objects(&self) -> Vec<Object> {
        sqlx::query_as(
            "SELECT id, key, etag, domain, src_ord, state, reason, generation, rows, repairs
             FROM pipeline.objects ORDER BY domain, src_ord",
        )
        .fetch_all(&self.services.pool)
        .await
        .expect("read the ledger")
    }

    /// The newest object of a key.
    pub(crate) async fn object(&self, key: &str) -> Object {
        let objects = self.objects().await;
        objects.into_iter().rfind(|object| object.key == key).unwrap_or_else(|| panic!("{key} is not in the ledger"))
    }

    /// What is published; it never goes back.
    pub(crate) async fn manifest(&self) -> Manifest {
        let manifest =
            outputs::read_current(&self.services.s3, self.processed_bucket()).await.expect("read the manifest");
        let manifest = manifest.expect("something is published");
        let mut seen = self.version.lock().expect("not poisoned");
        assert!(manifest.version >= *seen, "the outputs went back from version {seen} to {}", manifest.version);
        *seen = manifest.version;
        manifest
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let buckets = [self.raw_bucket().to_owned(), self.processed_bucket().to_owned()];
            ENDED.lock().expect("not poisoned").extend(buckets);
        }
    }
}

/// Clients with settings of this world, and its database.
async fn services(endpoints: &Endpoints, name: &str, change: impl FnOnce(&mut Config)) -> Services {
    let mut config = config::load(&Sources::default(), Base::Local).expect("settings");
    point_at(endpoints, &mut config, name).await;
    // Of the server's 200 connections.
    config.postgres.connections_max = 20;
    config.metrics.cache_dir = stack::folder().join("cache");
    // What nobody announces is found soon.
    (config.ingest.reconcile_interval_ms, config.ingest.claim_interval_ms) = (10_000, 200);
    (config.metrics.verify_interval_ms, config.http.survey_interval_ms) = (5_000, 1_000);
    // As in production: each of many processes has few connections.
    config.process.writers = ProcessSettings::default().writers;
    // Stories about listings break those of what the keys hold now; others turn versions on.
    config.s3.versions = Versions::Off;
    change(&mut config);
    Services::new(config).await.expect("services")
}

/// Makes buckets, schema and topics.
async fn prepare(services: &Services) {
    for finding in setup::prepare(services, Mode::Make).await {
        assert_eq!(finding.standing, Standing::Made, "{finding}");
    }
}

/// Deletes what worlds that ended have left, objects and all.
async fn delete_ended_buckets(services: &Services) {
    let buckets = std::mem::take(&mut *ENDED.lock().expect("not poisoned"));
    for bucket in buckets {
        if let Err(error) = services.s3.delete_bucket().bucket(&bucket).send().await {
            println!("delete bucket {bucket}: {error:?}");
        }
    }
}

/// Points the settings at a stack, under names of this world, and makes its database.
async fn point_at(endpoints: &Endpoints, config: &mut Config, name: &str) {
    let s3 = endpoints.s3.as_ref().expect("S3 runs");
    config.kafka.brokers = endpoints.kafka_brokers.clone().expect("Kafka runs");
    config.kafka.topic_prefix = format!("{name}.");
    config.kafka.group_prefix = format!("{name}.");
    config.s3.endpoint.clone_from(&s3.endpoint);
    config.s3.region.clone_from(&s3.region);
    config.s3.access_key_id.clone_from(&s3.access_key_id);
    config.s3.secret_access_key.clone_from(&s3.secret_access_key);
    config.s3.raw_bucket = format!("{name}-raw");
    config.s3.processed_bucket = format!("{name}-processed");
    let url = endpoints.database_url.clone().expect("Postgres runs");
    let mut admin = PgConnection::connect(&url).await.expect("connect to Postgres");
    let create = format!("CREATE DATABASE \"{name}\"");
    sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.expect("create the database");
    let server = url.rsplit_once('/').expect("a URL with a database").0;
    config.postgres.url = format!("{server}/{name}").into();
}

/// Roles that run in this process. Dropping them stops them without waiting.
pub(crate) struct Roles {
    task: Option<JoinHandle<anyhow::Result<()>>>,
    shutdown: CancellationToken,
}

impl Roles {
    /// Drains and stops them.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let task = self.task.take().expect("stopped once");
        task.await.expect("join the roles").expect("no role ended in an error");
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
