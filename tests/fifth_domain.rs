//! A fifth domain is one contract and one migration: this test adds `pharmacy` to a copy
//! of the sources, builds it, and sends rows through the whole pipeline.
//!
//! The copy lies in the target folder, and is built with the dependencies that are there already: only freshet's own
//! five packages are compiled again, and only when they have changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use freshet::local;
use freshet_sinks::s3::{self, S3Settings};
use sqlx::Connection;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const UP_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

const LOCATIONS: &str = "id,name,type,population,area\n1,Riverside,district,250000,120.5\n";
/// Two good rows, one of them with two corrections, and a reject.
const STOCK: &str = "\
date,drug,location_id,stock,price,supplier
2025-09-21,Paracetamol,1,120,1.5,A
2025-09-21, Doxycycline ,1.0,-3,cheap,B
2025-09-21,,1,7,1,C
";
/// The next day's file corrects a row of the first.
const CORRECTION: &str = "location_id,date,medicine,stock,price\n1,2025-09-21,Paracetamol,99,1.75\n";

/// The packages of the workspace.
const PACKAGES: [&str; 5] = ["freshet", "freshet-ingest", "freshet-processors", "freshet-sinks", "freshet-topics"];

/// `…/target/release` and `…/target`, wherever this test was built.
fn built_in() -> (PathBuf, PathBuf) {
    let profile = Path::new(env!("CARGO_BIN_EXE_freshet")).parent().expect("the profile's folder");
    (profile.to_owned(), profile.parent().expect("the target folder").to_owned())
}

/// Tracked files, and new ones that are not ignored.
fn sources() -> BTreeSet<PathBuf> {
    let listed = Command::new("git")
        .args(["-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("run git");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    // A file that was deleted and not yet committed is listed too.
    names.split_terminator('\0').map(PathBuf::from).filter(|path| Path::new(ROOT).join(path).is_file()).collect()
}

/// Writes a file only where it differs, so that cargo builds again only what has changed.
fn put(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|there| there == content) {
        return;
    }
    fs::create_dir_all(path.parent().expect("parent")).expect("make a folder");
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// Makes `copy` the sources with `pharmacy` added.
fn add_pharmacy(copy: &Path) {
    let mut wanted = BTreeSet::new();
    let mut last_migration = 0;
    for path in sources() {
        if let Ok(name) = path.strip_prefix("sinks/migrations") {
            let number = name.to_string_lossy().split('_').next().and_then(|number| number.parse().ok());
            last_migration = last_migration.max(number.unwrap_or(0));
        }
        let content = fs::read(Path::new(ROOT).join(&path)).expect("read a source");
        put(&copy.join(&path), &content);
        wanted.insert(path);
    }
    let migration = format!("sinks/migrations/{:04}_pharmacy.sql", last_migration + 1);
    for (from, to) in [
        ("pharmacy.odcs.yaml", "pipelines/climate_health/domains/pharmacy.odcs.yaml"),
        ("migration.sql", migration.as_str()),
    ] {
        let content = fs::read(Path::new(ROOT).join("tests/pharmacy").join(from)).expect("read");
        put(&copy.join(to), &content);
        wanted.insert(to.into());
    }
    remove_others(copy, copy, &wanted);
}

/// Deletes what an earlier copy had and the sources have no more.
fn remove_others(folder: &Path, copy: &Path, wanted: &BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_others(&path, copy, wanted);
        } else if !wanted.contains(path.strip_prefix(copy).expect("in the copy")) {
            fs::remove_file(&path).expect("delete a file");
        }
    }
}

