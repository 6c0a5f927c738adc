//! `freshet status`: how far everything is.
//!
//! [`read`] asks Postgres, which knows what was found, published, applied and derived; what only Kafka and S3
//! know comes in as [`Outside`], so that a status can be read while they are away. [`render`] shows it,
//! [`wait`] returns once what has been dropped is through.

mod read;
mod render;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_sinks::ledger::ObjectState;
use freshet_sinks::outputs::{self, Manifest};
use serde::Serialize;

pub use read::read;
pub use render::render;
pub use wait::{Dropped, Waited, wait};

/// Options of `freshet status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// List the files too, newest first
    #[arg(long)]
    pub files: bool,
    /// Files listed at most
    #[arg(long, value_name = "N", default_value_t = 50, requires = "files", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub files_max: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Return once everything dropped so far is applied and published
    #[arg(long, conflicts_with = "files")]
    pub wait: bool,
    /// How long --wait waits at most, as 500ms, 60s, 5m or 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Longest wait: as good as for ever, and no clock overflows on it.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `500ms`, `60s`, `5m`, `1h 30m`; a bare number is seconds.
///
/// # Errors
/// If the text is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = seconds.or_else(|_| humantime::parse_duration(text));
    parsed.map(|duration| duration.min(TIMEOUT_MAX)).map_err(|_| "write a time as 500ms, 60s, 5m or 1h".into())
}

/// What Postgres cannot know.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Domain → partition → high watermark in Kafka. A domain that is not in it counts its lag from the ledger:
    /// what is published but not applied.
    pub high_watermarks: BTreeMap<String, BTreeMap<i32, i64>>,
    /// What S3 shows of the outputs; `None` where it was not asked or did not answer.
    pub outputs: Option<Outputs>,
}

/// The derived outputs as S3 shows them.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// The published version; `None` before the first.
    pub manifest: Option<Manifest>,
    /// Whole-file copies that are older than the manifest.
    pub copies_behind: Vec<String>,
}

impl Outputs {
    /// Asks the processed bucket.
    ///
    /// # Errors
    /// If S3 does not answer or holds something else under the names of the outputs.
    pub async fn read(client: &outputs::Client, bucket: &str) -> Result<Self> {
        let manifest = outputs::read_current(client, bucket).await.context("read the published version")?;
        let copies_behind = match &manifest {
            Some(manifest) => outputs::copies_behind(client, bucket, manifest).await.context("look at the copies")?,
            None => Vec::new(),
        };
        Ok(Outputs { manifest, copies_behind })
    }
}

/// How far everything is, at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Postgres' clock.
    pub at: DateTime<Utc>,
    /// One a domain, in the order of the registry.
    pub domains: Vec<DomainStatus>,
    pub outputs: OutputsStatus,
    /// The ledger's current life.
    pub life: LifeStatus,
    /// Rows in the topics that are not this ledger's; none in most pipelines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    /// The newest files, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// The life that the ledger is in: a new one begins where Postgres went back in time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, sqlx::FromRow)]
pub struct LifeStatus {
    /// 1, 2, 3, …
    pub number: i32,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// `made`, `restored` or `by hand`.
    pub why: String,
}

/// Rows that another ledger sent, or another life of this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PassedOver {
    pub rows: i64,
    /// Files that they are of.
    pub files: i64,
    /// Domains in whose topics they stand.
    pub domains: Vec<String>,
    /// When one was passed over last.
    pub last_seen: DateTime<Utc>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct DomainStatus {
    pub domain: &'static str,
    /// Files by state; a state without files is 0.
    pub files: BTreeMap<ObjectState, i64>,
    /// Rows by what became of them, each object at its newest reading.
    pub rows: Rows,
    pub partitions: Vec<PartitionStatus>,
    /// Messages between the bookmarks and the end.
    pub lag_rows: i64,
    /// Whether the end is Kafka's high watermark; else it is that of the published files.
    pub lag_is_kafkas: bool,
    /// Age of the newest file applied.
    pub freshness_seconds: Option<f64>,
    /// Age of the oldest file that is neither applied nor rejected nor superseded.
    pub oldest_unfinished_seconds: Option<f64>,
    /// Rows whose location is not known; none for locations themselves.
    pub orphans: Option<Orphans>,
    /// Partitions that a person must look at.
    pub halted: Vec<Halted>,
    /// The replay that has not ended, whether or not anybody works on it at present.
    pub replay: Option<ReplayStatus>,
}

