//! `freshet rejects export`.
//!
//! A file may have millions of rejects, so they are read twice, in one snapshot: for the columns that they were sent
//! with, which the header has to have, and to be written as they are read. Memory is taken by the files, not by the rows.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use freshet_topics::{Domain, RawRow};
use serde::ser::{SerializeSeq, Serializer};
use sqlx::PgConnection;

use super::csv::{Columns, Shape};
use super::files::{self, Files};
use super::select::{self, Reject};
use super::{Which, csv, without};
use crate::commands::terminal::counted;
use crate::print;
use crate::roles::Services;

pub(super) async fn run(
    services: &Services,
    domain: &'static Domain,
    which: &Which,
    out: Option<&Path>,
    as_json: bool,
) -> Result<ExitCode> {
    if !without::tell(services, &[domain], which).await? {
        return Ok(ExitCode::FAILURE);
    }
    let mut snapshot = select::snapshot(&services.pool).await.context("read the rejects")?;
    let columns = columns(&mut snapshot, domain, which).await?;
    match out {
        Some(folder) => {
            write_files(&mut snapshot, domain, which, Files::new(domain, folder, &columns, as_json)?).await?
        }
        None if as_json => print_json(&mut snapshot, domain, which).await?,
        None => print_csv(&mut snapshot, domain, which, &columns).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The columns of each file's rows, by object. Says on standard error what is left out.
async fn columns(
    connection: &mut PgConnection,
    domain: &'static Domain,
    which: &Which,
) -> Result<BTreeMap<i64, Columns>> {
    let mut columns: BTreeMap<i64, Columns> = BTreeMap::new();
    let (mut foreign, mut cut) = (0, 0);
    let add = |reject: Reject| {
        match csv::row(domain, &reject) {
            _ if reject.object == 0 => foreign += 1,
            None => cut += 1,
            Some(row) => columns.entry(reject.object).or_default().add(&row),
        }
        Ok(())
    };
    select::each(connection, domain, which, add).await?;
    if foreign > 0 {
        eprintln!("freshet: left out what is not a row of a file: {}", counted(foreign, "message"));
    }
    if cut > 0 {
        let cut = counted(cut, "row");
        eprintln!("freshet: left out {cut}, too long to be stored whole: correct that in the file");
    }
    Ok(columns)
}

/// Gives each reject that is a whole row of a file to `take`.
async fn each_row(
    connection: &mut PgConnection,
    domain: &'static Domain,
    which: &Which,
    mut take: impl FnMut(&Reject, &RawRow<'_>) -> Result<()>,
) -> Result<()> {
    let give = |reject: Reject| match csv::row(domain, &reject) {
        Some(row) if reject.object != 0 => take(&reject, &row),
        _ => Ok(()),
    };
    select::each(connection, domain, which, give).await
}

async fn print_csv(
    connection: &mut PgConnection,
    domain: &'static Domain,
    which: &Which,
    columns: &BTreeMap<i64, Columns>,
) -> Result<()> {
    ensure!(
        csv::are_one_shape(columns.values()),
        "these rows come from files with different columns, so they do not fit under one header: choose a file with \
         --file, or write one CSV per file with --out DIR"
    );
    let shape = Shape::of(domain, columns.values());
    let mut out = BufWriter::new(print::Raw);
    out.write_all(csv::heading(domain, &shape).as_bytes())?;
    each_row(connection, domain, which, |reject, row| {
        Ok(out.write_all(csv::line(domain, &shape, reject, row).as_bytes())?)
    })
    .await?;
    Ok(out.flush()?)
}

async fn print_json(connection: &mut PgConnection, domain: &'static Domain, which: &Which) -> Result<()> {
    let mut out = BufWriter::new(print::Raw);
    let mut json = serde_json::Serializer::pretty(&mut out);
    let mut rejects = json.serialize_seq(None).context("write JSON")?;
    each_row(connection, domain, which, |reject, _| rejects.serialize_element(reject).context("write JSON")).await?;
    rejects.end().context("write JSON")?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A CSV for each version of a file, named after it.
async fn write_files(
    connection: &mut PgConnection,
    domain: &'static Domain,
    which: &Which,
    mut files: Files<'_>,
) -> Result<()> {
    each_row(connection, domain, which, |reject, row| files.write(reject, row)).await?;
    files.end()
}

/// The rejects of one file as CSV.
pub(crate) struct Export {
    /// What the file may be called.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Rejects of one file of a domain as CSV, as many as fit into memory; `None` where there are none that are whole.
pub(crate) fn csv_of(domain: &'static Domain, rejects: &[Reject]) -> Option<Export> {
    let rows: Vec<_> = rejects.iter().filter_map(|reject| Some((reject, csv::row(domain, reject)?))).collect();
    let (first, _) = rows.first()?;
    let mut columns = Columns::default();
    rows.iter().for_each(|(_, row)| columns.add(row));
    let shape = Shape::of(domain, std::iter::once(&columns));
    let mut text = csv::heading(domain, &shape);
    text.extend(rows.iter().map(|(reject, row)| csv::line(domain, &shape, reject, row)));
    Some(Export { name: files::name_of(first), text })
}
