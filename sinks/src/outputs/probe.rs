//! Does the store honour concurrent conditional writes? Publishing depends on it, so this is tested before the first
//! publication.

use aws_sdk_s3::Client;
use futures::future::join_all;
use uuid::Uuid;

use super::{Condition, OutputError, Put, Spooled, Store};

/// How many writers write the probe's key at once. In SeaweedFS, each writer that has to wait waits a second.
const WRITERS: usize = 4;
/// An attempt in which no writer succeeds proves nothing: the SDK may have repeated the winner's request.
const ATTEMPTS: usize = 3;

/// The result of a round of concurrent writes.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    Kept,
    NoneWon,
    Broken(String),
}

/// The prefix of the probes while they run.
pub const PROBES: &str = "metrics/probe/";

/// Refuses a store whose conditional writes cannot be relied on.
///
/// | tried | must be |
/// |---|---|
/// | 4 × `If-None-Match: *` at once on a new key | one written, and it is what is read |
/// | 4 × `If-Match` of that ETag at once | one written, and it is what is read |
/// | `If-Match` of the first ETag again | refused |
/// | a multipart upload completed with `If-None-Match: *`, and with the first ETag, on that key | refused |
///
/// # Errors
/// [`OutputError::Unfit`] if a conditional write is not honoured; [`OutputError::Request`] if S3 does not answer.
pub async fn probe(client: &Client, bucket: &str) -> Result<(), OutputError> {
    let store = Store::new(client.clone(), bucket);
    for _ in 0..ATTEMPTS {
        let key = format!("{PROBES}{}", Uuid::new_v4());
        let round = rounds(&store, &key).await;
        let deleted = store.client.delete_object().bucket(bucket).key(&key).send().await;
        match round? {
            Round::Kept => {
                deleted.map_err(|error| store.failed("delete", &key, &error))?;
                return Ok(());
            }
            Round::NoneWon => {}
            Round::Broken(reason) => return Err(OutputError::Unfit { bucket: bucket.to_owned(), reason }),
        }
    }
    let reason = format!("none of {WRITERS} concurrent conditional writes succeeded, in {ATTEMPTS} attempts");
    Err(OutputError::Unfit { bucket: bucket.to_owned(), reason })
}

async fn rounds(store: &Store, key: &str) -> Result<Round, OutputError> {
    match round(store, key, "If-None-Match: *", &Condition::Absent).await? {
        Round::Kept => {}
        other => return Ok(other),
    }
    let Some(first) = store.get(key).await?.map(|found| found.etag) else { return Ok(Round::NoneWon) };
    match round(store, key, "If-Match", &Condition::Unchanged(first.clone())).await? {
        Round::Kept => {}
        other => return Ok(other),
    }
    let body = Spooled::from(b"stale".to_vec());
    if store.put(key, &body, "text/plain", Condition::Unchanged(first.clone())).await? == Put::Written {
        return Ok(Round::Broken("it overwrote an object whose ETag was not the one in If-Match".into()));
    }
    let created = store.client.create_multipart_upload().bucket(&store.bucket).key(key).send().await;
    let created = created.map_err(|error| store.failed("start upload of", key, &error))?;
    let upload = created.upload_id().unwrap_or_default();
    for (what, condition) in
        [("If-None-Match: *", Condition::Absent), ("a stale If-Match", Condition::Unchanged(first))]
    {
        if store.finish_parts(key, &body, &condition, upload).await? == Put::Written {
            return Ok(Round::Broken(format!("it completed a multipart upload over an object despite {what}")));
        }
    }
    let abort = store.client.abort_multipart_upload().bucket(&store.bucket).key(key).upload_id(upload);
    abort.send().await.map_err(|error| store.failed("abort upload of", key, &error))?;
    Ok(Round::Kept)
}

/// [`WRITERS`] concurrent writes, of which exactly one must succeed.
async fn round(store: &Store, key: &str, what: &str, condition: &Condition) -> Result<Round, OutputError> {
    let bodies: Vec<Spooled> =
        (0..WRITERS).map(|writer| Spooled::from(format!("{what} {writer}").into_bytes())).collect();
    let writes = bodies.iter().map(|body| store.put(key, body, "text/plain", condition.clone()));
    let mut winners = Vec::new();
    for (writer, put) in join_all(writes).await.into_iter().enumerate() {
        if put? == Put::Written {
            winners.push(format!("{what} {writer}"));
        }
    }
    match winners.as_slice() {
        [] => Ok(Round::NoneWon),
        [winner] => match store.get(key).await? {
            Some(found) if found.bytes == winner.as_bytes() => Ok(Round::Kept),
            _ => Ok(Round::Broken(format!(
                "after {WRITERS} concurrent writes with {what} it holds the bytes of a refused write"
            ))),
        },
        several => Ok(Round::Broken(format!("{} of {WRITERS} concurrent writes with {what} succeeded", several.len()))),
    }
}
