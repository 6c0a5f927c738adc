//! The one producer: rows are sent chunk by chunk, and each chunk can be awaited until all of it is acknowledged.
//!
//! It is idempotent with `acks=all`. Rows that are sent twice after a fault have the same sequence numbers, so nothing
//! here needs to be exactly once; but a chunk must never count as acknowledged when it is not. Sending blocks while the
//! queue is full, so it belongs on a blocking thread.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use freshet_topics::kafka::access::Access;
use freshet_topics::kafka::{KafkaSettings, METADATA_REFRESH_MS};
use freshet_topics::log::{LogClient, LogError, REQUEST_TIMEOUT};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio::sync::Notify;

/// The longest value of a message: with key and headers it stays below Kafka's default limit of 1 MB.
pub(crate) const VALUE_BYTES_MAX: usize = 900_000;
/// If Kafka acknowledges nothing for this long, the chunk fails and is tried again from its resume point.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Payload in the queue: twice what a broker takes in a tenth of a second.
const QUEUE_KBYTES: &str = "16384";
/// Messages in the queue: each takes about 1 KiB besides its payload, so this bounds the queue to about 40 MiB.
const QUEUE_MESSAGES: &str = "20000";
/// How long a sender sleeps when the queue is full; about 200 messages leave it meanwhile.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// How long the producer's thread waits for delivery reports at a time. rdkafka spins through the last millisecond of a
/// wait, and its own thread waits a tenth of this: a hundredth of a core while nothing is sent.
const REPORTS_WAIT: Duration = Duration::from_secs(1);

type Threaded = BaseProducer<Deliveries>;

/// Why a chunk is not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ProduceError {
    /// Kafka did not take a message.
    #[error("publish to topic {topic}: {source}")]
    Kafka {
        /// The topic.
        topic: Arc<str>,
        /// rdkafka's error.
        source: KafkaError,
    },
    /// The queue stayed full.
    #[error("publish to topic {0}: the producer's queue stayed full, Kafka does not take messages")]
    Full(Arc<str>),
    /// Kafka does not tell where the topic ends.
    #[error("ask for the ends of topic {topic}: {source}")]
    Ends {
        /// The topic.
        topic: Arc<str>,
        /// The client's error.
        source: Arc<LogError>,
    },
}

/// The producer of a process, shared by its workers.
pub(crate) struct Producer {
    config: ClientConfig,
    access: Access,
    current: RwLock<Arc<Threaded>>,
    log: LogClient,
}

