//! Garbage collection of data files and manifests that nobody can need any more.
//!
//! A file may be needed by a reader that holds a manifest of the last `keep`, or by a publisher that is about to name
//! it. Neither is locked out or waited for. Why this is safe:
//!
//! 1. *Names are not reused.* A manifest names a file only if the published manifest before it does, or if the file was
//!    made for it and carries its version ([`super::data_key`]). So the versions that name a file are contiguous and
//!    begin with the one in its name.
//! 2. *Publishers.* Let C be the current version. A publisher that swaps the pointer later does so against C or a later
//!    version, and publishes above C. So if C does not name a file of a version up to C, no later manifest names it: by
//!    1, it cannot come from the manifest before, and it is not a new file. A file of a version above C may be a
//!    publisher's work in progress, however old it is, and stays until the pointer has passed it. A publisher may be
//!    frozen for any time: its files are above the version it saw, and once that version is passed, its swap is
//!    refused.
//! 3. *Readers.* Let K be the oldest version that was current within `keep`. A file of a version above K stays. A file
//!    of a version up to K was needed within `keep` only if K names it, by 1. So besides the current manifest it is
//!    enough to read those around K; no file's own time is needed. K is found from the times at which S3 wrote the
//!    manifests, which is before their swap: so a publication that takes longer than a certain share of `keep` aborts
//!    (`freshet metrics`), and files younger than `keep` plus that share always stay.
//! 4. *Order.* The pointer is read first, then the listings: a manifest that appears after that is above C. Before each
//!    request that deletes, the pointer is read again: if a person has put an older one back, nothing is deleted.
//! 5. *Manifests.* Each names all windows, and a steady stream leaves one a second. So of those above the manifests around
//!    K, all but the last of each hour go after an hour. Their data files stay, as they are above K. Where fewer manifests
//!    are left, the second one before the oldest young one is an older one: K is never higher for it, and files stay for
//!    up to two hours longer.
//!
//! Files without a version in their name, as in 0.1, count as version 0. If a publisher of 0.1 is about to name such a
//! file again, only the file's age protects it, so publishers of 0.1 and of later versions should not run together for
//! long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::Utc;

use super::key::{DATA_PREFIX, MANIFEST_PREFIX, data_version, manifest_version};
use super::list::{DELETE_BATCH, Listed, Listing};
use super::{Current, OutputError, Store};

/// A file stays longer than `keep` by this share of it, 1/7, which is also the longest time that a publication may
/// take.
const SLACK_SHARE: u32 = 7;
const HOUR_SECONDS: i64 = 3_600;
/// All manifests stay for so long: whoever has read the pointer has time to read the one that it names.
const ALL_MANIFESTS_SECONDS: i64 = HOUR_SECONDS;
/// One collection deletes at most this many files and this many manifests; the next one continues. Their names take
/// some ten megabytes.
const DELETE_MAX: usize = 100_000;
/// The most pages listed: ten million objects. Files beyond that are seen after others are deleted.
const PAGES_MAX: usize = 10_000;

/// The number of objects deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Data files.
    pub files: usize,
    /// Manifests.
    pub manifests: usize,
    /// Whether it ended at a limit, so that there may be more to delete.
    pub is_cut: bool,
}

/// The longest time that a publication may take if outputs are kept for `keep`: a longer one has to abort before it
/// swaps the pointer.
pub fn publication_max(keep: Duration) -> Duration {
    keep / SLACK_SHARE
}

