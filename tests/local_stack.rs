//! The local stack on its real components: it comes up over new and old data, refuses a second owner, and leaves
//! nothing running, whether it is stopped or killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use freshet::local::{self, LocalStack, Options};
use secrecy::ExposeSecret;
use sqlx::Connection;

/// Set for the copy of this test binary that holds a stack until it is killed.
const HOLD: &str = "FRESHET_TEST_HOLD_STACK";

/// A data folder that goes when the test ends, with Postgres data that lies elsewhere.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let parent = std::env::temp_dir().join(format!("freshet-test-{}-{name}", std::process::id()));
        Data(parent.join("data"))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        local::remove(&self.0).ok();
        if let Some(parent) = self.0.parent() {
            fs::remove_dir_all(parent).ok();
        }
    }
}

fn all(data: &Path) -> Options {
    Options { data_dir: data.to_owned(), kafka: true, postgres: true, s3: true }
}

async fn start(data: &Path) -> LocalStack {
    let since = Instant::now();
    let stack = LocalStack::start(all(data), |line| println!("  {line}")).await.expect("start");
    println!("started in {:.2} s", since.elapsed().as_secs_f64());
    stack
}

/// Processes with this path on their command line, except ours.
fn processes_of(data: &Path) -> Vec<String> {
    let shown = data.to_string_lossy();
    let ours = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            let command = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
            (pid != ours && command.contains(&*shown)).then(|| format!("{pid} {command}"))
        })
        .collect()
}

fn assert_gone(data: &Path, within: Duration) {
    let since = Instant::now();
    loop {
        let left = processes_of(data);
        if left.is_empty() {
            println!("all gone after {:.2} s", since.elapsed().as_secs_f64());
            return;
        }
        assert!(since.elapsed() < within, "still running: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn query(stack: &LocalStack, sql: &'static str) -> i64 {
    let url = stack.endpoints().database_url.clone().expect("postgres");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("connect");
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect("query")
}

async fn execute(stack: &LocalStack, sql: &'static str) {
    let url = stack.endpoints().database_url.clone().expect("postgres");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("connect");
    sqlx::query(sql).execute(&mut connection).await.expect("execute");
}

#[tokio::test]
async fn a_stopped_stack_leaves_nothing_running_and_comes_up_over_its_data() {
    let data = Data::new("restart");
    let mut stack = start(&data.0).await;
    assert_eq!(local::running(&data.0), Some(std::process::id()));
    assert!(stack.exited().is_none());
    execute(&stack, "CREATE TABLE kept AS SELECT 42::int8 AS n").await;
    stack.write_env(&[("DATABASE_URL", stack.endpoints().database_url.clone().expect("url"))]).expect("env");
    let env = stack.data_dir().join("env");
    assert_eq!(fs::metadata(&env).expect("env").permissions().mode() & 0o777, 0o600);
    assert_eq!(local::read_env(&data.0).expect("live")[0].0, "DATABASE_URL");
    let first = stack.endpoints().clone();

    let refused = LocalStack::start(all(&data.0), |_| ()).await.expect_err("two on one folder").to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())) && !refused.contains('\n'), "{refused}");

    let since = Instant::now();
    stack.stop().await.expect("stop");
    println!("stopped in {:.2} s", since.elapsed().as_secs_f64());
    assert_gone(&data.0, Duration::ZERO);
    assert!(!env.exists());
    assert_eq!((local::running(&data.0), local::read_env(&data.0)), (None, None));

    // Another program takes two of the ports meanwhile.
    let ports = [&first.kafka_brokers.clone().expect("kafka"), &first.s3.as_ref().expect("s3").endpoint];
    let taken =
        ports.map(|address| TcpListener::bind(address.trim_start_matches("http://")).expect("the port is free again"));
    let stack = start(&data.0).await;
    let second = stack.endpoints().clone();
    assert_eq!(first.database_url, second.database_url);
    assert_ne!(first.kafka_brokers, second.kafka_brokers);
    let (first, second) = (first.s3.expect("s3"), second.s3.expect("s3"));
    assert_ne!(first.endpoint, second.endpoint);
    assert_eq!(first.secret_access_key.expose_secret(), second.secret_access_key.expose_secret());
    assert_eq!(query(&stack, "SELECT n FROM kept").await, 42);
    drop(taken);

    // No secret on any command line.
    let lines = processes_of(&data.0).join("\n");
    let url = stack.endpoints().database_url.clone().expect("url");
    let password = url.split([':', '@']).nth(2).expect("password").to_owned();
    assert!(lines.contains("postgres") && lines.contains("kafka.Kafka") && lines.contains("weed"), "{lines}");
    assert!(!lines.contains(&password) && !lines.contains(second.secret_access_key.expose_secret()), "{lines}");

    // A drop without a stop ends them all the same.
    drop(stack);
    assert_gone(&data.0, Duration::ZERO);
}

