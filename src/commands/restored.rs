//! `freshet restored`: tells freshet that Postgres was restored, so that publication continues.
//!
//! A processor notices a restore by itself if the topics hold rows of files that the ledger does not know. This command
//! is for restores without such rows, and for the steps of docs/restore.md, so that nobody has to wait.

use std::process::ExitCode;

use anyhow::{Context, Result};
use freshet_sinks::{bookmarks, lives};
use freshet_topics::Domain;
use freshet_topics::causes::in_one_line;
use freshet_topics::log::LogClient;

use super::confirm::confirm;
use super::terminal::thousands;
use crate::roles::Services;

/// Shows the effect of a new life of the ledger, and begins it if the user agrees.
///
/// # Errors
/// If Postgres does not answer.
pub async fn run(services: &Services, yes: bool) -> Result<ExitCode> {
    let mut connection = services.pool.acquire().await.context("connect to Postgres")?;
    let all = lives::all(&mut connection).await.context("read the lives of the ledger")?;
    drop(connection);
    let number = all.last().map_or(0, |life| life.number);
    println!("The ledger is in life {number}. This begins life {}:", number + 1);
    println!("- bookmarks stay where they are in Postgres; the messages after them will be read:");
    let domains = services.config.pipeline.domains;
    for domain in domains {
        println!("    {}: {}", domain.name, ahead(services, domain).await);
    }
    println!("- rows of files that the ledger does not know will be skipped, and counted in `freshet status`;");
    println!("  if S3 still has the files, the next listing finds them and they are published again");
    println!("- all outputs will be derived again from the tables");
    if !confirm("Begin a new life of the ledger?", yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let begun = lives::begin(&services.pool, domains).await.context("begin a new life of the ledger")?;
    println!(
        "life {begun} of the ledger has begun; `freshet status --wait` returns when everything is applied and \
             published"
    );
    Ok(ExitCode::SUCCESS)
}

/// How many messages a domain's topic holds beyond its bookmarks.
async fn ahead(services: &Services, domain: &Domain) -> String {
    match count_ahead(services, domain).await {
        Ok(1) => "1 message".to_owned(),
        Ok(messages) => format!("{} messages", thousands(messages)),
        Err(error) => format!("not known ({})", in_one_line(error.as_ref())),
    }
}

async fn count_ahead(services: &Services, domain: &Domain) -> Result<i64> {
    let settings = &services.config.kafka;
    let ends = LogClient::new(settings).ends(&domain.topic(&settings.topic_prefix)).await?;
    let bookmarks = bookmarks::read(&services.pool, domain.name, None).await?;
    let at = |partition| bookmarks.iter().find(|it| it.partition == partition).map_or(0, |it| it.next_offset);
    // Record 0 of a partition is the stream's.
    Ok(ends.iter().map(|(partition, ends)| (ends.high - at(*partition).max(ends.low).max(1)).max(0)).sum())
}
