//! `freshet up`: the local stack and all roles in one process, until Ctrl-C.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use freshet_ingest::Hints;
use freshet_sinks::output_state::{self, DefinitionChange};
use freshet_sinks::outputs::PROBES;
use freshet_sinks::s3::S3Settings;
use freshet_topics::Domain;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::setup::{self, Mode, Standing};
use crate::config::{self, Base, Config, Sources};
use crate::http;
use crate::local::{LocalStack, Options, TellTo};
use crate::page;
use crate::roles::{self, Role, Services};

/// How long stopping waits for connections that are still in use.
const POOL_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the roles may take to end after the stack has failed: they cannot finish anything.
const ROLES_WITHOUT_STACK: Duration = Duration::from_secs(3);

/// A pipeline that runs in this process.
pub struct Running {
    /// The clients that the roles use too.
    pub services: Services,
    /// The file that other programs source.
    pub env_file: PathBuf,
    /// Where the status page and `/metrics` are served, `http://…`; empty where they are not.
    pub http: String,
    database_url: Option<String>,
    roles: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
    /// Ends before `stop_stack` only when it gives up; it cancels `shutdown` then.
    stack: JoinHandle<anyhow::Result<()>>,
    stop_stack: CancellationToken,
}

/// Starts everything and returns when it is ready: the stack answers, buckets, schema and topics are there, the
/// roles run and `DIR/env` is written. `progress` hears one line a step.
///
/// # Errors
/// One clear line about the part that does not start; what was started is stopped again.
pub async fn start(
    sources: &Sources,
    data_dir: &Path,
    progress: impl Fn(&str),
    shutdown: CancellationToken,
) -> anyhow::Result<Running> {
    let mut config = config::load(sources, Base::Local)?;
    let s3 = config.s3.endpoint.is_empty();
    let door = if s3 { Some(Door::open().await?) } else { None };
    if door.is_none() {
        // Other stores send no notifications by themselves.
        config.ingest.list_interval_max_ms = config.ingest.list_interval_ms;
    }
    let postgres = config.postgres.url.expose_secret().is_empty();
    config.postgres.connections_max = roles::connections_max(&config, &Role::all(config.pipeline))?;
    let options = Options {
        data_dir: data_dir.to_path_buf(),
        kafka: config.kafka.brokers.is_empty(),
        postgres,
        s3,
        tell_to: door.as_ref().map(|door| door.tell_to(&config)),
    };
    let mut stack = LocalStack::start(options, &progress).await?;
    point_at(&mut config, &stack);
    if let Some(listen) = kept_address(&config.http.listen, || stack.http_port())? {
        config.http.listen = listen;
    }
    match start_roles(config, &stack, &progress, &shutdown).await {
        Ok((services, roles, env_file, http)) => {
            if let Some(door) = door {
                tokio::spawn(door.serve(services.hints.clone(), shutdown.clone()));
            }
            let database_url = stack.endpoints().database_url.clone();
            let stop_stack = CancellationToken::new();
            let (stop, ended) = (stop_stack.clone(), shutdown.clone().drop_guard());
            let stack = tokio::spawn(async move {
                let _ended = ended;
                stack.supervise(stop).await
            });
            Ok(Running { services, env_file, http, database_url, roles, shutdown, stack, stop_stack })
        }
        Err(error) => {
            shutdown.cancel();
            stack.stop().await.context("stop the local stack after a failed start")?;
            Err(error)
        }
    }
}

/// A socket for notifications of the stack's own S3 server, so that listings can be rare.
struct Door {
    listener: TcpListener,
    address: SocketAddr,
    token: SecretString,
}

impl Door {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a port on loopback")?;
        let address = listener.local_addr().context("open a port on loopback")?;
        Ok(Door { listener, address, token: Uuid::new_v4().simple().to_string().into() })
    }

    /// Of files, and of what the publisher writes when it starts: so it is known early that telling works.
    fn tell_to(&self, config: &Config) -> TellTo {
        let S3Settings { raw_bucket, processed_bucket, .. } = &config.s3;
        let paths = vec![format!("/buckets/{raw_bucket}/"), format!("/buckets/{processed_bucket}/{PROBES}")];
        TellTo { address: self.address, token: self.token.clone(), paths }
    }

    async fn serve(self, hints: Hints, shutdown: CancellationToken) {
        // Files are still found by listing.
        if let Err(error) = http::serve_own(self.listener, self.token, hints, shutdown).await {
            tracing::warn!(%error, "the store cannot send notifications");
        }
    }
}

