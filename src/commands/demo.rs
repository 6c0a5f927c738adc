//! `freshet demo`: drops sample files and shows the results.
//!
//! The stack runs already; [`run`] drops the files, facts before the dimensions that they refer to, shows progress until everything is
//! applied and published, drops one more file to measure how long one takes, and prints where to look.

mod progress;
mod show;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::primitives::ByteStream;
use chrono::{Days, NaiveDate};
use freshet_topics::{Domain, EventTime, Pipeline};
use sqlx::{AssertSqlSafe, PgPool};

use super::generate::{self, GenerateOptions, SampleFile};
use super::terminal::{Look, span};
use crate::roles::Services;
use crate::status::{self, Dropped, Outputs, Waited};
use progress::Progress;

/// What the demonstration works on.
pub struct Demo<'a> {
    /// What flows.
    pub pipeline: &'static Pipeline,
    pub pool: &'a PgPool,
    /// S3, for reading the outputs.
    pub s3: &'a aws_sdk_s3::Client,
    /// The bucket that files are dropped in.
    pub raw_bucket: &'a str,
    /// The bucket that the outputs are read from.
    pub processed_bucket: &'a str,
    /// Folder for the sample files; those of an earlier demonstration are used again.
    pub samples: &'a Path,
    /// Where everything is, as (label, value), shown at the end. A `postgres://` value is shown without its
    /// password.
    pub places: Vec<(&'static str, String)>,
    /// Tables are no wider than [`WIDTH_MAX`], so that they can be shown anywhere.
    pub look: Look,
}

/// The result of the demonstration.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The result for the sample files.
    pub waited: Waited,
    /// From dropping one more file until its rows could be selected; `None` where no domain has event time.
    pub drop_to_visible: Option<Duration>,
}

/// Columns of the tables, also in a wider terminal.
pub const WIDTH_MAX: usize = 80;
/// Longest time that the sample files may take: a hundred times what they do on two cores.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Longest time that the last, small file may take.
const TIMEOUT_SMALL: Duration = Duration::from_secs(30);
/// Between two looks at the progress.
const POLL: Duration = Duration::from_millis(50);

