//! The transaction `apply`: one batch of rows, exactly once.
//!
//! In this order: move the bookmarks, or find that the batch is not ours to apply; pass over the rows of another life of
//! the ledger ([`crate::lives`]); tell new rows from duplicates; write the newest row of each key; keep the rejects; add up the counts; mark what changed. All of
//! it commits or none. An unanswered COMMIT is resolved by applying the same batch again: the bookmark says
//! whether it had worked.
//!
//! A row that Postgres refuses becomes a reject, and the next older row of its key gets its turn ([`newest`](self)).
//!
//! A shadow is filled by the same transaction, at another [`Place`]; only its changes mark nothing.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::{Provenance, Value};
use sqlx::{Connection, PgConnection};

use crate::bookmark::{self, Advance, Move};
use crate::lives::{self, Sifted};
use crate::marks::Marks;
use crate::newest::{self, Failure, Mode};
use crate::place::Place;
use crate::postgres::{ErrorKind, error_kind};
use crate::progress::{self, Part, PartProgress};
use crate::refusals::Refusals;
use crate::rejects::{self, Refusal, Reject};
use crate::upsert::{Candidate, Upsert, Written};

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
    /// Changes made to its values, as (column, rule).
    pub corrections: Vec<(&'static str, &'static str)>,
}

impl ReceivedRow {
    /// The dead letter of the row.
    pub(crate) fn rejected(&self, partition: i32, refusal: Refusal) -> Reject {
        Reject {
            provenance: self.provenance,
            partition,
            offset: self.offset,
            raw: String::from_utf8_lossy(&self.raw).into_owned(),
            refusal,
        }
    }
}

/// The records of one partition in a batch: everything from `bookmark.expected` up to `bookmark.next`.
#[derive(Debug, Clone)]
pub struct PartitionBatch {
    /// What applying does to the bookmark.
    pub bookmark: Move,
    /// The rows in it. Records that carry no row move the bookmark alone.
    pub rows: Vec<ReceivedRow>,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows now in the table.
    pub applied: u64,
    /// Rows that lost to newer data.
    pub stale: u64,
    /// Rows received before.
    pub duplicate: u64,
    /// Rows that cannot load, as (rule, count).
    pub rejected: BTreeMap<&'static str, u64>,
    /// Changes made to values, as ((column, rule), count).
    pub corrected: BTreeMap<(&'static str, &'static str), u64>,
    /// Rows that another ledger sent, or another life of this one ([`crate::lives`]).
    pub passed_over: u64,
    /// The life of the ledger that began because this batch shows that Postgres went back.
    pub life_begun: Option<i32>,
    /// Rows that were handed to Postgres.
    pub offered: usize,
    /// Rows that Postgres itself refused.
    pub refused: usize,
}

/// Why a batch did not apply. Nothing of it did.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The bookmarks of these partitions are not where this owner left them: it must leave them alone.
    #[error("partitions {0:?} belong to another owner, or their bookmarks were set by hand")]
    Lost(Vec<i32>),
    /// Postgres refuses more rows than a few bad ones would explain.
    #[error(
        "the database refuses {refused} of {rows} rows, the last because of {reason}: \
         check constraints and triggers of the table"
    )]
    TooManyRefused {
        /// Rows refused.
        refused: usize,
        /// Rows looked at.
        rows: usize,
        /// What Postgres said of the last one.
        reason: String,
    },
    /// The schema is not what this version needs, or a permission is missing.
    #[error("the schema or a permission is wrong (run `freshet migrate`): {0}")]
    Schema(sqlx::Error),
    /// The world's fault: the same batch can be applied again.
    #[error("apply a batch: {0}")]
    World(sqlx::Error),
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        match error_kind(&error) {
            // Outside the upsert no row is to blame: the pipeline's own tables refuse, and will refuse again.
            ErrorKind::Schema | ErrorKind::Row => ApplyError::Schema(error),
            ErrorKind::World => ApplyError::World(error),
        }
    }
}

/// Applies a batch on a connection that is in no transaction. `recent` is what Postgres refused of the rows before.
///
/// # Errors
/// See [`ApplyError`]; nothing of the batch is applied then, but for a lost answer to COMMIT, which calling
/// again with the same batch resolves.
pub async fn apply(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &[PartitionBatch],
    recent: &Refusals,
) -> Result<Applied, ApplyError> {
    match attempt(connection, upsert, topic, batch, Mode::Fast, recent).await {
        Err(Failure::Row) => {
            attempt(connection, upsert, topic, batch, Mode::Careful, recent).await.map_err(|failure| match failure {
                Failure::Row => unreachable!("a careful attempt takes refused rows out"),
                Failure::Final(error) => error,
            })
        }
        Err(Failure::Final(error)) => Err(error),
        Ok(applied) => Ok(applied),
    }
}

async fn attempt(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &[PartitionBatch],
    mode: Mode,
    recent: &Refusals,
) -> Result<Applied, Failure> {
    let (domain, place) = (upsert.domain().name, upsert.place());
    let mut transaction = connection.begin().await?;
    if mode == Mode::Careful {
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
    }

    let going = advance(&mut transaction, place, domain, batch).await?;
    let mut work = Work::sort_out(&mut transaction, upsert, &going).await?;
    let written = work.write(&mut transaction, upsert, mode, recent).await?;
    let marks = work.settle(&written);
    rejects::insert(&mut transaction, place, domain, topic, &work.rejects).await?;
    progress::save(&mut transaction, place, domain, &work.progress).await?;
    if place == Place::Live {
        marks.append(&mut transaction, domain).await?;
    }
    match transaction.commit().await {
        Ok(()) => Ok(work.applied),
        // A deferred constraint: checked at once, it names its row.
        Err(error) if mode == Mode::Fast && error_kind(&error) == ErrorKind::Row => Err(Failure::Row),
        Err(error) => Err(error.into()),
    }
}

