//! Changes the rows of the table whose values the rules now give otherwise: one statement finds each row by its key,
//! compares it, and updates it where it found it.
//!
//! A replay in place otherwise compares the rows ([`super::difference`]) and then upserts those that differ. That finds
//! each row twice and sends its values twice, so where most rows differ, as after a rule was corrected, it costs almost
//! twice as much.
//!
//! Only rows that have the very same lineage in the table are changed. The caller compares the others: new keys, rows
//! that newer data has replaced or will be replaced, and unchanged rows. So it does with all of them if the table has a
//! trigger before inserts, which changes what the upsert stores, and which an update does not call.
//!
//! If another transaction writes one of the rows at the same time, this one waits for it, and Postgres checks the outer
//! conditions again on the row's newest version: a row that has got newer data is not changed either. Older minor releases
//! of Postgres do not check the place again, so the outer conditions compare the lineage too. Because the other rows are
//! written afterwards, two transactions can wait for each other; Postgres ends one of them, and it is tried again.

use std::sync::Arc;

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::arrays::{self, unnest};
use super::difference::{Before, Difference};
use super::moved;
use super::upsert::{Candidate, LINEAGE, Upsert, differs, quoted, row_of_key, same_key, value_columns};
use super::written::{self, Written};

/// What was changed.
pub(super) struct Updated {
    /// For each row that was sent, whether it was changed.
    pub(super) changed: Vec<bool>,
    /// How these rows differed from the table.
    pub(super) differences: Vec<Difference>,
    /// The same rows, as other ways of writing report them.
    pub(super) written: Vec<Written>,
}

/// Whether an update stores the same as the upsert: no trigger changes rows before they are inserted.
async fn is_fit(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    // The bits of a row's trigger, before, on inserts.
    sqlx::query_scalar(
        "SELECT NOT EXISTS (
            SELECT FROM pg_trigger t
            WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 7 = 7 AND (
                t.tgrelid = to_regclass($1)
                OR t.tgrelid IN (SELECT relid FROM pg_partition_tree(to_regclass($1)))
            )
         )",
    )
    .bind(table)
    .fetch_one(connection)
    .await
}

/// A row of a table that is partitioned is found by its part and its place there; with the key, Postgres looks into one
/// part only. Without `OFFSET` the planner would pull the look-up up, and compare each row twice. No column of a contract
/// begins with `_`.
fn statement(domain: &Domain, table: &str) -> String {
    let assignments: Vec<String> = value_columns(domain).map(|name| format!("\"{name}\" = u.\"{name}\"")).collect();
    let lineage = |prefix: &str| quoted(LINEAGE, prefix);
    format!(
        "WITH updated AS (
             UPDATE {table} AS t SET {assignments}, value_ord = u.src_ord
             FROM (
                 SELECT u.*, l.ctid AS _place, l.tableoid AS _part, ARRAY[{differs}]::bool[] AS _differs
                 FROM {rows}
                 JOIN LATERAL ({row}) AS l ON true
                 WHERE ({lineage_u}) = ({lineage_l}) AND ({new}) IS DISTINCT FROM ({old})
                 OFFSET 0
             ) AS u
             WHERE t.ctid = u._place AND t.tableoid = u._part AND {same_key} AND ({lineage_t}) = ({lineage_u})
             RETURNING u._differs, u.ord
         )
         SELECT _differs, array_agg(ord - 1) FROM updated GROUP BY _differs",
        assignments = assignments.join(", "),
        differs = differs(domain, "l"),
        rows = unnest(domain, ", ord"),
        row = row_of_key(domain, table, "l.ctid, l.tableoid, l.*"),
        same_key = same_key(domain, "t", "u"),
        lineage_t = lineage("t."),
        lineage_u = lineage("u."),
        lineage_l = lineage("l."),
        new = quoted(value_columns(domain), "u."),
        old = quoted(value_columns(domain), "l."),
    )
}

/// Changes those of these rows, one for each key, that have the same lineage in the table and other values.
///
/// # Errors
/// As for [`Upsert::write`].
pub(super) async fn write(
    connection: &mut PgConnection,
    upsert: &Upsert,
    rows: &[Candidate<'_>],
) -> Result<Updated, sqlx::Error> {
    let (domain, table) = (upsert.domain(), upsert.destination().table(upsert.domain()));
    if !is_fit(connection, &table).await? {
        return Ok(Updated { changed: vec![false; rows.len()], differences: Vec::new(), written: Vec::new() });
    }
    let left = moved::dates_left(connection, upsert, rows).await?;
    let sql = statement(domain, &table);
    let answer = arrays::bind(domain, sqlx::query(AssertSqlSafe(sql)), rows).fetch_all(connection).await?;
    let columns: Vec<&'static str> = value_columns(domain).collect();
    let (mut changed, mut differences) = (vec![false; rows.len()], Vec::new());
    for row in &answer {
        let (differs, places): (Vec<bool>, Vec<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let differing = columns.iter().zip(differs).filter_map(|(column, differs)| differs.then_some(*column));
        let differing: Arc<[&'static str]> = differing.collect();
        for place in places {
            // The place is that of a row that was sent.
            let row = rows[place as usize];
            changed[place as usize] = true;
            let before = Before { lineage: row.row.lineage(), columns: differing.clone(), first: None };
            differences.push(Difference { index: row.index, key: None, before: Some(before) });
        }
    }
    let updated: Vec<Candidate<'_>> = rows.iter().zip(&changed).filter(|(_, it)| **it).map(|(row, _)| *row).collect();
    let mut written = written::of(domain, &updated);
    written::add_dates(&mut written, left);
    Ok(Updated { changed, differences, written })
}
