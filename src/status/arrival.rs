//! How far some files are that were dropped: found, published, applied, and in the outputs.

use freshet_sinks::ledger::ObjectState;
use sqlx::PgPool;

/// How far the dropped files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Arrival {
    /// Files that a listener has found.
    pub(crate) found: i64,
    /// Files whose rows are known: published, or not to be.
    pub(crate) counted: i64,
    /// Rows in the topics.
    pub(crate) published: i64,
    /// Rows applied, or older than what was there.
    pub(crate) applied: i64,
    /// Rows refused.
    pub(crate) rejected: i64,
    /// Change marks that wait, whoever made them.
    pub(crate) marks: i64,
}

impl Arrival {
    /// Looks at the objects of `keys` that came after the object `known_before`.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(crate) async fn read(pool: &PgPool, known_before: i64, keys: &[String]) -> Result<Arrival, sqlx::Error> {
        sqlx::query_as(
            "SELECT count(DISTINCT o.key) AS found,
                count(*) FILTER (WHERE o.rows IS NOT NULL OR o.state = ANY ($3)) AS counted,
                coalesce(sum(coalesce(o.rows, o.resume_row)), 0)::bigint AS published,
                coalesce(sum(p.applied), 0)::bigint AS applied, coalesce(sum(p.rejected), 0)::bigint AS rejected,
                (SELECT count(*) FROM pipeline.marks) AS marks
             FROM pipeline.objects o
             LEFT JOIN LATERAL (
                SELECT sum(applied + stale) AS applied, sum(rejected) AS rejected FROM pipeline.progress
                WHERE object = o.id AND generation = o.generation
             ) AS p ON true
             WHERE o.id > $1 AND o.key = ANY($2)",
        )
        .bind(known_before)
        .bind(keys)
        .bind([ObjectState::Rejected, ObjectState::Superseded].map(ObjectState::name).as_slice())
        .fetch_one(pool)
        .await
    }
}
