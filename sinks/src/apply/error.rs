//! Why a batch did not apply.

use crate::postgres::{ErrorKind, error_kind};

/// Why a batch did not apply. Nothing of it did.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The bookmarks of these partitions are not where this owner left them: it must leave them alone.
    #[error("partitions {0:?} belong to another owner, or their bookmarks were set by hand")]
    Lost(Vec<i32>),
    /// Postgres refuses more rows than a few bad ones would explain.
    #[error(
        "the database refuses {refused} of {rows} rows, the last because of {reason}: \
         check constraints and triggers of the table"
    )]
    TooManyRefused {
        /// Rows refused.
        refused: usize,
        /// Rows looked at.
        rows: usize,
        /// What Postgres said of the last one.
        reason: String,
    },
    /// The schema is not what this version needs, or a permission is missing.
    #[error("the schema or a permission is wrong (run `freshet setup`): {0}")]
    Schema(sqlx::Error),
    /// Not the batch's fault (a lost connection, a lock, a restart): the same batch can be applied again.
    #[error("apply a batch: {0}")]
    Transient(sqlx::Error),
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        match error_kind(&error) {
            // Outside the upsert no row is to blame: the pipeline's own tables refuse, and will refuse again.
            ErrorKind::Schema | ErrorKind::Row => ApplyError::Schema(error),
            ErrorKind::Transient => ApplyError::Transient(error),
        }
    }
}

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By COPY, in the hope that every key is new; anything else fails the attempt.
    Copy,
    /// One statement; a refused row fails the attempt.
    Fast,
    /// Savepoints and halving; refused rows are taken out.
    Careful,
}

/// Why an attempt failed.
pub(crate) enum Failure {
    /// Postgres refuses a row, or a row is not new: to be tried again in the next mode.
    Row,
    /// For good.
    Final(ApplyError),
}

impl<E: Into<ApplyError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Final(error.into())
    }
}
