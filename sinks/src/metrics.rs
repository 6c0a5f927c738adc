//! Metrics of every client of S3 and Postgres, in the default registry of the `prometheus` crate.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};

const ONCE: &str = "a metric is declared once";

/// By operation, as named in S3's API, and outcome.
pub(crate) static S3_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("freshet_s3_requests_total", "Requests to S3, each attempt.", &["operation", "outcome"])
        .expect(ONCE)
});

static S3_THROTTLES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("freshet_s3_throttles_total", "Requests to S3 that were delayed or refused.", &["by"])
        .expect(ONCE)
});

static CACHE_READS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Data files read for whole-file copies, from the disk cache or from S3.";
    register_int_counter_vec!("freshet_file_cache_reads_total", help, &["from"]).expect(ONCE)
});

/// By the transaction's name and outcome.
pub(crate) static TRANSACTIONS: LazyLock<HistogramVec> = LazyLock::new(|| {
    // From one round trip to a time that needs attention.
    let buckets = vec![0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];
    let help = "From BEGIN to the end of a transaction.";
    register_histogram_vec!("freshet_transactions_seconds", help, &["name", "outcome"], buckets).expect(ONCE)
});

/// What delays a request to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottledBy {
    /// `ingest.s3_requests_per_second`.
    Limit,
    /// S3 itself, which asks clients to slow down.
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

/// Counts a data file that was read: from this machine's disk, or else from S3.
pub(crate) fn read_file(is_kept: bool) {
    CACHE_READS.with_label_values(&[if is_kept { "disk" } else { "s3" }]).inc();
}

/// Makes the metrics appear, at zero, before the first event.
pub(crate) fn declare() {
    for by in ["limit", "store"] {
        S3_THROTTLES.with_label_values(&[by]);
    }
    for from in ["disk", "s3"] {
        CACHE_READS.with_label_values(&[from]);
    }
}
