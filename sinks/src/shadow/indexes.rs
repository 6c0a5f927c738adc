//! The indexes that a shadow gets once it is filled: built from all rows at once, an index costs less than half of what it
//! costs row by row, and far less if it does not fit in memory.
//!
//! The key's index is there from the beginning, because rows are compared by it. So is every other unique one, because it
//! decides which rows Postgres refuses, except that of `id`: the ids are those of the live table, or new. An index is
//! only left for later if its definition can be repeated word by word.
//!
//! While an index is built, nobody else writes to the shadow. Only the replacement of overwritten files would
//! (`crate::ledger`), so the shadows of domains that replace have all indexes from the beginning.

use freshet_topics::{Domain, Overwrite};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::apply::upsert::has_surrogate_id;
use crate::destination::Destination;

/// The indexes of table `$1` that may be left for later, in the table `$2`: the name, quoted for SQL, whether it is the
/// primary key, and the statements that make it there, and its comment. `$3`: whether the primary key is that of the
/// surrogate id.
const LATE: &str = "
    SELECT quote_ident(c.relname) AS name, i.indisprimary AS is_primary,
        CASE WHEN i.indisprimary
            THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, k.conname, pg_get_constraintdef(k.oid))
                || CASE WHEN s.oid IS NULL THEN '' ELSE format(' USING INDEX TABLESPACE %I', s.spcname) END
            ELSE format('CREATE INDEX %I ON %s', c.relname, $2) || substr(pg_get_indexdef(c.oid), length(d.start) + 1)
                || CASE WHEN s.oid IS NULL THEN '' ELSE format(' TABLESPACE %I', s.spcname) END
        END AS sql,
        'COMMENT ON INDEX shadow.' || quote_ident(c.relname) || ' IS '
            || quote_literal(obj_description(c.oid, 'pg_class')) AS comment_sql
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    CROSS JOIN LATERAL (SELECT format('CREATE INDEX %I ON %I.%I', c.relname, n.nspname, t.relname) AS start) AS d
    LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype = 'p'
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
        AND CASE WHEN i.indisprimary
            THEN $3 AND i.indnatts = 1
            ELSE NOT i.indisunique AND starts_with(pg_get_indexdef(c.oid), d.start)
        END";

#[derive(sqlx::FromRow)]
struct Late {
    name: String,
    is_primary: bool,
    sql: String,
    comment_sql: Option<String>,
}

/// Drops the indexes of a new shadow that are built once it is filled.
pub(super) async fn drop_late(connection: &mut PgConnection, domain: &'static Domain) -> Result<(), sqlx::Error> {
    if domain.on_overwrite == Overwrite::Replace {
        return Ok(());
    }
    let shadow = Destination::Shadow.table(domain);
    // If every table is replicated, a table without a primary key cannot be changed.
    let sql = format!("{LATE} AND (NOT i.indisprimary OR NOT EXISTS (SELECT FROM pg_publication WHERE puballtables))");
    let late: Vec<Late> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&shadow)
        .bind(&shadow)
        .bind(has_surrogate_id(domain))
        .fetch_all(&mut *connection)
        .await?;
    for Late { name, is_primary, .. } in late {
        let sql = match is_primary {
            true => format!("ALTER TABLE {shadow} DROP CONSTRAINT {name}"),
            false => format!("DROP INDEX shadow.{name}"),
        };
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Builds the indexes that a filled shadow still lacks; returns how many. It takes as long as Postgres needs to sort the
/// table. Called again, it continues.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make_late(connection: &mut PgConnection, domain: &'static Domain) -> Result<usize, sqlx::Error> {
    // Nobody reads a result of theirs if the program ends.
    sqlx::query("SET client_connection_check_interval = '1s'").execute(&mut *connection).await?;
    let shadow = Destination::Shadow.table(domain);
    let sql = format!(
        "{LATE} AND NOT EXISTS (
            SELECT FROM pg_index made JOIN pg_class m ON m.oid = made.indexrelid
            WHERE made.indrelid = to_regclass($2) AND m.relname = c.relname
         )
         -- A column that is no longer declared is not in the shadow.
         AND NOT EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND NOT EXISTS (
                SELECT FROM pg_attribute b
                WHERE b.attrelid = to_regclass($2) AND b.attname = a.attname AND NOT b.attisdropped
            )
         )
         ORDER BY i.indisprimary DESC, name"
    );
    let late: Vec<Late> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(Destination::Live.table(domain))
        .bind(shadow)
        .bind(has_surrogate_id(domain))
        .fetch_all(&mut *connection)
        .await?;
    for Late { sql, comment_sql, .. } in &late {
        for sql in [Some(sql), comment_sql.as_ref()].into_iter().flatten() {
            sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut *connection).await?;
        }
    }
    Ok(late.len())
}
