//! Several writers of one processor: what holds one of them up does not hold up the others, and each row is there once.

use crate::harness::sessions::pid_of;
use crate::harness::{World, data};

/// More than any share of them belongs to one partition.
const LOCATIONS: i32 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_keeps_up_its_own_writer_only() {
    let world = World::new("writers").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(LOCATIONS, "2025-03-01", 1, 1)).await;
    world.settle().await;
    let newer = "SELECT count(*) FROM health_data h JOIN pipeline.objects o ON o.id = h.src_object WHERE o.key = 'health/c.csv'";

    let mut holder = world.services.pool.begin().await.expect("a transaction");
    let held = sqlx::query("SELECT FROM health_data WHERE location_id = 1 FOR UPDATE").execute(&mut *holder).await;
    assert_eq!(held.expect("the row").rows_affected(), 1);
    let holder_pid = pid_of(&mut holder).await;
    world.next_second().await;
    world.put("health/b.csv", data::health(1, "2025-03-01", 1, 5)).await;
    world.until_one_waits_for("a writer waits for the row", holder_pid).await;
    world.next_second().await;
    world.put("health/c.csv", data::health(LOCATIONS, "2025-03-01", 1, 7)).await;
    world.until("the other writer goes on", &format!("SELECT ({newer}) > 0")).await;
    let meanwhile = world.query::<i64>(newer).await;
    assert!(meanwhile < i64::from(LOCATIONS), "the row is held, and all are written: {meanwhile}");

    holder.rollback().await.expect("the row is free");
    world.settle().await;
    assert_eq!(world.query::<i64>(newer).await, i64::from(LOCATIONS));
    world.all_hold().await;
    roles.stop().await;
}
