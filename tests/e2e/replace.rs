//! A contract that says `onOverwrite: replace`: rows that only an older version of a file holds leave the table once the newer
//! one is applied, whichever comes first, and by a replay and in a shadow alike.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use freshet::roles::Role;
use freshet_processors::replay::{self, Point, ReplayContext, Request, Shadow};
use freshet_topics::failpoint;
use freshet_topics::pipeline::Pipeline;
use sqlx::Connection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::http::within;
use crate::harness::sessions::one_session;
use crate::harness::{SETTLED_WITHIN, World, all_roles, data, folder, processor_of, roles_but};

/// How long a process may take to come to its failpoint.
const AT_ITS_POINT_WITHIN: Duration = Duration::from_secs(60);

/// The shipped pipeline, but that files of a domain replace what was said under their name.
fn replacing(story: &str, domain: &str) -> (PathBuf, &'static Pipeline) {
    let (from, to) = (PathBuf::from("pipelines/climate_health"), folder().join(format!("pipeline-{story}")));
    for inner in ["domains", "outputs"] {
        fs::create_dir_all(to.join(inner)).expect("make a folder");
        for file in fs::read_dir(from.join(inner)).expect("the shipped pipeline") {
            let (path, name) = file.map(|file| (file.path(), file.file_name())).expect("a file");
            let mut text = fs::read_to_string(path).expect("read a file");
            if name == format!("{domain}.odcs.yaml").as_str() {
                let known = "      - {vendor: freshet, property: onNewColumn, value: keep}\n";
                assert!(text.contains(known), "{text}");
                text = text.replace(
                    known,
                    &format!("{known}      - {{vendor: freshet, property: onOverwrite, value: replace}}\n"),
                );
            }
            fs::write(to.join(inner).join(name), text).expect("write a file");
        }
    }
    let pipeline = Pipeline::read(&to).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    (to, pipeline)
}

async fn world(story: &str) -> (PathBuf, World) {
    world_of(story, "health").await
}

async fn world_of(story: &str, domain: &str) -> (PathBuf, World) {
    let (path, pipeline) = replacing(story, domain);
    (path, World::with(story, |config| config.pipeline = pipeline).await)
}

const ROWS: &str = "SELECT count(*) FROM health_data";

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_with_fewer_rows_takes_the_others_out_and_the_outputs_follow() {
    let (_, world) = world("replace").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.put("health/b.csv", data::health(3, "2025-07-01", 20, 1)).await;
    world.put("hospital/a.csv", data::hospital(3, "2025-08-01", 40, 1)).await;
    world.settle().await;
    world.next_second().await;
    // Fewer days; some of the days that go are said by a newer file, and stay as that says.
    world.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    world.put("health/c.csv", data::health(3, "2025-08-09", 5, 90)).await;
    world.put("hospital/a.csv", data::hospital(3, "2025-08-01", 10, 50)).await;
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, 3 * (20 + 13));
    let merged: i64 = world.query("SELECT count(*) FROM hospital_data").await;
    assert_eq!(merged, 120, "the others merge, as they say");
    world.all_hold().await;

    // What is the same as before replaces nothing; a header alone replaces all.
    world.next_second().await;
    world.put("health/b.csv", data::health(3, "2025-07-01", 20, 1)).await;
    world.put("health/a.csv", "location_id,date,dengue_cases\n").await;
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, 3 * (20 + 5));
    world.all_hold().await;
    roles.stop().await;
}

