//! Remembers whole pages of a listing that are settled, so that a bucket of any size needs no query and nearly no
//! memory while nothing changes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::object::Listed;

/// The most keys looked at between two listings, and since the last one that showed every page; beyond that all pages are
/// forgotten.
const TOUCHED_MAX: usize = 10_000;

/// Pages whose entries were all settled at the last look: a fingerprint of everything on the page, by its first key. A
/// page with another first key, or any other difference, is another page.
///
/// If an object was added or removed, a listing is cut into different pages after that place. Those are queried again,
/// one query each.
///
/// An entry may be settled by something other than the listing, and look the same afterwards (it was written A, B, A
/// within a second). So a page with a key that was looked at since the last listing began is not settled.
pub(crate) struct Pages {
    hashers: [RandomState; 2],
    settled: HashMap<[u64; 2], [u64; 2]>,
    pages_max: usize,
    /// Keys looked at before the current listing, since the last one that showed every page.
    touched_before: HashSet<[u64; 2]>,
    /// Keys looked at since it began.
    touched: HashSet<[u64; 2]>,
}

impl Pages {
    /// Remembers at most this many pages, 32 bytes each and as much again for the table.
    pub(crate) fn new(pages_max: usize) -> Self {
        let hashers = [RandomState::new(), RandomState::new()];
        Pages { hashers, settled: HashMap::new(), pages_max, touched_before: HashSet::new(), touched: HashSet::new() }
    }

    /// Whether every entry of the page was settled when it was last seen, and the page is unchanged.
    pub(crate) fn contains(&self, page: &[Listed]) -> bool {
        let Some((first, all)) = self.of(page) else { return true };
        self.settled.get(&first) == Some(&all) && !self.is_touched(page)
    }

    /// Remembers a page whose entries are all settled.
    pub(crate) fn insert(&mut self, page: &[Listed]) {
        if let Some((first, all)) = self.of(page)
            && (self.settled.len() < self.pages_max || self.settled.contains_key(&first))
        {
            self.settled.insert(first, all);
        }
    }

    /// Notes that a key was looked at by itself.
    pub(crate) fn touch(&mut self, key: &str) {
        if self.touched.len() >= TOUCHED_MAX {
            self.forget();
            self.touched.clear();
        }
        self.touched.insert(self.fingerprint(key));
    }

    /// Begins a listing. Where a part of the bucket can never be listed, no listing completes: then all pages are
    /// forgotten from time to time, and with them the keys that kept some from being settled.
    pub(crate) fn begin(&mut self) {
        self.touched_before.extend(std::mem::take(&mut self.touched));
        if self.touched_before.len() > TOUCHED_MAX {
            self.forget();
            self.touched_before.clear();
        }
    }

    /// Ends a listing that has shown every page.
    pub(crate) fn complete(&mut self) {
        self.touched_before.clear();
    }

    pub(crate) fn forget(&mut self) {
        self.settled.clear();
    }

    fn is_touched(&self, page: &[Listed]) -> bool {
        let is_touched = |entry: &Listed| {
            let key = self.fingerprint(&entry.version.key);
            self.touched.contains(&key) || self.touched_before.contains(&key)
        };
        !(self.touched.is_empty() && self.touched_before.is_empty()) && page.iter().any(is_touched)
    }

    /// Fingerprints of the first key, and of the whole page.
    fn of(&self, page: &[Listed]) -> Option<([u64; 2], [u64; 2])> {
        let first = self.fingerprint(&page.first()?.version.key);
        let entries = page.iter().map(|Listed { version, is_latest }| {
            let at = version.last_modified.timestamp();
            (&version.key, &version.version_id, &version.etag, version.size_bytes, at, is_latest)
        });
        let entries: Vec<_> = entries.collect();
        Some((first, self.hashers.each_ref().map(|hasher| hasher.hash_one(&entries))))
    }

    fn fingerprint(&self, key: &str) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectVersion;
    use chrono::DateTime;

    const PAGE: usize = 1_000;

