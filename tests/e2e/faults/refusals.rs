//! The database refuses rows, Kafka loses them, topics are made again: said clearly, and mended or waited for,
//! never passed over in silence.

use std::collections::HashMap;
use std::time::Duration;

use freshet::commands::bookmarks::adopt;
use freshet::commands::topics;
use freshet::roles::Role;
use freshet_topics::domains;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::harness::{World, data, processor_of, roles_but};

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    AdminClient::from_config(&world.services.config.kafka.client_config()).expect("an admin client")
}

fn topic(world: &World, domain: &str) -> String {
    format!("{}{domain}", world.services.config.kafka.topic_prefix)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_postgres_refuses_is_rejected_and_the_older_good_one_comes_through() {
    let world = World::new("refused").await;
    world.execute("ALTER TABLE health_data ADD CONSTRAINT no_666 CHECK (dengue_cases <> 666)").await;
    let roles = world.run_all();
    let header = "location_id,date,dengue_cases,malaria_cases,is_projected\n";
    let older = format!("{header}1,2025-08-01,1,1,false\n2,2025-08-01,2,2,false\n");
    // Within one file: the refused row hides neither the row before it nor the ones around it.
    let file = format!(
        "{header}3,2025-08-01,3,1,false\n3,2025-08-01,666,2,false\n4,2025-08-01,666,1,false\n\
         5,2025-08-01,5,1,false\n6,2025-08-01,-666,1.5,false\n3,2025-08-01,666,3,false\n"
    );
    world.put("locations/all.csv", data::locations(6)).await;
    world.put("health/older.csv", older).await;
    world.settle().await;
    world.put("health/newer.csv", format!("{header}1,2025-08-01,666,9,false\n2,2025-08-01,20,9,false\n")).await;
    world.put("health/same.csv", file).await;
    world.settle().await;
    world.all_hold_but(|domain, row| domain == "health" && row[2] == "666").await;
    let cases: Vec<String> =
        world.column("SELECT (location_id, dengue_cases)::text FROM health_data ORDER BY location_id").await;
    assert_eq!(cases, ["(1,1)", "(2,20)", "(3,3)", "(5,5)", "(6,0)"]);
    let said: String = world.query("SELECT min(value) FROM pipeline.rejects WHERE rule = 'refused_by_database'").await;
    assert!(said.contains("no_666"), "{said}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_most_rows_halts_its_domain_until_it_is_mended() {
    // A first batch of a few rows is too small to tell: those would be rejected, as bad rows are. So all of them are in
    // Kafka before the first is read, and there is time to read them.
    let world = World::with("refusing", |config| config.process.batch_age_ms_max = 3_000).await;
    // The batch that halts is to have one partition: the stream records of the others are read before.
    let roles = world.run(&[processor_of("health")]);
    let read = "SELECT count(*) = 4 AND bool_and(next_offset > 0) FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("the stream records are read", read).await;
    roles.stop().await;
    world.execute("ALTER TABLE health_data ADD CONSTRAINT nothing_goes CHECK (location_id < 0)").await;
    let listener = world.run(&[Role::Ingest]);
    // Of one location, and so of one partition: its writer has another one, which stays idle.
    world.put("health/all.csv", data::health(1, "2022-01-01", 1_200, 1)).await;
    let published = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE state = 'published')";
    world.until("the file is published", published).await;
    let others = world.run(&roles_but(Role::Ingest));
    let halted = "SELECT count(*) = 1 AND bool_and(halted LIKE '%refuses%nothing_goes%') FROM pipeline.bookmarks
        WHERE domain = 'health' AND halted IS NOT NULL";
    world.until("the partition is halted", halted).await;
    let (rejects, received) = ("SELECT count(*) FROM pipeline.rejects", "SELECT count(*) FROM pipeline.progress");
    assert_eq!(
        (world.query::<i64>(rejects).await, world.query::<i64>(received).await),
        (0, 0),
        "rows were passed over"
    );
    // The other domains go on.
    world.put("hospital/all.csv", data::hospital(2, "2025-08-01", 5, 1)).await;
    let hospital = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE domain = 'hospital' AND state = 'applied')";
    world.until("hospital goes on", hospital).await;
    world.execute("ALTER TABLE health_data DROP CONSTRAINT nothing_goes").await;
    world.settle().await;
    world.all_hold().await;
    let halted: i64 = world.query("SELECT count(*) FROM pipeline.bookmarks WHERE halted IS NOT NULL").await;
    assert_eq!(halted, 0, "nor is an idle partition");
    others.stop().await;
    listener.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_the_group_reset_in_kafka_change_nothing() {
    let world = World::new("offsets").await;
    let roles = world.run_all();
    world.put("health/first.csv", data::health(4, "2025-08-01", 20, 1)).await;
    world.settle().await;
    roles.stop().await;
    for offset in [Offset::Offset(0), Offset::Offset(1_000_000)] {
        let group = format!("{}health", world.services.config.kafka.group_prefix);
        let mut config = world.services.config.kafka.client_config();
        config.set("group.id", &group).set("enable.auto.commit", "false");
        let name = topic(&world, "health");
        let reset = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().expect("a consumer");
            let mut offsets = TopicPartitionList::new();
            for partition in 0..4 {
                offsets.add_partition_offset(&name, partition, offset).expect("an offset");
            }
            consumer.commit(&offsets, CommitMode::Sync).expect("reset the offsets of the group");
            let committed = consumer.committed_offsets(offsets, Duration::from_secs(10)).expect("ask");
            assert!(committed.elements().iter().all(|element| element.offset() == offset));
        });
        reset.await.expect("the offsets are reset");
        let roles = world.run_all();
        world
            .put("health/next.csv", data::health(4, "2025-09-01", 20, offset.to_raw().unwrap_or(0) as i32 % 1_000 + 2))
            .await;
        world.settle().await;
        let duplicates: i64 = world.query("SELECT sum(duplicate)::bigint FROM pipeline.progress").await;
        assert_eq!(duplicates, 0, "records were read again after {offset:?}");
        world.all_hold().await;
        roles.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_halts_its_domain_and_nothing_else() {
    let world = World::new("remade").await;
    let roles = world.run_all();
    world.put("health/first.csv", data::health(4, "2025-08-01", 20, 1)).await;
    world.put("hospital/first.csv", data::hospital(4, "2025-08-01", 20, 1)).await;
    world.settle().await;
    roles.stop().await;
    admin(&world).delete_topics(&[&topic(&world, "health")], &AdminOptions::new()).await.expect("delete the topic");
    for attempt in 0.. {
        // Kafka deletes in its own time.
        let reports = topics::ensure_all(&world.services.config, &HashMap::new()).await;
        if reports.is_ok_and(|reports| reports.iter().any(|report| report.created)) {
            break;
        }
        assert!(attempt < 100, "the topic was not made again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before: String = world.query("SELECT (count(*), max(src_ord))::text FROM health_data").await;
    let roles = world.run_all();
    world.put("health/second.csv", data::health(4, "2025-09-01", 20, 2)).await;
    let halted =
        "SELECT bool_and(halted LIKE '%the topic was recreated%') FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("health is halted", halted).await;
    world.put("hospital/second.csv", data::hospital(4, "2025-09-01", 20, 2)).await;
    let hospital =
        "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'hospital/second.csv' AND state = 'applied')";
    world.until("hospital goes on", hospital).await;
    assert_eq!(world.query::<String>("SELECT (count(*), max(src_ord))::text FROM health_data").await, before);
    assert_ne!(world.object("health/second.csv").await.state, "applied");
    assert!(
        world.query::<bool>("SELECT bool_and(halted IS NULL) FROM pipeline.bookmarks WHERE domain <> 'health'").await
    );
    world.bookmarks_tile().await;

    // The way out: the topic is accepted as it is now, and what was not applied is published to it.
    let health = domains::by_name("health").expect("a domain");
    for yes in [false, true] {
        adopt::run(&world.services, health, yes).await.expect("adopt");
        let halted = "SELECT count(*) FROM pipeline.bookmarks WHERE domain = 'health' AND halted IS NOT NULL";
        assert_eq!(world.query::<i64>(halted).await == 0, yes);
    }
    world.settle().await;
    assert_eq!(world.object("health/second.csv").await.state, "applied");
    let rows: i64 = world.query("SELECT count(*) FROM health_data").await;
    assert_eq!(rows, 160, "each row of both files once");
    roles.stop().await;

    // A log that lost what was applied.
    world.execute("UPDATE pipeline.bookmarks SET next_offset = next_offset + 1000 WHERE domain = 'hospital' AND partition = 2").await;
    let roles = world.run_all();
    let beyond = "SELECT count(*) = 1 FROM pipeline.bookmarks
        WHERE (domain, partition) = ('hospital', 2) AND halted LIKE '%beyond the log''s end%'";
    world.until("the partition is halted", beyond).await;
    let others = "SELECT bool_and(halted IS NULL) FROM pipeline.bookmarks WHERE domain = 'hospital' AND partition <> 2";
    assert!(world.query::<bool>(others).await);
    let kept: i64 =
        world.query("SELECT next_offset FROM pipeline.bookmarks WHERE (domain, partition) = ('hospital', 2)").await;
    assert!(kept > 1000, "the bookmark is never reset");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_kafka_lost_are_published_again() {
    let world = World::new("lost").await;
    let listener = world.run(&[Role::Ingest]);
    world.put("health/all.csv", data::health(12, "2025-07-01", 30, 1)).await;
    let published = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE state = 'published')";
    world.until("the file is published", published).await;
    listener.stop().await;
    let rows: Vec<i64> = world.query("SELECT partition_rows FROM pipeline.objects").await;
    let (lost, lost_rows) = rows.iter().copied().enumerate().max_by_key(|(_, rows)| *rows).expect("partitions");
    // Nobody has read a row of it.
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(&topic(&world, "health"), lost as i32, Offset::End).expect("a partition");
    admin(&world).delete_records(&until, &AdminOptions::new()).await.expect("delete records");

    let processor = world.run(&[processor_of("health")]);
    let rest = "SELECT count(*) = 3 AND sum(test.length(received)) > 0 FROM pipeline.progress";
    world.until("what is left is applied", rest).await;
    let applied: i64 = world.query("SELECT sum(applied)::bigint FROM pipeline.progress").await;
    assert_eq!(applied, 360 - lost_rows);
    assert_eq!(world.object("health/all.csv").await.state, "published", "without a listener nothing is repaired");
    processor.stop().await;

    let roles = world.run_all();
    world.settle().await;
    let object = world.object("health/all.csv").await;
    assert_eq!((object.state.as_str(), object.repairs, object.generation), ("applied", 1, 1), "{object:?}");
    let duplicates: i64 = world.query("SELECT sum(duplicate)::bigint FROM pipeline.progress").await;
    assert_eq!(duplicates, 360 - lost_rows, "what was there is a duplicate, counted");
    world.all_hold().await;
    roles.stop().await;
}
