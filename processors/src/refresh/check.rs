//! Checks an output's query with Postgres, without any rows: its columns and their types, the tables that it reads, the
//! functions that it calls, and whether it asks for the time or the role.
//!
//! Everything happens in a transaction that is rolled back. The tables are those that the connection's search path leads
//! to: the pipeline's own, or empty ones of a scratch schema.

use std::collections::BTreeSet;
use std::time::Duration;

use freshet_topics::pipeline::mistake::Place;
use freshet_topics::pipeline::output::Output;
use freshet_topics::pipeline::sql::Parameter;
use freshet_topics::window::Window;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgErrorPosition};
use sqlx::{AssertSqlSafe, Connection};

use super::query::{self, Failure};
use super::{FormatError, RefreshError, postgres};

/// A test has a few rows: a query that takes longer on them is endless.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Postgres' findings about an output's query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The published columns, each with its type; empty if the query cannot be prepared.
    pub columns: Vec<(String, String)>,
    /// Mistakes, one line each, with their position in the file.
    pub wrong: Vec<(Place, String)>,
}

/// Relations, volatile functions, and values that depend on when or as whom a query runs, which the query of a view names
/// anywhere in it. The tree of its rule has their numbers; `CURRENT_DATE` and its like are nodes of their own, the first
/// nine of them of the clock (`SQLValueFunctionOp` of Postgres).
const NAMED: &str = "SELECT
        ARRAY(SELECT DISTINCT c.relname::text FROM regexp_matches(tree, ':relid (\\d+)', 'g') AS m (ids)
            JOIN pg_class AS c ON c.oid = m.ids[1]::oid WHERE c.oid <> 'pg_temp.freshet_check'::regclass),
        ARRAY(SELECT DISTINCT p.proname::text FROM
            regexp_matches(tree, ':(?:funcid|opfuncid|winfnoid|aggfnoid) (\\d+)', 'g') AS m (ids)
            JOIN pg_proc AS p ON p.oid = m.ids[1]::oid WHERE p.provolatile = 'v'),
        ARRAY(SELECT p.proname || '()' FROM regexp_matches(tree, ':funcid (\\d+)', 'g') AS m (ids)
            JOIN pg_proc AS p ON p.oid = m.ids[1]::oid WHERE p.oid = ANY ('{now(), transaction_timestamp(),
                statement_timestamp(), age(timestamp), age(timestamptz)}'::regprocedure[]::oid[])
            UNION SELECT CASE WHEN m.op[1]::int < 9 THEN 'the current date or time'
                ELSE 'the current role, database or schema' END
            FROM regexp_matches(tree, '\\{SQLVALUEFUNCTION :op (\\d+)', 'g') AS m (op)
            ORDER BY 1)
    FROM (SELECT ev_action::text AS tree FROM pg_rewrite WHERE ev_class = 'pg_temp.freshet_check'::regclass) AS r";

/// Checks the query of an output.
///
/// # Errors
/// If Postgres does not answer. Mistakes in the query are part of the result.
pub async fn check(connection: &mut PgConnection, output: &Output) -> Result<Checked, RefreshError> {
    let mut transaction = connection.begin().await.map_err(postgres("check an output"))?;
    let mut checked = Checked::default();
    let mut wrong = Vec::new();
    let columns_digest = query::columns(&mut transaction, output).await.map_err(postgres("check an output"))?;
    match query::described(&mut transaction, output, &columns_digest).await {
        Ok(found) => match query::prepared(output, &found) {
            Ok(prepared) => {
                let columns = prepared.published().into_iter();
                checked.columns = columns.map(|column| (column.name, column.kind.name().to_owned())).collect();
                match named(&mut transaction, output).await {
                    Ok(named) => wrong = against(output, &named),
                    Err(Failure::Query(reason)) => wrong.push(reason),
                    Err(Failure::World(error)) => return Err(error),
                }
            }
            Err(reason) => wrong.push(reason),
        },
        Err(error) => match located(output, &error) {
            Some(located) => checked.wrong.push(located),
            None => match query::failure(error, "prepare") {
                Failure::Query(reason) => wrong.push(reason),
                Failure::World(error) => return Err(error),
            },
        },
    }
    let published = |name: &str| checked.columns.iter().any(|(column, _)| column == name);
    if !checked.columns.is_empty() {
        wrong.extend(unknown_columns(output, published));
    }
    checked.wrong.extend(wrong.into_iter().map(|said| (Place::START, said)));
    transaction.rollback().await.map_err(postgres("check an output"))?;
    Ok(checked)
}

