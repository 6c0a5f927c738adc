//! `freshet changes FILE`: what a version of a file changed in its table. `freshet changes --since TIME`: the files since
//! then.
//!
//! Postgres knows how many rows of a file were applied. What they replaced is only in the topic, which is read again
//! ([`freshet_processors::changes`]). The list of files is from Postgres alone.

mod list;
mod show;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use freshet_processors::changes::{self, Changes, FileReading};
use freshet_processors::lineage::Places;
use freshet_sinks::bookmarks;
use freshet_sinks::ledger::on_one_line;
use freshet_topics::log::LogClient;
use freshet_topics::{Domain, Overwrite};
use sqlx::PgPool;

use super::domain_arg::parse_domain;
use super::named::{self, Version};
use super::terminal::Look;
use super::time_arg::parse_time;
use crate::roles::Services;

/// Options of `freshet changes`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit code: 0 if it was shown; 1 if there is nothing to show, because the file is unknown, not \
    finished or rejected as a whole, or because the topic no longer has its rows."
)]
#[command(group = clap::ArgGroup::new("which").args(["file", "since"]).required(true))]
pub struct ChangesArgs {
    /// The file's key, such as health/2026-03-01.csv
    #[arg(value_name = "FILE")]
    file: Option<String>,
    /// List the files last modified then or later, one line each, such as 2026-03-01 (its first second in UTC)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// Only files of this domain
    #[arg(long, value_name = "DOMAIN", value_parser = parse_domain())]
    domain: Option<&'static Domain>,
    /// The number of a version of the file, as this command shows it; default: the newest
    #[arg(long, value_name = "NUMBER", requires = "file")]
    version: Option<i64>,
    /// Examples of each kind of change
    #[arg(long, value_name = "N", default_value_t = 5, requires = "file")]
    examples: usize,
    /// Maximum number of files to list
    #[arg(long, value_name = "N", default_value_t = 200, requires = "since")]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is known of a version of a file and of what it changed.
struct Found {
    version: Version,
    /// Numbers of all its versions, the newest first.
    versions: Vec<i64>,
    changes: Changes,
    /// Keys of the files that are named in the changes.
    files: BTreeMap<i64, String>,
    /// Whether the topic still has all rows that were sent.
    is_whole: bool,
    /// The older version whose other rows left the table with this one.
    replaced: Option<i64>,
}

/// Shows what it found.
///
/// # Errors
/// If a service does not answer.
pub async fn run(services: &Services, args: &ChangesArgs, look: Look) -> Result<ExitCode> {
    match (&args.file, args.since) {
        (Some(file), _) => of_file(services, args, file, look).await,
        (None, Some(since)) => list::run(services, args.domain, since, args.limit, args.json, look).await,
        (None, None) => bail!("name a file, or give --since"),
    }
}

async fn of_file(services: &Services, args: &ChangesArgs, file: &str, look: Look) -> Result<ExitCode> {
    let key = named::key(services, file);
    let mut versions = named::versions(services, key).await.context("look up the file")?;
    versions.retain(|version| args.domain.is_none_or(|domain| domain.name == version.domain));
    let numbers: Vec<i64> = versions.iter().map(|version| version.id).collect();
    let wanted = args.version.or_else(|| named::newest(&versions).map(|version| version.id));
    let Some(version) = versions.into_iter().find(|version| Some(version.id) == wanted) else {
        let said = match numbers.is_empty() {
            true => named::unknown(services, key).await.context("look for near names")?,
            false => format!("`{}` has no such version; its versions are {}", on_one_line(key), list_of(&numbers)),
        };
        return nothing(args.json, None, &said, look);
    };
    if let Some(said) = named::waits(&version) {
        return nothing(args.json, Some(&version), &said, look);
    }
    let Some(domain) = services.config.pipeline.domain(&version.domain) else {
        bail!("this program does not know the domain {}", version.domain);
    };
    let found = find(services, domain, version, numbers, args.examples).await?;
    if found.changes.rows == 0 && found.version.rows.is_some_and(|rows| rows > 0) {
        let said = format!(
            "the topic no longer has the rows of the file; `freshet republish --file {}` sends them again, and changes \
             nothing in the table",
            crate::print::quoted(&found.version.key)
        );
        return nothing(args.json, Some(&found.version), &said, look);
    }
    match args.json {
        true => print_json(&show::json(&found))?,
        false => println!("{}", show::changes(&found, look)),
    }
    Ok(ExitCode::SUCCESS)
}

/// There is nothing to show, for this reason.
fn nothing(as_json: bool, version: Option<&Version>, said: &str, look: Look) -> Result<ExitCode> {
    match as_json {
        true => print_json(&serde_json::json!({ "file": version, "changes": null, "reason": said }))?,
        false => println!("{}", show::nothing(version, said, look)),
    }
    Ok(ExitCode::FAILURE)
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(value).context("write JSON")?));
    Ok(())
}

fn list_of(numbers: &[i64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn find(
    services: &Services,
    domain: &'static Domain,
    version: Version,
    versions: Vec<i64>,
    examples: usize,
) -> Result<Found> {
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let ends =
        LogClient::new(&services.config.kafka).ends(&topic).await.with_context(|| format!("look at topic {topic}"))?;
    let bookmarks = bookmarks::read(&services.pool, domain.name, None).await.context("read the bookmarks")?;
    let places: Places = bookmarks
        .iter()
        .filter_map(|bookmark| Some((bookmark.partition, (*ends.get(&bookmark.partition)?, bookmark.next_offset))))
        .collect();
    let is_whole = places.values().all(|(ends, _)| ends.low == 0);
    let Version { id, generation, src_ord, nonce, .. } = version;
    let reading = FileReading { object: id, generation, src_ord, nonce };
    let read = changes::of_file(domain, &services.config.kafka, &services.pool, reading, &places, examples).await;
    let changes = read.with_context(|| format!("read topic {topic}"))?;
    let named = [&changes.replaced, &changes.lost_to, &changes.replaced_by];
    let named: Vec<i64> = named.iter().flat_map(|objects| objects.keys()).copied().collect();
    let files = keys(&services.pool, &named).await.context("look up the files")?;
    let replaced = match domain.on_overwrite {
        Overwrite::Replace => replaced(&services.pool, id).await.context("look up the version before")?,
        Overwrite::Merge => None,
    };
    Ok(Found { version, versions, changes, files, is_whole, replaced })
}

async fn keys(pool: &PgPool, ids: &[i64]) -> Result<BTreeMap<i64, String>, sqlx::Error> {
    let found: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, key FROM pipeline.objects WHERE id = ANY ($1)").bind(ids).fetch_all(pool).await?;
    Ok(found.into_iter().collect())
}

async fn replaced(pool: &PgPool, by: i64) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT o.id FROM pipeline.objects n JOIN pipeline.objects o ON o.bucket = n.bucket AND o.key = n.key
         WHERE n.id = $1 AND o.replaced_by = n.id ORDER BY o.src_ord DESC LIMIT 1",
    )
    .bind(by)
    .fetch_optional(pool)
    .await
}
