//! The leases that this listener holds, renewed by one task while the objects are worked on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use freshet_sinks::ledger::{self, Object, Renewal};
use sqlx::PgPool;
use uuid::Uuid;

struct Held {
    nonce: Uuid,
    epoch: i64,
    attempts: i32,
    lost: Arc<AtomicBool>,
}

/// All leases of a listener.
#[derive(Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<i64, Held>>,
}

/// One lease; dropping it ends its renewal.
pub(crate) struct Lease {
    object: i64,
    epoch: i64,
    lost: Arc<AtomicBool>,
    leases: Arc<Leases>,
}

impl Lease {
    /// Whether another listener has taken the object over. Checked between chunks, only to save work.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        if held.get(&self.object).is_some_and(|other| other.epoch == self.epoch) {
            held.remove(&self.object);
        }
    }
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashMap<i64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease on an object until the result is dropped.
    pub(crate) fn hold(self: &Arc<Self>, object: &Object) -> Lease {
        let lost = Arc::new(AtomicBool::new(false));
        let Object { id, nonce, lease_epoch: epoch, attempts, .. } = *object;
        self.held().insert(id, Held { nonce, epoch, attempts, lost: Arc::clone(&lost) });
        Lease { object: id, epoch, lost, leases: Arc::clone(self) }
    }

    /// Renews three times in a lease's life; never returns.
    pub(crate) async fn keep(&self, pool: &PgPool, lease: Duration, back_off: Backoff) {
        loop {
            tokio::time::sleep(lease / 3).await;
            let of = |(object, held): (&i64, &Held)| Renewal {
                object: *object,
                nonce: held.nonce,
                lease_epoch: held.epoch,
                back_off: back_off.after(held.attempts.unsigned_abs() + 1),
            };
            let mut asked: Vec<Renewal> = self.held().iter().map(of).collect();
            // In the order in which all transactions lock objects.
            asked.sort_unstable_by_key(|one| one.object);
            if asked.is_empty() {
                continue;
            }
            match ledger::renew(pool, &asked, lease).await {
                Ok(kept) => {
                    for (object, held) in self.held().iter() {
                        let is_asked = asked.iter().any(|one| (one.object, one.lease_epoch) == (*object, held.epoch));
                        if is_asked && !kept.contains(object) {
                            held.lost.store(true, Ordering::Relaxed);
                        }
                    }
                }
                // If another listener takes the object over meanwhile, it publishes the same rows with the same
                // numbers.
                Err(error) => tracing::warn!(%error, objects = asked.len(), "cannot renew leases in the ledger"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example_object;

    #[test]
    fn dropping_an_old_lease_leaves_a_newer_one_on_the_same_object() {
        let leases = Arc::new(Leases::default());
        let object = Object { id: 7, lease_epoch: 1, ..example_object() };
        let old = leases.hold(&object);
        let new = leases.hold(&Object { lease_epoch: 2, ..object });
        drop(old);
        assert_eq!(leases.held().get(&7).map(|held| held.epoch), Some(2));
        assert!(!new.is_lost());
        drop(new);
        assert!(leases.held().is_empty());
    }
}
