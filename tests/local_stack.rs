//! The local stack on its real components: it comes up over new and old data, refuses a second owner, and leaves
//! nothing running, whether it is stopped or killed. Under `freshet up`, a child that is killed comes back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use freshet::local::{self, LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
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
    Options { data_dir: data.to_owned(), kafka: true, postgres: true, s3: true, tell_to: None }
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

/// A `freshet up` on a data folder. Dropping it kills it, and its children with it.
struct Up {
    process: Child,
    data: Data,
    log: PathBuf,
}

impl Up {
    async fn start(name: &str) -> Up {
        let data = Data::new(name);
        let parent = data.0.parent().expect("parent");
        fs::create_dir_all(parent).expect("mkdir");
        let log = parent.join("up.log");
        let file = fs::File::create(&log).expect("create the log");
        let process = Command::new(env!("CARGO_BIN_EXE_freshet"))
            .args(["up", "--data"])
            .arg(&data.0)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("share the log"))
            .stderr(file)
            .spawn()
            .expect("start freshet up");
        let mut up = Up { process, data, log };
        up.until("it is up", Duration::from_secs(60), |up| up.said().contains("freshet is up")).await;
        up
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    fn said_with(&self, words: &str) -> usize {
        self.said().lines().filter(|line| line.contains(words)).count()
    }

    async fn until(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&mut Up) -> bool) {
        let since = Instant::now();
        while !look(self) {
            assert!(since.elapsed() < limit, "{what}: not within {limit:?}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{what} after {:.2} s", since.elapsed().as_secs_f64());
    }

    /// The process that a child is, by its record; `None` while it is being started again.
    fn pid(&self, child: &str) -> Option<u32> {
        let record = fs::read_to_string(self.data.0.join(format!("run/{child}.pid"))).ok()?;
        record.split_whitespace().nth(1)?.parse().ok()
    }

    /// Kills this very process of a child.
    fn kill(&self, child: &str) -> u32 {
        let pid = self.pid(child).expect("a running child");
        signal("-9", pid);
        pid
    }

    fn freshet(&self, args: &[&str]) -> (ExitStatus, String) {
        let command = Command::new(env!("CARGO_BIN_EXE_freshet")).args(args).arg("--data").arg(&self.data.0).output();
        let output = command.expect("run freshet");
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&text).into_owned())
    }

    async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        self.until("freshet up has ended", limit, |up| {
            status = up.process.try_wait().expect("wait");
            status.is_some()
        })
        .await;
        status.expect("ended")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        let since = Instant::now();
        while !processes_of(&self.data.0).is_empty() && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success());
}

/// A client of the stack's S3 server, and its raw bucket.
async fn store(up: &Up) -> (Client, String) {
    let env = local::read_env(&up.data.0).expect("its env");
    let of = |wanted: &str| env.iter().find(|(name, _)| name == wanted).expect("set").1.clone();
    let settings = S3Settings {
        endpoint: of("AWS_ENDPOINT_URL_S3"),
        region: of("AWS_REGION"),
        access_key_id: of("AWS_ACCESS_KEY_ID").into(),
        secret_access_key: of("AWS_SECRET_ACCESS_KEY").into(),
        ..S3Settings::default()
    };
    (s3::client(&settings).await, of("FRESHET_RAW_BUCKET"))
}

/// A month of sick people at fifty places: 1,400 rows.
fn month(number: u32) -> String {
    let mut text = String::from("location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n");
    let (year, month) = (2021 + number / 12, number % 12 + 1);
    for location in 1..=50 {
        for day in 1..=28 {
            text += &format!("{location},{year}-{month:02}-{day:02},{day},{location},0,{number}\n");
        }
    }
    text
}

