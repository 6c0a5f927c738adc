//! Whether a session of Postgres belongs to this program alone, which advisory locks and settings require.
//!
//! A pooler in transaction mode (pgbouncer's `pool_mode = transaction`) gives each transaction whichever server
//! connection is free. A lock or a setting of the session then belongs to the next client: two processes could run the
//! same replay, and timeouts would apply to others. No statement fails because of it, so it is checked once at the
//! start.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, PgPool, Row};
use uuid::Uuid;

use crate::postgres;

/// How often to check. Other clients of a pooler, in this process too, may come between and hide what it does.
const ROUNDS: usize = 10;

/// Session settings that must be in effect. Keepalives are not among them: they are between Postgres and the peer of
/// its connection, and do not exist on a local socket.
const NEEDED: [&str; 2] = ["timezone", "idle_in_transaction_session_timeout"];

/// What is behind a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A session of Postgres, for as long as the connection lasts.
    Own,
    /// A different session each time, whichever is free.
    Shared,
    /// An own session without these settings; each is given as the statement that sets it for the user.
    WithoutSettings(Vec<String>),
}

/// The result of three looks at a setting: A sets it, B looks and begins a transaction, A looks again.
///
/// | B sees what A has set | A sees it afterwards | the sessions are |
/// |---|---|---|
/// | no | yes | A's and B's own |
/// | yes | – | shared |
/// | no | no | shared |
fn is_shared(seen_by_other: bool, seen_afterwards: bool) -> bool {
    seen_by_other || !seen_afterwards
}

/// Finds out, with two connections that are closed again.
///
/// # Errors
/// If Postgres does not answer.
pub async fn look(pool: &PgPool) -> Result<Session, sqlx::Error> {
    let options = pool.connect_options();
    let mut one = postgres::connect(&options).await?;
    let mut other = postgres::connect(&options).await?;
    for _ in 0..ROUNDS {
        if probe(&mut one, &mut other).await? {
            return Ok(Session::Shared);
        }
    }
    let missing = missing_settings(&mut one).await?;
    // It does not matter whether closing works.
    let _ = tokio::join!(one.close(), other.close());
    Ok(match missing.is_empty() {
        true => Session::Own,
        false => Session::WithoutSettings(missing),
    })
}

/// Only simple statements: such a pooler mixes up prepared ones.
async fn ask(connection: &mut PgConnection, sql: String) -> Result<PgRow, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await
}

const PROBE: &str = "SELECT coalesce(current_setting('freshet.session_probe', true), '')";

async fn probe(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mark = Uuid::new_v4().to_string();
    ask(one, format!("SELECT set_config('freshet.session_probe', '{mark}', false)")).await?;
    // The transaction keeps its session, so the other connection cannot get the same one meanwhile.
    let mut busy = other.begin().await?;
    let seen_by_other = ask(&mut busy, PROBE.to_owned()).await?.try_get::<String, _>(0)? == mark;
    let seen_afterwards = ask(one, PROBE.to_owned()).await?.try_get::<String, _>(0)? == mark;
    busy.rollback().await?;
    Ok(is_shared(seen_by_other, seen_afterwards))
}

/// The settings that the session was opened with but does not have.
async fn missing_settings(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let mut missing = Vec::new();
    for (name, wanted) in postgres::SESSION.iter().filter(|(name, _)| NEEDED.contains(name)) {
        // Postgres has its own text form of a value (120s is 2min), so it is set for this statement only, and compared.
        let sql = format!(
            "SELECT CASE WHEN found = wanted THEN '' ELSE format('ALTER ROLE %I SET %s = %L', current_user, '{name}', \
             '{wanted}') END
             FROM (SELECT current_setting('{name}') AS found, set_config('{name}', '{wanted}', true) AS wanted) AS s"
        );
        let statement: String = ask(connection, sql).await?.try_get(0)?;
        if !statement.is_empty() {
            missing.push(statement);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_shared_if_another_connection_gets_it_or_it_is_another_one_afterwards() {
        for (seen_by_other, seen_afterwards, expected) in
            [(false, true, false), (true, true, true), (true, false, true), (false, false, true)]
        {
            assert_eq!(is_shared(seen_by_other, seen_afterwards), expected, "{seen_by_other} {seen_afterwards}");
        }
    }
}
