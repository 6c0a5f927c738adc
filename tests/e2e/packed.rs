//! Rows packed in messages: topics that hold them beside messages of one row, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use freshet_processors::replay;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, data};
use crate::replay::{context, domain, everything};

/// How many messages of the health topic are packed, how many are of one row, and the rows of both.
async fn kinds(world: &World) -> (usize, usize, i64, i64) {
    let records = world.records("health").await;
    let of = |packed: bool| records.values().filter(move |it| it.is_packed == packed && it.rows > 0);
    let rows = |packed| of(packed).map(|it| it.rows).sum();
    (of(true).count(), of(false).count(), rows(true), rows(false))
}

/// A world whose health topic holds both kinds, and a message as version 0.1 wrote it.
async fn mixed(story: &str) -> World {
    let mut world = World::with(story, |config| config.kafka.rows_per_message = 1).await;
    let roles = world.run_all();
    world.put("health/alone.csv", data::health(40, "2025-01-01", 20, 1)).await;
    world.settle().await;
    roles.stop().await;
    world.services.config.kafka.rows_per_message = 200;
    let roles = world.run_all();
    world.put("health/packed.csv", data::health(40, "2025-01-11", 20, 2)).await;
    world.settle().await;
    roles.stop().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_packed_messages_and_messages_of_one_row_is_applied_exactly_once() {
    let mut world = mixed("mixed").await;
    let (packed, alone, packed_rows, alone_rows) = kinds(&world).await;
    assert_eq!((packed_rows, alone_rows, alone), (800, 800, 800));
    // Four partitions, 200 rows or so in each, and no message with more than the setting says.
    assert!((4..=8).contains(&packed), "{packed}");
    let records = world.records("health").await;
    assert!(records.values().all(|it| it.rows <= 200 && it.value.len() <= 40_000));
    // As others who read the topic find them.
    let one = records.values().find(|it| !it.is_packed && it.rows == 1).expect("one");
    assert!(one.key.is_some() && one.headers.keys().eq(["origin"]) && one.value.starts_with("{\""), "{one:?}");
    let many = records.values().find(|it| it.is_packed).expect("one");
    assert!(many.key.is_none() && many.headers.keys().eq(["columns", "pack", "rows"]), "{many:?}");
    // And back, with a file of before sent again.
    world.services.config.kafka.rows_per_message = 1;
    let roles = world.run_all();
    world.put("health/again.csv", data::health(40, "2025-01-21", 20, 3)).await;
    world.put("health/packed.csv", data::health(40, "2025-01-12", 20, 4)).await;
    world.settle().await;
    world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_in_place_and_into_a_shadow_read_both_kinds() {
    let world = mixed("mixed-replay").await;
    let roles = world.run_all();
    world.execute("UPDATE health_data SET dengue_cases = dengue_cases + 1 WHERE location_id % 2 = 0").await;
    world.execute("DELETE FROM health_data WHERE location_id % 5 = 0").await;
    let (progress, seen) = watch::channel(replay::Progress::default());
    let context = context(&world, domain("health"));
    let shutdown = CancellationToken::new();
    let replayed = replay::in_place(&context, &everything(), &progress, &shutdown).await.expect("replayed");
    assert_eq!(replayed.rows_read, 1_600);
    let (packed, alone, ..) = kinds(&world).await;
    let replay::Progress { done, total, rows, .. } = *seen.borrow();
    // The four stream records were read, too.
    assert_eq!((done, total, rows), ((packed + alone + 4) as i64, done, 1_600), "messages, and the rows in them");
    world.settle().await;
    world.all_hold().await;

    // Of one file alone.
    world.execute("DELETE FROM health_data").await;
    let request = replay::Request { objects: vec!["health/packed.csv".into()], ..everything() };
    let replayed = replay::in_place(&context, &request, &progress, &shutdown).await.expect("replayed");
    assert_eq!(replayed.rows_read, 800);
    let request = replay::Request { objects: vec!["health/alone.csv".into()], ..everything() };
    let replayed = replay::in_place(&context, &request, &progress, &shutdown).await.expect("replayed");
    assert_eq!(replayed.rows_read, 800);

    let mut shadow = replay::Shadow::open(&context, &everything()).await.expect("opened");
    let comparison = shadow.compare(&progress, &shutdown).await.expect("compared");
    assert!(comparison.is_same() && comparison.shadow_rows == 1_200, "{comparison:?}");
    shadow.swap(&progress, &shutdown).await.expect("swapped");
    world.settle().await;
    world.all_but_the_tiling_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_sent_again_in_the_other_kind_are_duplicates() {
    let mut world = mixed("mixed-again").await;
    world.services.config.kafka.rows_per_message = 7;
    let roles = world.run_all();
    let mut command = world.spawn(&["republish", "--all", "--yes"]);
    assert_eq!(command.ended(Duration::from_secs(60)).await, Some(0), "{}", command.log());
    world.settle().await;
    let duplicates = "SELECT sum(duplicate) = 1600 FROM pipeline.progress WHERE domain = 'health'";
    world.until("all rows come a second time", duplicates).await;
    world.all_hold().await;
    let sizes: BTreeSet<i64> = world.records("health").await.values().map(|it| it.rows).collect();
    assert!(sizes.contains(&7) && sizes.iter().all(|rows| *rows <= 7 || *rows > 100), "{sizes:?}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_of_a_packed_message_names_its_own_row_and_is_kept_with_the_names_of_its_cells() {
    let world = World::new("packed-rejects").await;
    let roles = world.run_all();
    let file = "location_id,date,dengue_cases\n1,2025-01-01,5\n1,not a date,6\n\n1,2025-01-03,7,beyond\n1,2025-01-04\n";
    world.put("health/a.csv", file).await;
    world.settle().await;
    let rejects: Vec<(i64, i64, i64, String, String)> = sqlx::query_as(
        "SELECT row, line, \"offset\", rule, raw FROM pipeline.rejects WHERE domain = 'health' ORDER BY row",
    )
    .fetch_all(&world.services.pool)
    .await
    .expect("rejects");
    let records = world.records("health").await;
    let (at, packed) = records.iter().find(|(_, it)| it.is_packed).expect("one message");
    assert_eq!(packed.rows, 4, "all rows are of one location, and travel together");
    let expected = [
        (
            1,
            3,
            at.1,
            "uncastable".to_owned(),
            r#"{"location_id":"1","date":"not a date","dengue_cases":"6"}"#.to_owned(),
        ),
        (
            2,
            5,
            at.1,
            "extra_cells".to_owned(),
            r#"{"location_id":"1","date":"2025-01-03","dengue_cases":"7","_extra":["beyond"]}"#.to_owned(),
        ),
    ];
    assert_eq!(rejects, expected);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_message_that_cannot_be_read_is_one_reject_and_its_rows_are_sent_again() {
    let world = World::new("packed-broken").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(40, "2025-01-01", 20, 1)).await;
    world.settle().await;
    let records = world.records("health").await;
    let ((partition, _), packed) = records.iter().find(|(_, it)| it.is_packed).expect("one message");
    // The same, with its last line cut off.
    let kafka = &world.services.config.kafka;
    let producer: FutureProducer = kafka.client_config().create().expect("a producer");
    let topic = format!("{}health", kafka.topic_prefix);
    let header = |headers: OwnedHeaders, (key, value): (&String, &String)| {
        headers.insert(Header { key, value: Some(value.as_str()) })
    };
    let headers = packed.headers.iter().fold(OwnedHeaders::new(), header);
    let cut = packed.value.rsplit_once('\n').expect("lines").0;
    let record = FutureRecord::<(), _>::to(&topic).partition(*partition).payload(cut).headers(headers);
    let sent = producer.send(record, Duration::from_secs(10)).await.expect("written");
    let reject = format!(
        "SELECT count(*) = 1 AND bool_and(object = 0 AND rule = 'malformed_message' AND partition = {partition}
            AND \"offset\" = {} AND value LIKE '{} rows of object % the header `rows` says {}')
         FROM pipeline.rejects",
        sent.offset, packed.rows, packed.rows
    );
    world.until("it is one reject", &reject).await;
    let duplicates: i64 = world.query("SELECT sum(duplicate)::bigint FROM pipeline.progress").await;
    assert_eq!(duplicates, 0, "none of its rows counts");
    roles.stop().await;
}
