//! A feed of one's own, without a compiler: from a CSV file that nobody here knows to its table and to an output of its own,
//! by `freshet init`, `check`, `setup` and a drop.

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

const UP_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a role by itself may take until it serves its metrics.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// What the team has: some rows, with headings as people write them.
const SAMPLE: &str = "\
Station ID,Sampled on,Nitrate (mg/l),Turbidity,Safe
7,2025-03-01,12.5,3,yes
7,2025-03-02,11,4,yes
9,2025-03-01,48.25,9,no
9,2025-04-01,,12,no
";
/// A day's file: a reading that is no number, and a row without its station.
const DROPPED: &str = "\
Sampled on,STATION ID,Nitrate (mg/l),Turbidity,Safe,Sampler
2025-03-01,7,12.5,3,yes,Asha
2025-03-02,7,cloudy,5,yes,Asha
2025-03-03,,1,1,yes,Ravi
";
/// The next file corrects a row of it.
const CORRECTION: &str = "Station ID,Sampled on,Nitrate (mg/l),Turbidity,Safe\n7,2025-03-02,11.5,5,yes\n";

/// A `freshet up` on a pipeline folder, and its data, which go when the test ends.
struct Up {
    parent: PathBuf,
    child: Child,
}

impl Up {
    fn start(parent: PathBuf, pipeline: &str) -> Up {
        let child = Up::spawn(&parent, &["--pipeline", pipeline, "up"]);
        let mut up = Up { parent, child };
        up.wait();
        up
    }

    fn spawn(parent: &Path, arguments: &[&str]) -> Child {
        let log = File::create(parent.join("log")).expect("make the log");
        let errors = log.try_clone().expect("the log again");
        command(parent).args(arguments).stdout(log).stderr(errors).spawn().expect("run freshet up")
    }

