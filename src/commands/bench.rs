//! `freshet bench` (`make bench`): how fast freshet is, beside what the same Postgres can do at best.
//!
//! Each run starts a `freshet up` of its own in a new folder, so that every run inserts into empty tables and the
//! peak of freshet's memory is that of one run. In it, one after the other on the same two (or more) cores:
//!
//! 1. **freshet**: a million rows are dropped as files; from the first byte sent until all are committed.
//! 2. **COPY**: the same rows into an identically keyed table, one connection a table, all at once: the limit.
//! 3. **script**: the same rows by COPY into a staging table and an upsert from it, file by file, one connection a
//!    table, all at once.
//! 4. **polars**: the same files by a script of polars' that casts, cleans and upserts, one process a table, where
//!    `scripts/setup bench` has installed it.
//! 5. **drop to visible**: small files one after the other, each until its row can be selected.
//! 6. **many small files**: thousands of one row each, by 16 clients, first where nobody listens, then until all are
//!    applied.
//! 7. **replay**: all of the history is read again while small files keep coming: with nothing to correct, with a value
//!    of every row to correct, and the same into shadows that take the place of the tables.
//!
//! 2 to 4 read local files, with no S3 and no Kafka; 2 and 3 from text that Postgres can cast without help. This is a
//! measurement, never a test: targets are printed beside the results. `--scale` measures several processes of each role
//! instead ([`scale`]), `--history` what a change costs beside a long history ([`history`]).

mod child;
mod cost;
mod history;
mod history_report;
mod load;
mod machine;
mod polars;
mod replayed;
mod report;
mod scale;
mod split;
mod visible;
mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use freshet_sinks::ledger::ObjectState;
use freshet_topics::{Domain, Pipeline};
use sqlx::{AssertSqlSafe, PgPool};

use super::generate::{self, GenerateOptions, SampleFile};
use super::terminal::{Look, span, thousands};
use crate::pipeline::chosen;
use child::Child;
use report::Run;
use scale::ScaleOptions;
use visible::SmallFiles;

/// Options of `freshet bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchOptions {
    /// Rows dropped in all, shared evenly by the domains with event time
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    pub rows: u64,
    /// Runs, each with a stack of its own
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Small files per run that measure the time until their rows are visible
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub small_files: u32,
    /// Files of one row that are dropped at once, a run
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub many_files: u32,
    /// Rows a file
    #[arg(long, value_name = "ROWS", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_per_file: u64,
    /// Work in this folder, new or empty, and leave everything there
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Measure instead what a change costs in a history of --rows rows; 4,000,000 are ten years of 1,095 locations
    #[arg(long, conflicts_with = "scale")]
    pub history: bool,
    #[command(flatten)]
    pub scale: ScaleOptions,
}

/// The rows that are loaded.
struct Load {
    /// Dropped and applied before the clock starts: facts refer to them.
    dimensions: Vec<SampleFile>,
    facts: Vec<SampleFile>,
    rows: i64,
}

/// Objects sent to S3 at once.
const UPLOADS: usize = 4;
/// Longest time a run's rows may take.
const TIMEOUT: Duration = Duration::from_secs(1_800);
/// Between two looks at the counters of a million rows.
const POLL: Duration = Duration::from_millis(20);
/// Between two looks at the copies, each of which reads the manifest.
const COPIES_POLL: Duration = Duration::from_millis(100);

/// Runs the benchmark and prints its report.
///
/// # Errors
/// If the stack does not start, or rows do not arrive in time.
pub async fn run(options: &BenchOptions, look: Look) -> Result<()> {
    let folder = Folder::new(options.keep.as_deref())?;
    let shown = folder.path.display();
    println!("{}", machine::describe());
    println!();
    eprintln!("  generating {} rows in {shown}", thousands(options.rows.cast_signed()));
    if options.history {
        let measured = history::run(options, &folder.path).await;
        let measured = measured.with_context(|| format!("benchmark of changes in {shown}"))?;
        println!("{}", history_report::render(&measured, look));
        return folder.remove();
    }
    let load = generate_load(chosen(), options, &folder.path)?;
    if options.scale.scale {
        let data = folder.path.join("scale");
        let scaled = scale::run(&options.scale, &data, &load).await;
        let scaled = scaled.with_context(|| format!("benchmark of several processes in {shown}"))?;
        println!("{}", split::render(&scaled, look));
        return folder.remove();
    }
    let plain = load::plain_copies(chosen(), &load.facts, &folder.path.join("plain"))?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let run = one_run(options, &folder.path.join(format!("run-{number}")), &load, &plain).await;
        let run = run.with_context(|| format!("benchmark run {number} in {shown}"))?;
        eprintln!("  run {number} of {}: {} rows/s", options.runs, thousands(run.freshet.round() as i64));
        runs.push(run);
    }
    println!("{}", report::render(options, load.rows, &runs, look));
    folder.remove()
}