/// Postgres' error about the query in one line, with its hint, and the position in the file; `None` if the error has no
/// position.
fn located(output: &Output, error: &sqlx::Error) -> Option<(Place, String)> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let Some(PgErrorPosition::Original(position)) = error.position() else { return None };
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    let said = format!("{}{hint} (SQLSTATE {})", error.message(), error.code());
    Some((output.query.place_of_bound(position), said.replace('\n', " ")))
}

/// The CSV file of a window as it would be published, from the rows in the tables of the connection's search path; or
/// why the query fails. The connection is in a transaction.
///
/// # Errors
/// If Postgres does not answer.
pub async fn csv(
    connection: &mut PgConnection,
    output: &Output,
    window: Window,
    is_final: bool,
) -> Result<Result<String, String>, RefreshError> {
    query::set_bounds(connection, QUERY_TIMEOUT).await.map_err(postgres("try an output"))?;
    let made = async {
        let prepared = query::prepare(connection, output).await?;
        prepared.run(connection, window, is_final).await
    };
    match made.await {
        Ok(encoded) => {
            let mut text = Vec::new();
            let csv = &encoded.files[0];
            csv.read().and_then(|mut file| file.copy(0, csv.len(), &mut text)).map_err(FormatError::Io)?;
            Ok(Ok(String::from_utf8_lossy(&text).into_owned()))
        }
        Err(Failure::Query(reason)) => Ok(Err(reason)),
        Err(Failure::World(error)) => Err(error),
    }
}

/// The tables that a query reads, the volatile functions that it calls, and what else does not depend on rows alone.
type Named = (Vec<String>, Vec<String>, Vec<String>);

async fn named(connection: &mut PgConnection, output: &Output) -> Result<Named, Failure> {
    let some_window = output.query.with(|parameter| {
        match parameter {
            Parameter::WindowKind => "'month'::text",
            Parameter::WindowStart => "'2000-01-01'::date",
            Parameter::WindowEnd => "'2000-02-01'::date",
            Parameter::IsFinal => "false",
        }
        .to_owned()
    });
    let view = format!("CREATE TEMPORARY VIEW freshet_check AS {some_window}");
    sqlx::query(AssertSqlSafe(view))
        .execute(&mut *connection)
        .await
        .map_err(|error| query::failure(error, "look at what it reads"))?;
    sqlx::query_as(NAMED).fetch_one(connection).await.map_err(|error| query::failure(error, "look at what it reads"))
}

/// What is wrong with what a query names.
fn against(output: &Output, (tables, volatile, varying): &Named) -> Vec<String> {
    let declared: BTreeSet<&str> = output.facts.iter().chain(output.dimensions).map(|domain| domain.table).collect();
    let undeclared = tables.iter().filter(|table| !declared.contains(table.as_str())).map(|table| {
        format!("it reads {table}, which is not a table of its facts and dimensions: a change there would go unnoticed")
    });
    let volatile = volatile.iter().map(|function| {
        format!(
            "it calls {function}(), which returns a different value each time: the same rows must give the same \
                 bytes"
        )
    });
    let varying = varying.iter().map(|value| {
        format!("it uses {value}, which depends on when or as whom it runs: the same rows must give the same bytes")
    });
    undeclared.chain(volatile).chain(varying).collect()
}

/// Columns that the head names but that are not published.
fn unknown_columns(output: &Output, published: impl Fn(&str) -> bool) -> Vec<String> {
    let chart = output.chart.iter().flat_map(|it| [Some(it.by), Some(it.value), it.newest]);
    let shown = chart.flatten().chain(output.chart.iter().flat_map(|it| it.beside.iter().copied()));
    let described = output.columns.iter().map(|(name, _)| ("columns", *name));
    described
        .chain(shown.map(|name| ("chart", name)))
        .filter(|(_, name)| !published(name))
        .map(|(key, name)| format!("`{key}` names {name}, which is not a published column"))
        .collect()
}
