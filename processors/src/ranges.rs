//! Reads ranges of a topic's log again, beside the live consumer: in no group, without commits.
//!
//! A separate thread polls (librdkafka's calls block), judges the rows of a batch, and sends batches over a bounded
//! channel: batches that are not taken wait in Kafka. A range ends when its end offset is read, also where its last
//! offsets hold no record for anybody, but the mark that ends a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::kafka::access::{self, MetadataClient};
use freshet_topics::listed::first_few;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::batch::{Batch, JudgedBatch};
use crate::consumer::{FETCHING, is_transient};
use crate::record::{Consumed, Taker};

/// Batches read ahead of the one being written.
const BATCHES_AHEAD: usize = 2;
/// Rows that a look-up judges at once: as many as a processor's batch by default, so that the cost of a batch is shared by
/// many rows, while the batches read ahead stay small.
pub(crate) const LOOKUP_BATCH_ROWS: usize = 5_000;
/// One poll waits at most this long.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// If Kafka sends nothing for this long although rows are left, the replay fails and can be resumed later.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What to read of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The partition.
    pub(crate) partition: i32,
    /// The first offset.
    pub(crate) from: i64,
    /// One past the last offset.
    pub(crate) to: i64,
}

impl Range {
    /// How many offsets it spans.
    pub(crate) fn len(&self) -> i64 {
        (self.to - self.from).max(0)
    }

    /// Whether nothing is to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Kafka did not deliver the rows of the ranges.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// It refuses, or does not answer.
    #[error("read topic {topic}: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// rdkafka's error.
        source: KafkaError,
    },
    /// It answers, but sends nothing.
    #[error("read topic {topic}: no record arrived for {SILENCE_MAX:?} of {}", ends(.open))]
    Silence {
        /// The topic.
        topic: String,
        /// Partition → end offset of what was still to be read.
        open: BTreeMap<i32, i64>,
    },
    /// Retention was faster.
    #[error(
        "read topic {topic}: retention has removed rows that were still to be read, of {}; send their files again \
         with `freshet republish`, end this replay with `--abandon`, and start again",
        ends(.open)
    )]
    Gone {
        /// The topic.
        topic: String,
        /// Partition → end offset of what was still to be read.
        open: BTreeMap<i32, i64>,
    },
}

/// The partitions that are still to be read, and how far.
fn ends(open: &BTreeMap<i32, i64>) -> String {
    first_few(open.iter().map(|(partition, end)| format!("partition {partition} up to offset {end}")))
}

/// What to read.
pub(crate) struct Reading {
    pub(crate) domain: &'static Domain,
    pub(crate) kafka: KafkaSettings,
    pub(crate) ranges: Vec<Range>,
    /// Only rows of these objects; the others count as read.
    pub(crate) objects: Option<BTreeSet<i64>>,
    pub(crate) batch_rows_max: usize,
}

