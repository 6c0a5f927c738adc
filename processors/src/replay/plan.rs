//! The request of a replay, and the offsets to read for it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use freshet_topics::log::Ends;
use serde_json::Value;

use crate::ranges::Range;

/// A point in a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The start of the log.
    Beginning,
    /// The time at which a record was written to the topic.
    Time(DateTime<Utc>),
    /// Partition → offset.
    Offsets(BTreeMap<i32, i64>),
}

/// The text is not a point in a topic's history.
#[derive(Debug, thiserror::Error)]
#[error(
    "give `beginning`, a time such as 2026-03-01 or 2026-03-01T00:00:00Z, or offsets such as 0:1200,3:0 (partition:offset)"
)]
pub struct ParsePointError;

impl FromStr for Point {
    type Err = ParsePointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "beginning" {
            return Ok(Point::Beginning);
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Point::Time(time.to_utc()));
        }
        if let Ok(date) = text.parse::<NaiveDate>() {
            return Ok(Point::Time(date.and_time(NaiveTime::MIN).and_utc()));
        }
        let offset = |pair: &str| {
            let (partition, offset) = pair.split_once(':')?;
            let (partition, offset) = (partition.trim().parse().ok()?, offset.trim().parse().ok()?);
            (partition >= 0 && offset >= 0).then_some((partition, offset))
        };
        let pairs: Vec<(i32, i64)> = text.split(',').map(offset).collect::<Option<_>>().ok_or(ParsePointError)?;
        let offsets: BTreeMap<i32, i64> = pairs.iter().copied().collect();
        match offsets.len() == pairs.len() {
            true => Ok(Point::Offsets(offsets)),
            false => Err(ParsePointError),
        }
    }
}

/// As it is typed on the command line.
impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Point::Beginning => formatter.write_str("beginning"),
            Point::Time(time) => formatter.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Point::Offsets(offsets) => {
                let pairs: Vec<String> = offsets.iter().map(|(partition, at)| format!("{partition}:{at}")).collect();
                formatter.write_str(&pairs.join(","))
            }
        }
    }
}

/// What to read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// From here.
    pub from: Point,
    /// Up to here, exclusive; by default up to what the live pipeline has applied.
    pub to: Option<Point>,
    /// Only rows of files with these keys, in any version; all files if empty.
    pub objects: Vec<String>,
}

impl Request {
    /// The request that a replay has recorded as this text; `None` if it is spelled in another way.
    pub fn read(text: &str) -> Option<Request> {
        let rest = text.strip_prefix("from ")?;
        let (points, objects) = match rest.split_once(" of ") {
            Some((points, keys)) => (points, serde_json::from_str(keys).ok()?),
            None => (rest, Vec::new()),
        };
        let (from, to) = match points.split_once(" to ") {
            Some((from, to)) => (from, Some(to.parse().ok()?)),
            None => (points, None),
        };
        Some(Request { from: from.parse().ok()?, to, objects })
    }
}

/// Two texts are equal if and only if the requests are. [`Request::read`] reads them.
impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "from {}", self.from)?;
        if let Some(to) = &self.to {
            write!(formatter, " to {to}")?;
        }
        let mut objects = self.objects.clone();
        objects.sort();
        objects.dedup();
        let keys: Vec<String> = objects.iter().map(|key| Value::from(key.as_str()).to_string()).collect();
        match keys.is_empty() {
            true => Ok(()),
            false => write!(formatter, " of [{}]", keys.join(", ")),
        }
    }
}

/// The request does not fit the topic.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Retention has removed a part of what was requested.
    #[error(
        "partition {partition} begins at offset {low}: retention has removed {} of the records asked for; `freshet \
         republish` sends their files again, then replay from the beginning", .low - .from
    )]
    Gone {
        /// The partition.
        partition: i32,
        /// The requested offset.
        from: i64,
        /// The log's start.
        low: i64,
    },
    /// There is no such partition.
    #[error("the topic has no partition {0}")]
    NoPartition(i32),
    /// No version of these keys is in the ledger.
    #[error("this domain has no file {}", .0.join(" or "))]
    NoObject(Vec<String>),
    /// A time in the future must be a mistake.
    #[error("{0} is in the future")]
    Future(String),
}

/// Kafka's answer about a point in time: partition → the first offset written then or later, `None` if there is none.
pub(super) type Times = BTreeMap<i32, Option<i64>>;

