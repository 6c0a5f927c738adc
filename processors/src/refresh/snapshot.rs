//! One state of the tables, and everything that is read from it.
//!
//! A REPEATABLE READ transaction that locks its tables (`ACCESS SHARE`) before its first read, so that a shadow
//! swap comes wholly before or wholly after it. Marks are written in the transaction that changes the rows, so
//! the rows of every mark that the snapshot sees are in the snapshot too.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use freshet_sinks::lives;
use freshet_topics::Domain;
use freshet_topics::window::{Window, WindowKind};
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use super::aggregate::{Location, Locations};
use super::behind::TableState;
use crate::windows::{Dirty, Output, watermark_limit};

/// A batch applied longer ago than this has been published, or traces are the least of the troubles.
const TRACED_FOR: Duration = Duration::from_secs(60);
/// Files that one publication traces at most.
const TRACED_OBJECTS_MAX: i64 = 1_000;

/// The facts that outputs are derived from, as (domain, table).
const FACTS: [(&str, &str); 3] =
    [("health", "health_data"), ("hospital", "hospital_data"), ("climate", "climate_data")];

/// One state of the tables.
pub(super) struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    /// The ids of the marks that it sees, to be deleted once they are published.
    pub(super) mark_ids: Vec<i64>,
    /// The windows that the marks name.
    pub(super) marked: Dirty,
    /// The locations that the marks name.
    marked_locations: Vec<i32>,
    pub(super) tables: TableState,
    pub(super) watermarks: BTreeMap<String, NaiveDate>,
}

impl Snapshot {
    /// Takes the snapshot, which lives until [`Snapshot::close`]. Its locks keep nobody out but who would drop or
    /// rename a table.
    pub(super) async fn open(
        pool: &PgPool,
        domains: &'static [&'static Domain],
        processing_date: NaiveDate,
    ) -> Result<Self, sqlx::Error> {
        let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let tables: Vec<&str> = domains.iter().map(|domain| domain.table).collect();
        let lock = format!(
            "LOCK TABLE {}, pipeline.marks, pipeline.streams, pipeline.bookmarks IN ACCESS SHARE MODE",
            tables.join(", ")
        );
        sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
        let mut snapshot = Snapshot {
            mark_ids: Vec::new(),
            marked: Dirty::default(),
            marked_locations: Vec::new(),
            tables: TableState {
                lives: lives::all(&mut transaction).await?.iter().map(|life| lives::spelled(life.nonce)).collect(),
                epochs: epochs(&mut transaction).await?,
                bookmarks: bookmarks(&mut transaction).await?,
            },
            watermarks: watermarks(&mut transaction, domains, processing_date).await?,
            transaction,
        };
        snapshot.read_marks().await?;
        Ok(snapshot)
    }

    /// The transaction, to read windows with.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Objects of which rows were applied within the last [`TRACED_FOR`], with the time of the last such batch.
    pub(super) async fn applied_lately(&mut self) -> Result<BTreeMap<i64, DateTime<Utc>>, sqlx::Error> {
        let objects: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
            "SELECT object, max(updated_at) FROM pipeline.progress
             WHERE object > 0 AND updated_at > now() - $1 * interval '1 second'
             GROUP BY object ORDER BY 2 DESC LIMIT $2",
        )
        .bind(TRACED_FOR.as_secs_f64())
        .bind(TRACED_OBJECTS_MAX)
        .fetch_all(&mut *self.transaction)
        .await?;
        Ok(objects.into_iter().collect())
    }

    /// Ends the transaction; there is nothing to commit.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }

    /// The locations that are known.
    pub(super) async fn locations(&mut self) -> Result<Locations, sqlx::Error> {
        let rows = sqlx::query_as::<_, (i32, Box<str>, Option<i32>)>("SELECT id, name, population FROM locations");
        rows.fetch(&mut *self.transaction)
            .map_ok(|(id, name, population)| (id, Location { name, population }))
            .try_collect()
            .await
    }

    /// The windows that the marks ask for; a marked location stands for every window that holds a row of it.
    pub(super) async fn dirty(&mut self) -> Result<Dirty, sqlx::Error> {
        let mut dirty = std::mem::take(&mut self.marked);
        if !self.marked_locations.is_empty() {
            for (domain, table) in FACTS {
                let sql =
                    format!("SELECT DISTINCT date FROM {table} WHERE location_id = ANY($1) AND is_projected = false");
                let dates = sqlx::query_scalar::<_, NaiveDate>(AssertSqlSafe(sql)).bind(&self.marked_locations);
                for date in dates.fetch_all(&mut *self.transaction).await? {
                    dirty.mark_date(domain, date);
                }
            }
        }
        Ok(dirty)
    }

    /// Every window that holds rows.
    pub(super) async fn everything(&mut self) -> Result<Dirty, sqlx::Error> {
        let mut dirty = Dirty::default();
        for (domain, table) in FACTS {
            let sql = format!("SELECT DISTINCT date FROM {table} WHERE is_projected = false");
            let dates = sqlx::query_scalar::<_, NaiveDate>(AssertSqlSafe(sql));
            for date in dates.fetch_all(&mut *self.transaction).await? {
                dirty.mark_date(domain, date);
            }
        }
        Ok(dirty)
    }

    /// The watermark of an output.
    pub(super) fn watermark(&self, output: Output) -> Option<NaiveDate> {
        crate::windows::least_watermark(output.sources().iter().map(|domain| self.watermarks.get(*domain).copied()))
    }

    async fn read_marks(&mut self) -> Result<(), sqlx::Error> {
        type Mark = (i64, String, Option<String>, Option<NaiveDate>, Option<i32>);
        let sql = "SELECT id, domain, window_kind, window_start, location_id FROM pipeline.marks";
        let mut marks = sqlx::query_as::<_, Mark>(sql).fetch(&mut *self.transaction);
        while let Some((id, domain, kind, start, location)) = marks.try_next().await? {
            self.mark_ids.push(id);
            self.marked_locations.extend(location);
            if let (Some(kind), Some(start)) = (kind.as_deref().and_then(WindowKind::from_name), start) {
                self.marked.mark(&domain, Window { kind, start });
            }
        }
        drop(marks);
        self.marked_locations.sort_unstable();
        self.marked_locations.dedup();
        Ok(())
    }
}

