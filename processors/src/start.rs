//! Decides from bookmark and log where a partition is read from, or why it is halted. Pure.

use freshet_sinks::bookmarks::Assigned;
use freshet_topics::log::{Ends, PartitionLog};
use freshet_topics::stream::{self, Beginning, FirstRecord};

/// Where a partition is read from, decided from its bookmark and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    At(i64),
    /// Not at all, for this reason.
    Halt(String),
}

/// Decides where to start. `accepted` is how an operator accepted the partition's first record.
///
/// | beginning | bookmark against log | start |
/// |---|---|---|
/// | fits, or its stream record is still to come | low ≤ bookmark ≤ high | at the bookmark |
/// | fits | bookmark < low | halt: retention removed what was not applied |
/// | fits | bookmark > high | halt: the log lost what was applied |
/// | another stream's record | – | halt: the topic was recreated |
/// | a row, a foreign record | – | halt: no stream record |
///
/// Each halt names the command that ends it.
pub fn decide_start(domain: &str, assigned: &Assigned, accepted: Option<&str>, log: PartitionLog) -> Start {
    let PartitionLog { first, ends: Ends { low, high } } = log;
    let Assigned { partition, next_offset, stream_id, .. } = assigned;
    let adopt = format!(
        "nothing was changed; if kafka.brokers and kafka.topic_prefix are right, `freshet bookmarks adopt {domain}` \
         accepts the topic as it is, and first says what that does"
    );
    match (stream::judge_beginning(first, *stream_id, accepted), first) {
        (Beginning::Unfit, FirstRecord::Stream(found)) => Start::Halt(format!(
            "the topic was recreated: the bookmark belongs to stream {stream_id}, the partition to {found}; {adopt}"
        )),
        (Beginning::Unfit, _) => Start::Halt(format!(
            "the partition {first}: it was published to before its stream record was written, or its topic was \
             recreated by another program; {adopt}"
        )),
        _ if *next_offset < low => Start::Halt(format!(
            "the bookmark {next_offset} is before the log's start {low}: retention removed {} records that were not \
             applied; {adopt}",
            low - next_offset
        )),
        _ if *next_offset > high => Start::Halt(format!(
            "the bookmark {next_offset} is beyond the log's end {high}: the log lost {} records that were applied; \
             nothing was changed; `freshet bookmarks set {domain} --partition {partition} --to end` continues from \
             there, and files that are not fully applied are published again",
            next_offset - high
        )),
        _ => Start::At(*next_offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_partition_starts_at_its_bookmark_or_halts_and_says_why() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let assigned = |next_offset| Assigned { partition: 3, next_offset, epoch: 1, stream_id: a };
        let other = b.to_string();
        let adopt = "`freshet bookmarks adopt health`";
        let cases = [
            (10, FirstRecord::Stream(a), None, 0, 20, None),
            (0, FirstRecord::Stream(a), None, 0, 20, None),
            (20, FirstRecord::Stream(a), None, 0, 20, None),
            (10, FirstRecord::Removed, None, 5, 20, None),
            (0, FirstRecord::Empty, None, 0, 0, None),
            (10, FirstRecord::Row, Some("row"), 0, 20, None),
            (10, FirstRecord::Foreign, Some("foreign"), 0, 20, None),
            (10, FirstRecord::Stream(b), Some(other.as_str()), 0, 20, None),
            (10, FirstRecord::Stream(b), None, 0, 20, Some(("recreated", adopt))),
            (10, FirstRecord::Foreign, None, 0, 20, Some(("a record that is not freshet's", adopt))),
            (10, FirstRecord::Row, None, 0, 20, Some(("a row in the place of its stream record", adopt))),
            (10, FirstRecord::Foreign, Some("row"), 0, 20, Some(("not freshet's", adopt))),
            (4, FirstRecord::Removed, None, 5, 20, Some(("retention removed 1 records", adopt))),
            (4, FirstRecord::Removed, Some("row"), 5, 20, Some(("retention removed 1 records", adopt))),
            (
                21,
                FirstRecord::Stream(a),
                None,
                0,
                20,
                Some(("the log lost 1 records", "`freshet bookmarks set health --partition 3 --to end`")),
            ),
        ];
        for (bookmark, first, accepted, low, high, halted) in cases {
            let log = PartitionLog { first, ends: Ends { low, high } };
            match (decide_start("health", &assigned(bookmark), accepted, log), halted) {
                (Start::At(offset), None) => assert_eq!(offset, bookmark),
                (Start::Halt(reason), Some((why, command))) => {
                    assert!(reason.contains(why) && reason.contains(command), "{reason}");
                }
                (start, _) => panic!("{bookmark} {log:?}: {start:?}"),
            }
        }
    }
}
