//! Looking at a topic's log from outside: where its partitions begin and end, what they begin with, and how old a
//! record is.
//!
//! Only this module queries Kafka about a log. [`LogReader`] joins no group and commits nothing; it keeps one client
//! for all queries, and its calls block. [`LogClient`] does the same for async code. [`truncated`] decides from two
//! measurements whether a log became shorter than what Kafka had acknowledged.

mod client;
mod truncated;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

pub use self::client::LogClient;
pub use self::truncated::{LogEnds, MEASUREMENTS_APART, truncated};
use crate::kafka::KafkaSettings;
use crate::kafka::access::{self, MetadataClient, Unreachable};
use crate::stream::FirstRecord;

/// The timeout of every query about a log. It outlasts a leader election or the restart of a broker, which take some
/// seconds; callers without an answer try again later.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for records that are read only to show their age.
const AGES_TIMEOUT: Duration = Duration::from_secs(2);

/// Kafka did not answer, or refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The error from rdkafka.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// No broker can be used.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The blocking task was cancelled or panicked.
    #[error("the task that queries Kafka ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The first offset of a partition and the one past its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The log's start.
    pub low: i64,
    /// One past the last record.
    pub high: i64,
}

impl Ends {
    /// The offset of the first record that a bookmark has not passed and that Kafka still has. Record 0 of a partition is
    /// the stream record, which has no row and does not wait. A partition without a bookmark has bookmark 0.
    ///
    /// | bookmark | log | first | waiting |
    /// |---|---|---|---|
    /// | 0 | 0 to 0: empty | none | 0 |
    /// | 0 | 0 to 1: the stream record only | none | 0 |
    /// | 0 | 0 to 5 | 1 | 4 |
    /// | 3 | 0 to 5 | 3 | 2 |
    /// | 3 | 4 to 5: retention was faster | 4 | 1 |
    /// | 3 | 5 to 5: retention took all | none | 0 |
    /// | 5 | 0 to 5 | none | 0 |
    /// | 9 | 0 to 5: the end of a log that became shorter | none | 0 |
    pub fn first_waiting(self, bookmark: i64) -> Option<i64> {
        let first = bookmark.max(1).max(self.low);
        (first < self.high).then_some(first)
    }

    /// The messages from [`Ends::first_waiting`] on: the lag of a partition with this bookmark.
    pub fn waiting(self, bookmark: i64) -> i64 {
        self.first_waiting(bookmark).map_or(0, |first| self.high - first)
    }
}

/// The first record of a partition, and its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLog {
    /// Its record 0.
    pub first: FirstRecord,
    /// Its ends, measured before record 0 was read.
    pub ends: Ends,
}

/// How a topic is spread over the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// How many partitions it has.
    pub partitions: i32,
    /// Replicas of the partition that has the fewest.
    pub replication: i32,
}

/// Whether a topic exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does not exist.
    Missing,
    /// A partition has no leader at present.
    Electing,
    /// It exists, and every partition has a leader.
    Ready(Layout),
}

/// A client for queries only.
pub struct LogReader {
    client: MetadataClient,
    /// Held while records are read: a client has one assignment, and the thread that polls gets its records.
    assignment: Mutex<()>,
}

