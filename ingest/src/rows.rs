//! The second pass over a file: sends every row to its partition, with numbers that depend only on the bytes.
//!
//! Rows of a partition are packed in one message, as many as allowed; incomplete messages are sent at the end of each
//! chunk, so that no row waits for another file. With one row per message, each has the form of a single row.

use std::sync::Arc;

use freshet_sinks::ledger::Claim;
use freshet_topics::failpoint::{self, Point};
use freshet_topics::message::packed::Pack;
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
    /// Kafka's error.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// An error that the first pass did not find in the same bytes.
    #[error("the second pass read different content than the first: {0}")]
    Frame(#[from] FrameError),
}

/// Publishes the rows of one object from a boundary on. It blocks, so it is moved to a blocking thread for each chunk,
/// and back.
pub(crate) struct RowPublisher {
    framer: Framer,
    numberer: Numberer,
    limits: Arc<Limits>,
    /// Rows that the rate limit has already allowed.
    paid: u32,
}

/// Turns records into messages.
struct Numberer {
    domain: &'static Domain,
    header: Header,
    /// The origin that all rows of the object have in common.
    provenance: Provenance,
    partition_count: i32,
    /// The next sequence number in each partition.
    seqs: Vec<i64>,
    /// Tells how many rows each row overtakes, if any does.
    overtaking: Option<Overtaking>,
    /// The buffer for the value of a message of one row, reused.
    value: Vec<u8>,
    packing: Option<Packing>,
}

/// Messages being packed.
struct Packing {
    rows_max: usize,
    /// One for each partition.
    packs: Vec<Pack>,
    /// The columns of the file.
    columns: String,
}

impl RowPublisher {
    /// Sends each row in its own message.
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
            parser: claim.numbering.parser_version,
            nonce: claim.object.nonce,
            partitions: claim.numbering.partitions,
        };
        let partition_count = claim.numbering.partitions;
        let (value, packing) = (Vec::new(), None);
        let numberer = Numberer { domain, header, provenance, partition_count, seqs, overtaking, value, packing };
        RowPublisher { framer, numberer, limits, paid: 0 }
    }

    /// Packs at most this many rows in a message. With one row, a message has the form of a single row.
    pub(crate) fn packing(mut self, rows_max: usize) -> Self {
        let Numberer { domain, header, seqs, packing, .. } = &mut self.numberer;
        *packing = (rows_max > 1).then(|| Packing {
            rows_max,
            packs: seqs.iter().map(|_| Pack::default()).collect(),
            columns: header.columns(domain),
        });
        self
    }

    /// Sends the rows of `bytes`; with `last`, the file ends after them.
    pub(crate) fn publish(&mut self, bytes: &[u8], last: bool, chunk: &Chunk) -> Result<(), SendError> {
        let mut input = bytes;
        while let Some(record) = self.framer.next(&mut input)? {
            pay(&self.limits, &mut self.paid);
            self.numberer.send(&record, chunk)?;
        }
        while last && let Some(record) = self.framer.finish()? {
            pay(&self.limits, &mut self.paid);
            self.numberer.send(&record, chunk)?;
        }
        self.numberer.flush(chunk)?;
        Ok(())
    }

    /// The boundary after the last row sent.
    pub(crate) fn position(&self) -> Position {
        self.framer.position()
    }

    /// The next sequence number in each partition.
    pub(crate) fn seqs(&self) -> &[i64] {
        &self.numberer.seqs
    }
}

fn pay(limits: &Limits, paid: &mut u32) {
    if *paid == 0 {
        limits.rows();
        *paid = limits.rows_per_check();
    }
    *paid -= 1;
}

impl Numberer {
    fn send(&mut self, record: &Record<'_>, chunk: &Chunk) -> Result<(), ProduceError> {
        // The header is not a row.
        let Some(row) = record.row() else { return Ok(()) };
        let key = self.header.partition_cell(record).and_then(message_key);
        let partition = partition_of(key.as_deref(), self.partition_count);
        // `partition_of` is below the count, and there is a number for each partition.
        let seq = &mut self.seqs[partition as usize];
        let provenance = Provenance { row, line: record.line().cast_signed(), seq: *seq, ..self.provenance };
        let overtaken = self.overtaking.as_mut().map_or(0, |overtaking| overtaking.take(&self.header, record));
        match &mut self.packing {
            Some(packing) => {
                let pack = packing.with_room_for(record, partition, chunk)?;
                self.header.write(record, overtaken, pack.line(&provenance));
                packing.send_if_full(partition, chunk)?;
            }
            None => {
                self.value.clear();
                RawRow { overtaken, ..self.header.raw_row(record) }.encode(self.domain, &mut self.value);
                chunk.send(partition, key.as_deref(), &self.value, provenance.to_headers())?;
            }
        }
        *seq += 1;
        failpoint::reach(Point::RowSent);
        Ok(())
    }

    /// Sends incomplete messages.
    fn flush(&mut self, chunk: &Chunk) -> Result<(), ProduceError> {
        match &mut self.packing {
            Some(packing) => (0..packing.packs.len()).try_for_each(|partition| packing.send(partition, chunk)),
            None => Ok(()),
        }
    }
}

impl Packing {
    /// The message of a partition, sent first and started again if a row would not fit in it.
    fn with_room_for(&mut self, record: &Record<'_>, partition: i32, chunk: &Chunk) -> Result<&mut Pack, ProduceError> {
        let at = partition as usize;
        if self.packs[at].is_too_full_for(record.text_bytes()) {
            self.send(at, chunk)?;
        }
        Ok(&mut self.packs[at])
    }

    /// Sends the message of a partition if it is full.
    fn send_if_full(&mut self, partition: i32, chunk: &Chunk) -> Result<(), ProduceError> {
        let at = partition as usize;
        if self.packs[at].is_full(self.rows_max) { self.send(at, chunk) } else { Ok(()) }
    }

    /// Sends a partition's message, if it has a row. It has no key, because its rows may have different ones.
    fn send(&mut self, at: usize, chunk: &Chunk) -> Result<(), ProduceError> {
        let pack = &mut self.packs[at];
        if let Some(headers) = pack.headers(&self.columns) {
            // There are as many as partitions, which Kafka numbers with 32 bits.
            chunk.send(at as i32, None, pack.value(), headers)?;
            pack.clear();
        }
        Ok(())
    }
}
