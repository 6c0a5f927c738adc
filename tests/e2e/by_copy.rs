//! Rows of new keys are written by COPY, and whatever it cannot write by the upsert, with the same result.

use std::time::Duration;

use freshet_sinks::apply::copy;
use freshet_sinks::destination::Destination;

use crate::harness::{Process, World, data, processor_of, roles_but};
use crate::replay::domain;

const DRAINS_WITHIN: Duration = Duration::from_secs(30);

/// Rows that COPY has written in a process of its own, which counts for this story alone.
async fn copied(processor: &Process, domain: &str) -> u64 {
    processor.metric(&format!("freshet_rows_copied_total{{domain=\"{domain}\"}}")).await.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rows_are_copied_and_overwritten_ones_upserted_with_the_same_result() {
    let world = World::new("by-copy").await;
    let others = world.run(&roles_but(processor_of("health")));
    let processor = world.serve(&["process", "health"]);
    world.put("health/a.csv", data::health(400, "2025-03-01", 5, 1)).await;
    world.settle().await;
    assert!(copied(&processor, "health").await >= 200, "a history of new rows is written by COPY");
    world.all_hold().await;
    // Some keys are there and get other values, some are new; and Postgres has something against one row.
    world.execute("ALTER TABLE health_data ADD CONSTRAINT test_few CHECK (malaria_cases <> 777)").await;
    world.next_second().await;
    let corrected = data::health(400, "2025-03-03", 5, 9).replace("9,2025-03-07,", "9,2025-03-07,0777");
    world.put("health/b.csv", corrected + "399,2026-01-01,1,777,1,1,false\n").await;
    world.put("health/c.csv", data::health(300, "2024-01-01", 4, 3)).await;
    world.settle().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects WHERE rule = 'refused_by_database'").await, 1);
    let refused = |domain: &str, row: &[String]| domain == "health" && row.iter().any(|cell| cell == "777");
    world.all_hold_but(refused).await;
    assert_eq!(processor.terminate(DRAINS_WITHIN).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_any_kind_is_copied_as_it_is() {
    let world = World::new("by-copy-text").await;
    let others = world.run(&roles_but(processor_of("locations")));
    let processor = world.serve(&["process", "locations"]);
    let odd = ["a\tb", "\\N", "\\.", "two\nlines", "car\rriage", "back\\slash\\", "\\t", "é😀", "end\\"];
    let row = |id: usize| {
        let name = odd[id % odd.len()];
        format!(
            "{id},\"{name}{id}{name}\",state,{},{}.25\n",
            (!id.is_multiple_of(3)).then_some(id).map_or_else(String::new, |it| it.to_string()),
            id
        )
    };
    world
        .put("locations/odd.csv", "id,name,type,population,area\n".to_owned() + &(1..=500).map(row).collect::<String>())
        .await;
    world.settle().await;
    assert!(copied(&processor, "locations").await >= 200);
    let names: Vec<String> = world.column("SELECT name FROM locations ORDER BY id LIMIT 10").await;
    let expected: Vec<String> = (1..=10).map(|id| format!("{0}{id}{0}", odd[id % odd.len()])).collect();
    assert_eq!(names, expected);
    world.all_hold().await;
    assert_eq!(processor.terminate(DRAINS_WITHIN).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_which_others_have_a_hand_is_not_copied_into() {
    let world = World::new("by-copy-unfit").await;
    let is_fit = async || {
        let mut connection = world.services.pool.acquire().await.expect("a connection");
        copy::is_fit(&mut connection, domain("health"), Destination::Live).await.expect("looked at")
    };
    assert!(is_fit().await);
    for (change, back) in [
        (
            "CREATE TRIGGER test_other BEFORE INSERT ON health_data FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER test_other ON health_data",
        ),
        ("ALTER TABLE health_data ENABLE ROW LEVEL SECURITY", "ALTER TABLE health_data DISABLE ROW LEVEL SECURITY"),
        (
            "ALTER TABLE health_data ALTER COLUMN corrections TYPE json",
            "ALTER TABLE health_data ALTER COLUMN corrections TYPE jsonb",
        ),
    ] {
        world.execute(change).await;
        assert!(!is_fit().await, "{change}");
        world.execute(back).await;
        assert!(is_fit().await, "{back}");
    }
    let key: String = world
        .query("SELECT conname::text FROM pg_constraint WHERE conrelid = 'health_data'::regclass AND contype = 'u'")
        .await;
    world.execute(&format!("ALTER TABLE health_data DROP CONSTRAINT {key}")).await;
    assert!(!is_fit().await, "without {key} a row that is there would be there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_corrected_rows_of_a_page_stay_there_and_need_no_new_index_entries() {
    let world = World::new("by-copy-hot").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(400, "2025-03-01", 5, 1)).await;
    world.settle().await;
    world.next_second().await;
    // One row in fifty: each page has one or two of them.
    let corrected = data::health(400, "2025-03-01", 1, 9);
    let every_tenth = corrected.lines().enumerate().filter(|(line, _)| line % 10 == 0).map(|(_, text)| text);
    world.put("health/b.csv", every_tenth.collect::<Vec<_>>().join("\n")).await;
    world.settle().await;
    world
        .until(
            "nearly all of 39 updates are HOT",
            "SELECT n_tup_upd >= 39 AND n_tup_hot_upd >= 35 FROM pg_stat_user_tables WHERE relname = 'health_data'",
        )
        .await;
    world.all_hold().await;
    roles.stop().await;
}
