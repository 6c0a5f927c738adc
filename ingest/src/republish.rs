//! Finds the files that can be sent again: those in the ledger that S3 still has.

use freshet_sinks::ledger::{self, Object, Selection, is_sendable};
use futures::stream::{self, StreamExt};
use sqlx::PgPool;

use crate::object::{ObjectReader, ReadError};

/// The most versions that S3 is asked about at once.
const HEADS_AT_ONCE: usize = 16;

/// What is known about the selected files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selected {
    /// They can be sent again.
    pub ready: Vec<Object>,
    /// S3 does not have these versions any more.
    pub gone: Vec<Object>,
    /// These are in progress, or were replaced before they were read.
    pub skipped: Vec<Object>,
}

/// Why files cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// Postgres does not answer, or refuses.
    #[error("look the files up in the ledger: {0}")]
    Ledger(#[from] sqlx::Error),
    /// S3 does not answer, or refuses.
    #[error(transparent)]
    Object(#[from] ReadError),
}

/// Looks up the selected versions of `bucket` in the ledger, and asks S3 whether they still exist.
///
/// # Errors
/// If Postgres or S3 does not answer.
pub async fn select(
    pool: &PgPool,
    reader: &ObjectReader,
    bucket: &str,
    selection: &Selection,
) -> Result<Selected, SelectError> {
    let found = ledger::select(pool, bucket, selection).await?;
    let (sendable, skipped): (Vec<Object>, Vec<Object>) =
        found.into_iter().partition(|object| is_sendable(object, selection.as_new));
    let mut selected = Selected { skipped, ..Selected::default() };
    let looked_up = stream::iter(sendable).map(async |candidate: Object| {
        let exists = reader.exists(&candidate.version).await?;
        Ok::<_, ReadError>((candidate, exists))
    });
    let mut looked_up = looked_up.buffered(HEADS_AT_ONCE);
    while let Some(looked_up) = looked_up.next().await {
        let (candidate, exists) = looked_up?;
        if exists { &mut selected.ready } else { &mut selected.gone }.push(candidate);
    }
    Ok(selected)
}