/// Moves the bookmarks, and gives the parts of the batch that were not applied before.
///
/// # Errors
/// [`ApplyError::Lost`] names the partitions whose bookmarks are not where this owner left them.
pub(crate) async fn advance<'b>(
    connection: &mut PgConnection,
    place: Place,
    domain: &str,
    batch: &'b [PartitionBatch],
) -> Result<Vec<&'b PartitionBatch>, ApplyError> {
    let moves: Vec<Move> = batch.iter().map(|partition| partition.bookmark).collect();
    let decisions = bookmark::move_all(connection, place, domain, &moves).await?;
    let decided = |wanted: Advance| batch.iter().zip(&decisions).filter(move |(_, one)| **one == wanted);
    let lost: Vec<i32> = decided(Advance::Lost).map(|(one, _)| one.bookmark.partition).collect();
    match lost.is_empty() {
        true => Ok(decided(Advance::Go).map(|(one, _)| one).collect()),
        false => Err(ApplyError::Lost(lost)),
    }
}

/// A batch on its way through the transaction.
struct Work<'b> {
    /// New rows with their partition, in the order received.
    rows: Vec<(i32, &'b ReceivedRow)>,
    progress: BTreeMap<Part, PartProgress>,
    rejects: Vec<Reject>,
    applied: Applied,
}

/// The reading of a file, in a partition, that a row belongs to.
pub(crate) fn part_of(partition: i32, row: &ReceivedRow) -> Part {
    Part { object: row.provenance.object, generation: row.provenance.generation, partition }
}

impl<'b> Work<'b> {
    /// Leaves out what is not this ledger's, tells new rows from duplicates, and rejects from rows to write.
    async fn sort_out(
        connection: &mut PgConnection,
        upsert: &Upsert,
        batch: &[&'b PartitionBatch],
    ) -> Result<Self, sqlx::Error> {
        let sifted = lives::sift(connection, upsert.place(), upsert.domain().name, batch).await?;
        let Sifted { rows: received, passed_over, life_begun } = sifted;
        let parts: BTreeSet<Part> = received.iter().map(|(partition, row)| part_of(*partition, row)).collect();
        let parts: Vec<Part> = parts.into_iter().collect();
        let progress = if parts.is_empty() {
            BTreeMap::new()
        } else {
            progress::load(connection, upsert.place(), upsert.domain().name, &parts).await?
        };
        let mut work = Work {
            rows: Vec::with_capacity(received.len()),
            progress,
            rejects: Vec::new(),
            applied: Applied { passed_over, life_begun, ..Applied::default() },
        };
        for (partition, row) in received {
            work.receive(partition, row);
        }
        Ok(work)
    }

    fn receive(&mut self, partition: i32, row: &'b ReceivedRow) {
        let progress = self.progress.entry(part_of(partition, row)).or_default();
        if !progress.received.insert(row.provenance.seq) {
            progress.added.duplicate += 1;
            self.applied.duplicate += 1;
            return;
        }
        match &row.outcome {
            Ok(_) => {
                for (column, rule) in &row.corrections {
                    progress.added.correct(column, rule);
                    *self.applied.corrected.entry((column, rule)).or_default() += 1;
                }
                self.rows.push((partition, row));
            }
            Err(refusal) => self.reject(partition, row, refusal.clone()),
        }
    }

    fn reject(&mut self, partition: i32, row: &'b ReceivedRow, refusal: Refusal) {
        self.progress.entry(part_of(partition, row)).or_default().added.rejected += 1;
        *self.applied.rejected.entry(refusal.rule).or_default() += 1;
        self.rejects.push(row.rejected(partition, refusal));
    }

    /// Writes the rows, and takes out those that Postgres refuses.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        upsert: &Upsert,
        mode: Mode,
        recent: &Refusals,
    ) -> Result<Vec<Written>, Failure> {
        let rows = self.rows.iter().enumerate().filter_map(|(index, (_, row))| {
            let values = row.outcome.as_ref().ok()?;
            Some(Candidate { values, provenance: &row.provenance, index })
        });
        let outcome = newest::write(connection, upsert, rows.collect(), mode, recent).await?;
        self.take_out(outcome.refused);
        Ok(outcome.written)
    }

    /// Turns the rows that Postgres refused into rejects.
    fn take_out(&mut self, refusals: Vec<(usize, String)>) {
        (self.applied.offered, self.applied.refused) = (self.rows.len(), refusals.len());
        for (index, message) in &refusals {
            let (partition, row) = self.rows[*index];
            let refusal = Refusal { rule: REFUSED_BY_DATABASE, column: None, value: Some(message.clone()) };
            self.reject(partition, row, refusal);
        }
        let refused: BTreeSet<usize> = refusals.into_iter().map(|(index, _)| index).collect();
        let mut index = 0;
        self.rows.retain(|_| {
            index += 1;
            !refused.contains(&(index - 1))
        });
    }

    /// Counts what was written and what lost to newer data, and says what must be derived again.
    fn settle(&mut self, written: &[Written]) -> Marks {
        let lineages: BTreeSet<(i64, i32, i64)> =
            written.iter().flat_map(|one| one.rows.iter().map(|row| (one.object, one.generation, *row))).collect();
        for (partition, row) in &self.rows {
            let Provenance { object, generation, row: number, .. } = row.provenance;
            let added = &mut self.progress.entry(part_of(*partition, row)).or_default().added;
            if lineages.contains(&(object, generation, number)) {
                added.applied += 1;
                self.applied.applied += 1;
            } else {
                added.stale += 1;
                self.applied.stale += 1;
            }
        }
        Marks::of(written)
    }
}
