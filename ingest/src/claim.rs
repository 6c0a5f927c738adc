//! A claimed object, and what is decided about it: whether it may be claimed, whether there is anything to do,
//! and where its publishing begins. Nothing here reads or writes.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::frame::Position;
use crate::object::ObjectVersion;

/// A version that failed this often in a row no longer holds back newer versions of its key.
pub const ATTEMPTS_HOLDING_BACK: i32 = 5;
/// An object version that this listener has the lease on.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Claim {
    /// `pipeline.objects.id`.
    pub id: i64,
    /// What tells this object from one of the same id in another life of the ledger.
    pub nonce: Uuid,
    /// Bucket.
    pub bucket: String,
    /// Object key.
    pub key: String,
    /// Version, where the bucket keeps them.
    pub version_id: Option<String>,
    /// ETag, by which the reads are pinned.
    pub etag: String,
    /// Size in bytes.
    pub size_bytes: i64,
    /// Last modified, to the second.
    pub last_modified: DateTime<Utc>,
    /// Domain name.
    pub domain: String,
    /// Place in the domain's order.
    pub src_ord: i64,
    /// What this listener's writes carry.
    pub lease_epoch: i64,
    /// Failures in a row before this attempt.
    pub attempts: i32,
    /// Which reading of the object.
    pub generation: i32,
    /// Frozen with the generation; this listener's own if the generation has just begun.
    pub parser_version: i32,
    /// Frozen with the generation; the topic's as it is now if the generation has just begun.
    pub partition_count: i32,
    /// Resume point: bytes after decompression.
    pub resume_byte: i64,
    /// Resume point: line.
    pub resume_line: i64,
    /// Resume point: data row.
    pub resume_row: i64,
    /// Resume point: next seq in each partition.
    pub resume_seqs: Option<Vec<i64>>,
    /// One past the last record in each partition up to the resume point.
    pub end_offsets: Option<Vec<i64>>,
    /// The stream that `end_offsets` belong to.
    pub stream_id: Option<Uuid>,
    /// Rows, where all were published once.
    pub rows: Option<i64>,
    /// Of the content, where it was read once.
    pub sha256: Option<Vec<u8>>,
    /// Header names that the domain does not know.
    pub ignored_columns: Vec<String>,
    /// How often the sweep sent the object back.
    pub repairs: i32,
    /// The newest earlier version of the key.
    pub earlier_id: Option<i64>,
    /// Its state.
    pub earlier_state: Option<String>,
    /// Its content.
    pub earlier_sha256: Option<Vec<u8>>,
    /// Its reason.
    pub earlier_reason: Option<String>,
}

impl Claim {
    /// The version to read.
    pub fn version(&self) -> ObjectVersion {
        ObjectVersion {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            version_id: self.version_id.clone(),
            etag: self.etag.clone(),
            size_bytes: self.size_bytes,
            last_modified: self.last_modified,
        }
    }
}

/// How far an object is published and acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The boundary before the first row that is not.
    pub at: Position,
    /// Next seq in each partition, which is also the rows in it so far.
    pub seqs: Vec<i64>,
    /// One past the last record in each partition, 0 for none.
    pub ends: Vec<i64>,
}

impl Progress {
    /// Before the first row.
    pub fn start(at: Position, partitions: usize) -> Self {
        Progress { at, seqs: vec![0; partitions], ends: vec![0; partitions] }
    }

    /// The resume point of a claim.
    pub fn of(claim: &Claim) -> Self {
        let partitions = claim.partition_count as usize;
        let known = |numbers: &Option<Vec<i64>>| numbers.clone().unwrap_or_else(|| vec![0; partitions]);
        Progress {
            at: Position {
                byte: claim.resume_byte.unsigned_abs(),
                line: claim.resume_line.unsigned_abs(),
                row: claim.resume_row,
            },
            seqs: known(&claim.resume_seqs),
            ends: known(&claim.end_offsets),
        }
    }
}

/// What is known of a file once all of it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Of the bytes after decompression.
    pub sha256: Vec<u8>,
    /// Header names that the domain does not know.
    pub ignored_columns: Vec<String>,
}

/// Whether an object may be claimed; [`ledger::claim`](crate::ledger::claim) says the same in SQL, and a test holds the two together.
///
/// | state | lease | back-off | earlier version of the key unfinished | may |
/// |---|---|---|---|---|
/// | discovered | – | over | no, or it failed 5 times in a row | yes |
/// | publishing | expired | over | no, or it failed 5 times in a row | yes |
/// | publishing | held | – | – | no |
/// | discovered, publishing | – | not over | – | no |
/// | discovered, publishing | – | – | yes | no |
/// | any other | – | – | – | no |
pub fn may_claim(state: &str, lease_expired: bool, due: bool, earlier_unfinished_attempts: Option<i32>) -> bool {
    let free = state == "discovered" || (state == "publishing" && lease_expired);
    free && due && earlier_unfinished_attempts.is_none_or(|attempts| attempts >= ATTEMPTS_HOLDING_BACK)
}

