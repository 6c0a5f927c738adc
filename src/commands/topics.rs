//! `freshet topics create`: make the topics that are missing, mark what is empty as freshet's, and check the others.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context, Result};
use freshet_sinks::postgres;
use freshet_topics::Domain;
use freshet_topics::catalog::{self, TopicReport};
use freshet_topics::causes::in_one_line;
use futures::future::try_join_all;

use super::halted::{self, KnownTopic, partitions};
use crate::config::Config;

/// Runs the command for all domains, and reports what is not as wanted.
///
/// # Errors
/// If Kafka does not answer or refuses.
pub async fn create(config: &Config) -> Result<ExitCode> {
    let known = known_topics(config).await;
    let mut is_as_wanted = true;
    for (domain, report) in config.pipeline.domains.iter().zip(ensure_all(config, &known).await?) {
        let known = known.get(domain.name).cloned().unwrap_or_default();
        let complaints = complaints(domain, &report, &known);
        println!("{}: {}", report.state.topic, describe(&report, &complaints));
        is_as_wanted &= complaints.is_empty();
    }
    if !is_as_wanted {
        eprintln!(
            "freshet: not everything is as wanted; change the topics with Kafka's own tools, or change the settings \
             here"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates the topics that are missing, and marks the partitions that are empty.
///
/// # Errors
/// If Kafka does not answer or refuses.
pub async fn ensure_all(config: &Config, known: &HashMap<&'static str, KnownTopic>) -> Result<Vec<TopicReport>> {
    try_join_all(config.pipeline.domains.iter().map(async |domain| {
        let stream = known.get(domain.name).and_then(|known| known.stream);
        let report = catalog::ensure(&config.kafka, domain, stream).await;
        report.with_context(|| format!("create the topic of {}", domain.name))
    }))
    .await
}

/// What Postgres knows, where it can be asked: topics can be made before there is a database.
async fn known_topics(config: &Config) -> HashMap<&'static str, KnownTopic> {
    let Ok(pool) = postgres::pool(&config.postgres) else { return HashMap::new() };
    halted::known_topics(&pool, config.pipeline.domains).await.unwrap_or_else(|error| {
        eprintln!("freshet: halted partitions are not shown: {}", in_one_line(error.as_ref()));
        HashMap::new()
    })
}

/// What is not as wanted, one clause each.
fn complaints(domain: &Domain, report: &TopicReport, known: &KnownTopic) -> Vec<String> {
    let unfit = unfit(domain, report, known);
    report.differences.iter().cloned().chain(unfit).chain(known.halted()).collect()
}

/// Partitions whose beginnings a person has to decide about, and what to run.
pub(crate) fn unfit(domain: &Domain, report: &TopicReport, known: &KnownTopic) -> Option<String> {
    // The halts report whether the whole topic was recreated.
    let stream = report.state.stream_id().or(known.stream).unwrap_or_default();
    let unfit = report.state.unfit(stream, |partition| known.accepted(partition));
    let (partition, first) = unfit.first()?;
    let others = match unfit.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more like it)"),
    };
    Some(format!(
        "partition {partition} {first}{others}: choose another kafka.topic_prefix if the topic is not freshet's, or see \
         `freshet bookmarks adopt {}`",
        domain.name
    ))
}

fn describe(report: &TopicReport, complaints: &[String]) -> String {
    let count = report.state.partitions;
    let marked = match report.marked.as_slice() {
        [] => String::new(),
        _ if report.created => String::new(),
        marked => format!(", {} marked as freshet's just now", partitions(marked)),
    };
    match (report.created, complaints) {
        (true, []) => format!("created with {count} partitions"),
        (true, complaints) => format!("created with {count} partitions, but {}", complaints.join("; ")),
        (false, []) => format!("exists, {count} partitions, as wanted{marked}"),
        (false, complaints) => format!("exists{marked}, but {}", complaints.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::catalog::TopicState;
    use freshet_topics::stream::FirstRecord;
    use uuid::Uuid;

    use freshet_topics::Pipeline;

    use super::*;

    fn report(firsts: &[FirstRecord], marked: &[i32]) -> TopicReport {
        let state =
            TopicState { topic: "t".into(), partitions: firsts.len() as i32, replication: 1, firsts: firsts.to_vec() };
        TopicReport { state, created: false, marked: marked.to_vec(), differences: Vec::new() }
    }

    #[test]
    fn partitions_with_rows_in_the_place_of_their_stream_records_are_told_with_the_way_out() {
        let (stream, known) = (FirstRecord::Stream(Uuid::from_u128(1)), KnownTopic::default());
        let fine = report(&[stream, stream], &[1]);
        assert_eq!(complaints(Pipeline::shipped().domains[0], &fine, &known), [""; 0]);
        assert_eq!(describe(&fine, &[]), "exists, 2 partitions, as wanted, partition 1 marked as freshet's just now");
        let damaged = report(&[stream, FirstRecord::Row, FirstRecord::Row], &[]);
        let told = complaints(Pipeline::shipped().domains[0], &damaged, &known).join("; ");
        let adopt = format!("`freshet bookmarks adopt {}`", Pipeline::shipped().domains[0].name);
        assert!(told.contains("partition 1 begins with a row") && told.contains("1 more"), "{told}");
        assert!(told.contains(&adopt), "{told}");
    }
}
