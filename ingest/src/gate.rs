//! Decides whether a domain may be published to now: its topic exists and is the one that the ledger knows, and its
//! processor is not too far behind. A problem of one domain affects only that domain.
//!
//! One task keeps the answers fresh, so that workers never wait for them; between two looks at Kafka, what this
//! listener has published since counts as not yet applied. The ends of the logs that it measures also show whether
//! Kafka has lost records that it had acknowledged ([`crate::truncation`]).

mod backlog;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use freshet_sinks::bookmarks::{self, Bookmark};
use freshet_sinks::ledger::Object;
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::{Ends, LogEnds};
use futures::future::join_all;
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use self::backlog::Backlog;
pub(crate) use self::backlog::Delivered;
pub use self::topic::{Step, decide_opening};
use self::topic::{TopicCheck, Verified};
use crate::metrics;
use crate::producer::Producer;
use crate::truncation::{Acknowledged, Holder, TruncationWatch};

/// How often the task checks whether an answer must be refreshed, while a domain is published to or paused.
const TICK: Duration = Duration::from_millis(50);
/// The same while there is none. Nothing waits for a look then: what is published meanwhile counts as not yet applied.
const IDLE_TICK: Duration = Duration::from_millis(250);
/// A topic is checked again after this time, so that added partitions are used within seconds: two small requests.
const TOPIC_AGE_MAX: Duration = Duration::from_secs(10);
/// A topic that could not be used is checked again after this time.
const TOPIC_RETRY: Duration = Duration::from_secs(2);
/// A problem that an operator has to solve is logged again after this time.
const REMINDER: Duration = Duration::from_secs(60);

/// A topic that may be published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenTopic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: i32,
    pub(crate) stream_id: Uuid,
}

/// Whether the lag allows a domain to continue.
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

/// What happens to a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Paused,
    PublishedTo,
    Idle,
}

impl Activity {
    /// `published` are rows since the last measurement, which found `lag` rows.
    fn of(paused_so_far: bool, lag: i64, published: i64, limit: i64) -> Self {
        match paused(paused_so_far, lag.saturating_add(published), limit) {
            true => Activity::Paused,
            false if published > 0 => Activity::PublishedTo,
            false => Activity::Idle,
        }
    }

    /// The ends of the log are measured again after this time. An idle domain may still have published objects that wait
    /// for rows that Kafka has lost.
    fn ends_age_max(self) -> Duration {
        match self {
            Activity::Paused => Duration::from_millis(100),
            Activity::PublishedTo => Duration::from_millis(250),
            Activity::Idle => Duration::from_secs(5),
        }
    }

    /// When the task checks again.
    fn tick(self) -> Duration {
        if self == Activity::Idle { IDLE_TICK } else { TICK }
    }
}

#[derive(Default)]
struct Seen {
    topic: Option<OpenTopic>,
    verified: Verified,
    checked_at: Option<Instant>,
    complaint: Option<(String, Instant)>,
    /// In rows.
    lag: i64,
    backlog: Backlog,
    ends: Option<LogEnds>,
    measured_at: Option<Instant>,
    paused: bool,
    truncation: TruncationWatch,
}

struct Entry {
    domain: &'static Domain,
    seen: Mutex<Seen>,
    /// Rows acknowledged since the lag was last measured.
    published: AtomicI64,
}

/// One look at a log and at the bookmarks.
struct Measurement {
    /// Messages that no bookmark has passed.
    lag: i64,
    ends: LogEnds,
    bookmarks: Vec<Bookmark>,
    bookmarks_read_at: Instant,
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
    pub(crate) fn open_domains(&self, first: usize) -> Vec<(&'static Domain, i32)> {
        let count = self.entries.len().max(1);
        let entries = (0..self.entries.len()).map(|index| &self.entries[(first + index) % count]);
        entries.filter_map(|entry| Some((entry.domain, self.open(entry)?.partitions))).collect()
    }

    /// The domain's topic, if it may be published to now.
    pub(crate) fn topic(&self, domain: &str) -> Option<OpenTopic> {
        self.open(&self.entries[*self.by_name.get(domain)?])
    }

    /// Whether this is still the domain's topic, and only the lag keeps it from being published to.
    pub(crate) fn is_paused_for_lag(&self, domain: &str, topic: &OpenTopic) -> bool {
        let Some(index) = self.by_name.get(domain) else { return false };
        let entry = &self.entries[*index];
        let seen = lock(&entry.seen);
        seen.topic.as_ref() == Some(topic) && self.activity(entry, &seen) == Activity::Paused
    }

    fn open(&self, entry: &Entry) -> Option<OpenTopic> {
        let seen = lock(&entry.seen);
        if self.activity(entry, &seen) == Activity::Paused { None } else { seen.topic.clone() }
    }

