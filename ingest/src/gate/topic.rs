//! Decides whether a domain's topic may be published to: it is the one that the ledger knows, and its partitions have
//! their stream records. Added partitions get their stream records here, before any row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use freshet_sinks::bookmarks::streams::{self, Binding};
use freshet_sinks::bookmarks::{self, Bookmark};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::{LogReader, PartitionLog, Presence};
use freshet_topics::stream::{self, Beginning, FirstRecord};
use freshet_topics::{Domain, catalog};
use sqlx::PgPool;
use uuid::Uuid;

use super::OpenTopic;
use crate::producer::Producer;

/// Partitions whose first records were found to fit a stream: they are not read again while the topic is that stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verified {
    stream_id: Uuid,
    partitions: BTreeSet<i32>,
}

/// What to do about a topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This many partitions, from 0 on, may be published to.
    Open(i32),
    /// The stream records of these partitions must be written first.
    Mark(Vec<i32>),
    /// Nothing may be published before an operator has decided.
    Refuse(String),
}

/// Decides it, from how each partition's first record fits and what it is, if it was read.
///
/// | partition 0 | the others | step |
/// |---|---|---|
/// | fits | all fit | open all |
/// | fits | some unmarked, none unfit | mark those |
/// | unmarked | – | refuse: `topics create` |
/// | – | one is unfit | refuse: `bookmarks adopt` |
pub fn decide_opening(domain: &str, topic: &str, partitions: &BTreeMap<i32, (Beginning, Option<FirstRecord>)>) -> Step {
    let is = |wanted| {
        let found = partitions.iter().filter(move |(_, (beginning, _))| *beginning == wanted);
        found.map(|(partition, (_, first))| (*partition, *first)).collect::<Vec<_>>()
    };
    if let Some((partition, Some(first))) = is(Beginning::Unfit).first() {
        return Step::Refuse(format!(
            "topic {topic} partition {partition} {first}: nothing is published until you run `freshet bookmarks adopt \
             {domain}`"
        ));
    }
    let unmarked: Vec<i32> = is(Beginning::Unmarked).into_iter().map(|(partition, _)| partition).collect();
    match unmarked.first() {
        Some(0) => Step::Refuse(format!("topic {topic} has no stream record yet: run `freshet topics create`")),
        Some(_) => Step::Mark(unmarked),
        None => Step::Open(leading(partitions)),
    }
}

/// How many partitions fit, from 0 on without a gap.
fn leading(partitions: &BTreeMap<i32, (Beginning, Option<FirstRecord>)>) -> i32 {
    let fits = (0..)
        .zip(partitions)
        .take_while(|(number, (partition, (beginning, _)))| number == *partition && *beginning == Beginning::Fits);
    fits.count() as i32
}

/// The inputs of a check.
pub(super) struct TopicCheck<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) kafka: &'a KafkaSettings,
    pub(super) producer: &'a Producer,
    pub(super) domain: &'a Domain,
}

