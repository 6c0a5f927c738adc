//! The connection to Postgres: pool, settings, classification of errors, and copying of grants.

mod keepalive;

use std::borrow::Cow;
use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::error::DatabaseError;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

/// The migrations in `sinks/migrations`, embedded. They create the pipeline's own tables; the domains' tables are
/// created from their declarations ([`crate::tables`]), which also runs these migrations, under its own lock.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("./migrations");
    // Databases of version 0.1 have had a migration that made four tables.
    migrations.set_ignore_missing(true).set_locking(false);
    migrations
});

/// Settings of the section `postgres`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database`, with the [`PARAMETERS`] of TLS. Empty: the local stack's own
    /// server.
    pub url: SecretString,
    /// The user's password, if the URL has none.
    pub password: SecretString,
    /// The most connections that one process opens. 0: [`CONNECTIONS_MAX`], and more where writers keep some.
    pub connections_max: u32,
    /// The schema of the domains' tables. If it is not [`DEFAULT_SCHEMA`], sessions search only this schema.
    pub schema: String,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings {
            url: SecretString::default(),
            password: SecretString::default(),
            connections_max: 0,
            schema: DEFAULT_SCHEMA.to_owned(),
        }
    }
}

/// The schema that sessions search unless the settings name another one.
pub const DEFAULT_SCHEMA: &str = "public";

/// Schemas of freshet or of Postgres, which cannot hold domains' tables.
const TAKEN_SCHEMAS: [&str; 5] = ["pipeline", "shadow", "shadow_retired", "metrics", "information_schema"];

/// Settings of every session. A process that is frozen or cut off in the middle of a transaction must not hold its
/// locks until the system's own keepalive ends it hours later, because its successor waits for them. Registering files
/// and taking snapshots idle in a transaction while they talk to S3, hence two minutes; transactions that hold
/// bookmarks have their own limit ([`crate::transactions::Limits::SHORT`]).
///
/// Statements are short, and their costs are often guessed too high: compiling one (`jit`) takes longer than running it.
pub(crate) const SESSION: [(&str, &str); 6] = [
    ("timezone", "UTC"),
    ("jit", "off"),
    ("idle_in_transaction_session_timeout", "120s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// The most connections that a process opens where the settings leave it open: for the workers of a listener, its sweeps
/// and listings, the readers of a publication, the survey and the page.
pub const CONNECTIONS_MAX: u32 = 16;

/// How long a caller waits for a free connection of the pool before it gets an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// The allowed parameters of the URL. sqlx ignores others with a warning that repeats them.
pub const PARAMETERS: [&str; 8] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "options", "statement-cache-capacity"];

/// A pool that connects when it is first used.
///
/// # Errors
/// If the URL cannot be read; the error does not repeat the URL, which may hold a password.
pub fn pool(settings: &PostgresSettings) -> Result<PgPool, sqlx::Error> {
    check(settings).and_then(|()| files(settings)).map_err(|reason| sqlx::Error::Configuration(reason.into()))?;
    let options: PgConnectOptions =
        settings.url.expose_secret().parse().map_err(|_| sqlx::Error::Configuration(WRONG_URL.into()))?;
    let options = match settings.password.expose_secret() {
        "" => options,
        password => options.password(password),
    };
    let options = match settings.schema.as_str() {
        DEFAULT_SCHEMA => options,
        // Only this schema: a table of the same name elsewhere must not be used by mistake.
        schema => options.options([("search_path", schema)]),
    };
    let connections_max = match settings.connections_max {
        0 => CONNECTIONS_MAX,
        set => set,
    };
    let size = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool_with(size, options.application_name("freshet").options(SESSION)))
}

/// A pool that connects when it is first used, and whose connections end within about a minute where Postgres is gone
/// without a word ([`keepalive`]).
pub fn pool_with(size: PgPoolOptions, options: PgConnectOptions) -> PgPool {
    let port = options.get_port();
    let size = size.after_connect(move |_, _| {
        keepalive::turn_on(port);
        Box::pin(std::future::ready(Ok(())))
    });
    size.connect_lazy_with(options)
}

