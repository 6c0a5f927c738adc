//! Detects that a log became shorter than what Kafka had acknowledged, while bookmarks and ledger still rely on it.
//!
//! Each fact (a bookmark, the end offsets of an object) is remembered when it is first seen; only measurements made
//! after that count, and two of them, some seconds apart, have to agree ([`freshet_topics::log::truncated`]).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use freshet_topics::log::{LogEnds, truncated};
use uuid::Uuid;

/// How long a partition is shown as truncated: its rows are published again within seconds, but an operator should
/// still learn about it.
const SHOWN_FOR: Duration = Duration::from_secs(3_600);

/// Offsets that Kafka acknowledged, with the stream that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// The stream.
    pub(crate) stream_id: Uuid,
    /// One past the last record in each partition, 0 for none.
    pub(crate) ends: Vec<i64>,
}

/// The holder of the offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// The bookmark of a partition.
    Bookmark(i32),
    /// An object of the ledger.
    Object(i64),
}

/// What is remembered about one holder.
#[derive(Debug)]
struct Suspect {
    acknowledged: Acknowledged,
    seen_at: Instant,
    /// The first measurement after it was first seen.
    earlier: Option<LogEnds>,
}

/// The memory of one domain: holders of offsets beyond the log's end at the last measurement. Those within it are
/// forgotten, so the memory only has what is being published.
#[derive(Debug, Default)]
pub(crate) struct TruncationWatch {
    suspects: HashMap<Holder, Suspect>,
    /// Partition → when its log was last found shorter.
    found: BTreeMap<i32, Instant>,
}

impl TruncationWatch {
    /// Compares the acknowledged offsets of holders, read from Postgres at `read_at`, with the latest measurement, and
    /// returns the holders whose records the log no longer has.
    pub(crate) fn compare(
        &mut self,
        holders: impl IntoIterator<Item = (Holder, Acknowledged)>,
        read_at: Instant,
        latest: &LogEnds,
    ) -> Vec<Holder> {
        let mut lost = Vec::new();
        for (holder, acknowledged) in holders {
            if self.is_truncated(holder, acknowledged, read_at, latest) {
                lost.push(holder);
            }
        }
        lost
    }

    /// Forgets objects that are not among these.
    pub(crate) fn retain_objects(&mut self, published: &[i64]) {
        let published: std::collections::HashSet<i64> = published.iter().copied().collect();
        self.suspects.retain(|holder, _| match holder {
            Holder::Object(id) => published.contains(id),
            Holder::Bookmark(_) => true,
        });
    }

    /// How many partitions were found shorter within the last hour.
    pub(crate) fn partitions(&mut self, now: Instant) -> usize {
        self.found.retain(|_, at| now.saturating_duration_since(*at) < SHOWN_FOR);
        self.found.len()
    }

    fn is_truncated(&mut self, holder: Holder, acknowledged: Acknowledged, read_at: Instant, latest: &LogEnds) -> bool {
        if !is_beyond(&acknowledged, latest) {
            self.suspects.remove(&holder);
            return false;
        }
        let suspect = self.suspects.entry(holder).or_insert_with(|| Suspect {
            acknowledged: acknowledged.clone(),
            seen_at: read_at,
            earlier: None,
        });
        if suspect.acknowledged != acknowledged {
            *suspect = Suspect { acknowledged, seen_at: read_at, earlier: None };
        }
        if latest.measured_at <= suspect.seen_at {
            return false;
        }
        let earlier = suspect.earlier.get_or_insert_with(|| latest.clone());
        let Acknowledged { stream_id, ends } = &suspect.acknowledged;
        let partitions = truncated(ends, *stream_id, earlier, latest);
        self.found.extend(partitions.iter().map(|partition| (*partition, latest.measured_at)));
        !partitions.is_empty()
    }
}

/// Whether any offset is beyond the measured end of the log.
fn is_beyond(acknowledged: &Acknowledged, log: &LogEnds) -> bool {
    acknowledged.stream_id == log.stream_id && acknowledged.ends.iter().zip(&log.high).any(|(end, high)| end > high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Uuid = Uuid::from_u128(1);

    fn acknowledged(ends: &[i64]) -> Acknowledged {
        Acknowledged { stream_id: STREAM, ends: ends.to_vec() }
    }

    #[test]
    fn an_object_is_lost_once_two_measurements_after_its_acknowledgement_end_before_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let log = |high: i64, ms| LogEnds { stream_id: STREAM, high: vec![high], measured_at: at(ms) };
        let object = |end| [(Holder::Object(7), acknowledged(&[end]))];
        let mut watch = TruncationWatch::default();
        // Acknowledged after the measurement: that proves nothing, however old it gets.
        assert!(watch.compare(object(10), at(1_000), &log(5, 500)).is_empty());
        assert!(watch.compare(object(10), at(9_000), &log(5, 500)).is_empty());
        // A measurement after it, and one that comes too early.
        assert!(watch.compare(object(10), at(9_000), &log(5, 9_500)).is_empty());
        assert!(watch.compare(object(10), at(9_600), &log(5, 9_700)).is_empty());
        assert_eq!(watch.partitions(at(9_700)), 0);
        // Two seconds later it is believed.
        assert_eq!(watch.compare(object(10), at(11_000), &log(6, 11_500)), [Holder::Object(7)]);
        assert_eq!(watch.partitions(at(11_500)), 1);
        assert_eq!(watch.partitions(at(11_500) + SHOWN_FOR), 0);
    }

    #[test]
    fn a_log_that_catches_up_or_an_object_that_was_published_again_begins_anew() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let log = |high: i64, ms| LogEnds { stream_id: STREAM, high: vec![high], measured_at: at(ms) };
        let object = |end| [(Holder::Object(7), acknowledged(&[end]))];
        let mut watch = TruncationWatch::default();
        assert!(watch.compare(object(10), at(0), &log(5, 100)).is_empty());
        // A new leader that has all records by now.
        assert!(watch.compare(object(10), at(200), &log(10, 3_000)).is_empty());
        assert!(watch.suspects.is_empty(), "nothing is remembered of what is there");
        assert!(watch.compare(object(10), at(3_100), &log(5, 3_200)).is_empty());
        // Published again: other ends, seen later.
        assert!(watch.compare(object(12), at(6_000), &log(5, 5_900)).is_empty());
        assert!(watch.compare(object(12), at(6_000), &log(5, 6_100)).is_empty());
        assert_eq!(watch.compare(object(12), at(8_000), &log(5, 8_200)), [Holder::Object(7)]);
        watch.retain_objects(&[]);
        assert!(watch.suspects.is_empty());
    }

    #[test]
    fn another_stream_says_nothing() {
        let start = Instant::now();
        let mut watch = TruncationWatch::default();
        let log = |ms| LogEnds {
            stream_id: Uuid::from_u128(2),
            high: vec![0],
            measured_at: start + Duration::from_millis(ms),
        };
        for ms in [100, 5_000] {
            assert!(watch.compare([(Holder::Bookmark(0), acknowledged(&[10]))], start, &log(ms)).is_empty());
        }
    }
}
