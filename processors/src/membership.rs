//! One membership of the group, from joining to leaving: the loop between the consumer and the steps of its assignments.
//!
//! It stands in place of arroyo's `StreamProcessor`, which starts a clock thread that never ends each time a group is
//! joined, and fails when partitions are taken while it holds a record back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_sinks::bookmarks;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::consumer::{BookmarkConsumer, Ownership, PollError};
use crate::pipeline::Pipeline;
use crate::steps::{CurrentSteps, StepsError};
use crate::{Context, clock};

/// How long one poll waits: short, because batches are flushed only between polls.
const POLL_TIMEOUT: Duration = Duration::from_millis(5);
/// How long one poll waits after [`QUIET`] without a record: no batch waits to be flushed then, unless Postgres is slow or
/// away, and the next record ends the wait. The end of the program waits for it.
const QUIET_POLL_TIMEOUT: Duration = Duration::from_millis(250);
/// Any batch has been flushed long before this.
const QUIET: Duration = Duration::from_secs(1);
/// How long the loop rests before it offers a record again that was held back.
const HELD_PAUSE: Duration = Duration::from_millis(2);
/// A record that is held back for longer pauses the partitions: then the consumer can be polled again, which Kafka wants
/// to see every five minutes, and without which partitions are neither given nor taken.
const PAUSE_AFTER: Duration = Duration::from_secs(5);
/// How often the bookmarks are looked at, where no batch does it: `freshet bookmarks` and the swap of a shadow raise their
/// epochs, and a restore of Postgres sets them back.
const BOOKMARKS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the loop waits for a look at them. The pool tries for much longer to reach a Postgres that is away, and meanwhile
/// the loop would serve neither the group nor the end of the program.
const BOOKMARKS_LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A late look is given up after this time: of a server that went away without a word no answer comes, and without the looks
/// an idle partition would not notice that it was taken, or Postgres restored.
const BOOKMARKS_LOOK_MAX: Duration = Duration::from_secs(60);

/// Why a membership ended before the shutdown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("join the group: {0}")]
    Join(#[from] rdkafka::error::KafkaError),
    #[error(transparent)]
    Poll(#[from] PollError),
    #[error(transparent)]
    Steps(#[from] StepsError),
    #[error(
        "its bookmarks are not as it left them: taken by another process, set, adopted, restored, or of a new table"
    )]
    Taken,
}

/// Joins the group and processes what it assigns, until `shutdown`; then applies what was read, and leaves. Blocks.
///
/// # Errors
/// If the membership is over. What was read and not applied is read again.
pub(crate) fn run(context: &Context, shutdown: &CancellationToken, runtime: Handle) -> Result<(), MembershipError> {
    clock::start();
    let ownership = Arc::new(Ownership::default());
    let pipeline = Pipeline { context: context.clone(), ownership: Arc::clone(&ownership), runtime: runtime.clone() };
    let steps = CurrentSteps::default();
    let consumer = BookmarkConsumer::join(pipeline, steps.clone())?;
    let domain = context.domain.name;
    let mut membership = Membership { domain, consumer, steps, came_at: Instant::now() };
    let (mut looked_at, mut look) = (Instant::now(), Look::default());
    while !shutdown.is_cancelled() {
        membership.turn()?;
        if looked_at.elapsed() > BOOKMARKS_LOOK_INTERVAL {
            if look.were_taken(&runtime, &context.pool, domain, ownership.left_at()) {
                return Err(MembershipError::Taken);
            }
            looked_at = Instant::now();
        }
    }
    // Dropping the consumer revokes the assignment, which finishes the steps.
    Ok(())
}

struct Membership {
    domain: &'static str,
    consumer: BookmarkConsumer,
    steps: CurrentSteps,
    /// When the last record came.
    came_at: Instant,
}

impl Membership {
    /// Waits for a record, unless one is held back, and lets the steps go on.
    fn turn(&mut self) -> Result<(), MembershipError> {
        let record = match self.held_for() {
            None => {
                self.pause(false)?;
                self.consumer.poll(poll_timeout(self.came_at.elapsed()))?
            }
            Some(held_for) if held_for < PAUSE_AFTER => {
                std::thread::sleep(HELD_PAUSE);
                None
            }
            Some(_) => {
                self.pause(true)?;
                self.consumer.poll(POLL_TIMEOUT)?
            }
        };
        clock::set();
        if record.is_some() {
            self.came_at = Instant::now();
        }
        let committable = match (self.steps.lock().as_mut(), record) {
            (Some(steps), record) => steps.go_on(record)?,
            (None, None) => None,
            (None, Some(record)) => return Err(StepsError::NotAssigned(record.partition.index).into()),
        };
        self.consumer.commit(committable);
        Ok(())
    }

    fn held_for(&self) -> Option<Duration> {
        self.steps.lock().as_ref()?.held_for()
    }

