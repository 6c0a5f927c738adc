//! `freshet bench --history`: what a change costs beside a long history of one domain.
//!
//! 1. All rows in one file, their locations unknown, so that there is nothing to publish.
//! 2. On a new stack the locations first, then the same file: until its rows are applied, and until its outputs are
//!    published.
//! 3. There, once the whole-file copies have followed the load, one row after the other is corrected, each until it is
//!    published.
//! 4. A location is renamed, which changes all windows that it has a row in; then another one, while rows are corrected.
//! 5. Many small files are dropped, then nothing: what a pipeline costs that has nothing to do.
//! 6. On a new stack, 85 years of one location; one row is corrected: until the whole-file copies follow.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{Days, NaiveDate};
use freshet_topics::Domain;
use sqlx::PgPool;

use super::child::Child;
use super::cost::Cost;
use super::visible::{SmallFiles, folder_of};
use super::{BenchOptions, POLL, TIMEOUT, facts, load, until_committed, wait_until_applied, wait_until_copied};
use crate::commands::generate::{self, GenerateOptions, SampleFile};
use crate::commands::terminal::span;
use crate::pipeline::chosen;

/// Of each location: ten years.
const DAYS: u32 = 3_652;
/// Of the one location whose history is long: 85 years.
const LONG_DAYS: u32 = 31_000;
/// Rows that are corrected one after the other.
const CORRECTIONS: u32 = 7;
/// What a row is corrected with: other values than those of the history.
const OTHER_SEED: u64 = 2;
/// Between two corrections whose copies are waited for: copies rest nine times as long as they took, ten minutes at most,
/// so that a stream of changes costs at most a tenth of the time.
const COPIES_REST: Duration = Duration::from_secs(20);
/// How long nothing happens, after as long a pause: listings and looks come less often the longer nothing changes.
const IDLE: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) rows: i64,
    pub(super) locations: u32,
    /// The whole file, of unknown locations.
    pub(super) unknown: Loaded,
    pub(super) known: Loaded,
    /// From the first byte of the whole file until all its outputs are published.
    pub(super) published: Duration,
    /// Of each correction, until it is published.
    pub(super) corrected: Vec<Duration>,
    /// Until all windows of the renamed location are published.
    pub(super) renamed: Duration,
    /// The same of another one, while a row is corrected as soon as the correction before it is published.
    pub(super) renamed_beside: Duration,
    /// Of each of these corrections.
    pub(super) corrected_meanwhile: Vec<Duration>,
    pub(super) objects: usize,
    /// The share of one core that each part uses while nothing happens.
    pub(super) idle: Cost,
    /// The whole history of one location, until the copies have it.
    pub(super) long_published: Duration,
    /// Of each correction of it, until the copies have it.
    pub(super) long_corrected: Vec<Duration>,
    pub(super) long_rows: i64,
}

/// How a file of all rows was loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    /// From its first byte until all rows are committed.
    pub(super) duration: Duration,
    pub(super) cost: Cost,
}

/// The files of a history.
struct Files {
    dimensions: Vec<SampleFile>,
    facts: Vec<SampleFile>,
    rows: i64,
    first: NaiveDate,
}

/// Measures it.
///
/// # Errors
/// If a stack does not start, or a change does not arrive in time.
pub(super) async fn run(options: &BenchOptions, folder: &Path) -> Result<Measured> {
    let locations = u32::try_from(options.rows / u64::from(DAYS))?.max(1);
    let files = files(locations, DAYS, &folder.join("history"))?;
    let unknown = on_a_stack(folder.join("unknown"), async |child, pool| load_facts(child, pool, &files).await);
    let unknown = unknown.await.context("load a history of unknown locations")?;
    eprintln!("  locations unknown: {} rows in {}", files.rows, span(unknown.duration));
    let known = on_a_stack(folder.join("known"), async |child, pool| {
        let mut beside = Beside { child, pool, files: &files, dropped: 0 };
        beside.measure(options, locations, unknown).await
    });
    let mut measured = known.await.context("change a history")?;
    let long = self::files(1, LONG_DAYS, &folder.join("long"))?;
    let one_location = on_a_stack(folder.join("one-location"), async |child, pool| {
        let mut beside = Beside { child, pool, files: &long, dropped: 0 };
        beside.measure_copies().await
    });
    (measured.long_published, measured.long_corrected) = one_location.await.context("change one location's history")?;
    measured.long_rows = long.rows;
    Ok(measured)
}

