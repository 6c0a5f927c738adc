//! `freshet status`: the progress of everything.
//!
//! [`crate::status`] reads it; here are the options, and how it is shown.

mod render;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, Utc};
use freshet_topics::Domain;

pub use render::render;
pub(in crate::commands) use render::word;

use super::domain_arg::parse_domain;
use super::named;
use super::silent;
use super::terminal::{Look, wrapped};
use super::time_arg::parse_time;
use crate::ready;
use crate::roles::Services;
use crate::status::{self, Listed, observe};

/// Files listed unless another number is given.
const FILES_MAX: u32 = 50;

/// Options of `freshet status`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit code: 0; 1 if --wait ends before everything is applied, or names an object that belongs to no domain or an \
                  output whose query fails, if a file that --file names is unknown, or if Postgres does not answer."
)]
pub struct StatusArgs {
    /// List the files too, newest first
    #[arg(long)]
    files: bool,
    /// List only this file, in all its versions; * stands for any characters; may be given several times
    #[arg(long = "file", value_name = "KEY", conflicts_with = "wait")]
    keys: Vec<String>,
    /// List only files of this domain
    #[arg(long, value_name = "DOMAIN", conflicts_with = "wait", value_parser = parse_domain())]
    domain: Option<&'static Domain>,
    /// List only files last modified then or later, as 2026-03-01 or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "wait", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// Maximum number of files to list; 50 unless given
    #[arg(long, value_name = "N", conflicts_with = "wait", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    files_max: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Return once everything dropped so far is applied and published
    #[arg(long, conflicts_with = "files")]
    wait: bool,
    /// Maximum time that --wait waits, as 500ms, 60s, 5m or 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

impl StatusArgs {
    /// Which files to list, if any: whoever says which wants to see them.
    fn listed(&self, services: &Services) -> Option<Listed> {
        let is_narrowed =
            !self.keys.is_empty() || self.domain.is_some() || self.since.is_some() || self.files_max.is_some();
        (self.files || is_narrowed).then(|| Listed {
            files_max: self.files_max.unwrap_or(FILES_MAX),
            domain: self.domain.map(|domain| domain.name),
            like: self.keys.iter().map(|key| named::like(named::key(services, key))).collect(),
            since: self.since,
        })
    }
}

/// Shows how far everything is, or waits until all of it is through.
///
/// # Errors
/// If Postgres does not answer, or what is waited for is not there in time.
pub async fn run(services: &Services, args: &StatusArgs, look: Look) -> Result<ExitCode> {
    let answer = async {
        match args.wait {
            true => wait(services, args.timeout).await,
            false => show(services, args, look).await,
        }
    };
    tokio::select! {
        answer = answer => answer,
        why = silent::nothing_answers(services) => Err(anyhow!(why)),
    }
}

async fn show(services: &Services, args: &StatusArgs, look: Look) -> Result<ExitCode> {
    let (outside, connection) = tokio::join!(observe::outside(services), ready::connect(services));
    let (outside, left_out) = outside;
    let mut connection = connection?;
    for line in left_out {
        eprintln!("freshet: {line}");
    }
    let (pipeline, listed) = (services.config.pipeline, args.listed(services));
    let status = status::read(&mut connection, pipeline, pipeline.domains, &outside, listed.as_ref()).await?;
    match args.json {
        true => {
            crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&status).context("write JSON")?));
        }
        false => println!("{}", render(&status, look)),
    }
    let mut is_known = true;
    for key in args.keys.iter().map(|key| named::key(services, key)) {
        if !named::is_known(&services.pool, key).await.context("look up the file")? {
            let said = named::unknown(services, key).await.context("look for near names")?;
            eprintln!("freshet: {}", wrapped(look, &said, str::to_owned));
            is_known = false;
        }
    }
    Ok(if is_known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn wait(services: &Services, timeout: Duration) -> Result<ExitCode> {
    let list = async || observe::dropped(services).await;
    let outputs = async || observe::outputs(services).await;
    let (bucket, pipeline) = (&services.config.s3.raw_bucket, services.config.pipeline);
    let waited = status::wait(&services.pool, bucket, pipeline, list, outputs, timeout).await?;
    println!("{waited}");
    let (_, unmatched) = observe::listed(services).await?;
    let failed = waited.failed_outputs.iter().map(ToString::to_string);
    let wrong: Vec<String> = failed.chain(status::name_unmatched(&unmatched, Utc::now())).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(ExitCode::SUCCESS)
}

/// Longest wait: as good as for ever, and no clock overflows on it.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `500ms`, `60s`, `5m`, `1h 30m`; a bare number is seconds.
///
/// # Errors
/// If the text is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = seconds.or_else(|_| humantime::parse_duration(text));
    parsed.map(|duration| duration.min(TIMEOUT_MAX)).map_err(|_| "write a time as 500ms, 60s, 5m or 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_people_write_them() {
        for (text, milliseconds) in
            [("500ms", 500), ("60s", 60_000), ("60", 60_000), ("5m", 300_000), ("1h", 3_600_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "60 x", "99999999999999999999s", "99999999999999999999"] {
            assert_eq!(parse_duration(text), Err("write a time as 500ms, 60s, 5m or 1h".to_owned()), "{text}");
        }
        assert_eq!(parse_duration("18446744073709551615"), Ok(TIMEOUT_MAX));
    }
}
