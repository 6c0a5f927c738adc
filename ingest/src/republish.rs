//! Finds the files that can be sent again: those in the ledger that S3 still has.
//!
//! Of hundreds of thousands of files, S3 may not answer about a few, however often it is asked; they count as there. The
//! listener finds out if one is gone, and leaves it as it was. It cannot if the file is sent as new, which forgets what
//! arrived before: then S3 has to answer about each.

use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use freshet_sinks::ledger::{self, Object, ObjectVersion, Selection, is_sendable};
use futures::stream::{self, StreamExt};
use sqlx::PgPool;

use crate::object::{ObjectReader, ReadError};

/// The most versions that S3 is asked about at once.
const HEADS_AT_ONCE: usize = 16;
/// How often S3 is asked about one version.
const TRIES_MAX: u32 = 4;
/// The pauses between these tries.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
/// If S3 does not answer about more versions than this, it is down.
const UNANSWERED_MAX: usize = 100;

/// What is known about the selected files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selected {
    /// They can be sent again.
    pub ready: Vec<Object>,
    /// S3 does not have these versions any more.
    pub gone: Vec<Object>,
    /// These are in progress, or were replaced before they were read.
    pub skipped: Vec<Object>,
    /// How many of `ready` S3 did not answer about.
    pub unanswered: usize,
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
/// If Postgres does not answer, S3 denies access, or it does not answer about more than [`UNANSWERED_MAX`] versions, about
/// any version at all, or about one that is to be sent as new.
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
        let exists = exists(reader, &candidate.version).await;
        (candidate, exists)
    });
    let mut looked_up = looked_up.buffered(HEADS_AT_ONCE);
    let unanswered_max = if selection.as_new { 0 } else { UNANSWERED_MAX };
    let (mut answered, mut unanswered) = (0, None);
    while let Some((candidate, exists)) = looked_up.next().await {
        answered += usize::from(exists.is_ok());
        match exists {
            Ok(true) => selected.ready.push(candidate),
            Ok(false) => selected.gone.push(candidate),
            Err(error @ ReadError::Transient { .. }) if selected.unanswered < unanswered_max => {
                tracing::warn!(%error, "S3 does not say whether it still has a file, which counts as there");
                selected.unanswered += 1;
                selected.ready.push(candidate);
                unanswered = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match unanswered {
        Some(error) if answered == 0 => Err(error.into()),
        _ => Ok(selected),
    }
}

/// Whether S3 still has a version, asked again where the store or the way to it failed.
async fn exists(reader: &ObjectReader, version: &ObjectVersion) -> Result<bool, ReadError> {
    for tried in 1..TRIES_MAX {
        match reader.exists(version).await {
            Err(ReadError::Transient { .. }) => tokio::time::sleep(PAUSES.after(tried)).await,
            answer => return answer,
        }
    }
    reader.exists(version).await
}
