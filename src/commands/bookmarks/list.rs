//! `freshet bookmarks list`: where everything stands, partition by partition.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result};
use freshet_sinks::bookmarks;
use freshet_sinks::ledger::on_one_line;
use freshet_topics::Domain;
use freshet_topics::causes::in_one_line;
use freshet_topics::log::{Ends, LogClient, LogReader};
use serde::Serialize;

use crate::commands::terminal::{Look, table, thousands};
use crate::roles::Services;

/// A partition, as Postgres and Kafka know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Line {
    domain: &'static str,
    partition: i32,
    /// The next offset to apply; `None` where no processor has read the partition yet.
    bookmark: Option<i64>,
    /// The commit of Kafka's consumer group: for lag tools; nothing depends on it.
    committed: Option<i64>,
    log_start: Option<i64>,
    log_end: Option<i64>,
    halted: Option<String>,
}

/// Shows it.
///
/// # Errors
/// If Postgres does not answer. Kafka out of reach leaves its columns empty, with a warning.
pub(super) async fn run(services: &Services, domains: &[&'static Domain], json: bool, look: Look) -> Result<ExitCode> {
    let mut lines = Vec::new();
    for domain in domains {
        let (ends, committed) = match kafka(services, domain).await {
            Ok(known) => known,
            Err(error) => {
                let said = in_one_line(error.as_ref());
                eprintln!("freshet: offsets in Kafka are not shown for {}: {said}", domain.name);
                Default::default()
            }
        };
        lines.extend(of_domain(services, domain, &ends, &committed).await?);
    }
    match json {
        true => crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&lines).context("write JSON")?)),
        false => println!("{}", render(&lines, look)),
    }
    Ok(ExitCode::SUCCESS)
}

type Known = (BTreeMap<i32, Ends>, BTreeMap<i32, i64>);

async fn kafka(services: &Services, domain: &'static Domain) -> Result<Known> {
    let settings = services.config.kafka.clone();
    let log = LogClient::new(&settings);
    let asked = log.ask(move |reader| {
        let topic = domain.topic(&settings.topic_prefix);
        let ends = reader.ends(&topic)?;
        let group = format!("{}{}", settings.group_prefix, domain.name);
        let partitions: Vec<i32> = ends.keys().copied().collect();
        let committed = LogReader::committed(&settings, &group, &topic, &partitions)?;
        Ok((ends, committed))
    });
    asked.await.context("ask Kafka")
}

async fn of_domain(
    services: &Services,
    domain: &'static Domain,
    ends: &BTreeMap<i32, Ends>,
    committed: &BTreeMap<i32, i64>,
) -> Result<Vec<Line>> {
    let bookmarks = bookmarks::read(&services.pool, domain.name, None).await.context("read the bookmarks")?;
    let mut lines: BTreeMap<i32, Line> = BTreeMap::new();
    let mut line = |partition: i32, fill: &dyn Fn(&mut Line)| {
        let line = lines.entry(partition).or_insert(Line { domain: domain.name, partition, ..Line::default() });
        fill(line);
    };
    for bookmark in &bookmarks {
        let known = (Some(bookmark.next_offset), bookmark.halted.clone());
        line(bookmark.partition, &|line| (line.bookmark, line.halted) = known.clone());
    }
    for (partition, ends) in ends {
        line(*partition, &|line| (line.log_start, line.log_end) = (Some(ends.low), Some(ends.high)));
    }
    for (partition, offset) in committed {
        line(*partition, &|line| line.committed = Some(*offset));
    }
    Ok(lines.into_values().collect())
}

fn render(lines: &[Line], look: Look) -> String {
    let number = |offset: Option<i64>| offset.map_or_else(|| "–".to_owned(), thousands);
    let heading = ["domain", "partition", "bookmark", "committed", "log start", "log end", "to apply"];
    let mut records = vec![heading.map(str::to_owned).to_vec()];
    for line in lines {
        let ends = line.log_start.zip(line.log_end).map(|(low, high)| Ends { low, high });
        let lag = ends.map(|ends| ends.waiting(line.bookmark.unwrap_or(0)));
        let offsets = [line.bookmark, line.committed, line.log_start, line.log_end, lag].map(number);
        records.push([line.domain.to_owned(), line.partition.to_string()].into_iter().chain(offsets).collect());
    }
    let mut text = table(look, &records, 1);
    for line in lines {
        if let Some(reason) = &line.halted {
            let what = format!("{} partition {} is halted", line.domain, line.partition);
            text.push_str(&format!("\n{}: {}", look.bad(&what), on_one_line(reason)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let known = Line {
            domain: "health",
            partition: 0,
            bookmark: Some(1_200),
            committed: Some(1_150),
            log_start: Some(0),
            log_end: Some(1_300),
            halted: None,
        };
        let halted = Line { partition: 1, halted: Some("the topic was\u{1b}[2J\nrecreated".into()), ..known.clone() };
        let fresh = Line { domain: "climate", partition: 0, log_end: Some(1), ..Line::default() };
        let outrun =
            Line { partition: 1, bookmark: Some(3), log_start: Some(4_000), log_end: Some(5_107), ..fresh.clone() };
        let text = render(&[known, halted, fresh, outrun], Look::PLAIN);
        for part in [
            "1,150",
            "│      100 │",
            "│    1,107 │",
            "health partition 1 is halted: the topic was\\u{1b}[2J\\nrecreated",
            "–",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        println!("{text}");
    }
}
