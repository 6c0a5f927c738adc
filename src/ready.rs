//! Checks whether everything a role needs is available, before it starts and for `/readyz`.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use freshet_sinks::postgres::explain;
use freshet_sinks::schema::{self, Schema};
use freshet_sinks::session::{self, Session};
use freshet_sinks::tables::record;
use freshet_topics::log::{LogError, LogReader};
use tokio_util::sync::CancellationToken;

use crate::roles::{Role, Services};

/// A service that does not answer within this counts as out of reach.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest that a command waits for Postgres whose whole answer comes from there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Before a role that cannot start looks again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// Something that a role needs and does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Waiting may help: a service out of reach, a schema not yet migrated.
    Yet(String),
    /// Waiting does not help: the schema is newer than the program, or Postgres is behind a pooler.
    ForGood(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Missing::Yet(what) | Missing::ForGood(what)) = self;
        formatter.write_str(what)
    }
}

/// What the roles need and do not have, each service once; empty if everything is available.
pub async fn missing(services: &Services, roles: &[Role]) -> Vec<Missing> {
    let wants_kafka = roles.iter().any(|role| !matches!(role, Role::Metrics));
    let wants_raw = roles.contains(&Role::Ingest);
    let wants_processed = roles.contains(&Role::Metrics);
    let config = &services.config.s3;
    let (postgres, kafka, raw, processed) = tokio::join!(
        postgres(services),
        async { if wants_kafka { kafka(services).await } else { None } },
        async { if wants_raw { bucket(services, &config.raw_bucket).await } else { None } },
        async { if wants_processed { bucket(services, &config.processed_bucket).await } else { None } },
    );
    [postgres, kafka, raw, processed].into_iter().flatten().collect()
}

async fn postgres(services: &Services) -> Option<Missing> {
    let place = place_of(&services.pool);
    let late = || Missing::Yet(format!("Postgres at {place} does not answer within {ANSWER_TIMEOUT:?}"));
    let read = schema::read(&services.pool, &services.config.postgres.schema);
    match tokio::time::timeout(ANSWER_TIMEOUT, read).await {
        Err(_) => Some(late()),
        Ok(Err(error)) => Some(Missing::Yet(format!("Postgres at {place}: {}", explain(&error)))),
        Ok(Ok(Schema::Current)) => pipeline(services).await,
        Ok(Ok(Schema::Older { found, wanted })) => Some(Missing::Yet(format!(
            "the schema of {place} is at version {found}, this program needs {wanted}: run `freshet setup`"
        ))),
        Ok(Ok(Schema::Newer { found, wanted })) => Some(Missing::ForGood(format!(
            "the schema of {place} is at version {found}, this program knows up to {wanted}: run the newer freshet"
        ))),
        Ok(Ok(elsewhere)) => misplaced(services, &elsewhere).map(Missing::Yet),
    }
}

/// Whether the pipeline of this process is the one that was set up.
async fn pipeline(services: &Services) -> Option<Missing> {
    let place = place_of(&services.pool);
    match tokio::time::timeout(ANSWER_TIMEOUT, record::another(&services.pool, services.setup().pipeline)).await {
        Err(_) => Some(Missing::Yet(format!("Postgres at {place} does not answer within {ANSWER_TIMEOUT:?}"))),
        Ok(Err(error)) => Some(Missing::Yet(format!("Postgres at {place}: {}", explain(&error)))),
        Ok(Ok(another)) => another.map(Missing::Yet),
    }
}

/// What is wrong with where the tables are looked for, if anything is.
pub(crate) fn misplaced(services: &Services, schema: &Schema) -> Option<String> {
    let (place, wanted) = (place_of(&services.pool), &services.config.postgres.schema);
    match schema {
        Schema::Elsewhere { looked_into } => Some(format!(
            "sessions at {place} look for tables in the schema {looked_into}, but postgres.schema is {wanted}: set \
             postgres.schema = \"{looked_into}\", or ALTER ROLE … SET search_path = {wanted}"
        )),
        Schema::SetUpElsewhere { found } => Some(format!(
            "freshet was set up in the schema {found} of {place}, but postgres.schema is {wanted}: set \
             postgres.schema = \
             \"{found}\""
        )),
        Schema::Current | Schema::Older { .. } | Schema::Newer { .. } => None,
    }
}

/// Fails if the sessions of Postgres cannot be used.
///
/// # Errors
/// Why not, and what to do.
pub async fn require_sessions(pool: &sqlx::PgPool) -> anyhow::Result<()> {
    match unusable_session(pool).await {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => anyhow::bail!("{reason}"),
        Err(error) => anyhow::bail!("Postgres at {}: {}", place_of(pool), explain(&error)),
    }
}

/// A connection to Postgres, for a command that can do nothing without.
///
/// # Errors
/// Where it does not answer in time, or refuses, by its address.
pub(crate) async fn connect(services: &Services) -> anyhow::Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
    let place = place_of(&services.pool);
    match tokio::time::timeout(CONNECT_TIMEOUT, services.pool.acquire()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => anyhow::bail!("Postgres at {place}: {}", explain(&error)),
        Err(_) => anyhow::bail!("Postgres at {place} does not answer within {CONNECT_TIMEOUT:?}"),
    }
}

/// The services that [`silent`] asks.
pub(crate) const SERVICES: usize = 3;