/// Runs the demonstration. `put` drops a file under a key, `list` gives the objects under the domains' prefixes,
/// `outputs` what S3 shows of the outputs (see [`status::wait`]).
///
/// # Errors
/// If a file cannot be made or dropped, or is not through in time.
pub async fn run<P, L, O>(demo: &Demo<'_>, put: P, list: L, outputs: O) -> Result<Shown>
where
    P: AsyncFn(&str, &Path) -> Result<()>,
    L: AsyncFn() -> Result<Vec<Dropped>>,
    O: AsyncFn() -> Result<Outputs>,
{
    let files = samples(demo.pipeline, demo.samples).context("make the sample files")?;
    let waited = drop_samples(demo, &files, &put, &list, &outputs).await?;
    let fact = demo.pipeline.domains.iter().find_map(|domain| Some((*domain, domain.event_time?)));
    let drop_to_visible = match fact {
        Some((domain, event_time)) => Some(drop_one_more(demo, domain, event_time, &put).await?),
        None => None,
    };
    // The tables and outputs shown include that last file.
    status::wait(demo.pool, demo.raw_bucket, demo.pipeline, &list, &outputs, TIMEOUT).await?;
    println!();
    show::tables(demo).await?;
    show::outputs(demo).await?;
    show::timing(demo, &waited, drop_to_visible);
    show::places(demo);
    Ok(Shown { waited, drop_to_visible })
}

/// Drops a file in the raw bucket.
///
/// # Errors
/// If the file cannot be read, or S3 does not take it.
pub async fn put(services: &Services, key: &str, path: &Path) -> Result<()> {
    let body = ByteStream::from_path(path).await.with_context(|| format!("read {}", path.display()))?;
    let bucket = &services.config.s3.raw_bucket;
    let request = services.s3.put_object().bucket(bucket).key(key).body(body);
    request.send().await.with_context(|| format!("drop s3://{bucket}/{key}"))?;
    Ok(())
}

/// The sample files, made unless an earlier demonstration of the same pipeline left them: facts first.
fn samples(pipeline: &Pipeline, folder: &Path) -> Result<Vec<SampleFile>> {
    let (sets, complete) = (folder.join("set"), folder.join("complete"));
    let fingerprint = generate::fingerprint(pipeline.domains);
    if !std::fs::read_to_string(&complete).is_ok_and(|of| of == fingerprint) {
        if sets.exists() {
            std::fs::remove_dir_all(&sets).with_context(|| format!("remove folder {}", sets.display()))?;
        }
        let options =
            GenerateOptions { entities: 36, days: 90, dirty: 0.01, rows_per_file: 600, ..GenerateOptions::into(&sets) };
        generate::run(pipeline.domains, &options)?;
        std::fs::write(complete, fingerprint).with_context(|| format!("write to {}", folder.display()))?;
    }
    let mut files = generate::files(&sets)?;
    files.sort_by_key(|file| {
        let domain = pipeline.domains.iter().find(|domain| domain.matches(&file.key, []));
        domain.is_none_or(|domain| domain.event_time.is_none())
    });
    Ok(files)
}

/// Drops the files in their order and shows how far they are.
async fn drop_samples<P, L, O>(demo: &Demo<'_>, files: &[SampleFile], put: &P, list: &L, outputs: &O) -> Result<Waited>
where
    P: AsyncFn(&str, &Path) -> Result<()>,
    L: AsyncFn() -> Result<Vec<Dropped>>,
    O: AsyncFn() -> Result<Outputs>,
{
    let mut progress = Progress::start(demo.pool, files).await?;
    let dropping = async {
        let started = Instant::now();
        for file in files {
            put(&file.key, &file.path).await.with_context(|| format!("drop file {}", file.key))?;
        }
        let mut waited = status::wait(demo.pool, demo.raw_bucket, demo.pipeline, list, outputs, TIMEOUT).await?;
        waited.seconds = started.elapsed().as_secs_f64();
        anyhow::Ok(waited)
    };
    tokio::pin!(dropping);
    let result = loop {
        // Neither branch's future is dropped while it holds a transaction: the look is made in the handler.
        tokio::select! {
            result = &mut dropping => break result,
            () = tokio::time::sleep(POLL) => progress.look(demo.pool).await?,
        }
    };
    progress.look(demo.pool).await?;
    progress.finish();
    result
}

/// Drops the file of the day after the newest and polls until its rows are there.
async fn drop_one_more<P>(demo: &Demo<'_>, domain: &'static Domain, event_time: EventTime, put: &P) -> Result<Duration>
where
    P: AsyncFn(&str, &Path) -> Result<()>,
{
    let observed = format!("FROM \"{}\" WHERE {}", domain.table, event_time.observed_sql(""));
    let date = event_time.date;
    // A day that a file got wrong may lie far ahead.
    let newest = format!("SELECT max(\"{date}\") {observed} AND \"{date}\" < '9000-01-01'");
    let newest: Option<NaiveDate> =
        sqlx::query_scalar(AssertSqlSafe(newest)).fetch_one(demo.pool).await.context("read the newest date")?;
    let day = newest.unwrap_or_default() + Days::new(1);
    let file = one_day(demo.pipeline, domain, demo.samples, day).context("make one more file")?;
    let is_there = format!("SELECT EXISTS (SELECT {observed} AND \"{date}\" = $1)");
    let started = Instant::now();
    put(&file.key, &file.path).await.with_context(|| format!("drop file {}", file.key))?;
    loop {
        let visible: bool = sqlx::query_scalar(AssertSqlSafe(is_there.as_str()))
            .bind(day)
            .fetch_one(demo.pool)
            .await
            .context("look for the rows of one more file")?;
        if visible {
            return Ok(started.elapsed());
        }
        if started.elapsed() > TIMEOUT_SMALL {
            bail!(
                "the rows of {} are not visible after {}; see `freshet status --files`",
                file.key,
                span(TIMEOUT_SMALL)
            );
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One day's file of a domain in a folder of its own.
fn one_day(pipeline: &Pipeline, domain: &Domain, samples: &Path, day: NaiveDate) -> Result<SampleFile> {
    let out: PathBuf = samples.join(format!("one-more-{day}"));
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("remove folder {}", out.display()))?;
    }
    let options = GenerateOptions {
        days: 1,
        end: day,
        projections: 0,
        domains: vec![domain.name.into()],
        ..GenerateOptions::into(&out)
    };
    generate::run(pipeline.domains, &options)?;
    generate::files(&out)?.into_iter().next().context("no file was generated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_made_once_and_again_after_a_half_made_set() {
        let folder = tempfile::tempdir().expect("a value");
        let samples = || samples(Pipeline::shipped(), folder.path()).expect("a value");
        let once = samples();
        let made = |file: &SampleFile| std::fs::metadata(&file.path).and_then(|it| it.modified()).expect("a value");
        let first = made(&once[0]);
        assert_eq!(samples(), once);
        assert_eq!(made(&once[0]), first, "they are used again");
        std::fs::write(folder.path().join("complete"), "of another pipeline").expect("a value");
        assert_eq!(samples(), once);
        assert_ne!(made(&once[0]), first, "they are made again");
        let last = &once.last().expect("a value").key;
        assert_eq!(last, "locations/locations.csv", "facts come first");
    }

    #[test]
    fn one_more_day_is_one_file_of_its_own_date() {
        let folder = tempfile::tempdir().expect("a value");
        let day: NaiveDate = "2025-09-22".parse().expect("a value");
        let pipeline = Pipeline::shipped();
        let health = pipeline.domain("health").expect("a value");
        let file = one_day(pipeline, health, folder.path(), day).expect("a value");
        assert_eq!(file.key, "health/health-2025-09-22-00001.csv");
        assert_eq!(one_day(pipeline, health, folder.path(), day).expect("a value"), file);
    }
}
