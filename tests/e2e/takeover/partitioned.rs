//! A table that its owner has partitioned by date, as `docs/scaling.md` shows it, is filled like any other.

use freshet::commands::setup::{self, Mode, Standing};

use super::of;
use crate::harness::{World, data, oracles, seed};

const PAGE: &str = include_str!("../../../docs/scaling.md");

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_partitioned_by_date_is_taken_over_filled_and_corrected() {
    let world = World::unprepared("partitioned", |_| ()).await;
    let (_, block) = PAGE.split_once("```sql\n").expect("a block of SQL");
    let (block, rest) = block.split_once("\n```").expect("its end");
    world.execute(block).await;
    let made = setup::prepare(&world.services, Mode::Make).await;
    assert_eq!(of(&made, "table", "health_data").standing, Standing::Made, "{made:#?}");
    let again = setup::prepare(&world.services, Mode::Make).await;
    assert_eq!(of(&again, "table", "health_data").standing, Standing::Found, "{again:#?}");
    oracles::watch(&world).await;

    let roles = world.run_all();
    let files = data::generated(|options| {
        options.seed = seed();
        options.entities = 10;
        options.days = 60;
        options.dirty = 0.05;
    });
    for (key, content) in &files {
        world.put(key, content).await;
    }
    world.settle().await;
    // Keys that are there, with other values.
    world.put("health/corrections.csv", data::health(10, "2025-08-01", 20, 7)).await;
    world.settle().await;
    world.all_hold().await;
    for partition in ["health_data_2025", "health_data_default"] {
        let has_rows = format!("SELECT EXISTS (SELECT FROM {partition})");
        assert!(world.query::<bool>(&has_rows).await, "{partition} has no row");
    }

    // A shadow would be one plain table.
    let mut swap = world.spawn(&["replay", "health", "--into", "shadow", "--swap", "--yes"]);
    assert_eq!(swap.ended(std::time::Duration::from_secs(60)).await, Some(1), "{}", swap.log());
    assert!(swap.log().contains("health_data_2025 inherits"), "{}", swap.log());

    // An old part goes at once, and takes no other row with it.
    let (_, drop) = rest.split_once("```sql\n").expect("a second block of SQL");
    let kept: i64 = world.query("SELECT count(*) FROM health_data_default").await;
    world.execute(drop.split_once("\n```").expect("its end").0).await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, kept);
    roles.stop().await;
}
