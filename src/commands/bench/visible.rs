//! From a small file's drop until its row can be selected.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{Days, NaiveDate};
use freshet_topics::{Domain, EventTime, Pipeline};
use sqlx::{AssertSqlSafe, PgPool};

use super::child::Child;
use crate::commands::generate::{self, GenerateOptions};
use crate::commands::terminal::span;

/// Longest time one small file may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks for a small file's row, which is a look-up by key.
const POLL: Duration = Duration::from_millis(1);

/// Drops files of one row each, one after the other. Each has a number, and so a date, of its own.
pub(super) struct SmallFiles<'a> {
    child: &'a Child,
    pool: &'a PgPool,
    pipeline: &'static Pipeline,
    domain: &'static Domain,
    event_time: EventTime,
    number: u32,
}

impl<'a> SmallFiles<'a> {
    /// None is dropped yet. They are of the last domain with event time.
    pub(super) fn new(child: &'a Child, pool: &'a PgPool, pipeline: &'static Pipeline) -> Result<Self> {
        let fact = pipeline.domains.iter().rev().find_map(|domain| Some((*domain, domain.event_time?)));
        let (domain, event_time) = fact.context("the pipeline has no domain with event time")?;
        Ok(SmallFiles { child, pool, pipeline, domain, event_time, number: 0 })
    }

    /// How many there were.
    pub(super) fn dropped(&self) -> usize {
        self.number as usize
    }

    /// Drops the next one, and gives the time from before its first byte is sent until its row can be selected.
    pub(super) async fn next(&mut self) -> Result<Duration> {
        let (number, first): (u32, NaiveDate) = (self.number, GenerateOptions::into("").end + Days::new(1));
        let date = first + Days::new(number.into());
        self.number += 1;
        let text = generate::one_row(self.pipeline.domains, self.domain, date)?;
        let (folder, statement) = (self.folder(), self.statement());
        let started = Instant::now();
        self.child.put(&format!("{folder}small-{date}.csv"), text.into_bytes()).await?;
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

    fn folder(&self) -> &'static str {
        self.domain.patterns.iter().find(|pattern| pattern.ends_with('/')).copied().unwrap_or_default()
    }

    /// Whether a row of a day is there: by the index on dates, as no other row is of so late a day.
    fn statement(&self) -> String {
        format!("SELECT EXISTS (SELECT FROM \"{}\" WHERE \"{}\" = $1)", self.domain.table, self.event_time.date)
    }
}
