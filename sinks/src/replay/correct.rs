//! The transaction `correct`: one batch of rows that are read again, judged by the present rules.
//!
//! It is the transaction of [`apply`](crate::apply), with the replay's own bookmarks and the same guard, which never
//! lets old data replace new data.
//!
//! The differences, because the rows were received before:
//! - Which rows were received is known: the sets and counts of the live pipeline do not change. The replay has its own
//!   sets, and counts its own corrections; for files that it has read completely, those replace the old counts.
//! - Only rows that differ from the table are written ([`crate::apply::difference`]), so unchanged rules write nothing.
//! - A reject that loads now is no longer a reject; a row that loaded and is refused now becomes one. Both move between
//!   the counts of their file, whose sum stays the same.
//! - A row that loaded before, and now is a reject, has another key or loses to newer data, may have left a *leftover*
//!   in the table: a row with its lineage under another key. Leftovers are removed when everything is read
//!   ([`super::finish()`]), because finding them takes a pass through the whole table, and one is enough. Rows that the
//!   leftovers kept out are written by a second pass.
//!
//! If the live pipeline writes the same rows, the second writer waits for the row, and the guard decides.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::{Lineage, Provenance};
use sqlx::PgConnection;

use super::Running;
use super::counts::{self, Moved};
use super::leftovers::{self, Leftover};
use crate::apply::difference::{Detail, Difference};
use crate::apply::error::Mode;
use crate::apply::newest::{self, Outcome};
use crate::apply::progress::Part;
use crate::apply::refusals::Refusals;
use crate::apply::rejects::{self, Refusal};
use crate::apply::transaction::{self, Request, Strategy};
use crate::apply::upsert::{Upsert, filled_columns};
use crate::apply::{ApplyBatch, ApplyError, Batch, Duplicates, REFUSED_BY_DATABASE, ReceivedRow};
use crate::destination::Destination;
use crate::lives::{self, Sifted};

/// The result, or the preview, for rows that are read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corrected {
    /// Rows read.
    pub read: u64,
    /// Rows of keys that were not in the table.
    pub inserted: u64,
    /// Rows whose values in the table changed.
    pub changed: u64,
    /// Values changed, by column.
    pub columns: BTreeMap<&'static str, u64>,
    /// Rows that loaded before and are rejects now, by rule.
    pub rejected_anew: BTreeMap<&'static str, u64>,
    /// Rows that were rejects and load now, by the rule that had rejected them.
    pub accepted_anew: BTreeMap<String, u64>,
    /// Rows sent to Postgres.
    pub offered: usize,
    /// Rows that Postgres itself refused.
    pub refused: usize,
}

impl Corrected {
    /// Whether values of at least half of the rows changed.
    pub fn is_mostly_changed(&self) -> bool {
        self.changed > 0 && 2 * self.changed >= self.read
    }
}

/// A row whose result changes in a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Where the row comes from.
    pub provenance: Provenance,
    /// What happens to it.
    pub what: What,
}

/// What happens to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is written under a key that the table does not have.
    Inserted {
        /// The key.
        key: String,
    },
    /// A value changes.
    Changed {
        /// The key.
        key: String,
        /// The column.
        column: &'static str,
        /// The value in the table.
        before: Option<String>,
        /// The value of the row.
        after: Option<String>,
    },
    /// It is rejected now, and was not before.
    RejectedAnew(Refusal),
    /// It loads now, and did not before because of this rule.
    AcceptedAnew(String),
}

/// Corrects the table by a batch, on a connection that is in no transaction, as part of a replay. `is_mostly_changed` says
/// that most of its rows probably differ ([`Corrected::is_mostly_changed`] of the batch before); if they do not, it only
/// takes longer.
///
/// # Errors
/// See [`crate::apply::apply`].
pub async fn correct(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &Batch,
    replay: &Running,
    recent: &Refusals,
    is_mostly_changed: bool,
) -> Result<Corrected, ApplyError> {
    debug_assert_eq!(upsert.destination(), Destination::Correction);
    let first = if is_mostly_changed { Mode::Update } else { Mode::Fast };
    let request = Request { upsert, topic, batch, recent, first };
    transaction::run(connection, request, || Correction::of(Some(replay))).await
}