    fn entry(number: u64, etag: &str) -> Listed {
        let version = ObjectVersion {
            bucket: "raw".into(),
            key: format!("climate/{number:09}.csv"),
            version_id: None,
            etag: etag.into(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
        };
        version.into()
    }

    /// Lists a store with these keys; returns for how many pages the ledger must be queried.
    fn listing(pages: &mut Pages, numbers: impl Iterator<Item = u64>) -> usize {
        pages.begin();
        let (mut asked, mut page) = (0, Vec::with_capacity(PAGE));
        let mut take = |page: &mut Vec<Listed>, pages: &mut Pages| {
            if !pages.contains(page) {
                asked += 1;
                pages.insert(page);
            }
            page.clear();
        };
        for number in numbers {
            page.push(entry(number, "e"));
            if page.len() == PAGE {
                take(&mut page, pages);
            }
        }
        take(&mut page, pages);
        pages.complete();
        asked
    }

    #[test]
    fn a_bucket_of_a_million_objects_is_asked_about_once_and_then_only_where_it_changed() {
        const OBJECTS: u64 = 1_000_000;
        let mut pages = Pages::new(100_000);
        // Every second number, so that there is room between them.
        let numbers = || (0..OBJECTS).map(|number| 2 * number);
        assert_eq!(listing(&mut pages, numbers()), 1_000, "a question a page");
        assert_eq!(listing(&mut pages, numbers()), 0, "nothing has changed");
        assert_eq!(listing(&mut pages, numbers().chain([2 * OBJECTS])), 1, "one came at the end, as dated names do");
        let before_the_last_tenth = 2 * OBJECTS / 10 * 9 + 1;
        let inserted = numbers().filter(|it| *it < before_the_last_tenth).chain([before_the_last_tenth]);
        let inserted = inserted.chain(numbers().filter(|it| *it > before_the_last_tenth));
        assert_eq!(listing(&mut pages, inserted), 101, "one came in between: what is behind it is cut otherwise");
        // At most half of the table is empty, and an entry takes a byte besides its fingerprints.
        let bytes = pages.settled.capacity() * 2 * (32 + 1);
        assert!(bytes < 200 << 10, "{bytes} bytes for {OBJECTS} objects");
    }

    #[test]
    fn a_page_that_shows_anything_else_or_a_key_that_was_looked_at_is_not_settled() {
        let mut pages = Pages::new(10);
        let page = vec![entry(1, "e"), entry(2, "e")];
        pages.begin();
        pages.insert(&page);
        pages.complete();
        assert!(pages.contains(&page) && pages.contains(&[]));
        for other in [vec![entry(1, "e")], vec![entry(1, "e"), entry(2, "f")], vec![entry(2, "e"), entry(1, "e")]] {
            assert!(!pages.contains(&other), "{other:?}");
        }
        // Looked at between two listings, or during one that may have listed it before.
        pages.touch("climate/000000002.csv");
        pages.begin();
        assert!(!pages.contains(&page));
        pages.touch("climate/000000001.csv");
        pages.complete();
        pages.begin();
        assert!(!pages.contains(&page));
        pages.complete();
        assert!(pages.contains(&page));
        // A listing that was interrupted may not have listed it.
        pages.touch("climate/000000001.csv");
        pages.begin();
        pages.begin();
        assert!(!pages.contains(&page));
    }

    #[test]
    fn memory_is_bounded() {
        let mut pages = Pages::new(3);
        for number in 0..100 {
            pages.insert(&[entry(number, "e")]);
        }
        assert_eq!(pages.settled.len(), 3);
        for number in 0..TOUCHED_MAX + 1 {
            pages.touch(&number.to_string());
        }
        assert!(
            pages.touched.len() <= TOUCHED_MAX && pages.settled.is_empty(),
            "what was touched is not known any more"
        );
    }

    #[test]
    fn memory_is_bounded_while_no_listing_shows_every_page() {
        let mut pages = Pages::new(3);
        let page = [entry(1, "e")];
        for number in 0..3 * TOUCHED_MAX {
            pages.touch(&number.to_string());
            if number.is_multiple_of(100) {
                pages.begin();
                pages.insert(&page);
                assert!(pages.touched_before.len() <= TOUCHED_MAX, "after {number} keys");
            }
        }
        pages.touch(&page[0].version.key);
        pages.begin();
        assert!(!pages.contains(&page), "a page with a key that was looked at is not settled");
        for number in 0..TOUCHED_MAX {
            pages.touch(&number.to_string());
        }
        pages.begin();
        assert!(pages.touched_before.is_empty() && !pages.contains(&page), "nor when that is forgotten");
        pages.insert(&page);
        assert!(pages.contains(&page));
    }
}
