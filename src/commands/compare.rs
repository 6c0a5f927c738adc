//! `freshet compare URL`: the tables of this database and those of another one, row by row, by key.
//!
//! Both sides are read in one snapshot each, ordered by key, and merged as they come: memory holds a row of each side and
//! the examples, however large the tables are. Values are compared as Postgres spells them once they are cast to the
//! declared type, so that a `double precision` 5 there and an `integer` 5 here are the same. Ids and lineage do not count.

mod merge;
mod report;

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use freshet_sinks::postgres;
use freshet_topics::{Column, Domain};
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::ready;
use crate::roles::Services;
use merge::{Row, Side};
use report::{Report, TableReport};

/// Options of `freshet compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The other database, postgres://user@host:port/database (others can see it: give the password as PGPASSWORD)
    #[arg(env = "FRESHET_COMPARE_URL", hide_env_values = true, value_name = "URL")]
    url: String,
    /// Schema of the other database's tables
    #[arg(long, value_name = "NAME", default_value = "public")]
    schema: String,
    /// Maximum number of differences to show per table, kind and column
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    examples: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. The exit code is 0 if all is equal, and 2 if not.
///
/// # Errors
/// If a database does not answer, or a table cannot be read.
pub async fn run(services: &Services, options: &CompareArgs) -> anyhow::Result<ExitCode> {
    let there: PgConnectOptions = match options.url.parse() {
        Ok(there) => there,
        Err(_) => anyhow::bail!("the other database is not postgres://user:password@host:port/database"),
    };
    let place = format!("{}:{}/{}", there.get_host(), there.get_port(), there.get_database().unwrap_or(""));
    let mut theirs = postgres::connect(&there.application_name("freshet compare"))
        .await
        .with_context(|| format!("connect to the other database at {place}"))?;
    let mut ours = services.pool.acquire().await.context("connect to Postgres")?;
    for connection in [&mut theirs, &mut *ours] {
        begin(connection).await.context("begin to read")?;
    }
    let mut tables = Vec::new();
    for domain in services.setup().domains {
        let here = Place { schema: &services.config.postgres.schema, what: "here" };
        let there = Place { schema: &options.schema, what: "there" };
        tables.push(table(&mut ours, &mut theirs, domain, (here, there), options.examples).await?);
    }
    let report = Report::new(ready::place_of(&services.pool), place, tables);
    match options.json {
        true => crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&report).context("write JSON")?)),
        false => print!("{report}"),
    }
    Ok(if report.equal { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// One moment, spelled the same on both sides. A side waits in its transaction for as long as the other one sorts. The
/// transaction ends with the connection.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD';
         SET LOCAL extra_float_digits = 1; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0";
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

/// Where a table is.
#[derive(Clone, Copy)]
struct Place<'a> {
    schema: &'a str,
    what: &'static str,
}

async fn table(
    ours: &mut PgConnection,
    theirs: &mut PgConnection,
    domain: &'static Domain,
    (here, there): (Place<'_>, Place<'_>),
    examples: u32,
) -> anyhow::Result<TableReport> {
    let own = columns(ours, domain, here).await?;
    anyhow::ensure!(
        !own.is_empty(),
        "table {} is not in the schema {}: run `freshet setup`",
        domain.table,
        here.schema
    );
    let other = columns(theirs, domain, there).await?;
    if other.is_empty() {
        return Ok(TableReport::not_there(domain));
    }
    let has = |names: &[String], name: &str| names.iter().any(|it| it == name);
    let compared: Vec<&'static Column> = domain
        .columns
        .iter()
        .filter(|column| !domain.key.contains(&column.name) && has(&own, column.name) && has(&other, column.name))
        .collect();
    let mut report = TableReport::new(domain, examples);
    let missing = domain.columns.iter().map(|column| column.name).filter(|name| !has(&other, name));
    report.columns_not_there = missing.collect();
    let mut one = Side::new(rows(ours, select(domain, &compared, &own, here), (domain, here)));
    let mut two = Side::new(rows(theirs, select(domain, &compared, &other, there), (domain, there)));
    merge::merge(&mut one, &mut two, |pair| report.count(&compared, pair)).await?;
    (report.rows_here, report.rows_there) = (one.rows, two.rows);
    (report.repeated_here, report.repeated_there) = (one.repeated, two.repeated);
    Ok(report)
}

/// The columns of the table; none where it is not there.
async fn columns(connection: &mut PgConnection, domain: &Domain, place: Place<'_>) -> anyhow::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute
         WHERE attrelid = to_regclass(format('%I.%I', $1, $2)) AND attnum > 0 AND NOT attisdropped",
    )
    .bind(place.schema)
    .bind(domain.table)
    .fetch_all(connection)
    .await
    .with_context(|| format!("read the columns of {} {}", domain.table, place.what))
}

/// Every row as two arrays of text, key and values, in the order of the keys: NULL first, then by bytes. Of rows that share
/// a key, the one with the greatest id comes first.
fn select(domain: &Domain, compared: &[&'static Column], there: &[String], place: Place<'_>) -> String {
    let cast = |column: &Column| match there.iter().any(|name| name == column.name) {
        true => format!("(\"{}\"::{})::text COLLATE \"C\"", column.name, column.cast.sql_type()),
        false => "NULL::text".to_owned(),
    };
    let key: Vec<String> = domain.key.iter().map(|name| cast(&domain.columns[domain.index_of(name)])).collect();
    let values: Vec<String> = compared.iter().map(|column| cast(column)).collect();
    let order = key.iter().map(|key| format!("{key} NULLS FIRST"));
    let newest = there.iter().any(|name| name == "id").then(|| "id DESC NULLS LAST".to_owned());
    format!(
        "SELECT ARRAY[{}]::text[], ARRAY[{}]::text[] FROM \"{}\".\"{}\" ORDER BY {}",
        key.join(", "),
        values.join(", "),
        place.schema.replace('"', "\"\""),
        domain.table,
        order.chain(newest).collect::<Vec<_>>().join(", ")
    )
}

/// The rows as they come.
fn rows<'a>(
    connection: &'a mut PgConnection,
    sql: String,
    (domain, place): (&'static Domain, Place<'_>),
) -> BoxStream<'a, anyhow::Result<Row>> {
    let what = place.what;
    let read = move |row: Result<PgRow, sqlx::Error>| {
        let read = row.and_then(|row| Ok(Row { key: row.try_get(0)?, values: row.try_get(1)? }));
        read.with_context(|| format!("read {} {what}", domain.table))
    };
    sqlx::query(AssertSqlSafe(sql)).fetch(connection).map(read).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::DOMAINS;

    #[test]
    fn rows_are_read_by_key_in_one_order_everywhere() {
        let domain = DOMAINS.iter().find(|domain| domain.key.len() > 1).expect("a fact");
        let there: Vec<String> = domain.columns.iter().map(|it| it.name.to_owned()).chain(["id".into()]).collect();
        let place = Place { schema: "old", what: "there" };
        let sql = select(domain, &[], &there[1..], place);
        assert!(sql.starts_with("SELECT ARRAY[NULL::text, (\""), "a key column that is not there is NULL: {sql}");
        assert!(sql.contains("COLLATE \"C\" NULLS FIRST") && sql.ends_with("id DESC NULLS LAST"), "{sql}");
        assert!(sql.contains(&format!("FROM \"old\".\"{}\"", domain.table)), "{sql}");
    }
}
