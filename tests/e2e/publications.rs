//! Publications that meet what they should not: outputs deleted by hand, an older program, a frozen publisher.

use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use freshet::roles::Role;
use freshet::status::observe;
use freshet_processors::refresh::{self, Outcome, Publication, RefreshContext};
use freshet_sinks::outputs::{
    Client, Condition, Current, FORMATS, Manifest, POINTER, Published, Store, copy_key, read_current,
};
use freshet_topics::failpoint::Point;

use crate::harness::oracles::entries;
use crate::harness::{Process, SETTLED_WITHIN, World, data, roles_but};

/// No publication or collection of a few thousand rows takes longer, unless it waits for something.
const AT_ONCE: Duration = Duration::from_secs(20);
/// How long what was deleted may stay away: the local stack looks every 5 s, and rests as many times as long as a look took.
const MADE_AGAIN_WITHIN: Duration = SETTLED_WITHIN;

fn context(world: &World, keep_days: u32) -> RefreshContext {
    let mut settings = world.services.config.metrics.clone();
    settings.keep_days = keep_days;
    RefreshContext {
        settings,
        pool: world.services.pool.clone(),
        s3: world.services.s3.clone(),
        bucket: world.processed_bucket().to_owned(),
        domains: world.services.config.pipeline.domains,
        outputs: world.services.config.pipeline.outputs,
    }
}

fn store(world: &World) -> Store {
    Store::new(world.services.s3.clone(), world.processed_bucket())
}

async fn current(world: &World) -> Current {
    match store(world).published(None).await.expect("read what is published") {
        Published::Current(current) => *current,
        other => panic!("nothing is published: {other:?}"),
    }
}

/// Some weeks of all four domains.
async fn drop_files(world: &World) {
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-07-01", 40, 1)).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-07-01", 40, 1)).await;
    world.put("climate/all.csv", data::climate(3, "2025-07-01", 40, 1)).await;
}

async fn delete(world: &World, key: &str) {
    let request = world.services.s3.delete_object().bucket(world.processed_bucket()).key(key);
    request.send().await.unwrap_or_else(|error| panic!("delete {key}: {error:?}"));
}

async fn is_there(world: &World, key: &str) -> bool {
    world.services.s3.head_object().bucket(world.processed_bucket()).key(key).send().await.is_ok()
}

async fn keys_under(world: &World, prefix: &str) -> Vec<String> {
    let request = world.services.s3.list_objects_v2().bucket(world.processed_bucket()).prefix(prefix);
    let listed = request.send().await.expect("list the outputs");
    listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
}