/// The ranges to read. Nothing is read past `bookmarks`, because the live pipeline will read that itself.
///
/// | from | first offset |
/// |---|---|
/// | beginning | the log's start |
/// | a time | that of the first record since; none: nothing to read |
/// | an offset | that; before the log's start: an error |
/// | offsets, and the partition is not among them | nothing to read |
///
/// | to | one past the last offset |
/// |---|---|
/// | not given | the bookmark |
/// | beginning | the log's start: nothing to read |
/// | a time, an offset | the lesser of that and the bookmark |
/// | offsets, and the partition is not among them | the bookmark |
pub(super) fn ranges(
    request: &Request,
    ends: &BTreeMap<i32, Ends>,
    from_times: &Times,
    to_times: &Times,
    bookmarks: &BTreeMap<i32, i64>,
) -> Result<Vec<Range>, PlanError> {
    for point in [Some(&request.from), request.to.as_ref()].into_iter().flatten() {
        if let Point::Offsets(offsets) = point
            && let Some(unknown) = offsets.keys().find(|partition| !ends.contains_key(partition))
        {
            return Err(PlanError::NoPartition(*unknown));
        }
    }
    let mut ranges = Vec::new();
    for (&partition, &bookmark) in bookmarks {
        let Some(Ends { low, .. }) = ends.get(&partition).copied() else { continue };
        let first = match &request.from {
            Point::Beginning => Some(low),
            Point::Time(_) => from_times.get(&partition).copied().flatten(),
            Point::Offsets(offsets) => match offsets.get(&partition).copied() {
                Some(from) if from < low => return Err(PlanError::Gone { partition, from, low }),
                from => from,
            },
        };
        let last = match &request.to {
            None => None,
            Some(Point::Beginning) => Some(low),
            Some(Point::Time(_)) => to_times.get(&partition).copied().flatten(),
            Some(Point::Offsets(offsets)) => offsets.get(&partition).copied(),
        };
        let to = last.map_or(bookmark, |last| last.min(bookmark));
        ranges.push(Range { partition, from: first.unwrap_or(to).min(to), to });
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_they_are_written() {
        for text in ["beginning", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00.250Z", "0:12", "0:12,3:0"] {
            let point: Point = text.parse().expect(text);
            assert_eq!(point.to_string(), text);
        }
        let east: Point = "2026-03-01T02:00:00+02:00".parse().expect("a time");
        assert_eq!(east.to_string(), "2026-03-01T00:00:00Z");
        let day: Point = "2026-03-01".parse().expect("a date");
        assert_eq!(day, "2026-03-01T00:00:00Z".parse().expect("a time"), "its first second");
        for bad in ["", "march", "2026-03", "0", "0:", "a:1", "-1:3", "0:-3", "0:1,0:2", "0:1;2:3"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_equal_if_their_words_are() {
        let request = |objects: &[&str]| Request {
            from: Point::Beginning,
            to: Some(Point::Offsets(BTreeMap::from([(0, 5)]))),
            objects: objects.iter().map(|key| (*key).to_owned()).collect(),
        };
        assert_eq!(request(&["b", "a", "b"]).to_string(), r#"from beginning to 0:5 of ["a", "b"]"#);
        assert_ne!(request(&["a\", \"b"]).to_string(), request(&["a", "b"]).to_string());
        assert_eq!(request(&[]).to_string(), "from beginning to 0:5");
    }

    #[test]
    fn a_recorded_request_is_read_as_it_was_asked() {
        let offsets = |at: i64| Point::Offsets(BTreeMap::from([(0, at), (3, at + 1)]));
        let keys = ["a", "b to c of d.csv", "quoted \" \\ \n\u{1b}"].map(str::to_owned).to_vec();
        for to in [None, Some(offsets(9)), Some(Point::Time(DateTime::UNIX_EPOCH))] {
            for objects in [Vec::new(), keys.clone()] {
                for from in [Point::Beginning, offsets(2)] {
                    let request = Request { from, to: to.clone(), objects: objects.clone() };
                    assert_eq!(Request::read(&request.to_string()), Some(request));
                }
            }
        }
        for other in ["", "from", "from here", "from beginning to there", "from beginning of a", "to beginning"] {
            assert_eq!(Request::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_replay_reads_from_a_point_and_never_past_the_live_bookmark() {
        let ends = BTreeMap::from([(0, Ends { low: 3, high: 30 }), (1, Ends { low: 0, high: 9 })]);
        let bookmarks = BTreeMap::from([(0, 20), (1, 9)]);
        let from_times = Times::from([(0, Some(7)), (1, None)]);
        let to_times = Times::from([(0, Some(25)), (1, Some(4))]);
        let offsets = |pairs: &[(i32, i64)]| Point::Offsets(pairs.iter().copied().collect());
        let time = Point::Time(DateTime::UNIX_EPOCH);
        let cases = [
            (Point::Beginning, None, [(3, 20), (0, 9)]),
            (time.clone(), None, [(7, 20), (9, 9)]),
            (Point::Beginning, Some(time), [(3, 20), (0, 4)]),
            (offsets(&[(0, 5)]), None, [(5, 20), (9, 9)]),
            (offsets(&[(0, 25)]), None, [(20, 20), (9, 9)]),
            (offsets(&[(0, 5)]), Some(offsets(&[(0, 6), (1, 3)])), [(5, 6), (3, 3)]),
            (offsets(&[(0, 8)]), Some(offsets(&[(0, 6)])), [(6, 6), (9, 9)]),
            (Point::Beginning, Some(Point::Beginning), [(3, 3), (0, 0)]),
        ];
        for (from, to, expected) in cases {
            let request = Request { from, to, objects: Vec::new() };
            let found = ranges(&request, &ends, &from_times, &to_times, &bookmarks).expect("ranges");
            let found: Vec<(i64, i64)> = found.iter().map(|range| (range.from, range.to)).collect();
            assert_eq!(found, expected, "{request}");
        }
        let refused = |from| {
            let request = Request { from, to: None, objects: Vec::new() };
            ranges(&request, &ends, &from_times, &to_times, &bookmarks)
        };
        assert_eq!(refused(offsets(&[(0, 2)])), Err(PlanError::Gone { partition: 0, from: 2, low: 3 }));
        assert_eq!(refused(offsets(&[(7, 2)])), Err(PlanError::NoPartition(7)));
    }
}
