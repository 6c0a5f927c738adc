//! Derived outputs in S3, published as a whole or not at all: the only module that writes to S3.
//!
//! A data file has a content-addressed name, so that writing it twice is harmless and no reader ever sees one
//! change. A [`Manifest`] names all files of a version. The pointer [`POINTER`] names the manifest and moves by
//! compare-and-swap, so that of two publishers at once one wins and the other starts again. Whole-file copies
//! under stable names carry the version they were made from and are replaced only by a newer one.
//!
//! One version's path through it: [`Store::current`] tells what is published and the ETag to swap against →
//! [`Store::put`] writes the files that are new → [`Store::publish`] writes the manifest and swaps the pointer
//! → [`Store::put_copy`] follows under the stable names → [`collect`] deletes what no recent manifest names.
//!
//! All of it rests on conditional writes; [`probe`] refuses a store that does not keep them.

mod collect;
mod manifest;
mod probe;
mod spool;
mod write;

use std::collections::BTreeMap;
use std::io::Write;

use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use sha2::{Digest, Sha256};

pub use aws_sdk_s3::Client;
pub use collect::{Collected, collect};
pub use manifest::{FORMATS, FileRef, Manifest, Pointer, WindowFiles};
pub use probe::probe;
pub use spool::{Readable, Spool, Spooled};

/// The key of the pointer to the newest manifest.
pub const POINTER: &str = "metrics/current.json";
/// Where data files live.
pub const DATA_PREFIX: &str = "metrics/data/";
/// Where manifests live.
pub const MANIFEST_PREFIX: &str = "metrics/manifests/";
/// The object metadata of a whole-file copy that says from which version it was made.
pub const VERSION_METADATA: &str = "freshet-version";
/// The pointer may move between reading it and reading its manifest; more often than this it does not.
const READ_ATTEMPTS: usize = 3;

/// What can go wrong with the outputs.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// S3 did not do what was asked, after the SDK's own retries.
    #[error("{action} s3://{bucket}/{key}: {message}")]
    Request {
        /// What was asked: "put", "read", …
        action: &'static str,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The SDK's error with its causes.
        message: String,
    },
    /// An object of freshet's own does not read as one.
    #[error("read s3://{bucket}/{key}: {message}")]
    Content {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A temporary file could not be written or read.
    #[error("spool an output through a temporary file: {0}")]
    Spool(#[from] std::io::Error),
    /// The store does not keep conditional writes.
    #[error(
        "the store of bucket {bucket} cannot publish safely: {reason}; use one that keeps If-Match and If-None-Match \
         under concurrency (AWS S3, SeaweedFS from 4.48 on)"
    )]
    Unfit {
        /// The bucket.
        bucket: String,
        /// Which write was not kept.
        reason: String,
    },
}

/// When a write may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if there is no object of that key (`If-None-Match: *`).
    Absent,
    /// Only if the object still has this ETag (`If-Match`).
    Unchanged(String),
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Written,
    /// Its condition did not hold: someone else was first.
    Refused,
}

/// What is published now.
#[derive(Debug, Clone)]
pub struct Current {
    /// The pointer's ETag, to swap against.
    pub etag: String,
    /// The pointer.
    pub pointer: Pointer,
    /// The manifest it names.
    pub manifest: Manifest,
}

/// A whole-file copy as HEAD shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Its ETag, to replace it by.
    pub etag: String,
    /// The version it was made from; 0 where freshet did not write it.
    pub version: u64,
}

/// The bucket that receives the outputs.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    bucket: String,
}

/// The manifest that is published now, `None` before the first one.
///
/// # Errors
/// If S3 does not answer or the pointer or manifest cannot be read.
pub async fn read_current(client: &Client, bucket: &str) -> Result<Option<Manifest>, OutputError> {
    Ok(Store::new(client.clone(), bucket).current().await?.map(|current| current.manifest))
}

/// The whole-file copies that are older than `manifest`: none once the reconciler has caught up.
///
/// # Errors
/// If S3 does not answer.
pub async fn copies_behind(client: &Client, bucket: &str, manifest: &Manifest) -> Result<Vec<String>, OutputError> {
    let store = Store::new(client.clone(), bucket);
    let mut behind = Vec::new();
    for (output, version) in &manifest.changed {
        for format in FORMATS {
            let key = copy_key(output, format);
            if store.head_copy(&key).await?.is_none_or(|copy| copy.version < *version) {
                behind.push(key);
            }
        }
    }
    Ok(behind)
}

/// The stable key of an output's whole-file copy.
pub fn copy_key(output: &str, format: &str) -> String {
    format!("metrics/{output}.{format}")
}

impl Store {
    /// The outputs in that bucket.
    pub fn new(client: Client, bucket: &str) -> Self {
        Store { client, bucket: bucket.to_owned() }
    }

    /// What is published now; `None` before the first publication.
    ///
    /// # Errors
    /// If S3 does not answer or the pointer or manifest cannot be read.
    pub async fn current(&self) -> Result<Option<Current>, OutputError> {
        self.current_unless(None).await
    }

    /// Like [`Store::current`], but takes over a manifest read before instead of reading it again: a manifest
    /// never changes under its name.
    ///
    /// # Errors
    /// If S3 does not answer or the pointer or manifest cannot be read.
    pub async fn current_unless(&self, known: Option<&Current>) -> Result<Option<Current>, OutputError> {
        for _ in 0..READ_ATTEMPTS {
            let Some((etag, bytes)) = self.get(POINTER).await? else { return Ok(None) };
            let pointer: Pointer = self.parse(POINTER, &bytes)?;
            if let Some(known) = known.filter(|known| known.pointer == pointer) {
                return Ok(Some(Current { etag, ..known.clone() }));
            }
            if let Some(manifest) = self.manifest(&pointer.manifest).await? {
                return Ok(Some(Current { etag, pointer, manifest }));
            }
        }
        Err(self.content(POINTER, "the manifest that it names is missing".into()))
    }

