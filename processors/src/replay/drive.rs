//! Driving batches from the topic into Postgres, one transaction each, for a replay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use freshet_sinks::apply::{self, ApplyError, PartitionBatch};
use freshet_sinks::bookmark::{Move, Taken};
use freshet_sinks::correct;
use freshet_sinks::refusals::Refusals;
use freshet_sinks::replays::Running;
use freshet_sinks::upsert::Upsert;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{Progress, ReplayContext, ReplayError, Told};
use crate::batch::Batch;
use crate::consumer::Position;
use crate::ranges::{self, Range, Reading};

/// First wait after an error of the world; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A replay that Postgres has not answered for this long ends; it goes on when it is asked the same again.
const TRIED_FOR_MAX: Duration = Duration::from_secs(120);

/// Where the batches go.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    /// Into the live table, as corrections.
    InPlace(Running),
    /// Into the shadow, as they went into the live table.
    Shadow,
}

/// What is under way.
pub(super) struct Drive<'a> {
    pub(super) context: &'a ReplayContext,
    pub(super) upsert: &'a Upsert,
    pub(super) sink: Sink,
    pub(super) positions: &'a mut BTreeMap<i32, Position>,
    pub(super) objects: Option<BTreeSet<i64>>,
    pub(super) told: &'a Told,
}

/// Bookmarks that were taken, as positions.
pub(super) fn positions(taken: &[Taken]) -> BTreeMap<i32, Position> {
    taken.iter().map(|one| (one.partition, Position { next_offset: one.next_offset, epoch: one.epoch })).collect()
}

impl Drive<'_> {
    /// Reads each partition from where it stands up to `ends`, and writes all of it.
    pub(super) async fn run(
        &mut self,
        ends: &BTreeMap<i32, i64>,
        shutdown: &CancellationToken,
    ) -> Result<(), ReplayError> {
        let range = |(&partition, position): (&i32, &Position)| {
            let to = ends.get(&partition).copied()?;
            Some(Range { partition, from: position.next_offset, to })
        };
        let ranges: Vec<Range> = self.positions.iter().filter_map(range).filter(|range| !range.is_empty()).collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let mut batches = ranges::read(Reading {
            domain: self.context.domain,
            kafka: self.context.kafka.clone(),
            ranges,
            objects: self.objects.clone(),
            batch_rows_max: self.context.settings.batch_rows_max,
        });
        let mut connection = None;
        let mut recent = Refusals::default();
        let mut pace = Pace::new(self.context.rows_per_second.map(|rate| rate.get()));
        loop {
            let batch = tokio::select! {
                batch = batches.recv() => batch,
                () = shutdown.cancelled() => return Err(ReplayError::Interrupted),
            };
            let Some(batch) = batch else { break };
            let batch = self.placed(batch?)?;
            let records = self.write(&mut connection, &batch, &mut recent, shutdown).await?;
            self.told.send_modify(|progress| progress.done += records);
            shutdown.run_until_cancelled(pace.rest(records)).await;
        }
        let complete =
            self.positions.iter().all(|(partition, it)| ends.get(partition).is_none_or(|to| it.next_offset >= *to));
        if complete { Ok(()) } else { Err(ReplayError::Task) }
    }

    fn placed(&self, batch: Batch) -> Result<Vec<PartitionBatch>, ReplayError> {
        let placed = |(partition, records): (i32, crate::batch::Records)| {
            let at = self.positions.get(&partition).ok_or(ReplayError::Lost)?;
            let bookmark = Move { partition, expected: at.next_offset, next: records.next_offset, epoch: at.epoch };
            Ok(PartitionBatch { bookmark, rows: records.rows })
        };
        batch.partitions.into_iter().map(placed).collect()
    }

    /// Writes a batch, trying again for a while where the world is at fault. Gives how many records it was.
    async fn write(
        &mut self,
        connection: &mut Option<PgConnection>,
        batch: &[PartitionBatch],
        recent: &mut Refusals,
        shutdown: &CancellationToken,
    ) -> Result<i64, ReplayError> {
        let (began, mut backoff) = (Instant::now(), BACKOFF_MIN);
        loop {
            let written = match connected(self.context, connection).await {
                Ok(connection) => self.write_once(connection, batch, recent).await,
                Err(error) => Err(error.into()),
            };
            let error = match written {
                Ok(()) => break,
                Err(error) => error,
            };
            // Whatever state the connection is in, the next attempt starts on a new one.
            drop(connection.take());
            match error {
                ApplyError::Lost(_) => return Err(ReplayError::Lost),
                ApplyError::World(error) if began.elapsed() < TRIED_FOR_MAX => {
                    tracing::warn!(domain = self.context.domain.name, %error, "replay a batch, trying again in {backoff:?}");
                }
                error => return Err(error.into()),
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(backoff)).await.is_none() {
                return Err(ReplayError::Interrupted);
            }
            backoff *= 2;
        }
        let mut records = 0;
        for part in batch {
            records += part.bookmark.next - part.bookmark.expected;
            if let Some(position) = self.positions.get_mut(&part.bookmark.partition) {
                position.next_offset = part.bookmark.next;
            }
        }
        Ok(records)
    }

    async fn write_once(
        &self,
        connection: &mut PgConnection,
        batch: &[PartitionBatch],
        recent: &mut Refusals,
    ) -> Result<(), ApplyError> {
        let topic = self.context.topic();
        let (offered, refused) = match &self.sink {
            Sink::InPlace(replay) => {
                let corrected = correct::correct(connection, self.upsert, &topic, batch, replay, recent).await?;
                (corrected.offered, corrected.refused)
            }
            Sink::Shadow => {
                let applied = apply::apply(connection, self.upsert, &topic, batch, recent).await?;
                (applied.offered, applied.refused)
            }
        };
        recent.add(offered, refused);
        Ok(())
    }
}

/// Not one of the pool's: cut off in the middle of a transaction, it must go, and nobody may find it open.
async fn connected<'c>(
    context: &ReplayContext,
    connection: &'c mut Option<PgConnection>,
) -> Result<&'c mut PgConnection, sqlx::Error> {
    if connection.is_none() {
        *connection = Some(PgConnection::connect_with(&context.pool.connect_options()).await?);
    }
    connection.as_mut().ok_or(sqlx::Error::PoolClosed)
}

/// Keeps a replay from going faster than it may, on the average since it began.
struct Pace {
    rows_per_second: Option<u32>,
    began: Instant,
    rows: i64,
}

impl Pace {
    fn new(rows_per_second: Option<u32>) -> Self {
        Pace { rows_per_second, began: Instant::now(), rows: 0 }
    }

    /// Rests until as many rows were due.
    async fn rest(&mut self, rows: i64) {
        self.rows += rows;
        let Some(rate) = self.rows_per_second else { return };
        let due = Duration::from_secs_f64(self.rows as f64 / f64::from(rate));
        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
    }
}

/// Tells how much there is to do.
pub(super) fn announce(told: &Told, ranges: impl Iterator<Item = i64>) {
    let total = ranges.sum();
    told.send_replace(Progress { done: 0, total });
}
