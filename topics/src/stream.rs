//! The stream record, which distinguishes a topic that was deleted and recreated from the one before.
//!
//! Kafka gives a topic an id, but librdkafka 2.x does not show it. So record 0 of each partition carries a UUID under
//! the header [`STREAM_HEADER`]. Partition 0 decides: the creator of a topic writes an id there, reads back which one
//! came first, and copies that to the other partitions. So two processes that create the same topic at once agree. A
//! topic is open once every partition has its stream record: otherwise rows could take the place of the record for
//! good.
//!
//! Any other first record (a row, a record of another program, another stream's record) must be accepted by an
//! operator, with `freshet bookmarks adopt`. This module does no input or output.

use rdkafka::message::Headers;
use uuid::Uuid;

use crate::message::packed::PACK_HEADER;
use crate::message::{ORIGIN_HEADER, STREAM_HEADER};

/// The first record of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRecord {
    /// Nothing was ever written.
    Empty,
    /// The stream record.
    Stream(Uuid),
    /// Record 0 is a row of freshet: it was published before the stream record was written.
    Row,
    /// Record 0 was written by another program.
    Foreign,
    /// Retention has removed record 0.
    Removed,
}

impl FirstRecord {
    /// Classifies a record 0 by its headers.
    pub fn of(headers: Option<&impl Headers>) -> Self {
        let is_of_row = |key| [ORIGIN_HEADER, PACK_HEADER].contains(&key);
        let is_row = headers.is_some_and(|headers| headers.iter().any(|header| is_of_row(header.key)));
        match stream_id(headers) {
            Some(id) => FirstRecord::Stream(id),
            None if is_row => FirstRecord::Row,
            None => FirstRecord::Foreign,
        }
    }

    /// The name under which an operator accepted such a first record; `None` if it needs no acceptance.
    ///
    /// | first record | name |
    /// |---|---|
    /// | a row | `row` |
    /// | a record of somebody else | `foreign` |
    /// | the stream record of stream a | a |
    /// | empty, removed | – |
    pub fn accepted_as(self) -> Option<String> {
        match self {
            FirstRecord::Row => Some("row".to_owned()),
            FirstRecord::Foreign => Some("foreign".to_owned()),
            FirstRecord::Stream(id) => Some(id.to_string()),
            FirstRecord::Empty | FirstRecord::Removed => None,
        }
    }
}

impl std::fmt::Display for FirstRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FirstRecord::Empty => formatter.write_str("is empty"),
            FirstRecord::Stream(id) => write!(formatter, "begins with the record of stream {id}"),
            FirstRecord::Row => formatter.write_str("begins with a row in the place of its stream record"),
            FirstRecord::Foreign => formatter.write_str("begins with a record that is not freshet's"),
            FirstRecord::Removed => formatter.write_str("has lost its first records to retention"),
        }
    }
}

/// The stream id that a record carries, if it is a stream record.
pub fn stream_id(headers: Option<&impl Headers>) -> Option<Uuid> {
    let header = headers?.iter().find(|header| header.key == STREAM_HEADER)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// The stream of a topic: partition 0's record decides or, if it is missing, any other partition's.
pub fn stream_of(firsts: &[FirstRecord]) -> Option<Uuid> {
    firsts.iter().find_map(|first| match first {
        FirstRecord::Stream(id) => Some(*id),
        _ => None,
    })
}

/// The id that the empty partitions of a topic get; `None`: a new one. `known` is the stream that Postgres knows.
///
/// | partition 0 | another partition | known | id |
/// |---|---|---|---|
/// | stream a | – | – | a |
/// | not a stream record | stream a | – | a |
/// | empty | none has a stream record | – | a new one: the topic was just made |
/// | removed, a row, foreign | none has a stream record | k | k: partitions were added to an old topic |
/// | removed, a row, foreign | none has a stream record | – | a new one |
pub fn stream_to_write(firsts: &[FirstRecord], known: Option<Uuid>) -> Option<Uuid> {
    match firsts.first() {
        None | Some(FirstRecord::Empty) => stream_of(firsts),
        Some(_) => stream_of(firsts).or(known),
    }
}

/// How a partition's first record fits the known stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It may be published to and read.
    Fits,
    /// Its stream record is still to be written.
    Unmarked,
    /// It belongs to another log, or rows are in the place of the stream record: an operator decides.
    Unfit,
}

/// Decides it. `accepted` is how an operator accepted this partition ([`FirstRecord::accepted_as`]).
///
/// | first record | accepted as | beginning |
/// |---|---|---|
/// | the stream's record | – | fits |
/// | removed by retention | – | fits |
/// | empty | – | unmarked |
/// | another stream's record, a row, foreign | the same | fits |
/// | another stream's record, a row, foreign | nothing, or something else | unfit |
pub fn judge_beginning(first: FirstRecord, stream: Uuid, accepted: Option<&str>) -> Beginning {
    match first {
        FirstRecord::Stream(id) if id == stream => Beginning::Fits,
        FirstRecord::Removed => Beginning::Fits,
        FirstRecord::Empty => Beginning::Unmarked,
        other if accepted.is_some() && other.accepted_as().as_deref() == accepted => Beginning::Fits,
        _ => Beginning::Unfit,
    }
}

