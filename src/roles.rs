//! The roles: which parts of freshet a process runs, wired to the services of the settings.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_s3::Client;
use freshet_ingest::{EventQueue, Hints};
use freshet_processors::refresh::{self, RefreshContext};
use freshet_sinks::tables::{self, Identity, Setup};
use freshet_sinks::{postgres, s3, schema, sqs};
use freshet_topics::{Domain, Pipeline};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ready;
use crate::survey::{self, Survey};

/// One of the things a process can do for the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Listen to the raw bucket and publish its files.
    Ingest,
    /// Apply one domain's topic.
    Process(&'static Domain),
    /// Keep the derived outputs fresh.
    Metrics,
}

impl Role {
    /// Every role of a pipeline, as `freshet up` runs them.
    pub fn all(pipeline: &Pipeline) -> Vec<Role> {
        let processors = pipeline.domains.iter().map(|domain| Role::Process(domain));
        [Role::Ingest].into_iter().chain(processors).chain([Role::Metrics]).collect()
    }

    /// The role and its domain, empty for none, as metric labels.
    pub(crate) fn labels(self) -> (&'static str, &'static str) {
        match self {
            Role::Ingest => ("ingest", ""),
            Role::Process(domain) => ("process", domain.name),
            Role::Metrics => ("metrics", ""),
        }
    }

    fn name(self) -> String {
        match self {
            Role::Ingest => "ingest".into(),
            Role::Process(domain) => format!("process {}", domain.name),
            Role::Metrics => "metrics".into(),
        }
    }
}

/// The connections that every role of a process shares.
#[derive(Clone)]
pub struct Services {
    pub config: Config,
    pub pool: PgPool,
    pub s3: Client,
    /// What the last survey of the pipeline found; none before the first.
    pub(crate) surveyed: watch::Sender<Option<Arc<Survey>>>,
    /// What stores tell the listener of this process, if it is one.
    pub hints: Hints,
}

impl Services {
    /// Prepares the clients; none connects before it is used.
    ///
    /// # Errors
    /// If the Postgres URL cannot be read.
    pub async fn new(config: Config) -> anyhow::Result<Self> {
        let pool = postgres::pool(&config.postgres).context("read the settings")?;
        let s3 = s3::client(&config.s3).await;
        let hints = Hints::new(&config.s3.raw_bucket, config.pipeline.domains, &config.ingest);
        Ok(Services { config, pool, s3, surveyed: watch::Sender::default(), hints })
    }

    /// What a setup of the database sets up.
    pub fn setup(&self) -> Setup<'_> {
        let Pipeline { name, hash, domains, outputs, .. } = self.config.pipeline;
        let Config { postgres, metrics, .. } = &self.config;
        let (pipeline, allowed_lateness_days) = (Identity { name, hash }, metrics.allowed_lateness_days);
        Setup { schema: &postgres.schema, domains, outputs, pipeline, allowed_lateness_days }
    }
}

/// The most connections to Postgres that a process of these roles opens. Each writer keeps one for as long as it has
/// partitions: if there were none beside theirs, everything else would wait for ever.
///
/// | `postgres.connections_max` | opens at most |
/// |---|---|
/// | 0 | one for each writer, and [`postgres::CONNECTIONS_MAX`] |
/// | one for each writer and each role, or more | so many |
/// | fewer | refused |
///
/// # Errors
/// One line with the least number.
pub fn connections_max(config: &Config, roles: &[Role]) -> anyhow::Result<u32> {
    let processors = roles.iter().filter(|role| matches!(role, Role::Process(_))).count();
    let writers = processors * config.process.writers;
    let least = u32::try_from(writers + roles.len()).context("count the writers")?;
    match config.postgres.connections_max {
        0 => Ok(u32::try_from(writers)?.saturating_add(postgres::CONNECTIONS_MAX)),
        set if set >= least => Ok(set),
        set => anyhow::bail!(
            "postgres.connections_max is {set}, and must be at least {least} here, or 0: each of the {writers} writers \
             keeps a connection (process.writers for each domain), and each of the {} roles needs another",
            roles.len()
        ),
    }
}

/// How long a role may take to drain before the process ends without it. Unfinished rows are then read again by
/// the next start, once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for what the roles need, runs them until `shutdown`, then drains them.
///
/// # Errors
/// The first role that failed; the others are drained too.
pub async fn run(services: &Services, roles: &[Role], shutdown: CancellationToken) -> anyhow::Result<()> {
    if !ready::wait(services, roles, &shutdown).await? {
        return Ok(());
    }
    // What it shows is for people: nothing waits for its end.
    tokio::spawn(survey::run(services.clone(), survey::domains_of(services.config.pipeline, roles), shutdown.clone()));
    let mut tasks = JoinSet::new();
    for role in roles {
        let (role, services, shutdown) = (*role, services.clone(), shutdown.clone());
        tasks.spawn(async move {
            let result = run_one(services, role, shutdown.clone()).await;
            if result.is_err() {
                shutdown.cancel();
            }
            result.with_context(|| format!("run role {}", role.name()))
        });
    }
    drain(tasks, &shutdown, DRAIN_TIMEOUT).await
}