#[tokio::test]
async fn a_child_that_dies_is_noticed_by_name() {
    let data = Data::new("died");
    let options = Options { kafka: false, s3: false, ..all(&data.0) };
    let mut stack = LocalStack::start(options, |_| ()).await.expect("start");
    let record = fs::read_to_string(data.0.join("run/postgres.pid")).expect("record");
    let pid = record.split_whitespace().nth(1).expect("pid").to_owned();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    let exited = tokio::time::timeout(Duration::from_secs(5), stack.died()).await.expect("noticed");
    assert!(exited.to_string().contains("postgres died") && exited.to_string().contains("logs/postgres.log"));
    drop(stack);
    // Its data is taken up again at once, although its backends may still be on their way out.
    let options = Options { kafka: false, s3: false, ..all(&data.0) };
    let stack = LocalStack::start(options, |_| ()).await.expect("start over a killed server's data");
    stack.stop().await.expect("stop");
}

#[tokio::test]
async fn a_folder_that_postgres_cannot_reach_is_said_and_another_taken() {
    let data = Data::new("closed");
    let parent = data.0.parent().expect("parent");
    fs::create_dir_all(parent).expect("mkdir");
    fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).expect("chmod");
    let options = Options { kafka: false, s3: false, ..all(&data.0) };
    let said = std::cell::RefCell::new(String::new());
    let stack = LocalStack::start(options.clone(), |line| said.borrow_mut().push_str(line)).await.expect("start");
    execute(&stack, "CREATE TABLE kept AS SELECT 7::int8 AS n").await;
    stack.stop().await.expect("stop");
    let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0).expect("uid");
    assert_eq!(said.borrow().contains("its data is in /var/tmp/freshet-"), root, "{}", said.borrow());
    let stack = LocalStack::start(options, |_| ()).await.expect("start again");
    assert_eq!(query(&stack, "SELECT n FROM kept").await, 7);
    stack.stop().await.expect("stop");
}

#[tokio::test]
async fn a_killed_holder_takes_its_children_along_and_the_next_start_recovers() {
    let data = Data::new("killed");
    for round in 0..2 {
        let mut holder = Command::new(std::env::current_exe().expect("this binary"))
            .args(["the_holder_of_a_stack", "--exact", "--nocapture"])
            .env(HOLD, &data.0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(holder.stdout.take().expect("stdout")).lines();
        let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| line != "HOLDING").collect();
        println!("round {round}: {said:?}");
        assert_eq!(local::running(&data.0), Some(holder.id()));
        assert_eq!(processes_of(&data.0).iter().filter(|line| !line.contains("postgres:")).count(), 3);
        holder.kill().expect("kill -9");
        holder.wait().expect("wait");
        if round == 0 {
            assert_gone(&data.0, Duration::from_secs(15));
        }
        // The second time the start itself has to deal with those that are still ending.
    }
    let stack = start(&data.0).await;
    stack.stop().await.expect("stop");
    assert_gone(&data.0, Duration::ZERO);
}

/// Not a test by itself: what the test above spawns.
#[tokio::test]
async fn the_holder_of_a_stack() {
    let Some(data) = std::env::var_os(HOLD) else { return };
    let _stack = start(Path::new(&data)).await;
    println!("HOLDING");
    tokio::time::sleep(Duration::from_secs(120)).await;
}
