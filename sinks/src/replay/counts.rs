//! How a replay in place changes the counts of files and its own counts.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::Running;
use super::correct::Corrected;
use crate::apply::ApplyError;
use crate::apply::progress::Part;

/// How rows of a file move between its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Rejects that load now.
    pub(super) accepted: i64,
    /// Those of them that are in the table.
    pub(super) written: i64,
    /// Rows that are rejects now.
    pub(super) rejected: i64,
}

/// Moves rows between the counts of their files. The sum of applied, stale and rejected stays: a new reject is taken
/// from `applied`, or from `stale` if `applied` is used up.
pub(super) async fn recount(
    connection: &mut PgConnection,
    domain: &str,
    moved: &BTreeMap<Part, Moved>,
) -> Result<(), sqlx::Error> {
    if moved.is_empty() {
        return Ok(());
    }
    let count = |pick: fn(&Moved) -> i64| moved.values().map(pick).collect::<Vec<i64>>();
    sqlx::query(
        "UPDATE pipeline.progress AS p SET
            rejected = p.rejected + u.rejected - u.accepted,
            applied = p.applied + u.written - least(p.applied + u.written, u.rejected),
            stale = p.stale + u.accepted - u.written - (u.rejected - least(p.applied + u.written, u.rejected))
         FROM UNNEST($1::int8[], $2::int4[], $3::int4[], $4::int8[], $5::int8[], $6::int8[])
            AS u (object, generation, partition, accepted, written, rejected)
         WHERE p.object = u.object AND p.generation = u.generation AND p.partition = u.partition AND p.domain = $7",
    )
    .bind(moved.keys().map(|part| part.object).collect::<Vec<_>>())
    .bind(moved.keys().map(|part| part.generation).collect::<Vec<_>>())
    .bind(moved.keys().map(|part| part.partition).collect::<Vec<_>>())
    .bind(count(|moved| moved.accepted))
    .bind(count(|moved| moved.written))
    .bind(count(|moved| moved.rejected))
    .bind(domain)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a batch to the replay's counts.
///
/// # Errors
/// [`ApplyError::Lost`] if another process works on the replay now, or another topic was adopted.
pub(super) async fn add(
    connection: &mut PgConnection,
    replay: &Running,
    corrected: &Corrected,
) -> Result<(), ApplyError> {
    let added = sqlx::query(
        "UPDATE pipeline.replays SET rows_read = rows_read + $3, inserted = inserted + $4, changed = changed + $5,
            rejected_anew = rejected_anew + $6, accepted_anew = accepted_anew + $7, updated_at = now()
         WHERE id = $1 AND owner = $2 AND ended_at IS NULL
            AND EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = replays.domain AND s.stream_id = replays.stream_id)",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .bind(corrected.read.cast_signed())
    .bind(corrected.inserted.cast_signed())
    .bind(corrected.changed.cast_signed())
    .bind(corrected.rejected_anew.values().sum::<u64>().cast_signed())
    .bind(corrected.accepted_anew.values().sum::<u64>().cast_signed())
    .execute(connection)
    .await?;
    match added.rows_affected() {
        0 => Err(ApplyError::Lost(Vec::new())),
        _ => Ok(()),
    }
}

/// Takes over the replay's counts of corrections, if all rows that the live pipeline has received were read again.
pub(super) async fn take_over_corrections(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    // The live pipeline reads the corrections, adds a batch's and writes them: it must not do so meanwhile.
    sqlx::query("SELECT FROM pipeline.bookmarks WHERE domain = $1 ORDER BY partition FOR UPDATE")
        .bind(domain)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "UPDATE pipeline.progress AS p SET corrected = r.corrected, corrections = r.corrections
         FROM pipeline.replay_progress AS r
         WHERE r.domain = $1 AND p.domain = r.domain
            AND p.object = r.object AND p.generation = r.generation AND p.partition = r.partition
            AND p.received = r.received AND p.corrections IS DISTINCT FROM r.corrections",
    )
    .bind(domain)
    .execute(connection)
    .await?;
    Ok(())
}
