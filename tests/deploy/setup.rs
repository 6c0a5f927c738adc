//! `freshet setup` on real services: what it makes, what it finds the second time, and what it may not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use freshet::local::{self, LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::compose::FRESHET;
use crate::parts::{Part, READY_WITHIN, free_port, start_kafka, weed};

/// Kafka and Postgres of a local stack, and an S3 server with three identities. Dropping it ends and removes them.
struct Place {
    stack: Option<LocalStack>,
    s3: Option<Part>,
    s3_endpoint: String,
    folder: PathBuf,
}

/// What the identities of the S3 server may do; the name is key and secret too.
const IDENTITIES: [(&str, &[&str]); 3] =
    [("owner", &["Admin", "Read", "Write", "List", "Tagging"]), ("reader", &["Read", "List"]), ("nobody", &[])];

impl Place {
    async fn start(name: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("freshet-setup-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("s3")).expect("make the folder of the test");
        let options = Options { data_dir: folder.join("data"), kafka: true, postgres: true, s3: false, tell_to: None };
        let stack = LocalStack::start(options, |_| ()).await.expect("start Kafka and Postgres");
        let s3_endpoint = format!("http://127.0.0.1:{}", free_port());
        let mut place = Place { stack: Some(stack), s3: None, s3_endpoint, folder };
        let mut s3 = place.start_s3();
        let client = place.client().await;
        s3.until(READY_WITHIN, async || client.list_buckets().send().await.ok()).await;
        place.s3 = Some(s3);
        place
    }

    fn start_s3(&self) -> Part {
        let identities = IDENTITIES.map(|(name, actions)| {
            let keys = serde_json::json!([{"accessKey": name, "secretKey": name}]);
            serde_json::json!({"name": name, "credentials": keys, "actions": actions})
        });
        let file = self.folder.join("identities.json");
        fs::write(&file, serde_json::json!({"identities": identities}).to_string()).expect("write the identities");
        let port = self.s3_endpoint.rsplit_once(':').expect("a port").1;
        let mut program = Command::new(weed());
        program.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
        program.args(["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        program.arg(format!("-dir={}", self.folder.join("s3").display())).arg(format!("-s3.config={}", file.display()));
        program.arg(format!("-s3.port={port}"));
        for door in ["s3.port.grpc", "master.port", "volume.port", "filer.port", "admin.port"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        for door in ["master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        Part::start("s3", &self.folder, program.env("HOME", &self.folder))
    }

    async fn client(&self) -> Client {
        s3::client(&S3Settings {
            endpoint: self.s3_endpoint.clone(),
            region: "us-east-1".into(),
            access_key_id: "owner".into(),
            secret_access_key: "owner".into(),
            ..S3Settings::default()
        })
        .await
    }

    fn database_url(&self) -> String {
        self.stack.as_ref().expect("runs").endpoints().database_url.clone().expect("Postgres runs")
    }

    async fn execute(&self, sql: &str) {
        let mut owner = PgConnection::connect(&self.database_url()).await.expect("connect to Postgres");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A topic that somebody made, empty and with the brokers' settings.
    async fn make_topic(&self, name: &str) {
        let mut config = ClientConfig::new();
        config.set(
            "bootstrap.servers",
            self.stack.as_ref().expect("runs").endpoints().kafka_brokers.as_ref().expect("Kafka"),
        );
        let admin = AdminClient::from_config(&config).expect("an admin client");
        let topic = NewTopic::new(name, 3, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("ask for a topic");
        assert!(made[0].is_ok(), "{made:?}");
    }

    /// Runs `freshet` as the owner of everything, but for the settings given.
    fn run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Said {
        let endpoints = self.stack.as_ref().expect("runs").endpoints();
        let mut variables: BTreeMap<&str, String> = BTreeMap::from([
            ("FRESHET__KAFKA__BROKERS", endpoints.kafka_brokers.clone().expect("Kafka runs")),
            ("FRESHET__KAFKA__PARTITIONS", "3".into()),
            ("FRESHET__KAFKA__REPLICATION", "1".into()),
            ("FRESHET__KAFKA__MIN_INSYNC_REPLICAS", "1".into()),
            ("FRESHET__POSTGRES__URL", self.database_url()),
            ("FRESHET__S3__ENDPOINT", self.s3_endpoint.clone()),
            ("FRESHET__S3__REGION", "us-east-1".into()),
            ("FRESHET__S3__ACCESS_KEY_ID", "owner".into()),
            ("FRESHET__S3__SECRET_ACCESS_KEY", "owner".into()),
        ]);
        variables.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let output = Command::new(FRESHET)
            .args(arguments)
            .env_clear()
            .envs(variables)
            .current_dir(&self.folder)
            .output()
            .expect("run freshet");
        Said::new(output)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.s3, self.stack) = (None, None);
        local::remove(&self.folder.join("data")).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn new(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What is said of a thing.
    fn of(&self, thing: &str) -> &str {
        let line = self.out.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|it| it.ends_with(thing)));
        line.unwrap_or_else(|| panic!("nothing is said of {thing}: {self:?}")).split_once(thing).expect(thing).1.trim()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_a_second_run_finds_all() {
    let place = Place::start("twice").await;
    let client = place.client().await;
    place.make_topic("freshet.climate").await;
    for _ in 0..2 {
        let dry = place.run(&["setup", "--dry-run"], &[]);
        assert_eq!(dry.code, Some(0), "{dry:?}");
        assert_eq!(dry.of("s3://freshet-raw"), "would be created, with versioning");
        let bounded = "would be created, with versioning, old versions of outputs kept 7 days";
        assert_eq!(dry.of("s3://freshet-processed"), bounded);
        assert_eq!(dry.of("freshet.health"), "would be created, 3 partitions, 1 replica each");
        let empty = "found empty, 3 partitions, 1 replica each: would be marked as freshet's";
        assert_eq!(dry.of("freshet.climate"), empty);
        assert!(dry.of("/freshet").starts_with("empty; would be brought to version "), "{dry:?}");
        assert!(dry.out.ends_with("a dry run: 20 of 20 would be prepared; everything else is as wanted\n"), "{dry:?}");
        // Where a dry run made something, this would find it.
        assert!(client.list_buckets().send().await.expect("list").buckets().is_empty());
    }
    let made = place.run(&["setup"], &[]);
    assert_eq!((made.code, made.of("s3://freshet-raw")), (Some(0), "created, versioning on"), "{made:?}");
    assert_eq!(made.of("freshet.health"), "created, 3 partitions, 1 replica each");
    assert_eq!(made.of("freshet.climate"), "found empty, 3 partitions, 1 replica each, and marked as freshet's");
    assert!(made.of("/freshet").starts_with("was empty, brought to version "), "{made:?}");
    let bounded = "created, versioning on, old versions of outputs kept 7 days";
    assert_eq!(made.of("s3://freshet-processed"), bounded);
    let rules = client.get_bucket_lifecycle_configuration().bucket("freshet-processed").send().await.expect("ask");
    let rule = rules.rules().first().expect("a rule");
    assert_eq!(rule.noncurrent_version_expiration().and_then(|it| it.noncurrent_days()), Some(7));
    let uploads = rule.abort_incomplete_multipart_upload().and_then(|it| it.days_after_initiation());
    assert_eq!(uploads, Some(7), "nobody else ends the upload of a publisher that was killed");
    assert_eq!(rule.filter().and_then(|it| it.prefix()), Some("metrics/"), "only what freshet writes is bounded");
    let raw = client.get_bucket_lifecycle_configuration().bucket("freshet-raw").send().await;
    assert!(raw.is_err(), "nothing that was dropped is ended: {raw:?}");
    let versioning = client.get_bucket_versioning().bucket("freshet-processed").send().await.expect("ask");
    assert_eq!(versioning.status().map(|it| it.as_str()), Some("Enabled"));
    for arguments in [&["setup"][..], &["setup", "--dry-run"]] {
        let found = place.run(arguments, &[]);
        assert_eq!((found.code, found.of("s3://freshet-raw")), (Some(0), "found, versioning on"), "{found:?}");
        for topic in ["freshet.health", "freshet.climate"] {
            assert_eq!(found.of(topic), "found, 3 partitions, 1 replica each");
        }
        assert!(found.of("/freshet").starts_with("found, at version "), "{found:?}");
        assert!(found.out.ends_with("nothing to do; everything is as wanted\n"), "{found:?}");
    }
    // The older commands find it too.
    assert_eq!(place.run(&["topics", "create"], &[]).code, Some(0));
    assert_eq!(place.run(&["migrate"], &[]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_said_and_left_alone() {
    let place = Place::start("differs").await;
    let client = place.client().await;
    // A bucket that was there before, and topics that were made otherwise.
    for bucket in ["freshet-raw", "freshet-processed"] {
        client.create_bucket().bucket(bucket).send().await.expect("make a bucket");
    }
    assert_eq!(place.run(&["topics", "create"], &[]).code, Some(0));
    let wanted = [
        ("FRESHET__KAFKA__PARTITIONS", "5"),
        ("FRESHET__KAFKA__REPLICATION", "3"),
        ("FRESHET__KAFKA__RETENTION_MS", "1000"),
        ("FRESHET__KAFKA__MIN_INSYNC_REPLICAS", "2"),
    ];
    for arguments in [&["setup", "--dry-run"][..], &["setup"]] {
        let said = place.run(arguments, &wanted);
        assert_eq!(said.code, Some(1), "{said:?}");
        for difference in [
            "partitions is 3, wanted 5",
            "replication factor is 1, wanted 3",
            "retention.ms is -1, wanted 1000",
            "min.insync.replicas is 1, wanted 2",
        ] {
            assert!(said.of("freshet.climate").contains(difference), "{said:?}");
        }
        assert!(said.err.contains("topic freshet.locations") && said.err.lines().count() == 1, "{said:?}");
        let expected = match arguments {
            [_] => "found, versioning turned on (was off)",
            _ => "found, versioning off: would be turned on",
        };
        assert_eq!(said.of("s3://freshet-raw"), expected);
        assert_eq!(said.of("s3://freshet-processed"), format!("{expected}, old versions of outputs kept 7 days"));
    }
    // A database that a later program has migrated is left alone.
    place.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)").await;
    let said = place.run(&["setup"], &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.of("/freshet").starts_with("is at version 9999, this program knows up to "), "{said:?}");
    assert_eq!(said.of("freshet.health"), "found, 3 partitions, 1 replica each");
}

#[tokio::test(flavor = "multi_thread")]
async fn versioning_comes_only_with_the_rule_that_bounds_it_and_what_was_refused_is_tried_again() {
    let place = Place::start("bounded").await;
    let client = place.client().await;
    client.create_bucket().bucket("freshet-processed").send().await.expect("make a bucket");
    let deny = serde_json::json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "no-rules", "Effect": "Deny", "Principal": "*", "Action": ["s3:PutLifecycleConfiguration"],
        "Resource": ["arn:aws:s3:::freshet-processed", "arn:aws:s3:::freshet-processed/*"],
    }]});
    let put = client.put_bucket_policy().bucket("freshet-processed").policy(deny.to_string());
    put.send().await.expect("deny the rule");
    let has_rule =
        async || client.get_bucket_lifecycle_configuration().bucket("freshet-processed").send().await.is_ok();
    for _ in 0..2 {
        let said = place.run(&["setup"], &[]);
        let bucket = said.of("s3://freshet-processed");
        assert!(bucket.starts_with("found, versioning off, but may not bound its versions"), "{bucket}");
        assert!(bucket.contains("needs s3:PutLifecycleConfiguration") && bucket.contains("stays off"), "{bucket}");
        assert_eq!((said.code, has_rule().await), (Some(1), false), "{said:?}");
    }
    client.delete_bucket_policy().bucket("freshet-processed").send().await.expect("allow it again");
    let said = place.run(&["setup"], &[]);
    let bounded = "found, versioning turned on (was off), old versions of outputs kept 7 days";
    assert_eq!((said.of("s3://freshet-processed"), said.code), (bounded, Some(0)), "{said:?}");
    assert!(has_rule().await);

    // An owner may want it so: it is said, and left alone.
    client.delete_bucket_lifecycle().bucket("freshet-processed").send().await.expect("delete the rule");
    let said = place.run(&["setup"], &[]);
    let unbounded = "found, versioning on; no lifecycle rule: old versions of outputs are never deleted";
    assert_eq!((said.of("s3://freshet-processed"), said.code), (unbounded, Some(0)), "{said:?}");
    assert!(!has_rule().await);
}

/// A Kafka that asks who one is, and lets nobody but `owner` do anything. Users' passwords are their names.
fn start_guarded_kafka(folder: &Path, broker: &str) -> Part {
    let (inside, controller) = (free_port(), free_port());
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=INSIDE\n\
         listeners=INSIDE://127.0.0.1:{inside},CLIENTS://{broker},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=INSIDE://127.0.0.1:{inside},CLIENTS://{broker}\n\
         listener.security.protocol.map=INSIDE:PLAINTEXT,CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         listener.name.clients.sasl.enabled.mechanisms=PLAIN\n\
         listener.name.clients.plain.sasl.jaas.config={login} user_owner=\"owner\" user_guest=\"guest\";\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:owner\nauto.create.topics.enable=true\n"
    );
    start_kafka(folder, "c2V0dXAtaW4tYS10ZXN0LQ", &properties, &["-Xmx256m"])
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_goes_on_past_what_it_may_not_do_and_names_it() {
    let place = Place::start("denied").await;
    place.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'; REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    let (_, address) =
        place.database_url().split_once('@').map(|(l, a)| (l.to_owned(), a.to_owned())).expect("a login");
    let guest = format!("postgres://guest:guest@{address}");
    let broker = format!("127.0.0.1:{}", free_port());
    let mut kafka = start_guarded_kafka(&place.folder, &broker);
    let of = |user: &'static str| {
        [
            ("FRESHET__S3__ACCESS_KEY_ID", "reader"),
            ("FRESHET__S3__SECRET_ACCESS_KEY", "reader"),
            ("FRESHET__POSTGRES__URL", guest.as_str()),
            ("FRESHET__KAFKA__BROKERS", broker.as_str()),
            ("FRESHET__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
            ("FRESHET__KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN"),
            ("FRESHET__KAFKA__PROPERTIES__SASL_USERNAME", user),
            ("FRESHET__KAFKA__PROPERTIES__SASL_PASSWORD", user),
        ]
    };
    let answers = async || {
        place.run(&["setup", "--dry-run"], &of("owner")).of("freshet.health").starts_with("would").then_some(())
    };
    kafka.until(READY_WITHIN, answers).await;
    for arguments in [&["setup", "--dry-run"][..], &["setup"]] {
        let said = place.run(arguments, &of("guest"));
        let topic = said.of("freshet.health");
        assert!(
            topic.starts_with("may not look up this topic") && topic.contains("needs the ACLs Create, "),
            "{topic}"
        );
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
        assert!(said.err.contains("topic freshet.locations"), "{said:?}");
    }
    let said = place.run(&["setup"], &of("owner"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let bucket = said.of("s3://freshet-raw");
    assert!(bucket.starts_with("may not make it (AccessDenied: needs s3:CreateBucket"), "{bucket}");
    let schema = said.of("/freshet");
    assert!(schema.contains("may not bring it to version") && schema.contains("needs CREATE on"), "{schema}");
    assert_eq!(
        said.of("freshet.health"),
        "created, 3 partitions, 1 replica each",
        "the broker made none by being asked"
    );
    for name in ["bucket s3://freshet-raw", "bucket s3://freshet-processed", "schema "] {
        assert!(said.err.contains(name), "{said:?}");
    }
    assert!(!said.err.contains("topic"), "{said:?}");

    // Made by its owner without versioning, the bucket can be used, but not changed.
    let client = place.client().await;
    client.create_bucket().bucket("freshet-raw").send().await.expect("make a bucket");
    let said = place.run(&["setup"], &of("owner"));
    let bucket = said.of("s3://freshet-raw");
    assert!(bucket.contains("needs s3:") && bucket.starts_with("found, "), "{bucket}");
    assert_eq!(said.code, Some(1), "{said:?}");
    // Nobody may even look, and a database that is not there is named.
    let settings = [
        ("FRESHET__S3__ACCESS_KEY_ID", "nobody"),
        ("FRESHET__S3__SECRET_ACCESS_KEY", "nobody"),
        ("FRESHET__POSTGRES__URL", &*guest.replace("/freshet", "/nowhere")),
    ];
    let said = place.run(&["setup", "--dry-run"], &settings);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.of("s3://freshet-raw").starts_with("may not look at it (access denied: needs s3:ListBucket"),
        "{said:?}"
    );
    assert!(said.of("/nowhere").starts_with("does not exist: create the database"), "{said:?}");
}

#[test]
fn what_does_not_answer_is_named_with_its_address_and_soon() {
    let begun = Instant::now();
    let output = Command::new(FRESHET)
        .args(["setup"])
        .env_clear()
        .env("FRESHET__KAFKA__BROKERS", "127.0.0.1:1")
        .env("FRESHET__POSTGRES__URL", "postgres://user:hunter2@127.0.0.1:2/db")
        .envs([("FRESHET__S3__ENDPOINT", "http://127.0.0.1:3"), ("FRESHET__S3__REGION", "us-east-1")])
        .envs([("FRESHET__S3__ACCESS_KEY_ID", "key"), ("FRESHET__S3__SECRET_ACCESS_KEY", "hunter2")])
        .current_dir(std::env::temp_dir())
        .output()
        .expect("run freshet");
    let said = Said::new(output);
    assert_eq!(said.code, Some(1), "{said:?}");
    let bucket = said.of("s3://freshet-raw");
    assert!(bucket.starts_with("cannot look at it (no answer from http://127.0.0.1:3: Connection refused"), "{bucket}");
    assert_eq!(said.of("freshet.health"), "cannot look up this topic (no answer from Kafka at 127.0.0.1:1)");
    assert!(said.of("127.0.0.1:2/db").contains("Connection refused"), "{said:?}");
    assert!(said.out.ends_with("nothing prepared; 7 of 7 not as wanted\n"), "{said:?}");
    // Each within two seconds, while the others are waited for; then the end.
    for service in ["Postgres at 127.0.0.1:2/db", "Kafka at 127.0.0.1:1", "S3 at http://127.0.0.1:3"] {
        assert_eq!(said.err.matches(&format!("freshet: {service} does not answer\n")).count(), 1, "{said:?}");
    }
    let last = said.err.lines().last().unwrap_or_default();
    assert!(last.starts_with("freshet: not as wanted: bucket s3://freshet-raw, "), "{said:?}");
    assert_eq!(said.err.lines().count(), 4, "{said:?}");
    assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
    // Kafka is asked for four topics at once, 10 s each: one after the other would take 40 s.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
