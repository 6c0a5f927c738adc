//! An object version as stored in the ledger.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::reason::Reason;
use super::state::ObjectState;

/// The permanent identity of one version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, sqlx::FromRow)]
pub struct ObjectVersion {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version id, if the bucket keeps versions. A listing has none.
    pub version_id: Option<String>,
    /// As given by the server, including quotes.
    pub etag: String,
    /// Size as stored, in bytes.
    pub size_bytes: i64,
    /// Rounded down to the second, which is HEAD's precision.
    pub last_modified: DateTime<Utc>,
}

impl fmt::Display for ObjectVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s3://{}/{}", self.bucket, on_one_line(&self.key))?;
        match &self.version_id {
            Some(version_id) => write!(formatter, " version {version_id}"),
            None => write!(formatter, " etag {}", self.etag),
        }
    }
}

/// A key as shown to people, with control characters escaped: S3 allows them in keys, but they should not reach a log
/// or a terminal.
pub fn on_one_line(key: &str) -> Cow<'_, str> {
    if !key.contains(char::is_control) {
        return Cow::Borrowed(key);
    }
    let visible = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    Cow::Owned(key.chars().map(visible).collect())
}

/// A row of `pipeline.objects` without its times: those stay in Postgres and are compared by its clock only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, sqlx::FromRow)]
pub struct Object {
    /// Its number.
    pub id: i64,
    /// Distinguishes it from an object with the same id in another life of the ledger ([`crate::lives`]).
    pub nonce: Uuid,
    /// The key and which version of it.
    #[sqlx(flatten)]
    pub version: ObjectVersion,
    /// Domain name.
    pub domain: String,
    /// Place in the domain's order.
    pub src_ord: i64,
    /// Its state.
    pub state: ObjectState,
    /// Why it is in that state.
    pub cause: Option<Json<Reason>>,
    /// Raised by every claim and every restart: a write with another epoch is refused.
    pub lease_epoch: i64,
    /// Failures in a row.
    pub attempts: i32,
    /// How often it was set back to its first row after it had been published.
    pub repairs: i32,
    /// Counts the readings of the file.
    pub generation: i32,
    /// Frozen with the generation when it is claimed.
    pub parser_version: Option<i32>,
    /// Frozen with the generation when it is claimed.
    pub partition_count: Option<i32>,
    /// Frozen with the generation when it is claimed: which rules of the contract and the settings decide where its rows
    /// begin, and which number each gets.
    pub reading_rules: Option<i64>,
    /// Resume point: bytes after decompression.
    pub resume_byte: i64,
    /// Resume point: line.
    pub resume_line: i64,
    /// Resume point: data row.
    pub resume_row: i64,
    /// Resume point: next sequence number in each partition.
    pub resume_seqs: Option<Vec<i64>>,
    /// Number of rows, once all were published.
    pub rows: Option<i64>,
    /// The same by partition.
    pub partition_rows: Option<Vec<i64>>,
    /// One past the last record in each partition up to the resume point, 0 for none.
    pub end_offsets: Option<Vec<i64>>,
    /// The stream that `end_offsets` belong to.
    pub stream_id: Option<Uuid>,
    /// The hash of the content, if it was read once.
    pub sha256: Option<Vec<u8>>,
    /// Header names that the domain does not know.
    pub ignored_columns: Vec<String>,
    /// Columns of the domain that the file lacks and that get the contract's default in its rows.
    pub absent_defaults: Vec<String>,
    /// Rows whose key comes again further down in the file.
    pub overtaken: i64,
}

/// Whether an object `o` is the newest version of its key in its domain, as a condition in SQL.
pub const NEWEST_OF_ITS_KEY_SQL: &str = "NOT EXISTS (
            SELECT FROM pipeline.objects n
            WHERE n.bucket = o.bucket AND n.key = o.key AND n.domain = o.domain AND n.src_ord > o.src_ord)";

/// The columns that [`Object`] reads, of a table or alias `o`.
pub(super) const COLUMNS: &str = "o.id, o.nonce, o.bucket, o.key, o.version_id, o.etag, o.size_bytes, o.last_modified, o.domain, \
     o.src_ord, o.state, o.cause, o.lease_epoch, o.attempts, o.repairs, o.generation, o.parser_version, \
     o.partition_count, o.reading_rules, o.resume_byte, o.resume_line, o.resume_row, o.resume_seqs, o.rows, \
     o.partition_rows, o.end_offsets, o.stream_id, o.sha256, o.ignored_columns, o.absent_defaults, o.overtaken";

