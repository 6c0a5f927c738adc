//! Retries after transient errors, with back-off.

use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::{RefreshError, metrics};

/// The wait after a failure.
pub(super) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

/// How long current work may continue once the program is stopping.
const GRACE: Duration = Duration::from_secs(1);

/// Back-off of one action.
pub(super) struct Retry {
    action: &'static str,
    failures: u32,
}

impl Retry {
    pub(super) fn new(action: &'static str) -> Self {
        Retry { action, failures: 0 }
    }

    /// The value if there is one; `None` after a wait, to try again unless the program is stopping; or an error that a
    /// retry cannot solve.
    pub(super) async fn value_or_wait<T>(
        &mut self,
        result: Result<T, RefreshError>,
        shutdown: &CancellationToken,
    ) -> Result<Option<T>, RefreshError> {
        match result {
            Ok(value) => {
                self.failures = 0;
                return Ok(Some(value));
            }
            Err(RefreshError::Stopped) => return Ok(None),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                metrics::ERRORS.inc();
                self.failures += 1;
                let wait = BACKOFF.after(self.failures);
                tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot {}, trying again", self.action);
                sleep(wait, shutdown).await;
            }
        }
        Ok(None)
    }
}

/// Returns early on shutdown.
pub(super) async fn sleep(duration: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(duration) => {}
    }
}

/// Runs the future to its end, but for at most [`GRACE`] if the program is stopping: then it is abandoned, as if the
/// process had died, which loses nothing.
pub(super) async fn unless_stopping<T>(
    work: impl Future<Output = Result<T, RefreshError>>,
    shutdown: &CancellationToken,
) -> Result<T, RefreshError> {
    let stopping = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        ended = work => ended,
        () = stopping => Err(RefreshError::Stopped),
    }
}
