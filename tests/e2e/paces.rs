//! What publications take of the time and the machine: a change waits for nothing that grows with the history, much that is
//! on its way goes first, and a program that is told to stop does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use freshet::roles::Role;
use freshet::status::observe;
use freshet_sinks::outputs::{Manifest, POINTER, read_current};
use freshet_sinks::tables;
use freshet_topics::Pipeline;

use crate::harness::proxy::{Fault, kind};
use crate::harness::{Process, Roles, SETTLED_WITHIN, World, data, folder, roles_but};

async fn until_published(world: &World, limit: Duration, what: &str, is_as_wanted: impl Fn(&Manifest) -> bool) {
    let started = Instant::now();
    let published = async || {
        // While it is lost, it cannot be read.
        let found = read_current(&world.services.s3, world.processed_bucket()).await;
        found.ok().flatten().is_some_and(|manifest| is_as_wanted(&manifest))
    };
    while !published().await {
        assert!(started.elapsed() < limit, "{}: not in time: {what}", world.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_published_while_the_outputs_are_verified() {
    let (world, proxy) = World::behind_a_proxy("beside", |config| config.metrics.verify_interval_ms = 200).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(2)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 10, 1)).await;
    world.settle().await;

    // As where there are very many data files: listing them takes a minute.
    proxy.break_by(|request| {
        let is_of_data = request.uri().query().is_some_and(|query| query.contains("prefix=metrics%2Fdata"));
        (kind(request) == "list" && is_of_data).then_some(Fault::Late(Duration::from_secs(60)))
    });
    while proxy.broken() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = world.manifest().await.version;
    world.put("health/more.csv", data::health(1, "2025-07-03", 1, 2)).await;
    until_published(&world, Duration::from_secs(20), "beside the verification", |it| it.version > before).await;
    proxy.recover();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

/// A world of 500 days that are applied and not published, in which nothing runs.
async fn applied(story: &str) -> World {
    let world = World::new(story).await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(2)).await;
    world.put("health/all.csv", data::health(2, "2024-01-01", 500, 1)).await;
    world.applied().await;
    roles.stop().await;
    world
}

/// A world of 500 days that are published, in which nothing but the publisher runs.
async fn published(story: &str) -> (World, Roles) {
    let world = applied(story).await;
    let roles = world.run(&[Role::Metrics]);
    until_published(&world, Duration::from_secs(60), "all that there is", |it| it.windows.len() > 80).await;
    world.until("no marks", "SELECT NOT EXISTS (SELECT FROM pipeline.marks)").await;
    (world, roles)
}

/// Changes rows of health, as a processor would.
async fn change(world: &World, condition: &str) {
    world.execute(&format!("UPDATE health_data SET dengue_cases = dengue_cases + 1 WHERE {condition}")).await;
    let marks = format!(
        "INSERT INTO pipeline.marks (domain, dates)
         SELECT 'health', unnest(range_agg(daterange(date, date + 1))) FROM health_data WHERE {condition}"
    );
    world.execute(&marks).await;
    world.execute("SELECT pg_notify('freshet_marks', 'health')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_waited_for_a_table_delays_none_after_it() {
    let (world, roles) = published("waited").await;
    let pool = world.services.pool.clone();
    let stream = tokio::spawn(async move {
        let mark = "WITH mark AS (
                INSERT INTO pipeline.marks (domain, dates) VALUES ('health', '[2024-03-03,2024-03-04)') RETURNING id
            ) SELECT pg_notify('freshet_marks', 'health') FROM mark";
        loop {
            sqlx::query(mark).execute(&pool).await.expect("a mark");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut holder = world.services.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE health_data IN ACCESS EXCLUSIVE MODE").execute(&mut *holder).await.expect("the lock");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let waited: i64 = world.query("SELECT max(id) FROM pipeline.marks").await;
    holder.commit().await.expect("released");
    let taken = format!("SELECT NOT EXISTS (SELECT FROM pipeline.marks WHERE id <= {waited})");
    world.until("the publication that waited", &taken).await;

    let before = world.manifest().await.version;
    change(&world, "date = '2024-05-05'").await;
    // Four times what it waited is 24 s, and the stream goes on.
    until_published(&world, Duration::from_secs(10), "one day", |it| it.version > before).await;
    stream.abort();
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_load_little_is_published_and_after_it_all_of_it() {
    let (world, roles) = published("beside-a-load").await;

    // Else they might wait for their rest, and not for the load.
    until_copies_are_rested(&world).await;

    load(&world).await;
    let before = world.manifest().await.version;
    change(&world, "date = '2024-05-05'").await;
    // The load is over after a minute in which no bookmark moved.
    until_published(&world, Duration::from_secs(40), "one day", |it| it.version > before).await;
    let before = world.manifest().await.version;
    change(&world, "true").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.manifest().await.version, before, "what is on its way goes first");
    // The listener has it, and nobody else may take it while the lease is held or soon after.
    world
        .execute(
            "UPDATE pipeline.objects SET state = 'publishing', lease_epoch = 1, lease_from = now(),
                lease_until = now() + interval '1 hour', wait_from = now(), next_attempt_at = now() + interval '2 hours'
             WHERE key = 'health/large.csv'",
        )
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.manifest().await.version, before, "a file that is being read is on its way");
    let behind = observe::outputs(&world.services).await.expect("the outputs").copies_behind;
    assert!(!behind.is_empty(), "copies of one day more wait too");

    // Without the pointer readers have nothing: that waits for no load.
    let request = world.services.s3.delete_object().bucket(world.processed_bucket()).key(POINTER);
    request.send().await.expect("delete the pointer");
    until_published(&world, SETTLED_WITHIN, "the lost version", |it| it.version > before).await;
    let before = world.manifest().await.version;
    change(&world, "true").await;
    world.execute("UPDATE pipeline.objects SET state = 'applied' WHERE key = 'health/large.csv'").await;
    until_published(&world, SETTLED_WITHIN, "all of it, at once", |it| it.version > before).await;
    world.until_within(SETTLED_WITHIN, "all of it", "SELECT NOT EXISTS (SELECT FROM pipeline.marks)").await;
    until_copied(&world).await;
    roles.stop().await;
}

/// A large file, published long ago, whose rows are being applied; one partition is halted. Nobody sweeps the ledger.
async fn load(world: &World) {
    world
        .execute("UPDATE pipeline.bookmarks SET updated_at = now(), halted = CASE partition WHEN 0 THEN 'a test' END")
        .await;
    world.execute(&large_file("health", "published", "1 hour")).await;
}

/// Adds a large file to the ledger that was found and published so long ago, and of which the processors have no row yet.
fn large_file(domain: &str, state: &str, ago: &str) -> String {
    format!(
        "INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord, state, discovered_at,
            published_at, stream_id, end_offsets)
         SELECT bucket, '{domain}/large.csv', '{state}', 1000000000, last_modified, '{domain}', src_ord + 1000000, '{state}',
            now() - interval '{ago}', now() - interval '{ago}', b.stream_id, b.end_offsets
         FROM pipeline.objects, (
            SELECT stream_id, array_agg(next_offset + 1000 ORDER BY partition) AS end_offsets
            FROM pipeline.bookmarks WHERE domain = 'health' GROUP BY stream_id
         ) AS b
         WHERE domain = 'health'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_load_an_output_that_fails_puts_off_no_other() {
    let world = applied("load-failing").await;
    // It has a window for each of 500 days, and fails on the last of them.
    let failing = "/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [location_id, date]\n*/
        SELECT h.location_id, h.date, 1 / (date '2025-05-14' - h.date) AS share FROM health_data AS h, pg_sleep(0.02)
        WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false";
    let pipeline = pipeline_with("failing-pipeline", failing);
    let mut setup = world.spawn(&["setup", "--pipeline", &pipeline]);
    assert_eq!(setup.ended(Duration::from_secs(60)).await, Some(0), "{}", setup.log());
    let metrics = world.spawn(&["metrics", "--pipeline", &pipeline]);
    world.until("the output fails", "SELECT EXISTS (SELECT FROM pipeline.output_failures)").await;

    load(&world).await;
    world.execute("UPDATE pipeline.output_failures SET retry_at = retry_from").await;
    let before = world.manifest().await.version;
    change(&world, "date = '2024-05-05'").await;
    let of_others = |manifest: &Manifest| manifest.changed["current_health_risks"] > before;
    until_published(&world, Duration::from_secs(20), "one day of the other outputs", of_others).await;
    drop(metrics);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_works_on_is_no_load() {
    let (world, roles) = published("no-load").await;
    until_copied(&world).await;
    // Of a role that was stopped, of another one, and of a domain that was removed; and a replay from before the clock went
    // back.
    world.execute("UPDATE pipeline.bookmarks SET updated_at = now() - interval '1 hour'").await;
    for (domain, state, ago) in
        [("health", "published", "1 hour"), ("hospital", "discovered", "1 hour"), ("gone", "discovered", "0 s")]
    {
        world.execute(&large_file(domain, state, ago)).await;
    }
    // One that was found just now counts for itself.
    let new = "INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord, state)
        SELECT bucket, 'hospital/new.csv', 'e', 100, last_modified, 'hospital', src_ord + 5000000, 'discovered'
        FROM pipeline.objects WHERE domain = 'health' LIMIT 1";
    world.execute(new).await;
    let replay = "INSERT INTO pipeline.replays (domain, kind, request, stream_id, owner, updated_at)
        SELECT 'health', 'in_place', 'a test', stream_id, 'nobody', now() + interval '1 day'
        FROM pipeline.bookmarks WHERE domain = 'health' LIMIT 1";
    world.execute(replay).await;
    let before = world.manifest().await.version;
    change(&world, "true").await;
    until_published(&world, Duration::from_secs(10), "all days, at once", |it| it.version > before).await;
    until_copied(&world).await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_small_files_are_a_load_too() {
    let (world, roles) = published("small-load").await;
    let small = "INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord, state)
        SELECT bucket, 'health/small-' || n || '.csv', 'e', 100, last_modified, domain, src_ord + n, 'discovered'
        FROM pipeline.objects CROSS JOIN generate_series(1, 300) AS n WHERE domain = 'health'";
    world.execute(small).await;
    let before = world.manifest().await.version;
    change(&world, "true").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.manifest().await.version, before, "what is on its way goes first");
    world.execute("UPDATE pipeline.objects SET state = 'applied' WHERE key LIKE 'health/small-%'").await;
    until_published(&world, Duration::from_secs(20), "all of it, at once", |it| it.version > before).await;
    roles.stop().await;
}

/// Returns when the copies would follow the next small change at once. They rest nine times as long as they took, by the
/// middle one of the last three times: that of small changes, as soon as two were small.
async fn until_copies_are_rested(world: &World) {
    until_copied(world).await;
    let mut followed_after = Duration::ZERO;
    for _ in 0..2 {
        let before = world.manifest().await.version;
        let began = Instant::now();
        change(world, "date = '2024-05-04'").await;
        until_published(world, SETTLED_WITHIN, "a small change", |it| it.version > before).await;
        until_copied(world).await;
        followed_after = began.elapsed();
    }
    // The second time there was such a rest before they followed.
    tokio::time::sleep(followed_after * 2).await;
}

async fn until_copied(world: &World) {
    let started = Instant::now();
    // A copy that is written for the first time meanwhile may be an error: another look decides.
    while !observe::outputs(&world.services).await.is_ok_and(|outputs| outputs.copies_behind.is_empty()) {
        assert!(started.elapsed() < SETTLED_WITHIN, "the copies do not follow");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The shipped pipeline, with one more output.
fn pipeline_with(name: &str, output: &str) -> String {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            match entry.file_type().expect("a type").is_dir() {
                true => copy(&entry.path(), &to.join(entry.file_name())),
                false => _ = fs::copy(entry.path(), to.join(entry.file_name())).expect("copied"),
            }
        }
    }
    let to = folder().join(name);
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(Pipeline::shipped().name), &to);
    fs::write(to.join("outputs").join("more.sql"), output).expect("written");
    to.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_told_to_stop_waits_for_no_query_and_leaves_none_behind() {
    let world = World::new("stops").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("health/all.csv", data::health(1, "2025-07-01", 3, 1)).await;
    world.applied().await;
    roles.stop().await;
    let slow = "/* freshet\ndescription: d\nwindows: [month]\nfacts: [health]\nkey: [a]\n*/\nSELECT 1 AS a FROM pg_sleep(50)\n";
    let pipeline = pipeline_with("slow-pipeline", slow);
    let mut setup = world.spawn(&["setup", "--pipeline", &pipeline]);
    assert_eq!(setup.ended(Duration::from_secs(60)).await, Some(0), "{}", setup.log());
    let metrics: Process = world.spawn(&["metrics", "--pipeline", &pipeline]);
    let sleeping = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
        AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid())";
    world.until("the query runs", sleeping).await;
    // Half of what a role has to drain, and a fraction of the query.
    let code = metrics.terminate(Duration::from_secs(15)).await;
    assert_eq!(code, Some(0));
    let told = Instant::now();
    while world.query::<bool>(sleeping).await {
        assert!(told.elapsed() < Duration::from_secs(10), "the query goes on without anybody to read its rows");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_a_window_reads_what_the_window_holds_and_not_the_history() {
    let world = World::new("plans").await;
    world
        .execute(
            "INSERT INTO locations (id, name, population, src_object, src_gen, src_row, src_ord, value_ord)
         SELECT i, 'Place ' || i, 1000, 1, 1, i, 1, 1 FROM generate_series(1, 100) AS i",
        )
        .await;
    let facts = ["health_data", "hospital_data", "climate_data"];
    for table in facts {
        let needed = "SELECT string_agg(', ' || column_name, '') FROM information_schema.columns
            WHERE table_name = $1 AND data_type = 'double precision' AND is_nullable = 'NO'";
        let needed: Option<String> =
            sqlx::query_scalar(needed).bind(table).fetch_one(&world.services.pool).await.expect("the columns");
        let needed = needed.unwrap_or_default();
        let values = ", 1".repeat(needed.matches(',').count());
        let insert = format!(
            "INSERT INTO {table}
                (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord{needed})
             SELECT l, date '2020-01-01' + d, false, 1, 1, l * 1000 + d, 1, 1{values}
             FROM generate_series(1, 100) AS l, generate_series(0, 999) AS d"
        );
        world.execute(&insert).await;
        world.execute(&format!("ANALYZE {table}")).await;
    }
    let connection = &mut *world.services.pool.acquire().await.expect("a connection");
    world.execute("CREATE TABLE in_parts (LIKE health_data) PARTITION BY RANGE (date)").await;
    world.execute("CREATE TABLE in_parts_2020 PARTITION OF in_parts DEFAULT").await;
    world.execute("INSERT INTO in_parts SELECT * FROM health_data LIMIT 10000").await;
    let sizes = tables::sizes_bytes(connection, &["health_data", "in_parts", "locations", "missing"]).await;
    let [all, part, some, none] = sizes.expect("the sizes")[..] else { panic!("four sizes") };
    assert!(all > 4_000_000 && (500_000..all).contains(&part), "{all} {part}: kept plans depend on them");
    assert!((1..100_000).contains(&some) && none == 0, "{some} {none}");
    for output in Pipeline::shipped().outputs {
        let sql = format!("EXPLAIN {}", output.query.bound());
        let mut connection = world.services.pool.acquire().await.expect("a connection");
        let date = |text: &str| text.parse::<chrono::NaiveDate>().expect("a date");
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind("month")
            .bind(date("2021-03-01"))
            .bind(date("2021-04-01"))
            .bind(false)
            .fetch_all(&mut *connection)
            .await
            .expect("a plan");
        let plan = plan.join("\n");
        for table in facts {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{}:\n{plan}", output.name);
        }
    }
}
