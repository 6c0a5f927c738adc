//! The topics: their names and settings, created and checked, and their stream records ([`crate::stream`]) written.

mod mark;

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use uuid::Uuid;

pub use self::mark::write_stream_records;
use crate::Domain;
use crate::kafka::KafkaSettings;
use crate::kafka::access::{self, Access, Unreachable};
use crate::log::{Layout, LogClient, LogError, Presence, REQUEST_TIMEOUT};
use crate::stream::{self, Beginning, FirstRecord};

/// How long a new topic's leaders may take to be elected before `create` gives up.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a new topic is checked until then.
const ELECTION_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a topic cannot be created, checked or read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Kafka does not answer, or refuses the request.
    #[error("{action} topic {topic}: {source}")]
    Kafka {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The topic.
        topic: String,
        /// The error from rdkafka.
        source: KafkaError,
    },
    /// No broker can be used.
    #[error("{action} topic {topic}: {source}")]
    Unreachable {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The topic.
        topic: String,
        /// Why, and what to do.
        source: Unreachable,
    },
    /// The topic does not exist.
    #[error("topic {0} does not exist: run `freshet topics create`")]
    Missing(String),
    /// The topic was created by hand, and nothing was written to it.
    #[error("topic {0} has no stream record yet: run `freshet topics create`")]
    Unmarked(String),
    /// The blocking task was cancelled or panicked.
    #[error("ask Kafka about topic {topic}: the task ended early: {source}")]
    Task {
        /// The topic.
        topic: String,
        /// Why it ended.
        source: tokio::task::JoinError,
    },
}

impl CatalogError {
    /// Whether Kafka refuses because a permission is missing.
    pub fn is_denied(&self) -> bool {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, GroupAuthorizationFailed, TopicAuthorizationFailed};
        matches!(self.code(), Some(TopicAuthorizationFailed | ClusterAuthorizationFailed | GroupAuthorizationFailed))
    }

    /// Whether no broker answers.
    pub fn is_out_of_reach(&self) -> bool {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
        matches!(self.code(), Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve))
    }

    /// The error code of Kafka or librdkafka, if there is one.
    fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            // rdkafka does not return this one itself.
            CatalogError::Kafka { source: KafkaError::AdminOp(code), .. } => Some(*code),
            CatalogError::Kafka { source, .. } => source.rdkafka_error_code(),
            _ => None,
        }
    }
}

/// A topic's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each partition has: the fewest, if they differ.
    pub replication: i32,
    /// The first record of each partition.
    pub firsts: Vec<FirstRecord>,
}

impl TopicState {
    /// The stream of the topic; `None` if no partition has a stream record (any more).
    pub fn stream_id(&self) -> Option<Uuid> {
        stream::stream_of(&self.firsts)
    }

    /// The partitions with an unexpected first record, which an operator has to accept. `accepted` returns how each
    /// partition was accepted.
    pub fn unfit<'a>(&self, stream: Uuid, accepted: impl Fn(i32) -> Option<&'a str>) -> Vec<(i32, FirstRecord)> {
        let judged = (0..).zip(&self.firsts).map(|(partition, first)| (partition, *first));
        judged
            .filter(|(partition, first)| {
                stream::judge_beginning(*first, stream, accepted(*partition)) == Beginning::Unfit
            })
            .collect()
    }
}

/// What `ensure` found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// The topic after it.
    pub state: TopicState,
    /// Whether this call created it.
    pub created: bool,
    /// Partitions whose stream record was missing: written just now or, if nothing was to be changed, still missing.
    pub marked: Vec<i32>,
    /// Settings that differ from the wanted ones, one clause each.
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

/// Creates the domain's topic if it is missing and writes its stream records, including those of added partitions;
/// compares the settings of an existing topic and reports, but does not change, differences. Idempotent. `known` is the
/// stream that Postgres knows: added partitions get it if retention has removed all stream records.
///
/// # Errors
/// If Kafka does not answer, or refuses.
pub async fn ensure(
    settings: &KafkaSettings,
    domain: &Domain,
    known: Option<Uuid>,
) -> Result<TopicReport, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    let log = LogClient::new(settings);
    require_broker(&log, &topic).await?;
    let admin = admin(settings, &topic).await?;
    // Checked first: a user without permission to create topics can still use existing ones.
    let created = !exists(&log, &topic).await? && create(&admin, settings, &topic).await?;
    let Layout { partitions, replication } = wait_for_leaders(&log, &topic).await?;
    let marked = mark::mark_empty(settings, &log, &topic, partitions, known).await?;
    let state = TopicState { topic, partitions, replication, firsts: marked.firsts };
    let differences = match created {
        true => Vec::new(),
        false => differences(&admin, settings, &state).await?,
    };
    Ok(TopicReport { state, created, marked: marked.written, differences })
}

/// Times in the topic are the broker's. Otherwise Kafka would refuse rows of a listener whose clock is an hour ahead,
/// and remove rows too early if its clock is behind. An existing topic without this setting is not reported.
const TIMES: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// Whether this request created the topic: another process may have done so meanwhile.
async fn create(admin: &AdminClient<Access>, settings: &KafkaSettings, topic: &str) -> Result<bool, CatalogError> {
    let failed = |source| CatalogError::Kafka { action: "create", topic: topic.to_owned(), source };
    let config = wanted_config(settings);
    let new_topic = config.iter().fold(
        NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(settings.replication)).set(TIMES.0, TIMES.1),
        |new_topic, (name, value)| new_topic.set(name, value),
    );
    let results = admin.create_topics([&new_topic], &options()).await.map_err(failed)?;
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(failed(KafkaError::AdminOp(code))),
        _ => Ok(true),
    }
}

