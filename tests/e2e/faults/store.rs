//! S3 in trouble: failing, late, cutting bodies, losing answers, refusing conditions, changing while it is listed, killed.
//!
//! What answers 404 for S3, and a prefix that may not be listed (403), are in `storage.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use freshet_sinks::outputs::{self, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::own_stack::{OwnStack, Server};
use crate::harness::proxy::{Fault, Proxy, kind};
use crate::harness::{SETTLED_WITHIN, World, data, seed};

const INTERNAL_ERROR: &str =
    "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>";
const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
const CONFLICT: &str =
    "<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation occurred.</Message></Error>";
const REFUSED: &str = "<Error><Code>PreconditionFailed</Code><Message>A condition did not hold.</Message></Error>";

fn is_in(request: &Request, bucket: &str) -> bool {
    request.uri().path().trim_start_matches('/').split('/').next() == Some(bucket)
}

/// Freshet writes nothing to the raw bucket: what goes there is the test's own.
fn is_our_own(request: &Request, raw_bucket: &str) -> bool {
    is_in(request, raw_bucket) && matches!(*request.method(), Method::PUT | Method::DELETE)
}

/// Waits for something of the proxy; bounded.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(40), "not within 40 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Short pauses after a failure: what is tested is what comes of many.
fn quick_to_retry(config: &mut freshet::config::Config) {
    (config.ingest.retry_min_ms, config.ingest.retry_max_ms) = (50, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_every_kind_of_request_for_a_while_only_delays() {
    let (world, proxy) = World::behind_a_proxy("failing", quick_to_retry).await;
    let seed = seed();
    let raw = world.raw_bucket().to_owned();
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(6)).await;
    world.put("hospital/all.csv", data::hospital(6, "2025-01-01", 20, 1)).await;
    world.put("climate/all.csv", data::climate(6, "2025-01-01", 20, 1)).await;
    world.settle().await;
    let faults = [
        Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR),
        Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, SLOW_DOWN),
        Fault::Answer(StatusCode::FORBIDDEN, DENIED),
        Fault::Answer(StatusCode::GATEWAY_TIMEOUT, ""),
        Fault::Lost,
        Fault::AnswerLost,
        Fault::AnswerReplaced(StatusCode::BAD_GATEWAY),
        Fault::Late(Duration::from_millis(700)),
    ];
    let failed: Arc<Mutex<BTreeSet<(&'static str, bool)>>> = Arc::default();
    for (round, fault) in faults.into_iter().enumerate() {
        let key = format!("health/{round}.csv");
        // At first nothing goes, then most does, but for the first request of each kind.
        let (outage, raw, failed) = (fault.clone(), raw.clone(), Arc::clone(&failed));
        let rule = move |share: f64, fault: Fault| {
            let (raw, failed) = (raw.clone(), Arc::clone(&failed));
            let state = Mutex::new((StdRng::seed_from_u64(seed + round as u64), BTreeSet::new()));
            move |request: &Request| {
                if is_our_own(request, &raw) {
                    return None;
                }
                let (random, seen) = &mut *state.lock().expect("not poisoned");
                let kind = (kind(request), is_in(request, &raw));
                let hit = seen.insert(kind) || random.random_bool(share);
                hit.then(|| {
                    failed.lock().expect("not poisoned").insert(kind);
                    fault.clone()
                })
            }
        };
        proxy.break_by(rule(1.0, outage));
        world.put(&key, data::health(6, "2025-01-01", 20, round as i32)).await;
        until("requests fail", || proxy.broken() >= 8).await;
        proxy.break_by(rule(0.2, fault));
        let through = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{key}' AND state = 'applied'");
        world.until("the file comes through", &through).await;
        assert!(proxy.recover() > 0, "round {round}");
    }
    // Outputs are looked at every few seconds: that may have come in none of the rounds.
    let (looks, in_raw) = (Arc::clone(&failed), raw.clone());
    proxy.break_by(move |request| {
        let kind = (kind(request), is_in(request, &in_raw));
        let is_look = kind == ("head", false) && !is_our_own(request, &in_raw);
        is_look.then(|| {
            looks.lock().expect("not poisoned").insert(kind);
            Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        })
    });
    until("a look at the outputs fails", || failed.lock().expect("not poisoned").contains(&("head", false))).await;
    proxy.recover();
    let failed = failed.lock().expect("not poisoned").clone();
    for kind in ["list", "head", "get"] {
        assert!(failed.contains(&(kind, true)), "no {kind} of the raw bucket failed: {failed:?}");
    }
    for kind in ["get", "head", "put"] {
        assert!(failed.contains(&(kind, false)), "no {kind} of the outputs failed: {failed:?}");
    }
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_may_not_be_read_hold_back_no_new_ones() {
    const DENIED_FILES: i32 = 200;
    let soon_again = |config: &mut freshet::config::Config| {
        // Sooner than all of them have been tried: one of them is always due.
        (config.ingest.retry_min_ms, config.ingest.retry_max_ms) = (50, 100);
    };
    let (world, proxy) = World::behind_a_proxy("denied", soon_again).await;
    let denied = format!("/{}/health/denied/", world.raw_bucket());
    proxy.break_by(move |request| {
        let is_denied = kind(request) == "get" && request.uri().path().starts_with(&denied);
        is_denied.then_some(Fault::Answer(StatusCode::FORBIDDEN, DENIED))
    });
    world.put("locations/all.csv", data::locations(4)).await;
    for number in 0..DENIED_FILES {
        let text = data::health(1, "2024-01-01", 2, number);
        world.put(&format!("health/denied/{number:03}.csv"), text).await;
    }
    let roles = world.run_all();
    let all_failed = format!(
        "SELECT count(*) = {DENIED_FILES} FROM pipeline.objects WHERE key LIKE 'health/denied/%' AND attempts > 0"
    );
    world.until("all of them have failed", &all_failed).await;
    world.next_second().await;
    world.put("health/good.csv", data::health(4, "2025-01-01", 20, 1)).await;
    let through = "SELECT count(*) = 1 FROM pipeline.objects WHERE key = 'health/good.csv' AND state = 'applied'";
    world.until("a new file of their domain comes through", through).await;
    assert!(proxy.recover() > 0);
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn a_store_that_takes_requests_and_never_answers_is_given_up_and_asked_again() {
    let (world, proxy) = World::behind_a_proxy("silent", quick_to_retry).await;
    let raw = world.raw_bucket().to_owned();
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(6)).await;
    world.put("hospital/all.csv", data::hospital(6, "2025-01-01", 20, 1)).await;
    world.settle().await;
    // Longer than the client waits for an answer (30 s), on whatever comes in the first seconds.
    let began = Instant::now();
    let silent: Arc<Mutex<BTreeSet<(&'static str, bool)>>> = Arc::default();
    let (in_raw, kinds) = (raw.clone(), Arc::clone(&silent));
    proxy.break_by(move |request| {
        let hit = !is_our_own(request, &in_raw) && began.elapsed() < Duration::from_secs(8);
        hit.then(|| {
            kinds.lock().expect("not poisoned").insert((kind(request), is_in(request, &in_raw)));
            Fault::Late(Duration::from_secs(300))
        })
    });
    world.put("health/all.csv", data::health(6, "2025-01-01", 20, 1)).await;
    until("the listing hangs", || silent.lock().expect("not poisoned").contains(&("list", true))).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.settle().await;
    println!("through {:?} after requests began to hang: {:?}", began.elapsed(), silent.lock().expect("not poisoned"));
    assert!(proxy.recover() >= 4);
    world.all_hold().await;
    roles.stop().await;
}

/// Where a body may be cut so that what is left looks whole: after a line near its middle.
fn after_a_line(content: &[u8], from: usize) -> usize {
    let rest = &content[from.min(content.len())..];
    let half = rest.len() / 2;
    rest[half..].iter().position(|byte| *byte == b'\n').map_or(0, |at| half + at + 1)
}

fn first_byte(request: &Request) -> usize {
    let range = request.headers().get("range").and_then(|value| value.to_str().ok());
    range.and_then(|text| text.strip_prefix("bytes=")?.split('-').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_only_a_part_comes_is_never_taken_for_whole() {
    let change = |config: &mut freshet::config::Config| {
        quick_to_retry(config);
        config.ingest.chunk_bytes = 16 << 10;
    };
    let (world, proxy) = World::behind_a_proxy("cut", change).await;
    let raw = world.raw_bucket().to_owned();
    let text = |salt| data::health(20, "2025-01-01", 200, salt).into_bytes();
    let (plain, other) = (text(1), text(2));
    let packed = data::gzip(&other).await;
    let small = data::health(3, "2024-01-01", 20, 3).into_bytes();
    let contents: BTreeMap<&'static str, Vec<u8>> =
        BTreeMap::from([("plain.csv", plain.clone()), ("packed.csv.gz", packed.clone()), ("small.csv", small.clone())]);

    // At first every body is cut, in one of four ways. Then only the second one of each file: that of the second pass.
    let rule = |wanted: fn(usize) -> bool| {
        let (raw, contents) = (raw.clone(), contents.clone());
        let gets: Mutex<BTreeMap<&'static str, usize>> = Mutex::default();
        move |request: &Request| {
            let (name, content) = contents.iter().find(|(name, _)| request.uri().path().ends_with(*name))?;
            if kind(request) != "get" || !is_in(request, &raw) {
                return None;
            }
            let mut gets = gets.lock().expect("not poisoned");
            let count = gets.entry(name).or_default();
            *count += 1;
            let middle = after_a_line(content, first_byte(request));
            let ways = [Fault::Shortened(0), Fault::Cut(1), Fault::Shortened(middle), Fault::Cut(middle)];
            wanted(*count).then(|| ways[*count % 4].clone())
        }
    };
    proxy.break_by(rule(|_| true));
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(20)).await;
    world.put("health/plain.csv", &plain).await;
    world.put_packed("health/packed.csv.gz", packed, &other).await;
    world.put("health/small.csv", &small).await;
    let failed = "SELECT count(*) = 3 FROM pipeline.objects WHERE domain = 'health' AND attempts >= 5";
    world.until("each has failed in each way", failed).await;
    let taken: i64 = world
        .query(
            "SELECT (SELECT count(*) FROM health_data) + (SELECT count(*) FROM pipeline.objects
             WHERE domain = 'health' AND (state <> 'discovered' AND state <> 'publishing' OR resume_row > 0))",
        )
        .await;
    assert_eq!(taken, 0, "a cut file was taken for whole: {:#?}", world.objects().await);

    proxy.break_by(rule(|count| count == 2));
    let halved = "SELECT count(*) = 2 FROM pipeline.objects WHERE resume_row > 0
        AND key IN ('health/plain.csv', 'health/packed.csv.gz') AND state IN ('publishing', 'published', 'applied')";
    world.until("rows are sent of files that are cut in the second pass", halved).await;
    world.settle().await;
    assert!(proxy.recover() >= 2, "no second pass was cut");
    world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    roles.stop().await;
}

/// A reader of the outputs who looks all the time: what is current is there and whole, and never goes back.
struct Reader {
    stop: CancellationToken,
    task: JoinHandle<u64>,
}

impl Reader {
    fn start(client: Client, bucket: &str) -> Reader {
        let (stop, bucket) = (CancellationToken::new(), bucket.to_owned());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let store = Store::new(client.clone(), &bucket);
            let (mut seen, mut versions) = (0, 0);
            while !stopped.is_cancelled() {
                let found = outputs::read_current(&client, &bucket).await;
                let found =
                    found.unwrap_or_else(|error| panic!("a reader finds no outputs after version {seen}: {error}"));
                if let Some(manifest) = found.filter(|manifest| manifest.version != seen) {
                    assert!(manifest.version > seen, "the outputs went back from {seen} to {}", manifest.version);
                    for file in manifest.windows.iter().flat_map(|window| window.files.values()) {
                        store.fetch(file).await.unwrap_or_else(|error| panic!("version {}: {error}", manifest.version));
                    }
                    (seen, versions) = (manifest.version, versions + 1);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            versions
        });
        Reader { stop, task }
    }

    /// How many versions it saw.
    async fn stop(self) -> u64 {
        self.stop.cancel();
        self.task.await.expect("the reader has nothing to complain about")
    }
}

async fn drop_a_bit_of_everything(world: &World, salt: i32) {
    world.put("locations/all.csv", data::locations(4 + salt)).await;
    world.put("health/all.csv", data::health(4, "2025-06-01", 20, salt)).await;
    world.put("hospital/all.csv", data::hospital(4, "2025-06-01", 20, salt)).await;
    world.put("climate/all.csv", data::climate(4, "2025-06-01", 20, salt)).await;
}

/// The pointer, manifests, and one of the copies. Whoever gives up pauses for longer each time: not at dozens of files.
fn is_one_of_few(request: &Request) -> bool {
    let path = request.uri().path();
    ["/current.json", "/manifests/", "/resilience_scores.json"].iter().any(|it| path.contains(it))
}

/// Breaks the first requests for each key that `wanted` picks, so many of them.
fn first_of_each_key(
    proxy: &Proxy,
    times: usize,
    wanted: impl Fn(&Request) -> bool + Send + 'static,
    fault: impl Fn(usize) -> Fault + Send + 'static,
) {
    let seen: Mutex<BTreeMap<String, usize>> = Mutex::default();
    proxy.break_by(move |request| {
        if !wanted(request) {
            return None;
        }
        let mut seen = seen.lock().expect("not poisoned");
        let count = seen.entry(request.uri().path().to_owned()).or_default();
        *count += 1;
        (*count <= times).then(|| fault(*count))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_outputs_whose_answer_is_lost_counts_once() {
    let (world, proxy) = World::behind_a_proxy("unanswered", |_| ()).await;
    let reader = Reader::start(proxy.around(&world).await, world.processed_bucket());
    let roles = world.run_all();
    drop_a_bit_of_everything(&world, 0).await;
    world.settle().await;
    let mut broken = Vec::new();
    // Once a key: the client's own second try meets what the first has done. Three times: it gives up.
    for (salt, times, all, fault) in [
        (1, 1, true, Fault::AnswerLost),
        (2, 3, false, Fault::AnswerLost),
        (3, 3, false, Fault::AnswerReplaced(StatusCode::INTERNAL_SERVER_ERROR)),
    ] {
        let bucket = world.processed_bucket().to_owned();
        let wanted = move |request: &Request| {
            kind(request) == "put" && is_in(request, &bucket) && (all || is_one_of_few(request))
        };
        first_of_each_key(&proxy, times, wanted, move |_| fault.clone());
        drop_a_bit_of_everything(&world, salt).await;
        world.settle().await;
        broken.push(proxy.recover());
    }
    println!("answers lost: {broken:?}");
    assert!(broken[0] >= 20, "data files, manifest, pointer and copies: {broken:?}");
    assert!(broken[1] >= 9 && broken[2] >= 9, "manifest, pointer and a copy, three times each: {broken:?}");
    world.all_hold().await;
    let versions = reader.stop().await;
    // On a busy machine it does not see each of them.
    assert!(versions >= 2, "{versions} versions");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_read_back_in_part_are_not_copied_in_part() {
    // Kept data files would not be read back at all.
    let (world, proxy) = World::behind_a_proxy("read-cut", |config| config.metrics.cache_mib = 0).await;
    let reader = Reader::start(proxy.around(&world).await, world.processed_bucket());
    let roles = world.run_all();
    drop_a_bit_of_everything(&world, 0).await;
    world.settle().await;
    let bucket = world.processed_bucket().to_owned();
    // Only for copies are data files read back.
    let for_copies = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&for_copies);
    let wanted = move |request: &Request| {
        let is_read = kind(request) == "get" && is_in(request, &bucket);
        if is_read && request.uri().path().contains("/metrics/data/") {
            reads.fetch_add(1, Ordering::Relaxed);
        }
        is_read
    };
    let fault = |count: usize| if count == 1 { Fault::Shortened(60) } else { Fault::Cut(60) };
    first_of_each_key(&proxy, 2, wanted, fault);
    drop_a_bit_of_everything(&world, 1).await;
    until("pointer, manifest and data files are cut", || proxy.broken() >= 10).await;
    // The first read of each file is cut.
    until("a copy is composed of files that are cut", || for_copies.load(Ordering::Relaxed) > 0).await;
    proxy.recover();
    world.settle().await;
    world.all_hold().await;
    reader.stop().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_write_that_is_refused_for_a_while_neither_loses_nor_breaks_a_version() {
    let (world, proxy) = World::behind_a_proxy("refusing-put", |_| ()).await;
    let reader = Reader::start(proxy.around(&world).await, world.processed_bucket());
    let roles = world.run_all();
    drop_a_bit_of_everything(&world, 0).await;
    world.settle().await;
    for (salt, status, body) in [
        (1, StatusCode::CONFLICT, CONFLICT),
        (2, StatusCode::PRECONDITION_FAILED, REFUSED),
        (3, StatusCode::PRECONDITION_FAILED, ""),
    ] {
        let bucket = world.processed_bucket().to_owned();
        let is_conditional =
            |request: &Request| ["if-match", "if-none-match"].iter().any(|name| request.headers().contains_key(*name));
        // With a code of S3's it says that somebody else was first; without one it is an error of the world.
        let wanted = move |request: &Request| {
            kind(request) == "put"
                && is_in(request, &bucket)
                && is_conditional(request)
                && (!body.is_empty() || is_one_of_few(request))
        };
        let times = if body.is_empty() { 2 } else { 1 };
        first_of_each_key(&proxy, times, wanted, move |_| Fault::Answer(status, body));
        drop_a_bit_of_everything(&world, salt).await;
        world.settle().await;
        let refused = proxy.recover();
        assert!(refused >= 6, "manifest, pointer and copies: {refused} requests");
    }
    world.all_hold().await;
    let versions = reader.stop().await;
    // On a busy machine it does not see each of them.
    assert!(versions >= 2, "{versions} versions");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_changes_while_it_is_listed_page_by_page_hides_nothing() {
    const SECONDS: u64 = 8;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let change = |config: &mut freshet::config::Config| {
        quick_to_retry(config);
        config.ingest.reconcile_interval_ms = 300;
    };
    let (world, proxy) = World::behind_a_proxy("paged", change).await;
    let around = proxy.around(&world).await;
    let (raw, pages) = (world.raw_bucket().to_owned(), Arc::new(Mutex::new(0_u64)));
    let further = Arc::clone(&pages);
    proxy.break_by(move |request| {
        let is_listing = kind(request) == "list" && is_in(request, &raw);
        if is_listing && request.uri().query().is_some_and(|query| query.contains("continuation-token")) {
            *further.lock().expect("not poisoned") += 1;
        }
        is_listing.then(|| Fault::Paged(around.clone(), 3))
    });
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    let name = |number: u32| format!("health/{number:03}.csv");
    for number in (0..60).step_by(3) {
        world.put(&name(number), data::health(3, "2025-01-01", 3, number as i32)).await;
    }
    // Keys come and go before, at and after the page that is being listed.
    let began = Instant::now();
    let mut salt = 100;
    let mut there: BTreeSet<u32> = (0..60).step_by(3).collect();
    let further_pages = || *pages.lock().expect("not poisoned");
    while began.elapsed() < Duration::from_secs(SECONDS) || further_pages() <= 100 {
        let so_far = further_pages();
        assert!(began.elapsed() < Duration::from_secs(60), "only {so_far} pages were not the first of a listing");
        let number = random.random_range(0..60);
        if random.random_bool(0.4) {
            world.delete(&name(number)).await;
            there.remove(&number);
        } else {
            salt += 1;
            world.put(&name(number), data::health(3, "2025-01-01", 3, salt)).await;
            there.insert(number);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
    }
    world.settle().await;
    let pages = further_pages();
    let objects = world.objects().await;
    for number in &there {
        let newest = objects.iter().rfind(|object| object.key == name(*number)).expect("every key was found");
        assert!(matches!(newest.state.as_str(), "applied" | "superseded"), "{newest:?}");
    }
    // What is there counts as there, and what is not as deleted.
    let deleted = "SELECT key FROM (SELECT DISTINCT ON (key) key, deleted_at FROM pipeline.objects
        WHERE domain = 'health' ORDER BY key, src_ord DESC) AS newest WHERE deleted_at IS NOT NULL";
    let keys = objects.iter().filter(|object| object.domain == "health").map(|object| object.key.clone());
    let gone: BTreeSet<String> = keys.filter(|key| !there.iter().any(|it| name(*it) == *key)).collect();
    println!("{} keys are deleted, {pages} further pages", gone.len());
    let started = Instant::now();
    loop {
        let recorded: BTreeSet<String> = world.column(deleted).await.into_iter().collect();
        if recorded == gone {
            break;
        }
        assert!(started.elapsed() < SETTLED_WITHIN, "recorded as deleted: {recorded:?}, are: {gone:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn a_store_that_is_killed_while_files_and_outputs_are_published_loses_and_repeats_nothing() {
    const KILLS_OF_EACH: u64 = 3;
    let mut stack = OwnStack::start("store-killed").await;
    let world = stack
        .world(|config| {
            quick_to_retry(config);
            config.ingest.chunk_bytes = 32 << 10;
            // Slow enough for a kill to find a file half published.
            config.ingest.rows_per_second = 9_000;
        })
        .await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(40)).await;
    world.put("hospital/all.csv", data::hospital(40, "2025-01-01", 60, 1)).await;
    world.settle().await;
    for number in 0..KILLS_OF_EACH {
        let salt = number as i32;
        world.put(&format!("health/{number}.csv"), data::health(40, "2024-01-01", 300, salt)).await;
        let half = "SELECT count(*) > 0 FROM pipeline.objects WHERE state = 'publishing' AND resume_row > 0";
        world.until("a file is half published", half).await;
        stack.kill(Server::S3).await;
        tokio::time::sleep(Duration::from_millis(400 * number)).await;
        stack.start_again().await;
        world.put(&format!("climate/{number}.csv"), data::climate(40, "2024-01-01", 60, salt)).await;
        world.settle().await;
        // Where there are marks the publisher begins: it is killed at its first requests, or among its files.
        world.put("hospital/all.csv", data::hospital(40, "2025-01-01", 60, 10 + salt)).await;
        world.until("outputs are to be published", "SELECT count(*) > 0 FROM pipeline.marks").await;
        tokio::time::sleep(Duration::from_millis(150 * number)).await;
        stack.kill(Server::S3).await;
        tokio::time::sleep(Duration::from_millis(400 * number)).await;
        stack.start_again().await;
        world.settle().await;
    }
    world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
    roles.stop().await;
}
