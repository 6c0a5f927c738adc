//! Clocks that are a day off, either way: Postgres', freshet's own, S3's. Nothing is lost, and nobody waits for a day.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::HeaderValue;
use chrono::{DateTime, TimeDelta, Utc};
use freshet::roles::Role;

use crate::harness::clock::Clock;
use crate::harness::proxy::{Fault, kind};
use crate::harness::server::Server;
use crate::harness::{World, all_roles, data, roles_but};

const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_whose_clock_jumps_by_a_day_lets_no_lease_last_longer() {
    let clock = Clock::new("postgres");
    let server = Server::start("jumping", &clock.variables()).await;
    server.execute("CREATE DATABASE freshet").await;
    let world = World::with("jumping", |config| {
        config.postgres.url = server.url("freshet").into();
        config.ingest.lease_ms = LEASE.as_millis() as u64;
        config.ingest.chunk_bytes = 16 << 10;
        config.ingest.rows_per_second = 3_000;
    })
    .await;
    let others = world.run(&roles_but(Role::Ingest));
    let mut listener = world.spawn(&["ingest"]);
    world.put("locations/all.csv", data::locations(40)).await;
    for (round, days) in [1, -1, 0].into_iter().enumerate() {
        let key = format!("health/{round}.csv");
        world.put(&key, data::health(40, "2024-01-01", 300, round as i32)).await;
        let half = format!(
            "SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{key}' AND state = 'publishing' AND resume_row > 0"
        );
        world.until("the file is half published", &half).await;
        listener.kill();
        clock.set(days);
        let off = format!("SELECT abs(extract(epoch FROM now()) - {} - {days} * 86400) < 60", Utc::now().timestamp());
        world.until("the clock has jumped", &off).await;
        let began = Instant::now();
        listener = world.spawn(&["ingest"]);
        let done = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{key}' AND state = 'applied'");
        // A lease that lasted until the clock says so would last a day.
        world.until("another listener goes on", &done).await;
        println!("{days} days: applied after {:?}", began.elapsed());
        world.settle().await;
    }
    world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    assert_eq!(listener.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freshet_whose_clock_is_a_day_off_goes_on_and_loses_nothing() {
    let clock = Clock::new("freshet");
    let world = World::new("own-clock").await;
    let variables = clock.variables();
    let variables: Vec<(&str, String)> = variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let spawn = || [&["ingest"][..], &["process", "health"], &["metrics"]].map(|it| world.spawn_with(it, &variables));
    let of_others = |role: &Role| matches!(role, Role::Process(domain) if domain.name != "health");
    let others = world.run(&all_roles().into_iter().filter(of_others).collect::<Vec<_>>());
    let mut processes = spawn();
    world.put("locations/all.csv", data::locations(10)).await;
    world.put("hospital/all.csv", data::hospital(10, "2025-01-01", 20, 1)).await;
    world.put("health/0.csv", data::health(10, "2025-01-01", 20, 1)).await;
    world.settle().await;
    for (round, days) in [1, -1, 1, -1].into_iter().enumerate() {
        clock.set(days);
        if round >= 2 {
            // Started with it, too.
            for process in processes {
                assert_eq!(process.terminate(Duration::from_secs(40)).await, Some(0));
            }
            processes = spawn();
        }
        let key = format!("health/{}.csv", round + 1);
        world.put(&key, data::health(10, "2025-02-01", 20, round as i32)).await;
        world.put("health/0.csv", data::health(10, "2025-01-01", 20, 10 + round as i32)).await;
        let applied = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{key}' AND state = 'applied'");
        world.until("it goes on with a wrong clock", &applied).await;
        let logged = processes[0].log();
        let day = (Utc::now() + TimeDelta::days(days)).format("%Y-%m-%dT").to_string();
        assert!(logged.lines().last().is_some_and(|line| line.starts_with(&day)), "its clock is right:\n{logged}");
        if round % 2 == 1 {
            clock.set(0);
        }
        world.settle().await;
    }
    world.settle().await;
    world.all_hold().await;
    for process in processes {
        assert_eq!(process.terminate(Duration::from_secs(40)).await, Some(0));
    }
    others.stop().await;
}

/// By how much S3's clock is off, from some second on.
type Phases = Arc<Mutex<Vec<(i64, TimeDelta)>>>;

/// What S3 with that clock calls the time `at`: what was written before a jump keeps the time that it has.
fn as_told(phases: &Phases, at: DateTime<Utc>) -> DateTime<Utc> {
    let phases = phases.lock().expect("not poisoned");
    let phase = phases.iter().rfind(|(from, _)| *from <= at.timestamp());
    at + phase.map_or(TimeDelta::zero(), |(_, off)| *off)
}

const HTTP_TIME: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Changes the times in what S3 says.
fn with_its_clock(phases: Phases) -> impl Fn(&Request) -> Option<Fault> + Send {
    move |request| {
        let (phases, is_listing) = (Arc::clone(&phases), kind(request) == "list");
        Some(Fault::Edited(Arc::new(move |headers, body| {
            // Not the header `Date`: the client signs by it, and the server behind the proxy checks that by its own clock.
            if let Some(value) = headers.get("last-modified").and_then(|value| value.to_str().ok()) {
                let at = DateTime::parse_from_rfc2822(value).expect("a time of HTTP").to_utc();
                let told = as_told(&phases, at).format(HTTP_TIME).to_string();
                headers.insert("last-modified", HeaderValue::from_str(&told).expect("a time"));
            }
            if !is_listing {
                return body;
            }
            let text = String::from_utf8(body).expect("XML");
            let mut parts = text.split("<LastModified>");
            let mut changed = parts.next().expect("a beginning").to_owned();
            for part in parts {
                let (at, rest) = part.split_once('<').expect("an end");
                let at = DateTime::parse_from_rfc3339(at).expect("a time of S3").to_utc();
                let told = as_told(&phases, at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                changed += &format!("<LastModified>{told}<{rest}");
            }
            changed.into_bytes()
        })))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_whose_clock_jumps_by_a_day_hides_no_version_and_turns_none_back() {
    let (world, proxy) = World::behind_a_proxy("s3-clock", |_| ()).await;
    let phases: Phases = Arc::default();
    proxy.break_by(with_its_clock(Arc::clone(&phases)));
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(10)).await;
    world.put("hospital/all.csv", data::hospital(10, "2025-01-01", 20, 1)).await;
    for (round, days) in [0, 1, 0, -1, 0].into_iter().enumerate() {
        // A jump between two seconds: which of them a file is of is beyond doubt.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let from = Utc::now().timestamp();
        phases.lock().expect("not poisoned").push((from, TimeDelta::days(days)));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let salt = round as i32;
        world.put("health/again.csv", data::health(10, "2025-01-01", 20, 100 + salt)).await;
        world.put(&format!("health/{round}.csv"), data::health(10, "2025-02-01", 20, salt)).await;
        world.settle().await;
        let newest = world.object("health/again.csv").await;
        let rows = format!("SELECT count(*) FROM health_data WHERE date < '2025-01-21' AND src_object = {}", newest.id);
        assert_eq!(newest.state, "applied", "{newest:?}");
        assert_eq!(world.query::<i64>(&rows).await, 200, "round {round}: the version dropped last has the rows");
    }
    world.all_hold().await;
    let versions: i64 = world.query("SELECT count(*) FROM pipeline.objects WHERE key = 'health/again.csv'").await;
    assert_eq!(versions, 5);
    roles.stop().await;
}