/// Starts a stack, works on it, and stops it.
async fn on_a_stack<T>(data: PathBuf, work: impl AsyncFnOnce(&Child, &PgPool) -> Result<T>) -> Result<T> {
    let child = Child::start(&data).await?;
    let result = match child.pool().await {
        Ok(pool) => work(&child, &pool).await,
        Err(error) => Err(error),
    };
    let stopped = child.stop().await;
    let result = result?;
    stopped?;
    Ok(result)
}

/// The domain whose history it is: the first with event time.
fn domain() -> Result<&'static Domain> {
    facts(chosen()).next().context("the pipeline has no domain with event time")
}

fn files(locations: u32, days: u32, folder: &Path) -> Result<Files> {
    let generated = |domains: Vec<String>, name: &str| {
        let set = GenerateOptions {
            entities: locations,
            days,
            projections: 0,
            rows_per_file: u64::from(u32::MAX),
            domains,
            ..GenerateOptions::into(folder.join(name))
        };
        let summary = generate::run(chosen().domains, &set)?;
        anyhow::Ok((generate::files(&set.out)?, summary.rows().cast_signed(), set.end))
    };
    let dimensions = chosen().domains.iter().filter(|domain| domain.event_time.is_none());
    let dimensions: Vec<String> = dimensions.map(|domain| domain.name.to_owned()).collect();
    let (dimensions, ..) = generated(dimensions, "dimensions")?;
    let (facts, rows, end) = generated(vec![domain()?.name.to_owned()], "facts")?;
    Ok(Files { dimensions, facts, rows, first: end - Days::new(u64::from(days - 1)) })
}

/// Drops the facts and waits until they are committed.
async fn load_facts(child: &Child, pool: &PgPool, files: &Files) -> Result<Loaded> {
    load::checkpoint(pool).await;
    let (started, before) = (Instant::now(), child.cost()?);
    child.drop_files(&files.facts, 1).await?;
    until_committed(pool, files.rows).await?;
    Ok(Loaded { duration: started.elapsed(), cost: child.cost()?.since(&before) })
}

/// A stack that a history is loaded into and changed in.
struct Beside<'a> {
    child: &'a Child,
    pool: &'a PgPool,
    files: &'a Files,
    /// Files until now.
    dropped: usize,
}

