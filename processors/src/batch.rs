//! A batch before it is written: every record read since the last batch, then their rows, judged.
//!
//! Judging is done for a whole batch at once, column by column, and not by whoever reads the topic.

use std::collections::BTreeMap;

use freshet_sinks::apply::{Origin, Rows};
use freshet_sinks::bookmarks::BookmarkMove;
use freshet_topics::cells::Cells;
use freshet_topics::message::packed::Head;
use freshet_topics::message::{MessageError, RawText, push_rows};
use freshet_topics::{Domain, Provenance, judge};
use uuid::Uuid;

use crate::record::{Consumed, Message};

/// The offsets of a partition that a batch spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// The first one.
    pub(crate) first: i64,
    /// One past the last one.
    pub(crate) next: i64,
}

/// Records as they were consumed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    /// What was read of each partition.
    partitions: BTreeMap<i32, Offsets>,
    /// The records with rows, those of a partition in the order of their offsets: partition, offset and message.
    messages: Vec<(i32, i64, Message)>,
}

/// The rows of a batch, judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct JudgedBatch {
    /// What was read of each partition.
    pub(crate) partitions: BTreeMap<i32, Offsets>,
    /// The rows.
    pub(crate) rows: Rows,
}

impl Batch {
    /// Adds a record.
    pub(crate) fn push(&mut self, partition: i32, offset: i64, record: Consumed) {
        self.pass(partition, offset);
        if let Consumed::Message(message) = record {
            self.messages.push((partition, offset, message));
        }
    }

    /// Passes over a record that is not asked for.
    pub(crate) fn pass(&mut self, partition: i32, offset: i64) {
        self.at(partition, offset).next = offset + 1;
    }

    /// Nothing more comes of a partition before `end`, whether or not a record stands there.
    pub(crate) fn end(&mut self, partition: i32, end: i64) {
        self.at(partition, end).next = end;
    }

    fn at(&mut self, partition: i32, offset: i64) -> &mut Offsets {
        self.partitions.entry(partition).or_insert(Offsets { first: offset, next: 0 })
    }

    /// Cuts the batch along the writers that its partitions belong to.
    ///
    /// # Errors
    /// A partition that belongs to none.
    pub(crate) fn split(self, writer_of: impl Fn(i32) -> Option<usize>) -> Result<BTreeMap<usize, Batch>, i32> {
        let mut parts: BTreeMap<usize, Batch> = BTreeMap::new();
        let mut part_of = BTreeMap::new();
        for (partition, offsets) in self.partitions {
            let writer = writer_of(partition).ok_or(partition)?;
            part_of.insert(partition, writer);
            parts.entry(writer).or_default().partitions.insert(partition, offsets);
        }
        for message in self.messages {
            // Each message's partition is among the partitions.
            parts.entry(part_of[&message.0]).or_default().messages.push(message);
        }
        Ok(parts)
    }

    /// Reads the rows out of the messages and judges them. Nothing is refused here: a row that cannot load says why.
    pub(crate) fn judged(self, domain: &'static Domain) -> JudgedBatch {
        let mut cells = Cells::of(domain);
        let rows = self.messages.iter().map(|(.., message)| message.rows()).sum();
        let mut origins = Vec::with_capacity(rows);
        for (partition, offset, message) in self.messages {
            unpack(domain, partition, offset, message, &mut cells, &mut origins);
        }
        let judged = judge::columns(domain, &cells);
        JudgedBatch { partitions: self.partitions, rows: Rows { origins, judged } }
    }
}

/// Appends the rows of a message: all of them, or one that says why none can be read.
fn unpack(
    domain: &'static Domain,
    partition: i32,
    offset: i64,
    message: Message,
    cells: &mut Cells,
    origins: &mut Vec<Origin>,
) {
    let rows = message.weight();
    let Message { head, value } = message;
    let (provenance, why) = match head {
        Ok(head) => {
            let before = origins.len();
            let place = |provenance, raw| origins.push(Origin { partition, offset, provenance, raw });
            let Err(error) = push_rows(domain, &head, &value, cells, place) else { return };
            origins.truncate(before);
            match head.packed {
                // The row that the message is, and so its number, is known.
                None => (head.first, error.to_string()),
                // None of its rows is received: they are sent again, in a message that may be as it should.
                Some(_) => (not_from_a_file(partition, offset), of_object(&head, &error)),
            }
        }
        Err(why) => (not_from_a_file(partition, offset), why),
    };
    cells.push_malformed(why);
    origins.push(Origin { partition, offset, provenance, raw: RawText::Unread { value, rows } });
}

