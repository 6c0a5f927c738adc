//! Metrics of the listener, in the default registry of the `prometheus` crate.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register_int_counter_vec!(name, help, labels).expect("each metric is declared once")
}

fn gauges(name: &str, help: &str) -> IntGaugeVec {
    register_int_gauge_vec!(name, help, &["domain"]).expect("each metric is declared once")
}

/// From 1 ms to about 65 s, each bucket twice the size of the one before.
fn durations() -> Vec<f64> {
    exponential_buckets(0.001, 2.0, 17).expect("the bounds are positive")
}

macro_rules! by_domain {
    ($($(#[$doc:meta])* $static:ident = $name:literal, $help:literal;)*) => {
        $($(#[$doc])* pub(crate) static $static: LazyLock<IntCounterVec> =
            LazyLock::new(|| counters($name, $help, &["domain"]));)*

        /// Makes every metric appear, at zero, before the first event.
        pub(crate) fn declare(domains: &[&'static freshet_topics::Domain]) {
            for domain in domains {
                $($static.with_label_values(&[domain.name]);)*
                PUBLISH_DURATION.with_label_values(&[domain.name]);
                PAUSED_DOMAINS.with_label_values(&[domain.name]).set(0);
                LAG_ROWS.with_label_values(&[domain.name]).set(0);
                LOG_TRUNCATED_PARTITIONS.with_label_values(&[domain.name]).set(0);
                UNLISTED_PREFIXES.with_label_values(&[domain.name]).set(0);
                FRESHNESS.with_label_values(&[domain.name]);
                for column in domain.columns_with_a_default() {
                    ABSENT_DEFAULTS.with_label_values(&[domain.name, column.name]);
                }
            }
            LazyLock::force(&NOT_DATA_OBJECTS);
            LazyLock::force(&LISTING_DURATION);
            LazyLock::force(&CLAIMED_OBJECTS);
            for outcome in ["taken", "ignored", "dropped"] {
                HINTS.with_label_values(&[outcome]);
            }
        }
    };
}

by_domain! {
    OBJECTS_DISCOVERED = "freshet_objects_discovered_total", "Object versions registered in the ledger.";
    OBJECTS_PUBLISHED = "freshet_objects_published_total", "Object versions whose rows are all in Kafka.";
    OBJECTS_APPLIED = "freshet_objects_applied_total", "Object versions found applied by the sweep.";
    OBJECTS_REJECTED = "freshet_objects_rejected_total", "Files rejected before any of their rows was published.";
    OBJECTS_SUPERSEDED = "freshet_objects_superseded_total",
        "Object versions overwritten or deleted before they were read, or the same as the version before.";
    UNKNOWN_COLUMNS = "freshet_objects_unknown_columns_total",
        "Published files with columns that their domain does not have.";
    OBJECTS_REPAIRED = "freshet_objects_repaired_total",
        "Published objects with missing rows, which are published again.";
    OBJECT_FAILURES = "freshet_object_failures_total", "Attempts to publish an object that failed and are retried.";
    ROWS_PUBLISHED = "freshet_rows_published_total", "Rows acknowledged by Kafka, repeats included.";
    ROWS_OVERTAKEN = "freshet_rows_overtaken_total",
        "Rows of published files with the same key as a later row of the same file.";
    ROWS_REPLACED = "freshet_rows_replaced_total",
        "Rows removed from the table because the newer version of their file no longer has them.";
    LISTING_FAILURES = "freshet_listing_failures_total", "Listings of the raw bucket that failed completely or in part, and are retried.";
}

pub(crate) static PUBLISH_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "freshet_publish_duration_seconds",
        "From the claim of an object to all its rows acknowledged.",
        &["domain"],
        durations()
    )
    .expect("each metric is declared once")
});

/// The objective is seconds; a file that waited for a stopped role may take days.
pub(crate) static FRESHNESS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets =
        vec![0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0];
    register_histogram_vec!(
        "freshet_freshness_seconds",
        "From a file's last-modified to the commit of its last row.",
        &["domain"],
        buckets
    )
    .expect("each metric is declared once")
});

pub(crate) static LISTING_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!("freshet_listing_duration_seconds", "One listing of one domain's prefixes.", durations())
        .expect("each metric is declared once")
});

/// From one to a whole group.
pub(crate) static CLAIMED_OBJECTS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(1.0, 2.0, 8).expect("the bounds are positive");
    register_histogram!("freshet_claimed_objects", "Objects that a worker took at once: small ones in groups.", buckets)
        .expect("each metric is declared once")
});

pub(crate) static HINTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Keys announced by stores: taken, ignored (of no domain), dropped (too many waiting; the listing finds \
                them).";
    counters("freshet_hints_total", help, &["outcome"])
});

pub(crate) static ABSENT_DEFAULTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Published files without a column that has a default in the contract; all of their rows get the \
                default.";
    counters("freshet_objects_absent_default_total", help, &["domain", "column"])
});

pub(crate) static NOT_DATA_OBJECTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Objects under the prefixes of a domain that are skipped because their name matches a pattern of \
                ingest.not_data.";
    register_int_gauge_vec!("freshet_not_data_objects", help, &["domain", "pattern"])
        .expect("each metric is declared once")
});

pub(crate) static EVENT_MESSAGES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help =
        "Messages of the event queue: settled, other (nothing to do), left (comes again), unreadable (a dead letter).";
    counters("freshet_event_messages_total", help, &["outcome"])
});

pub(crate) static EVENT_QUEUE_FAILURES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "freshet_event_queue_failures_total",
        "Requests to the event queue that failed and are retried."
    )
    .expect("each metric is declared once")
});

pub(crate) static EVENT_QUEUE_READ: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "When the event queue last answered, in seconds since 1970; absent without an event queue.";
    register_int_gauge!("freshet_event_queue_read_timestamp_seconds", help).expect("each metric is declared once")
});

pub(crate) static PAUSED_DOMAINS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("freshet_paused_domains", "1 while nothing is published to the domain: lag limit, or topic unusable.")
});

pub(crate) static LAG_ROWS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("freshet_ingest_lag_rows", "Rows in the topic beyond the bookmarks, as last seen."));

pub(crate) static UNLISTED_PREFIXES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges(
        "freshet_unlisted_prefixes",
        "Prefixes of the domain that cannot be listed completely; everything else is found.",
    )
});

pub(crate) static LOG_TRUNCATED_PARTITIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Partitions in which Kafka lost acknowledged records, found within the last hour.";
    gauges("freshet_log_truncated_partitions", help)
});
