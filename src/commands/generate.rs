//! `freshet generate`: sample data of any pipeline, of any size, in constant memory.
//!
//! A row is a pure function of (seed, entities, entity, date), so that nothing is held. What a domain's rows look like
//! follows from its contract ([`Shape`]); values that change from day to day come from noise with knots some days apart
//! (which gives persistence) and from seasons. Only plain arithmetic is used, no `sin` or `exp` of the system's library,
//! so that the same options give the same bytes on every machine.
//!
//! One row's path: the [`World`] fills a [`Row`] for an entity and a day → perhaps a [`Defect`] → [`Files`].

mod day;
mod defects;
mod files;
mod fill;
mod measured;
mod proof;
mod random;
mod shape;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use chrono::{Datelike, Days, Months, NaiveDate};
use serde::Serialize;

use day::Day;
use defects::Defect;
use files::{Files, Row};
use fill::{Scratch, Take, Today, World};
use freshet_topics::Domain;
use random::Dice;
use shape::Shape;

use crate::print::quoted;

/// Options of `freshet generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateOptions {
    /// Folder for the files, with a subfolder for each domain; it is created, or must be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The same seed and options give the same bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of entities, with the ids 1 to N: each dimension has a row for each, and each fact a row for each and day
    #[arg(long, alias = "locations", value_name = "N", default_value_t = 36, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub entities: u32,
    /// Observed days, the last of them --end
    #[arg(long, default_value_t = 30)]
    pub days: u32,
    /// Share of fact rows that carry one defect each, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub dirty: f64,
    /// Maximum number of rows in a file
    #[arg(long, value_name = "ROWS", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_per_file: u64,
    /// Last observed day
    #[arg(long, value_name = "DATE", default_value_t = default_end())]
    pub end: NaiveDate,
    /// Number of projected rows for each entity, one, two, … years after --end
    #[arg(long, value_name = "YEARS", default_value_t = 5)]
    pub projections: u32,
    /// Only these domains, comma-separated; all unless given
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub domains: Vec<String>,
}

impl GenerateOptions {
    /// The defaults of the command line, into `out`.
    pub fn into(out: impl Into<PathBuf>) -> Self {
        GenerateOptions {
            out: out.into(),
            seed: 1,
            entities: 36,
            days: 30,
            dirty: 0.0,
            rows_per_file: 50_000,
            end: default_end(),
            projections: 5,
            domains: Vec::new(),
        }
    }
}

/// Fixed, so that two runs on different days give the same bytes.
fn default_end() -> NaiveDate {
    NaiveDate::from_ymd_opt(2025, 9, 21).unwrap_or_default()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub out: PathBuf,
    /// One a domain, in the order of the pipeline.
    pub domains: Vec<DomainSummary>,
}

/// What was written for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainSummary {
    pub domain: &'static str,
    pub files: u64,
    /// Data rows, bad and repeated ones included.
    pub rows: u64,
    /// Rows that carry a defect, each with one.
    pub defects: u64,
    pub bytes: u64,
}

impl Summary {
    pub fn rows(&self) -> u64 {
        self.domains.iter().map(|domain| domain.rows).sum()
    }

    pub fn files(&self) -> u64 {
        self.domains.iter().map(|domain| domain.files).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        writeln!(formatter, "{:<10} {:>6} {:>12} {:>9} {:>14}", "domain", "files", "rows", "defects", "bytes")?;
        for domain in &self.domains {
            let DomainSummary { domain, files, rows, defects, bytes } = domain;
            writeln!(formatter, "{domain:<10} {files:>6} {rows:>12} {defects:>9} {bytes:>14}")?;
        }
        writeln!(formatter, "written to {}", self.out.display())
    }
}

impl Summary {
    /// What it says at the end: how to drop the files. `env_file` has the addresses and keys of a running `freshet up`.
    pub fn report(&self, env_file: &Path) -> String {
        let [out, env_file] = [&self.out, env_file].map(|path| quoted(&path.to_string_lossy()));
        format!(
            "{self}To copy it into the raw bucket of a running `freshet up`:\n  . {env_file}\n  aws s3 cp --recursive {out} \
             \"s3://$FRESHET_RAW_BUCKET/\"\n"
        )
    }
}

