//! Garbage: data files and manifests that nobody can want any more.
//!
//! A file is kept while a manifest of the last `keep` names it, so that a reader that has read a manifest can
//! take its time. Most files go unread here, by this argument: a publisher writes a file anew unless the
//! manifest before its own names it. So a file that is old and that a manifest of the last days names was named
//! by every published manifest in between, the oldest of those days included, and it is enough to read that one
//! and its neighbours. [`SLACK_SHARE`] covers the time that a publication takes.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use chrono::Utc;

use super::{Client, DATA_PREFIX, MANIFEST_PREFIX, OutputError, Store};

/// A publication takes less than this share of the time that things are kept, from its first file to its swap.
const SLACK_SHARE: u32 = 7;
/// What one DELETE request may name.
const DELETE_BATCH: usize = 1_000;
/// One collection deletes at most this many, so that publishers do not wait for it long; the next goes on.
const DELETE_MAX: usize = 20_000;

/// What a collection deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Data files.
    pub files: usize,
    /// Manifests.
    pub manifests: usize,
}

/// An object as a listing shows it.
struct Listed {
    key: String,
    modified: i64,
}

/// Deletes data files and manifests that no manifest of the last `keep` needs; never what is current.
///
/// The caller keeps publishers out meanwhile: one that writes a file under the name of an old one just now
/// would lose it.
///
/// # Errors
/// If S3 does not answer.
pub async fn collect(client: &Client, bucket: &str, keep: Duration) -> Result<Collected, OutputError> {
    let store = Store::new(client.clone(), bucket);
    let Some(current) = store.current().await? else { return Ok(Collected::default()) };
    let now = Utc::now().timestamp();
    let young_from = now - keep.as_secs() as i64;
    let files_until = young_from - (keep / SLACK_SHARE).as_secs() as i64;
    let manifests = store.list(MANIFEST_PREFIX).await?;
    let kept_from = oldest_needed(&manifests, young_from, current.pointer.version);
    let mut named: BTreeSet<String> = current.manifest.keys().map(str::to_owned).collect();
    let files = store.list(DATA_PREFIX).await?;
    let old_files: Vec<Listed> = files.into_iter().filter(|file| file.modified < files_until).collect();
    if !old_files.is_empty() {
        for manifest in &manifests {
            if (kept_from..=kept_from + 2).contains(&version_of(&manifest.key)) {
                let read = store.manifest(&manifest.key).await?;
                named.extend(read.iter().flat_map(|manifest| manifest.keys()).map(str::to_owned));
            }
        }
    }
    let old_manifests = manifests
        .into_iter()
        .filter(|manifest| version_of(&manifest.key) < kept_from && manifest.key != current.pointer.manifest);
    let files = old_files.into_iter().map(|file| file.key).filter(|key| !named.contains(key));
    Ok(Collected {
        files: store.delete(files.take(DELETE_MAX).collect()).await?,
        manifests: store.delete(old_manifests.map(|manifest| manifest.key).take(DELETE_MAX).collect()).await?,
    })
}

/// The oldest version whose manifest is kept: the one before the oldest young one, which was still current at
/// some time of the last days; or else the current one.
fn oldest_needed(manifests: &[Listed], young_from: i64, current: u64) -> u64 {
    let young = manifests.iter().filter(|manifest| manifest.modified >= young_from);
    match young.map(|manifest| version_of(&manifest.key)).min() {
        Some(oldest) if oldest <= current => oldest.saturating_sub(1),
        _ => current,
    }
}

/// The version in a manifest's key; a key that has none is never old.
fn version_of(key: &str) -> u64 {
    let name = key.strip_prefix(MANIFEST_PREFIX).unwrap_or(key);
    name.split('-').next().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

impl Store {
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, OutputError> {
        let mut listed = Vec::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("list", prefix, &error))?;
            for object in page.contents() {
                let modified = object.last_modified().map_or(i64::MAX, DateTime::secs);
                if let Some(key) = object.key() {
                    listed.push(Listed { key: key.to_owned(), modified });
                }
            }
        }
        Ok(listed)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<usize, OutputError> {
        for batch in keys.chunks(DELETE_BATCH) {
            let failed = |message: String| OutputError::Request {
                action: "delete",
                bucket: self.bucket.clone(),
                key: batch[0].clone(),
                message,
            };
            let objects: Result<Vec<_>, _> =
                batch.iter().map(|key| ObjectIdentifier::builder().key(key).build()).collect();
            let objects = objects.map_err(|error| failed(error.to_string()))?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
            let delete = delete.map_err(|error| failed(error.to_string()))?;
            let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            let answer = answer.map_err(|error| self.failed("delete", &batch[0], &error))?;
            if let Some(error) = answer.errors().first() {
                return Err(failed(format!(
                    "{}: {}",
                    error.key().unwrap_or_default(),
                    error.message().unwrap_or_default()
                )));
            }
        }
        Ok(keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_before_the_oldest_young_one_is_kept() {
        let listed = |versions: &[(u64, i64)]| -> Vec<Listed> {
            let key = |version: &u64| format!("{MANIFEST_PREFIX}{version:012}-abc.json");
            versions.iter().map(|(version, modified)| Listed { key: key(version), modified: *modified }).collect()
        };
        type Case<'a> = (&'a [(u64, i64)], u64, u64);
        let cases: &[Case] = &[
            (&[], 1, 1),
            (&[(7, 10)], 7, 7),
            (&[(5, 10), (6, 20), (7, 30)], 7, 7),
            (&[(5, 10), (6, 100), (7, 120)], 7, 5),
            (&[(5, 100), (6, 110), (7, 120)], 7, 4),
            // An orphan that lost its swap names a version above the current one.
            (&[(6, 10), (7, 20), (8, 150)], 7, 7),
        ];
        for (versions, current, expected) in cases {
            assert_eq!(oldest_needed(&listed(versions), 100, *current), *expected, "{versions:?}");
        }
        assert_eq!(version_of("metrics/manifests/000000000012-ab.json"), 12);
        assert_eq!(version_of("metrics/manifests/readme.txt"), u64::MAX);
    }
}