/// Waits until something is published that is as wanted, whatever cannot be read meanwhile.
async fn until_published(world: &World, what: &str, is_as_wanted: impl Fn(&Manifest) -> bool) -> Manifest {
    let started = Instant::now();
    loop {
        let (s3, bucket): (&Client, &str) = (&world.services.s3, world.processed_bucket());
        let found = read_current(s3, bucket).await;
        if let Some(manifest) = found.as_ref().ok().and_then(Option::as_ref).filter(|it| is_as_wanted(it)) {
            return manifest.clone();
        }
        assert!(started.elapsed() < MADE_AGAIN_WITHIN, "{}: not in time: {what}: {found:?}", world.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_there(world: &World, key: &str) {
    let started = Instant::now();
    while !is_there(world, key).await {
        assert!(started.elapsed() < MADE_AGAIN_WITHIN, "{}: {key} stays away", world.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As if all rows had changed.
async fn mark_everything(world: &World) {
    let marks = "INSERT INTO pipeline.marks (domain, dates)
        SELECT 'health', unnest(range_agg(daterange(date, date + 1))) FROM health_data";
    world.execute(marks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_data_files_deleted_by_hand_come_back_as_they_were() {
    let world = World::new("deleted-files").await;
    let roles = world.run_all();
    drop_files(&world).await;
    world.settle().await;
    world.all_hold().await;
    let before = world.manifest().await;

    for output in ["window_metrics", "resilience_scores"] {
        delete(&world, &copy_key(output, "csv")).await;
    }
    until_there(&world, &copy_key("window_metrics", "csv")).await;
    until_there(&world, &copy_key("resilience_scores", "csv")).await;
    world.settle().await;
    world.all_hold().await;

    // The file of a window, and all of another, while the publisher believes them there.
    let windows: Vec<_> = before.windows.iter().filter(|window| window.output == "window_metrics").collect();
    let mut gone: Vec<&str> = windows[0].files.values().map(|file| file.key.as_str()).collect();
    gone.push(&windows[1].files["json"].key);
    for key in &gone {
        delete(&world, key).await;
    }
    for key in &gone {
        until_there(&world, key).await;
    }
    let after = world.manifest().await;
    assert_eq!(entries(&after), entries(&before), "no reader sees a change");
    world.all_hold().await;

    // A data file and the copy that is composed of it: both come back, whichever is first. The copy needs no file of S3
    // where it is kept on the publisher's disk.
    delete(&world, gone[0]).await;
    delete(&world, &copy_key("window_metrics", "csv")).await;
    until_there(&world, &copy_key("window_metrics", "csv")).await;
    until_there(&world, gone[0]).await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_or_manifest_that_was_deleted_or_put_back_is_followed_by_a_higher_version() {
    let world = World::new("deleted-pointer").await;
    let metrics = world.spawn(&["metrics"]);
    let roles = world.run(&roles_but(Role::Metrics));
    drop_files(&world).await;
    world.settle().await;
    let first = current(&world).await;
    // Some more versions, so that numbers that begin anew would be lower.
    for salt in 2..5 {
        world.put("health/more.csv", data::health(3, "2025-07-20", 3, salt)).await;
        world.settle().await;
    }
    world.all_hold().await;

    let before = current(&world).await;
    assert!(before.pointer.version > first.pointer.version);
    delete(&world, &before.pointer.manifest).await;
    let higher = |than: u64| move |manifest: &Manifest| manifest.version > than;
    let after = until_published(&world, "a version after the lost manifest", higher(before.pointer.version)).await;
    world.settle().await;
    world.all_hold().await;

    delete(&world, POINTER).await;
    let after = until_published(&world, "a version after the lost pointer", higher(after.version)).await;
    assert!(after.changed.values().all(|version| *version > before.pointer.version), "every copy is made again");
    world.settle().await;
    world.all_hold().await;

    // With everything but the copies: they alone remember how far the versions had come.
    let version = world.manifest().await.version;
    // It looks again only when all is gone: else it may miss a manifest first, and say so.
    metrics.signal("STOP");
    for prefix in ["metrics/data/", "metrics/manifests/"] {
        for key in keys_under(&world, prefix).await {
            delete(&world, &key).await;
        }
    }
    delete(&world, POINTER).await;
    metrics.signal("CONT");
    until_published(&world, "a version above those of the copies", higher(version)).await;
    world.settle().await;
    world.all_hold().await;

    // A person takes the first pointer back, whose manifest still is there: versions do not come again.
    let version = world.manifest().await.version;
    let manifest = serde_json::to_vec(&first.manifest).expect("JSON");
    let pointer = serde_json::to_vec(&first.pointer).expect("JSON");
    for (key, bytes) in [(first.pointer.manifest.as_str(), manifest), (POINTER, pointer)] {
        let body = ByteStream::from(bytes);
        let put = world.services.s3.put_object().bucket(world.processed_bucket()).key(key).body(body);
        put.send().await.expect("put it back");
    }
    until_published(&world, "a version above those of the copies", higher(version)).await;
    world.settle().await;
    world.all_hold().await;

    let log = metrics.log();
    let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(said("which does not exist; all outputs are derived again"), 1, "{log}");
    assert_eq!(said("the pointer is missing, though outputs were published"), 2, "{log}");
    assert_eq!(said("the pointer was set back to version"), 1, "{log}");
    let longest = log.lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 1_000, "a line of {longest} bytes\n{log}");
    drop(metrics);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_publication_status_does_not_call_the_outputs_current() {
    let world = World::new("status-unpublished").await;
    let wait = || world.freshet(&["status", "--wait", "--timeout", "1s"]);
    let roles = world.run(&roles_but(Role::Metrics));
    assert_eq!(wait().status.code(), Some(0), "without rows, there is nothing to publish");
    world.put("health/all.csv", data::health(3, "2025-07-01", 40, 1)).await;
    world.applied().await;
    // As if another processed bucket were named from now on: what is marked was published in the one before.
    world.execute("DELETE FROM pipeline.marks").await;
    let waited = wait();
    let said = String::from_utf8_lossy(&waited.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(waited.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing is published yet"), "{said}");
    roles.stop().await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_pointer_is_gone_status_does_not_call_the_outputs_current() {
    let world = World::new("status-lost").await;
    let roles = world.run_all();
    drop_files(&world).await;
    world.settle().await;
    roles.stop().await;
    let outputs = async || observe::outputs(&world.services).await;
    assert!(outputs().await.expect("an answer").copies_behind.is_empty());

    let before = current(&world).await;
    delete(&world, POINTER).await;
    let said = format!("{:#}", outputs().await.expect_err("the pointer is missing"));
    assert!(said.contains("the pointer is missing") && said.contains("freshet metrics"), "{said}");
    // What the next publisher publishes has none of the copies that are there.
    let publication = world.publish().await;
    assert_eq!(publication.outcome, Outcome::Published);
    assert!(publication.version > before.pointer.version && publication.mended, "{publication:?}");
    let behind = outputs().await.expect("an answer").copies_behind;
    assert_eq!(behind.len(), 4 * FORMATS.len(), "{behind:?}");
    // Copies of a version that is not published are not current either.
    let lower = Manifest { version: before.pointer.version - 1, ..before.manifest };
    let lower = Manifest { changed: lower.changed.keys().map(|it| (it.clone(), 1)).collect(), ..lower };
    let behind = freshet_sinks::outputs::copies_behind(&world.services.s3, world.processed_bucket(), &lower).await;
    assert!(!behind.expect("an answer").is_empty(), "copies above the manifest's version count as current");

    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_publishes_copies_and_deletes_nothing_over_a_newer_ones_outputs() {
    let world = World::new("outdated").await;
    let roles = world.run(&roles_but(Role::Metrics));
    drop_files(&world).await;
    world.applied().await;
    world.publish().await;
    // Twice: data files of a first version alone may be those of a publication that died.
    world.put("health/second.csv", data::health(3, "2025-08-10", 3, 6)).await;
    world.applied().await;
    world.publish().await;
    // As a program of later formulas publishes.
    let before = current(&world).await;
    let newer = Manifest { version: before.pointer.version + 1, code_version: 99, ..before.manifest.clone() };
    let swapped = store(&world).publish(Condition::Unchanged(before.etag), &newer).await;
    assert!(swapped.expect("publish").is_some());

    world.put("health/more.csv", data::health(3, "2025-08-20", 3, 7)).await;
    world.applied().await;
    let marks: i64 = world.query("SELECT count(*) FROM pipeline.marks").await;
    assert!(marks > 0);
    let outdated = |publication: &Publication| matches!(publication.outcome, Outcome::Outdated { published: 99, .. });
    let publication = world.publish().await;
    assert!(outdated(&publication), "{publication:?}");
    let collected = refresh::collect_once(&context(&world, 0)).await.expect("collect");
    assert_eq!((collected.files, collected.manifests), (0, 0));

    // The role says so once, and waits.
    let metrics = world.spawn(&["metrics"]);
    let started = Instant::now();
    while !metrics.log().contains("code version 99") {
        assert!(started.elapsed() < AT_ONCE, "{}", metrics.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    mark_everything(&world).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let log = metrics.log();
    assert_eq!(log.matches("publish nothing").count(), 1, "{log}");
    assert!(!log.contains("trying again"), "{log}");
    assert_eq!(world.manifest().await, newer);
    assert!(!is_there(&world, &copy_key("window_metrics", "csv")).await, "an older program wrote a copy");
    assert!(world.query::<i64>("SELECT count(*) FROM pipeline.marks").await > marks, "marks are the newer program's");

    // A lost pointer changes nothing: the manifests say who derived them.
    delete(&world, POINTER).await;
    let publication = world.publish().await;
    assert!(outdated(&publication), "{publication:?}");
    // The way back that the log names.
    for key in keys_under(&world, "metrics/manifests/").await {
        delete(&world, &key).await;
    }
    until_published(&world, "this program's outputs", |manifest| manifest.code_version < 99).await;
    world.settle().await;
    world.all_hold().await;
    drop(metrics);
    roles.stop().await;
}

/// Stops a publisher in the middle of a publication; what it reads stays locked against being dropped.
async fn freeze_in_a_publication(world: &World, publisher: &Process) {
    let holds = "SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND mode = 'AccessShareLock' AND granted
            AND relation = 'health_data'::regclass AND backend_xid IS NULL
            AND EXISTS (SELECT FROM pg_locks AS other WHERE other.pid = pg_stat_activity.pid
                AND other.relation = 'pipeline.marks'::regclass)";
    for _ in 0..50 {
        mark_everything(world).await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            if world.query(holds).await {
                publisher.signal("STOP");
                tokio::time::sleep(Duration::from_millis(300)).await;
                if world.query(holds).await {
                    return;
                }
                publisher.signal("CONT");
                break;
            }
        }
    }
    panic!("no publication was caught half-way:\n{}", publisher.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_publisher_holds_up_neither_the_others_nor_the_garbage_collection() {
    let world = World::new("frozen-publisher").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(20)).await;
    world.put("health/all.csv", data::health(20, "2024-09-01", 300, 1)).await;
    world.put("hospital/all.csv", data::hospital(20, "2024-09-01", 300, 1)).await;
    world.put("climate/all.csv", data::climate(20, "2024-09-01", 300, 1)).await;
    world.applied().await;
    let first = world.publish().await;
    let publisher = world.spawn(&["metrics"]);
    freeze_in_a_publication(&world, &publisher).await;

    let keep_nothing = context(&world, 0);
    for salt in 2..4 {
        world.put("health/more.csv", data::health(20, "2025-05-01", 20, salt)).await;
        world.applied().await;
        let collection = tokio::time::timeout(AT_ONCE, refresh::collect_once(&keep_nothing));
        let publication = async {
            // Behind the collection, were there anything to queue for.
            tokio::time::sleep(Duration::from_millis(500)).await;
            tokio::time::timeout(AT_ONCE, refresh::publish_once(&keep_nothing)).await
        };
        let (collected, published) = tokio::join!(collection, publication);
        collected.expect("the collection does not wait").expect("collect");
        let published = published.expect("the publication does not wait").expect("publish");
        assert_eq!(published.outcome, Outcome::Published, "{published:?}");
        assert!(published.version > first.version);
    }
    publisher.signal("CONT");
    world.settle().await;
    world.all_hold().await;

    // Garbage is collected under a publisher at work, with nothing kept for readers, and nothing that is published goes.
    let mut collected = 0;
    for salt in 4..10 {
        world.put("health/more.csv", data::health(20, "2025-05-01", 20, salt)).await;
        world.applied().await;
        collected += refresh::collect_once(&keep_nothing).await.expect("collect").files;
    }
    world.settle().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    collected += refresh::collect_once(&keep_nothing).await.expect("collect").files;
    assert!(collected > 0, "something was garbage");
    let manifest = world.manifest().await;
    let named: Vec<&str> = manifest.keys().collect();
    let left = keys_under(&world, "metrics/data/").await;
    let orphans: Vec<&String> = left.iter().filter(|key| !named.contains(&key.as_str())).collect();
    assert!(orphans.len() < named.len(), "{} of {} files are nobody's: {orphans:?}", orphans.len(), left.len());
    world.all_hold().await;
    drop(publisher);
    roles.stop().await;
}

/// Its lock comes after that of the publication, which waits for its readers, and their locks would come after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_waits_to_alter_holds_up_no_publication() {
    let world = World::new("alter").await;
    let roles = world.run(&roles_but(Role::Metrics));
    drop_files(&world).await;
    world.applied().await;
    let publisher = world.spawn_failing(&["metrics"], Point::SnapshotTaken, "1*return(stop)");
    publisher.stopped(AT_ONCE).await;
    let pool = world.services.pool.clone();
    let altered = tokio::spawn(async move {
        sqlx::query("ALTER TABLE health_data ADD COLUMN note text").execute(&pool).await.expect("alter")
    });
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE relation = 'health_data'::regclass AND NOT granted";
    world.until("the change of the table waits", waits).await;
    publisher.signal("CONT");
    let published = until_published(&world, "the first version", |manifest| !manifest.windows.is_empty());
    let published = tokio::time::timeout(AT_ONCE, published).await.expect("it does not wait for the change");
    assert!(published.outputs.values().all(|output| !output.stale), "{:?}", published.outputs);
    altered.await.expect("the change is made once the publication has ended");
    world.settle().await;
    world.all_hold().await;
    drop(publisher);
    roles.stop().await;
}
