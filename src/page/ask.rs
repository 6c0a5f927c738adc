//! Queries that a user starts by a click: a few at once; further ones are refused with a request to try again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures::future::BoxFuture;
use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::roles::Services;

/// Questions at once. Each holds a connection to Postgres, or some megabytes of a file.
const PLACES: usize = 4;
/// For a place, and for a connection.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// What ends a statement at the server.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '5s'";

/// Why there is no answer, for people.
pub(super) type Refused = (StatusCode, String);

/// Whoever answers questions.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) services: Arc<Services>,
    /// What a shell sources for addresses and keys.
    pub(super) env_file: Arc<Path>,
    places: Arc<Semaphore>,
}

impl Asked {
    pub(super) fn new(services: &Services, env_file: &Path) -> Asked {
        let places = Arc::new(Semaphore::new(PLACES));
        Asked { services: Arc::new(services.clone()), env_file: env_file.into(), places }
    }

    /// A place among those who ask, given back when it is dropped.
    ///
    /// # Errors
    /// 503 while too many ask.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        match timeout(WAIT_MAX, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => {
                Err((StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: try again\n".to_owned()))
            }
        }
    }

    /// Asks Postgres, in a transaction of its own, which runs to its end even if nobody waits any more.
    ///
    /// # Errors
    /// 502 if Postgres does not answer, or not in time; 503 while too many ask.
    pub(super) async fn postgres<T, Q>(&self, question: Q) -> Result<T, Refused>
    where
        T: Send + 'static,
        Q: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let place = self.place().await?;
        let pool = self.services.pool.clone();
        let asked = tokio::spawn(async move {
            let _place = place;
            let mut transaction = pool.begin().await?;
            sqlx::query(STATEMENT_TIMEOUT).execute(&mut *transaction).await?;
            let answer = question(&mut transaction).await?;
            transaction.commit().await?;
            Ok::<T, sqlx::Error>(answer)
        });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(away(format!("Postgres: {}", freshet_sinks::postgres::explain(&error)))),
            Err(error) => Err(away(error.to_string())),
        }
    }
}

/// A service has not given what was asked of it.
pub(super) fn away(reason: String) -> Refused {
    (StatusCode::BAD_GATEWAY, format!("{reason}\n"))
}

/// There is no such thing.
pub(super) fn absent(what: &str) -> Refused {
    (StatusCode::NOT_FOUND, format!("{what}\n"))
}