    /// Pauses or resumes what is assigned.
    fn pause(&self, is_paused: bool) -> Result<(), MembershipError> {
        let mut steps = self.steps.lock();
        let Some(steps) = steps.as_mut().filter(|steps| steps.is_paused != is_paused) else { return Ok(()) };
        self.consumer.set_paused(is_paused)?;
        steps.is_paused = is_paused;
        match is_paused {
            true => tracing::warn!(
                domain = self.domain,
                "reading pauses: for {PAUSE_AFTER:?} Postgres has not written what was read before"
            ),
            false => tracing::info!(domain = self.domain, "reading continues"),
        }
        Ok(())
    }
}

/// How long a poll waits, by the time since the last record.
///
/// | last record | wait |
/// |---|---|
/// | lately | short: a batch may wait |
/// | long ago | longer |
fn poll_timeout(since_last: Duration) -> Duration {
    if since_last < QUIET { POLL_TIMEOUT } else { QUIET_POLL_TIMEOUT }
}

/// The looks at the bookmarks, one at a time: one that is late, because somebody has locked the table, keeps its connection
/// until it is answered, or given up.
#[derive(Default)]
struct Look {
    late: Option<(JoinHandle<bool>, Instant)>,
}

impl Look {
    /// Whether a bookmark of this owner has changed, as far as that is known in time.
    fn were_taken(&mut self, runtime: &Handle, pool: &PgPool, domain: &'static str, left_at: LeftAt) -> bool {
        if left_at.is_empty() || self.is_late(BOOKMARKS_LOOK_MAX) {
            return false;
        }
        let (pool, began) = (pool.clone(), Instant::now());
        let mut look = runtime.spawn(async move { were_taken(&pool, domain, &left_at).await });
        let looked = runtime.block_on(async { tokio::time::timeout(BOOKMARKS_LOOK_TIMEOUT, &mut look).await });
        match looked {
            Ok(found) => found.unwrap_or(false),
            // What it finds later is compared with what was left then, and says nothing any more.
            Err(_) => {
                self.late = Some((look, began));
                false
            }
        }
    }

    /// Whether the last look has not ended. One that began `given_up_after` ago is ended: it is a single statement, which
    /// leaves nothing open.
    fn is_late(&mut self, given_up_after: Duration) -> bool {
        match &self.late {
            Some((look, began)) if !look.is_finished() && began.elapsed() < given_up_after => true,
            Some((look, _)) => {
                look.abort();
                self.late = None;
                false
            }
            None => false,
        }
    }
}

/// Partition → its epoch, and how far it is applied unless it is halted.
type LeftAt = BTreeMap<i32, (i64, Option<i64>)>;

/// Whether a bookmark of this owner has changed: another process has taken it, or Postgres went back in time. The next
/// batch would notice too, but an idle partition has none.
async fn were_taken(pool: &PgPool, domain: &str, left_at: &LeftAt) -> bool {
    let found = sqlx::query_as::<_, (i32, i64, i64, bool)>(
        "SELECT partition, next_offset, owner_epoch, halted IS NOT NULL FROM pipeline.bookmarks WHERE domain = $1",
    )
    .bind(domain)
    .fetch_all(pool)
    .await;
    // An error proves nothing; the next batch or the next look will show.
    let Ok(found) = found else { return false };
    let found: BTreeMap<i32, (i64, i64, bool)> =
        found.into_iter().map(|(partition, at, epoch, is_halted)| (partition, (at, epoch, is_halted))).collect();
    left_at
        .iter()
        .any(|(partition, (epoch, applied))| !bookmarks::is_as_left(found.get(partition).copied(), *epoch, *applied))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use sqlx::postgres::PgPoolOptions;
    use tokio::runtime::Runtime;

    use super::*;

    #[test]
    fn a_postgres_that_does_not_answer_holds_the_loop_up_only_for_a_moment() {
        // It takes connections, and never says a word.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("postgres://freshet@{}/freshet", silent.local_addr().expect("an address"));
        let (runtime, mut look) = (Runtime::new().expect("a runtime"), Look::default());
        let pool = runtime.block_on(async { PgPoolOptions::new().connect_lazy(&url).expect("a URL") });
        for longest in [5 * BOOKMARKS_LOOK_TIMEOUT, BOOKMARKS_LOOK_TIMEOUT / 2] {
            let began = Instant::now();
            let left_at = BTreeMap::from([(0, (1, Some(5)))]);
            assert!(!look.were_taken(runtime.handle(), &pool, "health", left_at));
            assert!(began.elapsed() < longest, "{:?}: a second look does not begin beside a late one", began.elapsed());
        }
        assert!(look.is_late(BOOKMARKS_LOOK_MAX), "the server has answered");
        assert!(!look.is_late(Duration::ZERO) && look.late.is_none(), "a look that is given up is waited for");
    }

    #[test]
    fn a_poll_waits_long_only_where_nothing_came_lately() {
        assert_eq!([QUIET / 2, QUIET].map(poll_timeout), [POLL_TIMEOUT, QUIET_POLL_TIMEOUT]);
    }
}
