//! What the publisher says about itself, in the default registry.

use std::sync::LazyLock;

use prometheus::{
    Gauge, Histogram, IntCounter, IntGauge, IntGaugeVec, exponential_buckets, histogram_opts, register_gauge,
    register_histogram, register_int_counter, register_int_gauge, register_int_gauge_vec,
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
        "freshet_publication_conflicts_total", "Publications begun again because another publisher was first");
    ERRORS: IntCounter = register_int_counter!(
        "freshet_publication_errors_total", "Publications that failed and are tried again");
    REFUSED: IntGauge = register_int_gauge!(
        "freshet_publication_refused", "1 while nothing is published because the tables are behind what was published");
    OUTDATED: IntGauge = register_int_gauge!(
        "freshet_publication_outdated", "1 while this program publishes nothing because a later one's outputs are published");
    DURATION: Histogram = register_histogram!(histogram_opts!(
        "freshet_publication_duration_seconds", "Time from reading the pointer to having swapped it",
        exponential_buckets(0.01, 2.0, 16).expect("buckets grow")));
    OUTPUT_FAILED: IntGaugeVec = register_int_gauge_vec!(
        "freshet_output_failed", "1 while the query of an output does not work and what is published of it is of an earlier state",
        &["output"]);
    DIRTY_WINDOWS: IntGauge = register_int_gauge!(
        "freshet_publication_dirty_windows", "Windows that the last publication found dirty");
    WINDOWS: IntCounter = register_int_counter!(
        "freshet_publication_windows_total", "Windows derived again, counted for each output");
    FILES: IntCounter = register_int_counter!(
        "freshet_publication_files_total", "Data files written");
    BYTES: IntCounter = register_int_counter!(
        "freshet_publication_bytes_total", "Bytes of data files written");
    VERSION: IntGauge = register_int_gauge!(
        "freshet_publication_version", "Version of the derived outputs that this publisher published or found last");
    TIMESTAMP: Gauge = register_gauge!(
        "freshet_publication_timestamp_seconds", "Unix time at which this publisher last found the outputs up to date");
    COPY_VERSION: IntGaugeVec = register_int_gauge_vec!(
        "freshet_stable_copy_version", "Version that the whole-file copies of an output were made from", &["output"]);
    COPY_DURATION: Histogram = register_histogram!(histogram_opts!(
        "freshet_stable_copy_duration_seconds", "Time to bring the whole-file copies up to date",
        exponential_buckets(0.01, 2.0, 16).expect("buckets grow")));
    MADE_AGAIN: IntCounter = register_int_counter!(
        "freshet_outputs_made_again_total", "Data files, copies and whole versions made again because they were deleted by hand");
    DELETED: IntCounter = register_int_counter!(
        "freshet_outputs_deleted_total", "Data files and manifests deleted because nothing names them any more");
}
