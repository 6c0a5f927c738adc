//! What listings find where a part of the bucket cannot be listed, and where versions are overwritten before anybody
//! looks; and when a listing is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use freshet::config::Config;
use freshet::roles::Role;
use freshet_sinks::listings;
use freshet_sinks::s3::Versions;
use serde_json::json;

use crate::harness::http::within;
use crate::harness::proxy::{Fault, kind};
use crate::harness::{SETTLED_WITHIN, World, data};

const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>not this folder</Message></Error>";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_named_and_all_else_is_found() {
    let (world, proxy) = World::behind_a_proxy("unlisted", |_| ()).await;
    // The listing of all breaks off, and one of the folders may not be listed by itself either.
    proxy.break_by(|request| {
        let query = request.uri().query().unwrap_or_default();
        let has = |part: &str| query.split('&').any(|it| it == part);
        let is_refused = (has("prefix=health%2F") && !has("delimiter=%2F")) || query.contains("prefix=health%2Fclosed");
        (kind(request) == "list" && is_refused).then_some(Fault::Answer(StatusCode::FORBIDDEN, DENIED))
    });
    let keys = ["health/a.csv", "health/open/b.csv", "health/open/deep/c.csv", "health/closed/d.csv"];
    for (number, key) in (1..).zip(keys) {
        world.put(key, format!("location_id,date,dengue_cases\n{number},2025-06-01,{number}\n")).await;
    }
    let roles = world.run_all();
    let rows = |count: u32| format!("SELECT count(*) = {count} FROM health_data");
    world.until("the others are loaded", &rows(3)).await;
    let unlisted =
        "SELECT string_agg(domain || ' ' || prefix, ', ') LIKE '%health health/closed/%' FROM pipeline.unlisted";
    world.until("the folder is named", unlisted).await;
    let mut status = world.spawn(&["status"]);
    status.ended(std::time::Duration::from_secs(60)).await;
    let said = status.log();
    assert!(said.contains("health: `health/closed/` cannot be listed: list s3://"), "{said}");

    world.delete("health/a.csv").await;
    let deleted = "SELECT deleted_at IS NOT NULL FROM pipeline.objects WHERE key = 'health/a.csv'";
    world.until("what is deleted elsewhere is noticed", deleted).await;

    proxy.recover();
    world.until("all are loaded", &rows(4)).await;
    world.until("nothing is named", "SELECT count(*) = 0 FROM pipeline.unlisted").await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_overwritten_before_anybody_looks_is_loaded_in_its_turn() {
    let world = World::with("versions", |config| config.s3.versions = Versions::Auto).await;
    let day = |day: u32, count: u32| format!("location_id,date,dengue_cases\n1,2025-06-{day:02},{count}\n");
    // What was overwritten before freshet came is history.
    world.put("health/old.csv", day(1, 1)).await;
    world.put("health/old.csv", day(2, 2)).await;
    let roles = world.run_all();
    world.settle().await;
    let is_begun =
        "SELECT bool_and(versions_from IS NOT NULL) AND count(*) > 0 FROM pipeline.listings WHERE domain = 'health'";
    world.until("the first listing by versions is complete", is_begun).await;
    assert_eq!(world.objects().await.len(), 1);
    roles.stop().await;

    for count in 3..6 {
        world.put("health/old.csv", day(count, count)).await;
        world.put("health/new.csv", day(20, 10 + count)).await;
    }
    world.put("health/deleted.csv", day(30, 30)).await;
    world.delete("health/deleted.csv").await;
    let roles = world.run_all();
    world.settle().await;
    let of = |key: &str| {
        format!("SELECT count(*) = 3 AND bool_and(state = 'applied') FROM pipeline.objects WHERE key = '{key}'")
    };
    world.until("each version of the new one", &of("health/new.csv")).await;
    let days: Vec<String> =
        world.column("SELECT to_char(date, 'DD') || ' ' || dengue_cases FROM health_data ORDER BY date").await;
    assert_eq!(days, ["02 2", "03 3", "04 4", "05 5", "20 15"], "the last one wins, and what only others had stays");
    assert_eq!(world.objects().await.len(), 7, "what is below a delete marker is as if it were not there");
    world.all_hold().await;
    roles.stop().await;
}

