//! The object ledger against a real Postgres, without a listener: each test has a database of its own.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use freshet_sinks::backoff::Backoff;
use freshet_sinks::ledger::register::{self, Registered};
use freshet_sinks::ledger::{
    self, Claim, Claimant, Content, Event, Finished, Lost, Numbering, ObjectState, ObjectVersion, OpenDomain, Recorded,
    Renewal, ResumePoint, Selection, Take, nothing_to_do, order,
};
use freshet_topics::{DOMAINS, Domain, Pipeline};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::World;
use crate::harness::sessions::one_session;

const BUCKET: &str = "raw";
const LEASE: Duration = Duration::from_secs(60);
const STREAM: Uuid = Uuid::from_u128(1);

fn domain() -> &'static Domain {
    DOMAINS[1]
}

struct Database {
    pool: PgPool,
    _world: World,
}

impl Database {
    async fn new() -> Self {
        let world = World::new("ledger").await;
        Database { pool: world.services.pool.clone(), _world: world }
    }
}

fn version(key: &str, content: &str, second: i64) -> ObjectVersion {
    ObjectVersion {
        bucket: BUCKET.into(),
        key: key.into(),
        version_id: None,
        etag: content.into(),
        size_bytes: content.len() as i64,
        last_modified: at(second),
    }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).expect("a second")
}

