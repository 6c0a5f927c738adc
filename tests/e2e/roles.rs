//! Several of each role at once, and roles that are killed one by one: nothing is lost and nothing comes twice.

use std::time::Duration;

use freshet::roles::Role;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::harness::http::within;
use crate::harness::{Process, SETTLED_WITHIN, World, all_roles, data, seed};

/// How many files each listener has published, and how many messages each processor has applied.
const WORK: &str = "
    CREATE TABLE test.work (owner text, files bigint NOT NULL DEFAULT 0, messages bigint NOT NULL DEFAULT 0);
    CREATE FUNCTION test.published() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO test.work (owner, files) VALUES (OLD.lease_owner, 1);
        RETURN NULL;
    END $$;
    CREATE FUNCTION test.applied() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO test.work (owner, messages) VALUES (NEW.owner, NEW.next_offset - OLD.next_offset);
        RETURN NULL;
    END $$;
    CREATE TRIGGER test_published AFTER UPDATE ON pipeline.objects
        FOR EACH ROW WHEN (NEW.published_at IS DISTINCT FROM OLD.published_at) EXECUTE FUNCTION test.published();
    CREATE TRIGGER test_applied AFTER UPDATE ON pipeline.bookmarks
        FOR EACH ROW WHEN (NEW.next_offset > OLD.next_offset) EXECUTE FUNCTION test.applied();";

#[tokio::test(flavor = "multi_thread")]
async fn two_of_every_role_share_the_work_and_nothing_comes_twice() {
    let seed = seed();
    let world = World::with("pairs", |config| config.ingest.chunk_bytes = 8_192).await;
    let roles = world.run_all();
    let others: Vec<Process> = [&["ingest"][..], &["process", "health"], &["process", "climate"], &["metrics"]]
        .map(|role| world.spawn(role))
        .into();
    for domain in ["health", "climate"] {
        let shared = format!("SELECT count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = '{domain}'");
        world.until("two processors share the partitions", &shared).await;
    }
    let listens = async || others[0].log().contains("listening").then_some(());
    within(Duration::from_secs(40), "the second listener listens", listens).await;
    let mut files = data::generated(|options| {
        options.seed = seed;
        options.entities = 20;
        options.days = 60;
        options.dirty = 0.05;
        options.rows_per_file = 200;
    });
    files.shuffle(&mut StdRng::seed_from_u64(seed));
    for (key, content) in &files {
        world.put(key, content).await;
    }
    // Overwritten while it may be under way.
    let (key, content) = files.iter().find(|(key, _)| key.starts_with("health/")).expect("a health file");
    world.put(key, [content.as_slice(), b"1,2025-01-01,5\n"].concat()).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    assert!(others[0].log().contains("published"), "the second listener had its share:\n{}", others[0].log());
    world.all_hold().await;
    drop(others);
    roles.stop().await;
}

