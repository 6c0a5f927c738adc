//! A real Kafka that asks for TLS and a login, and lets each user do only what an ACL allows.
//!
//! It has a second door without either, for its controller and for [`Broker::administer`]; whoever comes in there is
//! a super user.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::LogReader;

use crate::certificates::{Authority, Identity};
use crate::parts::{Part, READY_WITHIN, free_port, kafka_libraries};

/// The user of the mechanism PLAIN, a super user too.
pub(crate) const PLAIN_USER: (&str, &str) = ("plain", "plain-password");

/// A running broker. Dropping it kills it.
pub(crate) struct Broker {
    _part: Part,
    folder: PathBuf,
    /// TLS, a login, and the host name that its certificate is for.
    pub(crate) secured: String,
    /// The same door by a name that its certificate is not for.
    pub(crate) misnamed: String,
    /// Its certificate asks for one in turn.
    pub(crate) mutual: String,
    /// The door without either.
    pub(crate) open: String,
}

impl Broker {
    pub(crate) async fn start(folder: &Path, authority: &Authority, clients: &Authority) -> Broker {
        let home = folder.join("broker");
        fs::create_dir_all(home.join("data")).expect("make the broker's folder");
        let [secured, mutual, open, controller] = [(); 4].map(|()| free_port());
        let identity = authority.sign(&["localhost"]);
        let ports = Ports { secured, mutual, open, controller };
        fs::write(home.join("server.properties"), properties(&home, &ports, &identity, clients)).expect("write");
        let meta = "version=1\ncluster.id=MkU3OEVBNTcwNTJENDM2Qk\nnode.id=1\n";
        fs::write(home.join("data/meta.properties"), meta).expect("write");
        fs::write(home.join("log4j2.properties"), LOG4J2).expect("write");
        let mut java = Command::new("java");
        java.args(["-Xmx384m", "-XX:+UseSerialGC", "-cp"]).arg(kafka_libraries().join("*"));
        java.arg(format!("-Dlog4j2.configurationFile={}", home.join("log4j2.properties").display()));
        java.arg("kafka.Kafka").arg(home.join("server.properties")).env("LANG", "C.UTF-8");
        let mut part = Part::start("broker", folder, &java);
        let broker = |part| Broker {
            _part: part,
            folder: folder.to_owned(),
            secured: format!("localhost:{secured}"),
            misnamed: format!("127.0.0.1:{secured}"),
            mutual: format!("localhost:{mutual}"),
            open: format!("127.0.0.1:{open}"),
        };
        let settings = KafkaSettings { brokers: format!("127.0.0.1:{open}"), ..KafkaSettings::default() };
        let ping = || LogReader::new(&settings).is_ok_and(|reader| reader.ping(Duration::from_secs(1)).is_ok());
        part.until(READY_WITHIN, async || tokio::task::block_in_place(ping).then_some(())).await;
        broker(part)
    }

    /// Makes users and allows them things, a line each: see KafkaAdmin.java.
    pub(crate) fn administer(&self, lines: &[String]) {
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-cp"]).arg(kafka_libraries().join("*"));
        java.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/security/KafkaAdmin.java")).arg(&self.open);
        let mut child = java
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(&self.folder)
            .spawn()
            .expect("run java");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(lines.join("\n").as_bytes()).expect("tell java");
        drop(input);
        let output = child.wait_with_output().expect("java ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Ports {
    secured: u16,
    mutual: u16,
    open: u16,
    controller: u16,
}

fn properties(home: &Path, ports: &Ports, identity: &Identity, clients: &Authority) -> String {
    let Ports { secured, mutual, open, controller } = ports;
    let (data, keystore) = (home.join("data"), &identity.both);
    let (data, keystore, trusted) = (data.display(), keystore.display(), clients.certificate.display());
    let (user, password) = PLAIN_USER;
    let module = "org.apache.kafka.common.security";
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=SECURED://127.0.0.1:{secured},MUTUAL://127.0.0.1:{mutual},OPEN://127.0.0.1:{open},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SECURED://localhost:{secured},MUTUAL://localhost:{mutual},OPEN://127.0.0.1:{open}
listener.security.protocol.map=SECURED:SASL_SSL,MUTUAL:SSL,OPEN:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=OPEN
log.dirs={data}

ssl.keystore.type=PEM
ssl.keystore.location={keystore}
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={trusted}
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.secured.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}=\"{password}\";
listener.name.secured.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.secured.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub=\"broker\";
# A session ends with its token.
listener.name.secured.oauthbearer.connections.max.reauth.ms=3600000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{user}

offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
offsets.topic.num.partitions=4
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"
    )
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
