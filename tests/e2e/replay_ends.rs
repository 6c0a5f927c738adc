//! The end of a replay: it is done, however often its end is asked for, or it is given up.

use std::time::Duration;

use freshet_processors::replay::{self, ReplayContext, ReplayError, Request};
use freshet_sinks::apply::ApplyError;
use freshet_sinks::replay::{self as replays, Finished, Replay, Running};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, data};
use crate::replay::{context, domain, everything, replayed};

/// A command may take this long to start, do its work and end.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

async fn run(context: &ReplayContext, stop: &CancellationToken) -> Result<Replay, ReplayError> {
    let (told, _) = watch::channel(Default::default());
    replay::in_place(context, &everything(), &told, stop).await
}

/// A thousand rows, and a replay of them that was interrupted. It has found two of them, which are good, to be rejects.
async fn interrupted(world: &World, context: &ReplayContext) {
    world.put("health/all.csv", data::health(10, "2025-01-01", 100, 5)).await;
    world.settle().await;
    let stop = CancellationToken::new();
    stop.cancel();
    let interrupted = run(context, &stop).await;
    assert!(matches!(interrupted, Err(ReplayError::Interrupted)), "{interrupted:?}");
    world
        .execute(
            "INSERT INTO pipeline.replay_suspects (replay, object, generation, row, kept)
             SELECT r.id, h.src_object, h.src_gen, h.src_row, NULL FROM pipeline.replays AS r, health_data AS h
             WHERE r.ended_at IS NULL AND h.location_id = 1 AND h.date IN ('2025-01-01', '2025-01-02')",
        )
        .await;
}

/// The same, if it has read everything.
async fn interrupted_at_its_end(world: &World, context: &ReplayContext) {
    interrupted(world, context).await;
    world
        .execute(
            "UPDATE pipeline.replay_bookmarks AS b SET next_offset = r.end_offsets[b.partition + 1]
             FROM pipeline.replays AS r WHERE b.domain = r.domain",
        )
        .await;
}

/// Pass, rows read, inserted and removed.
fn counts(replay: &Replay) -> (i32, i64, i64, i64) {
    (replay.pass, replay.rows_read, replay.inserted, replay.removed)
}

/// Whoever did not get the answer to a COMMIT asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_asks_for_its_end_twice_reads_the_range_again_and_is_done_once() {
    let world = World::new("asked-twice").await;
    let roles = world.run_all();
    let context = context(&world, domain("health"));
    interrupted_at_its_end(&world, &context).await;
    let id: i64 = world.query("SELECT id FROM pipeline.replays").await;
    let running = Running { id, owner: context.owner.clone() };
    for asked in 1..=2 {
        let finished = replays::finish(&context.pool, context.domain, &running).await.expect("an answer");
        assert_eq!(finished, Finished::Again, "asked {asked} times");
    }
    let ended = run(&context, &CancellationToken::new()).await.expect("it goes on");
    assert_eq!(counts(&ended), (2, 1_000, 2, 2), "the rows that were removed are back");

    let asked_again = replays::finish(&context.pool, context.domain, &running).await.expect("an answer");
    assert_eq!(asked_again, Finished::Ended(Box::new(ended)));
    let other = Running { id, owner: "another process".into() };
    let refused = replays::finish(&context.pool, context.domain, &other).await;
    assert!(matches!(refused, Err(ApplyError::Lost(_))), "{refused:?}");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_reads_the_range_again_although_its_topic_got_another_partition_meanwhile() {
    let world = World::new("grown-replay").await;
    let roles = world.run_all();
    interrupted_at_its_end(&world, &context(&world, domain("health"))).await;
    // As the replay takes it when it goes on.
    world
        .execute(
            "INSERT INTO pipeline.replay_bookmarks (domain, partition, stream_id)
             SELECT domain, 1000, stream_id FROM pipeline.replays",
        )
        .await;
    let ended = replayed(&world, domain("health"), &everything()).await;
    assert_eq!(counts(&ended), (2, 1_000, 2, 2));
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_given_up_leaves_the_way_free() {
    let world = World::new("abandoned").await;
    let roles = world.run_all();
    interrupted(&world, &context(&world, domain("health"))).await;
    for (arguments, code, words) in [
        (vec!["replay", "health", "--abandon"], 1, "from beginning"),
        (vec!["replay", "health", "--abandon", "--yes"], 0, "2 rows were removed"),
    ] {
        let mut command = world.spawn(&arguments);
        assert_eq!(command.ended(COMMAND_WITHIN).await, Some(code), "{}", command.log());
        assert!(command.log().contains(words), "{}", command.log());
    }
    assert_eq!(world.query::<i64>("SELECT removed FROM pipeline.replays").await, 2);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 998);
    let only = Request { objects: vec!["health/all.csv".into()], ..everything() };
    assert_eq!(replayed(&world, domain("health"), &only).await.rows_read, 1_000);
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
