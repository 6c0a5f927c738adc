//! Follows the tables: when to publish, to copy and to delete, and what to do if a service does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use freshet_sinks::apply::marks::MARKS_CHANNEL;
use freshet_sinks::outputs::{self, Current, OutputError, Store};
use freshet_sinks::postgres;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::copies::Reconciled;
use super::load::{self, Load};
use super::pace::{COPIES_WAIT_MAX, Pace, measured, rests};
use super::publish::{Outcome, Publication, Publisher};
use super::retry::{BACKOFF, Retry, sleep, unless_stopping};
use super::{CODE_VERSION, RefreshContext, RefreshError, collect_once, copies, metrics, panicked, postgres};

/// Garbage is collected this long after the start, and then once an hour; while there is more than one collection
/// deletes, again after a minute or nine times what it took: a tenth of the time.
const COLLECT_FIRST: Duration = Duration::from_secs(60);
const COLLECT_INTERVAL: Duration = Duration::from_secs(3_600);
const COLLECT_AGAIN_MIN: Duration = Duration::from_secs(60);
const COLLECT_REST_FACTOR: u32 = 9;

/// How often to check whether a large load has ended, for which new whole-file copies wait: it would outdate them while
/// they are written.
const COPIES_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often to check meanwhile whether the pointer is still there, and once it is gone, whether it is back: one request,
/// if nothing was published since.
const LOST_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// If Postgres does not answer within this time, nobody loads anything.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether there are marks, or failed outputs that are to be tried again.
const LOOK_FOR_WORK: &str = "SELECT EXISTS (SELECT FROM pipeline.marks)
    OR EXISTS (SELECT FROM pipeline.output_failures WHERE NOT (now() >= retry_from AND now() < retry_at))";

/// Signals between the loops.
#[derive(Default)]
struct Signals {
    /// There are new marks.
    marks: Notify,
    /// A copy could not be made because something published is gone: verify now.
    verify: Notify,
    /// Something was restored: update the copies now.
    copy: Notify,
    /// Held during a publication.
    publishing: Mutex<()>,
}

/// Follows the tables until `shutdown`: publishes, copies, and deletes unneeded files.
///
/// Errors of services are logged and retried for ever, with back-off.
///
/// # Errors
/// If a retry cannot help: the store does not honour conditional writes, or the schema does not fit.
pub async fn run(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    metrics::declare();
    for output in context.outputs {
        metrics::declare_output(output.name);
    }
    let mut retry = Retry::new("probe the store");
    while !shutdown.is_cancelled() {
        let probe = async { Ok(outputs::probe(&context.s3, &context.bucket).await?) };
        let probed = unless_stopping(probe, &shutdown).await;
        if retry.value_or_wait(probed, &shutdown).await?.is_some() {
            break;
        }
    }
    let store = Store::new(context.s3.clone(), &context.bucket);
    let store = store.with_cache(context.settings.cache(&context.bucket));
    let signals = Arc::new(Signals::default());
    let listener = tokio::spawn(listen(context.pool.clone(), signals.clone()));
    let stop = shutdown.child_token();
    let mut loops = JoinSet::new();
    loops.spawn(publish_loop(context.clone(), store.clone(), signals.clone(), stop.clone()));
    loops.spawn(copy_loop(context.clone(), store, signals, stop.clone()));
    loops.spawn(collect_loop(context, stop.clone()));
    let mut result = Ok(());
    while let Some(ended) = loops.join_next().await {
        // The first one to end, for any reason, ends the others.
        stop.cancel();
        result = result.and(ended.map_err(panicked("follow the tables")).flatten());
    }
    listener.abort();
    result
}

