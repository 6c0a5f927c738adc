//! An output's query, run for a window; its rows, in the order of the key, become files.
//!
//! It runs in the publisher's snapshot as one of its statements: read only, on one core, within a time limit. Its rows
//! are streamed, so only one of them and the buffers of the files are in memory. Errors of the query are distinguished
//! from errors of a service ([`Failure`]): the former stop this output, the latter the publication.

use std::time::Duration;

use chrono::NaiveDate;
use freshet_sinks::tables;
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::{Window, WindowKind};
use futures::TryStreamExt;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnection, PgRow, PgValueRef};
use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Executor, Row, SqlSafeStr, Statement, Type, TypeInfo, ValueRef,
};

use super::format::{Column, Encoded, Table};
use super::kind::{Cell, Kind};
use super::{RefreshError, postgres};

/// The most characters of a reason: a line of a log.
const REASON_CHARS_MAX: usize = 500;

/// Why a window of an output has no rows.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its query fails, for this reason.
    Query(String),
    /// A service failed.
    World(RefreshError),
}

impl<E: Into<RefreshError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::World(error.into())
    }
}

/// A query with known columns.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    sql: String,
    /// All columns of the query, with whether they are published.
    columns: Vec<(Column, bool)>,
    /// Indexes of the key's columns.
    key: Vec<usize>,
    /// The sizes of the tables that it reads, see [`sizes`].
    sizes: String,
    /// A digest of their columns, see [`columns`].
    columns_digest: String,
}

/// How long a query waits for a lock. All tables are locked before; what is left are indexes, which somebody may rebuild
/// (REINDEX) and for that waits until this publication ends.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings for all queries of a publication. A query is limited in time, and ends soon after the program ends. The
/// same rows must give the same bytes: so one core, because a sum depends on the order of its terms, and one time zone.
pub(super) async fn set_bounds(connection: &mut PgConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
            set_config('client_connection_check_interval', '1s', true),
            set_config('max_parallel_workers_per_gather', '0', true),
            set_config('jit', 'off', true),
            set_config('timezone', 'UTC', true),
            set_config('datestyle', 'ISO, YMD', true)",
    )
    .bind(timeout.as_millis().to_string())
    .bind(LOCK_TIMEOUT.as_millis().to_string())
    .execute(&mut *connection)
    .await?;
    // A failed query restores the transaction to this point: it has nothing to undo.
    sqlx::query("SAVEPOINT query").execute(connection).await?;
    Ok(())
}

/// Limits the following statements of the transaction in time; zero: not at all.
pub(super) async fn limit(connection: &mut PgConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    let limit = sqlx::query("SELECT set_config('statement_timeout', $1, true)");
    limit.bind(timeout.as_millis().to_string()).execute(connection).await?;
    Ok(())
}

/// Continues after a failed query, and drops prepared statements: tables may have changed.
pub(super) async fn recover(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("ROLLBACK TO SAVEPOINT query").execute(&mut *connection).await?;
    connection.clear_cached_statements().await
}

/// Asks Postgres for the columns of a query.
pub(super) async fn prepare(connection: &mut PgConnection, output: &Output) -> Result<Prepared, Failure> {
    let failed = |error| failure(error, "prepare");
    let sizes = sizes(connection, output).await.map_err(failed)?;
    let columns_digest = columns(connection, output).await.map_err(failed)?;
    let found = described(connection, output, &columns_digest).await.map_err(failed)?;
    let prepared = prepared(output, &found).map_err(Failure::Query)?;
    Ok(Prepared { sizes, columns_digest, ..prepared })
}

/// The tables that an output reads.
fn tables_of(output: &Output) -> Vec<&'static str> {
    output.facts.iter().chain(output.dimensions).map(|domain| domain.table).collect()
}

