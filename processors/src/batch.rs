//! A batch on its way to the writer: every record read since the last batch, then their rows, judged.
//!
//! Judging is done for a whole batch at once, column by column, and not by whoever reads the topic.

use std::collections::BTreeMap;

use freshet_sinks::apply::{Origin, Rows};
use freshet_sinks::bookmarks::BookmarkMove;
use freshet_topics::cells::Cells;
use freshet_topics::{Domain, Provenance, judge, message};
use uuid::Uuid;

use crate::record::{Consumed, Row};

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
    /// The records with rows, those of a partition in the order of their offsets: partition, offset and record.
    records: Vec<(i32, i64, Row)>,
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
        if let Consumed::Row(row) = record {
            self.records.push((partition, offset, row));
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

    /// Reads the rows out of the records and judges them. Nothing is refused here: a row that cannot load says why.
    pub(crate) fn judged(self, domain: &'static Domain) -> JudgedBatch {
        let mut cells = Cells::of(domain);
        let mut origins = Vec::with_capacity(self.records.len());
        for (partition, offset, Row { provenance, value }) in self.records {
            match provenance {
                Ok(provenance) => message::push_rows(domain, provenance, &value, &mut cells, |provenance, own| {
                    origins.push(Origin { partition, offset, provenance, raw: value.slice(own) });
                }),
                Err(error) => {
                    cells.push_malformed(error);
                    let provenance = not_from_a_file(partition, offset);
                    origins.push(Origin { partition, offset, provenance, raw: value });
                }
            }
        }
        let judged = judge::columns(domain, &cells);
        JudgedBatch { partitions: self.partitions, rows: Rows { origins, judged } }
    }
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
    use freshet_topics::DOMAINS;
    use freshet_topics::judge::MALFORMED_MESSAGE;

    use super::*;

    fn record(provenance: Result<Provenance, String>, value: &'static str) -> Consumed {
        Consumed::Row(Row { provenance, value: value.into() })
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
        let provenance = Provenance { object: 9, generation: 1, parser: 1, ..not_from_a_file(0, 0) };
        let cases = [
            (Err("header `object` is missing".to_owned()), "{}", 0, "header `object` is missing"),
            (Ok(provenance), "not json", 9, "expected ident at line 1 column 2"),
            (Ok(provenance), "[1]", 9, "expected an object of text cells of domain locations"),
        ];
        for (origin, value, object, said) in cases {
            let mut batch = Batch::default();
            batch.push(3, 41, record(origin, value));
            let judged = batch.judged(DOMAINS[0]);
            let row = judged.rows.row(0);
            assert_eq!((row.origin().partition, row.origin().offset, row.provenance().object), (3, 41, object));
            assert_eq!(row.origin().raw, value);
            let refusal = row.refusal().expect("rejected");
            assert_eq!(refusal.rule, MALFORMED_MESSAGE);
            assert!(refusal.value.as_deref().is_some_and(|value| value.contains(said)), "{refusal:?}");
        }
    }

    #[test]
    fn rows_keep_their_places_among_records_that_are_none() {
        let of = |row| Ok(Provenance { object: 9, generation: 1, row, ..not_from_a_file(0, 0) });
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
