//! Writes batches from the topic to Postgres for a replay, one transaction each.
//!
//! Several workers share the partitions, as several live processes do. The rows of a key are in one partition, so
//! workers do not disturb each other; if they do (partitions were added), the guard decides.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use freshet_sinks::apply::copy::CopyGuess;
use freshet_sinks::apply::refusals::Refusals;
use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::apply::{self, ApplyError, Batch};
use freshet_sinks::bookmarks::{Assigned, BookmarkMove};
use freshet_sinks::postgres;
use freshet_sinks::replay::Running;
use freshet_sinks::replay::correct;
use futures::future::try_join_all;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{Progress, ProgressSender, ReplayContext, ReplayError};
use crate::batch::JudgedBatch;
use crate::consumer::Position;
use crate::ranges::{self, Range, Reading};
use crate::writer::{BACKOFF, WRITE_TIMEOUT};

/// A replay ends if Postgres has not answered for this long; the same command resumes it.
const TRIED_FOR_MAX: Duration = Duration::from_secs(120);

/// The destination of the batches.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    /// Into the live table, as corrections.
    InPlace(Running),
    /// Into the shadow, in the same way as into the live table.
    Shadow,
}

/// One reads and judges while Postgres writes for the other; more would take too much from the live pipeline.
const WORKERS: usize = 2;

/// Work in progress.
pub(super) struct Drive<'a> {
    pub(super) context: &'a ReplayContext,
    pub(super) upsert: &'a Upsert,
    pub(super) sink: Sink,
    pub(super) objects: Option<BTreeSet<i64>>,
    /// The most rows a second, of all workers together; `None` while the live pipeline waits for this work.
    pub(super) rows_per_second: Option<NonZeroU32>,
    pub(super) progress: &'a ProgressSender,
}

/// The taken bookmarks as positions.
pub(super) fn positions(taken: &[Assigned]) -> BTreeMap<i32, Position> {
    taken.iter().map(|one| (one.partition, Position { next_offset: one.next_offset, epoch: one.epoch })).collect()
}

impl Drive<'_> {
    /// Reads each partition from its position up to `ends`, and writes everything. If that fails, only Postgres knows
    /// what was written.
    pub(super) async fn run(
        &self,
        positions: &mut BTreeMap<i32, Position>,
        ends: &BTreeMap<i32, i64>,
        shutdown: &CancellationToken,
    ) -> Result<(), ReplayError> {
        let shares = shares(positions, ends);
        let rows_per_second = self.rows_per_second.map(|rate| f64::from(rate.get()) / shares.len() as f64);
        let workers = shares.into_iter().map(|positions| {
            let pace = Pace::new(rows_per_second);
            let (recent, copy_guess) = (Refusals::default(), CopyGuess::default());
            Worker { drive: self, positions, connection: None, recent, copy_guess, is_mostly_changed: true, pace }
        });
        for worker in try_join_all(workers.map(|worker| worker.run(ends, shutdown))).await? {
            positions.extend(worker);
        }
        Ok(())
    }
}

