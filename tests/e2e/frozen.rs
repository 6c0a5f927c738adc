//! A processor that is frozen in the middle of a transaction, as a paused machine or SIGSTOP does it, or killed there.

use std::time::{Duration, Instant};

use freshet::roles::Role;
use sqlx::{Connection, PgConnection};

use crate::harness::sessions::pid_of;
use crate::harness::{World, data};
use crate::replay::domain;

/// Kafka notices after 10 s (`session.timeout.ms`); by then Postgres has ended the transaction (8 s). 15 s are what is
/// promised; the rest is slack for a busy machine. Who waits for the frozen one waits for ever.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);

/// A statement that writes to health waits while the test has the lock.
const GATE: &str = "
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END';
    CREATE TRIGGER gate AFTER INSERT OR UPDATE ON health_data FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate();";

const AT_GATE: &str = "SELECT count(*) = 2 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 4711 AND NOT l.granted";

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_frozen_in_its_transaction_holds_nobody_up_and_writes_nothing_when_it_thaws() {
    // Each process waits at the gate with one transaction, not with one of each writer.
    let world = World::with("frozen", |config| config.process.writers = 1).await;
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    let mut frozen = world.spawn(&["process", "health"]);
    let mut well = world.spawn(&["process", "health"]);
    world
        .until(
            "both have partitions",
            "SELECT count(*) = 4 AND count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'",
        )
        .await;
    world.put("health/before.csv", data::health(40, "2025-01-01", 10, 1)).await;
    world.settle().await;

    world.execute(GATE).await;
    let mut gate = PgConnection::connect(world.database_url()).await.expect("connect");
    sqlx::query("SELECT pg_advisory_lock(4711)").execute(&mut gate).await.expect("close the gate");
    world.put("health/in-transaction.csv", data::health(40, "2025-03-01", 10, 2)).await;
    world.until("both are in the middle of a transaction", AT_GATE).await;
    frozen.signal("STOP");
    let began = Instant::now();
    sqlx::query("SELECT pg_advisory_unlock(4711)").execute(&mut gate).await.expect("open the gate");
    world.put("health/while-frozen.csv", data::health(40, "2025-05-01", 10, 3)).await;

    let count = "SELECT count(*) FROM health_data WHERE date >= '2025-03-01'";
    while world.query::<i64>(count).await < 800 {
        assert!(began.elapsed() < GOES_ON_WITHIN, "rows do not go on:\n{}", well.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("all partitions went on {:?} after the freeze", began.elapsed());
    let owners: i64 = world.query("SELECT count(DISTINCT owner) FROM pipeline.bookmarks WHERE domain = 'health'").await;
    assert_eq!(owners, 1, "the one that is well has them all");

    frozen.signal("CONT");
    world
        .until(
            "the thawed one joins again",
            "SELECT count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'",
        )
        .await;
    world.put("health/after.csv", data::health(40, "2025-07-01", 10, 4)).await;
    world.settle().await;
    world.execute("DROP FUNCTION wait_at_gate CASCADE").await;
    assert!(frozen.runs() && well.runs(), "both are alive:\n{}", well.log());
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 1_600);
    world.all_hold().await;
    for processor in [frozen, well] {
        assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    }
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_bookmarks_says_who_holds_them() {
    let world = World::new("held").await;
    let first = world.run_all();
    world.put("health/a.csv", data::health(4, "2025-01-01", 5, 1)).await;
    world.settle().await;
    first.stop().await;
    let mut holder = PgConnection::connect(world.database_url()).await.expect("connect");
    let mut transaction = holder.begin().await.expect("begin");
    let pid = pid_of(&mut transaction).await;
    sqlx::query("SELECT FROM pipeline.bookmarks WHERE domain = 'health' FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .expect("hold the bookmarks");
    let processor = world.spawn(&["process", "health"]);
    let named = format!("backend {pid} of 127.0.0.1");
    crate::harness::http::within(Duration::from_secs(30), "it says who holds the bookmarks", async || {
        processor.log().contains(&named).then_some(())
    })
    .await;
    transaction.rollback().await.expect("let go");
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    world.put("health/b.csv", data::health(4, "2025-02-01", 5, 1)).await;
    world.settle().await;
    world.all_hold().await;
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_killed_while_it_waits_for_a_row_keeps_no_bookmarks_from_the_next() {
    let world = World::new("killed-waiting").await;
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    let doomed = world.spawn(&["process", "health"]);
    world.put("health/a.csv", data::health(40, "2025-01-01", 5, 1)).await;
    world.settle().await;
    let mut holder = PgConnection::connect(world.database_url()).await.expect("connect");
    let mut transaction = holder.begin().await.expect("begin");
    let pid = pid_of(&mut transaction).await;
    sqlx::query("SELECT FROM health_data FOR UPDATE").execute(&mut *transaction).await.expect("hold the rows");
    world.put("health/b.csv", data::health(40, "2025-01-01", 5, 2)).await;
    world.until_one_waits_for("a writer waits for a row", pid).await;
    doomed.kill();
    let next = world.spawn(&["process", "health"]);
    let mark = next.mark();
    let owned = format!(
        "SELECT count(*) = 4 AND bool_and(owner LIKE '%{mark}%') FROM pipeline.bookmarks WHERE domain = 'health'"
    );
    world.until("the next one has all partitions, while the rows are held", &owned).await;
    transaction.rollback().await.expect("let go");
    world.settle().await;
    world.all_hold().await;
    assert_eq!(next.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

/// Its client went silent after it had begun a COPY: no bound of Postgres' own is for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_frozen_in_the_middle_of_a_copy_holds_nobody_up() {
    let world = World::new("frozen-copy").await;
    let ingest = world.run(&[Role::Ingest]);
    world.put("health/before.csv", data::health(4, "2025-01-01", 10, 1)).await;
    {
        let first = world.run(&[Role::Process(domain("health"))]);
        world.until("it is applied", "SELECT count(*) = 40 FROM health_data").await;
        first.stop().await;
    }
    let mut frozen = world.services.pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN; UPDATE pipeline.bookmarks SET updated_at = now() WHERE domain = 'health'")
        .execute(&mut *frozen)
        .await
        .expect("hold the bookmarks");
    let copy = frozen.copy_in_raw("COPY health_data (location_id, date) FROM STDIN").await.expect("begin");
    let began = Instant::now();
    let processors = world.run(&[Role::Process(domain("health"))]);
    world.put("health/after.csv", data::health(4, "2025-03-01", 10, 2)).await;
    world.until("rows go on", "SELECT count(*) = 80 FROM health_data").await;
    println!("they went on after {:?}", began.elapsed());
    assert!(copy.finish().await.is_err(), "its session has ended");
    processors.stop().await;
    ingest.stop().await;
}
