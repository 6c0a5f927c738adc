//! The consumer of a domain's group.
//!
//! It starts each partition at the bookmark in Postgres, not at Kafka's commit. On assignment it checks that the topic
//! is the one that the bookmarks were made on, takes the bookmarks (which shuts out the former owner), compares each
//! with the log's ends, and assigns once. A partition whose bookmark does not fit is *halted*: it is not read, the
//! reason is in `pipeline.bookmarks`, and it is never silently reset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_sinks::bookmarks::streams::{self, Binding};
use freshet_sinks::bookmarks::{self, Assigned};
use freshet_sinks::destination::Destination;
use freshet_topics::kafka::METADATA_REFRESH_MS;
use freshet_topics::kafka::access::Access;
use freshet_topics::log::{LogError, LogReader, PartitionLog};
use freshet_topics::stream::{self, FirstRecord};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use sentry_arroyo::processing::strategies::CommitRequest;
use sentry_arroyo::types::{BrokerMessage, Partition, Topic};
use sqlx::PgPool;

use crate::bounded::{Silent, bounded};
use crate::pipeline::Pipeline;
use crate::record::{Consumed, Taker};
use crate::start::{Start, decide_start};
use crate::steps::CurrentSteps;
use crate::unreadable;
use crate::{Context, metrics};

/// How long partitions that are taken away are kept to write what was read of them: their next owner waits meanwhile.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// The same where a batch has failed before: it may be halted for hours, and all members of the group wait.
const FAILING_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an assignment may take in Postgres once it is connected: ten waits of two seconds for a former owner's
/// transaction ([`bookmarks::take`]), and another look at Kafka. After five minutes (`max.poll.interval.ms`) Kafka would
/// take the partitions away.
const TAKE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the broker waits for a record before it answers that there is none. A record ends the wait; only a partition
/// that is added to the fetched ones meanwhile, or again after its queue was full, waits for the answer. Asking four times
/// a second instead of ten halves what an idle consumer costs here and in the broker.
const FETCH_WAIT_MAX_MS: &str = "250";

/// How rows are fetched ahead, live and in a replay.
pub(crate) const FETCHING: [(&str, &str); 5] = [
    // The default grows with the partitions; this bounds what waits in memory for a domain to about 80,000 rows.
    ("queued.max.messages.kbytes", "8192"),
    // Half of those rows are written in a quarter of a second: by default librdkafka looks only once a second whether
    // there is room again, and the writers would wait for it.
    ("fetch.queue.backoff.ms", "20"),
    // Reached only if each message has one row: packed messages reach the limit in bytes first.
    ("queued.min.messages", "20000"),
    ("fetch.max.bytes", "4194304"),
    ("max.partition.fetch.bytes", "1048576"),
];

/// A partition's position, for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The offset of the next record to apply.
    pub(crate) next_offset: i64,
    /// The owner's epoch.
    pub(crate) epoch: i64,
}

/// The state that the rebalance callback shares with the writer.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    positions: Mutex<Positions>,
}

#[derive(Debug, Default)]
struct Positions {
    owned: BTreeMap<i32, Position>,
    halted: BTreeMap<i32, i64>,
    /// Partitions of a batch that failed and is tried again.
    failing: BTreeSet<i32>,
    failure: Option<String>,
}

impl Ownership {
    fn lock(&self) -> std::sync::MutexGuard<'_, Positions> {
        // The lock is held only for plain assignments, so the value is complete even if the lock is poisoned.
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epochs of the partitions of this assignment, and how far each is applied unless it is halted.
    pub(crate) fn left_at(&self) -> BTreeMap<i32, (i64, Option<i64>)> {
        let positions = self.lock();
        let owned = positions.owned.iter();
        let owned = owned.map(|(partition, position)| (*partition, (position.epoch, Some(position.next_offset))));
        let halted = positions.halted.iter().map(|(partition, epoch)| (*partition, (*epoch, None)));
        owned.chain(halted).collect()
    }

    /// Records that a partition of the assignment with this epoch is applied up to `next_offset`.
    pub(crate) fn applied(&self, partition: i32, epoch: i64, next_offset: i64) {
        let mut positions = self.lock();
        if let Some(position) = positions.owned.get_mut(&partition).filter(|position| position.epoch == epoch) {
            position.next_offset = next_offset;
            positions.failing.remove(&partition);
        }
    }