/// Registers what a bucket holds, as a listing of these keys would.
async fn register_all(pool: &PgPool, held: &[ObjectVersion]) -> Vec<Option<i64>> {
    let by_key: HashMap<&str, &ObjectVersion> = held.iter().map(|version| (version.key.as_str(), version)).collect();
    let keys: Vec<String> = held.iter().map(|version| version.key.clone()).collect();
    let held = |key: String| {
        let found = by_key.get(key.as_str()).map(|version| (*version).clone());
        async move { Ok(found.into_iter().collect()) }
    };
    let outcomes: Vec<Registered<()>> =
        register::register(pool, BUCKET, domain().name, &keys, None, held).await.expect("register");
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Registered::New(objects) => objects.last().map(|(id, _)| *id),
            Registered::Reappeared(id) => Some(id),
            Registered::Known => None,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Registers what S3 holds under a key for another domain than that of these tests; its number, if it is new.
async fn register_for(pool: &PgPool, domain: &str, version: &ObjectVersion) -> Option<i64> {
    let held = |_| async { Ok::<_, ()>(vec![version.clone()]) };
    let keys = [version.key.clone()];
    let outcomes = register::register(pool, BUCKET, domain, &keys, None, held).await.expect("register");
    match outcomes.into_iter().next().expect("one key") {
        Registered::New(objects) => objects.last().map(|(id, _)| *id),
        _ => None,
    }
}

async fn register_one(pool: &PgPool, held: ObjectVersion) -> i64 {
    register_all(pool, &[held]).await[0].expect("a new version")
}

async fn src_ord(pool: &PgPool, id: i64) -> i64 {
    sqlx::query_scalar("SELECT src_ord FROM pipeline.objects WHERE id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .expect("read")
}

async fn state(pool: &PgPool, id: i64) -> (String, Option<String>) {
    sqlx::query_as("SELECT state, reason FROM pipeline.objects WHERE id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .expect("read")
}

fn open(name: &str, partitions: i32) -> OpenDomain<'_> {
    OpenDomain {
        name,
        numbering: Numbering { parser_version: freshet_topics::PARSER_VERSION, partitions, reading_rules: 7 },
        tried: OpenDomain::NONE_TRIED,
    }
}

async fn claim_next(pool: &PgPool) -> Option<Claim> {
    let back_off = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let claimant = Claimant { owner: "test", lease: LEASE, back_off };
    ledger::claim(pool, claimant, &[open("nothing", 1), open(domain().name, 4)], Take::ONE).await.expect("claim").pop()
}

async fn record(pool: &PgPool, claim: &mut Claim, event: Event<'_>) -> Recorded {
    ledger::record(pool, claim, event).await.expect("record")
}

fn content(sha256: u8) -> Content {
    Content {
        sha256: vec![sha256],
        ignored_columns: vec!["colour".into()],
        absent_defaults: vec!["area".into()],
        overtaken: 3,
    }
}

fn point(rows: [i64; 4], ends: [i64; 4]) -> ResumePoint {
    ResumePoint { byte: 100, line: 12, row: rows.iter().sum(), seqs: rows.to_vec(), ends: ends.to_vec() }
}

fn publish<'a>(point: &'a ResumePoint, content: &'a Content) -> Event<'a> {
    Event::Publish { stream: STREAM, point, content }
}

/// Claims the next object and publishes it: 3 rows in partition 0 and 4 in partition 2.
async fn publish_next(pool: &PgPool, sha256: u8) -> Claim {
    let mut claimed = claim_next(pool).await.expect("an object to publish");
    let point = point([3, 0, 4, 0], [10, 0, 20, 0]);
    assert!(record(pool, &mut claimed, publish(&point, &content(sha256))).await.is_written());
    claimed
}

/// What S3 no longer has, with what of it is lost.
async fn give_up(pool: &PgPool, claim: &mut Claim) -> Lost {
    let mut connection = pool.acquire().await.expect("a connection");
    let received = ledger::received(&mut connection, &claim.object).await.expect("ask");
    let lost = ledger::lost_rows(&claim.object, &received);
    assert!(record(pool, claim, Event::Gone { detail: "gone".into(), lost: lost.clone() }).await.is_written());
    lost
}

#[tokio::test]
async fn a_file_is_registered_once_and_in_key_order() {
    let database = Database::new().await;
    let pool = &database.pool;
    let held: Vec<_> = (0..10).map(|number| version(&format!("climate/{number}.csv"), "a", 1_000)).collect();
    let twice = futures::future::join(register_all(pool, &held), register_all(pool, &held)).await;
    let ids: Vec<i64> = twice.0.iter().zip(&twice.1).map(|pair| pair.0.or(*pair.1).expect("one of both")).collect();
    assert!(twice.0.iter().zip(&twice.1).all(|pair| pair.0.is_none() != pair.1.is_none()), "{twice:?}");
    for (tie, id) in (0..).zip(&ids) {
        assert_eq!(src_ord(pool, *id).await, order::first_of(1_000) + tie);
    }
    assert!(register_all(pool, &held).await.iter().all(Option::is_none));
    let listed: Vec<&ObjectVersion> = held.iter().collect();
    let other = version("climate/0.csv", "b", 1_000);
    let half = ObjectVersion { last_modified: at(1_000) + chrono::TimeDelta::milliseconds(500), ..held[0].clone() };
    assert!(!register::unknown(pool, BUCKET, domain().name, &listed).await.expect("compare").contains(&true));
    assert_eq!(register::unknown(pool, BUCKET, domain().name, &[&other, &half]).await.expect("compare"), [true, false]);
}

#[tokio::test]
async fn what_s3_holds_now_stands_above_all_the_key_had() {
    let database = Database::new().await;
    let pool = &database.pool;
    let first = register_one(pool, version("climate/a.csv", "1", 2_000)).await;
    let other = register_one(pool, version("climate/b.csv", "1", 2_001)).await;
    // Same second, then a clock that stepped back.
    let second = register_one(pool, version("climate/a.csv", "2", 2_000)).await;
    let third = register_one(pool, version("climate/a.csv", "3", 1_000)).await;
    let mut versioned = version("climate/a.csv", "3", 1_000);
    versioned.version_id = Some("v".into());
    let fourth = register_one(pool, versioned.clone()).await;
    assert_eq!(register_all(pool, &[versioned]).await, [None]);
    let mut all = vec![];
    for id in [first, second, third, fourth, other] {
        all.push(src_ord(pool, id).await);
    }
    assert!(all.is_sorted() && all[3] < all[4], "{all:?}");
}

/// Registers a key of which S3 holds these versions, the oldest first; gives the new ones.
async fn register_versions(pool: &PgPool, versions: &[ObjectVersion], since: Option<DateTime<Utc>>) -> Vec<i64> {
    let keys = [versions[0].key.clone()];
    let held = |_| async { Ok::<_, ()>(versions.to_vec()) };
    let outcomes = register::register(pool, BUCKET, domain().name, &keys, since, held).await.expect("register");
    match outcomes.into_iter().next().expect("one key") {
        Registered::New(objects) => objects.into_iter().map(|(id, _)| id).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn versions_that_were_overwritten_unseen_are_registered_in_their_order() {
    let database = Database::new().await;
    let pool = &database.pool;
    let named =
        |id: &str, second: i64| ObjectVersion { version_id: Some(id.into()), ..version("climate/a.csv", id, second) };
    let all = [named("v1", 1_000), named("v2", 1_000), named("v3", 1_001), named("v4", 1_001)];
    assert_eq!(register_versions(pool, &all[..1], None).await.len(), 1);
    register_one(pool, version("climate/b.csv", "1", 1_001)).await;
    assert_eq!(register_versions(pool, &all[..3], None).await.len(), 2, "those after the one that is known");
    assert_eq!(register_versions(pool, &all, None).await.len(), 1);
    assert_eq!(register_versions(pool, &all, Some(at(0))).await, [0; 0]);
    let order = "SELECT version_id FROM pipeline.objects WHERE key = 'climate/a.csv' ORDER BY src_ord";
    let ids: Vec<String> = sqlx::query_scalar(order).fetch_all(pool).await.expect("read");
    assert_eq!(ids, ["v1", "v2", "v3", "v4"]);
    let listed: Vec<&ObjectVersion> = all.iter().collect();
    let unknown = register::unknown_overwritten(pool, BUCKET, domain().name, &listed, at(0)).await.expect("compare");
    assert_eq!(unknown, [false; 4]);
    let others = [named("v0", 999), named("v5", 1_002)];
    let unknown =
        register::unknown_overwritten(pool, BUCKET, domain().name, &[&others[0], &others[1]], at(2_000)).await;
    assert_eq!(unknown.expect("compare"), [false, true], "before all that is known of the key, and after");
    // One of which nothing is known has the versions that count, or the current one.
    let of_c = |id: &str, second| ObjectVersion { key: "climate/c.csv".into(), ..named(id, second) };
    let history = [of_c("c1", 1_000), of_c("c2", 1_010), of_c("c3", 1_020)];
    assert_eq!(register_versions(pool, &history, Some(at(1_005))).await.len(), 2);
    let of_d: Vec<ObjectVersion> =
        history.iter().map(|it| ObjectVersion { key: "climate/d.csv".into(), ..it.clone() }).collect();
    assert_eq!(register_versions(pool, &of_d, None).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_compiles_its_statements() {
    let database = Database::new().await;
    // The Postgres of the tests is told so too, a stock one is not: the session has to ask for it.
    let source = "SELECT source FROM pg_settings WHERE name = 'jit' AND setting = 'off'";
    let source: String = sqlx::query_scalar(source).fetch_one(&database.pool).await.expect("it is off");
    assert_eq!(source, "client");
}

#[tokio::test]
async fn a_claim_reads_the_objects_that_it_takes_and_not_all_that_wait_for_each_of_them() {
    // What Postgres last counted: nothing, or few that waited among many. And the plan is from then, or from later.
    for (applied, waiting, is_planned_before) in [(0, 0, false), (20_000, 20, false), (0, 0, true)] {
        claims_read_little(applied, waiting, is_planned_before).await;
    }
}

async fn claims_read_little(applied: i64, waiting: i64, is_planned_before: bool) {
    const BURST: i64 = 10_000;
    let database = Database::new().await;
    insert_many(&database.pool, "applied", 0, applied).await;
    insert_many(&database.pool, "discovered", applied, waiting).await;
    sqlx::query("ANALYZE pipeline.objects").execute(&database.pool).await.expect("analyze");
    let pool = one_session(&database.pool).await;
    let back_off = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let claimant = Claimant { owner: "test", lease: LEASE, back_off };
    let take = Take { objects_max: 128, small_bytes: 1 << 16, ..Take::ONE };
    let claim = async || ledger::claim(&pool, claimant, &[open(domain().name, 4)], take).await.expect("claim");
    for _ in 0..if is_planned_before { UNTIL_A_PLAN_IS_KEPT } else { 0 } {
        assert_eq!(claim().await, []);
    }
    insert_many(&database.pool, "discovered", applied + waiting, BURST).await;
    for _ in 0..UNTIL_A_PLAN_IS_KEPT {
        let before = entries_read(&pool).await;
        assert_eq!(claim().await.len(), 128);
        let entries = entries_read(&pool).await - before;
        assert!(entries < BURST / 2, "{entries} entries of the table or its indexes read");
    }
}

/// Postgres keeps the plan of a statement after its fifth execution.
const UNTIL_A_PLAN_IS_KEPT: i64 = 7;

/// Objects of the domain, each the only version of its key.
async fn insert_many(pool: &PgPool, state: &str, from: i64, objects: i64) {
    sqlx::query(
        "INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord, state)
         SELECT $1, 'climate/' || n || '.csv', 'e', 10, to_timestamp(1000), $2, n, $3 FROM generate_series($4, $5) AS n",
    )
    .bind(BUCKET)
    .bind(domain().name)
    .bind(state)
    .bind(from)
    .bind(from + objects - 1)
    .execute(pool)
    .await
    .expect("insert many");
}

/// Rows and index entries of the ledger that were read so far, in this session and in those that have ended.
async fn entries_read(pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.expect("tell");
    sqlx::query_scalar(
        "SELECT (seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes AS i WHERE i.relid = t.relid))::bigint
         FROM pg_stat_user_tables AS t WHERE relid = 'pipeline.objects'::regclass",
    )
    .fetch_one(pool)
    .await
    .expect("count")
}

#[tokio::test]
async fn versions_are_looked_up_by_their_keys_also_by_plans_from_when_there_were_few() {
    const OBJECTS: i64 = 10_000;
    let database = Database::new().await;
    let pool = one_session(&database.pool).await;
    // So many that each look costs more than planning it: otherwise Postgres keeps no plan.
    let look = async |number: i64| {
        let named = |file: i64| ObjectVersion {
            version_id: Some(format!("{number}-{file}")),
            ..version(&format!("climate/new-{number}-{file}.csv"), "e", 2_000)
        };
        let new: Vec<ObjectVersion> = (0..100).map(named).collect();
        let (name, listed) = (domain().name, new.iter().collect::<Vec<_>>());
        assert_eq!(register::unknown(&pool, BUCKET, name, &listed).await.expect("compare"), [true; 100]);
        let overwritten = register::unknown_overwritten(&pool, BUCKET, name, &listed, at(3_000)).await;
        assert_eq!(overwritten.expect("compare"), [false; 100], "neither new nor after one that is known");
        assert!(register_all(&pool, &new).await.iter().all(Option::is_some));
    };
    for number in 0..UNTIL_A_PLAN_IS_KEPT {
        look(number).await;
    }
    insert_many(&database.pool, "applied", 0, OBJECTS).await;
    let before = entries_read(&pool).await;
    look(UNTIL_A_PLAN_IS_KEPT).await;
    let entries = entries_read(&pool).await - before;
    assert!(entries < OBJECTS / 2, "{entries} entries of the table or its indexes read");
}

#[tokio::test]
async fn the_state_is_counted_without_reading_all_files_and_all_that_was_received_of_them() {
    let database = Database::new().await;
    // Of each thousand one is published, half of it received; one is superseded; two were read again. Some of their rows are
    // stale and were received twice, or rejected.
    let history = "INSERT INTO pipeline.objects
            (bucket, key, etag, size_bytes, last_modified, domain, src_ord, state, rows, applied_at, partition_count, generation)
         SELECT 'raw', 'climate/' || n || '.csv', 'e', 10, to_timestamp(1000), 'climate', n,
            CASE n % 1000 WHEN 1 THEN 'published' WHEN 2 THEN 'superseded' ELSE 'applied' END, 10,
            now() - interval '9 days', 2, CASE n % 500 WHEN 3 THEN 2 ELSE 1 END
         FROM generate_series(1, 20000) AS n;
         INSERT INTO pipeline.progress
            (object, generation, partition, domain, received, applied, stale, duplicate, rejected, corrected)
         SELECT o.id, g, p, o.domain, '{[0,5)}', 5 - s - r, s, s, r, r
         FROM pipeline.objects AS o CROSS JOIN LATERAL generate_series(1, o.generation) AS g
            CROSS JOIN generate_series(0, 1) AS p CROSS JOIN LATERAL (
                SELECT (o.src_ord % 250 = 3)::int AS s, (o.src_ord % 100 = 3)::int AS r) AS results
         WHERE o.state <> 'published' OR p = 0;
         INSERT INTO pipeline.progress (object, generation, partition, domain, rejected) VALUES (0, 1, 7, 'climate', 1)";
    sqlx::raw_sql(history).execute(&database.pool).await.expect("a history");
    for table in ["VACUUM ANALYZE pipeline.objects", "VACUUM ANALYZE pipeline.progress"] {
        sqlx::raw_sql(table).execute(&database.pool).await.expect("vacuum");
    }
    let pool = one_session(&database.pool).await;
    let mut connection = pool.acquire().await.expect("connect");
    let summed: Vec<i64> = sqlx::query_scalar(
        "SELECT ARRAY[sum(p.applied), sum(p.stale), sum(p.duplicate), sum(p.rejected), sum(p.corrected)]::bigint[]
         FROM pipeline.progress AS p JOIN pipeline.objects AS o ON o.id = p.object AND o.generation = p.generation",
    )
    .fetch_one(&mut *connection)
    .await
    .expect("sum");
    let mut read = [0; 2];
    let mut status = None;
    for read in &mut read {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.expect("tell");
        *read = sqlx::query_scalar::<_, i64>(
            "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables
             WHERE schemaname = 'pipeline' AND relname IN ('objects', 'progress')",
        )
        .fetch_one(&mut *connection)
        .await
        .expect("count");
        let (domains, outside) = ([domain()], freshet::status::Outside::default());
        let found = freshet::status::read(&mut connection, Pipeline::shipped(), &domains, &outside, None).await;
        status = Some(found.expect("the status").domains.remove(0));
    }
    assert_eq!(read[0], read[1], "the tables were read from end to end");
    let status = status.expect("read");
    let rows = status.rows;
    assert_eq!([rows.applied, rows.stale, rows.duplicate, rows.rejected, rows.corrected], summed[..]);
    assert_eq!((rows.published, rows.applied + rows.stale + rows.rejected), (200_000, 199_900));
    let files =
        [ObjectState::Applied, ObjectState::Published, ObjectState::Superseded].map(|state| status.files[&state]);
    assert_eq!(files, [19_960, 20, 20]);
}

#[tokio::test]
async fn a_claim_takes_what_the_table_of_may_claim_says() {
    let database = Database::new().await;
    let pool = &database.pool;
    let older = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let newer = register_one(pool, version("climate/a.csv", "2", 2_000)).await;
    let set = async |id: i64, state: ObjectState, lease_from: TimeDelta, wait_from: TimeDelta, attempts: i32| {
        sqlx::query(
            "UPDATE pipeline.objects SET state = $2, attempts = $5,
                lease_from = now() + $3, lease_until = now() + $3 + interval '2 hours',
                wait_from = now() + $4, next_attempt_at = now() + $4 + interval '2 hours'
             WHERE id = $1",
        )
        .bind(id)
        .bind(state)
        .bind(lease_from)
        .bind(wait_from)
        .bind(attempts)
        .execute(pool)
        .await
        .expect("set");
    };
    // Intervals of two hours that are under way, over, or yet to begin: the clock went back by an hour and more.
    let [running, over, ahead] = [-60, -180, 60].map(TimeDelta::minutes);
    for state in ObjectState::ALL {
        for (lease, wait) in [(running, running), (running, over), (over, running), (over, over), (ahead, ahead)] {
            for earlier in [None, Some(0), Some(4), Some(5)] {
                // The older version is never free itself.
                let holding = if earlier.is_some() { ObjectState::Publishing } else { ObjectState::Applied };
                set(older, holding, running, over, earlier.unwrap_or(0)).await;
                set(newer, state, lease, wait, 0).await;
                let expected = ledger::may_claim(state, lease == running, wait == running, earlier);
                let claimed = claim_next(pool).await;
                assert_eq!(
                    claimed.map(|claim| claim.object.id),
                    expected.then_some(newer),
                    "{state} {lease} {wait} {earlier:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_object_that_was_found_before_the_clock_went_back_is_claimed_at_once() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    // Found and never claimed, by a clock that was an hour ahead of the present one.
    let back = "UPDATE pipeline.objects SET discovered_at = discovered_at + interval '1 hour',
        next_attempt_at = next_attempt_at + interval '1 hour'";
    sqlx::query(back).execute(pool).await.expect("turn the clock back");
    assert_eq!(claim_next(pool).await.map(|claim| claim.object.id), Some(id));
}

/// A take of this listener; the names of what it gave, in its order.
async fn take(pool: &PgPool, take: Take) -> Vec<Claim> {
    let back_off = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let claimant = Claimant { owner: "test", lease: LEASE, back_off };
    ledger::claim(pool, claimant, &[open(domain().name, 4), open(DOMAINS[2].name, 4)], take).await.expect("claim")
}

fn keys(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.object.version.key.as_str()).collect()
}

#[tokio::test]
async fn new_files_go_first_or_those_that_are_sent_again_as_the_turn_says_and_neither_waits_for_nothing() {
    let database = Database::new().await;
    let pool = &database.pool;
    for (key, second) in [("climate/old-1.csv", 1_000), ("climate/old-2.csv", 1_001), ("climate/new-1.csv", 2_000)] {
        register_one(pool, version(key, "1", second)).await;
    }
    register_one(pool, version("climate/new-2.csv", "1", 2_001)).await;
    let again = "UPDATE pipeline.objects SET repairs = 1 WHERE key LIKE '%/old-%'";
    sqlx::query(again).execute(pool).await.expect("send the old ones again");
    let again_first = Take { sent_again_first: true, ..Take::ONE };
    let expected = [
        (Take::ONE, "climate/new-1.csv"),
        (again_first, "climate/old-1.csv"),
        (Take::ONE, "climate/new-2.csv"),
        (Take::ONE, "climate/old-2.csv"),
    ];
    for (turn, key) in expected {
        assert_eq!(keys(&take(pool, turn).await), [key]);
    }
    assert_eq!(take(pool, again_first).await, []);
}

#[tokio::test]
async fn files_that_keep_failing_hold_back_no_new_one_and_each_of_them_has_its_turn() {
    let database = Database::new().await;
    let pool = &database.pool;
    sqlx::query(
        "INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord, attempts)
         SELECT $1, 'climate/' || n || '.csv', 'e', 10, to_timestamp(1000), $2, n, 3 FROM generate_series(1, 200) AS n",
    )
    .bind(BUCKET)
    .bind(domain().name)
    .execute(pool)
    .await
    .expect("register files that have failed");
    register_one(pool, version("climate/new.csv", "1", 2_000)).await;
    let new_only = Take { failed: false, ..Take::ONE };
    assert_eq!(keys(&take(pool, new_only).await), ["climate/new.csv"]);
    assert_eq!(take(pool, new_only).await, []);
    // What a listener that died has left had no chance yet; the second time it may be the file.
    let expire = "UPDATE pipeline.objects SET lease_from = lease_from - interval '1 day',
        lease_until = lease_until - interval '1 day', wait_from = wait_from - interval '1 day',
        next_attempt_at = next_attempt_at - interval '1 day' WHERE key = 'climate/new.csv'";
    sqlx::query(expire).execute(pool).await.expect("let the lease expire");
    assert_eq!(keys(&take(pool, new_only).await), ["climate/new.csv"]);
    sqlx::query(expire).execute(pool).await.expect("let the lease expire");
    assert_eq!(take(pool, new_only).await, []);

    assert_eq!(keys(&take(pool, Take::ONE).await), ["climate/1.csv"]);
    let back_off = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let claimant = Claimant { owner: "test", lease: LEASE, back_off };
    for (tried, next) in [(100, "climate/101.csv"), (200, "climate/new.csv"), (200, "climate/2.csv")] {
        let open = OpenDomain { tried: [tried, i64::MIN], ..open(domain().name, 4) };
        let claims = ledger::claim(pool, claimant, &[open], Take::ONE).await.expect("claim");
        assert_eq!(keys(&claims), [next], "behind {tried}");
    }
}

#[tokio::test]
async fn small_files_are_taken_together_and_neither_big_ones_nor_those_that_failed_are_among_them() {
    let database = Database::new().await;
    let pool = &database.pool;
    for (key, content) in [("a", "1"), ("b", "22"), ("c", "much more than the others"), ("d", "1"), ("e", "1")] {
        register_one(pool, version(&format!("climate/{key}.csv"), content, 1_000)).await;
    }
    register_one(pool, version("climate/a.csv", "2", 2_000)).await;
    let failed = "UPDATE pipeline.objects SET attempts = 1 WHERE key = 'climate/d.csv'";
    sqlx::query(failed).execute(pool).await.expect("fail");
    let together = Take { objects_max: 10, small_bytes: 5, ..Take::ONE };
    let expected: [&[&str]; 4] = [
        // Not the newer version of the first, which waits for it.
        &["climate/a.csv", "climate/b.csv", "climate/e.csv"],
        &["climate/c.csv"],
        &["climate/d.csv"],
        &[],
    ];
    for expected in expected {
        assert_eq!(keys(&take(pool, together).await), expected);
    }
    let least =
        "UPDATE pipeline.objects SET state = 'discovered', attempts = 0, lease_until = NULL, next_attempt_at = now()
        WHERE last_modified = to_timestamp(1000)";
    sqlx::query(least).execute(pool).await.expect("free them");
    assert_eq!(keys(&take(pool, Take { objects_max: 2, ..together }).await), ["climate/a.csv", "climate/b.csv"]);
}

#[tokio::test]
async fn of_several_that_are_recorded_together_those_that_were_taken_over_are_not_written() {
    let database = Database::new().await;
    let pool = &database.pool;
    for key in ["a", "b", "c"] {
        register_one(pool, version(&format!("climate/{key}.csv"), "1", 1_000)).await;
    }
    let mut claims = take(pool, Take { objects_max: 10, small_bytes: 5, ..Take::ONE }).await;
    let taken_over = "UPDATE pipeline.objects SET lease_epoch = lease_epoch + 1 WHERE key = 'climate/b.csv'";
    sqlx::query(taken_over).execute(pool).await.expect("take over");
    let (point, content) = (point([3, 0, 4, 0], [10, 0, 20, 0]), content(7));
    let mut finished: Vec<Finished> =
        claims.iter_mut().map(|claim| Finished { claim, stream: STREAM, point: &point, content: &content }).collect();
    let recorded = ledger::record_published(pool, &mut finished).await.expect("record");
    assert_eq!(recorded.iter().map(Recorded::is_written).collect::<Vec<_>>(), [true, false, true]);
    for (claim, expected) in claims.iter().zip(["published", "publishing", "published"]) {
        assert_eq!(state(pool, claim.object.id).await.0, expected);
        assert_eq!(claim.object.state.name(), expected, "the claim knows");
    }
    let again = ledger::record_published(pool, &mut []).await.expect("nothing to record");
    assert_eq!(again, []);
}

#[tokio::test]
async fn an_object_taken_over_is_not_written_by_its_former_listener() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    register_one(pool, version("climate/b.csv", "1", 1_000)).await;
    let (one, two) = futures::future::join(claim_next(pool), claim_next(pool)).await;
    let (mut one, two) = (one.expect("a claim"), two.expect("a claim"));
    assert_ne!(one.object.id, two.object.id);
    assert!(claim_next(pool).await.is_none());
    assert_eq!(
        (one.object.generation, one.numbering.parser_version, one.numbering.partitions),
        (1, freshet_topics::PARSER_VERSION, 4)
    );
    let resume = point([1, 2, 0, 0], [5, 6, 0, 0]);
    let (before, after) = (content(7), content(8));
    let checkpoint = Event::Checkpoint { stream: STREAM, point: &resume, content: &before };
    assert!(record(pool, &mut one, checkpoint.clone()).await.is_written());
    let renewal = |claim: &Claim, lease_epoch| Renewal {
        object: claim.object.id,
        nonce: claim.object.nonce,
        lease_epoch,
        back_off: LEASE,
    };
    let mine = [renewal(&one, 1), renewal(&two, 0), Renewal { nonce: Uuid::nil(), ..renewal(&two, 1) }];
    assert_eq!(ledger::renew(pool, &mine, LEASE).await.expect("renew"), [one.object.id]);
    let expire =
        "UPDATE pipeline.objects SET lease_from = now() - interval '2 s', lease_until = now() - interval '1 s',
            wait_from = now() - interval '2 s', next_attempt_at = now() - interval '1 s' WHERE id = $1";
    sqlx::query(expire).bind(one.object.id).execute(pool).await.expect("expire");
    let mut taken = claim_next(pool).await.expect("the expired one");
    let (id, epoch) = (one.object.id, one.object.lease_epoch);
    assert_eq!((taken.object.id, taken.object.lease_epoch, taken.object.attempts), (id, epoch + 1, 1));
    assert_eq!(taken.object.resume_point(4), resume);
    assert_eq!((taken.object.sha256.as_deref(), taken.object.stream_id), (Some(&[7][..]), Some(STREAM)));
    let (rejected, failed) = ("no".to_owned(), "no".to_owned());
    let other = Numbering { parser_version: 1, partitions: 8, reading_rules: 9 };
    let events = [
        checkpoint,
        publish(&resume, &after),
        Event::Reject { detail: rejected },
        Event::SetAside { original: 1, sha256: vec![] },
        Event::Gone { detail: "no".into(), lost: Lost::Nothing },
        Event::Release,
        Event::Fail { detail: failed, back_off: Duration::ZERO },
        Event::OpenGeneration(other),
    ];
    for event in events {
        assert_eq!(record(pool, &mut one.clone(), event).await, Recorded::LeaseLost);
    }
    assert!(record(pool, &mut taken, Event::OpenGeneration(other)).await.is_written());
    let fail = Event::Fail { detail: "broken".into(), back_off: Duration::ZERO };
    assert!(record(pool, &mut taken, fail).await.is_written());
    assert_eq!(state(pool, id).await, ("discovered".into(), Some("broken".into())));
    let again = claim_next(pool).await.expect("released");
    let object = again.object;
    assert_eq!((object.generation, again.numbering.partitions, object.resume_row, object.attempts), (2, 8, 0, 2));
    assert_eq!(again.numbering.reading_rules, 9, "frozen with the generation");
    assert_eq!(object.end_offsets, None);
}

#[tokio::test]
async fn a_file_whose_listener_dies_of_it_is_left_alone_longer_each_time() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    // Far above what two statements take: no wait ends by itself here.
    let back_off = Backoff::new(Duration::from_secs(60), Duration::from_secs(3_600));
    let claimant = Claimant { owner: "doomed", lease: Duration::from_secs(10), back_off };
    let mut waits = Vec::new();
    for _ in 0..8 {
        let claimed = ledger::claim(pool, claimant, &[open(domain().name, 4)], Take::ONE).await.expect("claim").pop();
        assert_eq!(claimed.map(|claim| claim.object.id), Some(id));
        let wait: f64 = sqlx::query_scalar(
            "SELECT extract(epoch FROM next_attempt_at - lease_until)::float8 FROM pipeline.objects WHERE id = $1",
        )
        .bind(id)
        .fetch_one(pool)
        .await
        .expect("read");
        waits.push(wait.round() as i64);
        let later = "UPDATE pipeline.objects SET lease_from = lease_from - $1, lease_until = lease_until - $1,
            wait_from = wait_from - $1, next_attempt_at = next_attempt_at - $1";
        // The lease runs out; the wait is not over.
        sqlx::query(later).bind(TimeDelta::seconds(10)).execute(pool).await.expect("let time pass");
        assert!(ledger::claim(pool, claimant, &[open(domain().name, 4)], Take::ONE).await.expect("claim").is_empty());
        sqlx::query(later).bind(TimeDelta::seconds(3_600)).execute(pool).await.expect("let time pass");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60].map(|minutes| minutes * 60));
}

/// Postgres went back under a listener: the id and the lease epoch of its claim are another object's by now.
#[tokio::test]
async fn a_claim_that_the_ledger_has_forgotten_writes_nothing_to_the_object_that_has_its_id() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let mut forgotten = claim_next(pool).await.expect("a claim");
    let back = "TRUNCATE pipeline.objects RESTART IDENTITY";
    sqlx::query(back).execute(pool).await.expect("go back");
    assert_eq!(register_one(pool, version("climate/b.csv", "1", 1_000)).await, id, "ids come again");
    let mut mine = claim_next(pool).await.expect("a claim");
    let names = |claim: &Claim| (claim.object.id, claim.object.lease_epoch, claim.object.generation);
    assert_eq!(names(&forgotten), names(&mine));
    assert_ne!(forgotten.object.nonce, mine.object.nonce);
    let (point, content) = (point([1, 2, 0, 0], [5, 6, 0, 0]), content(7));
    for (claim, written) in [(&mut forgotten, false), (&mut mine, true)] {
        let checkpoint = Event::Checkpoint { stream: STREAM, point: &point, content: &content };
        assert_eq!(record(pool, claim, checkpoint).await.is_written(), written);
        assert_eq!(record(pool, claim, publish(&point, &content)).await.is_written(), written);
    }
}

#[tokio::test]
async fn the_same_content_again_is_nothing_to_do() {
    let database = Database::new().await;
    let pool = &database.pool;
    let first = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    for second in [2_000, 3_000] {
        let copy = register_one(pool, version("climate/a.csv", "1", second)).await;
        let mut again = claim_next(pool).await.expect("claim");
        assert_eq!(nothing_to_do(&again, &[7]), Some(first));
        let event = Event::SetAside { original: first, sha256: vec![7] };
        assert!(record(pool, &mut again, event).await.is_written());
        let reason = format!("same content as object {first}, nothing to do");
        assert_eq!(state(pool, copy).await, ("superseded".into(), Some(reason)));
    }
    register_one(pool, version("climate/a.csv", "2", 4_000)).await;
    let other = claim_next(pool).await.expect("claim");
    assert_eq!(nothing_to_do(&other, &[8]), None);
}

#[tokio::test]
async fn a_key_that_was_another_domains_is_registered_anew_and_nothing_of_that_domain_counts() {
    let database = Database::new().await;
    let pool = &database.pool;
    let other = DOMAINS[2].name;
    let named = ObjectVersion { version_id: Some("v1".into()), ..version("climate/named.csv", "1", 1_000) };
    for held in [version("climate/a.csv", "1", 1_000), named] {
        let before = register_for(pool, other, &held).await.expect("new");
        assert_eq!(register::unknown(pool, BUCKET, domain().name, &[&held]).await.expect("compare"), [true]);
        let id = register_one(pool, held.clone()).await;
        assert!(id != before && src_ord(pool, id).await > src_ord(pool, before).await, "the newest of its key");
        for domain in [other, domain().name] {
            assert_eq!(register::unknown(pool, BUCKET, domain, &[&held]).await.expect("compare"), [false]);
            assert_eq!(register_for(pool, domain, &held).await, None, "known in {domain}");
        }
        // The older one has not even begun, and nobody will begin it.
        let claimed = claim_next(pool).await.expect("not held back");
        assert_eq!((claimed.object.id, claimed.earlier), (id, None));
    }
}

#[tokio::test]
async fn a_deletion_is_taken_back_once_the_bucket_has_the_version_again() {
    let database = Database::new().await;
    let pool = &database.pool;
    let named =
        |id: &str, second| ObjectVersion { version_id: Some(id.into()), ..version("climate/a.csv", id, second) };
    register_one(pool, named("v1", 1_000)).await;
    let held = named("v2", 2_000);
    register_one(pool, held.clone()).await;
    let keys = [held.key.clone()];
    let present = async || register::present_keys(pool, BUCKET, domain().name, "", 10).await.expect("read");
    let is_unknown = async || register::unknown(pool, BUCKET, domain().name, &[&held]).await.expect("compare")[0];
    for _ in 0..2 {
        let newest_id = register::newest_id(pool).await.expect("read");
        assert_eq!(register::record_deletions(pool, BUCKET, &keys, newest_id).await.expect("record"), 2);
        assert_eq!((present().await.len(), is_unknown().await), (0, true));
        assert_eq!(register_all(pool, std::slice::from_ref(&held)).await, [None], "nothing is published again");
        assert_eq!((present().await.as_slice(), is_unknown().await), (keys.as_slice(), false));
    }
}

#[tokio::test]
async fn a_key_written_a_b_a_within_a_second_ends_as_a() {
    let database = Database::new().await;
    let pool = &database.pool;
    let [a, b] = ["a", "b"].map(|content| version("climate/a.csv", content, 1_000));
    let mut ids = vec![];
    for held in [&a, &b, &a] {
        assert_eq!(register::unknown(pool, BUCKET, domain().name, &[held]).await.expect("compare"), [true]);
        ids.push(register_one(pool, held.clone()).await);
        assert_eq!(register_all(pool, std::slice::from_ref(held)).await, [None]);
        assert_eq!(register::unknown(pool, BUCKET, domain().name, &[held]).await.expect("compare"), [false]);
    }
    let places = [src_ord(pool, ids[0]).await, src_ord(pool, ids[1]).await, src_ord(pool, ids[2]).await];
    assert!(places.is_sorted() && places[0] < places[2], "{places:?}");
}

/// The clock of Postgres is decades ahead of S3's here.
#[tokio::test]
async fn a_file_sent_as_new_stands_above_what_came_before_and_below_what_comes_after() {
    let database = Database::new().await;
    let pool = &database.pool;
    let [a, b] = ["climate/a.csv", "climate/b.csv"].map(|key| version(key, "1", 1_000));
    let ids = [register_one(pool, a).await, register_one(pool, b).await];
    while let Some(mut claimed) = claim_next(pool).await {
        let nothing = point([0; 4], [0; 4]);
        assert!(record(pool, &mut claimed, publish(&nothing, &content(1))).await.is_written());
    }
    sweep(pool).await;
    let selection = Selection { keys: vec!["climate/a.csv".into()], as_new: true, ..Selection::default() };
    let candidates = ledger::select(pool, BUCKET, &selection).await.expect("select");
    assert_eq!(ledger::send_as_new(pool, &candidates).await.expect("send"), 1);
    let after = register_one(pool, version("climate/c.csv", "1", 1_001)).await;
    let places = [src_ord(pool, ids[1]).await, src_ord(pool, ids[0]).await, src_ord(pool, after).await];
    assert!(places.is_sorted() && places[1] > places[0] && places[2] > places[1], "{places:?}");
}

#[tokio::test]
async fn files_sent_as_new_keep_their_order_and_all_are_sent_or_none() {
    let database = Database::new().await;
    let pool = &database.pool;
    let mut ids = Vec::new();
    for key in ["climate/a.csv", "climate/b.csv", "climate/c.csv"] {
        ids.push(register_one(pool, version(key, "1", 1_000)).await);
    }
    while let Some(mut claimed) = claim_next(pool).await {
        let nothing = point([0; 4], [0; 4]);
        assert!(record(pool, &mut claimed, publish(&nothing, &content(1))).await.is_written());
    }
    sweep(pool).await;
    let places = async || [src_ord(pool, ids[0]).await, src_ord(pool, ids[1]).await, src_ord(pool, ids[2]).await];
    let before = places().await;
    let selection = Selection { as_new: true, ..Selection::default() };
    let candidates = ledger::select(pool, BUCKET, &selection).await.expect("select");
    let refuse = "ALTER TABLE pipeline.objects ADD CONSTRAINT refused CHECK (key <> 'climate/b.csv' OR generation = 1)";
    sqlx::query(refuse).execute(pool).await.expect("have the second one refused");
    ledger::send_as_new(pool, &candidates).await.expect_err("the second one is refused");
    assert_eq!(places().await, before, "the first one was not sent either");
    let accept = "ALTER TABLE pipeline.objects DROP CONSTRAINT refused";
    sqlx::query(accept).execute(pool).await.expect("have it accepted");
    assert_eq!(ledger::send_as_new(pool, &candidates).await.expect("send"), 3);
    let after = places().await;
    assert!(after.is_sorted() && after[0] > before[2], "{before:?} {after:?}");
}

#[tokio::test]
async fn a_version_given_up_that_the_bucket_still_shows_is_taken_up_again() {
    let database = Database::new().await;
    let pool = &database.pool;
    let held = version("climate/a.csv", "1", 1_000);
    let id = register_one(pool, held.clone()).await;
    let mut claimed = claim_next(pool).await.expect("claim");
    assert_eq!(give_up(pool, &mut claimed).await, Lost::Nothing);
    assert_eq!(state(pool, id).await.0, "superseded");
    assert_eq!(register::unknown(pool, BUCKET, domain().name, &[&held]).await.expect("compare"), [true]);
    assert_eq!(register_all(pool, std::slice::from_ref(&held)).await, [Some(id)], "the same object");
    assert_eq!(register::unknown(pool, BUCKET, domain().name, &[&held]).await.expect("compare"), [false]);
    assert_eq!(claim_next(pool).await.map(|claim| claim.object.id), Some(id));
    // A newer version of the key is what the bucket shows: the older one stays given up.
    let database = Database::new().await;
    let pool = &database.pool;
    register_one(pool, held.clone()).await;
    let mut claimed = claim_next(pool).await.expect("claim");
    give_up(pool, &mut claimed).await;
    register_one(pool, version("climate/a.csv", "2", 1_000)).await;
    assert_eq!(claim_next(pool).await.map(|claim| claim.object.version.etag), Some("2".into()));
}

async fn bookmark(pool: &PgPool, partition: i32, next_offset: i64, stream: Uuid) {
    sqlx::query(
        "INSERT INTO pipeline.bookmarks (domain, partition, next_offset, stream_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT (domain, partition) DO UPDATE SET next_offset = $3, stream_id = $4",
    )
    .bind(domain().name)
    .bind(partition)
    .bind(next_offset)
    .bind(stream)
    .execute(pool)
    .await
    .expect("bookmark");
}

async fn receive(pool: &PgPool, object: i64, partition: i32, received: &str) {
    sqlx::query(
        "INSERT INTO pipeline.progress (object, generation, partition, domain, received)
         VALUES ($1, 1, $2, $3, $4::int8multirange)
         ON CONFLICT (object, generation, partition, domain) DO UPDATE SET received = $4::int8multirange",
    )
    .bind(object)
    .bind(partition)
    .bind(domain().name)
    .bind(received)
    .execute(pool)
    .await
    .expect("progress");
}

/// Two sweeps at once: objects applied, objects repaired, objects waiting.
async fn sweep(pool: &PgPool) -> (usize, usize, u64) {
    let back_off = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let one = ledger::sweep(pool, domain(), back_off, |_| false);
    let two = ledger::sweep(pool, domain(), back_off, |_| false);
    let (one, two) = futures::future::join(one, two).await;
    let (one, two) = (one.expect("sweep"), two.expect("sweep"));
    assert!(one.failure.is_none() && two.failure.is_none(), "{one:?} {two:?}");
    let applied = one.applied.len() + two.applied.len();
    (applied, one.repaired.len() + two.repaired.len(), one.waiting.max(two.waiting))
}

#[tokio::test]
async fn an_object_is_applied_once_all_its_rows_are_there() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let waiting = (0, 0, 1);
    assert_eq!(sweep(pool).await, waiting, "no bookmark");
    bookmark(pool, 0, 10, STREAM).await;
    bookmark(pool, 2, 19, STREAM).await;
    assert_eq!(sweep(pool).await, waiting, "one record short of the end");
    bookmark(pool, 2, 25, Uuid::from_u128(2)).await;
    assert_eq!(sweep(pool).await, waiting, "another stream's bookmark");
    bookmark(pool, 2, 20, STREAM).await;
    receive(pool, id, 0, "{[0,3)}").await;
    receive(pool, id, 2, "{[0,2),[2,4)}").await;
    assert_eq!(sweep(pool).await, (1, 0, 0), "by one of two sweepers");
    assert_eq!(sweep(pool).await, (0, 0, 0));
    assert_eq!(state(pool, id).await.0, "applied");
}

#[tokio::test]
async fn a_file_with_no_rows_is_applied_at_once() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let mut claimed = claim_next(pool).await.expect("claim");
    let nothing = point([0; 4], [0; 4]);
    assert!(record(pool, &mut claimed, publish(&nothing, &content(1))).await.is_written());
    assert_eq!(sweep(pool).await, (1, 0, 0));
}

#[tokio::test]
async fn missing_rows_are_published_again_or_named() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let copy = register_one(pool, version("climate/a.csv", "1", 2_000)).await;
    let mut claimed = claim_next(pool).await.expect("the copy");
    assert_eq!(nothing_to_do(&claimed, &[7]), Some(id));
    assert!(record(pool, &mut claimed, Event::SetAside { original: id, sha256: vec![7] }).await.is_written());
    bookmark(pool, 0, 10, STREAM).await;
    bookmark(pool, 2, 20, STREAM).await;
    receive(pool, id, 2, "{[0,1),[3,4)}").await;
    assert_eq!(sweep(pool).await, (0, 1, 0), "by one of two sweepers");
    assert_eq!(sweep(pool).await, (0, 0, 0), "one repair outstanding");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut repair = claim_next(pool).await.expect("the repair");
    let object = &repair.object;
    assert_eq!((object.id, object.generation, object.repairs, object.resume_row), (id, 1, 1, 0));
    let lost = give_up(pool, &mut repair).await;
    let missing = "5 rows are missing (partition 0: seqs {[0,3)}; partition 2: seqs {[1,3)})";
    assert_eq!(lost.to_string(), missing);
    assert_eq!(state(pool, id).await, ("superseded".into(), Some(format!("gone; {missing}"))));
    // In the same transaction: the copy cannot stay asleep.
    let woken = claim_next(pool).await.expect("the copy goes its own way");
    assert_eq!((woken.object.id, nothing_to_do(&woken, &[7])), (copy, None));
}

#[tokio::test]
async fn a_copy_whose_original_is_given_up_meanwhile_is_not_set_aside() {
    let database = Database::new().await;
    let pool = &database.pool;
    let original = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let copy = register_one(pool, version("climate/a.csv", "1", 2_000)).await;
    let mut claimed = claim_next(pool).await.expect("the copy");
    assert_eq!(nothing_to_do(&claimed, &[7]), Some(original), "as it was when the copy was claimed");
    bookmark(pool, 0, 10, STREAM).await;
    bookmark(pool, 2, 20, STREAM).await;
    assert_eq!(sweep(pool).await, (0, 1, 0));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut repair = claim_next(pool).await.expect("the repair");
    give_up(pool, &mut repair).await;
    let event = Event::SetAside { original, sha256: vec![7] };
    assert_eq!(record(pool, &mut claimed, event).await, Recorded::OriginalGone);
    let again = claim_next(pool).await.expect("the copy goes its own way");
    assert_eq!((again.object.id, nothing_to_do(&again, &[7])), (copy, None));
}

#[tokio::test]
async fn after_adopting_what_s3_no_longer_has_is_named_too() {
    let database = Database::new().await;
    let pool = &database.pool;
    let whole = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let half = register_one(pool, version("climate/b.csv", "1", 1_000)).await;
    publish_next(pool, 8).await;
    receive(pool, whole, 0, "{[0,3)}").await;
    receive(pool, whole, 2, "{[0,4)}").await;
    receive(pool, half, 0, "{[0,3)}").await;
    let mut connection = pool.acquire().await.expect("a connection");
    assert_eq!(ledger::adopt(&mut connection, domain().name).await.expect("adopt"), 2);
    for (id, expected) in [(whole, "applied"), (half, "superseded")] {
        let mut claimed = claim_next(pool).await.expect("claim");
        assert_eq!((claimed.object.id, claimed.object.repairs), (id, 0));
        give_up(pool, &mut claimed).await;
        assert_eq!(state(pool, id).await.0, expected);
    }
    let named = state(pool, half).await.1.expect("a reason");
    assert_eq!(named, "gone; 4 rows are missing (partition 2: seqs {[0,4)})");
}

#[tokio::test]
async fn a_deletion_is_recorded_and_touches_nothing_else() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_all(pool, &[version("climate/a.csv", "1", 1_000), version("climate/b.csv", "1", 1_000)]).await;
    let present = register::present_keys(pool, BUCKET, domain().name, "", 10).await.expect("keys");
    assert_eq!(present, ["climate/a.csv", "climate/b.csv"]);
    let gone = ["climate/a.csv".to_owned()];
    assert_eq!(register::record_deletions(pool, BUCKET, &gone, 0).await.expect("record"), 0, "found since");
    let now = register::newest_id(pool).await.expect("ask");
    for expected in [1, 0] {
        assert_eq!(register::record_deletions(pool, BUCKET, &gone, now).await.expect("record"), expected);
    }
    let present = register::present_keys(pool, BUCKET, domain().name, "", 10).await.expect("keys");
    assert_eq!(present, ["climate/b.csv"]);
    assert!(
        claim_next(pool).await.is_some(),
        "a version that was deleted is claimed, and found gone when it is opened"
    );
}
