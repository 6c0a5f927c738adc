//! The schema: which migrations the database has had, which it lacks, and whether this program may apply them.

use std::time::Duration;

use freshet_sinks::output_state::{self, DefinitionChange};
use freshet_sinks::postgres::{MIGRATIONS, explain};
use freshet_sinks::schema::{self, Schema};
use freshet_topics::pipeline::output;
use sqlx::PgPool;
use sqlx::error::DatabaseError;

use super::{Finding, Standing};
use crate::{ready, roles};

/// A server that does not answer within this is out of reach.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn prepare(pool: &PgPool, dry_run: bool) -> Finding {
    let (standing, said) = match usable(pool).await {
        Ok(Some(unusable)) => (Standing::Failed, unusable),
        Err(error) => (Standing::Failed, refused(&error)),
        Ok(None) => standing(pool, dry_run).await,
    };
    Finding::new("schema", &ready::place_of(pool), standing, said)
}

async fn standing(pool: &PgPool, dry_run: bool) -> (Standing, String) {
    match schema::read(pool).await {
        Ok(Schema::Current) => outputs(pool, dry_run).await,
        Ok(Schema::Newer { found, wanted }) => {
            let said = format!("is at version {found}, this program knows up to {wanted}: run the newer freshet");
            (Standing::Failed, said)
        }
        Ok(Schema::Older { found, wanted }) => bring_up(pool, found, wanted, dry_run).await,
        Err(error) => (Standing::Failed, refused(&error)),
    }
}

/// Sets the outputs up where they are defined otherwise than those that were set up last.
async fn outputs(pool: &PgPool, dry_run: bool) -> (Standing, String) {
    let found = format!("found, at version {}", newest());
    let changes = match dry_run {
        true => would_change(pool).await,
        false => output_state::set_up(pool, output::shipped()).await,
    };
    match (changes, dry_run) {
        (Err(error), _) => (Standing::Failed, format!("{found}; {}", refused(&error))),
        (Ok(changes), _) if changes.is_empty() => (Standing::Found, found),
        (Ok(changes), true) => (Standing::Would, format!("{found}; would set outputs up: {}", named(&changes))),
        (Ok(changes), false) => (Standing::Made, format!("{found}; set outputs up: {}", named(&changes))),
    }
}

async fn would_change(pool: &PgPool) -> Result<Vec<DefinitionChange>, sqlx::Error> {
    let set_up = output_state::definitions(&mut *pool.acquire().await?).await?;
    Ok(output_state::changes(&set_up, output::shipped()))
}

/// `a (new), b (changed), c (gone)`.
fn named(changes: &[DefinitionChange]) -> String {
    let each = changes.iter().map(|change| match change {
        DefinitionChange::Added(name) => format!("{name} (new)"),
        DefinitionChange::Changed(name) => format!("{name} (changed)"),
        DefinitionChange::Dropped(name) => format!("{name} (gone)"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Connects by itself: the pool would keep trying for half a minute, and then not say why. Gives what is wrong with its
/// sessions, if anything is.
async fn usable(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    let timed_out = |_| sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(ANSWER_TIMEOUT, ready::unusable_session(pool)).await.map_err(timed_out)?
}

fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

async fn bring_up(pool: &PgPool, found: i64, wanted: i64, dry_run: bool) -> (Standing, String) {
    let from = if found == 0 { "empty".to_owned() } else { format!("at version {found}") };
    match may_create(pool).await {
        Ok(true) => {}
        Ok(false) => {
            let needs = "needs CREATE on the database and on its schema public";
            return (Standing::Failed, format!("{from}; may not bring it to version {wanted} ({needs})"));
        }
        Err(error) => return (Standing::Failed, refused(&error)),
    }
    let missing = MIGRATIONS.iter().filter(|migration| migration.version > found);
    let missing = missing.map(|migration| migration.description.as_ref()).collect::<Vec<_>>().join(", ");
    if dry_run {
        return (Standing::Would, format!("{from}; would be brought to version {wanted} ({missing})"));
    }
    match roles::migrate(pool).await {
        Ok(()) => (Standing::Made, format!("was {from}, brought to version {wanted} ({missing})")),
        Err(error) => (Standing::Failed, format!("{from}; cannot bring it to version {wanted} ({error:#})")),
    }
}

/// Whether this user may make schemas and tables. Asked before, because a migration that is refused half-way says
/// only which statement was.
async fn may_create(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT has_database_privilege(current_database(), 'CREATE') AND has_schema_privilege('public', 'CREATE')",
    )
    .fetch_one(pool)
    .await
}

/// What may not or cannot be done.
fn refused(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some("28P01" | "28000") => format!("may not connect ({})", explain(error)),
        Some("42501") => format!("may not look at it ({error}: needs SELECT on the table _sqlx_migrations)"),
        Some("3D000") => "does not exist: make the database (createdb), or see postgres.url".to_owned(),
        _ => format!("cannot look at it ({})", explain(error)),
    }
}