impl Object {
    /// A version that was just found.
    pub fn new(id: i64, version: ObjectVersion, domain: &str) -> Object {
        Object {
            id,
            nonce: Uuid::nil(),
            version,
            domain: domain.to_owned(),
            src_ord: 0,
            state: ObjectState::Discovered,
            cause: None,
            lease_epoch: 0,
            attempts: 0,
            repairs: 0,
            generation: 1,
            parser_version: None,
            partition_count: None,
            reading_rules: None,
            resume_byte: 0,
            resume_line: 0,
            resume_row: 0,
            resume_seqs: None,
            rows: None,
            partition_rows: None,
            end_offsets: None,
            stream_id: None,
            sha256: None,
            ignored_columns: Vec::new(),
            absent_defaults: Vec::new(),
            overtaken: 0,
        }
    }

    /// The values that the ledger must still have for a change of this object to be written.
    pub fn guard(&self) -> Guard {
        Guard {
            state: self.state,
            lease_epoch: self.lease_epoch,
            repairs: self.repairs,
            generation: self.generation,
            nonce: self.nonce,
        }
    }

    /// Why it is in its state.
    pub fn reason(&self) -> Option<&Reason> {
        self.cause.as_ref().map(|cause| &cause.0)
    }

    /// How far it is published and acknowledged, in a topic with this many partitions.
    pub fn resume_point(&self, partitions: usize) -> ResumePoint {
        let known = |numbers: &Option<Vec<i64>>| numbers.clone().unwrap_or_else(|| vec![0; partitions]);
        ResumePoint {
            byte: self.resume_byte,
            line: self.resume_line,
            row: self.resume_row,
            seqs: known(&self.resume_seqs),
            ends: known(&self.end_offsets),
        }
    }
}

/// The guard of every change of an object: it is written only if all of these values are unchanged.
///
/// State, lease epoch, repairs and generation change with everything that another listener, a sweeper or a person may
/// do to an object, so two concurrent changes of the same object are never both written. All four can repeat after
/// Postgres went back in time; the nonce cannot, so a late write never hits another object with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The state as read.
    pub state: ObjectState,
    /// The lease epoch as read.
    pub lease_epoch: i64,
    /// The repairs as read.
    pub repairs: i32,
    /// The generation as read.
    pub generation: i32,
    /// The nonce as read.
    pub nonce: Uuid,
}

/// How far an object is published and acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResumePoint {
    /// Bytes after decompression before the first row that is not acknowledged.
    pub byte: i64,
    /// The line of that row.
    pub line: i64,
    /// The number of that row.
    pub row: i64,
    /// Next sequence number in each partition, which is also the number of its rows so far.
    pub seqs: Vec<i64>,
    /// One past the last record in each partition, 0 for none.
    pub ends: Vec<i64>,
}

/// What is known about a file after it was read completely.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Content {
    /// The hash of the bytes after decompression.
    pub sha256: Vec<u8>,
    /// Header names that the domain does not know: the first ones, and how many more.
    pub ignored_columns: Vec<String>,
    /// Columns of the domain that the file lacks and that get the contract's default in its rows.
    pub absent_defaults: Vec<String>,
    /// Rows whose key comes again further down: the last row of each key loads.
    pub overtaken: i64,
}

#[cfg(test)]
impl Object {
    /// A version that was just found.
    pub(super) fn example() -> Object {
        let version = ObjectVersion {
            bucket: "raw".into(),
            key: "climate/a.csv".into(),
            version_id: None,
            etag: "e".into(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
        };
        Object { lease_epoch: 1, src_ord: 1, ..Object::new(9, version, "climate") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_on_one_line() {
        let cases = [
            ("health/a b%20ü\\.csv", "health/a b%20ü\\.csv"),
            ("health/a\nb\t\u{1b}[31m\u{85}.csv", "health/a\\nb\\t\\u{1b}[31m\\u{85}.csv"),
        ];
        for (key, shown) in cases {
            assert_eq!(on_one_line(key), shown);
        }
    }
}