/// A replay that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ReplayStatus {
    pub id: i64,
    /// `in_place` or `shadow`.
    pub kind: String,
    pub request: String,
    /// Who works on it, or did last.
    pub owner: String,
    pub began_at: DateTime<Utc>,
}

impl DomainStatus {
    /// Files that are not in a final state.
    pub fn unfinished(&self) -> i64 {
        self.files.iter().filter(|(state, _)| !state.is_final()).map(|(_, files)| files).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    pub partition: i32,
    /// The bookmark: the offset of the next record to apply.
    pub next_offset: i64,
    /// Records between the bookmark and the end.
    pub lag_rows: i64,
}

/// Rows by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// In the topic, as far as a listener knows.
    pub published: i64,
    /// Applied: inserted, or newer than what was there.
    pub applied: i64,
    /// Older than what was there.
    pub stale: i64,
    /// Received twice.
    pub duplicate: i64,
    /// Refused, each with a reason in `pipeline.rejects`.
    pub rejected: i64,
    /// Applied or stale rows with at least one value corrected.
    pub corrected: i64,
}

/// Facts whose location is not in the table of locations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Orphans {
    /// Rows, counted up to [`ORPHANS_COUNTED`].
    pub rows: i64,
    /// Whether there are more than that.
    pub more: bool,
    /// Locations that they name.
    pub locations: i64,
}

/// Orphans are counted up to here; the count must not cost more than the answer is worth.
pub const ORPHANS_COUNTED: i64 = 100_000;

/// A partition that a processor will not go on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Halted {
    pub partition: i32,
    /// Why, and what to do.
    pub reason: String,
}

/// How far the derived outputs are.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OutputsStatus {
    /// Ranges of dates and rows of dimensions that changed since the last publication.
    pub marks: i64,
    /// The distinct ones among them.
    pub dirty_windows: i64,
    /// Age of the oldest of them; none if there are none.
    pub oldest_mark_seconds: Option<f64>,
    /// The published version; `None` before the first, or if S3 was not asked.
    pub version: Option<u64>,
    /// Whole-file copies older than that version; `None` if S3 was not asked.
    pub copies_behind: Option<Vec<String>>,
}

/// A page of the ledger, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Files {
    pub files: Vec<FileStatus>,
    /// Files there are.
    pub total: i64,
}

/// One object version.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct FileStatus {
    /// `pipeline.objects.id`.
    pub id: i64,
    pub domain: String,
    pub key: String,
    /// Where it stands.
    pub state: ObjectState,
    /// Rows in the file, once they are known.
    pub rows: Option<i64>,
    /// Rows received by the processor.
    pub received: i64,
    pub rejected: i64,
    /// Why it is rejected, superseded or tried again.
    pub reason: Option<String>,
    /// When S3 says it was written.
    pub last_modified: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_people_write_them() {
        for (text, milliseconds) in
            [("500ms", 500), ("60s", 60_000), ("60", 60_000), ("5m", 300_000), ("1h", 3_600_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "60 x", "99999999999999999999s", "99999999999999999999"] {
            assert_eq!(parse_duration(text), Err("write a time as 500ms, 60s, 5m or 1h".to_owned()), "{text}");
        }
        assert_eq!(parse_duration("18446744073709551615"), Ok(TIMEOUT_MAX));
    }
}