impl Beside<'_> {
    async fn measure(&mut self, options: &BenchOptions, locations: u32, unknown: Loaded) -> Result<Measured> {
        let (known, published) = self.load().await?;
        eprintln!("  locations known: applied in {}, published in {}", span(known.duration), span(published));

        wait_until_copied(self.child).await?;
        load::checkpoint(self.pool).await;
        let mut corrected = Vec::new();
        for number in 0..CORRECTIONS {
            corrected.push(self.correct(number).await?);
        }
        eprintln!("  corrected: {corrected:?}");
        wait_until_copied(self.child).await?;
        let (renamed, _) = self.rename(1, false).await?;
        wait_until_copied(self.child).await?;
        let (renamed_beside, corrected_meanwhile) = self.rename(2, true).await?;
        eprintln!(
            "  renamed in {}, beside corrections in {}: {corrected_meanwhile:?}",
            span(renamed),
            span(renamed_beside)
        );

        SmallFiles::new(self.child, self.pool, chosen())?.many(options.many_files).await?;
        self.dropped += options.many_files as usize;
        wait_until_applied(self.pool, self.dropped).await?;
        wait_until_copied(self.child).await?;
        tokio::time::sleep(IDLE).await;
        let before = self.child.cost()?;
        tokio::time::sleep(IDLE).await;
        let idle = self.child.cost()?.since(&before).of_each(u32::try_from(IDLE.as_secs())?);
        Ok(Measured {
            rows: self.files.rows,
            locations,
            unknown,
            known,
            published,
            corrected,
            renamed,
            renamed_beside,
            corrected_meanwhile,
            objects: self.dropped,
            idle,
            long_published: Duration::ZERO,
            long_corrected: Vec::new(),
            long_rows: 0,
        })
    }

    /// Until the copies have the history of one location, and each of some corrections of it.
    async fn measure_copies(&mut self) -> Result<(Duration, Vec<Duration>)> {
        let (_, loaded) = self.load().await?;
        let started = Instant::now();
        wait_until_copied(self.child).await?;
        let published = loaded + started.elapsed();
        let mut corrected = Vec::new();
        for number in 0..CORRECTIONS {
            tokio::time::sleep(COPIES_REST).await;
            let started = Instant::now();
            self.correct(number).await?;
            wait_until_copied(self.child).await?;
            corrected.push(started.elapsed());
        }
        eprintln!("  one location: copied in {}, corrected: {corrected:?}", span(published));
        Ok((published, corrected))
    }

    /// Drops the dimensions, then the facts: how these were committed, and until their outputs were published.
    async fn load(&mut self) -> Result<(Loaded, Duration)> {
        let Files { dimensions, facts, .. } = self.files;
        let started = Instant::now();
        self.child.drop_files(dimensions, 1).await?;
        self.dropped += dimensions.len();
        wait_until_applied(self.pool, self.dropped).await?;
        eprintln!("  locations in {}", span(started.elapsed()));
        let started = Instant::now();
        let loaded = load_facts(self.child, self.pool, self.files).await?;
        self.dropped += facts.len();
        wait_until_applied(self.pool, self.dropped).await?;
        Ok((loaded, started.elapsed()))
    }

    /// Corrects a row of the first location, on a day of its own, and waits until that is published.
    async fn correct(&mut self, number: u32) -> Result<Duration> {
        let (domain, folder) = (domain()?, folder_of(domain()?));
        // Spread over the history, and never on a day of one before.
        let day = self.files.first + Days::new(u64::from(number) * 97 % u64::from(DAYS));
        let text = generate::one_row(chosen().domains, domain, day, OTHER_SEED)?;
        let started = Instant::now();
        self.child.put(&format!("{folder}corrected-{number}.csv"), text).await?;
        self.dropped += 1;
        // What is left of the work of a changed dimension has one.
        let published = "SELECT (SELECT count(*) FROM pipeline.objects WHERE state = 'applied') >= $1
                         AND NOT EXISTS (SELECT FROM pipeline.marks WHERE domain = $2 AND dimension IS NULL)";
        loop {
            let asked = sqlx::query_scalar(published).bind(self.dropped.cast_signed() as i64).bind(domain.name);
            if asked.fetch_one(self.pool).await.context("look for a correction")? {
                return Ok(started.elapsed());
            }
            if started.elapsed() > TIMEOUT {
                bail!("correction {number} is not published after {}", span(TIMEOUT));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Renames the first location, by a file of its own number, and waits until that is published; meanwhile rows are
    /// corrected, if that is wanted.
    async fn rename(&mut self, number: u64, with_corrections: bool) -> Result<(Duration, Vec<Duration>)> {
        let dimension = chosen().domains.iter().copied().find(|domain| domain.event_time.is_none());
        let dimension = dimension.context("the pipeline has no dimension")?;
        let temporary = tempfile::tempdir().context("make a folder")?;
        let set = GenerateOptions {
            entities: 1,
            seed: OTHER_SEED + number,
            domains: vec![dimension.name.to_owned()],
            ..GenerateOptions::into(temporary.path())
        };
        generate::run(chosen().domains, &set)?;
        let file = generate::files(&set.out)?.pop().context("no file of a dimension")?;
        let text = std::fs::read(&file.path).with_context(|| format!("read file {}", file.path.display()))?;
        let started = Instant::now();
        self.child.put(&format!("{}renamed-{number}.csv", folder_of(dimension)), text).await?;
        self.dropped += 1;
        wait_for_marks(self.pool).await?;
        let mut corrected = Vec::new();
        let mut number = CORRECTIONS;
        while with_corrections && has_marks(self.pool).await? {
            corrected.push(self.correct(number).await?);
            number += 1;
            ensure!(started.elapsed() < TIMEOUT, "the renamed location is not published after {}", span(TIMEOUT));
        }
        wait_until_applied(self.pool, self.dropped).await?;
        Ok((started.elapsed(), corrected))
    }
}

async fn has_marks(pool: &PgPool) -> Result<bool> {
    let asked = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pipeline.marks)").fetch_one(pool).await;
    asked.context("look for marks")
}

/// Until a change has been applied and is to be published.
async fn wait_for_marks(pool: &PgPool) -> Result<()> {
    let started = Instant::now();
    while !has_marks(pool).await? {
        ensure!(started.elapsed() < TIMEOUT, "nothing is to be published after {}", span(TIMEOUT));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