/// A connection of nobody's pool, with keepalive too.
///
/// # Errors
/// If Postgres cannot be reached, or refuses the connection.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connection = PgConnection::connect_with(options).await?;
    keepalive::turn_on(options.get_port());
    Ok(connection)
}

const WRONG_URL: &str = "postgres.url is not postgres://user:password@host:port/database";

/// The first mistake in the settings. Values are not repeated.
///
/// # Errors
/// One clear line for the person who wrote them.
pub fn check(settings: &PostgresSettings) -> Result<(), String> {
    check_schema(&settings.schema)?;
    if settings.url.expose_secret().is_empty() {
        return Ok(());
    }
    let (place, parameters) =
        settings.url.expose_secret().split_once('?').unwrap_or((settings.url.expose_secret(), ""));
    let login = place.split_once("://").and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0));
    if login.is_some_and(|login| login.contains(':')) && !settings.password.expose_secret().is_empty() {
        return Err("postgres.url contains a password, and postgres.password is set too: leave one out".into());
    }
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let plain = name.split('[').next().unwrap_or(name);
        if !PARAMETERS.contains(&plain) {
            return Err(format!("postgres.url has a parameter that is not one of {}", PARAMETERS.join(", ")));
        }
    }
    settings.url.expose_secret().parse::<PgConnectOptions>().map(|_| ()).map_err(|_| WRONG_URL.to_owned())?;
    let of =
        |wanted: &str| parameters.split('&').filter_map(|one| one.split_once('=')).rfind(|(name, _)| *name == wanted);
    let verifies = ["verify-ca", "verify-full"];
    let verified = of("sslmode").is_some_and(|(_, mode)| verifies.iter().any(|one| mode.eq_ignore_ascii_case(one)));
    if of("sslrootcert").is_some() && !verified {
        return Err("sslrootcert of postgres.url has no effect without sslmode=verify-full (or verify-ca)".into());
    }
    Ok(())
}

/// A name that needs no quotes, so that it can be typed the same everywhere.
fn check_schema(schema: &str) -> Result<(), String> {
    let is_plain = schema.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && schema.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_')
        && schema.len() <= 63;
    match () {
        () if !is_plain => Err(format!(
            "postgres.schema is {schema:?}: it must be a name of a-z, 0-9 and _ that does not begin with a digit"
        )),
        () if TAKEN_SCHEMAS.contains(&schema) || schema.starts_with("pg_") => {
            Err(format!("postgres.schema is {schema:?}, which is reserved: choose another name"))
        }
        () => Ok(()),
    }
}

/// Whether the certificates named in the URL can be read. A connection would only report that a file is missing.
fn files(settings: &PostgresSettings) -> Result<(), String> {
    let parameters = settings.url.expose_secret().split_once('?').map_or("", |(_, parameters)| parameters);
    for (name, path) in parameters.split('&').filter_map(|parameter| parameter.split_once('=')) {
        // sqlx decodes escaped names.
        if matches!(name, "sslrootcert" | "sslcert" | "sslkey") && !path.contains(['%', '+']) {
            fs::File::open(path).map_err(|error| format!("read {name} of postgres.url, {path}: {error}"))?;
        }
    }
    Ok(())
}

/// An error of a connection, with what to do if known.
///
/// | Postgres or TLS says | told |
/// |---|---|
/// | a certificate of an unknown issuer | which CA is trusted |
/// | a certificate for another name | which name is expected |
/// | 28P01, 28000 | user, password, or `pg_hba.conf` |
/// | `unsupported startup parameter` | a pooler stands between, and what to do about it |
/// | anything else | as it is |
pub fn explain(error: &sqlx::Error) -> String {
    let said = error.to_string();
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
    let hint = match code.as_ref() {
        "28P01" | "28000" => {
            "check user and password in postgres.url or postgres.password, and the server's pg_hba.conf"
        }
        _ if said.contains("UnknownIssuer") => {
            "its certificate is not signed by a CA that is trusted: name its CA's file as sslrootcert in postgres.url"
        }
        _ if said.contains("not valid for name") || said.contains("NotValidForName") => {
            "its certificate is for another host name: use the certificate's name in postgres.url"
        }
        _ if said.contains("unsupported startup parameter") => {
            "a pooler (pgbouncer) refuses the session settings that freshet sends: connect postgres.url to Postgres \
             directly"
        }
        _ if said.contains("server does not support TLS") => {
            "the server has no TLS: turn it on there (ssl = on), or change sslmode in postgres.url"
        }
        _ => return said,
    };
    format!("{hint} ({said})")
}

