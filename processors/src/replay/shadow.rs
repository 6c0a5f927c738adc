//! A shadow, filled until it has caught up with the live table.
//!
//! It follows in rounds, each up to the live bookmarks of that moment, until little is left. For an operation that
//! needs one moment (a comparison, the swap), it makes the live pipeline wait, reads the rest, and continues from
//! there; if that takes longer than [`HOLD_MAX`], it lets the live pipeline continue and starts another round.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::backoff::Backoff;
use freshet_sinks::bookmarks;
use freshet_sinks::destination::Destination;
use freshet_sinks::postgres::is_lock_timeout;
use freshet_sinks::replay::{self as replays, Kind, ReplayLock, Running, Wanted};
use freshet_sinks::shadow::{self, Comparison, Held, Swapped};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::drive::{Drive, Sink, announce, left, positions};
use super::in_place::plan;
use super::{Progress, ProgressSender, ReplayContext, ReplayError, Request, lock, look, postgres};
use crate::consumer::Position;

/// With fewer rows left than this, the live pipeline has to wait for them: a fraction of a second's work.
const LITTLE: i64 = 5_000;
/// The live pipeline waits at most this long for the shadow.
const HOLD_MAX: Duration = Duration::from_millis(1_500);
/// The most rounds in which the shadow tries to catch up with the live pipeline, and the most attempts to hold it.
const TRIES_MAX: u32 = 100;
/// Well below the age at which a replay no longer counts as a load ([`crate::refresh`]).
const ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// The pause between two attempts to hold the live pipeline.
const PAUSE: Duration = Duration::from_millis(250);
/// The pauses between two attempts to swap. The live pipeline waits during an attempt, so it must have most of the time
/// if a reader holds the table for long.
const SWAP_PAUSES: Backoff = Backoff::new(PAUSE, Duration::from_secs(10));
/// With a reader that holds the table for longer than this, the swap is given up.
const SWAP_MAX: Duration = Duration::from_mins(4);

/// A shadow that this process works on.
pub struct Shadow {
    context: ReplayContext,
    upsert: Upsert,
    running: Running,
    stream_id: Uuid,
    positions: BTreeMap<i32, Position>,
    is_analyzed: bool,
    _lock: ReplayLock,
}

