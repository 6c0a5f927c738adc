//! Finds the first version of the outputs that was derived from certain rows.

use super::key::{MANIFEST_PREFIX, manifest_version};
use super::list::{Listed, Listing};
use super::{Manifest, OutputError, Store};

/// The most pages of a thousand manifests listed; with more, the newest might not be among them.
const PAGES_MAX: usize = 20;

/// A version of the outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// The version.
    pub version: u64,
    /// When its manifest was written, in Unix seconds of S3's clock.
    pub modified: i64,
    /// Whether the version before certainly did not have the rows: its manifest exists too, or there was none.
    pub is_first: bool,
}

impl Manifest {
    /// Whether the tables had everything before these offsets, by partition, of a domain.
    pub fn holds(&self, domain: &str, end_offsets: &[i64]) -> bool {
        let Some(bookmarks) = self.bookmarks.get(domain) else { return false };
        (0..).zip(end_offsets).all(|(partition, end)| bookmarks.get(&partition).copied().unwrap_or(0) >= *end)
    }
}

impl Store {
    /// The first version, among those with a manifest, that has all rows before these offsets of a domain, in the
    /// current stream. A binary search finds it, because bookmarks only increase.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn first_with(&self, domain: &str, end_offsets: &[i64]) -> Result<Option<First>, OutputError> {
        let Some(current) = self.current_unless(None).await? else { return Ok(None) };
        if !current.manifest.holds(domain, end_offsets) {
            return Ok(None);
        }
        let newest = First { version: current.pointer.version, modified: current.modified, is_first: false };
        let mut listed: Vec<(u64, Listed)> = Vec::new();
        let see = |found: Listed| listed.extend(manifest_version(&found.key).map(|version| (version, found)));
        if self.each_listed(MANIFEST_PREFIX, PAGES_MAX, see).await? == Listing::Cut {
            return Ok(Some(newest));
        }
        // A publisher that lost its swap may have left a manifest of a version that another one published.
        listed.retain(|(version, _)| *version <= current.pointer.version);
        listed.sort_by_key(|(version, found)| (*version, found.modified));
        let (mut from, mut to) = (0, listed.len());
        while from < to {
            let middle = from + (to - from) / 2;
            // A manifest that was collected meanwhile is too old to matter.
            let manifest = self.manifest(&listed[middle].1.key).await?;
            match manifest.is_some_and(|manifest| manifest.holds(domain, end_offsets)) {
                true => to = middle,
                false => from = middle + 1,
            }
        }
        let first = listed.get(from).map(|(version, found)| First {
            version: *version,
            modified: found.modified,
            is_first: from > 0 || *version == 1,
        });
        Ok(Some(first.unwrap_or(newest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_holds_rows_once_its_bookmarks_are_past_them() {
        let bookmarks = [("health".to_owned(), [(0, 5), (1, 7)].into())].into();
        let manifest = Manifest { bookmarks, ..Manifest::default() };
        for (domain, ends, expected) in [
            ("health", &[5, 7][..], true),
            ("health", &[5, 8], false),
            ("health", &[0, 7, 0], true),
            ("health", &[0, 7, 1], false),
            ("health", &[], true),
            ("climate", &[0], false),
        ] {
            assert_eq!(manifest.holds(domain, ends), expected, "{domain} {ends:?}");
        }
    }
}
