//! Postgres in trouble under load: sessions ended, statements and locks timed out, deadlocks, connections cut at COMMIT.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::http::within;
use crate::harness::server::{Disk, Server};
use crate::harness::sessions::pid_of;
use crate::harness::wire::{Cut, Wire};
use crate::harness::{World, data, processor_of, roles_but, seed};

/// Ends every other session of the database.
const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

async fn connection(world: &World) -> PgConnection {
    PgConnection::connect(world.database_url()).await.expect("connect")
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn value(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Drops a file of each domain that has rows; each time other ones.
async fn drop_some(world: &World, number: i32) {
    let day = format!("2025-{:02}-{:02}", 1 + number % 12, 1 + number % 20);
    world.put(&format!("health/{number}.csv"), data::health(40, &day, 8, number)).await;
    world.put(&format!("hospital/{number}.csv"), data::hospital(40, &day, 8, number)).await;
    // Overwritten each time: which version wins is decided again and again.
    world.put("climate/all.csv", data::climate(40, "2025-01-01", 8, number)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_all_the_time_lose_and_repeat_nothing() {
    let world = World::new("terminated").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    let mut admin = connection(&world).await;
    let (began, mut ended, mut number) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(8) || ended <= 40 {
        assert!(began.elapsed() < Duration::from_secs(60), "{ended} sessions were ended");
        drop_some(&world, number).await;
        number += 1;
        ended += value(&mut admin, END_SESSIONS).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{ended} sessions ended while {number} times three files were dropped");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_locks_that_time_out_are_tried_again() {
    let world = World::new("timed-out").await;
    let processor = world.spawn(&["process", "health"]);
    let others = world.run(&roles_but(processor_of("health")));
    world.put("locations/all.csv", data::locations(40)).await;
    drop_some(&world, 0).await;
    world.settle().await;

    let mut admin = connection(&world).await;
    let mut holder = connection(&world).await;
    let pid = pid_of(&mut holder).await;
    let end_others = format!("{END_SESSIONS} AND pid <> {pid}");
    let mut number = 1;
    for (setting, expected) in [("statement_timeout", "statement timeout"), ("lock_timeout", "lock timeout")] {
        execute(&mut admin, &format!("ALTER DATABASE \"{}\" SET {setting} = '250ms'", world.name())).await;
        value(&mut admin, &end_others).await;
        // Whoever applies, registers or claims waits for these locks, and not for long.
        for table in ["pipeline.bookmarks", "pipeline.objects", "health_data"] {
            execute(&mut holder, &format!("BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")).await;
            drop_some(&world, number).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            // However late the processor comes, this one it waits for.
            let locked = Instant::now();
            while table == "health_data" && !processor.log().contains(expected) {
                assert!(locked.elapsed() < Duration::from_secs(40), "no {expected}:\n{}", processor.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            execute(&mut holder, "COMMIT").await;
        }
        execute(&mut admin, &format!("ALTER DATABASE \"{}\" RESET {setting}", world.name())).await;
        value(&mut admin, &end_others).await;
    }
    world.settle().await;
    world.all_hold().await;
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_with_a_foreign_session_is_survived() {
    let world = World::new("deadlock").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    drop_some(&world, 0).await;
    world.settle().await;
    let mut first = connection(&world).await;
    let mut foreign = connection(&world).await;
    let first_pid = pid_of(&mut first).await;
    let foreign_pid = pid_of(&mut foreign).await;
    // It looks for deadlocks late: freshet, which looks after a second, is the one to be ended.
    execute(&mut foreign, "SET deadlock_timeout = '20s'").await;
    let lock = |partition: i32| {
        format!("SELECT FROM pipeline.bookmarks WHERE domain = 'health' AND partition = {partition} FOR UPDATE")
    };
    let counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let mut deadlocks = 0;
    for number in 1..20 {
        // While freshet waits for the last bookmark, what comes next is gathered, of all partitions.
        execute(&mut first, &format!("BEGIN; {}", lock(3))).await;
        drop_some(&world, number).await;
        let writer_pid = world.until_one_waits_for("freshet waits for the bookmark", first_pid).await;
        drop_some(&world, number + 100).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        // It gets that bookmark before the next batch does. Its writer has partition 1 as well, and waits for this one.
        let take_last = format!("BEGIN; {}", lock(3));
        let queued = tokio::spawn(async move {
            execute(&mut foreign, &take_last).await;
            foreign
        });
        let next_pid = world.until_one_waits_for("the foreign session is next", writer_pid).await;
        assert_eq!(next_pid, foreign_pid);
        execute(&mut first, "COMMIT").await;
        foreign = queued.await.expect("it gets the bookmark");
        world.until_one_waits_for("freshet waits for the foreign session", foreign_pid).await;
        execute(&mut foreign, &lock(1)).await;
        execute(&mut foreign, "COMMIT").await;
        world.settle().await;
        // Which partitions a batch has is not for the test to say: most have both, and the others end without a deadlock.
        deadlocks = world.query::<i64>(counted).await;
        if deadlocks > 0 {
            break;
        }
    }
    world.all_hold().await;
    println!("{deadlocks} deadlocks");
    assert!(deadlocks >= 1, "there was no deadlock");
    roles.stop().await;
}

/// A world that reaches its Postgres through a proxy that can cut connections.
async fn behind_a_wire(story: &str) -> (World, Wire) {
    let mut wire = None;
    let world = World::with(story, |config| {
        let url = secrecy::ExposeSecret::expose_secret(&config.postgres.url).to_owned();
        let options: PgConnectOptions = url.parse().expect("a URL");
        let direct = format!("{}:{}", options.get_host(), options.get_port());
        let made = Wire::before(&direct);
        config.postgres.url = url.replace(&direct, &made.address).into();
        wire = Some(made);
    })
    .await;
    (world, wire.expect("made with the world"))
}

async fn cut_at_commit(story: &str, cut: Cut) {
    let (world, wire) = behind_a_wire(story).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    let mut number = 0;
    // Every fourth COMMIT of any transaction; then every one, for as long as three are cut.
    for (every, cuts) in [(4, 12), (2, 12), (1, 3)] {
        wire.cut(cut, every);
        let began = Instant::now();
        while wire.cuts() < cuts {
            assert!(began.elapsed() < Duration::from_secs(30), "{} of {cuts} COMMITs were cut", wire.cuts());
            drop_some(&world, number).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        wire.recover();
    }
    world.settle().await;
    world.all_hold().await;
    println!("{number} times three files");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_before_its_commit_arrives_loses_and_repeats_nothing() {
    cut_at_commit("cut-before", Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_after_its_commit_and_before_the_answer_loses_and_repeats_nothing() {
    cut_at_commit("cut-after", Cut::After).await;
}

/// A world whose Postgres is a server of its own.
async fn on_server(story: &str, server: &Server) -> World {
    World::with(story, |config| config.postgres.url = server.url("freshet").into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_stopped_at_once_under_load_loses_and_repeats_nothing() {
    const STOPS: i32 = 5;
    let mut random = StdRng::seed_from_u64(seed());
    let mut server = Server::start("stopped", &[]).await;
    server.execute("CREATE DATABASE freshet").await;
    let world = on_server("stopped", &server).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    let mut number = 0;
    for _ in 0..STOPS {
        for _ in 0..3 {
            drop_some(&world, number).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        }
        server.stop_at_once();
        drop_some(&world, number).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        server.again().await;
    }
    let recoveries = server.log().matches("database system was not properly shut down").count();
    assert_eq!(recoveries, STOPS as usize, "{}", server.log());
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

const NO_SPACE: &str = "No space left on device";

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_find_no_room_on_the_disk_wait_for_it_and_reject_nothing() {
    let Some(disk) = Disk::new("small-tables", "48m") else { return };
    let server = Server::start_with_tables_on(disk, "tables-elsewhere").await;
    let world = on_server("no-room", &server).await;
    let processor = world.spawn(&["process", "health"]);
    let others = world.run(&roles_but(processor_of("health")));
    world.put("locations/all.csv", data::locations(40)).await;
    drop_some(&world, 0).await;
    world.settle().await;

    // The rows are in Kafka before the disk is full: a listener that met it first would publish none of them.
    let mut holder = connection(&world).await;
    execute(&mut holder, "BEGIN; LOCK TABLE health_data IN SHARE ROW EXCLUSIVE MODE").await;
    for number in 1..4 {
        world.put(&format!("health/big-{number}.csv"), data::health(40, "2024-01-01", 200, number)).await;
    }
    let published = "SELECT count(*) = 3 FROM pipeline.objects WHERE key LIKE 'health/big-%' AND state = 'published'";
    world.until("the files are published", published).await;
    server.disk().fill();
    execute(&mut holder, "COMMIT").await;
    for number in 1..4 {
        drop_some(&world, number).await;
    }
    within(Duration::from_secs(40), "the processor meets the full disk", async || {
        processor.log().contains(NO_SPACE).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rejected = "SELECT (SELECT count(*) FROM pipeline.rejects)
        + (SELECT count(*) FROM pipeline.objects WHERE state IN ('rejected', 'superseded'))";
    assert_eq!(world.query::<i64>(rejected).await, 0, "{:#?}", world.objects().await);
    server.disk().free();
    world.settle().await;
    world.all_hold().await;
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_whose_log_finds_no_room_goes_down_and_comes_back_with_everything() {
    let Some(disk) = Disk::new("small-log", "48m") else { return };
    let mut server = Server::start_with_log_on(disk, "log-elsewhere").await;
    server.execute("CREATE DATABASE freshet").await;
    let world = on_server("full", &server).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    drop_some(&world, 0).await;
    world.settle().await;

    server.disk().fill();
    for number in 1..4 {
        world.put(&format!("health/big-{number}.csv"), data::health(40, "2024-01-01", 200, number)).await;
        drop_some(&world, number).await;
    }
    // Postgres ends itself where its log of changes finds no room.
    within(Duration::from_secs(40), "Postgres gives up", async || {
        let log = server.log();
        (log.contains("PANIC") && log.contains(NO_SPACE)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.disk().free();
    let survived = server.runs();
    println!("Postgres {}", if survived { "came back by itself" } else { "had to be started" });
    if !survived {
        server.again().await;
    }
    world.settle().await;
    world.all_hold().await;
    let rejects: i64 = world.query("SELECT count(*) FROM pipeline.rejects").await;
    assert_eq!(rejects, 0);
    roles.stop().await;
}
