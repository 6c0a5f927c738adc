//! A real Apache Kafka, one node that is broker and controller (KRaft), on loopback.
//!
//! The data folder is not formatted by a second JVM: `meta.properties` is written here, and the metadata version is
//! then Kafka's own latest. Start-up takes about a second with the class archive that `scripts/setup` makes.
//!
//! `DATA/kafka/more.properties`, where somebody has put it there, is added to the configuration.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::child::{Child, NotStarted, Spec, StopSteps};
use super::components::Components;
use super::folder::{Folder, State, make_dir, write_private};

pub(super) const NAME: &str = "kafka";
pub(super) const PORTS: [&str; 2] = ["kafka", "kafka_controller"];
/// A clean stop takes under a second; one with much to flush some more.
pub(super) const STOP: StopSteps = &[(Signal::TERM, Duration::from_secs(20))];
/// With gigabytes of log to check after a crash it takes longer than its usual second.
const START_LIMIT: Duration = Duration::from_secs(120);
/// An answer to a request for metadata is some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Starts Kafka and returns once it gives out metadata.
pub(super) async fn start(folder: &Folder, components: &Components) -> anyhow::Result<Child> {
    let home = folder.root.join("kafka");
    let data = home.join("data");
    make_dir(&home, 0o700)?;
    make_dir(&data, 0o700)?;
    write_private(&data.join("meta.properties"), &meta_properties(&folder.state))?;
    let properties = server_properties(&folder.state, &data, was_killed(&data));
    // What is said later in the file wins.
    let more = fs::read_to_string(home.join("more.properties")).unwrap_or_default();
    write_private(&home.join("server.properties"), &(properties + &more))?;
    write_private(&home.join("log4j2.properties"), LOG4J2)?;
    let mut child = Child::start(Spec {
        name: NAME,
        program: components.java.clone(),
        args: java_args(&home, &components.kafka_dir),
        env: vec![("HOME", home.clone().into_os_string()), ("LANG", "C.UTF-8".into())],
        user: None,
        working_dir: home.clone(),
        log: folder.log(NAME),
        record: folder.record(NAME),
        // A clean stop, so that the next start need not wait for the old broker's session to end (see below). A
        // process that hangs in it is stopped by the next start, from its record.
        on_our_death: Signal::TERM,
        stop: STOP,
    })?;
    let port = folder.state.port("kafka");
    match child.ready(START_LIMIT, || async move { answers(port).await.unwrap_or(false) }).await {
        Err(error) if is_old_java(&error) => Err(error).context("this Java is older than 17: run `make setup`"),
        result => result.map(|()| child),
    }
}

fn is_old_java(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotStarted>().is_some_and(|e| e.log_end.contains("UnsupportedClassVersionError"))
}

/// Kafka leaves a mark in its folder when it stops cleanly, and takes it away when it starts.
fn was_killed(data: &Path) -> bool {
    data.join("__cluster_metadata-0").exists() && !data.join(".kafka_cleanshutdown").exists()
}

fn java_args(home: &Path, kafka_dir: &Path) -> Vec<std::ffi::OsString> {
    let mut args: Vec<std::ffi::OsString> = [
        "-Xms256m",
        "-Xmx512m",
        // Two cores shared with everything else: no collector threads of its own.
        "-XX:+UseSerialGC",
        // Nor a second compiler, whose work pays for itself only after minutes of load: without it, a million rows cost
        // Kafka a third less CPU, and 5,000 small files 40 % less.
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "-Xshare:auto",
        // An archive of another Java is silently ignored.
        "-Xlog:disable",
        "-Xlog:all=error:stderr",
    ]
    .map(Into::into)
    .into();
    let archive = kafka_dir.join("kafka.jsa");
    if archive.is_file() {
        args.push(with_path("-XX:SharedArchiveFile=", &archive));
    }
    args.push(with_path("-Dlog4j2.configurationFile=", &home.join("log4j2.properties")));
    args.push("-cp".into());
    args.push(kafka_dir.join("libs/*").into());
    args.push("kafka.Kafka".into());
    args.push(home.join("server.properties").into());
    args
}

fn with_path(flag: &str, path: &Path) -> std::ffi::OsString {
    let mut arg = std::ffi::OsString::from(flag);
    arg.push(path);
    arg
}

fn meta_properties(state: &State) -> String {
    format!("version=1\ncluster.id={}\nnode.id=1\ndirectory.id={}\n", state.kafka_cluster_id, state.kafka_directory_id)
}

/// The whole configuration. A killed broker's registration lives on until its session ends (9 s unless set), and the
/// new one waits for that: after a kill, and only for that run, the session is short.
fn server_properties(state: &State, data: &Path, was_killed: bool) -> String {
    let (broker, controller) = (state.port("kafka"), state.port("kafka_controller"));
    let data = escape(&data.to_string_lossy());
    let session = if was_killed { "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=250\n" } else { "" };
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
{session}
# One node: nothing to replicate to.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
auto.leader.rebalance.enable=false

# Topics are created by `freshet topics create`, never by a typing error.
auto.create.topics.enable=false
num.partitions=4
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
log.retention.ms=-1

# A group starts at once.
group.initial.rebalance.delay.ms=0

# Two cores and half a GiB.
num.network.threads=2
num.io.threads=4
background.threads=2
group.coordinator.threads=1
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.io.buffer.size=262144
metadata.max.idle.interval.ms=5000
"
    )
}

/// Java's property files read `\` as an escape.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\")
}

const LOG4J2: &str = "\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
";

/// Asks for metadata of no topic (Metadata v1, KIP-4): yes once a broker is registered and not fenced.
async fn answers(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&metadata_request()).await?;
    let size = stream.read_i32().await?;
    let mut answer = vec![0; usize::try_from(size).unwrap_or(0).min(ANSWER_BYTES_MAX)];
    stream.read_exact(&mut answer).await?;
    // Correlation id, then the brokers as an array with its length first.
    let brokers = answer.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes);
    Ok(brokers > 0)
}

fn metadata_request() -> Vec<u8> {
    let client = b"freshet";
    let mut body = Vec::new();
    body.extend(3i16.to_be_bytes()); // api key: metadata
    body.extend(1i16.to_be_bytes()); // api version
    body.extend(1i32.to_be_bytes()); // correlation id
    body.extend((client.len() as i16).to_be_bytes());
    body.extend(client);
    body.extend(0i32.to_be_bytes()); // no topic
    let mut request = (body.len() as i32).to_be_bytes().to_vec();
    request.extend(body);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_listener_follows_the_port() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut folder = Folder::open(&temp.path().join("data")).expect("open");
        folder.claim_ports(&PORTS, None).expect("ports");
        let text = server_properties(&folder.state, Path::new("/a\\b"), false);
        let port = folder.state.port("kafka");
        assert!(text.contains(&format!("\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n")));
        assert!(text.contains("\nlog.dirs=/a\\\\b\n"));
        assert!(!text.contains("session.timeout"));
    }

    #[test]
    fn a_killed_broker_is_known_by_its_missing_mark() {
        let temp = tempfile::tempdir().expect("tempdir");
        assert!(!was_killed(temp.path()), "a new folder");
        fs::create_dir(temp.path().join("__cluster_metadata-0")).expect("mkdir");
        assert!(was_killed(temp.path()));
        fs::write(temp.path().join(".kafka_cleanshutdown"), "").expect("write");
        assert!(!was_killed(temp.path()));
    }
}
