//! Files that --file names and that have no such reject: a slip in a name must not look like a file whose rows all load.

use anyhow::{Context, Result};
use freshet_ingest::names::fits;
use freshet_sinks::ledger::on_one_line;
use freshet_topics::Domain;

use super::{Which, select};
use crate::commands::named;
use crate::roles::Services;

/// A file that was asked for and has no such reject.
pub(super) struct Without {
    pub(super) file: String,
    /// Why it has none.
    pub(super) reason: String,
    /// Whether the ledger has it.
    pub(super) is_known: bool,
}

/// The files that were asked for and have no such reject.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn find(services: &Services, domains: &[&'static Domain], which: &Which) -> Result<Vec<Without>> {
    let mut without = Vec::new();
    if which.files.is_empty() {
        return Ok(without);
    }
    let keys = select::files(&services.pool, domains, which).await.context("look up the files of the rejects")?;
    for file in &which.files {
        if !keys.iter().any(|key| fits(file, key)) {
            without.push(of_file(services, file, which).await?);
        }
    }
    Ok(without)
}

/// Whether the ledger has all of them.
pub(super) fn are_known(without: &[Without]) -> bool {
    without.iter().all(|file| file.is_known)
}

/// Says on standard error which files have no such reject, for a command that acts on those that there are; whether the
/// ledger has all files that were asked for.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn tell(services: &Services, domains: &[&'static Domain], which: &Which) -> Result<bool> {
    let without = find(services, domains, which).await?;
    for file in &without {
        eprintln!("freshet: {}", on_one_line(&file.reason));
    }
    Ok(are_known(&without))
}

async fn of_file(services: &Services, file: &str, which: &Which) -> Result<Without> {
    if named::is_pattern(file) && named::is_known(&services.pool, file).await.context("look up the files")? {
        let reason = format!("{}: no such row of these files was rejected", on_one_line(file));
        return Ok(Without { file: file.to_owned(), reason, is_known: true });
    }
    let versions = named::versions(services, file).await.context("look up the file")?;
    let reason = match named::newest(&versions) {
        None => named::unknown(services, file).await.context("look for near names")?,
        Some(newest) => match named::waits(newest) {
            Some(said) => format!("{}: {said}", on_one_line(file)),
            None if which.is_narrowed() => format!("{}: no such row of it was rejected", on_one_line(file)),
            None => format!("{}: no row of it was rejected", on_one_line(file)),
        },
    };
    Ok(Without { file: file.to_owned(), reason, is_known: !versions.is_empty() })
}
