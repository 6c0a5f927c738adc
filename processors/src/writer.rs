//! The writer: applies one assignment's batches in order, one transaction each.
//!
//! Arroyo's tasks only wait for it, behind a bounded channel that is filled in the order of the stream. It
//! outlives an aborted task: what it has begun it ends, and should the partitions be somebody else's by then,
//! the epoch in its transaction no longer fits and nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use freshet_sinks::apply::copy::CopyGuess;
use freshet_sinks::apply::refusals::Refusals;
use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::apply::{self, Applied, ApplyError, Batch};
use freshet_sinks::backoff::Backoff;
use freshet_sinks::bookmarks::{self, BookmarkMove};
use freshet_topics::trace;
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

use crate::batch::JudgedBatch;
use crate::consumer::{Ownership, Position};
use crate::pipeline::BATCHES_AHEAD;
use crate::{metrics, unreadable};

/// Arroyo runs one task more than [`BATCHES_AHEAD`]; their batches always find room, so that the order of submission is
/// the order of writing.
pub(crate) const QUEUE_BATCHES_MAX: usize = BATCHES_AHEAD + 3;

/// After a transient error, here and in a replay.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// A transaction that takes longer is given up, here and in a replay: a hundred times what a full batch needs on two
/// cores.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the writer waits until Postgres has recorded why a partition is halted: nothing depends on it, and it is said
/// again.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before a halted batch is tried again: somebody has to mend the schema first.
const HALTED_RETRY: Duration = Duration::from_secs(15);

/// A batch that is being judged, and where to say that it is applied.
pub(crate) struct Job {
    pub(crate) batch: JoinHandle<JudgedBatch>,
    pub(crate) done: oneshot::Sender<Result<(), WriterError>>,
}

/// The writer cannot go on with this assignment; the processor joins again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriterError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("judge a batch: {0}")]
    Judge(#[from] JoinError),
    #[error("partition {0} is not part of this assignment")]
    NotAssigned(i32),
    #[error("partition {partition} goes back to offset {offset}, before the bookmark")]
    Backwards { partition: i32, offset: i64 },
    #[error("partition {0} is halted: none of its next records can be read")]
    Unreadable(i32),
    #[error("the writer has stopped")]
    Stopped,
}

/// Writes the batches of one assignment.
pub(crate) struct Writer {
    pub(crate) pool: PgPool,
    pub(crate) upsert: Upsert,
    pub(crate) topic: String,
    pub(crate) positions: BTreeMap<i32, Position>,
    /// Told how far each partition is applied, and what fails.
    pub(crate) ownership: Arc<Ownership>,
    /// What Postgres refused lately.
    pub(crate) recent: Refusals,
    /// Whether its keys were new lately.
    pub(crate) copy_guess: CopyGuess,
}

