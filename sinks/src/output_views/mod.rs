//! The outputs as views in the schema `metrics`, for readers of the database: each view runs the output's query over
//! all windows and has the columns that are published.
//!
//! A setup maintains them: new ones are created, changed ones replaced, removed ones dropped. A view is recognized by
//! its comment, which names freshet and the view's definition ([`sql`]); other objects in the schema are not touched. A
//! view that cannot be created is only a warning, since files are published without it.

pub(crate) mod sql;

use std::collections::BTreeMap;

use freshet_topics::pipeline::output::Output;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Column as _, Connection, Executor, PgConnection, SqlSafeStr, Statement, Type};

use crate::postgres::{execute, grants};
use crate::tables::{Setup, identifier, qualified};

/// The schema of the views.
pub const SCHEMA: &str = "metrics";

/// What a setup does to the view of an output, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewPlan {
    /// The output.
    pub output: String,
    /// What is done.
    pub change: ViewChange,
    /// Why it failed and what to do. It does not stop the rest of the setup.
    pub failed: Option<String>,
}

/// What is done to a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewChange {
    /// It does not exist and is created.
    Make,
    /// It was created from another definition and is replaced.
    Replace,
    /// Its output no longer exists: it is dropped.
    Drop,
    /// These roles may read every table of the output but not yet the view: they get permission. The names are quoted
    /// for SQL.
    Allow(Vec<String>),
}

impl ViewPlan {
    /// Whether there is something to do.
    pub fn is_open(&self) -> bool {
        self.failed.is_none()
    }
}

/// The object that has a name in the schema.
struct Found {
    is_view: bool,
    /// The stamp of the definition that it was created from, if freshet created it.
    stamp: Option<String>,
}

/// What a setup would do.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn look(connection: &mut PgConnection, setup: &Setup<'_>) -> Result<Vec<ViewPlan>, sqlx::Error> {
    let found = found(connection).await?;
    let mut plans = Vec::new();
    for output in setup.outputs {
        let (change, failed) = match found.get(output.name) {
            None => (ViewChange::Make, None),
            Some(Found { is_view: true, stamp: Some(stamp) }) if *stamp == sql::stamp(setup, output) => {
                let readers = readers(connection, setup, output).await?;
                if readers.is_empty() {
                    continue;
                }
                (ViewChange::Allow(readers), None)
            }
            Some(Found { is_view: true, stamp: Some(_) }) => (ViewChange::Replace, None),
            Some(_) => {
                let said = format!(
                    "{SCHEMA}.{} exists and was not created by freshet: rename it, and run setup again",
                    output.name
                );
                (ViewChange::Make, Some(said))
            }
        };
        plans.push(ViewPlan { output: output.name.to_owned(), change, failed });
    }
    let is_gone = |name: &str| setup.outputs.iter().all(|output| output.name != name);
    let gone = found.iter().filter(|(name, it)| it.is_view && it.stamp.is_some() && is_gone(name));
    plans.extend(gone.map(|(name, _)| ViewPlan { output: name.clone(), change: ViewChange::Drop, failed: None }));
    Ok(plans)
}

async fn found(connection: &mut PgConnection) -> Result<BTreeMap<String, Found>, sqlx::Error> {
    let rows: Vec<(String, bool, Option<String>)> = sqlx::query_as(
        "SELECT c.relname::text, c.relkind = 'v', obj_description(c.oid, 'pg_class')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1",
    )
    .bind(SCHEMA)
    .fetch_all(connection)
    .await?;
    let found = |(name, is_view, comment): (String, bool, Option<String>)| {
        (name, Found { is_view, stamp: comment.as_deref().and_then(sql::stamp_of).map(str::to_owned) })
    };
    Ok(rows.into_iter().map(found).collect())
}

