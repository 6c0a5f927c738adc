//! The shadow: a second table of a domain, filled from the topic by a replay. It then replaces the live table, or is
//! dropped.
//!
//! It is created like the live table ([`create`]): the same columns, constraints and indexes, under the same names, in
//! the schema `shadow`. What the contract declares otherwise (a key, types, columns) it has as declared, as if setup had
//! made it. Its state (bookmarks, progress, rejects) is stored beside it. It is filled by the same transaction as the
//! live table ([`crate::apply`]), never past the live bookmarks. So the live table had every key of the shadow when the
//! row was applied there, and gave it the `id` that the shadow uses too; a key that only the new rules accept gets the
//! next id. If the live table's rows cannot be found by the key, all rows get the next ids ([`ids`]).
//!
//! [`hold_live`] makes the live pipeline wait; a comparison or a swap meanwhile sees one moment. [`swap()`] then puts
//! the shadow in the place of the live table, in one transaction.

mod compare;
mod dependants;
mod swap;

use std::collections::BTreeMap;
use std::time::Duration;

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::apply::ids::Ids;
use crate::destination::Destination;
use crate::postgres::execute;
use crate::tables::{self, Redeclared};
use crate::transactions::{self, Limits, Named};

pub use compare::{Comparison, Differs, compare, count};
pub use swap::{Refused, Swapped, holders, swap};

/// How long a statement that needs an exclusive lock on the live table waits for its readers. Later statements of
/// others queue behind it, so it is better to give up and try again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The schema of shadows.
const SCHEMA: &str = "shadow";

/// Creates an empty shadow. An earlier one is dropped. Returns why it could never take the live table's place, if it could
/// not; the transaction is to be rolled back then.
pub(crate) async fn create(connection: &mut PgConnection, domain: &'static Domain) -> Result<Vec<String>, sqlx::Error> {
    drop_all(connection, domain).await?;
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    let sql = format!("CREATE TABLE {shadow} (LIKE {live} INCLUDING ALL)");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    like_stored(connection, &live, &shadow).await?;
    // LIKE makes up its own names, and may give one index the name that another must have: all names are freed first. A
    // constraint's index is renamed with its constraint.
    let names = index_names(connection, &live, &shadow).await?;
    let rename = |from: &str, to: &str| format!("ALTER INDEX shadow.{from} RENAME TO {to}");
    let mut renames: Vec<String> = names.iter().map(|(made, free, _)| rename(made, free)).collect();
    renames.extend(names.iter().map(|(_, free, wanted)| rename(free, wanted)));
    for sql in renames {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    declare(connection, domain, &live, &shadow).await
}

/// Makes a shadow that is like the live table what the contract declares. Where that changes nothing, nothing is checked
/// either: such a shadow may also be filled only to be looked at.
async fn declare(
    connection: &mut PgConnection,
    domain: &'static Domain,
    live: &str,
    shadow: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let redeclared = tables::redeclared(connection, SCHEMA, domain).await?;
    if redeclared.is_nothing() {
        return Ok(Vec::new());
    }
    for sql in &redeclared.sql {
        execute(connection, sql).await?;
    }
    let plan = tables::look_at_empty(connection, SCHEMA, domain).await?;
    if plan.alters() && plan.blocked.is_empty() {
        for sql in plan.steps.iter().flat_map(|step| &step.sql) {
            execute(connection, sql).await?;
        }
    }
    let mut in_the_way = [redeclared.blocked, plan.blocked].concat();
    in_the_way.extend(dependants::in_the_way(connection, live, shadow).await?);
    Ok(in_the_way)
}

/// What the domain's shadow has otherwise than the live table, because the contract declares it so.
async fn redeclared(connection: &mut PgConnection, domain: &'static Domain) -> Result<Redeclared, sqlx::Error> {
    let schema: String = sqlx::query_scalar(
        "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1::regclass",
    )
    .bind(Destination::Live.table(domain))
    .fetch_one(&mut *connection)
    .await?;
    tables::redeclared(connection, &schema, domain).await
}

/// Whether an existing shadow has the key and the columns that this contract declares.
pub(crate) async fn is_as_declared(
    connection: &mut PgConnection,
    domain: &'static Domain,
) -> Result<bool, sqlx::Error> {
    let redeclared = tables::redeclared(connection, SCHEMA, domain).await?;
    Ok(redeclared.sql.is_empty()
        && redeclared.added.is_empty()
        && redeclared.others.is_empty()
        && !redeclared.is_keyed_otherwise)
}

/// Where the `id`s of the shadow's rows come from.
///
/// # Errors
/// If Postgres does not answer.
pub async fn ids(pool: &PgPool, domain: &'static Domain) -> Result<Ids, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    Ok(redeclared(&mut connection, domain).await?.ids)
}

/// Gives a shadow the storage parameters of the live table (`fillfactor`, those of autovacuum), which LIKE does not
/// copy.
async fn like_stored(connection: &mut PgConnection, live: &str, shadow: &str) -> Result<(), sqlx::Error> {
    let options = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = to_regclass($1)";
    let options: Option<String> = sqlx::query_scalar(options).bind(live).fetch_one(&mut *connection).await?;
    if let Some(options) = options {
        let sql = format!("ALTER TABLE {shadow} SET ({options})");
        sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    }
    Ok(())
}

/// Pairs the equal indexes of two tables whose names differ: (name here, a name that no other has, name there), quoted for
/// SQL.
async fn index_names(
    connection: &mut PgConnection,
    live: &str,
    shadow: &str,
) -> Result<Vec<(String, String, String)>, sqlx::Error> {
    let of = "SELECT c.oid, c.relname, i.indrelid, row_number() OVER (
            PARTITION BY i.indrelid
            ORDER BY i.indkey::text, i.indisunique, i.indisprimary, pg_get_expr(i.indexprs, i.indrelid),
                pg_get_expr(i.indpred, i.indrelid), i.indoption::text, i.indclass::text, c.relam) AS number
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid";
    sqlx::query_as(AssertSqlSafe(format!(
        "WITH indexes AS ({of})
         SELECT quote_ident(made.relname), 'renamed_' || made.oid, quote_ident(wanted.relname)
         FROM indexes made JOIN indexes wanted USING (number)
         WHERE made.indrelid = $1::regclass AND wanted.indrelid = $2::regclass AND made.relname <> wanted.relname"
    )))
    .bind(shadow)
    .bind(live)
    .fetch_all(connection)
    .await
}