    fn wait(&mut self) {
        let since = Instant::now();
        while local::read_env(&self.data()).is_none() {
            let ended = self.child.try_wait().expect("wait");
            assert!(ended.is_none() && since.elapsed() < UP_TIMEOUT, "{ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
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

    fn succeed(&self, arguments: &[&str]) -> String {
        let (succeeded, said) = run(&self.parent, arguments);
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

/// Runs a command to its end and returns whether it succeeded, and what it said.
fn run(parent: &Path, arguments: &[&str]) -> (bool, String) {
    let output = command(parent).args(arguments).output().expect("run freshet");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The command over the test's own data, without what a developer's shell has set.
fn command(parent: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
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
async fn a_file_that_nobody_knows_becomes_a_table_and_an_output_without_a_compiler() {
    let parent = std::env::temp_dir().join(format!("freshet-own-{}", std::process::id()));
    fs::create_dir_all(&parent).expect("make a folder");
    fs::write(parent.join("water_samples.csv"), SAMPLE).expect("write the sample");

    // Drafted, and already whole.
    let (succeeded, said) = run(&parent, &["init", "ours", "--from", "water_samples.csv"]);
    assert!(succeeded && said.contains("ours/domains/water_samples.odcs.yaml"), "{said}");
    let (succeeded, said) = run(&parent, &["check", "ours"]);
    assert!(succeeded, "{said}");

    // A mistake is told with its place, and what was meant.
    let contract = parent.join("ours/domains/water_samples.odcs.yaml");
    let drafted = fs::read_to_string(&contract).expect("read the contract");
    fs::write(&contract, drafted.replace("physicalType: float8", "physicalType: flaot8")).expect("break it");
    let (succeeded, said) = run(&parent, &["check", "ours"]);
    let line = 1 + drafted.lines().position(|line| line.contains("physicalType: float8")).expect("a double");
    assert!(!succeeded && said.contains(&format!("domains/water_samples.odcs.yaml:{line}:")), "{said}");
    assert!(said.contains("flaot8") && said.contains("float8?"), "{said}");
    fs::write(&contract, drafted).expect("mend it");

    let mut up = Up::start(parent, "ours");
    let said = up.succeed(&["--pipeline", "ours", "setup"]);
    assert!(said.contains("nothing to do; everything is as wanted"), "{said}");
    let (succeeded, said) = run(&up.parent, &["--pipeline", "ours", "process", "weather"]);
    assert!(!succeeded && said.contains("possible values: water_samples"), "{said}");

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
    drop("water_samples/march.csv", DROPPED).await;
    up.succeed(&["--pipeline", "ours", "status", "--wait"]);
    // Twice: what is dropped again counts once.
    for _ in 0..2 {
        drop("water_samples/mended.csv", CORRECTION).await;
        up.succeed(&["--pipeline", "ours", "status", "--wait"]);
    }

    let mut postgres = sqlx::PgConnection::connect(&up.env("DATABASE_URL")).await.expect("connect");
    type Sample = (i32, String, Option<f64>, Option<i32>, Option<bool>);
    let rows: Vec<Sample> = sqlx::query_as(
        "SELECT station_id, sampled_on::text, nitrate_mg_l, turbidity, safe FROM water_samples ORDER BY sampled_on",
    )
    .fetch_all(&mut postgres)
    .await
    .expect("read the table");
    let row = |day: &str, nitrate, turbidity| (7, day.to_owned(), Some(nitrate), Some(turbidity), Some(true));
    assert_eq!(rows, [row("2025-03-01", 12.5, 3), row("2025-03-02", 11.5, 5)]);
    let rejects: Vec<(i64, Option<String>, String)> =
        sqlx::query_as("SELECT line, \"column\", rule FROM pipeline.rejects WHERE domain = 'water_samples'")
            .fetch_all(&mut postgres)
            .await
            .expect("read the rejects");
    assert_eq!(rejects, [(4, Some("station_id".into()), "required_empty".into())]);

    let processed = up.env("FRESHET_PROCESSED_BUCKET");
    let output = client.get_object().bucket(&processed).key("metrics/water_samples_by_month.csv").send().await;
    let body = output.expect("the output is published").body.collect().await.expect("read it").into_bytes();
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    assert_eq!(text, "month,station_id,rows,nitrate_mg_l_mean,turbidity_mean\n2025-03-01,7,2,12.0,4.0\n");

    let of_view: String = sqlx::query_scalar("SELECT v::text FROM metrics.water_samples_by_month AS v")
        .fetch_one(&mut postgres)
        .await
        .expect("read the view");
    assert_eq!(of_view, "(2025-03-01,7,2,12,4)");

    // What Postgres has against a query is told with its place too.
    let query = up.parent.join("ours/outputs/water_samples_by_month.sql");
    let drafted = fs::read_to_string(&query).expect("read the query");
    fs::write(&query, drafted.replace("FROM water_samples", "FROM water_sample")).expect("break it");
    let (succeeded, said) = run(&up.parent, &["check", "ours"]);
    let lines = drafted.lines().enumerate();
    let places = lines.filter_map(|(at, line)| Some((at + 1, line.find("FROM water_samples")? + 6)));
    let (line, column) = places.last().expect("a query");
    let place = format!("outputs/water_samples_by_month.sql:{line}:{column}: relation \"water_sample\" does not exist");
    assert!(!succeeded && said.contains(&place), "{place}\n{said}");
    fs::write(&query, drafted).expect("mend it");

    // Status and metrics show it.
    let status: serde_json::Value =
        serde_json::from_str(&up.succeed(&["--pipeline", "ours", "status", "--json"])).expect("JSON");
    let domains = status["domains"].as_array().expect("domains");
    assert_eq!(domains.len(), 1, "{status:#}");
    assert_eq!(domains[0]["domain"], "water_samples");
    assert_eq!((&domains[0]["rows"]["applied"], &domains[0]["rows"]["rejected"]), (&3.into(), &1.into()), "{status:#}");
    let metrics = http_get(&format!("{}/metrics", up.env("FRESHET_HTTP")));
    assert!(metrics.contains("freshet_rows_applied_total{domain=\"water_samples\"} 3"), "{metrics}");

    // Its role runs by itself too.
    let arguments = ["--pipeline", "ours", "process", "water_samples"];
    let log = up.parent.join("role.log");
    let errors = File::create(&log).expect("make the log");
    let mut role = command(&up.parent).args(arguments).env_remove("RUST_LOG").stderr(errors).spawn().expect("run");
    // Before it says this, Ctrl-C ends it as it ends any program.
    let said = || fs::read_to_string(&log).expect("read the log");
    let since = Instant::now();
    while !said().contains("serving /metrics") && since.elapsed() < SERVES_WITHIN {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(role.try_wait().expect("wait"), None, "{}", said());
    assert_eq!(stop(&mut role), Some(0), "{}", said());
    assert!(said().contains("serving /metrics"), "{}", said());

    assert_eq!(stop(&mut up.child), Some(0), "{}", up.log());
    assert!(up.log().lines().any(|line| line == "stopped"), "{}", up.log());

    // Another pipeline over the same data says which outputs it does not have, before it drops their views.
    up.child = Up::spawn(&up.parent, &["up"]);
    up.wait();
    let warning = "does not have these outputs, so they are no longer published: water_samples_by_month.";
    assert!(up.log().contains(warning), "{}", up.log());
}
