//! Somebody else writes to a topic: what is no row of freshet's is told from a bad row of a file.

use std::time::Duration;

use futures::future::join_all;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::harness::{World, data};

const PARTITION: i32 = 1;
const RECORDS: usize = 500;

/// Writes bytes that are no messages to one partition of the health topic.
async fn write_rubbish(world: &World) {
    let kafka = &world.services.config.kafka;
    let producer: FutureProducer = kafka.client_config().create().expect("a producer");
    let topic = format!("{}health", kafka.topic_prefix);
    let written = (0..RECORDS).map(|number| {
        let (producer, topic) = (producer.clone(), &topic);
        async move {
            let bytes = [0, 0xff, 0xfe, number as u8];
            let record = FutureRecord::<(), [u8]>::to(topic).partition(PARTITION).payload(&bytes[..]);
            producer.send(record, Duration::from_secs(10)).await.expect("written");
        }
    });
    join_all(written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_no_record_can_be_read_halts_its_partition_until_a_person_has_decided() {
    // All of it in one batch, since some few are rejected one by one, as bad rows are: it is there when the processor
    // begins, and a batch that begins then has time for all of it.
    let world = World::with("rubbish", |config| config.process.batch_age_ms_max = 3_000).await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(40, "2025-01-01", 10, 1)).await;
    world.settle().await;
    let bookmark =
        format!("SELECT next_offset FROM pipeline.bookmarks WHERE (domain, partition) = ('health', {PARTITION})");
    let before: i64 = world.query(&bookmark).await;
    roles.stop().await;
    write_rubbish(&world).await;
    let roles = world.run_all();
    let halted = format!(
        "SELECT count(*) = 1 AND bool_and(partition = {PARTITION} AND halted LIKE '%{RECORDS} records from offset {before} on%')
         FROM pipeline.bookmarks WHERE halted IS NOT NULL"
    );
    world.until("the partition is halted", &halted).await;
    assert_eq!(world.query::<i64>(&bookmark).await, before, "the bookmark stays before them");

    // Told to read them again, it does, and halts again.
    let epoch =
        format!("SELECT owner_epoch FROM pipeline.bookmarks WHERE (domain, partition) = ('health', {PARTITION})");
    let epoch_before: i64 = world.query(&epoch).await;
    let (partition, to) = (PARTITION.to_string(), before.to_string());
    let again = ["bookmarks", "set", "health", "--partition", &partition, "--to", &to, "--yes"];
    let mut again = world.spawn(&again);
    assert_eq!(again.ended(Duration::from_secs(60)).await, Some(0), "{}", again.log());
    assert!(again.log().contains("will try again"), "{}", again.log());
    assert!(world.query::<i64>(&epoch).await > epoch_before, "its owner has to take it again");
    world.until("the partition is halted again", &halted).await;

    // The others go on, also with processors that start anew.
    roles.stop().await;
    let roles = world.run_all();
    world.put("health/b.csv", data::health(40, "2025-03-01", 10, 2)).await;
    let others_go_on = format!(
        "SELECT sum(p.received_rows) = sum(p.all_rows) FROM (
            SELECT coalesce(test.length(g.received), 0) AS received_rows, o.partition_rows[n.partition + 1] AS all_rows
            FROM pipeline.objects o CROSS JOIN generate_series(0, 3) AS n (partition)
            LEFT JOIN pipeline.progress g ON g.object = o.id AND g.partition = n.partition
            WHERE o.key = 'health/b.csv' AND o.state = 'published' AND n.partition <> {PARTITION}) AS p"
    );
    world.until("the other partitions go on", &others_go_on).await;
    assert!(world.query::<bool>(&halted).await, "it stays halted for a processor that starts anew");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 0, "nothing was rejected");

    // The command that the halt names, as it is written there.
    let reason: String = world.query("SELECT halted FROM pipeline.bookmarks WHERE halted IS NOT NULL").await;
    let command = reason.split_once("`freshet ").and_then(|(_, it)| it.split('`').next()).expect("a command");
    let mut command = world.spawn(&format!("{command} --yes").split(' ').collect::<Vec<_>>());
    assert_eq!(command.ended(Duration::from_secs(60)).await, Some(0), "{}", command.log());
    world.all_but_the_tiling_hold().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 0, "nothing was rejected");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.bookmarks WHERE halted IS NOT NULL").await, 0);
    roles.stop().await;
}
