//! A listener that dies or is frozen in the middle of a file.

use std::time::Duration;

use freshet::roles::Role;
use freshet_topics::failpoint::Point;

use super::{AT_ITS_POINT_WITHIN, all_hold_and_nothing_was_missing, duplicates, rows_in_topic};
use crate::harness::{World, data, roles_but};

const LEASE_MS: u64 = 1_500;
/// Locations, and days of each file: several chunks, whatever pieces S3 sends it in.
const SIZE: (i32, u64) = (40, 300);
const ROWS: i64 = 12_000;

/// Of a chunk: a file is several, wherever S3 divides it.
const SMALL_BYTES: usize = 8_192;
/// Of a chunk: a file is one.
const LARGE_BYTES: usize = 2 << 20;

/// A world whose listeners publish a file in chunks of this size, one file at a time.
async fn world_of_chunks(story: &str, bytes: usize) -> World {
    World::with(story, |config| {
        config.ingest.chunk_bytes = bytes;
        config.ingest.lease_ms = LEASE_MS;
        config.ingest.workers = 1;
    })
    .await
}

/// A listener dies at a point of its first file, and another one ends its work.
async fn a_listener_killed(world: World, point: Point, action: &str, as_it_was_left: impl AsyncFnOnce(&World)) {
    world.put("health/a.csv", data::health(SIZE.0, "2025-01-01", SIZE.1, 1)).await;
    let doomed = world.spawn_failing(&["ingest"], point, action);
    doomed.killed(AT_ITS_POINT_WITHIN).await;
    assert_eq!(world.object("health/a.csv").await.state, "publishing");
    as_it_was_left(&world).await;

    let roles = world.run_all();
    world.put("health/b.csv", data::health(SIZE.0, "2026-05-01", SIZE.1, 2)).await;
    world.settle().await;
    // What is more than once in the topic was counted as that, and as nothing else.
    let (rows, twice) = (rows_in_topic(&world, "health").await, duplicates(&world).await);
    println!("{rows} rows in the topic, {twice} of them duplicates");
    assert_eq!(rows, 2 * ROWS + twice);
    assert_eq!(twice > 0, point != Point::Claimed, "rows were sent twice: {twice}");
    all_hold_and_nothing_was_missing(&world).await;
    roles.stop().await;
}

/// The row that the next listener goes on at.
async fn resume_row(world: &World) -> i64 {
    world.query("SELECT coalesce(max(resume_row), 0)::bigint FROM pipeline.objects").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_killed_after_its_claim_leaves_the_file_to_the_next() {
    let world = world_of_chunks("killed-claimed", SMALL_BYTES).await;
    a_listener_killed(world, Point::Claimed, "return(kill)", async |world| {
        assert_eq!(rows_in_topic(world, "health").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_killed_in_the_middle_of_a_chunk_loses_and_doubles_no_row() {
    // Of one chunk, so that no chunk ends where it dies. Slow enough for rows to have left the producer's queue.
    let world = world_of_chunks("killed-chunk", LARGE_BYTES).await;
    let action = "6000*off->60*sleep(100)->return(kill)";
    a_listener_killed(world, Point::RowSent, action, async |world| {
        let (sent, known) = (rows_in_topic(world, "health").await, resume_row(world).await);
        println!("{sent} rows were sent, {known} of them known to the ledger");
        assert!(known == 0 && 0 < sent && sent < ROWS, "in the middle of a chunk: {known} of {sent}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_killed_between_the_acknowledgement_and_the_ledger_loses_and_doubles_no_row() {
    let world = world_of_chunks("killed-acknowledged", SMALL_BYTES).await;
    a_listener_killed(world, Point::ChunkAcknowledged, "1*off->return(kill)", async |world| {
        let (sent, known) = (rows_in_topic(world, "health").await, resume_row(world).await);
        println!("{sent} rows were sent, {known} of them known to the ledger");
        assert!(0 < known && known < sent, "the ledger is one chunk behind: {known} of {sent}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_frozen_past_its_lease_writes_nothing_to_the_ledger_when_it_thaws() {
    let world = world_of_chunks("frozen-listener", SMALL_BYTES).await;
    let others = world.run(&roles_but(Role::Ingest));
    world.put("health/a.csv", data::health(SIZE.0, "2025-01-01", SIZE.1, 1)).await;
    // Between the acknowledgement of a chunk and the checkpoint: what it does first when it thaws is to write.
    let frozen = world.spawn_failing(&["ingest"], Point::ChunkAcknowledged, "1*off->1*return(stop)");
    frozen.stopped(AT_ITS_POINT_WITHIN).await;
    let before = resume_row(&world).await;
    assert!(before > 0, "it had come some way");

    let well = world.spawn(&["ingest"]);
    world.settle().await;
    let ledger = "SELECT o::text FROM pipeline.objects o WHERE key = 'health/a.csv'";
    let taken_over: String = world.query(ledger).await;
    let epoch: i64 = world.query("SELECT max(lease_epoch) FROM pipeline.objects").await;
    assert!(epoch >= 2, "another one has taken the file over");
    assert_eq!(well.terminate(Duration::from_secs(30)).await, Some(0));

    frozen.signal("CONT");
    // It is over with the first file once it has published another.
    world.put("health/b.csv", data::health(SIZE.0, "2026-05-01", SIZE.1, 2)).await;
    world.settle().await;
    assert_eq!(world.query::<String>(ledger).await, taken_over, "the ledger is as the other one left it");
    assert_eq!(rows_in_topic(&world, "health").await, 2 * ROWS + duplicates(&world).await);
    all_hold_and_nothing_was_missing(&world).await;
    assert_eq!(frozen.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}
