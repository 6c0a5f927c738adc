//! Errors of the outputs, and the interpretation of S3's answers.

use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use freshet_topics::causes::in_one_line;

/// Characters of an error of S3 or the client: enough for a line of a log.
const DETAIL_CHARS_MAX: usize = 500;

/// What can go wrong with the outputs.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A request to S3 failed, after the SDK's own retries.
    #[error("{action} s3://{bucket}/{key}: {message}")]
    Request {
        /// The request: "put", "read", …
        action: &'static str,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// Status, code and message of the answer, or why there was none.
        message: String,
    },
    /// An object written by freshet cannot be parsed.
    #[error("read s3://{bucket}/{key}: {message}")]
    Content {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A data file that a manifest names does not exist: deleted by hand, by a lifecycle rule, or by the garbage
    /// collection.
    #[error("read s3://{bucket}/{key}: a manifest names this file, but it does not exist")]
    Missing {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// A data file that a manifest names has other bytes: overwritten by hand, or damaged in the store.
    #[error("read s3://{bucket}/{key}: {message}")]
    Damaged {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// How it differs.
        message: String,
    },
    /// The published version can no longer be found; a publisher derives everything again.
    #[error("read s3://{bucket}/{key}: {message}; a running `freshet metrics` derives all outputs again")]
    Lost {
        /// The bucket.
        bucket: String,
        /// The pointer.
        key: String,
        /// What is gone.
        message: String,
    },
    /// The temporary file that a data file is read through could not be written.
    #[error("read s3://{bucket}/{key} through a temporary file: {source}")]
    Spool {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The error of the file system, such as a full disk.
        source: io::Error,
    },
    /// The store does not honour conditional writes.
    #[error(
        "the store of bucket {bucket} cannot publish safely: {reason}; use one that keeps If-Match and If-None-Match \
         under concurrency (AWS S3, SeaweedFS from 4.48 on)"
    )]
    Unfit {
        /// The bucket.
        bucket: String,
        /// Which condition was not enforced.
        reason: String,
    },
}

/// Whether an answer says that there is no such object.
///
/// | status | code | verdict |
/// |---|---|---|
/// | 404 | `NoSuchKey` | it is gone |
/// | 404 | `NoSuchBucket` | a setting is wrong: an error |
/// | 404 | none, or any other: a proxy, an ingress | an error |
/// | any other | any | an error |
pub(super) fn says_absent(status: Option<u16>, code: Option<&str>) -> bool {
    status == Some(404) && code == Some("NoSuchKey")
}

/// Whether an answer to a conditional write says that its condition did not hold.
///
/// | status | code | asked with | verdict |
/// |---|---|---|---|
/// | 412 | `PreconditionFailed` | either condition | someone else was first |
/// | 409 | `ConditionalRequestConflict`, `OperationAborted` | either condition | another write of the key is under way |
/// | 404 | `NoSuchKey` | `If-Match` | the object is gone |
/// | 404 | `NoSuchKey` | `If-None-Match` | an error: S3 does not say that |
/// | 404, 409, 412 | none, or any other | any | an error |
pub(super) fn says_refused(status: Option<u16>, code: Option<&str>, if_match: bool) -> bool {
    match (status, code) {
        (Some(412), Some("PreconditionFailed")) => true,
        (Some(409), Some("ConditionalRequestConflict" | "OperationAborted")) => true,
        _ => if_match && says_absent(status, code),
    }
}

pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The server's message in one line, or else the client's.
pub(super) fn detail<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match (status(error), error.code(), error.message()) {
        (Some(status), Some(code), Some(message)) => one_line(&format!("{status} {code}: {message}")),
        (Some(status), Some(code), None) => one_line(&format!("{status} {code}")),
        (Some(status), None, _) => format!("{status} without an S3 error code: not S3's own answer"),
        (None, ..) => one_line(&in_one_line(error)),
    }
}

/// Bounded, without line breaks.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s3s_own_codes_say_that_an_object_is_gone_or_a_condition_did_not_hold() {
        // Status, code, gone, refused with If-None-Match, refused with If-Match.
        type Case = (Option<u16>, Option<&'static str>, bool, bool, bool);
        let cases: &[Case] = &[
            (Some(404), Some("NoSuchKey"), true, false, true),
            (Some(404), Some("NoSuchBucket"), false, false, false),
            (Some(404), Some("NotFound"), false, false, false),
            (Some(404), None, false, false, false),
            (Some(200), Some("NoSuchKey"), false, false, false),
            (Some(412), Some("PreconditionFailed"), false, true, true),
            (Some(412), None, false, false, false),
            (Some(409), Some("ConditionalRequestConflict"), false, true, true),
            (Some(409), Some("OperationAborted"), false, true, true),
            (Some(409), Some("BucketAlreadyExists"), false, false, false),
            (Some(409), None, false, false, false),
            (Some(403), Some("AccessDenied"), false, false, false),
            (Some(503), Some("SlowDown"), false, false, false),
            (None, None, false, false, false),
        ];
        for (status, code, gone, refused_new, refused_swap) in cases {
            let found =
                (says_absent(*status, *code), says_refused(*status, *code, false), says_refused(*status, *code, true));
            assert_eq!(found, (*gone, *refused_new, *refused_swap), "{status:?} {code:?}");
        }
    }

    #[test]
    fn a_full_disk_names_the_file_that_was_read() {
        let (bucket, key, source) = ("processed".to_owned(), "metrics/x.csv".to_owned(), io::Error::other("full"));
        let said = OutputError::Spool { bucket, key, source }.to_string();
        assert_eq!(said, "read s3://processed/metrics/x.csv through a temporary file: full");
    }

    #[test]
    fn a_page_of_text_becomes_a_line() {
        assert_eq!(one_line("a\n  b\tc"), "a b c");
        assert_eq!(one_line(&"é".repeat(9_000)).chars().count(), DETAIL_CHARS_MAX);
    }
}
