//! Sessions of Postgres: those that wait for one another, and one that counts for itself.

use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};

use super::World;
use super::world::TRUE_WITHIN;

/// The process of a session.
pub(crate) async fn pid_of(session: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(session).await.expect("a pid")
}

/// A pool of one session, which says itself when what it counted is told (`pg_stat_force_next_flush()`).
pub(crate) async fn one_session(of: &PgPool) -> PgPool {
    let options = of.connect_options().as_ref().clone();
    PgPoolOptions::new().max_connections(1).connect_with(options).await.expect("connect")
}

impl World {
    /// Waits until a session waits for a lock of the session `holder`, or is next after it in the queue for one, and
    /// returns its process; bounded. Not any session that waits for any lock: listener, publisher and other domains
    /// wait for moments, too.
    pub(crate) async fn until_one_waits_for(&self, what: &str, holder: i32) -> i32 {
        self.until_so_many_wait_for(what, holder, 1, "%").await[0]
    }

    /// The same for at least so many sessions, whose statement matches this pattern of `LIKE`.
    pub(crate) async fn until_so_many_wait_for(
        &self,
        what: &str,
        holder: i32,
        sessions: usize,
        statement: &str,
    ) -> Vec<i32> {
        let waiting = "SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid)) AND query LIKE $2 ORDER BY pid";
        let started = Instant::now();
        loop {
            let query = sqlx::query_scalar(waiting).bind(holder).bind(statement);
            let found: Vec<i32> = query.fetch_all(&self.services.pool).await.expect("the sessions");
            if found.len() >= sessions {
                return found;
            }
            assert!(
                started.elapsed() < TRUE_WITHIN,
                "{}: not within {TRUE_WITHIN:?}: {what}: {} of {sessions} wait for session {holder}\n{:#?}",
                self.name(),
                found.len(),
                self.objects().await
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}
