//! Bookmarks are shown and set by hand, and nothing is lost or counted twice.

use std::time::Duration;

use freshet::roles::Role;

use crate::harness::{World, data};

async fn run(world: &World, line: &str) -> (Option<i32>, String) {
    let mut command = world.spawn(&line.split(' ').collect::<Vec<_>>());
    let code = command.ended(Duration::from_secs(60)).await;
    (code, command.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_postgres_and_kafka_side_by_side() {
    let world = World::new("list").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(12, "2025-06-01", 20, 5)).await;
    world.settle().await;
    roles.stop().await;
    let (code, said) = run(&world, "bookmarks list health --json").await;
    assert_eq!(code, Some(0), "{said}");
    let lines: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let lines = lines.as_array().expect("a list");
    assert_eq!(lines.len(), 4);
    let bookmarks: Vec<i64> =
        world.column("SELECT next_offset FROM pipeline.bookmarks WHERE domain = 'health' ORDER BY partition").await;
    for (line, bookmark) in lines.iter().zip(bookmarks) {
        assert_eq!(line["bookmark"], bookmark);
        assert_eq!(line["log_end"], bookmark, "all is applied");
        assert_eq!(line["committed"], bookmark, "Kafka's commit follows");
        assert_eq!(line["log_start"], 0);
    }
    let (code, said) = run(&world, "bookmarks list").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("committed") && said.contains("hospital"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn set_back_rows_are_duplicates_and_set_forward_they_are_sent_again() {
    let world = World::new("set").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(12)).await;
    world.put("health/a.csv", data::health(12, "2025-06-01", 20, 5)).await;
    world.settle().await;
    let (code, said) = run(&world, "bookmarks set health --to beginning").await;
    assert_eq!(code, Some(1), "it asks first: {said}");
    assert!(said.contains("records are read again") && said.contains("add --yes"), "{said}");
    world.all_hold().await;
    let (code, said) = run(&world, "bookmarks set health --to beginning --yes").await;
    assert_eq!(code, Some(0), "{said}");
    let again = "SELECT sum(duplicate)::bigint = 240 FROM pipeline.progress WHERE domain = 'health'";
    world.until("every row has come again, as a duplicate", again).await;
    world.put("health/b.csv", data::health(12, "2025-07-01", 20, 5)).await;
    world.settle().await;
    roles.stop().await;

    // Rows that are passed over come again, because their file is not complete.
    let listener = world.run(&[Role::Ingest, Role::Metrics]);
    world.put("health/c.csv", data::health(12, "2025-08-01", 20, 5)).await;
    let published = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/c.csv' AND state = 'published')";
    world.until("the file is published", published).await;
    let (code, said) = run(&world, "bookmarks set health --partition 0 --partition 1 --to end --yes").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("skipped"), "{said}");
    listener.stop().await;
    let roles = world.run_all();
    world.settle().await;
    assert_eq!(world.object("health/c.csv").await.repairs, 1);
    world.tables_are_a_batch_load(|_, _| false).await;
    world.outputs_follow_the_tables().await;
    for bad in ["--partition 9 --to end", "--to 99999999", "--to nowhere"] {
        let (code, said) = run(&world, &format!("bookmarks set health {bad} --yes")).await;
        assert!(matches!(code, Some(1 | 2)), "{bad}: {said}");
    }
    roles.stop().await;
}
