//! The bucket that receives the outputs: reading and writing single objects.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use tokio::task::spawn_blocking;

use super::error::{detail, one_line, says_absent, status};
use super::key::POINTER;
use super::{FileCache, FileRef, OutputError, Spool, Spooled};
use crate::metrics;

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

/// The result of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Written,
    /// Its condition did not hold: someone else was first.
    Refused,
}

/// The bucket that receives the outputs.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) client: Client,
    pub(super) bucket: String,
    cache: Option<FileCache>,
    /// Data files that had other bytes than their manifest says when they were last read or written. Clones share them.
    damaged: Arc<Mutex<BTreeSet<String>>>,
}

/// A small object.
pub(super) struct Small {
    pub(super) etag: String,
    pub(super) bytes: Vec<u8>,
    /// Unix seconds of S3's clock.
    pub(super) modified: i64,
}

impl Store {
    /// The outputs in this bucket.
    pub fn new(client: Client, bucket: &str) -> Self {
        Store { client, bucket: bucket.to_owned(), cache: None, damaged: Arc::default() }
    }

    /// The same, with data files kept on this machine's disk.
    pub fn with_cache(self, cache: Option<FileCache>) -> Self {
        Store { cache, ..self }
    }

    /// The data files kept on this machine's disk.
    pub fn cache(&self) -> Option<&FileCache> {
        self.cache.as_ref()
    }

    /// Writes an object.
    ///
    /// # Errors
    /// If S3 does not answer or refuses for a reason other than the condition.
    pub async fn put(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        condition: Condition,
    ) -> Result<Put, OutputError> {
        self.put_with(key, body, content_type, condition, &BTreeMap::new()).await
    }

    /// Writes a data file, and keeps it on this machine's disk.
    ///
    /// # Errors
    /// If S3 does not answer or refuses.
    pub async fn put_file(&self, file: &FileRef, body: Spooled, content_type: &str) -> Result<(), OutputError> {
        self.put(&file.key, &body, content_type, Condition::Always).await?;
        self.damaged().remove(&file.key);
        // It is in S3: a file that is not kept is read from there.
        self.keep(body).await.map(drop).or(Ok(()))
    }

    /// A whole data file, from this machine's disk or else from S3.
    ///
    /// # Errors
    /// Those of [`Store::fetch`].
    pub async fn kept_or_fetched(&self, file: &FileRef) -> Result<Spooled, OutputError> {
        let kept = match self.cache.clone() {
            Some(cache) => {
                let of = file.clone();
                // After a panic, the file counts as not kept.
                spawn_blocking(move || cache.read(&of)).await.ok().flatten()
            }
            None => None,
        };
        metrics::read_file(kept.is_some());
        if let Some(body) = kept {
            return Ok(body);
        }
        let fetched = self.fetch(file).await?;
        self.keep(fetched).await.map_err(|error| self.content(&file.key, error.to_string()))
    }

    /// Keeps a data file on this machine's disk, if there is a cache, and returns it.
    async fn keep(&self, body: Spooled) -> io::Result<Spooled> {
        match self.cache.clone() {
            Some(cache) => spawn_blocking(move || cache.keep(body)).await.map_err(io::Error::other),
            None => Ok(body),
        }
    }

    /// Reads a whole data file, through a temporary file if it is large, and compares its hash.
    ///
    /// # Errors
    /// [`OutputError::Missing`] if it does not exist; [`OutputError::Damaged`] if its bytes are not those of the
    /// manifest, which the next verification reports too; others if S3 does not answer or the temporary file cannot be
    /// written.
    pub async fn fetch(&self, file: &FileRef) -> Result<Spooled, OutputError> {
        let key = &file.key;
        let answer = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let mut body = match answer {
            Ok(answer) => answer.body,
            Err(error) if says_absent(status(&error), error.code()) => {
                return Err(OutputError::Missing { bucket: self.bucket.clone(), key: key.clone() });
            }
            Err(error) => return Err(self.failed("read", key, &error)),
        };
        let failed = |source| OutputError::Spool { bucket: self.bucket.clone(), key: key.clone(), source };
        let mut spool = Spool::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| self.content(key, error.to_string()))?;
            spool.write_all(&chunk).map_err(failed)?;
        }
        let spooled = spool.finish().map_err(failed)?;
        if spooled.sha256() == file.sha256 {
            self.damaged().remove(key);
            return Ok(spooled);
        }
        self.damaged().insert(key.clone());
        let message = format!("its SHA-256 is {}, not {}", spooled.sha256(), file.sha256);
        Err(OutputError::Damaged { bucket: self.bucket.clone(), key: key.clone(), message })
    }

    /// Data files known to have other bytes than their manifest says.
    pub(super) fn damaged(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A small object, `None` if S3 says that there is none.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Small>, OutputError> {
        match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(answer) => {
                let etag = answer.e_tag().unwrap_or_default().to_owned();
                let modified = answer.last_modified().map_or(i64::MAX, DateTime::secs);
                let bytes = answer.body.collect().await.map_err(|error| self.content(key, error.to_string()))?;
                Ok(Some(Small { etag, bytes: bytes.to_vec(), modified }))
            }
            Err(error) if says_absent(status(&error), error.code()) => Ok(None),
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    /// The headers of an object, `None` if S3 says that there is none.
    ///
    /// An answer to HEAD has no body and so no error code: its 404 may be S3's or a proxy's. GET distinguishes them.
    pub(super) async fn head(&self, key: &str) -> Result<Option<HeadObjectOutput>, OutputError> {
        let ask = || self.client.head_object().bucket(&self.bucket).key(key).send();
        let error = match ask().await {
            Ok(head) => return Ok(Some(head)),
            Err(error) => error,
        };
        if status(&error) != Some(404) {
            return Err(self.failed("head", key, &error));
        }
        let first_byte = self.client.get_object().bucket(&self.bucket).key(key).range("bytes=0-0");
        match first_byte.send().await {
            Err(error) if says_absent(status(&error), error.code()) => Ok(None),
            Err(error) => Err(self.failed("read", key, &error)),
            // It was written in between, or the 404 was not S3's: another HEAD tells.
            Ok(_) => match ask().await {
                Ok(head) => Ok(Some(head)),
                Err(error) if status(&error) == Some(404) => {
                    Err(self.request("head", key, "HEAD does not find it, but GET does".into()))
                }
                Err(error) => Err(self.failed("head", key, &error)),
            },
        }
    }

    pub(super) fn render(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, OutputError> {
        let mut bytes = serde_json::to_vec(value).map_err(|error| self.content(POINTER, error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, OutputError> {
        serde_json::from_slice(bytes).map_err(|error| self.content(key, error.to_string()))
    }

    pub(super) fn content(&self, key: &str, message: String) -> OutputError {
        OutputError::Content { bucket: self.bucket.clone(), key: key.to_owned(), message: one_line(&message) }
    }

    pub(super) fn failed<E>(&self, action: &'static str, key: &str, error: &SdkError<E, HttpResponse>) -> OutputError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.request(action, key, detail(error))
    }

    pub(super) fn request(&self, action: &'static str, key: &str, message: String) -> OutputError {
        OutputError::Request { action, bucket: self.bucket.clone(), key: key.to_owned(), message }
    }
}
