//! A `freshet up` in a process of its own, driven like any user would: through its `env` file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use freshet_sinks::outputs;
use freshet_sinks::postgres::{self, PostgresSettings};
use freshet_sinks::s3::{self, S3Settings};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cost::{self, Cost};
use super::machine;
use crate::commands::generate::SampleFile;
use crate::commands::terminal::span;

/// A first start may download components.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// Draining and stopping all parts.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// The running child. Dropping it kills it, and its own children end with it.
pub(super) struct Child {
    process: tokio::process::Child,
    data: PathBuf,
    log: PathBuf,
    env: HashMap<String, String>,
    s3: Client,
    bucket: String,
    outputs_bucket: String,
}

impl Child {
    /// Starts it on a data folder and returns once its `env` file is there.
    pub(super) async fn start(data: &Path) -> Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("make folder {}", data.display()))?;
        let log = data.with_extension("log");
        // Commands beside it write to the same file: whoever does not append would write over what they said.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("create file {}", log.display()))?;
        let program = std::env::current_exe().context("find this program")?;
        let mut process = tokio::process::Command::new(program)
            .arg("up")
            .arg("--data")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log file")?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .context("start freshet up")?;
        let env = wait_for_env(&mut process, &data.join("env"), &log).await?;
        let of = |name: &str| env.get(name).cloned().with_context(|| format!("the env file lacks {name}"));
        let settings = S3Settings {
            endpoint: of("AWS_ENDPOINT_URL_S3")?,
            region: of("AWS_REGION")?,
            access_key_id: of("AWS_ACCESS_KEY_ID")?.into(),
            secret_access_key: of("AWS_SECRET_ACCESS_KEY")?.into(),
            ..S3Settings::default()
        };
        let (bucket, outputs_bucket) = (of("FRESHET_RAW_BUCKET")?, of("FRESHET_PROCESSED_BUCKET")?);
        let s3 = s3::client(&settings).await;
        Ok(Child { process, data: data.to_owned(), log, env, s3, bucket, outputs_bucket })
    }

    /// How to reach its Postgres.
    pub(super) fn database_url(&self) -> Result<String> {
        self.env.get("DATABASE_URL").cloned().context("the env file lacks DATABASE_URL")
    }

    /// Connections of the benchmark's own.
    pub(super) async fn pool(&self) -> Result<PgPool> {
        let url = self.database_url()?;
        postgres::pool(&PostgresSettings { url: url.into(), connections_max: 8, ..PostgresSettings::default() })
            .context("connect to the child's Postgres")
    }

    pub(super) async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        put(&self.s3, &self.bucket, key, ByteStream::from(bytes)).await
    }

    /// Puts an object into the bucket of the outputs, where nobody listens and nobody looks.
    pub(super) async fn put_unheard(&self, key: String, bytes: Vec<u8>) -> Result<()> {
        put(&self.s3, &self.outputs_bucket, &key, ByteStream::from(bytes)).await
    }

    /// Drops files, so many at once.
    pub(super) async fn drop_files(&self, files: &[SampleFile], at_once: usize) -> Result<()> {
        drop_files(&self.s3, &self.bucket, files, at_once).await
    }

    /// Whether a whole-file copy is older than what is published.
    pub(super) async fn has_copies_behind(&self) -> Result<bool> {
        let manifest = outputs::read_current(&self.s3, &self.outputs_bucket).await.context("read what is published")?;
        let Some(manifest) = manifest else { return Ok(true) };
        let behind = outputs::copies_behind(&self.s3, &self.outputs_bucket, &manifest).await;
        Ok(!behind.context("look at the copies")?.is_empty())
    }

    /// What it and the parts that it started have cost until now.
    pub(super) fn cost(&self) -> Result<Cost> {
        cost::until_now(self.process.id().context("freshet up has ended")?)
    }

    /// The most memory that freshet itself has held, in bytes: Kafka, Postgres and S3 are other processes.
    pub(super) fn peak_memory(&self) -> Result<u64> {
        machine::peak_memory(self.process.id().context("freshet up has ended")?)
    }

    /// Starts another `freshet` on the same data folder; what it says goes to the child's log.
    pub(super) fn command(&self, arguments: &[&str]) -> Result<tokio::process::Child> {
        let log = std::fs::OpenOptions::new().append(true).open(&self.log);
        let log = log.with_context(|| format!("open file {}", self.log.display()))?;
        tokio::process::Command::new(std::env::current_exe().context("find this program")?)
            .args(arguments)
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log file")?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start freshet {}", arguments.join(" ")))
    }

    /// Ctrl-C, and until it has drained and stopped everything.
    pub(super) async fn stop(mut self) -> Result<()> {
        let Some(id) = self.process.id() else { bail!("freshet up ended early; see {}", self.log.display()) };
        // The library has no unsafe code of its own for this; kill is part of every POSIX system.
        let sent = tokio::process::Command::new("kill").args(["-INT", &id.to_string()]).status().await;
        ensure!(sent.context("interrupt freshet up")?.success(), "interrupt freshet up: kill failed");
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await;
        let Ok(ended) = ended else { bail!("freshet up did not stop within {}", span(STOP_TIMEOUT)) };
        let status = ended.context("wait for freshet up")?;
        ensure!(status.success(), "freshet up ended with {status}; see {}", self.log.display());
        Ok(())
    }
}

/// Drops files into a bucket, so many at once.
pub(super) async fn drop_files(s3: &Client, bucket: &str, files: &[SampleFile], at_once: usize) -> Result<()> {
    let turns = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for file in files.iter().cloned() {
        let (s3, bucket, turns) = (s3.clone(), bucket.to_owned(), Arc::clone(&turns));
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let bytes = ByteStream::from_path(&file.path).await;
            put(&s3, &bucket, &file.key, bytes.with_context(|| format!("read file {}", file.path.display()))?).await
        });
    }
    while let Some(sent) = tasks.join_next().await {
        sent.context("send a file")??;
    }
    Ok(())
}

async fn put(s3: &Client, bucket: &str, key: &str, body: ByteStream) -> Result<()> {
    let sent = s3.put_object().bucket(bucket).key(key).body(body).send().await;
    sent.with_context(|| format!("drop file s3://{bucket}/{key}"))?;
    Ok(())
}

async fn wait_for_env(process: &mut tokio::process::Child, path: &Path, log: &Path) -> Result<HashMap<String, String>> {
    let started = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(parse_env(&text));
        }
        if let Some(status) = process.try_wait().context("look at freshet up")? {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            bail!("freshet up ended with {status}: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | "));
        }
        if started.elapsed() > START_TIMEOUT {
            bail!("freshet up is not ready after {}; see {}", span(START_TIMEOUT), log.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `export NAME='value'` lines; a quote within a value is written `'\''`.
fn parse_env(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    let plain = |value: &str| match value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        Some(quoted) => quoted.replace("'\\''", "'"),
        None => value.to_owned(),
    };
    pairs.map(|(name, value)| (name.to_owned(), plain(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_env_file_is_read_as_a_shell_would() {
        let env = parse_env("# freshet\nexport A='x y'\nexport B=plain\nexport C='it'\\''s'\nexport D=''\n");
        let expected = [("A", "x y"), ("B", "plain"), ("C", "it's"), ("D", "")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}
