//! `freshet rejects export`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use freshet_topics::Domain;
use serde_json::json;

use super::select::{self, Reject};
use super::{Which, csv, without};
use crate::commands::terminal::counted;
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
    let all = select::read(&services.pool, &[domain], which, None).await.context("read the rejects")?;
    let (mut rejects, foreign): (Vec<Reject>, Vec<Reject>) = all.into_iter().partition(|reject| reject.object != 0);
    if !foreign.is_empty() {
        eprintln!("freshet: left out what is not a row of a file: {}", counted(foreign.len() as i64, "message"));
    }
    // A row whose text was too long to be kept whole is not valid JSON any more.
    let before = rejects.len();
    rejects.retain(|reject| csv::decode(domain, std::slice::from_ref(reject)).is_ok());
    if rejects.len() < before {
        let cut = counted((before - rejects.len()) as i64, "row");
        eprintln!("freshet: left out {cut}, too long to be stored whole: correct that in the file");
    }
    match out {
        Some(folder) => write_files(domain, &rejects, folder, as_json),
        None if as_json => {
            crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&rejects).context("write JSON")?));
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let rows = csv::decode(domain, &rejects).context("read the rejects")?;
            ensure!(
                csv::is_one_shape(&rows),
                "these rows come from files with different columns, so they do not fit under one header: choose a \
                 file with --file, or write one CSV per file with --out DIR"
            );
            crate::print::raw(&csv::write(domain, &csv::shape(domain, &rows), &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The rejects of one file as CSV.
pub(crate) struct Export {
    /// What the file may be called.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Rejects of one file of a domain as CSV; `None` where there are none that are whole.
///
/// # Errors
/// If a row cannot be read.
pub(crate) fn csv_of(domain: &'static Domain, mut rejects: Vec<Reject>) -> Result<Option<Export>> {
    rejects.retain(|reject| csv::decode(domain, std::slice::from_ref(reject)).is_ok());
    let Some(first) = rejects.first() else { return Ok(None) };
    let rows = csv::decode(domain, &rejects).context("read the rejects")?;
    let text = csv::write(domain, &csv::shape(domain, &rows), &rows);
    Ok(Some(Export { name: name_of(first), text }))
}

/// A CSV for each version of a file, named after it.
fn write_files(domain: &'static Domain, rejects: &[Reject], folder: &Path, as_json: bool) -> Result<ExitCode> {
    let folder = folder.join(domain.name);
    fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
    let mut written = Vec::new();
    for of_file in rejects.chunk_by(|one, other| one.object == other.object) {
        let rows = csv::decode(domain, of_file).context("read the rejects")?;
        let path = folder.join(name_of(&of_file[0]));
        fs::write(&path, csv::write(domain, &csv::shape(domain, &rows), &rows))
            .with_context(|| format!("write {}", path.display()))?;
        written.push(json!({ "path": path.display().to_string(), "file": of_file[0].file, "rows": rows.len() }));
        if !as_json {
            println!("{}: {}", path.display(), counted(rows.len() as i64, "row"));
        }
    }
    if as_json {
        crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&written).context("write JSON")?));
    } else if written.is_empty() {
        println!("no such row was rejected");
    }
    Ok(ExitCode::SUCCESS)
}

/// The last part of the file's key, and the number of its version: no two are the same.
fn name_of(reject: &Reject) -> String {
    let key = reject.file.as_deref().unwrap_or("unknown");
    let last = key.rsplit('/').next().unwrap_or(key);
    let plain = last.split('.').next().unwrap_or(last);
    let is_safe = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    let safe: String = plain.chars().map(|it| if is_safe(it) { it } else { '-' }).collect();
    format!("rejects-{safe}-{}.csv", reject.object)
}