    /// Records that a batch with records of a partition of the assignment with this epoch failed.
    pub(crate) fn failed(&self, partition: i32, epoch: i64) {
        let mut positions = self.lock();
        if positions.owned.get(&partition).is_some_and(|position| position.epoch == epoch) {
            positions.failing.insert(partition);
        }
    }

    /// How long what was read may be written once the partitions are taken away.
    fn drain_timeout(&self) -> Duration {
        if self.lock().failing.is_empty() { DRAIN_TIMEOUT } else { FAILING_DRAIN_TIMEOUT }
    }
}

struct Rebalancer {
    topic: Topic,
    pipeline: Pipeline,
    steps: CurrentSteps,
    access: Access,
    /// What librdkafka said about the error that the poll returns: unlike its code, it names the topic, the partition and
    /// the offset, where it is about one.
    reason: Mutex<Option<String>>,
}

impl ClientContext for Rebalancer {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Access::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.access.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.access.error(error, reason);
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.access.generate_oauth_token(config)
    }
}

impl ConsumerContext for Rebalancer {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let wanted: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
                // The poll that brought it returns this, and ends the membership.
                if let Err(failure) = self.assign(consumer, &wanted) {
                    self.pipeline.ownership.lock().failure = Some(failure.to_string());
                }
            }
            _ => self.revoke(consumer),
        }
    }
}