impl Shadow {
    /// Begins a shadow, or continues an existing one.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn open(context: &ReplayContext, request: &Request) -> Result<Self, ReplayError> {
        let lock = lock(context).await?;
        let topic = look(context).await?;
        let ranges = plan(context, request, &topic).await?;
        let wanted = Wanted {
            domain: context.domain,
            kind: Kind::Shadow,
            request: &request.to_string(),
            stream_id: topic.stream_id,
            starts: &ranges.iter().map(|range| (range.partition, range.from)).collect::<Vec<_>>(),
            end_offsets: None,
            owner: &context.owner,
        };
        let (replay, taken) = replays::begin(&context.pool, &wanted).await?;
        let ids = shadow::ids(&context.pool, context.domain).await.map_err(postgres("look at the live table"))?;
        Ok(Shadow {
            upsert: Upsert::with_ids(context.domain, Destination::Shadow, ids),
            running: Running { id: replay.id, owner: context.owner.clone() },
            stream_id: topic.stream_id,
            positions: positions(&taken),
            context: context.clone(),
            is_analyzed: false,
            _lock: lock,
        })
    }

    /// Fills it until little is left to read.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn fill(&mut self, progress: &ProgressSender, shutdown: &CancellationToken) -> Result<(), ReplayError> {
        let mut is_first = true;
        for _ in 0..TRIES_MAX {
            let ReplayContext { pool, domain, .. } = &self.context;
            let live = bookmarks::offsets(pool, domain.name, Some(self.stream_id)).await;
            let live = live.map_err(postgres("read the live bookmarks"))?;
            let all: i64 = left(&self.positions, &live).sum();
            match is_first {
                true => announce(progress, all),
                false => progress.send_modify(|progress| progress.total = progress.done + all),
            }
            if is_little(*progress.borrow(), all) && !is_first {
                return Ok(());
            }
            is_first = false;
            self.read_up_to(&live, self.context.rows_per_second, progress, shutdown).await?;
        }
        Err(ReplayError::NotCaughtUp(TRIES_MAX))
    }

    async fn read_up_to(
        &mut self,
        live: &BTreeMap<i32, i64>,
        rows_per_second: Option<NonZeroU32>,
        progress: &ProgressSender,
        shutdown: &CancellationToken,
    ) -> Result<(), ReplayError> {
        let Shadow { context, upsert, positions, running, .. } = self;
        let drive = Drive { context, upsert, sink: Sink::Shadow, objects: None, rows_per_second, progress };
        tokio::select! {
            read = drive.run(positions, live, shutdown) => read,
            () = show_alive(context, running) => unreachable!("it does not end"),
        }
    }

    /// Makes the live pipeline wait, with the shadow at exactly the same offsets.
    async fn level(&mut self, progress: &ProgressSender, shutdown: &CancellationToken) -> Result<Held, ReplayError> {
        for _ in 0..TRIES_MAX {
            self.fill(progress, shutdown).await?;
            let held = match shadow::hold_live(&self.context.pool, self.context.domain.name).await {
                Ok(held) => held,
                // A batch of the live pipeline takes long.
                Err(error) if is_lock_conflict(&error) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(postgres("pause the live pipeline")(error)),
            };
            // If it is interrupted, a batch's transaction ends with its connection; the bookmark tells whether it
            // committed.
            // At full speed: now the live pipeline waits for it.
            let read = self.read_up_to(&held.bookmarks, None, progress, shutdown);
            match tokio::time::timeout(HOLD_MAX, read).await {
                Ok(Ok(())) => return Ok(held),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    held.transaction.rollback().await.map_err(postgres("resume the live pipeline"))?;
                    self.retake().await?;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(ReplayError::NotCaughtUp(TRIES_MAX))
    }

    /// Takes the shadow's bookmarks again: this shuts out interrupted writes, and shows whether they committed.
    async fn retake(&mut self) -> Result<(), ReplayError> {
        let starts: Vec<(i32, i64)> =
            self.positions.iter().map(|(partition, at)| (*partition, at.next_offset)).collect();
        let taken = bookmarks::take(
            &self.context.pool,
            Destination::Shadow,
            self.context.domain.name,
            self.stream_id,
            &self.context.owner,
            &starts,
        )
        .await;
        self.positions = positions(&taken.map_err(postgres("take the shadow's bookmarks"))?);
        Ok(())
    }

    /// Compares it with the live table at the same bookmarks. The live pipeline waits only until snapshots of both
    /// exist.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn compare(
        &mut self,
        progress: &ProgressSender,
        shutdown: &CancellationToken,
    ) -> Result<Comparison, ReplayError> {
        let failed = postgres("compare the shadow with the live table");
        let held = self.level(progress, shutdown).await?;
        let mut connection = self.context.pool.acquire().await.map_err(&failed)?;
        let mut snapshot = connection.begin().await.map_err(&failed)?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *snapshot)
            .await
            .map_err(&failed)?;
        // The first statement takes the transaction's snapshot.
        sqlx::query("SELECT").execute(&mut *snapshot).await.map_err(&failed)?;
        held.transaction.rollback().await.map_err(&failed)?;
        let comparison = shadow::compare(&mut snapshot, self.context.domain).await.map_err(&failed)?;
        snapshot.rollback().await.map_err(&failed)?;
        Ok(comparison)
    }

    /// Gives the planner statistics about it, once: for a swap, when it is filled. [`Shadow::swap`] does so otherwise, but
    /// then the shadows of several domains would wait for each other's.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn analyze(&mut self) -> Result<(), ReplayError> {
        if !self.is_analyzed {
            let analyzed = shadow::analyze(&self.context.pool, self.context.domain).await;
            analyzed.map_err(postgres("analyse the shadow"))?;
            self.is_analyzed = true;
        }
        Ok(())
    }

    /// The rows of the live table, and its own.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn count(&self) -> Result<(i64, i64), ReplayError> {
        shadow::count(&self.context.pool, self.context.domain).await.map_err(postgres("count the rows of the shadow"))
    }

    /// Puts it in the place of the live table.
    ///
    /// # Errors
    /// [`ReplayError::Refused`] says why it cannot; the shadow stays.
    pub async fn swap(
        mut self,
        progress: &ProgressSender,
        shutdown: &CancellationToken,
    ) -> Result<Swapped, ReplayError> {
        self.fill(progress, shutdown).await?;
        self.analyze().await?;
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            let held = self.level(progress, shutdown).await?;
            let error = match shadow::swap(&self.context.pool, held, self.context.domain, &self.running).await {
                // A reader holds the table for long.
                Err(shadow::Refused::Postgres(error)) if is_lock_conflict(&error) => error,
                swapped => return Ok(swapped?),
            };
            if began.elapsed() > SWAP_MAX {
                return Err(in_use(&self.context, error).await);
            }
            attempts += 1;
            let pause = tokio::time::sleep(SWAP_PAUSES.after(attempts));
            if shutdown.run_until_cancelled(pause).await.is_none() {
                return Err(ReplayError::Interrupted);
            }
        }
    }
}

/// Who holds the live table, or Postgres' error if nobody does any more.
async fn in_use(context: &ReplayContext, error: sqlx::Error) -> ReplayError {
    match shadow::holders(&context.pool, context.domain).await {
        Ok(sessions) if !sessions.is_empty() => shadow::Refused::InUse(sessions).into(),
        _ => shadow::Refused::Postgres(error).into(),
    }
}

/// Says in its record that the replay goes on, again and again: publications leave it most of the machine meanwhile. That
/// they do not know it does no harm.
async fn show_alive(context: &ReplayContext, running: &Running) {
    loop {
        tokio::time::sleep(ALIVE_INTERVAL).await;
        if let Err(error) = replays::touch(&context.pool, running).await {
            tracing::debug!(%error, domain = context.domain.name, "record that the replay goes on");
        }
    }
}

/// Whether few rows are left, assuming as many rows per message as in those read so far.
///
/// | messages read | with rows | left | little |
/// |---|---|---|---|
/// | 100 | 100 | 5,000 | yes |
/// | 100 | 20,000 | 25 | yes: 5,000 rows |
/// | 100 | 20,000 | 26 | no |
/// | none | none | 5,000 | yes: as if each were a row |
fn is_little(Progress { done, rows, .. }: Progress, left: i64) -> bool {
    i128::from(left) * i128::from(rows.max(1)) <= i128::from(LITTLE) * i128::from(done.max(1))
}

/// Whether another transaction holds a required lock for too long, or there was a deadlock: try again later.
fn is_lock_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    is_lock_timeout(error) || code.as_deref() == Some("40P01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_counted_in_rows() {
        let cases = [(100, 100, 5_000, true), (100, 20_000, 25, true), (100, 20_000, 26, false), (0, 0, 5_000, true)];
        for (done, rows, left, expected) in cases {
            let progress = Progress { done, rows, ..Progress::default() };
            assert_eq!(is_little(progress, left), expected, "{done} {rows} {left}");
        }
        assert!(!is_little(Progress::default(), LITTLE + 1));
    }
}
