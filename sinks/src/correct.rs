//! The transaction `correct`: one batch of rows read again, judged by the rules as they are now.
//!
//! It stands where [`apply`](crate::apply) stands for rows that come for the first time, and goes the same way: move
//! the replay's own bookmarks, or find that the batch is not ours; write the newest row of each key, under the same
//! guard that never lets old data over new; keep the rejects; mark what changed. All of it commits or none.
//!
//! What differs, because the rows were received before:
//! - which rows were received is known: the sets and counts of the live pipeline are left alone. The replay keeps sets
//!   of its own, beside the corrections that it makes: of files that it has read as a whole, they are what counts then;
//! - only rows that differ from the table are written ([`crate::difference`]), so that rules that have not changed
//!   write nothing;
//! - a row that was a reject and loads now is one no longer; one that loaded and is refused now becomes one. Both move
//!   between the counts of their file, whose sum stays;
//! - a row that loaded before and has no place any more, or another key, leaves what it had written behind. Whoever is
//!   rejected, comes to a place or finds it taken by newer data is remembered as a *suspect*, and what stands under its
//!   lineage elsewhere is removed when all is read ([`crate::replays::finish`]): finding it needs a look through the
//!   whole table, which once is enough. What those rows kept out comes in with a second reading.
//!
//! With the live pipeline at work on the same rows, whoever comes second waits for the row, and the guard decides.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::{Provenance, Value};
use sqlx::{Connection, PgConnection};

use crate::apply::{self, ApplyError, PartitionBatch, REFUSED_BY_DATABASE, ReceivedRow, part_of};
use crate::difference::Difference;
use crate::lives;
use crate::marks::Marks;
use crate::newest::{self, Failure, Mode, Outcome};
use crate::place::Place;
use crate::postgres::{ErrorKind, error_kind};
use crate::progress::{self, Part, PartProgress};
use crate::refusals::Refusals;
use crate::rejects::{self, Lineage, Refusal, Reject};
use crate::replays::{self, Running, Suspect};
use crate::upsert::{Candidate, Upsert};

/// What became of rows that were read again, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corrected {
    /// Rows read.
    pub read: u64,
    /// Rows of keys that were not in the table.
    pub inserted: u64,
    /// Rows that now stand in the table with other values.
    pub changed: u64,
    /// Values changed, by column.
    pub columns: BTreeMap<&'static str, u64>,
    /// Rows that loaded before and are rejects now, by rule.
    pub rejected_anew: BTreeMap<&'static str, u64>,
    /// Rows that were rejects and load now, by the rule that had refused them.
    pub accepted_anew: BTreeMap<String, u64>,
    /// Rows that were handed to Postgres.
    pub offered: usize,
    /// Rows that Postgres itself refused.
    pub refused: usize,
}

/// A row that a replay treats otherwise than before.
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
    /// It is rejected, and was not.
    RejectedAnew(Refusal),
    /// It loads, and did not because of this rule.
    AcceptedAnew(String),
}

fn lineage_of(row: &ReceivedRow) -> Lineage {
    (row.provenance.object, row.provenance.generation, row.provenance.row)
}

/// Corrects the table by a batch, on a connection that is in no transaction, as part of a replay.
///
/// # Errors
/// As [`apply::apply`].
pub async fn correct(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &[PartitionBatch],
    replay: &Running,
    recent: &Refusals,
) -> Result<Corrected, ApplyError> {
    match attempt(connection, upsert, topic, batch, replay, Mode::Fast, recent).await {
        Err(Failure::Row) => {
            attempt(connection, upsert, topic, batch, replay, Mode::Careful, recent).await.map_err(|failure| {
                match failure {
                    Failure::Row => unreachable!("a careful attempt takes refused rows out"),
                    Failure::Final(error) => error,
                }
            })
        }
        Err(Failure::Final(error)) => Err(error),
        Ok(corrected) => Ok(corrected),
    }
}

