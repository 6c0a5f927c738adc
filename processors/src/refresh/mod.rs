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
mod format;
mod metrics;
mod pace;
mod pass;
mod publish;
mod schema;
mod snapshot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{NaiveDate, Utc};
use freshet_sinks::outputs::{self, Client, Current, OutputError, Store};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::Domain;
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use pace::Pace;
use publish::Publisher;

pub use format::FormatError;
pub use publish::{Outcome, Publication};

/// The channel on which `apply` says that there are new marks.
pub const MARKS_CHANNEL: &str = "freshet_marks";
/// Garbage is collected this long after the start, and then once an hour.
const COLLECT_FIRST: Duration = Duration::from_secs(60);
const COLLECT_INTERVAL: Duration = Duration::from_secs(3_600);
/// The wait after a failure doubles from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

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

/// How far the outputs are behind the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Changes that are applied and not published.
    pub marks: i64,
    /// The published version, if there is one.
    pub version: Option<u64>,
    /// Keys of whole-file copies that are older than what is published.
    pub copies_behind: Vec<String>,
}

impl Standing {
    /// Whether everything that was applied when this was asked is published, whole-file copies included.
    pub fn is_current(&self) -> bool {
        self.marks == 0 && self.version.is_some() && self.copies_behind.is_empty()
    }
}

/// Tells how far the outputs are behind the tables.
///
/// # Errors
/// If Postgres or S3 does not answer.
pub async fn standing(pool: &PgPool, s3: &Client, bucket: &str) -> Result<Standing, RefreshError> {
    // Marks first: they go after the version that they are published in has come.
    let marks = sqlx::query_scalar("SELECT count(*) FROM pipeline.marks")
        .fetch_one(pool)
        .await
        .map_err(|source| RefreshError::Postgres { action: "count the marks", source })?;
    let Some(manifest) = outputs::read_current(s3, bucket).await? else {
        return Ok(Standing { marks, version: None, copies_behind: Vec::new() });
    };
    let copies_behind = outputs::copies_behind(s3, bucket, &manifest).await?;
    Ok(Standing { marks, version: Some(manifest.version), copies_behind })
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

/// Follows the tables until `shutdown`: publishes, copies, and deletes what nobody needs.
///
/// Errors of the world are logged and tried again for ever, with back-off.
///
/// # Errors
/// If trying again is of no use: the store does not keep conditional writes, or the schema does not fit.
pub async fn run(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    let mut retry = Retry::new("probe the store");
    while !shutdown.is_cancelled() {
        let probed = outputs::probe(&context.s3, &context.bucket).await.map_err(RefreshError::from);
        if retry.settle(probed, &shutdown).await?.is_some() {
            break;
        }
    }
    let marks = Arc::new(Notify::new());
    let listener = tokio::spawn(listen(context.pool.clone(), marks.clone()));
    let stop = shutdown.child_token();
    let mut loops = JoinSet::new();
    loops.spawn(publish_loop(context.clone(), marks, stop.clone()));
    loops.spawn(copy_loop(context.clone(), stop.clone()));
    loops.spawn(collect_loop(context, stop.clone()));
    let mut result = Ok(());
    while let Some(ended) = loops.join_next().await {
        // The first to end, for whatever reason, ends the others; what they have begun is finished first.
        stop.cancel();
        result = result.and(ended.map_err(RefreshError::Task).flatten());
    }
    listener.abort();
    result
}

/// Publishes whenever there are marks, and once a day because a day has passed.
async fn publish_loop(
    context: RefreshContext,
    marks: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), RefreshError> {
    let mut publisher = Publisher::new(context.clone());
    let mut pace = Pace::new(Duration::from_millis(context.settings.min_interval_ms));
    let mut retry = Retry::new("publish");
    let mut published_on = None;
    let mut refused = None;
    while !shutdown.is_cancelled() {
        if published_on == Some(Utc::now().date_naive()) {
            wait_for_marks(&context, &marks, &shutdown).await?;
            rest(&pace, &marks, &shutdown).await;
        }
        let today = Utc::now().date_naive();
        let began = Instant::now();
        let published = publisher.publish(today, &shutdown).await;
        published_on = None;
        let Some(publication) = retry.settle(published, &shutdown).await? else { continue };
        published_on = Some(today);
        pace.ran(began, Instant::now());
        report(&publication, &mut refused);
    }
    Ok(())
}

/// Returns once there is reason to believe that there are marks, or that it is another day.
async fn wait_for_marks(
    context: &RefreshContext,
    marks: &Notify,
    shutdown: &CancellationToken,
) -> Result<(), RefreshError> {
    let mut retry = Retry::new("look for marks");
    let today = Utc::now().date_naive();
    while !shutdown.is_cancelled() && Utc::now().date_naive() == today {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = marks.notified() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(context.settings.look_interval_ms)) => {}
        }
        let any = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pipeline.marks)").fetch_one(&context.pool).await;
        let any = any.map_err(|source| RefreshError::Postgres { action: "look for marks", source });
        if retry.settle(any, shutdown).await? == Some(true) {
            return Ok(());
        }
    }
    Ok(())
}

