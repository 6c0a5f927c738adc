//! From Postgres to S3: the derived outputs follow the tables, window by window.
//!
//! This module guarantees that the published version is a function of one state of the tables, named by the bookmarks
//! in the manifest; that it is replaced as a whole and never goes back; and that only changed windows are derived
//! again.
//!
//! The path of one change: `apply` leaves a mark and notifies → [`run`] wakes, at a [`pace`] → a [`snapshot`] reads
//! marks and bookmarks → a [`derivation`] runs the [`query`] of each output for each of its dirty windows, several at
//! once ([`readers`]), and their rows become files ([`mod@format`]) → [`publish`] writes the new files and the
//! manifest, swaps the pointer, then deletes the marks → [`copies`] updates the whole-file copies.
//!
//! An output with a failing query stops alone: its published files stay, and it is tried again at growing intervals;
//! when it works again, all its windows are derived.
//!
//! Any number of publishers may run at once: one wins each swap, the others start again. None waits for another, nor
//! for the garbage collection. Files deleted by hand are found by periodic checks ([`verification`]) and restored
//! ([`basis`]).

mod basis;
mod behind;
pub mod check;
mod copies;
mod derivation;
mod follow;
mod format;
mod kind;
mod load;
mod metrics;
mod pace;
mod parquet_file;
mod publish;
mod query;
mod readers;
mod retry;
mod snapshot;
mod uploads;
mod verification;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{NaiveDate, Utc};
use freshet_sinks::outputs::{self, Client, FileCache, OutputError, Store};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::Domain;
use freshet_topics::pipeline::output::Output;
use freshet_topics::settings::at_least_one;
use serde::Deserialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use pace::Allowance;
use publish::Publisher;

pub use behind::{CODE_VERSION, TableState, goes_on, why_behind};
pub use follow::run;
pub use format::FormatError;
pub use publish::{Outcome, Publication};

/// The folder of cached data files, in the system's folder of temporary files.
const CACHE_FOLDER: &str = "freshet-outputs";

/// Settings of the section `metrics`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Under a steady stream of changes a version is published at most this often, in milliseconds, and after a rest of
    /// four times what the middle one of the last three publications took; after a quiet period, immediately.
    pub min_interval_ms: u64,
    /// How often to look for marks without a notification, in milliseconds: the safety net of LISTEN/NOTIFY.
    pub look_interval_ms: u64,
    /// The whole-file copies are brought up to date at most this often, in milliseconds.
    pub stable_copy_interval_ms: u64,
    /// How often to check whether outputs were deleted by hand, in milliseconds: a listing of the data files and one
    /// request for each copy.
    pub verify_interval_ms: u64,
    /// A window is final once the watermark is this many days past its end.
    pub allowed_lateness_days: u32,
    /// Files that no manifest of the last this many days names are deleted.
    pub keep_days: u32,
    /// How long the query of an output may take for one window, in seconds, including sending its rows; a longer one
    /// stops that output.
    pub query_timeout_s: u64,
    /// The disk space for data files published from here, in MiB, so that the whole-file copies are composed without
    /// reading them back from S3; 0 keeps none.
    pub cache_mib: u64,
    /// The folder of these files; empty: one in the system's folder of temporary files.
    pub cache_dir: PathBuf,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        MetricsSettings {
            min_interval_ms: 1_000,
            look_interval_ms: 5_000,
            stable_copy_interval_ms: 60_000,
            verify_interval_ms: 300_000,
            allowed_lateness_days: 7,
            keep_days: 7,
            query_timeout_s: 60,
            cache_mib: 1_024,
            cache_dir: PathBuf::new(),
        }
    }
}

impl MetricsSettings {
    /// The first setting that cannot work, and why.
    ///
    /// # Errors
    /// One clear line for the person who wrote it.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("look_interval_ms", self.look_interval_ms),
            ("verify_interval_ms", self.verify_interval_ms),
            ("keep_days", self.keep_days.into()),
            ("query_timeout_s", self.query_timeout_s),
        ];
        at_least_one("metrics", &positive)
    }

    /// How long outputs are kept after the last version that named them.
    fn keep(&self) -> Duration {
        Duration::from_secs(u64::from(self.keep_days) * 24 * 3_600)
    }

    /// How long the query of an output may take for one window.
    fn query_timeout(&self) -> Duration {
        Duration::from_secs(self.query_timeout_s)
    }

    /// The cache of a bucket's files on this machine's disk; `None` if it is turned off or cannot be opened.
    fn cache(&self, bucket: &str) -> Option<FileCache> {
        if self.cache_mib == 0 {
            return None;
        }
        let folder = match self.cache_dir.as_os_str().is_empty() {
            true => std::env::temp_dir().join(CACHE_FOLDER),
            false => self.cache_dir.clone(),
        };
        let folder = folder.join(bucket);
        match FileCache::open(&folder, self.cache_mib.saturating_mul(1024 * 1024)) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(
                    %error,
                    folder = %folder.display(),
                    "cannot cache data files on disk (metrics.cache_dir): whole-file copies are read from S3"
                );
                None
            }
        }
    }
}