async fn attempt(
    connection: &mut PgConnection,
    upsert: &Upsert,
    topic: &str,
    batch: &[PartitionBatch],
    replay: &Running,
    mode: Mode,
    recent: &Refusals,
) -> Result<Corrected, Failure> {
    debug_assert_eq!(upsert.place(), Place::InPlace);
    let domain = upsert.domain().name;
    let mut transaction = connection.begin().await?;
    if mode == Mode::Careful {
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
    }
    let going = apply::advance(&mut transaction, Place::InPlace, domain, batch).await?;
    let mut work = Work::sort_out(&mut transaction, domain, &going).await?;
    let outcome = newest::write(&mut transaction, upsert, work.candidates(), mode, recent).await?;
    let marks = Marks::of(&outcome.written);
    let corrected = work.settle(&outcome);
    let mut progress = progress::load(&mut transaction, Place::InPlace, domain, &work.parts()).await?;
    work.count_corrections(&mut progress);
    progress::save(&mut transaction, Place::InPlace, domain, &progress).await?;
    let rejects: Vec<Reject> =
        work.rejected.iter().map(|(partition, row, refusal)| row.rejected(*partition, refusal.clone())).collect();
    rejects::insert(&mut transaction, Place::InPlace, domain, topic, &rejects).await?;
    rejects::delete(&mut transaction, Place::InPlace, domain, &work.accepted_anew).await?;
    replays::suspect(&mut transaction, replay, &work.suspects).await?;
    replays::recount(&mut transaction, domain, &work.moved).await?;
    replays::add(&mut transaction, replay, &corrected).await?;
    marks.append(&mut transaction, domain).await?;
    match transaction.commit().await {
        Ok(()) => Ok(corrected),
        // A deferred constraint: checked at once, it names its row.
        Err(error) if mode == Mode::Fast && error_kind(&error) == ErrorKind::Row => Err(Failure::Row),
        Err(error) => Err(error.into()),
    }
}

/// What [`correct`] would do with a batch, as the table is now, and examples of it. Nothing is written; what only
/// Postgres would refuse is not known.
///
/// # Errors
/// As [`apply::apply`].
pub async fn preview(
    connection: &mut PgConnection,
    upsert: &Upsert,
    batch: &[PartitionBatch],
) -> Result<(Corrected, Vec<Difference>, Vec<Example>), ApplyError> {
    let parts: Vec<&PartitionBatch> = batch.iter().collect();
    let mut work = Work::sort_out(connection, upsert.domain().name, &parts).await?;
    let candidates = work.candidates();
    let (newest, mut lost) = newest::of_each_key(upsert, candidates);
    let differences = upsert.differences(connection, &newest).await?;
    lost.extend(differences.lost);
    let outcome = Outcome { differences: differences.differing, lost, ..Outcome::default() };
    let corrected = work.settle(&outcome);
    let examples = work.examples(upsert, &outcome.differences);
    Ok((corrected, outcome.differences, examples))
}

/// How rows of a file move between its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Rejects that load now.
    pub(crate) accepted: i64,
    /// Those of them that stand in the table.
    pub(crate) written: i64,
    /// Rows that are rejects now.
    pub(crate) rejected: i64,
}

