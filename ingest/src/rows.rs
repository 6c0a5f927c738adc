//! The second pass over a file: every row goes to its partition, numbered by nothing but the bytes.
//!
//! Rows of a partition are packed in one message, as many as may be; what is begun is sent at the end of each chunk, so
//! that no row waits for another file. With one row a message, each travels in the form of its own.

use std::sync::Arc;

use freshet_sinks::ledger::Claim;
use freshet_topics::failpoint::{self, Point};
use freshet_topics::message::packed::Pack;
use freshet_topics::partition::{message_key, partition_of};
use freshet_topics::{Domain, Provenance};

use crate::frame::{FrameError, Framer, Position, Record};
use crate::header::Header;
use crate::limits::Limits;
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

/// What turns records into messages.
struct Numbering {
    domain: &'static Domain,
    header: Header,
    /// What all rows of the object have in common.
    provenance: Provenance,
    partition_count: i32,
    /// The next seq in each partition.
    seqs: Vec<i64>,
    /// The value under construction of a message of one row, kept for its room.
    value: Vec<u8>,
    packing: Option<Packing>,
}

/// The messages under construction.
struct Packing {
    rows_max: usize,
    /// One a partition.
    packs: Vec<Pack>,
    /// The columns of the file.
    columns: String,
}

impl RowPublisher {
    /// `rows_per_message` is how many rows a message has at most.
    pub(crate) fn new(
        domain: &'static Domain,
        header: Header,
        framer: Framer,
        claim: &Claim,
        seqs: Vec<i64>,
        rows_per_message: usize,
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
        let packing = (rows_per_message > 1).then(|| Packing {
            rows_max: rows_per_message,
            packs: seqs.iter().map(|_| Pack::default()).collect(),
            columns: header.columns(domain),
        });
        let partition_count = claim.partition_count;
        let numbering = Numbering { domain, header, provenance, partition_count, seqs, value: Vec::new(), packing };
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
        self.numbering.flush(chunk)?;
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
        match &mut self.packing {
            Some(packing) => packing.add(&self.header, record, &provenance, partition, chunk)?,
            None => {
                self.value.clear();
                self.header.raw_row(record).encode(self.domain, &mut self.value);
                chunk.send(partition, key.as_deref(), &self.value, provenance.to_headers())?;
            }
        }
        *seq += 1;
        failpoint::reach(Point::RowSent);
        Ok(())
    }

    /// Sends what is begun.
    fn flush(&mut self, chunk: &Chunk) -> Result<(), ProduceError> {
        match &mut self.packing {
            Some(packing) => (0..packing.packs.len()).try_for_each(|partition| packing.send(partition, chunk)),
            None => Ok(()),
        }
    }
}

impl Packing {
    /// Adds a row to its partition's message, and sends that when it is full.
    fn add(
        &mut self,
        header: &Header,
        record: &Record<'_>,
        provenance: &Provenance,
        partition: i32,
        chunk: &Chunk,
    ) -> Result<(), ProduceError> {
        let at = partition as usize;
        if self.packs[at].is_too_full_for(record.text_bytes()) {
            self.send(at, chunk)?;
        }
        header.write(record, self.packs[at].line(provenance));
        if self.packs[at].is_full(self.rows_max) { self.send(at, chunk) } else { Ok(()) }
    }

    /// Sends a partition's message, if a row is in it. It has no key: its rows may be of several.
    fn send(&mut self, at: usize, chunk: &Chunk) -> Result<(), ProduceError> {
        let pack = &mut self.packs[at];
        if let Some(headers) = pack.headers(&self.columns) {
            // There are as many as partitions, which Kafka numbers by 32 bits.
            chunk.send(at as i32, None, pack.value(), headers)?;
            pack.clear();
        }
        Ok(())
    }
}
