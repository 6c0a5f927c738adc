//! The end of a replay: it has read everything, or it is abandoned.

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{COLUMNS, Replay, Running, counts, forget_state, leftovers};
use crate::apply::ApplyError;
use crate::destination::Destination;
use crate::transactions::{self, Limits};

/// The result of a replay in place that has read everything.
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It is finished.
    Ended(Box<Replay>),
    /// Rows were removed that may have kept other rows out: the replay starts another pass.
    Again,
}

/// The most passes. The first one removes all rows that have no place any more; the second one finds their keys free.
const PASSES_MAX: i32 = 2;

/// Ends a replay in place that has read everything: removes the leftovers of rows that are judged differently now. If
/// there were any, it sets the replay back to its start, once. The live pipeline may write newer rows meanwhile; those
/// have another lineage and stay.
///
/// # Errors
/// [`ApplyError::Lost`] if another process works on the replay now.
pub async fn finish(pool: &PgPool, domain: &'static Domain, replay: &Running) -> Result<Finished, ApplyError> {
    let mut transaction = transactions::begin(pool, "finish_replay", Limits::SHORT).await?;
    let pass: Option<i32> = sqlx::query_scalar(
        "SELECT pass FROM pipeline.replays WHERE id = $1 AND owner = $2 AND ended_at IS NULL FOR UPDATE",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .fetch_optional(&mut *transaction)
    .await?;
    let pass = pass.ok_or_else(|| ApplyError::Lost(Vec::new()))?;
    let removed = leftovers::remove(&mut transaction, domain, replay.id).await?;
    if removed > 0 && pass < PASSES_MAX {
        set_back(&mut transaction, domain.name, replay.id, removed).await?;
        transaction.commit().await?;
        return Ok(Finished::Again);
    }
    counts::take_over_corrections(&mut transaction, domain.name).await?;
    forget_state(&mut transaction, Destination::Correction, domain.name).await?;
    let sql = format!(
        "UPDATE pipeline.replays SET removed = removed + $2, ended_at = now(), updated_at = now(), outcome = 'done'
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let ended = sqlx::query_as(AssertSqlSafe(sql)).bind(replay.id).bind(removed).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Finished::Ended(Box::new(ended)))
}

/// Sets a replay back to its start, for another pass.
async fn set_back(connection: &mut PgConnection, domain: &str, replay: i64, removed: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE pipeline.replays SET pass = pass + 1, removed = removed + $2, updated_at = now() WHERE id = $1",
    )
    .bind(replay)
    .bind(removed)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE pipeline.replay_bookmarks AS b SET next_offset = r.start_offsets[b.partition + 1], updated_at = now()
         FROM pipeline.replays AS r WHERE r.id = $2 AND b.domain = $1",
    )
    .bind(domain)
    .bind(replay)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends the domain's replay before it has read everything: corrections made so far stay, the leftovers found so far are
/// removed, a shadow is dropped. The caller holds a [`ReplayLock`](super::ReplayLock) on the domain. Returns the ended
/// replay.
///
/// # Errors
/// If Postgres does not answer.
pub async fn abandon(pool: &PgPool, domain: &'static Domain) -> Result<Option<Replay>, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "abandon_replay", Limits::SHORT).await?;
    let sql = format!(
        "UPDATE pipeline.replays SET ended_at = now(),
            outcome = CASE kind WHEN 'shadow' THEN 'dropped' ELSE 'abandoned' END
         WHERE domain = $1 AND ended_at IS NULL RETURNING {COLUMNS}"
    );
    let mut ended: Option<Replay> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(domain.name).fetch_optional(&mut *transaction).await?;
    if let Some(ended) = &mut ended {
        let removed = leftovers::remove(&mut transaction, domain, ended.id).await?;
        ended.removed += removed;
        sqlx::query("UPDATE pipeline.replays SET removed = removed + $2 WHERE id = $1")
            .bind(ended.id)
            .bind(removed)
            .execute(&mut *transaction)
            .await?;
        counts::take_over_corrections(&mut transaction, domain.name).await?;
        forget_state(&mut transaction, Destination::Correction, domain.name).await?;
        crate::shadow::drop_all(&mut transaction, domain).await?;
    }
    transaction.commit().await?;
    Ok(ended)
}