async fn epochs(connection: &mut PgConnection) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query_as::<_, (String, i64)>("SELECT domain, epoch FROM pipeline.streams");
    rows.fetch(connection).try_collect().await
}

async fn bookmarks(connection: &mut PgConnection) -> Result<BTreeMap<String, BTreeMap<i32, i64>>, sqlx::Error> {
    let sql = "SELECT domain, partition, next_offset FROM pipeline.bookmarks";
    let mut bookmarks: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    let mut rows = sqlx::query_as::<_, (String, i32, i64)>(sql).fetch(connection);
    while let Some((domain, partition, next_offset)) = rows.try_next().await? {
        bookmarks.entry(domain).or_default().insert(partition, next_offset);
    }
    Ok(bookmarks)
}

/// The greatest event date of each domain that is not from the far future.
async fn watermarks(
    connection: &mut PgConnection,
    domains: &'static [&'static Domain],
    processing_date: NaiveDate,
) -> Result<BTreeMap<String, NaiveDate>, sqlx::Error> {
    let mut watermarks = BTreeMap::new();
    for domain in domains {
        let Some(event_time) = &domain.event_time else { continue };
        let (date, observed, table) = (event_time.date, event_time.observed_sql(""), domain.table);
        let sql = format!("SELECT max(\"{date}\") FROM \"{table}\" WHERE {observed} AND \"{date}\" <= $1");
        let greatest = sqlx::query_scalar::<_, Option<NaiveDate>>(AssertSqlSafe(sql))
            .bind(watermark_limit(processing_date))
            .fetch_one(&mut *connection)
            .await?;
        watermarks.extend(greatest.map(|date| (domain.name.to_owned(), date)));
    }
    Ok(watermarks)
}
