//! Trying again after errors of the world, with back-off.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{RefreshError, metrics};

/// The wait after a failure doubles from the first to the second.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Back-off of one action.
///
/// What is tried is never cancelled half-way: only the waits are.
pub(super) struct Retry {
    action: &'static str,
    wait: Duration,
}

impl Retry {
    pub(super) fn new(action: &'static str) -> Self {
        Retry { action, wait: RETRY_MIN }
    }

    /// The value, if there is one; `None` after a wait, to try again unless the program is stopping; or an error
    /// that trying again does not mend.
    pub(super) async fn value_or_wait<T>(
        &mut self,
        result: Result<T, RefreshError>,
        shutdown: &CancellationToken,
    ) -> Result<Option<T>, RefreshError> {
        match result {
            Ok(value) => {
                self.wait = RETRY_MIN;
                return Ok(Some(value));
            }
            Err(RefreshError::Stopped) => return Ok(None),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                metrics::ERRORS.inc();
                tracing::warn!(%error, wait_ms = self.wait.as_millis() as u64, "{}; it is tried again", self.action);
            }
        }
        sleep(self.wait, shutdown).await;
        self.wait = (self.wait * 2).min(RETRY_MAX);
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