/// What [`correct`] would do with a batch, with examples. Nothing is written, so rows that only Postgres would refuse
/// are not known.
///
/// # Errors
/// See [`crate::apply::apply`].
pub async fn preview(
    connection: &mut PgConnection,
    upsert: &Upsert,
    batch: &Batch,
) -> Result<(Corrected, Vec<Difference>, Vec<Example>), ApplyError> {
    let received = batch.all_rows();
    let Sifted { rows, replaced, .. } =
        lives::sift(connection, upsert.destination(), upsert.domain(), received).await?;
    let mut batch = ApplyBatch::sort_out(&rows, BTreeMap::new(), Correction::DUPLICATES);
    batch.replaced = replaced;
    let mut correction = Correction::of(None);
    correction.look(connection, upsert.domain().name, &batch).await?;
    let (newest, mut lost) = newest::of_each_key(upsert, batch.candidates());
    let differences = upsert.differences(connection, &newest, Detail::Examples).await?;
    lost.extend(differences.lost);
    let outcome = Outcome { differences: differences.differing, lost, ..Outcome::default() };
    correction.count(&mut batch, &outcome);
    let examples = correction.examples(upsert, &batch, &outcome.differences);
    Ok((correction.corrected, outcome.differences, examples))
}

/// The strategy for rows that are read again: it counts only differences from before.
struct Correction<'r> {
    /// `None` if nothing is to be written.
    replay: Option<&'r Running>,
    /// Rows of the batch that are rejects at present, with their rule.
    formerly: BTreeMap<Lineage, String>,
    accepted_anew: Vec<Lineage>,
    leftovers: Vec<Leftover>,
    moved: BTreeMap<Part, Moved>,
    corrected: Corrected,
}

impl Strategy for Correction<'_> {
    const NAME: &'static str = "correct";
    const DUPLICATES: Duplicates = Duplicates::Keep;
    type Summary = Corrected;

    async fn look(
        &mut self,
        connection: &mut PgConnection,
        domain: &str,
        batch: &ApplyBatch<'_>,
    ) -> Result<(), sqlx::Error> {
        let rejected = batch.rejected.iter().map(|(row, _)| row);
        let lineages: Vec<Lineage> = batch.rows.iter().chain(rejected).map(ReceivedRow::lineage).collect();
        self.formerly = rejects::among(connection, Destination::Correction, domain, &lineages).await?;
        Ok(())
    }

    /// Counts, and notes which rejects to delete, which rows may have left something behind, and how the counts of the
    /// files change.
    fn count(&mut self, batch: &mut ApplyBatch<'_>, outcome: &Outcome) {
        self.corrected.read = (batch.rows.len() + batch.rejected.len() - batch.refused.len()) as u64;
        (self.corrected.offered, self.corrected.refused) = (outcome.differences.len(), batch.refused.len());
        let mut written = BTreeSet::new();
        for difference in outcome.differences.iter().filter(|difference| !batch.refused.contains(&difference.index)) {
            written.insert(difference.index);
            self.count_written(batch.rows[difference.index].lineage(), difference);
        }
        for (index, row) in batch.accepted() {
            self.count_accepted(row, written.contains(&index));
        }
        for index in &outcome.lost {
            self.may_have_left(batch.rows[*index].lineage(), None);
        }
        for (row, refusal) in &batch.rejected {
            if !self.formerly.contains_key(&row.lineage()) {
                *self.corrected.rejected_anew.entry(refusal.rule).or_default() += 1;
                self.moved.entry(row.part()).or_default().rejected += 1;
                self.may_have_left(row.lineage(), None);
            }
        }
    }

    async fn save(&mut self, connection: &mut PgConnection, domain: &str) -> Result<(), ApplyError> {
        rejects::delete(connection, Destination::Correction, domain, &self.accepted_anew).await?;
        counts::recount(connection, domain, &self.moved).await?;
        if let Some(replay) = self.replay {
            leftovers::remember(connection, replay, &self.leftovers).await?;
            counts::add(connection, replay, &self.corrected).await?;
        }
        Ok(())
    }

    fn summary(self) -> Corrected {
        self.corrected
    }
}