/// Why an assignment failed; the processor joins again.
#[derive(Debug, thiserror::Error)]
enum AssignError {
    #[error("ask Kafka about the assigned partitions: {0}")]
    Kafka(#[from] KafkaError),
    #[error("ask Kafka about the assigned partitions: {0}")]
    Log(#[from] LogError),
    #[error("take the bookmarks: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("take the bookmarks: {0}")]
    Silent(#[from] Silent),
    #[error(
        "topic {topic} has no stream record and the database does not know it: run `freshet topics create` if it is \
         new, and `freshet bookmarks adopt {domain}` if it is not"
    )]
    Unbound { topic: String, domain: &'static str },
}

impl Rebalancer {
    fn assign(&self, consumer: &BaseConsumer<Self>, wanted: &[i32]) -> Result<(), AssignError> {
        let log = self.read_log(wanted)?;
        let Context { pool, .. } = &self.pipeline.context;
        let take = async |own: &PgPool| self.take_bookmarks(own, wanted, &log).await;
        let (assigned, starts) = self.pipeline.runtime.block_on(bounded(pool, TAKE_TIMEOUT, take))?;
        let mut assignment = TopicPartitionList::new();
        let mut positions = Positions::default();
        for (one, start) in assigned.iter().zip(starts) {
            match start {
                Start::At(offset) => {
                    assignment.add_partition_offset(self.topic.as_str(), one.partition, Offset::Offset(offset))?;
                    positions.owned.insert(one.partition, Position { next_offset: offset, epoch: one.epoch });
                }
                Start::Halt(reason) => {
                    tracing::error!(topic = %self.topic, partition = one.partition, reason, "partition halted");
                    positions.halted.insert(one.partition, one.epoch);
                }
            }
        }
        consumer.assign(&assignment)?;
        // librdkafka remembers that a partition was paused in an earlier assignment.
        consumer.resume(&assignment)?;
        metrics::assigned(self.pipeline.context.domain.name, positions.owned.len());
        *self.steps.lock() = Some(self.pipeline.begin(positions.owned.clone()));
        *self.pipeline.ownership.lock() = positions;
        Ok(())
    }

    /// The first record and the ends of each partition, and of partition 0, which tells the topic's stream. Uses its
    /// own client: the one that is being assigned cannot read yet.
    fn read_log(&self, wanted: &[i32]) -> Result<BTreeMap<i32, PartitionLog>, LogError> {
        let mut partitions = wanted.to_vec();
        if !partitions.contains(&0) {
            partitions.push(0);
        }
        let reader = LogReader::new(&self.pipeline.context.kafka)?;
        // The metadata first: a new client knows no leaders.
        reader.presence(self.topic.as_str())?;
        reader.beginnings(self.topic.as_str(), &partitions)
    }

    async fn take_bookmarks(
        &self,
        pool: &PgPool,
        wanted: &[i32],
        log: &BTreeMap<i32, PartitionLog>,
    ) -> Result<(Vec<Assigned>, Vec<Start>), AssignError> {
        let Context { domain, owner, .. } = &self.pipeline.context;
        let firsts: Vec<FirstRecord> = log.values().map(|partition| partition.first).collect();
        let topic = self.topic.as_str();
        let stream_id = match streams::bind(pool, domain.name, topic, stream::stream_of(&firsts)).await? {
            Binding::Same(known) | Binding::Other { known, .. } => known,
            Binding::Unknown => return Err(AssignError::Unbound { topic: topic.into(), domain: domain.name }),
        };
        let is_wanted = |(partition, _): &(&i32, &PartitionLog)| wanted.contains(partition);
        let beginnings: Vec<(i32, i64)> =
            log.iter().filter(is_wanted).map(|(partition, log)| (*partition, log.ends.low)).collect();
        let mut assigned = bookmarks::take(pool, Destination::Live, domain.name, stream_id, owner, &beginnings).await?;
        assigned.sort_by_key(|one| one.partition);
        let known = bookmarks::read(pool, domain.name, Some(stream_id)).await?;
        // The log was measured before the bookmarks were taken: a former owner may have applied newer records since.
        let is_beyond = |one: &Assigned| log.get(&one.partition).is_some_and(|log| one.next_offset > log.ends.high);
        let measured_again = if assigned.iter().any(is_beyond) { Some(self.read_log(wanted)?) } else { None };
        let log = measured_again.as_ref().unwrap_or(log);
        let mut starts = Vec::new();
        for one in &assigned {
            let bookmark = known.iter().find(|bookmark| bookmark.partition == one.partition);
            let accepted = bookmark.and_then(|bookmark| bookmark.accepted_beginning.as_deref());
            let halted = bookmark.and_then(|bookmark| bookmark.halted.as_deref());
            let start = log
                .get(&one.partition)
                .map_or(Start::At(one.next_offset), |log| decide_start(domain.name, one, accepted, *log));
            let start = unreadable::stay_halted(start, halted);
            let reason = match &start {
                Start::Halt(reason) => Some(reason.as_str()),
                Start::At(_) => None,
            };
            bookmarks::set_halted(pool, domain.name, one.partition, one.epoch, reason).await?;
            starts.push(start);
        }
        Ok((assigned, starts))
    }

    /// Lets what was read be applied, says in Kafka's group how far that is, and gives the partitions back.
    fn revoke(&self, consumer: &BaseConsumer<Self>) {
        metrics::revoked(self.pipeline.context.domain.name);
        let steps = self.steps.lock().take();
        // Of steps that have panicked, nothing is expected any more.
        if let Some(steps) = steps.filter(|_| !std::thread::panicking()) {
            match steps.finish(self.pipeline.ownership.drain_timeout()) {
                Ok(positions) => commit(consumer, positions, CommitMode::Sync),
                Err(error) => tracing::warn!(
                    domain = self.pipeline.context.domain.name,
                    %error,
                    "what was read is not all applied; the next owner of the partitions reads it again"
                ),
            }
        }
        *self.pipeline.ownership.lock() = Positions::default();
        if let Err(error) = consumer.unassign() {
            tracing::warn!(topic = %self.topic, %error, "cannot unassign partitions");
        }
    }
}

/// Also commits in Kafka's group, for lag tools. Nothing depends on it: a failure that shows at once is logged, and one that
/// Kafka answers later is not waited for.
fn commit(consumer: &BaseConsumer<Rebalancer>, request: Option<CommitRequest>, mode: CommitMode) {
    let Some(CommitRequest { positions }) = request else { return };
    let mut list = TopicPartitionList::new();
    for (partition, offset) in positions {
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        if list.add_partition_offset(partition.topic.as_str(), partition.index.into(), offset).is_err() {
            return;
        }
    }
    if let Err(error) = consumer.commit(&list, mode) {
        tracing::debug!(%error, "commit group offsets");
    }
}

/// The consumer of one domain.
pub(crate) struct BookmarkConsumer {
    consumer: BaseConsumer<Rebalancer>,
    topic: Topic,
    taker: Taker,
}

impl BookmarkConsumer {
    /// Joins the domain's group. The steps of each assignment are put into `steps`, and taken out of it and finished when
    /// it ends: both happen while this consumer is polled or dropped, so nobody else may hold the lock then.
    ///
    /// # Errors
    /// If rdkafka refuses the configuration.
    pub(crate) fn join(pipeline: Pipeline, steps: CurrentSteps) -> Result<Self, KafkaError> {
        let Context { domain, kafka, .. } = &pipeline.context;
        let name = domain.topic(&kafka.topic_prefix);
        let topic = Topic::new(&name);
        let mut config = kafka.client_config();
        config
            .set("group.id", format!("{}{}", kafka.group_prefix, domain.name))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            // Eager: revocation ends all steps.
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS)
            .set("fetch.wait.max.ms", FETCH_WAIT_MAX_MS);
        for (name, value) in FETCHING {
            config.set(name, value);
        }
        let access = Access::new(kafka);
        let context = Rebalancer { topic, pipeline, steps, access, reason: Mutex::default() };
        let consumer: BaseConsumer<Rebalancer> = config.create_with_context(context)?;
        consumer.subscribe(&[&name])?;
        Ok(BookmarkConsumer { consumer, topic, taker: Taker::default() })
    }

    /// The next record, if one comes within `timeout`. Serves the group: partitions are given and taken meanwhile.
    ///
    /// # Errors
    /// What librdkafka does not get over by itself, and a failed assignment. The membership is over.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Result<Option<BrokerMessage<Consumed>>, PollError> {
        let polled = self.consumer.poll(timeout);
        let Rebalancer { pipeline, access, reason, .. } = &**self.consumer.context();
        let reason = reason.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(failure) = pipeline.ownership.lock().failure.take() {
            return Err(PollError::Assignment(failure));
        }
        let Some(polled) = polled else { return Ok(None) };
        let message = match polled {
            Ok(message) => message,
            // Brokers come and go: librdkafka reconnects by itself.
            Err(error) if is_transient(&error) => {
                tracing::debug!(topic = %self.topic, %error, "poll");
                return Ok(None);
            }
            Err(error) => {
                return Err(access.complaint().map_or_else(|| PollError::read(error, reason), PollError::Refused));
            }
        };
        let index = message.partition();
        let partition = Partition::new(self.topic, u16::try_from(index).map_err(|_| PollError::Partition(index))?);
        let timestamp: DateTime<Utc> =
            message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis).unwrap_or_else(Utc::now);
        // Kafka's offsets are not negative.
        let offset = message.offset().unsigned_abs();
        let record = self.taker.take(&message, |_| true);
        Ok(record.map(|record| BrokerMessage::new(record, partition, offset, timestamp)))
    }

    /// Stops reading all partitions of the assignment, or goes on; the group is served as before.
    ///
    /// # Errors
    /// If librdkafka does not know the assignment any more.
    pub(crate) fn set_paused(&self, is_paused: bool) -> Result<(), PollError> {
        let set = self.consumer.assignment().and_then(|assignment| match is_paused {
            true => self.consumer.pause(&assignment),
            false => self.consumer.resume(&assignment),
        });
        set.map_err(|error| PollError::read(error, None))
    }

    /// Lets Kafka's group know how far partitions are applied.
    pub(crate) fn commit(&self, request: Option<CommitRequest>) {
        commit(&self.consumer, request, CommitMode::Async);
    }
}

