//! Derives a few windows at once: while Postgres computes the rows of one, those of another are written to files and
//! uploaded.
//!
//! All readers see the publication's snapshot: the first is its own transaction, the others import it. A window's rows
//! come from one query on one of them, so its files do not depend on who reads it, nor when.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use freshet_sinks::outputs::WindowFiles;
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::Window;
use futures::future::{join, join_all};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use super::query::{self, Failure, Prepared};
use super::uploads::Uploads;
use super::{RefreshError, metrics, postgres};

/// How long to wait for another connection. Without it, the windows are derived one after the other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A transaction that waits for S3 asks Postgres something this often: each session ends one that is idle for two
/// minutes, so that a frozen process does not hold its locks for ever.
const AWAKE_INTERVAL: Duration = Duration::from_secs(30);

/// The windows of an output to derive, and their results.
pub(super) struct Work {
    pub(super) output: &'static Output,
    pub(super) query: Prepared,
    /// Each window, with whether it is closed.
    pub(super) windows: Vec<(Window, bool)>,
    /// The windows that were derived; those without rows have no files.
    pub(super) made: Vec<(Window, Option<WindowFiles>)>,
    /// Why the query fails: then the output is not derived.
    pub(super) failed: Option<String>,
}

/// Up to that many further connections; fewer if no more are available.
pub(super) async fn connect(pool: &PgPool, count: usize) -> Vec<PoolConnection<Postgres>> {
    let mut connections = Vec::new();
    while connections.len() < count {
        match tokio::time::timeout(CONNECT_TIMEOUT, pool.acquire()).await {
            Ok(Ok(connection)) => connections.push(connection),
            Ok(Err(error)) => {
                tracing::debug!(%error, "read windows on another connection");
                break;
            }
            Err(_) => {
                tracing::debug!("read windows on another connection: there is none");
                break;
            }
        }
    }
    connections
}

/// Transactions that see the same snapshot as the publication's own, with the same settings. They are rolled back when
/// dropped.
pub(super) struct Others<'c> {
    transactions: Vec<Transaction<'c, Postgres>>,
}

impl<'c> Others<'c> {
    /// A reader of the exported snapshot on each connection that can have the `tables` at once. No timeout cuts this short:
    /// a BEGIN that is abandoned half-way would leave an open transaction to the next user of the connection.
    pub(super) async fn open(
        connections: &'c mut [PoolConnection<Postgres>],
        snapshot: Option<&str>,
        tables: &str,
        timeout: Duration,
    ) -> Others<'c> {
        let mut transactions = Vec::new();
        if let Some(id) = snapshot {
            for connection in connections {
                match import(connection, id, tables, timeout).await {
                    Ok(transaction) => transactions.push(transaction),
                    Err(error) => tracing::debug!(%error, "read windows on another connection"),
                }
            }
        }
        Others { transactions }
    }
}

/// Runs work for which a transaction waits, and keeps the transaction from being ended meanwhile.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn awake<T>(connection: &mut PgConnection, work: impl Future<Output = T>) -> Result<T, RefreshError> {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(AWAKE_INTERVAL, &mut work).await {
            return Ok(done);
        }
        let asked = sqlx::query("SELECT 1").execute(&mut *connection).await;
        asked.map_err(postgres("keep the snapshot"))?;
    }
}

/// Exports the snapshot of a transaction, for as long as that lasts. Postgres allows this only outside of savepoints.
pub(super) async fn export(connection: &mut PgConnection) -> Result<String, RefreshError> {
    let id = sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(connection).await;
    id.map_err(postgres("share the snapshot"))
}

async fn import<'c>(
    connection: &'c mut PgConnection,
    id: &str,
    tables: &str,
    timeout: Duration,
) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Ids consist of hexadecimal digits and dashes, and the statement takes no parameter.
    let import = format!("SET TRANSACTION SNAPSHOT '{}'", id.replace('\'', ""));
    sqlx::raw_sql(AssertSqlSafe(import)).execute(&mut *transaction).await?;
    // Now or never. Where somebody waits to alter a table, its lock comes after that of the publication's own transaction and
    // before this one, and the publication waits for its readers: none of the three would go on.
    let lock = format!("LOCK TABLE {tables} IN ACCESS SHARE MODE NOWAIT");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    query::set_bounds(&mut transaction, timeout).await?;
    Ok(transaction)
}