/// Points the settings at the parts of the stack that were started.
pub(super) fn point_at(config: &mut Config, stack: &LocalStack) {
    let endpoints = stack.endpoints();
    if let Some(brokers) = &endpoints.kafka_brokers {
        config.kafka.brokers.clone_from(brokers);
    }
    if let Some(url) = &endpoints.database_url {
        config.postgres.url = url.as_str().into();
        config.postgres.password = SecretString::default();
    }
    if let Some(s3) = &endpoints.s3 {
        config.s3.endpoint.clone_from(&s3.endpoint);
        config.s3.region.clone_from(&s3.region);
        config.s3.access_key_id.clone_from(&s3.access_key_id);
        config.s3.secret_access_key.clone_from(&s3.secret_access_key);
    }
    if config.metrics.cache_dir.as_os_str().is_empty() {
        config.metrics.cache_dir = stack.env_file().with_file_name("cache");
    }
}

/// Where to listen instead of at port 0 of loopback: people keep the address of the page.
///
/// | `http.listen` | instead |
/// |---|---|
/// | `127.0.0.1:0` | `127.0.0.1:PORT`, the port of the last run where it is free |
/// | `127.0.0.1:9187`, `0.0.0.0:0`, empty | as it stands |
fn kept_address(listen: &str, port: impl FnOnce() -> anyhow::Result<u16>) -> anyhow::Result<Option<String>> {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 && address.ip() == Ipv4Addr::LOCALHOST => {
            Ok(Some(SocketAddr::new(address.ip(), port()?).to_string()))
        }
        _ => Ok(None),
    }
}

type Started = (Services, JoinHandle<anyhow::Result<()>>, PathBuf, String);

async fn start_roles(
    config: Config,
    stack: &LocalStack,
    progress: &impl Fn(&str),
    shutdown: &CancellationToken,
) -> anyhow::Result<Started> {
    let services = Services::new(config).await?;
    progress("preparing buckets, schema and topics");
    if let Some(warning) = leaves_out(&services).await {
        progress(&format!("warning: {warning}"));
    }
    prepare(&services, progress).await?;
    let roles = Role::all(services.config.pipeline);
    let http = match services.config.http.listen.as_str() {
        "" => String::new(),
        _ => {
            let page = page::router(&services, &stack.env_file(), shutdown);
            format!("http://{}", http::serve(&services, &roles, page, shutdown.clone()).await?)
        }
    };
    let running = {
        let (services, shutdown) = (services.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _ended = shutdown.clone().drop_guard();
            roles::run(&services, &roles, shutdown).await
        })
    };
    let env_file = stack.write_env(&env_values(&services.config, &http))?;
    Ok((services, running, env_file, http))
}

/// What is published from this data folder and not by this pipeline: it will be gone with the next version.
async fn leaves_out(services: &Services) -> Option<String> {
    // Where Postgres does not answer, the setup says so.
    let mut connection = services.pool.acquire().await.ok()?;
    let before = output_state::definitions(&mut connection).await.ok()?;
    let pipeline = services.config.pipeline;
    let changes = output_state::changes(&before, pipeline.outputs);
    let dropped: Vec<&str> =
        changes.iter().filter(|change| change.is_dropped()).map(DefinitionChange::output).collect();
    (!dropped.is_empty()).then(|| {
        format!(
            "the pipeline {} does not have these outputs, so they are no longer published: {}. To keep them, stop, and start \
             it with a data folder of its own (--data)",
            pipeline.name,
            dropped.join(", ")
        )
    })
}

/// Makes buckets, schema and topics that are missing.
pub(super) async fn prepare(services: &Services, progress: &impl Fn(&str)) -> anyhow::Result<()> {
    for finding in setup::prepare(services, Mode::Make).await {
        match finding.standing {
            Standing::Failed => anyhow::bail!("prepare {finding}"),
            Standing::Differs | Standing::Warns => progress(&format!("warning: {finding}")),
            Standing::Found | Standing::Made | Standing::Would => {}
        }
    }
    Ok(())
}

fn env_values(config: &Config, http: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL_S3", config.s3.endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", config.s3.access_key_id.expose_secret().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", config.s3.secret_access_key.expose_secret().to_owned()),
        // A token in the environment belongs to other keys.
        ("AWS_SESSION_TOKEN", String::new()),
        ("AWS_REGION", config.s3.region.clone()),
        ("FRESHET_RAW_BUCKET", config.s3.raw_bucket.clone()),
        ("FRESHET_PROCESSED_BUCKET", config.s3.processed_bucket.clone()),
        ("DATABASE_URL", config.postgres.url.expose_secret().to_owned()),
        ("KAFKA_BROKERS", config.kafka.brokers.clone()),
        ("FRESHET_HTTP", http.to_owned()),
    ]
}

