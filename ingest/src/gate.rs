//! Whether a domain may be published to now: its topic is there, is the one the ledger knows, and its
//! processor is not too far behind. One domain's trouble closes only that domain.
//!
//! One task keeps the answers fresh, so that workers never wait for them; between two looks at Kafka, what
//! this listener has published since counts as not yet applied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use freshet_sinks::streams::{self, Binding};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::{Domain, catalog};
use futures::future::join_all;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics;
use crate::producer::Producer;

/// How often the task looks whether an answer is due.
const TICK: Duration = Duration::from_millis(50);
/// A topic is described anew after this; partitions may have been added.
const TOPIC_AGE_MAX: Duration = Duration::from_secs(30);
/// A topic that could not be used is looked at again after this.
const TOPIC_RETRY: Duration = Duration::from_secs(2);
/// What a person has to mend is said again after this.
const REMINDER: Duration = Duration::from_secs(60);
/// The lag is measured anew after this while the domain is paused, is being published to, or is idle.
const LAG_AGE_MAX: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(250), Duration::from_secs(10)];

/// A topic that may be published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenTopic {
    pub(crate) topic: Arc<str>,
    pub(crate) partitions: i32,
    pub(crate) stream_id: Uuid,
}

/// Whether the lag lets a domain go on.
///
/// | so far | lag | now |
/// |---|---|---|
/// | running | at most the limit | running |
/// | running | above the limit | paused |
/// | paused | above three quarters of the limit | paused |
/// | paused | at most three quarters of it | running |
fn paused(so_far: bool, lag: i64, limit: i64) -> bool {
    lag > if so_far { limit - limit / 4 } else { limit }
}

#[derive(Default)]
struct Seen {
    topic: Option<OpenTopic>,
    topic_at: Option<Instant>,
    complaint: Option<(String, Instant)>,
    lag: i64,
    lag_at: Option<Instant>,
    paused: bool,
}

struct Entry {
    domain: &'static Domain,
    seen: Mutex<Seen>,
    /// Rows acknowledged since the lag was last measured.
    published: AtomicI64,
}

/// The gates of all domains.
pub(crate) struct Gate {
    pool: PgPool,
    kafka: KafkaSettings,
    producer: Arc<Producer>,
    lag_rows_max: i64,
    entries: Vec<Entry>,
    by_name: HashMap<&'static str, usize>,
    /// Told when a domain opens.
    opened: Arc<Notify>,
}

