//! `freshet bench --scale`: several processes of each role share a load on topics of 12 partitions.
//!
//! 1. Each eleventh file, to warm up: a Java that has just started costs three times as much.
//! 2. The first half of the others, by the same processes all through: what a row costs in each role, in Postgres and in
//!    Kafka, and what it leaves there. `freshet capacity` plans with these numbers.
//! 3. The second half: once a sixth of it is committed, one listener and one processor of each domain are added; once
//!    two thirds are, the first of each is stopped. How the processes shared the rows, and whether the plan made with the
//!    numbers of 2 fits.
//!
//! At the end each row is in its table once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use freshet_topics::Domain;
use futures::future::{join_all, try_join_all};
use sqlx::{AssertSqlSafe, PgPool};

use super::child::drop_files;
use super::worker::{Done, Worker};
use super::{Load, UPLOADS, cost, facts, load, until_committed, verify, wait_until_applied};
use crate::commands::bench::split::{Scaled, Share, Usage};
use crate::commands::generate::SampleFile;
use crate::commands::terminal::span;
use crate::commands::up;
use crate::config::{self, Base, Sources};
use crate::local::{LocalStack, Options};
use crate::pipeline::chosen;
use crate::roles::{Role, Services};

/// Options of `freshet bench --scale`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ScaleOptions {
    /// Measure instead what a row costs in each role, with several processes of each; 4,000,000 rows or more are best
    #[arg(long)]
    pub scale: bool,
    /// Listeners, with --scale
    #[arg(long, value_name = "N", default_value_t = 2, requires = "scale", value_parser = clap::value_parser!(u64).range(1..=4))]
    pub listeners: u64,
    /// Processors of each domain, with --scale
    #[arg(long, value_name = "N", default_value_t = 2, requires = "scale", value_parser = clap::value_parser!(u64).range(1..=4))]
    pub processors: u64,
}

/// Of each topic.
pub(super) const PARTITIONS: &str = "12";
/// Of the 100 connections of the stack's Postgres, those that are left for the processes.
const CONNECTIONS: u64 = 80;
/// What differs from the defaults of production: there is one broker, files are found sooner, and listeners that are
/// faster than the processors leave files for those that come later.
pub(super) const SETTINGS: [(&str, &str); 5] = [
    ("kafka.partitions", PARTITIONS),
    ("kafka.replication", "1"),
    ("kafka.min_insync_replicas", "1"),
    ("ingest.list_interval_ms", "1000"),
    ("ingest.lag_rows_max", "100000"),
];
/// Joining a group takes some seconds.
const SHARED_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Measures it.
///
/// # Errors
/// If a part does not start, or rows do not arrive in time or are not in the tables once.
pub(super) async fn run(options: &ScaleOptions, data: &Path, files: &Load) -> Result<Scaled> {
    let mut stage = Stage::start(options, data).await?;
    let measured = measure(options, &mut stage, files).await;
    let stopped = stage.stop().await;
    let scaled = measured?;
    stopped?;
    Ok(scaled)
}

async fn measure(options: &ScaleOptions, stage: &mut Stage, files: &Load) -> Result<Scaled> {
    let pool = stage.services.pool.clone();
    stage.shared(options.processors).await?;
    stage.drop(&files.dimensions).await?;
    wait_until_applied(&pool, files.dimensions.len()).await?;
    let [warm_up, first, second] = parts(&files.facts);
    let (warmed_up, first_half, second_half) = (Part::of(&warm_up)?, Part::of(&first)?, Part::of(&second)?);
    stage.drop(&warm_up).await?;
    wait_until_applied(&pool, files.dimensions.len() + warm_up.len()).await?;

    load::checkpoint(&pool).await;
    let before = stage.usage().await?;
    stage.drop(&first).await?;
    let committed = warmed_up.rows() + first_half.rows();
    until_committed(&pool, committed).await?;
    let steady = stage.usage().await?.since(&before);
    wait_until_applied(&pool, files.dimensions.len() + warm_up.len() + first.len()).await?;

    load::checkpoint(&pool).await;
    let done = stage.done().await?;
    let before = stage.usage().await?;
    let (s3, bucket) = (stage.services.s3.clone(), stage.services.config.s3.raw_bucket.clone());
    let dropped = drop_files(&s3, &bucket, &second, UPLOADS);
    tokio::try_join!(dropped, change(options, stage, committed, second_half.rows()))?;
    let changed = stage.usage().await?.since(&before);
    wait_until_applied(&pool, files.dimensions.len() + files.facts.len()).await?;
    verify(&pool, files.rows).await?;
    let shares = shares(&done, &stage.done().await?, &second_half);
    Ok(Scaled {
        listeners: options.listeners,
        processors: options.processors,
        steady: first_half.with(steady),
        changed: second_half.with(changed),
        shares,
    })
}

