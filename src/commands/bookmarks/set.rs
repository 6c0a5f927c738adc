//! `freshet bookmarks set`: move bookmarks by hand.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use freshet_sinks::rebookmark::{self, Reset};
use freshet_topics::log::Ends;
use freshet_topics::{Domain, catalog};

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

/// Says what setting the bookmarks would lose or repeat, and does it once a person agrees.
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
    let before: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT partition, next_offset FROM pipeline.bookmarks
         WHERE domain = $1 AND (cardinality($2::int4[]) = 0 OR partition = ANY ($2)) ORDER BY 1",
    )
    .bind(domain.name)
    .bind(partitions)
    .fetch_all(&services.pool)
    .await
    .context("read the bookmarks")?;
    if let Some(unknown) = partitions.iter().find(|it| !before.iter().any(|(partition, _)| partition == *it)) {
        bail!("partition {unknown} of {} has no bookmark", domain.name);
    }
    ensure!(
        !before.is_empty(),
        "{} has no bookmarks yet: they are made when `freshet process` first runs",
        domain.name
    );
    let ends = catalog::watermarks(&services.config.kafka, domain).await.context("look at the topic")?;
    let mut wanted = Vec::new();
    for (partition, at) in &before {
        let (low, high) =
            ends.get(partition).copied().with_context(|| format!("the topic has no partition {partition}"))?;
        let after = place(to, Ends { low, high }).with_context(|| format!("partition {partition}"))?;
        wanted.push(Reset { partition: *partition, before: *at, after });
    }
    for reset in &wanted {
        println!("{} partition {}: {}", domain.name, reset.partition, describe(*reset));
    }
    if wanted.iter().all(|reset| reset.before == reset.after) {
        return Ok(ExitCode::SUCCESS);
    }
    if !confirm("Set them?", yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let offsets: Vec<(i32, i64)> = wanted.iter().map(|reset| (reset.partition, reset.after)).collect();
    let set = rebookmark::set(&services.pool, domain.name, &offsets).await.context("set the bookmarks")?;
    println!("{}: {} bookmarks set; whoever reads goes on from there", domain.name, set.len());
    Ok(ExitCode::SUCCESS)
}

/// The offset that a target comes to in a log.
fn place(to: Target, Ends { low, high }: Ends) -> Result<i64> {
    match to {
        Target::Beginning => Ok(low),
        Target::End => Ok(high),
        Target::Offset(offset) if (low..=high).contains(&offset) => Ok(offset),
        Target::Offset(offset) => bail!("offset {offset} lies outside the log, {low} to {high}"),
    }
}

/// What setting a bookmark means, and how much of it.
fn describe(Reset { before, after, .. }: Reset) -> String {
    let records = |count: i64| match count {
        1 => "1 record is".to_owned(),
        count => format!("{} records are", thousands(count)),
    };
    match after - before {
        0 => format!("stands at {after}"),
        ahead if ahead > 0 => format!(
            "from {before} to {after}: {} passed over; files whose rows they hold are published again",
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
        let reset = |before, after| describe(Reset { partition: 0, before, after });
        assert_eq!(reset(5, 5), "stands at 5");
        assert!(reset(5, 2_005).contains("2,000 records are passed over"), "{}", reset(5, 2_005));
        assert!(reset(5, 4).contains("1 record is read again"), "{}", reset(5, 4));
    }

    #[test]
    fn a_bookmark_stays_within_the_log() {
        let ends = Ends { low: 3, high: 9 };
        let cases =
            [("beginning", Some(3)), ("end", Some(9)), ("3", Some(3)), ("9", Some(9)), ("2", None), ("10", None)];
        for (text, expected) in cases {
            let target = text.parse().expect(text);
            assert_eq!(place(target, ends).ok(), expected, "{text}");
        }
        assert!("x".parse::<Target>().is_err());
    }
}
