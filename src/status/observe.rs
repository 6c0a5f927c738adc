//! Reads the state outside Postgres: the raw bucket, the outputs, and Kafka's end offsets.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use freshet_ingest::names::{self, Name};
use freshet_ingest::object::{ObjectReader, ObjectVersion};
use freshet_sinks::unmatched::{KEPT_MAX, Unmatched};
use freshet_topics::causes::in_one_line;
use freshet_topics::log::{Ends, LogClient};
use tokio::time::timeout;

use super::{Dropped, MissingTopic, Outputs, Outside};
use crate::roles::Services;

/// Every file of a domain in the raw bucket, and the objects of no domain that are reported, the newest first.
///
/// # Errors
/// If S3 does not answer or refuses.
pub async fn listed(services: &Services) -> anyhow::Result<(Vec<Dropped>, Vec<Unmatched>)> {
    let reader = ObjectReader::new(services.s3.clone());
    let (ingest, domains) = (&services.config.ingest, services.config.pipeline.domains);
    let mut pages = reader.list_pages(&services.config.s3.raw_bucket, "");
    let patterns: Vec<&str> = domains.iter().flat_map(|it| ingest.all_patterns_of(it)).collect();
    let (mut found, mut unmatched) = (Vec::new(), Vec::new());
    while let Some(page) = pages.next().await.context("list the raw bucket")? {
        for ObjectVersion { key, etag, size_bytes, last_modified, .. } in page {
            match ingest.name_in(domains, &key) {
                Name::File => found.push(Dropped { key, etag, size_bytes, last_modified }),
                Name::NotData(_) => {}
                Name::Foreign => {
                    let hint = names::nearest(&key, &patterns);
                    unmatched.push(Unmatched { key, size_bytes, last_modified, hint });
                }
            }
        }
        unmatched.sort_by_key(|object: &Unmatched| Reverse(object.last_modified));
        unmatched.truncate(KEPT_MAX);
    }
    Ok((found, unmatched))
}

/// Every file of a domain in the raw bucket.
///
/// # Errors
/// If S3 does not answer or refuses.
pub async fn dropped(services: &Services) -> anyhow::Result<Vec<Dropped>> {
    Ok(listed(services).await?.0)
}

/// What S3 shows of the derived outputs.
///
/// # Errors
/// If S3 does not answer or refuses.
pub async fn outputs(services: &Services) -> anyhow::Result<Outputs> {
    Outputs::read(&services.s3, &services.config.s3.processed_bucket).await
}

/// Longest that a status waits for what it can do without.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Outputs and Kafka's ends for a status, and a line for each that does not answer and is left out: a status is wanted
/// most when something is down.
pub async fn outside(services: &Services) -> (Outside, Vec<String>) {
    let late = || anyhow::anyhow!("no answer within {ANSWER_TIMEOUT:?}");
    let outputs = async { timeout(ANSWER_TIMEOUT, outputs(services)).await.unwrap_or_else(|_| Err(late())) };
    let ends =
        async { timeout(ANSWER_TIMEOUT, ends(services)).await.unwrap_or_else(|_| KafkasAnswer::silent(&late())) };
    let (outputs, KafkasAnswer { log_ends, missing, silent }) = tokio::join!(outputs, ends);
    let mut left_out = Vec::new();
    if let Err(error) = &outputs {
        let place = services.config.s3.place();
        left_out.push(format!("the outputs are not shown: S3 at {place}: {}", in_one_line(error.as_ref())));
    }
    if let Some(error) = silent {
        let brokers = &services.config.kafka.brokers;
        left_out.push(format!("lag is counted from the ledger, because Kafka at {brokers} does not answer: {error}"));
    }
    (Outside { log_ends, missing_topics: missing, outputs: outputs.ok() }, left_out)
}

/// What Kafka says of the ends of the topics.
#[derive(Default)]
struct KafkasAnswer {
    /// Domain → partition → ends.
    log_ends: BTreeMap<String, BTreeMap<i32, Ends>>,
    /// Topics that do not exist.
    missing: Vec<MissingTopic>,
    /// Why the domains after the last one are left out.
    silent: Option<String>,
}

impl KafkasAnswer {
    fn silent(error: &dyn std::fmt::Display) -> KafkasAnswer {
        KafkasAnswer { silent: Some(error.to_string()), ..KafkasAnswer::default() }
    }
}

/// Asks domain by domain, until one gets no answer.
async fn ends(services: &Services) -> KafkasAnswer {
    let mut found = KafkasAnswer::default();
    let log = LogClient::new(&services.config.kafka);
    for domain in services.config.pipeline.domains {
        let topic = domain.topic(&services.config.kafka.topic_prefix);
        match log.ends(&topic).await {
            Ok(ends) if ends.is_empty() => found.missing.push(MissingTopic { domain: domain.name, topic }),
            Ok(ends) => {
                found.log_ends.insert(domain.name.to_owned(), ends);
            }
            Err(error) => {
                found.silent = Some(error.to_string());
                break;
            }
        }
    }
    found
}
