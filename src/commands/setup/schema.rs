//! The database: its migrations, each domain's table, and the recorded pipeline. All of it succeeds, or nothing is
//! changed.

use std::time::Duration;

use freshet_sinks::output_views::ViewPlan;
use freshet_sinks::postgres::{MIGRATIONS, explain};
use freshet_sinks::schema::{self, Schema};
use freshet_sinks::tables::{self, SetupError};
use sqlx::PgPool;
use sqlx::error::DatabaseError;

use super::tables::{Outcome, findings};
use super::{Finding, Mode, Standing};
use crate::ready;
use crate::roles::Services;

/// A server that does not answer within this is out of reach.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn prepare(services: &Services, mode: Mode) -> Vec<Finding> {
    let failed = |said| vec![Finding::new("schema", &ready::place_of(&services.pool), Standing::Failed, said)];
    match usable(&services.pool).await {
        Ok(Some(unusable)) => return failed(unusable),
        Err(error) => return failed(refused(&error)),
        Ok(None) => {}
    }
    match standing(services, mode).await {
        Ok(findings) => findings,
        Err(said) => failed(said),
    }
}

/// The state of the database, or the reason why it cannot be looked at or changed.
async fn standing(services: &Services, mode: Mode) -> Result<Vec<Finding>, String> {
    let pool = &services.pool;
    let found = schema::read(pool, &services.config.postgres.schema).await.map_err(|error| refused(&error))?;
    if let Some(misplaced) = ready::misplaced(services, &found) {
        return Err(misplaced);
    }
    let older = match found {
        Schema::Newer { found, wanted } => {
            return Err(format!("is at version {found}, this program knows up to {wanted}: run the newer freshet"));
        }
        Schema::Older { found, wanted } => Some(Older { found, wanted }),
        _ => None,
    };
    let setup = services.setup();
    let mut connection = pool.acquire().await.map_err(|error| refused(&error))?;
    let plan = tables::look(&mut connection, &setup).await.map_err(|error| refused(&error))?;
    drop(connection);
    if let Some(older) = &older {
        older.check_rights(services).await?;
    }
    let tables_change = plan.tables.iter().any(|it| !it.steps.is_empty());
    let outputs_change = !plan.outputs.is_empty() || plan.views.iter().any(ViewPlan::is_open);
    let has_work = older.is_some() || plan.recording.changes || tables_change || outputs_change;
    let (outcome, plan) = match (plan.is_blocked(), has_work, mode) {
        (true, ..) => (Outcome::Blocked, plan),
        (false, true, Mode::Make) => match tables::apply(pool, &setup).await {
            Ok(plan) => (Outcome::Done, plan),
            Err(SetupError::Blocked(plan)) => (Outcome::Blocked, *plan),
            Err(error) => return Err(format!("nothing was changed: {error}")),
        },
        (false, ..) => (Outcome::DryRun, plan),
    };
    let (standing, said) = older.map_or_else(Older::none, |older| older.said(outcome));
    let schema = Finding::new("schema", &ready::place_of(pool), standing, said);
    Ok([vec![schema], findings(services, &plan, outcome)].concat())
}

/// Connects by itself: the pool would keep trying for half a minute, and then not say why. Gives what is wrong with its
/// sessions, if anything is.
async fn usable(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    let timed_out = |_| sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(ANSWER_TIMEOUT, ready::unusable_session(pool)).await.map_err(timed_out)?
}

/// Migrations that a database lacks.
struct Older {
    found: i64,
    wanted: i64,
}

impl Older {
    /// What is said where none is missing.
    fn none() -> (Standing, String) {
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        (Standing::Found, format!("found, at version {newest}"))
    }

    fn from(&self) -> String {
        if self.found == 0 { "empty".to_owned() } else { format!("at version {}", self.found) }
    }

    /// Whether this user may make schemas and tables. Asked before, because a migration that is refused half-way says
    /// only which statement was.
    async fn check_rights(&self, services: &Services) -> Result<(), String> {
        let schema = &services.config.postgres.schema;
        // A schema that is not there is made, and is this user's then.
        let may: bool = sqlx::query_scalar(
            "SELECT has_database_privilege(current_database(), 'CREATE')
                AND coalesce(has_schema_privilege(to_regnamespace(quote_ident($1))::oid, 'CREATE'), true)",
        )
        .bind(schema)
        .fetch_one(&services.pool)
        .await
        .map_err(|error| refused(&error))?;
        let needs = format!("needs CREATE on the database and on its schema {schema}");
        match may {
            true => Ok(()),
            false => Err(format!("{}; may not bring it to version {} ({needs})", self.from(), self.wanted)),
        }
    }

    fn said(&self, outcome: Outcome) -> (Standing, String) {
        let (from, wanted) = (self.from(), self.wanted);
        let missing = MIGRATIONS.iter().filter(|migration| migration.version > self.found);
        let missing = missing.map(|migration| migration.description.as_ref()).collect::<Vec<_>>().join(", ");
        match outcome {
            Outcome::DryRun => (Standing::Would, format!("{from}; would be brought to version {wanted} ({missing})")),
            Outcome::Done => (Standing::Made, format!("was {from}, brought to version {wanted} ({missing})")),
            Outcome::Blocked => (Standing::Failed, format!("{from}; not changed until the tables can be set up")),
        }
    }
}

/// What may not or cannot be done.
fn refused(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some("28P01" | "28000") => format!("may not connect ({})", explain(error)),
        Some("42501") => format!("may not look at it ({error}: needs SELECT on the existing tables)"),
        Some("3D000") => "does not exist: create the database (createdb), or check postgres.url".to_owned(),
        _ => format!("cannot look at it ({})", explain(error)),
    }
}
