//! Named transactions: started in one place, counted and timed by name, with limits that the server enforces.
//!
//! A transaction holds locks that others wait for. The process that holds it may be frozen at any moment (a paused
//! machine, SIGSTOP, a debugger), and then only Postgres can end it: hence [`Limits`], which are sent to the server in
//! the round trip of `BEGIN`.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};

use crate::metrics::TRANSACTIONS;

/// Limits of a transaction. Unset limits are those of the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The server ends the transaction after its client has been silent for this long.
    pub idle: Option<Duration>,
    /// The server looks this often whether the client is still there while a statement runs or waits for a lock, and ends
    /// the transaction if it is not.
    pub client_check: Option<Duration>,
    /// A statement fails if it waits longer than this for a lock.
    pub lock: Option<Duration>,
}

impl Limits {
    /// For transactions that hold a bookmark or another lock that the processors need.
    ///
    /// A frozen processor loses its partitions when the session of its consumer group times out (`session.timeout.ms`,
    /// 10 s); their new owner waits for the locks of the bookmarks. By then the server has ended the frozen one's
    /// transaction. Between two statements, a healthy processor only sorts a batch, which takes milliseconds.
    ///
    /// A processor that is killed while its statement waits for a row that somebody else has locked would keep its
    /// bookmarks until it gets that row: the server does not hear of a client that is gone unless it looks.
    pub const SHORT: Limits =
        Limits { idle: Some(Duration::from_secs(8)), client_check: Some(Duration::from_secs(2)), lock: None };

    /// The same, with a bound on waiting for locks.
    pub const fn waiting_at_most(self, lock: Duration) -> Limits {
        Limits { lock: Some(lock), ..self }
    }

    /// `BEGIN`, with the limits of the transaction.
    fn statement(self) -> String {
        let mut sql = "BEGIN".to_owned();
        for (setting, limit) in [
            ("idle_in_transaction_session_timeout", self.idle),
            ("client_connection_check_interval", self.client_check),
            ("lock_timeout", self.lock),
        ] {
            if let Some(limit) = limit {
                // 0 would mean no limit.
                sql.push_str(&format!("; SET LOCAL {setting} = {}", limit.as_millis().max(1)));
            }
        }
        sql
    }
}

/// How long the outcome of a COMMIT without an answer is asked for: Postgres may be restarting.
const ASK_FOR: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whether a transaction is committed whose COMMIT got no answer. `ask` reads something that the transaction wrote, with a
/// lock on it: while the transaction is under way, it waits. `None` if there is no answer within [`ASK_FOR`].
pub(crate) async fn is_committed<F>(ask: impl Fn() -> F) -> Option<bool>
where
    F: Future<Output = Result<bool, sqlx::Error>>,
{
    let asked = async {
        loop {
            match ask().await {
                Ok(is_committed) => return is_committed,
                Err(error) => tracing::warn!(%error, "a COMMIT got no answer; asking again whether it was done"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::time::timeout(ASK_FOR, asked).await.ok()
}

/// How a transaction ended, as the metric names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    /// COMMIT failed, or the connection dropped before it was confirmed: it may have worked.
    CommitFailed,
    /// Rolled back, or dropped.
    RolledBack,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::CommitFailed => "commit_failed",
            Outcome::RolledBack => "rolled_back",
        }
    }
}

/// An open transaction. It is rolled back when it is dropped.
#[derive(Debug)]
pub struct Named<'c> {
    /// `None` once it has ended.
    transaction: Option<Transaction<'c, Postgres>>,
    name: &'static str,
    began: Instant,
}

/// Begins a transaction on a connection of the pool.
///
/// # Errors
/// If Postgres does not answer.
pub async fn begin(pool: &PgPool, name: &'static str, limits: Limits) -> Result<Named<'static>, sqlx::Error> {
    let transaction = pool.begin_with(AssertSqlSafe(limits.statement())).await?;
    Ok(Named { transaction: Some(transaction), name, began: Instant::now() })
}

/// Begins a transaction on a connection that is not in one.
///
/// # Errors
/// If Postgres does not answer.
pub async fn begin_on<'c>(
    connection: &'c mut PgConnection,
    name: &'static str,
    limits: Limits,
) -> Result<Named<'c>, sqlx::Error> {
    let transaction = connection.begin_with(AssertSqlSafe(limits.statement())).await?;
    Ok(Named { transaction: Some(transaction), name, began: Instant::now() })
}

impl Named<'_> {
    /// Commits.
    ///
    /// # Errors
    /// Any error of Postgres. If the connection drops, the transaction may have been committed anyway.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        let committed = transaction.commit().await;
        self.ended(if committed.is_ok() { Outcome::Committed } else { Outcome::CommitFailed });
        committed
    }

    /// Rolls back, and waits for the server, so that its locks are free.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        self.ended(Outcome::RolledBack);
        transaction.rollback().await
    }

    fn ended(&self, outcome: Outcome) {
        TRANSACTIONS.with_label_values(&[self.name, outcome.name()]).observe(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if self.transaction.is_some() {
            self.ended(Outcome::RolledBack);
        }
    }
}

impl Deref for Named<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.transaction.as_deref().expect("a transaction that has ended is consumed")
    }
}

impl DerefMut for Named<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.transaction.as_deref_mut().expect("a transaction that has ended is consumed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_begins_with_its_limits_in_one_round_trip() {
        let second = Duration::from_secs(1);
        let none = Limits::default();
        let cases = [
            (none, "BEGIN"),
            (
                Limits::SHORT,
                "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 8000; \
                 SET LOCAL client_connection_check_interval = 2000",
            ),
            (none.waiting_at_most(second), "BEGIN; SET LOCAL lock_timeout = 1000"),
            (none.waiting_at_most(Duration::ZERO), "BEGIN; SET LOCAL lock_timeout = 1"),
            (
                Limits::SHORT.waiting_at_most(2 * second),
                "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 8000; \
                 SET LOCAL client_connection_check_interval = 2000; SET LOCAL lock_timeout = 2000",
            ),
        ];
        for (limits, expected) in cases {
            assert_eq!(limits.statement(), expected);
        }
    }
}
