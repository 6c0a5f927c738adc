//! The rejects that a command is about.

use anyhow::Context;
use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, QueryBuilder, Transaction};

use super::Which;

/// A row that did not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub(crate) struct Reject {
    pub(crate) domain: String,
    /// The file; none of a message that is no row of a file.
    pub(crate) file: Option<String>,
    /// `pipeline.objects.id` of its version.
    pub(crate) object: i64,
    pub(crate) generation: i32,
    /// Data row in the file, from 0.
    pub(crate) row: i64,
    /// Line on which the row begins.
    pub(crate) line: i64,
    pub(crate) column: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) rule: String,
    pub(crate) rejected_at: DateTime<Utc>,
    /// The row as it was sent, as JSON.
    pub(crate) raw: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What is read of each.
const COLUMNS: &str = r#"r.domain, o.key AS file, r.object, r.generation, r.row, r.line, r."column", r.value, r.rule,
    r.rejected_at, r.raw, r.topic, r.partition, r."offset""#;

/// Begins a query of the rejects that are meant, `r`, and of their files in the ledger, `o`; `select` says what of them
/// is read. Of a file that was sent again as new, each reading leaves its rejects: those of the newest count. What is of no
/// file in the ledger stays.
pub(super) fn query(select: &str, domains: &[&'static Domain], which: &Which) -> QueryBuilder<Postgres> {
    let names: Vec<&str> = domains.iter().map(|domain| domain.name).collect();
    let mut query = QueryBuilder::new(select);
    query.push(
        " FROM pipeline.rejects r LEFT JOIN pipeline.objects o ON o.id = r.object
         WHERE (o.id IS NULL OR o.generation = r.generation) AND r.domain = ANY (",
    );
    query.push_bind(names).push(")");
    if !which.files.is_empty() {
        query.push(" AND o.key LIKE ANY (").push_bind(which.like()).push(")");
    }
    if !which.rules.is_empty() {
        query.push(" AND r.rule = ANY (").push_bind(&which.rules).push(")");
    }
    if let Some(since) = which.since {
        query.push(" AND r.rejected_at >= ").push_bind(since);
    }
    if let Some(until) = which.until {
        query.push(" AND r.rejected_at < ").push_bind(until);
    }
    query
}

/// A transaction whose queries all see the rejects of one moment, whatever is rejected or loads meanwhile.
pub(super) async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// How many there are.
pub(super) async fn count(pool: &PgPool, domains: &[&'static Domain], which: &Which) -> Result<i64, sqlx::Error> {
    query("SELECT count(*)", domains, which).build_query_scalar().fetch_one(pool).await
}

/// The files that have some.
pub(super) async fn files(
    pool: &PgPool,
    domains: &[&'static Domain],
    which: &Which,
) -> Result<Vec<String>, sqlx::Error> {
    let mut query = query("SELECT DISTINCT o.key", domains, which);
    query.push(" AND o.key IS NOT NULL").build_query_scalar().fetch_all(pool).await
}

/// Those of the newest files first; of a file in the order of its lines.
fn in_order(domains: &[&'static Domain], which: &Which) -> QueryBuilder<Postgres> {
    let mut query = query(&format!("SELECT {COLUMNS}"), domains, which);
    query.push(" ORDER BY r.object DESC, r.generation, r.row");
    query
}

/// The newest of them, `limit` at most; of a file in the order of its lines.
pub(super) async fn read(
    pool: &PgPool,
    domains: &[&'static Domain],
    which: &Which,
    limit: u32,
) -> Result<Vec<Reject>, sqlx::Error> {
    let mut query = in_order(domains, which);
    query.push(" LIMIT ").push_bind(i64::from(limit)).build_query_as().fetch_all(pool).await
}

/// Gives all of them to `take`, in the same order, one at a time: a file may have millions.
///
/// # Errors
/// If Postgres does not answer, or that of `take`.
pub(super) async fn each(
    connection: &mut PgConnection,
    domain: &'static Domain,
    which: &Which,
    mut take: impl FnMut(Reject) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut query = in_order(&[domain], which);
    let mut rejects = query.build_query_as::<Reject>().fetch(connection);
    while let Some(reject) = rejects.try_next().await.context("read the rejects")? {
        take(reject)?;
    }
    Ok(())
}

/// Those of one file, as it was read last, behind a data row: `limit` of them, in the order of the file.
pub(crate) async fn of_object(
    connection: &mut PgConnection,
    object: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<Reject>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o
         JOIN pipeline.rejects r ON r.object = o.id AND r.generation = o.generation AND r.row > $2
         WHERE o.id = $1 ORDER BY r.row LIMIT $3"
    )))
    .bind(object)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await
}
