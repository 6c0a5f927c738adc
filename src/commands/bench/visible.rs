//! From a small file's drop until its row can be selected.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Days, NaiveDate, Utc};
use freshet_topics::{Domain, EventTime, Pipeline};
use futures::stream::{self, StreamExt, TryStreamExt};
use sqlx::{AssertSqlSafe, PgPool};

use super::child::Child;
use super::cost::Cost;
use crate::commands::generate::{self, GenerateOptions};
use crate::commands::terminal::span;

/// Longest time one small file may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Of the values of small files, which are on days of their own.
const SEED: u64 = 1;
/// Clients that drop many small files.
const CLIENTS: usize = 16;
/// Before the keys of files that nobody listens to.
const UNHEARD: &str = "bench/";
/// Longest time many small files may take.
const MANY_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two looks for many small files.
const MANY_POLL: Duration = Duration::from_millis(100);
/// Between two looks for a small file's row, by an index: often enough to tell milliseconds, rarely enough to take
/// nothing from what is measured.
const POLL: Duration = Duration::from_millis(2);

/// What became of many small files that were dropped at once.
pub(super) struct Many {
    /// Files a second that the store takes from the same clients where nobody listens: the limit.
    pub(super) put_rate: f64,
    /// Files a second, from the first byte sent until the last file is applied.
    pub(super) rate: f64,
    /// From the first byte sent until the last file is applied, in seconds a file.
    pub(super) cost: Cost,
    /// Of each, from before it was sent until it was applied.
    pub(super) until_applied: Vec<Duration>,
}

/// Drops files of one row each, one after the other. Each has a number, and so a date, of its own.
pub(super) struct SmallFiles<'a> {
    child: &'a Child,
    pool: &'a PgPool,
    pipeline: &'static Pipeline,
    domain: &'static Domain,
    event_time: EventTime,
    number: u32,
    many: usize,
}

impl<'a> SmallFiles<'a> {
    /// None is dropped yet. They are of the last domain with event time.
    pub(super) fn new(child: &'a Child, pool: &'a PgPool, pipeline: &'static Pipeline) -> Result<Self> {
        let fact = pipeline.domains.iter().rev().find_map(|domain| Some((*domain, domain.event_time?)));
        let (domain, event_time) = fact.context("the pipeline has no domain with event time")?;
        Ok(SmallFiles { child, pool, pipeline, domain, event_time, number: 0, many: 0 })
    }

    /// How many there were.
    pub(super) fn dropped(&self) -> usize {
        self.number as usize + self.many
    }

    /// Drops so many at once, by several clients, and waits until all are applied. They are of the days of one month, so
    /// that it is the files that cost.
    pub(super) async fn many(&mut self, files: u32) -> Result<Many> {
        let first: NaiveDate = GenerateOptions::into("").end + Days::new(1);
        let folder = folder_of(self.domain);
        let file = |number: u32| {
            let text =
                generate::one_row(self.pipeline.domains, self.domain, first + Days::new(u64::from(number % 28)), SEED)?;
            anyhow::Ok((format!("{folder}many-{number}.csv"), text))
        };
        let prepared = (0..files).map(file).collect::<Result<Vec<_>>>()?;
        let child = self.child;
        let send = |(key, text): (String, Vec<u8>)| async move {
            let sent = Utc::now();
            child.put(&key, text).await.map(|()| (key, sent))
        };
        let put = |(key, text): &(String, Vec<u8>)| child.put_unheard(format!("{UNHEARD}{key}"), text.clone());
        let started = Instant::now();
        stream::iter(&prepared).map(put).buffer_unordered(CLIENTS).try_collect::<()>().await?;
        let put_rate = f64::from(files) / started.elapsed().as_secs_f64();
        let (began, started, before) = (Utc::now(), Instant::now(), child.cost()?);
        let sent: BTreeMap<String, DateTime<Utc>> =
            stream::iter(prepared).map(send).buffer_unordered(CLIENTS).try_collect().await?;
        self.many += files as usize;
        // From the index on times: looking is not to cost what is measured.
        let count = "SELECT count(*) FROM pipeline.objects WHERE applied_at >= $1 AND key LIKE $2";
        loop {
            let query = sqlx::query_scalar(count).bind(began).bind(format!("{folder}many-%")).fetch_one(self.pool);
            let applied: i64 = query.await.context("look for many small files")?;
            if applied >= sent.len() as i64 {
                break;
            }
            if started.elapsed() > MANY_TIMEOUT {
                bail!("{applied} of {files} small files are applied after {}", span(MANY_TIMEOUT));
            }
            tokio::time::sleep(MANY_POLL).await;
        }
        let rate = f64::from(files) / started.elapsed().as_secs_f64();
        let cost = child.cost()?.since(&before).of_each(files);
        let statement = "SELECT key, applied_at FROM pipeline.objects WHERE key LIKE $1 AND applied_at IS NOT NULL";
        let query = sqlx::query_as(statement).bind(format!("{folder}many-%")).fetch_all(self.pool);
        let applied: Vec<(String, DateTime<Utc>)> = query.await.context("read when small files were applied")?;
        let since = |(key, at): &(String, DateTime<Utc>)| Some((*at - *sent.get(key)?).to_std().unwrap_or_default());
        Ok(Many { put_rate, rate, cost, until_applied: applied.iter().filter_map(since).collect() })
    }

    /// Drops the next one, and gives the time from before its first byte is sent until its row can be selected.
    pub(super) async fn next(&mut self) -> Result<Duration> {
        let (number, first): (u32, NaiveDate) = (self.number, GenerateOptions::into("").end + Days::new(1));
        let date = first + Days::new(number.into());
        self.number += 1;
        let text = generate::one_row(self.pipeline.domains, self.domain, date, SEED)?;
        let (folder, statement) = (folder_of(self.domain), self.statement());
        let started = Instant::now();
        self.child.put(&format!("{folder}small-{date}.csv"), text).await?;
        loop {
            let seen = sqlx::query_scalar(AssertSqlSafe(statement.as_str())).bind(date).fetch_one(self.pool).await;
            if seen.context("look for a small file's row")? {
                return Ok(started.elapsed());
            }
            if started.elapsed() > TIMEOUT {
                bail!("the row of small file {number} is not visible after {}", span(TIMEOUT));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether a row of a day is there: by the index on dates, as no other row is of so late a day.
    fn statement(&self) -> String {
        format!("SELECT EXISTS (SELECT FROM \"{}\" WHERE \"{}\" = $1)", self.domain.table, self.event_time.date)
    }
}

/// The folder of a domain's files, with its `/`.
pub(super) fn folder_of(domain: &Domain) -> &'static str {
    domain.patterns.iter().find(|pattern| pattern.ends_with('/')).copied().unwrap_or_default()
}