#[tokio::test]
async fn each_child_is_killed_in_the_middle_of_a_load_and_everything_goes_on() {
    const FILES: u32 = 36;
    let mut up = Up::start("again").await;
    let (client, bucket) = store(&up).await;
    let began = Instant::now();
    for number in 0..FILES {
        match number {
            6 => _ = up.kill("postgres"),
            16 => _ = up.kill("kafka"),
            26 => _ = up.kill("s3"),
            _ => {}
        }
        let since = Instant::now();
        loop {
            let body = ByteStream::from(month(number).into_bytes());
            let put = client.put_object().bucket(&bucket).key(format!("health/{number}.csv")).body(body).send().await;
            match put {
                Ok(_) => break,
                Err(error) => assert!(since.elapsed() < Duration::from_secs(30), "drop a file: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (status, said) = up.freshet(&["status", "--wait", "--timeout", "120s"]);
    println!("{said}\n{}", up.said());
    assert!(status.success(), "{said}");
    let env = local::read_env(&up.data.0).expect("its env");
    let url = &env.iter().find(|(name, _)| name == "DATABASE_URL").expect("set").1;
    let mut connection = sqlx::PgConnection::connect(url).await.expect("connect");
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM health_data");
    assert_eq!(count.fetch_one(&mut connection).await.expect("count"), i64::from(FILES) * 50 * 28);
    connection.close().await.expect("close");
    for child in ["postgres", "kafka", "s3"] {
        assert_eq!(up.said_with(&format!("{child} died")), 1, "{child}:\n{}", up.said());
    }
    let most = SAME_WARNINGS_MAX * (1 + began.elapsed().as_secs() / 60);
    let repeated: Vec<(String, u64)> = warnings(&up.said()).into_iter().filter(|(_, times)| *times > most).collect();
    assert!(repeated.is_empty(), "more than {most} times: {repeated:#?}\n{}", up.said());

    // Asked to stop in the middle of a restart, it drains and stops as ever.
    up.kill("postgres");
    up.until("its death is noticed", Duration::from_secs(15), |up| up.said_with("postgres died") == 2).await;
    signal("-INT", up.process.id());
    let status = up.ended(Duration::from_secs(60)).await;
    assert!(status.success() && up.said().ends_with("stopped\n"), "{status}:\n{}", up.said());
    assert_gone(&up.data.0, Duration::ZERO);
}

/// How often the same may be said within a minute: once by each place in the program that meets it, and few say the same.
const SAME_WARNINGS_MAX: u64 = 3;

/// How often each warning was written, less what is different at each try: when, which try it is, how long until the next.
fn warnings(said: &str) -> BTreeMap<String, u64> {
    // How long a statement or a connection takes is the machine's affair.
    let is_slow = |line: &str| line.contains("slow statement") || line.contains("exceeded slow threshold");
    let is_warning = |line: &str| (line.contains(" WARN ") || line.contains("ERROR ")) && !is_slow(line);
    let mut warnings: BTreeMap<String, u64> = BTreeMap::new();
    for line in said.lines().filter(|line| is_warning(line)) {
        // The first word is the time.
        let words: Vec<&str> = line.split_whitespace().skip(1).filter(|word| !is_of_one_try(word)).collect();
        *warnings.entry(words.join(" ")).or_default() += 1;
    }
    warnings
}

/// Whether a word of the log is a number of the try or a duration, such as `attempt=3`, `200ms` or `(after 5ms`.
fn is_of_one_try(word: &str) -> bool {
    let counts = ["attempt=", "attempts=", "failures=", "pause_ms=", "wait_ms="];
    let is_duration =
        || word.trim_start_matches('(').starts_with(|it: char| it.is_ascii_digit()) && word.ends_with('s');
    counts.iter().any(|count| word.starts_with(count)) || is_duration()
}

#[tokio::test]
async fn a_child_that_is_killed_three_times_within_a_minute_ends_the_stack_in_one_line() {
    let mut up = Up::start("thrice").await;
    for _ in 0..2 {
        let killed = up.kill("s3");
        up.until("it is started again", Duration::from_secs(15), |up| up.pid("s3").is_some_and(|pid| pid != killed))
            .await;
    }
    up.kill("s3");
    // Roles have 3 s to stop, and Kafka 20 s before it is killed.
    let status = up.ended(Duration::from_secs(60)).await;
    let said = up.said();
    println!("{said}");
    assert!(!status.success());
    let last = said.lines().last().expect("a last line");
    let log = up.data.0.join("logs/s3.log").display().to_string();
    assert!(last.contains("s3 died 3 times within a minute") && last.contains(&log), "{said}");
    assert_gone(&up.data.0, Duration::ZERO);
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
