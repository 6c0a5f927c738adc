//! Finds out from the topic what one reading of a file changed in its table.
//!
//! The log is read twice. The first time only rows of the file are kept, one a key. The second time each row of one of
//! these keys is compared with them: what was there before, and what has come since. All rows are judged by the rules of
//! this program. Nothing is read past the live bookmarks, and nothing is written.
//!
//! What it cannot know: rows that retention has removed, and rows that other programs wrote to the table.

mod compare;

use std::collections::{BTreeMap, BTreeSet};

use freshet_sinks::apply::{REFUSED_BY_DATABASE, ReceivedRow};
use freshet_topics::columns::Columns;
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::Ends;
use freshet_topics::{Domain, Lineage};
use sqlx::{PgPool, Row};
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::compare::{Change, Changes, Example, KEYS_MAX};
use self::compare::{Comparison, Place, Removed, Seen};
use crate::batch::JudgedBatch;
use crate::lineage::{Places, is_of_ledger};
use crate::ranges::{self, LOOKUP_BATCH_ROWS, Range, RangeError, Reading};

/// Rows refused by Postgres itself that are remembered: the rules of this program do not refuse them.
const REFUSED_MAX: i64 = 100_000;

/// One reading of a version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileReading {
    /// `pipeline.objects.id`.
    pub object: i64,
    /// Which reading of it.
    pub generation: i32,
    /// Its position in the order of its domain.
    pub src_ord: i64,
    /// Distinguishes it from an object with the same id in another life of the ledger.
    pub nonce: Uuid,
}

/// The changes are not known.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// Kafka does not give the rows.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Postgres does not answer.
    #[error("look up the files of the rows: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// What a reading of a file changed, with at most `examples_max` examples of each kind.
///
/// # Errors
/// [`ChangesError`].
pub async fn of_file(
    domain: &'static Domain,
    kafka: &KafkaSettings,
    pool: &PgPool,
    file: FileReading,
    places: &Places,
    examples_max: usize,
) -> Result<Changes, ChangesError> {
    let refused = refused(pool, domain, file).await?;
    let mut comparison = Comparison::new(domain);
    let mut partitions = BTreeSet::new();
    let own = Some(BTreeSet::from([file.object]));
    let mut batches = read(domain, kafka, places.iter().map(range), own);
    while let Some(batch) = batches.recv().await.transpose()? {
        for row in (0..batch.rows.origins.len()).map(|at| batch.rows.row(at)) {
            let provenance = row.provenance();
            let is_own = (provenance.generation, provenance.src_ord) == (file.generation, file.src_ord);
            if is_own && is_of_ledger(provenance.nonce, file.nonce) {
                partitions.insert(row.origin().partition);
                add_own(&mut comparison, domain, &row, &refused);
            }
        }
    }
    if comparison.is_empty() {
        return Ok(comparison.changes(file.object, examples_max));
    }
    let is_everywhere = !is_placed_by_key(pool, domain).await?;
    let ranges = places.iter().filter(|(partition, _)| is_everywhere || partitions.contains(partition)).map(range);
    let mut senders = Senders { pool, known: BTreeMap::new() };
    let mut batches = read(domain, kafka, ranges, None);
    while let Some(batch) = batches.recv().await.transpose()? {
        let rows = (0..batch.rows.origins.len()).map(|at| batch.rows.row(at));
        let is_other = |row: &ReceivedRow<'_>| {
            let provenance = row.provenance();
            row.refusal().is_none() && (provenance.object, provenance.generation) != (file.object, file.generation)
        };
        let values = &batch.rows.judged.values;
        let rows = rows.filter(is_other).map(|row| (packed_key(domain, values, row.at()), row));
        let rows: Vec<(String, ReceivedRow<'_>)> = rows.filter(|(key, _)| comparison.has(key)).collect();
        senders.look_up(rows.iter().map(|(_, row)| row.provenance().object)).await?;
        for (key, row) in &rows {
            if let Some(removed) = senders.of(row) {
                let values = packed_row(domain, values, row.at());
                comparison.add_other(seen(row, key, &values), removed, &refused);
            }
        }
    }
    Ok(comparison.changes(file.object, examples_max))
}

fn range((&partition, (ends, bookmark)): (&i32, &(Ends, i64))) -> Range {
    Range { partition, from: ends.low, to: ends.high.min(*bookmark).max(ends.low) }
}

