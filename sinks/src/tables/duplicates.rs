//! Duplicate keys in a table that is adopted: how many there are, whether other tables refer to them, and how they are
//! removed.

use sqlx::{AssertSqlSafe, PgConnection};

use super::wanted::{ID, Wanted};
use super::{identifier, identifiers, literal};

/// Rows that share a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Duplicates {
    /// Rows to remove: all but the newest of each key.
    pub rows: i64,
    /// Keys that have more than one row.
    pub keys: i64,
    /// Foreign keys of other tables that refer to rows to be removed: (constraint, table, rows of that table).
    pub referred: Vec<(String, String, i64)>,
}

/// Every row of the table with its rank among the rows of its key: 1 is the newest, which stays.
///
/// The row with the greatest `id` is the newest. If ids are equal or missing, it is the row that is last in the table.
fn ranked(table: &str, key: &[&str], has_id: bool) -> String {
    let newest = if has_id { "t.id DESC NULLS LAST, t.ctid DESC" } else { "t.ctid DESC" };
    let kept = if has_id { "t.id::text" } else { "NULL::text" };
    format!(
        "SELECT t.ctid AS freshet_place, row_number() OVER newest AS freshet_rank,
            first_value({kept}) OVER newest AS freshet_kept
         FROM {table} AS t WINDOW newest AS (PARTITION BY {} ORDER BY {newest})",
        identifiers(key.iter().copied())
    )
}

/// Counts them by the existing columns of the key: missing columns are NULL in every row.
pub(super) async fn count(
    connection: &mut PgConnection,
    table: &str,
    key: &[&str],
    has_id: bool,
) -> Result<Duplicates, sqlx::Error> {
    let columns = identifiers(key.iter().copied());
    let sql = format!(
        "SELECT coalesce(sum(n - 1), 0)::int8, count(*)
         FROM (SELECT count(*) AS n FROM {table} GROUP BY {columns} HAVING count(*) > 1) AS repeated"
    );
    let (rows, keys) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
    let mut duplicates = Duplicates { rows, keys, referred: Vec::new() };
    if rows > 0 {
        duplicates.referred = referred(connection, table, key, has_id).await?;
    }
    Ok(duplicates)
}

/// Which tables refer to rows to be removed. Deleting those rows would fail, or would change other tables (ON DELETE
/// CASCADE).
async fn referred(
    connection: &mut PgConnection,
    table: &str,
    key: &[&str],
    has_id: bool,
) -> Result<Vec<(String, String, i64)>, sqlx::Error> {
    let keys: Vec<(String, String, Vec<String>, Vec<String>)> = sqlx::query_as(
        "SELECT k.conname::text, k.conrelid::regclass::text,
            array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS n (number, place)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.number ORDER BY n.place),
            array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS n (number, place)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.number ORDER BY n.place)
         FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1::regclass ORDER BY 2, 1",
    )
    .bind(table)
    .fetch_all(&mut *connection)
    .await?;
    let mut referred = Vec::new();
    for (name, other, theirs, ours) in keys {
        let same: Vec<String> = theirs
            .iter()
            .zip(&ours)
            .map(|(theirs, ours)| format!("o.{} = t.{}", identifier(theirs), identifier(ours)))
            .collect();
        let sql = format!(
            "SELECT count(*) FROM {other} AS o JOIN {table} AS t ON {}
             JOIN ({}) AS r ON r.freshet_place = t.ctid AND r.freshet_rank > 1",
            same.join(" AND "),
            ranked(table, key, has_id)
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
        if rows > 0 {
            referred.push((name, other, rows));
        }
    }
    Ok(referred)
}

/// The statement that moves them from the table to `pipeline.taken_over_duplicates`. The table has an `id` when it
/// runs.
pub(super) fn set_aside(table: &str, wanted: &Wanted) -> String {
    format!(
        "WITH gone AS (
            DELETE FROM {table} AS t USING ({}) AS r
            WHERE t.ctid = r.freshet_place AND r.freshet_rank > 1
            RETURNING t.{}::text AS id, r.freshet_kept AS kept, to_jsonb(t) AS old)
         INSERT INTO pipeline.taken_over_duplicates (\"table\", row_id, kept_row_id, row)
         SELECT {}, id, kept, old FROM gone",
        ranked(table, &wanted.key, true),
        identifier(ID),
        literal(wanted.table),
    )
}