/// Whether the bucket keeps versions is asked; no answer is not a no.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_while_it_is_asked_whether_versions_are_kept_hides_none_of_them() {
    let (world, proxy) = World::behind_a_proxy("versions-asked", |config| config.s3.versions = Versions::Auto).await;
    let day = |day: u32, count: u32| format!("location_id,date,dengue_cases\n1,2025-06-{day:02},{count}\n");
    world.put("health/a.csv", day(1, 1)).await;
    let roles = world.run_all();
    let is_begun =
        "SELECT bool_and(versions_from IS NOT NULL) AND count(*) > 0 FROM pipeline.listings WHERE domain = 'health'";
    world.until("the first listing by versions is complete", is_begun).await;
    world.settle().await;
    roles.stop().await;

    for count in 2..5 {
        world.put("health/a.csv", day(count, count)).await;
    }
    let is_asked = |request: &Request| request.uri().query().is_some_and(|query| query.starts_with("versioning"));
    proxy.break_by(move |request| is_asked(request).then_some(Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, "")));
    let roles = world.run_all();
    within(Duration::from_secs(40), "it is asked", async || (proxy.broken() > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.recover();
    let all = "SELECT count(*) = 4 AND bool_and(state = 'applied') FROM pipeline.objects WHERE key = 'health/a.csv'";
    world.until("each version is applied", all).await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 4);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_may_not_register_the_files_of_one_domain_ends_and_says_so() {
    let world = World::new("not-registered").await;
    // What Postgres says where a grant is missing. The other domains have no file, so nothing is refused to them.
    let refuse = "CREATE FUNCTION test.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE insufficient_privilege;
        END $$;
        CREATE TRIGGER test_refuse BEFORE INSERT ON pipeline.objects FOR EACH ROW EXECUTE FUNCTION test.refuse()";
    world.execute(refuse).await;
    world.put("health/a.csv", data::health(1, "2025-01-01", 5, 1)).await;
    let mut ingest = world.spawn(&["ingest"]);
    let code = ingest.ended(Duration::from_secs(60)).await;
    let said = ingest.log();
    assert!(code.is_some_and(|code| code != 0), "{code:?}\n{said}");
    assert!(said.contains("check what the database user may do"), "{said}");
}

/// As if another listener, which dies now, had the lease on listing `health` for an hour.
async fn another_has_the_lease(world: &World) {
    let hour = Duration::from_secs(3_600);
    let hold = listings::hold(&world.services.pool, world.raw_bucket(), "health", "another", hour);
    assert!(hold.await.expect("take the lease"));
}

/// Has the store announce a key to the listener of this process.
fn announce(world: &World, key: &str) {
    let s3 = json!({"bucket": {"name": world.raw_bucket()}, "object": {"key": key, "size": 1}});
    let told = json!({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}]});
    let taken = world.services.hints.take_notification(told.to_string().as_bytes());
    assert_eq!(taken.expect("a notification"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_announced_to_one_that_does_not_list_is_found_after_its_listing_has_failed() {
    let (world, proxy) = World::behind_a_proxy("missed", |_| ()).await;
    another_has_the_lease(&world).await;
    proxy.answer(|method, uri| {
        let is_read = matches!(method.as_str(), "GET" | "HEAD") && uri.to_string().contains("health");
        is_read.then_some(StatusCode::SERVICE_UNAVAILABLE)
    });
    world.put("health/a.csv", data::health(1, "2025-01-01", 5, 1)).await;
    announce(&world, "health/a.csv");
    let roles = world.run(&[Role::Ingest]);
    // Three times a HEAD, a listing of the prefix and one of its level.
    within(Duration::from_secs(40), "the look and the listing fail", async || (proxy.broken() >= 9).then_some(()))
        .await;
    proxy.recover();
    world.until("it is found", "SELECT count(*) = 1 FROM pipeline.objects").await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_starts_finds_what_is_there_while_a_dead_one_has_the_lease() {
    let world = World::new("dead-lister").await;
    another_has_the_lease(&world).await;
    world.put("health/a.csv", data::health(1, "2025-01-01", 5, 1)).await;
    let roles = world.run(&[Role::Ingest]);
    world.until("it is found", "SELECT count(*) = 1 FROM pipeline.objects").await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_stopped_in_the_middle_of_a_listing_leaves_it_to_others_at_once() {
    let (world, proxy) = World::behind_a_proxy("stopped-lister", |_| ()).await;
    proxy.break_by(|request| {
        let is_of_health = request.uri().query().unwrap_or_default().contains("prefix=health%2F");
        (kind(request) == "list" && is_of_health).then_some(Fault::Late(Duration::from_secs(60)))
    });
    let roles = world.run(&[Role::Ingest]);
    within(Duration::from_secs(40), "it lists", async || (proxy.broken() > 0).then_some(())).await;
    roles.stop().await;
    assert_eq!(world.query::<i64>("SELECT count(lister) FROM pipeline.listings").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_store_does_not_answer_for_keeps_no_other_from_being_found() {
    let (world, proxy) = World::behind_a_proxy("silent-key", |_| ()).await;
    proxy.break_by(|request| {
        let is_silent = kind(request) == "head" && request.uri().path().ends_with("/silent.csv");
        is_silent.then_some(Fault::Late(Duration::from_secs(300)))
    });
    for (salt, key) in (1..).zip(["health/a.csv", "health/silent.csv", "health/z.csv"]) {
        world.put(key, data::health(1, "2025-01-01", 5, salt)).await;
    }
    let roles = world.run(&[Role::Ingest]);
    world.until("the others are found", "SELECT count(*) = 2 FROM pipeline.objects").await;
    assert!(proxy.recover() > 0, "it was asked about");
    world.until("it is found", "SELECT count(*) = 3 FROM pipeline.objects").await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_announced_while_many_are_registered_does_not_wait_for_the_last_of_them() {
    let (world, proxy) = World::behind_a_proxy("backlog", |_| ()).await;
    // Three transactions, each of two seconds.
    for number in 0..300 {
        world.put(&format!("health/backlog/{number}.csv"), data::health(1, "2025-01-01", 1, number)).await;
    }
    proxy.break_by(|request| {
        let is_of_backlog = kind(request) == "head" && request.uri().path().contains("/health/backlog/");
        is_of_backlog.then_some(Fault::Late(Duration::from_millis(500)))
    });
    let roles = world.run(&[Role::Ingest]);
    within(Duration::from_secs(40), "the first are asked about", async || (proxy.broken() > 0).then_some(())).await;
    world.put("health/told.csv", data::health(1, "2025-02-01", 1, 1)).await;
    announce(&world, "health/told.csv");
    world.until("all are found", "SELECT count(*) = 301 FROM pipeline.objects").await;
    let is_before =
        "SELECT id < (SELECT max(id) FROM pipeline.objects) FROM pipeline.objects WHERE key LIKE '%/told.csv'";
    assert!(world.query::<bool>(is_before).await, "it had to wait for all");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_could_not_be_registered_does_not_wait_for_a_listing_that_comes_seldom() {
    let change = |config: &mut Config| config.ingest.list_interval_max_ms = 3_600_000;
    let (world, proxy) = World::behind_a_proxy("unsettled", change).await;
    let asked = Arc::new(AtomicU32::new(0));
    let heads = Arc::clone(&asked);
    // Listings take so long that one comes two minutes after another that found nothing.
    proxy.break_by(move |request| match kind(request) {
        "list" if request.uri().query().unwrap_or_default().contains("prefix=health%2F") => {
            Some(Fault::Late(Duration::from_millis(1_200)))
        }
        "head" if request.uri().path().ends_with("/a.csv") => {
            heads.fetch_add(1, Ordering::Relaxed);
            Some(Fault::Answer(StatusCode::FORBIDDEN, ""))
        }
        _ => None,
    });
    world.put("health/a.csv", data::health(1, "2025-01-01", 5, 1)).await;
    // The store announces files, but not this one.
    announce(&world, "health/other.csv");
    let roles = world.run(&[Role::Ingest]);
    let is_asked_again = async || (asked.load(Ordering::Relaxed) >= 2).then_some(());
    // Ten times as long as a listing took: on a busy machine that is more than the pause above.
    within(SETTLED_WITHIN, "two listings find it", is_asked_again).await;
    proxy.recover();
    world.until_within(SETTLED_WITHIN, "it is registered", "SELECT count(*) = 1 FROM pipeline.objects").await;
    roles.stop().await;
}
