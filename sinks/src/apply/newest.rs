//! Writes the newest row of each key or, if Postgres refuses it, the next-newest one.
//!
//! A row that Postgres refuses fails the whole statement, and with it the transaction. The batch is then written again
//! *carefully*: under savepoints, the rows are halved until each refused row is isolated.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::copy;
use super::difference::{Detail, Difference, Differences};
use super::error::{Failure, Mode};
use super::refusals::{Refusals, check_share};
use super::update;
use super::upsert::{Candidate, Upsert};
use super::written::Written;
use crate::destination::Destination;
use crate::postgres::{ErrorKind, error_kind};

/// What happened to the rows of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What was written.
    pub(crate) written: Vec<Written>,
    /// Whether COPY wrote it.
    pub(crate) by_copy: bool,
    /// Rows that Postgres refused, by index, with its error message.
    pub(crate) refused: Vec<(usize, String)>,
    /// In place only: how the rows sent to Postgres differed from the table.
    pub(crate) differences: Vec<Difference>,
    /// In place only: rows that lost to newer data of their key, in the table or in the batch, by index.
    pub(crate) lost: Vec<usize>,
}

/// A topic may hold a row twice.
fn is_same_row(left: &Candidate, right: &Candidate) -> bool {
    left.row.lineage() == right.row.lineage()
}

/// The newest row of each key, in key order, and the indexes of the other rows.
pub(crate) fn of_each_key<'a>(upsert: &Upsert, mut rows: Vec<Candidate<'a>>) -> (Vec<Candidate<'a>>, Vec<usize>) {
    rows.sort_unstable_by(|left, right| upsert.compare(left, right));
    let mut others = Vec::new();
    rows.dedup_by(|next, kept| {
        let is_same_key = upsert.compare_keys(next, kept).is_eq();
        if is_same_key && !is_same_row(next, kept) {
            others.push(next.index);
        }
        is_same_key
    });
    (rows, others)
}

/// Writes the newest row of each key or, if Postgres refuses it, the next-newest one. In place, only rows that differ
/// from the table are written.
pub(crate) async fn write(
    connection: &mut PgConnection,
    upsert: &Upsert,
    mut rows: Vec<Candidate<'_>>,
    mode: Mode,
    recent: &Refusals,
) -> Result<Outcome, Failure> {
    rows.sort_unstable_by(|left, right| upsert.compare(left, right));
    let all = rows.len();
    let mut keys: Vec<&[Candidate]> = rows.chunk_by(|left, right| upsert.compare_keys(left, right).is_eq()).collect();
    let mut outcome = Outcome::default();
    while !keys.is_empty() {
        let mut newest: Vec<Candidate> = keys.iter().map(|key| key[0]).collect();
        if mode == Mode::Update {
            let updated = update::write(connection, upsert, &newest).await.map_err(Failure::of_writing)?;
            let mut changed = updated.changed.into_iter();
            newest.retain(|_| changed.next() == Some(false));
            outcome.differences.extend(updated.differences);
            outcome.written.extend(updated.written);
        }
        if upsert.destination() == Destination::Correction {
            let Differences { differing, lost } = upsert.differences(connection, &newest, Detail::Counts).await?;
            let differ: BTreeSet<usize> = differing.iter().map(|difference| difference.index).collect();
            newest.retain(|row| differ.contains(&row.index));
            outcome.differences.extend(differing);
            outcome.lost.extend(lost);
        }
        let refused = match mode {
            Mode::Copy => match copy::write(connection, upsert, &newest).await {
                Ok(Some(answer)) => {
                    outcome.written.extend(answer);
                    outcome.by_copy = true;
                    Vec::new()
                }
                // Whatever the cause, the upsert meets it again if it is real.
                Ok(None) | Err(sqlx::Error::Database(_)) => return Err(Failure::Row),
                Err(error) => return Err(error.into()),
            },
            Mode::Update | Mode::Fast => {
                let answer = upsert.write(connection, &newest).await.map_err(Failure::of_writing)?;
                outcome.written.extend(answer);
                Vec::new()
            }
            Mode::Careful => write_carefully(connection, upsert, &newest, &mut outcome.written, recent).await?,
        };
        let refused_indexes: BTreeSet<usize> = refused.iter().map(|(index, _)| *index).collect();
        outcome.refused.extend(refused);
        check_share(recent, &outcome.refused, all)?;
        let (refused_keys, written_keys): (Vec<&[Candidate]>, Vec<&[Candidate]>) =
            keys.into_iter().partition(|key| refused_indexes.contains(&key[0].index));
        let lost = written_keys.iter().flat_map(|key| key[1..].iter().filter(|row| !is_same_row(row, &key[0])));
        outcome.lost.extend(lost.map(|row| row.index));
        keys = refused_keys.into_iter().map(|key| &key[1..]).filter(|key| !key.is_empty()).collect();
    }
    Ok(outcome)
}

/// Writes rows under savepoints, halving those that fail, and returns the rows that Postgres refuses, with its error
/// messages.
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
