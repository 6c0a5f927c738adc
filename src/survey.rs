//! The survey: the state of the whole pipeline as gauges, read from Postgres and Kafka now and then.
//!
//! A counter of a role that is down stands still or is gone, just when one wants to know. So the state (files,
//! lag, halts, what waits to be published) is read from where it is kept, by whichever role is alive, whoever made
//! it. Several that survey the same domain show the same: queries take the greatest of them. What was found is also
//! told within the process ([`Services::surveyed`]), so that the status page has a history and reads nothing for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use freshet_topics::causes::in_one_line;
use freshet_topics::log::{Ends, LogClient, LogError, LogReader};
use freshet_topics::{Domain, Pipeline};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::roles::{Role, Services};
use crate::status::{self, DomainStatus, Outside, Rows, Status};

/// Surveys take at most one in so many parts of the time: some of what they sum grows with the history.
const SURVEY_SHARE: u32 = 20;
/// One that had to wait, as for a service that did not answer, does not leave the gauges behind for longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After an error the other domains are still asked about, but none after this time: while Kafka is away, each costs a
/// timeout.
const ASKING_MAX: Duration = Duration::from_secs(30);

/// Which domains a process surveys: a processor its own, any other role all.
pub(crate) fn domains_of(pipeline: &Pipeline, roles: &[Role]) -> Vec<&'static Domain> {
    let own = roles.iter().map(|role| match role {
        Role::Process(domain) => Some(*domain),
        Role::Ingest | Role::Metrics => None,
    });
    own.collect::<Option<Vec<_>>>().unwrap_or_else(|| pipeline.domains.to_vec())
}

/// What one survey found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Survey {
    /// When, by Postgres' clock.
    pub(crate) at: DateTime<Utc>,
    /// One a domain, in the order of the pipeline.
    pub(crate) domains: Vec<Surveyed>,
    /// Ranges of dates and rows of dimensions that changed and are not yet published.
    pub(crate) dirty_windows: i64,
}

/// What one survey found of a domain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Surveyed {
    /// The domain.
    pub(crate) domain: &'static str,
    /// Files in the ledger, in any state.
    pub(crate) files: i64,
    /// Rows by result.
    pub(crate) rows: Rows,
    /// How far its bookmarks are behind.
    pub(crate) lag: Lag,
}

/// How far the bookmarks of a domain are behind the log.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lag {
    /// Messages, over all partitions; of the ledger's published files if Kafka did not answer.
    pub(crate) messages: i64,
    /// Age in seconds of the oldest record that is not applied; none if nothing waits or Kafka did not answer.
    pub(crate) seconds: Option<f64>,
}

/// Kafka's answer about a domain.
#[derive(Debug, Default, Clone)]
struct Log {
    ends: BTreeMap<i32, Ends>,
    /// When the first record that is not applied was written.
    waiting_since: BTreeMap<i32, DateTime<Utc>>,
}

/// Surveys `domains` until `shutdown`. What does not answer keeps its last values, and counts as a failure.
pub(crate) async fn run(services: Services, domains: Vec<&'static Domain>, shutdown: CancellationToken) {
    let interval = Duration::from_millis(services.config.http.survey_interval_ms);
    let log = LogClient::new(&services.config.kafka);
    let mut shown = BTreeMap::new();
    // What never answers is noticed too.
    metrics::SURVEY_TIMESTAMP.set(seconds(Utc::now()));
    for domain in &domains {
        if let Some(interval) = domain.frequency {
            metrics::FILE_INTERVAL.with_label_values(&[domain.name]).set(interval.as_secs_f64());
        }
    }
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        match ledger(&services, &domains).await {
            Ok(state) => {
                show(&state);
                let (lags, is_whole) = survey_logs(&services, &domains, &state, &log, &mut shown).await;
                match is_whole {
                    true => metrics::SURVEY_TIMESTAMP.set(seconds(state.at)),
                    false => metrics::SURVEY_FAILURES.with_label_values(&["kafka"]).inc(),
                }
                services.surveyed.send_replace(Some(Arc::new(survey(&state, &lags))));
            }
            Err(error) => {
                metrics::SURVEY_FAILURES.with_label_values(&["postgres"]).inc();
                tracing::debug!(error = in_one_line(error.as_ref()), "survey Postgres");
            }
        }
        let pause = interval.max((began.elapsed() * SURVEY_SHARE).min(PAUSE_MAX));
        shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// What Postgres knows.
async fn ledger(services: &Services, domains: &[&'static Domain]) -> anyhow::Result<Status> {
    let mut connection = services.pool.acquire().await.context("connect to Postgres")?;
    let state = status::read(&mut connection, services.config.pipeline, domains, &Outside::default(), None).await?;
    let bytes = sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut *connection).await;
    metrics::DATABASE_BYTES.set(bytes.context("ask how large the database is")?);
    Ok(state)
}

/// Shows what Postgres knows.
fn show(state: &Status) {
    for domain in &state.domains {
        let labels = &[domain.domain];
        for (state, files) in &domain.files {
            metrics::FILES.with_label_values(&[domain.domain, state.name()]).set(*files);
        }
        metrics::OLDEST_UNFINISHED_FILE.with_label_values(labels).set(domain.oldest_unfinished_seconds.unwrap_or(0.0));
        if let Some(age) = domain.freshness_seconds {
            metrics::NEWEST_APPLIED_FILE.with_label_values(labels).set(seconds(state.at) - age);
        }
        if let Some(orphans) = domain.orphans {
            metrics::ORPHAN_ROWS.with_label_values(labels).set(orphans.rows);
            metrics::ORPHAN_LOCATIONS.with_label_values(labels).set(orphans.locations);
        }
        metrics::MOSTLY_REJECTED_FILES.with_label_values(labels).set(domain.mostly_rejected_files);
        metrics::HALTED_PARTITIONS.with_label_values(labels).set(domain.halted.len() as i64);
    }
    metrics::UNMATCHED_OBJECTS.set(state.unmatched.objects);
    metrics::DIRTY_WINDOWS.set(state.outputs.dirty_windows);
    metrics::OLDEST_MARK.set(state.outputs.oldest_mark_seconds.unwrap_or(0.0));
}

/// Unix time.
fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1_000.0
}