/// The services that give no answer at all within a time, by their addresses; one that refuses answers.
pub(crate) async fn silent(services: &Services, within: Duration) -> Vec<String> {
    let postgres = async {
        let answer = tokio::time::timeout(within, services.pool.acquire()).await;
        answer.is_err().then(|| format!("Postgres at {}", place_of(&services.pool)))
    };
    let settings = services.config.kafka.clone();
    let brokers = &services.config.kafka.brokers;
    let kafka = async {
        let asked = tokio::task::spawn_blocking(move || LogReader::new(&settings)?.ping(within)).await;
        matches!(asked, Ok(Err(LogError::Unreachable(_)))).then(|| format!("Kafka at {brokers}"))
    };
    let s3 = async {
        let request = services.s3.head_bucket().bucket(&services.config.s3.raw_bucket).send();
        let is_answered = match tokio::time::timeout(within, request).await {
            Err(_) => false,
            Ok(answer) => answer.map_or_else(|error| error.raw_response().is_some(), |_| true),
        };
        (!is_answered).then(|| format!("S3 at {}", services.config.s3.place()))
    };
    let (postgres, kafka, s3) = tokio::join!(postgres, kafka, s3);
    [postgres, kafka, s3].into_iter().flatten().collect()
}

/// What is wrong with the sessions of a Postgres that answers.
async fn session(pool: &sqlx::PgPool) -> Option<Missing> {
    match tokio::time::timeout(ANSWER_TIMEOUT, unusable_session(pool)).await {
        Err(_) => {
            Some(Missing::Yet(format!("Postgres at {} does not answer within {ANSWER_TIMEOUT:?}", place_of(pool))))
        }
        Ok(Err(error)) => Some(Missing::Yet(format!("Postgres at {}: {}", place_of(pool), explain(&error)))),
        Ok(Ok(reason)) => reason.map(Missing::ForGood),
    }
}

/// Why the sessions of Postgres cannot be worked with; `None` if they can. Asked once, before a role or a command that
/// writes does anything: it opens two connections, and what stands between does not change while a process runs.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn unusable_session(pool: &sqlx::PgPool) -> Result<Option<String>, sqlx::Error> {
    let place = place_of(pool);
    Ok(match session::look(pool).await? {
        Session::Own => None,
        Session::Shared => Some(format!(
            "Postgres at {place} is behind a pooler in transaction mode, which would mix the locks and settings of \
             sessions: connect postgres.url to Postgres directly, or set pool_mode = session for this database"
        )),
        Session::WithoutSettings(statements) => Some(format!(
            "a pooler drops the settings that freshet sends to {place} when it connects: connect postgres.url to \
             Postgres directly, or let the pooler reconnect (RECONNECT) after {}",
            statements.join("; ")
        )),
    })
}

/// The innermost cause of an error: `Connection refused` says more than the layers that passed it on.
pub(crate) fn cause_of(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Host, port and database, without user and password.
pub(crate) fn place_of(pool: &sqlx::PgPool) -> String {
    let options = pool.connect_options();
    format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or(""))
}

async fn kafka(services: &Services) -> Option<Missing> {
    let settings = services.config.kafka.clone();
    let asked = tokio::task::spawn_blocking(move || LogReader::new(&settings)?.ping(ANSWER_TIMEOUT)).await;
    let brokers = &services.config.kafka.brokers;
    match asked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Missing::Yet(format!("Kafka at {brokers}: {error}"))),
        Err(error) => Some(Missing::Yet(format!("Kafka at {brokers}: {error}"))),
    }
}

async fn bucket(services: &Services, bucket: &str) -> Option<Missing> {
    let place = match services.config.s3.endpoint.as_str() {
        "" => format!("S3 bucket {bucket}"),
        endpoint => format!("S3 bucket {bucket} at {endpoint}"),
    };
    let request = services.s3.head_bucket().bucket(bucket).send();
    match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
        Ok(Ok(_)) => None,
        Err(_) => Some(Missing::Yet(format!("{place} does not answer within {ANSWER_TIMEOUT:?}"))),
        Ok(Err(error)) => {
            let status = error.raw_response().map(|response| response.status().as_u16());
            Some(Missing::Yet(match status {
                Some(404) => format!("{place} does not exist: create it (`freshet setup` does)"),
                Some(403) => format!("{place}: access denied; the role needs s3:ListBucket"),
                _ => format!("{place}: {}", cause_of(&error)),
            }))
        }
    }
}

/// Waits until the roles have what they need, naming in the log what they wait for. `false`: told to stop before.
///
/// # Errors
/// What waiting does not bring.
pub async fn wait(services: &Services, roles: &[Role], shutdown: &CancellationToken) -> anyhow::Result<bool> {
    let mut looks = 0;
    let mut reported = Vec::new();
    let mut is_session_usable = false;
    while !shutdown.is_cancelled() {
        // Before anything else is asked: other queries of this process could hide a pooler from it.
        let session = if is_session_usable { None } else { session(&services.pool).await };
        is_session_usable = session.is_none();
        if let Some(Missing::ForGood(reason)) = session {
            anyhow::bail!("{reason}");
        }
        let mut missing = missing(services, roles).await;
        // What else Postgres has said by then names the same trouble.
        if missing.is_empty() {
            missing.extend(session);
        }
        if missing.is_empty() {
            if !reported.is_empty() {
                tracing::info!("everything a role was waiting for is available");
            }
            return Ok(true);
        }
        for one in &missing {
            if let Missing::ForGood(reason) = one {
                anyhow::bail!("{reason}");
            }
        }
        // What has been said is not said again until it changes.
        for one in missing.iter().filter(|one| !reported.contains(*one)) {
            tracing::warn!("waiting for a service that a role needs: {one}");
        }
        reported = missing;
        looks += 1;
        shutdown.run_until_cancelled(tokio::time::sleep(BACKOFF.after(looks))).await;
    }
    Ok(false)
}