/// Drops more files than these that were dropped already, so that some wait to be published all the time, until it is told
/// to stop; how many.
async fn keep_some_waiting(world: &World, dropped: usize, stop: &CancellationToken) -> usize {
    /// Some seconds' work of three listeners.
    const WAITING: usize = 12;
    let mut more = 0;
    while !stop.is_cancelled() {
        let through = "SELECT count(*) FROM pipeline.objects WHERE published_at IS NOT NULL";
        let through = world.query::<i64>(through).await as usize;
        if dropped + more < through + WAITING {
            let from = format!("2024-{:02}-01", more % 12 + 1);
            world.put(&format!("health/more-{more}.csv"), data::health(100, &from, 3, more as i32)).await;
            more += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    more
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_processors_that_come_and_go_share_a_load_on_twelve_partitions() {
    let world = World::with("twelve", |config| {
        config.kafka.partitions = 12;
        config.ingest.chunk_bytes = 8_192;
        // Of each listener: slow enough that the load is under way while others come and go.
        config.ingest.workers = 2;
        config.ingest.rows_per_second = 160;
    })
    .await;
    world.execute(WORK).await;
    let is_shared = |role: &Role| matches!(role, Role::Process(domain) if domain.name == "health");
    let others: Vec<Role> = all_roles().into_iter().filter(|role| *role != Role::Ingest && !is_shared(role)).collect();
    let others = world.run(&others);
    let listen = || world.spawn(&["ingest"]);
    let process = || world.spawn(&["process", "health"]);
    let (listeners, processors) = ([listen(), listen()], [process(), process()]);
    let owners = "SELECT count(*) = 12 AND count(DISTINCT owner) = 2 FROM pipeline.bookmarks WHERE domain = 'health'";
    world.until("two processors share twelve partitions", owners).await;
    let files = data::generated(|options| {
        options.seed = seed();
        options.entities = 100;
        options.days = 90;
        options.dirty = 0.01;
        options.rows_per_file = 300;
        options.domains = vec!["locations".into(), "health".into()];
    });
    for (key, content) in &files {
        world.put(key, content).await;
    }

    let done = |what: &str, by: &Process| {
        format!("SELECT coalesce(sum({what}), 0)::bigint FROM test.work WHERE owner LIKE '%{}%'", by.mark())
    };
    let (published, applied) = (|by: &Process| done("files", by), |by: &Process| done("messages", by));
    let some = |count: String| format!("SELECT ({count}) > 0");
    // However long it takes to start and to share, there is something to do meanwhile.
    let stop = CancellationToken::new();
    let come_and_go = async {
        for (listener, processor) in listeners.iter().zip(&processors) {
            world.until("a first listener has a share", &some(published(listener))).await;
            world.until("a first processor has a share", &some(applied(processor))).await;
        }
        let (third_listener, third_processor) = (listen(), process());
        let share = some(published(&third_listener));
        world.until_within(SETTLED_WITHIN, "the listener that came has a share", &share).await;
        let share = some(applied(&third_processor));
        world.until_within(SETTLED_WITHIN, "the processor that came has a share", &share).await;
        let ([first_listener, second_listener], [first_processor, second_processor]) = (listeners, processors);
        for gone in [first_listener, first_processor] {
            assert_eq!(gone.terminate(Duration::from_secs(40)).await, Some(0));
        }
        stop.cancel();
        ([second_listener, third_listener], [second_processor, third_processor])
    };
    let (more, (listeners_left, processors_left)) =
        tokio::join!(keep_some_waiting(&world, files.len(), &stop), come_and_go);
    let dropped = files.len() + more;

    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (dropped as u64, 0), "{waited}");
    world.all_hold().await;
    let by_listeners = "SELECT array_agg(files ORDER BY files) FROM (
            SELECT sum(files)::bigint AS files FROM test.work WHERE files > 0 GROUP BY owner) AS by_owner";
    let by_listeners: Vec<i64> = world.query(by_listeners).await;
    assert_eq!((by_listeners.len(), by_listeners.iter().sum()), (3, dropped as i64), "{by_listeners:?}");
    let left = "SELECT count(*) = 12 AND count(DISTINCT owner) = 2 AND count(*) FILTER (WHERE owner LIKE '%MARK%') > 0
                FROM pipeline.bookmarks WHERE domain = 'health'";
    for processor in &processors_left {
        world.until("the two that are left share all", &left.replace("MARK", &processor.mark())).await;
    }
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    drop(listeners_left);
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_one_by_one_lose_nothing_and_repeat_nothing() {
    const ROLES: [&[&str]; 6] = [
        &["ingest"],
        &["process", "locations"],
        &["process", "climate"],
        &["process", "health"],
        &["process", "hospital"],
        &["metrics"],
    ];
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::with("killed-roles", |config| {
        config.ingest.chunk_bytes = 16_384;
        config.ingest.lease_ms = 2_000;
        config.ingest.rows_per_second = 4_000;
    })
    .await;
    let mut processes: Vec<Process> = ROLES.iter().map(|role| world.spawn(role)).collect();
    let files = data::generated(|options| {
        options.seed = seed;
        options.entities = 20;
        options.days = 200;
        options.dirty = 0.05;
        options.rows_per_file = 2_000;
    });
    for (key, content) in &files {
        world.put(key, content).await;
    }
    // The listener is killed most: it is the one with resume points.
    for victim in [0, 2, 0, 3, 5, 0, 4, 0] {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..700))).await;
        std::mem::replace(&mut processes[victim], world.spawn(ROLES[victim])).kill();
    }
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    world.all_hold().await;
    // Kafka lost nothing, so whatever was published again went on at its resume point, under its own numbers.
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    assert!(processes.iter_mut().all(Process::runs), "a role ended by itself");
}

/// A server that disappears sends nothing, so a connection that only waits for its answer would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn every_connection_to_postgres_is_asked_whether_its_server_is_still_there() {
    let world = World::new("keepalive").await;
    let port = world.database_url().parse::<PgConnectOptions>().expect("a URL").get_port();
    let roles = [&["ingest"][..], &["process", "health"], &["metrics"]].map(|role| world.spawn(role));
    world.put("health/one.csv", data::health(1, "2025-01-01", 10, 1)).await;
    world.settle().await;
    for role in &roles {
        let all_are_asked = async || {
            let timers = role.tcp_timers(port);
            (!timers.is_empty() && timers.iter().all(|timer| *timer == 2)).then_some(())
        };
        within(Duration::from_secs(20), "the kernel asks about every connection", all_are_asked).await;
    }
}
