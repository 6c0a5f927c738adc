//! Topics as they come: made by hand, grown while everything runs, cut short by retention, begun by rows. A halt always
//! names a command, and that command ends it.

use std::collections::HashMap;
use std::time::Duration;

use freshet::commands::bookmarks::adopt;
use freshet::commands::topics;
use freshet::roles::Role;
use freshet_topics::domains;
use freshet_topics::log::LogClient;
use freshet_topics::stream::FirstRecord;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::harness::http::within;
use crate::harness::{World, data, roles_but};

const NO_ROW_IS_A_REJECT: &str = "SELECT count(*) FROM pipeline.rejects";
const TRUNCATED: &str = r#"freshet_log_truncated_partitions{domain="health"}"#;

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    AdminClient::from_config(&world.services.config.kafka.client_config()).expect("an admin client")
}

fn topic(world: &World, domain: &str) -> String {
    format!("{}{domain}", world.services.config.kafka.topic_prefix)
}

async fn run(world: &World, line: &str) -> (Option<i32>, String) {
    let mut command = world.spawn(&line.split(' ').collect::<Vec<_>>());
    let code = command.ended(Duration::from_secs(60)).await;
    (code, command.log())
}

/// What each partition of a topic begins with.
async fn beginnings(world: &World, domain: &str) -> Vec<FirstRecord> {
    let topic = topic(world, domain);
    let log = LogClient::new(&world.services.config.kafka);
    let read = log.ask(move |reader| {
        let partitions: Vec<i32> = reader.ends(&topic)?.into_keys().collect();
        reader.beginnings(&topic, &partitions)
    });
    read.await.expect("read the beginnings").into_values().map(|partition| partition.first).collect()
}

