//! How fast the listener may go: requests to S3 and rows to Kafka a second.

use std::num::NonZeroU32;

use freshet_sinks::metrics::{self, ThrottledBy};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::settings::IngestSettings;

/// Rows are paid for in batches of this size, so that the limit costs nothing per row.
const ROWS_PER_CHECK: u32 = 1_000;

/// Both limits. Shared by all tasks of a listener.
pub(crate) struct Limits {
    s3: DefaultDirectRateLimiter,
    rows: DefaultDirectRateLimiter,
    rows_per_check: NonZeroU32,
    clock: DefaultClock,
}

impl Limits {
    pub(crate) fn new(settings: &IngestSettings) -> Self {
        let per_second = |value: u32| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
        let rows = per_second(settings.rows_per_second);
        Limits {
            s3: RateLimiter::direct(Quota::per_second(per_second(settings.s3_requests_per_second))),
            rows: RateLimiter::direct(Quota::per_second(rows)),
            rows_per_check: rows.min(per_second(ROWS_PER_CHECK)),
            clock: DefaultClock::default(),
        }
    }

    /// Waits until one more request may go to S3.
    pub(crate) async fn s3_request(&self) {
        if self.s3.check().is_err() {
            metrics::throttled(ThrottledBy::Limit);
            self.s3.until_ready().await;
        }
    }

    /// How many rows [`rows`](Self::rows) pays for.
    pub(crate) fn rows_per_check(&self) -> u32 {
        self.rows_per_check.get()
    }

    /// Blocks until the next [`rows_per_check`](Self::rows_per_check) rows may go. Not for the async runtime.
    pub(crate) fn rows(&self) {
        // The batch never exceeds the burst, so the outer result is always Ok.
        while let Ok(Err(not_until)) = self.rows.check_n(self.rows_per_check) {
            std::thread::sleep(not_until.wait_time_from(self.clock.now()));
        }
    }
}
