//! A batch: as it is received, and on its way through the transaction.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::judge::Notes;
use freshet_topics::{Kept, Provenance, Value};

use super::progress::{Part, PartProgress};
use super::rejects::{Lineage, Refusal, Reject};
use super::upsert::Candidate;
use crate::bookmarks::BookmarkMove;

/// The name of the rule that rows refused by Postgres are rejected under.
pub const REFUSED_BY_DATABASE: &str = "refused_by_database";

/// One row as it was received and judged.
#[derive(Debug, Clone)]
pub struct ReceivedRow {
    /// Where it comes from.
    pub provenance: Provenance,
    /// Offset of its message.
    pub offset: i64,
    /// The message's value, kept for the case that the row is rejected.
    pub raw: Box<[u8]>,
    /// Its values, or why it cannot load.
    pub outcome: Result<Vec<Value>, Refusal>,
    /// Changes made to its values, and what was let pass.
    pub notes: Notes,
    /// What stands in the table beside its values.
    pub kept: Kept,
}

/// The records of one partition in a batch: everything from `bookmark.expected` up to `bookmark.next`.
#[derive(Debug, Clone)]
pub struct PartitionBatch {
    /// What applying does to the bookmark.
    pub bookmark: BookmarkMove,
    /// The rows in it. Records that carry no row move the bookmark alone.
    pub rows: Vec<ReceivedRow>,
}

/// A row with the partition that it was read from.
#[derive(Debug, Clone, Copy)]
pub struct PartitionRow<'b> {
    /// The partition.
    pub partition: i32,
    /// The row.
    pub row: &'b ReceivedRow,
}

impl PartitionRow<'_> {
    /// The reading of a file, in a partition, that it belongs to.
    pub fn part(&self) -> Part {
        let Provenance { object, generation, .. } = self.row.provenance;
        Part { object, generation, partition: self.partition }
    }

    /// Object, generation and row.
    pub(crate) fn lineage(&self) -> Lineage {
        (self.row.provenance.object, self.row.provenance.generation, self.row.provenance.row)
    }

    /// Its dead letter.
    fn rejected(&self, refusal: Refusal) -> Reject {
        Reject {
            provenance: self.row.provenance,
            partition: self.partition,
            offset: self.row.offset,
            raw: String::from_utf8_lossy(&self.row.raw).into_owned(),
            refusal,
        }
    }
}

/// The rows of the partitions of a batch, in the order received.
pub fn rows_of<'b>(batch: &[&'b PartitionBatch]) -> impl Iterator<Item = PartitionRow<'b>> {
    batch.iter().flat_map(|one| one.rows.iter().map(|row| PartitionRow { partition: one.bookmark.partition, row }))
}

/// The parts that rows belong to, each once.
pub(crate) fn parts_of(rows: &[PartitionRow<'_>]) -> Vec<Part> {
    rows.iter().map(PartitionRow::part).collect::<BTreeSet<Part>>().into_iter().collect()
}

/// What becomes of a row whose sequence number was received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// It is counted and taken out.
    TakeOut,
    /// It is one to look at: all that a replay reads was received before.
    Keep,
}

