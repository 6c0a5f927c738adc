//! Processors that come and go under a load, and those that had better stay away.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::processors::{REVOKED, counted};
use super::{all_hold_and_nothing_was_missing, duplicates};
use crate::harness::http::{Door, within};
use crate::harness::{Process, SETTLED_WITHIN, World, data, processor_of, roles_but, seed};

const DRAINS_WITHIN: Duration = Duration::from_secs(30);
/// Who joins and leaves in vain does so at least twice in this time.
const STAYS_AWAY_FOR: Duration = Duration::from_secs(20);
const SHARED: &str =
    "SELECT count(*) = 4 AND count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'";

async fn world_of_small_batches(story: &str) -> World {
    World::with(story, |config| config.process.batch_rows_max = 200).await
}

fn join(world: &World) -> Process {
    world.spawn(&["process", "health"])
}

/// Drops files of their own months until it is told to stop; how many.
async fn drop_files(world: &World, stop: &CancellationToken) -> u32 {
    let mut files = 0;
    while !stop.is_cancelled() {
        let from = format!("{}-{:02}-01", 2000 + files / 12, files % 12 + 1);
        world.put(&format!("health/{files}.csv"), data::health(40, &from, 28, 1)).await;
        files += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    files
}

/// Drops files while processors come and go; then all of it holds.
async fn under_a_load(world: World, come_and_go: impl AsyncFnOnce(&World)) {
    let others = world.run(&roles_but(processor_of("health")));
    let stop = CancellationToken::new();
    let changes = async {
        come_and_go(&world).await;
        stop.cancel();
    };
    let (files, ()) = tokio::join!(drop_files(&world, &stop), changes);
    println!("{files} files came meanwhile");
    let last = join(&world);
    world.settle().await;
    assert_eq!(duplicates(&world).await, 0, "no batch was applied twice, nor half");
    all_hold_and_nothing_was_missing(&world).await;
    assert_eq!(last.terminate(DRAINS_WITHIN).await, Some(0));
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_that_all_come_and_go_at_once_repeat_nothing() {
    let world = world_of_small_batches("storm").await;
    under_a_load(world, async |world| {
        for round in 0..3 {
            // The names of those that are gone stay there, for people alone.
            world.execute("UPDATE pipeline.bookmarks SET owner = 'nobody' WHERE domain = 'health'").await;
            let processors: Vec<Process> = (0..4).map(|_| join(world)).collect();
            let all =
                "SELECT count(*) = 4 AND count(DISTINCT owner) = 4 FROM pipeline.bookmarks WHERE domain = 'health'";
            world.until("each has its partition", all).await;
            if round == 1 {
                drop(processors);
                continue;
            }
            // As a rolling deployment does it, all at once.
            for ended in futures::future::join_all(processors.into_iter().map(|it| it.terminate(DRAINS_WITHIN))).await {
                assert_eq!(ended, Some(0));
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn fifty_processors_that_come_and_go_repeat_nothing() {
    const CHANGES: usize = 50;
    /// One more than there are partitions: one has nothing to do.
    const AT_ONCE_MAX: usize = 5;
    let mut random = StdRng::seed_from_u64(seed());
    let world = world_of_small_batches("fifty").await;
    under_a_load(world, async |world| {
        let mut processors = Vec::new();
        let (mut joined, mut left, mut killed) = (0, 0, 0);
        for _ in 0..CHANGES {
            let comes = processors.is_empty() || (processors.len() < AT_ONCE_MAX && random.random_bool(0.55));
            if comes {
                processors.push(join(world));
                joined += 1;
            } else {
                let one = processors.swap_remove(random.random_range(0..processors.len()));
                if random.random_bool(0.3) {
                    one.kill();
                    killed += 1;
                } else {
                    // One that has hardly begun to start ends by the signal itself.
                    assert!(matches!(one.terminate(DRAINS_WITHIN).await, Some(0) | None));
                    left += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(100..2_500))).await;
        }
        println!("{joined} came, {left} left, {killed} were killed");
    })
    .await;
}

/// Whatever is written to health fails, as in a deadlock.
const FAILING: &str = "
    CREATE FUNCTION test.fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'not now'; END $$;
    CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON health_data FOR EACH STATEMENT EXECUTE FUNCTION test.fail();";
/// What whoever gives partitions back says then: where nothing fails, what was read has 25 s to be written.
const WAITED_BRIEFLY: &str = "they did not finish within 2s";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_group_does_not_wait_for_a_batch_that_failed_before() {
    let world = World::new("joins-failing").await;
    let others = world.run(&roles_but(processor_of("health")));
    world.execute(FAILING).await;
    let first = join(&world);
    world.put("health/a.csv", data::health(40, "2025-01-01", 10, 1)).await;
    within(DRAINS_WITHIN, "a batch fails", async || first.log().contains("apply failed").then_some(())).await;
    let second = join(&world);
    // Not how long all of it takes, which is mostly the start of a process and Kafka's part.
    let waited = async || first.log().contains(WAITED_BRIEFLY).then_some(());
    within(SETTLED_WITHIN, "the batch that fails is waited for briefly", waited).await;
    world.until("both have partitions", SHARED).await;

    world.execute("DROP FUNCTION test.fail CASCADE").await;
    world.settle().await;
    assert_eq!(duplicates(&world).await, 0);
    all_hold_and_nothing_was_missing(&world).await;
    for processor in [first, second] {
        assert_eq!(processor.terminate(DRAINS_WITHIN).await, Some(0));
    }
    others.stop().await;
}

/// Whether all partitions are this processor's.
fn all_of(processor: &Process) -> String {
    let mark = processor.mark();
    format!("SELECT count(*) = 4 AND bool_and(owner LIKE '%{mark}%') FROM pipeline.bookmarks WHERE domain = 'health'")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_cannot_reach_postgres_stays_out_of_its_group_until_it_can() {
    let world = World::new("cut-off").await;
    let others = world.run(&roles_but(processor_of("health")));
    let options: PgConnectOptions = world.database_url().parse().expect("a URL");
    let direct = format!("{}:{}", options.get_host(), options.get_port());
    let door = Door::new().await;
    let open = door.open(&direct).await;
    let url = world.database_url().replace(&direct, &door.address);
    let cut_off = world.spawn_with(&["process", "health"], &[("FRESHET__POSTGRES__URL", url)]);
    world.until("it has all partitions", &all_of(&cut_off)).await;

    // It keeps the connections that it has, as where Postgres takes no more of them.
    open.abort();
    assert!(open.await.is_err(), "the door is shut");
    let well = world.serve(&["process", "health"]);
    world.until("the other one has all partitions", &all_of(&well)).await;
    let revoked = counted(&well, REVOKED).await;
    tokio::time::sleep(STAYS_AWAY_FOR).await;
    assert_eq!(counted(&well, REVOKED).await, revoked, "{}", cut_off.log());
    assert_eq!(cut_off.log().matches("stays out of its group").count(), 1, "{}", cut_off.log());

    door.open(&direct).await;
    world.until("both have partitions", SHARED).await;
    world.put("health/a.csv", data::health(40, "2025-01-01", 10, 1)).await;
    world.settle().await;
    all_hold_and_nothing_was_missing(&world).await;
    for processor in [cut_off, well] {
        assert_eq!(processor.terminate(DRAINS_WITHIN).await, Some(0));
    }
    others.stop().await;
}