/// Writes sample data of the domains of a pipeline.
///
/// # Errors
/// If the options contradict one another, a contract does not say enough for rows that load, the folder holds something
/// already, or a file cannot be written.
pub fn run(domains: &'static [&'static Domain], options: &GenerateOptions) -> Result<Summary> {
    check(domains, options)?;
    let shapes = shape::shapes(domains)?;
    let world = World { seed: options.seed, entities: options.entities, shapes: &shapes };
    let is_asked =
        |shape: &&Shape| options.domains.is_empty() || options.domains.iter().any(|it| it == shape.domain.name);
    for shape in shapes.iter().filter(is_asked) {
        proof::rows_load(&world, shape, options)?;
    }
    prepare(&options.out)?;
    let mut summaries = Vec::new();
    for shape in shapes.iter().filter(is_asked) {
        summaries.push(write_domain(options, &world, shape)?);
    }
    Ok(Summary { out: options.out.clone(), domains: summaries })
}

/// A file of one row: that of the first entity on a day, of a domain with event time. Another seed gives other values.
///
/// # Errors
/// As [`run`].
pub fn one_row(
    domains: &'static [&'static Domain],
    domain: &'static Domain,
    day: NaiveDate,
    seed: u64,
) -> Result<Vec<u8>> {
    let options = GenerateOptions::into("");
    let shapes = shape::shapes(domains)?;
    let world = World { seed, entities: options.entities, shapes: &shapes };
    let shape = shapes.iter().find(|shape| shape.domain == domain);
    let shape = shape.with_context(|| format!("{} is not a domain of the pipeline", domain.name))?;
    let mut row = Row::of(shape.domain.delimiter);
    world.fill(shape, &mut row, &mut Scratch::default(), 1, &Today::new(shape, Day::new(day, 0)), Take::First);
    let mut text = shape.header().into_bytes();
    text.push(b'\n');
    row.write(&mut text);
    text.push(b'\n');
    Ok(shape.encoded(&text).into_owned())
}

/// Raised when the same pipeline gets other sample data.
const VERSION: &str = "2";

/// Differs where sample data of two pipelines, or of two versions of freshet, may.
pub fn fingerprint(domains: &'static [&'static Domain]) -> String {
    format!("{:016x}", random::salt(&[VERSION, &format!("{domains:?}")]))
}

/// A generated file and the key it is dropped under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleFile {
    /// Object key: the path below the folder, with `/`.
    pub key: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// The files below a folder that [`run`] wrote, in key order.
