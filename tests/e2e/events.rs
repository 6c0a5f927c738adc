//! What a store tells through a queue: files come by events alone, and whatever becomes of the events, none is lost.
//!
//! The listing comes every ten minutes here unless a story says otherwise: what a table holds, an event brought.

use std::time::{Duration, Instant};

use aws_sdk_s3::types::NotificationConfiguration;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use freshet::commands::setup::{self, Mode, Standing};
use freshet::config::Config;
use freshet::roles::Services;
use freshet_ingest::IngestSettings;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::sync::Semaphore;

use crate::harness::aws::Aws;
use crate::harness::http::within;
use crate::harness::proxy::{Fault, Proxy, kind};
use crate::harness::{World, data, endpoints, folder};

/// Stand-ins at once, beside the shared stack.
static SLOTS: Semaphore = Semaphore::const_new(1);
const TRUE_WITHIN: Duration = Duration::from_secs(40);

/// A world whose store is `aws`. Its listener has made its one listing once the first file is in a table.
async fn world(aws: &Aws, story: &str, change: impl FnOnce(&mut Config)) -> World {
    let endpoints = tokio::task::spawn_blocking(endpoints).await.expect("the stack is up");
    let change = |config: &mut Config| {
        aws.is_store_of(config);
        change(config);
    };
    World::on(endpoints, story.to_owned(), None, change).await
}

/// A file of its own for each number.
fn file(number: u32) -> String {
    data::health(1, &format!("2025-{:02}-01", 1 + number), 3, number.try_into().expect("small"))
}

fn s3_form(world: &World, event: &str, key: &str) -> Value {
    let s3 = json!({"bucket": {"name": world.raw_bucket()}, "object": {"key": key, "size": 1}});
    json!({"Records": [{"eventSource": "aws:s3", "eventName": event, "s3": s3}]})
}

