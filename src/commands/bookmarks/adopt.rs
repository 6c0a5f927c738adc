//! `freshet bookmarks adopt`: end a halt, whatever the topic begins with.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use freshet_sinks::bookmarks::adopt::{Adopting, adopt, adopted_bookmark};
use freshet_sinks::bookmarks::{self, streams};
use freshet_sinks::ledger::UNFINISHED_SQL;
use freshet_topics::log::{LogClient, PartitionLog, Presence};
use freshet_topics::stream::{self, Adoption, FirstRecord};
use freshet_topics::{Domain, catalog};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::commands::confirm::confirm;
use crate::commands::terminal::{counted, thousands};
use crate::roles::Services;

/// Shows what adopting the domain's topic would do, and does it if the user agrees; `false` if not.
///
/// # Errors
/// If Kafka or Postgres does not answer, or the topic does not exist.
pub async fn run(services: &Services, domain: &'static Domain, yes: bool) -> Result<bool> {
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let log = LogClient::new(&services.config.kafka);
    let known = streams::known(&services.pool, domain.name).await.context("read the known stream")?;
    let partitions = read_log(&log, &topic).await?;
    if !yes {
        let adoption = stream::adopt(&firsts(&partitions), known);
        println!("{}", describe(services, domain, &topic, &partitions, adoption).await?);
    }
    if !confirm("Adopt the topic?", yes)? {
        return Ok(false);
    }
    let partitions = mark_empty(services, &log, &topic, partitions, known).await?;
    let Adoption { stream, is_known_log } = stream::adopt(&firsts(&partitions), known);
    let adopting = Adopting {
        topic: &topic,
        stream_id: stream.unwrap_or_else(Uuid::new_v4),
        is_known_log,
        partitions: &partitions,
    };
    let adopted = adopt(&services.pool, domain.name, &adopting).await.context("adopt the topic")?;
    let stand = match adopted.kept {
        0 => format!("{} bookmarks are now at the start of topic {topic}", adopted.moved.len()),
        kept => format!("{} bookmarks moved to topic {topic}, {kept} unchanged", adopted.moved.len()),
    };
    println!("{}: {stand}; {} will be published again", domain.name, counted(adopted.objects as i64, "file"));
    Ok(true)
}

async fn read_log(log: &LogClient, topic: &str) -> Result<BTreeMap<i32, PartitionLog>> {
    let name = topic.to_owned();
    let read = log.ask(move |reader| match reader.presence(&name)? {
        Presence::Ready(layout) => {
            let partitions: Vec<i32> = (0..layout.partitions).collect();
            reader.beginnings(&name, &partitions).map(Some)
        }
        Presence::Missing | Presence::Electing => Ok(None),
    });
    let found = read.await.with_context(|| format!("look at topic {topic}"))?;
    let partitions = found.with_context(|| {
        format!("topic {topic} does not exist, or has no leader: run `freshet topics create` first")
    })?;
    ensure!(!partitions.is_empty(), "topic {topic} has no partition");
    Ok(partitions)
}

fn firsts(partitions: &BTreeMap<i32, PartitionLog>) -> Vec<FirstRecord> {
    partitions.values().map(|partition| partition.first).collect()
}

/// Gives empty partitions their stream records, so that the topic is open once it is adopted, and looks again.
async fn mark_empty(
    services: &Services,
    log: &LogClient,
    topic: &str,
    partitions: BTreeMap<i32, PartitionLog>,
    known: Option<Uuid>,
) -> Result<BTreeMap<i32, PartitionLog>> {
    let empty = partitions.iter().filter(|(_, partition)| partition.first == FirstRecord::Empty);
    let empty: Vec<i32> = empty.map(|(partition, _)| *partition).collect();
    if empty.is_empty() {
        return Ok(partitions);
    }
    let id = stream::adopt(&firsts(&partitions), known).stream.unwrap_or_else(Uuid::new_v4);
    let written = catalog::write_stream_records(&services.config.kafka, topic, &empty, id).await;
    written.context("mark the empty partitions")?;
    read_log(log, topic).await
}

async fn describe(
    services: &Services,
    domain: &Domain,
    topic: &str,
    partitions: &BTreeMap<i32, PartitionLog>,
    adoption: Adoption,
) -> Result<String> {
    let sql = format!("SELECT count(*) FROM pipeline.objects WHERE domain = $1 AND state IN {UNFINISHED_SQL}");
    let unfinished: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(domain.name)
        .fetch_one(&services.pool)
        .await
        .context("count the files that are not applied")?;
    let bookmarks = bookmarks::read(&services.pool, domain.name, None).await.context("read the bookmarks")?;
    let records: i64 = partitions
        .iter()
        .map(|(partition, log)| {
            let bookmark = bookmarks.iter().find(|bookmark| bookmark.partition == *partition);
            log.ends.high - adopted_bookmark(adoption.is_known_log, bookmark.map(|it| it.next_offset), log.ends)
        })
        .sum();
    let what = match adoption.is_known_log {
        true => format!(
            "would continue in topic {topic} and move the bookmarks that are outside its log ({} records to apply),",
            thousands(records)
        ),
        false => format!("would read all {} records of topic {topic} again from its start,", thousands(records)),
    };
    Ok(format!(
        "{}: {what}\nand publish again what is not fully applied: {}. Rows received before are duplicates and\n\
         count once.",
        domain.name,
        counted(unfinished, "file")
    ))
}