/// A batch on its way through the transaction.
struct Work<'b> {
    /// Rows that load, in the order read.
    rows: Vec<(i32, &'b ReceivedRow)>,
    rejected: Vec<(i32, &'b ReceivedRow, Refusal)>,
    /// Rows of the batch's files that are rejects at present, with their rule.
    formerly: BTreeMap<Lineage, String>,
    accepted_anew: Vec<Lineage>,
    suspects: Vec<Suspect>,
    moved: BTreeMap<Part, Moved>,
}

impl<'b> Work<'b> {
    async fn sort_out(
        connection: &mut PgConnection,
        domain: &str,
        batch: &[&'b PartitionBatch],
    ) -> Result<Self, sqlx::Error> {
        let mut work = Work {
            rows: Vec::new(),
            rejected: Vec::new(),
            formerly: BTreeMap::new(),
            accepted_anew: Vec::new(),
            suspects: Vec::new(),
            moved: BTreeMap::new(),
        };
        for (partition, row) in lives::sift(connection, Place::InPlace, domain, batch).await?.rows {
            match &row.outcome {
                Ok(_) => work.rows.push((partition, row)),
                Err(refusal) => work.rejected.push((partition, row, refusal.clone())),
            }
        }
        let lineages: Vec<Lineage> = work.received().map(|(_, row)| lineage_of(row)).collect();
        work.formerly = rejects::among(connection, Place::InPlace, domain, &lineages).await?;
        Ok(work)
    }

    fn received(&self) -> impl Iterator<Item = (i32, &'b ReceivedRow)> {
        self.rows.iter().copied().chain(self.rejected.iter().map(|(partition, row, _)| (*partition, *row)))
    }

    fn parts(&self) -> Vec<Part> {
        let parts: BTreeSet<Part> = self.received().map(|(partition, row)| part_of(partition, row)).collect();
        parts.into_iter().collect()
    }

    /// Counts the corrections made in rows that this replay had not read before.
    fn count_corrections(&self, progress: &mut BTreeMap<Part, PartProgress>) {
        for (partition, row) in self.received() {
            let progress = progress.entry(part_of(partition, row)).or_default();
            if progress.received.insert(row.provenance.seq) {
                for (column, rule) in &row.corrections {
                    progress.added.correct(column, rule);
                }
            }
        }
    }

    fn candidates(&self) -> Vec<Candidate<'b>> {
        let candidate = |(index, (_, row)): (usize, &(i32, &'b ReceivedRow))| {
            Some(Candidate { values: row.outcome.as_ref().ok()?, provenance: &row.provenance, index })
        };
        self.rows.iter().enumerate().filter_map(candidate).collect()
    }

    /// Counts, and says which rejects to delete, which rows to suspect and how the counts of the files move.
    fn settle(&mut self, outcome: &Outcome) -> Corrected {
        let mut corrected = Corrected {
            read: (self.rows.len() + self.rejected.len()) as u64,
            offered: outcome.differences.len(),
            refused: outcome.refused.len(),
            ..Corrected::default()
        };
        let refused: BTreeMap<usize, &String> = outcome.refused.iter().map(|(index, words)| (*index, words)).collect();
        let mut written = BTreeSet::new();
        for difference in outcome.differences.iter().filter(|difference| !refused.contains_key(&difference.index)) {
            written.insert(difference.index);
            self.place(difference, &mut corrected);
        }
        for (index, (partition, row)) in self.rows.iter().enumerate() {
            match refused.get(&index) {
                Some(words) => {
                    let value = Some((*words).clone());
                    self.rejected.push((*partition, row, Refusal { rule: REFUSED_BY_DATABASE, column: None, value }));
                }
                None => {
                    let Some(rule) = self.formerly.get(&lineage_of(row)) else { continue };
                    // Whether Postgres would still refuse it is known only of a row that was offered.
                    if rule == REFUSED_BY_DATABASE && !written.contains(&index) {
                        continue;
                    }
                    *corrected.accepted_anew.entry(rule.clone()).or_default() += 1;
                    self.accepted_anew.push(lineage_of(row));
                    let moved = self.moved.entry(part_of(*partition, row)).or_default();
                    moved.accepted += 1;
                    moved.written += i64::from(written.contains(&index));
                }
            }
        }
        for index in &outcome.lost {
            let lineage = lineage_of(self.rows[*index].1);
            if !self.formerly.contains_key(&lineage) {
                self.suspects.push(Suspect { lineage, kept: None });
            }
        }
        for (partition, row, refusal) in &self.rejected {
            let lineage = lineage_of(row);
            if !self.formerly.contains_key(&lineage) {
                *corrected.rejected_anew.entry(refusal.rule).or_default() += 1;
                self.moved.entry(part_of(*partition, row)).or_default().rejected += 1;
                self.suspects.push(Suspect { lineage, kept: None });
            }
        }
        corrected
    }

    /// Counts a row that is written. Where it did not stand under this key before, it may stand under another.
    fn place(&mut self, difference: &Difference, corrected: &mut Corrected) {
        let lineage = lineage_of(self.rows[difference.index].1);
        match &difference.before {
            None => corrected.inserted += 1,
            Some(before) => {
                corrected.changed += 1;
                for (column, _) in &before.columns {
                    *corrected.columns.entry(column).or_default() += 1;
                }
            }
        }
        let stood_here = difference.before.as_ref().is_some_and(|before| before.lineage == lineage);
        if !stood_here && !self.formerly.contains_key(&lineage) {
            self.suspects.push(Suspect { lineage, kept: Some(difference.key.clone()) });
        }
    }

    fn examples(&self, upsert: &Upsert, differences: &[Difference]) -> Vec<Example> {
        let mut examples: Vec<Example> = differences
            .iter()
            .filter_map(|difference| {
                let row = self.rows[difference.index].1;
                let key = difference.key.clone();
                let what = match &difference.before {
                    None => What::Inserted { key },
                    Some(before) => {
                        let (column, before) = before.columns.first().cloned()?;
                        let after =
                            row.outcome.as_ref().ok().and_then(|it| shown(&it[upsert.domain().index_of(column)]));
                        What::Changed { key, column, before, after }
                    }
                };
                Some(Example { provenance: row.provenance, what })
            })
            .collect();
        let accepted_anew: BTreeSet<Lineage> = self.accepted_anew.iter().copied().collect();
        for (_, row) in &self.rows {
            if accepted_anew.contains(&lineage_of(row)) {
                let rule = self.formerly[&lineage_of(row)].clone();
                examples.push(Example { provenance: row.provenance, what: What::AcceptedAnew(rule) });
            }
        }
        for (_, row, refusal) in &self.rejected {
            if !self.formerly.contains_key(&lineage_of(row)) {
                examples.push(Example { provenance: row.provenance, what: What::RejectedAnew(refusal.clone()) });
            }
        }
        examples
    }
}

/// A value for people; `None` is NULL.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Int(value) => Some(value.to_string()),
        Value::Double(value) => Some(value.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Date(value) => Some(value.to_string()),
        Value::Text(value) => Some(value.to_string()),
    }
}