/// Carries out the plan, each view by itself; the results are in the plans afterwards.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn perform(
    connection: &mut PgConnection,
    setup: &Setup<'_>,
    plans: &mut [ViewPlan],
) -> Result<(), sqlx::Error> {
    for plan in plans.iter_mut().filter(|plan| plan.is_open()) {
        let output = setup.outputs.iter().copied().find(|output| output.name == plan.output);
        let mut attempt = connection.begin().await?;
        let done = match (&plan.change, output) {
            (ViewChange::Make | ViewChange::Replace, Some(output)) => make(&mut attempt, setup, output).await,
            (ViewChange::Allow(readers), _) => allow(&mut attempt, &plan.output, readers).await,
            (ViewChange::Drop, _) | (_, None) => {
                execute(&mut attempt, &format!("DROP VIEW {}", sql::name(&plan.output))).await
            }
        };
        match done {
            Ok(()) => attempt.commit().await?,
            Err(error) if error.as_database_error().is_some() => {
                attempt.rollback().await?;
                plan.failed = Some(explained(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn make(connection: &mut PgConnection, setup: &Setup<'_>, output: &Output) -> Result<(), sqlx::Error> {
    let has_schema: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(SCHEMA)
        .fetch_one(&mut *connection)
        .await?;
    if !has_schema {
        execute(connection, &format!("CREATE SCHEMA {}", identifier(SCHEMA))).await?;
    }
    let columns = published(connection, output).await?;
    let create = sql::create(setup, output, &columns);
    let mut attempt = connection.begin().await?;
    match execute(&mut attempt, &create).await {
        Ok(()) => attempt.commit().await?,
        // The columns differ, so the view has to be dropped and created. Its readers keep their permission.
        Err(error) if has_code(&error, "42P16") => {
            attempt.rollback().await?;
            let grants = grants(connection, &sql::name(output.name), &sql::name(output.name)).await?;
            execute(connection, &format!("DROP VIEW {}", sql::name(output.name))).await?;
            execute(connection, &create).await?;
            for grant in grants {
                execute(connection, &grant).await?;
            }
        }
        Err(error) => return Err(error),
    }
    for comment in sql::comments(setup, output, &columns) {
        execute(connection, &comment).await?;
    }
    let readers = readers(connection, setup, output).await?;
    allow(connection, output.name, &readers).await
}

/// The published columns, as Postgres describes them for the query.
async fn published(connection: &mut PgConnection, output: &Output) -> Result<Vec<String>, sqlx::Error> {
    let types =
        [String::type_info(), chrono::NaiveDate::type_info(), chrono::NaiveDate::type_info(), bool::type_info()];
    let query = AssertSqlSafe(output.query.bound()).into_sql_str();
    let statement = connection.prepare_with(query, &types).await?;
    let names = statement.columns().iter().map(|column| column.name().to_owned());
    Ok(names.filter(|name| !output.hidden.contains(&name.as_str())).collect())
}

/// The roles that may read every table of the output but not its view.
async fn readers(
    connection: &mut PgConnection,
    setup: &Setup<'_>,
    output: &Output,
) -> Result<Vec<String>, sqlx::Error> {
    let domains = output.facts.iter().chain(output.dimensions);
    let tables: Vec<String> = domains.map(|domain| qualified(setup.schema, domain.table)).collect();
    sqlx::query_scalar(
        "WITH tables AS (SELECT DISTINCT to_regclass(name)::oid AS oid FROM unnest($1::text[]) AS t (name)),
         readers AS (
            SELECT a.grantee FROM tables AS t JOIN pg_class AS c USING (oid)
            CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
            WHERE a.privilege_type = 'SELECT'
            GROUP BY a.grantee HAVING count(DISTINCT c.oid) = (SELECT count(*) FROM tables)
         )
         SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
         FROM readers AS r JOIN pg_class AS v ON v.oid = to_regclass($2) WHERE CASE r.grantee
            WHEN 0 THEN NOT (has_table_privilege('public', v.oid, 'SELECT')
                AND has_schema_privilege('public', v.relnamespace, 'USAGE'))
            ELSE NOT (has_table_privilege(r.grantee, v.oid, 'SELECT')
                AND has_schema_privilege(r.grantee, v.relnamespace, 'USAGE')) END
         ORDER BY 1",
    )
    .bind(tables)
    .bind(sql::name(output.name))
    .fetch_all(connection)
    .await
}

async fn allow(connection: &mut PgConnection, output: &str, readers: &[String]) -> Result<(), sqlx::Error> {
    for reader in readers {
        execute(connection, &format!("GRANT USAGE ON SCHEMA {} TO {reader}", identifier(SCHEMA))).await?;
        execute(connection, &format!("GRANT SELECT ON {} TO {reader}", sql::name(output))).await?;
    }
    Ok(())
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|it| it == code)
}

/// Postgres' error about a view, with what to do if known.
fn explained(error: &sqlx::Error) -> String {
    let postgres = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let detail = postgres.and_then(PgDatabaseError::detail).unwrap_or_default().replace('\n', ", ");
    let said = postgres.map_or_else(|| error.to_string(), |error| error.message().to_owned());
    match postgres.map(PgDatabaseError::code) {
        Some("2BP01") => format!("{said} ({detail}): drop the dependent objects, run setup again, and recreate them"),
        Some("42501") => format!("{said}: run setup as its owner"),
        Some("55P03") => format!("a reader has held it for longer than setup waits: run setup again ({said})"),
        Some("42803") => format!(
            "{said}: the view runs the query once per window, with a column in place of each parameter; rewrite the \
             query without a parameter inside an aggregate"
        ),
        _ => said,
    }
}
