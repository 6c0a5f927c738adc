//! Applies one batch of rows to Postgres, exactly once, in one transaction.
//!
//! The path of a batch (`transaction`):
//! 1. The bookmarks are moved, unless the batch turns out not to be ours ([`crate::bookmarks`]).
//! 2. Rows that another life of the ledger sent are skipped ([`crate::lives`]), and duplicates are left out
//!    ([`progress`]).
//! 3. The newest row of each key is written: by COPY if all keys are probably new ([`copy`](mod@copy)), else by the
//!    upsert ([`upsert`]); a replay in place changes rows where they are if most of them differ (`update`). If Postgres
//!    refuses a row, the row becomes a reject, and the next-newest row of its key is written instead (`newest`). A table
//!    that refuses everything is distinguished from a few bad rows ([`refusals`]).
//! 4. Rows that cannot load are stored as rejects ([`rejects`]), and received rows are added to the sets and counts
//!    ([`progress`]).
//! 5. Changes that affect outputs are marked ([`marks`]), with the dates that updated rows had before (`moved`).
//! 6. The transaction commits.
//!
//! A shadow is filled by the same transaction at another [`Destination`](crate::destination::Destination), but its
//! changes are not marked. A replay in place takes the same path and only counts differently
//! ([`crate::replay::correct`]).

pub(crate) mod arrays;
mod batch;
pub mod copy;
pub mod difference;
pub(crate) mod error;
pub mod ids;
pub mod marks;
mod moved;
pub(crate) mod newest;
pub mod progress;
pub mod refusals;
pub mod rejects;
pub mod removal;
pub(crate) mod transaction;
mod update;
pub mod upsert;
pub mod written;

use std::collections::BTreeMap;

use freshet_topics::Lineage;
use sqlx::PgConnection;

pub use batch::{ApplyBatch, Batch, Duplicates, Origin, REFUSED_BY_DATABASE, ReceivedRow, Rows};
use error::Mode;
pub use error::{ApplyError, within};
use newest::Outcome;
use refusals::Refusals;
use transaction::{Request, Strategy};
use upsert::Upsert;
use written::Written;

/// The result of applying a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows written to the table.
    pub applied: u64,
    /// Rows that lost to newer data.
    pub stale: u64,
    /// Rows received before.
    pub duplicate: u64,
    /// Rows that cannot load, as (rule, count).
    pub rejected: BTreeMap<&'static str, u64>,
    /// Changes made to values, as ((column, rule), count).
    pub corrected: BTreeMap<(&'static str, &'static str), u64>,
    /// Values that break a rule but load anyway, counted in the same way.
    pub warned: BTreeMap<(&'static str, &'static str), u64>,
    /// Rows sent by another ledger, or by another life of this one ([`crate::lives`]).
    pub passed_over: u64,
    /// The life of the ledger that began because this batch shows that Postgres went back.
    pub life_begun: Option<i32>,
    /// Rows sent to Postgres.
    pub offered: usize,
    /// Rows that Postgres itself refused.
    pub refused: usize,
    /// Whether COPY wrote it.
    pub by_copy: bool,
}

/// Applies a batch on a connection that is in no transaction. `recent` counts Postgres' refusals in the batches before;
/// `by_copy` says that the keys are probably new ([`CopyGuess`](copy::CopyGuess)).
///
/// # Errors
/// See [`ApplyError`]. Nothing of the batch is applied then, unless the connection drops before COMMIT is confirmed;
/// calling again with the same batch resolves that.
pub async fn apply(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &Batch,
    recent: &Refusals,
    by_copy: bool,
) -> Result<Applied, ApplyError> {
    let first = if by_copy { Mode::Copy } else { Mode::Fast };
    let request = Request { upsert, topic, batch, recent, first };
    transaction::run(connection, request, FirstTime::default).await
}

/// The strategy for new rows: each is counted once, as applied, stale or rejected.
#[derive(Default)]
struct FirstTime {
    applied: Applied,
}

impl Strategy for FirstTime {
    const NAME: &'static str = "apply";
    const DUPLICATES: Duplicates = Duplicates::TakeOut;
    type Summary = Applied;

    async fn look(&mut self, _: &mut PgConnection, _: &str, _: &ApplyBatch<'_>) -> Result<(), sqlx::Error> {
        Ok(())
    }

    fn count(&mut self, batch: &mut ApplyBatch<'_>, outcome: &Outcome) {
        let lineages = outcome.written.iter().flat_map(|&Written { object, generation, ref rows, .. }| {
            rows.iter().map(move |&row| Lineage { object, generation, row })
        });
        let mut written: Vec<Lineage> = lineages.collect();
        written.sort_unstable();
        let applied = &mut self.applied;
        let accepted: Vec<ReceivedRow> = batch.accepted().map(|(_, row)| *row).collect();
        for row in accepted {
            let added = &mut batch.progress_of(row.part()).added;
            if written.binary_search(&row.lineage()).is_ok() {
                added.applied += 1;
                applied.applied += 1;
            } else {
                added.stale += 1;
                applied.stale += 1;
            }
        }
        let rejected: Vec<_> = batch.rejected.iter().map(|(row, refusal)| (row.part(), refusal.rule)).collect();
        for (part, rule) in rejected {
            batch.progress_of(part).added.rejected += 1;
            *applied.rejected.entry(rule).or_default() += 1;
        }
        (applied.offered, applied.refused) = (batch.rows.len(), batch.refused.len());
        (applied.passed_over, applied.life_begun) = (batch.passed_over, batch.life_begun);
        (applied.duplicate, applied.corrected) = (batch.duplicate, std::mem::take(&mut batch.corrected));
        applied.warned = std::mem::take(&mut batch.warned);
        applied.by_copy = outcome.by_copy;
    }

    async fn save(&mut self, _: &mut PgConnection, _: &str) -> Result<(), ApplyError> {
        Ok(())
    }

    fn summary(self) -> Applied {
        self.applied
    }
}
