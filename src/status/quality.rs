//! Rejects and corrections, by rule.

use anyhow::{Context, Result};
use freshet_topics::Pipeline;
use serde::Serialize;
use sqlx::PgConnection;

use super::personal;

/// Maximum number of rules shown, the most frequent ones.
const RULES: i64 = 60;

/// What the rules did to the rows, each object at its newest reading.
#[derive(Debug, Serialize)]
pub(crate) struct Quality {
    rejects: Vec<Rejects>,
    corrections: Vec<Corrections>,
}

/// Rows that a rule keeps out, with one of them as an example.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Rejects {
    domain: String,
    rule: String,
    rows: i64,
    key: Option<String>,
    line: i64,
    column: Option<String>,
    value: Option<String>,
}

/// Changes that a rule made to the values of a column.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Corrections {
    domain: String,
    column: String,
    rule: String,
    values: i64,
}

impl Quality {
    /// Counts them.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(crate) async fn read(connection: &mut PgConnection, pipeline: &Pipeline) -> Result<Quality> {
        let mut rejects = rejects(connection).await.context("count the rejects")?;
        for of_rule in &mut rejects {
            let domain = pipeline.domain(&of_rule.domain);
            of_rule.value = personal::shown(domain, of_rule.column.as_deref(), of_rule.value.take());
        }
        Ok(Quality { rejects, corrections: corrections(connection).await.context("count the corrections")? })
    }
}

/// Counted in the index of rules, less those of earlier readings of the few files that were sent again as new; the example
/// is whichever stands first there.
async fn rejects(connection: &mut PgConnection) -> Result<Vec<Rejects>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.domain, c.rule, c.rows - coalesce(earlier.rows, 0) AS rows, e.key, e.line, e.\"column\",
            left(e.value, 60) AS value
         FROM (SELECT domain, rule, count(*) AS rows FROM pipeline.rejects GROUP BY domain, rule) AS c
         LEFT JOIN (
            SELECT r.domain, r.rule, count(*) AS rows
            FROM pipeline.objects o JOIN pipeline.rejects r ON r.object = o.id AND r.generation <> o.generation
            WHERE o.generation > 1 GROUP BY r.domain, r.rule
         ) AS earlier ON earlier.domain = c.domain AND earlier.rule = c.rule
         CROSS JOIN LATERAL (
            SELECT o.key, r.line, r.\"column\", r.value
            FROM pipeline.rejects r LEFT JOIN pipeline.objects o ON o.id = r.object
            WHERE r.domain = c.domain AND r.rule = c.rule AND (o.id IS NULL OR o.generation = r.generation) LIMIT 1
         ) AS e
         ORDER BY 3 DESC, 1, 2 LIMIT $1",
    )
    .bind(RULES)
    .fetch_all(connection)
    .await
}

async fn corrections(connection: &mut PgConnection) -> Result<Vec<Corrections>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.domain, split_part(c.what, ':', 1) AS \"column\", split_part(c.what, ':', 2) AS rule,
            sum(c.number::bigint)::bigint AS values
         FROM pipeline.progress p JOIN pipeline.objects o ON o.id = p.object AND o.generation = p.generation
            CROSS JOIN LATERAL jsonb_each_text(p.corrections) AS c (what, number)
         WHERE p.corrections <> '{}'
         GROUP BY p.domain, c.what ORDER BY 4 DESC, 1, 2, 3 LIMIT $1",
    )
    .bind(RULES)
    .fetch_all(connection)
    .await
}
