//! What whoever runs freshet relies on: roles that say what they wait for, drain when asked to, refuse a schema that is
//! not theirs, and show all that their documentation lists.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use secrecy::ExposeSecret;

use crate::harness::http::{Collector, Door, get, within};
use crate::harness::sessions::pid_of;
use crate::harness::{Process, World, data};

/// A role that starts, drains, or waits for something does so well within this.
const SOON: Duration = Duration::from_secs(40);
/// What roles.rs gives a role to drain, and a little for the process to end.
const DRAINED_WITHIN: Duration = Duration::from_secs(35);
/// Nothing is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

const HEALTH: &str = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_role_names_what_it_cannot_reach_and_goes_on_once_it_is_there() {
    let world = World::new("unreachable").await;
    let config = &world.services.config;
    let (postgres, kafka, s3) = (Door::new().await, Door::new().await, Door::new().await);
    let (server, database) = config.postgres.url.expose_secret().rsplit_once('/').expect("a URL with a database");
    let (user, host) = server.rsplit_once('@').expect("a URL with a user");
    let settings = [
        format!("postgres.url={user}@{}/{database}", postgres.address),
        format!("kafka.brokers={}", kafka.address),
        format!("s3.endpoint=http://{}", s3.address),
    ];
    let set: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let role = world.serve(&[&["ingest"], &set[..]].concat());
    let http = role.http().await;

    let places = [
        format!("Postgres at {}/{database}", postgres.address),
        format!("Kafka at {}", kafka.address),
        format!("S3 bucket {} at http://{}", world.raw_bucket(), s3.address),
    ];
    let names_all = |text: &str| places.iter().all(|place| text.contains(place));
    within(SOON, "the log names all three", async || names_all(&role.log()).then_some(())).await;
    let (status, body) = get(&http, "/readyz").await;
    assert!(status == 503 && names_all(&body), "{status}: {body}");
    assert_eq!(get(&http, "/healthz").await.0, 200, "alive all the same");

    let target = |address: &str| address.trim_start_matches("http://").to_owned();
    let doors = [
        postgres.open(host).await,
        kafka.open(&config.kafka.brokers).await,
        s3.open(&target(&config.s3.endpoint)).await,
    ];
    within(SOON, "it is ready", async || (get(&http, "/readyz").await.0 == 200).then_some(())).await;
    world.put("health/after.csv", format!("{HEALTH}1,2025-01-01,1,2,3,4\n")).await;
    world.until("the file is published", "SELECT bool_or(state = 'published') FROM pipeline.objects").await;
    drop(role);
    for door in doors {
        door.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_waits_for_an_older_schema_and_refuses_a_newer_one() {
    let world = World::new("schema").await;
    world.execute("UPDATE _sqlx_migrations SET success = false WHERE version = 3").await;
    let waiting = world.serve(&["metrics"]);
    within(SOON, "it says what it waits for", async || waiting.log().contains("run `freshet setup`").then_some(()))
        .await;
    let http = waiting.http().await;
    assert_eq!(get(&http, "/readyz").await.0, 503);
    world.execute("UPDATE _sqlx_migrations SET success = true WHERE version = 3").await;
    within(SOON, "it is ready", async || (get(&http, "/readyz").await.0 == 200).then_some(())).await;
    drop(waiting);

    world
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (999, 'of a later freshet', true, '', 0)",
        )
        .await;
    let mut refused = world.serve(&["process", "health"]);
    assert_eq!(refused.ended(SOON).await, Some(1), "{}", refused.log());
    assert!(
        refused.log().contains("at version 999") && refused.log().contains("run the newer freshet"),
        "{}",
        refused.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_every_role_within_its_bound_and_nothing_is_lost() {
    let world = World::with("drained", |config| config.ingest.chunk_bytes = 16_384).await;
    let roles: [&[&str]; 4] = [&["ingest"], &["process", "health"], &["process", "climate"], &["metrics"]];
    let files = data::generated(|options| {
        options.seed = 11;
        options.entities = 20;
        options.days = 120;
        options.rows_per_file = 1_000;
    });
    let processes: Vec<Process> = roles.iter().map(|role| world.spawn(role)).collect();
    for (key, content) in &files {
        world.put(key, content).await;
    }
    world.until("rows flow", "SELECT count(*) > 0 FROM health_data").await;
    for process in processes {
        assert_eq!(process.terminate(DRAINED_WITHIN).await, Some(0));
    }
    let restarted = world.run_all();
    world.settle().await;
    world.all_hold().await;
    let repeated: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repeated, 0, "what was drained was whole");
    restarted.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_cannot_drain_ends_within_its_bound_and_at_once_on_a_second_signal() {
    // Each process waits with one transaction, not with one of each writer.
    let world = World::with("stuck", |config| config.process.writers = 1).await;
    let patient = world.spawn(&["process", "health"]);
    let mut hurried = world.spawn(&["process", "health"]);
    let shared = "SELECT count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("both have their share of the partitions", shared).await;
    // Whoever writes to the table waits; whoever reads it does not.
    let mut lock = world.services.pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE health_data IN SHARE MODE").execute(&mut *lock).await.expect("lock the table");
    let lock_pid = pid_of(&mut lock).await;
    world.put("health/a.csv", data::health(12, "2025-08-01", 20, 1)).await;
    let ingest = world.run(&[freshet::roles::Role::Ingest]);
    let both = "both wait in the middle of a transaction";
    world.until_so_many_wait_for(both, lock_pid, 2, "%health_data%").await;

    // Two kinds of signals: two of a kind could arrive as one.
    hurried.signal("TERM");
    hurried.signal("INT");
    assert_eq!(hurried.ended(AT_ONCE).await, Some(130), "{}", hurried.log());
    assert_eq!(patient.terminate(DRAINED_WITHIN).await, Some(0));

    sqlx::raw_sql("ROLLBACK").execute(&mut *lock).await.expect("unlock the table");
    ingest.stop().await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_documented_is_served_and_the_state_is_told_by_all() {
    let world = World::new("metrics").await;
    let domains = freshet_topics::DOMAINS.iter().map(|domain| vec!["process", domain.name]);
    let roles: Vec<Vec<&str>> = domains.chain([vec!["ingest"], vec!["metrics"]]).collect();
    let processes: Vec<Process> = roles.iter().map(|role| world.serve(role)).collect();
    world.put("locations/a.csv", "id,name,type,population,area\n1,Aba,city,1000,10\n").await;
    let rows = "1,2025-01-01,-1,2,3,4\n9,2025-01-01,1,2,3,4\nx,2025-01-01,1,2,3,4\n";
    world.put("health/a.csv", format!("{HEALTH}{rows}")).await;
    world.settle().await;

    let page = include_str!("../../docs/metrics.md");
    let listed = page.lines().filter_map(|line| Some(line.strip_prefix("| `freshet_")?.split_once('`')?.0));
    let mut listed: BTreeSet<String> = listed.map(|name| format!("freshet_{name}")).collect();
    // No rule of the shipped contracts lets a value pass and counts it.
    assert!(freshet_topics::DOMAINS.iter().all(|domain| domain.warning_rules().next().is_none()));
    assert!(listed.remove("freshet_values_warned_total"));
    // Nor is a queue of events set here.
    listed.retain(|name| !name.starts_with("freshet_event_"));
    assert!(listed.len() > 50, "{listed:?}");
    let mut wanted: Vec<String> = listed.iter().map(|name| format!("# TYPE {name} ")).collect();
    wanted.extend(["process_resident_memory_bytes", "arroyo_strategies_"].map(str::to_owned));
    // Some are told only once their role has looked at something.
    let began = Instant::now();
    loop {
        let mut served = String::new();
        for process in &processes {
            served += &get(&process.http().await, "/metrics").await.1;
        }
        let missing: Vec<&String> = wanted.iter().filter(|text| !served.contains(text.as_str())).collect();
        if missing.is_empty() {
            break;
        }
        assert!(began.elapsed() < SOON, "not served: {missing:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }

    // Any role but a processor tells the state of all.
    let http = processes[roles.len() - 1].http().await;
    for line in [
        r#"freshet_files{domain="health",state="applied"} 1"#,
        r#"freshet_orphan_rows{domain="health"} 1"#,
        r#"freshet_halted_partitions{domain="climate"} 0"#,
        r#"freshet_role_info{domain="",role="metrics"} 1"#,
        "freshet_dirty_windows 0",
    ] {
        let told = async || get(&http, "/metrics").await.1.lines().any(|it| it == line).then_some(());
        within(SOON, line, told).await;
    }
    let body = get(&http, "/metrics").await.1;
    let lags = body.lines().filter(|line| line.starts_with(r#"freshet_lag_messages{domain="health""#));
    assert_eq!(lags.filter(|line| line.ends_with(" 0")).count(), 4, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_told_in_messages_and_seconds_while_the_processor_is_away() {
    let world = World::new("lag").await;
    let ingest = world.serve(&["ingest"]);
    world.put("health/waiting.csv", format!("{HEALTH}1,2025-01-01,1,2,3,4\n1,2025-01-02,1,2,3,4\n")).await;
    world.until("the file is published", "SELECT bool_or(state = 'published') FROM pipeline.objects").await;
    let http = ingest.http().await;
    let sum = async |name: &str| {
        let body = get(&http, "/metrics").await.1;
        let values = body.lines().filter(|line| line.starts_with(name) && line.contains(r#"domain="health""#));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    within(SOON, "the message with both rows waits", async || {
        (sum("freshet_lag_messages{").await == 1.0).then_some(())
    })
    .await;
    within(SOON, "they grow older", async || (sum("freshet_lag_seconds{").await > 1.0).then_some(())).await;
    let oldest = async || (sum("freshet_oldest_unfinished_file_seconds{").await > 1.0).then_some(());
    within(SOON, "the file does too", oldest).await;
    let roles =
        world.run(&[freshet::roles::Role::Process(freshet_topics::domains::by_name("health").expect("declared"))]);
    within(SOON, "nothing waits", async || {
        let (messages, seconds) = (sum("freshet_lag_messages{").await, sum("freshet_lag_seconds{").await);
        (messages == 0.0 && seconds == 0.0).then_some(())
    })
    .await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_a_file_through_all_processes() {
    let world = World::new("traced").await;
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address)),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ];
    let roles: [&[&str]; 4] = [&["ingest"], &["process", "locations"], &["process", "health"], &["metrics"]];
    let processes = roles.map(|role| world.spawn_with(role, &variables));
    world.put("locations/a.csv", "id,name,type,population,area\n1,Aba,city,1000,10\n").await;
    world.put("health/a.csv", format!("{HEALTH}1,2025-01-01,1,2,3,4\n")).await;
    world.put("health/b.csv", "no,such,header\n").await;
    world.settle().await;

    let traced = world.object("health/a.csv").await;
    let stages = ["file", "discover", "publish", "apply", "refresh"];
    let trace_id = freshet::telemetry::trace_id(traced.id).to_bytes();
    let spans = async || {
        let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace_id == trace_id).collect();
        stages.iter().all(|stage| spans.iter().any(|span| span.name == *stage)).then_some(spans)
    };
    let spans = within(SOON, "every stage is told", spans).await;
    let root = spans.iter().find(|span| span.name == "file").expect("just found");
    assert!(root.parent_span_id.is_empty());
    for span in spans.iter().filter(|span| span.name != "file") {
        assert_eq!(span.parent_span_id, root.span_id, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
    let rejected = world.object("health/b.csv").await;
    let trace_id = freshet::telemetry::trace_id(rejected.id).to_bytes();
    let is_root = |span: &Span| span.trace_id == trace_id && span.name == "file";
    within(SOON, "the rejected file ends too", async || collector.spans().iter().any(is_root).then_some(())).await;
    for process in processes {
        assert!(!process.log().contains("freshet::trace"), "traces are not logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_where_that_is_asked_for() {
    let world = World::new("json").await;
    let role = world.spawn(&["ingest", "--log-format", "json"]);
    within(SOON, "it listens", async || role.log().contains("listening").then_some(())).await;
    for line in role.log().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        assert!(event["fields"]["message"].is_string(), "{line}");
    }
}