/// Waits for `shutdown` or the end of a role, then for at most `timeout` until the others have drained. A role that ends,
/// by an error or a panic, ends the process: half a pipeline would look alive.
///
/// # Errors
/// The first role that failed, whether or not the others have drained in time.
async fn drain(
    mut tasks: JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
    timeout: Duration,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            keep_first_error(&mut outcome, ended);
            shutdown.cancel();
        }
    }
    let drained = tokio::time::timeout(timeout, async {
        while let Some(ended) = tasks.join_next().await {
            keep_first_error(&mut outcome, ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!("roles did not drain within {timeout:?}: unfinished work is repeated at the next start");
    }
    outcome
}

fn keep_first_error(outcome: &mut anyhow::Result<()>, ended: Result<anyhow::Result<()>, JoinError>) {
    let ended = ended.context("run a role").and_then(|result| result);
    if outcome.is_ok() {
        *outcome = ended;
    }
}

async fn run_one(services: Services, role: Role, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Services { config, pool, s3, hints, .. } = services;
    let instance = instance();
    match role {
        Role::Ingest => {
            let of_queue = &config.ingest.events;
            let client = sqs::client(&config.s3, &of_queue.endpoint, &of_queue.region).await;
            let context = freshet_ingest::Context {
                events: EventQueue::new(client, of_queue),
                settings: config.ingest,
                kafka: config.kafka,
                pool,
                s3,
                raw_bucket: config.s3.raw_bucket,
                versions: config.s3.versions,
                domains: config.pipeline.domains.to_vec(),
                listener: instance,
                hints,
            };
            freshet_ingest::run(context, shutdown).await?;
        }
        Role::Process(domain) => {
            let context = freshet_processors::Context {
                domain,
                settings: config.process,
                kafka: config.kafka,
                pool,
                owner: instance,
            };
            freshet_processors::run(context, shutdown).await;
        }
        Role::Metrics => {
            let context = RefreshContext {
                settings: config.metrics,
                pool,
                s3,
                bucket: config.s3.processed_bucket,
                domains: config.pipeline.domains,
                outputs: config.pipeline.outputs,
            };
            refresh::run(context, shutdown).await?;
        }
    }
    Ok(())
}

/// A name for this process, for people who look at the ledger and the bookmarks. Two of a role in one
/// process are two instances.
pub(crate) fn instance() -> String {
    format!("{}:{}:{:08x}", hostname(), process::id(), rand::random::<u32>())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

/// Brings schema and tables up to date, and sets the outputs up as the pipeline has them. Idempotent; two at once wait for
/// each other.
///
/// # Errors
/// If Postgres does not answer, something stands in the way, or a migration was changed after it was applied. Everything
/// is as it was then.
pub async fn migrate(services: &Services) -> anyhow::Result<()> {
    let found = schema::read(&services.pool, &services.config.postgres.schema).await.context("read the schema")?;
    if let Some(misplaced) = ready::misplaced(services, &found) {
        anyhow::bail!("{misplaced}");
    }
    tables::apply(&services.pool, &services.setup()).await.context("nothing was changed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    #[tokio::test]
    async fn a_failed_role_fails_the_process_even_if_another_one_does_not_drain() {
        let cases = [(false, true), (true, true), (false, false), (true, false)];
        for (is_stopping, hangs) in cases {
            let shutdown = CancellationToken::new();
            if is_stopping {
                shutdown.cancel();
            }
            let mut roles: JoinSet<anyhow::Result<()>> = JoinSet::new();
            roles.spawn(async { Err(anyhow::anyhow!("the raw bucket is gone")) });
            if hangs {
                roles.spawn(future::pending());
            }
            let outcome = drain(roles, &shutdown, Duration::from_millis(200)).await;
            let error = outcome.expect_err("a role failed").to_string();
            assert_eq!(error, "the raw bucket is gone", "{is_stopping} {hangs}");
            assert!(shutdown.is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_process_that_was_told_to_stop_succeeds_even_if_a_role_does_not_drain() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let mut roles: JoinSet<anyhow::Result<()>> = JoinSet::new();
        roles.spawn(future::pending());
        assert!(drain(roles, &shutdown, Duration::from_millis(10)).await.is_ok());
    }

    #[test]
    fn a_process_has_connections_beside_those_of_its_writers() {
        let config = |set, writers| {
            let mut config = Config::default();
            (config.postgres.connections_max, config.process.writers) = (set, writers);
            config
        };
        let domain = Config::default().pipeline.domains[0];
        let (one, eight) = (vec![Role::Process(domain)], vec![Role::Process(domain); 8]);
        let others = vec![Role::Ingest, Role::Metrics];
        let everything = [others.clone(), eight.clone()].concat();
        let cases = [
            (0, 2, &one, Some(18)),
            (0, 2, &eight, Some(32)),
            (0, 16, &everything, Some(144)),
            (0, 2, &others, Some(16)),
            (3, 2, &one, Some(3)),
            (2, 2, &one, None),
            (2, 2, &others, Some(2)),
            (24, 2, &eight, Some(24)),
            (23, 2, &eight, None),
            (26, 2, &everything, Some(26)),
            (16, 2, &everything, None),
        ];
        for (set, writers, roles, expected) in cases {
            let found = connections_max(&config(set, writers), roles);
            assert_eq!(found.ok(), expected, "{set} {writers} {}", roles.len());
        }
        let refused = connections_max(&config(16, 2), &eight).expect_err("too few").to_string();
        assert!(refused.starts_with("postgres.connections_max is 16, and must be at least 24 here"), "{refused}");
    }
}
