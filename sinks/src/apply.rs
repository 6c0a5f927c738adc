//! The transaction `apply`: one batch of rows, exactly once.
//!
//! In this order: move the bookmarks, or find that the batch is not ours to apply; tell new rows from
//! duplicates; write the newest row of each key; keep the rejects; add up the counts; mark what changed. All of
//! it commits or none. An unanswered COMMIT is resolved by applying the same batch again: the bookmark says
//! whether it had worked.
//!
//! A row that Postgres refuses fails the whole statement. The batch is then applied again *carefully*: under
//! savepoints the rows are halved until the refused ones stand alone; those become rejects, and the next older
//! row of their key gets its turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use freshet_topics::window::{Window, WindowKind};
use freshet_topics::{Provenance, Value};
use sqlx::{Connection, PgConnection};

use crate::bookmark::{self, Advance, Move};
use crate::postgres::{ErrorKind, error_kind};
use crate::progress::{self, Part, PartProgress};
use crate::rejects::{self, Refusal, Reject};
use crate::upsert::{Candidate, Changed, Upsert, Written};

/// The channel on which a publisher hears that there are change marks.
pub const MARKS_CHANNEL: &str = "freshet_marks";

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

/// More than this share of the latest rows refused by Postgres is not the rows' fault but the table's.
const REFUSED_SHARE_MAX: f64 = 0.5;
/// Fewer rows than this are never too bad: a small file may be wholly wrong.
const REFUSED_ROWS_MIN: usize = 1000;

/// How many of the latest rows Postgres refused: whole batches, as few as make [`REFUSED_ROWS_MIN`] rows.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    /// (rows, refused) a batch.
    batches: VecDeque<(usize, usize)>,
    rows: usize,
    refused: usize,
}

impl Refusals {
    /// Remembers a batch that was applied.
    pub fn add(&mut self, rows: usize, refused: usize) {
        self.batches.push_back((rows, refused));
        (self.rows, self.refused) = (self.rows + rows, self.refused + refused);
        while let Some((oldest, oldest_refused)) = self.batches.front().copied()
            && self.rows - oldest >= REFUSED_ROWS_MIN
        {
            self.batches.pop_front();
            (self.rows, self.refused) = (self.rows - oldest, self.refused - oldest_refused);
        }
    }

    /// Whether a batch of so many rows, so many of them refused, makes too many.
    ///
    /// | before: refused of | batch: refused of | too many |
    /// |---|---|---|
    /// | 0 of 0 | 400 of 400 | no: too few to tell |
    /// | 0 of 0 | 501 of 1000 | yes |
    /// | 900 of 900 | 100 of 100 | yes |
    /// | 900 of 900 | 1 of 100 | no: the batch itself is well |
    /// | 0 of 1000 | 600 of 600 | no: not yet half |
    fn too_many(&self, rows: usize, refused: usize) -> bool {
        let above = |refused: usize, rows: usize| refused as f64 > REFUSED_SHARE_MAX * rows as f64;
        let (all, all_refused) = (self.rows + rows, self.refused + refused);
        all >= REFUSED_ROWS_MIN && above(all_refused, all) && above(refused, rows)
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One statement; a refused row fails the attempt.
    Fast,
    /// Savepoints and halving; refused rows are taken out.
    Careful,
}

enum Failure {
    Row,
    Final(ApplyError),
}

impl<E: Into<ApplyError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Final(error.into())
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
    let domain = upsert.domain().name;
    let mut transaction = connection.begin().await?;
    if mode == Mode::Careful {
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
    }

    let moves: Vec<Move> = batch.iter().map(|partition| partition.bookmark).collect();
    let decisions = bookmark::move_all(&mut transaction, domain, &moves).await?;
    let lost: Vec<i32> =
        moves.iter().zip(&decisions).filter(|(_, one)| **one == Advance::Lost).map(|(one, _)| one.partition).collect();
    if !lost.is_empty() {
        return Err(ApplyError::Lost(lost).into());
    }