    /// The manifest of that key.
    async fn manifest(&self, key: &str) -> Result<Option<Manifest>, OutputError> {
        match self.get(key).await? {
            Some((_, bytes)) => self.parse(key, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Writes the manifest and moves the pointer from `previous` to it.
    ///
    /// [`Put::Refused`]: another publisher was first; start again from [`Store::current`]. A lost answer is
    /// resolved by reading the pointer: whatever the answers said, what it names is what is published.
    ///
    /// # Errors
    /// If S3 does not answer. The swap may then still happen; starting again is safe.
    pub async fn publish(&self, previous: Option<&Current>, manifest: &Manifest) -> Result<Put, OutputError> {
        let bytes = self.render(manifest)?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let key = format!("{MANIFEST_PREFIX}{:012}-{sha256}.json", manifest.version);
        // Refused: these very bytes are there already, from a try whose answer was lost or a publisher that saw
        // the same.
        self.put(&key, &Spooled::from(bytes), JSON, Condition::Absent).await?;
        let pointer = Pointer { version: manifest.version, manifest: key, sha256 };
        let condition = previous.map_or(Condition::Absent, |current| Condition::Unchanged(current.etag.clone()));
        let swapped = self.put(POINTER, &Spooled::from(self.render(&pointer)?), JSON, condition).await;
        if matches!(swapped, Ok(Put::Written)) {
            return Ok(Put::Written);
        }
        // Refused may mean that the SDK's first try had worked and its second found it done.
        let Some((_, bytes)) = self.get(POINTER).await? else { return swapped };
        match self.parse::<Pointer>(POINTER, &bytes)? == pointer {
            true => Ok(Put::Written),
            false => swapped,
        }
    }

    /// Writes an object.
    ///
    /// # Errors
    /// If S3 does not answer or refuses for another reason than the condition.
    pub async fn put(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        condition: Condition,
    ) -> Result<Put, OutputError> {
        self.put_with(key, body, content_type, condition, &BTreeMap::new()).await
    }

    /// The copy under a stable key, `None` where there is none.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn head_copy(&self, key: &str) -> Result<Option<Copy>, OutputError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => {
                let version = head.metadata().and_then(|metadata| metadata.get(VERSION_METADATA));
                let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
                Ok(Some(Copy { etag: head.e_tag().unwrap_or_default().to_owned(), version }))
            }
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.failed("head", key, &error)),
        }
    }

    /// Replaces the copy that [`Store::head_copy`] showed, which the caller found older, by one of `version`.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn put_copy(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        seen: Option<Copy>,
        version: u64,
    ) -> Result<Put, OutputError> {
        let condition = seen.map_or(Condition::Absent, |copy| Condition::Unchanged(copy.etag));
        let metadata = BTreeMap::from([(VERSION_METADATA.to_owned(), version.to_string())]);
        self.put_with(key, body, content_type, condition, &metadata).await
    }

    /// Reads a data file whole, through a temporary file if it is large, and checks it against its hash.
    ///
    /// # Errors
    /// If S3 does not answer, the temporary file cannot be written, or the bytes are not those of the manifest.
    pub async fn fetch(&self, file: &FileRef) -> Result<Spooled, OutputError> {
        let key = &file.key;
        let answer = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let mut body = answer.map_err(|error| self.failed("read", key, &error))?.body;
        let mut spool = Spool::new();
        while let Some(chunk) = body.next().await {
            spool.write_all(&chunk.map_err(|error| self.content(key, error.to_string()))?)?;
        }
        let spooled = spool.finish()?;
        match spooled.sha256() == file.sha256 {
            true => Ok(spooled),
            false => Err(self.content(key, format!("its SHA-256 is {}, not {}", spooled.sha256(), file.sha256))),
        }
    }

    /// The ETag and the bytes of a small object, `None` where there is none.
    async fn get(&self, key: &str) -> Result<Option<(String, Vec<u8>)>, OutputError> {
        match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(answer) => {
                let etag = answer.e_tag().unwrap_or_default().to_owned();
                let bytes = answer.body.collect().await.map_err(|error| self.content(key, error.to_string()))?;
                Ok(Some((etag, bytes.to_vec())))
            }
            Err(error) if status(&error) == Some(404) && !is_no_bucket(&error) => Ok(None),
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    fn render(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, OutputError> {
        let mut bytes = serde_json::to_vec(value).map_err(|error| self.content(POINTER, error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, OutputError> {
        serde_json::from_slice(bytes).map_err(|error| self.content(key, error.to_string()))
    }

    fn content(&self, key: &str, message: String) -> OutputError {
        OutputError::Content { bucket: self.bucket.clone(), key: key.to_owned(), message }
    }

    fn failed<E>(&self, action: &'static str, key: &str, error: &SdkError<E>) -> OutputError
    where
        E: std::error::Error + 'static,
    {
        let message = DisplayErrorContext(error).to_string();
        OutputError::Request { action, bucket: self.bucket.clone(), key: key.to_owned(), message }
    }
}

const JSON: &str = "application/json";

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// A missing bucket is not a missing object: it must not read as "nothing is published yet".
fn is_no_bucket<E>(error: &SdkError<E>) -> bool
where
    E: aws_sdk_s3::error::ProvideErrorMetadata,
{
    error.as_service_error().and_then(|error| error.code()) == Some("NoSuchBucket")
}
