//! The topics: their names and settings, created and checked, and the stream id by which a topic that was
//! deleted and made again is told from the one it replaces.
//!
//! Kafka gives a topic an id, but librdkafka 2.x does not show it. So record 0 of each partition carries a UUID
//! under the header [`STREAM_HEADER`]. Partition 0 decides: whoever creates a topic writes an id there, reads
//! back which one came first, and copies that to the other partitions. Two that create the same topic at once
//! therefore agree.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::Domain;
use crate::kafka::KafkaSettings;
use crate::kafka::access::{self, Access, Asking, Unreachable};
use crate::message::STREAM_HEADER;

/// A broker that does not answer within this is an error of the world; whoever calls tries again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new topic's leaders may take to be elected before `create` gives up.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// What to do about a topic that somebody else writes to.
const FOREIGN: &str = "it holds records of somebody else; choose another kafka.topic_prefix";

/// Why a topic cannot be created, checked or read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Kafka does not answer or refuses.
    #[error("{action} topic {topic}: {source}")]
    Kafka {
        /// Verb of what was tried.
        action: &'static str,
        /// The topic.
        topic: String,
        /// What rdkafka says.
        source: KafkaError,
    },
    /// No broker can be used.
    #[error("{action} topic {topic}: {source}")]
    Unreachable {
        /// Verb of what was tried.
        action: &'static str,
        /// The topic.
        topic: String,
        /// Why, and what to do.
        source: Unreachable,
    },
    /// The topic is not there.
    #[error("topic {0} does not exist: run `freshet topics create`")]
    Missing(String),
    /// A partition has no stream record, or records that are not freshet's stand before it.
    #[error("topic {topic} partition {partition} does not begin with a stream record: {hint}")]
    Unmarked {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What to do.
        hint: &'static str,
    },
    /// The blocking task was cancelled or panicked.
    #[error("ask Kafka about topic {0}: the task ended early")]
    Task(String),
}

impl CatalogError {
    /// Whether Kafka refuses for want of a permission.
    pub fn is_denied(&self) -> bool {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, GroupAuthorizationFailed, TopicAuthorizationFailed};
        matches!(self.code(), Some(TopicAuthorizationFailed | ClusterAuthorizationFailed | GroupAuthorizationFailed))
    }

    /// Whether no broker answers.
    pub fn is_out_of_reach(&self) -> bool {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
        matches!(self.code(), Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve))
    }

    /// What Kafka or librdkafka answered, where one did.
    fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            // Not among those that rdkafka gives itself.
            CatalogError::Kafka { source: KafkaError::AdminOp(code), .. } => Some(*code),
            CatalogError::Kafka { source, .. } => source.rdkafka_error_code(),
            _ => None,
        }
    }
}

/// A topic as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each partition has, the fewest where they differ.
    pub replication: i32,
    /// The stream id in partition 0; `None` where retention has removed that record.
    pub stream_id: Option<Uuid>,
}

/// What a partition begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRecord {
    /// Nothing was ever written.
    Empty,
    /// The stream record.
    Stream(Uuid),
    /// Record 0 is not a stream record.
    Foreign,
    /// Retention has removed record 0.
    Removed,
}

/// What `ensure` found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// The topic after it.
    pub state: TopicState,
    /// Whether it was made just now.
    pub created: bool,
    /// Whether its stream records were missing: written just now, or, where nothing was to be changed, still to be.
    pub marked: bool,
    /// Settings that differ from what is wanted, one clause each; empty when all is well.
    pub differences: Vec<String>,
}

/// The topic settings that matter, as (name, wanted value).
fn wanted_config(settings: &KafkaSettings) -> [(&'static str, String); 3] {
    [
        ("cleanup.policy", "delete".into()),
        ("retention.ms", settings.retention_ms.to_string()),
        ("min.insync.replicas", settings.min_insync_replicas.to_string()),
    ]
}

/// Creates the domain's topic if it is missing and writes its stream records; checks the settings of one that
/// exists and reports, but does not change, what differs. Idempotent.
///
/// # Errors
/// If Kafka does not answer, refuses, or the topic holds records that are not freshet's.
pub async fn ensure(settings: &KafkaSettings, domain: &Domain) -> Result<TopicReport, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    reach(settings, &topic).await?;
    let admin = admin(settings, &topic).await?;
    // Looked for first: whoever may not create topics can use those that are there.
    let created = !exists(settings, &topic).await? && create(&admin, settings, &topic).await?;
    let (state, marked) = mark(settings, &topic).await?;
    let differences = match created {
        true => Vec::new(),
        false => differences(&admin, settings, &state).await?,
    };
    Ok(TopicReport { state, created, marked, differences })
}

