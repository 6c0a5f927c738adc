//! A batch: as received and judged, and while it goes through the transaction.
//!
//! A row is an index into the batch: its values are in the batch's columns, its origin is in the list of origins.
//! Nothing is copied per row on the way to Postgres.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::judge::Judged;
use freshet_topics::listed::first_few;
use freshet_topics::message::RawText;
use freshet_topics::{Lineage, Provenance};

use super::progress::{Part, PartProgress};
use super::rejects::{Refusal, Reject};
use super::upsert::Candidate;
use crate::bookmarks::BookmarkMove;

/// The rule under which rows refused by Postgres are rejected.
pub const REFUSED_BY_DATABASE: &str = "refused_by_database";

/// Where a row of a batch comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The partition of its message.
    pub partition: i32,
    /// The offset of its message.
    pub offset: i64,
    /// The file, and the row's position in it.
    pub provenance: Provenance,
    /// The row as the message has it, kept in case it is rejected.
    pub raw: RawText,
}

/// Rows as received and judged. Within a partition they are in the order of their offsets.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Where each row comes from.
    pub origins: Vec<Origin>,
    /// The values of each row, or why it cannot load, in the same order.
    pub judged: Judged,
}

/// The records of some partitions: for each partition, all records from `expected` up to `next` of its bookmark.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// How applying moves the bookmarks, one for each partition.
    pub bookmarks: Vec<BookmarkMove>,
    /// The rows. Records without a row only move the bookmark.
    pub rows: Rows,
}

impl Batch {
    /// The rows of the partitions named by these bookmarks, partition by partition, in the order received.
    pub fn rows_of(&self, bookmarks: &[BookmarkMove]) -> Vec<ReceivedRow<'_>> {
        let partitions: BTreeSet<i32> = bookmarks.iter().map(|bookmark| bookmark.partition).collect();
        let all = (0..self.rows.origins.len()).map(|at| self.rows.row(at));
        let mut rows: Vec<ReceivedRow<'_>> = all.filter(|row| partitions.contains(&row.origin().partition)).collect();
        rows.sort_by_key(|row| row.origin().partition);
        rows
    }

    /// Its rows, in the order received.
    pub fn all_rows(&self) -> Vec<ReceivedRow<'_>> {
        self.rows_of(&self.bookmarks)
    }

    /// Which records they are, for people: `partition 3 offsets 41 to 599, partition 4 offset 7`. Only the first few
    /// partitions are named.
    pub fn records(&self) -> String {
        let of = |&BookmarkMove { partition, expected: first, next, .. }: &BookmarkMove| match next - 1 {
            last if last > first => format!("partition {partition} offsets {first} to {last}"),
            _ => format!("partition {partition} offset {first}"),
        };
        let moved: Vec<String> = self.bookmarks.iter().filter(|it| it.next > it.expected).map(of).collect();
        first_few(moved.into_iter())
    }
}

impl Rows {
    /// The row at an index.
    pub fn row(&self, at: usize) -> ReceivedRow<'_> {
        ReceivedRow { rows: self, at }
    }
}

/// One row of a batch.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedRow<'b> {
    rows: &'b Rows,
    at: usize,
}

impl<'b> ReceivedRow<'b> {
    /// The rows that this row is part of.
    pub fn rows(&self) -> &'b Rows {
        self.rows
    }

    /// Its index in them.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Where it comes from.
    pub fn origin(&self) -> &'b Origin {
        &self.rows.origins[self.at]
    }

    /// The file that it comes from, and its position there.
    pub fn provenance(&self) -> &'b Provenance {
        &self.origin().provenance
    }

    /// Why it cannot load; `None` if it can.
    pub fn refusal(&self) -> Option<&'b Refusal> {
        self.rows.judged.refusal(self.at)
    }

    /// The generation of a file, and the partition, that it belongs to.
    pub fn part(&self) -> Part {
        let Origin { partition, provenance: Provenance { object, generation, .. }, .. } = *self.origin();
        Part { object, generation, partition }
    }

    /// Which row it is.
    pub(crate) fn lineage(&self) -> Lineage {
        self.provenance().lineage()
    }

    /// Its dead letter.
    fn rejected(&self, refusal: Refusal) -> Reject {
        let Origin { partition, offset, provenance, ref raw } = *self.origin();
        Reject { provenance, partition, offset, raw: raw.to_text(), refusal }
    }
}

