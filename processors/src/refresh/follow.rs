//! Following the tables: when to publish, to copy and to delete, and what to do when the world does not answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use chrono::Utc;
use freshet_sinks::marks::MARKS_CHANNEL;
use freshet_sinks::outputs::{self, Current, Store};
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::publish::{Outcome, Publication, Publisher};
use super::{RefreshContext, RefreshError, collect_once, copies, metrics};

/// Garbage is collected this long after the start, and then once an hour.
const COLLECT_FIRST: Duration = Duration::from_secs(60);
const COLLECT_INTERVAL: Duration = Duration::from_secs(3_600);
/// The publisher counts as idle once it had nothing to do this long ago and now.
const SETTLE: Duration = Duration::from_millis(500);
/// The wait after a failure doubles from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Follows the tables until `shutdown`: publishes, copies, and deletes what nobody needs.
///
/// Errors of the world are logged and tried again for ever, with back-off.
///
/// # Errors
/// If trying again is of no use: the store does not keep conditional writes, or the schema does not fit.
pub async fn run(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    metrics::declare();
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
    let idle = Arc::new(AtomicBool::new(false));
    loops.spawn(publish_loop(context.clone(), marks, idle.clone(), stop.clone()));
    loops.spawn(copy_loop(context.clone(), idle, stop.clone()));
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
    idle: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> Result<(), RefreshError> {
    let mut publisher = Publisher::new(context.clone());
    let mut pace = Pace::new(Duration::from_millis(context.settings.min_interval_ms));
    let mut retry = Retry::new("publish");
    let mut published_on = None;
    let mut refused = None;
    while !shutdown.is_cancelled() {
        if published_on == Some(Utc::now().date_naive()) {
            idle.store(true, Relaxed);
            wait_for_marks(&context, &marks, &shutdown).await?;
            idle.store(false, Relaxed);
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
                 if it was restored, `freshet restored` lets the outputs go on (docs/restore.md)"
            ),
            None => tracing::info!(version, "publish again"),
        }
        *refused = reason;
    }
}

/// Brings the whole-file copies after each version: at most every interval, and as long as the publisher is at
/// work, at most every four times the last run's duration.
async fn copy_loop(
    context: RefreshContext,
    idle: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> Result<(), RefreshError> {
    let store = Store::new(context.s3.clone(), &context.bucket);
    let interval = Duration::from_millis(context.settings.stable_copy_interval_ms);
    let mut pace = Pace::new(interval);
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
        sleep(interval, &shutdown).await;
        while !pace.rest(Instant::now()).is_zero() && !shutdown.is_cancelled() {
            let was_idle = idle.load(Relaxed);
            sleep(SETTLE, &shutdown).await;
            if was_idle && idle.load(Relaxed) {
                break;
            }
        }
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