/// Whether this very request created the topic: somebody else may have meanwhile.
async fn create(admin: &AdminClient<Access>, settings: &KafkaSettings, topic: &str) -> Result<bool, CatalogError> {
    let failed = |source| CatalogError::Kafka { action: "create", topic: topic.to_owned(), source };
    let config = wanted_config(settings);
    let new_topic = config.iter().fold(
        NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(settings.replication)),
        |new_topic, (name, value)| new_topic.set(name, value),
    );
    let results = admin.create_topics([&new_topic], &options()).await.map_err(failed)?;
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(failed(KafkaError::AdminOp(code))),
        _ => Ok(true),
    }
}

/// Looks at the domain's topic as [`ensure`] does, and changes nothing; `None` where it does not exist.
///
/// # Errors
/// If Kafka does not answer, refuses, or the topic holds records that are not freshet's.
pub async fn inspect(settings: &KafkaSettings, domain: &Domain) -> Result<Option<TopicReport>, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    reach(settings, &topic).await?;
    if !exists(settings, &topic).await? {
        return Ok(None);
    }
    let admin = admin(settings, &topic).await?;
    let Layout { partitions, replication } = wait_for_leaders(settings, &topic).await?;
    let (stream_id, marked) = match first_record(settings, &topic, 0).await? {
        FirstRecord::Stream(id) => (Some(id), false),
        FirstRecord::Empty => (None, true),
        FirstRecord::Removed => (None, false),
        FirstRecord::Foreign => return Err(CatalogError::Unmarked { topic, partition: 0, hint: FOREIGN }),
    };
    let state = TopicState { topic, partitions, replication, stream_id };
    let differences = differences(&admin, settings, &state).await?;
    Ok(Some(TopicReport { state, created: false, marked, differences }))
}

/// Whether the topic exists. No broker makes it because it was asked for: a consumer does not allow that.
async fn exists(settings: &KafkaSettings, topic: &str) -> Result<bool, CatalogError> {
    blocking(settings, topic, "look up", |consumer, topic| {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|found| found.error().map(RDKafkaErrorCode::from)) {
            None | Some(Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => Ok(false),
            Some(None | Some(RDKafkaErrorCode::LeaderNotAvailable)) => Ok(true),
            Some(Some(code)) => Err(KafkaError::MetadataFetch(code)),
        }
    })
    .await
}

async fn admin(settings: &KafkaSettings, topic: &str) -> Result<AdminClient<Access>, CatalogError> {
    let settings = settings.clone();
    let admin = tokio::task::spawn_blocking(move || access::admin(&settings)).await;
    admin.map_err(|_| CatalogError::Task(topic.into()))?.map_err(|source| CatalogError::Kafka {
        action: "configure the client for",
        topic: topic.to_owned(),
        source,
    })
}

/// Says why where no broker can be used: an admin client would only find that none answers, and take its time.
async fn reach(settings: &KafkaSettings, topic: &str) -> Result<(), CatalogError> {
    let action = "look up";
    let reached = blocking(settings, topic, action, |consumer, _| Ok(access::reach(consumer, REQUEST_TIMEOUT))).await?;
    reached.map_err(|source| CatalogError::Unreachable { action, topic: topic.into(), source })
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT))
}

/// In what a topic differs from what is wanted, one clause each.
async fn differences(
    admin: &AdminClient<Access>,
    settings: &KafkaSettings,
    state: &TopicState,
) -> Result<Vec<String>, CatalogError> {
    let failed = |source| CatalogError::Kafka { action: "describe", topic: state.topic.clone(), source };
    let mut differences = Vec::new();
    let counts = [
        ("partitions", state.partitions, settings.partitions),
        ("replication factor", state.replication, settings.replication),
    ];
    for (name, found, wanted) in counts {
        if found != wanted {
            differences.push(format!("{name} is {found}, wanted {wanted}"));
        }
    }
    let found = admin.describe_configs([&ResourceSpecifier::Topic(&state.topic)], &options()).await.map_err(failed)?;
    for resource in found {
        let resource = resource.map_err(|code| failed(KafkaError::AdminOp(code)))?;
        // rdkafka gives no error where Kafka refuses; but a topic has some settings.
        if resource.entries.is_empty() {
            differences.push("its settings cannot be read (needs the ACL DescribeConfigs)".into());
            continue;
        }
        for (name, wanted) in wanted_config(settings) {
            let entry = resource.entries.iter().find(|entry| entry.name == name);
            let value = entry.and_then(|entry| entry.value.as_deref()).unwrap_or("unset");
            let by_default = entry.is_some_and(|entry| matches!(entry.source, ConfigSource::Default));
            if value != wanted {
                let origin = if by_default { " (the broker's default)" } else { "" };
                differences.push(format!("{name} is {value}{origin}, wanted {wanted}"));
            }
        }
    }
    Ok(differences)
}

