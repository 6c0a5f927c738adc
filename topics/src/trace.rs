//! The stages of a file, reported to the collector of traces.
//!
//! A file passes through several processes that know of each other only through Kafka and Postgres. Each reports its
//! own stages with the object's id; the id alone connects them, so no trace context has to be passed along. Stages are
//! `tracing` events under [`TARGET`], which cost nothing without a subscriber.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The target of the events. Their fields: `object`, `stage`, `began_us` and `ended_us` (microseconds since 1970), and
/// what [`Detail`] has.
pub const TARGET: &str = "freshet::trace";

/// The root span: from a file's last-modified time until it is applied, rejected or superseded.
pub const FILE: &str = "file";

/// Further attributes of a stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Detail<'a> {
    /// The domain.
    pub domain: Option<&'a str>,
    /// The object's key.
    pub key: Option<&'a str>,
    /// How it ended, if there is more than one way.
    pub outcome: Option<&'a str>,
    /// Rows it was about.
    pub rows: Option<i64>,
    /// The partition.
    pub partition: Option<i64>,
    /// The version of the outputs.
    pub version: Option<i64>,
}

/// Whether there is a subscriber; if not, attributes need not be gathered.
pub fn enabled() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// Reports that `object` has just completed a stage that began at `began`.
pub fn passed(object: i64, stage: &'static str, began: SystemTime, detail: Detail<'_>) {
    let Detail { domain, key, outcome, rows, partition, version } = detail;
    let (began_us, ended_us) = (micros(began), micros(SystemTime::now()));
    tracing::event!(
        target: TARGET, tracing::Level::INFO,
        object, stage, began_us, ended_us, domain, key, outcome, rows, partition, version
    );
}

/// Microseconds since 1970; times before that count as 1970.
fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
