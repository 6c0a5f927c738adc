//! Reads the state of the pipeline, for the command, the page and the survey.
//!
//! [`read`] asks Postgres, which knows what was found, published, applied and derived; what only Kafka and S3
//! know comes in as [`Outside`], so that a status can be read while they are away ([`observe`] asks them). [`wait`]
//! returns once what has been dropped is through. The command `freshet status`, the status page, the survey and the
//! demonstration show what stands here, and read nothing of it another way.

pub(crate) mod arrival;
pub mod columns;
pub(crate) mod files;
pub(crate) mod locks;
pub mod observe;
pub(crate) mod personal;
pub(crate) mod quality;
mod read;
pub(crate) mod table_rows;
mod wait;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_sinks::event_queue::{EventQueueState, Reading};
use freshet_sinks::ledger::ObjectState;
use freshet_sinks::listings::Unlisted;
use freshet_sinks::output_state::OutputFailure;
use freshet_sinks::outputs::{self, Manifest};
use freshet_sinks::replay::Kind;
use freshet_sinks::unmatched::AllUnmatched;
use freshet_topics::log::Ends;
use serde::Serialize;

pub use columns::ColumnNote;
pub use files::{FileStatus, Files, Listed};
pub use locks::Blocked;
pub use read::read;
pub use wait::{Dropped, Waited, name_unmatched, wait};

/// Objects that belong to no domain and are named.
pub(crate) const UNMATCHED_NAMED: i64 = 10;

/// What Postgres cannot know.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Domain → partition → the ends of its log in Kafka. A domain that is not in it counts its lag from the ledger:
    /// what is published but not applied.
    pub log_ends: BTreeMap<String, BTreeMap<i32, Ends>>,
    /// Topics that Kafka says do not exist.
    pub missing_topics: Vec<MissingTopic>,
    /// What S3 shows of the outputs; `None` where it was not asked or did not answer.
    pub outputs: Option<Outputs>,
}

/// A topic that does not exist: it was never created, or was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingTopic {
    pub domain: &'static str,
    pub topic: String,
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
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// Postgres' clock.
    pub at: DateTime<Utc>,
    /// One a domain, in the order of the registry.
    pub domains: Vec<DomainStatus>,
    pub outputs: OutputsStatus,
    /// Waits for locks that other sessions hold, the longest first.
    pub blocked: Vec<Blocked>,
    /// Topics that do not exist: their domains' lag is counted from the ledger.
    pub missing_topics: Vec<MissingTopic>,
    /// The ledger's current life.
    pub life: LifeStatus,
    /// Rows in the topics that are not this ledger's; none in most pipelines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    /// Columns that files have and their domain does not, or that they lack and that have a default; the most frequent.
    pub columns: Vec<ColumnNote>,
    /// Objects of the raw bucket that belong to no domain.
    pub unmatched: AllUnmatched,
    /// The queue that the store tells through; none where none is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_queue: Option<QueueStatus>,
    /// Parts of the raw bucket that cannot be listed.
    pub unlisted: Vec<Unlisted>,
    /// The newest files, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// The queue that the store tells through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Whether it is read.
    pub reading: Reading,
    /// What its listeners know of it.
    #[serde(flatten)]
    pub state: EventQueueState,
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
    /// When the last one was skipped.
    pub last_seen: DateTime<Utc>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct DomainStatus {
    pub domain: &'static str,
    /// Files by state; a state without files is 0.
    pub files: BTreeMap<ObjectState, i64>,
    /// Rows by result, each object at its newest reading.
    pub rows: Rows,
    pub partitions: Vec<PartitionStatus>,
    /// Messages between the bookmarks and the end.
    pub lag_messages: i64,
    /// Whether the end is Kafka's high watermark; else it is that of the published files.
    pub lag_is_kafkas: bool,
    /// Age of the newest file applied.
    pub freshness_seconds: Option<f64>,
    /// Age of the oldest file that is neither applied nor rejected nor superseded.
    pub oldest_unfinished_seconds: Option<f64>,
    /// Files applied within the last day, in their newest version, with more than half of their rows rejected.
    pub mostly_rejected_files: i64,
    /// Rows that refer to a row of another domain which is not known (a location); none where they refer to none, and
    /// while the table is locked.
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
    /// Where it writes to.
    pub kind: Kind,
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
    /// Messages between the bookmark and the end. One may hold many rows.
    pub lag_messages: i64,
}

/// Rows by result.
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
    /// Changes made to values of applied or stale rows.
    pub corrected: i64,
}

/// Facts that refer to a row of another domain which is not in its table, as of a location.
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

/// A partition that its processor has halted.
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
    /// Outputs with a failing query; the others continue.
    pub failed: Vec<FailedOutput>,
}

/// An output with a failing query: its published files are out of date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedOutput {
    pub output: String,
    /// What is wrong with it.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl From<OutputFailure> for FailedOutput {
    fn from(OutputFailure { output, reason, since, .. }: OutputFailure) -> Self {
        FailedOutput { output, reason, since }
    }
}

impl std::fmt::Display for FailedOutput {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        let FailedOutput { output, reason, since } = self;
        let since = since.format("%Y-%m-%d %H:%M:%S UTC");
        write!(formatter, "output {output} has not been derived since {since}: {reason}")
    }
}
