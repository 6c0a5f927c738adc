//! Only windows that changed are derived again, and windows close.

use freshet::roles::Role;
use freshet_processors::refresh::Publication;

use crate::harness::oracles::{Entries, changed, entries};
use crate::harness::{World, data, roles_but};

type Window = (&'static str, &'static str, &'static str);

/// Publishes once what has been applied, and says what changed.
async fn publish(world: &World, before: &mut Entries) -> (Publication, Vec<(String, String, String)>) {
    world.applied().await;
    let publication = world.publish().await;
    let after = entries(&world.manifest().await);
    let changes = changed(before, &after);
    *before = after;
    (publication, changes)
}

fn are(windows: &[Window]) -> Vec<(String, String, String)> {
    windows.iter().map(|(output, kind, start)| ((*output).into(), (*kind).into(), (*start).into())).collect()
}

async fn is_final(world: &World, kind: &str, start: &str) -> bool {
    let manifest = world.manifest().await;
    let window = manifest.windows.iter().find(|window| {
        window.output == "window_metrics" && window.window_kind == kind && window.window_start == data::date(start)
    });
    window.expect("the window is there").is_final.expect("window_metrics close")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dirty_windows_are_derived_and_a_late_row_reopens_nothing_but_its_own() {
    let world = World::new("windows").await;
    // Without the role that publishes: each publication is made here, and looked at.
    let roles = world.run(&roles_but(Role::Metrics));
    let mut files = Entries::new();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 41, 1)).await;
    world.put("hospital/all.csv", data::hospital(2, "2025-07-01", 41, 1)).await;
    world.put("climate/all.csv", data::climate(2, "2025-07-01", 41, 1)).await;
    let (first, _) = publish(&world, &mut files).await;
    // Two months, and the weeks from June 30 to August 4.
    assert_eq!(first.windows, 2 + 6, "{first:?}");
    assert!(is_final(&world, "week", "2025-07-21").await && is_final(&world, "month", "2025-07-01").await);
    assert!(!is_final(&world, "week", "2025-07-28").await, "its seven days of grace end with August 10");

    // A day passes in two of three domains: the watermark is the least, so nothing closes.
    world.put("health/day.csv", data::health(2, "2025-08-11", 1, 1)).await;
    world.put("hospital/day.csv", data::hospital(2, "2025-08-11", 1, 1)).await;
    let (second, changes) = publish(&world, &mut files).await;
    let of_the_day = are(&[
        ("current_health_risks", "month", "2025-08-01"),
        ("current_hospital_resources", "month", "2025-08-01"),
        ("resilience_scores", "month", "2025-08-01"),
        ("window_metrics", "month", "2025-08-01"),
        ("window_metrics", "week", "2025-08-11"),
    ]);
    assert_eq!((second.windows, changes), (2, of_the_day));
    assert!(!is_final(&world, "week", "2025-07-28").await);

    // And in the third: the week closes, and is published as closed although no row of it changed.
    world.put("climate/day.csv", data::climate(2, "2025-08-11", 1, 1)).await;
    let (third, changes) = publish(&world, &mut files).await;
    let closing = are(&[
        ("window_metrics", "month", "2025-08-01"),
        ("window_metrics", "week", "2025-07-28"),
        ("window_metrics", "week", "2025-08-11"),
    ]);
    assert_eq!((third.windows, changes), (3, closing));
    assert!(is_final(&world, "week", "2025-07-28").await);

    // A late row in a closed window.
    world.put("health/late.csv", "location_id,date,dengue_cases,is_projected\n3,2025-07-08,5,false\n").await;
    let (late, changes) = publish(&world, &mut files).await;
    let of_the_late_row = are(&[
        ("current_health_risks", "month", "2025-07-01"),
        ("window_metrics", "month", "2025-07-01"),
        ("window_metrics", "week", "2025-07-07"),
    ]);
    assert_eq!((late.windows, &changes), (2, &of_the_late_row));
    assert!(is_final(&world, "week", "2025-07-07").await, "it stays closed");

    // A location stands for the windows that hold rows of it.
    world.put("locations/three.csv", "id,name,type,population,area\n3,Place 3,state,77777,3.5\n").await;
    let (moved, changes) = publish(&world, &mut files).await;
    assert_eq!((moved.windows, changes), (2, of_the_late_row));

    // A projection is in no window.
    world
        .put(
            "health/projected.csv",
            "location_id,date,dengue_cases,is_projected\n1,2025-07-08,5,true\n1,2025-07-09,5,1.0\n",
        )
        .await;
    let (projected, changes) = publish(&world, &mut files).await;
    assert_eq!((projected.windows, changes), (0, are(&[])));

    // One row of the last year that may be does not close everything.
    let watermarks = world.manifest().await.watermarks;
    world.put("health/2200.csv", "location_id,date,dengue_cases,is_projected\n1,2200-12-31,5,false\n").await;
    let (future, changes) = publish(&world, &mut files).await;
    assert_eq!((future.windows, changes.len()), (2, 3), "{changes:?}");
    assert_eq!(world.manifest().await.watermarks, watermarks);
    assert!(!is_final(&world, "month", "2200-12-01").await);

    // Nothing new: nothing published.
    let version = world.manifest().await.version;
    let again = world.publish().await;
    assert_eq!((again.windows, again.files, again.version), (0, 0, version));
    roles.stop().await;
    // The whole-file copies are the role's own work.
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
