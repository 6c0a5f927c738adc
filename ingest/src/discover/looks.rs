//! Looks at single keys that stores announced, between two listings and within a long one.

use std::collections::BTreeSet;
use std::time::Duration;

use freshet_sinks::ledger::register::KEYS_PER_TRANSACTION;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::Wait;
use super::registering::Registered;
use super::{DiscoverError, Discovery};
use crate::hints::{Keys, Looked};

/// After a look at several keys, how long the next ones are gathered: more are on their way then, and to register fifty
/// costs Postgres little more than to register one.
const GATHER: Duration = Duration::from_millis(50);

/// Whether no caller waits for the result of a look: one that does announces its next keys only afterwards.
fn is_nobody_waiting(keys: &Keys) -> bool {
    keys.values().flatten().all(oneshot::Sender::is_closed)
}

impl Discovery {
    /// Looks at the keys that stores announce, until the next turn or until `stop`.
    pub(super) async fn look_at_hinted_keys(&mut self, wait: Wait) {
        let (hints, stop) = (self.listener.hints.clone(), self.stop.clone());
        let (soon, until) = (Instant::now() + wait.least, Instant::now() + wait.most);
        // Only the waiting is interrupted, never a transaction.
        while let Some(Some(keys)) = stop.run_until_cancelled(hints.wait_until(self.domain, soon, until)).await {
            let is_burst = keys.len() > 1 && is_nobody_waiting(&keys);
            self.look_and_tell(keys).await;
            if is_burst {
                stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
            }
        }
    }

    /// Looks at keys, and tells the callers the result. A key that fails is left to the listing if no caller waits.
    pub(super) async fn look_and_tell(&mut self, asked: Keys) {
        let settled = self.look_at(asked.keys().cloned().collect()).await;
        if let Err(error) = &settled {
            let (domain, bucket) = (self.domain.name, &self.listener.bucket);
            tracing::debug!(domain, bucket, %error, "look at keys announced by the store");
        }
        for (key, tells) in asked {
            let looked = match &settled {
                Ok(settled) if settled.contains(&key) => Looked::Settled,
                Ok(_) => Looked::Unread,
                Err(_) => Looked::NoLedger,
            };
            // A caller that hears of a failure has the message delivered again.
            let heard = tells.into_iter().filter_map(|tell| tell.send(looked).ok()).count();
            if looked != Looked::Settled && heard == 0 {
                self.listener.hints.miss(self.domain);
            }
        }
    }

    /// Registers what S3 has under these keys, unless the ledger has it. Returns the settled keys: the ledger has what
    /// is there, or there is nothing. A key that cannot be looked up does not delay the others.
    ///
    /// Each key is asked about once, under its lock. What listings showed of it is forgotten: an object may look the
    /// same as before (it was written A, B, A within a second) and still be another version.
    ///
    /// # Errors
    /// If Postgres does not answer, or refuses.
    async fn look_at(&mut self, keys: Vec<String>) -> Result<BTreeSet<String>, sqlx::Error> {
        let mut settled = BTreeSet::new();
        match self.ask_for_versions().await {
            Ok(()) => {}
            Err(DiscoverError::Ledger(error)) => return Err(error),
            Err(DiscoverError::Read(error)) => {
                tracing::debug!(domain = self.domain.name, %error, "look at keys announced by the store");
                return Ok(settled);
            }
        }
        for keys in keys.chunks(KEYS_PER_TRANSACTION) {
            for key in keys {
                self.pages.touch(key);
                self.known.forget_key(key);
            }
            for (key, outcome) in keys.iter().zip(self.register_keys(keys).await?) {
                if let Registered::Failed(error) = &outcome {
                    tracing::debug!(domain = self.domain.name, %error, "look at a key that a store named");
                    continue;
                }
                self.tell(key, &outcome);
                settled.insert(key.clone());
            }
        }
        Ok(settled)
    }
}
