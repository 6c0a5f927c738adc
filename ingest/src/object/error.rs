//! Whose fault it is when a read fails, since that decides what becomes of the object.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::inflate::{ContentError, Unreadable};

/// Characters of an error's text.
const DETAIL_CHARS_MAX: usize = 500;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The version is gone: overwritten or deleted.
    #[error("read {object}: this version is no longer there")]
    Superseded {
        /// Bucket, key and version.
        object: String,
    },
    /// The file is at fault, and will be at the next attempt.
    #[error("{reason}")]
    Rejected {
        /// Bucket, key and version.
        object: String,
        /// For whoever dropped the file.
        reason: Unreadable,
    },
    /// Not allowed; an attempt later may be.
    #[error("{action} {object}: access denied ({detail}); check the keys and the bucket's policy")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// Bucket, key and version.
        object: String,
        /// What the server said.
        detail: String,
    },
    /// The store or the way to it failed; try again later.
    #[error("{action} {object}: {detail}")]
    World {
        /// What was tried.
        action: &'static str,
        /// Bucket, key and version.
        object: String,
        /// Whether the store asks for fewer requests.
        throttled: bool,
        /// What the server or the client said.
        detail: String,
    },
}

pub(super) fn content_error(object: &str, error: ContentError) -> ReadError {
    match error {
        ContentError::Unreadable(reason) => ReadError::Rejected { object: object.to_owned(), reason },
        ContentError::Source(error) => world("read", object.to_owned(), chain(&error)),
    }
}

pub(super) fn world(action: &'static str, object: String, detail: String) -> ReadError {
    ReadError::World { action, object, throttled: false, detail }
}

/// What [`fault`] tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Gone,
    Denied,
    Archived,
    Throttled,
    Other,
}

/// Whose fault an answer is, by its HTTP status and S3 error code.
///
/// | status | code | fault |
/// |---|---|---|
/// | 404 | `NoSuchBucket` | a setting is wrong, not the object: other |
/// | 404, 412, 405 (a delete marker) | any | the version is gone |
/// | 403 | `InvalidObjectState` | archived |
/// | 403 | `RequestTimeTooSkewed` | a clock is wrong: other |
/// | 401, 403; 400 with `ExpiredToken`, `InvalidToken` | any | denied |
/// | 429; any with `SlowDown` and its kin | | throttled |
/// | anything else, or no answer at all | | other: worth another attempt |
pub(super) fn fault(status: Option<u16>, code: Option<&str>) -> Fault {
    match (status, code) {
        (_, Some("NoSuchBucket" | "RequestTimeTooSkewed")) => Fault::Other,
        (_, Some("InvalidObjectState")) => Fault::Archived,
        (Some(404 | 405 | 412), _) => Fault::Gone,
        (Some(401 | 403), _) | (_, Some("ExpiredToken" | "InvalidToken")) => Fault::Denied,
        (Some(429), _) => Fault::Throttled,
        (_, Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests")) => {
            Fault::Throttled
        }
        _ => Fault::Other,
    }
}

pub(super) fn classified<E>(action: &'static str, object: String, error: &SdkError<E, HttpResponse>) -> ReadError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    match fault(status, error.code()) {
        Fault::Gone => ReadError::Superseded { object },
        Fault::Archived => ReadError::Rejected { object, reason: Unreadable::Archived },
        Fault::Denied => ReadError::Denied { action, object, detail: detail(error) },
        fault => ReadError::World { action, object, throttled: fault == Fault::Throttled, detail: detail(error) },
    }
}

/// What the server said, or else what the client did.
pub(super) fn detail<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    match (status, error.code(), error.message()) {
        (Some(status), Some(code), Some(message)) => bounded(format!("{status} {code}: {message}")),
        (Some(status), code, _) => bounded(format!("{status} {}", code.unwrap_or("without an explanation"))),
        _ => chain(error),
    }
}

/// An error and its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    bounded(texts.join(": "))
}

fn bounded(text: String) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}