impl Gate {
    pub(crate) fn new(
        pool: PgPool,
        kafka: KafkaSettings,
        producer: Arc<Producer>,
        lag_rows_max: i64,
        domains: &[&'static Domain],
        opened: Arc<Notify>,
    ) -> Self {
        let entries = domains
            .iter()
            .map(|domain| Entry { domain, seen: Mutex::default(), published: AtomicI64::new(0) })
            .collect();
        let by_name = domains.iter().enumerate().map(|(index, domain)| (domain.name, index)).collect();
        Gate { pool, kafka, producer, lag_rows_max, entries, by_name, opened }
    }

    /// The domains that may be published to, each with its partition count, from the `first`th on (so that
    /// callers can take turns).
    pub(crate) fn open_domains(&self, first: usize) -> Vec<(&'static str, i32)> {
        let count = self.entries.len().max(1);
        let entries = (0..self.entries.len()).map(|index| &self.entries[(first + index) % count]);
        entries.filter_map(|entry| Some((entry.domain.name, self.open(entry)?.partitions))).collect()
    }

    /// The domain's topic, if it may be published to now.
    pub(crate) fn topic(&self, domain: &str) -> Option<OpenTopic> {
        self.open(&self.entries[*self.by_name.get(domain)?])
    }

    fn open(&self, entry: &Entry) -> Option<OpenTopic> {
        let seen = lock(&entry.seen);
        let lag = seen.lag.saturating_add(entry.published.load(Ordering::Relaxed));
        if paused(seen.paused, lag, self.lag_rows_max) { None } else { seen.topic.clone() }
    }

    /// Rows of the domain were acknowledged.
    pub(crate) fn published(&self, domain: &str, rows: i64) {
        if let Some(index) = self.by_name.get(domain) {
            self.entries[*index].published.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// Keeps the answers fresh until `stop`.
    pub(crate) async fn keep(&self, stop: CancellationToken) {
        loop {
            join_all(self.entries.iter().map(|entry| self.refresh(entry))).await;
            if stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_none() {
                return;
            }
        }
    }

    async fn refresh(&self, entry: &Entry) {
        let was_open = self.open(entry).is_some();
        if self.topic_is_due(entry) {
            let found = self.look_at_topic(entry.domain).await;
            self.note_topic(entry, found);
        }
        let topic = lock(&entry.seen).topic.clone();
        if let Some(topic) = topic
            && self.lag_is_due(entry)
        {
            let before = entry.published.load(Ordering::Relaxed);
            let measured = self.measure_lag(entry.domain, &topic).await;
            self.note_lag(entry, before, measured);
        }
        let is_open = self.open(entry).is_some();
        metrics::PAUSED_DOMAINS.with_label_values(&[entry.domain.name]).set((!is_open).into());
        if is_open && !was_open {
            self.opened.notify_waiters();
        }
    }

    fn topic_is_due(&self, entry: &Entry) -> bool {
        let seen = lock(&entry.seen);
        let age_max = if seen.topic.is_some() { TOPIC_AGE_MAX } else { TOPIC_RETRY };
        seen.topic_at.is_none_or(|at| at.elapsed() >= age_max)
    }

    async fn look_at_topic(&self, domain: &Domain) -> Result<OpenTopic, String> {
        let state = catalog::describe(&self.kafka, domain).await.map_err(|error| error.to_string())?;
        let binding = streams::bind(&self.pool, domain.name, &state)
            .await
            .map_err(|error| format!("read the known stream of topic {}: {error}", state.topic))?;
        match binding {
            Binding::Same(stream_id) => {
                Ok(OpenTopic { topic: state.topic.into(), partitions: state.partitions, stream_id })
            }
            Binding::Other { known, found } => Err(format!(
                "topic {} was deleted and made again (stream {found}, known is {known}): nothing is published to it \
                 before `freshet bookmarks adopt`",
                state.topic
            )),
            Binding::Unknown => Err(format!(
                "topic {} has no stream record and the database does not know it: nothing is published to it before \
                 `freshet bookmarks adopt`",
                state.topic
            )),
        }
    }

    fn note_topic(&self, entry: &Entry, found: Result<OpenTopic, String>) {
        let domain = entry.domain.name;
        let now = Instant::now();
        let mut seen = lock(&entry.seen);
        seen.topic_at = Some(now);
        match found {
            Ok(topic) => {
                if seen.complaint.take().is_some() {
                    tracing::info!(domain, "the topic can be published to again");
                }
                seen.topic = Some(topic);
            }
            Err(reason) => {
                seen.topic = None;
                let said = seen.complaint.as_ref().is_some_and(|(text, at)| *text == reason && at.elapsed() < REMINDER);
                if !said {
                    tracing::warn!(domain, reason, "nothing is published to this domain");
                    seen.complaint = Some((reason, now));
                }
            }
        }
    }

    fn lag_is_due(&self, entry: &Entry) -> bool {
        let seen = lock(&entry.seen);
        let published = entry.published.load(Ordering::Relaxed);
        let paused = paused(seen.paused, seen.lag.saturating_add(published), self.lag_rows_max);
        let age_max = match (paused, published > 0) {
            (true, _) => LAG_AGE_MAX[0],
            (false, true) => LAG_AGE_MAX[1],
            (false, false) => LAG_AGE_MAX[2],
        };
        seen.lag_at.is_none_or(|at| at.elapsed() >= age_max)
    }

    /// Records in the topic that no bookmark of this stream has passed. A partition without a bookmark counts
    /// from its first record.
    async fn measure_lag(&self, domain: &Domain, topic: &OpenTopic) -> Result<i64, String> {
        let partitions = usize::try_from(topic.partitions).unwrap_or(0);
        let watermarks = self.producer.watermarks(&topic.topic, partitions).await.map_err(|error| error.to_string())?;
        let bookmarks: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT partition, next_offset FROM pipeline.bookmarks WHERE domain = $1 AND stream_id = $2",
        )
        .bind(domain.name)
        .bind(topic.stream_id)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| format!("read the bookmarks: {error}"))?;
        let bookmarks: HashMap<i32, i64> = bookmarks.into_iter().collect();
        Ok((0..)
            .zip(watermarks)
            .map(|(partition, (low, high))| {
                let next = bookmarks.get(&partition).map_or(low, |next| low.max(*next));
                (high - next).max(0)
            })
            .sum())
    }

    fn note_lag(&self, entry: &Entry, before: i64, measured: Result<i64, String>) {
        let domain = entry.domain.name;
        let mut seen = lock(&entry.seen);
        seen.lag_at = Some(Instant::now());
        match measured {
            Ok(lag) => {
                entry.published.fetch_sub(before, Ordering::Relaxed);
                seen.lag = lag;
                let now = paused(seen.paused, lag, self.lag_rows_max);
                if now != seen.paused {
                    tracing::info!(domain, lag, limit = self.lag_rows_max, paused = now, "lag limit");
                }
                seen.paused = now;
                metrics::LAG_ROWS.with_label_values(&[domain]).set(lag);
            }
            // The last measure plus what was published since stands, and so the domain pauses in time.
            Err(reason) => tracing::warn!(domain, reason, "measure the lag"),
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_pauses_above_the_limit_and_goes_on_at_three_quarters() {
        let cases = [
            (false, 0, false),
            (false, 100, false),
            (false, 101, true),
            (true, 100, true),
            (true, 76, true),
            (true, 75, false),
            (true, 0, false),
        ];
        for (so_far, lag, expected) in cases {
            assert_eq!(paused(so_far, lag, 100), expected, "{so_far} {lag}");
        }
        assert!(!paused(true, 0, 1) && paused(false, 2, 1), "the least limit");
    }
}