/// Publishes whenever there are marks, once a day because the date has changed, and regularly to see whether anything
/// is gone.
async fn publish_loop(
    context: RefreshContext,
    store: Store,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
) -> Result<(), RefreshError> {
    let mut publisher = Publisher::new(context.clone(), store);
    let mut pace = Pace::new(Duration::from_millis(context.settings.min_interval_ms));
    let mut load = Load::new(&context.pool, context.domains);
    let mut retry = Retry::new("publish");
    let mut published_on = None;
    let mut said = None;
    // Ranges of dates that a dimension changed: how many are left, and how many the last publication took.
    let (mut left, mut taken) = (0, 0);
    while !shutdown.is_cancelled() {
        if published_on == Some(Utc::now().date_naive()) {
            if left == 0 {
                wait_for_work(&context, &signals, &mut publisher, &shutdown).await?;
            }
            if rests(left, taken) {
                rest(&pace, &signals.marks, &shutdown).await;
            }
        }
        let today = Utc::now().date_naive();
        let allowance = unless_stopping(async { Ok(load.allowance(&pace).await) }, &shutdown).await;
        let Ok(allowance) = allowance else { break };
        let published = {
            let _publishing = signals.publishing.lock().await;
            unless_stopping(publisher.publish(today, allowance, &shutdown), &shutdown).await
        };
        published_on = None;
        let Some(publication) = retry.value_or_wait(published, &shutdown).await? else { continue };
        if let Some(windows) = publication.put_off {
            until_allowed(windows, &mut load, &pace, &signals, &mut publisher, &shutdown).await;
            continue;
        }
        published_on = Some(today);
        (left, taken) = (publication.waiting, publication.taken);
        // One that derived nothing says nothing about how long others take.
        let worked = if publication.output_windows > 0 { publication.worked } else { Duration::ZERO };
        pace.ran(worked, Instant::now());
        load.budget.took(publication.output_windows, publication.worked);
        report(&publication, &mut said);
        if publication.mended {
            signals.copy.notify_one();
        }
    }
    Ok(())
}

/// Returns once this many windows may be derived, or a verification has ended: a lost version is restored at once.
async fn until_allowed(
    windows: usize,
    load: &mut Load,
    pace: &Pace,
    signals: &Signals,
    publisher: &mut Publisher,
    shutdown: &CancellationToken,
) {
    tokio::select! {
        () = load.until_allowed(windows, pace, shutdown) => {}
        () = signals.verify.notified() => publisher.verify_soon(),
        () = publisher.verified() => {}
    }
}

