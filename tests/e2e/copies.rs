//! Whole-file copies follow what is published at a cost that follows the change.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use freshet::roles::Role;
use freshet_sinks::outputs::{Spooled, WindowFiles};

use crate::harness::http::{get, within};
use crate::harness::proxy::Proxy;
use crate::harness::{SETTLED_WITHIN, World, data, roles_but};

/// How long what was overwritten may stay: the tests' stack looks every 5 s, and rests as many times as long as a look took.
const WRITTEN_AGAIN_WITHIN: Duration = SETTLED_WITHIN;

/// How long until a gauge has the value of what was just written: copies rest, too.
const TOLD_WITHIN: Duration = SETTLED_WITHIN;

/// Files of windows that are read from S3 are counted from here on.
fn count_reads(proxy: &Proxy) -> Arc<AtomicUsize> {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = reads.clone();
    proxy.break_by(move |request| {
        let is_data = request.uri().path().contains("/metrics/data/") && request.method() == "GET";
        // The listing of data files names them as a query.
        counted.fetch_add(usize::from(is_data), SeqCst);
        None
    });
    reads
}

/// One row of one day, on a day of a month that is published.
async fn correct_one_row(world: &World, salt: i32) {
    world.next_second().await;
    world.put(&format!("health/corrected-{salt}.csv"), data::health(1, "2025-07-03", 1, salt)).await;
    world.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_put_together_without_reading_back_what_was_published_from_here() {
    let (world, proxy) = World::behind_a_proxy("copies", |_| ()).await;
    let reads = count_reads(&proxy);
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-05-01", 90, 1)).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-05-01", 90, 1)).await;
    world.settle().await;
    correct_one_row(&world, 2).await;
    assert_eq!(reads.load(SeqCst), 0, "all of it was written from here");
    world.all_hold().await;

    // As on a machine that has published nothing yet: each file is read once.
    let folder = world.services.config.metrics.cache_dir.join(world.processed_bucket());
    for file in fs::read_dir(&folder).expect("the files that are kept") {
        fs::remove_file(file.expect("a file").path()).expect("deleted");
    }
    reads.store(0, SeqCst);
    correct_one_row(&world, 3).await;
    let files = world.manifest().await.windows.iter().map(|window| window.files.len()).sum::<usize>();
    let read = reads.swap(0, SeqCst);
    assert!(read > 0 && read < files, "{read} of {files}");
    correct_one_row(&world, 4).await;
    assert_eq!(reads.load(SeqCst), 0, "what was read is kept as well");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_none_is_wanted() {
    let (world, proxy) = World::behind_a_proxy("no-cache", |config| config.metrics.cache_mib = 0).await;
    let reads = count_reads(&proxy);
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-07-01", 10, 1)).await;
    world.settle().await;
    assert!(reads.load(SeqCst) > 0, "the copies are read from S3");
    assert!(!world.services.config.metrics.cache_dir.join(world.processed_bucket()).exists());
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_that_was_overwritten_by_hand_is_written_again_and_holds_up_no_copy_for_long() {
    // Kept data files would not be read back.
    let world = World::with("overwritten", |config| config.metrics.cache_mib = 0).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-06-15", 30, 1)).await;
    world.settle().await;
    let manifest = world.manifest().await;
    let of_june = |window: &&WindowFiles| window.output == "current_health_risks" && window.window_kind == "month";
    let june = manifest.windows.iter().find(of_june).expect("the first month");
    // Of the same length, which shows when a copy is composed of it; and of another, which a listing shows.
    let (same, shorter) = (&june.files["csv"], &june.files["json"]);
    for (file, bytes) in [(same, same.bytes), (shorter, 7)] {
        let body = vec![b'x'; usize::try_from(bytes).expect("small")];
        let put = world.services.s3.put_object().bucket(world.processed_bucket()).key(&file.key).body(body.into());
        put.send().await.expect("overwrite");
    }
    // July changes, and the copies are composed of both months.
    correct_one_row(&world, 2).await;
    for file in [same, shorter] {
        let started = Instant::now();
        while Spooled::from(world.output(&file.key).await).sha256() != file.sha256 {
            assert!(started.elapsed() < WRITTEN_AGAIN_WITHIN, "{} stays as it is", file.key);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_an_output_that_did_not_change_are_not_told_to_be_behind() {
    let world = World::new("copies-told").await;
    let publisher = world.serve(&["metrics"]);
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-07-01", 10, 1)).await;
    world.settle().await;
    world.put("hospital/all.csv", data::hospital(3, "2025-07-01", 10, 1)).await;
    world.settle().await;
    let manifest = world.manifest().await;
    assert!(manifest.changed["current_health_risks"] < manifest.version, "{:?}", manifest.changed);
    let http = publisher.http().await;
    for output in manifest.changed.keys() {
        let line = format!("freshet_stable_copy_version{{output=\"{output}\"}} {}", manifest.version);
        let told = async || get(&http, "/metrics").await.1.lines().any(|it| it == line).then_some(());
        within(TOLD_WITHIN, &line, told).await;
    }
    world.all_hold().await;
    roles.stop().await;
}
