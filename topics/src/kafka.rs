//! How every Kafka client of freshet is configured.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use serde::Deserialize;

/// Settings of the section `kafka`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// `host:port`, comma separated. Empty: the local stack's own broker.
    pub brokers: String,
    /// What topic names begin with; the domain's name follows.
    pub topic_prefix: String,
    /// What consumer group names begin with; the domain's name follows.
    pub group_prefix: String,
    /// Partitions of a topic that `topics create` makes.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication: i32,
    /// `min.insync.replicas` of the topics.
    pub min_insync_replicas: i32,
    /// `retention.ms` of the topics in milliseconds; -1 keeps every row for ever.
    pub retention_ms: i64,
    /// `compression.type` of the producer: lz4, zstd, gzip or none.
    pub compression: String,
    /// Further librdkafka properties, for security above all; `_` in a name stands for a dot.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        KafkaSettings {
            brokers: String::new(),
            topic_prefix: "freshet.".into(),
            group_prefix: "freshet.".into(),
            partitions: 12,
            replication: 3,
            min_insync_replicas: 2,
            retention_ms: -1,
            compression: "lz4".into(),
            properties: BTreeMap::new(),
        }
    }
}

/// The properties may hold passwords: only their names are shown.
impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("group_prefix", &self.group_prefix)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("min_insync_replicas", &self.min_insync_replicas)
            .field("retention_ms", &self.retention_ms)
            .field("compression", &self.compression)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl KafkaSettings {
    /// What producers, consumers and admin clients have in common. A role adds its own properties.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "freshet");
        for (name, value) in &self.properties {
            // Environment variables cannot hold dots, and no librdkafka property holds an underscore.
            config.set(name.replace('_', "."), value);
        }
        config
    }
}
