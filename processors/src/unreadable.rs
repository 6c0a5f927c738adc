//! Distinguishes a topic that another program writes to from a single bad record.
//!
//! A single record that is not a row is rejected like a bad row. A whole batch of a partition without any readable
//! record means something else: a foreign producer, or a newer version of freshet. Rejecting all of it would bury the
//! other rejects, and skip rows that a newer version can read. So the partition halts before the batch, nothing is
//! rejected, and an operator decides: skip it, or try again.

use freshet_sinks::apply::{Batch, ReceivedRow};
use freshet_sinks::bookmarks::BookmarkMove;
use freshet_topics::judge::MALFORMED_MESSAGE;

use crate::start::Start;

/// Fewer rows than this never halt a partition: somebody may have written a few by hand. A message counts as many rows
/// as it seems to have ([`RawText::rows`](freshet_topics::message::RawText::rows)), because a batch has only few packed
/// messages.
const ROWS_MIN: usize = 100;
/// A single message never halts it either, however many rows it has: it may just be damaged.
const RECORDS_MIN: usize = 2;
/// The beginning of each such reason, by which the next owner of the partition recognizes the halt.
const SIGN: &str = "unreadable: ";

/// Why the partition of a bookmark halts before a batch.
///
/// | records | of them unreadable | with rows, as it seems | halts |
/// |---|---|---|---|
/// | 99 | 99 | 99 | no: too few to tell |
/// | 100 | 99 | 99 | no: rows are among them |
/// | 100 | 100 | 100 | yes |
/// | 1 | 1 | 200 | no: a broken one |
/// | 2 | 2 | 400 | yes |
pub(crate) fn reason(domain: &str, batch: &Batch, bookmark: &BookmarkMove) -> Option<String> {
    if batch.rows.judged.refusals.is_empty() {
        return None;
    }
    let rows = batch.rows_of(&[*bookmark]);
    let refusal = |row: &ReceivedRow<'_>| row.refusal().filter(|refusal| refusal.rule == MALFORMED_MESSAGE).cloned();
    let last = rows.last().and_then(refusal)?.value.unwrap_or_default();
    if !rows.iter().all(|row| refusal(row).is_some()) {
        return None;
    }
    // Each unreadable record counts as one row.
    let records = rows.len();
    let seeming: usize = rows.iter().map(|row| row.origin().raw.rows()).sum();
    if records < RECORDS_MIN || seeming < ROWS_MIN {
        return None;
    }
    let BookmarkMove { partition, expected: from, next: behind, .. } = *bookmark;
    Some(format!(
        "{SIGN}none of the {records} records from offset {from} on is a row of freshet's ({last}): another program, \
         or a later version of freshet, writes to the topic; nothing was changed; `freshet bookmarks set {domain} \
         --partition {partition} --to {behind}` skips them, and `--to {from}` reads them again"
    ))
}

/// Keeps a partition halted for such a reason: only an operator ends that, by setting its bookmark.
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
    use freshet_topics::message::packed::{Head, PackedHead};
    use freshet_topics::{DOMAINS, Provenance};
    use uuid::Uuid;

    use super::*;
    use crate::record::{Consumed, Message};

    const FIRST: Provenance = Provenance {
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

    fn row() -> Consumed {
        let head = Ok(Head { first: FIRST, packed: None });
        Consumed::Message(Message { head, value: r#"{"id":"1","name":"Goa"}"#.into() })
    }

    fn none() -> Consumed {
        Consumed::Message(Message { head: Err("no header".into()), value: "x".into() })
    }

    /// A message packed in a form that this version does not know.
    fn packed() -> Consumed {
        let head = Ok(Head { first: FIRST, packed: Some(PackedHead { rows: 200, columns: "id,name".into() }) });
        Consumed::Message(Message { head, value: "1;Goa\n".repeat(200).into() })
    }

    /// These records in partition 3, and one record of each kind in another partition.
    fn batch(records: &[Consumed]) -> Batch {
        let mut batch = crate::batch::Batch::default();
        batch.push(1, 0, row());
        batch.push(1, 1, none());
        for (offset, record) in (41..).zip(records) {
            batch.push(3, offset, record.clone());
        }
        let placed = batch.judged(DOMAINS[0]).placed(|partition, offsets| {
            Ok::<_, ()>(BookmarkMove { partition, expected: offsets.first, next: 600, epoch: 1 })
        });
        placed.expect("placed")
    }

    #[test]
    fn a_batch_without_a_row_is_told_from_bad_records() {
        let of = |rows: usize, unreadable: usize| [vec![row(); rows], vec![none(); unreadable]].concat();
        let cases = [
            (of(0, 99), false),
            (of(1, 99), false),
            (of(0, 100), true),
            (of(1, 500), false),
            (vec![packed()], false),
            (vec![packed(), none()], true),
            (vec![packed(); 2], true),
            (vec![packed(), row(), packed()], false),
        ];
        for (records, halts) in cases {
            let batch = batch(&records);
            let [one, three] = batch.bookmarks.as_slice() else { panic!("two partitions") };
            assert_eq!(reason("health", &batch, one), None);
            let reason = reason("health", &batch, three);
            assert_eq!(reason.is_some(), halts, "{} records: {reason:?}", records.len());
            let Some(reason) = reason else { continue };
            assert!(reason.contains(&format!("none of the {} records", records.len())), "{reason}");
            assert!(reason.contains("`freshet bookmarks set health --partition 3 --to 600`"), "{reason}");
            assert_eq!(stay_halted(Start::At(41), Some(&reason)), Start::Halt(reason.clone()));
            assert_eq!(stay_halted(Start::Halt("now".into()), Some(&reason)), Start::Halt("now".into()));
        }
        for other in [None, Some("the topic was recreated")] {
            assert_eq!(stay_halted(Start::At(41), other), Start::At(41));
        }
    }
}
