//! From a small file's drop until its row can be selected.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{Days, NaiveDate};
use sqlx::PgPool;

use super::child::Child;
use crate::commands::generate::GenerateOptions;
use crate::commands::terminal::span;

/// Longest time one small file may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks for a small file's row, which is a look-up by key.
const POLL: Duration = Duration::from_millis(1);

/// Drops files of one row each, one after the other. Each has a number, and so a date, of its own.
pub(super) struct SmallFiles<'a> {
    child: &'a Child,
    pool: &'a PgPool,
    number: u32,
}

impl<'a> SmallFiles<'a> {
    /// None is dropped yet.
    pub(super) fn new(child: &'a Child, pool: &'a PgPool) -> Self {
        SmallFiles { child, pool, number: 0 }
    }

    pub(super) fn dropped(&self) -> usize {
        self.number as usize
    }

    /// Drops the next one, and gives the time from before its first byte is sent until its row can be selected.
    pub(super) async fn next(&mut self) -> Result<Duration> {
        let (number, first): (u32, NaiveDate) = (self.number, GenerateOptions::into("").end + Days::new(1));
        let date = first + Days::new(number.into());
        self.number += 1;
        let text = format!(
            "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected,projection_year\n\
             1,{date},{number},7,0,30,False,\n"
        );
        let started = Instant::now();
        self.child.put(&format!("health/small-{date}.csv"), text.into_bytes()).await?;
        let statement = "SELECT EXISTS (SELECT FROM health_data WHERE location_id = 1 AND date = $1)";
        loop {
            let seen = sqlx::query_scalar(statement).bind(date).fetch_one(self.pool).await;
            if seen.context("look for a small file's row")? {
                return Ok(started.elapsed());
            }
            if started.elapsed() > TIMEOUT {
                bail!("the row of small file {number} is not visible after {}", span(TIMEOUT));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
