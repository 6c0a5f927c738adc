//! Looking at a topic's log from outside: where its partitions begin and end, and how old a record is.
//!
//! The reader belongs to no group and moves nothing. It keeps one client for all its questions; its calls block.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::KafkaSettings;
use crate::kafka::access::{self, Asking, Unreachable};

/// A broker that does not answer within this is an error; whoever asks does so again later.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Records that have not come within this are left out: their age is only shown.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Kafka did not answer, or refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What rdkafka says.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// No broker can be used.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// The first offset of a partition and the one past its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The log's start.
    pub low: i64,
    /// One past the last record.
    pub high: i64,
}

/// A client that only looks.
pub struct LogReader {
    consumer: Asking,
}

impl LogReader {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// If rdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        Ok(LogReader { consumer: access::asking(settings)? })
    }

    /// Whether any broker answers.
    ///
    /// # Errors
    /// Why none does, with what to do where that is known.
    pub fn ping(&self, timeout: Duration) -> Result<(), LogError> {
        Ok(access::reach(&self.consumer, timeout)?)
    }

    /// The ends of each partition; none where the topic does not exist.
    ///
    /// # Errors
    /// If Kafka does not answer in time.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, Ends>, LogError> {
        access::serve(&self.consumer);
        let metadata = self.consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions = found.into_iter().flat_map(|found| found.partitions().iter().map(|it| it.id()));
        partitions
            .map(|partition| {
                let (low, high) = self.consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
                Ok((partition, Ends { low, high }))
            })
            .collect()
    }

    /// What a consumer group has committed in Kafka; a partition that it never committed is left out.
    ///
    /// # Errors
    /// If Kafka does not answer in time, or refuses.
    pub fn committed(
        settings: &KafkaSettings,
        group: &str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, LogError> {
        let consumer = access::asking_with(settings, &[("group.id", group)])?;
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition(topic, *partition);
        }
        let found = consumer.committed_offsets(wanted, REQUEST_TIMEOUT)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(found.elements().iter().filter_map(|it| Some((it.partition(), offset(it.offset())?))).collect())
    }

    /// The offset of the first record written at `time` or later in each partition; `None` where there is none.
    ///
    /// # Errors
    /// If Kafka does not answer in time.
    pub fn offsets_since(
        &self,
        topic: &str,
        partitions: &[i32],
        time: DateTime<Utc>,
    ) -> Result<BTreeMap<i32, Option<i64>>, LogError> {
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition_offset(topic, *partition, Offset::Offset(time.timestamp_millis()))?;
        }
        let found = self.consumer.offsets_for_times(wanted, REQUEST_TIMEOUT)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(found.elements().iter().map(|element| (element.partition(), offset(element.offset()))).collect())
    }

    /// When the records at these offsets were written, by partition. A record that does not come in time is left out.
    ///
    /// # Errors
    /// If rdkafka refuses, or Kafka does not have one of the offsets.
    pub fn written_at(
        &self,
        topic: &str,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, DateTime<Utc>>, LogError> {
        let mut found = BTreeMap::new();
        if offsets.is_empty() {
            return Ok(found);
        }
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in offsets {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        self.consumer.assign(&assignment)?;
        let result = self.first_of_each(offsets.len(), &mut found);
        // A pause outlives the assignment.
        self.consumer.resume(&assignment)?;
        self.consumer.unassign()?;
        result?;
        Ok(found)
    }

    fn first_of_each(&self, partitions: usize, found: &mut BTreeMap<i32, DateTime<Utc>>) -> Result<(), KafkaError> {
        let deadline = Instant::now() + RECORDS_TIMEOUT;
        while found.len() < partitions {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(message) = self.consumer.poll(left) else { return Ok(()) };
            let message = message?;
            let Some(at) = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis) else { continue };
            if found.insert(message.partition(), at).is_none() {
                let mut done = TopicPartitionList::new();
                done.add_partition(message.topic(), message.partition());
                self.consumer.pause(&done)?;
            }
        }
        Ok(())
    }
}
