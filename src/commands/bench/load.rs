//! What Postgres does with the same rows when nothing of freshet is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use freshet_topics::{Cast, Domain, Pipeline, TextEncoding};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use crate::commands::generate::SampleFile;

/// A file whose every cell Postgres casts without help.
#[derive(Debug, Clone)]
pub(super) struct PlainFile {
    pub(super) domain: &'static Domain,
    header: String,
    path: PathBuf,
    /// The file that it is a copy of.
    pub(super) original: PathBuf,
}

/// Sent to the server at once.
const CHUNK: usize = 1 << 20;

/// Rewrites `2253.0` and `2026.0` as integers, which `COPY` would refuse, before any clock runs.
pub(super) fn plain_copies(pipeline: &Pipeline, files: &[SampleFile], folder: &Path) -> Result<Vec<PlainFile>> {
    std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    let copies = files.iter().map(|file| {
        let domain = pipeline.domains.iter().copied().find(|domain| domain.matches(&file.key, []));
        let domain = domain.with_context(|| format!("{} belongs to no domain", file.key))?;
        ensure!(
            is_plain(domain),
            "the contract of {} has another delimiter, decimal sign or encoding: this benchmark also loads the files by \
             COPY, which reads commas, decimal points and UTF-8 (--scale and --history do not)",
            domain.name
        );
        let text = std::fs::read_to_string(&file.path).with_context(|| format!("read file {}", file.path.display()))?;
        let header = text.lines().next().unwrap_or_default().to_owned();
        let path = folder.join(file.key.replace('/', "-"));
        std::fs::write(&path, plain(domain, &text)).with_context(|| format!("write file {}", path.display()))?;
        Ok(PlainFile { domain, header, path, original: file.path.clone() })
    });
    copies.collect()
}

/// Whether Postgres reads the format of the domain's files.
fn is_plain(domain: &Domain) -> bool {
    domain.delimiter == b','
        && domain.encoding == TextEncoding::Utf8
        && !domain.columns.iter().any(|column| column.decimal_comma)
}

fn plain(domain: &Domain, text: &str) -> String {
    let header = text.lines().next().unwrap_or_default();
    let is_whole = |name| matches!(domain.columns[domain.index_of(name)].cast, Cast::Int | Cast::BigInt);
    let is_whole: Vec<bool> = header.split(',').map(is_whole).collect();
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.lines().enumerate() {
        let mut is_quoted = false;
        let cells = line.split(|character| {
            is_quoted ^= character == '"';
            character == ',' && !is_quoted
        });
        for (column, cell) in cells.enumerate() {
            let whole = is_whole.get(column) == Some(&true) && number > 0;
            out.push_str(if column > 0 { "," } else { "" });
            out.push_str(if whole { cell.strip_suffix(".0").unwrap_or(cell) } else { cell });
        }
        out.push('\n');
    }
    out
}

/// Writes out what earlier phases left, so that they do not pay for one another. A database user may lack the
/// right to; then they do.
pub(super) async fn checkpoint(pool: &PgPool) {
    if let Err(error) = sqlx::query("CHECKPOINT").execute(pool).await {
        tracing::debug!(%error, "checkpoint before a phase");
    }
}

/// `COPY` straight into empty tables with the same keys and indexes.
pub(super) async fn copy(pool: &PgPool, files: &[PlainFile]) -> Result<Duration> {
    timed(pool, files, false).await
}

/// For each file `COPY` into a staging table, then upsert from it.
pub(super) async fn script(pool: &PgPool, files: &[PlainFile]) -> Result<Duration> {
    timed(pool, files, true).await
}

/// One connection a table, all tables at once.
async fn timed(pool: &PgPool, files: &[PlainFile], upsert: bool) -> Result<Duration> {
    make_tables(pool, files).await?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for files in by_table(files).into_values() {
        let pool = pool.clone();
        tasks.spawn(async move { load_table(&pool, &files, upsert).await });
    }
    while let Some(loaded) = tasks.join_next().await {
        loaded.context("load a table")??;
    }
    let duration = started.elapsed();
    drop_tables(pool).await?;
    Ok(duration)
}

/// The files of each table, by its name.
pub(super) fn by_table(files: &[PlainFile]) -> BTreeMap<&'static str, Vec<PlainFile>> {
    let mut by_table: BTreeMap<&str, Vec<PlainFile>> = BTreeMap::new();
    for file in files {
        by_table.entry(file.domain.table).or_default().push(file.clone());
    }
    by_table
}