/// A digest of the names and types of the columns of the tables that an output reads. A connection remembers the
/// columns of each statement that it has prepared. With the digest in the statement, it prepares it anew once a table
/// has other columns, so that all connections see the same ones.
pub(super) async fn columns(connection: &mut PgConnection, output: &Output) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT left(encode(sha256(convert_to(coalesce(string_agg(
            concat_ws(' ', u.ord, a.attnum, a.attname, a.atttypid, a.atttypmod), ',' ORDER BY u.ord, a.attnum
         ), ''), 'UTF8')), 'hex'), 16)
         FROM UNNEST($1::text[]) WITH ORDINALITY AS u (name, ord)
         JOIN pg_attribute AS a ON a.attrelid = to_regclass(quote_ident(u.name))
         WHERE a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(tables_of(output))
    .fetch_one(connection)
    .await
}

/// The size of each table that an output reads, as the number of bits of its bytes: it changes when the table has twice the
/// size, or half of it.
async fn sizes(connection: &mut PgConnection, output: &Output) -> Result<String, sqlx::Error> {
    let sizes = tables::sizes_bytes(connection, &tables_of(output)).await?;
    let bits: Vec<String> = sizes.iter().map(|bytes| (i64::BITS - bytes.leading_zeros()).to_string()).collect();
    Ok(bits.join(" "))
}

/// The columns of a query, with sqlx's names of their types, where the columns of the tables have this digest. An error
/// of Postgres has the position of a character in the bound query.
pub(super) async fn described(
    connection: &mut PgConnection,
    output: &Output,
    columns_digest: &str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let types = [String::type_info(), NaiveDate::type_info(), NaiveDate::type_info(), bool::type_info()];
    let sql = AssertSqlSafe(format!("{} /* columns {columns_digest} */", output.query.bound())).into_sql_str();
    let statement = connection.prepare_with(sql, &types).await?;
    let found = statement.columns().iter();
    Ok(found.map(|column| (column.name().to_owned(), column.type_info().name().to_owned())).collect())
}

/// The query as it is run, from its columns with sqlx's names of their types.
pub(super) fn prepared(output: &Output, found: &[(impl AsRef<str>, impl AsRef<str>)]) -> Result<Prepared, String> {
    let mut columns: Vec<(Column, bool)> = Vec::new();
    for (name, type_name) in found {
        let (name, type_name) = (name.as_ref(), type_name.as_ref());
        let Some(kind) = Kind::of(type_name) else {
            let known = Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
            let of = type_name.to_lowercase();
            return Err(format!("column {name} is of type {of}: cast it, as in {name}::text (there are {known})"));
        };
        if name == "?column?" || columns.iter().any(|(column, _)| column.name == name) {
            return Err(format!("each column needs its own name: {name} has none or occurs twice (… AS name)"));
        }
        columns.push((Column { name: name.to_owned(), kind }, !output.hidden.contains(&name)));
    }
    let mut key = Vec::new();
    for name in output.key {
        let Some(index) = columns.iter().position(|(column, _)| column.name == *name) else {
            let known = columns.iter().map(|(column, _)| column.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("the key names {name}, which is not a column of the query (it has {known})"));
        };
        key.push(index);
    }
    if columns.iter().all(|(_, is_published)| !is_published) {
        return Err("every column is hidden: there is nothing to publish".to_owned());
    }
    let quoted = |column: &Column| format!("\"{}\"", column.name.replace('"', "\"\""));
    let selected: Vec<_> = columns.iter().map(|(column, _)| column.kind.selected(&quoted(column))).collect();
    let ordered: Vec<_> = key.iter().map(|at| &columns[*at].0).map(|it| it.kind.ordered(&quoted(it))).collect();
    let sql = format!(
        "SELECT {} FROM ({}) AS rows_of_the_window ORDER BY {}",
        selected.join(", "),
        output.query.bound(),
        ordered.join(", ")
    );
    Ok(Prepared { sql, columns, key, sizes: String::new(), columns_digest: String::new() })
}

impl Prepared {
    /// The published columns.
    pub(super) fn published(&self) -> Vec<Column> {
        self.columns.iter().filter(|(_, is_published)| *is_published).map(|(column, _)| column.clone()).collect()
    }

