//! The second pass over a file: every row becomes a message, numbered by nothing but the bytes.

use std::sync::Arc;

use freshet_sinks::ledger::Claim;
use freshet_topics::failpoint::{self, Point};
use freshet_topics::partition::{message_key, partition_of};
use freshet_topics::{Domain, Provenance, RawRow};

use crate::frame::{FrameError, Framer, Position, Record};
use crate::header::Header;
use crate::limits::Limits;
use crate::overtaken::Overtaking;
use crate::producer::{Chunk, ProduceError};

/// Why rows could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Kafka's doing.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// The first pass found no fault in the same bytes.
    #[error("the second pass read the file otherwise than the first: {0}")]
    Frame(#[from] FrameError),
}

/// Publishes the rows of one object from a boundary on. It blocks, so it is moved to a blocking thread for
/// each chunk, and back.
pub(crate) struct RowPublisher {
    framer: Framer,
    numbering: Numbering,
    limits: Arc<Limits>,
    /// Rows that the rate limit has been paid for.
    paid: u32,
}

/// What turns a record into a message.
struct Numbering {
    domain: &'static Domain,
    header: Header,
    /// What all rows of the object have in common.
    provenance: Provenance,
    partition_count: i32,
    /// The next seq in each partition.
    seqs: Vec<i64>,
    /// How many rows each row overtakes, where any does.
    overtaking: Option<Overtaking>,
    /// The value under construction, kept for its room.
    value: Vec<u8>,
}

impl RowPublisher {
    pub(crate) fn new(
        domain: &'static Domain,
        header: Header,
        framer: Framer,
        claim: &Claim,
        seqs: Vec<i64>,
        overtaking: Option<Overtaking>,
        limits: Arc<Limits>,
    ) -> Self {
        let provenance = Provenance {
            object: claim.object.id,
            generation: claim.object.generation,
            row: 0,
            line: 0,
            src_ord: claim.object.src_ord,
            seq: 0,
            parser: claim.parser_version,
            nonce: claim.object.nonce,
            partitions: claim.partition_count,
        };
        let partition_count = claim.partition_count;
        let value = Vec::new();
        let numbering = Numbering { domain, header, provenance, partition_count, seqs, overtaking, value };
        RowPublisher { framer, numbering, limits, paid: 0 }
    }

    /// Sends the rows of `bytes`; with `last`, the file ends after them.
    pub(crate) fn publish(&mut self, bytes: &[u8], last: bool, chunk: &Chunk) -> Result<(), SendError> {
        let mut input = bytes;
        while let Some(record) = self.framer.next(&mut input)? {
            pay(&self.limits, &mut self.paid);
            self.numbering.send(&record, chunk)?;
        }
        while last && let Some(record) = self.framer.finish()? {
            pay(&self.limits, &mut self.paid);
            self.numbering.send(&record, chunk)?;
        }
        Ok(())
    }

    /// The boundary after the last row sent.
    pub(crate) fn position(&self) -> Position {
        self.framer.position()
    }

    /// The next seq in each partition.
    pub(crate) fn seqs(&self) -> &[i64] {
        &self.numbering.seqs
    }
}

fn pay(limits: &Limits, paid: &mut u32) {
    if *paid == 0 {
        limits.rows();
        *paid = limits.rows_per_check();
    }
    *paid -= 1;
}

impl Numbering {
    fn send(&mut self, record: &Record<'_>, chunk: &Chunk) -> Result<(), ProduceError> {
        // The header comes first in a file and is no row.
        let Some(row) = record.row() else { return Ok(()) };
        let key = self.header.partition_cell(record).and_then(message_key);
        let partition = partition_of(key.as_deref(), self.partition_count);
        // `partition_of` is below the count, and there is a seq for each partition.
        let seq = &mut self.seqs[partition as usize];
        let provenance = Provenance { row, line: record.line().cast_signed(), seq: *seq, ..self.provenance };
        self.value.clear();
        let overtaken = self.overtaking.as_mut().map_or(0, |overtaking| overtaking.take(&self.header, record));
        RawRow { overtaken, ..self.header.raw_row(record) }.encode(self.domain, &mut self.value);
        chunk.send(partition, key.as_deref(), &self.value, provenance.to_headers())?;
        *seq += 1;
        failpoint::reach(Point::RowSent);
        Ok(())
    }
}
