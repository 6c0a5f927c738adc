use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::object::tests::reader_of;
use crate::settings::IngestSettings;

/// A store with these keys and two keys per page, which fails where the rule says: prefix, and number of keys before
/// the page. It does not allow prefixes with an x.
async fn store(keys: Vec<String>, refuses: fn(&str, usize) -> bool) -> ObjectReader {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.expect("a request"));
            }
            let answer = answer(&keys, refuses, &String::from_utf8(request).expect("text"));
            connection.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    reader_of(endpoint)
}

fn answer(keys: &[String], refuses: fn(&str, usize) -> bool, request: &str) -> String {
    let query = request.split_whitespace().nth(1).and_then(|path| path.split_once('?')).expect("a query").1;
    let value = |name: &str| {
        let found = query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        found.map(|it| percent_decode_str(it).decode_utf8().expect("UTF-8").into_owned())
    };
    let prefix = value("prefix").unwrap_or_default();
    let skipped: usize = value("continuation-token").map_or(0, |it| it.parse().expect("a number"));
    // This store must not be asked for versions.
    if refuses(&prefix, skipped) || query.split('&').any(|it| it.starts_with("versions")) {
        let (status, code) = match prefix.contains('x') || query.contains("versions") {
            true => ("403 Forbidden", "AccessDenied"),
            false => ("500 Internal Server Error", "InternalError"),
        };
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        return format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    let mut entries = BTreeSet::new();
    for key in keys.iter().filter(|key| key.starts_with(&prefix)) {
        let rest = &key[prefix.len()..];
        match rest.split_once('/').filter(|_| value("delimiter").is_some()) {
            Some((folder, _)) => {
                entries.insert(format!("<CommonPrefixes><Prefix>{prefix}{folder}/</Prefix></CommonPrefixes>"))
            }
            None => entries.insert(format!(
                "<Contents><Key>{key}</Key><LastModified>2025-09-21T10:00:00.000Z</LastModified>\
                 <ETag>e</ETag><Size>3</Size></Contents>"
            )),
        };
    }
    let more = match entries.len() > skipped + 2 {
        true => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>", skipped + 2)
        }
        false => String::new(),
    };
    let page: String = entries.into_iter().skip(skipped).take(2).collect();
    let body = format!("<ListBucketResult>{page}{more}</ListBucketResult>");
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What a listing of `a/` finds, and what it reports as not listed.
async fn listed(keys: &[&str], refuses: fn(&str, usize) -> bool) -> (Vec<String>, Vec<String>) {
    let (found, unlisted, refused) = listed_by(Ways::Current, keys, refuses).await;
    assert!(!refused, "nobody asked for versions");
    (found, unlisted)
}

async fn listed_by(ways: Ways, keys: &[&str], refuses: fn(&str, usize) -> bool) -> (Vec<String>, Vec<String>, bool) {
    let reader = store(keys.iter().map(|key| (*key).to_owned()).collect(), refuses).await;
    let limits = Limits::new(&IngestSettings::default());
    let mut listing = Listing::new(&reader, &limits, "raw", "a/".into(), ways);
    let mut found = BTreeSet::new();
    while let Some(page) = listing.next().await {
        found.extend(page.into_iter().map(|entry| entry.version.key));
    }
    (found.into_iter().collect(), listing.unlisted.into_keys().collect(), listing.versions_refused.is_some())
}

const KEYS: [&str; 8] = ["a/1", "a/2", "a/3", "a/x/1", "a/x/2", "a/x/3", "a/y/1", "a/z"];

#[tokio::test]
async fn where_all_can_be_listed_all_is_found_and_nothing_named() {
    assert_eq!(listed(&KEYS, |_, _| false).await, (KEYS.map(str::to_owned).to_vec(), vec![]));
}

#[tokio::test]
async fn a_folder_that_may_not_be_listed_is_named_and_the_others_are_found() {
    // The whole prefix fails after two pages, its level too, and the folder in every way.
    let refuses = |prefix: &str, skipped| prefix == "a/" && skipped == 4 || prefix.starts_with("a/x");
    let (found, unlisted) = listed(&KEYS, refuses).await;
    assert_eq!(found, ["a/1", "a/2", "a/3", "a/x/1", "a/y/1", "a/z"].map(str::to_owned));
    assert_eq!(unlisted, ["a/", "a/x"], "what is not allowed is not tried by every character");
    // A level that can be listed completely leaves nothing to guess.
    let refuses = |prefix: &str, skipped| prefix == "a/" && skipped == 6 || prefix.starts_with("a/x/");
    let (found, unlisted) = listed(&KEYS, refuses).await;
    assert_eq!(found, KEYS.map(str::to_owned));
    assert_eq!(unlisted, ["a/x/"]);
}

#[tokio::test]
async fn a_page_of_a_long_level_that_fails_hides_only_its_own_keys() {
    // The keys that begin with `a/2` cannot be listed by any prefix.
    fn refuses(prefix: &str, skipped: usize) -> bool {
        prefix.starts_with("a/2") || prefix == "a/" && skipped == 0
    }
    let (found, unlisted) = listed(&["a/1", "a/2", "a/3", "a/30", "a/4"], refuses).await;
    assert_eq!(found, [""; 0], "a store that has given no page is down, and is not asked a hundred times");
    assert_eq!(unlisted, ["a/"]);
    fn later(prefix: &str, skipped: usize) -> bool {
        prefix.starts_with("a/3") || prefix == "a/" && skipped == 2
    }
    let (found, unlisted) = listed(&["a/1", "a/2", "a/3", "a/30", "a/4", "a/x/1"], later).await;
    assert_eq!(found, ["a/1", "a/2", "a/4", "a/x/1"]);
    assert!(unlisted.contains(&"a/".into()) && unlisted.contains(&"a/3".into()), "{unlisted:?}");
}

#[tokio::test]
async fn where_versions_may_not_be_listed_the_keys_are_unless_somebody_insists() {
    let all = KEYS.map(str::to_owned).to_vec();
    assert_eq!(listed_by(Ways::VersionsIfAllowed, &KEYS, |_, _| false).await, (all.clone(), vec![], true));
    let (found, _, refused) = listed_by(Ways::Versions, &KEYS, |_, _| false).await;
    assert_eq!((found, refused), (all, false), "each level by itself");
}