    /// The statement for windows of a kind, and whether Postgres may keep its plan. It does after five windows, if one plan
    /// for any dates seems as good: planning takes longer than reading a few rows. A plan for a small table may take minutes
    /// for a large one, so the statement changes when a table has doubled, and when it has other columns. For any dates Postgres assumes a
    /// two-hundredth of the table: too little for a year.
    fn statement(&self, kind: WindowKind) -> (String, bool) {
        let is_short = matches!(kind, WindowKind::Day | WindowKind::Week | WindowKind::Month);
        let state = format!("sizes {}, columns {}", self.sizes, self.columns_digest);
        (format!("{} /* {}, {state} */", self.sql, kind.name()), is_short)
    }

    /// Runs the query for a window and writes its rows to files.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        window: Window,
        is_final: bool,
    ) -> Result<Encoded, Failure> {
        let mut table = Table::new(&self.published())?;
        let mut last = Vec::new();
        let (sql, keeps_plan) = self.statement(window.kind);
        let mut rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(keeps_plan)
            .bind(window.kind.name())
            .bind(window.start)
            .bind(window.end())
            .bind(is_final)
            .fetch(&mut *connection);
        let what = spelled(window);
        while let Some(row) = rows.try_next().await.map_err(|error| failure(error, &what))? {
            self.add(&row, &mut table, &mut last).map_err(|error| match error {
                Failure::Query(reason) => Failure::Query(format!("{what}: {reason}")),
                world => world,
            })?;
        }
        Ok(table.finish()?)
    }

    /// Adds a row; a row with the same key as the one before is an error.
    fn add(&self, row: &PgRow, table: &mut Table, last: &mut Vec<u8>) -> Result<(), Failure> {
        let value = |at: usize| row.try_get_raw(at).map_err(postgres("read a row of an output"));
        let mut cells = Vec::with_capacity(self.columns.len());
        for (at, (column, is_published)) in self.columns.iter().enumerate() {
            if *is_published {
                let read = bytes(value(at)?)?.map_or(Some(Cell::Null), |bytes| column.kind.read(bytes));
                cells.push(read.ok_or_else(|| {
                    Failure::Query(format!("column {} has a value that files cannot hold", column.name))
                })?);
            }
        }
        let mut key = Vec::with_capacity(last.len());
        for at in &self.key {
            match bytes(value(*at)?)? {
                None => key.push(0),
                Some(bytes) => {
                    key.push(1);
                    key.extend((bytes.len() as u64).to_be_bytes());
                    key.extend(bytes);
                }
            }
        }
        if key == *last {
            let said: Vec<String> = self.key.iter().map(|at| self.columns[*at].0.name.clone()).collect();
            return Err(Failure::Query(format!("two rows have the same key ({})", said.join(", "))));
        }
        *last = key;
        Ok(table.row(&cells)?)
    }
}

/// A window as the reason why a query fails for it begins.
pub(super) fn spelled(window: Window) -> String {
    format!("{} from {}", window.kind.name(), window.start)
}

/// A value in Postgres' binary format; `None`: NULL.
fn bytes(value: PgValueRef<'_>) -> Result<Option<&[u8]>, Failure> {
    match value.is_null() {
        true => Ok(None),
        false => value.as_bytes().map(Some).map_err(|error| Failure::Query(error.to_string())),
    }
}

/// Whether the query or a service is at fault for an error.
///
/// | SQLSTATE | fault |
/// |---|---|
/// | 57014 | the query's: it exceeded its time limit |
/// | 53xxx out of memory, disk or temporary files | the query's: it needs too much |
/// | 08xxx, 40xxx, 57Pxx, 58xxx: connection, standby, shutdown, system | the service's |
/// | 55P03: somebody else has a lock | the service's |
/// | anything else | the query's |
/// | no answer at all | the service's |
pub(super) fn failure(error: sqlx::Error, what: &str) -> Failure {
    let code = error.as_database_error().and_then(DatabaseError::code).map(|code| code.into_owned());
    match code.as_deref() {
        Some("57014") => Failure::Query(format!("{what}: the query took longer than metrics.query_timeout_s allows")),
        Some(code) if !is_of_the_world(code) => {
            let said = error.as_database_error().map_or_else(String::new, |error| error.message().to_owned());
            let reason = format!("{what}: {said} (SQLSTATE {code})");
            Failure::Query(reason.chars().take(REASON_CHARS_MAX).collect())
        }
        _ => Failure::World(postgres("run its query")(error)),
    }
}