const SAME_CONTENT: &str = "same content as object ";

/// Whether a version was set aside for having the content of the one before.
pub(crate) fn is_same_content(reason: &str) -> bool {
    reason.starts_with(SAME_CONTENT)
}

pub(crate) fn same_content_reason(object: i64) -> String {
    format!("{SAME_CONTENT}{object}, nothing to do")
}

/// Why a version need not be published, if it has the content of the newest earlier version of its key.
///
/// | earlier version | its content | verdict |
/// |---|---|---|
/// | none | – | publish |
/// | published, applied | same | nothing to do: same as it |
/// | superseded, as the same content as N | same | nothing to do: same as N |
/// | superseded otherwise, rejected, unfinished | – | publish |
/// | any | other | publish |
pub fn nothing_to_do(claim: &Claim, sha256: &[u8]) -> Option<String> {
    if claim.earlier_sha256.as_deref() != Some(sha256) {
        return None;
    }
    match (claim.earlier_state.as_deref()?, &claim.earlier_reason) {
        ("published" | "applied", _) => claim.earlier_id.map(same_content_reason),
        ("superseded", Some(reason)) if is_same_content(reason) => Some(reason.clone()),
        _ => None,
    }
}

/// Where the publishing of a claimed object begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At row 0 of the generation it has.
    Beginning,
    /// At the resume point.
    ResumePoint,
    /// At row 0 of the next generation.
    NextGeneration,
}

/// Decides it, given what is frozen, what this listener would do, and the stream that the topic is now.
///
/// | parser version, partition count | resume point | its stream | start |
/// |---|---|---|---|
/// | as frozen | row 0 | – | beginning |
/// | as frozen | later | the topic's | resume point |
/// | as frozen | later | another | beginning |
/// | other | – | – | next generation |
pub fn start(claim: &Claim, parser: i32, partitions: i32, stream: Uuid) -> Start {
    match (claim.parser_version, claim.partition_count) == (parser, partitions) {
        false => Start::NextGeneration,
        true if claim.resume_row > 0 && claim.stream_id == Some(stream) => Start::ResumePoint,
        true => Start::Beginning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed() -> Claim {
        Claim {
            id: 9,
            nonce: Uuid::nil(),
            bucket: "raw".into(),
            key: "climate/a.csv".into(),
            version_id: None,
            etag: "e".into(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
            domain: "climate".into(),
            src_ord: 1,
            lease_epoch: 1,
            attempts: 0,
            generation: 1,
            parser_version: 1,
            partition_count: 4,
            resume_byte: 0,
            resume_line: 0,
            resume_row: 0,
            resume_seqs: None,
            end_offsets: None,
            stream_id: None,
            rows: None,
            sha256: None,
            ignored_columns: vec![],
            repairs: 0,
            earlier_id: None,
            earlier_state: None,
            earlier_sha256: None,
            earlier_reason: None,
        }
    }

    #[test]
    fn only_the_same_content_as_the_newest_earlier_version_is_nothing_to_do() {
        let root = same_content_reason(3);
        let cases = [
            (None, None, None),
            (Some("published"), None, Some(same_content_reason(5))),
            (Some("applied"), None, Some(same_content_reason(5))),
            (Some("superseded"), Some(root.clone()), Some(root)),
            (Some("superseded"), Some("overwritten before it was read".to_owned()), None),
            (Some("rejected"), Some("line 1: no header".to_owned()), None),
            (Some("discovered"), None, None),
        ];
        for (state, reason, expected) in cases {
            let claim = Claim {
                earlier_id: state.map(|_| 5),
                earlier_state: state.map(str::to_owned),
                earlier_sha256: state.map(|_| vec![1]),
                earlier_reason: reason,
                ..claimed()
            };
            assert_eq!(nothing_to_do(&claim, &[1]), expected, "{state:?}");
            assert_eq!(nothing_to_do(&claim, &[2]), None, "{state:?}");
        }
    }

    #[test]
    fn a_listener_that_reads_otherwise_opens_a_new_generation() {
        let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cases = [
            (0, None, 1, 4, Start::Beginning),
            (0, Some(there), 1, 4, Start::Beginning),
            (7, Some(here), 1, 4, Start::ResumePoint),
            (7, Some(there), 1, 4, Start::Beginning),
            (7, Some(here), 2, 4, Start::NextGeneration),
            (7, Some(here), 1, 6, Start::NextGeneration),
            (0, None, 1, 6, Start::NextGeneration),
        ];
        for (resume_row, stream_id, parser, partitions, expected) in cases {
            let claim = Claim { resume_row, stream_id, ..claimed() };
            assert_eq!(start(&claim, parser, partitions, here), expected, "{resume_row} {parser} {partitions}");
        }
    }
}
