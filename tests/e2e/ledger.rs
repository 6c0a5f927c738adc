//! The object ledger against a real Postgres, without a listener: each test has a database of its own.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_ingest::claim::{self, Claim, Content, Progress};
use freshet_ingest::frame::Position;
use freshet_ingest::ledger;
use freshet_ingest::object::ObjectVersion;
use freshet_ingest::register::{self, Registered};
use freshet_ingest::{IngestSettings, Swept, order, sweep_once};
use freshet_topics::{DOMAINS, Domain};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::World;

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
    let head = |key: String| {
        let found = by_key.get(key.as_str()).map(|version| (*version).clone());
        async move { Ok(found) }
    };
    let outcomes = register::register(pool, BUCKET, domain().name, &keys, head).await.expect("register");
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Registered::New(id) => Some(id),
            Registered::Known => None,
            other => panic!("{other:?}"),
        })
        .collect()
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

async fn claim_next(pool: &PgPool) -> Option<Claim> {
    ledger::claim(pool, "test", LEASE, &[("nothing", 1), (domain().name, 4)]).await.expect("claim")
}

fn content(sha256: u8) -> Content {
    Content { sha256: vec![sha256], ignored_columns: vec!["colour".into()] }
}

fn progress(rows: [i64; 4], ends: [i64; 4]) -> Progress {
    let at = Position { byte: 100, line: 12, row: rows.iter().sum() };
    Progress { at, seqs: rows.to_vec(), ends: ends.to_vec() }
}