/// Holds the first version of a file back as one that failed so often that it no longer holds back the newer one.
async fn hold_back_the_older(world: &World) {
    world
        .execute(
            "CREATE FUNCTION test.hold_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NOT EXISTS (SELECT FROM pipeline.objects WHERE key = NEW.key) AND NEW.key = 'health/a.csv'
                THEN NEW.next_attempt_at := now() + interval '1 hour'; NEW.attempts := 5; END IF;
                RETURN NEW;
             END $$;
             CREATE TRIGGER test_hold_back BEFORE INSERT ON pipeline.objects
                FOR EACH ROW EXECUTE FUNCTION test.hold_back();",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_older_version_that_arrive_after_the_newer_one_are_not_written() {
    let (_, world) = world("replace-late").await;
    hold_back_the_older(&world).await;
    let roles = world.run(&all_roles());
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.until("it is found", "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/a.csv')").await;
    world.next_second().await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    world
        .until(
            "the newer one is applied",
            "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/a.csv' AND state = 'applied')",
        )
        .await;
    world.execute("UPDATE pipeline.objects SET next_attempt_at = now()").await;
    world.settle().await;
    let states: Vec<String> = world.column("SELECT state FROM pipeline.objects ORDER BY src_ord").await;
    assert_eq!(states, ["applied", "applied"]);
    let stale: i64 = world.query("SELECT sum(stale)::bigint FROM pipeline.progress").await;
    assert_eq!((world.query::<i64>(ROWS).await, stale), (30, 120), "all of the older one is stale");
    world.all_hold().await;
    roles.stop().await;
}

fn context(world: &World) -> ReplayContext {
    ReplayContext {
        domain: world.services.config.pipeline.domain("health").expect("health"),
        settings: world.services.config.process.clone(),
        kafka: world.services.config.kafka.clone(),
        pool: world.services.pool.clone(),
        owner: format!("{} {:08x}", world.name(), rand::random::<u32>()),
        rows_per_second: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_shadow_bring_no_replaced_row_back() {
    let (_, world) = world("replace-replay").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.settle().await;
    let request = Request { from: Point::Beginning, to: None, objects: Vec::new() };
    let (told, _) = watch::channel(Default::default());
    let stop = CancellationToken::new();
    // One that is filled before the overwrite, and swapped after it.
    let context = context(&world);
    let mut shadow = Shadow::open(&context, &request).await.expect("open");
    shadow.fill(&told, &stop).await.expect("fill");
    world.next_second().await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    world.settle().await;
    shadow.fill(&told, &stop).await.expect("fill");
    let compared = shadow.compare(&told, &stop).await.expect("compare");
    assert_eq!((compared.only_live, compared.only_shadow, compared.changed), (0, 0, 0), "{compared:#?}");
    shadow.swap(&told, &stop).await.expect("swap");
    world.all_hold().await;

    let ended = replay::in_place(&context, &request, &told, &stop).await.expect("replay");
    assert_eq!((ended.inserted, ended.changed, ended.removed), (0, 0, 0), "{ended:?}");
    let mut shadow = Shadow::open(&context, &request).await.expect("open");
    shadow.fill(&told, &stop).await.expect("fill");
    shadow.swap(&told, &stop).await.expect("swap");
    assert_eq!(world.query::<i64>(ROWS).await, 30);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_killed_as_it_replaces_has_replaced_all_or_nothing() {
    let (path, world) = world("replace-killed").await;
    let roles = world.run(&roles_but(Role::Ingest));
    let pipeline = [("FRESHET_PIPELINE", path.display().to_string())];
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    let listener = world.spawn_with(&["ingest"], &pipeline);
    world.settle().await;
    listener.kill();
    world.next_second().await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    let point = format!("{}=return(kill)", failpoint::Point::Replaced.name());
    let failing = [pipeline[0].clone(), ("FAILPOINTS", point)];
    world.spawn_with(&["ingest"], &failing).killed(AT_ITS_POINT_WITHIN).await;
    assert_eq!(world.query::<i64>(ROWS).await, 120, "nothing is taken out before all is");
    let listener = world.spawn_with(&["ingest"], &pipeline);
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, 30);
    world.all_hold().await;
    listener.kill();
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_being_applied_while_their_version_is_replaced_do_not_outlive_it() {
    let (path, world) = world("replace-race").await;
    let roles = world.run(&roles_but(processor_of("health")));
    let slow = format!("{}=sleep(2500)", failpoint::Point::BeforeCommit.name());
    let variables = [("FRESHET_PIPELINE", path.display().to_string()), ("FAILPOINTS", slow)];
    let processor = world.spawn_with(&["process", "health"], &variables);
    // Something is published whichever of the two below comes first.
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/kept.csv", data::health(3, "2025-07-01", 20, 1)).await;
    world.settle().await;
    let kept: i64 = world.query(ROWS).await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    let open = "SELECT EXISTS (SELECT FROM pg_stat_activity JOIN pg_locks USING (pid)
        WHERE relation = 'health_data'::regclass AND mode = 'RowExclusiveLock'
            AND state = 'idle in transaction' AND now() - state_change > interval '300 ms')";
    world.until("a batch is written, and its transaction is open", open).await;
    // It has no rows: nothing of it has to be applied before it replaces the other.
    world.put("health/a.csv", "location_id,date,dengue_cases\n").await;
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, kept);
    world.all_hold().await;
    processor.kill();
    roles.stop().await;
}

/// A world that soon tries again what failed.
async fn quick_world(story: &str) -> World {
    let (_, pipeline) = replacing(story, "health");
    World::with(story, |config| {
        config.pipeline = pipeline;
        config.ingest.retry_max_ms = 1_000;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_refers_to_hold_back_their_own_file_alone() {
    let world = quick_world("replace-refused").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.settle().await;
    world
        .execute(
            "CREATE TABLE alerts (health_id bigint REFERENCES health_data (id));
             INSERT INTO alerts SELECT id FROM health_data WHERE date = '2025-09-01'",
        )
        .await;
    world.next_second().await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    let written = "SELECT count(*) = 30 FROM health_data WHERE src_object = (SELECT max(id) FROM pipeline.objects)";
    world.until("the newer version is in the table", written).await;

    world.put("health/b.csv", data::health(3, "2025-07-01", 20, 1)).await;
    world.put("hospital/a.csv", data::hospital(3, "2025-08-01", 10, 1)).await;
    let others = "SELECT count(*) = 2 FROM pipeline.objects
        WHERE key IN ('health/b.csv', 'hospital/a.csv') AND state = 'applied'";
    world.until("the other files are applied", others).await;
    assert_eq!(world.object("health/a.csv").await.state, "published");
    assert_eq!(world.query::<i64>(ROWS).await, 3 * (40 + 20), "none of its rows is removed before all are");

    world.execute("DELETE FROM alerts").await;
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, 3 * (10 + 20));
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_locked_holds_back_the_files_of_no_other_domain() {
    let world = quick_world("replace-locked").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.put("health/b.csv", data::health(3, "2025-07-01", 20, 1)).await;
    world.settle().await;
    world.next_second().await;
    let mut holder = sqlx::PgConnection::connect(world.database_url()).await.expect("connect");
    let lock = "BEGIN; LOCK TABLE health_data IN SHARE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.expect("lock the table");
    // It has no rows: nothing of it has to be applied before it replaces the other.
    world.put("health/a.csv", "location_id,date,dengue_cases\n").await;
    let published = "SELECT count(*) = 1 FROM pipeline.objects WHERE state = 'published'";
    world.until("the newer version waits for the lock", published).await;
    world.put("hospital/a.csv", data::hospital(3, "2025-08-01", 10, 1)).await;
    let applied = "SELECT bool_or(state = 'applied') FROM pipeline.objects WHERE key = 'hospital/a.csv'";
    world.until("the file of another domain is applied", applied).await;

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.expect("let go of the table");
    world.settle().await;
    assert_eq!(world.query::<i64>(ROWS).await, 3 * 20);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_begins_to_replace_takes_out_what_was_overwritten_before() {
    let world_before = World::new("replace-begins").await;
    let roles = world_before.run_all();
    world_before.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world_before.settle().await;
    world_before.next_second().await;
    world_before.put("health/a.csv", data::health(3, "2025-08-01", 10, 50)).await;
    world_before.settle().await;
    assert_eq!(world_before.query::<i64>(ROWS).await, 120);
    roles.stop().await;
    let pool = &world_before.services.pool;
    let (_, pipeline) = replacing("begins", "health");
    let health = pipeline.domain("health").expect("health");
    assert_eq!(freshet_sinks::ledger::replace_overwritten(pool, health).await.expect("replace"), 90);
    assert_eq!(freshet_sinks::ledger::replace_overwritten(pool, health).await.expect("replace"), 0);
    assert_eq!(world_before.query::<i64>(ROWS).await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_overwrite_costs_follows_the_rows_that_it_replaces_and_not_the_table() {
    let (_, world) = world("replace-cost").await;
    let roles = world.run_all();
    world.put("health/large.csv", data::health(100, "2025-01-01", 200, 1)).await;
    world.put("health/small.csv", data::health(3, "2026-01-01", 40, 1)).await;
    world.settle().await;
    world.next_second().await;
    world.put("health/small.csv", data::health(3, "2026-01-01", 10, 50)).await;
    world.settle().await;
    roles.stop().await;
    // As if its older version were not replaced yet, and had rows again.
    world
        .execute(
            "WITH older AS (UPDATE pipeline.objects SET replaced_by = NULL WHERE replaced_by IS NOT NULL RETURNING id)
             UPDATE health_data SET src_object = (SELECT id FROM older) WHERE location_id = 7;
             ANALYZE health_data;",
        )
        .await;
    // What the sessions of the roles counted is in the statistics once they are gone; some keep it for ten seconds.
    world.services.pool.close().await;
    let pool = one_session(&world.services.pool).await;
    let alone = "SELECT count(*) = 0 FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    within(SETTLED_WITHIN, "no other session is left", async || {
        let is_alone: bool = sqlx::query_scalar(alone).fetch_one(&pool).await.expect("the sessions");
        is_alone.then_some(())
    })
    .await;
    let look = async || -> Vec<i64> {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&pool).await.expect("tell");
        let looks = "SELECT ARRAY[seq_scan, seq_tup_read, (SELECT sum(idx_scan)::bigint FROM pg_stat_user_indexes
                WHERE indexrelname = 'health_data_src_object')]
            FROM pg_stat_user_tables WHERE relname = 'health_data'";
        sqlx::query_scalar(looks).fetch_one(&pool).await.expect("count")
    };
    let before = look().await;
    let health = world.services.config.pipeline.domain("health").expect("health");
    assert_eq!(freshet_sinks::ledger::replace_overwritten(&pool, health).await.expect("replace"), 200);
    let after = look().await;
    assert!(after[2] > before[2], "the index is used: {before:?} {after:?}");
    assert_eq!(after[..2], before[..2], "the table was read from end to end");
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_an_overwrite_takes_out_leave_the_outputs_and_their_facts_wait_for_them() {
    let (_, world) = world_of("replace-places", "locations").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/a.csv", data::health(3, "2025-08-01", 40, 1)).await;
    world.settle().await;
    let published = async || -> Vec<i64> {
        world.query("SELECT ARRAY[count(*), count(DISTINCT location_id)] FROM metrics.current_health_risks").await
    };
    let orphans = "SELECT count(*) FROM health_data AS h WHERE NOT EXISTS (SELECT FROM locations AS l WHERE l.id = h.location_id)";
    assert_eq!((published().await, world.query::<i64>(orphans).await), (vec![120, 3], 0));

    world.next_second().await;
    world.put("locations/all.csv", data::locations(2)).await;
    world.settle().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM locations").await, 2);
    // Nothing that was said of the place is lost: it is counted as an orphan, and is in no output.
    assert_eq!((published().await, world.query::<i64>(orphans).await), (vec![80, 2], 40));
    world.all_hold().await;

    // Once it is known again, all of it is there again.
    world.next_second().await;
    world.put("locations/more.csv", data::locations(3)).await;
    world.settle().await;
    assert_eq!((published().await, world.query::<i64>(orphans).await), (vec![120, 3], 0));
    world.all_hold().await;
    roles.stop().await;
}