impl Running {
    /// Where everything is, as (label, value).
    pub fn places(&self) -> Vec<(&'static str, String)> {
        let config = &self.services.config;
        vec![
            ("drop files", drop_hint(config)),
            ("outputs", format!("s3://{}/metrics/", config.s3.processed_bucket)),
            ("S3", config.s3.endpoint.clone()),
            ("Postgres", self.postgres()),
            ("Kafka", config.kafka.brokers.clone()),
            ("metrics", format!("{}/metrics", self.http)),
            ("settings", format!("{} (source it while `freshet up` runs)", self.env_file.display())),
        ]
    }

    /// The stack's own Postgres with its password, which is nobody's secret; of another only the place.
    fn postgres(&self) -> String {
        let place = || crate::ready::place_of(&self.services.pool);
        self.database_url.clone().unwrap_or_else(place)
    }

    /// Waits until a stop is requested, a part of the stack keeps dying or a role fails; then drains and stops
    /// everything that was started.
    ///
    /// # Errors
    /// What keeps dying, with the log to read, or why a role failed.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.shutdown.cancelled().await;
        self.stop().await
    }

    /// Drains the roles, then stops the stack. What dies while they drain is still started again: they need it.
    ///
    /// # Errors
    /// If a role ended in an error, or a part of the stack kept dying or does not stop.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let mut gave_up = None;
        let roles = tokio::select! {
            roles = &mut self.roles => roles.context("join the roles").and_then(|result| result),
            stack = &mut self.stack => {
                gave_up = Some(stack);
                if tokio::time::timeout(ROLES_WITHOUT_STACK, &mut self.roles).await.is_err() {
                    self.roles.abort();
                }
                Ok(())
            }
        };
        // A connection that does not come back must not keep the stack from stopping.
        let _ = tokio::time::timeout(POOL_CLOSE_TIMEOUT, self.services.pool.close()).await;
        self.stop_stack.cancel();
        let stack = match gave_up {
            Some(stack) => stack,
            None => self.stack.await,
        };
        stack.context("join the local stack").and_then(|result| result).and(roles)
    }
}

/// Where files go: the bucket and the prefixes of its domains.
fn drop_hint(config: &Config) -> String {
    let folder = |domain: &&'static Domain| domain.patterns.iter().copied().find(|it| it.ends_with('/'));
    let prefixes: Vec<&str> = config.pipeline.domains.iter().filter_map(folder).collect();
    format!("s3://{}/  ({})", config.s3.raw_bucket, prefixes.join(" "))
}

/// How the page is opened.
///
/// | `http.token` | listening | |
/// |---|---|---|
/// | not set | on loopback | the address |
/// | set | anywhere | the address with the token |
/// | not set | beyond loopback | it is shut |
fn look(http: &str, has_token: bool) -> String {
    let address = http.trim_start_matches("http://").parse::<SocketAddr>();
    match (has_token, address.is_ok_and(|address| !address.ip().is_loopback())) {
        (true, _) => format!("{http}/?token=…   (open it in a browser; … is http.token, once)"),
        (false, true) => format!("{http}/   (disabled until http.token is set)"),
        (false, false) => format!("{http}/   (open it in a browser)"),
    }
}

/// `freshet up`.
///
/// # Errors
/// See [`start`] and [`Running::wait`].
pub async fn run(sources: &Sources, data_dir: &Path, shutdown: CancellationToken) -> anyhow::Result<()> {
    let running = start(sources, data_dir, |line| eprintln!("  {line}"), shutdown).await?;
    let config = &running.services.config;
    println!("freshet is up.");
    println!();
    if !running.http.is_empty() {
        println!("  status page  {}", look(&running.http, !config.http.token.expose_secret().is_empty()));
    }
    println!("  drop files   {}", drop_hint(config));
    println!("  outputs      s3://{}/metrics/", config.s3.processed_bucket);
    println!("  metrics      {}/metrics", running.http);
    println!(
        "  settings     . {}   (endpoints and keys for any S3, Postgres and Kafka client)",
        running.env_file.display()
    );
    println!("  status       `freshet status`");
    println!();
    println!("Ctrl-C stops everything; rows that are being written are finished first.");
    running.wait().await?;
    println!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_free_port_of_loopback_is_chosen_once_and_kept() {
        for (listen, expected) in [
            ("127.0.0.1:0", Some("127.0.0.1:20123")),
            ("127.0.0.1:9187", None),
            ("0.0.0.0:0", None),
            ("localhost:0", None),
            ("", None),
        ] {
            let kept = kept_address(listen, || Ok(20_123)).expect("an address");
            assert_eq!(kept.as_deref(), expected, "{listen}");
        }
    }
}