/// A batch on its way through the transaction: without what was received before, rows that load apart from rejects.
#[derive(Debug, Default)]
pub struct ApplyBatch<'b> {
    /// Rows that load by the rules, in the order received. Indexes of rows point into these.
    pub rows: Vec<PartitionRow<'b>>,
    /// Rows that do not, and those that Postgres has refused.
    pub rejected: Vec<(PartitionRow<'b>, Refusal)>,
    /// Indexes of rows that Postgres has refused.
    pub refused: BTreeSet<usize>,
    /// The sets of received rows, this batch's among them, and what it adds to the counts.
    pub progress: BTreeMap<Part, PartProgress>,
    /// Rows taken out because they were received before.
    pub duplicate: u64,
    /// Objects that a newer version has replaced: their rows are older than what was there.
    pub(crate) replaced: BTreeSet<i64>,
    /// Rows left out because another life of the ledger sent them ([`crate::lives`]).
    pub passed_over: u64,
    /// The life of the ledger that began because of them.
    pub life_begun: Option<i32>,
    /// Changes made to values of rows that were not received before, as ((column, rule), count).
    pub corrected: BTreeMap<(&'static str, &'static str), u64>,
    /// Values of rows that were not received before that break a rule and load all the same, counted likewise.
    pub warned: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'b> ApplyBatch<'b> {
    /// Sorts rows by `progress`, the sets as they were before.
    ///
    /// | received before | duplicates | rules | the row |
    /// |---|---|---|---|
    /// | yes | take out | – | is counted as a duplicate |
    /// | yes | keep | load or reject | is to be written or rejected; its corrections are counted already |
    /// | no | – | load or reject | is to be written or rejected, its corrections counted |
    pub fn sort_out(rows: &[PartitionRow<'b>], progress: BTreeMap<Part, PartProgress>, duplicates: Duplicates) -> Self {
        let mut sorted = ApplyBatch { progress, ..ApplyBatch::default() };
        for row in rows.iter().copied() {
            let progress = sorted.progress.entry(row.part()).or_default();
            if progress.received.insert(row.row.provenance.seq) {
                for (column, rule) in &row.row.notes.corrections {
                    progress.added.correct(column, rule);
                    *sorted.corrected.entry((column, rule)).or_default() += 1;
                }
                for (column, rule) in &row.row.notes.warnings {
                    progress.added.warn(column, rule);
                    *sorted.warned.entry((column, rule)).or_default() += 1;
                }
            } else if duplicates == Duplicates::TakeOut {
                progress.added.duplicate += 1;
                sorted.duplicate += 1;
                continue;
            }
            match &row.row.outcome {
                Ok(_) => sorted.rows.push(row),
                Err(refusal) => sorted.rejected.push((row, refusal.clone())),
            }
        }
        sorted
    }

    /// The rows that load, for the upsert.
    pub(crate) fn candidates(&self) -> Vec<Candidate<'b>> {
        let candidate = |(index, row): (usize, &PartitionRow<'b>)| {
            let values = row.row.outcome.as_ref().ok()?;
            Some(Candidate { values, kept: &row.row.kept, provenance: &row.row.provenance, index })
        };
        let is_current = |(_, row): &(usize, &PartitionRow<'b>)| !self.replaced.contains(&row.row.provenance.object);
        self.rows.iter().enumerate().filter(is_current).filter_map(candidate).collect()
    }

    /// Turns rows that Postgres refused, by index and with its words, into rejects.
    pub(crate) fn reject_refused(&mut self, refused: &[(usize, String)]) {
        for (index, words) in refused {
            let refusal = Refusal { rule: REFUSED_BY_DATABASE, column: None, value: Some(words.clone()) };
            self.rejected.push((self.rows[*index], refusal));
            self.refused.insert(*index);
        }
    }

    /// The rows that Postgres has not refused, with their indexes.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (usize, &PartitionRow<'b>)> {
        self.rows.iter().enumerate().filter(|(index, _)| !self.refused.contains(index))
    }

    /// The dead letters.
    pub(crate) fn rejects(&self) -> Vec<Reject> {
        self.rejected.iter().map(|(row, refusal)| row.rejected(refusal.clone())).collect()
    }

    /// What this batch adds to the counts of a row's file.
    pub(crate) fn progress_of(&mut self, part: Part) -> &mut PartProgress {
        self.progress.entry(part).or_default()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(seq: i64, outcome: Result<Vec<Value>, Refusal>) -> ReceivedRow {
        let provenance = Provenance {
            object: 1,
            generation: 1,
            row: seq,
            line: 2,
            src_ord: 1,
            seq,
            parser: 1,
            nonce: Uuid::nil(),
            partitions: 4,
        };
        let notes = Notes { corrections: vec![("cases", "zeroed")], warnings: vec![("cases", "many")] };
        ReceivedRow { provenance, offset: seq, raw: Box::default(), outcome, notes, kept: Kept::default() }
    }

    #[test]
    fn rows_received_before_are_taken_out_unless_they_are_to_be_looked_at_again() {
        let refusal = Refusal { rule: "negative", column: None, value: None };
        let rows = vec![row(0, Ok(Vec::new())), row(1, Ok(Vec::new())), row(1, Ok(Vec::new())), row(2, Err(refusal))];
        let bookmark = BookmarkMove { partition: 3, expected: 0, next: 4, epoch: 1 };
        let batch = PartitionBatch { bookmark, rows };
        let part = Part { object: 1, generation: 1, partition: 3 };
        let rows_of_batch: Vec<PartitionRow<'_>> = rows_of(&[&batch]).collect();
        assert_eq!(parts_of(&rows_of_batch), [part]);
        // (what to do with duplicates, rows to write, rejects, duplicates, corrections); row 0 was received before.
        for (duplicates, rows, rejected, duplicate, corrected) in
            [(Duplicates::TakeOut, 1, 1, 2, 2), (Duplicates::Keep, 3, 1, 0, 2)]
        {
            let mut before = PartProgress::default();
            before.received.insert(0);
            let sorted = ApplyBatch::sort_out(&rows_of_batch, BTreeMap::from([(part, before)]), duplicates);
            assert_eq!((sorted.rows.len(), sorted.rejected.len()), (rows, rejected), "{duplicates:?}");
            assert_eq!(sorted.duplicate, duplicate, "{duplicates:?}");
            assert_eq!(sorted.corrected, BTreeMap::from([(("cases", "zeroed"), corrected)]), "{duplicates:?}");
            assert_eq!(sorted.warned, BTreeMap::from([(("cases", "many"), corrected)]), "{duplicates:?}");
            let counts: (i64, i64) = sorted.progress.values().fold((0, 0), |(all, warned), progress| {
                let added = &progress.added;
                (all + added.corrected, warned + added.corrections.get("cases:many").copied().unwrap_or_default())
            });
            assert_eq!(
                counts,
                (corrected as i64, corrected as i64),
                "a warning is no correction, and stands by its rule"
            );
            assert_eq!(sorted.progress[&part].received.to_string(), "{[0,3)}", "{duplicates:?}");
        }
    }

    #[test]
    fn a_row_that_postgres_refuses_becomes_a_reject() {
        let bookmark = BookmarkMove { partition: 0, expected: 0, next: 2, epoch: 1 };
        let batch = PartitionBatch { bookmark, rows: vec![row(0, Ok(Vec::new())), row(1, Ok(Vec::new()))] };
        let rows: Vec<PartitionRow<'_>> = rows_of(&[&batch]).collect();
        let mut sorted = ApplyBatch::sort_out(&rows, BTreeMap::new(), Duplicates::TakeOut);
        sorted.reject_refused(&[(0, "no".to_owned())]);
        assert_eq!(sorted.accepted().map(|(index, _)| index).collect::<Vec<_>>(), [1]);
        let rejects = sorted.rejects();
        assert_eq!(rejects.len(), 1);
        assert_eq!((rejects[0].refusal.rule, rejects[0].provenance.row), (REFUSED_BY_DATABASE, 0));
    }
}