/// The files to warm up with, and two halves of the others; rows of each domain in all of them.
fn parts(files: &[SampleFile]) -> [Vec<SampleFile>; 3] {
    let mut parts = <[Vec<SampleFile>; 3]>::default();
    for (number, file) in files.iter().enumerate() {
        let part = if number % 11 == 0 { 0 } else { 1 + number % 2 };
        parts[part].push(file.clone());
    }
    parts
}

/// Adds one of each while the second half is under way, and stops the first of each.
async fn change(options: &ScaleOptions, stage: &mut Stage, committed: i64, rows: i64) -> Result<()> {
    let pool = stage.services.pool.clone();
    until_committed(&pool, committed + rows / 6).await?;
    for role in shared_roles() {
        stage.add(role)?;
    }
    stage.shared(options.processors + 1).await?;
    until_committed(&pool, committed + rows * 2 / 3).await?;
    stage.stop_the_first_of_each().await?;
    until_committed(&pool, committed + rows).await
}

/// The roles of which there are several.
fn shared_roles() -> impl Iterator<Item = Role> {
    [Role::Ingest].into_iter().chain(facts(chosen()).map(Role::Process))
}

/// What the files of a part hold.
struct Part {
    files: u64,
    bytes: u64,
    /// By domain.
    rows: BTreeMap<&'static str, u64>,
}

impl Part {
    fn of(files: &[SampleFile]) -> Result<Part> {
        let mut part = Part { files: files.len() as u64, bytes: 0, rows: BTreeMap::new() };
        for file in files {
            let is_its = |domain: &&'static Domain| domain.matches(&file.key, []);
            let domain = facts(chosen()).find(is_its).with_context(|| format!("{} belongs to no domain", file.key))?;
            let text = std::fs::read(&file.path).with_context(|| format!("read file {}", file.path.display()))?;
            // A heading, and a line a row.
            let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
            *part.rows.entry(domain.name).or_default() += lines.saturating_sub(1);
            part.bytes += file.bytes;
        }
        Ok(part)
    }

    fn rows(&self) -> i64 {
        self.rows.values().sum::<u64>().cast_signed()
    }

    fn with(&self, usage: Usage) -> Usage {
        Usage { rows: self.rows() as f64, csv_bytes: self.bytes as f64, ..usage }
    }
}

/// By process: how many of the rows of the second half it has published or committed.
type Counted = BTreeMap<String, (Role, Done)>;

