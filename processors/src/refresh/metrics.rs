//! Metrics of the publisher, in the default registry.

use std::sync::LazyLock;

use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
    histogram_opts, register_gauge, register_histogram, register_histogram_vec, register_int_counter,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

const ONCE: &str = "a metric is declared once";

/// Declares the metrics of this file, and a function that makes them all appear.
macro_rules! metrics {
    ($($name:ident: $type:ty = $register:expr;)*) => {
        $(pub(super) static $name: LazyLock<$type> = LazyLock::new(|| $register.expect(ONCE));)*

        /// Makes every metric appear, at zero, before the first event.
        pub(super) fn declare() {
            $(LazyLock::force(&$name);)*
        }
    };
}

metrics! {
    PUBLICATIONS: IntCounter = register_int_counter!(
        "freshet_publications_total", "Versions of the derived outputs published");
    CONFLICTS: IntCounter = register_int_counter!(
        "freshet_publication_conflicts_total", "Publications restarted because another publisher was first");
    ERRORS: IntCounter = register_int_counter!(
        "freshet_publication_errors_total", "Publications that failed and are retried");
    REFUSED: IntGauge = register_int_gauge!(
        "freshet_publication_refused", "1 while nothing is published because the tables are older than the published outputs");
    OUTDATED: IntGauge = register_int_gauge!(
        "freshet_publication_outdated", "1 while this program publishes nothing because a newer program has published, or \
         its outputs have since been set up with other definitions");
    DURATION: Histogram = register_histogram!(histogram_opts!(
        "freshet_publication_duration_seconds", "Time from reading the pointer to swapping it",
        exponential_buckets(0.01, 2.0, 16).expect("buckets grow")));
    OUTPUT_FAILED: IntGaugeVec = register_int_gauge_vec!(
        "freshet_output_failed", "1 while the query of an output fails and its published state is out of date",
        &["output"]);
    DIRTY_WINDOWS: IntGauge = register_int_gauge!(
        "freshet_publication_dirty_windows", "Windows that the last publication found dirty");
    WINDOWS: IntCounterVec = register_int_counter_vec!(
        "freshet_publication_windows_total", "Windows of an output derived again", &["output"]);
    ROWS: IntCounterVec = register_int_counter_vec!(
        "freshet_publication_rows_total", "Rows of the windows that were derived again", &["output"]);
    WINDOW_DURATION: HistogramVec = register_histogram_vec!(histogram_opts!(
        "freshet_publication_window_seconds", "Time to read a window's rows from Postgres and write them to files",
        exponential_buckets(0.001, 4.0, 9).expect("buckets grow")), &["output"]);
    FILES: IntCounterVec = register_int_counter_vec!(
        "freshet_publication_files_total", "Data files written: each is a request to S3", &["output"]);
    BYTES: IntCounterVec = register_int_counter_vec!(
        "freshet_publication_bytes_total", "Bytes of data files written", &["output"]);
    VERSION: IntGauge = register_int_gauge!(
        "freshet_publication_version", "Version of the outputs that this publisher last published or found");
    TIMESTAMP: Gauge = register_gauge!(
        "freshet_publication_timestamp_seconds", "Unix time at which this publisher last found the outputs up to date");
    COPY_VERSION: IntGaugeVec = register_int_gauge_vec!(
        "freshet_stable_copy_version", "Version of the outputs that the whole-file copies of an output have", &["output"]);
    COPY_BYTES: IntCounterVec = register_int_counter_vec!(
        "freshet_stable_copy_bytes_total", "Bytes of whole-file copies written", &["output"]);
    COPY_DURATION: Histogram = register_histogram!(histogram_opts!(
        "freshet_stable_copy_duration_seconds", "Time to bring the whole-file copies up to date",
        exponential_buckets(0.01, 2.0, 16).expect("buckets grow")));
    MADE_AGAIN: IntCounter = register_int_counter!(
        "freshet_outputs_made_again_total", "Data files, copies and whole versions restored because they were deleted by hand");
    DELETED: IntCounter = register_int_counter!(
        "freshet_outputs_deleted_total", "Data files no longer needed, and old or thinned manifests, that were deleted");
}

/// Makes the metrics of an output appear, at zero.
pub(super) fn declare_output(output: &str) {
    OUTPUT_FAILED.with_label_values(&[output]).set(0);
    for counter in [&WINDOWS, &ROWS, &FILES, &BYTES, &COPY_BYTES] {
        counter.with_label_values(&[output]);
    }
    WINDOW_DURATION.with_label_values(&[output]);
}