/// Why a membership is over; the processor joins again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PollError {
    #[error("{0}")]
    Assignment(String),
    #[error("{0}")]
    Refused(String),
    #[error("read the topic: {error}{said}")]
    Kafka { error: KafkaError, said: String },
    #[error("partition {0} cannot be read: freshet reads the first 65,536 partitions of a topic")]
    Partition(i32),
}

impl PollError {
    fn read(error: KafkaError, reason: Option<String>) -> Self {
        PollError::Kafka { error, said: reason.map_or_else(String::new, |reason| format!(": {reason}")) }
    }
}

/// Errors that librdkafka reports and gets over by itself.
pub(crate) fn is_transient(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::NodeUpdate
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::CoordinatorLoadInProgress
                | Code::RebalanceInProgress
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_failed_is_not_waited_for_long_until_it_is_applied() {
        let ownership = Ownership::default();
        let position = Position { next_offset: 7, epoch: 2 };
        ownership.lock().owned = BTreeMap::from([(3, position), (4, position)]);
        ownership.failed(3, 1);
        assert_eq!(ownership.drain_timeout(), DRAIN_TIMEOUT, "a writer of an earlier assignment failed");
        ownership.failed(3, 2);
        ownership.applied(4, 2, 9);
        assert_eq!(ownership.drain_timeout(), FAILING_DRAIN_TIMEOUT);
        ownership.applied(3, 2, 9);
        assert_eq!(ownership.drain_timeout(), DRAIN_TIMEOUT);
    }
}