/// Splits the unfinished partitions, the fullest first, so that the shares have about the same amount to read.
fn shares(positions: &BTreeMap<i32, Position>, ends: &BTreeMap<i32, i64>) -> Vec<BTreeMap<i32, Position>> {
    let each = left(positions, ends).zip(positions);
    let mut open: Vec<(i64, i32, Position)> = each.map(|(left, (partition, at))| (left, *partition, *at)).collect();
    open.retain(|(left, ..)| *left > 0);
    open.sort_by_key(|(left, partition, _)| (-left, *partition));
    let mut shares: Vec<(i64, BTreeMap<i32, Position>)> = vec![Default::default(); WORKERS.min(open.len())];
    for (left, partition, at) in open {
        if let Some(share) = shares.iter_mut().min_by_key(|(sum, _)| *sum) {
            share.0 += left;
            share.1.insert(partition, at);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

/// A worker's share of the partitions.
struct Worker<'a> {
    drive: &'a Drive<'a>,
    positions: BTreeMap<i32, Position>,
    connection: Option<PgConnection>,
    recent: Refusals,
    /// Of a shadow: whether its keys have been new.
    copy_guess: CopyGuess,
    /// In place: whether most rows of the last batch differed from the table.
    is_mostly_changed: bool,
    pace: Pace,
}

impl Worker<'_> {
    /// Returns the final positions of the partitions, which are `ends`.
    async fn run(
        mut self,
        ends: &BTreeMap<i32, i64>,
        shutdown: &CancellationToken,
    ) -> Result<BTreeMap<i32, Position>, ReplayError> {
        let context = self.drive.context;
        let range = |(&partition, at): (&i32, &Position)| {
            Some(Range { partition, from: at.next_offset, to: ends.get(&partition).copied()? })
        };
        let mut batches = ranges::read(Reading {
            domain: context.domain,
            kafka: context.kafka.clone(),
            ranges: self.positions.iter().filter_map(range).collect(),
            objects: self.drive.objects.clone(),
            batch_rows_max: context.settings.batch_rows_max,
        });
        let is_read = |(partition, at): (&i32, &Position)| ends.get(partition).is_some_and(|to| at.next_offset >= *to);
        // Does not wait until the reader has ended: librdkafka takes some time to close.
        while !self.positions.iter().all(is_read) {
            // Before a batch is taken and not after it is written: nothing waits once everything is written.
            let rest = self.pace.rest(Instant::now());
            if !rest.is_zero() {
                shutdown.run_until_cancelled(tokio::time::sleep(rest)).await;
            }
            let batch = tokio::select! {
                batch = batches.recv() => batch.ok_or(ReplayError::Reader)?,
                () = shutdown.cancelled() => return Err(ReplayError::Interrupted),
            };
            let batch = self.placed(batch?)?;
            let messages = self.write(&batch, shutdown).await?;
            let rows = batch.rows.origins.len() as i64;
            self.drive.progress.send_modify(|progress| progress.add(messages, rows));
            self.pace.rows += rows;
        }
        Ok(self.positions)
    }

    fn placed(&self, batch: JudgedBatch) -> Result<Batch, ReplayError> {
        batch.placed(|partition, offsets| {
            let at = self.positions.get(&partition).ok_or(ReplayError::Lost)?;
            Ok(BookmarkMove { partition, expected: at.next_offset, next: offsets.next, epoch: at.epoch })
        })
    }

    /// Writes a batch, retrying for a while after transient errors. Returns how many messages it was.
    async fn write(&mut self, batch: &Batch, shutdown: &CancellationToken) -> Result<i64, ReplayError> {
        let (began, mut failures) = (Instant::now(), 0);
        loop {
            // If it is interrupted, its connection is closed; the bookmark tells whether it had committed.
            let written = tokio::select! {
                written = apply::within(WRITE_TIMEOUT, self.write_once(batch)) => written,
                () = shutdown.cancelled() => return Err(ReplayError::Interrupted),
            };
            let Err(error) = written else { break };
            // Whatever state the connection is in, the next attempt starts on a new one.
            self.connection = None;
            failures += 1;
            let wait = BACKOFF.after(failures);
            match error {
                ApplyError::Lost(_) => return Err(ReplayError::Lost),
                ApplyError::Transient(error) if began.elapsed() < TRIED_FOR_MAX => {
                    let domain = self.drive.context.domain.name;
                    let records = batch.records();
                    tracing::warn!(domain, records, %error, "cannot replay a batch, trying again in {wait:?}");
                }
                error => return Err(error.into()),
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Err(ReplayError::Interrupted);
            }
        }
        let mut messages = 0;
        for bookmark in &batch.bookmarks {
            messages += bookmark.next - bookmark.expected;
            if let Some(position) = self.positions.get_mut(&bookmark.partition) {
                position.next_offset = bookmark.next;
            }
        }
        Ok(messages)
    }

    async fn write_once(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let Drive { context, upsert, sink, progress, .. } = self.drive;
        // Not a connection of the pool: if it is interrupted in a transaction, it must be closed, so that nobody gets
        // it with an open transaction.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => postgres::connect(&context.pool.connect_options()).await?,
        };
        let topic = context.topic();
        let (offered, refused) = match sink {
            Sink::InPlace(replay) => {
                let (recent, is_mostly_changed) = (&self.recent, self.is_mostly_changed);
                let corrected =
                    correct::correct(&mut connection, upsert, &topic, batch, replay, recent, is_mostly_changed).await?;
                self.is_mostly_changed = corrected.is_mostly_changed();
                (corrected.offered, corrected.refused)
            }
            Sink::Shadow => {
                let by_copy = self.copy_guess.try_now(upsert, batch.rows.origins.len());
                let applied = apply::apply(&mut connection, upsert, &topic, batch, &self.recent, by_copy).await?;
                self.copy_guess.tried(by_copy, &applied);
                if applied.by_copy {
                    progress.send_modify(|progress| progress.copied += applied.applied);
                }
                (applied.offered, applied.refused)
            }
        };
        self.connection = Some(connection);
        self.recent.add(offered, refused);
        Ok(())
    }
}