    /// Messages with rows of the domain were acknowledged.
    pub(crate) fn published(&self, domain: &str, delivered: &Delivered) {
        if let Some(index) = self.by_name.get(domain) {
            let entry = &self.entries[*index];
            lock(&entry.seen).backlog.add(delivered);
            entry.published.fetch_add(delivered.rows, Ordering::Relaxed);
        }
    }

    /// Looks whether the domain's log no longer has records of a published object that Kafka had acknowledged according
    /// to the ledger. Must be called repeatedly: an object counts as lost only after several looks.
    pub(crate) fn observe_loss(&self, domain: &str, object: &Object) -> bool {
        let (Some(stream_id), Some(ends)) = (object.stream_id, object.end_offsets.clone()) else { return false };
        let Some(index) = self.by_name.get(domain) else { return false };
        let mut seen = lock(&self.entries[*index].seen);
        let Seen { ends: Some(log), truncation, .. } = &mut *seen else { return false };
        let holder = (Holder::Object(object.id), Acknowledged { stream_id, ends });
        !truncation.compare([holder], Instant::now(), log).is_empty()
    }

    /// Forgets all objects except these, which wait for their rows.
    pub(crate) fn forget_all_but(&self, domain: &str, waiting: &[i64]) {
        if let Some(index) = self.by_name.get(domain) {
            lock(&self.entries[*index].seen).truncation.retain_objects(waiting);
        }
    }

    /// Keeps the answers fresh; never returns.
    pub(crate) async fn keep(&self) {
        loop {
            join_all(self.entries.iter().map(|entry| self.refresh(entry))).await;
            tokio::time::sleep(self.tick()).await;
        }
    }

    /// As often as the busiest domain needs it.
    fn tick(&self) -> Duration {
        let tick = |entry: &Entry| self.activity(entry, &lock(&entry.seen)).tick();
        self.entries.iter().map(tick).min().unwrap_or(IDLE_TICK)
    }

    fn activity(&self, entry: &Entry, seen: &Seen) -> Activity {
        Activity::of(seen.paused, seen.lag, entry.published.load(Ordering::Relaxed), self.lag_rows_max)
    }