/// Makes an empty copy of each table in the schema `bench`.
pub(super) async fn make_tables(pool: &PgPool, files: &[PlainFile]) -> Result<()> {
    let tables: BTreeSet<&str> = files.iter().map(|file| file.domain.table).collect();
    for table in tables {
        execute(pool, make_table(table)).await?;
    }
    Ok(())
}

/// Drops the schema `bench`.
pub(super) async fn drop_tables(pool: &PgPool) -> Result<()> {
    execute(pool, "DROP SCHEMA bench CASCADE".into()).await
}

/// Lineage and identity columns are there as in the real table, so that rows are as wide.
fn make_table(table: &str) -> String {
    format!(
        "CREATE SCHEMA IF NOT EXISTS bench;
         CREATE TABLE bench.{table} (LIKE public.{table} INCLUDING ALL);
         ALTER TABLE bench.{table} ALTER src_object SET DEFAULT 1, ALTER src_gen SET DEFAULT 1,
            ALTER src_row SET DEFAULT 1, ALTER src_ord SET DEFAULT 1, ALTER value_ord SET DEFAULT 1"
    )
}

async fn execute(pool: &PgPool, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.context("prepare the tables of the benchmark")?;
    Ok(())
}

async fn load_table(pool: &PgPool, files: &[PlainFile], upsert: bool) -> Result<()> {
    let mut connection = pool.acquire().await.context("connect to Postgres")?;
    for file in files {
        let PlainFile { domain, header, path, .. } = file;
        let bytes = tokio::fs::read(path).await.with_context(|| format!("read file {}", path.display()))?;
        if !upsert {
            copy_in(&mut connection, &format!("bench.{}", domain.table), header, &bytes).await?;
            continue;
        }
        for statement in ["BEGIN".to_owned(), make_staging(domain, header)] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await.context("make a staging table")?;
        }
        copy_in(&mut connection, "staging", header, &bytes).await?;
        for statement in [upsert_sql(domain, header), "COMMIT".to_owned()] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await.context("upsert a file")?;
        }
    }
    Ok(())
}

async fn copy_in(connection: &mut PgConnection, table: &str, columns: &str, bytes: &[u8]) -> Result<()> {
    let statement = format!("COPY {table} ({columns}) FROM STDIN (FORMAT csv, HEADER)");
    let mut copy = connection.copy_in_raw(&statement).await.context("start COPY")?;
    for chunk in bytes.chunks(CHUNK) {
        copy.send(chunk).await.context("send rows to COPY")?;
    }
    copy.finish().await.context("finish COPY")?;
    Ok(())
}

fn make_staging(domain: &Domain, header: &str) -> String {
    format!(
        "CREATE TEMPORARY TABLE staging ON COMMIT DROP AS SELECT {header} FROM bench.{} LIMIT 0;
         ALTER TABLE staging ADD row bigint GENERATED ALWAYS AS IDENTITY",
        domain.table
    )
}

fn upsert_sql(domain: &Domain, header: &str) -> String {
    let key = domain.key.join(", ");
    let rest: Vec<String> = header
        .split(',')
        .filter(|column| !domain.key.contains(column))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    format!(
        "INSERT INTO bench.{table} ({header}) SELECT DISTINCT ON ({key}) {header} FROM staging
         ORDER BY {key}, row DESC
         ON CONFLICT ({key}) DO UPDATE SET {rest}",
        table = domain.table,
        rest = rest.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_lose_their_fraction_and_doubles_keep_it() {
        let health = freshet_topics::domains::by_name("health").expect("a value");
        let text = "location_id,date,dengue_cases,is_projected,projection_year\n1,2026-09-21,5.0,True,2026.0\n";
        assert_eq!(
            plain(health, text),
            "location_id,date,dengue_cases,is_projected,projection_year\n1,2026-09-21,5,True,2026\n"
        );
        let locations = freshet_topics::domains::by_name("locations").expect("a value");
        assert_eq!(plain(locations, "name,id\n\"a, b\",1.0\n"), "name,id\n\"a, b\",1\n");
        let climate = freshet_topics::domains::by_name("climate").expect("a value");
        assert_eq!(plain(climate, "location_id,temperature\n1,25.0\n"), "location_id,temperature\n1,25.0\n");
    }
}
