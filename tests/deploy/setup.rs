//! `freshet setup` on real services: what it makes, what it finds the second time, and what it may not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use aws_sdk_s3::Client;
use freshet::local::{self, LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::compose::FRESHET;
use crate::parts::{Part, READY_WITHIN, free_port, weed};

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
        let options = Options { data_dir: folder.join("data"), kafka: true, postgres: true, s3: false };
        let stack = LocalStack::start(options, |_| ()).await.expect("start Kafka and Postgres");
        let port = free_port();
        let place = Place {
            stack: Some(stack),
            s3: None,
            s3_endpoint: format!("http://127.0.0.1:{port}"),
            folder: folder.clone(),
        };
        let identities = IDENTITIES.map(|(name, actions)| {
            let keys = serde_json::json!([{"accessKey": name, "secretKey": name}]);
            serde_json::json!({"name": name, "credentials": keys, "actions": actions})
        });
        let file = folder.join("identities.json");
        fs::write(&file, serde_json::json!({"identities": identities}).to_string()).expect("write the identities");
        let mut program = Command::new(weed());
        program.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
        program.args(["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        program.arg(format!("-dir={}", folder.join("s3").display())).arg(format!("-s3.config={}", file.display()));
        program.arg(format!("-s3.port={port}"));
        for door in ["s3.port.grpc", "master.port", "volume.port", "filer.port", "admin.port"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        for door in ["master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        let mut part = Part::start("s3", &folder, program.env("HOME", &folder));
        let client = place.client().await;
        part.until(READY_WITHIN, async || client.list_buckets().send().await.ok()).await;
        Place { s3: Some(part), ..place }
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
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
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
    for _ in 0..2 {
        let dry = place.run(&["setup", "--dry-run"], &[]);
        assert_eq!(dry.code, Some(0), "{dry:?}");
        assert_eq!(dry.of("s3://freshet-raw"), "would be made, with versioning");
        assert_eq!(dry.of("freshet.health"), "would be made, 3 partitions, 1 replica each");
        assert!(dry.of("/freshet").starts_with("empty; would be brought to version "), "{dry:?}");
        assert!(dry.out.ends_with("a dry run: 7 of 7 would be prepared; all else is as wanted\n"), "{dry:?}");
        // Where a dry run made something, this would find it.
        assert!(client.list_buckets().send().await.expect("list").buckets().is_empty());
    }
    let made = place.run(&["setup"], &[]);
    assert_eq!((made.code, made.of("s3://freshet-raw")), (Some(0), "made, versioning on"), "{made:?}");
    assert_eq!(made.of("freshet.health"), "made, 3 partitions, 1 replica each");
    assert!(made.of("/freshet").starts_with("was empty, brought to version "), "{made:?}");
    let bounded = "made, versioning on, old versions of outputs kept 7 days";
    assert_eq!(made.of("s3://freshet-processed"), bounded);
    let rules = client.get_bucket_lifecycle_configuration().bucket("freshet-processed").send().await.expect("ask");
    let rule = rules.rules().first().expect("a rule");
    assert_eq!(rule.noncurrent_version_expiration().and_then(|it| it.noncurrent_days()), Some(7));
    assert_eq!(rule.filter().and_then(|it| it.prefix()), Some("metrics/"), "only what freshet writes is bounded");
    let raw = client.get_bucket_lifecycle_configuration().bucket("freshet-raw").send().await;
    assert!(raw.is_err(), "nothing that was dropped is ended: {raw:?}");
    let versioning = client.get_bucket_versioning().bucket("freshet-processed").send().await.expect("ask");
    assert_eq!(versioning.status().map(|it| it.as_str()), Some("Enabled"));
    for arguments in [&["setup"][..], &["setup", "--dry-run"]] {
        let found = place.run(arguments, &[]);
        assert_eq!((found.code, found.of("s3://freshet-raw")), (Some(0), "found, versioning on"), "{found:?}");
        assert_eq!(found.of("freshet.health"), "found, 3 partitions, 1 replica each");
        assert!(found.of("/freshet").starts_with("found, at version "), "{found:?}");
        assert!(found.out.ends_with("nothing to do; all is as wanted\n"), "{found:?}");
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
    client.create_bucket().bucket("freshet-raw").send().await.expect("make a bucket");
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
        let expected = if arguments.len() == 2 { "versioning off: would be" } else { "versioning turned on (was off)" };
        assert!(said.of("s3://freshet-raw").contains(expected), "{said:?}");
    }
    // A database that a later program has migrated is left alone.
    place.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)").await;
    let said = place.run(&["setup"], &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.of("/freshet").starts_with("is at version 9999, this program knows up to "), "{said:?}");
    assert_eq!(said.of("freshet.health"), "found, 3 partitions, 1 replica each");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_past_what_it_may_not_do_and_names_it() {
    let place = Place::start("denied").await;
    place.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'; REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    let (_, address) =
        place.database_url().split_once('@').map(|(l, a)| (l.to_owned(), a.to_owned())).expect("a login");
    let guest = format!("postgres://guest:guest@{address}");
    let reader = [
        ("FRESHET__S3__ACCESS_KEY_ID", "reader"),
        ("FRESHET__S3__SECRET_ACCESS_KEY", "reader"),
        ("FRESHET__POSTGRES__URL", guest.as_str()),
    ];
    let said = place.run(&["setup"], &reader);
    assert_eq!(said.code, Some(1), "{said:?}");
    let bucket = said.of("s3://freshet-raw");
    assert!(bucket.starts_with("may not make it (AccessDenied: needs s3:CreateBucket"), "{bucket}");
    let schema = said.of("/freshet");
    assert!(schema.contains("may not bring it to version") && schema.contains("needs CREATE on"), "{schema}");
    assert_eq!(said.of("freshet.health"), "made, 3 partitions, 1 replica each");
    for name in ["bucket s3://freshet-raw", "bucket s3://freshet-processed", "schema "] {
        assert!(said.err.contains(name), "{said:?}");
    }
    assert!(!said.err.contains("topic"), "{said:?}");

    // Made by its owner without versioning, the bucket can be used, but not changed.
    let client = place.client().await;
    client.create_bucket().bucket("freshet-raw").send().await.expect("make a bucket");
    let said = place.run(&["setup"], &reader);
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
    assert!(said.of("/nowhere").starts_with("does not exist: make the database"), "{said:?}");
}
