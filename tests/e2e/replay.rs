//! A topic is read again while the live pipeline goes on: rules that were wrong are corrected, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use freshet::roles::Role;
use freshet_processors::replay::{self, Point, Preview, ReplayContext, Request};
use freshet_sinks::replay::Replay;
use freshet_topics::{DOMAINS, Domain, domains};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::oracles::assert_same;
use crate::harness::plain::SPECS;
use crate::harness::sessions::pid_of;
use crate::harness::{World, data, rules, seed};

/// A command may take this long to start, do its work and end.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn context(world: &World, domain: &'static Domain) -> ReplayContext {
    ReplayContext {
        domain,
        settings: world.services.config.process.clone(),
        kafka: world.services.config.kafka.clone(),
        pool: world.services.pool.clone(),
        owner: format!("{} {:08x}", world.name(), rand::random::<u32>()),
        rows_per_second: None,
    }
}

pub(crate) fn domain(name: &str) -> &'static Domain {
    domains::by_name(name).expect("a domain")
}

pub(crate) fn everything() -> Request {
    Request { from: Point::Beginning, to: None, objects: Vec::new() }
}

pub(crate) async fn replayed(world: &World, domain: &'static Domain, request: &Request) -> Replay {
    let (told, _) = watch::channel(Default::default());
    let ended = replay::in_place(&context(world, domain), request, &told, &CancellationToken::new()).await;
    ended.unwrap_or_else(|error| panic!("replay {}: {error}", domain.name))
}

async fn previewed(world: &World, domain: &'static Domain, request: &Request) -> Preview {
    let (told, _) = watch::channel(Default::default());
    let found = replay::preview(&context(world, domain), request, 5, &told, &CancellationToken::new()).await;
    found.unwrap_or_else(|error| panic!("preview {}: {error}", domain.name))
}

/// Every row of every table with the place where it is stored, which a write would change.
async fn stored(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for table in SPECS.iter().map(|spec| spec.table).chain(["pipeline.rejects"]) {
        let rows = world.column::<String>(&format!("SELECT (ctid, t)::text FROM {table} t ORDER BY 1")).await;
        all.insert(table.to_owned(), rows);
    }
    all
}

/// Rows that the wrong rules of [`rules::wrong`] judge otherwise, one of each kind, and good ones around them.
async fn drop_telling_files(world: &World) {
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("locations/odd.csv", "id,name,type,population,area\n4,Fourth,state,-5,1.5\n5,Fifth,state,5,1.5\n").await;
    let health = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected,projection_year\n\
        1,2025-08-01,-3,1,1,1,false,\n1,2025-08-02,4,many,1,1,false,\n1,2030-08-02,4,4,1,1,true,-7\n\
        2,2025-08-03,4,4,1,1,false,\nx,2025-08-03,4,4,1,1,false,\n";
    world.put("health/odd.csv", health).await;
    world.put("health/all.csv", data::health(3, "2025-06-01", 40, 5)).await;
    let hospital = "location_id,date,total_beds,available_beds,doctors,nurses,iv_fluids_stock,antibiotics_stock,\
        antipyretics_stock,is_projected\n1,2025-08-01,100,150,1,1,1,1,1,false\n";
    world.put("hospital/odd.csv", hospital).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-06-01", 40, 5)).await;
    let climate = "location_id,date,temperature,flood_probability\n1,2025-08-01,20.5,-0.5\n1,2025-08-02,20.5,1.5\n";
    world.put("climate/odd.csv", climate).await;
}