/// Builds the copy and returns its command.
fn build(copy: &Path, into: &Path) -> PathBuf {
    let (profile, target) = built_in();
    let since = Instant::now();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--offline", "--workspace", "--bin", "freshet"]).current_dir(copy);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    // Intermediate files where those of this build are, which has the dependencies; the command elsewhere, so that
    // it does not take the place of ours. Cargo names a workspace's files without regard to where it lies: were it
    // not for this one difference in how they are compiled, the copy's would pass for ours.
    let profile_name = if profile.ends_with("release") { "release" } else { "dev" };
    for package in PACKAGES {
        cargo.args(["--config", &format!("profile.{profile_name}.package.{package}.codegen-units=15")]);
    }
    cargo.env("CARGO_BUILD_BUILD_DIR", &target).env("CARGO_TARGET_DIR", into);
    for (name, _) in std::env::vars() {
        let of_this_package =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "LD_LIBRARY_PATH"].iter().any(|it| name.starts_with(it));
        if of_this_package {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().expect("run cargo");
    assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    println!("built in {:.1} s", since.elapsed().as_secs_f64());
    into.join(profile.file_name().expect("the profile")).join("freshet")
}

/// A `freshet up` of the fifth domain's build, and its data, which go when the test ends.
struct Up {
    freshet: PathBuf,
    parent: PathBuf,
    child: Child,
}

impl Up {
    fn start(freshet: PathBuf) -> Up {
        let parent = std::env::temp_dir().join(format!("freshet-fifth-{}", std::process::id()));
        fs::create_dir_all(&parent).expect("make a folder");
        let log = File::create(parent.join("log")).expect("make the log");
        let child = command(&freshet, &parent)
            .arg("up")
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log)
            .spawn()
            .expect("run freshet up");
        let mut up = Up { freshet, parent, child };
        let since = Instant::now();
        while local::read_env(&up.data()).is_none() {
            let ended = up.child.try_wait().expect("wait");
            assert!(ended.is_none() && since.elapsed() < UP_TIMEOUT, "{ended:?}\n{}", up.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        up
    }

    fn data(&self) -> PathBuf {
        self.parent.join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.parent.join("log")).unwrap_or_default()
    }

    fn env(&self, name: &str) -> String {
        let values = local::read_env(&self.data()).expect("the stack runs");
        values.into_iter().find(|(it, _)| it == name).expect(name).1
    }

    /// Runs a command to its end and returns whether it succeeded, and what it said.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = command(&self.freshet, &self.parent).args(arguments).output().expect("run freshet");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let (succeeded, said) = self.run(arguments);
        assert!(succeeded, "freshet {}: {said}\n{}", arguments.join(" "), self.log());
        said
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        stop(&mut self.child);
        local::remove(&self.data()).ok();
        fs::remove_dir_all(&self.parent).ok();
    }
}

