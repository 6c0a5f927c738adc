//! A replay under a load, while what it needs dies around it.

use std::time::Duration;

use super::all_hold_and_nothing_was_missing;
use crate::harness::{OwnStack, Process, Server, World, data, processor_of, roles_but};

const ENDS_WITHIN: Duration = Duration::from_secs(120);
const REPLAY: [&str; 7] = ["replay", "health", "--from", "beginning", "--yes", "--rows-per-second", "2000"];

/// Starts a replay that has some rows to correct, and waits until it is under way.
async fn replay_under_way(world: &World, ended: i64) -> Process {
    world.execute("UPDATE health_data SET dengue_cases = 99999").await;
    let replay = world.spawn(&REPLAY);
    let under_way = format!(
        "SELECT count(*) = {ended} + 1 AND bool_or(ended_at IS NULL AND rows_read > 500) FROM pipeline.replays"
    );
    world.until("the replay is under way", &under_way).await;
    replay
}

/// Asks for the same until it has got to its end, as a person does whose replay was interrupted.
async fn until_replayed(world: &World, mut replay: Process) {
    for _ in 0..5 {
        if replay.ended(ENDS_WITHIN).await == Some(0) {
            return;
        }
        replay = world.spawn(&REPLAY);
    }
    panic!("the replay does not get to its end:\n{}", replay.log());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn a_replay_under_load_survives_its_own_death_that_of_a_processor_and_that_of_the_broker() {
    let mut stack = OwnStack::start("replayed").await;
    let world = stack
        .world(|config| {
            config.process.batch_rows_max = 200;
            config.ingest.lease_ms = 2_000;
        })
        .await;
    let others = world.run(&roles_but(processor_of("health")));
    let mut processor = world.spawn(&["process", "health"]);
    world.put("health/old.csv", data::health(40, "2024-01-01", 300, 1)).await;
    world.settle().await;

    for round in 0..3 {
        let replay = replay_under_way(&world, round).await;
        world.put(&format!("health/{round}.csv"), data::health(40, "2025-01-01", 100, 2 + round as i32)).await;
        // Older rows come again under a newer name, too.
        world.put(&format!("health/again-{round}.csv"), data::health(40, "2024-06-01", 50, 9 + round as i32)).await;
        let replay = match round {
            0 => {
                replay.kill();
                world.spawn(&REPLAY)
            }
            1 => {
                std::mem::replace(&mut processor, world.spawn(&["process", "health"])).kill();
                replay
            }
            _ => {
                stack.kill(Server::Kafka).await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                stack.start_again().await;
                replay
            }
        };
        until_replayed(&world, replay).await;
        world.settle().await;
        all_hold_and_nothing_was_missing(&world).await;
    }
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}
