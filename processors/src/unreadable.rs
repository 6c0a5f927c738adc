//! Telling a topic that somebody else writes to from a bad record among rows.
//!
//! One record that is no row is rejected, as a bad row is. A whole batch of a partition in which no record can be read is
//! another thing: a foreign producer, or a version of freshet that writes what this one cannot read. Rejecting all of
//! that would bury the rejects that people look at, and pass over rows that a later version can read. So the partition
//! halts before it, nothing of it is rejected, and a person decides: pass over it, or try again.

use freshet_sinks::apply::{Batch, ReceivedRow};
use freshet_sinks::bookmarks::BookmarkMove;
use freshet_topics::judge::MALFORMED_MESSAGE;

use crate::start::Start;

/// Fewer records than this are never too bad: a careless hand at Kafka's own producer writes some.
const RECORDS_MIN: usize = 100;
/// How each reason begins, by which the halt is known to whoever is given the partition next.
const SIGN: &str = "unreadable: ";

/// Why the partition of a bookmark halts before a batch.
///
/// | records | of them unreadable | halts |
/// |---|---|---|
/// | 99 | 99 | no: too few to tell |
/// | 100 | 99 | no: rows are among them |
/// | 100 | 100 | yes |
pub(crate) fn reason(domain: &str, batch: &Batch, bookmark: &BookmarkMove) -> Option<String> {
    if batch.rows.judged.refusals.is_empty() {
        return None;
    }
    let rows = batch.rows_of(&[*bookmark]);
    let refusal = |row: &ReceivedRow<'_>| row.refusal().filter(|refusal| refusal.rule == MALFORMED_MESSAGE).cloned();
    let last = rows.last().and_then(refusal)?.value.unwrap_or_default();
    if rows.len() < RECORDS_MIN || !rows.iter().all(|row| refusal(row).is_some()) {
        return None;
    }
    let BookmarkMove { partition, expected: from, next: behind, .. } = *bookmark;
    let records = rows.len();
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
    use freshet_topics::{DOMAINS, Provenance};
    use uuid::Uuid;

    use super::*;
    use crate::record::{Consumed, Row};

    const PROVENANCE: Provenance = Provenance {
        object: 9,
        generation: 1,
        row: 0,
        line: 2,
        src_ord: 1,
        seq: 0,
        parser: 1,
        nonce: Uuid::nil(),
        partitions: 4,
    };

    /// So many records of partition 3 that are rows, then so many that are none; one of each in another partition.
    fn batch(rows: usize, unreadable: usize) -> Batch {
        let row = || Consumed::Row(Row { provenance: Ok(PROVENANCE), value: r#"{"id":"1","name":"Goa"}"#.into() });
        let none = || Consumed::Row(Row { provenance: Err("no header".into()), value: "x".into() });
        let mut batch = crate::batch::Batch::default();
        batch.push(1, 0, row());
        batch.push(1, 1, none());
        for (offset, at) in (41..).zip(0..rows + unreadable) {
            batch.push(3, offset, if at < rows { row() } else { none() });
        }
        let placed = batch.judged(DOMAINS[0]).placed(|partition, offsets| {
            Ok::<_, ()>(BookmarkMove { partition, expected: offsets.first, next: 600, epoch: 1 })
        });
        placed.expect("placed")
    }

    #[test]
    fn a_batch_without_a_row_is_told_from_bad_records() {
        for (unreadable, rows, halts) in [(99, 0, false), (99, 1, false), (100, 0, true), (500, 1, false)] {
            let batch = batch(rows, unreadable);
            let [one, three] = batch.bookmarks.as_slice() else { panic!("two partitions") };
            assert_eq!(reason("health", &batch, one), None);
            let reason = reason("health", &batch, three);
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
