//! The rejects that a command is about.

use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

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

/// Of a file that was sent again as new, each reading leaves its rejects: those of the newest count. What is of no file
/// in the ledger stays.
const FROM: &str = "FROM pipeline.rejects r LEFT JOIN pipeline.objects o ON o.id = r.object
     WHERE r.domain = ANY ($1) AND (o.id IS NULL OR o.generation = r.generation)
        AND ($2 = '{}' OR o.key LIKE ANY ($2)) AND ($3 = '{}' OR r.rule = ANY ($3))
        AND ($4::timestamptz IS NULL OR r.rejected_at >= $4) AND ($5::timestamptz IS NULL OR r.rejected_at < $5)";

fn names(domains: &[&'static Domain]) -> Vec<&'static str> {
    domains.iter().map(|domain| domain.name).collect()
}

/// How many there are.
pub(super) async fn count(pool: &PgPool, domains: &[&'static Domain], which: &Which) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {FROM}")))
        .bind(names(domains))
        .bind(which.like())
        .bind(&which.rules)
        .bind(which.since)
        .bind(which.until)
        .fetch_one(pool)
        .await
}

/// The files that have some.
pub(super) async fn files(
    pool: &PgPool,
    domains: &[&'static Domain],
    which: &Which,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT DISTINCT o.key {FROM} AND o.key IS NOT NULL")))
        .bind(names(domains))
        .bind(which.like())
        .bind(&which.rules)
        .bind(which.since)
        .bind(which.until)
        .fetch_all(pool)
        .await
}

/// The newest of them, `limit` at most; of a file in the order of its lines.
pub(super) async fn read(
    pool: &PgPool,
    domains: &[&'static Domain],
    which: &Which,
    limit: Option<u32>,
) -> Result<Vec<Reject>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} {FROM} ORDER BY r.object DESC, r.generation, r.row LIMIT $6"
    )))
    .bind(names(domains))
    .bind(which.like())
    .bind(&which.rules)
    .bind(which.since)
    .bind(which.until)
    .bind(limit.map(i64::from))
    .fetch_all(pool)
    .await
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
