//! What the command says to whoever types it or calls it: exit codes, errors, completions, and the status as JSON.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::http::within;
use crate::harness::{World, folder};

/// Runs `freshet` to its end with nothing in its environment, where no stack runs.
fn freshet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(arguments).env_clear().current_dir(folder()).output().expect("run freshet")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn the_exit_codes_are_those_documented() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["check-config"], 0, ""),
        (&["--version"], 0, ""),
        (&["check-config", "--set", "kafka.partitions=0"], 1, "freshet: kafka.partitions must be at least 1"),
        (&["check-config", "--config", "nowhere.toml"], 1, "nowhere.toml"),
        (&["status"], 1, "kafka.brokers and postgres.url not set"),
        (
            &[
                "process",
                "all",
                "--set=kafka.brokers=h:1",
                "--set=postgres.url=postgres://h/d",
                "--set=postgres.connections_max=8",
            ],
            1,
            "postgres.connections_max is 8, and must be at least 12 here, or 0",
        ),
        (&["process", "weather"], 2, "[possible values: locations"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ];
    for (arguments, code, complaint) in cases {
        let output = freshet(arguments);
        let said = text(output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {said}");
        assert!(said.contains(complaint), "{arguments:?}: {said}");
        assert!(*code != 1 || said.lines().count() == 1, "an error is one line: {said}");
    }
    // That of a second signal is in operate.rs.
    let (_, table) = include_str!("../../README.md").split_once("| exit code | meaning |").expect("the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| ")?.split_once(' '));
    assert_eq!(rows.map(|(code, _)| code).collect::<Vec<_>>(), ["0", "1", "2", "130", "141"]);
}

#[test]
fn what_would_do_is_named_and_a_hint_keeps_the_data_folder() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["republish"], &["--file <KEY>", "--prefix <PREFIX>", "--since <TIME>", "--all"]),
        (&["replay", "health"], &["--from <POINT>", "--file <KEY>", "--into <WHERE>", "--abandon"]),
        (&["republish", "--since", "yesterday"], &["2026-03-01 or 2026-03-01T00:00:00Z"]),
        (&["--data", "no where", "status"], &["`freshet --data 'no where' up`"]),
        (&["status", "--data", "nowhere"], &["`freshet --data nowhere up`"]),
    ];
    for (arguments, parts) in cases {
        let said = text(freshet(arguments).stderr);
        assert!(parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    }
}

#[test]
fn a_role_is_asked_where_the_environment_says_that_it_listens() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.arg("healthcheck").env_clear().env("FRESHET_HTTP", "http://127.0.0.1:1").current_dir(folder());
    let output = command.output().expect("run freshet");
    let said = text(output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ask 127.0.0.1:1"), "{said}");
}

#[test]
fn whoever_stops_reading_ends_a_command_quietly() {
    let cases: &[(&[&str], i32)] = &[
        (&["check-config", "--defaults"], 141),
        (&["check-config"], 141),
        (&["completions", "bash"], 141),
        // Of clap's own: as it has them.
        (&["--help"], 0),
        (&["status", "--help"], 0),
    ];
    for (arguments, code) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.args(*arguments).env_clear().current_dir(folder());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start freshet");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), text(output.stderr)), (Some(*code), String::new()), "{arguments:?}");
    }
}

/// Addresses that take connections and say nothing, and the settings that name them.
struct Mute {
    _listeners: [TcpListener; 3],
    places: [String; 3],
    set: Vec<String>,
}

impl Mute {
    fn new() -> Mute {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [postgres, kafka, s3] = listeners.each_ref().map(|it| it.local_addr().expect("an address").to_string());
        let set = [
            format!("postgres.url=postgres://someone:hunter2@{postgres}/data"),
            format!("kafka.brokers={kafka}"),
            format!("s3.endpoint=http://{s3}"),
            "s3.access_key_id=hunter3".to_owned(),
            "s3.secret_access_key=hunter4".to_owned(),
        ];
        let places =
            [format!("Postgres at {postgres}/data"), format!("Kafka at {kafka}"), format!("S3 at http://{s3}")];
        Mute { _listeners: listeners, places, set: set.into_iter().flat_map(|it| ["--set".to_owned(), it]).collect() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.args(arguments).args(&self.set).env_clear().current_dir(folder()).stdout(Stdio::null());
        command
    }
}

/// Two seconds, and what a busy machine takes.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_service_that_does_not_answer_is_named_soon_by_its_address() {
    let mute = Mute::new();
    let began = Instant::now();
    let mut child = mute.command(&["bookmarks", "list"]).stderr(Stdio::piped()).spawn().expect("start freshet");
    let mut wanted: Vec<String> = mute.places.iter().map(|place| format!("{place} does not answer")).collect();
    for line in BufReader::new(child.stderr.take().expect("piped")).lines() {
        let line = line.expect("text");
        assert!(!line.contains("hunter"), "{line}");
        wanted.retain(|wanted| !line.ends_with(wanted.as_str()));
        if wanted.is_empty() {
            break;
        }
    }
    assert!(wanted.is_empty() && began.elapsed() < SOON, "not said after {:?}: {wanted:?}", began.elapsed());
    child.kill().expect("end it");
    child.wait().expect("it ends");
}