///
/// # Errors
/// If the folder cannot be read.
pub fn files(out: &Path) -> Result<Vec<SampleFile>> {
    let (mut found, mut folders) = (Vec::new(), vec![out.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read folder {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(out)?.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
            let bytes = path.metadata().with_context(|| format!("read file {}", path.display()))?.len();
            found.push(SampleFile { key, path, bytes });
        }
    }
    found.sort();
    Ok(found)
}

/// Refuses what cannot be generated, in one line each.
fn check(domains: &[&'static Domain], options: &GenerateOptions) -> Result<()> {
    ensure!((0.0..=1.0).contains(&options.dirty), "--dirty {} is not between 0 and 1", options.dirty);
    let first = options.end.checked_sub_days(Days::new(u64::from(options.days) + u64::from(LATE_DAYS)));
    let last = options.end.checked_add_months(Months::new(options.projections.saturating_mul(12)));
    let in_calendar = |date: Option<NaiveDate>| date.is_some_and(|date| (1..=9999).contains(&date.year()));
    ensure!(
        in_calendar(first) && in_calendar(last),
        "--days {}, --end {} and --projections {} reach beyond the years 1 to 9999",
        options.days,
        options.end,
        options.projections
    );
    let is_known = |name: &&String| domains.iter().any(|domain| domain.name == **name);
    if let Some(unknown) = options.domains.iter().find(|name| !is_known(name)) {
        let names = domains.iter().map(|domain| domain.name).collect::<Vec<_>>().join(", ");
        bail!("unknown domain `{unknown}`: choose from {names}");
    }
    Ok(())
}

/// Creates the folder, or refuses one that is not empty: its files would be dropped too.
fn prepare(out: &Path) -> Result<()> {
    if out.exists() && !out.is_dir() {
        bail!("{} is not a folder: give --out another name", out.display());
    }
    fs::create_dir_all(out).with_context(|| format!("make folder {}", out.display()))?;
    let mut entries = fs::read_dir(out).with_context(|| format!("read folder {}", out.display()))?;
    if entries.next().is_some() {
        bail!("{} is not empty: give --out another folder, or remove this one first", out.display());
    }
    Ok(())
}

fn write_domain(options: &GenerateOptions, world: &World, shape: &Shape) -> Result<DomainSummary> {
    let mut files = Files::new(options, world, shape)?;
    let mut row = Row::of(shape.domain.delimiter);
    if shape.is_fact() {
        for day in days(options, shape) {
            let today = Today::new(shape, day);
            for entity in 1..=options.entities {
                write_fact(&mut files, &mut row, options, entity, &today)?;
            }
        }
    } else {
        let any_day = Today::any(shape, Day::new(options.end, 0));
        for entity in 1..=options.entities {
            write_dimension(&mut files, &mut row, options, entity, &any_day)?;
        }
    }
    files.finish()
}

/// A row of a fact, with a defect or as it should be.
fn write_fact(files: &mut Files, row: &mut Row, options: &GenerateOptions, entity: u32, today: &Today) -> Result<()> {
    let (shape, day) = (files.shape, &today.day);
    files.fill(row, entity, today, Take::First)?;
    let mut dice = Dice::of(&[options.seed, DIRT, shape.salt, entity.into(), day.number]);
    if !dice.hits(options.dirty) {
        return files.write(row, &day.text);
    }
    files.summary.defects += 1;
    match shape.defects.pick(&mut dice) {
        // The later row of a key wins within a file; the values must differ for that to be seen.
        Defect::Again => {
            files.write(row, &day.text)?;
            files.fill(row, entity, today, Take::Again)?;
        }
        Defect::Late => {
            files.write(row, &day.text)?;
            files.fill(row, entity, &Today::new(shape, day.earlier()), Take::Again)?;
        }
        Defect::BlankLine => files.blank_line(&day.text)?,
        defect => defect.apply(row),
    }
    files.write(row, &day.text)
}

/// A row of a dimension; its defect is a row of its own after it, so that no fact loses what it refers to.
fn write_dimension(
    files: &mut Files,
    row: &mut Row,
    options: &GenerateOptions,
    entity: u32,
    any_day: &Today,
) -> Result<()> {
    let shape = files.shape;
    files.fill(row, entity, any_day, Take::First)?;
    files.write(row, &any_day.day.text)?;
    let mut dice = Dice::of(&[options.seed, DIRT, shape.salt, entity.into()]);
    if dice.hits(options.dirty) {
        files.summary.defects += 1;
        shape.defects.pick(&mut dice).apply(row);
        files.write(row, &any_day.day.text)?;
    }
    Ok(())
}

/// How long before the day of its neighbours a late row is dated.
const LATE_DAYS: u32 = 7;
/// Keeps the dice for defects apart from those for values: the clean rows of a dirty set are those of a clean one.
const DIRT: u64 = 0xD1;

/// The observed days, oldest first, then the projected ones, if a row of the domain can be a projection.
fn days(options: &GenerateOptions, shape: &Shape) -> impl DoubleEndedIterator<Item = Day> + use<> {
    let end = options.end;
    let observed = (0..options.days).rev().map(move |back| Day::new(end - Days::new(back.into()), 0));
    let years = if shape.is_projectable { options.projections } else { 0 };
    let projected = (1..=years).map(move |year| Day::new(end + Months::new(12 * year), year));
    observed.chain(projected)
}

#[cfg(test)]
mod tests;
