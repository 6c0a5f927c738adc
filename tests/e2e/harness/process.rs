//! The real binary as a process of its own, to be killed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use freshet::config::{self, Base, Sources};
use freshet::roles::Services;
use freshet_topics::failpoint::Point;
use secrecy::ExposeSecret;

use super::http::{get, within};
use super::world::TRUE_WITHIN;
use super::{World, folder};

/// A running `freshet`. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `freshet` with these arguments and variables and nothing else of ours in its environment.
    pub(crate) fn start(name: &str, arguments: &[&str], variables: &[(String, String)]) -> Process {
        let log = folder().join(format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("open the log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("FRESHET") && variable != "FRESHET_HOME" {
                command.env_remove(variable);
            }
        }
        command.args(arguments).envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("share the log")).stderr(file);
        Process { child: command.spawn().expect("start freshet"), log }
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("look at the process").is_none()
    }

    /// What the names of its listeners and processors have in them, in the ledger and the bookmarks.
    pub(crate) fn mark(&self) -> String {
        format!(":{}:", self.child.id())
    }

    /// The most memory that it has had resident so far, in MiB.
    pub(crate) fn resident_mib_max(&self) -> u64 {
        resident_mib_max(self.child.id())
    }

    /// The names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a running process");
        // One that has ended meanwhile has no name any more.
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// What the kernel will do next about each of its TCP connections to `port`: nothing (0), send something again (1),
    /// or ask whether the peer is still there (2), as proc_pid_net(5) lists it.
    pub(crate) fn tcp_timers(&self, port: u16) -> Vec<u8> {
        let process = format!("/proc/{}", self.child.id());
        let descriptors = fs::read_dir(format!("{process}/fd")).expect("a running process");
        let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        let own: Vec<PathBuf> = links.collect();
        let timer = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_own = own.contains(&PathBuf::from(format!("socket:[{}]", fields.get(9)?)));
            let is_to_port = fields[2].ends_with(&format!(":{port:04X}"));
            (is_own && is_to_port).then(|| fields[5][..2].parse().expect("a timer"))
        };
        let tables =
            ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("{process}/net/{name}")).unwrap_or_default());
        tables.iter().flat_map(|table| table.lines().skip(1).filter_map(timer)).collect()
    }

    /// Where it serves HTTP, once its log says so.
    pub(crate) async fn http(&self) -> String {
        let address = |log: String| {
            let (_, rest) = log.split_once("serving /metrics, /healthz and /readyz")?;
            let (_, rest) = rest.split_once("address=")?;
            Some(rest.split_whitespace().next()?.to_owned())
        };
        within(TRUE_WITHIN, "the role serves HTTP", async || address(self.log())).await
    }

    /// A count that it serves at `/metrics`, by the name with its labels; none before there is one. Unlike this test
    /// program, it has counted for its own story alone.
    pub(crate) async fn metric(&self, name: &str) -> Option<u64> {
        let body = get(&self.http().await, "/metrics").await.1;
        let count = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(count.parse().unwrap_or_else(|_| panic!("{name} is {count}")))
    }

    /// Waits until it has killed itself, as a failpoint told it to.
    pub(crate) async fn killed(mut self, limit: Duration) {
        let ended = within(limit, "it comes to its failpoint", async || self.child.try_wait().expect("look")).await;
        assert_eq!(ended.signal(), Some(9), "{ended}:\n{}", self.log());
    }

    /// Waits until it has stopped itself, as a failpoint told it to.
    pub(crate) async fn stopped(&self, limit: Duration) {
        let stat = format!("/proc/{}/stat", self.child.id());
        within(limit, "it comes to its failpoint", async || {
            let stat = fs::read_to_string(&stat).expect("a running process");
            // The state is the first field after the name in brackets (proc_pid_stat(5)).
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')).then_some(())
        })
        .await;
    }

    /// Sends it a signal, `TERM` or `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("run kill").success(), "send SIG{name}");
    }

    /// Asks it to stop, and waits for its exit code.
    pub(crate) async fn terminate(mut self, limit: Duration) -> Option<i32> {
        self.signal("TERM");
        within(limit, "the role drains", async || self.child.try_wait().expect("look at the process")).await.code()
    }

    /// Waits for its own end, and for its exit code.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Option<i32> {
        within(limit, "the role ends", async || self.child.try_wait().expect("look at the process")).await.code()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The most memory that a running process has had resident so far, in MiB.
