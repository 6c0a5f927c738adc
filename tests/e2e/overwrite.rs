//! Newer data replaces older data, and only that, whatever order they arrive in.

use std::collections::BTreeMap;

use crate::harness::oracles::{changed, entries};
use crate::harness::plain::SPECS;
use crate::harness::{World, all_roles, data};

/// The tables without lineage.
async fn values(world: &World) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut all = BTreeMap::new();
    for spec in &SPECS {
        for (mut key, mut row) in world.table(spec).await {
            key.insert(0, spec.table.to_owned());
            row.pop();
            all.insert(key, row);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_with_a_correction_changes_exactly_its_rows_and_its_windows() {
    let world = World::new("overwrite").await;
    let roles = world.run_all();
    let health = data::health(3, "2025-07-01", 90, 5);
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", &health).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-07-01", 90, 5)).await;
    world.put("climate/all.csv", data::climate(3, "2025-07-01", 90, 5)).await;
    world.settle().await;
    let (rows, files) = (values(&world).await, entries(&world.manifest().await));

    let line = health.lines().find(|line| line.starts_with("2,2025-08-05,")).expect("the row is there");
    let cells: Vec<&str> = line.split(',').collect();
    let corrected = [cells[0], cells[1], "9999", cells[3], cells[4], cells[5], cells[6]].join(",");
    world.put("health/all.csv", health.replace(line, &corrected)).await;
    world.settle().await;

    let after = values(&world).await;
    let differ: Vec<_> = after.iter().filter(|(key, row)| rows.get(*key) != Some(row)).collect();
    assert_eq!(after.len(), rows.len());
    assert_eq!(differ.len(), 1, "{differ:#?}");
    assert_eq!(
        (differ[0].0[1].as_str(), differ[0].0[2].as_str(), differ[0].1[2].as_str()),
        ("2", "2025-08-05", "9999")
    );
    let window = |output: &str, kind: &str, start: &str| (output.to_owned(), kind.to_owned(), start.to_owned());
    assert_eq!(
        changed(&files, &entries(&world.manifest().await)),
        [
            window("current_health_risks", "month", "2025-08-01"),
            window("resilience_scores", "month", "2025-08-01"),
            window("window_metrics", "month", "2025-08-01"),
            window("window_metrics", "week", "2025-08-04"),
        ]
    );
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_absent_from_a_newer_version_of_its_file_stays() {
    let world = World::new("absent").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(2, "2025-08-01", 4, 1)).await;
    world.settle().await;
    world.put("health/all.csv", data::health(2, "2025-08-01", 2, 50)).await;
    world.settle().await;
    let rows: i64 = world.query("SELECT count(*) FROM health_data").await;
    assert_eq!(rows, 8);
    world.all_hold().await;
    roles.stop().await;
}

/// The older of two files arrives first, or is held back until the newer one is applied.
async fn two_files_of_one_key(world: &World, hold_back: bool) {
    if hold_back {
        world
            .execute(
                "CREATE FUNCTION test.hold_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.key LIKE '%/older.csv' THEN NEW.next_attempt_at := now() + interval '1 hour'; END IF;
                    RETURN NEW;
                 END $$;
                 CREATE TRIGGER test_hold_back BEFORE INSERT ON pipeline.objects
                    FOR EACH ROW EXECUTE FUNCTION test.hold_back();",
            )
            .await;
    }
    let roles = world.run(&all_roles());
    world.put("health/older.csv", data::health(3, "2025-08-01", 20, 1)).await;
    if !hold_back {
        world.settle().await;
    }
    world.next_second().await;
    world.put("health/newer.csv", data::health(3, "2025-08-11", 20, 100)).await;
    let newer = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/newer.csv' AND state = 'applied')";
    world.until("the newer file is applied", newer).await;
    if hold_back {
        let waiting: String = world.query("SELECT state FROM pipeline.objects WHERE key = 'health/older.csv'").await;
        assert_eq!(waiting, "discovered");
        world.execute("UPDATE pipeline.objects SET next_attempt_at = now() WHERE key = 'health/older.csv'").await;
    }
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
    let stale: i64 = world.query("SELECT sum(stale)::bigint FROM pipeline.progress").await;
    assert_eq!(stale, if hold_back { 30 } else { 0 }, "what the older file brings for ten days is stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_data_never_wins_over_new_whichever_arrives_first() {
    let (first, second) = (World::new("old-first").await, World::new("new-first").await);
    two_files_of_one_key(&first, false).await;
    two_files_of_one_key(&second, true).await;
    assert_eq!(values(&first).await, values(&second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_versioning_is_turned_off_and_on_loses_no_overwrite() {
    use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
    let world = World::new("versioning").await;
    let roles = world.run_all();
    let turn = async |status| {
        let versioning = VersioningConfiguration::builder().status(status).build();
        let request = world.services.s3.put_bucket_versioning().bucket(world.raw_bucket());
        request.versioning_configuration(versioning).send().await.expect("turn versioning");
    };
    let cases =
        "SELECT dengue_cases FROM health_data WHERE location_id = 1 AND date = '2025-07-01' AND NOT is_projected";
    // While it is suspended, S3 calls every overwrite by the same version id.
    let (on, off) = (BucketVersioningStatus::Enabled, BucketVersioningStatus::Suspended);
    let turns = [None, Some(off.clone()), None, None, Some(on), None, Some(off), None];
    for (count, status) in (1..).zip(turns) {
        if let Some(status) = status {
            turn(status).await;
        }
        world.put("health/one.csv", format!("location_id,date,dengue_cases\n1,2025-07-01,{count}\n")).await;
        world.settle().await;
        assert_eq!(world.query::<Option<i32>>(cases).await, Some(count));
    }
    let overwritten = world.objects().await;
    assert_eq!(overwritten.len(), 8, "{overwritten:#?}");
    world.delete("health/one.csv").await;
    world.until("the deletion is recorded", "SELECT bool_and(deleted_at IS NOT NULL) FROM pipeline.objects").await;
    assert_eq!(world.query::<Option<i32>>(cases).await, Some(8), "a deletion deletes no rows");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_delete_marker_is_removed_counts_as_there_until_it_is_deleted_again() {
    let world = World::with("undeleted", |config| config.ingest.reconcile_interval_ms = 200).await;
    let roles = world.run_all();
    world.put("health/one.csv", "location_id,date,dengue_cases\n1,2025-07-01,1\n").await;
    world.put("health/one.csv", "location_id,date,dengue_cases\n1,2025-07-01,2\n").await;
    world.settle().await;
    let deleted = "SELECT bool_and(deleted_at IS NOT NULL) FROM pipeline.objects";
    world.delete("health/one.csv").await;
    world.until("the deletion is recorded", deleted).await;

    let (s3, bucket) = (&world.services.s3, world.raw_bucket());
    let listed = s3.list_object_versions().bucket(bucket).prefix("health/one.csv").send().await.expect("list versions");
    let marker = listed.delete_markers().first().and_then(|marker| marker.version_id()).expect("a delete marker");
    let remove = s3.delete_object().bucket(bucket).key("health/one.csv").version_id(marker);
    remove.send().await.expect("remove the delete marker");
    world.until("it is there again", "SELECT bool_and(deleted_at IS NULL) FROM pipeline.objects").await;

    world.delete("health/one.csv").await;
    world.until("the second deletion is recorded", deleted).await;
    assert_eq!(world.query::<i32>("SELECT dengue_cases FROM health_data").await, 2);
    world.all_hold().await;
    roles.stop().await;
}
