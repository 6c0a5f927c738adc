//! Leftovers: rows of the table that, by the present rules, are rejects or have another key.
//!
//! They are remembered batch by batch (`pipeline.replay_suspects`) and removed at the end, all at once.

use std::collections::BTreeMap;

use freshet_topics::{Domain, Lineage};
use sqlx::PgConnection;

use super::Running;
use crate::apply::marks::Marks;
use crate::apply::upsert::quoted;
use crate::apply::{rejects, removal};
use crate::destination::Destination;

/// A row that may have left something in the table: any row with its lineage under another key than `kept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Object, generation and row.
    pub(crate) lineage: Lineage,
    /// The key under which it belongs; `None` if it is a reject.
    pub(crate) kept: Option<String>,
}

/// Stores them until everything is read; for each row, the last entry counts.
pub(crate) async fn remember(
    connection: &mut PgConnection,
    replay: &Running,
    leftovers: &[Leftover],
) -> Result<(), sqlx::Error> {
    if leftovers.is_empty() {
        return Ok(());
    }
    let last: BTreeMap<Lineage, &Option<String>> = leftovers.iter().map(|one| (one.lineage, &one.kept)).collect();
    let (objects, generations, rows) = rejects::unzipped(last.keys());
    sqlx::query(
        "INSERT INTO pipeline.replay_suspects (replay, object, generation, row, kept)
         SELECT $1, u.* FROM UNNEST($2::int8[], $3::int4[], $4::int8[], $5::text[]) AS u (object, generation, row, kept)
         ON CONFLICT (replay, object, generation, row) DO UPDATE SET kept = excluded.kept",
    )
    .bind(replay.id)
    .bind(objects)
    .bind(generations)
    .bind(rows)
    .bind(last.values().map(|kept| (*kept).clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the leftovers from the table, marks them, and counts them.
pub(super) async fn remove(
    connection: &mut PgConnection,
    domain: &'static Domain,
    replay: i64,
) -> Result<i64, sqlx::Error> {
    let delete = format!(
        "DELETE FROM {table} AS t USING pipeline.replay_suspects AS s
         WHERE s.replay = ANY($1) AND t.src_object = s.object AND t.src_gen = s.generation AND t.src_row = s.row
            AND s.kept IS DISTINCT FROM ROW({key})::text",
        table = Destination::Live.table(domain),
        key = quoted(domain.key.iter().copied(), "t."),
    );
    let (removed, changed) = removal::remove(connection, domain, &delete, &[replay]).await?;
    let mut marks = Marks::default();
    marks.add(&changed);
    marks.append(&mut *connection, domain.name).await?;
    sqlx::query("DELETE FROM pipeline.replay_suspects WHERE replay = $1").bind(replay).execute(connection).await?;
    Ok(removed)
}