impl Producer {
    pub(crate) fn new(kafka: &KafkaSettings, linger_ms: u32) -> Result<Self, KafkaError> {
        let mut config = kafka.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", &kafka.compression)
            .set("linger.ms", linger_ms.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES)
            .set("queue.buffering.max.messages", QUEUE_MESSAGES)
            .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS);
        let access = Access::new(kafka);
        let first = threaded(&config, Deliveries { access: access.clone() })?;
        Ok(Producer { config, access, current: RwLock::new(first), log: LogClient::new(kafka) })
    }

    /// Asks about the logs that it writes to, through its own client.
    pub(crate) fn log(&self) -> &LogClient {
        &self.log
    }

    /// How many partitions of the topic the producer knows, after asking Kafka again.
    pub(crate) async fn known_partitions(&self, topic: &str) -> Result<i32, String> {
        let (producer, name) = (self.current(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&name), REQUEST_TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == name && found.error().is_none());
            Ok::<_, KafkaError>(found.map_or(0, |found| found.partitions().len()))
        });
        let known =
            asked.await.map_err(|error| error.to_string()).and_then(|known| known.map_err(|error| error.to_string()));
        let known = known.map_err(|reason| format!("ask for the partitions of topic {topic}: {reason}"))?;
        Ok(i32::try_from(known).unwrap_or(i32::MAX))
    }

    fn current(&self) -> Arc<Threaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a chunk on a topic of at least `partitions` partitions.
    pub(crate) fn chunk(&self, topic: &Arc<str>, partitions: usize) -> Chunk {
        Chunk { producer: self.current(), topic: Arc::clone(topic), acks: Arc::new(Acks::new(partitions)) }
    }

    /// Waits until all of a chunk is acknowledged, at most [`DELIVERY_TIMEOUT`] after its last message. Returns the
    /// number of messages, and one past the last in each partition, 0 if there is none.
    pub(crate) async fn acknowledged(&self, chunk: Chunk) -> Result<(i64, Vec<i64>), ProduceError> {
        let Chunk { producer, topic, acks } = chunk;
        acks.one_less();
        acks.done.notified().await;
        if let Some(source) = acks.failure.get() {
            self.replace_if_fatal(&producer, &topic);
            return Err(ProduceError::Kafka { topic, source: source.clone() });
        }
        let messages = acks.sent.load(Ordering::Acquire);
        let mut ends: Vec<i64> = acks.ends.iter().map(|end| end.load(Ordering::Acquire)).collect();
        if ends.contains(&UNKNOWN_END) {
            let failed = |source| ProduceError::Ends { topic: Arc::clone(&topic), source: Arc::new(source) };
            let log = self.log.ends(&topic).await.map_err(failed)?;
            for (partition, end) in (0..).zip(&mut ends).filter(|(_, end)| **end == UNKNOWN_END) {
                let unknown = || failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition).into());
                *end = log.get(&partition).ok_or_else(unknown)?.high;
            }
        }
        Ok((messages, ends))
    }

    /// Replaces an idempotent producer that met a fatal error, because it refuses everything from then on. If several
    /// callers notice it at once, the first one replaces it.
    fn replace_if_fatal(&self, failed: &Arc<Threaded>, topic: &str) {
        let Some((code, reason)) = failed.client().fatal_error() else { return };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, failed) {
            return;
        }
        let deliveries = Deliveries { access: self.access.clone() };
        match threaded(&self.config, deliveries) {
            Ok(fresh) => {
                tracing::warn!(topic, %code, reason, "replaced the Kafka producer after a fatal error");
                *current = fresh;
            }
            Err(error) => tracing::error!(topic, %error, "cannot replace the Kafka producer after a fatal error"),
        }
    }

    /// Gives queued messages a last chance to be sent; dropping the producer would discard them.
    pub(crate) async fn close(&self, within: Duration) {
        let producer = self.current();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(within)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "cannot flush the Kafka producer");
        }
    }
}

/// A producer with its own thread for delivery reports, which runs until nobody else holds the producer.
fn threaded(config: &ClientConfig, deliveries: Deliveries) -> Result<Arc<Threaded>, KafkaError> {
    let producer = Arc::new(Threaded::from_config_and_context(config, deliveries)?);
    let held = Arc::downgrade(&producer);
    let take_reports = move || {
        while let Some(producer) = held.upgrade() {
            producer.poll(REPORTS_WAIT);
        }
    };
    let started = thread::Builder::new().name("kafka-reports".into()).spawn(take_reports);
    started.map_err(|error| KafkaError::ClientCreation(format!("start a thread for the producer: {error}")))?;
    Ok(producer)
}

/// The messages between two resume points.
pub(crate) struct Chunk {
    producer: Arc<Threaded>,
    topic: Arc<str>,
    acks: Arc<Acks>,
}