async fn one_run(options: &BenchOptions, data: &Path, load: &Load, plain: &[load::PlainFile]) -> Result<Run> {
    let child = Child::start(data).await?;
    let result = measure(options, &child, data, load, plain).await;
    let stopped = child.stop().await;
    let run = result?;
    stopped?;
    Ok(run)
}

async fn measure(
    options: &BenchOptions,
    child: &Child,
    data: &Path,
    load: &Load,
    plain: &[load::PlainFile],
) -> Result<Run> {
    let pool = child.pool().await?;
    child.drop_files(&load.dimensions, 1).await?;
    wait_until_applied(&pool, load.dimensions.len()).await?;

    load::checkpoint(&pool).await;
    let (started, before) = (Instant::now(), child.cost()?);
    child.drop_files(&load.facts, UPLOADS).await?;
    until_committed(&pool, load.rows).await?;
    let (freshet, cost) = (started.elapsed(), child.cost()?.since(&before));
    verify(&pool, load.rows).await?;
    let files = load.dimensions.len() + load.facts.len();
    wait_until_applied(&pool, files).await?;
    let settled = started.elapsed();

    let mut small_files = SmallFiles::new(child, &pool, chosen())?;
    let mut visible = Vec::new();
    for _ in 0..options.small_files {
        visible.push(small_files.next().await?);
    }
    wait_until_applied(&pool, files + small_files.dropped()).await?;
    wait_until_copied(child).await?;
    let many = small_files.many(options.many_files).await?;
    wait_until_applied(&pool, files + small_files.dropped()).await?;
    let peak_memory_bytes = child.peak_memory()?;

    wait_until_copied(child).await?;
    load::checkpoint(&pool).await;
    let unchanged = replayed::unchanged(child, &pool, &mut small_files).await.context("replay the history")?;
    wait_until_applied(&pool, files + small_files.dropped()).await?;
    wait_until_copied(child).await?;
    let corrected = replayed::corrected(child, &pool, &mut small_files).await;
    let corrected = corrected.context("replay a history that was wrong")?;
    wait_until_applied(&pool, files + small_files.dropped()).await?;
    wait_until_copied(child).await?;
    let swapped = replayed::swapped(child, &pool, &mut small_files).await;
    let swapped = swapped.context("replay a history that was wrong into shadows")?;
    wait_until_applied(&pool, files + small_files.dropped()).await?;

    wait_until_copied(child).await?;
    load::checkpoint(&pool).await;
    let copy = load::copy(&pool, plain).await.context("measure COPY")?;
    load::checkpoint(&pool).await;
    let script = load::script(&pool, plain).await.context("measure the plain script")?;
    let polars = match polars::python() {
        None => None,
        Some(python) => {
            load::checkpoint(&pool).await;
            Some(polars::run(&python, &pool, &child.database_url()?, plain, data).await?)
        }
    };

    let rate = |duration: Duration| load.rows as f64 / duration.as_secs_f64();
    Ok(Run {
        freshet: rate(freshet),
        outputs_seconds: settled.as_secs_f64(),
        copy: rate(copy),
        script: rate(script),
        polars: polars.map_or(0.0, rate),
        cost,
        visible,
        put_rate: many.put_rate,
        many_rate: many.rate,
        many_cost: many.cost,
        many_applied: many.until_applied,
        unchanged,
        corrected,
        swapped,
        peak_memory_bytes,
    })
}

