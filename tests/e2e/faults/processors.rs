//! A processor that dies or is frozen around its COMMIT.

use std::time::{Duration, Instant};

use freshet_topics::failpoint::Point;

use super::{AT_ITS_POINT_WITHIN, all_hold_and_nothing_was_missing, duplicates};
use crate::harness::http::within;
use crate::harness::{Process, World, data, processor_of, roles_but};

/// Kafka gives the partitions of a frozen processor away after 10 s; the rest is slack for a busy machine. Who waits for
/// the frozen one waits for ever.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// A processor that fails joins again after a fifth of a second, then after twice as long each time, and each time has to
/// be given its partitions first. One that cannot write pauses after five seconds.
const FAILS_WITHIN: Duration = Duration::from_secs(60);
/// Rows a batch: a file is many.
const BATCH_ROWS: usize = 100;
/// Rows a message: a batch is several.
const MESSAGE_ROWS: usize = 10;

const RECEIVED: &str = "SELECT coalesce(sum(test.length(received)), 0)::bigint FROM pipeline.progress";
/// Transactions that moved a bookmark forward. One of them may have received no row: where the stream records of the
/// partitions come before any row does, they move their bookmarks in a transaction of their own.
const MOVES: &str = "SELECT count(DISTINCT xid) FROM test.moves WHERE domain = 'health' AND before < after";

async fn world_of_small_batches(story: &str) -> World {
    World::with(story, |config| {
        config.process.batch_rows_max = BATCH_ROWS;
        // One transaction after the other: their number says where a process ends.
        config.process.writers = 1;
        config.kafka.rows_per_message = MESSAGE_ROWS;
    })
    .await
}

