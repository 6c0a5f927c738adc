//! The processors: from Kafka to Postgres, and from Postgres to the derived outputs.
//!
//! [`run`] promises that every row of a domain's topic is applied exactly once, however often the process is killed:
//! consume → batch → judge → apply. The consumer starts at the bookmark in Postgres (`consumer`); records are gathered
//! (`batch`); their rows are checked against the rules, one batch at a time ([`freshet_topics::judge`]); the batches of a
//! partition are applied in order by one writer, one transaction each, which moves the bookmark with the rows
//! ([`freshet_sinks::apply`]). `pipeline` connects the steps, and `membership` keeps them going.
//!
//! [`replay`] applies rows of a topic again, [`lineage`] finds all rows of one key, [`changes`] what a file changed, and
//! [`refresh`] keeps the derived outputs up to date.

mod batch;
mod bounded;
pub mod changes;
mod clock;
mod consumer;
pub mod decisions;
pub mod lineage;
mod membership;
mod metrics;
mod pipeline;
mod ranges;
mod record;
pub mod refresh;
pub mod replay;
mod settings;
mod start;
mod steps;
mod unreadable;
mod windows;
mod writer;

use std::time::{Duration, Instant};

use freshet_sinks::backoff::Backoff;
use freshet_sinks::postgres::explain;
use freshet_topics::Domain;
use freshet_topics::kafka::KafkaSettings;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::bounded::{Silent, look};
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

/// Before a processor that failed joins its group again, and between its looks whether Postgres can be used.
const REJOIN_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// After this long without failure the back-off starts again.
const REJOIN_BACKOFF_RESET: Duration = Duration::from_secs(60);

/// Processes one domain until `shutdown`: then applies what its steps have taken, for as long as a drain may last, and leaves
/// the group. What is not applied by then is read again by whoever gets the partitions. Transient errors never end it: it
/// leaves the group and joins again with back-off, once Postgres can be used. Several at once, in whatever processes, share
/// the partitions.
pub async fn run(context: Context, shutdown: CancellationToken) {
    metrics::declare(context.domain);
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let (run_context, run_shutdown, runtime) = (context.clone(), shutdown.clone(), Handle::current());
        // The loop and librdkafka's calls block: they have a thread of their own.
        let ended = tokio::task::spawn_blocking(move || membership::run(&run_context, &run_shutdown, runtime)).await;
        let error = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if begun.elapsed() > REJOIN_BACKOFF_RESET {
            failures = 0;
        }
        failures += 1;
        let wait = REJOIN_BACKOFF.after(failures);
        tracing::warn!(domain = context.domain.name, error, "processor stopped, joining again in {wait:?}");
        metrics::restarted(context.domain.name);
        let rest = async {
            tokio::time::sleep(wait).await;
            until_usable(&context).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = rest => {}
        }
    }
}

/// Why Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Silent(#[from] Silent),
    #[error("{}", explain(.0))]
    Refused(#[from] sqlx::Error),
}

/// Waits until Postgres can be used. All members of a group stop for a moment whenever one joins or leaves: a processor that
/// could only join, fail to take its bookmarks and leave stays away.
async fn until_usable(context: &Context) {
    let domain = context.domain.name;
    let mut failures = 0;
    while let Err(error) = look::<Unusable>(&context.pool).await {
        if failures == 0 {
            tracing::warn!(domain, %error, "Postgres cannot be used: the processor stays out of its group until it can");
        }
        failures += 1;
        tokio::time::sleep(REJOIN_BACKOFF.after(failures)).await;
    }
    if failures > 0 {
        tracing::info!(domain, "Postgres can be reached again");
    }
}
