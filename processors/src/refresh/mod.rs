//! From Postgres to S3: the derived outputs follow the tables, window by window.
//!
//! This module promises that what is published is a function of one state of the tables, named by the bookmarks
//! in the manifest; that it is replaced as a whole and never goes back; and that only windows that changed are
//! derived again.
//!
//! One change's path through it: `apply` leaves a mark and notifies → [`run`] wakes, at a [`pace`] → a
//! [`snapshot`] reads marks and bookmarks → a [`pass`] over each dirty window derives its rows
//! ([`crate::derive`], [`aggregate`]) into files ([`format`]) → [`publish`] writes those that are new, the
//! manifest, and swaps the pointer, then forgets the marks → [`copies`] brings the whole-file copies after.
//!
//! Any number of publishers may run at once: one wins each swap, the others start again.

mod aggregate;
mod copies;
mod follow;
mod format;
mod metrics;
mod pace;
mod pass;
mod publish;
mod schema;
mod snapshot;

use std::time::Duration;

use chrono::{NaiveDate, Utc};
use freshet_sinks::outputs::{self, Client, OutputError, Store};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::Domain;
use serde::Deserialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use publish::Publisher;

pub use follow::run;
pub use format::FormatError;
pub use publish::{Outcome, Publication};

/// Settings of the section `metrics`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Under a steady stream of changes a version is published at most this often, in milliseconds, and at most
    /// every four times the last publication's duration; after quiet, at once.
    pub min_interval_ms: u64,
    /// How often to look for marks without being told, in milliseconds: the safety net of LISTEN/NOTIFY.
    pub look_interval_ms: u64,
    /// The whole-file copies are brought up to date at most this often, in milliseconds.
    pub stable_copy_interval_ms: u64,
    /// A window is final once the watermark is this many days past its end.
    pub allowed_lateness_days: u32,
    /// Files that no manifest of the last so many days names are deleted.
    pub keep_days: u32,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        MetricsSettings {
            min_interval_ms: 1_000,
            look_interval_ms: 5_000,
            stable_copy_interval_ms: 60_000,
            allowed_lateness_days: 7,
            keep_days: 7,
        }
    }
}

/// What the publisher works with.
#[derive(Debug, Clone)]
pub struct RefreshContext {
    /// The section `metrics`.
    pub settings: MetricsSettings,
    /// The tables.
    pub pool: PgPool,
    /// The store of the outputs.
    pub s3: Client,
    /// The bucket of the outputs.
    pub bucket: String,
    /// The registry of domains.
    pub domains: &'static [&'static Domain],
}

/// What keeps the outputs from following the tables.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Postgres did not do what was asked.
    #[error("{action}: {source}")]
    Postgres {
        /// What was asked.
        action: &'static str,
        /// Its answer.
        source: sqlx::Error,
    },
    /// S3 did not do what was asked, or is not fit for it.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The rows could not be made a file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Other publishers were faster again and again.
    #[error("publish: other publishers were first, many times in a row")]
    Conflicts,
    /// An upload panicked.
    #[error("upload a file: {0}")]
    Task(#[source] tokio::task::JoinError),
    /// The program is stopping.
    #[error("stopped")]
    Stopped,
}

impl RefreshError {
    /// Whether trying again is of no use until a person has done something.
    pub fn is_final(&self) -> bool {
        match self {
            RefreshError::Postgres { source, .. } => error_kind(source) == ErrorKind::Schema,
            RefreshError::Output(OutputError::Unfit { .. }) => true,
            _ => false,
        }
    }
}

/// Publishes what the marks ask for, once, today.
///
/// # Errors
/// If Postgres or S3 does not answer. What was not published stays marked.
pub async fn publish_once(context: &RefreshContext) -> Result<Publication, RefreshError> {
    publish_once_on(context, Utc::now().date_naive()).await
}

/// Publishes once, as if it were `processing_date`, which bounds the watermarks.
///
/// # Errors
/// If Postgres or S3 does not answer. What was not published stays marked.
pub async fn publish_once_on(
    context: &RefreshContext,
    processing_date: NaiveDate,
) -> Result<Publication, RefreshError> {
    Publisher::new(context.clone()).publish(processing_date, &CancellationToken::new()).await
}

/// Brings the whole-file copies up to what is published, once.
///
/// # Errors
/// If S3 does not answer.
pub async fn copy_once(context: &RefreshContext) -> Result<(), RefreshError> {
    let store = Store::new(context.s3.clone(), &context.bucket);
    while let Some(current) = store.current().await? {
        if copies::reconcile(&store, &current).await? {
            break;
        }
    }
    Ok(())
}

/// Deletes data files and manifests that no manifest of the last `keep_days` needs, once.
///
/// # Errors
/// If Postgres or S3 does not answer.
pub async fn collect_once(context: &RefreshContext) -> Result<outputs::Collected, RefreshError> {
    let failed = |source| RefreshError::Postgres { action: "lock publishers out", source };
    let keep = Duration::from_secs(u64::from(context.settings.keep_days) * 24 * 3_600);
    let mut collection = context.pool.begin().await.map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(snapshot::PUBLISHING_LOCK)
        .execute(&mut *collection)
        .await
        .map_err(failed)?;
    let collected = outputs::collect(&context.s3, &context.bucket, keep).await?;
    collection.rollback().await.map_err(failed)?;
    metrics::DELETED.inc_by((collected.files + collected.manifests) as u64);
    if collected != outputs::Collected::default() {
        tracing::info!(files = collected.files, manifests = collected.manifests, "deleted what nothing names");
    }
    Ok(collected)
}