/// A processor dies at its sixth transaction, and another one goes on.
async fn a_processor_killed(story: &str, point: Point) {
    let world = world_of_small_batches(story).await;
    let others = world.run(&roles_but(processor_of("health")));
    let doomed = world.spawn_failing(&["process", "health"], point, "5*off->return(kill)");
    world.put("health/a.csv", data::health(40, "2025-01-01", 50, 1)).await;
    doomed.killed(AT_ITS_POINT_WITHIN).await;
    let (received, moves): (i64, i64) = (world.query(RECEIVED).await, world.query(MOVES).await);
    println!("{received} rows were received in {moves} transactions");
    assert_eq!(moves, if point == Point::BeforeCommit { 5 } else { 6 });
    assert!(received > 0 && received < 2_000);

    let well = world.spawn(&["process", "health"]);
    world.put("health/b.csv", data::health(40, "2025-05-01", 50, 2)).await;
    world.settle().await;
    assert_eq!(duplicates(&world).await, 0, "the bookmark said what was applied");
    all_hold_and_nothing_was_missing(&world).await;
    assert_eq!(well.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_killed_before_its_commit_leaves_nothing_of_the_batch() {
    a_processor_killed("killed-before-commit", Point::BeforeCommit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_killed_after_its_commit_is_followed_by_one_that_does_not_repeat_the_batch() {
    a_processor_killed("killed-after-commit", Point::AfterCommit).await;
}

/// Two of three processors are frozen, one on each side of a COMMIT, until all partitions have gone on without them
/// and as much longer as is asked for.
async fn processors_frozen(story: &str, longer: Duration) {
    let world = world_of_small_batches(story).await;
    let others = world.run(&roles_but(processor_of("health")));
    let point = |point| world.spawn_failing(&["process", "health"], point, "3*off->1*return(stop)");
    let frozen = [point(Point::BeforeCommit), point(Point::AfterCommit)];
    let well = world.spawn(&["process", "health"]);
    let shared = "SELECT count(*) = 4 AND count(DISTINCT owner) = 3 FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("all three have partitions", shared).await;
    world.put("health/a.csv", data::health(40, "2025-01-01", 100, 1)).await;
    for one in &frozen {
        one.stopped(AT_ITS_POINT_WITHIN).await;
    }
    let began = Instant::now();
    while world.query::<i64>("SELECT count(*) FROM health_data").await < 4_000 {
        assert!(began.elapsed() < GOES_ON_WITHIN, "rows do not go on:\n{}", well.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("all partitions went on {:?} after the freeze", began.elapsed());
    tokio::time::sleep(longer).await;
    world.put("health/b.csv", data::health(40, "2025-05-01", 50, 2)).await;
    world.settle().await;

    for one in &frozen {
        one.signal("CONT");
    }
    world.until("the thawed ones have partitions again", shared).await;
    world.put("health/c.csv", data::health(40, "2025-08-01", 50, 3)).await;
    world.settle().await;
    assert_eq!(duplicates(&world).await, 0, "the thawed ones wrote nothing that was applied");
    all_hold_and_nothing_was_missing(&world).await;
    for processor in frozen.into_iter().chain([well]) {
        assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    }
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_frozen_on_each_side_of_a_commit_past_their_session_come_back_and_repeat_nothing() {
    processors_frozen("frozen-commits", Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn processors_frozen_for_three_minutes_come_back_and_repeat_nothing() {
    processors_frozen("frozen-minutes", Duration::from_secs(180)).await;
}

/// A counter of a processor that serves it.
pub(super) async fn counted(processor: &Process, name: &str) -> u64 {
    processor.metric(name).await.unwrap_or_else(|| panic!("no {name}:\n{}", processor.log()))
}

const RESTARTS: &str = r#"freshet_processor_restarts_total{domain="health"}"#;
pub(super) const REVOKED: &str = r#"freshet_rebalances_total{domain="health",event="revoked"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_fails_again_and_again_leaves_no_thread_behind_and_continues_once_it_can() {
    let world = World::new("fails-again").await;
    let others = world.run(&roles_but(processor_of("health")));
    let processor = world.serve(&["process", "health"]);
    let owned = "SELECT count(*) = 4 AND count(owner) = 4 FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("it has its partitions", owned).await;
    world
        .execute(
            "CREATE FUNCTION test.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
             UPDATE pipeline.bookmarks SET owner_epoch = owner_epoch + 1 WHERE domain = 'health';
             CREATE TRIGGER refuse BEFORE UPDATE OF owner_epoch ON pipeline.bookmarks FOR EACH ROW
                WHEN (OLD.domain = 'health') EXECUTE FUNCTION test.refuse()",
        )
        .await;
    within(FAILS_WITHIN, "it fails, and cannot join again", async || {
        (counted(&processor, RESTARTS).await >= 5).then_some(())
    })
    .await;
    let threads = processor.threads();
    assert_eq!(threads.iter().filter(|name| *name == "coarsetime").count(), 1, "{threads:?}");

    world.execute("DROP TRIGGER refuse ON pipeline.bookmarks").await;
    world.put("health/a.csv", data::health(10, "2025-01-01", 10, 1)).await;
    world.settle().await;
    all_hold_and_nothing_was_missing(&world).await;
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_taken_while_nothing_can_be_written_are_given_back_and_read_again() {
    let world = world_of_small_batches("taken-while-held").await;
    let others = world.run(&roles_but(processor_of("health")));
    let first = world.serve(&["process", "health"]);
    let mut holder = world.services.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE health_data IN SHARE MODE").execute(&mut *holder).await.expect("keep writers out");
    world.put("health/a.csv", data::health(40, "2025-01-01", 100, 1)).await;
    within(FAILS_WITHIN, "it pauses", async || first.log().contains("reading pauses").then_some(())).await;
    let before = counted(&first, REVOKED).await;
    let second = world.spawn(&["process", "health"]);
    within(FAILS_WITHIN, "its partitions are taken", async || (counted(&first, REVOKED).await > before).then_some(()))
        .await;
    holder.rollback().await.expect("the table is free");
    let shared = "SELECT count(*) = 4 AND count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("both have partitions", shared).await;
    // All of them are read again, the first one's too.
    world.put("health/b.csv", data::health(40, "2025-05-01", 100, 2)).await;
    world.settle().await;
    assert_eq!(duplicates(&world).await, 0);
    assert_eq!(counted(&first, RESTARTS).await, 0, "{}", first.log());
    all_hold_and_nothing_was_missing(&world).await;
    for processor in [first, second] {
        assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    }
    others.stop().await;
}
