//! A batch of validated rows on its way to the writer: every record read since the last batch, by partition.

use std::collections::BTreeMap;

use freshet_sinks::apply::ReceivedRow;

use crate::record::Validated;

/// The records of one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    /// The first offset.
    pub(crate) first_offset: i64,
    /// One past the last offset.
    pub(crate) next_offset: i64,
    /// The rows, in offset order; those of a message stay together.
    pub(crate) rows: Vec<ReceivedRow>,
}

/// Validated rows by partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    /// What was read of each partition.
    pub(crate) partitions: BTreeMap<i32, Records>,
}

impl Batch {
    /// Adds a record.
    pub(crate) fn push(&mut self, partition: i32, offset: i64, record: Validated) {
        let records = self.passed(partition, offset);
        if let Validated::Rows(rows) = record {
            records.rows.extend(rows);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_record_moves_the_bookmark_alone() {
        let mut batch = Batch::default();
        batch.push(0, 0, Validated::Stream);
        assert_eq!(batch.partitions[&0].next_offset, 1);
        assert!(batch.partitions[&0].rows.is_empty());
    }
}
