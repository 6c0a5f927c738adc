//! One state of the tables, and everything that is read from it.
//!
//! A REPEATABLE READ transaction that locks its tables (`ACCESS SHARE`) before its first read, so that a shadow swap is
//! entirely before or entirely after it. Marks are written in the transaction that changes the rows, so the rows of
//! every mark that the snapshot sees are in the snapshot too.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use freshet_sinks::lives;
use freshet_sinks::output_state::{self, OutputFailure};
use freshet_sinks::tables::identifiers;
use freshet_topics::pipeline::output::Output;
use freshet_topics::{Column, Domain};
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use super::behind::TableState;
use super::{RefreshError, postgres};
use crate::windows::{Dates, Waiting, watermark_limit};

/// A batch applied longer ago than this has been published; if not, its trace does not matter.
const TRACED_FOR: Duration = Duration::from_secs(60);
/// The most files that one publication traces.
const TRACED_OBJECTS_MAX: i64 = 1_000;

/// The definitions set up, the failures, the marks and the state of the tables: everything but the rows.
pub(super) struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    domains: &'static [&'static Domain],
    /// The ids of the marks of facts and dimensions, which are deleted once they are published.
    pub(super) mark_ids: Vec<i64>,
    /// Dates of facts that changed.
    pub(super) changed: Vec<Dates>,
    /// Dates of facts that wait because only a dimension changed.
    pub(super) waiting: Vec<Waiting>,
    /// Dimension → the keys of its rows that changed.
    keys: BTreeMap<String, Vec<String>>,
    pub(super) tables: TableState,
    pub(super) watermarks: BTreeMap<String, NaiveDate>,
    /// Output → its definition at the last setup.
    pub(super) definitions: BTreeMap<String, String>,
    /// The outputs whose query fails.
    pub(super) failures: Vec<OutputFailure>,
}

/// The tables that outputs are derived from, for SQL.
pub(super) fn tables(domains: &[&Domain]) -> String {
    identifiers(domains.iter().map(|domain| domain.table))
}

impl Snapshot {
    /// Takes the snapshot, which lives until [`Snapshot::close`]. Its locks only block statements that drop or rename a
    /// table.
    pub(super) async fn open(
        pool: &PgPool,
        domains: &'static [&'static Domain],
        processing_date: NaiveDate,
    ) -> Result<Self, sqlx::Error> {
        let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let lock = format!(
            "LOCK TABLE {}, pipeline.marks, pipeline.streams, pipeline.bookmarks IN ACCESS SHARE MODE",
            tables(domains)
        );
        sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
        let mut snapshot = Snapshot {
            domains,
            mark_ids: Vec::new(),
            changed: Vec::new(),
            waiting: Vec::new(),
            keys: BTreeMap::new(),
            tables: TableState {
                lives: lives::all(&mut transaction).await?.iter().map(|life| lives::spelled(life.nonce)).collect(),
                epochs: epochs(&mut transaction).await?,
                bookmarks: bookmarks(&mut transaction).await?,
            },
            watermarks: watermarks(&mut transaction, domains, processing_date).await?,
            definitions: output_state::definitions(&mut transaction).await?,
            failures: output_state::failures(&mut transaction).await?,
            transaction,
        };
        snapshot.read_marks().await?;
        Ok(snapshot)
    }

    /// The transaction, for reading windows.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Objects with rows applied within the last [`TRACED_FOR`], with the time of the last such batch.
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
    pub(super) async fn close(self) -> Result<(), RefreshError> {
        self.transaction.rollback().await.map_err(postgres("close the snapshot"))
    }

    /// The dates of the facts of a domain: all of them, or those from a first to a last date.
    pub(super) async fn dates(
        &mut self,
        domain: &'static Domain,
        within: Option<(NaiveDate, NaiveDate)>,
    ) -> Result<Vec<Dates>, sqlx::Error> {
        let Some(event_time) = &domain.event_time else { return Ok(Vec::new()) };
        let (date, observed, table) = (event_time.date, event_time.observed_sql(""), domain.table);
        let limits = within.map_or_else(String::new, |_| format!(" AND \"{date}\" BETWEEN $1 AND $2"));
        let sql = format!(
            "SELECT lower(r.dates), upper(r.dates) - 1 FROM (
                SELECT unnest(range_agg(daterange(d.date, d.date + 1))) AS dates FROM (
                    SELECT DISTINCT \"{date}\" AS date FROM \"{table}\" WHERE {observed}{limits}
                ) AS d
             ) AS r"
        );
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        if let Some((first, last)) = within {
            query = query.bind(first).bind(last);
        }
        let dates: Vec<(NaiveDate, NaiveDate)> = query.fetch_all(&mut *self.transaction).await?;
        Ok(dates.into_iter().map(|(first, last)| Dates { domain: domain.name, first, last }).collect())
    }

    /// Adds the dates of facts that refer to changed rows of dimensions to the waiting ones, month by month.
    pub(super) async fn look_up_dimensions(&mut self, outputs: &[&'static Output]) -> Result<(), sqlx::Error> {
        for (dimension, keys) in std::mem::take(&mut self.keys) {
            let Some(dimension) = self.domains.iter().copied().find(|domain| domain.name == dimension) else {
                continue;
            };
            let depend = outputs.iter().filter(|output| output.has_dimension(dimension.name));
            let mut facts: Vec<&'static Domain> = depend.flat_map(|output| output.facts.iter().copied()).collect();
            facts.sort_by_key(|fact| fact.name);
            facts.dedup();
            for fact in facts {
                let Some(sql) = referring_dates(fact, dimension) else { continue };
                let dates: Vec<(NaiveDate, NaiveDate)> =
                    sqlx::query_as(AssertSqlSafe(sql)).bind(&keys).fetch_all(&mut *self.transaction).await?;
                self.waiting.extend(dates.into_iter().map(|(first, last)| Waiting {
                    mark: None,
                    dimension: dimension.name.to_owned(),
                    dates: Dates { domain: fact.name, first, last },
                }));
            }
        }
        Ok(())
    }

    /// The watermark of an output.
    pub(super) fn watermark(&self, output: &Output) -> Option<NaiveDate> {
        crate::windows::least_watermark(output.facts.iter().map(|domain| self.watermarks.get(domain.name).copied()))
    }

    /// Reads the marks. Those of facts and dimensions are published completely; waiting ones are chosen by the
    /// publication.
    async fn read_marks(&mut self) -> Result<(), sqlx::Error> {
        let connection = &mut *self.transaction;
        self.mark_ids = sqlx::query_scalar("SELECT id FROM pipeline.marks WHERE dimension IS NULL")
            .fetch_all(&mut *connection)
            .await?;
        let changed: Vec<(String, NaiveDate, NaiveDate)> = sqlx::query_as(
            "SELECT domain, lower(dates), upper(dates) - 1 FROM (
                SELECT domain, unnest(range_agg(dates)) AS dates FROM pipeline.marks
                WHERE dates IS NOT NULL AND dimension IS NULL GROUP BY domain
             ) AS m",
        )
        .fetch_all(&mut *connection)
        .await?;
        let keys: Vec<(String, Vec<String>)> = sqlx::query_as(
            "SELECT domain, array_agg(DISTINCT key) FROM pipeline.marks WHERE key IS NOT NULL GROUP BY domain",
        )
        .fetch_all(&mut *connection)
        .await?;
        let waiting: Vec<(i64, String, String, NaiveDate, NaiveDate)> = sqlx::query_as(
            "SELECT id, dimension, domain, lower(dates), upper(dates) - 1 FROM pipeline.marks
             WHERE dimension IS NOT NULL",
        )
        .fetch_all(connection)
        .await?;
        // A mark of a domain that no longer exists makes nothing dirty.
        let known = |name: &str| self.domains.iter().find(|domain| domain.name == name).map(|domain| domain.name);
        self.changed = changed
            .into_iter()
            .filter_map(|(domain, first, last)| Some(Dates { domain: known(&domain)?, first, last }))
            .collect();
        for (id, dimension, domain, first, last) in waiting {
            match known(&domain) {
                Some(domain) => {
                    self.waiting.push(Waiting { mark: Some(id), dimension, dates: Dates { domain, first, last } });
                }
                None => self.mark_ids.push(id),
            }
        }
        self.keys = keys.into_iter().collect();
        Ok(())
    }
}