/// Replaces a domain's topic by one that is as Kafka's own tool makes it: empty.
async fn make_again_by_hand(world: &World, domain: &str, partitions: i32) {
    let topic = topic(world, domain);
    let options = AdminOptions::new();
    admin(world).delete_topics(&[&topic], &options).await.expect("delete the topic");
    for attempt in 0.. {
        // Kafka deletes in its own time.
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let made = admin(world).create_topics([&new], &options).await.expect("ask for the topic");
        if made[0].is_ok() {
            break;
        }
        assert!(attempt < 100, "the topic was not made again: {made:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes a row to a partition that nothing was written to, as a listener of version 0.1 might.
async fn write_row(world: &World, domain: &str, partition: i32) {
    let producer: FutureProducer = world.services.config.kafka.client_config().create().expect("a producer");
    let headers = OwnedHeaders::new().insert(Header { key: "origin", value: Some("999999,1,0,2,1,0,1") });
    let (topic, row) = (topic(world, domain), r#"{"location_id":"1","date":"not a date"}"#);
    let record = FutureRecord::<(), _>::to(&topic).partition(partition).payload(row).headers(headers);
    producer.send(record, Duration::from_secs(10)).await.expect("write the row");
}

async fn delete_all_records(world: &World, domain: &str) {
    let partitions = beginnings(world, domain).await.len() as i32;
    let mut until = TopicPartitionList::new();
    for partition in 0..partitions {
        until.add_partition_offset(&topic(world, domain), partition, Offset::End).expect("a partition");
    }
    admin(world).delete_records(&until, &AdminOptions::new()).await.expect("delete records");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_beside_a_waiting_listener_begins_with_its_stream_records_in_every_partition() {
    let world = World::new("beside").await;
    make_again_by_hand(&world, "health", 12).await;
    let roles = world.run_all();
    for file in 0..8 {
        world.put(&format!("health/{file}.csv"), data::health(40, "2025-03-01", 10, file)).await;
    }
    let waits = "SELECT count(*) = 8 FROM pipeline.objects WHERE domain = 'health' AND state = 'discovered'";
    world.until("the files wait for their topic", waits).await;
    // As often as a nervous person would, and from several machines at once.
    for _ in 0..3 {
        let (config, known) = (&world.services.config, HashMap::new());
        let each = (0..4).map(|_| topics::ensure_all(config, &known));
        for reports in futures::future::join_all(each).await {
            reports.expect("the topics are created");
        }
    }
    world.settle().await;
    let begun = beginnings(&world, "health").await;
    assert_eq!(begun.len(), 12);
    assert!(matches!(begun[0], FirstRecord::Stream(_)) && begun.iter().all(|it| *it == begun[0]), "{begun:?}");
    let (code, said) = run(&world, "topics create").await;
    assert!(said.contains("health: exists, but partitions is 12"), "{said}");
    assert!(code == Some(1) && !said.contains("stream record"), "only the count differs: {said}");
    roles.stop().await;
    // Whoever starts again finds nothing to halt for.
    let roles = world.run_all();
    world.put("health/last.csv", data::health(40, "2025-04-01", 10, 9)).await;
    world.settle().await;
    // Of those that made it at once, two may have written a stream record to the same partition.
    world.all_but_the_tiling_hold().await;
    let halted: i64 = world.query("SELECT count(*) FROM pipeline.bookmarks WHERE halted IS NOT NULL").await;
    assert_eq!((halted, world.query::<i64>(NO_ROW_IS_A_REJECT).await), (0, 0));
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_with_kafkas_tool_while_all_runs_get_their_stream_records_and_then_rows() {
    let world = World::new("added").await;
    let roles = world.run_all();
    world.put("health/before.csv", data::health(40, "2025-03-01", 10, 1)).await;
    world.settle().await;
    let name = topic(&world, "health");
    let grown = NewPartitions::new(&name, 7);
    let made = admin(&world).create_partitions([&grown], &AdminOptions::new()).await.expect("ask for partitions");
    assert!(made[0].is_ok(), "{made:?}");
    // No role is restarted, and nobody runs a command. Files come all the while.
    let mut file = 0;
    let flows = "SELECT count(*) = 7 FROM pipeline.bookmarks WHERE domain = 'health' AND next_offset > 1";
    let begun = std::time::Instant::now();
    while !world.query::<bool>(flows).await {
        assert!(begun.elapsed() < Duration::from_secs(40), "no rows in the added partitions");
        file += 1;
        world.put(&format!("health/while-{file}.csv"), data::health(40, "2025-03-11", 3, 10 + file)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("rows in the added partitions after {:?}", begun.elapsed());
    world.settle().await;
    let begun = beginnings(&world, "health").await;
    assert_eq!(begun.len(), 7);
    assert!(matches!(begun[0], FirstRecord::Stream(_)) && begun.iter().all(|it| *it == begun[0]), "{begun:?}");
    let failures: i64 = world.query("SELECT coalesce(max(attempts), 0)::bigint FROM pipeline.objects").await;
    assert_eq!(failures, 0, "an attempt to publish failed on a partition that the producer did not know");
    roles.stop().await;
    let roles = world.run_all();
    world.put("health/after.csv", data::health(40, "2025-05-01", 10, 99)).await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_past_the_bookmark_halts_and_the_command_that_the_halt_names_ends_it() {
    let world = World::new("retention").await;
    // Bookmarks at the stream records.
    let roles = world.run_all();
    world
        .until(
            "partitions are assigned",
            "SELECT count(*) = 4 FROM pipeline.bookmarks WHERE domain = 'health' AND next_offset = 1",
        )
        .await;
    roles.stop().await;
    let listener = world.run(&[Role::Ingest]);
    world.put("health/all.csv", data::health(40, "2025-03-01", 10, 1)).await;
    let published = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE state = 'published')";
    world.until("the file is published", published).await;
    listener.stop().await;
    delete_all_records(&world, "health").await;
    assert_eq!(beginnings(&world, "health").await, [FirstRecord::Removed; 4]);

    let roles = world.run_all();
    let halted = "SELECT count(*) = 4 FROM pipeline.bookmarks
        WHERE domain = 'health' AND halted LIKE '%retention removed%freshet bookmarks adopt health%'";
    world.until("all partitions are halted", halted).await;
    // Nothing that is run now looks as if all were well.
    let (code, said) = run(&world, "topics create").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("partitions 0, 1, 2, 3 are halted") && said.contains("freshet bookmarks adopt health"),
        "{said}"
    );
    for line in ["republish --all --yes", "replay health --from beginning --yes"] {
        let (_, said) = run(&world, line).await;
        assert!(said.contains("are halted") && said.contains("freshet bookmarks adopt health"), "{line}: {said}");
    }
    let (code, said) = run(&world, "bookmarks adopt health --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.settle().await;
    assert_eq!(world.object("health/all.csv").await.state, "applied");
    let loaded = world.tables_are_a_batch_load(|_, _| false).await;
    world.every_row_is_accounted_for(&loaded).await;
    world.outputs_follow_the_tables().await;
    let halted: i64 = world.query("SELECT count(*) FROM pipeline.bookmarks WHERE halted IS NOT NULL").await;
    assert_eq!(halted, 0);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_the_place_of_stream_records_are_adopted_and_stay_so() {
    let world = World::new("rowfirst").await;
    // Partition 0 has its stream record, partitions 1 and 2 begin with rows, partition 3 is empty.
    make_again_by_hand(&world, "health", 4).await;
    for partition in [1, 2] {
        write_row(&world, "health", partition).await;
    }
    let (code, said) = run(&world, "topics create").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("partition 1 begins with a row") && said.contains("freshet bookmarks adopt health"),
        "{said}"
    );
    let roles = world.run_all();
    world.put("health/all.csv", data::health(40, "2025-03-01", 10, 1)).await;
    let halted = "SELECT count(*) = 2 FROM pipeline.bookmarks
        WHERE domain = 'health' AND halted LIKE '%begins with a row%freshet bookmarks adopt health%'";
    world.until("partitions 1 and 2 are halted", halted).await;
    // The listing may come after that.
    world.until("the file is found", "SELECT count(*) = 1 FROM pipeline.objects WHERE key = 'health/all.csv'").await;
    assert_eq!(world.object("health/all.csv").await.state, "discovered", "nothing is published until it is adopted");
    let (code, said) = run(&world, "bookmarks adopt health --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.settle().await;
    roles.stop().await;
    // Accepted once, accepted for good: nobody halts or closes at the next start.
    let (code, said) = run(&world, "topics create").await;
    assert_eq!(code, Some(0), "{said}");
    let roles = world.run_all();
    world.put("health/more.csv", data::health(40, "2025-04-01", 10, 2)).await;
    world.settle().await;
    let rows: i64 = world.query("SELECT count(*) FROM health_data").await;
    assert_eq!(rows, 800, "each row of both files once");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.bookmarks WHERE halted IS NOT NULL").await, 0);
    world.outputs_follow_the_tables().await;
    roles.stop().await;

    // Without a single stream record, and not one that Postgres knows in it, there is a way out, too.
    make_again_by_hand(&world, "hospital", 2).await;
    for partition in [0, 1] {
        write_row(&world, "hospital", partition).await;
    }
    let hospital = domains::by_name("hospital").expect("a domain");
    adopt::run(&world.services, hospital, true).await.expect("adopt");
    let roles = world.run_all();
    world.put("hospital/all.csv", data::hospital(4, "2025-08-01", 20, 1)).await;
    world.settle().await;
    assert_eq!(world.object("hospital/all.csv").await.state, "applied");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_measured_told_and_gone_on_with() {
    let world = World::new("shorter").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(40, "2025-03-01", 10, 1)).await;
    world.settle().await;
    roles.stop().await;
    // As if the log had been longer: the bookmark lies beyond its end.
    world
        .execute(
            "UPDATE pipeline.bookmarks SET next_offset = next_offset + 300 WHERE domain = 'health' AND partition = 2",
        )
        .await;
    let roles = world.run(&roles_but(Role::Ingest));
    let listener = world.serve(&["ingest"]);
    let halted = "SELECT count(*) = 1 FROM pipeline.bookmarks
        WHERE (domain, partition) = ('health', 2) AND halted LIKE '%--partition 2 --to end%'";
    world.until("the partition is halted", halted).await;
    let told = async || (listener.metric(TRUNCATED).await == Some(1)).then_some(());
    within(Duration::from_secs(40), "it is told that the log is shorter", told).await;
    let (code, said) = run(&world, "bookmarks set health --partition 2 --to end --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.put("health/b.csv", data::health(40, "2025-04-01", 10, 2)).await;
    world.settle().await;
    world.tables_are_a_batch_load(|_, _| false).await;
    world.outputs_follow_the_tables().await;
    assert_eq!(listener.terminate(Duration::from_secs(30)).await, Some(0));
    roles.stop().await;
}
