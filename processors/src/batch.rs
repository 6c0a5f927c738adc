//! A batch of judged rows on its way to the writer: every record read since the last batch, by partition.

use std::collections::BTreeMap;

use freshet_sinks::apply::ReceivedRow;
use freshet_sinks::rejects::Refusal;
use freshet_topics::message::MessageError;
use freshet_topics::{Domain, Provenance, RawRow};
use uuid::Uuid;

use crate::validate::validate;

/// A record that is no row of a file, or none that this version can read.
pub(crate) const MALFORMED_MESSAGE: &str = "malformed_message";

/// A record as it left the consumer.
#[derive(Debug, Clone)]
pub(crate) enum Consumed {
    /// A row.
    Row {
        /// Where it comes from, or why that cannot be read.
        provenance: Result<Provenance, String>,
        /// The message's value.
        value: Box<[u8]>,
    },
    /// A stream record: it moves the bookmark and nothing else.
    Stream,
}

/// The records of one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    /// The first offset.
    pub(crate) first_offset: i64,
    /// One past the last offset.
    pub(crate) next_offset: i64,
    /// The rows, in offset order.
    pub(crate) rows: Vec<ReceivedRow>,
}

/// Judged rows by partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    /// What was read of each partition.
    pub(crate) partitions: BTreeMap<i32, Records>,
}

impl Batch {
    /// Judges a record and adds it.
    pub(crate) fn push(&mut self, domain: &'static Domain, partition: i32, offset: i64, consumed: Consumed) {
        let records = self.passed(partition, offset);
        if let Consumed::Row { provenance, value } = consumed {
            records.rows.push(judge(domain, partition, offset, provenance, value));
        }
    }

    /// Passes over a record that is not asked for.
    pub(crate) fn pass(&mut self, partition: i32, offset: i64) {
        self.passed(partition, offset);
    }

    /// Nothing more comes of a partition before `end`, whether or not a record stands there.
    pub(crate) fn end(&mut self, partition: i32, end: i64) {
        self.at(partition, end).next_offset = end;
    }

    fn passed(&mut self, partition: i32, offset: i64) -> &mut Records {
        let records = self.at(partition, offset);
        records.next_offset = offset + 1;
        records
    }

    fn at(&mut self, partition: i32, offset: i64) -> &mut Records {
        self.partitions.entry(partition).or_insert_with(|| Records { first_offset: offset, ..Records::default() })
    }
}

fn judge(
    domain: &'static Domain,
    partition: i32,
    offset: i64,
    provenance: Result<Provenance, String>,
    raw: Box<[u8]>,
) -> ReceivedRow {
    let decoded = match &provenance {
        Ok(_) => RawRow::decode(domain, &raw).map_err(|error: MessageError| error.to_string()),
        Err(error) => Err(error.clone()),
    };
    let (outcome, corrections) = match decoded {
        Ok(row) => match validate(domain, &row) {
            Ok(accepted) => (Ok(accepted.values), accepted.corrections),
            Err(refusal) => (Err(refusal), Vec::new()),
        },
        Err(error) => (Err(Refusal { rule: MALFORMED_MESSAGE, column: None, value: Some(error) }), Vec::new()),
    };
    let provenance = provenance.unwrap_or_else(|_| not_from_a_file(partition, offset));
    ReceivedRow { provenance, offset, raw, outcome, corrections }
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
    use super::*;
    use freshet_topics::DOMAINS;

    #[test]
    fn a_message_that_is_no_row_becomes_a_reject_and_never_an_error() {
        let provenance = Provenance {
            object: 9,
            generation: 1,
            row: 0,
            line: 2,
            src_ord: 1,
            seq: 0,
            parser: 1,
            ..not_from_a_file(0, 0)
        };
        let cases = [
            (Err("header `object` is missing".to_owned()), "{}", 0),
            (Ok(provenance), "not json", 9),
            (Ok(provenance), "[1]", 9),
        ];
        for (origin, value, object) in cases {
            let mut batch = Batch::default();
            let consumed = Consumed::Row { provenance: origin, value: value.as_bytes().into() };
            batch.push(DOMAINS[0], 3, 41, consumed);
            let records = &batch.partitions[&3];
            assert_eq!(records.next_offset, 42);
            assert_eq!(records.rows[0].provenance.object, object);
            assert_eq!(records.rows[0].outcome.as_ref().expect_err("rejected").rule, MALFORMED_MESSAGE);
        }
    }

    #[test]
    fn a_stream_record_moves_the_bookmark_alone() {
        let mut batch = Batch::default();
        batch.push(DOMAINS[0], 0, 0, Consumed::Stream);
        assert_eq!(batch.partitions[&0].next_offset, 1);
        assert!(batch.partitions[&0].rows.is_empty());
    }
}
