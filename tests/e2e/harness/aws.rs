//! A stand-in for AWS of one story: a queue, and where it is `ministack` a store that tells the queue.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use freshet::config::Config;
use freshet_sinks::s3::S3Settings;
use freshet_sinks::sqs;

use super::http::{Door, within};
use super::world::TRUE_WITHIN;
use super::{cache_folder, folder};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Name of the queue in each story.
const QUEUE: &str = "events";
/// The account that both stand-ins take a login for, by default.
const ACCOUNTS: [(&str, &str); 2] = [("ministack", "000000000000"), ("moto", "123456789012")];

/// A running stand-in that keeps everything in memory. Dropping it ends it.
pub(crate) struct Aws {
    child: Child,
    pub(crate) endpoint: String,
    pub(crate) queue_url: String,
    pub(crate) sqs: Client,
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Aws {
    /// S3 and SQS, of which the one tells the other.
    pub(crate) async fn ministack(story: &str) -> Aws {
        Aws::start("ministack", "bin/ministack", story, |command, port| {
            command.env("GATEWAY_PORT", port).env("BIND_HOST", "127.0.0.1").env("MINISTACK_HOST", "127.0.0.1");
            // These would open ports of their own, the same ones in each story.
            command.env("IOT_MTLS_ENABLED", "0").env("SFTP_ENABLED", "0");
        })
        .await
    }

    /// SQS as somebody else understands it.
    pub(crate) async fn moto(story: &str) -> Aws {
        Aws::start("moto", "bin/moto_server", story, |command, port| {
            command.args(["-H", "127.0.0.1", "-p", port]);
        })
        .await
    }

    async fn start(name: &str, program: &str, story: &str, set: impl FnOnce(&mut Command, &str)) -> Aws {
        let address = Door::new().await.address;
        let port = address.rsplit_once(':').expect("a port").1;
        let log_path = folder().join(format!("{story}-{name}.log"));
        let log = fs::File::create(&log_path).expect("make the log");
        let mut command = Command::new(installed(name).join(program));
        command.env("TMPDIR", folder()).env("S3_PERSIST", "0").current_dir(folder());
        set(&mut command, port);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("share the log")).stdout(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        let endpoint = format!("http://{address}");
        let account = ACCOUNTS.iter().find(|(of, _)| *of == name).expect("one of the two").1;
        let login = S3Settings {
            access_key_id: "test".to_owned().into(),
            secret_access_key: "test".to_owned().into(),
            ..S3Settings::default()
        };
        let sqs = sqs::client(&login, &endpoint, "us-east-1").await;
        let aws = Aws { child, queue_url: format!("{endpoint}/{account}/{QUEUE}"), endpoint, sqs };
        let began = Instant::now();
        while TcpStream::connect(&address).is_err() || aws.sqs.list_queues().send().await.is_err() {
            let said = || fs::read_to_string(&log_path).unwrap_or_default();
            assert!(began.elapsed() < STARTS_WITHIN, "{name} does not answer:\n{}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        aws
    }

    /// Has a world take its files from here, and hear of them by the queue only: a listing comes every ten minutes.
    pub(crate) fn is_store_of(&self, config: &mut Config) {
        config.s3.endpoint.clone_from(&self.endpoint);
        config.s3.region = "us-east-1".into();
        config.s3.access_key_id = "test".to_owned().into();
        config.s3.secret_access_key = "test".to_owned().into();
        self.tells(config);
    }

    /// Has a world hear of files by the queue only.
    pub(crate) fn tells(&self, config: &mut Config) {
        config.ingest.list_interval_ms = 600_000;
        config.ingest.events.queue_url.clone_from(&self.queue_url);
        config.ingest.events.endpoint.clone_from(&self.endpoint);
        config.ingest.events.region = "us-east-1".into();
        config.ingest.events.wait_s = 1;
    }

    pub(crate) fn dead_url(&self) -> String {
        format!("{}-dead", self.queue_url)
    }

    pub(crate) async fn send(&self, body: impl Into<String>) {
        let request = self.sqs.send_message().queue_url(&self.queue_url).message_body(body);
        request.send().await.expect("put a message into the queue");
    }

    /// Messages of a queue: those that wait, and those that somebody took and has not settled.
    pub(crate) async fn messages(&self, url: &str) -> (u64, u64) {
        let wanted = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        let request = self.sqs.get_queue_attributes().queue_url(url).set_attribute_names(Some(wanted.to_vec()));
        let found = request.send().await.expect("look at the queue").attributes.unwrap_or_default();
        let [waiting, taken] = wanted.map(|name| found[&name].parse().expect("a number"));
        (waiting, taken)
    }

    /// Waits until nothing is left in the queue.
    pub(crate) async fn is_drained(&self) {
        let empty = async || (self.messages(&self.queue_url).await == (0, 0)).then_some(());
        within(TRUE_WITHIN, "every message is settled", empty).await;
    }
}

/// What `scripts/setup tests` installed.
fn installed(name: &str) -> PathBuf {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup");
    let setup = fs::read_to_string(setup).expect("read scripts/setup");
    let version = setup.lines().find_map(|line| line.strip_prefix(&format!("{name}_version="))).expect("its version");
    let folder = cache_folder().join(format!("{name}-{version}"));
    assert!(folder.join("complete").exists(), "{} is not there: run scripts/setup tests", folder.display());
    folder
}