/// The statement that finds the dates of facts that refer to rows of a dimension, by their keys: ranges within a month.
/// All dates if the contract does not say how the facts refer to it; `None` if the facts have no dates.
fn referring_dates(fact: &Domain, dimension: &Domain) -> Option<String> {
    let event_time = fact.event_time.as_ref()?;
    let (date, observed, table) = (event_time.date, event_time.observed_sql(""), fact.table);
    let refers = references(fact, dimension);
    Some(format!(
        "SELECT lower(r.dates), upper(r.dates) - 1 FROM (
            SELECT unnest(range_agg(daterange(d.date, d.date + 1))) AS dates FROM (
                SELECT DISTINCT \"{date}\" AS date FROM \"{table}\" WHERE {refers} AND {observed}
            ) AS d
            GROUP BY date_trunc('month', d.date::timestamp)
         ) AS r"
    ))
}

/// The condition for a fact that refers to one of these keys of a dimension, in any of its columns that refer to it
/// according to the contract; for any fact if there is none.
fn references(fact: &Domain, dimension: &Domain) -> String {
    let refers = |column: &&Column| column.references.is_some_and(|it| it.domain == dimension.name);
    let has_key = |column: &Column| format!("\"{}\" = ANY ($1::text[]::{}[])", column.name, column.cast.sql_type());
    let found: Vec<String> = fact.columns.iter().filter(refers).map(has_key).collect();
    match found.is_empty() {
        true => "cardinality($1::text[]) > 0".to_owned(),
        false => format!("({})", found.join(" OR ")),
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

/// The latest event date of each domain, ignoring the far future.
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

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, DOMAINS, Reference};

    use super::*;

    #[test]
    fn a_fact_refers_to_a_dimension_in_every_column_that_does() {
        let domain = |name: &str| *DOMAINS.iter().find(|domain| domain.name == name).expect("a domain");
        let (health, locations) = (domain("health"), domain("locations"));
        let refers = |name| Column {
            references: Some(Reference { domain: "locations", column: "id" }),
            ..Column::optional(name, Cast::Text)
        };
        let of = |columns: Vec<Column>| references(&Domain { columns: columns.leak(), ..*health }, locations);
        assert_eq!(of(vec![Column::optional("n", Cast::Text)]), "cardinality($1::text[]) > 0");
        assert_eq!(of(vec![refers("from_id")]), "(\"from_id\" = ANY ($1::text[]::text[]))");
        assert_eq!(
            of(vec![refers("from_id"), Column::optional("n", Cast::Text), refers("to_id")]),
            "(\"from_id\" = ANY ($1::text[]::text[]) OR \"to_id\" = ANY ($1::text[]::text[]))"
        );
    }
}