/// Checks the domain's topic like [`ensure`], but changes nothing; `None` if it does not exist.
///
/// # Errors
/// If Kafka does not answer, or refuses.
pub async fn inspect(settings: &KafkaSettings, domain: &Domain) -> Result<Option<TopicReport>, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    let log = LogClient::new(settings);
    require_broker(&log, &topic).await?;
    if !exists(&log, &topic).await? {
        return Ok(None);
    }
    let admin = admin(settings, &topic).await?;
    let Layout { partitions, replication } = wait_for_leaders(&log, &topic).await?;
    let firsts = beginnings(&log, &topic, partitions).await?;
    let empty = (0..).zip(&firsts).filter(|(_, first)| **first == FirstRecord::Empty);
    let marked = empty.map(|(partition, _)| partition).collect();
    let state = TopicState { topic, partitions, replication, firsts };
    let differences = differences(&admin, settings, &state).await?;
    Ok(Some(TopicReport { state, created: false, marked, differences }))
}

/// The present state of a topic.
///
/// # Errors
/// [`CatalogError::Missing`] if it does not exist, [`CatalogError::Unmarked`] if nothing was written to it yet.
pub async fn describe(settings: &KafkaSettings, domain: &Domain) -> Result<TopicState, CatalogError> {
    let topic = domain.topic(&settings.topic_prefix);
    let log = LogClient::new(settings);
    let Layout { partitions, replication } = match presence(&log, &topic).await? {
        Presence::Ready(layout) => layout,
        Presence::Missing | Presence::Electing => return Err(CatalogError::Missing(topic)),
    };
    let firsts = beginnings(&log, &topic, partitions).await?;
    if firsts.iter().all(|first| *first == FirstRecord::Empty) {
        return Err(CatalogError::Unmarked(topic));
    }
    Ok(TopicState { topic, partitions, replication, firsts })
}

async fn presence(log: &LogClient, topic: &str) -> Result<Presence, CatalogError> {
    let name = topic.to_owned();
    log.ask(move |reader| reader.presence(&name)).await.map_err(located("look up", topic))
}

async fn exists(log: &LogClient, topic: &str) -> Result<bool, CatalogError> {
    Ok(presence(log, topic).await? != Presence::Missing)
}

/// Waits until every partition of a new topic has a leader, and returns the layout.
async fn wait_for_leaders(log: &LogClient, topic: &str) -> Result<Layout, CatalogError> {
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    loop {
        match presence(log, topic).await? {
            Presence::Ready(layout) => return Ok(layout),
            _ if Instant::now() > deadline => return Err(CatalogError::Missing(topic.into())),
            _ => tokio::time::sleep(ELECTION_LOOK_EVERY).await,
        }
    }
}

/// The first record of each partition. It may be a moment old: metadata names a leader before that broker knows.
async fn beginnings(log: &LogClient, topic: &str, partitions: i32) -> Result<Vec<FirstRecord>, CatalogError> {
    use RDKafkaErrorCode::{
        FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch, UnknownPartition,
        UnknownTopicOrPartition,
    };
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    loop {
        let name = topic.to_owned();
        let asked = log.ask(move |reader| {
            let wanted: Vec<i32> = (0..partitions).collect();
            reader.beginnings(&name, &wanted)
        });
        let found = asked.await;
        let code = match &found {
            Err(LogError::Kafka(source)) => source.rdkafka_error_code(),
            _ => None,
        };
        // Brokers learn about a new topic, and about its leaders, one after the other.
        let young = [
            LeaderNotAvailable,
            NotLeaderForPartition,
            UnknownTopicOrPartition,
            UnknownPartition,
            UnknownLeaderEpoch,
            FencedLeaderEpoch,
        ];
        if !code.is_some_and(|code| young.contains(&code)) || Instant::now() > deadline {
            let found = found.map_err(located("read the stream records of", topic))?;
            return Ok(found.into_values().map(|partition| partition.first).collect());
        }
        tokio::time::sleep(ELECTION_LOOK_EVERY).await;
    }
}

/// Adds the attempted action and the topic to an error.
fn located(action: &'static str, topic: &str) -> impl FnOnce(LogError) -> CatalogError {
    let topic = topic.to_owned();
    move |error| match error {
        LogError::Kafka(source) => CatalogError::Kafka { action, topic, source },
        LogError::Unreachable(source) => CatalogError::Unreachable { action, topic, source },
        LogError::Task(source) => CatalogError::Task { topic, source },
    }
}

async fn admin(settings: &KafkaSettings, topic: &str) -> Result<AdminClient<Access>, CatalogError> {
    let settings = settings.clone();
    let admin = tokio::task::spawn_blocking(move || access::admin(&settings)).await;
    admin
        .map_err(|source| CatalogError::Task { topic: topic.to_owned(), source })?
        .map_err(|source| CatalogError::Kafka { action: "configure the client for", topic: topic.to_owned(), source })
}

/// Returns an error if no broker can be used: an admin client would only time out.
async fn require_broker(log: &LogClient, topic: &str) -> Result<(), CatalogError> {
    log.ask(|reader| reader.ping(REQUEST_TIMEOUT)).await.map_err(located("look up", topic))
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT))
}

/// How a topic differs from the wanted settings, one clause each.
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
        // rdkafka returns no error if Kafka refuses; but every topic has some settings.
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
