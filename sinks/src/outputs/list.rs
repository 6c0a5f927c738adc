//! Listings, page by page, so that the caller decides what to keep.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{OutputError, Store};

/// The most objects that one DELETE request may name.
pub(super) const DELETE_BATCH: usize = 1_000;

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    /// Unix seconds of S3's clock; the largest number if S3 does not say.
    pub(super) modified: i64,
    /// Its length; `None` if S3 does not say.
    pub(super) bytes: Option<u64>,
}

/// Whether a listing was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// Every object was seen.
    Complete,
    /// There are more pages than the limit.
    Cut,
}

impl Store {
    /// Passes every object under a prefix to `see`, up to this many pages of a thousand.
    pub(super) async fn each_listed(
        &self,
        prefix: &str,
        pages_max: usize,
        see: impl FnMut(Listed),
    ) -> Result<Listing, OutputError> {
        self.each_listed_with(prefix, None, pages_max, see).await
    }

    /// The same; with a delimiter, only objects whose names do not contain it after the prefix.
    pub(super) async fn each_listed_with(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        pages_max: usize,
        mut see: impl FnMut(Listed),
    ) -> Result<Listing, OutputError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = request.set_delimiter(delimiter.map(str::to_owned)).into_paginator().send();
        for _ in 0..pages_max {
            let Some(page) = pages.next().await else { return Ok(Listing::Complete) };
            let page = page.map_err(|error| self.failed("list", prefix, &error))?;
            if page.name().is_none() {
                // An empty 200 answer of a proxy must not look like an empty bucket.
                return Err(self.request("list", prefix, "the answer names no bucket: not S3's own".into()));
            }
            for object in page.contents() {
                let modified = object.last_modified().map_or(i64::MAX, DateTime::secs);
                let bytes = object.size().and_then(|bytes| u64::try_from(bytes).ok());
                if let Some(key) = object.key() {
                    see(Listed { key: key.to_owned(), modified, bytes });
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(Listing::Complete);
            }
        }
        Ok(Listing::Cut)
    }

    /// Deletes up to [`DELETE_BATCH`] objects; an object that does not exist counts as deleted.
    pub(super) async fn delete(&self, keys: &[String]) -> Result<(), OutputError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let failed = |message: String| self.request("delete", first, message);
        let objects: Result<Vec<_>, _> = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build()).collect();
        let objects = objects.map_err(|error| failed(error.to_string()))?;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
        let delete = delete.map_err(|error| failed(error.to_string()))?;
        let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        let answer = answer.map_err(|error| self.failed("delete", first, &error))?;
        match answer.errors().first() {
            None => Ok(()),
            Some(error) => {
                let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                Err(self.request("delete", error.key().unwrap_or(first), format!("{code}: {message}")))
            }
        }
    }
}