/// Returns once there may be marks, an output to try again, a new day, or something published that is gone.
async fn wait_for_work(
    context: &RefreshContext,
    signals: &Signals,
    publisher: &mut Publisher,
    shutdown: &CancellationToken,
) -> Result<(), RefreshError> {
    let mut retry = Retry::new("look for marks");
    let today = Utc::now().date_naive();
    while !shutdown.is_cancelled() && Utc::now().date_naive() == today {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = signals.marks.notified() => return Ok(()),
            () = signals.verify.notified() => {
                publisher.verify_soon();
                return Ok(());
            }
            () = publisher.verified() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(context.settings.look_interval_ms)) => {}
        }
        let any = async {
            let any = sqlx::query_scalar(LOOK_FOR_WORK).fetch_one(&context.pool).await;
            any.map_err(postgres("look for marks"))
        };
        let any = unless_stopping(any, shutdown).await;
        if retry.value_or_wait(any, shutdown).await? == Some(true) {
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

/// Counts and logs the result of a publication; a reason for not publishing is logged only when it changes.
fn report(publication: &Publication, said: &mut Option<Outcome>) {
    let Publication { outcome, version, windows, files, marks, duration, .. } = publication;
    metrics::VERSION.set(*version as i64);
    metrics::REFUSED.set(matches!(outcome, Outcome::Refused(_)).into());
    metrics::OUTDATED.set(matches!(outcome, Outcome::Outdated { .. } | Outcome::Superseded(_)).into());
    let keeps_from_publishing = match outcome {
        Outcome::Refused(_) | Outcome::Outdated { .. } | Outcome::Superseded(_) => Some(outcome.clone()),
        Outcome::Published | Outcome::Unchanged => None,
    };
    if *outcome == Outcome::Published {
        metrics::PUBLICATIONS.inc();
        metrics::DURATION.observe(duration.as_secs_f64());
        tracing::info!(version, windows, files, marks, duration_ms = duration.as_millis() as u64, "published");
    }
    if keeps_from_publishing.is_none() {
        metrics::TIMESTAMP.set(Utc::now().timestamp_millis() as f64 / 1_000.0);
    }
    if *said == keeps_from_publishing {
        return;
    }
    match &keeps_from_publishing {
        Some(Outcome::Refused(reason)) => tracing::error!(
            version,
            reason,
            "publish nothing: the tables are older than the published outputs. If Postgres was restored, run \
             `freshet restored`; otherwise check postgres.url"
        ),
        Some(Outcome::Outdated { published, own }) => tracing::error!(
            version,
            "publish nothing: the outputs were derived by code version {published}, and this program has {own}; run \
             the newer program, or, to go back to this one for good, stop the newer and delete metrics/current.json \
             and everything under metrics/manifests/"
        ),
        Some(Outcome::Superseded(reason)) => tracing::error!(version, reason, "publish nothing"),
        _ => tracing::info!(version, "publishing continues"),
    }
    *said = keeps_from_publishing;
}

/// Updates the whole-file copies after each version: at most once in each interval, for at most a tenth of the time or
/// with rests of [`COPIES_WAIT_MAX`], and not while something else needs the machine ([`until_quiet`]). Deleted copies are
/// found by the regular check, every `verify_interval_ms`.
async fn copy_loop(
    context: RefreshContext,
    store: Store,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
) -> Result<(), RefreshError> {
    let interval = Duration::from_millis(context.settings.stable_copy_interval_ms);
    let verify_interval = Duration::from_millis(context.settings.verify_interval_ms);
    let mut pace = Pace::of_copies(interval);
    let mut retry = Retry::new("write the whole-file copies");
    let mut known: Option<Known> = None;
    // What is gone is copied as soon as it is back, whatever else needs the machine.
    let (mut is_lost, mut is_restored) = (false, false);
    while !shutdown.is_cancelled() {
        let before = known.as_ref().map(|known| &known.current);
        let mut published = look(&store, before, &shutdown).await;
        if !is_restored
            && let Ok(Seen::Version(new)) = &published
            && before.is_none_or(|before| before.pointer != new.pointer)
        {
            until_quiet(&context, &signals, &store, new, &shutdown).await;
            published = look(&store, Some(new.as_ref()), &shutdown).await;
        }
        let (result, worked) = match published.map(|seen| step(seen, known.as_ref(), verify_interval, Instant::now())) {
            Ok(Step::Reconcile { current, is_known }) => {
                let work = async { Ok(copies::reconcile(&store, &current).await) };
                let reconciled = unless_stopping(work, &shutdown).await;
                let worked = reconciled.as_ref().map_or(Duration::ZERO, |reconciled| reconciled.worked);
                (reconciled.and_then(|reconciled| conclude(reconciled, current, is_known)), worked)
            }
            Ok(Step::Restore) => (Ok(Copied::Lost), Duration::ZERO),
            Ok(Step::Rest) => (Ok(Copied::Nothing), Duration::ZERO),
            Err(error) => (Err(error), Duration::ZERO),
        };
        pace.ran(worked, Instant::now());
        if let Err(RefreshError::Output(OutputError::Missing { .. } | OutputError::Damaged { .. })) = &result {
            signals.verify.notify_one();
        }
        match retry.value_or_wait(result, &shutdown).await? {
            Some(Copied::Whole(current)) => {
                if !worked.is_zero() {
                    metrics::COPY_DURATION.observe(worked.as_secs_f64());
                }
                known = Some(Known { current: *current, checked_at: Instant::now() });
                is_lost = false;
            }
            Some(Copied::Lost) => {
                signals.verify.notify_one();
                is_lost = true;
            }
            Some(Copied::Nothing) | None => {}
        }
        let rest = pace.rest(Instant::now());
        is_restored = tokio::select! {
            () = signals.copy.notified() => true,
            () = sleep(if is_lost { rest.min(LOST_LOOK_INTERVAL) } else { rest }, &shutdown) => is_lost,
        };
    }
    Ok(())
}

/// Returns once there is no large load and no publication of this process is running, or once the pointer is gone; after
/// [`COPIES_WAIT_MAX`] at the latest. A publication that begins later runs beside the copies.
async fn until_quiet(
    context: &RefreshContext,
    signals: &Signals,
    store: &Store,
    published: &Current,
    shutdown: &CancellationToken,
) {
    // Copies do not need Postgres.
    let is_busy = async || {
        let asked = tokio::time::timeout(LOOK_TIMEOUT, load::is_busy(&context.pool, context.domains)).await;
        matches!(asked, Ok(Ok(true)))
    };
    let quiet = async {
        loop {
            while is_busy().await {
                tokio::time::sleep(COPIES_LOOK_INTERVAL).await;
            }
            drop(signals.publishing.lock().await);
            if !is_busy().await {
                return;
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = until_lost(store, published) => {}
        _ = tokio::time::timeout(COPIES_WAIT_MAX, quiet) => {}
    }
}

/// Returns once the pointer is gone, or names another manifest than the known one and that is gone.
async fn until_lost(store: &Store, known: &Current) {
    loop {
        tokio::time::sleep(LOST_LOOK_INTERVAL).await;
        if let Ok(None) | Err(OutputError::Lost { .. }) = store.current_unless(Some(known)).await {
            return;
        }
    }
}

/// The version that all copies have.
struct Known {
    current: Current,
    /// When they were last compared with it.
    checked_at: Instant,
}

/// What is published.
enum Seen {
    /// A version.
    Version(Box<Current>),
    /// No pointer: nothing was ever published, or all of it was deleted.
    Nothing,
    /// A pointer to a manifest that is gone.
    Lost,
}

/// What to do about the copies.
enum Step {
    /// Bring them to this version, or, if it is the known one, see whether they are still there.
    Reconcile { current: Box<Current>, is_known: bool },
    /// Have published objects restored that are gone.
    Restore,
    /// Nothing.
    Rest,
}

/// The result of a look at the copies.
enum Copied {
    /// All of them have this version.
    Whole(Box<Current>),
    /// There was nothing to do, or not all of it could be done.
    Nothing,
    /// Published objects are gone.
    Lost,
}

/// What is published; the manifest of a known version is not read again.
async fn look(store: &Store, known: Option<&Current>, shutdown: &CancellationToken) -> Result<Seen, RefreshError> {
    let seen = async {
        match store.current_unless(known).await {
            Ok(Some(current)) => Ok(Seen::Version(Box::new(current))),
            Ok(None) => Ok(Seen::Nothing),
            Err(OutputError::Lost { .. }) => Ok(Seen::Lost),
            Err(error) => Err(RefreshError::from(error)),
        }
    };
    unless_stopping(seen, shutdown).await
}

/// What to do about the copies. Only a program that writes rows in the same way can combine the files of a version.
///
/// | published | written by | known | compared | step |
/// |---|---|---|---|---|
/// | nothing | | nothing | | rest |
/// | nothing | | a version: all of it was deleted | | restore |
/// | lost | | any | | restore |
/// | a version | another code version | any | | rest |
/// | a version | this code version | nothing, or another version | | reconcile |
/// | a version | this code version | the same | lately | rest |
/// | a version | this code version | the same | `verify_interval` ago, or more | reconcile |
fn step(seen: Seen, known: Option<&Known>, verify_interval: Duration, now: Instant) -> Step {
    let current = match (seen, known) {
        (Seen::Version(current), _) => current,
        (Seen::Nothing, None) => return Step::Rest,
        (Seen::Nothing, Some(_)) | (Seen::Lost, _) => return Step::Restore,
    };
    if current.manifest.code_version != CODE_VERSION {
        return Step::Rest;
    }
    let same = known.filter(|known| known.current.pointer == current.pointer);
    match same.map(|same| now.duration_since(same.checked_at)) {
        Some(age) if age < verify_interval => Step::Rest,
        age => Step::Reconcile { current, is_known: age.is_some() },
    }
}

/// Logs and counts copies of the known version that were made again.
fn conclude(reconciled: Reconciled, current: Box<Current>, is_known: bool) -> Result<Copied, RefreshError> {
    if let Some(first) = reconciled.absent.first().filter(|_| is_known) {
        let count = reconciled.absent.len();
        metrics::MADE_AGAIN.inc_by(count as u64);
        tracing::warn!(
            count,
            version = current.manifest.version,
            "whole-file copies were missing, {first} among them; they are restored"
        );
    }
    match (reconciled.failed, reconciled.again) {
        (Some(error), _) => Err(error),
        (None, true) => Ok(Copied::Nothing),
        (None, false) => Ok(Copied::Whole(current)),
    }
}

/// Deletes files that no recent manifest names, and temporary files of publishers that were killed.
async fn collect_loop(context: RefreshContext, shutdown: CancellationToken) -> Result<(), RefreshError> {
    let mut retry = Retry::new("delete unreferenced files");
    sleep(COLLECT_FIRST, &shutdown).await;
    while !shutdown.is_cancelled() {
        sweep_temporary_files();
        let (result, took) = measured(unless_stopping(collect_once(&context), &shutdown)).await;
        if let Some(collected) = retry.value_or_wait(result, &shutdown).await? {
            sleep(collect_rest(collected.is_cut, took), &shutdown).await;
        }
    }
    Ok(())
}

/// Deletes what a publisher that was killed has left in the folder of temporary files.
fn sweep_temporary_files() {
    match outputs::sweep_spools(&std::env::temp_dir()) {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "deleted temporary files of a publisher that was killed"),
        Err(error) => tracing::warn!(%error, "cannot look for temporary files of a publisher that was killed"),
    }
}

/// How long until the next collection.
///
/// | ended at a limit | took | rest |
/// |---|---|---|
/// | no | any | an hour |
/// | yes | 1 s | a minute |
/// | yes | 60 s | 9 minutes |
/// | yes | 20 minutes | an hour |
fn collect_rest(is_cut: bool, took: Duration) -> Duration {
    match is_cut {
        true => (took * COLLECT_REST_FACTOR).clamp(COLLECT_AGAIN_MIN, COLLECT_INTERVAL),
        false => COLLECT_INTERVAL,
    }
}

/// Listens for new marks, on its own connection.
async fn listen(pool: PgPool, signals: Arc<Signals>) {
    loop {
        if let Err(error) = hear(&pool, &signals.marks).await {
            tracing::debug!(%error, "listen for marks");
        }
        // Without LISTEN, the regular look finds the marks, later.
        tokio::time::sleep(BACKOFF.after(1)).await;
    }
}

async fn hear(pool: &PgPool, marks: &Notify) -> Result<(), sqlx::Error> {
    let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let own = postgres::pool_with(own, pool.connect_options().as_ref().clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen(MARKS_CHANNEL).await?;
    loop {
        // None: the connection was lost and is back; notifications may have been missed.
        listener.try_recv().await?;
        marks.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::{Manifest, Pointer};

    use super::*;

    fn version(version: u64, code_version: u32) -> Current {
        let pointer = Pointer { version, manifest: format!("{version}.json"), sha256: String::new() };
        let manifest = Manifest { version, code_version, ..Manifest::default() };
        Current { etag: String::new(), modified: 0, pointer, manifest }
    }

    #[test]
    fn copies_are_made_of_a_new_version_and_compared_with_the_known_one_from_time_to_time() {
        let (interval, now) = (Duration::from_secs(300), Instant::now());
        let seen = |number, code_version| Seen::Version(Box::new(version(number, code_version)));
        // Published, the known version and how long ago it was compared, the step.
        let cases = [
            (Seen::Nothing, None, "rest"),
            (Seen::Nothing, Some((7, 0)), "restore"),
            (Seen::Lost, None, "restore"),
            (Seen::Lost, Some((7, 0)), "restore"),
            (seen(7, CODE_VERSION + 1), None, "rest"),
            (seen(7, CODE_VERSION + 1), Some((6, 300)), "rest"),
            (seen(7, CODE_VERSION), None, "reconcile"),
            (seen(7, CODE_VERSION), Some((6, 0)), "reconcile"),
            (seen(7, CODE_VERSION), Some((7, 299)), "rest"),
            (seen(7, CODE_VERSION), Some((7, 300)), "reconcile the known one"),
        ];
        for (index, (seen, known, expected)) in cases.into_iter().enumerate() {
            let age = Duration::from_secs(known.map_or(0, |(_, age_s)| age_s));
            let known = known.map(|(number, _)| Known { current: version(number, CODE_VERSION), checked_at: now });
            let found = match step(seen, known.as_ref(), interval, now + age) {
                Step::Reconcile { is_known: false, .. } => "reconcile",
                Step::Reconcile { is_known: true, .. } => "reconcile the known one",
                Step::Restore => "restore",
                Step::Rest => "rest",
            };
            assert_eq!(found, expected, "case {index}");
        }
    }

    #[test]
    fn what_one_collection_leaves_does_not_wait_for_an_hour() {
        for (is_cut, took_s, rest_s) in [(false, 1, 3_600), (true, 1, 60), (true, 60, 540), (true, 1_200, 3_600)] {
            let rest = collect_rest(is_cut, Duration::from_secs(took_s));
            assert_eq!(rest, Duration::from_secs(rest_s), "{is_cut} {took_s}");
        }
    }
}
