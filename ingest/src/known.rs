//! What a listing showed before, so that one that shows nothing new asks the ledger about no entry.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::object::ObjectVersion;

/// The entries of a listing that are settled: in the ledger, at the last look. Only their fingerprints are
/// kept, of 128 bits: at a million entries the odds that a new one is taken for an old one are 1 in 10^26.
///
/// Bounded by two generations: when the younger is full it becomes the older, whose entries are forgotten
/// unless they are seen again. To forget is harmless, the ledger is asked once more.
pub(crate) struct Known {
    hashers: [RandomState; 2],
    younger: HashSet<u128>,
    older: HashSet<u128>,
    half: usize,
}

impl Known {
    /// Remembers at most `entries_max` entries, 16 bytes each and as much again for the table.
    pub(crate) fn new(entries_max: usize) -> Self {
        Known {
            hashers: [RandomState::new(), RandomState::new()],
            younger: HashSet::new(),
            older: HashSet::new(),
            half: entries_max.div_ceil(2).max(1),
        }
    }

    pub(crate) fn fingerprint(&self, value: impl Hash) -> u128 {
        let [high, low] = &self.hashers;
        u128::from(high.hash_one(&value)) << 64 | u128::from(low.hash_one(&value))
    }

    fn of(&self, entry: &ObjectVersion) -> u128 {
        self.fingerprint((&entry.key, &entry.etag, entry.size_bytes, entry.last_modified.timestamp()))
    }

    pub(crate) fn contains(&mut self, entry: &ObjectVersion) -> bool {
        let fingerprint = self.of(entry);
        if self.younger.contains(&fingerprint) {
            return true;
        }
        let found = self.older.contains(&fingerprint);
        if found {
            self.remember(fingerprint);
        }
        found
    }

    pub(crate) fn insert(&mut self, entry: &ObjectVersion) {
        self.remember(self.of(entry));
    }

    fn remember(&mut self, fingerprint: u128) {
        if self.younger.len() >= self.half {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(fingerprint);
    }

    pub(crate) fn forget(&mut self) {
        self.younger.clear();
        self.older.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn entry(number: i64) -> ObjectVersion {
        ObjectVersion {
            bucket: "raw".into(),
            key: format!("climate/{number}.csv"),
            version_id: None,
            etag: "e".into(),
            size_bytes: number,
            last_modified: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_is_settled_is_known_until_it_changes() {
        let mut known = Known::new(100);
        known.insert(&entry(1));
        assert!(known.contains(&entry(1)));
        assert!(!known.contains(&entry(2)));
        assert!(!known.contains(&ObjectVersion { etag: "f".into(), ..entry(1) }));
        let later = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1);
        assert!(!known.contains(&ObjectVersion { last_modified: later, ..entry(1) }));
        let within = DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(9);
        assert!(known.contains(&ObjectVersion { last_modified: within, ..entry(1) }), "one-second resolution");
        known.forget();
        assert!(!known.contains(&entry(1)));
    }

    #[test]
    fn memory_is_bounded_and_what_is_seen_stays() {
        let mut known = Known::new(10);
        known.insert(&entry(0));
        for number in 1..1_000 {
            known.insert(&entry(number));
            assert!(known.contains(&entry(0)), "seen at every step");
            assert!(known.younger.len() + known.older.len() <= 10);
        }
    }
}