/// Writes the stream record to every partition that is empty; `true` if there was one.
async fn mark(settings: &KafkaSettings, topic: &str) -> Result<(TopicState, bool), CatalogError> {
    let Layout { partitions, replication } = wait_for_leaders(settings, topic).await?;
    // Not idempotent: a stream record written twice is harmless, and a young broker has no producer ids yet.
    let producer = access::producer(settings, settings.client_config().set("acks", "all"))
        .map_err(|source| CatalogError::Kafka { action: "configure the producer for", topic: topic.into(), source })?;
    let (mut stream_id, mut marked) = (None, false);
    // Partition 0 first: what it begins with is the topic's id.
    for partition in 0..partitions {
        let mut first = first_record_of_new(settings, topic, partition).await?;
        if first == FirstRecord::Empty {
            write_stream_record(&producer, topic, partition, stream_id.unwrap_or_else(Uuid::new_v4)).await?;
            first = first_record_of_new(settings, topic, partition).await?;
            marked = true;
        }
        match first {
            FirstRecord::Stream(id) => stream_id = stream_id.or(Some(id)),
            FirstRecord::Removed => {}
            FirstRecord::Empty | FirstRecord::Foreign => {
                return Err(CatalogError::Unmarked { topic: topic.into(), partition, hint: FOREIGN });
            }
        }
    }
    Ok((TopicState { topic: topic.into(), partitions, replication, stream_id }, marked))
}