/// The domains with event time.
fn facts(pipeline: &'static Pipeline) -> impl Iterator<Item = &'static Domain> {
    pipeline.domains.iter().copied().filter(|domain| domain.event_time.is_some())
}

/// A thousandth of the rows is the number of entities, so that the days come out even.
fn generate_load(pipeline: &'static Pipeline, options: &BenchOptions, folder: &Path) -> Result<Load> {
    let entities = (options.rows / 1_000).clamp(10, 1_000);
    let (days, shares) = (options.rows / entities, facts(pipeline).count() as u64);
    ensure!(shares > 0, "the pipeline {} has no domain with event time to load rows of", pipeline.name);
    let generated = |domains: Vec<String>, set: &str, days: u64| {
        let projections = days.min(5);
        let set = GenerateOptions {
            entities: u32::try_from(entities)?,
            days: u32::try_from(days - projections)?,
            projections: u32::try_from(projections)?,
            rows_per_file: options.rows_per_file,
            domains,
            ..GenerateOptions::into(folder.join("sets").join(set))
        };
        let summary = generate::run(pipeline.domains, &set)?;
        anyhow::Ok((generate::files(&set.out)?, summary.rows().cast_signed()))
    };
    let mut load = Load { dimensions: Vec::new(), facts: Vec::new(), rows: 0 };
    let dimensions = pipeline.domains.iter().filter(|domain| domain.event_time.is_none());
    let dimensions: Vec<String> = dimensions.map(|domain| domain.name.to_owned()).collect();
    if !dimensions.is_empty() {
        (load.dimensions, _) = generated(dimensions, "dimensions", 0)?;
    }
    for (number, domain) in (0..).zip(facts(pipeline)) {
        let days = days / shares + u64::from(number < days % shares);
        let (files, rows) = generated(vec![domain.name.to_owned()], domain.name, days)?;
        load.facts.extend(files);
        load.rows += rows;
    }
    Ok(load)
}

/// Until so many rows of facts are committed: counters move in the same transaction as the rows.
async fn until_committed(pool: &PgPool, rows: i64) -> Result<()> {
    let started = Instant::now();
    let facts: Vec<&str> = facts(chosen()).map(|domain| domain.name).collect();
    loop {
        let committed: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(applied + stale + rejected), 0)::bigint FROM pipeline.progress
             WHERE domain = ANY($1)",
        )
        .bind(&facts)
        .fetch_one(pool)
        .await
        .context("count the rows committed")?;
        if committed >= rows {
            return Ok(());
        }
        if started.elapsed() > TIMEOUT {
            bail!("{committed} of {rows} rows are committed after {}", span(TIMEOUT));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The tables hold what the counters say; every row has a key of its own.
async fn verify(pool: &PgPool, rows: i64) -> Result<()> {
    let counts = facts(chosen()).map(|domain| format!("(SELECT count(*) FROM \"{}\")", domain.table));
    let sum = format!("SELECT {}", counts.collect::<Vec<_>>().join(" + "));
    let found: i64 =
        sqlx::query_scalar(AssertSqlSafe(sum)).fetch_one(pool).await.context("count the rows of the tables")?;
    ensure!(found == rows, "the tables hold {found} rows, not {rows}");
    Ok(())
}

/// Until so many files are applied and their outputs published.
async fn wait_until_applied(pool: &PgPool, files: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        let (applied, marks): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM pipeline.objects WHERE state = $1),
                (SELECT count(*) FROM pipeline.marks)",
        )
        .bind(ObjectState::Applied)
        .fetch_one(pool)
        .await
        .context("read the ledger")?;
        if applied >= files as i64 && marks == 0 {
            return Ok(());
        }
        if started.elapsed() > TIMEOUT {
            bail!("{applied} of {files} files are applied, {marks} marks left after {}", span(TIMEOUT));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Until the whole-file copies have what is published: they are written when nothing else is, and would be measured too.
async fn wait_until_copied(child: &Child) -> Result<()> {
    let started = Instant::now();
    while child.has_copies_behind().await? {
        ensure!(started.elapsed() < TIMEOUT, "copies are behind after {}", span(TIMEOUT));
        tokio::time::sleep(COPIES_POLL).await;
    }
    Ok(())
}

/// The folder of a benchmark, removed at its end unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self> {
        let path = match keep {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("freshet-bench-{}", std::process::id())),
        };
        std::fs::create_dir_all(&path).with_context(|| format!("make folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("open folder {}", path.display()))?;
        if std::fs::read_dir(&path).with_context(|| format!("read folder {}", path.display()))?.next().is_some() {
            bail!("{} is not empty: give --keep another folder", path.display());
        }
        Ok(Folder { path, keep: keep.is_some() })
    }

    fn remove(self) -> Result<()> {
        match self.keep {
            true => Ok(()),
            false => std::fs::remove_dir_all(&self.path).with_context(|| format!("remove {}", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_has_the_rows_asked_for_in_even_shares() {
        let folder = tempfile::tempdir().expect("a value");
        let options = BenchOptions {
            rows: 20_000,
            runs: 1,
            small_files: 1,
            many_files: 1,
            rows_per_file: 5_000,
            keep: None,
            history: false,
            scale: ScaleOptions::default(),
        };
        let load = generate_load(Pipeline::shipped(), &options, folder.path()).expect("a value");
        assert_eq!((load.rows, load.dimensions.len()), (20_000, 1));
        let files = |prefix: &str| load.facts.iter().filter(|file| file.key.starts_with(prefix)).count();
        assert_eq!((files("climate/"), files("health/"), files("hospital/")), (2, 2, 2));
    }
}