impl Writer {
    /// Applies jobs until the assignment ends or a batch turns out not to be ours.
    pub(crate) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut connection = None;
        while let Some(Job { batch, done }) = jobs.recv().await {
            let result = match batch.await {
                Ok(batch) => self.apply(&mut connection, batch, &done).await,
                Err(error) => Err(error.into()),
            };
            let failed = result.is_err();
            // The task may be gone after a revocation; the bookmark remembers what was applied.
            let _ = done.send(result);
            if failed {
                return;
            }
        }
    }

    async fn apply(
        &mut self,
        connection: &mut Option<PoolConnection<Postgres>>,
        batch: JudgedBatch,
        done: &oneshot::Sender<Result<(), WriterError>>,
    ) -> Result<(), WriterError> {
        let domain = self.upsert.domain().name;
        let batch = self.placed(batch)?;
        self.halt_if_unreadable(&batch).await?;
        let (begun, began) = (Instant::now(), SystemTime::now());
        let mut failures = 0;
        loop {
            let error = match self.attempt(connection, &batch).await {
                Ok(applied) => {
                    self.remember_positions(&batch);
                    self.recent.add(applied.offered, applied.refused);
                    metrics::applied(domain, &applied, begun.elapsed());
                    log_refused(domain, &applied);
                    log_passed_over(domain, &applied);
                    trace_applied(domain, &batch, began);
                    return Ok(());
                }
                Err(error) => error,
            };
            // Whatever state the connection is in, the next attempt starts on a new one.
            drop(connection.take().map(PoolConnection::detach));
            failures += 1;
            for bookmark in &batch.bookmarks {
                self.ownership.failed(bookmark.partition, bookmark.epoch);
            }
            let wait = match next(&error) {
                Next::End => return Err(error),
                Next::TryAgain => {
                    let wait = BACKOFF.after(failures);
                    tracing::warn!(domain, records = batch.records(), %error, "apply failed, trying again in {wait:?}");
                    metrics::retried(domain);
                    wait
                }
                Next::Halt => {
                    self.halt(&batch, &error).await;
                    HALTED_RETRY
                }
            };
            if done.is_closed() {
                return Err(WriterError::Stopped);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(
        &mut self,
        connection: &mut Option<PoolConnection<Postgres>>,
        batch: &Batch,
    ) -> Result<Applied, WriterError> {
        let connection = self.connected(connection).await.map_err(ApplyError::from)?;
        Ok(apply::within(WRITE_TIMEOUT, self.apply_once(connection, batch)).await?)
    }

    async fn apply_once(&mut self, connection: &mut PgConnection, batch: &Batch) -> Result<Applied, ApplyError> {
        let Writer { upsert, topic, recent, copy_guess, .. } = self;
        let by_copy = copy_guess.try_now(upsert, batch.rows.origins.len());
        let applied = apply::apply(connection, upsert, topic, batch, recent, by_copy).await?;
        copy_guess.tried(by_copy, &applied);
        Ok(applied)
    }

    async fn connected<'c>(
        &self,
        connection: &'c mut Option<PoolConnection<Postgres>>,
    ) -> Result<&'c mut PgConnection, sqlx::Error> {
        if connection.is_none() {
            *connection = Some(self.pool.acquire().await?);
        }
        connection.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Gives each partition's records the move that applying them makes.
    fn placed(&self, batch: JudgedBatch) -> Result<Batch, WriterError> {
        batch.placed(|partition, offsets| {
            let at = self.positions.get(&partition).ok_or(WriterError::NotAssigned(partition))?;
            // Never backwards, whatever Kafka sends again.
            if offsets.first < at.next_offset {
                return Err(WriterError::Backwards { partition, offset: offsets.first });
            }
            Ok(BookmarkMove { partition, expected: at.next_offset, next: offsets.next, epoch: at.epoch })
        })
    }

    /// The bookmarks stand behind this batch now.
    fn remember_positions(&mut self, batch: &Batch) {
        for bookmark in &batch.bookmarks {
            if let Some(position) = self.positions.get_mut(&bookmark.partition) {
                position.next_offset = bookmark.next;
                self.ownership.applied(bookmark.partition, position.epoch, position.next_offset);
            }
        }
    }

    /// Halts a partition of which no record of the batch can be read ([`unreadable`]). The assignment ends, and the next
    /// one reads the others on; where Postgres does not hear of it, the next one comes to the same.
    async fn halt_if_unreadable(&self, batch: &Batch) -> Result<(), WriterError> {
        let domain = self.upsert.domain().name;
        let unreadable =
            |bookmark: &BookmarkMove| unreadable::reason(domain, batch, bookmark).map(|reason| (*bookmark, reason));
        let Some((bookmark, reason)) = batch.bookmarks.iter().find_map(unreadable) else { return Ok(()) };
        self.record_halted(&bookmark, &reason).await;
        Err(WriterError::Unreadable(bookmark.partition))
    }

    /// Says in the log and in the bookmarks of the batch why they do not move. Those of other partitions stay as they are:
    /// when the batch is applied at last, it moves its own bookmarks, and that alone ends what is said here.
    async fn halt(&self, batch: &Batch, error: &WriterError) {
        let domain = self.upsert.domain().name;
        tracing::error!(domain, records = batch.records(), %error, "halted, looking again in {HALTED_RETRY:?}");
        let reason = error.to_string();
        for bookmark in &batch.bookmarks {
            self.record_halted(bookmark, &reason).await;
        }
    }

    /// One statement, which leaves no transaction open if it is given up.
    async fn record_halted(&self, bookmark: &BookmarkMove, reason: &str) {
        let domain = self.upsert.domain().name;
        let BookmarkMove { partition, epoch, .. } = *bookmark;
        let record = bookmarks::set_halted(&self.pool, domain, partition, epoch, Some(reason));
        match tokio::time::timeout(RECORD_TIMEOUT, record).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(domain, partition, %error, "cannot record why the partition is halted"),
            Err(error) => tracing::warn!(domain, partition, %error, "cannot record why the partition is halted"),
        }
    }
}

