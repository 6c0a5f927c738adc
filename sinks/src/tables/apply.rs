//! Plans a setup and carries out the plan in one transaction.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::found;
use super::plan::{self, Plan, Redeclared, TablePlan, What};
use super::record;
use super::wanted::Wanted;
use super::{Setup, identifier, qualified};
use crate::advisory;
use crate::apply::marks;
use crate::output_state;
use crate::output_views;
use crate::postgres::{self, MIGRATIONS};
use crate::transactions::{self, Limits};
use freshet_topics::Domain;

/// How long a statement waits for those who use a table. Later statements of others queue behind it, so it is better to
/// give up and leave everything as it was.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a setup has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The schema of the pipeline cannot be brought up to date.
    #[error("migrate the schema: {0}")]
    Migrate(#[from] MigrateError),
    /// An operator has to do something first.
    #[error("{}", blocked(.0))]
    Blocked(Box<Plan>),
    /// Postgres refused a step.
    #[error("table {table}: {said}: {}", explained(.source))]
    Step {
        /// The table.
        table: &'static str,
        /// The description of the step.
        said: String,
        /// Postgres' error.
        #[source]
        source: sqlx::Error,
    },
    /// Postgres does not answer, or the schema of the tables may not be created.
    #[error("{0}")]
    Postgres(#[from] sqlx::Error),
}

fn blocked(plan: &Plan) -> String {
    let tables = plan.tables.iter().flat_map(|it| it.blocked.iter().map(|said| format!("table {}: {said}", it.table)));
    plan.recording.blocked.iter().cloned().chain(tables).collect::<Vec<_>>().join("; ")
}

/// Postgres' error, with what to do if known.
fn explained(error: &sqlx::Error) -> String {
    match postgres::is_lock_timeout(error) {
        true => format!(
            "the table has been in use for longer than {LOCK_TIMEOUT:?}: end the session that uses it, \
             and try again ({error})"
        ),
        false => error.to_string(),
    }
}

/// What setup would do to the database, which may be empty or of an older version.
///
/// # Errors
/// If Postgres does not answer.
pub async fn look(connection: &mut PgConnection, setup: &Setup<'_>) -> Result<Plan, sqlx::Error> {
    let makes_schema = !has_schema(connection, setup.schema).await?;
    let last = record::last(connection).await?;
    let mut tables = Vec::new();
    for domain in setup.domains {
        let wanted = Wanted::of(domain);
        let found = found::read(connection, setup.schema, &wanted).await?;
        let before = last.as_ref().and_then(|last| last.domains.get(domain.name));
        let formerly = before.map(|declared| declared.columns.as_slice()).unwrap_or_default();
        tables.push(plan::plan(setup.schema, &wanted, found.as_ref(), formerly));
    }
    let outputs = output_state::changes(&output_state::definitions(connection).await?, setup.outputs);
    let views = output_views::look(connection, setup).await?;
    Ok(Plan { makes_schema, tables, outputs, views, recording: record::recording(setup, last) })
}

async fn has_schema(connection: &mut PgConnection, schema: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(connection)
        .await
}

/// What a domain's table in a schema would have otherwise if it were made again, as declared and empty. Its rows are not
/// read.
pub(crate) async fn redeclared(
    connection: &mut PgConnection,
    schema: &str,
    domain: &'static Domain,
) -> Result<Redeclared, sqlx::Error> {
    let (wanted, formerly) = (Wanted::of(domain), formerly(connection, domain).await?);
    let found = found::catalog(connection, schema, &wanted).await?.unwrap_or_default();
    Ok(plan::redeclared(schema, &wanted, &found, &formerly))
}

/// The plan for a domain's table in a schema that has no rows: what setup would do to it.
pub(crate) async fn look_at_empty(
    connection: &mut PgConnection,
    schema: &str,
    domain: &'static Domain,
) -> Result<TablePlan, sqlx::Error> {
    let (wanted, formerly) = (Wanted::of(domain), formerly(connection, domain).await?);
    let mut found = found::catalog(connection, schema, &wanted).await?;
    if let Some(found) = &mut found {
        found.is_empty = true;
        // A table without a primary key may hold an id several times, and its shadow gets the same ids.
        found.rows.repeated_ids = i64::from(!found.has_primary_key());
    }
    Ok(plan::plan(schema, &wanted, found.as_ref(), &formerly))
}

/// The columns of all declarations of a domain that were set up.
async fn formerly(connection: &mut PgConnection, domain: &Domain) -> Result<Vec<String>, sqlx::Error> {
    let mut last = record::last(connection).await?;
    let before = last.as_mut().and_then(|last| last.domains.remove(domain.name));
    Ok(before.map(|declared| declared.columns).unwrap_or_default())
}

/// Brings the schema of the pipeline up to date, carries out the plan, and records what was set up. If two run at once,
/// the second waits and finds nothing to do.
///
/// # Errors
/// [`SetupError`]; nothing has changed then.
pub async fn apply(pool: &PgPool, setup: &Setup<'_>) -> Result<Plan, SetupError> {
    let mut transaction = transactions::begin(pool, "setup", Limits::default()).await?;
    let connection = &mut *transaction;
    sqlx::query(advisory::SETUP).execute(&mut *connection).await?;
    // Rewriting a large table takes long, so the usual limits of the session do not apply.
    let limits = format!("SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = 0", LOCK_TIMEOUT.as_millis());
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *connection).await?;
    let makes_schema = !has_schema(connection, setup.schema).await?;
    if makes_schema {
        let sql = format!("CREATE SCHEMA {}", identifier(setup.schema));
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    MIGRATIONS.run_direct(None, connection, false).await?;
    let mut plan = look(connection, setup).await?;
    if lock(connection, setup, &plan).await? {
        // The counts may have changed since the first look.
        plan = look(connection, setup).await?;
    }
    plan.makes_schema = makes_schema;
    if plan.is_blocked() {
        return Err(SetupError::Blocked(Box::new(plan)));
    }
    perform(connection, setup, &plan).await?;
    output_views::perform(connection, setup, &mut plan.views).await?;
    transaction.commit().await?;
    Ok(plan)
}

/// Locks the tables that are altered; returns whether there are any.
async fn lock(connection: &mut PgConnection, setup: &Setup<'_>, plan: &Plan) -> Result<bool, SetupError> {
    let altered = |it: &&plan::TablePlan| it.what != What::Missing && it.alters() && it.blocked.is_empty();
    let mut any = false;
    for table in plan.tables.iter().filter(altered) {
        let sql = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", qualified(setup.schema, table.table));
        let locked = sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await;
        let said = || "lock it to alter it".to_owned();
        locked.map_err(|source| SetupError::Step { table: table.table, said: said(), source })?;
        any = true;
    }
    Ok(any)
}

async fn perform(connection: &mut PgConnection, setup: &Setup<'_>, plan: &Plan) -> Result<(), SetupError> {
    for (table, domain) in plan.tables.iter().zip(setup.domains) {
        for step in &table.steps {
            for sql in &step.sql {
                let done = sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&mut *connection).await;
                let said = || step.said.clone();
                done.map_err(|source| SetupError::Step { table: table.table, said: said(), source })?;
            }
        }
        if table.takes_over() {
            marks::mark_everything(connection, domain, &[qualified(setup.schema, table.table)]).await?;
        }
    }
    output_state::set_up(connection, setup.outputs, &plan.outputs).await?;
    if plan.recording.changes {
        record::write(connection, setup, plan.recording.before.as_ref()).await?;
    }
    Ok(())
}