/// Batches in the order of each partition, until all ranges are read or the receiver is dropped.
pub(crate) fn read(reading: Reading) -> mpsc::Receiver<Result<JudgedBatch, RangeError>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let topic = reading.domain.topic(&reading.kafka.topic_prefix);
        if let Err(error) = Reader::start(reading, &topic).and_then(|mut reader| reader.run(&sender)) {
            // It fails only if the receiver was dropped.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

struct Reader {
    reading: Reading,
    topic: String,
    consumer: MetadataClient,
    /// Partition → end offset of the ranges that are not finished.
    open: BTreeMap<i32, i64>,
    batch: Batch,
    weight: usize,
    taker: Taker,
}

impl Reader {
    fn start(reading: Reading, topic: &str) -> Result<Self, RangeError> {
        let kafka = |source| RangeError::Kafka { topic: topic.to_owned(), source };
        // An event at the end of a log.
        let properties = [&[("enable.partition.eof", "true")], FETCHING.as_slice()].concat();
        let consumer = access::metadata_client_with(&reading.kafka, &properties).map_err(kafka)?;
        let mut assignment = TopicPartitionList::new();
        let mut open = BTreeMap::new();
        for range in reading.ranges.iter().filter(|range| !range.is_empty()) {
            assignment.add_partition_offset(topic, range.partition, Offset::Offset(range.from)).map_err(kafka)?;
            open.insert(range.partition, range.to);
        }
        consumer.assign(&assignment).map_err(kafka)?;
        let (topic, batch, taker) = (topic.to_owned(), Batch::default(), Taker::default());
        Ok(Reader { reading, topic, consumer, open, batch, weight: 0, taker })
    }

    fn run(&mut self, sender: &mpsc::Sender<Result<JudgedBatch, RangeError>>) -> Result<(), RangeError> {
        let mut last_record = Instant::now();
        while !self.open.is_empty() {
            let idle = match self.poll()? {
                true => {
                    last_record = Instant::now();
                    false
                }
                false if sender.is_closed() => return Ok(()),
                false if last_record.elapsed() > SILENCE_MAX => {
                    return Err(RangeError::Silence { topic: self.topic.clone(), open: self.open.clone() });
                }
                false => true,
            };
            let is_full = self.weight >= self.reading.batch_rows_max;
            if is_full || (idle && self.weight > 0) || self.open.is_empty() {
                let batch = std::mem::take(&mut self.batch).judged(self.reading.domain);
                self.weight = 0;
                if sender.blocking_send(Ok(batch)).is_err() {
                    return Ok(());
                }
                // The receiver may have taken minutes to write: that was not Kafka's silence.
                last_record = Instant::now();
            }
        }
        Ok(())
    }

    /// Takes the next record, if there is one; returns whether there was anything.
    fn poll(&mut self) -> Result<bool, RangeError> {
        // The message borrows the consumer, so its contents are taken out first.
        let (partition, offset, record) = match self.consumer.poll(POLL_TIMEOUT) {
            None => return Ok(false),
            Some(Ok(message)) => {
                let record = wanted(&mut self.taker, &self.reading, &message);
                (message.partition(), message.offset(), Some(record))
            }
            // It says that there was no more when it was sent. A new leader may not have known all records, and where the log
            // ends by now is not what was read: the missing ones arrive, or the silence ends the reading.
            Some(Err(KafkaError::PartitionEOF(partition))) => match self.read_to(partition)? {
                read_to if self.open.get(&partition).is_some_and(|to| read_to < *to) => return Ok(false),
                read_to => (partition, read_to, None),
            },
            Some(Err(error)) if is_transient(&error) => {
                tracing::debug!(topic = self.topic, %error, "poll");
                return Ok(false);
            }
            Some(Err(source)) => return Err(self.failed(source)),
        };
        let Some(end) = self.open.get(&partition).copied() else { return Ok(true) };
        if let Some(consumed) = record.filter(|_| offset < end) {
            match consumed {
                Some(record) => {
                    self.weight += record.weight();
                    self.batch.push(partition, offset, record);
                }
                None => {
                    self.weight += 1;
                    self.batch.pass(partition, offset);
                }
            }
        }
        if offset >= end - 1 {
            // If there was no record at the last offset, none will come.
            self.batch.end(partition, end);
            self.weight += 1;
            self.close(partition)?;
        }
        Ok(true)
    }

    /// One past the last offset that was read of a partition, marks of transactions included; 0 if there is none.
    fn read_to(&self, partition: i32) -> Result<i64, RangeError> {
        let position = self.consumer.position().map_err(|source| self.failed(source))?;
        let offset = position.find_partition(&self.topic, partition).map(|found| found.offset());
        Ok(offset.and_then(|offset| offset.to_raw()).map_or(0, |offset| offset.max(0)))
    }

    fn close(&mut self, partition: i32) -> Result<(), RangeError> {
        self.open.remove(&partition);
        let mut done = TopicPartitionList::new();
        done.add_partition(&self.topic, partition);
        self.consumer.pause(&done).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: KafkaError) -> RangeError {
        let topic = self.topic.clone();
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset) => {
                RangeError::Gone { topic, open: self.open.clone() }
            }
            _ => RangeError::Kafka { topic, source },
        }
    }
}

/// The record, unless it has rows of an object that was not requested.
fn wanted(taker: &mut Taker, reading: &Reading, message: &BorrowedMessage) -> Option<Consumed> {
    taker.take(message, |object| reading.objects.as_ref().is_none_or(|objects| objects.contains(&object)))
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    #[test]
    fn an_error_names_the_partitions_that_were_still_to_be_read() {
        let (topic, open) = ("t".to_owned(), BTreeMap::from([(0, 10), (3, 600)]));
        let named = "of partition 0 up to offset 10, partition 3 up to offset 600";
        let silence = RangeError::Silence { topic: topic.clone(), open: open.clone() }.to_string();
        assert_eq!(silence, format!("read topic t: no record arrived for 60s {named}"));
        let gone = RangeError::Gone { topic, open }.to_string();
        assert!(gone.contains(&format!("still to be read, {named}; send their files")), "{gone}");
    }

    #[tokio::test]
    async fn a_range_is_read_to_its_end_though_the_log_seemed_to_end_before() {
        let cluster = MockCluster::new(1).expect("a broker");
        let kafka = KafkaSettings { brokers: cluster.bootstrap_servers(), ..KafkaSettings::default() };
        let domain = DOMAINS[0];
        let topic = domain.topic(&kafka.topic_prefix);
        cluster.create_topic(&topic, 1, 1).expect("a topic");
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().expect("a producer");
        let send = |records: i64| {
            for _ in 0..records {
                producer.send(BaseRecord::<(), str>::to(&topic).partition(0).payload("a row")).expect("queued");
            }
            producer.flush(Duration::from_secs(30)).expect("sent");
        };
        send(6);
        let ranges = vec![Range { partition: 0, from: 0, to: 10 }];
        let mut batches = read(Reading { domain, kafka, ranges, objects: None, batch_rows_max: 1 });
        let mut offsets = Vec::new();
        while let Some(batch) = batches.recv().await {
            offsets.extend(batch.expect("read").rows.origins.iter().map(|origin| origin.offset));
            if offsets.len() == 1 {
                // Batches wait to be taken, and behind their records that there are no more, while more are written.
                tokio::time::sleep(Duration::from_secs(2)).await;
                send(4);
            }
        }
        assert_eq!(offsets, (0..10).collect::<Vec<i64>>());
    }
}
