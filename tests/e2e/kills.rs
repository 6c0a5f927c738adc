//! kill -9 of the whole program, Kafka, Postgres and S3 with it, at random moments.

use std::path::Path;
use std::time::Duration;

use freshet::roles::Services;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::harness::{Process, World, data, folder, process, seed};

const KILLS: usize = 5;

async fn up(data: &Path) -> (Process, Services) {
    let variables = [
        ("FRESHET__INGEST__CHUNK_BYTES", "32768"),
        ("FRESHET__INGEST__LEASE_MS", "2000"),
        // Slow enough for every kill to find something under way.
        ("FRESHET__INGEST__ROWS_PER_SECOND", "9000"),
    ];
    process::up("up", data, &variables.map(|(name, value)| (name.to_owned(), value.to_owned()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_at_random_moments_loses_nothing_and_repeats_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut files = data::generated(|options| {
        options.seed = seed;
        options.entities = 40;
        options.days = 500;
        options.dirty = 0.05;
        options.rows_per_file = 4_000;
    });
    files.shuffle(&mut random);
    let data = folder().join("killed");
    let (mut process, services) = up(&data).await;
    let mut world = World::over("killed".into(), services, None).await;
    let mut resumed = 0;
    let rounds: Vec<&[(String, Vec<u8>)]> = files.chunks(files.len().div_ceil(KILLS)).collect();
    for files in &rounds {
        for (key, content) in *files {
            world.put(key, content).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        process.kill();
        world.services.pool.close().await;
        (process, world.services) = up(&data).await;
        resumed += world
            .query::<i64>("SELECT count(*) FROM pipeline.objects WHERE resume_row > 0 AND state = 'publishing'")
            .await;
        if world.query("SELECT count(*) > 0 FROM pipeline.marks").await {
            println!("killed between apply and publish");
        }
    }
    println!("{resumed} files were found in the middle over {} kills", rounds.len());
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    let loaded = world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    let rows: i64 = loaded.rows.values().sum();
    assert!(rows > 60_000, "{rows} rows");
    process.kill();
}
