//! The whole history is replayed while small files keep coming.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use freshet_topics::{Domain, Pipeline};
use sqlx::{AssertSqlSafe, PgPool};

use super::child::Child;
use super::load;
use super::visible::SmallFiles;
use crate::pipeline::chosen;

/// Between two small files beside a replay: a trickle, as senders make it. Without a pause each new file follows the row of
/// the one before, and they and what is published for them take a third of two cores from the replay.
const PAUSE: Duration = Duration::from_millis(250);

/// The number of each table of facts, as (table, column), that is put wrong before the replay that has to correct it.
fn put_wrong(pipeline: &Pipeline) -> Vec<(&'static str, &'static str)> {
    let facts = pipeline.domains.iter().filter(|domain| domain.event_time.is_some());
    let measure = |domain: &&'static Domain| {
        let mut columns = domain.columns.iter();
        let measure = columns.find(|column| column.cast.is_number() && !domain.key.contains(&column.name))?;
        Some((domain.table, measure.name))
    };
    facts.filter_map(measure).collect()
}

/// What a replay of everything did.
#[derive(Debug, Clone)]
pub(super) struct Replayed {
    /// Rows a second, from starting the command to its end.
    pub(super) rate: f64,
    /// One a small file that was dropped meanwhile.
    pub(super) visible: Vec<Duration>,
}

/// Replays a history that is as the rules make it: every row is read, judged and compared, none is written.
pub(super) async fn unchanged(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>) -> Result<Replayed> {
    let (replayed, changed) = replay(child, pool, files).await?;
    ensure!(changed == 0, "the replay changed {changed} rows that were right");
    Ok(replayed)
}

/// Replays a history in which a value of every row is wrong: every row is written.
pub(super) async fn corrected(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>) -> Result<Replayed> {
    let rows = put_all_wrong(pool).await?;
    let (replayed, changed) = replay(child, pool, files).await?;
    // A small file that is dropped meanwhile may have corrected its row first.
    let dropped = replayed.visible.len() as i64;
    ensure!(changed + dropped >= rows, "the replay corrected {changed} rows of {rows}, and {dropped} small files came");
    Ok(replayed)
}

/// Replays such a history into shadows, and swaps them with the tables.
pub(super) async fn swapped(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>) -> Result<Replayed> {
    let rows = put_all_wrong(pool).await?;
    let started = Instant::now();
    let command = child.command(&["replay", "all", "--into", "shadow", "--swap", "--yes"])?;
    let visible = until_ended(command, files).await?;
    let (.., took) = recorded(pool).await?;
    Ok(Replayed { rate: rows as f64 / took.min(started.elapsed().as_secs_f64()), visible })
}

/// Puts a value of every row of facts wrong; gives the number of rows.
async fn put_all_wrong(pool: &PgPool) -> Result<i64> {
    let mut rows = 0;
    for (table, column) in put_wrong(chosen()) {
        let update = format!("UPDATE \"{table}\" SET \"{column}\" = coalesce(\"{column}\", 0) + 1");
        let execute = async |sql: String| {
            sqlx::query(AssertSqlSafe(sql)).execute(pool).await.with_context(|| format!("put {table} wrong"))
        };
        rows += execute(update).await?.rows_affected().cast_signed();
        execute(format!("VACUUM \"{table}\"")).await?;
    }
    load::checkpoint(pool).await;
    Ok(rows)
}

/// Drops small files until a replay has ended.
async fn until_ended(mut command: tokio::process::Child, files: &mut SmallFiles<'_>) -> Result<Vec<Duration>> {
    let mut visible = Vec::new();
    while command.try_wait().context("look at the replay")?.is_none() {
        visible.push(files.next().await?);
        tokio::time::sleep(PAUSE).await;
    }
    let status = command.wait().await.context("wait for the replay")?;
    ensure!(status.success(), "the replay ended with {status}; see the child's log");
    Ok(visible)
}

async fn replay(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>) -> Result<(Replayed, i64)> {
    let started = Instant::now();
    let command = child.command(&["replay", "all", "--from", "beginning"])?;
    let visible = until_ended(command, files).await?;
    let (rows, changed, took) = recorded(pool).await?;
    Ok((Replayed { rate: rows as f64 / took.min(started.elapsed().as_secs_f64()), visible }, changed))
}

/// What the replay of each domain read and changed, and how many seconds they took together: the last small file may have
/// outlasted them.
async fn recorded(pool: &PgPool) -> Result<(i64, i64, f64)> {
    sqlx::query_as(
        "SELECT sum(rows_read)::bigint, sum(changed)::bigint, extract(epoch FROM max(ended_at) - min(began_at))::float8
         FROM (SELECT * FROM pipeline.replays ORDER BY id DESC LIMIT $1) AS r",
    )
    .bind(chosen().domains.len() as i64)
    .fetch_one(pool)
    .await
    .context("read what was replayed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_measured_number_of_each_table_is_put_wrong() {
        let expected =
            [("climate_data", "temperature"), ("health_data", "dengue_cases"), ("hospital_data", "total_beds")];
        assert_eq!(put_wrong(Pipeline::shipped()), expected);
    }
}
