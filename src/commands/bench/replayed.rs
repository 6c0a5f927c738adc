//! The whole history is replayed while small files keep coming.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, PgPool};

use super::child::Child;
use super::load;
use super::visible::SmallFiles;
use crate::pipeline::chosen;

/// A column of each table that is put wrong before the replay that has to correct it.
const PUT_WRONG: [(&str, &str); 3] =
    [("climate_data", "temperature"), ("health_data", "malaria_cases"), ("hospital_data", "nurses")];

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
pub(super) async fn corrected(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>, rows: i64) -> Result<Replayed> {
    for (table, column) in PUT_WRONG {
        for sql in [format!("UPDATE {table} SET {column} = coalesce({column}, 0) + 1"), format!("VACUUM {table}")] {
            sqlx::query(AssertSqlSafe(sql)).execute(pool).await.with_context(|| format!("put {table} wrong"))?;
        }
    }
    load::checkpoint(pool).await;
    let (replayed, changed) = replay(child, pool, files).await?;
    ensure!(changed >= rows, "the replay corrected {changed} rows of {rows}");
    Ok(replayed)
}

async fn replay(child: &Child, pool: &PgPool, files: &mut SmallFiles<'_>) -> Result<(Replayed, i64)> {
    let started = Instant::now();
    let mut command = child.command(&["replay", "all", "--from", "beginning"])?;
    let mut visible = Vec::new();
    while command.try_wait().context("look at the replay")?.is_none() {
        visible.push(files.next().await?);
    }
    let status = command.wait().await.context("wait for the replay")?;
    ensure!(status.success(), "the replay ended with {status}; see the child's log");
    // The last small file may have outlasted it.
    let (rows, changed, took): (i64, i64, f64) = sqlx::query_as(
        "SELECT sum(rows_read)::bigint, sum(changed)::bigint, extract(epoch FROM max(ended_at) - min(began_at))::float8
         FROM (SELECT * FROM pipeline.replays ORDER BY id DESC LIMIT $1) AS r",
    )
    .bind(chosen().domains.len() as i64)
    .fetch_one(pool)
    .await
    .context("read what was replayed")?;
    let took = took.min(started.elapsed().as_secs_f64());
    Ok((Replayed { rate: rows as f64 / took, visible }, changed))
}
