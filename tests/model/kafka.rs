//! The log: one topic.

use std::collections::BTreeMap;

use freshet_topics::Provenance;
use freshet_topics::log::{Ends, PartitionLog};
use freshet_topics::stream::FirstRecord;
use uuid::Uuid;

/// A row on its way, with what it says: table key and content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) object: i64,
    pub(crate) generation: i32,
    pub(crate) row: i64,
    pub(crate) src_ord: i64,
    pub(crate) seq: i64,
    pub(crate) parser: i32,
    pub(crate) nonce: Uuid,
    pub(crate) partitions: i32,
    /// The key in the table.
    pub(crate) key: u8,
    /// The content of the file, by number: what the row says.
    pub(crate) content: usize,
}

impl Row {
    pub(crate) fn provenance(&self) -> Provenance {
        Provenance {
            object: self.object,
            generation: self.generation,
            row: self.row,
            line: self.row + 2,
            src_ord: self.src_ord,
            seq: self.seq,
            parser: self.parser,
            nonce: self.nonce,
            partitions: self.partitions,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    /// The stream record.
    Stream(Uuid),
    Row(Row),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Partition {
    /// The log's start; what lies before it is gone.
    pub(crate) low: i64,
    /// All that was ever written, by offset.
    pub(crate) records: Vec<Record>,
}

impl Partition {
    pub(crate) fn high(&self) -> i64 {
        self.records.len() as i64
    }

    pub(crate) fn log(&self) -> PartitionLog {
        let first = match (self.low, self.records.first()) {
            (1.., _) => FirstRecord::Removed,
            (_, None) => FirstRecord::Empty,
            (_, Some(Record::Stream(id))) => FirstRecord::Stream(*id),
            (_, Some(Record::Row(_))) => FirstRecord::Row,
        };
        PartitionLog { first, ends: Ends { low: self.low, high: self.high() } }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Topic {
    pub(crate) partitions: Vec<Partition>,
    /// Records that a producer sent and that are not in the log yet.
    pub(crate) delayed: Vec<(usize, Record)>,
    /// How often the topic was made.
    pub(crate) made: u32,
}

impl Topic {
    /// A new topic, empty: its stream records are still to be written.
    pub(crate) fn make(&mut self, partitions: usize) {
        self.partitions = vec![Partition::default(); partitions];
        self.made += 1;
    }

    /// What each partition begins with.
    pub(crate) fn logs(&self) -> BTreeMap<i32, PartitionLog> {
        (0..).zip(self.partitions.iter().map(Partition::log)).collect()
    }

    pub(crate) fn firsts(&self) -> Vec<FirstRecord> {
        self.partitions.iter().map(|partition| partition.log().first).collect()
    }

    /// Appends, and gives the offset past the record.
    pub(crate) fn append(&mut self, partition: usize, record: Record) -> i64 {
        self.partitions[partition].records.push(record);
        self.partitions[partition].high()
    }
}