impl TopicCheck<'_> {
    /// The part of the topic that may be published to, and what need not be read again. `verified` is that of the last
    /// check, `open` the number of partitions that it opened.
    ///
    /// # Errors
    /// Why nothing may be published, and what to do.
    pub(super) async fn run(&self, verified: &Verified, open: i32) -> Result<(OpenTopic, Verified), String> {
        let topic = self.domain.topic(&self.kafka.topic_prefix);
        let count = self.count_partitions(&topic).await?;
        let mut read = self.read_beginnings(&topic, count, &verified.partitions).await?;
        let stream_id = self.bind(&topic, &read).await?;
        let mut verified = verified.clone();
        if verified.stream_id != stream_id {
            verified = Verified { stream_id, partitions: BTreeSet::new() };
            read = self.read_beginnings(&topic, count, &verified.partitions).await?;
        }
        let mut judged = self.judge(&read, &verified, count).await?;
        if let Step::Mark(partitions) = decide_opening(self.domain.name, &topic, &judged) {
            if let Err(reason) = self.mark(&topic, &partitions, stream_id).await {
                tracing::warn!(domain = self.domain.name, topic, ?partitions, reason, "cannot mark added partitions");
            }
            read = self.read_beginnings(&topic, count, &verified.partitions).await?;
            judged = self.judge(&read, &verified, count).await?;
        }
        let fitting = match decide_opening(self.domain.name, &topic, &judged) {
            Step::Refuse(reason) => return Err(reason),
            Step::Open(_) | Step::Mark(_) => leading(&judged),
        };
        let fit = judged.iter().filter(|(_, (beginning, _))| *beginning == Beginning::Fits);
        verified.partitions = fit.map(|(partition, _)| *partition).collect();
        let partitions = match fitting > open {
            // The producer would refuse messages to partitions that it does not know yet.
            true => fitting.min(self.producer.known_partitions(&topic).await?),
            false => fitting,
        };
        if partitions == 0 {
            return Err(format!("the producer does not see topic {topic} yet"));
        }
        Ok((OpenTopic { name: Arc::from(topic), partitions, stream_id }, verified))
    }

    async fn count_partitions(&self, topic: &str) -> Result<i32, String> {
        let name = topic.to_owned();
        let found = self.producer.log().ask(move |reader| reader.presence(&name)).await;
        match found.map_err(|error| format!("look up topic {topic}: {error}"))? {
            Presence::Ready(layout) => Ok(layout.partitions),
            Presence::Electing => Err(format!("a partition of topic {topic} has no leader")),
            Presence::Missing => Err(format!("topic {topic} does not exist: run `freshet topics create`")),
        }
    }

    /// The first records of partition 0, which shows whether a topic was recreated, and of the partitions not verified
    /// yet.
    async fn read_beginnings(
        &self,
        topic: &str,
        count: i32,
        verified: &BTreeSet<i32>,
    ) -> Result<BTreeMap<i32, PartitionLog>, String> {
        let wanted: Vec<i32> = (0..count).filter(|it| *it == 0 || !verified.contains(it)).collect();
        let name = topic.to_owned();
        let read = move |reader: &LogReader| reader.beginnings(&name, &wanted);
        let found = self.producer.log().ask(read).await;
        found.map_err(|error| format!("read the stream records of topic {topic}: {error}"))
    }

    async fn bind(&self, topic: &str, read: &BTreeMap<i32, PartitionLog>) -> Result<Uuid, String> {
        let firsts: Vec<FirstRecord> = read.values().map(|partition| partition.first).collect();
        // A topic without records is not bound, and not a reason for an alert.
        if firsts.iter().all(|first| *first == FirstRecord::Empty) {
            return Err(format!("topic {topic} has no stream record yet: run `freshet topics create`"));
        }
        let domain = self.domain.name;
        let binding = streams::bind(self.pool, domain, topic, stream::stream_of(&firsts)).await;
        match binding.map_err(|error| format!("read the known stream of topic {topic}: {error}"))? {
            Binding::Same(stream_id) => Ok(stream_id),
            Binding::Other { known, found } => Err(format!(
                "topic {topic} was deleted and recreated (stream {found}, known is {known}): nothing is published to \
                 it until you run `freshet bookmarks adopt {domain}`"
            )),
            Binding::Unknown => Err(format!(
                "topic {topic} has no stream record and the database does not know it: nothing is published to it \
                 until you run `freshet bookmarks adopt {domain}`"
            )),
        }
    }

    /// How each partition's first record fits.
    async fn judge(
        &self,
        read: &BTreeMap<i32, PartitionLog>,
        verified: &Verified,
        count: i32,
    ) -> Result<BTreeMap<i32, (Beginning, Option<FirstRecord>)>, String> {
        let stream_id = verified.stream_id;
        let known = bookmarks::read(self.pool, self.domain.name, Some(stream_id)).await;
        let known: Vec<Bookmark> = known.map_err(|error| format!("read the bookmarks: {error}"))?;
        let judge = |partition: i32| match read.get(&partition) {
            Some(log) => {
                let bookmark = known.iter().find(|bookmark| bookmark.partition == partition);
                let accepted = bookmark.and_then(|bookmark| bookmark.accepted_beginning.as_deref());
                (stream::judge_beginning(log.first, stream_id, accepted), Some(log.first))
            }
            None => (Beginning::Fits, None),
        };
        Ok((0..count).map(|partition| (partition, judge(partition))).collect())
    }

    async fn mark(&self, topic: &str, partitions: &[i32], stream_id: Uuid) -> Result<(), String> {
        let written = catalog::write_stream_records(self.kafka, topic, partitions, stream_id).await;
        written.map_err(|error| error.to_string())?;
        tracing::info!(
            domain = self.domain.name,
            topic,
            ?partitions,
            "partitions were added; wrote their stream records"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use Beginning::{Fits, Unfit, Unmarked};

    use super::*;

    #[test]
    fn a_topic_opens_partition_by_partition_and_only_from_the_first_on() {
        let refuse = |step: &Step, words: &str| matches!(step, Step::Refuse(reason) if reason.contains(words));
        let step = |beginnings: &[Beginning]| {
            let first = |beginning: &Beginning| match beginning {
                Unfit => FirstRecord::Row,
                Unmarked => FirstRecord::Empty,
                Fits => FirstRecord::Removed,
            };
            let partitions = (0..).zip(beginnings.iter().map(|it| (*it, Some(first(it))))).collect();
            (decide_opening("health", "t", &partitions), leading(&partitions))
        };
        assert_eq!(step(&[Fits, Fits, Fits]), (Step::Open(3), 3));
        assert_eq!(step(&[Fits, Fits, Unmarked]), (Step::Mark(vec![2]), 2));
        assert_eq!(step(&[Fits, Unmarked, Fits]), (Step::Mark(vec![1]), 1));
        let (unmarked, leading) = step(&[Unmarked, Fits]);
        assert!(refuse(&unmarked, "topics create") && leading == 0, "{unmarked:?}");
        for beginnings in [[Fits, Unfit, Unmarked], [Unfit, Fits, Fits], [Unmarked, Unmarked, Unfit]] {
            let (step, _) = step(&beginnings);
            assert!(refuse(&step, "bookmarks adopt health"), "{step:?}");
        }
    }
}
