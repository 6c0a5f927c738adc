//! Lists the versions of a bucket's objects, including overwritten ones.

use std::borrow::Cow;

use aws_sdk_s3::types::EncodingType;

use super::error::{classified, detail, is_not_implemented, transient};
use super::{ObjectReader, ObjectVersion, PAGE_KEYS_MAX, ReadError, key_of, to_second};

/// The most pages of the versions of one key, a thousand each: beyond that, a key is not read to its end.
const KEY_PAGES_MAX: usize = 20;

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The version.
    pub version: ObjectVersion,
    /// Whether it is the current version of its key.
    pub is_latest: bool,
}

impl From<ObjectVersion> for Listed {
    fn from(version: ObjectVersion) -> Self {
        Listed { version, is_latest: true }
    }
}

/// A listing of versions under way. Only the current page is in memory.
#[derive(Debug)]
pub struct VersionPages<'a> {
    reader: &'a ObjectReader,
    bucket: &'a str,
    prefix: Cow<'a, str>,
    next: Option<Markers>,
}

/// Where a page begins: after this version of this key.
#[derive(Debug, Clone, Default, PartialEq)]
struct Markers {
    key: Option<String>,
    version_id: Option<String>,
}

impl ObjectReader {
    /// Whether the bucket keeps versions, or has kept them. A store that does not implement the question keeps none. One
    /// request.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`].
    pub async fn keeps_versions(&self, bucket: &str) -> Result<bool, ReadError> {
        match self.client.get_bucket_versioning().bucket(bucket).send().await {
            Ok(answer) => Ok(answer.status().is_some()),
            Err(error) if is_not_implemented(&error) => Ok(false),
            Err(error) => Err(classified("look at the versioning of", format!("s3://{bucket}"), &error)),
        }
    }

    /// The listing of all versions of all keys that begin with `prefix`, page by page: the newest version of each key
    /// first, otherwise in unspecified order.
    pub fn list_versions<'a>(&'a self, bucket: &'a str, prefix: impl Into<Cow<'a, str>>) -> VersionPages<'a> {
        VersionPages { reader: self, bucket, prefix: prefix.into(), next: Some(Markers::default()) }
    }

    /// The versions of a key, the oldest first and the current one last; none if the key has no current one. One
    /// request for each thousand.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`].
    pub async fn versions_of(&self, bucket: &str, key: &str) -> Result<Vec<ObjectVersion>, ReadError> {
        let mut pages = self.list_versions(bucket, key);
        let mut versions: Vec<Listed> = Vec::new();
        for _ in 0..KEY_PAGES_MAX {
            let Some(page) = pages.next().await? else { break };
            // Keys that begin with this key and are longer come after it.
            let is_over = page.iter().any(|entry| entry.version.key != key);
            versions.extend(page.into_iter().filter(|entry| entry.version.key == key));
            if is_over {
                break;
            }
        }
        // Below a delete marker there is nothing, whatever was there before.
        match versions.first() {
            Some(newest) if newest.is_latest => Ok(versions.into_iter().rev().map(|entry| entry.version).collect()),
            _ => Ok(Vec::new()),
        }
    }
}

impl VersionPages<'_> {
    /// The next page, of at most 1000 versions and possibly none; `None` after the last. One request. Delete markers
    /// are left out: below one, no version is the latest.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`]. The same page may be requested again.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, ReadError> {
        let Some(markers) = self.next.clone() else { return Ok(None) };
        let at = || format!("s3://{}/{}", self.bucket, self.prefix);
        let prefix = (!self.prefix.is_empty()).then(|| self.prefix.clone().into_owned());
        let request = self.reader.client.list_object_versions().bucket(self.bucket).set_prefix(prefix);
        let request = request.max_keys(PAGE_KEYS_MAX).encoding_type(EncodingType::Url);
        let request = request.set_key_marker(markers.key.clone()).set_version_id_marker(markers.version_id.clone());
        let answer = request.send().await.map_err(|error| match classified("list the versions of", at(), &error) {
            ReadError::Gone { object } => transient("list the versions of", object, detail(&error)),
            error => error,
        })?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let plain = |key: &str| match is_encoded {
            true => super::url_decoded(key),
            false => Some(key.to_owned()),
        };
        let next = match (answer.is_truncated(), answer.next_key_marker().and_then(plain)) {
            (Some(true), Some(key)) => {
                Some(Markers { key: Some(key), version_id: answer.next_version_id_marker().map(str::to_owned) })
            }
            (Some(true), None) => {
                return Err(transient(
                    "list the versions of",
                    at(),
                    "it is incomplete and has no continuation marker".into(),
                ));
            }
            _ => None,
        };
        if next.as_ref() == Some(&markers) {
            return Err(transient("list the versions of", at(), "the listing repeats its continuation token".into()));
        }
        let listed = |entry: &aws_sdk_s3::types::ObjectVersion| {
            Some(Listed {
                version: ObjectVersion {
                    bucket: self.bucket.to_owned(),
                    key: key_of(self.reader, self.bucket, entry.key()?, is_encoded)?,
                    // `null` is not an identity, as in an answer to HEAD.
                    version_id: entry.version_id().filter(|id| *id != "null").map(str::to_owned),
                    etag: entry.e_tag()?.to_owned(),
                    size_bytes: entry.size()?,
                    last_modified: to_second(entry.last_modified()?)?,
                },
                is_latest: entry.is_latest()?,
            })
        };
        let page = answer.versions().iter().filter_map(listed).collect();
        self.next = next;
        Ok(Some(page))
    }
}
