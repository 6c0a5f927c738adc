use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::error::{Fault, Refusal, fault};
use super::*;

/// A server that gives these answers, one per connection, and records the requests.
async fn server(answers: Vec<String>) -> (ObjectReader, Arc<Mutex<Vec<String>>>) {
    binary_server(answers.into_iter().map(String::into_bytes).collect()).await
}

async fn binary_server(answers: Vec<Vec<u8>>) -> (ObjectReader, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for answer in answers {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.expect("a request"));
            }
            seen.lock().expect("requests").push(String::from_utf8_lossy(&request).to_lowercase());
            // The reader of an object may not want all of it.
            let _ = connection.write_all(&answer).await;
        }
    });
    (reader_of(endpoint), requests)
}

/// A reader that uses a test's own server and does not retry.
pub(crate) fn reader_of(endpoint: String) -> ObjectReader {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .force_path_style(true)
        .endpoint_url(endpoint)
        .build();
    ObjectReader::new(Client::from_conf(config))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}")
}

fn binary_answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = answer("200 OK", headers, "").replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
    [head.as_bytes(), body].concat()
}

fn version(size_bytes: i64) -> ObjectVersion {
    ObjectVersion {
        bucket: "raw".into(),
        key: "health/day 1.csv".into(),
        version_id: Some("v7".into()),
        etag: "\"tag\"".into(),
        size_bytes,
        last_modified: DateTime::from_timestamp(1_700_000_000, 0).expect("a time"),
    }
}

async fn all(body: Result<ObjectBody, ReadError>) -> Result<String, ReadError> {
    let mut body = body?;
    let mut text = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(text).expect("text"))
}

