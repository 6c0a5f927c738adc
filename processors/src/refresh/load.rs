//! Whether a large amount of data is being loaded: then publications use only a small share of the machine.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::pace::{Allowance, Budget, Pace};

/// From this many bytes on, files that are not applied yet count as a heavy load: some ten thousand rows, a second's
/// work. Less is a trickle, which should be visible immediately.
const MUCH_BYTES: i64 = 4 * 1024 * 1024;
/// The most files added up.
const FILES_MAX: i64 = 10_000;
/// If more windows are dirty than may be derived yet, how often to check whether they may.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Data that nobody works on does not count: a file that waits for a retry, a halted domain, an interrupted replay. A file
/// with a lease is being published, although it waits in case the lease ends.
const IS_MUCH: &str = "SELECT coalesce(sum(o.size_bytes), 0) >= $1
        OR EXISTS (SELECT FROM pipeline.replays WHERE ended_at IS NULL AND updated_at > now() - interval '10 seconds')
    FROM (
        (SELECT domain, size_bytes FROM pipeline.objects
         WHERE state IN ('discovered', 'publishing')
            AND ((now() >= lease_from AND now() < lease_until)
                OR (now() >= wait_from AND now() < next_attempt_at) IS NOT TRUE)
         LIMIT $2)
        UNION ALL
        (SELECT domain, size_bytes FROM pipeline.objects WHERE state = 'published' LIMIT $2)
    ) AS o
    WHERE NOT EXISTS (SELECT FROM pipeline.bookmarks AS b WHERE b.domain = o.domain AND b.halted IS NOT NULL)";

/// Whether a large amount of data is being loaded, or windows are still to be derived because a dimension changed.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn is_busy(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let is_dimension = "SELECT EXISTS (SELECT FROM pipeline.marks WHERE dimension IS NOT NULL)";
    Ok(is_much(pool).await? || sqlx::query_scalar(is_dimension).fetch_one(pool).await?)
}

async fn is_much(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_MUCH).bind(MUCH_BYTES).bind(FILES_MAX).fetch_one(pool).await
}

/// The load, and the share that publications may use meanwhile.
pub(super) struct Load {
    pool: PgPool,
    pub(super) budget: Budget,
}

impl Load {
    pub(super) fn new(pool: &PgPool) -> Self {
        Load { pool: pool.clone(), budget: Budget::new() }
    }

    /// What the next publication may derive.
    pub(super) async fn allowance(&mut self, pace: &Pace) -> Allowance {
        let is_much = is_much(&self.pool).await;
        // The publication uses the same Postgres, and reports its errors.
        let now = Instant::now();
        self.budget.load(is_much.unwrap_or(false), now);
        self.budget.allowance(pace, now)
    }

    /// Returns once this many windows may be derived, or on shutdown.
    pub(super) async fn until_allowed(&mut self, windows: usize, pace: &Pace, shutdown: &CancellationToken) {
        let allowed = async {
            while self.allowance(pace).await.windows_max < windows {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        shutdown.run_until_cancelled(allowed).await;
    }
}
