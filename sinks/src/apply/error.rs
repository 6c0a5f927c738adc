//! Why a batch did not apply.

use std::time::Duration;

use crate::postgres::{ErrorKind, error_kind};

/// Why a batch was not applied. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The bookmarks of these partitions are not where this owner left them: it no longer owns them.
    #[error("partitions {0:?} belong to another owner, or their bookmarks were set by hand")]
    Lost(Vec<i32>),
    /// Postgres refuses more rows than a few bad ones could explain.
    #[error(
        "the database refuses {refused} of {rows} rows, the last because of {reason}: \
         look for a constraint or trigger on the table that the contract does not expect"
    )]
    TooManyRefused {
        /// Rows refused.
        refused: usize,
        /// Rows tried.
        rows: usize,
        /// Postgres' error for the last one.
        reason: String,
    },
    /// The schema is not what this version needs, or a permission is missing.
    #[error("the schema or a permission is wrong (run `freshet setup` with the pipeline that is to run): {0}")]
    Schema(#[source] sqlx::Error),
    /// Not caused by the batch (a lost connection, a lock, a restart): the same batch can be applied again.
    #[error("apply a batch: {0}")]
    Transient(#[source] sqlx::Error),
    /// Its transaction has taken this long, and was given up.
    #[error(
        "a transaction was given up after {0:?}: either another session holds a lock that it waits for \
         (pg_blocking_pids), or Postgres does not answer"
    )]
    TooLong(Duration),
}

/// An attempt, for `limit` at most: a server that went away without a word answers no more. If it is given up, its
/// connection, with whatever transaction is open on it, is to be thrown away; the bookmark tells whether it had committed.
///
/// # Errors
/// [`ApplyError::TooLong`], and those of the attempt.
pub async fn within<T>(limit: Duration, attempt: impl Future<Output = Result<T, ApplyError>>) -> Result<T, ApplyError> {
    tokio::time::timeout(limit, attempt).await.unwrap_or(Err(ApplyError::TooLong(limit)))
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        match error_kind(&error) {
            // Outside the upsert no row is to blame: one of the pipeline's own tables refuses, and will refuse again.
            ErrorKind::Schema | ErrorKind::Row => ApplyError::Schema(error),
            ErrorKind::Transient => ApplyError::Transient(error),
        }
    }
}

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By COPY, assuming that every key is new; any error fails the attempt.
    Copy,
    /// In a replay in place: rows of the same lineage are changed where they are, the others as in [`Mode::Fast`].
    Update,
    /// One statement; a refused row fails the attempt.
    Fast,
    /// With savepoints and halving; refused rows are left out.
    Careful,
}

impl Mode {
    /// How to write the batch if this way failed because of a row; the last way leaves such rows out.
    pub(crate) fn next(self) -> Option<Mode> {
        match self {
            Mode::Copy | Mode::Update => Some(Mode::Fast),
            Mode::Fast => Some(Mode::Careful),
            Mode::Careful => None,
        }
    }
}

/// Why an attempt failed.
pub(crate) enum Failure {
    /// Postgres refuses a row, or a row is not new: try again in the next mode.
    Row,
    /// Not to be tried again.
    Final(ApplyError),
}

impl Failure {
    /// That of a statement that writes rows of the batch.
    pub(crate) fn of_writing(error: sqlx::Error) -> Failure {
        match error_kind(&error) {
            ErrorKind::Row => Failure::Row,
            _ => Failure::Final(error.into()),
        }
    }
}

impl<E: Into<ApplyError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Final(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transaction_that_takes_too_long_is_not_told_as_a_pool_without_connections() {
        let silent = within(Duration::from_millis(10), std::future::pending::<Result<(), ApplyError>>()).await;
        let told = silent.expect_err("no answer").to_string();
        assert!(told.starts_with("a transaction was given up after 10ms") && told.contains("lock"), "{told}");
        within(Duration::from_secs(60), async { Ok(()) }).await.expect("an answer");
    }
}
