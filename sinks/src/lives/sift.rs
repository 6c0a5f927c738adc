//! Removing rows of other ledgers from a batch, inside its transaction.

use std::collections::{BTreeMap, BTreeSet};

use freshet_topics::{Domain, Overwrite};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Entry, Verdict, Why, begin_if, judge};
use crate::apply::{Origin, ReceivedRow};
use crate::destination::Destination;

/// A batch without the rows of other ledgers.
pub(crate) struct Sifted<'b> {
    /// The rows that remain, in the order received.
    pub(crate) rows: Vec<ReceivedRow<'b>>,
    /// Number of rows skipped.
    pub(crate) passed_over: u64,
    /// The life that began because of them.
    pub(crate) life_begun: Option<i32>,
    /// Objects of the batch that a newer applied version has replaced.
    pub(crate) replaced: BTreeSet<i64>,
}

/// Sifts rows of a batch. For the live table, the skipped rows are counted in `pipeline.passed_over`; the first one
/// that the ledger must have forgotten begins a new life. A replay skips such rows without counting them again.
pub(crate) async fn sift<'b>(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &'static Domain,
    received: Vec<ReceivedRow<'b>>,
) -> Result<Sifted<'b>, sqlx::Error> {
    let mut objects: Vec<i64> = received.iter().map(|row| row.provenance().object).filter(|id| *id != 0).collect();
    objects.dedup();
    objects.sort_unstable();
    objects.dedup();
    if objects.is_empty() {
        return Ok(Sifted { rows: received, passed_over: 0, life_begun: None, replaced: BTreeSet::new() });
    }
    crate::ledger::lock_shared(connection, domain).await?;
    let Known { current, entries, replaced } = known(connection, &objects).await?;
    let replaced = if domain.on_overwrite == Overwrite::Replace { replaced } else { BTreeSet::new() };
    let mut sifted = Sifted { rows: Vec::with_capacity(received.len()), passed_over: 0, life_begun: None, replaced };
    let (mut passed_over, mut forgotten) = (PassedOver::default(), None);
    for row in received {
        let provenance = row.provenance();
        let verdict = judge(provenance, domain.name, entries.get(&provenance.object), current);
        if verdict == Verdict::Ours {
            sifted.rows.push(row);
            continue;
        }
        if verdict == Verdict::Forgotten {
            forgotten.get_or_insert(row.origin());
        }
        sifted.passed_over += 1;
        passed_over.add(row.origin());
    }
    if destination == Destination::Live {
        passed_over.count(connection, domain.name).await?;
        if let Some(Origin { partition, offset, provenance, .. }) = forgotten {
            let evidence = format!(
                "{} partition {partition} offset {offset}: a row of object {}, reading {}",
                domain.name, provenance.object, provenance.generation
            );
            sifted.life_begun = begin_if(connection, &[domain], current, Why::Restored, &evidence).await?;
        }
    }
    Ok(sifted)
}

/// What the ledger knows about the objects of a batch.
struct Known {
    /// The nonce of the current life.
    current: i64,
    entries: BTreeMap<i64, Entry>,
    /// Those that a newer version has replaced.
    replaced: BTreeSet<i64>,
}

/// The current life, and what the ledger knows about these objects: one statement, so one moment.
async fn known(connection: &mut PgConnection, objects: &[i64]) -> Result<Known, sqlx::Error> {
    let found = sqlx::query(
        "SELECT l.nonce, o.id, o.domain, o.nonce, o.generation, o.src_ord, o.parser_version, o.partition_count,
            o.replaced_by IS NOT NULL
         FROM (SELECT nonce FROM pipeline.lives ORDER BY number DESC LIMIT 1) AS l
         LEFT JOIN pipeline.objects AS o ON o.id = ANY ($1)",
    )
    .bind(objects)
    .fetch_all(connection)
    .await?;
    let current = found.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
    let (mut entries, mut replaced) = (BTreeMap::new(), BTreeSet::new());
    for row in &found {
        let Some(id) = row.try_get::<Option<i64>, _>(1)? else { continue };
        let entry = Entry {
            domain: row.try_get(2)?,
            nonce: row.try_get(3)?,
            generation: row.try_get(4)?,
            src_ord: row.try_get(5)?,
            parser_version: row.try_get(6)?,
            partition_count: row.try_get(7)?,
        };
        entries.insert(id, entry);
        if row.try_get(8)? {
            replaced.insert(id);
        }
    }
    Ok(Known { current, entries, replaced })
}

/// Rows of a batch that are skipped.
#[derive(Default)]
struct PassedOver {
    /// (nonce, object, partition) → rows, first and last offset.
    files: BTreeMap<(Uuid, i64, i32), (i64, i64, i64)>,
}

impl PassedOver {
    fn add(&mut self, row: &Origin) {
        let key = (row.provenance.nonce, row.provenance.object, row.partition);
        let (rows, first, last) = self.files.entry(key).or_insert((0, row.offset, row.offset));
        *rows += 1;
        (*first, *last) = ((*first).min(row.offset), (*last).max(row.offset));
    }

    async fn count(&self, connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
        if self.files.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO pipeline.passed_over AS p
                (domain, nonce, object, partition, rows, first_offset, last_offset)
             SELECT $1, u.* FROM UNNEST($2::uuid[], $3::int8[], $4::int4[], $5::int8[], $6::int8[], $7::int8[]) AS u
             ON CONFLICT (domain, nonce, object, partition) DO UPDATE SET
                rows = p.rows + excluded.rows, first_offset = least(p.first_offset, excluded.first_offset),
                last_offset = greatest(p.last_offset, excluded.last_offset), last_seen = now()",
        )
        .bind(domain)
        .bind(self.files.keys().map(|key| key.0).collect::<Vec<_>>())
        .bind(self.files.keys().map(|key| key.1).collect::<Vec<_>>())
        .bind(self.files.keys().map(|key| key.2).collect::<Vec<_>>())
        .bind(self.files.values().map(|file| file.0).collect::<Vec<_>>())
        .bind(self.files.values().map(|file| file.1).collect::<Vec<_>>())
        .bind(self.files.values().map(|file| file.2).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }
}
