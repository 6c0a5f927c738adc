//! Metrics of every role about its process and about the pipeline as a whole, in the default registry of the
//! `prometheus` crate. Metrics of the parts are in the `metrics.rs` of their crates.

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_prometheus::failure::strategy::NoOp;
use prometheus::{
    Gauge as PrometheusGauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, register_gauge, register_gauge_vec,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};
use sqlx::PgPool;

use crate::roles::Role;

const ONCE: &str = "a metric is declared once";

/// Declares gauges with their help text and labels.
macro_rules! gauges {
    ($($name:ident: $type:ty = $register:ident($($argument:expr),*);)*) => {
        $(pub(crate) static $name: LazyLock<$type> = LazyLock::new(|| $register!($($argument),*).expect(ONCE));)*
    };
}

// The state of the pipeline, as the survey last saw it.
gauges! {
    FILES: IntGaugeVec = register_int_gauge_vec(
        "freshet_files", "Versions of files in the ledger, by state.", &["domain", "state"]);
    OLDEST_UNFINISHED_FILE: GaugeVec = register_gauge_vec(
        "freshet_oldest_unfinished_file_seconds",
        "Age of the oldest file that is neither applied nor rejected nor superseded; 0 if there is none.", &["domain"]);
    NEWEST_APPLIED_FILE: GaugeVec = register_gauge_vec(
        "freshet_newest_applied_file_timestamp_seconds", "Last-modified of the newest file applied.", &["domain"]);
    ORPHAN_ROWS: IntGaugeVec = register_int_gauge_vec(
        "freshet_orphan_rows", "Rows that refer to unknown locations, counted up to 100,000.", &["domain"]);
    ORPHAN_LOCATIONS: IntGaugeVec = register_int_gauge_vec(
        "freshet_orphan_locations", "Unknown locations that rows refer to.", &["domain"]);
    FILE_INTERVAL: GaugeVec = register_gauge_vec(
        "freshet_file_interval_seconds", "Time without a new file after which the contract counts a file as missing.", &["domain"]);
    MOSTLY_REJECTED_FILES: IntGaugeVec = register_int_gauge_vec(
        "freshet_mostly_rejected_files",
        "Files applied within the last day, in their newest version, with more than half of their rows rejected.",
        &["domain"]);
    DATABASE_BYTES: IntGauge = register_int_gauge("freshet_database_bytes", "Size of the database on Postgres' disk.");
    BOOKMARK_OFFSET: IntGaugeVec = register_int_gauge_vec(
        "freshet_bookmark_offset", "Offset of the next record to apply.", &["domain", "partition"]);
    LOG_END_OFFSET: IntGaugeVec = register_int_gauge_vec(
        "freshet_log_end_offset", "Offset one past the last record in Kafka.", &["domain", "partition"]);
    LAG_MESSAGES: IntGaugeVec = register_int_gauge_vec(
        "freshet_lag_messages", "Messages between the bookmark and the end of the log.", &["domain", "partition"]);
    LAG_SECONDS: GaugeVec = register_gauge_vec(
        "freshet_lag_seconds", "Age of the oldest record that is not applied; 0 if there is none.", &["domain", "partition"]);
    HALTED_PARTITIONS: IntGaugeVec = register_int_gauge_vec(
        "freshet_halted_partitions", "Partitions that are halted: Postgres refuses their rows, or their topic is not as expected.", &["domain"]);
    UNMATCHED_OBJECTS: IntGauge = register_int_gauge(
        "freshet_unmatched_objects", "Objects of the raw bucket that belong to no domain, counted up to 1,000.");
    DIRTY_WINDOWS: IntGauge = register_int_gauge(
        "freshet_dirty_windows", "Ranges of dates and rows of dimensions that changed and are not yet published.");
    OLDEST_MARK: PrometheusGauge = register_gauge(
        "freshet_oldest_mark_seconds", "Age of the oldest change that is not yet published; 0 if there is none.");
    SURVEY_TIMESTAMP: PrometheusGauge = register_gauge(
        "freshet_survey_timestamp_seconds", "Unix time at which the state of the pipeline was last read completely.");
    SURVEY_FAILURES: IntCounterVec = register_int_counter_vec(
        "freshet_survey_failures_total", "Times the state of the pipeline could not be read.", &["what"]);
}

// The process.
gauges! {
    BUILD_INFO: IntGaugeVec = register_int_gauge_vec("freshet_build_info", "1; the version that runs.", &["version"]);
    ROLE_INFO: IntGaugeVec = register_int_gauge_vec(
        "freshet_role_info", "1 for each role that this process runs.", &["role", "domain"]);
    POOL_CONNECTIONS: IntGaugeVec = register_int_gauge_vec(
        "freshet_pool_connections", "Connections to Postgres that this process holds.", &["state"]);
    POOL_CONNECTIONS_MAX: IntGauge = register_int_gauge(
        "freshet_pool_connections_max", "Connections to Postgres that this process may hold.");
}

/// Makes the metrics of a process that runs `roles` appear, and lets arroyo count into the same registry.
pub(crate) fn declare(roles: &[Role]) {
    BUILD_INFO.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    for role in roles {
        let (role, domain) = role.labels();
        ROLE_INFO.with_label_values(&[role, domain]).set(1);
    }
    for what in ["postgres", "kafka"] {
        SURVEY_FAILURES.with_label_values(&[what]);
    }
    let arroyo = metrics_prometheus::Recorder::builder().with_failure_strategy(NoOp).build();
    // Several pipelines in one process, as in tests, share the recorder of the first.
    let _ = metrics::set_global_recorder(Underscored(arroyo));
}

/// Reads how many connections the pool holds.
pub(crate) fn observe_pool(pool: &PgPool) {
    let (all, idle) = (i64::from(pool.size()), i64::try_from(pool.num_idle()).unwrap_or(i64::MAX));
    POOL_CONNECTIONS.with_label_values(&["idle"]).set(idle);
    // The two are read one after the other.
    POOL_CONNECTIONS.with_label_values(&["used"]).set((all - idle).max(0));
    POOL_CONNECTIONS_MAX.set(i64::from(pool.options().get_max_connections()));
}

/// Gives metrics the names that Prometheus allows: arroyo's have dots.
struct Underscored<R>(R);

fn underscored(name: &str) -> String {
    name.replace('.', "_")
}

fn renamed(key: &Key) -> Key {
    Key::from_parts(underscored(key.name()), key.labels().cloned().collect::<Vec<_>>())
}

impl<R: Recorder> Recorder for Underscored<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(underscored(key.as_str()).into(), unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(underscored(key.as_str()).into(), unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(underscored(key.as_str()).into(), unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(&renamed(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(&renamed(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(&renamed(key), metadata)
    }
}