/// What the publisher needs.
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
    /// The domains.
    pub domains: &'static [&'static Domain],
    /// The outputs.
    pub outputs: &'static [&'static Output],
}

/// Errors that stop the outputs from following the tables.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// A request to Postgres failed.
    #[error("{action}: {source}")]
    Postgres {
        /// The attempted action.
        action: &'static str,
        /// Postgres' error.
        source: sqlx::Error,
    },
    /// A request to S3 failed, or the store is not suitable.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The rows could not be written as a file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Other publishers were first, again and again.
    #[error("publish: other publishers were first many times in a row")]
    Conflicts,
    /// The publication took so long that files it relies on may have been deleted.
    #[error(
        "publish: it took {took:?}, more than the limit of {limit:?}; the process was frozen, or metrics.keep_days is \
         too low for this many rows"
    )]
    Overlong {
        /// How long it took.
        took: Duration,
        /// How long it may take.
        limit: Duration,
    },
    /// Something failed for one output, window or copy.
    #[error("{which}: {error}")]
    In {
        /// What was done with it.
        which: String,
        /// What failed.
        #[source]
        error: Box<RefreshError>,
    },
    /// A task panicked.
    #[error("{action}: {source}")]
    Task {
        /// What it did.
        action: &'static str,
        /// How it ended.
        source: tokio::task::JoinError,
    },
    /// The program is stopping.
    #[error("stopped")]
    Stopped,
}

/// For `map_err`: an error of Postgres while doing `action`.
fn postgres(action: &'static str) -> impl Fn(sqlx::Error) -> RefreshError {
    move |source| RefreshError::Postgres { action, source }
}

/// For `map_err`: a task panicked while doing `action`.
fn panicked(action: &'static str) -> impl Fn(tokio::task::JoinError) -> RefreshError {
    move |source| RefreshError::Task { action, source }
}

impl RefreshError {
    /// Whether a retry cannot help until an operator has done something.
    pub fn is_final(&self) -> bool {
        match self {
            RefreshError::Postgres { source, .. } => error_kind(source) == ErrorKind::Schema,
            RefreshError::Output(OutputError::Unfit { .. }) => true,
            RefreshError::In { error, .. } => error.is_final(),
            _ => false,
        }
    }

    /// The same error, with what was done with which output, window or copy.
    fn in_which(self, which: String) -> RefreshError {
        match self {
            RefreshError::Stopped => RefreshError::Stopped,
            error => RefreshError::In { which, error: Box::new(error) },
        }
    }
}

/// Publishes the marked changes once, with today's date.
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
    let store = Store::new(context.s3.clone(), &context.bucket);
    Publisher::new(context.clone(), store).publish(processing_date, Allowance::ALL, &CancellationToken::new()).await
}

/// Deletes data files and manifests that no manifest of the last `keep_days` needs, once.
///
/// # Errors
/// If S3 does not answer.
pub async fn collect_once(context: &RefreshContext) -> Result<outputs::Collected, RefreshError> {
    let store = Store::new(context.s3.clone(), &context.bucket);
    let collected = outputs::collect(&store, context.settings.keep(), CODE_VERSION).await?;
    metrics::DELETED.inc_by((collected.files + collected.manifests) as u64);
    if collected.files + collected.manifests > 0 {
        tracing::info!(files = collected.files, manifests = collected.manifests, "deleted unreferenced files");
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_with_what_the_task_did() {
        let ended = tokio::spawn(async { assert_eq!(1, 2, "a bug") }).await;
        let error = ended.map_err(panicked("follow the tables")).expect_err("it panicked");
        assert!(error.to_string().starts_with("follow the tables: task "), "{error}");
        assert!(!error.is_final());
    }
}