pub(crate) fn resident_mib_max(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells of a running process");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl World {
    /// Runs a command of this world to its end, as in a terminal of 80 columns.
    pub(crate) fn freshet(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.args(arguments).env_clear().envs(self.variables()).env("COLUMNS", "80").current_dir(folder());
        command.output().expect("run freshet")
    }

    /// Starts one role of this world as a process of its own.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        self.spawn_with(arguments, &[])
    }

    /// The same, and the role serves HTTP at a free port ([`Process::http`]).
    pub(crate) fn serve(&self, arguments: &[&str]) -> Process {
        self.spawn(&[arguments, &["--set", "http.listen=127.0.0.1:0"]].concat())
    }

    /// Starts a role with more variables.
    pub(crate) fn spawn_with(&self, arguments: &[&str], more: &[(&str, String)]) -> Process {
        let role: Vec<&str> = arguments.iter().copied().take_while(|argument| !argument.starts_with('-')).collect();
        let name = format!("{}-{}", self.name(), role.join("-"));
        let own = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let variables: Vec<(String, String)> = self.variables().into_iter().chain(own).collect();
        Process::start(&name, arguments, &variables)
    }

    /// The same, and what it does at a failpoint.
    pub(crate) fn spawn_failing(&self, arguments: &[&str], point: Point, action: &str) -> Process {
        self.spawn_with(arguments, &[("FAILPOINTS", format!("{}={action}", point.name()))])
    }

    /// The settings of this world as environment variables.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let config = &self.services.config;
        let settings = [
            ("FRESHET__KAFKA__BROKERS", config.kafka.brokers.clone()),
            ("FRESHET__KAFKA__TOPIC_PREFIX", config.kafka.topic_prefix.clone()),
            ("FRESHET__KAFKA__GROUP_PREFIX", config.kafka.group_prefix.clone()),
            ("FRESHET__KAFKA__ROWS_PER_MESSAGE", config.kafka.rows_per_message.to_string()),
            ("FRESHET__POSTGRES__URL", config.postgres.url.expose_secret().to_owned()),
            ("FRESHET__POSTGRES__CONNECTIONS_MAX", "6".into()),
            ("FRESHET__S3__ENDPOINT", config.s3.endpoint.clone()),
            ("FRESHET__S3__REGION", config.s3.region.clone()),
            ("FRESHET__S3__ACCESS_KEY_ID", config.s3.access_key_id.expose_secret().to_owned()),
            ("FRESHET__S3__SECRET_ACCESS_KEY", config.s3.secret_access_key.expose_secret().to_owned()),
            ("FRESHET__S3__RAW_BUCKET", config.s3.raw_bucket.clone()),
            ("FRESHET__S3__VERSIONS", format!("{:?}", config.s3.versions).to_lowercase()),
            ("FRESHET__S3__PROCESSED_BUCKET", config.s3.processed_bucket.clone()),
            ("FRESHET__INGEST__RECONCILE_INTERVAL_MS", config.ingest.reconcile_interval_ms.to_string()),
            ("FRESHET__INGEST__CLAIM_INTERVAL_MS", config.ingest.claim_interval_ms.to_string()),
            ("FRESHET__METRICS__VERIFY_INTERVAL_MS", config.metrics.verify_interval_ms.to_string()),
            ("FRESHET__HTTP__SURVEY_INTERVAL_MS", config.http.survey_interval_ms.to_string()),
            ("FRESHET__INGEST__CHUNK_BYTES", config.ingest.chunk_bytes.to_string()),
            ("FRESHET__INGEST__LEASE_MS", config.ingest.lease_ms.to_string()),
            ("FRESHET__INGEST__ROWS_PER_SECOND", config.ingest.rows_per_second.to_string()),
            ("FRESHET__INGEST__WORKERS", config.ingest.workers.to_string()),
            ("FRESHET__PROCESS__BATCH_ROWS_MAX", config.process.batch_rows_max.to_string()),
            ("FRESHET__PROCESS__WRITERS", config.process.writers.to_string()),
            ("FRESHET__METRICS__CACHE_DIR", config.metrics.cache_dir.to_string_lossy().into_owned()),
            ("FRESHET__HTTP__LISTEN", String::new()),
            // Takes the local stack's other settings, as in a shell that sourced its env.
            ("FRESHET_RAW_BUCKET", config.s3.raw_bucket.clone()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// How long `freshet up` may take, over the data of a killed one too.
const UP_WITHIN: Duration = Duration::from_secs(90);

/// Starts `freshet up` on a data folder, and gives clients for what it runs.
pub(crate) async fn up(name: &str, data: &Path, variables: &[(String, String)]) -> (Process, Services) {
    let mut process = Process::start(name, &["up", "--data", &data.to_string_lossy()], variables);
    let started = Instant::now();
    let env = loop {
        if let Some(env) = env_of(data) {
            break env;
        }
        assert!(process.runs() && started.elapsed() < UP_WITHIN, "freshet up did not come up:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut config = config::load(&Sources::default(), Base::Local).expect("settings");
    let value = |name: &str| env.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    config::fill(&mut config, |name| value(name).unwrap_or_default());
    (process, Services::new(config).await.expect("services"))
}

/// The `export NAME='value'` lines that a running `freshet up` wrote, once they are there.
pub(crate) fn env_of(data: &Path) -> Option<Vec<(String, String)>> {
    freshet::local::read_env(data)
}
