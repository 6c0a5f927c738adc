//! The processors: from Kafka to Postgres, and from Postgres to the derived outputs.
//!
//! [`run`] promises that every row of a domain's topic is applied exactly once, however often the process is killed:
//! consume → batch → judge → apply. The consumer starts at the bookmark in Postgres (`consumer`); records are gathered
//! (`batch`); their rows are checked against the rules, one batch at a time ([`freshet_topics::judge`]); batches are
//! applied in order by one writer, one transaction each, which moves the bookmark with the rows
//! ([`freshet_sinks::apply`]). `pipeline` connects the steps.
//!
//! [`replay`] applies rows of a topic again, [`lineage`] finds all rows of one key, [`changes`] what a file changed, and
//! [`refresh`] keeps the derived outputs up to date.

mod batch;
pub mod changes;
mod clock;
mod consumer;
pub mod decisions;
pub mod lineage;
mod metrics;
mod pipeline;
mod ranges;
mod record;
pub mod refresh;
pub mod replay;
mod settings;
mod start;
mod unreadable;
mod windows;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_sinks::backoff::Backoff;
use freshet_sinks::bookmarks;
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use sentry_arroyo::processing::{Callbacks, ConsumerState, RunError, StreamProcessor};
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::consumer::{BookmarkConsumer, Ownership, Source};
use crate::pipeline::Pipeline;
pub use crate::ranges::RangeError;
pub use crate::settings::{BATCH_ROWS_MAX, ProcessSettings};

/// What a processor needs.
#[derive(Clone)]
pub struct Context {
    /// The domain it processes.
    pub domain: &'static Domain,
    /// Batching.
    pub settings: ProcessSettings,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Postgres.
    pub pool: PgPool,
    /// A name for this process, for people who look at `pipeline.bookmarks`.
    pub owner: String,
}

/// How often the bookmarks are looked at, where no batch does it: `freshet bookmarks` and the swap of a shadow raise their
/// epochs, and a restore of Postgres sets them back.
const BOOKMARKS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Before a processor that failed joins its group again.
const REJOIN_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// After this long without failure the back-off starts again.
const REJOIN_BACKOFF_RESET: Duration = Duration::from_secs(60);
/// Processes one domain until `shutdown`: then drains what was read and leaves the group. Transient errors
/// never end it: it leaves the group and joins again with back-off. Several at once, in whatever processes,
/// share the partitions.
pub async fn run(context: Context, shutdown: CancellationToken) {
    metrics::declare(context.domain);
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let (run_context, run_shutdown, runtime) = (context.clone(), shutdown.clone(), Handle::current());
        // Arroyo's loop and librdkafka's calls block: they have a thread of their own.
        let ended = tokio::task::spawn_blocking(move || run_once(&run_context, &run_shutdown, runtime)).await;
        let error = match ended {
            Ok(Ok(())) if shutdown.is_cancelled() => return,
            Ok(Ok(())) => "its bookmarks were set by hand, adopted, or belong to a new table".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => panic.to_string(),
        };
        if begun.elapsed() > REJOIN_BACKOFF_RESET {
            failures = 0;
        }
        failures += 1;
        let wait = REJOIN_BACKOFF.after(failures);
        tracing::warn!(domain = context.domain.name, error, "processor stopped, joining again in {wait:?}");
        metrics::restarted(context.domain.name);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One membership of the group, from joining to leaving.
fn run_once(context: &Context, shutdown: &CancellationToken, runtime: Handle) -> Result<(), String> {
    let ownership = Arc::new(Ownership::default());
    let factory = Pipeline { context: context.clone(), ownership: Arc::clone(&ownership), runtime: runtime.clone() };
    let state = ConsumerState::new(Box::new(factory), None);
    let source = Source {
        domain: context.domain,
        kafka: context.kafka.clone(),
        pool: context.pool.clone(),
        runtime: runtime.clone(),
        owner: context.owner.clone(),
        ownership: Arc::clone(&ownership),
    };
    let consumer = BookmarkConsumer::join(source, Callbacks(state.clone())).map_err(|error| error.to_string())?;
    let mut processor = clock::unhurried(|| StreamProcessor::new(Box::new(consumer), state));
    let mut looked = Instant::now();
    while !shutdown.is_cancelled() {
        processor.run_once().map_err(|error| describe(&error))?;
        if looked.elapsed() > BOOKMARKS_LOOK_INTERVAL {
            looked = Instant::now();
            if runtime.block_on(were_taken(context, &ownership.left_at())) {
                return Ok(());
            }
        }
    }
    // Dropping the processor revokes the assignment, which drains and commits.
    Ok(())
}

/// An error with its causes: arroyo's own display names only the outermost.
fn describe(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether a bookmark of this owner has changed: another process has taken it, or Postgres went back in time. The next
/// batch would notice too, but an idle partition has none.
async fn were_taken(context: &Context, left_at: &BTreeMap<i32, (i64, Option<i64>)>) -> bool {
    if left_at.is_empty() {
        return false;
    }
    let found: Result<Vec<(i32, i64, i64, bool)>, sqlx::Error> = sqlx::query_as(
        "SELECT partition, next_offset, owner_epoch, halted IS NOT NULL FROM pipeline.bookmarks WHERE domain = $1",
    )
    .bind(context.domain.name)
    .fetch_all(&context.pool)
    .await;
    // An error proves nothing; the next batch or the next look will show.
    let Ok(found) = found else { return false };
    let found: BTreeMap<i32, (i64, i64, bool)> =
        found.into_iter().map(|(partition, at, epoch, is_halted)| (partition, (at, epoch, is_halted))).collect();
    left_at
        .iter()
        .any(|(partition, (epoch, applied))| !bookmarks::is_as_left(found.get(partition).copied(), *epoch, *applied))
}