#[test]
fn the_status_of_what_does_not_run_is_one_line_that_says_what_to_do() {
    let mute = Mute::new();
    for arguments in [&["status"][..], &["status", "--files", "--json"], &["status", "--wait"]] {
        let began = Instant::now();
        let output = mute.command(arguments).output().expect("run freshet");
        let said = text(output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let expected =
            format!("freshet: no service answers: {}. Start them (here with `freshet up`", mute.places.join(", "));
        assert!(said.starts_with(&expected) && said.lines().count() == 1 && !said.contains("hunter"), "{said}");
        assert!(began.elapsed() < SOON, "after {:?}: {said}", began.elapsed());
    }
}

#[test]
fn an_error_is_json_where_the_logs_are() {
    let output = freshet(&["status", "--log-format", "json"]);
    let event: Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(event["level"], "ERROR");
    assert!(event["fields"]["message"].as_str().is_some_and(|it| it.contains("kafka.brokers")), "{event}");
}

#[test]
fn a_shell_completes_commands_options_and_domains() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(freshet(&["completions", shell]).stdout);
        // The other shells' scripts have no values of arguments.
        let domains = matches!(shell, "bash" | "zsh").then_some("hospital");
        for word in ["process", "dry-run"].into_iter().chain(domains) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // As bash calls it: the command, the word at the cursor, the word before.
    let complete = |line: &[&str]| {
        let script = r#"eval "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _freshet freshet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[@]}""#;
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "bash"]).args(line).env("SCRIPT", text(freshet(&["completions", "bash"]).stdout));
        let output = bash.output().expect("run bash");
        assert!(output.status.success(), "{line:?}: {}", text(output.stderr));
        text(output.stdout).trim().to_owned()
    };
    assert_eq!(complete(&["freshet", "pro"]), "process");
    assert_eq!(complete(&["freshet", "process", "ho"]), "hospital");
    assert_eq!(complete(&["freshet", "setup", "--dry"]), "--dry-run");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_for_programs_says_what_is_known_of_every_domain() {
    let world = World::new("status-json").await;
    let roles = world.run_all();
    world.put("health/a.csv", "location_id,date,dengue_cases\n1,2025-01-01,-1\n9,2025-01-01,1\nx,2025-01-01,1\n").await;
    world.put("health/b.csv", "no,such,header\n").await;
    world.settle().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(["status", "--json", "--files"]).env_clear().envs(world.variables()).current_dir(folder());
    let output = command.output().expect("run freshet");
    assert!(output.status.success(), "{}", text(output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let domains = status["domains"].as_array().expect("a list");
    assert_eq!(domains.len(), freshet_topics::DOMAINS.len());
    let health = domains.iter().find(|domain| domain["domain"] == "health").expect("health");
    for (pointer, expected) in [
        ("/files/applied", 1),
        ("/files/rejected", 1),
        ("/files/discovered", 0),
        ("/rows/applied", 2),
        ("/rows/rejected", 1),
        ("/lag_messages", 0),
        ("/orphans/rows", 2),
    ] {
        assert_eq!(health.pointer(pointer), Some(&expected.into()), "{pointer}: {health:#}");
    }
    let newest = &status["files"]["files"][0];
    assert_eq!((&newest["key"], &newest["state"]), (&"health/b.csv".into(), &"rejected".into()), "{status:#}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_locked_is_named_and_the_rest_is_still_shown() {
    const HEALTH: &str = "location_id,date,dengue_cases\n";
    let world = World::new("locked-table").await;
    let roles = world.run_all();
    world.put("health/before.csv", format!("{HEALTH}1,2025-01-01,1\n")).await;
    world.settle().await;
    // The words of the status, however its lines are broken, and how long it took.
    let status = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.arg("status").env_clear().envs(world.variables()).current_dir(folder());
        let asked = Instant::now();
        let output = command.output().expect("run freshet");
        assert!(output.status.success(), "{}", text(output.stderr));
        (text(output.stdout).split_whitespace().collect::<Vec<_>>().join(" "), asked.elapsed())
    };
    assert!(!status().0.contains("is locked"));
    let mut holder = world.services.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE health_data IN ACCESS EXCLUSIVE MODE").execute(&mut *holder).await.expect("the lock");
    world.put("health/after.csv", format!("{HEALTH}1,2025-01-02,1\n")).await;
    let (said, took) = within(Duration::from_secs(40), "the lock is named", async || {
        let (said, took) = status();
        said.contains("health_data is locked: freshet has waited").then_some((said, took))
    })
    .await;
    // The lock is held until this test lets go of it.
    assert!(took < SOON, "it waited for the table: {took:?}");
    assert!(said.contains("LOCK TABLE health_data IN ACCESS EXCLUSIVE MODE. Wait for it, or end it:"), "{said}");
    assert!(said.contains("version 1") && said.contains("│ locations │"), "the rest is shown: {said}");
    holder.rollback().await.expect("the lock is gone");
    world.settle().await;
    assert!(!status().0.contains("is locked"));
    roles.stop().await;
}
