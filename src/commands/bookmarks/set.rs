//! `freshet bookmarks set`: move bookmarks by hand.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use freshet_sinks::bookmarks;
use freshet_sinks::bookmarks::set::{self, Reset};
use freshet_topics::Domain;
use freshet_topics::log::{Ends, LogClient};

use crate::commands::confirm::confirm;
use crate::commands::terminal::thousands;
use crate::roles::Services;

/// Where a bookmark is to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Beginning,
    End,
    Offset(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Target::Beginning),
            "end" => Ok(Target::End),
            text => text.parse().map(Target::Offset).map_err(|_| "give an offset, beginning or end".to_owned()),
        }
    }
}

/// Shows what setting the bookmarks would skip or repeat, and does it if the user agrees.
///
/// # Errors
/// If Kafka or Postgres does not answer, or an offset lies outside the log.
pub(super) async fn run(
    services: &Services,
    domain: &'static Domain,
    partitions: &[i32],
    to: Target,
    yes: bool,
) -> Result<ExitCode> {
    let mut before = bookmarks::read(&services.pool, domain.name, None).await.context("read the bookmarks")?;
    before.retain(|bookmark| partitions.is_empty() || partitions.contains(&bookmark.partition));
    if let Some(unknown) = partitions.iter().find(|it| !before.iter().any(|bookmark| bookmark.partition == **it)) {
        bail!(
            "partition {unknown} of {0} has no bookmark: `freshet bookmarks list {0}` shows those that have one",
            domain.name
        );
    }
    ensure!(
        !before.is_empty(),
        "{} has no bookmarks yet: they are made when `freshet process` first runs",
        domain.name
    );
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let ends = LogClient::new(&services.config.kafka).ends(&topic).await.context("look at the topic")?;
    let mut wanted = Vec::new();
    let mut changes_nothing = true;
    for bookmark in &before {
        let partition = bookmark.partition;
        let ends = ends.get(&partition).with_context(|| format!("topic {topic} has no partition {partition}"))?;
        let after = offset_of(to, *ends).with_context(|| format!("partition {partition}"))?;
        let reset = Reset { partition, before: bookmark.next_offset, after };
        let is_halted = bookmark.halted.is_some();
        changes_nothing &= reset.before == after && !is_halted;
        println!("{} partition {partition}: {}", domain.name, describe(reset, is_halted));
        wanted.push(reset);
    }
    if changes_nothing {
        return Ok(ExitCode::SUCCESS);
    }
    if !confirm("Set them?", yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let offsets: Vec<(i32, i64)> = wanted.iter().map(|reset| (reset.partition, reset.after)).collect();
    let set = set::set(&services.pool, domain.name, &offsets).await.context("set the bookmarks")?;
    println!("{}: {} bookmarks set; processors continue from there", domain.name, set.len());
    Ok(ExitCode::SUCCESS)
}

/// The offset of a target in a log.
fn offset_of(to: Target, Ends { low, high }: Ends) -> Result<i64> {
    match to {
        Target::Beginning => Ok(low),
        Target::End => Ok(high),
        Target::Offset(offset) if (low..=high).contains(&offset) => Ok(offset),
        Target::Offset(offset) => bail!("offset {offset} is outside the log: give {low} to {high}, beginning or end"),
    }
}

/// What setting a bookmark means, and how much of it. It ends a halt, also where the bookmark stays.
fn describe(Reset { before, after, .. }: Reset, is_halted: bool) -> String {
    let records = |count: i64| match count {
        1 => "1 record is".to_owned(),
        count => format!("{} records are", thousands(count)),
    };
    match after - before {
        0 if is_halted => format!("stays at {after}: it is halted there, and will try again"),
        0 => format!("stays at {after}"),
        ahead if ahead > 0 => format!(
            "from {before} to {after}: {} skipped; the files that these rows came from will be published again",
            records(ahead)
        ),
        back => {
            format!("from {before} to {after}: {} read again; rows received before count once", records(-back))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_repeated_is_counted() {
        let reset = |before, after| describe(Reset { partition: 0, before, after }, false);
        assert_eq!(reset(5, 5), "stays at 5");
        let halted = describe(Reset { partition: 0, before: 5, after: 5 }, true);
        assert_eq!(halted, "stays at 5: it is halted there, and will try again");
        assert!(reset(5, 2_005).contains("2,000 records are skipped"), "{}", reset(5, 2_005));
        assert!(reset(5, 4).contains("1 record is read again"), "{}", reset(5, 4));
    }

    #[test]
    fn a_bookmark_stays_within_the_log() {
        let ends = Ends { low: 3, high: 9 };
        let cases =
            [("beginning", Some(3)), ("end", Some(9)), ("3", Some(3)), ("9", Some(9)), ("2", None), ("10", None)];
        for (text, expected) in cases {
            let target = text.parse().expect(text);
            assert_eq!(offset_of(target, ends).ok(), expected, "{text}");
        }
        assert!("x".parse::<Target>().is_err());
    }
}