    let going = batch.iter().zip(&decisions).filter(|(_, decision)| **decision == Advance::Go).map(|(one, _)| one);
    let mut work = Work::sort_out(&mut transaction, going).await?;
    let written = work.write(&mut transaction, upsert, mode, recent).await?;
    let marks = work.settle(&written);
    rejects::insert(&mut transaction, domain, topic, &work.rejects).await?;
    progress::save(&mut transaction, domain, &work.progress).await?;
    append_marks(&mut transaction, domain, &marks).await?;
    match transaction.commit().await {
        Ok(()) => Ok(work.applied),
        // A deferred constraint: checked at once, it names its row.
        Err(error) if mode == Mode::Fast && error_kind(&error) == ErrorKind::Row => Err(Failure::Row),
        Err(error) => Err(error.into()),
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

fn part_of(partition: i32, row: &ReceivedRow) -> Part {
    Part { object: row.provenance.object, generation: row.provenance.generation, partition }
}

impl<'b> Work<'b> {
    /// Tells new rows from duplicates, and rejects from rows to write.
    async fn sort_out(
        connection: &mut PgConnection,
        batch: impl Iterator<Item = &'b PartitionBatch>,
    ) -> Result<Self, sqlx::Error> {
        let received: Vec<(i32, &ReceivedRow)> =
            batch.flat_map(|partition| partition.rows.iter().map(|row| (partition.bookmark.partition, row))).collect();
        let parts: BTreeSet<Part> = received.iter().map(|(partition, row)| part_of(*partition, row)).collect();
        let parts: Vec<Part> = parts.into_iter().collect();
        let progress = if parts.is_empty() { BTreeMap::new() } else { progress::load(connection, &parts).await? };
        let mut work = Work {
            rows: Vec::with_capacity(received.len()),
            progress,
            rejects: Vec::new(),
            applied: Applied::default(),
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

    fn reject(&mut self, partition: i32, row: &ReceivedRow, refusal: Refusal) {
        self.progress.entry(part_of(partition, row)).or_default().added.rejected += 1;
        *self.applied.rejected.entry(refusal.rule).or_default() += 1;
        self.rejects.push(Reject {
            provenance: row.provenance,
            partition,
            offset: row.offset,
            raw: String::from_utf8_lossy(&row.raw).into_owned(),
            refusal,
        });
    }

    /// Writes the newest row of each key; where Postgres refuses it, the next older one.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        upsert: &Upsert,
        mode: Mode,
        recent: &Refusals,
    ) -> Result<Vec<Written>, Failure> {
        let mut sorted: Vec<Candidate> = self
            .rows
            .iter()
            .enumerate()
            .filter_map(|(index, (_, row))| {
                let values = row.outcome.as_ref().ok()?;
                Some(Candidate { values, provenance: &row.provenance, index })
            })
            .collect();
        sorted.sort_unstable_by(|left, right| upsert.compare(left, right));
        let mut keys: Vec<&[Candidate]> =
            sorted.chunk_by(|left, right| upsert.compare_keys(left, right).is_eq()).collect();
        let mut refusals = Vec::new();
        let mut written = Vec::new();
        while !keys.is_empty() {
            let newest: Vec<Candidate> = keys.iter().map(|key| key[0]).collect();
            let refused = match mode {
                Mode::Fast => match upsert.write(connection, &newest).await {
                    Ok(answer) => {
                        written.extend(answer);
                        Vec::new()
                    }
                    Err(error) if error_kind(&error) == ErrorKind::Row => return Err(Failure::Row),
                    Err(error) => return Err(error.into()),
                },
                Mode::Careful => write_carefully(connection, upsert, &newest, &mut written, recent).await?,
            };
            let refused_indexes: BTreeSet<usize> = refused.iter().map(|(index, _)| *index).collect();
            refusals.extend(refused);
            check_share(recent, &refusals, self.rows.len())?;
            keys = keys
                .into_iter()
                .filter(|key| refused_indexes.contains(&key[0].index))
                .map(|key| &key[1..])
                .filter(|key| !key.is_empty())
                .collect();
        }
        drop(sorted);
        self.take_out(refusals);
        Ok(written)
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

fn check_share(recent: &Refusals, refusals: &[(usize, String)], rows: usize) -> Result<(), ApplyError> {
    match refusals.last() {
        Some((_, reason)) if recent.too_many(rows, refusals.len()) => Err(ApplyError::TooManyRefused {
            refused: recent.refused + refusals.len(),
            rows: recent.rows + rows,
            reason: reason.clone(),
        }),
        _ => Ok(()),
    }
}

/// Writes rows under savepoints, halving what fails, and returns the rows that Postgres refuses with its words.
async fn write_carefully(
    connection: &mut PgConnection,
    upsert: &Upsert,
    rows: &[Candidate<'_>],
    written: &mut Vec<Written>,
    recent: &Refusals,
) -> Result<Vec<(usize, String)>, Failure> {
    let mut refused = Vec::new();
    let mut slices = vec![rows];
    while let Some(slice) = slices.pop() {
        sqlx::query("SAVEPOINT slice").execute(&mut *connection).await?;
        match upsert.write(connection, slice).await {
            Ok(answer) => {
                sqlx::query("RELEASE SAVEPOINT slice").execute(&mut *connection).await?;
                written.extend(answer);
            }
            Err(error) if error_kind(&error) == ErrorKind::Row => {
                sqlx::query("ROLLBACK TO SAVEPOINT slice").execute(&mut *connection).await?;
                sqlx::query("RELEASE SAVEPOINT slice").execute(&mut *connection).await?;
                match slice {
                    [row] => {
                        refused.push((row.index, error.to_string()));
                        check_share(recent, &refused, rows.len())?;
                    }
                    _ => {
                        let (low, high) = slice.split_at(slice.len() / 2);
                        slices.extend([high, low]);
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(refused)
}

/// What a batch changed, each once.
#[derive(Default)]
struct Marks {
    windows: BTreeSet<Window>,
    locations: BTreeSet<i32>,
}

impl Marks {
    fn of(written: &[Written]) -> Self {
        let mut marks = Marks::default();
        for one in written {
            match &one.changed {
                Changed::Locations(ids) => marks.locations.extend(ids),
                Changed::Dates(dates) => {
                    let dates: BTreeSet<_> = dates.iter().copied().collect();
                    for kind in WindowKind::ALL {
                        marks.windows.extend(dates.iter().map(|date| Window::containing(kind, *date)));
                    }
                }
            }
        }
        marks
    }
}

/// Appends change marks and wakes the publisher when the transaction commits.
async fn append_marks(connection: &mut PgConnection, domain: &str, marks: &Marks) -> Result<(), sqlx::Error> {
    if marks.windows.is_empty() && marks.locations.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH appended AS (
             INSERT INTO pipeline.marks (domain, window_kind, window_start, location_id)
             SELECT $1, u.kind, u.start, NULL::int4 FROM UNNEST($2::text[], $3::date[]) AS u (kind, start)
             UNION ALL
             SELECT $1, NULL, NULL, u.id FROM UNNEST($4::int4[]) AS u (id)
         )
         SELECT pg_notify($5, $1)",
    )
    .bind(domain)
    .bind(marks.windows.iter().map(|window| window.kind.name().to_owned()).collect::<Vec<_>>())
    .bind(marks.windows.iter().map(|window| window.start).collect::<Vec<_>>())
    .bind(marks.locations.iter().copied().collect::<Vec<_>>())
    .bind(MARKS_CHANNEL)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_refuses_most_rows_is_told_from_bad_rows() {
        let cases = [
            (&[][..], (400, 400), false),
            (&[], (1000, 501), true),
            (&[], (1000, 500), false),
            (&[(900, 900)], (100, 100), true),
            (&[(900, 900)], (100, 1), false),
            (&[(1000, 0)], (600, 600), false),
            (&[(1000, 0), (600, 600), (600, 600)], (100, 100), true),
        ];
        for (before, (rows, refused), expected) in cases {
            let mut recent = Refusals::default();
            for (rows, refused) in before {
                recent.add(*rows, *refused);
            }
            assert_eq!(recent.too_many(rows, refused), expected, "{before:?} then {refused} of {rows}");
        }
    }

    #[test]
    fn only_the_latest_rows_are_remembered() {
        let mut recent = Refusals::default();
        for _ in 0..100 {
            recent.add(300, 100);
        }
        assert_eq!((recent.batches.len(), recent.rows, recent.refused), (4, 1200, 400));
    }
}
