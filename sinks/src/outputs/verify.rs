//! Finds objects that were deleted, overwritten or put back by hand, or deleted by a lifecycle rule; there is no
//! notification of that.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};

use super::copies::COPIES_MAX;
use super::key::DATA_PREFIX;
use super::list::Listing;
use super::{Manifest, OutputError, Store};

/// The most pages of the listing that one verification reads: 100,000 files. Others are checked one by one.
const PAGES_MAX: usize = 100;
/// The most files that one verification checks one by one; the next one continues with the others.
const ASKED_MAX: usize = 1_000;
const ASKED_AT_ONCE: usize = 8;

/// Differences from the published manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Data files that it names and that do not exist, or have another length or other bytes.
    pub missing: BTreeSet<String>,
    /// A copy of a version above the published one, and that version: somebody put an older pointer back.
    pub ahead: Option<(String, u64)>,
    /// Whether the pointer or its manifest is gone; [`Store::published`] says what is left.
    pub lost: bool,
    /// The last key that was checked, if there were too many for one verification.
    pub resume_after: Option<String>,
}

impl Damage {
    /// Whether there is anything to repair.
    pub fn is_none(&self) -> bool {
        self.missing.is_empty() && self.ahead.is_none() && !self.lost
    }
}

impl Store {
    /// Compares the existing objects with the published manifest: the names and lengths of its data files. That a file of
    /// the right length has other bytes shows when a copy is composed of it; until it is written again, it counts as
    /// missing. Bounded: at most [`PAGES_MAX`] + 1 listings, a HEAD
    /// for each copy, and two requests for each of [`ASKED_MAX`] files that the listing did not show; `resume_after` is
    /// where the last verification ended.
    ///
    /// The copies are read before the pointer. A copy is made from a published version, so if one is above the pointer,
    /// the pointer went back.
    ///
    /// # Errors
    /// If S3 does not answer or the pointer or manifest cannot be read.
    pub async fn verify(&self, resume_after: Option<&str>) -> Result<Damage, OutputError> {
        let highest = self.highest_copy(COPIES_MAX).await?;
        let manifest = match self.current_unless(None).await {
            Ok(Some(current)) => current.manifest,
            Ok(None) => return Ok(Damage::default()),
            Err(OutputError::Lost { .. }) => return Ok(Damage { lost: true, ..Damage::default() }),
            Err(error) => return Err(error),
        };
        let unseen = self.unseen(&manifest).await?;
        let (asked, resume_after) = slice(unseen, resume_after);
        let missing = stream::iter(asked)
            .map(|(key, bytes)| async move {
                let found = self.head(&key).await?.map(|head| head.content_length());
                let is_there = found.is_some_and(|length| length.is_none_or(|it| u64::try_from(it) == Ok(bytes)));
                Ok::<_, OutputError>((!is_there).then_some(key))
            })
            .buffer_unordered(ASKED_AT_ONCE)
            .try_filter_map(async |key| Ok(key));
        let mut missing: BTreeSet<String> = missing.try_collect().await?;
        missing.extend(self.named_damaged(&manifest));
        let ahead = highest.filter(|(_, version)| *version > manifest.version);
        Ok(Damage { missing, ahead, lost: false, resume_after })
    }

    /// Files that are damaged and that the manifest names; others do not matter any more.
    fn named_damaged(&self, manifest: &Manifest) -> BTreeSet<String> {
        let mut damaged = self.damaged();
        if !damaged.is_empty() {
            let named: BTreeSet<&str> = manifest.keys().collect();
            damaged.retain(|key| named.contains(key.as_str()));
        }
        damaged.clone()
    }

    /// Files that the manifest names and the listing does not show with their length, each with its length.
    async fn unseen(&self, manifest: &Manifest) -> Result<BTreeMap<String, u64>, OutputError> {
        let files = manifest.windows.iter().flat_map(|window| window.files.values());
        let mut unseen: BTreeMap<String, u64> = files.map(|file| (file.key.clone(), file.bytes)).collect();
        let listing = self
            .each_listed(DATA_PREFIX, PAGES_MAX, |listed| {
                if unseen.get(&listed.key).copied() == listed.bytes {
                    unseen.remove(&listed.key);
                }
            })
            .await?;
        if listing == Listing::Cut {
            tracing::debug!(unseen = unseen.len(), "the listing of data files is too long to verify them all by it");
        }
        Ok(unseen)
    }
}

/// The files to check now, and the key after which the next verification continues: `None` at the end.
///
/// | unseen | resume after | asked | next |
/// |---|---|---|---|
/// | a b | none | a b | none |
/// | more than fit | none | the first that fit | the last of them |
/// | more than fit | a key | those after it that fit | the last of them, or none at the end |
fn slice(unseen: BTreeMap<String, u64>, resume_after: Option<&str>) -> (Vec<(String, u64)>, Option<String>) {
    let after = unseen.into_iter().skip_while(|(key, _)| resume_after.is_some_and(|last| key.as_str() <= last));
    let mut rest: Vec<(String, u64)> = after.take(ASKED_MAX + 1).collect();
    if rest.len() <= ASKED_MAX {
        return (rest, None);
    }
    rest.truncate(ASKED_MAX);
    let last = rest.last().map(|(key, _)| key.clone());
    (rest, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_files_than_fit_are_asked_for_by_and_by() {
        let key = |number: usize| format!("{number:06}");
        let unseen = |count: usize| (0..count).map(|number| (key(number), 1)).collect::<BTreeMap<_, _>>();
        let last = key(ASKED_MAX - 1);
        // Unseen files, where to resume, number to check, the first of them, where to resume next.
        type Case<'a> = (usize, Option<&'a str>, usize, Option<&'a str>, Option<&'a str>);
        let cases: &[Case] = &[
            (0, None, 0, None, None),
            (2, None, 2, Some("000000"), None),
            (2, Some("000000"), 1, Some("000001"), None),
            (2, Some("zzz"), 0, None, None),
            (ASKED_MAX, None, ASKED_MAX, Some("000000"), None),
            (ASKED_MAX + 3, None, ASKED_MAX, Some("000000"), Some(&last)),
            (ASKED_MAX + 3, Some(&last), 3, Some("001000"), None),
        ];
        for (count, resume_after, asked, first, next) in cases {
            let (found, resume) = slice(unseen(*count), *resume_after);
            assert_eq!(found.len(), *asked, "{count} {resume_after:?}");
            assert_eq!(found.first().map(|(key, _)| key.as_str()), *first);
            assert_eq!(resume.as_deref(), *next);
        }
    }
}