/// The stream that a topic becomes when it is adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// The stream; `None`: a new id, because none is known.
    pub stream: Option<Uuid>,
    /// Whether it is certainly the log that the bookmarks belong to: then those within it do not move.
    pub is_known_log: bool,
}

/// Decides it from the first records of the partitions and the stream that Postgres knows.
///
/// | a stream record (partition 0's first) | otherwise | known | stream | the known log |
/// |---|---|---|---|---|
/// | a | – | a | a | yes |
/// | a | – | b, or none | a | no |
/// | none | all removed or empty, one at least removed | k | k | yes |
/// | none | all removed or empty | none | a new one | no |
/// | none | a row or a foreign record | – | a new one | no |
/// | none | all empty | – | a new one | no |
pub fn adopt(firsts: &[FirstRecord], known: Option<Uuid>) -> Adoption {
    if let Some(stream) = stream_of(firsts) {
        return Adoption { stream: Some(stream), is_known_log: known == Some(stream) };
    }
    let all_by_retention = firsts.iter().all(|first| matches!(first, FirstRecord::Removed | FirstRecord::Empty))
        && firsts.contains(&FirstRecord::Removed);
    let stream = known.filter(|_| all_by_retention);
    Adoption { stream, is_known_log: stream.is_some() }
}

#[cfg(test)]
mod tests {
    use FirstRecord::{Empty, Foreign, Removed, Row, Stream};
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_record_0_is_told_by_its_headers() {
        let with = |key, value: &str| OwnedHeaders::new().insert(Header { key, value: Some(value) });
        let text = A.to_string();
        let cases = [
            (Some(with(STREAM_HEADER, &text)), Stream(A)),
            (Some(with(STREAM_HEADER, "no id")), Foreign),
            (Some(with(ORIGIN_HEADER, "12,1,0,2,3,0,1")), Row),
            (Some(with(PACK_HEADER, "12,1,0,2,3,0,1")), Row),
            (Some(with("else", "1")), Foreign),
            (None, Foreign),
        ];
        for (headers, expected) in cases {
            assert_eq!(FirstRecord::of(headers.as_ref()), expected, "{headers:?}");
        }
    }

    #[test]
    fn empty_partitions_get_the_id_of_their_topic() {
        let cases: &[(&[FirstRecord], Option<Uuid>, Option<Uuid>)] = &[
            (&[Stream(A), Empty, Empty], Some(B), Some(A)),
            (&[Empty, Empty], Some(B), None),
            (&[Empty, Stream(A)], None, Some(A)),
            (&[Removed, Stream(A), Empty], Some(B), Some(A)),
            (&[Removed, Removed, Empty], Some(B), Some(B)),
            (&[Row, Empty], Some(B), Some(B)),
            (&[Foreign, Empty], None, None),
            (&[Removed, Empty], None, None),
        ];
        for (firsts, known, expected) in cases {
            assert_eq!(stream_to_write(firsts, *known), *expected, "{firsts:?} {known:?}");
        }
    }

    #[test]
    fn a_partition_fits_by_its_stream_record_or_because_a_person_said_so() {
        let b = B.to_string();
        let cases = [
            (Stream(A), None, Beginning::Fits),
            (Removed, None, Beginning::Fits),
            (Empty, None, Beginning::Unmarked),
            (Empty, Some("row"), Beginning::Unmarked),
            (Stream(B), None, Beginning::Unfit),
            (Stream(B), Some(b.as_str()), Beginning::Fits),
            (Stream(B), Some("row"), Beginning::Unfit),
            (Row, None, Beginning::Unfit),
            (Row, Some("row"), Beginning::Fits),
            (Row, Some("foreign"), Beginning::Unfit),
            (Foreign, None, Beginning::Unfit),
            (Foreign, Some("foreign"), Beginning::Fits),
        ];
        for (first, accepted, expected) in cases {
            assert_eq!(judge_beginning(first, A, accepted), expected, "{first:?} {accepted:?}");
        }
    }

    #[test]
    fn there_is_always_a_stream_to_adopt_and_bookmarks_stay_only_in_the_log_they_belong_to() {
        type Case = (&'static [FirstRecord], Option<Uuid>, Option<Uuid>, bool);
        let cases: &[Case] = &[
            (&[Stream(A), Stream(A)], Some(A), Some(A), true),
            (&[Stream(A), Row], Some(A), Some(A), true),
            (&[Stream(A)], Some(B), Some(A), false),
            (&[Stream(A)], None, Some(A), false),
            (&[Removed, Stream(A)], Some(A), Some(A), true),
            (&[Removed, Removed], Some(A), Some(A), true),
            (&[Removed, Empty], Some(A), Some(A), true),
            (&[Removed, Removed], None, None, false),
            (&[Row, Removed], Some(A), None, false),
            (&[Foreign], Some(A), None, false),
            (&[Empty, Empty], Some(A), None, false),
            (&[], Some(A), None, false),
        ];
        for (firsts, known, stream, is_known_log) in cases {
            let expected = Adoption { stream: *stream, is_known_log: *is_known_log };
            assert_eq!(adopt(firsts, *known), expected, "{firsts:?} {known:?}");
        }
    }
}
