//! A local stack: a real Kafka, a real PostgreSQL and an S3 server as children of this process, on loopback, under one
//! data folder. None of them outlives the process that started it, and all they hold outlives them.
//!
//! A start: take the data folder ([`folder`]) → find the programs ([`components`]) → stop what an earlier
//! run left behind ([`child`]) → choose ports → start the three at once, each until it answers ([`kafka`],
//! [`postgres`], [`s3`]) → start again what dies ([`supervise`]).

mod child;
mod components;
mod folder;
mod kafka;
mod postgres;
mod s3;
mod supervise;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub use child::Exited;
use child::{Child, NotStarted, StopSteps};
use components::Components;
pub use components::cache_dir;
use folder::Folder;
use supervise::{Part, Program};

/// Another program may take a port between our choice and the child's bind: then others are tried, so often.
const PORT_TRIES: usize = 3;

/// Under which the port of the page is kept.
const HTTP: &str = "http";

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made where there is none.
    pub data_dir: PathBuf,
    /// Whether to start Kafka (or else it is a real one, from the settings).
    pub kafka: bool,
    pub postgres: bool,
    pub s3: bool,
    /// Where the S3 server sends notifications; `None`: nowhere.
    pub tell_to: Option<TellTo>,
}

/// Where the S3 server sends notifications.
#[derive(Clone, Debug)]
pub struct TellTo {
    /// Its notifications are posted there.
    pub address: SocketAddr,
    /// Each carries it as `Authorization: Bearer …`.
    pub token: SecretString,
    /// Only objects below these paths are announced: `/buckets/BUCKET/…`.
    pub paths: Vec<String>,
}

/// Where the started parts answer; `None` for a part that was not asked for.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// `127.0.0.1:PORT`.
    pub kafka_brokers: Option<String>,
    /// `postgres://USER:PASSWORD@127.0.0.1:PORT/DATABASE`.
    pub database_url: Option<String>,
    /// The S3 server and its keys.
    pub s3: Option<S3Endpoint>,
}

/// An S3 server (path-style addresses) and the keys to it.
#[derive(Clone, Debug)]
pub struct S3Endpoint {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    pub access_key_id: SecretString,
    pub secret_access_key: SecretString,
}

/// A running stack. Dropping it kills it; [`LocalStack::stop`] stops it in order.
#[derive(Debug)]
pub struct LocalStack {
    parts: Vec<Part>,
    endpoints: Endpoints,
    components: Components,
    // Last: the folder is let go of after the children have ended.
    folder: Folder,
}

