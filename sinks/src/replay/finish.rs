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
    /// Not everything is read, or not any more: rows were removed that may have kept other rows out, so the replay is
    /// back at its start for another pass. It goes on from its bookmarks.
    Again,
}

/// The most passes. The first one removes all rows that have no place any more; the second one finds their keys free.
const PASSES_MAX: i32 = 2;

/// Ends a replay in place that has read everything: removes the leftovers of rows that are judged differently now. If
/// there were any, it sets the replay back to its start, once. The live pipeline may write newer rows meanwhile; those
/// have another lineage and stay.
///
/// The answer to its COMMIT may be lost, and then it is asked again. So it looks at what Postgres has recorded:
///
/// | the replay | bookmarks | leftovers removed now | pass | result |
/// |---|---|---|---|---|
/// | is another's, or abandoned | – | – | – | lost |
/// | is done | – | – | – | `Ended`, as recorded |
/// | is open | one is before its end, as after setting back | – | – | `Again`, nothing changes |
/// | is open | at their ends | some | first | set back, `Again` |
/// | is open | at their ends | none | any | done, `Ended` |
/// | is open | at their ends | some | last | done, `Ended` |
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
    let Some(pass) = pass else {
        let done = recorded_as_done(&mut transaction, replay).await?;
        return done.map(|done| Finished::Ended(Box::new(done))).ok_or_else(|| ApplyError::Lost(Vec::new()));
    };
    if !is_all_read(&mut transaction, replay.id).await? {
        transaction.rollback().await?;
        return Ok(Finished::Again);
    }
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

/// The replay, if this process has ended it as done.
async fn recorded_as_done(connection: &mut PgConnection, replay: &Running) -> Result<Option<Replay>, sqlx::Error> {
    let sql = format!("SELECT {COLUMNS} FROM pipeline.replays WHERE id = $1 AND owner = $2 AND outcome = 'done'");
    sqlx::query_as(AssertSqlSafe(sql)).bind(replay.id).bind(&replay.owner).fetch_optional(connection).await
}

/// Whether each partition is read to its end. A partition that was added since the replay began has none.
///
/// This is a statement of its own, after the one that locks the replay. That one may wait for an earlier `finish` whose
/// COMMIT is still under way, and would see the bookmarks as they were before it waited.
async fn is_all_read(connection: &mut PgConnection, replay: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (
            SELECT FROM pipeline.replays AS r JOIN pipeline.replay_bookmarks AS b ON b.domain = r.domain
            WHERE r.id = $1 AND b.next_offset < r.end_offsets[b.partition + 1])",
    )
    .bind(replay)
    .fetch_one(connection)
    .await
}

/// Sets a replay back to its start, for another pass. A partition that was added since it began has none, and stays.
async fn set_back(connection: &mut PgConnection, domain: &str, replay: i64, removed: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE pipeline.replays SET pass = pass + 1, removed = removed + $2, updated_at = now() WHERE id = $1",
    )
    .bind(replay)
    .bind(removed)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE pipeline.replay_bookmarks AS b SET
            next_offset = coalesce(r.start_offsets[b.partition + 1], b.next_offset), updated_at = now()
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