/// What the stopped ones did last nobody could ask them: they did what the others of their role did not.
fn shares(before: &Counted, after: &Counted, half: &Part) -> Vec<Share> {
    let mut shares = Vec::new();
    for role in shared_roles() {
        let of_role = |counted: &Counted| {
            let of_role = counted.iter().filter(|(_, (its, _))| *its == role);
            of_role.map(|(name, (_, done))| (name.clone(), *done)).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (of_role(before), of_role(after));
        let total = match role {
            Role::Process(domain) => Done { files: 0, rows: half.rows.get(domain.name).copied().unwrap_or(0) },
            _ => Done { files: half.files, rows: half.rows().cast_unsigned() },
        };
        let share = |name: &String, done: Done, note| Share { name: name.clone(), note, done, of_rows: total.rows };
        let mut left = total;
        let mut still_there = Vec::new();
        for (name, now) in &after {
            let (done, note) = match before.get(name) {
                Some(before) => (now.since(*before), ""),
                None => (*now, "added"),
            };
            // A listener that takes over a file sends its last rows again.
            left = Done { files: left.files.saturating_sub(done.files), rows: left.rows.saturating_sub(done.rows) };
            still_there.push(share(name, done, note));
        }
        let stopped = before.keys().filter(|name| !after.contains_key(*name));
        shares.extend(stopped.map(|name| share(name, left, "stopped")));
        shares.extend(still_there);
    }
    shares
}

/// The stack, and the processes that work on it.
struct Stage {
    stack: LocalStack,
    services: Services,
    folder: PathBuf,
    workers: Vec<Worker>,
    /// Seconds of CPU of those that were stopped, by role.
    ended: BTreeMap<&'static str, f64>,
}

impl Stage {
    async fn start(options: &ScaleOptions, data: &Path) -> Result<Stage> {
        let set = SETTINGS.map(|(setting, value)| (setting.to_owned(), value.to_owned())).to_vec();
        let mut config = config::load(&Sources { file: None, set }, Base::Production)?;
        let parts = Options { data_dir: data.to_owned(), kafka: true, postgres: true, s3: true, tell_to: None };
        let stack = LocalStack::start(parts, |line| eprintln!("  {line}")).await?;
        up::point_at(&mut config, &stack);
        let mut roles: Vec<Role> = vec![Role::Ingest; options.listeners as usize];
        for domain in chosen().domains {
            let count = if domain.event_time.is_some() { options.processors } else { 1 };
            roles.extend(vec![Role::Process(domain); count as usize]);
        }
        roles.push(Role::Metrics);
        // One of each more comes later.
        let processes = (roles.len() + shared_roles().count()) as u64;
        // A processor needs one beside those of its writers.
        let least = config.process.writers as u64 + 1;
        config.postgres.connections_max = u32::try_from((CONNECTIONS / processes).max(least))?;
        let services = Services::new(config).await?;
        let prepared = up::prepare(&services, &|line: &str| eprintln!("  {line}")).await;
        let (folder, ended) = (data.to_owned(), BTreeMap::new());
        let mut stage = Stage { stack, services, folder, workers: Vec::new(), ended };
        let started = prepared.and_then(|()| roles.into_iter().try_for_each(|role| stage.add(role)));
        let ready = match started {
            Ok(()) => try_join_all(stage.workers.iter().map(Worker::ready)).await.map(drop),
            Err(error) => Err(error),
        };
        match ready {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.stop().await.context("stop everything after a failed start")?;
                Err(error)
            }
        }
    }

    fn add(&mut self, role: Role) -> Result<()> {
        let number = self.workers.iter().filter(|worker| worker.role == role).count() + 1;
        self.workers.push(Worker::start(role, number, &self.services.config, &self.folder)?);
        Ok(())
    }

    async fn stop_the_first_of_each(&mut self) -> Result<()> {
        let mut stopping = Vec::new();
        for role in shared_roles() {
            let first = self.workers.iter().position(|worker| worker.role == role);
            stopping.push(self.workers.remove(first.context("a role has no process")?));
        }
        self.stop_all(stopping).await
    }

    async fn stop_all(&mut self, workers: Vec<Worker>) -> Result<()> {
        let stopping = workers.into_iter().map(|worker| async move { (worker.role, worker.stop().await) });
        for (role, seconds) in join_all(stopping).await {
            *self.ended.entry(role.labels().0).or_default() += seconds?;
        }
        Ok(())
    }

    /// Stops the processes, then what they work on.
    async fn stop(mut self) -> Result<()> {
        let workers = std::mem::take(&mut self.workers);
        let stopped = self.stop_all(workers).await;
        self.services.pool.close().await;
        self.stack.stop().await.and(stopped)
    }

    async fn drop(&self, files: &[SampleFile]) -> Result<()> {
        drop_files(&self.services.s3, &self.services.config.s3.raw_bucket, files, UPLOADS).await
    }

    /// Until so many processors of each domain read its partitions.
    async fn shared(&self, processors: u64) -> Result<()> {
        let domains: Vec<&str> = facts(chosen()).map(|domain| domain.name).collect();
        let started = Instant::now();
        loop {
            let owners: Vec<i64> = sqlx::query_scalar(
                "SELECT count(DISTINCT owner) FROM pipeline.bookmarks WHERE domain = ANY($1) GROUP BY domain",
            )
            .bind(&domains)
            .fetch_all(&self.services.pool)
            .await
            .context("read the bookmarks")?;
            if owners.len() == domains.len() && owners.iter().all(|count| *count == processors.cast_signed()) {
                return Ok(());
            }
            if started.elapsed() > SHARED_TIMEOUT {
                bail!("{owners:?} processors share the domains after {}", span(SHARED_TIMEOUT));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn done(&self) -> Result<Counted> {
        let counted = self.workers.iter().map(async |worker| Ok((worker.name(), (worker.role, worker.done().await?))));
        join_all(counted).await.into_iter().collect()
    }

    /// What was used and written until now.
    async fn usage(&self) -> Result<Usage> {
        let mut roles = self.ended.clone();
        for worker in &self.workers {
            *roles.entry(worker.role.labels().0).or_default() += worker.seconds()?;
        }
        let of = |role: &str| roles.get(role).copied().unwrap_or(0.0);
        let (log_bytes, table_bytes) = written(&self.services.pool).await?;
        Ok(Usage {
            at: started().elapsed().as_secs_f64(),
            ingest: of("ingest"),
            process: of("process"),
            metrics: of("metrics"),
            parts: cost::until_now(std::process::id())?,
            log_bytes,
            table_bytes,
            topic_bytes: topic_bytes(&self.folder.join("kafka/data"), &self.services.config.kafka.topic_prefix)?,
            ..Usage::default()
        })
    }
}

/// From which seconds are counted.
fn started() -> Instant {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

/// Bytes of log until now, and bytes of the tables of facts and their indexes.
async fn written(pool: &PgPool) -> Result<(f64, f64)> {
    let sizes = facts(chosen()).map(|domain| format!("pg_total_relation_size('\"{}\"'::regclass)", domain.table));
    let statement = format!(
        "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8, ({})::float8",
        sizes.collect::<Vec<_>>().join(" + ")
    );
    sqlx::query_as(AssertSqlSafe(statement)).fetch_one(pool).await.context("ask Postgres what it has written")
}

/// Bytes of the logs of the topics whose names begin so, in a folder of Kafka's.
fn topic_bytes(folder: &Path, prefix: &str) -> Result<f64> {
    let mut bytes = 0;
    let list = |folder: &Path| std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()));
    for partition in list(folder)?.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        for file in list(&partition.path())?.flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                bytes += file.metadata().with_context(|| format!("read file {}", file.path().display()))?.len();
            }
        }
    }
    Ok(bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_warm_up_and_the_others_are_halved() {
        let file = |number: usize| SampleFile { key: number.to_string(), path: PathBuf::new(), bytes: 1 };
        let [warm_up, first, second] = parts(&(0..80).map(file).collect::<Vec<_>>());
        assert_eq!((warm_up.len(), first.len(), second.len()), (8, 36, 36));
    }

    #[test]
    fn the_bytes_of_a_topic_are_those_of_its_logs() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [
            ("freshet.a-0/00000000000000000000.log", 700),
            ("freshet.a-0/00000000000000000000.index", 9_000),
            ("freshet.a-0/00000000000000000700.log", 20),
            ("freshet.b-11/00000000000000000000.log", 3),
            ("__consumer_offsets-0/00000000000000000000.log", 5_000),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
            std::fs::write(path, vec![0; bytes]).expect("write");
        }
        assert_eq!(topic_bytes(folder.path(), "freshet.").expect("a value"), 723.0);
    }

    #[test]
    fn a_stopped_process_did_what_the_others_did_not() {
        let domain = facts(chosen()).next().expect("a domain");
        let role = Role::Process(domain);
        let counted = |pairs: &[(&str, u64)]| {
            let one = |(name, rows): &(&str, u64)| ((*name).to_owned(), (role, Done { files: 0, rows: *rows }));
            pairs.iter().map(one).collect::<Counted>()
        };
        let half = Part { files: 0, bytes: 0, rows: BTreeMap::from([(domain.name, 1_000)]) };
        let shares = shares(&counted(&[("1", 50), ("2", 60)]), &counted(&[("2", 460), ("3", 350)]), &half);
        let found: Vec<_> = shares.iter().map(|it| (it.name.as_str(), it.note, it.done.rows, it.of_rows)).collect();
        assert_eq!(found, [("1", "stopped", 250, 1_000), ("2", "", 400, 1_000), ("3", "added", 350, 1_000)]);
    }
}