fn is_of_the_world(code: &str) -> bool {
    ["08", "40", "55P03", "57P", "58"].iter().any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;

    fn output(more: &str) -> &'static Output {
        let text = format!(
            "/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [name, day]\n{more}*/ SELECT 1 -- one"
        );
        Output::read("a.sql", &text, &DOMAINS, &mut Mistakes::of("a.sql")).expect("an output")
    }

    #[test]
    fn rows_come_in_the_order_of_the_key_and_hidden_columns_are_not_published() {
        let found = [("name", "VARCHAR"), ("n", "NUMERIC"), ("day", "DATE")];
        let prepared = prepared(output("hidden: [day]\n"), &found).expect("a query");
        assert_eq!(
            prepared.sql,
            "SELECT \"name\"::text, \"n\"::text, \"day\" FROM (SELECT 1) AS rows_of_the_window \
             ORDER BY \"name\"::text COLLATE \"C\" NULLS FIRST, \"day\" NULLS FIRST"
        );
        let published: Vec<_> = prepared.published().into_iter().map(|it| (it.name, it.kind)).collect();
        assert_eq!(published, [("name".to_owned(), Kind::Text), ("n".to_owned(), Kind::Numeric)]);
    }

    #[test]
    fn a_query_that_gives_no_files_says_why() {
        type Case = (&'static [(&'static str, &'static str)], &'static str);
        let cases: &[Case] = &[
            (&[("name", "JSONB")], "column name is of type jsonb: cast it"),
            (&[("name", "TEXT"), ("?column?", "INT4")], "each column needs its own name"),
            (&[("name", "TEXT"), ("name", "INT4")], "each column needs its own name"),
            (
                &[("name", "TEXT"), ("n", "INT4")],
                "the key names day, which is not a column of the query (it has name, n)",
            ),
        ];
        for (found, expected) in cases {
            let said = prepared(output(""), found).expect_err("a mistake");
            assert!(said.starts_with(expected), "{said}");
        }
        let said = prepared(output("hidden: [name, day]\n"), &[("name", "TEXT"), ("day", "DATE")]);
        assert_eq!(said.expect_err("a mistake"), "every column is hidden: there is nothing to publish");
    }

    #[test]
    fn a_plan_is_kept_for_windows_of_a_kind_until_a_table_has_twice_its_size() {
        let found = [("name", "TEXT"), ("day", "DATE")];
        let prepared = prepared(output(""), &found).expect("a query");
        let of = |sizes: &str, kind| Prepared { sizes: sizes.to_owned(), ..prepared.clone() }.statement(kind);
        assert_eq!(of("20 0", WindowKind::Week), of("20 0", WindowKind::Week));
        assert_ne!(of("20 0", WindowKind::Week).0, of("21 0", WindowKind::Week).0);
        assert_ne!(of("20 0", WindowKind::Week).0, of("20 0", WindowKind::Month).0);
        assert!(of("20 0", WindowKind::Month).1 && !of("20 0", WindowKind::Year).1);
        let widened = Prepared { sizes: "20 0".to_owned(), columns_digest: "b".to_owned(), ..prepared.clone() };
        assert_ne!(of("20 0", WindowKind::Week).0, widened.statement(WindowKind::Week).0, "a table has other columns");
    }

    #[test]
    fn what_the_world_does_is_not_the_querys_fault() {
        for (code, is_worlds) in [
            ("22012", false),
            ("42P01", false),
            ("53200", false),
            ("57P01", true),
            ("08006", true),
            ("40001", true),
            ("55P03", true),
        ] {
            assert_eq!(is_of_the_world(code), is_worlds, "{code}");
        }
        assert!(matches!(failure(sqlx::Error::PoolTimedOut, "day"), Failure::World(_)));
    }
}
