//! What comes twice counts once: not only in the tables, but in every count that is kept.

use chrono::NaiveDate;
use freshet_sinks::outputs::{Manifest, WindowFiles};

use crate::harness::plain::SPECS;
use crate::harness::{World, data};

/// Everything that must not move, as text.
async fn state_of(world: &World) -> Vec<String> {
    let mut state = Vec::new();
    for spec in &SPECS {
        let sql = format!("SELECT t::text FROM {} t ORDER BY 1", spec.table);
        state.extend(world.column::<String>(&sql).await);
    }
    for sql in [
        "SELECT p::text FROM pipeline.progress p ORDER BY 1",
        "SELECT r::text FROM pipeline.rejects r ORDER BY 1",
        "SELECT (domain, partition, next_offset, halted)::text FROM pipeline.bookmarks ORDER BY 1",
    ] {
        state.extend(world.column::<String>(sql).await);
    }
    state.push(format!("{:?}", world.manifest().await));
    for output in crate::harness::formulas::OUTPUTS {
        state.push(String::from_utf8(world.output(&format!("metrics/{output}.csv")).await).expect("UTF-8"));
    }
    state
}

/// The hashes of each window's files, whatever they are called.
fn bytes_of(manifest: &Manifest) -> Vec<(String, String, NaiveDate, Vec<String>)> {
    let hashes = |window: &WindowFiles| window.files.values().map(|file| file.sha256.clone()).collect();
    let entry =
        |window: &WindowFiles| (window.output.clone(), window.window_kind.clone(), window.window_start, hashes(window));
    manifest.windows.iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_dropped_twice_counts_once() {
    let world = World::with("twice", |config| config.ingest.reconcile_interval_ms = 200).await;
    let roles = world.run_all();
    let health = data::health(3, "2025-07-20", 30, 7) + "x,2025-07-20,1,1,1,1,false\n2,2025-07-20,-1,1,1,1,false\n";
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", &health).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-07-20", 30, 7)).await;
    world.settle().await;
    world.all_hold().await;
    let before = state_of(&world).await;

    // Again, as a re-sync would.
    world.next_second().await;
    world.put("health/all.csv", &health).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.superseded), (2, 1), "{waited}");
    assert_eq!(state_of(&world).await, before);

    // Deleted, seen to be deleted, and dropped again.
    world.delete("health/all.csv").await;
    world
        .until(
            "the deletion is recorded",
            "SELECT bool_and(deleted_at IS NOT NULL) FROM pipeline.objects WHERE key = 'health/all.csv'",
        )
        .await;
    assert_eq!(state_of(&world).await, before, "deleting an object deletes no rows");
    world.next_second().await;
    world.put("health/all.csv", &health).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.superseded), (2, 1), "{waited}");
    assert_eq!(state_of(&world).await, before);
    let object = world.object("health/all.csv").await;
    assert!(object.reason.as_deref().is_some_and(|reason| reason.contains("same content")), "{object:?}");

    // The same content under another key is another file: its rows come, and end as they were but for lineage.
    // The two rows of one key may come in two batches with a publication between them. Then the window's file is
    // named anew when the second row is published, so that bytes are compared here, and not names.
    let hashes = bytes_of(&world.manifest().await);
    world.put("health/copy.csv", &health).await;
    world.settle().await;
    assert_eq!(world.object("health/copy.csv").await.state, "applied");
    assert_eq!(bytes_of(&world.manifest().await), hashes);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_one_file_the_later_row_of_a_key_wins() {
    let world = World::new("later-row").await;
    let roles = world.run_all();
    world
        .put("locations/all.csv", "id,name,type,population,area\n1,First,s,5,1\n01,Second,s,6,2\n1.0,Third,s,,\n")
        .await;
    world
        .put(
            "health/all.csv",
            "location_id,date,dengue_cases,is_projected\n1,2025-08-22,1,f\n01,2025-8-22,2,no\n1,2025-08-22,3,yes\n\
             1,2025-08-22,4,false\n 1 ,2025-08-22,x,0\n",
        )
        .await;
    world.settle().await;
    let names: Vec<String> = world.column("SELECT name FROM locations").await;
    assert_eq!(names, ["Third"]);
    let cases: Vec<String> =
        world.column("SELECT (is_projected, dengue_cases)::text FROM health_data ORDER BY is_projected").await;
    assert_eq!(cases, ["(f,)", "(t,3)"], "the last of each key");
    // Rows of one key that came in two transactions were each in the table for a while; in one, all but one are stale.
    let received: i64 = world.query("SELECT sum(applied + stale)::bigint FROM pipeline.progress").await;
    let stale: i64 = world.query("SELECT sum(stale)::bigint FROM pipeline.progress").await;
    assert_eq!(received, 8);
    assert!(stale <= 5, "{stale} stale rows: one that won is counted as stale");
    world.all_hold().await;
    roles.stop().await;
}
