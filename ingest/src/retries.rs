//! Files with failed attempts. At most half of the workers take them, so that no new file waits for those that keep
//! failing, however many they are and however long an attempt takes. They are tried in turn, so that one that can be read
//! again does not wait for older ones that cannot.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};

use freshet_sinks::ledger::{Object, OpenDomain};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What the workers share about these files.
pub(crate) struct Retries {
    places: Semaphore,
    /// Selects the next domain for workers that have a place: not the turn of the others, so that neither of them meets
    /// the same domains again and again.
    pub(crate) turn: AtomicUsize,
    /// See [`OpenDomain::tried`].
    tried: Mutex<BTreeMap<String, [i64; 2]>>,
}

impl Retries {
    /// For so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let places = Semaphore::new((workers / 2).max(1));
        Retries { places, turn: AtomicUsize::new(0), tried: Mutex::default() }
    }

    /// A place for such a file, if one is free.
    pub(crate) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// The files of a domain that were tried last.
    pub(crate) fn tried(&self, domain: &str) -> [i64; 2] {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.get(domain).copied().unwrap_or(OpenDomain::NONE_TRIED)
    }

    /// Notes what a worker with a place has claimed. Once that is a file without a failed attempt, those that failed have
    /// had their turn, unless new files lie between them; the first one is next.
    pub(crate) fn claimed(&self, object: &Object) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let of_domain = tried.entry(object.domain.clone()).or_insert(OpenDomain::NONE_TRIED);
        of_domain[usize::from(object.repairs > 0)] = if object.attempts > 0 { object.src_ord } else { i64::MIN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_workers_have_a_place_and_one_worker_has_too() {
        for (workers, places) in [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let retries = Retries::new(workers);
            let taken: Vec<SemaphorePermit<'_>> = std::iter::from_fn(|| retries.place()).collect();
            assert_eq!(taken.len(), places, "{workers} workers");
        }
    }

    #[test]
    fn files_that_failed_are_tried_in_turn_in_each_class_of_a_domain() {
        let retries = Retries::new(4);
        let object = |repairs, attempts, src_ord| Object { repairs, attempts, src_ord, ..crate::example_object() };
        let domain = crate::example_object().domain;
        for (claimed, tried) in [
            (object(0, 2, 10), [10, i64::MIN]),
            (object(1, 1, 5), [10, 5]),
            (object(0, 1, 20), [20, 5]),
            // A new file: those that failed begin again.
            (object(0, 0, 30), [i64::MIN, 5]),
        ] {
            retries.claimed(&claimed);
            assert_eq!(retries.tried(&domain), tried);
        }
        assert_eq!(retries.tried("another"), OpenDomain::NONE_TRIED);
    }
}
