//! The connection to Postgres: pool, schema version, and what kind of error an error is.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// The migrations in `sinks/migrations`, embedded.
pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Settings of the section `postgres`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database`. Empty: the local stack's own server.
    pub url: String,
    /// Connections that one process opens at most.
    pub connections_max: u32,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings { url: String::new(), connections_max: 16 }
    }
}

/// The URL may hold a password: it is not shown.
impl std::fmt::Debug for PostgresSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("PostgresSettings")
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

/// What every session asks of the server. A process that is frozen or cut off in the middle of a transaction must
/// not hold its locks for the hours of the system's own keepalive: whoever takes over its partitions waits for them.
/// Registering files and taking snapshots idle in a transaction while they talk to S3, hence two minutes.
const SESSION: [(&str, &str); 5] = [
    ("timezone", "UTC"),
    ("idle_in_transaction_session_timeout", "120s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// How long a caller waits for a free connection of the pool before it is told that there is none.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool that connects when it is first used.
///
/// # Errors
/// If the URL cannot be read; the error does not repeat the URL, which may hold a password.
pub fn pool(settings: &PostgresSettings) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = settings.url.parse().map_err(|_| {
        sqlx::Error::Configuration("postgres.url is not postgres://user:password@host:port/database".into())
    })?;
    Ok(PgPoolOptions::new()
        .max_connections(settings.connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options.application_name("freshet").options(SESSION)))
}

/// What an error of Postgres asks of whoever handles it (design, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The row's fault (SQLSTATE classes 22, 23 and 44, or what a trigger raises): take it out and reject it.
    Row,
    /// The schema's or a permission's fault (class 42): halt and say so.
    Schema,
    /// The world's fault: try again.
    World,
}

/// Classifies an error.
///
/// | SQLSTATE | kind |
/// |---|---|
/// | 22xxx data exception, 23xxx integrity constraint, 44xxx check option | row |
/// | P0001 raised by a trigger, 54000 too large for an index | row |
/// | 42xxx syntax, undefined object, no permission | schema |
/// | anything else, or no answer at all | world |
pub fn error_kind(error: &sqlx::Error) -> ErrorKind {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or(Cow::Borrowed(""));
    match (code.get(..2), code.as_ref()) {
        (Some("22" | "23" | "44"), _) | (_, "P0001" | "54000") => ErrorKind::Row,
        (Some("42"), _) => ErrorKind::Schema,
        _ => ErrorKind::World,
    }
}