impl LocalStack {
    /// Starts the asked parts side by side and returns when each answers. Where one does not come up, the others are
    /// stopped again. `progress` hears one line a step.
    pub async fn start(options: Options, progress: impl Fn(&str)) -> anyhow::Result<LocalStack> {
        let components = components::find(options.kafka, options.postgres, options.s3)?;
        let mut folder = Folder::open(&options.data_dir)?;
        fs::remove_file(env_file(&folder.root)).ok();
        stop_leftovers(&folder, &progress).await?;
        s3::write_notification(&folder, options.tell_to.as_ref())?;
        let mut tries = 1;
        loop {
            match start_parts(&options, &mut folder, &components, &progress).await {
                Ok(parts) => {
                    let endpoints = endpoints(&options, &folder);
                    return Ok(LocalStack { parts, endpoints, components, folder });
                }
                Err(error) if port_was_taken(&error) && tries < PORT_TRIES => {
                    tries += 1;
                    progress("a port was taken by another program: trying other ports");
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The data folder, as an absolute path.
    pub fn data_dir(&self) -> &Path {
        &self.folder.root
    }

    /// A port of loopback for the page, the same from run to run while it is free.
    ///
    /// # Errors
    /// If none is free.
    pub fn http_port(&mut self) -> anyhow::Result<u16> {
        self.folder.claim_ports(&[HTTP], None)?;
        Ok(self.folder.state.port(HTTP))
    }

    /// Looks, without waiting, whether a part has ended by itself.
    pub fn exited(&mut self) -> Option<Exited> {
        self.parts.iter_mut().find_map(Part::exited)
    }

    /// Waits until a part has ended by itself. Safe to drop at any point.
    pub async fn died(&mut self) -> Exited {
        supervise::died(|| self.exited()).await
    }

    /// Restarts parts that have ended, on the same ports and data; for callers that do not use
    /// [`LocalStack::supervise`].
    ///
    /// # Errors
    /// If one does not come up again; the next call tries once more.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        for part in &mut self.parts {
            part.start_again(&self.folder, &self.components).await?;
        }
        Ok(())
    }

    /// Starts again what dies, until `stop`; then stops everything in order.
    ///
    /// # Errors
    /// If a part keeps dying or does not come up again: then everything is stopped without waiting for `stop`.
    pub async fn supervise(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let LocalStack { parts, components, folder, .. } = &mut self;
        let kept = FuturesUnordered::new();
        for part in parts {
            kept.push(part.keep(folder, components));
        }
        let gave_up = tokio::select! {
            () = stop.cancelled() => None,
            error = first(kept) => Some(error),
        };
        let stopped = self.stop().await;
        gave_up.map_or(stopped, Err)
    }

    /// Where [`LocalStack::write_env`] writes.
    pub fn env_file(&self) -> PathBuf {
        env_file(&self.folder.root)
    }

    /// Writes `DATA/env`: `export NAME='value'` lines that any POSIX shell can source, readable by its owner only.
    /// It is there while the stack runs: a start and a stop remove it.
    pub fn write_env(&self, values: &[(&str, String)]) -> anyhow::Result<PathBuf> {
        let path = self.env_file();
        folder::write_private(&path, &folder::env_text(values))?;
        Ok(path)
    }

    /// Stops the parts, each in its clean way, all at once (their clients are gone by now, and none of them needs
    /// another); one that does not end in time is killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        fs::remove_file(self.env_file()).ok();
        let parts = std::mem::take(&mut self.parts);
        futures::future::join_all(parts.into_iter().map(Part::stop)).await;
        s3::remove_sockets(&self.folder.state);
        Ok(())
    }
}

/// The first to end; never, where there is none.
async fn first<T>(mut futures: FuturesUnordered<impl Future<Output = T>>) -> T {
    match futures.next().await {
        Some(ended) => ended,
        None => std::future::pending().await,
    }
}

/// What a shell sources while a stack runs on this data folder.
pub fn env_file(data_dir: &Path) -> PathBuf {
    data_dir.join("env")
}

/// The process that runs a stack on this data folder now, if there is one.
pub fn running(data_dir: &Path) -> Option<u32> {
    folder::holder(data_dir)
}

/// The values that the stack now running on this data folder has written to its `env`; none where no stack runs.
pub fn read_env(data_dir: &Path) -> Option<Vec<(String, String)>> {
    running(data_dir)?;
    fs::read_to_string(env_file(data_dir)).ok().map(|text| folder::parse_env(&text))
}

/// Deletes a data folder that no stack runs on, with Postgres data that lives elsewhere (see [`postgres`]).
pub fn remove(data_dir: &Path) -> anyhow::Result<()> {
    let folder = Folder::open(data_dir)?;
    postgres::remove_orphans(&folder.root);
    fs::remove_dir_all(&folder.root).with_context(|| format!("delete {}", folder.root.display()))
}

async fn stop_leftovers(folder: &Folder, progress: &impl Fn(&str)) -> anyhow::Result<()> {
    let parts: [(&str, StopSteps); 3] =
        [(kafka::NAME, kafka::STOP), (postgres::NAME, postgres::STOP), (s3::NAME, s3::STOP)];
    let stopped =
        parts.map(|(name, steps)| async move { (name, child::stop_leftover(&folder.record(name), steps).await) });
    for (name, result) in futures::future::join_all(stopped).await {
        if let Some(pid) = result.with_context(|| format!("stop the {name} of an earlier run"))? {
            progress(&format!("stopped {name} (process {pid}), left over from an earlier run"));
        }
    }
    Ok(())
}

async fn start_parts(
    options: &Options,
    folder: &mut Folder,
    components: &Components,
    progress: &impl Fn(&str),
) -> anyhow::Result<Vec<Part>> {
    if options.kafka {
        folder.claim_ports(&kafka::PORTS, None)?;
    }
    if options.postgres {
        folder.claim_ports(&postgres::PORTS, None)?;
    }
    if options.s3 {
        folder.claim_ports(&s3::PORTS, Some(s3::GRPC_OFFSET))?;
    }
    let place = if options.postgres { postgres::choose_place(folder, progress)? } else { PathBuf::new() };

    let folder_now: &Folder = folder;
    let kafka = when(options.kafka, "Kafka", progress, kafka::start(folder_now, components));
    let postgres = postgres::start(folder_now, components, place.clone());
    let postgres = when(options.postgres, "PostgreSQL", progress, postgres);
    let s3 = when(options.s3, "S3", progress, s3::start(folder_now, components));
    // The first error drops the other starts, and with them their children.
    let (kafka, postgres, s3) = futures::future::try_join3(kafka, postgres, s3).await?;

    // Recorded only now: a place without data in it would look lost.
    if options.postgres && place != postgres::place(folder) {
        folder.state.postgres_dir = Some(place);
        folder.save()?;
    }
    let started = [(Program::Kafka, kafka), (Program::Postgres, postgres), (Program::S3, s3)];
    Ok(started.into_iter().filter_map(|(program, child)| Some(Part::new(program, child?))).collect())
}

async fn when(
    wanted: bool,
    name: &str,
    progress: &impl Fn(&str),
    start: impl Future<Output = anyhow::Result<Child>>,
) -> anyhow::Result<Option<Child>> {
    if !wanted {
        return Ok(None);
    }
    let since = std::time::Instant::now();
    let child = start.await?;
    progress(&format!("{name} is up ({:.1} s)", since.elapsed().as_secs_f64()));
    Ok(Some(child))
}

fn port_was_taken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotStarted>().is_some_and(NotStarted::port_was_taken)
}

fn endpoints(options: &Options, folder: &Folder) -> Endpoints {
    let state = &folder.state;
    Endpoints {
        kafka_brokers: options.kafka.then(|| format!("127.0.0.1:{}", state.port("kafka"))),
        database_url: options.postgres.then(|| postgres::url(state)),
        s3: options.s3.then(|| S3Endpoint {
            endpoint: format!("http://127.0.0.1:{}", state.port("s3")),
            region: s3::REGION.to_owned(),
            access_key_id: state.s3_access_key_id.as_str().into(),
            secret_access_key: state.s3_secret_access_key.as_str().into(),
        }),
    }
}