/// Derives all windows of all outputs, in their order.
///
/// # Errors
/// Errors of services. An error of a query only ends its output.
pub(super) async fn derive(
    first: &mut PgConnection,
    others: &mut Others<'_>,
    mut works: Vec<&mut Work>,
    uploads: &mut Uploads<'_>,
    shutdown: &CancellationToken,
) -> Result<(), RefreshError> {
    let queue = Queue::of(&works);
    let uploads = tokio::sync::Mutex::new(uploads);
    let reader = async |connection: &mut PgConnection| {
        let read = read(connection, &queue, &works, &uploads, shutdown).await;
        if read.is_err() {
            queue.close();
        }
        read
    };
    let ended = CancellationToken::new();
    let others = async {
        let read = join_all(others.transactions.iter_mut().map(|transaction| reader(transaction))).await;
        ended.cancel();
        read.into_iter().collect::<Result<Vec<()>, _>>()
    };
    // The snapshot is the first's, and is needed after the last window.
    let first = async {
        reader(first).await?;
        awake(first, ended.cancelled()).await
    };
    let (first, others) = join(first, others).await;
    first.and(others)?;
    for (work, (made, failed)) in works.iter_mut().zip(queue.into_done()) {
        (work.made, work.failed) = (made, failed);
    }
    Ok(())
}

/// One reader: takes the next window as long as there is one. Only an error of a service leaves a window unfinished.
async fn read(
    connection: &mut PgConnection,
    queue: &Queue,
    works: &[&mut Work],
    uploads: &tokio::sync::Mutex<&mut Uploads<'_>>,
    shutdown: &CancellationToken,
) -> Result<(), RefreshError> {
    while let Some((at, window, is_final)) = queue.next() {
        if shutdown.is_cancelled() {
            return Err(RefreshError::Stopped);
        }
        let Work { output, query, .. } = &*works[at];
        let began = Instant::now();
        let which = || format!("derive {}, {} from {}", output.name, window.kind.name(), window.start);
        match query.run(connection, window, is_final).await {
            Ok(encoded) => {
                count(output, encoded.rows, began.elapsed());
                tracing::debug!(output = output.name, window = %window.start, rows = encoded.rows, "derived");
                let closed = output.closes().then_some(is_final);
                let add = async { uploads.lock().await.add(output.name, window, closed, encoded).await };
                let added = awake(connection, add).await.flatten();
                queue.made(at, window, added.map_err(|error| error.in_which(which()))?);
            }
            Err(Failure::Query(reason)) => {
                queue.failed(at, reason);
                query::recover(connection).await.map_err(postgres("go on after a query that failed"))?;
            }
            Err(Failure::World(error)) => return Err(error.in_which(which())),
        }
    }
    Ok(())
}

/// Counts a window that was derived.
fn count(output: &Output, rows: u64, duration: Duration) {
    let of = &[output.name];
    metrics::WINDOWS.with_label_values(of).inc();
    metrics::ROWS.with_label_values(of).inc_by(rows);
    metrics::WINDOW_DURATION.with_label_values(of).observe(duration.as_secs_f64());
}

/// Index of an output in the work, one of its windows, and whether it is closed.
type Next = (usize, Window, bool);
/// The derived windows of an output, or why it failed.
type Done = (Vec<(Window, Option<WindowFiles>)>, Option<String>);

/// The windows still to derive, and the derived ones.
struct Queue {
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<Next>,
    done: Vec<Done>,
}

impl Queue {
    fn of(works: &[&mut Work]) -> Self {
        let windows = (0..).zip(works).flat_map(|(at, work)| work.windows.iter().map(move |(it, end)| (at, *it, *end)));
        let done = works.iter().map(|_| Done::default()).collect();
        Queue { state: Mutex::new(State { waiting: windows.collect(), done }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Next> {
        let State { waiting, done } = &mut *self.state();
        while let Some(next) = waiting.pop_front() {
            let (_, failed) = &done[next.0];
            if failed.is_none() {
                return Some(next);
            }
        }
        None
    }

    fn made(&self, at: usize, window: Window, files: Option<WindowFiles>) {
        self.state().done[at].0.push((window, files));
    }

    /// Records a failure; the first reason stays.
    fn failed(&self, at: usize, reason: String) {
        self.state().done[at].1.get_or_insert(reason);
    }

    /// Starts no more windows.
    fn close(&self) {
        self.state().waiting.clear();
    }

    fn into_done(self) -> Vec<Done> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).done
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::window::WindowKind;

    use super::*;

    #[test]
    fn an_output_that_fails_leaves_its_other_windows_alone_and_the_first_reason_stands() {
        let window = |day: &str| Window { kind: WindowKind::Day, start: day.parse().expect("a date") };
        let days = ["2025-07-01", "2025-07-02", "2025-07-03"].map(window);
        let waiting = (0..2).flat_map(|at| days.map(|day| (at, day, false))).collect();
        let done = vec![Done::default(), Done::default()];
        let queue = Queue { state: Mutex::new(State { waiting, done }) };
        assert_eq!(queue.next(), Some((0, days[0], false)));
        assert_eq!(queue.next(), Some((0, days[1], false)));
        queue.failed(0, "first".into());
        queue.failed(0, "second".into());
        assert_eq!(queue.next(), Some((1, days[0], false)));
        queue.made(1, days[0], None);
        queue.close();
        assert_eq!(queue.next(), None);
        assert_eq!(queue.into_done(), [(vec![], Some("first".into())), (vec![(days[0], None)], None)]);
    }
}