/// Drops the domain's shadow and everything that belongs to it, if there is one.
pub(crate) async fn drop_all(connection: &mut PgConnection, domain: &'static Domain) -> Result<(), sqlx::Error> {
    let sql = format!("DROP TABLE IF EXISTS {}", Destination::Shadow.table(domain));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    for table in [Destination::Shadow.bookmarks(), Destination::Shadow.progress(), Destination::Shadow.rejects()] {
        let sql = format!("DELETE FROM {table} WHERE domain = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(domain.name).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The live bookmarks, while the live pipeline waits for the end of the transaction.
pub struct Held {
    /// The transaction that holds them. It must end within seconds.
    pub transaction: Named<'static>,
    /// Partition → next offset.
    pub bookmarks: BTreeMap<i32, i64>,
}

/// Makes the domain's live pipeline wait before its next batch.
///
/// # Errors
/// If Postgres does not answer.
pub async fn hold_live(pool: &PgPool, domain: &str) -> Result<Held, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "swap", Limits::SHORT.waiting_at_most(LOCK_TIMEOUT)).await?;
    let rows: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT partition, next_offset FROM pipeline.bookmarks WHERE domain = $1 ORDER BY partition FOR UPDATE",
    )
    .bind(domain)
    .fetch_all(&mut *transaction)
    .await?;
    Ok(Held { transaction, bookmarks: rows.into_iter().collect() })
}

/// Gives the planner statistics about the shadow before everybody reads it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn analyze(pool: &PgPool, domain: &'static Domain) -> Result<(), sqlx::Error> {
    let sql = format!("ANALYZE {}", Destination::Shadow.table(domain));
    sqlx::query(AssertSqlSafe(sql)).execute(pool).await?;
    Ok(())
}
