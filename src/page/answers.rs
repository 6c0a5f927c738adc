//! Checks whether the services answer: each is asked at every reading of the page, with a short limit, and the time
//! since when one does not answer is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_s3::Client;
use chrono::{DateTime, Utc};
use freshet_sinks::postgres::explain;
use freshet_topics::log::{LogClient, LogError, LogReader, Presence};
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::timeout;

use crate::ready::{cause_of, place_of};
use crate::roles::Services;
use crate::status::MissingTopic;

/// A service that does not answer within this counts as away until the next reading.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The names of the services, as people know them.
pub(super) const POSTGRES: &str = "Postgres";
const KAFKA: &str = "Kafka";
pub(super) const S3: &str = "S3";

/// A service that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Away {
    service: &'static str,
    place: String,
    /// The first time that it was asked in vain.
    since: DateTime<Utc>,
    /// What was said the last time.
    reason: String,
}

/// Asks the services, and remembers which do not answer.
pub(super) struct Answers {
    pool: PgPool,
    s3: Client,
    bucket: String,
    s3_place: String,
    log: LogClient,
    brokers: String,
    /// The pipeline's.
    topics: Vec<MissingTopic>,
    /// Those of them that were missing when Kafka answered last.
    missing: Vec<MissingTopic>,
    away: BTreeMap<&'static str, Away>,
}

impl Answers {
    pub(super) fn new(services: &Services) -> Answers {
        let config = &services.config;
        let topics = config.pipeline.domains.iter().map(|domain| {
            let topic = domain.topic(&config.kafka.topic_prefix);
            MissingTopic { domain: domain.name, topic }
        });
        Answers {
            pool: services.pool.clone(),
            s3: services.s3.clone(),
            bucket: config.s3.raw_bucket.clone(),
            s3_place: config.s3.place().to_owned(),
            log: LogClient::new(&config.kafka),
            brokers: config.kafka.brokers.clone(),
            topics: topics.collect(),
            missing: Vec::new(),
            away: BTreeMap::new(),
        }
    }

    /// Asks all of them, each at most [`ANSWER_TIMEOUT`].
    pub(super) async fn look(&mut self) {
        let late = |_| Err(format!("no answer within {ANSWER_TIMEOUT:?}"));
        let postgres = async {
            let asked = sqlx::query("SELECT 1").execute(&self.pool);
            timeout(ANSWER_TIMEOUT, asked)
                .await
                .map_or_else(late, |said| said.map(drop).map_err(|error| explain(&error)))
        };
        let kafka = async {
            let topics = self.topics.clone();
            let asked = self.log.ask(move |reader| missing(reader, topics));
            match timeout(ANSWER_TIMEOUT, asked).await {
                Ok(said) => said.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {ANSWER_TIMEOUT:?}")),
            }
        };
        let s3 = async {
            let asked = self.s3.head_bucket().bucket(&self.bucket).send();
            // A refusal is an answer too: it is reported where the request is made.
            timeout(ANSWER_TIMEOUT, asked).await.map_or_else(late, |said| match said {
                Err(error) if error.raw_response().is_none() => Err(cause_of(&error)),
                _ => Ok(()),
            })
        };
        let (postgres, kafka, s3) = tokio::join!(postgres, kafka, s3);
        let kafka = kafka.map(|missing| self.missing = missing);
        let now = Utc::now();
        note(&mut self.away, POSTGRES, &place_of(&self.pool), postgres, now);
        note(&mut self.away, KAFKA, &self.brokers, kafka, now);
        note(&mut self.away, S3, &self.s3_place, s3, now);
    }

    /// Those that do not answer.
    pub(super) fn away(&self) -> Vec<&Away> {
        self.away.values().collect()
    }

    /// Topics that do not exist.
    pub(super) fn missing_topics(&self) -> Vec<MissingTopic> {
        self.missing.clone()
    }

    /// Whether a service answered when it was asked last.
    pub(super) fn is_there(&self, service: &str) -> bool {
        !self.away.contains_key(service)
    }
}

/// Those of the topics that do not exist.
fn missing(reader: &LogReader, topics: Vec<MissingTopic>) -> Result<Vec<MissingTopic>, LogError> {
    let mut missing = Vec::new();
    for topic in topics {
        if reader.presence(&topic.topic)? == Presence::Missing {
            missing.push(topic);
        }
    }
    Ok(missing)
}

/// Keeps since when a service is away, and forgets it once it answers.
fn note(
    away: &mut BTreeMap<&'static str, Away>,
    service: &'static str,
    place: &str,
    answer: Result<(), String>,
    now: DateTime<Utc>,
) {
    match answer {
        Ok(()) => drop(away.remove(service)),
        Err(reason) => {
            let since = away.get(service).map_or(now, |known| known.since);
            away.insert(service, Away { service, place: place.to_owned(), since, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_away_since_it_was_first_asked_in_vain_until_it_answers() {
        let at = |second| DateTime::from_timestamp(second, 0).expect("a time");
        let mut away = BTreeMap::new();
        let failed = |reason: &str| Err(reason.to_owned());
        note(&mut away, KAFKA, "k:9092", failed("no answer within 2s"), at(10));
        note(&mut away, KAFKA, "k:9092", failed("refused"), at(20));
        note(&mut away, S3, "AWS", failed("refused"), at(20));
        note(&mut away, POSTGRES, "p:5432/f", Ok(()), at(20));
        let seen: Vec<_> = away.values().map(|it| (it.service, it.since, it.reason.as_str())).collect();
        assert_eq!(seen, [(KAFKA, at(10), "refused"), (S3, at(20), "refused")]);
        note(&mut away, KAFKA, "k:9092", Ok(()), at(30));
        note(&mut away, KAFKA, "k:9092", failed("refused"), at(40));
        assert_eq!(away[KAFKA].since, at(40), "another time");
    }
}
