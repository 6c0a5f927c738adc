//! The rejects that a command is about.

use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

use super::Which;

/// A row that did not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub(super) struct Reject {
    pub(super) domain: String,
    /// The file; none of a message that is no row of a file.
    pub(super) file: Option<String>,
    /// `pipeline.objects.id` of its version.
    pub(super) object: i64,
    pub(super) generation: i32,
    /// Data row in the file, from 0.
    pub(super) row: i64,
    /// Line on which the row begins.
    pub(super) line: i64,
    pub(super) column: Option<String>,
    pub(super) value: Option<String>,
    pub(super) rule: String,
    pub(super) rejected_at: DateTime<Utc>,
    /// The row as it was sent, as JSON.
    pub(super) raw: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

const FROM: &str = "FROM pipeline.rejects r LEFT JOIN pipeline.objects o ON o.id = r.object
     WHERE r.domain = ANY ($1) AND ($2 = '{}' OR o.key = ANY ($2)) AND ($3 = '{}' OR r.rule = ANY ($3))
        AND ($4::timestamptz IS NULL OR r.rejected_at >= $4) AND ($5::timestamptz IS NULL OR r.rejected_at < $5)";

fn names(domains: &[&'static Domain]) -> Vec<&'static str> {
    domains.iter().map(|domain| domain.name).collect()
}

/// How many there are.
pub(super) async fn count(pool: &PgPool, domains: &[&'static Domain], which: &Which) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {FROM}")))
        .bind(names(domains))
        .bind(&which.files)
        .bind(&which.rules)
        .bind(which.since)
        .bind(which.until)
        .fetch_one(pool)
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
        r#"SELECT r.domain, o.key AS file, r.object, r.generation, r.row, r.line, r."column", r.value, r.rule, r.rejected_at,
            r.raw, r.topic, r.partition, r."offset" {FROM}
         ORDER BY r.object DESC, r.generation, r.row LIMIT $6"#
    )))
    .bind(names(domains))
    .bind(&which.files)
    .bind(&which.rules)
    .bind(which.since)
    .bind(which.until)
    .bind(limit.map(i64::from))
    .fetch_all(pool)
    .await
}
