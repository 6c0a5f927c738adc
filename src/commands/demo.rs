//! `freshet demo`: sample files go in, and all that comes of them is shown.
//!
//! The stack runs already; [`run`] drops the files, facts before locations, shows progress until everything is
//! applied and published, drops one more file to measure how long one takes, and prints where to look.

mod progress;
mod show;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::primitives::ByteStream;
use chrono::{Days, NaiveDate};
use freshet_topics::Pipeline;
use sqlx::PgPool;

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
    pub look: Look,
}

/// How the demonstration went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// What became of the sample files.
    pub waited: Waited,
    /// From dropping one more file until its rows could be selected.
    pub drop_to_visible: Duration,
}

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
    let files = samples(demo.samples).context("make the sample files")?;
    let waited = drop_samples(demo, &files, &put, &list, &outputs).await?;
    let drop_to_visible = drop_one_more(demo, &put).await?;
    // The tables and outputs shown include that last file.
    status::wait(demo.pool, demo.raw_bucket, &list, &outputs, TIMEOUT).await?;
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

/// The sample files, made unless an earlier demonstration left them.
fn samples(folder: &Path) -> Result<Vec<SampleFile>> {
    let sets = folder.join("set");
    if !folder.join("complete").exists() {
        if sets.exists() {
            std::fs::remove_dir_all(&sets).with_context(|| format!("remove folder {}", sets.display()))?;
        }
        let options = GenerateOptions {
            locations: 36,
            days: 90,
            dirty: 0.01,
            rows_per_file: 600,
            ..GenerateOptions::into(&sets)
        };
        generate::run(&options)?;
        std::fs::write(folder.join("complete"), "").with_context(|| format!("write to {}", folder.display()))?;
    }
    generate::files(&sets)
}

/// Drops the files in key order, which is facts first and locations last, and shows how far they are.
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
        let mut waited = status::wait(demo.pool, demo.raw_bucket, list, outputs, TIMEOUT).await?;
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

/// Drops the health file of the day after the newest and polls until its rows are there.
async fn drop_one_more<P>(demo: &Demo<'_>, put: &P) -> Result<Duration>
where
    P: AsyncFn(&str, &Path) -> Result<()>,
{
    let newest: Option<NaiveDate> =
        sqlx::query_scalar("SELECT max(date) FROM health_data WHERE NOT is_projected AND date < '9000-01-01'")
            .fetch_one(demo.pool)
            .await
            .context("read the newest date")?;
    let day = newest.unwrap_or_default() + Days::new(1);
    let file = one_day(demo.samples, day).context("make one more file")?;
    let started = Instant::now();
    put(&file.key, &file.path).await.with_context(|| format!("drop file {}", file.key))?;
    loop {
        let visible: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM health_data WHERE location_id = 1 AND date = $1 AND NOT is_projected)",
        )
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

/// One day's health file in a folder of its own.
fn one_day(samples: &Path, day: NaiveDate) -> Result<SampleFile> {
    let out: PathBuf = samples.join(format!("one-more-{day}"));
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("remove folder {}", out.display()))?;
    }
    let options = GenerateOptions {
        days: 1,
        end: day,
        projections: 0,
        domains: vec!["health".into()],
        ..GenerateOptions::into(&out)
    };
    generate::run(&options)?;
    generate::files(&out)?.into_iter().next().context("no file was generated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_made_once_and_again_after_a_half_made_set() {
        let folder = tempfile::tempdir().expect("a value");
        let once = samples(folder.path()).expect("a value");
        assert_eq!(samples(folder.path()).expect("a value"), once);
        std::fs::remove_file(folder.path().join("complete")).expect("a value");
        assert_eq!(samples(folder.path()).expect("a value"), once);
        let last = &once.last().expect("a value").key;
        assert_eq!(last, "locations/locations.csv", "facts come first");
    }

    #[test]
    fn one_more_day_is_one_file_of_its_own_date() {
        let folder = tempfile::tempdir().expect("a value");
        let day: NaiveDate = "2025-09-22".parse().expect("a value");
        let file = one_day(folder.path(), day).expect("a value");
        assert_eq!(file.key, "health/health-2025-09-22-00001.csv");
        assert_eq!(one_day(folder.path(), day).expect("a value"), file);
    }
}