/// Claims the next object and publishes it: 3 rows in partition 0 and 4 in partition 2.
async fn publish_next(pool: &PgPool, sha256: u8) -> Claim {
    let claimed = claim_next(pool).await.expect("an object to publish");
    let progress = progress([3, 0, 4, 0], [10, 0, 20, 0]);
    assert!(ledger::publish(pool, &claimed, STREAM, &progress, &content(sha256)).await.expect("publish"));
    claimed
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
    assert!(!register::unknown(pool, BUCKET, &listed).await.expect("compare").contains(&true));
    assert_eq!(register::unknown(pool, BUCKET, &[&other, &half]).await.expect("compare"), [true, false]);
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

#[tokio::test]
async fn a_claim_takes_what_the_table_of_may_claim_says() {
    let database = Database::new().await;
    let pool = &database.pool;
    let older = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let newer = register_one(pool, version("climate/a.csv", "2", 2_000)).await;
    let set = async |id: i64, state: &str, expired: bool, due: bool, attempts: i32| {
        sqlx::query(
            "UPDATE pipeline.objects SET state = $2, attempts = $5,
                lease_until = now() + CASE WHEN $3 THEN -1 ELSE 60 END * interval '1 second',
                next_attempt_at = now() + CASE WHEN $4 THEN -1 ELSE 60 END * interval '1 second'
             WHERE id = $1",
        )
        .bind(id)
        .bind(state)
        .bind(expired)
        .bind(due)
        .bind(attempts)
        .execute(pool)
        .await
        .expect("set");
    };
    for state in ["discovered", "publishing", "published", "applied", "rejected", "superseded"] {
        for (expired, due) in [(false, false), (false, true), (true, false), (true, true)] {
            for earlier in [None, Some(0), Some(4), Some(5)] {
                // The older version is never free itself.
                set(older, if earlier.is_some() { "publishing" } else { "applied" }, false, true, earlier.unwrap_or(0))
                    .await;
                set(newer, state, expired, due, 0).await;
                let expected = claim::may_claim(state, expired, due, earlier);
                let claimed = claim_next(pool).await;
                assert_eq!(
                    claimed.map(|claim| claim.id),
                    expected.then_some(newer),
                    "{state} {expired} {due} {earlier:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_object_taken_over_is_not_written_by_its_former_listener() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    register_one(pool, version("climate/b.csv", "1", 1_000)).await;
    let (one, two) = futures::future::join(claim_next(pool), claim_next(pool)).await;
    let (one, two) = (one.expect("a claim"), two.expect("a claim"));
    assert_ne!(one.id, two.id);
    assert!(claim_next(pool).await.is_none());
    assert_eq!((one.generation, one.parser_version, one.partition_count), (1, freshet_topics::PARSER_VERSION, 4));
    let resume = progress([1, 2, 0, 0], [5, 6, 0, 0]);
    assert!(ledger::checkpoint(pool, &one, STREAM, &resume, &content(7)).await.expect("checkpoint"));
    assert_eq!(ledger::renew(pool, &[one.id, two.id], &[1, 0], LEASE).await.expect("renew"), [one.id]);
    sqlx::query("UPDATE pipeline.objects SET lease_until = now() - interval '1 second' WHERE id = $1")
        .bind(one.id)
        .execute(pool)
        .await
        .expect("expire");
    let taken = claim_next(pool).await.expect("the expired one");
    assert_eq!((taken.id, taken.lease_epoch, taken.attempts), (one.id, one.lease_epoch + 1, 1));
    assert_eq!(Progress::of(&taken), resume);
    assert_eq!((taken.sha256.as_deref(), taken.stream_id), (Some(&[7][..]), Some(STREAM)));
    let mine = [
        ledger::checkpoint(pool, &one, STREAM, &resume, &content(8)).await,
        ledger::publish(pool, &one, STREAM, &resume, &content(8)).await,
        ledger::reject(pool, &one, "no").await,
        ledger::supersede(pool, &one, "no", None).await,
        ledger::release(pool, &one, Duration::ZERO, None).await,
        ledger::open_generation(pool, &one, 8).await,
    ];
    assert!(mine.iter().all(|written| matches!(written, Ok(false))), "{mine:?}");
    assert!(ledger::open_generation(pool, &taken, 8).await.expect("open"));
    assert!(ledger::release(pool, &taken, Duration::ZERO, Some("broken")).await.expect("release"));
    assert_eq!(state(pool, one.id).await, ("discovered".into(), Some("broken".into())));
    let again = claim_next(pool).await.expect("released");
    assert_eq!((again.generation, again.partition_count, again.resume_row, again.attempts), (2, 8, 0, 2));
    assert_eq!(again.end_offsets, None);
}

/// Postgres went back under a listener: the id and the lease epoch of its claim are another object's by now.
#[tokio::test]
async fn a_claim_that_the_ledger_has_forgotten_writes_nothing_to_the_object_that_has_its_id() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let forgotten = claim_next(pool).await.expect("a claim");
    let back = "TRUNCATE pipeline.objects RESTART IDENTITY";
    sqlx::query(back).execute(pool).await.expect("go back");
    assert_eq!(register_one(pool, version("climate/b.csv", "1", 1_000)).await, id, "ids come again");
    let mine = claim_next(pool).await.expect("a claim");
    assert_eq!((forgotten.id, forgotten.lease_epoch), (mine.id, mine.lease_epoch));
    assert_ne!(forgotten.nonce, mine.nonce);
    let at = progress([1, 2, 0, 0], [5, 6, 0, 0]);
    for (claim, written) in [(&forgotten, false), (&mine, true)] {
        assert_eq!(ledger::checkpoint(pool, claim, STREAM, &at, &content(7)).await.expect("checkpoint"), written);
        assert_eq!(ledger::publish(pool, claim, STREAM, &at, &content(7)).await.expect("publish"), written);
    }
}

#[tokio::test]
async fn the_same_content_again_is_nothing_to_do() {
    let database = Database::new().await;
    let pool = &database.pool;
    let first = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    for second in [2_000, 3_000] {
        register_one(pool, version("climate/a.csv", "1", second)).await;
        let again = claim_next(pool).await.expect("claim");
        let reason = claim::nothing_to_do(&again, &[7]).expect("the same");
        assert_eq!(reason, format!("same content as object {first}, nothing to do"));
        assert!(ledger::supersede(pool, &again, &reason, Some(&[7])).await.expect("supersede"));
    }
    register_one(pool, version("climate/a.csv", "2", 4_000)).await;
    let other = claim_next(pool).await.expect("claim");
    assert_eq!(claim::nothing_to_do(&other, &[8]), None);
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

async fn sweep(pool: &PgPool) -> Swept {
    let settings = IngestSettings { retry_min_ms: 1, retry_max_ms: 1, ..IngestSettings::default() };
    let (one, two) =
        futures::future::join(sweep_once(pool, domain(), &settings), sweep_once(pool, domain(), &settings)).await;
    let (mut swept, other) = (one.expect("sweep"), two.expect("sweep"));
    let waiting = swept.waiting.max(other.waiting);
    swept += other;
    Swept { waiting, ..swept }
}

#[tokio::test]
async fn an_object_is_applied_once_all_its_rows_are_there() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let waiting = Swept { waiting: 1, ..Swept::default() };
    assert_eq!(sweep(pool).await, waiting, "no bookmark");
    bookmark(pool, 0, 10, STREAM).await;
    bookmark(pool, 2, 19, STREAM).await;
    assert_eq!(sweep(pool).await, waiting, "one record short of the end");
    bookmark(pool, 2, 25, Uuid::from_u128(2)).await;
    assert_eq!(sweep(pool).await, waiting, "another stream's bookmark");
    bookmark(pool, 2, 20, STREAM).await;
    receive(pool, id, 0, "{[0,3)}").await;
    receive(pool, id, 2, "{[0,2),[2,4)}").await;
    assert_eq!(sweep(pool).await, Swept { applied: 1, ..Swept::default() }, "by one of two sweepers");
    assert_eq!(sweep(pool).await, Swept::default());
    assert_eq!(state(pool, id).await.0, "applied");
}

#[tokio::test]
async fn a_file_with_no_rows_is_applied_at_once() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    let claimed = claim_next(pool).await.expect("claim");
    let nothing = Progress::start(Position { byte: 10, line: 2, row: 0 }, 4);
    assert!(ledger::publish(pool, &claimed, STREAM, &nothing, &content(1)).await.expect("publish"));
    assert_eq!(sweep(pool).await, Swept { applied: 1, ..Swept::default() });
}

#[tokio::test]
async fn missing_rows_are_published_again_or_named() {
    let database = Database::new().await;
    let pool = &database.pool;
    let id = register_one(pool, version("climate/a.csv", "1", 1_000)).await;
    publish_next(pool, 7).await;
    let copy = register_one(pool, version("climate/a.csv", "1", 2_000)).await;
    let claimed = claim_next(pool).await.expect("the copy");
    let reason = claim::nothing_to_do(&claimed, &[7]).expect("the same");
    assert!(ledger::supersede(pool, &claimed, &reason, Some(&[7])).await.expect("supersede"));
    bookmark(pool, 0, 10, STREAM).await;
    bookmark(pool, 2, 20, STREAM).await;
    receive(pool, id, 2, "{[0,1),[3,4)}").await;
    assert_eq!(sweep(pool).await, Swept { repaired: 1, ..Swept::default() }, "by one of two sweepers");
    assert_eq!(sweep(pool).await, Swept::default(), "one repair outstanding");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let repair = claim_next(pool).await.expect("the repair");
    assert_eq!((repair.id, repair.generation, repair.repairs, repair.resume_row), (id, 1, 1, 0));
    let missing = ledger::missing_rows(pool, &repair).await.expect("ask").expect("rows are missing");
    assert_eq!(missing, "5 rows are missing (partition 0: seqs {[0,3)}; partition 2: seqs {[1,3)})");
    assert!(ledger::supersede(pool, &repair, &missing, None).await.expect("supersede"));
    assert_eq!(ledger::wake_same_content(pool, &repair).await.expect("wake"), 1);
    let woken = claim_next(pool).await.expect("the copy goes its own way");
    assert_eq!((woken.id, claim::nothing_to_do(&woken, &[7])), (copy, None));
}

#[tokio::test]
async fn a_deletion_is_recorded_and_touches_nothing_else() {
    let database = Database::new().await;
    let pool = &database.pool;
    register_all(pool, &[version("climate/a.csv", "1", 1_000), version("climate/b.csv", "1", 1_000)]).await;
    let present = register::present_keys(pool, BUCKET, domain().name, "", 10).await.expect("keys");
    assert_eq!(present, ["climate/a.csv", "climate/b.csv"]);
    let long_ago = at(0);
    let gone = ["climate/a.csv".to_owned()];
    assert_eq!(register::record_deletions(pool, BUCKET, &gone, long_ago).await.expect("record"), 0, "found since");
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await.expect("now");
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