/// Whose rows a packed message has that cannot be read, and why.
fn of_object(Head { first, packed }: &Head, error: &MessageError) -> String {
    let rows = packed.as_ref().map_or(1, |packed| packed.rows);
    format!("{rows} rows of object {} from row {} on, which are sent again: {error}", first.object, first.row)
}

impl JudgedBatch {
    /// As it is applied, with the move of each bookmark that `placed` gives for the offsets of its partition.
    ///
    /// # Errors
    /// Those of `placed`.
    pub(crate) fn placed<E>(
        self,
        placed: impl Fn(i32, Offsets) -> Result<BookmarkMove, E>,
    ) -> Result<freshet_sinks::apply::Batch, E> {
        let moves = self.partitions.into_iter().map(|(partition, offsets)| placed(partition, offsets));
        Ok(freshet_sinks::apply::Batch { bookmarks: moves.collect::<Result<_, E>>()?, rows: self.rows })
    }
}

/// A message without an origin stands under object 0, its partition as generation, its offset as row and
/// sequence number, so that it too is rejected exactly once.
fn not_from_a_file(partition: i32, offset: i64) -> Provenance {
    let nonce = Uuid::nil();
    let (object, line, src_ord, parser, partitions) = (0, 0, 0, 0, 0);
    Provenance { object, generation: partition, row: offset, line, src_ord, seq: offset, parser, nonce, partitions }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::apply::ReceivedRow;
    use freshet_topics::judge::MALFORMED_MESSAGE;
    use freshet_topics::message::packed::PackedHead;
    use freshet_topics::{DOMAINS, Value};

    use super::*;

    fn origin() -> Provenance {
        Provenance { object: 9, generation: 1, parser: 1, ..not_from_a_file(0, 0) }
    }

    fn alone(first: Provenance) -> Result<Head, String> {
        Ok(Head { first, packed: None })
    }

    fn packed(rows: usize, columns: &str) -> Result<Head, String> {
        Ok(Head { first: origin(), packed: Some(PackedHead { rows, columns: columns.into() }) })
    }

    fn record(head: Result<Head, String>, value: &'static str) -> Consumed {
        Consumed::Message(Message { head, value: value.into() })
    }

    #[test]
    fn a_stream_record_moves_the_bookmark_alone() {
        let mut batch = Batch::default();
        batch.push(0, 0, Consumed::Stream);
        let judged = batch.judged(DOMAINS[0]);
        assert_eq!(judged.partitions[&0], Offsets { first: 0, next: 1 });
        assert!(judged.rows.origins.is_empty());
    }

    #[test]
    fn a_message_that_is_no_row_becomes_a_reject_and_never_an_error() {
        let cases = [
            (Err("header `object` is missing".to_owned()), "{}", 0, "header `object` is missing"),
            (alone(origin()), "not json", 9, "expected ident at line 1 column 2"),
            (alone(origin()), "[1]", 9, "expected an object of text cells of domain locations"),
            // The rows of a packed one are not taken for received: they are sent again.
            (packed(2, "id"), "[0,2,\"7\"]\nx", 0, "2 rows of object 9 from row 0 on, which are sent again: line 2 of"),
            (packed(2, "id"), "[0,2,\"7\"]", 0, "the value has 1 rows, and the header `rows` says 2"),
        ];
        for (head, value, object, said) in cases {
            let mut batch = Batch::default();
            batch.push(3, 40, record(alone(origin()), r#"{"id":"1","name":"Goa"}"#));
            batch.push(3, 41, record(head, value));
            batch.push(3, 42, record(packed(1, "id,name"), "[1,3,\"8\",\"Pune\"]"));
            let judged = batch.judged(DOMAINS[0]);
            assert_eq!(judged.rows.origins.len(), 3, "{value}");
            let row = judged.rows.row(1);
            assert_eq!((row.origin().partition, row.origin().offset, row.provenance().object), (3, 41, object));
            assert_eq!(row.origin().raw.to_text(), value);
            let refusal = row.refusal().expect("rejected");
            assert_eq!(refusal.rule, MALFORMED_MESSAGE);
            assert!(refusal.value.as_deref().is_some_and(|value| value.contains(said)), "{refusal:?}");
            let names = [0, 2].map(|at| (judged.rows.row(at).refusal(), judged.rows.judged.values.get(1, at)));
            assert_eq!(
                names,
                [(None, Value::Text("Goa")), (None, Value::Text("Pune"))],
                "the others keep their places"
            );
        }
    }

    #[test]
    fn each_row_of_a_packed_message_is_judged_by_itself_and_kept_with_the_names_of_its_cells() {
        let value = "[4,6,\"7\",\"Goa\"]\n[9,12,\"x\",\"Pune\"]\n[10,13,\"8\",null,{\"_extra\":[\"y\"]}]";
        let mut batch = Batch::default();
        batch.push(3, 41, record(packed(3, "id,name"), value));
        let judged = batch.judged(DOMAINS[0]);
        assert_eq!(judged.partitions[&3], Offsets { first: 41, next: 42 });
        let rows: Vec<_> = (0..3).map(|at| judged.rows.row(at)).collect();
        let place = |row: &ReceivedRow<'_>| {
            let Provenance { row: number, line, seq, .. } = *row.provenance();
            (row.origin().offset, number, line, seq)
        };
        assert_eq!(rows.iter().map(place).collect::<Vec<_>>(), [(41, 4, 6, 0), (41, 9, 12, 1), (41, 10, 13, 2)]);
        let raw: Vec<_> = rows.iter().map(|row| row.origin().raw.to_text()).collect();
        let expected =
            [r#"{"id":"7","name":"Goa"}"#, r#"{"id":"x","name":"Pune"}"#, r#"{"id":"8","name":null,"_extra":["y"]}"#];
        assert_eq!(raw, expected);
        let refused = |row: &ReceivedRow<'_>| row.refusal().map(|refusal| (refusal.rule, refusal.column));
        let expected = [None, Some((judge::UNCASTABLE, Some("id"))), Some((judge::EXTRA_CELLS, None))];
        assert_eq!(rows.iter().map(refused).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_writer_gets_the_records_of_its_partitions_in_their_order() {
        let mut batch = Batch::default();
        for (partition, offset) in [(2, 5), (0, 7), (2, 6), (1, 3), (0, 8)] {
            batch.push(partition, offset, record(alone(Provenance { row: offset, ..origin() }), r#"{"id":"1"}"#));
        }
        batch.pass(3, 9);
        let parts = batch.clone().split(|partition| usize::try_from(partition % 2).ok()).expect("all have a writer");
        assert_eq!(parts.len(), 2);
        let found = |writer: usize| {
            let Batch { partitions, messages } = &parts[&writer];
            let offsets = partitions.iter().map(|(partition, of)| format!("{partition}: {}..{}", of.first, of.next));
            let records = messages.iter().map(|(partition, offset, _)| format!("{partition}@{offset}"));
            offsets.chain(records).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(0), "0: 7..9 2: 5..7 2@5 0@7 2@6 0@8");
        assert_eq!(found(1), "1: 3..4 3: 9..10 1@3");
        assert_eq!(batch.split(|partition| (partition != 3).then_some(0)).err(), Some(3), "it belongs to nobody");
    }

    #[test]
    fn rows_keep_their_places_among_records_that_are_none() {
        let of = |row| alone(Provenance { row, ..origin() });
        let mut batch = Batch::default();
        batch.push(1, 7, record(of(0), r#"{"id":"1","name":"Goa"}"#));
        batch.push(0, 3, record(of(1), "no row"));
        batch.push(1, 8, Consumed::Stream);
        batch.push(1, 9, record(of(2), r#"{"id":"2","name":""}"#));
        batch.pass(0, 4);
        batch.end(2, 12);
        let judged = batch.judged(DOMAINS[0]);
        let offsets: Vec<(i32, i64, i64)> =
            judged.partitions.iter().map(|(partition, of)| (*partition, of.first, of.next)).collect();
        assert_eq!(offsets, [(0, 3, 5), (1, 7, 10), (2, 12, 12)]);
        let rows = (0..judged.rows.origins.len()).map(|at| judged.rows.row(at));
        let found: Vec<_> = rows
            .map(|row| (row.origin().offset, row.provenance().row, row.refusal().map(|refusal| refusal.rule)))
            .collect();
        let refused = [None, Some(MALFORMED_MESSAGE), Some(judge::REQUIRED_EMPTY)];
        assert_eq!(found, [(7, 0, refused[0]), (3, 1, refused[1]), (9, 2, refused[2])]);
    }
}
