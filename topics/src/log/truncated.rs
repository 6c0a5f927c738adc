//! Detects that a log became shorter than what Kafka had acknowledged: after a power cut, or an unclean leader
//! election.

use std::time::{Duration, Instant};

use uuid::Uuid;

/// How far apart two measurements must be before they are believed. A new leader learns the end of the log from its
/// followers' next fetches, within half a second by default; until then it reports an earlier end.
pub const MEASUREMENTS_APART: Duration = Duration::from_secs(2);

/// Where the partitions of a topic ended at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnds {
    /// The stream of the topic.
    pub stream_id: Uuid,
    /// One past the last record of each partition.
    pub high: Vec<i64>,
    /// When the measurement began, so that everything acknowledged before is within it.
    pub measured_at: Instant,
}

/// The partitions whose log is shorter than what was acknowledged. `acknowledged` is one past the last record in each
/// partition, 0 for none, and must have been read before both measurements: records acknowledged later may be beyond
/// both.
///
/// | the object's stream | that of both measurements | apart | beyond the log's end | truncated |
/// |---|---|---|---|---|
/// | a | a | 2 s or more | in both | yes |
/// | a | a | 2 s or more | in the later only | no: the next measurement tells |
/// | a | a | 2 s or more | in the earlier only | no: a new leader did not know all yet |
/// | a | a | less | – | no |
/// | a | another in either | – | no: whether that log is adopted is another question |
///
/// A partition that is missing in a measurement, or that has no rows of the object, is never truncated.
pub fn truncated(acknowledged: &[i64], stream: Uuid, earlier: &LogEnds, later: &LogEnds) -> Vec<i32> {
    let is_of_stream = earlier.stream_id == stream && later.stream_id == stream;
    if !is_of_stream || later.measured_at < earlier.measured_at + MEASUREMENTS_APART {
        return Vec::new();
    }
    let ends = acknowledged.iter().zip(&earlier.high).zip(&later.high);
    (0..)
        .zip(ends)
        .filter(|(_, ((acknowledged, before), after))| *acknowledged > *before && *acknowledged > *after)
        .map(|(partition, _)| partition)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shorter_only_if_two_measurements_of_the_same_stream_say_so() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let start = Instant::now();
        let ends = |stream_id, high: &[i64], after_ms| LogEnds {
            stream_id,
            high: high.to_vec(),
            measured_at: start + Duration::from_millis(after_ms),
        };
        let cases: [(&[i64], LogEnds, LogEnds, &[i32]); 10] = [
            (&[10, 0], ends(a, &[9, 5], 0), ends(a, &[9, 5], 2_000), &[0]),
            (&[10, 7], ends(a, &[1, 5], 0), ends(a, &[9, 6], 5_000), &[0, 1]),
            (&[10, 5], ends(a, &[10, 5], 0), ends(a, &[10, 5], 2_000), &[]),
            (&[10, 5], ends(a, &[9, 5], 0), ends(a, &[10, 5], 2_000), &[]),
            (&[10, 5], ends(a, &[10, 5], 0), ends(a, &[9, 5], 2_000), &[]),
            (&[10, 5], ends(a, &[9, 5], 0), ends(a, &[9, 5], 1_999), &[]),
            (&[10, 5], ends(b, &[9, 5], 0), ends(a, &[9, 5], 2_000), &[]),
            (&[10, 5], ends(a, &[9, 5], 0), ends(b, &[9, 5], 2_000), &[]),
            (&[0, 0], ends(a, &[0, 0], 0), ends(a, &[0, 0], 2_000), &[]),
            (&[10, 5, 9], ends(a, &[10, 5], 0), ends(a, &[10, 5, 1], 2_000), &[]),
        ];
        for (acknowledged, earlier, later, expected) in cases {
            assert_eq!(
                truncated(acknowledged, a, &earlier, &later),
                expected,
                "{acknowledged:?} {earlier:?} {later:?}"
            );
        }
    }
}
