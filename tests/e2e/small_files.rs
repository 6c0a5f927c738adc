//! Many small files: together they cost few statements, and each ends as if it were alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::proxy::{Fault, kind};
use crate::harness::{World, data};

/// Statements that wrote to the ledger, counted by a trigger.
async fn count_writes(world: &World) {
    world
        .execute(
            "CREATE SEQUENCE test.writes;
             CREATE FUNCTION test.count_write() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM nextval('test.writes'); RETURN NULL; END $$;
             CREATE TRIGGER test_count_write AFTER UPDATE ON pipeline.objects
                FOR EACH STATEMENT EXECUTE FUNCTION test.count_write();",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_cost_few_statements_and_a_bad_one_among_them_harms_no_other() {
    const FILES: i64 = 200;
    let world = World::new("small-files").await;
    count_writes(&world).await;
    for number in 0..FILES {
        let text = match number {
            // Neither is like the others: no column is known, and a row is bad.
            50 => "colour,taste\nred,sweet\n".to_owned(),
            60 => format!("location_id,date,dengue_cases\n{number},soon,1\n"),
            _ => format!("location_id,date,dengue_cases\n{number},2025-06-01,{number}\n"),
        };
        world.put(&format!("health/{number:03}.csv"), text).await;
    }
    let roles = world.run_all();
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (FILES as u64 - 1, 1), "{waited}");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, FILES - 2);
    // One by one it is a claim and an end for each, 400, and the sweeps.
    let writes: i64 = world.query("SELECT last_value FROM test.writes").await;
    assert!(writes < FILES / 2, "{writes} statements for {FILES} files");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_is_slow_to_read_delays_no_other_of_its_group_for_long() {
    const FILES: i64 = 10;
    let (world, proxy) = World::behind_a_proxy("small-slow", |_| ()).await;
    for number in 0..FILES {
        world.put(&format!("health/{number}.csv"), data::health(1, "2025-01-01", 3, number as i32)).await;
    }
    proxy.break_by(|request| {
        let is_slow = kind(request) == "get" && request.uri().path().ends_with("/3.csv");
        is_slow.then_some(Fault::Late(Duration::from_secs(20)))
    });
    let roles = world.run_all();
    let applied =
        |keys: &str| format!("SELECT count(*) = {FILES} - 1 FROM pipeline.objects WHERE state = 'applied'{keys}");
    world.until("the others are applied", &applied("")).await;
    assert!(world.query::<bool>(&applied(" AND key <> 'health/3.csv'")).await, "it was not read yet");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_unpack_to_much_are_streamed_no_more_at_once_than_there_are_workers() {
    const FILES: usize = 6;
    const LATE: Duration = Duration::from_millis(300);
    let (world, proxy) = World::behind_a_proxy("small-packed", |config| config.ingest.workers = 1).await;
    for number in 0..FILES {
        let text = data::health(20, "2025-01-01", 300, number as i32);
        let packed = data::gzip(text.as_bytes()).await;
        let small_bytes = world.services.config.ingest.chunk_bytes / 128;
        assert!(packed.len() < small_bytes && text.len() > 2 * small_bytes, "{} of {}", packed.len(), text.len());
        world.put_packed(&format!("health/{number}.csv.gz"), packed, text.as_bytes()).await;
    }
    // A file is read once to check it, and once more to publish it. The second answer is late.
    let streamed: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (seen, checked) = (Arc::clone(&streamed), Mutex::new(BTreeSet::new()));
    proxy.break_by(move |request| {
        let path = request.uri().path();
        let is_file = kind(request) == "get" && path.ends_with(".csv.gz");
        let is_again = is_file && !checked.lock().expect("not poisoned").insert(path.to_owned());
        is_again.then(|| {
            seen.lock().expect("not poisoned").push(Instant::now());
            Fault::Late(LATE)
        })
    });
    let roles = world.run_all();
    world.settle().await;
    let begun = streamed.lock().expect("not poisoned").clone();
    assert!(begun.len() >= FILES, "{begun:?}");
    assert!(begun.windows(2).all(|two| two[1] - two[0] >= LATE), "two at once: {begun:?}");
    world.all_hold().await;
    roles.stop().await;
}