/// Limits the average speed of a replay since it began.
struct Pace {
    rows_per_second: Option<f64>,
    began: Instant,
    rows: i64,
}

impl Pace {
    fn new(rows_per_second: Option<f64>) -> Self {
        Pace { rows_per_second, began: Instant::now(), rows: 0 }
    }

    /// How long to rest from `now` on, until the rows so far are due.
    fn rest(&self, now: Instant) -> Duration {
        let Some(rate) = self.rows_per_second else { return Duration::ZERO };
        let due = Duration::from_secs_f64(self.rows as f64 / rate);
        due.saturating_sub(now.saturating_duration_since(self.began))
    }
}

/// How many messages each partition has left to read, in their order: up to its end, and none if it has no end.
pub(super) fn left(positions: &BTreeMap<i32, Position>, ends: &BTreeMap<i32, i64>) -> impl Iterator<Item = i64> {
    positions.iter().map(|(partition, at)| ends.get(partition).map_or(0, |to| (to - at.next_offset).max(0)))
}

/// Reports how many messages there are to read.
pub(super) fn announce(progress: &ProgressSender, total: i64) {
    progress.send_replace(Progress { total, ..Progress::default() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_share_what_is_left_evenly() {
        let at = |next_offset| Position { next_offset, epoch: 1 };
        let positions = BTreeMap::from([(0, at(10)), (1, at(0)), (2, at(5)), (3, at(7))]);
        let ends = BTreeMap::from([(0, 110), (1, 60), (2, 65), (3, 7)]);
        let shared: Vec<Vec<i32>> =
            shares(&positions, &ends).into_iter().map(|share| share.into_keys().collect()).collect();
        assert_eq!(shared, [vec![0], vec![1, 2]], "partition 3 is read to its end");
        assert!(shares(&positions, &BTreeMap::new()).is_empty());
        assert_eq!(shares(&positions, &BTreeMap::from([(1, 1)])).len(), 1);
    }

    #[test]
    fn a_worker_rests_until_its_rows_are_due_and_never_without_a_rate() {
        let cases = [
            (None, 1_000_000, 0, 0),
            (Some(100.0), 0, 0, 0),
            (Some(100.0), 500, 0, 5),
            (Some(100.0), 500, 2, 3),
            (Some(100.0), 500, 9, 0),
        ];
        for (rows_per_second, rows, elapsed, expected) in cases {
            let pace = Pace { rows, ..Pace::new(rows_per_second) };
            let rest = pace.rest(pace.began + Duration::from_secs(elapsed));
            assert_eq!(rest, Duration::from_secs(expected), "{rows_per_second:?} {rows} {elapsed}");
        }
    }
}
