//! The cause of a failed read, which decides what happens to the object.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use freshet_topics::causes::in_one_line;

use super::inflate::{ContentError, Unreadable};

/// Characters of an error's text.
const DETAIL_CHARS_MAX: usize = 500;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The version is gone: overwritten or deleted. Only S3's own error codes prove that.
    #[error("read {object}: this version is no longer there")]
    Gone {
        /// Bucket, key and version.
        object: String,
    },
    /// The file is invalid, and will be at the next attempt.
    #[error("{reason}")]
    Rejected {
        /// Bucket, key and version.
        object: String,
        /// The reason, for the sender of the file.
        reason: Unreadable,
    },
    /// Access is denied; a later attempt may be allowed.
    #[error("{action} {object}: access denied ({detail}); check the keys and the bucket's policy")]
    Denied {
        /// The attempted action.
        action: &'static str,
        /// Bucket, key and version.
        object: String,
        /// The server's message.
        detail: String,
    },
    /// The store or the way to it failed; try again later.
    #[error("{action} {object}: {detail}")]
    Transient {
        /// The attempted action.
        action: &'static str,
        /// Bucket, key and version.
        object: String,
        /// The message of the server or the client.
        detail: String,
    },
}

pub(super) fn content_error(object: &str, error: ContentError) -> ReadError {
    match error {
        ContentError::Unreadable(reason) => ReadError::Rejected { object: object.to_owned(), reason },
        ContentError::Source(error) => transient("read", object.to_owned(), chain(&error)),
    }
}

pub(super) fn transient(action: &'static str, object: String, detail: String) -> ReadError {
    ReadError::Transient { action, object, detail }
}

/// The kinds of faults that [`fault`] distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The version is gone.
    Gone,
    /// Access is denied.
    Denied,
    /// The object is in an archive, from which it has to be restored first.
    Archived,
    /// Worth another attempt.
    Transient,
}

/// An answer that is not a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusal<'a> {
    /// HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// S3's error code, from the body.
    pub code: Option<&'a str>,
    /// Whether the header `x-amz-delete-marker` says that the version is one.
    pub is_delete_marker: bool,
}

/// The kind of fault that an answer shows.
///
/// Only S3's own codes prove that a version is gone. A proxy, an ingress or a failing region may also answer 404, 405
/// or 412 for any object, which proves nothing.
///
/// | status | code | fault |
/// |---|---|---|
/// | any | `NoSuchKey`, `NoSuchVersion`, `PreconditionFailed` | the version is gone |
/// | 405 | `MethodNotAllowed`, of a delete marker | the version is gone |
/// | 403 | `InvalidObjectState` | archived |
/// | 403 | `RequestTimeTooSkewed` | a clock is wrong: transient |
/// | 401, 403; any with `ExpiredToken`, `InvalidToken` | | denied |
/// | anything else (`NoSuchBucket`: a setting is wrong), or no answer at all | | transient: worth another attempt |
pub fn fault(refusal: Refusal<'_>) -> Fault {
    match (refusal.status, refusal.code) {
        (_, Some("NoSuchKey" | "NoSuchVersion" | "PreconditionFailed")) => Fault::Gone,
        (_, Some("MethodNotAllowed")) if refusal.is_delete_marker => Fault::Gone,
        (_, Some("InvalidObjectState")) => Fault::Archived,
        (_, Some("RequestTimeTooSkewed")) => Fault::Transient,
        (Some(401 | 403), _) | (_, Some("ExpiredToken" | "InvalidToken")) => Fault::Denied,
        _ => Fault::Transient,
    }
}

/// Whether the store says that it does not know the request at all. Another attempt gets the same answer.
pub(super) fn is_not_implemented<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code() == Some("NotImplemented") || error.raw_response().is_some_and(|answer| answer.status().as_u16() == 501)
}

pub(super) fn classified<E>(action: &'static str, object: String, error: &SdkError<E, HttpResponse>) -> ReadError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let response = error.raw_response();
    let refusal = Refusal {
        status: response.map(|response| response.status().as_u16()),
        code: error.code(),
        is_delete_marker: response
            .and_then(|response| response.headers().get("x-amz-delete-marker"))
            .is_some_and(|value| value == "true"),
    };
    match fault(refusal) {
        Fault::Gone => ReadError::Gone { object },
        Fault::Archived => ReadError::Rejected { object, reason: Unreadable::Archived },
        Fault::Denied => ReadError::Denied { action, object, detail: detail(error) },
        Fault::Transient => ReadError::Transient { action, object, detail: detail(error) },
    }
}

/// The server's message, or else the client's.
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
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    bounded(in_one_line(error))
}

fn bounded(text: String) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}