impl LogReader {
    /// Connects at the first query.
    ///
    /// # Errors
    /// If rdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        Ok(LogReader { client: access::metadata_client(settings)?, assignment: Mutex::default() })
    }

    /// Whether any broker answers.
    ///
    /// # Errors
    /// Why none answers, with what to do if that is known.
    pub fn ping(&self, timeout: Duration) -> Result<(), LogError> {
        let _assignment = self.assignment();
        Ok(access::wait_until_reachable(&self.client, timeout)?)
    }

    /// Why Kafka refuses this client, if it does and says so.
    pub(crate) fn refusal(&self) -> Option<Unreachable> {
        self.poll_events();
        self.client.context().complaint().map(Unreachable::Refused)
    }

    /// Whether the topic exists, and its partitions and replicas. The query does not create it.
    ///
    /// # Errors
    /// If Kafka does not answer in time, or refuses.
    pub fn presence(&self, topic: &str) -> Result<Presence, LogError> {
        self.poll_events();
        let metadata = self.client.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let Some(found) = found else { return Ok(Presence::Missing) };
        match found.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(Presence::Missing);
            }
            Some(RDKafkaErrorCode::LeaderNotAvailable) => return Ok(Presence::Electing),
            Some(code) => return Err(KafkaError::MetadataFetch(code).into()),
            None => {}
        }
        let partitions = found.partitions();
        let replication = partitions.iter().map(|partition| partition.replicas().len()).min();
        let is_led = partitions.iter().all(|partition| partition.leader() >= 0);
        let layout = |replication| {
            let partitions = i32::try_from(partitions.len()).ok()?;
            Some(Layout { partitions, replication: i32::try_from(replication).ok()? })
        };
        Ok(replication.filter(|_| is_led).and_then(layout).map_or(Presence::Electing, Presence::Ready))
    }

    /// The ends of each partition; empty if the topic does not exist.
    ///
    /// # Errors
    /// If Kafka does not answer in time.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, Ends>, LogError> {
        self.poll_events();
        let metadata = self.client.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions: Vec<i32> =
            found.into_iter().flat_map(|found| found.partitions().iter().map(|it| it.id())).collect();
        self.ends_of(topic, &partitions)
    }

    /// The ends of these partitions, with one request to each broker.
    ///
    /// # Errors
    /// If Kafka does not answer in time, or does not know one of them.
    pub fn ends_of(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, Ends>, LogError> {
        // The end first: retention may remove a record in between, but the log does not become shorter at its end.
        let high = self.list_offsets(topic, partitions, Offset::End)?;
        let low = self.list_offsets(topic, partitions, Offset::Beginning)?;
        let ends = high.into_iter().filter_map(|(partition, high)| {
            let low = (*low.get(&partition)?)?;
            // A partition that retention emptied meanwhile begins at its end.
            Some((partition, Ends { low, high: high?.max(low) }))
        });
        Ok(ends.collect())
    }

    /// The first record of each of these partitions, and its ends; all are read together.
    ///
    /// # Errors
    /// If Kafka does not answer in time, or does not know one of them.
    pub fn beginnings(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, PartitionLog>, LogError> {
        let ends = self.ends_of(topic, partitions)?;
        let mut firsts = BTreeMap::new();
        let wanted: BTreeMap<i32, i64> =
            ends.iter().filter(|(_, ends)| ends.low == 0 && ends.high > 0).map(|(it, _)| (*it, 0)).collect();
        self.read_one_of_each(topic, &wanted, REQUEST_TIMEOUT, |message| {
            let first = match message.offset() {
                0 => FirstRecord::of(message.headers()),
                // The log begins at 0, but has no record there: it is a transaction marker.
                _ => FirstRecord::Foreign,
            };
            firsts.insert(message.partition(), first);
        })?;
        if firsts.len() < wanted.len() {
            return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut).into());
        }
        let log = |(partition, ends): (i32, Ends)| {
            let first = match firsts.get(&partition) {
                Some(first) => *first,
                None if ends.low > 0 => FirstRecord::Removed,
                None => FirstRecord::Empty,
            };
            (partition, PartitionLog { first, ends })
        };
        Ok(ends.into_iter().map(log).collect())
    }

    /// The offsets that a consumer group has committed in Kafka; a partition without a commit is left out.
    ///
    /// # Errors
    /// If Kafka does not answer in time, or refuses.
    pub fn committed(
        settings: &KafkaSettings,
        group: &str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, LogError> {
        let consumer = access::metadata_client_with(settings, &[("group.id", group)])?;
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition(topic, *partition);
        }
        let found = consumer.committed_offsets(wanted, REQUEST_TIMEOUT)?;
        let known = found.elements().into_iter().map(|it| (it.partition(), real_offset(it.offset())));
        Ok(known.filter_map(|(partition, offset)| Some((partition, offset?))).collect())
    }

    /// The offset of the first record written at `time` or later in each partition; `None` if there is none.
    ///
    /// # Errors
    /// If Kafka does not answer in time.
    pub fn offsets_since(
        &self,
        topic: &str,
        partitions: &[i32],
        time: DateTime<Utc>,
    ) -> Result<BTreeMap<i32, Option<i64>>, LogError> {
        self.list_offsets(topic, partitions, Offset::Offset(time.timestamp_millis()))
    }

    /// When the records at these offsets were written, by partition. A record that does not arrive in time is left out.
    ///
    /// # Errors
    /// If rdkafka refuses, or Kafka does not have one of the offsets.
    pub fn written_at(
        &self,
        topic: &str,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, DateTime<Utc>>, LogError> {
        let mut found = BTreeMap::new();
        self.read_one_of_each(topic, offsets, AGES_TIMEOUT, |message| {
            let at = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
            found.extend(at.map(|at| (message.partition(), at)));
        })?;
        Ok(found)
    }

    /// Kafka's ListOffsets: `at` is a time in milliseconds, or the end or the beginning, which Kafka encodes as times
    /// too. One request to each broker, while librdkafka's watermarks take two for each partition.
    fn list_offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        at: Offset,
    ) -> Result<BTreeMap<i32, Option<i64>>, LogError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition_offset(topic, *partition, at)?;
        }
        let found = self.client.offsets_for_times(wanted, REQUEST_TIMEOUT)?;
        let mut offsets = BTreeMap::new();
        for element in found.elements() {
            element.error()?;
            offsets.insert(element.partition(), real_offset(element.offset()));
        }
        Ok(offsets)
    }

    /// Reads one record of each partition, the first at its offset or later, until all have arrived or the time is
    /// over.
    fn read_one_of_each(
        &self,
        topic: &str,
        offsets: &BTreeMap<i32, i64>,
        within: Duration,
        mut take: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let _assignment = self.assignment();
        let mut wanted = TopicPartitionList::new();
        for (partition, offset) in offsets {
            wanted.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        self.client.assign(&wanted)?;
        let mut open = offsets.clone();
        let deadline = Instant::now() + within;
        let result = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = match self.client.poll(left) {
                Some(Ok(message)) => message,
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            };
            if open.remove(&message.partition()).is_none() {
                continue;
            }
            take(&message);
            if open.is_empty() {
                break Ok(());
            }
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, message.partition());
            if let Err(error) = self.client.pause(&done) {
                break Err(error);
            }
        };
        // A pause outlives the assignment.
        self.client.resume(&wanted)?;
        self.client.unassign()?;
        result
    }

    fn assignment(&self) -> MutexGuard<'_, ()> {
        // It guards no value that a panic could leave inconsistent.
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the client fetch its token and receive errors from Kafka, unless it is being polled already.
    fn poll_events(&self) {
        match self.assignment.try_lock() {
            Ok(_assignment) => access::poll_events(&self.client),
            Err(TryLockError::Poisoned(_)) => access::poll_events(&self.client),
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// The offset, unless it is a symbolic one.
fn real_offset(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_begins_at_the_bookmark_or_where_the_log_does() {
        let cases = [
            (0, 0, 0, None, 0),
            (0, 0, 1, None, 0),
            (0, 0, 5, Some(1), 4),
            (0, 4, 5, Some(4), 1),
            (1, 0, 5, Some(1), 4),
            (3, 0, 5, Some(3), 2),
            (3, 4, 5, Some(4), 1),
            (3, 5, 5, None, 0),
            (5, 0, 5, None, 0),
            (9, 0, 5, None, 0),
        ];
        for (bookmark, low, high, first, waiting) in cases {
            let ends = Ends { low, high };
            assert_eq!(ends.first_waiting(bookmark), first, "{bookmark} in {low}..{high}");
            assert_eq!(ends.waiting(bookmark), waiting, "{bookmark} in {low}..{high}");
        }
    }
}
