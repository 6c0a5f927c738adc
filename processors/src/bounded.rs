//! Work in Postgres of an assignment, which has to end: meanwhile the consumer serves neither its group nor the end of the
//! program.
//!
//! Keepalive ends a connection to a server that is gone, after a minute; a server that is there and does not answer can be
//! waited for without end. So whoever waits has a limit of its own. A transaction that is given up in its first moment would
//! stay open on a connection of the pool, and take in the statements of whoever gets that next: hence a connection that is
//! nobody else's.

use std::time::Duration;

use freshet_sinks::postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

/// To connect once. A pool tries for much longer, also where the server has said why it cannot.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Postgres has not answered in this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Postgres does not answer within {0:?}")]
pub(crate) struct Silent(pub(crate) Duration);

/// Connects once, which tells whether Postgres can be used.
///
/// # Errors
/// [`Silent`], and why there is no connection.
pub(crate) async fn look<E: From<Silent> + From<sqlx::Error>>(pool: &PgPool) -> Result<(), E> {
    let options = pool.connect_options();
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
        Ok(first) => first?.close().await?,
        Err(_) => return Err(Silent(CONNECT_TIMEOUT).into()),
    }
    Ok(())
}

/// Does `work` with one connection, to the database of `pool`, for `limit` at most.
///
/// # Errors
/// [`Silent`], and those of the work.
pub(crate) async fn bounded<T, E: From<Silent> + From<sqlx::Error>>(
    pool: &PgPool,
    limit: Duration,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, E>,
) -> Result<T, E> {
    look::<E>(pool).await?;
    let options = pool.connect_options().as_ref().clone();
    let own = postgres::pool_with(PgPoolOptions::new().max_connections(1), options);
    let done = tokio::time::timeout(limit, work(&own)).await;
    // It says good-bye, which a server that is gone does not hear.
    tokio::spawn(async move { own.close().await });
    done.unwrap_or_else(|_| Err(Silent(limit).into()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Instant;

    use super::*;

    type Told = Box<dyn std::error::Error + Send + Sync>;

    /// A server that takes connections and never says a word, and a pool of connections to it.
    fn silent() -> (TcpListener, PgPool) {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("postgres://freshet@{}/freshet", silent.local_addr().expect("an address"));
        (silent, PgPoolOptions::new().connect_lazy(&url).expect("a URL"))
    }

    #[tokio::test]
    async fn a_postgres_that_does_not_answer_is_given_up_long_before_the_pool_gives_up() {
        let (_silent, pool) = silent();
        let began = Instant::now();
        let done = bounded(&pool, Duration::from_secs(60), async |_: &PgPool| Ok::<(), Told>(())).await;
        let told = done.expect_err("no answer").downcast::<Silent>().expect("silence");
        assert_eq!(*told, Silent(CONNECT_TIMEOUT));
        assert!(began.elapsed() < 2 * CONNECT_TIMEOUT, "{:?}", began.elapsed());
    }
}
