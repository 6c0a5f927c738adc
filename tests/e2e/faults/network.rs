//! The network between a listener and the broker loses acknowledgements, holds them back, and is cut.

use std::time::Duration;

use freshet::roles::Role;

use super::{all_hold_and_nothing_was_missing, duplicates, rows_in_topic};
use crate::harness::tcp::Swallowed;
use crate::harness::{OwnStack, SETTLED_WITHIN, World, data, roles_but};

/// Long enough for some chunks to be on their way.
const TROUBLE: Duration = Duration::from_secs(3);
const ROWS: i64 = 12_000;

/// A file of which some chunks are published within a second, and all within eight: later than any trouble begins.
async fn drop_file(world: &World, number: u32) {
    world.put(&format!("health/{number}.csv"), data::health(40, &format!("20{number:02}-01-01"), 300, 1)).await;
}

async fn until_under_way(world: &World, number: u32) {
    let under_way = format!(
        "SELECT coalesce(max(resume_row), 0) BETWEEN 1 AND {ROWS} - 1 FROM pipeline.objects
         WHERE key = 'health/{number}.csv' AND state = 'publishing'"
    );
    world.until("the file is under way", &under_way).await;
}

async fn until_published(world: &World, number: u32) {
    let published = format!(
        "SELECT count(*) = 1 FROM pipeline.objects WHERE key = 'health/{number}.csv' AND state IN ('published', 'applied')"
    );
    world.until_within(SETTLED_WITHIN, "the file is published", &published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_are_late_lost_or_never_asked_for_lose_and_double_no_row() {
    let mut stack = OwnStack::start("network").await;
    let network = stack.kafka_behind_a_proxy().await;
    let world = stack
        .world(|config| {
            config.ingest.chunk_bytes = 16_384;
            config.ingest.rows_per_second = 1_500;
            // Far longer than any trouble here: a listener that loses its lease sends a chunk again, and rightly.
            config.ingest.lease_ms = 12_000;
            config.ingest.workers = 1;
        })
        .await;
    let others = world.run(&roles_but(Role::Ingest));
    let through_proxy = [("FRESHET__KAFKA__BROKERS", network.address.clone())];
    let listener = world.spawn_with(&["ingest"], &through_proxy);

    drop_file(&world, 20).await;
    until_under_way(&world, 20).await;
    network.delay(Duration::from_millis(300));
    tokio::time::sleep(TROUBLE).await;
    network.heal();
    until_published(&world, 20).await;

    // The broker has the rows and the listener does not know: the producer asks again under the same sequence numbers,
    // by which the broker knows them. So it is with requests that never arrive.
    for (number, lost) in [(21, Swallowed::Answers), (22, Swallowed::Requests)] {
        drop_file(&world, number).await;
        until_under_way(&world, number).await;
        network.swallow(lost);
        tokio::time::sleep(TROUBLE).await;
        network.heal();
        until_published(&world, number).await;
    }
    drop_file(&world, 23).await;
    until_under_way(&world, 23).await;
    for _ in 0..10 {
        network.cut();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_published(&world, 23).await;
    world.settle().await;
    assert_eq!(rows_in_topic(&world, "health").await, 4 * ROWS, "one producer writes no row twice");
    assert_eq!(duplicates(&world).await, 0);

    // Beyond that: it dies before it hears, and another process sends the chunk under numbers of its own.
    drop_file(&world, 24).await;
    until_under_way(&world, 24).await;
    network.swallow(Swallowed::Answers);
    tokio::time::sleep(TROUBLE).await;
    listener.kill();
    network.heal();
    let listener = world.spawn_with(&["ingest"], &through_proxy);
    world.settle().await;
    let (rows, twice) = (rows_in_topic(&world, "health").await, duplicates(&world).await);
    println!("{rows} rows in the topic, {twice} of them duplicates");
    assert!(twice > 0, "a chunk whose acknowledgement was lost was sent again");
    assert_eq!(rows, 5 * ROWS + twice);
    all_hold_and_nothing_was_missing(&world).await;
    assert_eq!(listener.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}
