//! The lock that keeps two processes from working on the replays of one domain.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};

use crate::{advisory, postgres};

/// Excludes others from the domain's replays until it is dropped, or the process dies.
#[derive(Debug)]
pub struct ReplayLock {
    _connection: PgConnection,
}

/// Postgres releases the lock of a process that has just ended within this time.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);
/// How often to check whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Takes the lock on a domain's replays; `None` while another process has it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn lock(pool: &PgPool, domain: &str) -> Result<Option<ReplayLock>, sqlx::Error> {
    // Not a connection of the pool: closing it, in whatever way, releases the lock.
    let mut connection = postgres::connect(&pool.connect_options()).await?;
    let began = Instant::now();
    loop {
        if sqlx::query_scalar(advisory::REPLAY).bind(domain).fetch_one(&mut connection).await? {
            return Ok(Some(ReplayLock { _connection: connection }));
        }
        if began.elapsed() > RELEASED_WITHIN {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
