//! Registers new objects, key by key under its lock, and logs the result.

use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::ledger::on_one_line;
use freshet_sinks::ledger::register::{self, KEYS_PER_TRANSACTION};
use freshet_sinks::s3::Versions;
use freshet_topics::trace;
use tokio::time::Instant;

use super::Discovery;
use super::pass::Pass;
use crate::object::{Listed, ObjectVersion, ReadError};
use crate::{Listener, metrics};

pub(super) type Registered = register::Registered<ReadError>;

/// The most keys with failures remembered; beyond that, a key is tried at every listing.
const TROUBLED_MAX: usize = 10_000;
/// How long the store may take to answer for one key. Of a transaction's keys, 32 are asked about at once: if none is
/// answered for, it ends after 40 s, long before Postgres ends it, and announced keys wait no longer than that.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);

impl Discovery {
    /// Registers the new entries of a listing, in key order, until `stop`. Workers are woken after each transaction.
    pub(super) async fn register(&mut self, pass: &mut Pass) -> Result<(), sqlx::Error> {
        let mut fresh = std::mem::take(&mut pass.fresh);
        fresh.sort_by(|one, other| one.version.key.cmp(&other.version.key));
        // Prefixes may overlap, and a key may have several versions.
        let by_key: Vec<&[Listed]> = fresh.chunk_by(|one, other| one.version.key == other.version.key).collect();
        for batch in by_key.chunks(KEYS_PER_TRANSACTION) {
            if self.stop.is_cancelled() {
                break;
            }
            let keys: Vec<String> = batch.iter().map(|entries| entries[0].version.key.clone()).collect();
            let outcomes = self.register_keys(&keys).await?;
            for ((entries, key), outcome) in batch.iter().zip(&keys).zip(outcomes) {
                pass.found.registered += self.tell(key, &outcome);
                pass.found.unsettled += u64::from(!self.remember(key, entries, outcome));
            }
            self.between_requests().await?;
        }
        Ok(())
    }

    /// Registers what S3 holds under each of at most [`KEYS_PER_TRANSACTION`] keys; the result is in their order.
    pub(super) async fn register_keys(&mut self, keys: &[String]) -> Result<Vec<Registered>, sqlx::Error> {
        let by_versions = self.lists_versions();
        let listener = Arc::clone(&self.listener);
        let (pool, bucket) = (&listener.pool, &listener.bucket);
        let held = |key| held(&listener, key, by_versions);
        let outcomes = register::register(pool, bucket, self.domain.name, keys, self.versions_from, held).await?;
        if outcomes.iter().any(|outcome| matches!(outcome, Registered::New(_) | Registered::Reappeared(_))) {
            listener.work_to_do.notify_waiters();
        }
        Ok(outcomes)
    }

    /// Logs the result for a key; returns how many versions are to be published.
    pub(super) fn tell(&self, key: &str, outcome: &Registered) -> u64 {
        let (domain, bucket) = (self.domain.name, &self.listener.bucket);
        let new = match outcome {
            Registered::New(objects) => {
                for (object, version) in objects {
                    tracing::info!(domain, key, object, bytes = version.size_bytes, "discovered");
                    let detail = trace::Detail { domain: Some(domain), key: Some(key), ..trace::Detail::default() };
                    trace::passed(*object, "discover", version.last_modified.into(), detail);
                }
                objects.len() as u64
            }
            Registered::Reappeared(object) => {
                tracing::warn!(domain, bucket, key, object, "it seemed to be gone, but the bucket still has it");
                1
            }
            Registered::Known | Registered::Absent | Registered::Failed(_) => 0,
        };
        metrics::OBJECTS_DISCOVERED.with_label_values(&[domain]).inc_by(new);
        new
    }

    /// Remembers the result for a key with these listing entries; returns whether it is settled. Otherwise it is to be
    /// tried again later.
    fn remember(&mut self, key: &str, entries: &[Listed], outcome: Registered) -> bool {
        let (domain, bucket) = (self.domain.name, self.listener.bucket.clone());
        match outcome {
            Registered::New(_) | Registered::Reappeared(_) | Registered::Known => {}
            // A listing may lag behind the bucket: that is not worth a log line, nor a HEAD at each listing. Below a
            // delete marker it is normal.
            Registered::Absent if entries.iter().all(|entry| !entry.is_latest) => {}
            Registered::Absent => {
                self.trouble(key);
                return false;
            }
            Registered::Failed(error) => {
                let pause_ms = self.trouble(key).as_millis() as u64;
                tracing::warn!(domain, bucket, key, %error, pause_ms, "registration failed, trying again");
                return false;
            }
        }
        self.troubled.remove(key);
        // The listed version is settled even if S3 returned a still newer one.
        for entry in entries {
            self.known.insert(entry);
        }
        true
    }

    fn trouble(&mut self, key: &str) -> Duration {
        let failures = self.troubled.get(key).map_or(1, |(failures, _)| failures + 1);
        let pause = self.listener.back_off().after(failures);
        if self.troubled.len() >= TROUBLED_MAX {
            self.troubled.retain(|_, (_, until)| *until > Instant::now());
        }
        if self.troubled.len() < TROUBLED_MAX {
            self.troubled.insert(key.to_owned(), (failures, Instant::now() + pause));
        }
        pause
    }

    /// How long until the first of the keys that could not be registered is tried again; `None` if there is none.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        let now = Instant::now();
        self.troubled.values().filter_map(|(_, until)| until.checked_duration_since(now)).min()
    }

    pub(super) fn is_troubled(&self, key: &str) -> bool {
        self.troubled.get(key).is_some_and(|(_, until)| *until > Instant::now())
    }
}

/// What S3 has under a key: all its versions, or the current one. With the setting `auto`, if the store does not allow
/// listing versions, only the current one.
async fn held(listener: &Listener, key: String, by_versions: bool) -> Result<Vec<ObjectVersion>, ReadError> {
    if by_versions {
        let versions = listener.reader.versions_of(&listener.bucket, &key);
        match listener.s3(in_time(LOOK_UP_MAX, &listener.bucket, &key, versions)).await {
            Err(ReadError::Denied { .. }) if listener.versions == Versions::Auto => {}
            held => return held,
        }
    }
    Ok(head(listener, key).await?.into_iter().collect())
}

pub(super) async fn head(listener: &Listener, key: String) -> Result<Option<ObjectVersion>, ReadError> {
    let head = listener.reader.head(&listener.bucket, &key);
    listener.s3(in_time(LOOK_UP_MAX, &listener.bucket, &key, head)).await
}

/// What the store says of a key, or a failure of that key alone if it says nothing within `limit`.
async fn in_time<T>(
    limit: Duration,
    bucket: &str,
    key: &str,
    request: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    let late = || ReadError::Transient {
        action: "look up",
        object: format!("s3://{bucket}/{}", on_one_line(key)),
        detail: format!("no answer within {limit:?}"),
    };
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_of_which_the_store_says_nothing_fails_after_a_while() {
        let limit = Duration::from_millis(10);
        let silent = in_time(limit, "raw", "health/a.csv", std::future::pending::<Result<(), ReadError>>()).await;
        let said = silent.expect_err("no answer").to_string();
        assert_eq!(said, "look up s3://raw/health/a.csv: no answer within 10ms");
        let answered = in_time(limit, "raw", "health/a.csv", std::future::ready(Ok(7))).await;
        assert_eq!(answered.expect("an answer"), 7);
    }
}
