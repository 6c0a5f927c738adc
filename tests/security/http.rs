//! HTTP with a token, and a store that tells of a file.

use std::process::Command;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use freshet::local::{LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use secrecy::ExposeSecret;
use sqlx::Connection;

use crate::parts::free_port;
use crate::settings::{SOON, Settings, folder, within};

const TOKEN: &str = "a-token-of-some-length";

/// The status and the head of an answer of curl's.
fn curl(url: &str, more: &[&str]) -> (u16, String) {
    let output = Command::new("curl").args(["-sS", "-i", "--max-time", "10", url]).args(more).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_tells_of_a_file_with_the_token_and_it_is_read_at_once() {
    let folder = folder("http");
    let options = Options { data_dir: folder.0.join("data"), kafka: true, postgres: true, s3: true, tell_to: None };
    let stack = LocalStack::start(options, |_| ()).await.expect("start the stack");
    let endpoints = stack.endpoints().clone();
    let store = endpoints.s3.expect("S3 runs");
    let client = s3::client(&S3Settings {
        endpoint: store.endpoint.clone(),
        region: store.region.clone(),
        access_key_id: store.access_key_id.clone(),
        secret_access_key: store.secret_access_key.clone(),
        ..S3Settings::default()
    })
    .await;
    let database_url = endpoints.database_url.expect("Postgres runs");
    let port = free_port();
    let settings = Settings::default()
        .set("kafka.brokers", &endpoints.kafka_brokers.expect("Kafka runs"))
        .set("kafka.replication", "1")
        .set("kafka.min_insync_replicas", "1")
        .set("kafka.partitions", "1")
        .secret(&folder.0, "postgres.url", &database_url)
        .set("s3.endpoint", &store.endpoint)
        .set("s3.region", &store.region)
        .secret(&folder.0, "s3.access_key_id", store.access_key_id.expose_secret())
        .secret(&folder.0, "s3.secret_access_key", store.secret_access_key.expose_secret())
        // No listing comes of itself while this test lasts.
        .set("ingest.list_interval_ms", "3600000")
        .set("http.listen", &format!("127.0.0.1:{port}"))
        .secret(&folder.0, "http.token", TOKEN);
    let (set_up, said) = settings.run(&folder.0, &["setup"]);
    assert!(set_up, "{said}");
    let ingest = settings.start(&folder.0, "ingest", &["ingest"]);
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    within(SOON, "it is ready", async || (curl(&at("/readyz"), &[]).0 == 200).then_some(())).await;

    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(curl(&at("/healthz"), &[]).0, 200);
    assert_eq!(curl(&at("/metrics"), &[]).0, 401);
    assert_eq!(curl(&at("/metrics"), &["-H", "Authorization: Bearer another-of-some-length"]).0, 401);
    // As a browser does it.
    let jar = folder.0.join("cookies").display().to_string();
    let (status, answer) = curl(&at(&format!("/metrics?token={TOKEN}")), &["-L", "-c", &jar, "-b", &jar]);
    assert!(status == 303 && answer.contains("HttpOnly; SameSite=Lax"), "{answer}");
    assert!(answer.contains("location: /metrics\r\n") && answer.contains("freshet_build_info"), "{answer}");

    // The first listing is over once it has been timed, for every domain.
    let value = |name: &str| {
        let (_, text) = curl(&at("/metrics"), &["-H", &bearer]);
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let listed = async || (value("freshet_listing_duration_seconds_count") >= 4.0).then_some(());
    within(SOON, "every domain was listed once", listed).await;
    let rows = "location_id,date,dengue_cases\n1,2025-01-01,1\n";
    // What only begins as the key that is told of is not told of.
    for key in ["health/told of.csv", "health/told of.csv.csv"] {
        let body = ByteStream::from_static(rows.as_bytes());
        client.put_object().bucket("freshet-raw").key(key).body(body).send().await.expect("drop a file");
    }
    let notification =
        r#"{"Records":[{"s3":{"bucket":{"name":"freshet-raw"},"object":{"key":"health/told+of.csv"}}}]}"#;
    let tell = |more: &[&str]| curl(&at("/s3-events"), &[&["--data-binary", notification], more].concat());
    assert_eq!(tell(&[]).0, 401);
    assert_eq!(tell(&["-b", &jar]).0, 401, "a cookie only reads");
    let since = Instant::now();
    let (status, answer) = tell(&["-H", &bearer]);
    assert!(status == 202 && answer.ends_with("1 to look at\n"), "{answer}");
    let published = async || (value(r#"freshet_objects_published_total{domain="health"}"#) >= 1.0).then_some(());
    within(Duration::from_secs(10), "what was told of is published", published).await;
    println!("published {:.2} s after it was told of", since.elapsed().as_secs_f64());
    let discovered = value(r#"freshet_objects_discovered_total{domain="health"}"#);
    assert_eq!(discovered, 1.0, "what nobody told of waits for the listing\n{}", ingest.log());
    assert_eq!(value(r#"freshet_hints_total{outcome="taken"}"#), 1.0);
    let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"freshet-raw"}"#;
    let (status, answer) = curl(&at("/s3-events"), &["-H", &bearer, "--data-binary", test]);
    assert!(status == 202 && answer.ends_with("0 to look at\n"), "{answer}");
    assert_eq!(curl(&at("/s3-events"), &["-H", &bearer, "--data-binary", "nonsense"]).0, 400);
    let large = folder.0.join("large");
    std::fs::write(&large, vec![b' '; (1 << 20) + 1]).expect("write");
    let large = format!("@{}", large.display());
    assert_eq!(curl(&at("/s3-events"), &["-H", &bearer, "-H", "Expect:", "--data-binary", &large]).0, 413);
    drop(ingest);

    // Open beyond loopback without a token: said at the start, and only the three are answered.
    let mut open = settings.clone();
    open.0.remove("FRESHET__HTTP__TOKEN_FILE");
    let port = free_port();
    let ingest = open.set("http.listen", &format!("0.0.0.0:{port}")).start(&folder.0, "open", &["ingest"]);
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    within(SOON, "it is ready", async || (curl(&at("/readyz"), &[]).0 == 200).then_some(())).await;
    assert!(ingest.log().contains("http.token is not set"), "{}", ingest.log());
    assert_eq!(curl(&at("/metrics"), &[]).0, 200);
    assert_eq!(curl(&at("/"), &[]).0, 403);
    let (status, answer) = curl(&at("/s3-events"), &["--data-binary", notification]);
    assert!(status == 403 && answer.contains("http.token"), "{answer}");
    drop(ingest);

    // The page, by the name that a proxy has: with the token, for whoever has shown it.
    let port = free_port();
    let up = settings.clone().set("http.listen", &format!("0.0.0.0:{port}"));
    let up = up.start(&folder.0, "up", &["up", "--data", "up"]);
    let named = |path: &str, more: &[&str]| {
        curl(&format!("http://127.0.0.1:{port}{path}"), &[&["-H", "Host: freshet.example"], more].concat())
    };
    within(SOON, "it is up", async || up.log().contains("freshet is up").then_some(())).await;
    assert!(
        up.log().contains(&format!("http://0.0.0.0:{port}/?token=… ")) && !up.log().contains(TOKEN),
        "{}",
        up.log()
    );
    let jar = folder.0.join("cookies of the page").display().to_string();
    assert_eq!(named("/", &[]).0, 401);
    let (status, answer) = named(&format!("/?token={TOKEN}"), &["-L", "-c", &jar, "-b", &jar]);
    assert!(status == 303 && answer.contains("HTTP/1.1 200 OK") && answer.contains("<title>"), "{answer}");
    let (status, answer) = named("/", &["-b", &jar]);
    assert!(status == 200 && answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    assert_eq!(named("/page/page.js", &["-b", &jar]).0, 200);
    assert_eq!(named("/outputs/current_health_risks.csv", &[]).0, 401);

    // A statement that takes long is ended at the server, before the page gives up waiting for it.
    let mut holder = sqlx::PgConnection::connect(&database_url).await.expect("connect");
    sqlx::raw_sql("BEGIN; LOCK TABLE pipeline.objects").execute(&mut holder).await.expect("lock the ledger");
    let (_, told) = named("/page/events", &["-b", &jar, "--max-time", "30"]);
    assert!(told.contains("canceling statement due to statement timeout"), "{told}");
    drop((holder, up));
    stack.stop().await.expect("stop");
}