impl<'r> Correction<'r> {
    fn of(replay: Option<&'r Running>) -> Self {
        Correction {
            replay,
            formerly: BTreeMap::new(),
            accepted_anew: Vec::new(),
            leftovers: Vec::new(),
            moved: BTreeMap::new(),
            corrected: Corrected::default(),
        }
    }

    /// Counts a row that is written. If it was not under this key before, it may be under another one.
    fn count_written(&mut self, lineage: Lineage, difference: &Difference) {
        match &difference.before {
            None => self.corrected.inserted += 1,
            Some(before) => {
                self.corrected.changed += 1;
                for column in before.columns.iter() {
                    *self.corrected.columns.entry(column).or_default() += 1;
                }
            }
        }
        if difference.before.as_ref().is_none_or(|before| before.lineage != lineage) {
            self.may_have_left(lineage, difference.key.clone());
        }
    }

    /// Counts a row that loads, if it was a reject.
    fn count_accepted(&mut self, row: &ReceivedRow<'_>, is_written: bool) {
        let Some(rule) = self.formerly.get(&row.lineage()) else { return };
        // Whether Postgres would still refuse a row is known only if it was sent.
        if rule == REFUSED_BY_DATABASE && !is_written {
            return;
        }
        *self.corrected.accepted_anew.entry(rule.clone()).or_default() += 1;
        self.accepted_anew.push(row.lineage());
        let moved = self.moved.entry(row.part()).or_default();
        moved.accepted += 1;
        moved.written += i64::from(is_written);
    }

    /// Notes a row that was not a reject, and so may be in the table under another key than `kept`.
    fn may_have_left(&mut self, lineage: Lineage, kept: Option<String>) {
        if !self.formerly.contains_key(&lineage) {
            self.leftovers.push(Leftover { lineage, kept });
        }
    }

    fn examples(&self, upsert: &Upsert, batch: &ApplyBatch<'_>, differences: &[Difference]) -> Vec<Example> {
        let mut examples: Vec<Example> =
            differences.iter().filter_map(|difference| changed(upsert, batch, difference)).collect();
        let accepted_anew: BTreeSet<Lineage> = self.accepted_anew.iter().copied().collect();
        for row in &batch.rows {
            if accepted_anew.contains(&row.lineage()) {
                let rule = self.formerly[&row.lineage()].clone();
                examples.push(Example { provenance: *row.provenance(), what: What::AcceptedAnew(rule) });
            }
        }
        for (row, refusal) in &batch.rejected {
            if !self.formerly.contains_key(&row.lineage()) {
                let what = What::RejectedAnew(refusal.clone());
                examples.push(Example { provenance: *row.provenance(), what });
            }
        }
        examples
    }
}

/// A row to be written, with the first column that would change.
fn changed(upsert: &Upsert, batch: &ApplyBatch<'_>, difference: &Difference) -> Option<Example> {
    let row = batch.rows[difference.index];
    let key = difference.key.clone()?;
    let what = match &difference.before {
        None => What::Inserted { key },
        Some(before) => {
            let (column, before) = (*before.columns.first()?, before.first.clone());
            let at = filled_columns(upsert.domain()).position(|it| it == column)?;
            // Text for people; `None` is NULL.
            let value = row.rows().judged.values.get(at, row.at());
            let after = (!value.is_null()).then(|| value.to_string());
            What::Changed { key, column, before, after }
        }
    };
    Some(Example { provenance: *row.provenance(), what })
}
