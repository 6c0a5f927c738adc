//! Whole-file copies under stable names, each with the version that it was made from.

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;

use super::key::{POINTER, ROOT, copy_key};
use super::{Condition, FORMATS, Manifest, OutputError, Put, Spooled, Store};

/// The object metadata of a whole-file copy with the version that it was made from.
const VERSION_METADATA: &str = "freshet-version";
/// The most copies checked: four outputs in three formats are twelve.
pub(super) const COPIES_MAX: usize = 200;

/// A whole-file copy as HEAD shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFileCopy {
    /// Its ETag, to replace it by.
    pub etag: String,
    /// The version it was made from; 0 if freshet did not write it.
    pub version: u64,
}

/// Whether a copy made from version `copy` has the content of version `published`, if the files of its output last
/// changed in version `changed`.
///
/// | changed | published | copy | current |
/// |---|---|---|---|
/// | 5 | 8 | 4 | no: older |
/// | 5 | 8 | 5 to 8 | yes |
/// | 5 | 8 | 9 | no: of a version that is not published, as after the pointer was put back by hand |
pub fn is_copy_current(copy: u64, changed: u64, published: u64) -> bool {
    (changed..=published).contains(&copy)
}

/// The whole-file copies that are not those of `manifest`: none once the reconciler has caught up.
///
/// # Errors
/// If S3 does not answer.
pub async fn copies_behind(client: &Client, bucket: &str, manifest: &Manifest) -> Result<Vec<String>, OutputError> {
    let store = Store::new(client.clone(), bucket);
    let mut behind = Vec::new();
    for (output, changed) in &manifest.changed {
        for format in FORMATS {
            let key = copy_key(output, format);
            let copy = store.head_copy(&key).await?;
            if copy.is_none_or(|copy| !is_copy_current(copy.version, *changed, manifest.version)) {
                behind.push(key);
            }
        }
    }
    Ok(behind)
}

impl Store {
    /// The copy under a stable key, `None` if there is none.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn head_copy(&self, key: &str) -> Result<Option<WholeFileCopy>, OutputError> {
        let head = self.head(key).await?;
        Ok(head.map(|head| WholeFileCopy {
            etag: head.e_tag().unwrap_or_default().to_owned(),
            version: version_of(&head),
        }))
    }

    /// Replaces the copy that [`Store::head_copy`] returned, and that is older, by one of `version`.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn put_copy(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        seen: Option<WholeFileCopy>,
        version: u64,
    ) -> Result<Put, OutputError> {
        let condition = seen.map_or(Condition::Absent, |copy| Condition::Unchanged(copy.etag));
        let metadata = BTreeMap::from([(VERSION_METADATA.to_owned(), version.to_string())]);
        self.put_with(key, body, content_type, condition, &metadata).await
    }

    /// The copy with the highest version, under any name, and that version; `None` without copies.
    pub(super) async fn highest_copy(&self, copies_max: usize) -> Result<Option<(String, u64)>, OutputError> {
        let mut keys = Vec::new();
        // A page is a thousand names, and twelve are ours.
        let see = |listed: super::list::Listed| keys.extend((listed.key != POINTER).then_some(listed.key));
        self.each_listed_with(ROOT, Some("/"), 1, see).await?;
        let mut highest: Option<(String, u64)> = None;
        for key in keys.into_iter().take(copies_max) {
            let version = self.head(&key).await?.map_or(0, |head| version_of(&head));
            if version > highest.as_ref().map_or(0, |(_, version)| *version) {
                highest = Some((key, version));
            }
        }
        Ok(highest)
    }
}

fn version_of(head: &HeadObjectOutput) -> u64 {
    let version = head.metadata().and_then(|metadata| metadata.get(VERSION_METADATA));
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_version_that_is_not_published_is_not_current() {
        for (copy, current) in [(0, false), (4, false), (5, true), (7, true), (8, true), (9, false)] {
            assert_eq!(is_copy_current(copy, 5, 8), current, "{copy}");
        }
    }
}
