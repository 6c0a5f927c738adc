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
    /// Whether the version before certainly did not have the rows: its manifest says so, or there was none.
    pub is_first: bool,
}

impl Manifest {
    /// Whether the tables had everything before these offsets, by partition, of a domain. The offsets are those of the
    /// epoch and the life of `current`.
    ///
    /// | bookmarks of the domain | epoch and lives | holds |
    /// |---|---|---|
    /// | none | any | no |
    /// | some | as in `current` | if no bookmark is before its offset |
    /// | some | others: adopted, set back, swapped, restored | `None`: the offsets do not compare |
    pub fn holds(&self, current: &Manifest, domain: &str, end_offsets: &[i64]) -> Option<bool> {
        let Some(bookmarks) = self.bookmarks.get(domain) else { return Some(false) };
        if self.epochs.get(domain) != current.epochs.get(domain) || self.lives != current.lives {
            return None;
        }
        let is_past = |(partition, end): (i32, &i64)| bookmarks.get(&partition).copied().unwrap_or(0) >= *end;
        Some((0..).zip(end_offsets).all(is_past))
    }
}

impl Store {
    /// The first version, among those with a manifest, that has all rows before these offsets of a domain, in the
    /// current stream. A binary search finds it: bookmarks only increase within an epoch, and the versions of the current
    /// epoch are the newest.
    ///
    /// # Errors
    /// If S3 does not answer.
    pub async fn first_with(&self, domain: &str, end_offsets: &[i64]) -> Result<Option<First>, OutputError> {
        let Some(current) = self.current_unless(None).await? else { return Ok(None) };
        let holds = |manifest: Manifest| manifest.holds(&current.manifest, domain, end_offsets);
        if current.manifest.holds(&current.manifest, domain, end_offsets) != Some(true) {
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
        // Whether the version before `from` certainly does not have the rows.
        let mut is_first = false;
        while from < to {
            let middle = from + (to - from) / 2;
            // A manifest that was collected meanwhile is too old to matter.
            let manifest = self.manifest(&listed[middle].1.key).await?;
            match manifest.and_then(holds) {
                Some(true) => to = middle,
                other => (from, is_first) = (middle + 1, other == Some(false)),
            }
        }
        let before = from.checked_sub(1).and_then(|before| listed.get(before)).map(|(version, _)| *version);
        let first = listed.get(from).map(|(version, found)| First {
            version: *version,
            modified: found.modified,
            // A version whose manifest is deleted may be between the two.
            is_first: *version == 1 || (is_first && before.is_some_and(|before| before + 1 >= *version)),
        });
        Ok(Some(first.unwrap_or(newest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(life: &str, epoch: i64) -> Manifest {
        Manifest {
            lives: vec![life.to_owned()],
            epochs: [("health".to_owned(), epoch)].into(),
            bookmarks: [("health".to_owned(), [(0, 5), (1, 7)].into())].into(),
            ..Manifest::default()
        }
    }

    #[test]
    fn a_version_holds_rows_once_its_bookmarks_are_past_them() {
        let manifest = manifest("a", 1);
        for (domain, ends, expected) in [
            ("health", &[5, 7][..], true),
            ("health", &[5, 8], false),
            ("health", &[0, 7, 0], true),
            ("health", &[0, 7, 1], false),
            ("health", &[], true),
            ("climate", &[0], false),
        ] {
            assert_eq!(manifest.holds(&manifest, domain, ends), Some(expected), "{domain} {ends:?}");
        }
    }

    #[test]
    fn offsets_of_another_epoch_or_life_say_nothing() {
        let current = manifest("a", 2);
        for (life, epoch, domain, expected) in [
            ("a", 2, "health", Some(true)),
            ("a", 1, "health", None),
            ("b", 2, "health", None),
            ("a", 1, "climate", Some(false)),
        ] {
            let holds = manifest(life, epoch).holds(&current, domain, &[1]);
            assert_eq!(holds, expected, "life {life}, epoch {epoch}, {domain}");
        }
    }
}
