//! Locks that others hold: the usual reason why nothing moves although every service answers.
//!
//! Whatever reads a table of a domain for a status goes through [`unless_locked`]: while an `ALTER TABLE` or a
//! `VACUUM FULL` holds the table, the rest of the status is still shown, together with the session to look at.

use freshet_topics::Pipeline;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Longest wait of a status for a table. A status reads several, and is to be there within a second or two.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '100ms'";
/// A shorter wait is normal: a batch waits for another one.
const WAITED_SECONDS_MIN: f64 = 2.0;
/// Waits that are named, the longest first.
const NAMED: i64 = 5;
/// Characters of the other session's statement that are shown.
const STATEMENT_CHARACTERS: i32 = 80;

/// A session that waits for a lock on a table of the pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct Blocked {
    /// The table.
    pub table: String,
    /// How long it has waited.
    pub waited_seconds: f64,
    /// The process id of the session that holds the lock.
    pub holder: i32,
    /// Who that is: user, program and state, as far as Postgres tells this user.
    pub who: String,
    /// Its statement, the current or the last one, shortened.
    pub statement: String,
}

impl Blocked {
    /// What to tell people.
    pub fn describe(&self) -> String {
        let Blocked { table, waited_seconds, holder, who, statement } = self;
        format!(
            "{table} is locked: freshet has waited {waited_seconds:.0} s for session {holder} ({who}): {statement}. \
             Wait for it, or end it: SELECT pg_terminate_backend({holder})"
        )
    }
}

/// The waits for tables of the pipeline, and for those of the ledger.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn read(connection: &mut PgConnection, pipeline: &Pipeline) -> Result<Vec<Blocked>, sqlx::Error> {
    let tables: Vec<&str> = pipeline.domains.iter().map(|domain| domain.table).collect();
    sqlx::query_as(
        "SELECT DISTINCT ON (waited_seconds, holder) * FROM (
            SELECT c.relname::text AS table, extract(epoch FROM clock_timestamp() - w.waitstart)::float8 AS waited_seconds,
                b.pid AS holder,
                concat_ws(', ', h.usename, nullif(h.application_name, ''), h.state) AS who,
                coalesce(left(regexp_replace(h.query, '\\s+', ' ', 'g'), $3), '') AS statement
            FROM pg_locks w
            JOIN pg_class c ON c.oid = w.relation
            JOIN pg_namespace n ON n.oid = c.relnamespace
            CROSS JOIN LATERAL UNNEST(pg_blocking_pids(w.pid)) AS b (pid)
            LEFT JOIN pg_stat_activity h ON h.pid = b.pid
            WHERE NOT w.granted AND w.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND (c.relname = ANY ($1) OR n.nspname = 'pipeline')
         ) AS waits
         WHERE waited_seconds >= $2
         ORDER BY waited_seconds DESC, holder LIMIT $4",
    )
    .bind(tables)
    .bind(WAITED_SECONDS_MIN)
    .bind(STATEMENT_CHARACTERS)
    .bind(NAMED)
    .fetch_all(connection)
    .await
}

/// The one row of a statement, or `None` if it would have to wait for a lock.
///
/// # Errors
/// Any other error.
pub(super) async fn unless_locked<T>(connection: &mut PgConnection, sql: String) -> Result<Option<T>, sqlx::Error>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let mut attempt = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *attempt).await?;
    let row = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *attempt).await;
    // Nothing was written, and the time limit ends with it.
    attempt.rollback().await?;
    match row {
        Ok(row) => Ok(Some(row)),
        Err(error) if freshet_sinks::postgres::is_lock_timeout(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_described_with_what_to_do() {
        let blocked = Blocked {
            table: "health_data".into(),
            waited_seconds: 24.4,
            holder: 812,
            who: "ann, psql, idle in transaction".into(),
            statement: "LOCK TABLE health_data".into(),
        };
        assert_eq!(
            blocked.describe(),
            "health_data is locked: freshet has waited 24 s for session 812 (ann, psql, idle in transaction): \
             LOCK TABLE health_data. Wait for it, or end it: SELECT pg_terminate_backend(812)"
        );
    }
}
