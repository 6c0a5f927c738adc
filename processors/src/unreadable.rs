//! Telling a topic that somebody else writes to from a bad record among rows.
//!
//! Here a message counts as one, however many rows it was to have: of one that cannot be read nothing is known but that.
//!
//! One record that is no row is rejected, as a bad row is. A whole batch of a partition in which no record can be read is
//! another thing: a foreign producer, or a version of freshet that writes what this one cannot read. Rejecting all of
//! that would bury the rejects that people look at, and pass over rows that a later version can read. So the partition
//! halts before it, nothing of it is rejected, and a person decides: pass over it, or try again.

use freshet_sinks::apply::{PartitionBatch, ReceivedRow};

use crate::record::MALFORMED_MESSAGE;
use crate::start::Start;

/// Fewer records than this are never too bad: a careless hand at Kafka's own producer writes some.
const RECORDS_MIN: usize = 100;
/// How each reason begins, by which the halt is known to whoever is given the partition next.
const SIGN: &str = "unreadable: ";

/// Why a partition halts before a batch.
///
/// | records | of them unreadable | halts |
/// |---|---|---|
/// | 99 | 99 | no: too few to tell |
/// | 100 | 99 | no: rows are among them |
/// | 100 | 100 | yes |
pub(crate) fn reason(domain: &str, batch: &PartitionBatch) -> Option<String> {
    let why = |row: &ReceivedRow| match &row.outcome {
        Err(refusal) if refusal.rule == MALFORMED_MESSAGE => Some(refusal.value.clone().unwrap_or_default()),
        _ => None,
    };
    let last = batch.rows.last().and_then(why)?;
    if batch.rows.len() < RECORDS_MIN || !batch.rows.iter().all(|row| why(row).is_some()) {
        return None;
    }
    let (records, partition) = (batch.rows.len(), batch.bookmark.partition);
    let (from, behind) = (batch.bookmark.expected, batch.bookmark.next);
    Some(format!(
        "{SIGN}all {records} records from offset {from} on are no rows of freshet's ({last}): somebody else writes to the \
         topic, or a later version does; nothing was changed; `freshet bookmarks set {domain} --partition {partition} \
         --to {behind}` passes over them, and with `--to {from}` they are read again"
    ))
}

/// Keeps a partition halted that is halted for such a reason: only a person ends that, who sets its bookmark.
///
/// | start by its bookmark and the log | halted before | start |
/// |---|---|---|
/// | at the bookmark | before records that cannot be read | halt, as before |
/// | at the bookmark | for another reason, or not | at the bookmark |
/// | halt | any | halt for what is so now |
pub(crate) fn stay_halted(start: Start, halted: Option<&str>) -> Start {
    match (start, halted) {
        (Start::At(_), Some(reason)) if reason.starts_with(SIGN) => Start::Halt(reason.to_owned()),
        (start, _) => start,
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::bookmarks::BookmarkMove;
    use freshet_topics::DOMAINS;

    use super::*;
    use crate::record::{Consumed, Validated, validated};

    fn record(value: &str) -> ReceivedRow {
        let consumed = Consumed::Message { head: Err("no header".into()), value: value.as_bytes().into() };
        match validated(DOMAINS[0], 3, 0, consumed) {
            Validated::Rows(mut rows) => rows.remove(0),
            Validated::Stream => panic!("a row"),
        }
    }

    #[test]
    fn a_batch_without_a_row_is_told_from_bad_records() {
        for (unreadable, rows, halts) in [(99, 0, false), (99, 1, false), (100, 0, true), (500, 1, false)] {
            let bookmark = BookmarkMove { partition: 3, expected: 41, next: 600, epoch: 1 };
            let row = ReceivedRow { outcome: Ok(Vec::new()), ..record("") };
            let rows = std::iter::repeat_n(row, rows).chain(std::iter::repeat_n(record("x"), unreadable)).collect();
            let reason = reason("health", &PartitionBatch { bookmark, rows });
            assert_eq!(reason.is_some(), halts, "{unreadable}: {reason:?}");
            let Some(reason) = reason else { continue };
            assert!(reason.contains("`freshet bookmarks set health --partition 3 --to 600`"), "{reason}");
            assert_eq!(stay_halted(Start::At(41), Some(&reason)), Start::Halt(reason.clone()));
            assert_eq!(stay_halted(Start::Halt("now".into()), Some(&reason)), Start::Halt("now".into()));
        }
        for other in [None, Some("the topic was made again")] {
            assert_eq!(stay_halted(Start::At(41), other), Start::At(41));
        }
    }
}
