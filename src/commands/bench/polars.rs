//! The same rows by a script of polars' (`script_of_polars.py`), where `scripts/setup bench` has installed it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlx::PgPool;
use tokio::io::AsyncWriteExt;

use super::load::{self, PlainFile};
use crate::local;

/// As in `scripts/setup`.
const POLARS_VERSION: &str = "2.1.0";
const SCRIPT: &str = include_str!("script_of_polars.py");

/// The Python that has polars, if it is installed.
pub(super) fn python() -> Option<PathBuf> {
    let python = local::cache_dir().join(format!("polars-{POLARS_VERSION}/bin/python"));
    python.is_file().then_some(python)
}

/// Runs the script on the original files, one process a table.
///
/// # Errors
/// If it fails, with what it wrote to its standard error.
pub(super) async fn run(
    python: &Path,
    pool: &PgPool,
    url: &str,
    files: &[PlainFile],
    folder: &Path,
) -> Result<Duration> {
    load::make_tables(pool, files).await?;
    let script = folder.join("script_of_polars.py");
    tokio::fs::write(&script, SCRIPT).await.with_context(|| format!("write file {}", script.display()))?;
    let mut process = tokio::process::Command::new(python)
        .arg(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start Python")?;
    let mut input = process.stdin.take().context("Python has no standard input")?;
    input.write_all(plan(url, files).to_string().as_bytes()).await.context("give the script its plan")?;
    drop(input);
    let output = process.wait_with_output().await.context("wait for the script")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the script of polars' failed: {}",
        said.trim().lines().last().unwrap_or_default()
    );
    let seconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("read the script's time")?;
    load::drop_tables(pool).await?;
    Ok(Duration::from_secs_f64(seconds))
}

/// What the script is to load, and where.
fn plan(url: &str, files: &[PlainFile]) -> serde_json::Value {
    let table = |files: Vec<PlainFile>| {
        let domain = files.first()?.domain;
        let types = domain.columns.iter().map(|column| (column.name.to_owned(), column.cast.sql_type().into()));
        Some(json!({
            "table": format!("bench.{}", domain.table),
            "key": domain.key,
            "types": types.collect::<serde_json::Map<String, serde_json::Value>>(),
            "files": files.iter().map(|file| &file.original).collect::<Vec<_>>(),
        }))
    };
    json!({ "url": url, "tables": load::by_table(files).into_values().filter_map(table).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_setup_installs() {
        let setup = include_str!("../../../scripts/setup");
        assert!(setup.contains(&format!("polars_version={POLARS_VERSION}\n")));
    }
}
