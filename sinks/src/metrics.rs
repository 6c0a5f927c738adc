//! What every S3 client of freshet counts, in the default registry of the `prometheus` crate.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, register_int_counter_vec};

const ONCE: &str = "a metric is declared once";

/// By operation, as S3's API calls it, and outcome.
pub(crate) static S3_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("freshet_s3_requests_total", "Requests to S3, each attempt.", &["operation", "outcome"])
        .expect(ONCE)
});

static S3_THROTTLES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("freshet_s3_throttles_total", "Requests to S3 held back or refused.", &["by"])
        .expect(ONCE)
});

/// Who holds a request to S3 back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottledBy {
    /// `ingest.s3_requests_per_second`.
    Limit,
    /// S3 itself, which asks to slow down.
    Store,
}

/// Counts a request that was held back.
pub fn throttled(by: ThrottledBy) {
    let by = match by {
        ThrottledBy::Limit => "limit",
        ThrottledBy::Store => "store",
    };
    S3_THROTTLES.with_label_values(&[by]).inc();
}

/// Makes the metrics appear, at zero, before the first event.
pub(crate) fn declare() {
    for by in ["limit", "store"] {
        S3_THROTTLES.with_label_values(&[by]);
    }
}