/// Deletes data files and manifests that no manifest of the last `keep` needs, and of older manifests than an hour all but
/// the last of each hour. Deletes nothing that is current, and nothing at all if a program of a later code version
/// publishes.
///
/// # Errors
/// If S3 does not answer.
pub async fn collect(store: &Store, keep: Duration, code_version: u32) -> Result<Collected, OutputError> {
    let current = match store.current_unless(None).await {
        Ok(Some(current)) => current,
        Ok(None) | Err(OutputError::Lost { .. }) => return Ok(Collected::default()),
        Err(error) => return Err(error),
    };
    if current.manifest.code_version > code_version {
        return Ok(Collected::default());
    }
    let now = Utc::now().timestamp();
    let young_from = now - keep.as_secs() as i64;
    let mut manifests = Vec::new();
    if store.each_listed(MANIFEST_PREFIX, PAGES_MAX, |listed| manifests.push(listed)).await? == Listing::Cut {
        // Without the youngest manifests, the oldest version that is needed is unknown.
        return Err(store.request("list", MANIFEST_PREFIX, format!("more than {PAGES_MAX} pages of manifests")));
    }
    let kept = Kept::of(&current, &manifests, young_from);
    let mut named: BTreeSet<String> = current.manifest.keys().map(str::to_owned).collect();
    for listed in manifests.iter().filter(|listed| kept.is_read(&listed.key)) {
        let manifest = store.manifest(&listed.key).await?;
        named.extend(manifest.iter().flat_map(|manifest| manifest.keys()).map(str::to_owned));
    }
    let files_until = young_from - publication_max(keep).as_secs() as i64;
    let mut files = Vec::new();
    let listing = store
        .each_listed(DATA_PREFIX, PAGES_MAX, |listed| {
            if files.len() < DELETE_MAX && kept.is_garbage(&listed, &named, files_until) {
                files.push(listed.key);
            }
        })
        .await?;
    let crowded = kept.crowded(&manifests, now);
    let is_crowded = |key: &str| manifest_version(key).is_some_and(|version| crowded.contains(&version));
    let manifests = manifests.into_iter().map(|listed| listed.key);
    let manifests = manifests.filter(|key| kept.is_old_manifest(key) || is_crowded(key));
    let manifests = manifests.take(DELETE_MAX).collect::<Vec<_>>();
    let files = delete_checked(store, &current, &files).await?;
    let manifests = delete_checked(store, &current, &manifests).await?;
    Ok(Collected { files, manifests, is_cut: is_cut(files, manifests, listing) })
}

/// Whether there may be more to delete at once: names beyond the end of a cut listing are seen only after others are
/// deleted.
///
/// | deleted | listing | more |
/// |---|---|---|
/// | as many as allowed | any | perhaps |
/// | some files | cut | perhaps |
/// | some files | complete | no |
/// | no files | any | no |
fn is_cut(files: usize, manifests: usize, listing: Listing) -> bool {
    files >= DELETE_MAX || manifests >= DELETE_MAX || (files > 0 && listing == Listing::Cut)
}

/// Deletes, batch by batch, as long as the pointer has not gone back. Returns how many.
async fn delete_checked(store: &Store, current: &Current, keys: &[String]) -> Result<usize, OutputError> {
    let mut deleted = 0;
    for batch in keys.chunks(DELETE_BATCH) {
        let now = store.current_unless(Some(current)).await?;
        if now.is_none_or(|now| now.pointer.version < current.pointer.version) {
            break;
        }
        store.delete(batch).await?;
        deleted += batch.len();
    }
    Ok(deleted)
}

/// The versions to keep.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// K: the oldest version that may have been current within `keep`.
    from: u64,
    /// The oldest version that was written within `keep`; manifests up to it are read.
    read_until: u64,
    current: u64,
    current_key: String,
}

impl Kept {
    /// K is the second listed version before the oldest young one: the one directly before it was still current within
    /// `keep`, and may be the orphan of a lost swap. If K is too young, a reader loses a file; if it is too old, a few
    /// files stay longer.
    ///
    /// | versions, young ones in brackets | current | K |
    /// |---|---|---|
    /// | 5 6 7 | 7 | 7 |
    /// | 4 5 6 (7) | 7 | 5 |
    /// | 5 6 (7 8) | 8 | 5 |
    /// | (5 6 7) | 7 | 5 |
    /// | 6 7 (8: an orphan) | 7 | 7 |
    fn of(current: &Current, manifests: &[Listed], young_from: i64) -> Kept {
        let published = current.pointer.version;
        let versions: BTreeSet<(u64, bool)> = manifests
            .iter()
            .filter_map(|listed| {
                // A manifest may have waited for its swap: it became current at the pointer's time.
                let is_current = listed.key == current.pointer.manifest;
                let modified = if is_current { listed.modified.max(current.modified) } else { listed.modified };
                Some((manifest_version(&listed.key)?, modified >= young_from))
            })
            .filter(|(version, _)| *version <= published)
            .collect();
        let oldest_young = versions.iter().find(|(_, young)| *young).map(|(version, _)| *version);
        let (from, read_until) = match oldest_young {
            None => (published, published),
            Some(young) => {
                let mut before: Vec<u64> =
                    versions.iter().map(|(version, _)| *version).filter(|version| *version < young).collect();
                before.dedup();
                (before.iter().rev().nth(1).or(before.first()).copied().unwrap_or(young), young)
            }
        };
        Kept { from, read_until, current: published, current_key: current.pointer.manifest.clone() }
    }