/// The parts that the rows belong to, without repetition.
pub(crate) fn parts_of(rows: &[ReceivedRow<'_>]) -> Vec<Part> {
    let mut parts: Vec<Part> = rows.iter().map(ReceivedRow::part).collect();
    parts.dedup();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// How to handle a row whose sequence number was received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Count it and leave it out.
    TakeOut,
    /// Process it: all rows that a replay reads were received before.
    Keep,
}

/// A batch on its way through the transaction: without duplicates, and with the rows that load separate from the
/// rejects.
#[derive(Debug, Default)]
pub struct ApplyBatch<'b> {
    /// Rows that load by the rules, in the order received. Row indexes point into this list.
    pub rows: Vec<ReceivedRow<'b>>,
    /// Rows that do not load, and rows that Postgres has refused.
    pub rejected: Vec<(ReceivedRow<'b>, Refusal)>,
    /// Indexes of rows that Postgres has refused.
    pub refused: BTreeSet<usize>,
    /// The sets of received rows, including this batch, and what it adds to the counts.
    pub progress: BTreeMap<Part, PartProgress>,
    /// Rows left out because they were received before.
    pub duplicate: u64,
    /// Objects that a newer version has replaced: their rows count as older than any row in the table.
    pub(crate) replaced: BTreeSet<i64>,
    /// Rows skipped because another life of the ledger sent them ([`crate::lives`]).
    pub passed_over: u64,
    /// The life of the ledger that began because of the skipped rows.
    pub life_begun: Option<i32>,
    /// Changes made to values of new rows, as ((column, rule), count).
    pub corrected: BTreeMap<(&'static str, &'static str), u64>,
    /// Values of new rows that break a rule but load anyway, counted in the same way.
    pub warned: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'b> ApplyBatch<'b> {
    /// Sorts rows by `progress`, the sets as they were before this batch.
    ///
    /// | received before | duplicates | rules | the row |
    /// |---|---|---|---|
    /// | yes | take out | – | is counted as a duplicate |
    /// | yes | keep | load or reject | is to be written or rejected; its corrections are counted already |
    /// | no | – | load or reject | is to be written or rejected, its corrections counted |
    pub fn sort_out(rows: &[ReceivedRow<'b>], progress: BTreeMap<Part, PartProgress>, duplicates: Duplicates) -> Self {
        let mut sorted = ApplyBatch { progress, ..ApplyBatch::default() };
        sorted.rows.reserve(rows.len());
        for row in rows.iter().copied() {
            let progress = sorted.progress.entry(row.part()).or_default();
            if progress.received.insert(row.provenance().seq) {
                let judged = &row.rows().judged;
                for (_, note) in judged.corrections.of(row.at()) {
                    progress.added.correct(note.column, note.rule);
                    *sorted.corrected.entry((note.column, note.rule)).or_default() += 1;
                }
                for (_, note) in judged.warnings.of(row.at()) {
                    progress.added.warn(note.column, note.rule);
                    *sorted.warned.entry((note.column, note.rule)).or_default() += 1;
                }
            } else if duplicates == Duplicates::TakeOut {
                progress.added.duplicate += 1;
                sorted.duplicate += 1;
                continue;
            }
            match row.refusal() {
                None => sorted.rows.push(row),
                Some(refusal) => sorted.rejected.push((row, refusal.clone())),
            }
        }
        sorted
    }

    /// The rows that load, for the upsert.
    pub(crate) fn candidates(&self) -> Vec<Candidate<'b>> {
        let is_current = |row: &ReceivedRow<'b>| !self.replaced.contains(&row.provenance().object);
        let rows = self.rows.iter().copied().enumerate().filter(|(_, row)| is_current(row));
        rows.map(|(index, row)| Candidate { row, index }).collect()
    }

    /// Turns rows that Postgres refused, given by index and error message, into rejects.
    pub(crate) fn reject_refused(&mut self, refused: &[(usize, String)]) {
        for (index, words) in refused {
            let refusal = Refusal { rule: REFUSED_BY_DATABASE, column: None, value: Some(words.clone()) };
            self.rejected.push((self.rows[*index], refusal));
            self.refused.insert(*index);
        }
    }

    /// The rows that Postgres has not refused, with their indexes.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (usize, &ReceivedRow<'b>)> {
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
    use freshet_topics::judge::Note;
    use uuid::Uuid;

    use super::*;

    const MOVE: BookmarkMove = BookmarkMove { partition: 3, expected: 0, next: 4, epoch: 1 };

    /// Rows with these sequence numbers in partition 3, each with a correction and a warning; those at the indexes
    /// `refused` do not load.
    fn batch(seqs: &[i64], refused: &[usize]) -> Batch {
        let origin = |seq: &i64| {
            let provenance = Provenance {
                object: 1,
                generation: 1,
                row: *seq,
                line: 2,
                src_ord: 1,
                seq: *seq,
                parser: 1,
                nonce: Uuid::nil(),
                partitions: 4,
            };
            Origin { partition: 3, offset: *seq, provenance, raw: RawText::default() }
        };
        let refusal = Refusal { rule: "negative", column: None, value: None };
        let all = |rule: &'static str| (0..seqs.len()).map(move |at| (at, Note { column: "cases", rule })).collect();
        let judged = Judged {
            refusals: refused.iter().map(|at| (*at, refusal.clone())).collect(),
            corrections: all("zeroed"),
            warnings: all("many"),
            ..Judged::default()
        };
        Batch { bookmarks: vec![MOVE], rows: Rows { origins: seqs.iter().map(origin).collect(), judged } }
    }

    #[test]
    fn rows_received_before_are_taken_out_unless_they_are_to_be_looked_at_again() {
        let batch = batch(&[0, 1, 1, 2], &[3]);
        let part = Part { object: 1, generation: 1, partition: 3 };
        let rows_of_batch = batch.all_rows();
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
                "a warning is not a correction, and is counted under its rule"
            );
            assert_eq!(sorted.progress[&part].received.to_string(), "{[0,3)}", "{duplicates:?}");
        }
    }

    #[test]
    fn the_rows_of_some_partitions_come_partition_by_partition_as_they_were_received() {
        let mut batch = batch(&[5, 6, 7, 8, 9], &[]);
        for (origin, partition) in batch.rows.origins.iter_mut().zip([3, 0, 3, 1, 0]) {
            origin.partition = partition;
        }
        let at = |partition| BookmarkMove { partition, ..MOVE };
        batch.bookmarks = vec![at(0), at(1), at(3)];
        let seqs = |rows: Vec<ReceivedRow<'_>>| rows.iter().map(|row| row.provenance().seq).collect::<Vec<_>>();
        assert_eq!(seqs(batch.all_rows()), [6, 9, 8, 5, 7]);
        assert_eq!(seqs(batch.rows_of(&[at(3), at(1)])), [8, 5, 7]);
        assert!(batch.rows_of(&[]).is_empty());
    }

    #[test]
    fn a_row_that_postgres_refuses_becomes_a_reject() {
        let batch = batch(&[0, 1], &[]);
        let mut sorted = ApplyBatch::sort_out(&batch.all_rows(), BTreeMap::new(), Duplicates::TakeOut);
        sorted.reject_refused(&[(0, "no".to_owned())]);
        assert_eq!(sorted.accepted().map(|(index, _)| index).collect::<Vec<_>>(), [1]);
        let rejects = sorted.rejects();
        assert_eq!(rejects.len(), 1);
        assert_eq!((rejects[0].refusal.rule, rejects[0].provenance.row), (REFUSED_BY_DATABASE, 0));
    }

    #[test]
    fn a_batch_names_the_records_that_it_has() {
        let of = |(partition, expected, next)| BookmarkMove { partition, expected, next, epoch: 1 };
        type Case = (&'static [(i32, i64, i64)], &'static str);
        let cases: &[Case] = &[
            (&[(3, 41, 600)], "partition 3 offsets 41 to 599"),
            (&[(3, 41, 42), (4, 7, 7), (5, 0, 1)], "partition 3 offset 41, partition 5 offset 0"),
            (
                &[(0, 0, 1), (1, 0, 2), (2, 0, 1), (3, 0, 1), (4, 0, 1)],
                "partition 0 offset 0, partition 1 offsets 0 to 1, partition 2 offset 0 and 2 more",
            ),
        ];
        for (moves, expected) in cases {
            let batch = Batch { bookmarks: moves.iter().copied().map(of).collect(), ..Batch::default() };
            assert_eq!(batch.records(), *expected);
        }
    }
}