fn read(
    domain: &'static Domain,
    kafka: &KafkaSettings,
    ranges: impl Iterator<Item = Range>,
    objects: Option<BTreeSet<i64>>,
) -> mpsc::Receiver<Result<JudgedBatch, RangeError>> {
    let ranges = ranges.filter(|range| !range.is_empty()).collect();
    ranges::read(Reading { domain, kafka: kafka.clone(), ranges, objects, batch_rows_max: LOOKUP_BATCH_ROWS })
}

fn add_own(comparison: &mut Comparison, domain: &Domain, row: &ReceivedRow<'_>, refused: &BTreeSet<Lineage>) {
    let (provenance, values) = (row.provenance(), &row.rows().judged.values);
    let is_refused = refused.contains(&provenance.lineage());
    let rule = row.refusal().map(|refusal| refusal.rule).or(is_refused.then_some(REFUSED_BY_DATABASE));
    if !comparison.receive(row.origin().partition, provenance.seq) {
        return;
    }
    match rule {
        Some(rule) => comparison.reject(rule),
        None => {
            let key = packed_key(domain, values, row.at());
            let values = packed_row(domain, values, row.at());
            comparison.add_own(seen(row, &key, &values));
        }
    }
}

fn seen<'a>(row: &ReceivedRow<'_>, key: &'a str, values: &'a str) -> Seen<'a> {
    let origin = row.origin();
    let provenance = &origin.provenance;
    Seen {
        object: provenance.object,
        order: provenance.order(),
        line: provenance.line,
        place: Place { partition: origin.partition, offset: origin.offset },
        key,
        values,
    }
}

fn packed_key(domain: &Domain, values: &Columns, row: usize) -> String {
    compare::packed(domain.key.iter().map(|name| values.get(domain.index_of(name), row)))
}

fn packed_row(domain: &Domain, values: &Columns, row: usize) -> String {
    compare::packed((0..domain.columns.len()).map(|at| values.get(at, row)))
}

/// Whether all rows of a key are in one partition.
async fn is_placed_by_key(pool: &PgPool, domain: &Domain) -> Result<bool, sqlx::Error> {
    let counts: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT partition_count) FROM pipeline.objects WHERE domain = $1 AND partition_count > 0",
    )
    .bind(domain.name)
    .fetch_one(pool)
    .await?;
    Ok(counts <= 1 && domain.key.contains(&domain.partition_by))
}

/// Rows that Postgres refused: first those of the examined reading, then the newest, up to [`REFUSED_MAX`].
async fn refused(pool: &PgPool, domain: &Domain, file: FileReading) -> Result<BTreeSet<Lineage>, sqlx::Error> {
    let rows: Vec<(i64, i32, i64)> = sqlx::query_as(
        "SELECT object, generation, row FROM pipeline.rejects WHERE domain = $1 AND rule = $2
         ORDER BY (object = $3 AND generation = $4) DESC, object DESC LIMIT $5",
    )
    .bind(domain.name)
    .bind(REFUSED_BY_DATABASE)
    .bind(file.object)
    .bind(file.generation)
    .bind(REFUSED_MAX)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(object, generation, row)| Lineage { object, generation, row }).collect())
}

/// The files that sent rows of the keys, as the ledger has them.
struct Senders<'p> {
    pool: &'p PgPool,
    /// Object → its nonce, and when its rows left the table; `None` if the ledger does not have it.
    known: BTreeMap<i64, Option<(Uuid, Removed)>>,
}

impl Senders<'_> {
    async fn look_up(&mut self, objects: impl Iterator<Item = i64>) -> Result<(), sqlx::Error> {
        let unknown: BTreeSet<i64> = objects.filter(|object| !self.known.contains_key(object)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<i64> = unknown.into_iter().collect();
        let found = sqlx::query(
            "SELECT o.id, o.nonce, n.src_ord FROM pipeline.objects o
             LEFT JOIN pipeline.objects n ON n.id = o.replaced_by WHERE o.id = ANY ($1)",
        )
        .bind(&unknown)
        .fetch_all(self.pool)
        .await?;
        self.known.extend(unknown.into_iter().map(|object| (object, None)));
        for row in found {
            self.known.insert(row.try_get(0)?, Some((row.try_get(1)?, row.try_get(2)?)));
        }
        Ok(())
    }

    /// When the row left the table with its version; `None` if another ledger sent it.
    fn of(&self, row: &ReceivedRow<'_>) -> Option<Removed> {
        let provenance = row.provenance();
        let (nonce, removed) = self.known.get(&provenance.object).copied().flatten()?;
        is_of_ledger(provenance.nonce, nonce).then_some(removed)
    }
}
