//! Remembers earlier listings, so that a listing without anything new needs no query to the ledger.

pub(crate) mod pages;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::object::Listed;

/// The listing entries that were settled, that is, in the ledger, at the last look. Only the last entry of each key is
/// remembered: for a key that was written A, B, A, an entry appears again that was settled before but is another
/// version.
///
/// Only fingerprints are stored: 128 bits of the key, 64 of the rest, so that at a million entries the probability of
/// taking a new one for an old one is 1 in 10^19.
///
/// Bounded by two generations: when the younger is full it becomes the older, whose entries are forgotten unless they
/// are seen again. Forgetting is harmless: the ledger is queried once more.
pub(crate) struct Known {
    hashers: [RandomState; 2],
    younger: HashMap<[u64; 2], u64>,
    older: HashMap<[u64; 2], u64>,
    half: usize,
}

impl Known {
    /// Remembers at most `entries_max` entries, 24 bytes each and as much again for the table.
    pub(crate) fn new(entries_max: usize) -> Self {
        Known {
            hashers: [RandomState::new(), RandomState::new()],
            younger: HashMap::new(),
            older: HashMap::new(),
            half: entries_max.div_ceil(2).max(1),
        }
    }

    pub(crate) fn fingerprint(&self, value: impl Hash) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(&value))
    }

    fn of(&self, Listed { version, is_latest }: &Listed) -> ([u64; 2], u64) {
        let rest = (&version.etag, version.size_bytes, version.last_modified.timestamp(), &version.version_id);
        // A version that was overwritten is remembered separately.
        let overwritten = (!is_latest).then_some(&version.version_id);
        (self.fingerprint((&version.key, overwritten)), self.hashers[0].hash_one(rest))
    }

    pub(crate) fn contains(&mut self, entry: &Listed) -> bool {
        let (key, rest) = self.of(entry);
        if let Some(last) = self.younger.get(&key) {
            return *last == rest;
        }
        let found = self.older.get(&key) == Some(&rest);
        if found {
            self.remember(key, rest);
        }
        found
    }

    pub(crate) fn insert(&mut self, entry: &Listed) {
        let (key, rest) = self.of(entry);
        self.remember(key, rest);
    }

    /// Forgets what a key was seen to have.
    pub(crate) fn forget_key(&mut self, key: &str) {
        let key = self.fingerprint((key, None::<&Option<String>>));
        self.younger.remove(&key);
        self.older.remove(&key);
    }

    fn remember(&mut self, key: [u64; 2], rest: u64) {
        if self.younger.len() >= self.half && !self.younger.contains_key(&key) {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(key, rest);
    }

    pub(crate) fn forget(&mut self) {
        self.younger.clear();
        self.older.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectVersion;
    use chrono::DateTime;

    fn version(number: i64) -> ObjectVersion {
        ObjectVersion {
            bucket: "raw".into(),
            key: format!("climate/{number}.csv"),
            version_id: None,
            etag: "e".into(),
            size_bytes: number,
            last_modified: DateTime::UNIX_EPOCH,
        }
    }

    fn entry(number: i64) -> Listed {
        version(number).into()
    }

    #[test]
    fn what_is_settled_is_known_until_it_changes() {
        let mut known = Known::new(100);
        known.insert(&entry(1));
        assert!(known.contains(&entry(1)));
        assert!(!known.contains(&entry(2)));
        assert!(!known.contains(&ObjectVersion { etag: "f".into(), ..version(1) }.into()));
        let later = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1);
        assert!(!known.contains(&ObjectVersion { last_modified: later, ..version(1) }.into()));
        let within = DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(9);
        assert!(known.contains(&ObjectVersion { last_modified: within, ..version(1) }.into()), "one-second resolution");
        let other: Listed = ObjectVersion { etag: "f".into(), ..version(1) }.into();
        known.insert(&other);
        assert!(!known.contains(&entry(1)), "written A, B, A: the second A is another version");
        let overwritten = |id: &str| Listed {
            version: ObjectVersion { version_id: Some(id.into()), ..version(1) },
            is_latest: false,
        };
        known.insert(&overwritten("v1"));
        known.insert(&overwritten("v2"));
        assert!(known.contains(&overwritten("v1")) && known.contains(&overwritten("v2")) && known.contains(&other));
        known.forget_key(&other.version.key);
        assert!(!known.contains(&other));
        known.insert(&other);
        known.forget();
        assert!(!known.contains(&other));
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