/// The command over the test's own data, without what a developer's shell has set.
fn command(freshet: &Path, parent: &Path) -> Command {
    let mut command = Command::new(freshet);
    for (name, _) in std::env::vars() {
        let set = name.starts_with("FRESHET_") && name != "FRESHET_HOME";
        if set || name.starts_with("AWS_") || ["DATABASE_URL", "KAFKA_BROKERS"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.env("FRESHET_DATA", parent.join("data")).current_dir(parent).stdin(Stdio::null());
    command
}

/// Ctrl-C, and what came of it.
fn stop(child: &mut Child) -> Option<i32> {
    let since = Instant::now();
    if child.try_wait().expect("wait").is_none() {
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    }
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code();
        }
        if since.elapsed() > STOP_TIMEOUT {
            child.kill().expect("kill -9");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn http_get(url: &str) -> String {
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("connect");
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_domain_is_one_contract_and_one_migration() {
    let (_, target) = built_in();
    let home = target.join("fifth-domain");
    add_pharmacy(&home.join("workspace"));
    let freshet = build(&home.join("workspace"), &home.join("target"));
    let mut up = Up::start(freshet);

    // The command knows it, and so does Kafka.
    let (succeeded, said) = up.run(&["process", "weather"]);
    assert!(!succeeded && said.contains("possible values: locations, climate, health, hospital, pharmacy"), "{said}");
    let said = up.succeed(&["topics", "create"]);
    assert!(said.contains("freshet.pharmacy: exists, 4 partitions, as wanted"), "{said}");

    let client = s3::client(&S3Settings {
        endpoint: up.env("AWS_ENDPOINT_URL_S3"),
        region: up.env("AWS_REGION"),
        access_key_id: up.env("AWS_ACCESS_KEY_ID").into(),
        secret_access_key: up.env("AWS_SECRET_ACCESS_KEY").into(),
        ..S3Settings::default()
    })
    .await;
    let bucket = up.env("FRESHET_RAW_BUCKET");
    let drop = async |key: &str, text: &'static str| {
        let body = ByteStream::from_static(text.as_bytes());
        client.put_object().bucket(&bucket).key(key).body(body).send().await.expect("drop a file");
    };
    drop("pharmacy/2025-09-21.csv", STOCK).await;
    drop("locations/all.csv", LOCATIONS).await;
    up.succeed(&["status", "--wait"]);
    // Twice: what is dropped again counts once.
    for _ in 0..2 {
        drop("pharmacy/2025-09-22.csv", CORRECTION).await;
        up.succeed(&["status", "--wait"]);
    }

    let mut postgres = sqlx::PgConnection::connect(&up.env("DATABASE_URL")).await.expect("connect");
    type StockRow = (i32, String, String, Option<i32>, Option<f64>, Option<bool>, Option<i32>);
    let rows: Vec<StockRow> = sqlx::query_as(
        "SELECT location_id, date::text, medicine, stock, price, is_projected, projection_year
         FROM pharmacy_data ORDER BY medicine",
    )
    .fetch_all(&mut postgres)
    .await
    .expect("read the table");
    let row =
        |medicine: &str, stock, price| (1, "2025-09-21".into(), medicine.into(), Some(stock), price, Some(false), None);
    assert_eq!(rows, [row("Doxycycline", 0, None), row("Paracetamol", 99, Some(1.75))]);

    let rejects: Vec<(i64, Option<String>, String)> =
        sqlx::query_as("SELECT line, \"column\", rule FROM pipeline.rejects WHERE domain = 'pharmacy'")
            .fetch_all(&mut postgres)
            .await
            .expect("read the rejects");
    assert_eq!(rejects, [(4, Some("medicine".into()), "required_empty".into())]);

    let corrections: Vec<(String, i64)> = sqlx::query_as(
        "SELECT c.key, sum(c.value::bigint)::bigint
         FROM pipeline.progress, jsonb_each_text(corrections) AS c
         WHERE domain = 'pharmacy' GROUP BY c.key ORDER BY c.key",
    )
    .fetch_all(&mut postgres)
    .await
    .expect("read the corrections");
    assert_eq!(corrections, [("price:uncastable_to_null".into(), 1), ("stock:negative_to_zero".into(), 1)]);

    let ignored: Vec<String> =
        sqlx::query_scalar("SELECT unnest(ignored_columns) FROM pipeline.objects WHERE domain = 'pharmacy'")
            .fetch_all(&mut postgres)
            .await
            .expect("read the ledger");
    assert_eq!(ignored, ["supplier"]);

    // Status and metrics show it.
    let status: serde_json::Value = serde_json::from_str(&up.succeed(&["status", "--json"])).expect("JSON");
    let domains = status["domains"].as_array().expect("domains");
    let pharmacy = domains.iter().find(|domain| domain["domain"] == "pharmacy").expect("pharmacy");
    assert_eq!((&pharmacy["rows"]["applied"], &pharmacy["rows"]["rejected"]), (&3.into(), &1.into()), "{pharmacy:#}");
    assert_eq!((&pharmacy["lag_rows"], &pharmacy["orphans"]["rows"]), (&0.into(), &0.into()), "{pharmacy:#}");
    let metrics = http_get(&format!("{}/metrics", up.env("FRESHET_HTTP")));
    assert!(metrics.contains("freshet_rows_applied_total{domain=\"pharmacy\"} 3"), "{metrics}");

    // Its role runs by itself too.
    let mut role =
        command(&up.freshet, &up.parent).args(["process", "pharmacy"]).stderr(Stdio::null()).spawn().expect("run");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(role.try_wait().expect("wait"), None);
    assert_eq!(stop(&mut role), Some(0));

    assert_eq!(stop(&mut up.child), Some(0), "{}", up.log());
    assert!(up.log().lines().any(|line| line == "stopped"), "{}", up.log());
}
