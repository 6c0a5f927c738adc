//! What a topic holds, read with Kafka's own client and a plain reading of the messages: without a line of freshet's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use freshet_topics::kafka::KafkaSettings;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::World;

const WITHIN: Duration = Duration::from_secs(30);

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// How many rows it has; none for a stream record, one for what is none of freshet's.
    pub(crate) rows: i64,
    /// Whether they are packed.
    pub(crate) is_packed: bool,
    /// The headers, as text.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) key: Option<String>,
    pub(crate) value: String,
}

impl World {
    /// All that a domain's topic holds, by partition and offset.
    pub(crate) async fn records(&self, domain: &str) -> BTreeMap<(i32, i64), Record> {
        let kafka = self.services.config.kafka.clone();
        let topic = format!("{}{domain}", kafka.topic_prefix);
        tokio::task::spawn_blocking(move || read(&kafka, &topic)).await.expect("read the topic")
    }
}

fn read(kafka: &KafkaSettings, topic: &str) -> BTreeMap<(i32, i64), Record> {
    let mut config = kafka.client_config();
    config.set("group.id", "reads-along").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), WITHIN).expect("the topic is known");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|it| it.id()).collect();
    let mut all = TopicPartitionList::new();
    for partition in &partitions {
        all.add_partition_offset(topic, *partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&all).expect("assign");
    let (mut records, mut open, begun) = (BTreeMap::new(), partitions.len(), Instant::now());
    while open > 0 {
        assert!(begun.elapsed() < WITHIN, "{topic}: {open} partitions do not end");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => _ = records.insert((message.partition(), message.offset()), record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => println!("{topic}: {error}"),
        }
    }
    records
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers: BTreeMap<String, String> = message
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
        .map(|header| (header.key.to_owned(), text(header.value)))
        .collect();
    let (value, key) = (text(message.payload()), message.key().map(|key| text(Some(key))));
    let is_packed = headers.contains_key("pack");
    let rows = match headers.contains_key("stream") {
        true => 0,
        false if is_packed => packed_rows(&headers, &value),
        false => 1,
    };
    Record { rows, is_packed, headers, key, value }
}

/// The rows of a packed message, which has to be as docs/topics.md says.
fn packed_rows(headers: &BTreeMap<String, String>, value: &str) -> i64 {
    let shown = || format!("{headers:?}\n{value}");
    let lines: Vec<Vec<serde_json::Value>> =
        value.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", shown()))).collect();
    assert_eq!(headers["rows"], lines.len().to_string(), "{}", shown());
    let numbers: Vec<i64> =
        lines.iter().map(|line| line[0].as_i64().unwrap_or_else(|| panic!("{}", shown()))).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{}", shown());
    assert_eq!(headers["pack"].split(',').nth(2), Some(numbers[0].to_string().as_str()), "{}", shown());
    lines.len() as i64
}
