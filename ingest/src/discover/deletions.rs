//! Finds objects that are in the ledger but no longer in the bucket: compares a listing with all objects that are
//! present according to the ledger.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use freshet_sinks::ledger::register;
use futures::stream::{self, StreamExt};

use super::registering::head;
use super::{DiscoverError, Discovery};
use crate::object::ReadError;

/// Keys of the ledger compared with a listing in one statement.
const PRESENT_PAGE: i64 = 1_000;
/// The most keys of one listing that are compared with the ledger for deletions, all domains together: about 15 MB of
/// fingerprints. If there are more, each comparison covers a part of them.
const LISTED_MAX: u64 = 400_000;
/// The most HEAD requests in one look for deleted objects; the next look continues with the rest.
const DELETED_MAX: usize = 1_000;
/// The most of them at once: the next listing waits for the look, and new files with it.
const HEADS_AT_ONCE: usize = 16;

/// A listing that is also compared with the objects that are present according to the ledger.
pub(super) struct Reconciliation {
    /// Objects with a higher id may have been found after the listing began.
    newest_id: i64,
    /// Fingerprints of the listed keys that are in the part being compared.
    listed: HashSet<[u64; 2]>,
    /// The number of parts that the keys are compared in, and the part that is compared now.
    parts: u64,
    part: u64,
    /// More keys than this are not remembered: their number is known then, and they are compared next time.
    listed_max: usize,
}

impl Reconciliation {
    /// Whether a key is in the part being compared.
    fn covers(&self, key: [u64; 2]) -> bool {
        key[0] % self.parts == self.part
    }

    /// Notes a listed key.
    pub(super) fn show(&mut self, key: [u64; 2]) {
        if self.covers(key) && !self.is_full() {
            self.listed.insert(key);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.listed.len() >= self.listed_max
    }

    /// Whether a key is in the part being compared and was not listed.
    fn lacks(&self, key: [u64; 2]) -> bool {
        self.covers(key) && !self.listed.contains(&key)
    }
}

/// How far one look for deletions has come among the keys of the ledger.
struct Turn {
    /// The last key looked at.
    after: String,
    /// HEAD requests so far.
    asked: usize,
}

impl Turn {
    /// The keys of a page to ask about: the absent ones, up to the limit of the look.
    fn take(&mut self, page: Vec<String>, is_absent: impl Fn(&String) -> bool) -> Vec<String> {
        if let Some(last) = page.last() {
            self.after.clone_from(last);
        }
        let absent: Vec<String> = page.into_iter().filter(is_absent).take(DELETED_MAX - self.asked).collect();
        self.asked += absent.len();
        if let Some(last) = absent.last().filter(|_| self.is_over()) {
            self.after.clone_from(last);
        }
        absent
    }

    fn is_over(&self) -> bool {
        self.asked >= DELETED_MAX
    }

    /// The key after which the next look continues; empty: from the first.
    fn next(self) -> String {
        if self.is_over() { self.after } else { String::new() }
    }
}

impl Discovery {
    /// Begins a listing that is to be compared; of many keys, a part is compared.
    pub(super) async fn begin_reconciliation(&self) -> Result<Reconciliation, sqlx::Error> {
        let newest_id = register::newest_id(&self.listener.pool).await?;
        let listed_max = LISTED_MAX / self.listener.domains.len().max(1) as u64;
        let parts = self.listed_before.div_ceil(listed_max).max(1);
        let part = self.reconciliations % parts;
        let listed_max = 2 * listed_max as usize;
        Ok(Reconciliation { newest_id, listed: HashSet::new(), listed_max, parts, part })
    }

    /// Records objects as deleted that are present according to the ledger, missing in this listing, and not found by a
    /// HEAD. Their rows stay. `unlisted` are prefixes that the listing does not cover.
    pub(super) async fn record_deletions(
        &mut self,
        reconciliation: Reconciliation,
        unlisted: &BTreeMap<String, ReadError>,
    ) -> Result<(), DiscoverError> {
        let is_covered = |key: &str| !unlisted.keys().any(|prefix| key.starts_with(prefix.as_str()));
        let listener = Arc::clone(&self.listener);
        let (pool, bucket) = (&listener.pool, &listener.bucket);
        let mut turn = Turn { after: std::mem::take(&mut self.deletions_after), asked: 0 };
        let mut gone = Vec::new();
        while !turn.is_over() {
            let page = register::present_keys(pool, bucket, self.domain.name, &turn.after, PRESENT_PAGE).await?;
            if page.is_empty() {
                break;
            }
            let absent = turn.take(page, |key| is_covered(key) && reconciliation.lacks(self.known.fingerprint(key)));
            let ask = async |key: String| (head(&listener, key.clone()).await, key);
            let mut asked = stream::iter(absent).map(ask).buffer_unordered(HEADS_AT_ONCE);
            while let Some((held, key)) = asked.next().await {
                match held {
                    Ok(None) => gone.push(key),
                    Ok(Some(_)) => {}
                    Err(error) => {
                        let domain = self.domain.name;
                        tracing::warn!(domain, bucket, key, %error, "cannot check whether the object was deleted");
                    }
                }
            }
        }
        self.deletions_after = turn.next();
        if gone.is_empty() {
            return Ok(());
        }
        let recorded = register::record_deletions(pool, bucket, &gone, reconciliation.newest_id).await?;
        tracing::info!(domain = self.domain.name, keys = gone.len(), versions = recorded, "recorded deletions");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The keys that one look asks about, if the ledger has these keys and none of them is listed.
    fn look(ledger: &[String], after: String) -> (Vec<String>, String) {
        let mut turn = Turn { after, asked: 0 };
        let mut asked = Vec::new();
        while !turn.is_over() {
            let rest = ledger.iter().filter(|key| **key > turn.after);
            let page: Vec<String> = rest.take(PRESENT_PAGE as usize).cloned().collect();
            if page.is_empty() {
                break;
            }
            asked.extend(turn.take(page, |key| !key.ends_with("0.csv")));
        }
        (asked, turn.next())
    }

    #[test]
    fn keys_that_are_there_and_not_listed_keep_none_behind_them_from_its_turn() {
        let ledger: Vec<String> = (0..3_500).map(|number| format!("health/{number:04}.csv")).collect();
        let (mut after, mut asked) = (String::new(), Vec::new());
        for expected in [1_000, 1_000, 1_000, 150] {
            let (keys, next) = look(&ledger, after);
            assert_eq!(keys.len(), expected, "at most so many requests at once");
            asked.extend(keys);
            after = next;
        }
        assert_eq!(after, "", "and from the first again");
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 3_150, "each once");
    }

    #[test]
    fn each_key_has_its_turn_to_be_missed_in_one_of_the_parts() {
        for key in [[5, 0], [6, 0], [7, 1]] {
            let lacking = (0..3).filter(|part| {
                let listed = HashSet::from([[6, 0]]);
                Reconciliation { newest_id: 0, listed, parts: 3, part: *part, listed_max: 9 }.lacks(key)
            });
            assert_eq!(lacking.count(), usize::from(key != [6, 0]), "{key:?}");
        }
    }
}
