//! Whether a session of Postgres belongs to this program alone, which advisory locks and settings require.
//!
//! A pooler in transaction mode (pgbouncer's `pool_mode = transaction`) gives each transaction whichever server
//! connection is free. A lock or a setting of the session then belongs to the next client: two processes could run the
//! same replay, and timeouts would apply to others. No statement fails because of it, so it is checked once at the
//! start.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, PgPool, Row};
use uuid::Uuid;

/// Times that the question is put. Other clients of a pooler may come between, and hide what it does.
const ROUNDS: usize = 3;

/// Settings that have to arrive, of those that a session is opened with. Keepalives are between Postgres and whoever
/// is connected to it; on a socket of this machine they do not exist.
const NEEDED: [&str; 2] = ["timezone", "idle_in_transaction_session_timeout"];

/// What a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A session of Postgres, for as long as the connection lasts.
    Own,
    /// Whichever session is free, each time.
    Shared,
    /// A session of its own that does not have these settings, each as the statement that would give it to the user.
    WithoutSettings(Vec<String>),
}

/// What the three looks at a setting tell: A sets it, B looks and begins a transaction, A looks again.
///
/// | B sees what A has set | A sees it afterwards | the sessions are |
/// |---|---|---|
/// | no | yes | A's and B's own |
/// | yes | – | shared |
/// | no | no | shared |
fn is_shared(seen_by_other: bool, seen_afterwards: bool) -> bool {
    seen_by_other || !seen_afterwards
}

/// Finds out, on two connections that are closed again.
///
/// # Errors
/// If Postgres does not answer.
pub async fn look(pool: &PgPool) -> Result<Session, sqlx::Error> {
    let options = pool.connect_options();
    let mut one = PgConnection::connect_with(&options).await?;
    let mut other = PgConnection::connect_with(&options).await?;
    for _ in 0..ROUNDS {
        if probe(&mut one, &mut other).await? {
            return Ok(Session::Shared);
        }
    }
    let missing = missing_settings(&mut one).await?;
    // Nothing depends on a farewell.
    let _ = tokio::join!(one.close(), other.close());
    Ok(match missing.is_empty() {
        true => Session::Own,
        false => Session::WithoutSettings(missing),
    })
}

/// Simple statements all: prepared ones are among what such a pooler mixes up.
async fn ask(connection: &mut PgConnection, sql: String) -> Result<PgRow, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await
}

const PROBE: &str = "SELECT coalesce(current_setting('freshet.session_probe', true), '')";

async fn probe(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mark = Uuid::new_v4().to_string();
    ask(one, format!("SELECT set_config('freshet.session_probe', '{mark}', false)")).await?;
    // The transaction keeps its session: the other connection cannot be given the same one meanwhile.
    let mut busy = other.begin().await?;
    let seen_by_other = ask(&mut busy, PROBE.to_owned()).await?.try_get::<String, _>(0)? == mark;
    let seen_afterwards = ask(one, PROBE.to_owned()).await?.try_get::<String, _>(0)? == mark;
    busy.rollback().await?;
    Ok(is_shared(seen_by_other, seen_afterwards))
}

/// What a session was opened with and does not have.
async fn missing_settings(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let mut missing = Vec::new();
    for (name, wanted) in crate::postgres::SESSION.iter().filter(|(name, _)| NEEDED.contains(name)) {
        // Postgres spells a value its own way (120s is 2min), so it is set for the moment of this statement, and compared.
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