/// What a writer does about a batch that did not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Soon.
    TryAgain,
    /// Later, and says meanwhile what is to be mended.
    Halt,
    /// The assignment is over.
    End,
}

/// | error | next |
/// |---|---|
/// | transient, or the transaction took too long | try again |
/// | the schema, a permission, or a table that refuses most rows | halt |
/// | any other: the partitions belong to another owner | end |
fn next(error: &WriterError) -> Next {
    match error {
        WriterError::Apply(ApplyError::TooLong(_) | ApplyError::Transient(_)) => Next::TryAgain,
        WriterError::Apply(ApplyError::Schema(_) | ApplyError::TooManyRefused { .. }) => Next::Halt,
        _ => Next::End,
    }
}

/// Adds to the trace of each file with rows in the batch that they are applied.
fn trace_applied(domain: &str, batch: &Batch, began: SystemTime) {
    if !trace::enabled() {
        return;
    }
    let mut rows: BTreeMap<(i64, i32), i64> = BTreeMap::new();
    for origin in &batch.rows.origins {
        *rows.entry((origin.provenance.object, origin.partition)).or_default() += 1;
    }
    for ((object, partition), rows) in rows {
        let partition = Some(i64::from(partition));
        let detail = trace::Detail { domain: Some(domain), rows: Some(rows), partition, ..trace::Detail::default() };
        trace::passed(object, "apply", began, detail);
    }
}

fn log_refused(domain: &str, applied: &Applied) {
    if applied.refused > 0 {
        tracing::warn!(domain, rows = applied.refused, "rows refused by the database were rejected");
    }
}

/// A restore is logged once, by the batch that began the new life; `status` counts the rows.
fn log_passed_over(domain: &str, applied: &Applied) {
    if let Some(life) = applied.life_begun {
        tracing::error!(
            domain,
            life,
            "Postgres went back in time: the topic holds rows of files that this ledger sent and does not know any more, \
             as after a restore from a backup or the promotion of a replica. They are skipped, files that S3 still \
             has are published again, and the outputs are derived again: see docs/restore.md"
        );
    }
    if applied.passed_over > 0 {
        tracing::info!(domain, rows = applied.passed_over, "rows of another life of the ledger were skipped");
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Error;

    use super::*;

    #[test]
    fn a_batch_is_tried_again_unless_somebody_has_to_mend_something_or_it_is_not_ours() {
        let refused = ApplyError::TooManyRefused { refused: 900, rows: 1000, reason: "a check".into() };
        let cases = [
            (ApplyError::TooLong(WRITE_TIMEOUT).into(), Next::TryAgain),
            (ApplyError::Transient(Error::PoolTimedOut).into(), Next::TryAgain),
            (ApplyError::Schema(Error::RowNotFound).into(), Next::Halt),
            (refused.into(), Next::Halt),
            (ApplyError::Lost(vec![3]).into(), Next::End),
            (WriterError::NotAssigned(3), Next::End),
        ];
        for (error, expected) in cases {
            assert_eq!(next(&error), expected, "{error}");
        }
    }
}