    async fn refresh(&self, entry: &Entry) {
        let was_open = self.open(entry).is_some();
        if self.topic_is_due(entry) {
            let checked = self.check_topic(entry).await;
            self.record_topic(entry, checked);
        }
        let topic = lock(&entry.seen).topic.clone();
        if let Some(topic) = topic
            && self.measurement_is_due(entry)
        {
            let before = entry.published.load(Ordering::Relaxed);
            let measured = self.measure(entry.domain, &topic).await;
            self.record_measurement(entry, before, &topic, measured);
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
        seen.checked_at.is_none_or(|at| at.elapsed() >= age_max)
    }

    async fn check_topic(&self, entry: &Entry) -> Result<(OpenTopic, Verified), String> {
        let (verified, open) = {
            let seen = lock(&entry.seen);
            (seen.verified.clone(), seen.topic.as_ref().map_or(0, |topic| topic.partitions))
        };
        let Gate { pool, kafka, producer, .. } = self;
        TopicCheck { pool, kafka, producer, domain: entry.domain }.run(&verified, open).await
    }

    fn record_topic(&self, entry: &Entry, checked: Result<(OpenTopic, Verified), String>) {
        let domain = entry.domain.name;
        let now = Instant::now();
        let mut seen = lock(&entry.seen);
        seen.checked_at = Some(now);
        match checked {
            Ok((topic, verified)) => {
                if seen.complaint.take().is_some() {
                    tracing::info!(domain, "the topic can be published to again");
                }
                seen.topic = Some(topic);
                seen.verified = verified;
            }
            Err(reason) => {
                seen.topic = None;
                seen.verified = Verified::default();
                // The next topic may start its offsets again.
                (seen.ends, seen.backlog) = (None, Backlog::default());
                let said = seen.complaint.as_ref().is_some_and(|(text, at)| *text == reason && at.elapsed() < REMINDER);
                if !said {
                    tracing::warn!(domain, reason, "nothing is published to this domain");
                    seen.complaint = Some((reason, now));
                }
            }
        }
    }

    fn measurement_is_due(&self, entry: &Entry) -> bool {
        let seen = lock(&entry.seen);
        let age_max = self.activity(entry, &seen).ends_age_max();
        seen.measured_at.is_none_or(|at| at.elapsed() >= age_max)
    }

    /// Bookmarks first: everything they have passed is in the log when it is measured.
    async fn measure(&self, domain: &Domain, topic: &OpenTopic) -> Result<Measurement, String> {
        let bookmarks = bookmarks::read(&self.pool, domain.name, Some(topic.stream_id)).await;
        let bookmarks = bookmarks.map_err(|error| format!("read the bookmarks: {error}"))?;
        let bookmarks_read_at = Instant::now();
        let partitions: Vec<i32> = (0..topic.partitions).collect();
        let (name, measured_at) = (Arc::clone(&topic.name), Instant::now());
        let ends = self.producer.log().ask(move |reader| reader.ends_of(&name, &partitions)).await;
        let ends = ends.map_err(|error| format!("ask for the ends of topic {}: {error}", topic.name))?;
        let high = ends.values().map(|ends| ends.high).collect();
        Ok(Measurement {
            lag: lag(&ends, &bookmarks),
            ends: LogEnds { stream_id: topic.stream_id, high, measured_at },
            bookmarks,
            bookmarks_read_at,
        })
    }

    fn record_measurement(&self, entry: &Entry, before: i64, topic: &OpenTopic, measured: Result<Measurement, String>) {
        let domain = entry.domain.name;
        let mut seen = lock(&entry.seen);
        seen.measured_at = Some(Instant::now());
        let Measurement { lag: messages, ends, bookmarks, bookmarks_read_at } = match measured {
            Ok(measurement) => measurement,
            // The last measurement plus the rows published since still count, so the domain pauses in time.
            Err(reason) => {
                tracing::warn!(domain, reason, "cannot measure the lag");
                return;
            }
        };
        entry.published.fetch_sub(before, Ordering::Relaxed);
        let lag = seen.backlog.rows(messages, &bookmarks);
        seen.lag = lag;
        let now = paused(seen.paused, lag, self.lag_rows_max);
        if now != seen.paused {
            let said = match now {
                true => "publishing pauses: the lag is above ingest.lag_rows_max",
                false => "publishing resumes: the lag is below its limit",
            };
            tracing::info!(domain, lag, messages, limit = self.lag_rows_max, "{said}");
        }
        seen.paused = now;
        metrics::LAG_ROWS.with_label_values(&[domain]).set(lag);
        let before = seen.truncation.partitions(Instant::now());
        seen.truncation.compare(holders(topic, &bookmarks), bookmarks_read_at, &ends);
        let truncated = seen.truncation.partitions(Instant::now());
        if truncated > before {
            tracing::error!(domain, topic = %topic.name, partitions = truncated, "Kafka lost records that were applied");
        }
        metrics::LOG_TRUNCATED_PARTITIONS.with_label_values(&[domain]).set(truncated as i64);
        seen.ends = Some(ends);
    }
}

/// Messages in the topic that no bookmark has passed.
fn lag(ends: &BTreeMap<i32, Ends>, bookmarks: &[Bookmark]) -> i64 {
    let next: HashMap<i32, i64> = bookmarks.iter().map(|bookmark| (bookmark.partition, bookmark.next_offset)).collect();
    ends.iter().map(|(partition, ends)| ends.waiting(next.get(partition).copied().unwrap_or(0))).sum()
}

/// Each bookmark as an acknowledged offset of its partition.
fn holders(topic: &OpenTopic, bookmarks: &[Bookmark]) -> Vec<(Holder, Acknowledged)> {
    let acknowledged = |bookmark: &Bookmark| {
        let mut ends = vec![0; topic.partitions.unsigned_abs() as usize];
        *ends.get_mut(usize::try_from(bookmark.partition).ok()?)? = bookmark.next_offset;
        let acknowledged = Acknowledged { stream_id: topic.stream_id, ends };
        Some((Holder::Bookmark(bookmark.partition), acknowledged))
    };
    bookmarks.iter().filter_map(acknowledged).collect()
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

    #[test]
    fn a_domain_that_is_published_to_or_paused_is_looked_at_more_often_than_an_idle_one() {
        let cases = [
            (false, 0, 0, Activity::Idle),
            (false, 100, 0, Activity::Idle),
            (false, 0, 1, Activity::PublishedTo),
            (false, 100, 1, Activity::Paused),
            (true, 76, 0, Activity::Paused),
            (true, 75, 0, Activity::Idle),
        ];
        for (so_far, lag, published, expected) in cases {
            let activity = Activity::of(so_far, lag, published, 100);
            assert_eq!(activity, expected, "{so_far} {lag} {published}");
            assert_eq!(activity.tick(), if expected == Activity::Idle { IDLE_TICK } else { TICK });
        }
    }

    #[test]
    fn the_lag_counts_from_the_bookmark_or_from_where_the_log_begins() {
        let bookmark =
            |partition, next_offset| Bookmark { partition, next_offset, halted: None, accepted_beginning: None };
        let ends = BTreeMap::from([
            (0, Ends { low: 0, high: 10 }),
            (1, Ends { low: 4, high: 10 }),
            (2, Ends { low: 3, high: 7 }),
            (3, Ends { low: 0, high: 5 }),
            (4, Ends { low: 0, high: 1 }),
        ]);
        // Three messages to apply; retention was faster; no bookmark yet; a log that became shorter; no row yet.
        assert_eq!(lag(&ends, &[bookmark(0, 7), bookmark(1, 1), bookmark(3, 9)]), 3 + 6 + 4);
    }
}