/// Rests after the last run as long as marks keep coming.
async fn rest(pace: &Pace, marks: &Notify, shutdown: &CancellationToken) {
    loop {
        let rest = pace.rest(Instant::now());
        if rest.is_zero() {
            return;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(rest) => return,
            () = tokio::time::sleep(pace.quiet()) => return,
            () = marks.notified() => {}
        }
    }
}

fn report(publication: &Publication, refused: &mut Option<String>) {
    let Publication { outcome, version, windows, files, marks, duration } = publication;
    metrics::VERSION.set(*version as i64);
    let reason = match outcome {
        Outcome::Refused(reason) => Some(reason.clone()),
        Outcome::Unchanged => None,
        Outcome::Published => {
            metrics::PUBLICATIONS.inc();
            metrics::DURATION.observe(duration.as_secs_f64());
            tracing::info!(version, windows, files, marks, duration_ms = duration.as_millis() as u64, "published");
            None
        }
    };
    metrics::REFUSED.set(reason.is_some().into());
    if reason.is_none() {
        metrics::TIMESTAMP.set(Utc::now().timestamp_millis() as f64 / 1_000.0);
    }
    if *refused != reason {
        match &reason {
            Some(reason) => tracing::error!(
                version,
                reason,
                "publish nothing: the tables are behind what was published, as after a restore of the database; \
                 `freshet bookmarks adopt` begins a new epoch"
            ),
            None => tracing::info!(version, "publish again"),
        }
        *refused = reason;
    }
}

/// Brings the whole-file copies after each version.
async fn copy_loop(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    let store = Store::new(context.s3.clone(), &context.bucket);
    let mut pace = Pace::new(Duration::from_millis(context.settings.stable_copy_interval_ms));
    let mut retry = Retry::new("write the whole-file copies");
    let mut known = None;
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        let result = copy_new(&store, known.as_ref()).await;
        if let Some(Some(current)) = retry.settle(result, &shutdown).await? {
            metrics::COPY_DURATION.observe(began.elapsed().as_secs_f64());
            known = Some(current);
        }
        pace.ran(began, Instant::now());
        sleep(pace.rest(Instant::now()), &shutdown).await;
    }
    Ok(())
}

/// Brings the copies up to what is published, unless that is what they were brought up to last. What they are
/// brought up to, if all of them are.
async fn copy_new(store: &Store, copied: Option<&Current>) -> Result<Option<Current>, RefreshError> {
    let Some(current) = store.current_unless(copied).await? else { return Ok(None) };
    if copied.is_some_and(|copied| copied.pointer == current.pointer) {
        return Ok(None);
    }
    Ok(copies::reconcile(store, &current).await?.then_some(current))
}

/// Deletes what no recent manifest names, keeping publishers out meanwhile.
async fn collect_loop(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    let mut retry = Retry::new("delete what nothing names");
    sleep(COLLECT_FIRST, &shutdown).await;
    while !shutdown.is_cancelled() {
        if retry.settle(collect_once(&context).await, &shutdown).await?.is_some() {
            sleep(COLLECT_INTERVAL, &shutdown).await;
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

/// Hears of new marks, on a connection of its own.
async fn listen(pool: PgPool, marks: Arc<Notify>) {
    loop {
        if let Err(error) = hear(&pool, &marks).await {
            tracing::debug!(%error, "listen for marks");
        }
        // Without LISTEN the periodic look finds the marks, later.
        tokio::time::sleep(RETRY_MIN).await;
    }
}

async fn hear(pool: &PgPool, marks: &Notify) -> Result<(), sqlx::Error> {
    let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let own = own.connect_lazy_with(pool.connect_options().as_ref().clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen(MARKS_CHANNEL).await?;
    loop {
        // None: the connection was lost and is back; something may have been said meanwhile.
        listener.try_recv().await?;
        marks.notify_one();
    }
}

/// Trying again after errors of the world, with back-off.
///
/// What is tried is never cancelled half-way: only the waits are.
struct Retry {
    action: &'static str,
    wait: Duration,
}

impl Retry {
    fn new(action: &'static str) -> Self {
        Retry { action, wait: RETRY_MIN }
    }

    /// The value, if there is one; `None` after a wait, to try again unless the program is stopping; or an error
    /// that trying again does not mend.
    async fn settle<T>(
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

async fn sleep(duration: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(duration) => {}
    }
}
