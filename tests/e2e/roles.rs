//! Several of each role at once, and roles that are killed one by one: nothing is lost and nothing comes twice.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::harness::{Process, World, data, seed};

#[tokio::test(flavor = "multi_thread")]
async fn two_of_every_role_share_the_work_and_nothing_comes_twice() {
    let seed = seed();
    let world = World::with("pairs", |config| config.ingest.chunk_bytes = 8_192).await;
    let roles = world.run_all();
    let others: Vec<Process> = [&["ingest"][..], &["process", "health"], &["process", "climate"], &["metrics"]]
        .map(|role| world.spawn(role))
        .into();
    for domain in ["health", "climate"] {
        let shared = format!("SELECT count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = '{domain}'");
        world.until("two processors share the partitions", &shared).await;
    }
    let mut files = data::generated(|options| {
        options.seed = seed;
        options.entities = 20;
        options.days = 60;
        options.dirty = 0.05;
        options.rows_per_file = 200;
    });
    files.shuffle(&mut StdRng::seed_from_u64(seed));
    for (key, content) in &files {
        world.put(key, content).await;
    }
    // Overwritten while it may be under way.
    let (key, content) = files.iter().find(|(key, _)| key.starts_with("health/")).expect("a health file");
    world.put(key, [content.as_slice(), b"1,2025-01-01,5\n"].concat()).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    assert!(others[0].log().contains("published"), "the second listener had its share:\n{}", others[0].log());
    world.all_hold().await;
    drop(others);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_one_by_one_lose_nothing_and_repeat_nothing() {
    const ROLES: [&[&str]; 6] = [
        &["ingest"],
        &["process", "locations"],
        &["process", "climate"],
        &["process", "health"],
        &["process", "hospital"],
        &["metrics"],
    ];
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::with("killed-roles", |config| {
        config.ingest.chunk_bytes = 16_384;
        config.ingest.lease_ms = 2_000;
        config.ingest.rows_per_second = 4_000;
    })
    .await;
    let mut processes: Vec<Process> = ROLES.iter().map(|role| world.spawn(role)).collect();
    let files = data::generated(|options| {
        options.seed = seed;
        options.entities = 20;
        options.days = 200;
        options.dirty = 0.05;
        options.rows_per_file = 2_000;
    });
    for (key, content) in &files {
        world.put(key, content).await;
    }
    // The listener is killed most: it is the one with resume points.
    for victim in [0, 2, 0, 3, 5, 0, 4, 0] {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..700))).await;
        std::mem::replace(&mut processes[victim], world.spawn(ROLES[victim])).kill();
    }
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    world.all_hold().await;
    // Kafka lost nothing, so whatever was published again went on at its resume point, under its own numbers.
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    assert!(processes.iter_mut().all(Process::runs), "a role ended by itself");
}
