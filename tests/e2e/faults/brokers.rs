//! The broker dies while rows are on their way through it.

use std::time::Duration;

use freshet::roles::Role;

use super::{all_hold_and_nothing_was_missing, duplicates, rows_in_topic};
use crate::harness::http::within;
use crate::harness::{OwnStack, SETTLED_WITHIN, Server, data, roles_but};

/// Long enough for everybody to find the broker gone, and more than once.
const DOWN_FOR: Duration = Duration::from_secs(3);

/// A statement that writes to health takes so long that the broker dies before all rows have come out.
const SLOWLY: &str = "
    CREATE FUNCTION test.slowly() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE TRIGGER slowly BEFORE INSERT ON health_data FOR EACH STATEMENT EXECUTE FUNCTION test.slowly();";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_rows_go_in_and_again_while_they_come_out_loses_and_doubles_none() {
    const FILES: i32 = 4;
    const ROWS: i64 = FILES as i64 * 4_000;
    let mut stack = OwnStack::start("killed-broker").await;
    let world = stack
        .world(|config| {
            config.ingest.chunk_bytes = 16_384;
            // The files take a quarter of a minute to go in, and many batches to come out.
            config.ingest.rows_per_second = 1_000;
            config.process.batch_rows_max = 20;
        })
        .await;
    let listener = world.run(&[Role::Ingest]);
    for number in 0..FILES {
        world.put(&format!("health/{number}.csv"), data::health(40, "2025-01-01", 100, number)).await;
    }
    world.until("rows go in", "SELECT count(*) > 1 FROM pipeline.objects WHERE resume_row > 0").await;
    stack.freeze(Server::Kafka);
    tokio::time::sleep(DOWN_FOR).await;
    stack.thaw(Server::Kafka);
    stack.kill(Server::Kafka).await;
    tokio::time::sleep(DOWN_FOR).await;
    let published = format!("SELECT count(*) = {FILES} FROM pipeline.objects WHERE state = 'published'");
    assert!(!world.query::<bool>(&published).await, "the broker died in the middle");
    stack.start_again().await;
    world.until_within(SETTLED_WITHIN, "all rows are in", &published).await;
    assert!(rows_in_topic(&world, "health").await >= ROWS, "no row is lost");

    world.execute(SLOWLY).await;
    let others = world.run(&roles_but(Role::Ingest));
    let received = "SELECT coalesce(sum(test.length(received)), 0)::bigint FROM pipeline.progress";
    // What a second look would find may be all.
    let some = async || Some(world.query::<i64>(received).await).filter(|rows| *rows > 0);
    let so_far = within(Duration::from_secs(40), "rows come out", some).await;
    stack.kill(Server::Kafka).await;
    println!("{so_far} of {ROWS} rows had come out");
    assert!(so_far < ROWS, "the broker died in the middle");
    world.execute("DROP FUNCTION test.slowly CASCADE").await;
    // What a processor has fetched goes on coming out; what is dropped now has to wait.
    world.put("health/meanwhile.csv", data::health(40, "2025-06-01", 100, 9)).await;
    tokio::time::sleep(DOWN_FOR).await;
    stack.start_again().await;
    world.settle().await;
    assert_eq!(rows_in_topic(&world, "health").await, ROWS + 4_000 + duplicates(&world).await);
    all_hold_and_nothing_was_missing(&world).await;
    others.stop().await;
    listener.stop().await;
}
