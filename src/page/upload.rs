//! Files that are dropped on the page, put into the raw bucket: there a listener finds them like any other.
//!
//! It is the one thing that the page changes. It does so only where it may write: with `http.token` set, or where
//! `http.uploads` says so. A web page elsewhere cannot make a browser do it: its requests carry no mark ([`is_from_own_page`]), which a browser
//! sends elsewhere only after asking, and which nobody allows; and what they name as their origin is not this host.

use std::time::Duration;

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use freshet_ingest::IngestSettings;
use freshet_ingest::names::Name;
use freshet_topics::Domain;
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::ask::{Asked, Refused, absent, away};
use super::parameters::Parameters;
use crate::config::HttpSettings;
use crate::http::is_from_own_page;

/// Bytes of a file: it is held in memory, of four people at most. Whoever has a larger one takes an S3 client.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// Bytes of a name. A key has 1,024 at most, with its prefix.
const NAME_BYTES_MAX: usize = 255;
/// Files that are taken at the same time.
static UPLOADS: Semaphore = Semaphore::const_new(4);
/// For a file to come in, and to be written.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Whether the page may write. Beyond loopback it is shut without a token anyway.
pub(super) fn may_write(http: &HttpSettings) -> bool {
    http.uploads || !http.token.expose_secret().is_empty()
}

/// What was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    key: String,
}

/// `POST /page/uploads?domain=DOMAIN&name=NAME`, the file as its body. A file that is there is never replaced.
pub(super) async fn upload(State(asked): State<Asked>, request: Request<Body>) -> Result<Json<Written>, Refused> {
    let config = &asked.services.config;
    check_sender(&config.http, request.headers())?;
    let parameters = Parameters::of(request.uri());
    let domain = parameters.text("domain").and_then(|name| config.pipeline.domain(name));
    let domain = domain.ok_or_else(|| absent("no such domain"))?;
    let key = key_of(&config.ingest, domain, parameters.text("name").unwrap_or_default())
        .map_err(|said| (StatusCode::BAD_REQUEST, format!("{said}\n")))?;
    // Not counted among the page's queries: a slow upload does not block viewers.
    let _place = UPLOADS
        .try_acquire()
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "too many uploads at once: try again\n".to_owned()))?;
    let late = |_| (StatusCode::REQUEST_TIMEOUT, "the upload takes too long: use an S3 client\n".to_owned());
    let content = timeout(WAIT_MAX, to_bytes(request.into_body(), BYTES_MAX)).await.map_err(late)?;
    let content = content.map_err(|_| {
        let said = format!("files over {} MiB are not accepted here: use an S3 client\n", BYTES_MAX >> 20);
        (StatusCode::PAYLOAD_TOO_LARGE, said)
    })?;
    timeout(WAIT_MAX, put(&asked, &key, content)).await.map_err(late)??;
    tracing::info!(key, "a file was uploaded on the status page");
    Ok(Json(Written { key }))
}

fn check_sender(http: &HttpSettings, headers: &HeaderMap) -> Result<(), Refused> {
    let said = match (may_write(http), is_from_own_page(headers)) {
        (true, true) => return Ok(()),
        (false, _) => "uploads are disabled: set http.uploads = true, or http.token\n",
        (true, false) => "uploads are accepted from this page only\n",
    };
    Err((StatusCode::FORBIDDEN, said.to_owned()))
}

/// The key under which a file of a name is one of the domain.
fn key_of(settings: &IngestSettings, domain: &Domain, name: &str) -> Result<String, String> {
    let is_plain = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !matches!(name, "." | "..");
    if !is_plain || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return Err(format!("`{}` is not a valid file name", name.escape_debug()));
    }
    let mut prefixes = settings.all_patterns_of(domain).filter(|pattern| pattern.ends_with('/'));
    let prefix = prefixes.next().ok_or_else(|| format!("{} has no prefix for files", domain.name))?;
    let key = format!("{prefix}{name}");
    match settings.name_of(domain, &key) {
        Name::File => Ok(key),
        Name::NotData(pattern) => {
            Err(format!("its name matches `{pattern}` of ingest.not_data, so it would not be read"))
        }
        Name::Foreign => Err(format!("{key} belongs to no domain")),
    }
}

async fn put(asked: &Asked, key: &str, content: Bytes) -> Result<(), Refused> {
    let (s3, bucket) = (&asked.services.s3, &asked.services.config.s3.raw_bucket);
    let there = || {
        let said = format!("{key} already exists: rename the file, or replace it with an S3 client\n");
        (StatusCode::CONFLICT, said)
    };
    // Not every store keeps the condition below.
    if s3.head_object().bucket(bucket).key(key).send().await.is_ok() {
        return Err(there());
    }
    let request = s3.put_object().bucket(bucket).key(key);
    match request.if_none_match("*").body(ByteStream::from(content)).send().await {
        Ok(_) => Ok(()),
        Err(error) if error.raw_response().is_some_and(|it| matches!(it.status().as_u16(), 409 | 412)) => Err(there()),
        Err(error) => Err(away(format!("S3: {}", DisplayErrorContext(&error)))),
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;

    #[test]
    fn nothing_is_written_unless_a_setting_or_a_token_says_so() {
        let http = |uploads, token: &str| HttpSettings { uploads, token: token.into(), ..HttpSettings::default() };
        let mut own = HeaderMap::new();
        own.insert("host", "localhost:9187".parse().expect("a header"));
        own.insert("origin", "http://localhost:9187".parse().expect("a header"));
        own.insert("x-freshet-page", "1".parse().expect("a header"));
        let status = |http: &HttpSettings, headers| check_sender(http, headers).map_err(|(status, _)| status.as_u16());
        assert_eq!(status(&HttpSettings::default(), &own), Err(403), "off unless it is set");
        assert_eq!(status(&http(true, ""), &own), Ok(()));
        assert_eq!(status(&http(false, "0123456789abcdef"), &own), Ok(()));
        assert_eq!(status(&http(true, ""), &HeaderMap::new()), Err(403));
    }

    #[test]
    fn a_file_gets_a_key_of_its_domain_and_no_other() {
        let (settings, domain) = (IngestSettings::default(), DOMAINS[1]);
        let prefix = settings.all_patterns_of(domain).find(|it| it.ends_with('/')).expect("a prefix");
        for name in ["a.csv", "a b'.csv.gz", "März 2025.csv", "..csv"] {
            let key = key_of(&settings, domain, name);
            assert!(name == "..csv" || key == Ok(format!("{prefix}{name}")), "{name}: {key:?}");
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "../other/a.csv", "a/b.csv", "a\\b.csv", "a\nb.csv", "_SUCCESS", "a.tmp", &long] {
            assert!(key_of(&settings, domain, name).is_err(), "{name}");
        }
    }
}
