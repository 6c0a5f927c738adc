//! Looks at single keys that stores announced, between two listings and within a long one.

use std::collections::BTreeSet;
use std::time::Duration;

use freshet_sinks::ledger::register::KEYS_PER_TRANSACTION;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registering::Registered;
use super::{DiscoverError, Discovery};
use crate::hints::{Keys, Looked};

impl Discovery {
    /// Looks at the keys that stores announce, for `most` or until `stop`; keys that fail wait for the listing. If keys
    /// were dropped, the listing is due after `least`.
    pub(super) async fn look_at_hinted_keys(&mut self, least: Duration, most: Duration, stop: &CancellationToken) {
        let hints = self.listener.hints.clone();
        let (soon, mut until) = (Instant::now() + least, Instant::now() + most);
        let domain = self.domain;
        // Only the waiting is interrupted, never a transaction.
        while let Some(Some(keys)) = stop.run_until_cancelled(hints.wait_until(domain, until)).await {
            self.look_and_tell(keys).await;
            if hints.have_dropped(domain) {
                until = until.min(soon);
            }
        }
    }

    /// Looks at keys, and tells the callers the result.
    pub(super) async fn look_and_tell(&mut self, mut asked: Keys) {
        let settled = self.look_at(asked.keys().cloned().collect()).await;
        if let Err(error) = &settled {
            let (domain, bucket) = (self.domain.name, &self.listener.bucket);
            tracing::debug!(domain, bucket, %error, "look at keys announced by the store");
        }
        for (key, tell) in asked.iter_mut().flat_map(|(key, tells)| tells.drain(..).map(move |tell| (key, tell))) {
            let looked = match &settled {
                Ok(settled) if settled.contains(key) => Looked::Settled,
                Ok(_) => Looked::Unread,
                Err(_) => Looked::NoLedger,
            };
            // If the caller has stopped waiting, the queue delivers the message again.
            _ = tell.send(looked);
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
