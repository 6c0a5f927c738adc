//! The indexes of a shadow that are built once it is filled: built from all rows at once, an index costs less than half of
//! what it costs row by row, and far less if it does not fit in memory.
//!
//! Only indexes that refuse no row are left for later: neither those of constraints nor unique ones, nor those that a long
//! value does not fit into. So a row is written or rejected in a shadow as in the live table.
//!
//! While an index is built, nobody else writes to the shadow. Only the replacement of overwritten files would
//! (`crate::ledger`), so the shadows of domains that replace have all indexes from the beginning.

use freshet_topics::{Domain, Overwrite};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::destination::Destination;

/// The indexes of the live table `$1` that its shadow `$2` may get later: the name, quoted for SQL, whether the shadow has it,
/// and the statements that make it there, and its comment. The definition has to be one that can be repeated word by word:
/// that of a partitioned table begins differently.
const LATE: &str = "
    SELECT quote_ident(c.relname) AS name,
        EXISTS (
            SELECT FROM pg_index made JOIN pg_class m ON m.oid = made.indexrelid
            WHERE made.indrelid = to_regclass($2) AND m.relname = c.relname
        ) AS is_made,
        format('CREATE INDEX %I ON %s', c.relname, $2) || substr(pg_get_indexdef(c.oid), length(d.start) + 1)
            || coalesce(' TABLESPACE ' || quote_ident(s.spcname), '') AS sql,
        'COMMENT ON INDEX shadow.' || quote_ident(c.relname) || ' IS '
            || quote_literal(obj_description(c.oid, 'pg_class')) AS comment_sql
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    CROSS JOIN LATERAL (SELECT format('CREATE INDEX %I ON %I.%I', c.relname, n.nspname, t.relname) AS start) AS d
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND NOT i.indisunique AND NOT i.indisexclusion
        AND i.indexprs IS NULL AND i.indpred IS NULL AND starts_with(pg_get_indexdef(c.oid), d.start)
        -- Each column is in the shadow too, with a type of one length.
        AND NOT EXISTS (
            SELECT FROM pg_attribute a
            LEFT JOIN pg_attribute b ON b.attrelid = to_regclass($2) AND b.attname = a.attname AND NOT b.attisdropped
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND (b.attlen > 0) IS NOT TRUE
        )
    ORDER BY 1";

#[derive(sqlx::FromRow)]
struct Late {
    name: String,
    is_made: bool,
    sql: String,
    comment_sql: Option<String>,
}

/// None for a domain that replaces.
async fn late(connection: &mut PgConnection, domain: &'static Domain) -> Result<Vec<Late>, sqlx::Error> {
    if domain.on_overwrite == Overwrite::Replace {
        return Ok(Vec::new());
    }
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    sqlx::query_as(LATE).bind(live).bind(shadow).fetch_all(connection).await
}

/// Drops the indexes of a new shadow that are built once it is filled.
pub(super) async fn drop_late(connection: &mut PgConnection, domain: &'static Domain) -> Result<(), sqlx::Error> {
    for Late { name, .. } in late(connection, domain).await?.into_iter().filter(|late| late.is_made) {
        sqlx::query(AssertSqlSafe(format!("DROP INDEX shadow.{name}"))).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Builds the indexes that a filled shadow still lacks. It takes as long as Postgres needs to sort the table. Called again,
/// it continues.
///
/// # Errors
/// If Postgres does not answer.
pub async fn make_late(connection: &mut PgConnection, domain: &'static Domain) -> Result<(), sqlx::Error> {
    let set = "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
        -- Nobody needs the index if the program ends.
        set_config('client_connection_check_interval', '1s', false)";
    sqlx::query(set).execute(&mut *connection).await?;
    for Late { sql, comment_sql, .. } in late(connection, domain).await?.into_iter().filter(|late| !late.is_made) {
        let mut transaction = connection.begin().await?;
        for sql in [Some(sql), comment_sql].into_iter().flatten() {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}