/// [`first_record`] of a partition that may be a moment old: metadata names its leader before that broker knows.
async fn first_record_of_new(
    settings: &KafkaSettings,
    topic: &str,
    partition: i32,
) -> Result<FirstRecord, CatalogError> {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, UnknownTopicOrPartition};
    let deadline = std::time::Instant::now() + ELECTION_TIMEOUT;
    loop {
        let found = first_record(settings, topic, partition).await;
        let code = match &found {
            Err(CatalogError::Kafka { source, .. }) => source.rdkafka_error_code(),
            _ => None,
        };
        let is_young = matches!(code, Some(LeaderNotAvailable | NotLeaderForPartition | UnknownTopicOrPartition));
        if !is_young || std::time::Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn write_stream_record(
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

/// A topic as it stands now.
///
/// # Errors
/// [`CatalogError::Missing`] where it does not exist, [`CatalogError::Unmarked`] where it has no stream record.
pub async fn describe(settings: &KafkaSettings, domain: &Domain) -> Result<TopicState, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    let found = layout(settings, &topic).await?.ok_or_else(|| CatalogError::Missing(topic.clone()))?;
    let Layout { partitions, replication } = found;
    let stream_id = match first_record(settings, &topic, 0).await? {
        FirstRecord::Stream(id) => Some(id),
        FirstRecord::Removed => None,
        FirstRecord::Empty | FirstRecord::Foreign => {
            return Err(CatalogError::Unmarked { topic, partition: 0, hint: "run `freshet topics create`" });
        }
    };
    Ok(TopicState { topic, partitions, replication, stream_id })
}

/// How a topic is spread over the brokers.
struct Layout {
    partitions: i32,
    /// Replicas of the partition that has the fewest.
    replication: i32,
}

/// Waits until every partition of a new topic has a leader, and says how many there are.
async fn wait_for_leaders(settings: &KafkaSettings, topic: &str) -> Result<Layout, CatalogError> {
    let deadline = std::time::Instant::now() + ELECTION_TIMEOUT;
    loop {
        match layout(settings, topic).await? {
            Some(layout) => return Ok(layout),
            None if std::time::Instant::now() > deadline => return Err(CatalogError::Missing(topic.into())),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// How the topic is spread; `None` where it does not exist or a partition has no leader yet.
async fn layout(settings: &KafkaSettings, topic: &str) -> Result<Option<Layout>, CatalogError> {
    blocking(settings, topic, "look up", |consumer, topic| {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let found = found.filter(|found| found.error().is_none()).map_or(&[][..], |found| found.partitions());
        let replicas = found.iter().map(|partition| partition.replicas().len()).min();
        let layout = |replicas| {
            let partitions = i32::try_from(found.len()).ok()?;
            Some(Layout { partitions, replication: i32::try_from(replicas).ok()? })
        };
        let led = found.iter().all(|partition| partition.leader() >= 0);
        Ok(replicas.filter(|_| led).and_then(layout))
    })
    .await
}

/// How many partitions the topic has; `None` where it does not exist or a partition has no leader yet.
async fn partition_count(settings: &KafkaSettings, topic: &str) -> Result<Option<i32>, CatalogError> {
    Ok(layout(settings, topic).await?.map(|layout| layout.partitions))
}

/// What the partition begins with.
///
/// # Errors
/// If Kafka does not answer in time.
pub async fn first_record(settings: &KafkaSettings, topic: &str, partition: i32) -> Result<FirstRecord, CatalogError> {
    blocking(settings, topic, "read the stream record of", move |consumer, topic| {
        read_first_record(consumer, topic, partition)
    })
    .await
}

/// [`first_record`] for a caller on a thread of its own.
///
/// # Errors
/// What rdkafka says; no record within [`REQUEST_TIMEOUT`] is `OperationTimedOut`.
pub fn read_first_record(consumer: &Asking, topic: &str, partition: i32) -> Result<FirstRecord, KafkaError> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
    if low > 0 {
        return Ok(FirstRecord::Removed);
    }
    if high == 0 {
        return Ok(FirstRecord::Empty);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(0))?;
    consumer.assign(&assignment)?;
    let message = match consumer.poll(REQUEST_TIMEOUT) {
        Some(message) => message?,
        None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
    };
    Ok(stream_id(message.headers()).map_or(FirstRecord::Foreign, FirstRecord::Stream))
}

/// The stream id that a record carries, if it is a stream record.
pub fn stream_id(headers: Option<&impl Headers>) -> Option<Uuid> {
    let header = headers?.iter().find(|header| header.key == STREAM_HEADER)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// One past the last record of each partition.
///
/// # Errors
/// If Kafka does not answer in time, or the topic does not exist.
pub async fn end_offsets(settings: &KafkaSettings, domain: &Domain) -> Result<BTreeMap<i32, i64>, CatalogError> {
    Ok(watermarks(settings, domain).await?.into_iter().map(|(partition, (_, end))| (partition, end)).collect())
}

/// The first offset of each partition and the one past its last record.
///
/// # Errors
/// If Kafka does not answer in time, or the topic does not exist.
pub async fn watermarks(settings: &KafkaSettings, domain: &Domain) -> Result<BTreeMap<i32, (i64, i64)>, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    let partitions = partition_count(settings, &topic).await?.ok_or_else(|| CatalogError::Missing(topic.clone()))?;
    blocking(settings, &topic, "look up the ends of", move |consumer, topic| {
        let ends = |partition| Ok((partition, consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?));
        (0..partitions).map(ends).collect()
    })
    .await
}

/// Runs a blocking question of a short-lived consumer on a thread that may block.
async fn blocking<T: Send + 'static>(
    settings: &KafkaSettings,
    topic: &str,
    action: &'static str,
    ask: impl FnOnce(&Asking, &str) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, CatalogError> {
    let (settings, owned) = (settings.clone(), topic.to_owned());
    let ask = move || {
        let located = |source| CatalogError::Kafka { action, topic: owned.clone(), source };
        let consumer = access::asking(&settings).map_err(located)?;
        ask(&consumer, &owned).map_err(|source| {
            access::serve(&consumer);
            match consumer.context().complaint() {
                Some(reason) => {
                    CatalogError::Unreachable { action, topic: owned.clone(), source: Unreachable::Refused(reason) }
                }
                None => located(source),
            }
        })
    };
    tokio::task::spawn_blocking(ask).await.map_err(|_| CatalogError::Task(topic.into()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_error_of_the_world_however_rdkafka_wraps_it() {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, OperationTimedOut, TopicAuthorizationFailed};
        for (source, expected) in [
            (KafkaError::AdminOp(TopicAuthorizationFailed), true),
            (KafkaError::AdminOp(ClusterAuthorizationFailed), true),
            (KafkaError::MetadataFetch(TopicAuthorizationFailed), true),
            (KafkaError::MessageProduction(TopicAuthorizationFailed), true),
            (KafkaError::AdminOp(OperationTimedOut), false),
            (KafkaError::Canceled, false),
        ] {
            let error = CatalogError::Kafka { action: "create", topic: "t".into(), source };
            assert_eq!(error.is_denied(), expected, "{error}");
        }
        assert!(!CatalogError::Missing("t".into()).is_denied());
    }
}