impl Chunk {
    /// Queues one message; blocks while the queue is full, at most [`DELIVERY_TIMEOUT`]: by then every message
    /// in it has left or failed.
    pub(crate) fn send(
        &self,
        partition: i32,
        key: Option<&str>,
        value: &[u8],
        headers: OwnedHeaders,
    ) -> Result<(), ProduceError> {
        let mut record = BaseRecord::with_opaque_to(&self.topic, Arc::clone(&self.acks))
            .partition(partition)
            .payload(value)
            .headers(headers);
        if let Some(key) = key {
            record = record.key(key);
        }
        self.acks.waiting.fetch_add(1, Ordering::Relaxed);
        self.acks.sent.fetch_add(1, Ordering::Relaxed);
        let mut full_since = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    if full_since.get_or_insert_with(Instant::now).elapsed() > DELIVERY_TIMEOUT {
                        self.acks.one_less();
                        return Err(ProduceError::Full(Arc::clone(&self.topic)));
                    }
                    // The producer's own thread takes the delivery reports.
                    thread::sleep(FULL_PAUSE);
                    record = refused;
                }
                Err((source, _)) => {
                    self.acks.fail(source.clone());
                    self.acks.one_less();
                    return Err(ProduceError::Kafka { topic: Arc::clone(&self.topic), source });
                }
            }
        }
    }
}

/// A record was acknowledged but its offset is unknown (a retry that the broker had already written).
const UNKNOWN_END: i64 = i64::MAX;

/// What is known about a chunk's messages.
struct Acks {
    /// Messages not yet delivered or failed, plus one for the sender until it has sent all.
    waiting: AtomicUsize,
    /// Messages sent.
    sent: AtomicI64,
    /// One past the highest acknowledged offset in each partition; 0 for none.
    ends: Vec<AtomicI64>,
    /// The first failure.
    failure: OnceLock<KafkaError>,
    done: Notify,
}

impl Acks {
    fn new(partitions: usize) -> Self {
        Acks {
            waiting: AtomicUsize::new(1),
            sent: AtomicI64::new(0),
            ends: (0..partitions).map(|_| AtomicI64::new(0)).collect(),
            failure: OnceLock::new(),
            done: Notify::new(),
        }
    }

    fn delivered(&self, partition: i32, offset: i64) {
        let end = if offset < 0 { UNKNOWN_END } else { offset + 1 };
        match usize::try_from(partition).ok().and_then(|partition| self.ends.get(partition)) {
            Some(slot) => _ = slot.fetch_max(end, Ordering::AcqRel),
            None => self.fail(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition)),
        }
    }

    fn fail(&self, error: KafkaError) {
        // Only the first is of interest: the others follow from it.
        _ = self.failure.set(error);
    }

    fn one_less(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// Takes delivery reports on the producer's thread.
struct Deliveries {
    access: Access,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Access::ENABLE_REFRESH_OAUTH_TOKEN;

    fn error(&self, error: KafkaError, reason: &str) {
        self.access.error(error.clone(), reason);
        match self.access.complaint() {
            Some(complaint) => tracing::warn!("Kafka producer: {complaint}"),
            None => tracing::warn!(%error, reason, "Kafka producer"),
        }
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.access.generate_oauth_token(config)
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Acks>;

    fn delivery(&self, result: &DeliveryResult<'_>, acks: Self::DeliveryOpaque) {
        match result {
            Ok(message) => acks.delivered(message.partition(), message.offset()),
            Err((error, _)) => acks.fail(error.clone()),
        }
        acks.one_less();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chunk_is_done_when_its_last_message_is_acknowledged() {
        let acks = Acks::new(3);
        for offset in [7, 9, 8] {
            acks.waiting.fetch_add(1, Ordering::Relaxed);
            acks.delivered(1, offset);
            acks.one_less();
        }
        assert_eq!(acks.waiting.load(Ordering::Relaxed), 1, "the sender may send more");
        acks.one_less();
        acks.done.notified().await;
        let ends: Vec<i64> = acks.ends.iter().map(|end| end.load(Ordering::Relaxed)).collect();
        assert_eq!(ends, [0, 10, 0]);
        assert!(acks.failure.get().is_none());
    }

    #[test]
    fn an_unknown_offset_is_not_taken_for_a_low_one() {
        let acks = Acks::new(1);
        acks.delivered(0, -1);
        acks.delivered(0, 5);
        assert_eq!(acks.ends[0].load(Ordering::Relaxed), UNKNOWN_END);
        acks.delivered(4, 5);
        assert!(acks.failure.get().is_some(), "a partition that the chunk does not know");
    }
}
