//! Settings of the section `process`.

use serde::Deserialize;

/// Batches of more rows would be gigabytes, which the places in a batch's text could not number
/// (`freshet_topics::columns`).
pub const BATCH_ROWS_MAX: usize = 1_000_000;

/// How rows are gathered into transactions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessSettings {
    /// A batch is applied when it holds this many rows for each writer, 1 to [`BATCH_ROWS_MAX`]; more of them make fewer,
    /// longer transactions. Each writer applies the rows of its own partitions in one transaction, so a transaction may be
    /// as large as the whole batch.
    pub batch_rows_max: usize,
    /// Age in milliseconds at which a batch is applied whatever its size: the price of latency.
    pub batch_age_ms_max: u64,
    /// Writers a domain, 1 to 16: each has a connection to Postgres, and writes its share of the partitions that this process
    /// was assigned. More than partitions do nothing.
    pub writers: usize,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        ProcessSettings { batch_rows_max: 5_000, batch_age_ms_max: 50, writers: 2 }
    }
}