fn sns_form(message: &Value) -> Value {
    json!({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:drops", "Message": message.to_string()})
}

fn bridge_form(world: &World, key: &str) -> Value {
    let detail = json!({"version": "0", "bucket": {"name": world.raw_bucket()}, "object": {"key": key}});
    json!({"source": "aws.s3", "detail-type": "Object Created", "detail": detail})
}

async fn tell_nobody(world: &World) {
    let request = world.services.s3.put_bucket_notification_configuration().bucket(world.raw_bucket());
    let request = request.notification_configuration(NotificationConfiguration::builder().build());
    request.send().await.expect("take the notification away");
}

/// Has a look at a key wait until the connection is closed: it has the lock under which the key is registered.
async fn hold_back_the_look(world: &World, key: &str) -> sqlx::PgConnection {
    let mut holder = sqlx::PgConnection::connect(world.database_url()).await.expect("connect");
    let lock = "SELECT pg_advisory_lock(hashtextextended($1 || '/' || $2, 0))";
    sqlx::query(lock).bind(world.raw_bucket()).bind(key).execute(&mut holder).await.expect("lock the key");
    holder
}

/// How often each key is in the ledger.
async fn keys(world: &World) -> Vec<String> {
    world.column("SELECT key FROM pipeline.objects ORDER BY id").await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_any_name_come_by_events_that_setup_had_the_bucket_tell() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-names").await;
    // Preparing it asserts that everything was made: queue, dead letters, policy and notification too.
    let world = world(&aws, "events-names", |_| ()).await;
    let attributes = async || {
        let request = aws.sqs.get_queue_attributes().queue_url(&aws.queue_url);
        let found = request.attribute_names(Attribute::All).send().await.expect("look at the queue");
        let found = found.attributes.expect("attributes");
        [Attribute::Policy, Attribute::RedrivePolicy].map(|name| found[&name].clone())
    };
    let [policy, redrive] = attributes().await;
    assert!(policy.contains("sqs:SendMessage") && policy.contains(world.raw_bucket()), "{policy}");
    assert!(redrive.contains("events-dead"), "{redrive}");
    let again = setup::prepare(&world.services, Mode::Make).await;
    let kinds: Vec<&str> =
        again.iter().map(|it| it.kind).filter(|kind| matches!(*kind, "queue" | "notification")).collect();
    assert_eq!(kinds, ["queue", "notification"]);
    for finding in again {
        assert_eq!(finding.standing, Standing::Found, "{finding}");
    }
    assert_eq!(attributes().await, [policy, redrive]);

    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    for (number, key) in
        (1..).zip(["health/a b.csv", "health/a+b.csv", "health/ä.csv", "health/50%.csv", "health/%2B.csv"])
    {
        world.put(key, file(number)).await;
    }
    world.settle().await;
    aws.is_drained().await;
    assert_eq!(keys(&world).await.len(), 6);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 18);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_form_twice_and_out_of_order_are_settled_and_what_cannot_be_read_becomes_a_dead_letter() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-forms").await;
    // A message may come five times: on a busy machine a good one may not be settled at the first.
    let world = world(&aws, "events-forms", |config| config.ingest.events.hidden_s = 2).await;
    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    aws.is_drained().await;

    tell_nobody(&world).await;
    let keys_told = ["health/s3.csv", "health/sns.csv", "health/bridge.csv", "health/sns bridge.csv"];
    for (number, key) in (1..).zip(keys_told) {
        world.put(key, file(number)).await;
    }
    let put = "ObjectCreated:Put";
    let told = [
        s3_form(&world, put, "health/s3.csv"),
        sns_form(&s3_form(&world, put, "health/sns.csv")),
        bridge_form(&world, "health/bridge.csv"),
        sns_form(&bridge_form(&world, "health/sns bridge.csv")),
        s3_form(&world, put, "health/gone.csv"),
        s3_form(&world, "ObjectRemoved:Delete", "health/first.csv"),
        json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": world.raw_bucket()}),
        json!({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}),
    ];
    aws.send("this is no event").await;
    for message in told.iter().rev().chain(&told).chain(told.iter().rev()) {
        aws.send(message.to_string()).await;
    }
    world.settle().await;
    let dead = async || (aws.messages(&aws.dead_url()).await.0 == 1).then_some(());
    within(TRUE_WITHIN, "what cannot be read becomes a dead letter", dead).await;
    aws.is_drained().await;
    let letter = aws.sqs.receive_message().queue_url(aws.dead_url()).send().await.expect("read the dead letters");
    assert_eq!(letter.messages()[0].body(), Some("this is no event"));
    the_status_shows_the_queue(&world, &aws).await;
    assert_eq!(keys(&world).await.len(), 5, "each once, and none for what is not there");
    world.all_hold().await;
    roles.stop().await;
}

/// What its listener has written down of it.
async fn the_status_shows_the_queue(world: &World, aws: &Aws) {
    let written = "SELECT count(*) = 1 FROM pipeline.event_queue WHERE unreadable > 0 AND waiting = 0 AND taken = 0";
    world.until("the listener has written down what it saw", written).await;
    let status = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.arg("status").args(more).env_clear().envs(world.variables()).current_dir(folder());
        let output = command.output().expect("run freshet");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let json: Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
    let queue = &json["event_queue"];
    assert_eq!((&queue["reading"], &queue["queue"]), (&"reachable".into(), &aws.queue_url.as_str().into()), "{queue}");
    assert!(queue["settled"].as_i64() >= Some(12) && queue["other"].as_i64() >= Some(3), "{queue}");
    assert!(queue["failure"].is_null() && queue["last_message_at"].is_string(), "{queue}");
    let text = status(&[]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("queue reachable, 0 messages wait, last event "), "{text}");
    assert!(text.contains("unreadable (dead letters)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_deleted_only_once_the_ledger_holds_the_object() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-ledger").await;
    // It may come five times: a message that were let go while the ledger does not answer would be lost to the dead.
    let world = world(&aws, "events-ledger", |config| config.ingest.events.hidden_s = 2).await;
    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    aws.is_drained().await;

    let mut holder = sqlx::PgConnection::connect(world.database_url()).await.expect("connect");
    let lock = "BEGIN; LOCK TABLE pipeline.objects IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.expect("lock the ledger");
    world.put("health/second.csv", file(1)).await;
    // The store tells the queue in its own time.
    let is_told = async || {
        let (waiting, taken) = aws.messages(&aws.queue_url).await;
        (waiting + taken == 1).then_some(())
    };
    within(TRUE_WITHIN, "the queue has its message", is_told).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let (waiting, taken) = aws.messages(&aws.queue_url).await;
        assert_eq!(waiting + taken, 1, "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.expect("let go of the ledger");
    world.settle().await;
    aws.is_drained().await;
    assert_eq!(keys(&world).await, ["health/first.csv", "health/second.csv"]);
    assert_eq!(aws.messages(&aws.dead_url()).await, (0, 0));
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_stops_waits_for_no_message_that_it_will_not_look_at() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-stop").await;
    let world = world(&aws, "events-stop", |config| {
        config.ingest.events.hidden_s = 600;
        config.ingest.drain_ms = 60_000;
    })
    .await;
    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    aws.is_drained().await;

    // The third file waits behind the look at the second one.
    let holder = hold_back_the_look(&world, "health/second.csv").await;
    for (number, key) in (1..).zip(["health/second.csv", "health/third.csv"]) {
        world.put(key, file(number)).await;
        let is_taken = async || (aws.messages(&aws.queue_url).await == (0, u64::from(number))).then_some(());
        within(TRUE_WITHIN, "the listener has its message", is_taken).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let began = Instant::now();
    let let_go = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        holder.close().await.expect("let go of the key");
    };
    tokio::join!(roles.stop(), let_go);
    assert!(began.elapsed() < Duration::from_secs(30), "it stops after {:?}", began.elapsed());

    let roles = world.run_all();
    world.settle().await;
    assert_eq!(keys(&world).await.len(), 3);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_no_event_tells_is_found_by_the_listing() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-lost").await;
    let world = world(&aws, "events-lost", |config| config.ingest.list_interval_ms = 3_000).await;
    let roles = world.run_all();
    tell_nobody(&world).await;
    world.put("health/lost.csv", file(0)).await;
    world.settle().await;
    assert_eq!(keys(&world).await, ["health/lost.csv"]);
    assert_eq!(aws.messages(&aws.queue_url).await, (0, 0));
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_thousand_messages_wait_files_are_found_by_the_listing() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-long").await;
    let proxy = Proxy::before(&aws.endpoint);
    let change = |config: &mut Config| {
        config.s3.endpoint.clone_from(&proxy.endpoint);
        (config.ingest.list_interval_ms, config.ingest.list_interval_max_ms) = (500, 20_000);
    };
    let world = world(&aws, "events-long", change).await;
    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    aws.is_drained().await;
    // After a listing that takes long and finds nothing new, the next comes a hundred times as long later.
    proxy.break_by(|request| {
        let is_of_health = request.uri().query().unwrap_or_default().contains("prefix=health%2F");
        (kind(request) == "list" && is_of_health).then_some(Fault::Late(Duration::from_secs(2)))
    });
    within(TRUE_WITHIN, "a listing takes long", async || (proxy.broken() > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    tell_nobody(&world).await;
    world.put("health/untold.csv", file(1)).await;
    let holder = hold_back_the_look(&world, "health/gone.csv").await;
    let told = s3_form(&world, "ObjectCreated:Put", "health/gone.csv").to_string();
    for _ in 0..1_100 {
        aws.send(&told).await;
    }
    let is_long = "SELECT max(waiting) > 1000 FROM pipeline.event_queue";
    world.until("the listener has seen how many wait", is_long).await;
    holder.close().await.expect("let go of the key");
    let known = "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/untold.csv')";
    world.until("it is found long before that", known).await;
    proxy.recover();
    world.settle().await;
    assert_eq!(keys(&world).await, ["health/first.csv", "health/untold.csv"]);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_maker_is_read_as_well() {
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::moto("events-moto").await;
    let mut world = World::with("events-moto", |config| config.ingest.list_interval_ms = 600_000).await;
    // The queue by hand: the store is another one, and knows nothing of it.
    let queue = |name: &str| aws.sqs.create_queue().queue_name(name);
    queue("events-dead").send().await.expect("make the dead letters");
    let dead = aws.sqs.get_queue_attributes().queue_url(aws.dead_url()).attribute_names(Attribute::QueueArn);
    let dead = dead.send().await.expect("look at it").attributes.expect("attributes")[&Attribute::QueueArn].clone();
    let redrive = json!({"deadLetterTargetArn": dead, "maxReceiveCount": 5}).to_string();
    queue("events").attributes(Attribute::RedrivePolicy, redrive).send().await.expect("create the queue");
    let mut config = world.services.config.clone();
    aws.tells(&mut config);
    config.ingest.events.hidden_s = 2;
    world.services = Services::new(config).await.expect("services");

    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    world.put("health/a b.csv", file(1)).await;
    world.put("health/ä.csv", file(2)).await;
    aws.send("this is no event").await;
    for _ in 0..2 {
        aws.send(s3_form(&world, "ObjectCreated:Put", "health/a+b.csv").to_string()).await;
        aws.send(sns_form(&s3_form(&world, "ObjectCreated:Put", "health/%C3%A4.csv")).to_string()).await;
    }
    world.settle().await;
    let dead = async || (aws.messages(&aws.dead_url()).await.0 == 1).then_some(());
    within(TRUE_WITHIN, "what cannot be read becomes a dead letter", dead).await;
    aws.is_drained().await;
    assert_eq!(keys(&world).await.len(), 3);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_shipped_settings_a_dropped_file_is_in_its_table_at_once() {
    const DROPS: usize = 20;
    let _slot = SLOTS.acquire().await.expect("never closed");
    let aws = Aws::ministack("events-quick").await;
    let world = world(&aws, "events-quick", |config| {
        config.ingest = IngestSettings::default();
        aws.tells(config);
        let shipped = IngestSettings::default();
        config.ingest.list_interval_ms = shipped.list_interval_ms;
        config.ingest.events.wait_s = shipped.events.wait_s;
    })
    .await;
    world.put("health/first.csv", file(0)).await;
    let roles = world.run_all();
    world.settle().await;
    let mut took = Vec::new();
    for number in 1..=DROPS {
        let began = Instant::now();
        world
            .put(&format!("health/{number}.csv"), format!("location_id,date,dengue_cases\n{number}00,2025-06-01,5\n"))
            .await;
        let is_there = format!("SELECT count(*) = 1 FROM health_data WHERE location_id = {number}00");
        while !world.query::<bool>(&is_there).await {
            assert!(began.elapsed() < TRUE_WITHIN, "drop {number} is not in the table");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.push(began.elapsed());
    }
    took.sort();
    let median = took[DROPS / 2];
    println!("from drop to table: median {median:?}, longest {:?}", took[DROPS - 1]);
    // Alone on a machine it is about 0.1 s, half of it until the stand-in looks whom to answer. Here other stories run.
    // The next listing would come within 30 s.
    assert!(median < Duration::from_secs(5), "{took:?}");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
