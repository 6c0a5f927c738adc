//! Writing stream records.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use super::{CatalogError, beginnings};
use crate::kafka::KafkaSettings;
use crate::kafka::access::{self, Access};
use crate::log::{LogClient, REQUEST_TIMEOUT};
use crate::message::STREAM_HEADER;
use crate::stream::{self, FirstRecord};

/// The first records of the partitions, and which of them just got their stream record.
pub(super) struct Marked {
    pub(super) firsts: Vec<FirstRecord>,
    pub(super) written: Vec<i32>,
}

/// Writes the stream record to every empty partition, partition 0 first: its first record is the topic's id, so it is
/// read back before the others are written. `known` is the stream that Postgres knows, if any.
pub(super) async fn mark_empty(
    settings: &KafkaSettings,
    log: &LogClient,
    topic: &str,
    partitions: i32,
    known: Option<Uuid>,
) -> Result<Marked, CatalogError> {
    let mut firsts = beginnings(log, topic, partitions).await?;
    let mut written = Vec::new();
    for wanted in [0..1, 1..partitions] {
        let empty: Vec<i32> =
            wanted.filter(|partition| firsts.get(*partition as usize) == Some(&FirstRecord::Empty)).collect();
        if empty.is_empty() {
            continue;
        }
        let id = stream::stream_to_write(&firsts, known).unwrap_or_else(Uuid::new_v4);
        write_stream_records(settings, topic, &empty, id).await?;
        written.extend(empty);
        firsts = beginnings(log, topic, partitions).await?;
    }
    Ok(Marked { firsts, written })
}

/// Writes a stream record to each of these partitions, which were empty a moment ago. Doing it twice at once is
/// harmless: readers skip a second stream record.
///
/// # Errors
/// If Kafka does not accept them in time.
pub async fn write_stream_records(
    settings: &KafkaSettings,
    topic: &str,
    partitions: &[i32],
    id: Uuid,
) -> Result<(), CatalogError> {
    let mut config = settings.client_config();
    // Not idempotent: a stream record written twice is harmless, and a new broker has no producer ids yet.
    config.set("acks", "all").set("message.timeout.ms", REQUEST_TIMEOUT.as_millis().to_string());
    let producer = access::producer(settings, &config).map_err(|source| CatalogError::Kafka {
        action: "configure the producer for",
        topic: topic.into(),
        source,
    })?;
    for partition in partitions {
        write_one(&producer, topic, *partition, id).await?;
    }
    Ok(())
}

async fn write_one(
    producer: &FutureProducer<Access>,
    topic: &str,
    partition: i32,
    id: Uuid,
) -> Result<(), CatalogError> {
    let text = id.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: STREAM_HEADER, value: Some(&text) });
    let record = FutureRecord::<(), ()>::to(topic).partition(partition).headers(headers);
    producer.send(record, REQUEST_TIMEOUT).await.map(|_| ()).map_err(|(source, _)| CatalogError::Kafka {
        action: "write the stream record to",
        topic: topic.into(),
        source,
    })
}
