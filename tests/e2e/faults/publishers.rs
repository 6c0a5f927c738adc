//! A publisher of outputs that dies at any of its steps, and two of them at once.

use freshet::roles::Role;
use freshet_sinks::outputs::{Manifest, Store, read_current};
use freshet_topics::failpoint::Point;

use super::AT_ITS_POINT_WITHIN;
use crate::harness::{World, data, roles_but};

/// The steps in their order.
const STEPS: [Point; 7] = [
    Point::SnapshotTaken,
    Point::FilePut,
    Point::FilesPut,
    Point::ManifestPut,
    Point::PointerSwapped,
    Point::MarksDeleted,
    Point::CopyPut,
];

/// Whether a reader sees the new version after it. Copies are made side by side with publications, of whichever is
/// there.
fn is_published_after(point: Point) -> Option<bool> {
    match point {
        Point::SnapshotTaken | Point::FilePut | Point::FilesPut | Point::ManifestPut => Some(false),
        Point::PointerSwapped | Point::MarksDeleted => Some(true),
        _ => None,
    }
}

/// What a reader finds, whose every file is there.
async fn published(world: &World) -> Option<Manifest> {
    let (s3, bucket) = (&world.services.s3, world.processed_bucket());
    let manifest = read_current(s3, bucket).await.expect("a reader finds a whole publication, or none")?;
    let store = Store::new(s3.clone(), bucket);
    for file in manifest.windows.iter().flat_map(|window| window.files.values()) {
        store.fetch(file).await.unwrap_or_else(|error| panic!("{} of what is published: {error}", file.key));
    }
    Some(manifest)
}

async fn version(world: &World) -> u64 {
    published(world).await.map_or(0, |manifest| manifest.version)
}

/// A publisher that dies at its first time at this point.
async fn killed_at(world: &World, point: Point) {
    world.spawn_failing(&["metrics"], point, "return(kill)").killed(AT_ITS_POINT_WITHIN).await;
}

/// Rows of a month of their own for each round, so that what one round lost no later one makes good.
async fn drop_month(world: &World, round: u32, salt: i32) {
    let from = format!("2025-{round:02}-01");
    world.put(&format!("health/{round}.csv"), data::health(3, &from, 20, salt)).await;
    world.put(&format!("hospital/{round}.csv"), data::hospital(3, &from, 20, salt)).await;
    world.applied().await;
}

const NO_MARKS: &str = "SELECT NOT EXISTS (SELECT FROM pipeline.marks)";

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_killed_at_each_step_of_the_first_publication_leaves_all_of_it_or_nothing() {
    let world = World::new("killed-first").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    drop_month(&world, 1, 1).await;
    for point in STEPS {
        if point == Point::CopyPut {
            // Who died last may have made all copies before: they are behind once more.
            drop_month(&world, 2, 1).await;
            world.publish().await;
        }
        // One that dies over and over is nothing else than one that dies once.
        for _ in 0..2 {
            killed_at(&world, point).await;
            let version = version(&world).await;
            assert_eq!(version > 0, is_published_after(point) != Some(false), "killed at {point:?}: version {version}");
            if !matches!(point, Point::SnapshotTaken | Point::FilePut | Point::FilesPut) {
                break;
            }
        }
    }
    let publisher = world.run(&[Role::Metrics]);
    world.settle().await;
    world.all_hold().await;
    publisher.stop().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_killed_at_each_step_of_a_further_publication_leaves_the_old_or_the_new_one() {
    let world = World::new("killed-further").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    drop_month(&world, 1, 1).await;
    world.publish().await;
    for (round, point) in (2..).zip(STEPS) {
        let before = version(&world).await;
        drop_month(&world, round, 1).await;
        killed_at(&world, point).await;
        if let Some(is_published) = is_published_after(point) {
            assert_eq!(version(&world).await > before, is_published, "killed at {point:?}");
        }
        let marks_may_go = matches!(point, Point::MarksDeleted | Point::CopyPut);
        assert!(
            marks_may_go || !world.query::<bool>(NO_MARKS).await,
            "killed at {point:?}: nobody knows what is to do"
        );
    }
    let publisher = world.run(&[Role::Metrics]);
    world.settle().await;
    world.all_hold().await;
    publisher.stop().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_frozen_at_each_step_takes_nothing_back_that_another_has_published_meanwhile() {
    let world = World::new("two-publishers").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    drop_month(&world, 1, 1).await;
    world.publish().await;
    for (round, point) in (2..).zip(STEPS) {
        drop_month(&world, round, 1).await;
        let frozen = world.spawn_failing(&["metrics"], point, "1*return(stop)");
        frozen.stopped(AT_ITS_POINT_WITHIN).await;
        // Rows that the frozen one has not seen, in the same windows, are published by another.
        drop_month(&world, round, 2).await;
        let other = world.publish().await;
        frozen.signal("CONT");
        // It is over with what it was doing once it has published what comes now.
        drop_month(&world, round, 3).await;
        world.until("the thawed one goes on", NO_MARKS).await;
        let version = version(&world).await;
        assert!(version > other.version, "frozen at {point:?}: {version} after {}", other.version);
    }
    // Two at once, in each other's way.
    let publishers = [world.spawn(&["metrics"]), world.spawn(&["metrics"])];
    for salt in 10..16 {
        drop_month(&world, 9, salt).await;
    }
    world.settle().await;
    world.all_hold().await;
    drop(publishers);
    roles.stop().await;
}
