//! `freshet bookmarks adopt`: end a halt.

use anyhow::Context;
use freshet_sinks::adopt::adopt;
use freshet_sinks::ledger::UNFINISHED_SQL;
use freshet_topics::{Domain, catalog};
use sqlx::AssertSqlSafe;

use crate::commands::confirm::confirm;
use crate::roles::Services;

/// Says what adopting the domain's topic would do, and does it once a person agrees; `false` if not.
///
/// # Errors
/// If Kafka or Postgres does not answer, or the topic was not made by `freshet topics create`.
pub async fn run(services: &Services, domain: &'static Domain, yes: bool) -> anyhow::Result<bool> {
    let kafka = &services.config.kafka;
    let state = catalog::describe(kafka, domain).await.context("look at the topic")?;
    let watermarks = catalog::watermarks(kafka, domain).await.context("look at the topic")?;
    let starts: Vec<(i32, i64)> = watermarks.iter().map(|(partition, (start, _))| (*partition, *start)).collect();
    if !yes {
        let records: i64 = watermarks.values().map(|(start, end)| end - start).sum();
        let sql = format!("SELECT count(*) FROM pipeline.objects WHERE domain = $1 AND state IN {UNFINISHED_SQL}");
        let unfinished: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(domain.name)
            .fetch_one(&services.pool)
            .await
            .context("count the files that are not applied")?;
        println!("{}: would read all {records} records of topic {} again from its start,", domain.name, state.topic);
        println!("and publish {unfinished} files again that are not wholly applied; rows received before are");
        println!("duplicates and count once.");
    }
    if !confirm("Adopt the topic?", yes)? {
        return Ok(false);
    }
    let adopted = adopt(&services.pool, domain.name, &state, &starts).await.context("adopt the topic")?;
    println!(
        "{}: {} bookmarks stand at the start of topic {}; {} files are published again",
        domain.name, adopted.partitions, state.topic, adopted.objects
    );
    Ok(true)
}
