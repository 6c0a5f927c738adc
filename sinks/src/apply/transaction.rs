//! The transaction of a batch, step by step.
//!
//! Applying new rows and correcting rows that are read again use the same transaction; a [`Strategy`] has the
//! differences. All of it commits or none. If the connection drops before COMMIT is confirmed, the same batch is
//! applied again: the bookmark says whether the commit worked.

use freshet_topics::failpoint::{self, Point};
use sqlx::PgConnection;

use super::batch::{ApplyBatch, Batch, Duplicates, parts_of};
use super::error::{ApplyError, Failure, Mode};
use super::marks::Marks;
use super::moved;
use super::newest::{self, Outcome};
use super::refusals::Refusals;
use super::upsert::Upsert;
use super::{progress, rejects};
use crate::bookmarks::{self, BookmarkMove, MoveDecision};
use crate::destination::Destination;
use crate::lives::{self, Sifted};
use crate::postgres::{ErrorKind, error_kind};
use crate::transactions::{self, Limits};

/// What to apply, and how.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) upsert: &'a Upsert,
    pub(crate) topic: &'a str,
    pub(crate) batch: &'a Batch,
    /// Postgres' refusals in the batches before.
    pub(crate) recent: &'a Refusals,
    /// How to write it at first, guessed from the batches before.
    pub(crate) first: Mode,
}

/// The differences between the transactions. Each attempt has its own.
pub(crate) trait Strategy: Sized {
    /// The transaction's name.
    const NAME: &'static str;
    /// What to do with rows that were received before.
    const DUPLICATES: Duplicates;
    /// What the caller gets.
    type Summary;

    /// Reads what it needs to know about the batch before anything is written.
    async fn look(
        &mut self,
        connection: &mut PgConnection,
        domain: &str,
        batch: &ApplyBatch<'_>,
    ) -> Result<(), sqlx::Error>;

    /// Counts what happened to the rows.
    fn count(&mut self, batch: &mut ApplyBatch<'_>, outcome: &Outcome);

    /// Writes what it stores besides rejects and progress.
    async fn save(&mut self, connection: &mut PgConnection, domain: &str) -> Result<(), ApplyError>;

    /// What was done.
    fn summary(self) -> Self::Summary;
}

/// Writes a batch on a connection that is in no transaction: at first as guessed; by the upsert if that fails because of
/// a row; and carefully if Postgres refuses the row.
pub(crate) async fn run<S: Strategy>(
    connection: &mut PgConnection,
    request: Request<'_>,
    strategy: impl Fn() -> S,
) -> Result<S::Summary, ApplyError> {
    let mut mode = request.first;
    loop {
        match (attempt(connection, request, strategy(), mode).await, mode.next()) {
            (Ok(summary), _) => return Ok(summary),
            (Err(Failure::Final(error)), _) => return Err(error),
            (Err(Failure::Row), Some(next)) => mode = next,
            (Err(Failure::Row), None) => unreachable!("a careful attempt takes refused rows out"),
        }
    }
}

async fn attempt<S: Strategy>(
    connection: &mut PgConnection,
    request: Request<'_>,
    mut strategy: S,
    mode: Mode,
) -> Result<S::Summary, Failure> {
    let Request { upsert, topic, batch, recent, .. } = request;
    let (domain, destination) = (upsert.domain().name, upsert.destination());
    let mut transaction = transactions::begin_on(connection, S::NAME, Limits::SHORT).await?;
    if mode == Mode::Careful {
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
    }

    // Before the bookmarks: whoever waits here holds none that a new owner could want.
    moved::lock(&mut transaction, upsert).await?;
    let unapplied = move_bookmarks(&mut transaction, destination, domain, &batch.bookmarks).await?;
    let Sifted { rows, passed_over, life_begun, replaced } =
        lives::sift(&mut transaction, destination, upsert.domain(), batch.rows_of(&unapplied)).await?;
    let received = progress::load(&mut transaction, destination, domain, &parts_of(&rows)).await?;
    let mut batch = ApplyBatch::sort_out(&rows, received, S::DUPLICATES);
    (batch.passed_over, batch.life_begun, batch.replaced) = (passed_over, life_begun, replaced);
    strategy.look(&mut transaction, domain, &batch).await?;
    let outcome = newest::write(&mut transaction, upsert, batch.candidates(), mode, recent).await?;
    batch.reject_refused(&outcome.refused);
    strategy.count(&mut batch, &outcome);
    rejects::insert(&mut transaction, destination, domain, topic, &batch.rejects()).await?;
    progress::save(&mut transaction, destination, domain, &batch.progress).await?;
    strategy.save(&mut transaction, domain).await?;
    // The outputs are derived from the live table.
    if destination != Destination::Shadow {
        Marks::of(&outcome.written).append(&mut transaction, domain).await?;
    }
    failpoint::reach(Point::BeforeCommit);
    match transaction.commit().await {
        Ok(()) => {
            failpoint::reach(Point::AfterCommit);
            Ok(strategy.summary())
        }
        // A deferred constraint: checked immediately, it names its row.
        Err(error) if mode != Mode::Careful && error_kind(&error) == ErrorKind::Row => Err(Failure::Row),
        Err(error) => Err(error.into()),
    }
}

/// Moves the bookmarks, and returns those of the partitions to which the batch was not applied before.
///
/// # Errors
/// [`ApplyError::Lost`] names the partitions whose bookmarks are not where this owner left them.
async fn move_bookmarks(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    moves: &[BookmarkMove],
) -> Result<Vec<BookmarkMove>, ApplyError> {
    let decisions = bookmarks::move_all(connection, destination, domain, moves).await?;
    let decided = |wanted: MoveDecision| moves.iter().zip(&decisions).filter(move |(_, one)| **one == wanted);
    let lost: Vec<i32> = decided(MoveDecision::Lost).map(|(one, _)| one.partition).collect();
    match lost.is_empty() {
        true => Ok(decided(MoveDecision::Go).map(|(one, _)| *one).collect()),
        false => Err(ApplyError::Lost(lost)),
    }
}
