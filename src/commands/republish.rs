//! `freshet republish`: send files again from S3, where a topic no longer holds their rows.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_ingest::object::ObjectReader;
use freshet_ingest::republish::{self, Selected};
use freshet_sinks::ledger::{self, Object, Selection, on_one_line};

use super::confirm::confirm;
use super::halted;
use super::named;
use super::terminal::counted;
use super::time_arg::parse_time;
use crate::roles::Services;

/// Named of a long list, at most.
const NAMED_MAX: usize = 10;

/// Options of `freshet republish`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("which").args(["objects", "prefix", "since", "all"]).required(true).multiple(true))]
pub struct RepublishArgs {
    /// This file; may be given several times
    #[arg(long = "file", visible_alias = "object", value_name = "KEY")]
    objects: Vec<String>,
    /// Files whose keys begin with this, such as health/ or health/2026-03
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only files last modified then or later, such as 2026-03-01 (its first second in UTC) or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// Every file
    #[arg(long, conflicts_with_all = ["objects", "prefix", "since"])]
    all: bool,
    /// Send them as if they were dropped just now: their rows replace what other files have set since. Newest versions only
    #[arg(long)]
    as_new: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Looks the files up, shows the effect of sending them again, and does it if the user agrees. Fails if nothing is sent,
/// or a file that is named is not among what is sent.
///
/// # Errors
/// If Postgres or S3 does not answer.
pub async fn run(services: &Services, args: &RepublishArgs) -> Result<ExitCode> {
    halted::warn(&services.pool, services.config.pipeline.domains).await;
    let selection = Selection {
        keys: args.objects.clone(),
        prefix: args.prefix.clone(),
        since: args.since,
        as_new: args.as_new,
        domains: services.config.pipeline.domains.iter().map(|domain| domain.name).collect(),
    };
    let reader = ObjectReader::new(services.s3.clone());
    let bucket = &services.config.s3.raw_bucket;
    let selected = republish::select(&services.pool, &reader, bucket, &selection).await.context("find the files")?;
    for key in &args.objects {
        let found = [&selected.ready, &selected.gone, &selected.skipped];
        if !found.into_iter().flatten().any(|candidate| candidate.version.key == *key) {
            println!("{}", named::unknown(services, key).await.context("look for near names")?);
        }
    }
    print!("{}", describe(&selected, args.as_new));
    if selected.ready.is_empty() || !confirm("Send them again?", args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let sent = match args.as_new {
        true => ledger::send_as_new(&services.pool, &selected.ready).await.context(
            "set the files back in the ledger, all of them or none (`freshet status --files` shows whether they are on \
             their way)",
        )?,
        false => {
            ledger::send_again(&services.pool, &selected.ready).await.context("set the files back in the ledger")?
        }
    };
    if sent < selected.ready.len() {
        println!("skipped, in progress or replaced meanwhile: {}", files(selected.ready.len() - sent));
    }
    if sent == 0 {
        return Ok(ExitCode::FAILURE);
    }
    println!("`freshet ingest` will send {} again; see `freshet status --files`", files(sent));
    let is_ready = |key: &String| selected.ready.iter().any(|candidate| candidate.version.key == *key);
    Ok(if args.objects.iter().all(is_ready) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn files(count: usize) -> String {
    counted(count as i64, "file")
}

fn describe(selected: &Selected, as_new: bool) -> String {
    let Selected { ready, gone, skipped, unanswered } = selected;
    let mut text = String::new();
    let names = |candidates: &[Object]| {
        let mut names: Vec<_> = candidates.iter().take(NAMED_MAX).map(|it| on_one_line(&it.version.key)).collect();
        if candidates.len() > NAMED_MAX {
            names.push("…".into());
        }
        names.join(", ")
    };
    if !gone.is_empty() {
        text.push_str(&format!("S3 no longer has {}: {}\n", files(gone.len()), names(gone)));
    }
    if !skipped.is_empty() {
        let count = files(skipped.len());
        text.push_str(&format!("Skipped, in progress or replaced: {count}: {}\n", names(skipped)));
    }
    if *unanswered > 0 {
        text.push_str(&format!(
            "S3 did not answer about {}, sent as well; `freshet status --files` names one that is gone\n",
            files(*unanswered)
        ));
    }
    if ready.is_empty() {
        text.push_str("No files to send again.\n");
        return text;
    }
    let rows: i64 = ready.iter().filter_map(|candidate| candidate.rows).sum();
    let meaning = match as_new {
        true => {
            "Their rows will win over rows that other files have brought since.\n\
             Rows that only other files have stay in the table: `freshet changes FILE` lists\n\
             the rows that a file added."
        }
        false => "Rows received before count once: the tables do not change, and a replay finds the rows in the topic.",
    };
    let rows = counted(rows, "row");
    text.push_str(&format!("{}, {rows}: {}\n{meaning}\n", files(ready.len()), names(ready)));
    text
}

#[cfg(test)]
mod tests {
    use freshet_sinks::ledger::ObjectVersion;

    use super::*;

    fn candidate(key: &str) -> Object {
        let version = ObjectVersion {
            bucket: "raw".into(),
            key: key.into(),
            version_id: None,
            etag: "e".into(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
        };
        Object { rows: Some(1_200), ..Object::new(1, version, "health") }
    }

    #[test]
    fn what_can_be_sent_and_what_cannot_is_said_before() {
        let selected = Selected {
            ready: vec![candidate("health/a.csv"), candidate("health/b.csv")],
            gone: vec![candidate("health/old.csv")],
            skipped: (0..12).map(|number| candidate(&format!("health/{number}.csv"))).collect(),
            unanswered: 1,
        };
        let text = describe(&selected, false);
        for part in [
            "no longer has 1 file: health/old.csv",
            "did not answer about 1 file",
            "2 files, 2,400 rows: health/a.csv, health/b.csv",
            "…",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(describe(&Selected::default(), true).contains("No file"), "nothing to do is said");
    }
}