    /// Whether a manifest is one of those around K, which say what readers may need.
    fn is_read(&self, key: &str) -> bool {
        manifest_version(key).is_some_and(|version| (self.from..=self.read_until).contains(&version))
    }

    /// Whether a manifest was current too long ago; other objects are never old.
    fn is_old_manifest(&self, key: &str) -> bool {
        manifest_version(key).is_some_and(|version| version < self.from) && key != self.current_key
    }

    /// Versions whose manifests can be deleted because a later one of the same hour stays. All manifests of a version, of
    /// publishers that lost their swap too, stay or go together, and count as written with the newest of them.
    ///
    /// | version | written | a later one of that hour, more than an hour old and below the current | verdict |
    /// |---|---|---|---|
    /// | up to those around K | any | any | not asked here |
    /// | current or above | any | any | stays |
    /// | others | within the last hour | any | stays |
    /// | others | after a later version, by a publisher that was frozen | any | stays: K may depend on its time |
    /// | others | before | no | stays |
    /// | others | before | yes | goes |
    fn crowded(&self, manifests: &[Listed], now: i64) -> BTreeSet<u64> {
        let mut written: BTreeMap<u64, i64> = BTreeMap::new();
        for listed in manifests {
            let Some(version) = manifest_version(&listed.key).filter(|version| *version <= self.current) else {
                continue;
            };
            let newest = written.entry(version).or_insert(listed.modified);
            *newest = listed.modified.max(*newest);
        }
        let (mut crowded, mut hours, mut later_written) = (BTreeSet::new(), BTreeSet::new(), i64::MAX);
        for (version, at) in written.into_iter().rev() {
            let is_between = self.read_until < version && version < self.current;
            let is_asked = is_between && at < now - ALL_MANIFESTS_SECONDS && at <= later_written;
            if is_asked && !hours.insert(at.div_euclid(HOUR_SECONDS)) {
                crowded.insert(version);
            }
            later_written = later_written.min(at);
        }
        crowded
    }