#[tokio::test]
async fn a_reading_is_pinned_and_resumes_with_a_range() {
    let etag = "ETag: \"tag\"\r\n";
    let (reader, requests) = server(vec![
        answer("200 OK", etag, "0123456789"),
        answer("206 Partial Content", &format!("{etag}Content-Range: bytes 7-9/10\r\n"), "789"),
        answer("200 OK", etag, "0123456789"),
        answer("200 OK", "ETag: \"other\"\r\n", "0123456789"),
        answer("200 OK", etag, ""),
        answer("200 OK", "ETag: \"other\"\r\n", ""),
    ])
    .await;
    let opened = reader.open(&version(10), TextEncoding::Utf8).await.expect("opened");
    let from = async |from_byte| {
        let version = version(10);
        all(reader.open_from(&version, TextEncoding::Utf8, opened.stored(), from_byte).await).await
    };
    assert_eq!(from(7).await.expect("the rest"), "789");
    assert_eq!(from(8).await.expect("a server without ranges"), "89");
    let ignored =
        all(reader.open(&version(10), TextEncoding::Utf8).await).await.expect_err("a server that ignores If-Match");
    assert!(matches!(ignored, ReadError::Gone { .. }), "{ignored:?}");
    assert_eq!(from(10).await.expect("nothing is left"), "");
    let gone = from(10).await.expect_err("nothing is left of nothing");
    assert_eq!(all(Ok(opened)).await.expect("whole"), "0123456789");
    assert_eq!(gone.to_string(), "read s3://raw/health/day 1.csv version v7: this version is no longer there");

    let requests = requests.lock().expect("requests");
    for request in &requests[..4] {
        assert!(request.starts_with("get /raw/health/day%201.csv?") && request.contains("versionid=v7"), "{request}");
        assert!(request.contains("if-match: \"tag\""), "{request}");
    }
    assert!(!requests[0].contains("range:") && requests[1].contains("range: bytes=7-\r\n"));
    assert!(requests[4].starts_with("head ") && requests[4].contains("versionid=v7"));
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_about_versions_keeps_none_and_one_that_fails_says_nothing() {
    let xml = "Content-Type: application/xml\r\n";
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let refused = |code: &str| format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    let (reader, _) = server(vec![
        answer("200 OK", xml, enabled),
        answer("200 OK", xml, "<VersioningConfiguration/>"),
        answer("501 Not Implemented", xml, &refused("NotImplemented")),
        answer("501 Not Implemented", "", ""),
        answer("503 Service Unavailable", xml, &refused("SlowDown")),
    ])
    .await;
    for expected in [Some(true), Some(false), Some(false), Some(false), None] {
        assert_eq!(reader.keeps_versions("raw").await.ok(), expected);
    }
}

#[tokio::test]
async fn a_body_shorter_than_any_magic_is_read_to_its_end() {
    for content in ["", "a", "abc"] {
        let (reader, _) = server(vec![answer("200 OK", "ETag: \"tag\"\r\n", content)]).await;
        let read = all(reader.open(&version(content.len() as i64), TextEncoding::Utf8).await).await;
        assert_eq!(read.expect("whole"), content);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_worlds_fault() {
    let cut = answer("200 OK", "ETag: \"tag\"\r\n", "0123456789").replace("456789", "");
    let short = answer("200 OK", "ETag: \"tag\"\r\n", "0123");
    let long = answer("200 OK", "ETag: \"tag\"\r\n", "0123456789abc");
    for (answer, expected) in [(cut, ""), (short, "ended 6 bytes early"), (long, "longer than the object")] {
        let (reader, _) = server(vec![answer]).await;
        let error = all(reader.open(&version(10), TextEncoding::Utf8).await).await.expect_err("not whole");
        assert!(matches!(error, ReadError::Transient { .. }) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn errors_tell_whose_fault_they_are_and_where() {
    let body = |code: &str| format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>");
    for (status, code, expected) in [
        ("403 Forbidden", "AccessDenied", "read s3://raw/health/day 1.csv version v7: access denied (403 AccessDenied"),
        ("503 Slow Down", "SlowDown", "read s3://raw/health/day 1.csv version v7: 503 SlowDown: so it is"),
        ("403 Forbidden", "InvalidObjectState", "the object is archived"),
        ("404 Not Found", "NoSuchVersion", "no longer there"),
    ] {
        let (reader, _) = server(vec![answer(status, "", &body(code))]).await;
        let error = reader.open(&version(10), TextEncoding::Utf8).await.expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let nowhere = {
        let (reader, _) = server(vec![]).await;
        tokio::task::yield_now().await;
        reader
    };
    let error = nowhere.head("raw", "a").await.expect_err("nobody answers");
    assert!(matches!(error, ReadError::Transient { .. }), "{error:?}");
}

#[test]
fn faults_follow_their_table() {
    for (status, code, expected) in [
        (Some(404), None, Fault::Transient),
        (Some(405), None, Fault::Transient),
        (Some(412), None, Fault::Transient),
        (Some(404), Some("NotFound"), Fault::Transient),
        (Some(404), Some("NoSuchKey"), Fault::Gone),
        (Some(404), Some("NoSuchVersion"), Fault::Gone),
        (Some(405), Some("MethodNotAllowed"), Fault::Transient),
        (Some(412), Some("PreconditionFailed"), Fault::Gone),
        (Some(404), Some("NoSuchBucket"), Fault::Transient),
        (Some(403), None, Fault::Denied),
        (Some(403), Some("SignatureDoesNotMatch"), Fault::Denied),
        (Some(400), Some("ExpiredToken"), Fault::Denied),
        (Some(403), Some("InvalidObjectState"), Fault::Archived),
        (Some(403), Some("RequestTimeTooSkewed"), Fault::Transient),
        (Some(503), Some("SlowDown"), Fault::Transient),
        (Some(429), None, Fault::Transient),
        (Some(503), Some("ServiceUnavailable"), Fault::Transient),
        (Some(500), Some("InternalError"), Fault::Transient),
        (Some(301), Some("PermanentRedirect"), Fault::Transient),
        (Some(416), Some("InvalidRange"), Fault::Transient),
        (None, None, Fault::Transient),
    ] {
        assert_eq!(fault(Refusal { status, code, is_delete_marker: false }), expected, "{status:?} {code:?}");
    }
    let marker = Refusal { status: Some(405), code: Some("MethodNotAllowed"), is_delete_marker: true };
    assert_eq!(fault(marker), Fault::Gone);
}

#[tokio::test]
async fn a_proxy_that_answers_without_a_code_of_s3_ends_no_version() {
    let page = "<html><body>not found</body></html>";
    for status in ["404 Not Found", "405 Method Not Allowed", "412 Precondition Failed"] {
        let (reader, _) = server(vec![answer(status, "", page), answer(status, "", page)]).await;
        let read = reader.open(&version(10), TextEncoding::Utf8).await.expect_err("no object");
        assert!(matches!(read, ReadError::Transient { .. }), "{status}: {read:?}");
        // A HEAD is explained by a GET, which the proxy answers in the same way.
        let (reader, _) = server(vec![answer(status, "", ""), answer(status, "", page)]).await;
        let head = reader.head("raw", "a").await.expect_err("no object");
        assert!(matches!(head, ReadError::Transient { .. }), "{status}: {head:?}");
        let (reader, _) = server(vec![answer(status, "", ""), answer(status, "", page)]).await;
        let exists = reader.exists(&version(10)).await.expect_err("no object");
        assert!(matches!(exists, ReadError::Transient { .. }), "{status}: {exists:?}");
    }
    let (reader, _) = server(vec![answer("404 Not Found", "", ""), answer("206 Partial Content", "", "1")]).await;
    let head = reader.head("raw", "a").await.expect_err("HEAD and GET do not agree");
    assert!(head.to_string().contains("HEAD does not find it, but GET does"), "{head}");
}

#[tokio::test]
async fn a_listing_gives_every_page_and_key_as_it_is() {
    let entry = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2025-09-21T10:00:00.789Z</LastModified>\
             <ETag>&quot;tag&quot;</ETag><Size>3</Size></Contents>"
        )
    };
    let page = |keys: &[&str], rest: &str| {
        let entries: String = keys.iter().map(|key| entry(key)).collect();
        answer(
            "200 OK",
            "",
            &format!("<ListBucketResult><EncodingType>url</EncodingType>{entries}{rest}</ListBucketResult>"),
        )
    };
    let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>next/+%</NextContinuationToken>";
    let (reader, requests) = server(vec![
        page(&["a/b", "a-b+c%2B%25", "%C3%BC%01"], more),
        page(&["0%"], ""),
        page(&[], more),
        page(&[], more),
        answer("404 Not Found", "", "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>"),
    ])
    .await;
    let mut pages = reader.list_pages("raw", "a");
    let keys =
        |page: Option<Vec<ObjectVersion>>| page.map(|page| page.into_iter().map(|entry| entry.key).collect::<Vec<_>>());
    let first = pages.next().await.expect("a page").expect("a page");
    assert_eq!(first[0].last_modified.to_rfc3339(), "2025-09-21T10:00:00+00:00", "to the second, like HEAD");
    assert_eq!((first[0].etag.as_str(), first[0].size_bytes), ("\"tag\"", 3));
    assert_eq!(keys(Some(first)).expect("keys"), ["a/b", "a-b c+%", "ü\u{1}"]);
    assert_eq!(
        keys(pages.next().await.expect("a page")).expect("keys"),
        [""; 0],
        "a key that is no encoding is left out"
    );
    assert_eq!(keys(pages.next().await.expect("the end")), None);
    let mut circle = reader.list_pages("raw", "");
    assert!(circle.next().await.expect("a page").is_some());
    let error = circle.next().await.expect_err("the same token again");
    assert!(error.to_string().contains("repeats its continuation token"), "{error}");
    let error = reader.list_pages("raw", "").next().await.expect_err("no bucket");
    assert_eq!(error.to_string(), "list s3://raw/: 404 NoSuchBucket: none");

    let requests = requests.lock().expect("requests");
    assert!(requests[0].contains("prefix=a") && requests[0].contains("encoding-type=url"), "{}", requests[0]);
    assert!(requests[1].contains("continuation-token=next%2f%2b%25"), "{}", requests[1]);
    assert!(!requests[2].contains("prefix"), "{}", requests[2]);
}

#[tokio::test]
async fn a_version_is_looked_for_on_every_page_of_the_keys_that_begin_with_its_own() {
    let entry = |key: &str, etag: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2023-11-14T22:13:20.000Z</LastModified>\
             <ETag>&quot;{etag}&quot;</ETag><Size>10</Size></Contents>"
        )
    };
    let page = |entries: &str, next: Option<u8>| {
        let more = next.map(|token| {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
        });
        let more = more.unwrap_or_default();
        answer("200 OK", "", &format!("<ListBucketResult>{entries}{more}</ListBucketResult>"))
    };
    let (beside, other) = (entry("health/day 1.csv.old", "tag"), entry("health/day 1.csv", "other"));
    let same = entry("health/day 1.csv", "tag");
    for (pages, expected, asked) in [
        (vec![page(&beside, Some(1)), page("", Some(2)), page(&same, Some(3)), page("", None)], true, 3),
        (vec![page(&other, Some(1)), page(&beside, None)], false, 2),
    ] {
        let (reader, requests) = server(pages).await;
        assert_eq!(reader.is_listed(&version(10)).await.expect("an answer"), expected);
        assert_eq!(requests.lock().expect("requests").len(), asked);
    }
    let slow = answer("503 Slow Down", "", "<Error><Code>SlowDown</Code><Message>wait</Message></Error>");
    let (reader, _) = server(vec![page(&beside, Some(1)), slow]).await;
    assert!(reader.is_listed(&version(10)).await.is_err(), "a page that fails is no answer");
}

#[tokio::test]
async fn a_key_that_holds_nothing_is_none() {
    let headers = "ETag: \"tag\"\r\nLast-Modified: Sun, 21 Sep 2025 10:00:00 GMT\r\nx-amz-version-id: v7\r\n";
    // The answer to a HEAD has a length and no body.
    let head = answer("200 OK", headers, "123").replace("\r\n\r\n123", "\r\n\r\n");
    let no_key = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
    let answers = vec![
        answer("404 Not Found", "", ""),
        answer("404 Not Found", "", no_key),
        head,
        answer("403 Forbidden", "", ""),
    ];
    let (reader, _) = server(answers).await;
    assert_eq!(reader.head("raw", "a").await.expect("an answer"), None);
    let found = reader.head("raw", "a").await.expect("an answer").expect("an object");
    assert_eq!((found.etag.as_str(), found.size_bytes, found.version_id.as_deref()), ("\"tag\"", 3, Some("v7")));
    assert_eq!(found.last_modified.timestamp(), 1_758_448_800);
    let denied = reader.head("raw", "a").await.expect_err("not allowed");
    assert!(matches!(denied, ReadError::Denied { .. }), "{denied:?}");
}

#[tokio::test]
async fn a_reading_of_compressed_content_resumes_behind_what_was_read_whatever_its_name() {
    let text: Vec<u8> = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    encoder.write_all(&text).await.expect("compress");
    encoder.shutdown().await.expect("compress");
    let object = encoder.into_inner();
    for key in ["health/day.csv.gz", "health/day.csv"] {
        let version = ObjectVersion { key: key.into(), ..version(object.len() as i64) };
        for from_byte in [0, 1, 262_144, 300_000, 699_999, 700_000, 700_001] {
            let answer = binary_answer("ETag: \"tag\"\r\n", &object);
            let (reader, requests) = binary_server(vec![answer.clone(), answer]).await;
            let opened = reader.open(&version, TextEncoding::Utf8).await.expect("gzip");
            let mut body =
                reader.open_from(&version, TextEncoding::Utf8, opened.stored(), from_byte).await.expect("gzip");
            let mut rest = Vec::new();
            let end = loop {
                match body.chunk().await {
                    Ok(Some(chunk)) => rest.extend_from_slice(&chunk),
                    end => break end,
                }
            };
            assert_eq!(end.is_err(), from_byte > 700_000, "{from_byte}: {end:?}");
            assert!(rest == text[(from_byte as usize).min(700_000)..], "{from_byte}");
            assert!(requests.lock().expect("requests").iter().all(|request| !request.contains("range:")));
        }
    }
}

#[tokio::test]
async fn positions_in_another_encoding_are_those_of_its_text_in_utf_8() {
    let etag = "ETag: \"tag\"\r\n";
    let five = answer("200 OK", etag, "ab\u{7f}cd");
    let (reader, requests) = server(vec![five.clone(), five.clone(), five]).await;
    let encoding = TextEncoding::Windows1252;
    let opened = reader.open(&version(5), encoding).await.expect("opened");
    assert_eq!(all(reader.open_from(&version(5), encoding, opened.stored(), 3).await).await.expect("the rest"), "cd");
    let cut = all(reader.open_from(&version(5), encoding, opened.stored(), 9).await).await.expect_err("it ends early");
    assert!(cut.to_string().contains("ends before byte 9"), "{cut}");
    assert!(requests.lock().expect("requests").iter().all(|request| !request.contains("range:")));
}