fn survey(state: &Status, lags: &BTreeMap<&'static str, Lag>) -> Survey {
    let of_ledger = |status: &DomainStatus| Lag { messages: status.lag_messages, seconds: None };
    let domains = state.domains.iter().map(|status| Surveyed {
        domain: status.domain,
        files: status.files.values().sum(),
        rows: status.rows,
        lag: lags.get(status.domain).copied().unwrap_or_else(|| of_ledger(status)),
    });
    Survey { at: state.at, domains: domains.collect(), dirty_windows: state.outputs.dirty_windows }
}

/// Asks Kafka, and shows how far the bookmarks are behind. Domains of which it does not answer are left out; whether it
/// answered of all. `shown` are the partitions that have gauges.
async fn survey_logs(
    services: &Services,
    domains: &[&'static Domain],
    state: &Status,
    log: &LogClient,
    shown: &mut BTreeMap<&'static str, BTreeSet<i32>>,
) -> (BTreeMap<&'static str, Lag>, bool) {
    let began = Instant::now();
    let mut lags = BTreeMap::new();
    let mut is_whole = true;
    for (domain, status) in domains.iter().zip(&state.domains) {
        if !is_whole && began.elapsed() > ASKING_MAX {
            break;
        }
        let topic = domain.topic(&services.config.kafka.topic_prefix);
        let bookmarks: BTreeMap<i32, i64> =
            status.partitions.iter().map(|partition| (partition.partition, partition.next_offset)).collect();
        let wanted = bookmarks.clone();
        match log.ask(move |reader| read_log(reader, &topic, &wanted)).await {
            Ok(found) => {
                forget_gone(domain.name, shown.entry(domain.name).or_default(), &found.ends);
                // If the topic does not exist, what is not applied waits all the same.
                if !found.ends.is_empty() {
                    lags.insert(domain.name, show_lag(status, &bookmarks, &found, state.at));
                }
            }
            Err(error) => {
                tracing::debug!(%error, domain = domain.name, "survey Kafka");
                is_whole = false;
            }
        }
    }
    (lags, is_whole)
}

/// Takes away the gauges of partitions that Kafka no longer has, as of a deleted topic: they would stand still.
fn forget_gone(domain: &str, shown: &mut BTreeSet<i32>, ends: &BTreeMap<i32, Ends>) {
    for partition in shown.iter().filter(|partition| !ends.contains_key(*partition)) {
        let number = partition.to_string();
        let labels = &[domain, number.as_str()];
        metrics::BOOKMARK_OFFSET.remove_label_values(labels).ok();
        metrics::LOG_END_OFFSET.remove_label_values(labels).ok();
        metrics::LAG_MESSAGES.remove_label_values(labels).ok();
        metrics::LAG_SECONDS.remove_label_values(labels).ok();
    }
    *shown = ends.keys().copied().collect();
}

fn read_log(reader: &LogReader, topic: &str, bookmarks: &BTreeMap<i32, i64>) -> Result<Log, LogError> {
    let ends = reader.ends(topic)?;
    let waiting = ends.iter().filter_map(|(partition, ends)| {
        let first = ends.first_waiting(bookmarks.get(partition).copied().unwrap_or(0))?;
        Some((*partition, first))
    });
    let waiting_since = reader.written_at(topic, &waiting.collect())?;
    Ok(Log { ends, waiting_since })
}

fn show_lag(status: &DomainStatus, bookmarks: &BTreeMap<i32, i64>, log: &Log, at: DateTime<Utc>) -> Lag {
    let mut lag = Lag::default();
    for (partition, ends) in &log.ends {
        let number = partition.to_string();
        let labels = &[status.domain, number.as_str()];
        let bookmark = bookmarks.get(partition).copied().unwrap_or(0);
        let messages = ends.waiting(bookmark);
        let since = log.waiting_since.get(partition);
        let seconds = since.map_or(0.0, |since| (at - *since).num_milliseconds().max(0) as f64 / 1_000.0);
        metrics::BOOKMARK_OFFSET.with_label_values(labels).set(bookmark);
        metrics::LOG_END_OFFSET.with_label_values(labels).set(ends.high);
        metrics::LAG_MESSAGES.with_label_values(labels).set(messages);
        metrics::LAG_SECONDS.with_label_values(labels).set(seconds);
        lag.messages += messages;
        lag.seconds = since.map(|_| seconds.max(lag.seconds.unwrap_or(0.0))).or(lag.seconds);
    }
    lag
}

#[cfg(test)]
mod tests {
    use freshet_sinks::unmatched::AllUnmatched;

    use super::*;

    #[test]
    fn the_lag_of_a_domain_is_that_of_all_its_partitions_and_its_oldest_record() {
        let status = DomainStatus { domain: "health", lag_messages: 99, ..DomainStatus::default() };
        let at = DateTime::from_timestamp(1_000, 0).expect("a time");
        let since = |seconds: i64| DateTime::from_timestamp(1_000 - seconds, 0).expect("a time");
        let log = Log {
            ends: BTreeMap::from([
                (0, Ends { low: 0, high: 10 }),
                (1, Ends { low: 0, high: 5 }),
                (2, Ends { low: 0, high: 1 }),
            ]),
            waiting_since: BTreeMap::from([(0, since(2)), (1, since(7))]),
        };
        let lag = show_lag(&status, &BTreeMap::from([(0, 8), (1, 4)]), &log, at);
        assert_eq!(lag, Lag { messages: 3, seconds: Some(7.0) });
        assert_eq!(show_lag(&status, &BTreeMap::new(), &Log::default(), at), Lag::default());

        let (outputs, life) = (status::OutputsStatus::default(), status::LifeStatus::default());
        let unmatched = AllUnmatched::default();
        let domains = vec![status];
        let (columns, event_queue, unlisted) = (vec![], None, vec![]);
        let (passed_over, files, blocked, missing_topics) = (None, None, vec![], vec![]);
        let state = Status {
            at,
            domains,
            outputs,
            blocked,
            missing_topics,
            life,
            passed_over,
            columns,
            unmatched,
            unlisted,
            event_queue,
            files,
        };
        let kafka = survey(&state, &BTreeMap::from([("health", lag)]));
        assert_eq!(kafka.domains[0].lag, lag);
        let ledger = survey(&state, &BTreeMap::new());
        assert_eq!(ledger.domains[0].lag, Lag { messages: 99, seconds: None }, "Kafka did not answer");
    }

    #[test]
    fn a_partition_that_kafka_no_longer_has_is_not_shown() {
        let status = DomainStatus { domain: "forgotten", ..DomainStatus::default() };
        let ends = BTreeMap::from([(0, Ends { low: 0, high: 10 }), (1, Ends { low: 0, high: 5 })]);
        let log = Log { ends: ends.clone(), waiting_since: BTreeMap::new() };
        show_lag(&status, &BTreeMap::new(), &log, DateTime::default());
        let mut shown = BTreeSet::new();
        forget_gone("forgotten", &mut shown, &ends);
        assert_eq!(shown, BTreeSet::from([0, 1]));
        forget_gone("forgotten", &mut shown, &BTreeMap::from([(1, Ends { low: 0, high: 5 })]));
        assert_eq!(shown, BTreeSet::from([1]));
        let is_there = |partition: &str| metrics::LAG_MESSAGES.remove_label_values(&["forgotten", partition]).is_ok();
        assert_eq!((is_there("0"), is_there("1")), (false, true));
    }

    #[test]
    fn a_processor_surveys_its_own_domain_and_any_other_role_all() {
        let pipeline = Pipeline::shipped();
        let of = |roles: &[Role]| domains_of(pipeline, roles).len();
        let all = pipeline.domains.len();
        assert_eq!(of(&[Role::Process(pipeline.domains[1])]), 1);
        assert_eq!(of(&[Role::Process(pipeline.domains[1]), Role::Process(pipeline.domains[2])]), 2);
        assert_eq!(of(&[Role::Process(pipeline.domains[0]), Role::Ingest]), all);
        assert_eq!(of(&[Role::Metrics]), all);
    }
}