/// Whether a statement reached its time limit while waiting for a lock (SQLSTATE 55P03).
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("55P03")
}

/// How to handle an error of Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The row is at fault (SQLSTATE classes 22, 23 and 44, or an error raised by a trigger): leave it out and reject
    /// it.
    Row,
    /// The schema or a permission is at fault (class 42): halt and report it.
    Schema,
    /// Neither: a lost connection, a lock, a restart. Try again.
    Transient,
}

/// Classifies an error.
///
/// | SQLSTATE | kind |
/// |---|---|
/// | 22xxx data exception, 23xxx integrity constraint, 44xxx check option | row |
/// | P0001 raised by a trigger, 54000 too large for an index | row |
/// | 42xxx syntax, undefined object, no permission | schema |
/// | anything else, or no answer at all | transient |
pub fn error_kind(error: &sqlx::Error) -> ErrorKind {
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or(Cow::Borrowed(""));
    match (code.get(..2), code.as_ref()) {
        (Some("22" | "23" | "44"), _) | (_, "P0001" | "54000") => ErrorKind::Row,
        (Some("42"), _) => ErrorKind::Schema,
        _ => ErrorKind::Transient,
    }
}

/// The statements that copy grants from `from` to `to`, for tables and views, except the owner's.
pub(crate) async fn grants(connection: &mut PgConnection, from: &str, to: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $2,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
         FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
         WHERE c.oid = $1::regclass AND a.grantee <> c.relowner",
    )
    .bind(from)
    .bind(to)
    .fetch_all(connection)
    .await
}

/// Executes a statement built by this program that returns no rows.
pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_a_plain_name_of_its_own() {
        for (schema, expected) in [
            ("public", None),
            ("freshet_1", None),
            ("", Some("must be a name")),
            ("Freshet", Some("must be a name")),
            ("a,b", Some("must be a name")),
            ("1st", Some("must be a name")),
            ("pipeline", Some("is reserved")),
            ("pg_temp", Some("is reserved")),
        ] {
            let settings = PostgresSettings { schema: schema.to_owned(), ..PostgresSettings::default() };
            match (check(&settings), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.contains(words), "{error}"),
                (result, _) => panic!("{schema}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_url_that_cannot_work_is_refused_and_not_repeated() {
        let cases = [
            ("", "", None),
            ("postgres://u:hunter2@h/d", "", None),
            ("postgres://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem&options[search_path]=x", "hunter2", None),
            ("postgres://u:hunter2@h/d", "hunter2", Some("leave one out")),
            ("postgres://u@h/d?sslmode=verify-ca&sslrootcert=/ca.pem", "", None),
            ("postgres://u@h/d?sslrootcert=hunter2", "", Some("sslrootcert of postgres.url has no effect")),
            ("postgres://u@h/d?sslmode=require&sslrootcert=hunter2", "", Some("without sslmode=verify-full")),
            ("postgres://u@h/d?sslmode=hunter2", "", Some("postgres.url is not")),
            ("postgres://u@h/d?passwrod=hunter2", "", Some("a parameter that is not one of sslmode")),
            ("hunter2", "", Some("postgres.url is not")),
        ];
        for (url, password, expected) in cases {
            let settings =
                PostgresSettings { url: url.into(), password: password.into(), ..PostgresSettings::default() };
            match (check(&settings), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.contains(words) && !error.contains("hunter2"), "{error}"),
                (result, _) => panic!("{url}: {result:?}"),
            }
            assert!(!format!("{settings:?}").contains("hunter2"));
        }
    }
}
