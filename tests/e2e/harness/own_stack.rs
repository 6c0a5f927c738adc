//! A Kafka, a Postgres and an S3 server for one test alone, each of which it may kill, freeze and start again.
//!
//! Nothing watches over them: what the test has killed stays dead until it says otherwise. A signal goes to the server
//! and to all processes below it, as a machine that loses its power, or is paused, takes all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use freshet::config::Config;
use freshet::local::{Endpoints, LocalStack, Options};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::http::{Door, within};
use super::tcp::Tcp;
use super::{World, folder};

/// Own stacks at once, beside the shared one: each is three servers, on two cores.
static SLOTS: Semaphore = Semaphore::const_new(1);

/// How long a killed server may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Kafka,
    Postgres,
    S3,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Server::Kafka => "kafka",
            Server::Postgres => "postgres",
            Server::S3 => "s3",
        }
    }
}

/// A running stack. Dropping it ends it.
pub(crate) struct OwnStack {
    stack: LocalStack,
    story: String,
    _slot: SemaphorePermit<'static>,
}

impl OwnStack {
    pub(crate) async fn start(story: &str) -> OwnStack {
        let slot = SLOTS.acquire().await.expect("never closed");
        let options = Options {
            data_dir: folder().join(format!("own-{story}")),
            kafka: true,
            postgres: true,
            s3: true,
            tell_to: None,
        };
        let stack = LocalStack::start(options, |_| ()).await.expect("start a stack");
        OwnStack { stack, story: story.to_owned(), _slot: slot }
    }

    /// The world of the test, with settings of its own.
    pub(crate) async fn world(&self, change: impl FnOnce(&mut Config)) -> World {
        World::on(self.endpoints(), self.story.clone(), None, change).await
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        self.stack.endpoints()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.stack.data_dir()
    }

    /// kill -9; returns once the server is gone. [`OwnStack::start_again`] brings it back.
    pub(crate) async fn kill(&mut self, server: Server) {
        self.signal("KILL", server);
        within(GONE_WITHIN, "the server is gone", async || self.stack.exited().map(drop)).await;
    }

    /// Starts what was killed again, on the same ports and data, and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        self.stack.start_again().await.expect("start it again");
    }

    /// SIGSTOP: its connections stay open, and nobody answers on them.
    pub(crate) fn freeze(&self, server: Server) {
        self.signal("STOP", server);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, server: Server) {
        self.signal("CONT", server);
    }

    /// Gives Kafka a second door behind a proxy: who comes in by it is sent on by it. Kafka is restarted.
    pub(crate) async fn kafka_behind_a_proxy(&mut self) -> Tcp {
        let behind = Door::new().await.address;
        let proxy = Tcp::before(&behind).await;
        let home = self.data_dir().join("kafka");
        let properties = fs::read_to_string(home.join("server.properties")).expect("its settings");
        let line = |name: &str| properties.lines().find(|line| line.starts_with(name)).expect("a setting").to_owned();
        let more = format!(
            "{},PROXIED://{behind}\n{},PROXIED://{}\n{},PROXIED:PLAINTEXT\n",
            line("listeners="),
            line("advertised.listeners="),
            proxy.address,
            line("listener.security.protocol.map="),
        );
        fs::write(home.join("more.properties"), more).expect("write its settings");
        self.kill(Server::Kafka).await;
        self.start_again().await;
        proxy
    }

    fn signal(&self, signal: &str, server: Server) {
        let record = self.data_dir().join(format!("run/{}.pid", server.name()));
        let record = fs::read_to_string(record).expect("the record of a running server");
        let pid: u32 = record.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a process id");
        let pids = with_descendants(pid).into_iter().map(|pid| pid.to_string());
        // One that has ended meanwhile is no failure; the server itself comes first, and makes no new ones then.
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).args(pids).stderr(Stdio::null()).status().expect("run kill");
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        // A frozen server does not end when asked to.
        for server in [Server::Kafka, Server::Postgres, Server::S3] {
            if self.data_dir().join(format!("run/{}.pid", server.name())).exists() {
                self.thaw(server);
            }
        }
    }
}

/// A process and all below it, itself first.
fn with_descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The parent is the second field after the name in brackets (proc_pid_stat(5)).
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found
}