/// A world whose tables, rejects and outputs are what wrong rules made of [`drop_telling_files`].
async fn made_by_wrong_rules(story: &str) -> World {
    let world = World::new(story).await;
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    let processors = world.process(rules::wrong());
    drop_telling_files(&world).await;
    world.settle().await;
    processors.stop().await;
    others.stop().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_was_wrong_is_corrected_and_what_follows_from_it_is_published_anew() {
    let world = made_by_wrong_rules("wrong").await;
    let negative: i32 = world.query("SELECT min(dengue_cases) FROM health_data").await;
    assert_eq!(negative, -3, "the rules were wrong");
    let roles = world.run_all();
    let mut sums = BTreeMap::new();
    for domain in DOMAINS {
        let preview = previewed(&world, domain, &everything()).await.corrected;
        let replay = replayed(&world, domain, &everything()).await;
        let sum = |rows: u64| rows.cast_signed();
        let expected = (sum(preview.inserted), sum(preview.changed));
        assert_eq!((replay.inserted, replay.changed), expected, "{}: the preview was right", domain.name);
        assert_eq!(replay.rejected_anew, sum(preview.rejected_anew.values().sum()), "{}", domain.name);
        assert_eq!(replay.accepted_anew, sum(preview.accepted_anew.values().sum()), "{}", domain.name);
        sums.insert(
            domain.name,
            (replay.inserted, replay.changed, replay.rejected_anew, replay.accepted_anew, replay.removed),
        );
    }
    let expected = BTreeMap::from([
        // The negative population is a reject now, and its row gone.
        ("locations", (0, 0, 1, 0, 1)),
        // The row that was refused comes in with 0, and so does the probability that was left.
        ("climate", (1, 1, 0, 1, 0)),
        // The row that did not cast comes in, the projection moves to another key, the negative count is corrected.
        ("health", (2, 1, 0, 1, 1)),
        ("hospital", (0, 1, 0, 0, 0)),
    ]);
    assert_eq!(sums, expected);
    world.settle().await;
    world.all_hold().await;
    // Asked again, nothing differs.
    let before = stored(&world).await;
    for domain in DOMAINS {
        let replay = replayed(&world, domain, &everything()).await;
        let counts = (replay.inserted, replay.changed, replay.rejected_anew, replay.accepted_anew, replay.removed);
        assert_eq!(counts, (0, 0, 0, 0, 0), "{}", domain.name);
    }
    assert_same("a second replay writes nothing", &stored(&world).await, &before);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_key_was_wrong_move_even_to_places_that_others_hold() {
    let world = World::new("moved").await;
    let roles = world.run_all();
    let header = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected\n";
    world.put("locations/all.csv", data::locations(2)).await;
    world.put("health/twice.csv", format!("{header}1,2030-08-01,1,1,1,1,true\n1,2030-08-01,2,1,1,1,true\n")).await;
    world.put("health/all.csv", data::health(2, "2025-06-01", 30, 5)).await;
    world.settle().await;
    // As rules would have left it that told the first of two rows from the second, and took every date for the day
    // before: rows stand where others belong.
    world
        .execute(
            "INSERT INTO health_data (location_id, date, dengue_cases, is_projected, projection_year,
                    src_object, src_gen, src_row, src_ord, value_ord)
                SELECT location_id, date, 1, true, 2030, src_object, src_gen, 0, src_ord, src_ord
                FROM health_data WHERE is_projected;
             ALTER TABLE health_data DROP CONSTRAINT health_data_key;
             UPDATE health_data SET date = date - 1 WHERE date < '2026-01-01';
             ALTER TABLE health_data ADD CONSTRAINT health_data_key
                UNIQUE NULLS NOT DISTINCT (location_id, date, is_projected, projection_year)",
        )
        .await;
    let replay = replayed(&world, domain("health"), &everything()).await;
    assert_eq!(replay.pass, 2, "what was removed made room: {replay:?}");
    world.settle().await;
    world.all_hold().await;
    let again = replayed(&world, domain("health"), &everything()).await;
    assert_eq!((again.pass, again.inserted, again.changed, again.removed), (1, 0, 0, 0));
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_row_is_rejected_in_each_domain_and_by_each_replay_once() {
    let world = World::new("no-row").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(4, "2025-06-01", 5, 5)).await;
    world.put("climate/a.csv", data::climate(4, "2025-06-01", 5, 5)).await;
    world.settle().await;
    let producer: FutureProducer = world.services.config.kafka.client_config().create().expect("a producer");
    for domain in ["health", "climate"] {
        let topic = format!("{}{domain}", world.services.config.kafka.topic_prefix);
        let record = FutureRecord::<(), str>::to(&topic).partition(0).payload("hello");
        producer.send(record, Duration::from_secs(10)).await.expect("sent");
    }
    let rejected = "SELECT count(*) = 2 FROM pipeline.rejects WHERE rule = 'malformed_message'";
    world.until("both are rejected", rejected).await;
    for name in ["health", "climate"] {
        let replay = replayed(&world, domain(name), &everything()).await;
        assert_eq!((replay.rejected_anew, replay.accepted_anew), (0, 0), "{name}");
    }
    assert!(world.query::<bool>(rejected).await);
    let (told, _) = watch::channel(Default::default());
    let shadow = replay::Shadow::open(&context(&world, domain("health")), &everything()).await.expect("open");
    shadow.swap(&told, &CancellationToken::new()).await.expect("swap");
    assert!(world.query::<bool>(rejected).await, "and by a swap");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_what_would_change_with_examples_and_writes_nothing() {
    let world = made_by_wrong_rules("dry").await;
    let before = stored(&world).await;
    let health = previewed(&world, domain("health"), &everything()).await;
    assert_eq!(health.corrected.columns, BTreeMap::from([("corrections", 1), ("dengue_cases", 1)]));
    assert_eq!(health.corrected.accepted_anew, BTreeMap::from([("uncastable".to_owned(), 1)]));
    assert_eq!(health.corrected.read, 125);
    let locations = previewed(&world, domain("locations"), &everything()).await;
    assert_eq!(locations.corrected.rejected_anew, BTreeMap::from([("negative", 1)]));
    let unfinished: i64 = world.query("SELECT count(*) FROM pipeline.replays").await;
    assert_eq!(unfinished, 0, "a dry run leaves no trace");

    // As a user sees it.
    let mut command = world.spawn(&["replay", "health", "--from", "beginning", "--dry-run"]);
    assert_eq!(command.ended(COMMAND_WITHIN).await, Some(0), "{}", command.log());
    let said = command.log();
    for part in [
        "nothing was written",
        "in dengue_cases",
        "newly accepted: uncastable",
        "health/odd.csv line 2: (1,2025-08-01,f,) dengue_cases: -3 → 0",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    assert_same("a dry run writes nothing", &stored(&world).await, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_some_rows_leaves_the_others_as_they_are() {
    let world = World::new("some").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 5)).await;
    world.settle().await;
    let between = chrono::Utc::now();
    world.put("health/b.csv", data::health(3, "2025-07-01", 20, 5)).await;
    world.settle().await;
    world.execute("UPDATE health_data SET dengue_cases = 99999").await;
    let wrong = |file: &str| {
        format!(
            "SELECT count(*) FROM health_data h JOIN pipeline.objects o ON o.id = h.src_object
             WHERE h.dengue_cases = 99999 AND o.key = 'health/{file}.csv'"
        )
    };
    let health = domain("health");
    let only = Request { objects: vec!["health/a.csv".into()], ..everything() };
    assert_eq!(replayed(&world, health, &only).await.changed, 60);
    assert_eq!((world.query::<i64>(&wrong("a")).await, world.query::<i64>(&wrong("b")).await), (0, 60));

    world.execute("UPDATE health_data SET dengue_cases = 99999").await;
    let since = Request { from: Point::Time(between), ..everything() };
    assert_eq!(replayed(&world, health, &since).await.changed, 60);
    assert_eq!((world.query::<i64>(&wrong("a")).await, world.query::<i64>(&wrong("b")).await), (60, 0));

    let before = Request { to: Some(Point::Time(between)), ..everything() };
    assert_eq!(replayed(&world, health, &before).await.changed, 60);
    let one = Request { from: Point::Offsets(BTreeMap::from([(0, 1)])), ..everything() };
    let read = replayed(&world, health, &one).await.rows_read;
    let of_one: i64 =
        world.query("SELECT sum(partition_rows[1])::bigint FROM pipeline.objects WHERE domain = 'health'").await;
    assert_eq!(read, of_one, "one partition, without the stream record");
    world.settle().await;
    world.all_hold().await;

    let unknown = Request { objects: vec!["health/c.csv".into()], ..everything() };
    let (told, _) = watch::channel(Default::default());
    let refused = replay::in_place(&context(&world, health), &unknown, &told, &CancellationToken::new()).await;
    let words = refused.expect_err("no such file").to_string();
    assert!(words.contains("this domain has no file health/c.csv"), "{words}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_data_never_comes_over_new_however_often_it_is_replayed_under_load() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new("under-load").await;
    let roles = world.run_all();
    let mut files = data::generated(|options| {
        options.seed = seed;
        options.entities = 20;
        options.days = 120;
        options.dirty = 0.05;
        options.rows_per_file = 500;
    });
    files.shuffle(&mut random);
    let stop = CancellationToken::new();
    let replays = async {
        let mut ended = 0;
        while !stop.is_cancelled() {
            for domain in DOMAINS {
                replayed(&world, domain, &everything()).await;
                ended += 1;
            }
        }
        ended
    };
    let drops = async {
        for (key, content) in &files {
            world.put(key, content).await;
            // Some files are replaced by older or other versions of themselves.
            if random.random_bool(0.3) {
                let (other, replaced) = &files[random.random_range(0..files.len())];
                if key.split('/').next() == other.split('/').next() {
                    world.put(key, replaced).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        }
        world.settle().await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(replays, drops);
    assert!(ended >= DOMAINS.len(), "{ended} replays ended");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

/// Most rows of the first batches differ, and few of the later ones: both ways of correcting are taken. A transaction that
/// stands for the live pipeline holds one of the rows, and gives it newer data while the replay waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_gets_newer_data_while_a_replay_waits_for_it_keeps_that_data() {
    const DAYS: u64 = 600;
    let world = World::with("replay-waits", |config| config.process.batch_rows_max = 50).await;
    world.put("health/all.csv", data::health(1, "2025-01-01", DAYS, 5)).await;
    let roles = world.run(&[Role::Ingest, Role::Process(domain("health"))]);
    world.applied().await;
    let first = "date < date '2025-01-01' + 400";
    let last = "date = '2026-08-01'";
    world.execute(&format!("UPDATE health_data SET dengue_cases = 99999 WHERE {first} OR {last}")).await;

    let mut newer = world.services.pool.begin().await.expect("a transaction");
    let newest = "UPDATE health_data SET dengue_cases = 7, src_object = src_object + 1, src_ord = src_ord + 1
        WHERE date = '2025-01-20'";
    let held = sqlx::query(newest).execute(&mut *newer).await;
    assert_eq!(held.expect("the row").rows_affected(), 1);
    let newer_pid = pid_of(&mut newer).await;
    let frees = async {
        let update = "%UPDATE \"health_data\"%";
        world.until_so_many_wait_for("the replay waits for the row", newer_pid, 1, update).await;
        newer.commit().await.expect("newer data");
    };
    let request = everything();
    let (replay, ()) = tokio::join!(replayed(&world, domain("health"), &request), frees);
    let expected = (DAYS.cast_signed(), 400 + 1 - 1);
    assert_eq!((replay.rows_read, replay.changed), expected, "all that were wrong, without the newer one");
    let newer = "SELECT dengue_cases FROM health_data WHERE date = '2025-01-20'";
    assert_eq!(world.query::<i32>(newer).await, 7);
    let wrong = "SELECT count(*) FROM health_data WHERE dengue_cases = 99999";
    assert_eq!(world.query::<i64>(wrong).await, 0);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_killed_goes_on_and_a_second_one_is_refused() {
    let world = World::new("killed-replay").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(40, "2025-01-01", 300, 5)).await;
    world.settle().await;
    world.execute("UPDATE health_data SET dengue_cases = 99999").await;
    let slow = ["replay", "health", "--from", "beginning", "--rows-per-second", "300"];
    let first = world.spawn(&slow);
    let read = "SELECT coalesce(sum(rows_read), 0) BETWEEN 1 AND 11999 FROM pipeline.replays";
    world.until("the replay is under way", read).await;

    // Two at once.
    let mut second = world.spawn(&["replay", "health", "--from", "beginning"]);
    assert_eq!(second.ended(COMMAND_WITHIN).await, Some(1));
    assert!(second.log().contains("another process is replaying health"), "{}", second.log());
    first.kill();

    // Something else than what was interrupted.
    let (told, _) = watch::channel(Default::default());
    let other = Request { objects: vec!["health/all.csv".into()], ..everything() };
    let health = context(&world, domain("health"));
    let refused = replay::in_place(&health, &other, &told, &CancellationToken::new()).await;
    let words = refused.expect_err("another request").to_string();
    assert!(words.contains("is unfinished") && words.contains("--abandon"), "{words}");

    let ended = replayed(&world, domain("health"), &everything()).await;
    assert_eq!((ended.rows_read, ended.changed), (12_000, 12_000), "each row once");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