    /// Whether a data file can be deleted.
    ///
    /// | version in its name | named by the current manifest or one around K | written | verdict |
    /// |---|---|---|---|
    /// | above K | any | any | stays: named within the time kept, or work in progress |
    /// | up to K | yes | any | stays |
    /// | up to K | no | lately | stays |
    /// | up to K | no | long ago | garbage |
    fn is_garbage(&self, file: &Listed, named: &BTreeSet<String>, files_until: i64) -> bool {
        // K is never above C; checked again, because work in progress depends on it.
        data_version(&file.key) <= self.from.min(self.current)
            && file.modified < files_until
            && !named.contains(&file.key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::manifest_key;
    use super::super::{Manifest, Pointer};
    use super::*;

    const YOUNG_FROM: i64 = 100;

    fn current(version: u64, swapped: i64) -> Current {
        let manifest = manifest_key(version, "published");
        let pointer = Pointer { version, manifest, sha256: String::new() };
        Current { etag: String::new(), modified: swapped, pointer, manifest: Manifest::default() }
    }

    fn listed(versions: &[(u64, i64)]) -> Vec<Listed> {
        let key = |version: u64| manifest_key(version, "published");
        versions
            .iter()
            .map(|(version, modified)| Listed { key: key(*version), modified: *modified, bytes: None })
            .collect()
    }

    #[test]
    fn versions_are_kept_from_the_one_that_was_current_when_the_time_began() {
        // Versions with their times, the current one, the time of the pointer's swap, K, the oldest young one.
        type Case<'a> = (&'a [(u64, i64)], u64, i64, u64, u64);
        let cases: &[Case] = &[
            // The manifest that the pointer names may be missing in the listing.
            (&[], 1, 10, 1, 1),
            (&[(7, 10)], 7, 10, 7, 7),
            (&[(5, 10), (6, 20), (7, 30)], 7, 30, 7, 7),
            (&[(4, 1), (5, 10), (6, 20), (7, 120)], 7, 120, 5, 7),
            (&[(5, 10), (6, 20), (7, 110), (8, 120)], 8, 120, 5, 7),
            (&[(6, 20), (7, 110), (8, 120)], 8, 120, 6, 7),
            (&[(5, 100), (6, 110), (7, 120)], 7, 120, 5, 5),
            // An orphan that lost its swap names a version above the current one.
            (&[(6, 10), (7, 20), (8, 150)], 7, 20, 7, 7),
            // After a loss there is a gap, and orphans are not predecessors.
            (&[(3, 10), (9, 20), (12, 130)], 12, 130, 3, 12),
            // Written long ago, published lately.
            (&[(5, 10), (6, 20), (7, 30)], 7, 120, 5, 7),
        ];
        for (versions, published, swapped, from, read_until) in cases {
            let kept = Kept::of(&current(*published, *swapped), &listed(versions), YOUNG_FROM);
            assert_eq!((kept.from, kept.read_until), (*from, *read_until), "{versions:?}");
            for (version, _) in *versions {
                let key = manifest_key(*version, "published");
                assert_eq!(kept.is_old_manifest(&key), version < from, "{versions:?} {version}");
                assert_eq!(kept.is_read(&key), (from..=read_until).contains(&version), "{versions:?} {version}");
            }
            assert!(!kept.is_old_manifest("metrics/manifests/readme.txt"));
        }
    }

    #[test]
    fn of_manifests_older_than_an_hour_the_last_of_each_hour_stays() {
        let kept = Kept { from: 2, read_until: 4, current: 11, current_key: manifest_key(11, "published") };
        let at = |hour: i64, second: i64| hour * HOUR_SECONDS + second;
        let manifests = [
            // Around K.
            (2, at(1, 0)),
            (3, at(1, 1)),
            (4, at(1, 2)),
            (5, at(1, 3)),
            (6, at(2, 0)),
            (7, at(2, 1)),
            (8, at(7, 3_599)),
            (9, at(8, 0)),
            (10, at(8, 1_801)),
            (11, at(8, 1_802)),
            (12, at(1, 4)),
        ];
        let manifests = listed(&manifests);
        // When it is collected, the versions that go.
        let cases: [(i64, &[u64]); 4] =
            [(at(9, 1_800), &[6]), (at(9, 1_801), &[6]), (at(9, 1_802), &[6, 9]), (at(90, 0), &[6, 9])];
        for (now, expected) in cases {
            let crowded: Vec<u64> = kept.crowded(&manifests, now).into_iter().collect();
            assert_eq!(crowded, expected, "{now}");
        }
        let stream: Vec<(u64, i64)> = (5..11).zip((0..).map(|step| at(2, step * 1_000))).collect();
        let crowded: Vec<u64> = kept.crowded(&listed(&stream), at(90, 0)).into_iter().collect();
        assert_eq!(crowded, [5, 6, 7, 9]);
        // The first one of these was written late.
        let frozen = [(5, at(2, 50)), (6, at(2, 10)), (7, at(2, 60)), (11, at(2, 70))];
        let crowded: Vec<u64> = kept.crowded(&listed(&frozen), at(90, 0)).into_iter().collect();
        assert_eq!(crowded, [6]);
        let unknown = [(5, i64::MAX), (6, i64::MAX)];
        assert!(kept.crowded(&listed(&unknown), at(90, 0)).is_empty(), "S3 did not say when");
    }

    #[test]
    fn deleted_manifests_make_no_data_file_go_earlier() {
        let (interval_s, keep_s) = (100, 20_000);
        let mut all: Vec<(u64, i64)> = Vec::new();
        let mut left = all.clone();
        for version in 1..=600_u64 {
            let at = i64::try_from(version).expect("small") * interval_s;
            all.push((version, at));
            left.push((version, at));
            let kept = |manifests: &[(u64, i64)]| Kept::of(&current(version, at), &listed(manifests), at - keep_s);
            let (of_all, of_left) = (kept(&all), kept(&left));
            assert!(of_left.from <= of_all.from, "{version}: {of_left:?} {of_all:?}");
            let crowded = of_left.crowded(&listed(&left), at);
            left.retain(|(version, _)| *version >= of_left.from && !crowded.contains(version));
        }
        assert!(left.len() < 60, "of 200 within the time: {left:?}");
    }

    #[test]
    fn a_collection_that_ended_at_a_limit_has_more_to_do() {
        for (files, manifests, listing, more) in [
            (0, 0, Listing::Complete, false),
            (DELETE_MAX - 1, DELETE_MAX - 1, Listing::Complete, false),
            (DELETE_MAX, 0, Listing::Complete, true),
            (0, DELETE_MAX, Listing::Complete, true),
            (1, 0, Listing::Cut, true),
            (0, 1, Listing::Cut, false),
        ] {
            assert_eq!(is_cut(files, manifests, listing), more, "{files} {manifests} {listing:?}");
        }
    }

    #[test]
    fn a_file_is_garbage_once_nobody_holds_it_and_nobody_can_name_it_again() {
        let kept = Kept { from: 5, read_until: 7, current: 9, current_key: manifest_key(9, "published") };
        let key = |version: u64| {
            super::super::data_key("window_metrics", "week", chrono::NaiveDate::default(), version, "00", "csv")
        };
        let named = BTreeSet::from([key(2)]);
        // Version in its name, time written, whether it is garbage.
        let cases = [
            (1, 10, true),
            // Named by a manifest around K, or by the current one.
            (2, 10, false),
            (5, 10, true),
            // Young: a person may be putting a deleted file back.
            (5, 60, false),
            // Named within `keep`.
            (6, 10, false),
            (9, 10, false),
            // A publisher is at work, or has been frozen for long.
            (10, 10, false),
        ];
        for (version, modified, garbage) in cases {
            let file = Listed { key: key(version), modified, bytes: None };
            assert_eq!(kept.is_garbage(&file, &named, 50), garbage, "{version} {modified}");
        }
        let unversioned = Listed {
            key: "metrics/data/window_metrics/week-2025-08-04-0123456789abcdef.csv".into(),
            modified: 10,
            bytes: None,
        };
        assert!(kept.is_garbage(&unversioned, &named, 50), "named as in 0.1");
    }

    /// Every history of a few publications, orphans and collections: no file is deleted that the current manifest
    /// names, or a manifest that was current within `keep`.
    #[test]
    fn no_history_of_publications_and_collections_loses_a_file_that_somebody_needs() {
        use std::collections::BTreeMap;
        let file = |window: u64, version: u64| format!("metrics/data/o/month-{window}-v{version}-00.csv");
        // Each step publishes a version that changes some of three windows, two time units after the last.
        for history in 0..8_u32.pow(4) {
            let mut published: Vec<(u64, i64, BTreeMap<u64, String>)> = Vec::new();
            let mut there: BTreeMap<String, i64> = BTreeMap::new();
            let mut windows: BTreeMap<u64, String> = BTreeMap::new();
            for step in 0..4_u64 {
                let (version, at) = (step + 1, i64::try_from(step).expect("small") * 2 + 2);
                let changes = history / 8_u32.pow(u32::try_from(step).expect("small")) % 8;
                for window in (0..3).filter(|window| version == 1 || changes & (1 << window) != 0) {
                    windows.insert(window, file(window, version));
                    there.insert(file(window, version), at - 1);
                }
                // A publisher that saw the version before this one, and is still at work.
                there.insert(format!("metrics/data/o/month-9-v{version}-ff.csv"), at - 1);
                there.insert(format!("metrics/data/o/month-9-v{}-ff.csv", version + 1), at - 1);
                published.push((version, at, windows.clone()));
                for keep in [0, 1, 3, 5] {
                    let now = at + 1;
                    let young_from = now - keep;
                    let manifests: Vec<(u64, i64)> = published.iter().map(|(version, at, _)| (*version, *at)).collect();
                    let kept = Kept::of(&current(version, at), &listed(&manifests), young_from);
                    let around = published.iter().filter(|(v, ..)| kept.is_read(&manifest_key(*v, "published")));
                    let mut named: BTreeSet<String> = windows.values().cloned().collect();
                    named.extend(around.flat_map(|(_, _, names)| names.values().cloned()));
                    let garbage: BTreeSet<String> = there
                        .iter()
                        .map(|(key, modified)| Listed { key: key.clone(), modified: *modified, bytes: None })
                        .filter(|listed| kept.is_garbage(listed, &named, young_from))
                        .map(|listed| listed.key)
                        .collect();
                    // Current at some time from `young_from` on: its successor came after that.
                    let ended = |index: usize| published.get(index + 1).map_or(i64::MAX, |(_, at, _)| *at);
                    for (index, (version, _, names)) in published.iter().enumerate() {
                        let held = ended(index) >= young_from;
                        let lost = names.values().find(|name| garbage.contains(*name));
                        assert!(!held || lost.is_none(), "history {history}, keep {keep}, version {version}: {lost:?}");
                    }
                    let next = format!("metrics/data/o/month-9-v{}-ff.csv", version + 1);
                    assert!(!garbage.contains(&next), "work in progress was deleted");
                }
            }
        }
    }
}
