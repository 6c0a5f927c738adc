//! How answers of S3, and of proxies in front of it, are interpreted.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A store that gives these answers, one per connection.
async fn store(answers: Vec<String>) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        for answer in answers {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let (mut request, mut byte) = (Vec::new(), [0; 1]);
            while !request.ends_with(b"\r\n\r\n") {
                connection.read_exact(&mut byte).await.expect("a request");
                request.extend(byte);
            }
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            connection.read_exact(&mut body).await.expect("its body");
            connection.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .force_path_style(true)
        .endpoint_url(endpoint)
        .build();
    Store::new(Client::from_conf(config), "processed")
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"tag\"\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn refusal(status: &str, code: &str) -> String {
    answer(status, &format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>"))
}

/// The error page of an ingress.
fn page(status: &str) -> String {
    answer(status, &format!("<html>\n{}</html>", "<p>default backend</p>\n".repeat(500)))
}

fn no_such_key() -> String {
    refusal("404 Not Found", "NoSuchKey")
}

fn listing(keys: &[&str]) -> String {
    let object = |key: &&str| format!("<Contents><Key>{key}</Key></Contents>");
    let objects: String = keys.iter().map(object).collect();
    let head = "<ListBucketResult><Name>processed</Name><IsTruncated>false</IsTruncated>";
    answer("200 OK", &format!("{head}{objects}</ListBucketResult>"))
}

fn pointer(version: u64) -> String {
    let manifest = format!("metrics/manifests/{version:012}-ab.json");
    let pointer = Pointer { version, manifest, sha256: "ab".into() };
    answer("200 OK", &serde_json::to_string(&pointer).expect("JSON"))
}

fn manifest(version: u64, code_version: u32) -> String {
    let manifest = Manifest { version, code_version, ..Manifest::default() };
    answer("200 OK", &serde_json::to_string(&manifest).expect("JSON"))
}

#[tokio::test]
async fn a_pointer_is_gone_only_where_s3_itself_says_so() {
    for status in ["404 Not Found", "405 Method Not Allowed", "412 Precondition Failed", "502 Bad Gateway"] {
        let error = store(vec![page(status)]).await.published(None).await.expect_err("not S3's own answer");
        let said = error.to_string();
        assert!(said.starts_with("read s3://processed/metrics/current.json: "), "{said}");
        assert!(!said.contains('\n') && said.len() < 200, "a line, not a page: {said}");
    }
    let no_bucket = store(vec![refusal("404 Not Found", "NoSuchBucket")]).await.published(None).await;
    let said = no_bucket.expect_err("a setting is wrong").to_string();
    assert_eq!(said, "read s3://processed/metrics/current.json: 404 NoSuchBucket: so it is");

    let empty = || listing(&[]);
    let fresh = store(vec![no_such_key(), empty(), empty(), empty(), no_such_key()]).await.published(None).await;
    assert!(matches!(fresh.expect("an answer"), Published::Nothing(0)));
    let begun = listing(&["metrics/data/window_metrics/week-2025-08-04-v1-0123456789abcdef.csv"]);
    let begun = store(vec![no_such_key(), empty(), begun, empty(), no_such_key()]).await.published(None).await;
    assert!(matches!(begun.expect("an answer"), Published::Nothing(0)), "its number is free");
    let no_listing = answer("200 OK", "");
    let error = store(vec![no_such_key(), no_listing]).await.published(None).await;
    error.expect_err("an empty answer is no empty bucket");
}

#[tokio::test]
async fn what_is_left_says_what_the_next_version_has_to_be_above() {
    let old = ["metrics/manifests/000000000006-ab.json", "metrics/manifests/000000000007-cd.json"];
    let data = ["metrics/data/window_metrics/week-2025-08-04-v9-0123456789abcdef.csv"];
    let lost = store(vec![no_such_key(), listing(&old), listing(&data), listing(&[]), no_such_key(), manifest(7, 3)]);
    let Published::Lost(lost) = lost.await.published(None).await.expect("an answer") else { panic!("not lost") };
    assert_eq!((lost.highest, lost.swap), (9, Condition::Absent));
    assert_eq!(lost.newest.map(|newest| (newest.version, newest.code_version)), Some((7, 3)));

    let gone = || vec![pointer(8), no_such_key()];
    let answers = [gone(), gone(), gone(), vec![listing(&old[..1]), listing(&[]), listing(&[]), manifest(6, 1)]];
    let lost = store(answers.concat()).await.published(None).await.expect("an answer");
    let Published::Lost(lost) = lost else { panic!("not lost") };
    assert_eq!((lost.highest, lost.swap), (8, Condition::Unchanged("\"tag\"".into())));
    assert!(lost.what.contains("000000000008-ab.json"), "{}", lost.what);

    let reader = store(vec![no_such_key(), listing(&old), listing(&[]), listing(&[]), no_such_key()]);
    let said = reader.await.current_unless(None).await.expect_err("nothing to read").to_string();
    assert!(said.contains("the pointer is missing") && said.contains("`freshet metrics`"), "{said}");
}

#[tokio::test]
async fn the_first_version_with_rows_is_of_the_current_epoch() {
    let made = |version: u64, epoch: i64, offset: i64| {
        let epochs = [("health".to_owned(), epoch)].into();
        let bookmarks = [("health".to_owned(), [(0, offset)].into())].into();
        let manifest = Manifest { version, epochs, bookmarks, ..Manifest::default() };
        answer("200 OK", &serde_json::to_string(&manifest).expect("JSON"))
    };
    let keys: Vec<String> = (1..=6).map(|version| format!("metrics/manifests/{version:012}-ab.json")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    // The topic was adopted after version 4. Of the first version after that, nothing says that it is the first.
    for (end, expected) in [(120, (6, true)), (30, (5, false))] {
        let newest = || made(6, 2, 120);
        let searched = vec![made(4, 1, 50_000), newest(), made(5, 2, 40)];
        let answers = [vec![pointer(6), newest(), listing(&keys)], searched].concat();
        let first = store(answers).await.first_with("health", &[end]).await.expect("an answer");
        assert_eq!(first.map(|first| (first.version, first.is_first)), Some(expected), "{end}");
    }
    // The manifest of version 5 is deleted: that version may have had the rows.
    let left: Vec<&str> = keys.iter().copied().filter(|key| !key.contains("005-")).collect();
    let newest = || made(6, 2, 120);
    let answers = vec![pointer(6), newest(), listing(&left), made(3, 2, 20), newest(), made(4, 2, 40)];
    let first = store(answers).await.first_with("health", &[120]).await.expect("an answer");
    assert_eq!(first.map(|first| (first.version, first.is_first)), Some((6, false)));
}

#[tokio::test]
async fn a_copy_is_gone_only_where_get_says_so_too() {
    let key = "metrics/window_metrics.csv";
    let head = || answer("404 Not Found", "");
    let gone = store(vec![head(), no_such_key()]).await.head_copy(key).await;
    assert_eq!(gone.expect("an answer"), None);
    for proxy in [page("404 Not Found"), refusal("404 Not Found", "NoSuchBucket"), answer("206 Partial Content", "i")] {
        let error = store(vec![head(), proxy, head()]).await.head_copy(key).await.expect_err("not S3's own answer");
        assert!(error.to_string().contains("s3://processed/metrics/window_metrics.csv: "), "{error}");
    }
    // It was written in between.
    let there = answer("206 Partial Content", "i");
    let found = store(vec![head(), there, answer("200 OK", "")]).await.head_copy(key).await.expect("an answer");
    assert_eq!(found.map(|copy| copy.etag).as_deref(), Some("\"tag\""));
    store(vec![page("412 Precondition Failed")]).await.head_copy(key).await.expect_err("not S3's own answer");
}

#[tokio::test]
async fn a_conditional_write_is_refused_only_by_s3_itself() {
    let (absent, unchanged) = (Condition::Absent, Condition::Unchanged("\"tag\"".into()));
    // The answer, the result for a new key, for a swap: refused, or an error.
    let cases = [
        (refusal("412 Precondition Failed", "PreconditionFailed"), true, true),
        (refusal("409 Conflict", "ConditionalRequestConflict"), true, true),
        (no_such_key(), false, true),
        (page("412 Precondition Failed"), false, false),
        (page("409 Conflict"), false, false),
        (page("404 Not Found"), false, false),
        (refusal("404 Not Found", "NoSuchBucket"), false, false),
    ];
    for (answer, refuses_new, refuses_swap) in cases {
        for (condition, refused) in [(&absent, refuses_new), (&unchanged, refuses_swap), (&Condition::Always, false)] {
            let body = Spooled::from(b"body".to_vec());
            let put = store(vec![answer.clone()]).await.put("key", &body, "text/plain", condition.clone()).await;
            assert_eq!(matches!(put, Ok(Put::Refused)), refused, "{condition:?}: {put:?} of {answer:.80}");
            assert_eq!(put.is_err(), !refused, "{condition:?}: {put:?} of {answer:.80}");
        }
    }
}

#[tokio::test]
async fn a_data_file_that_is_gone_is_told_from_a_store_that_does_not_answer() {
    let file = FileRef { key: "metrics/data/x".into(), sha256: "00".into(), bytes: 1 };
    let missing = store(vec![no_such_key()]).await.fetch(&file).await;
    assert!(matches!(missing, Err(OutputError::Missing { .. })), "{missing:?}");
    let world = store(vec![page("404 Not Found")]).await.fetch(&file).await;
    assert!(matches!(world, Err(OutputError::Request { .. })), "{world:?}");
}
