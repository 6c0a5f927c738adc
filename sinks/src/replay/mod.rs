//! Replays: which one is unfinished, its request, its progress and its end.
//!
//! A domain has at most one unfinished replay. The process that runs it holds an advisory lock on its own connection
//! ([`ReplayLock`]), so another process is refused while it lives, and can resume once it is dead. Its writes carry its
//! name and the epochs of its bookmarks: if it was only frozen and continues, its writes are refused.

pub mod correct;
mod counts;
mod finish;
mod leftovers;
mod lock;

use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::bookmarks::{self, Assigned};
use crate::destination::Destination;
use crate::transactions::{self, Limits};

pub use finish::{Finished, abandon, finish};
pub use lock::{ReplayLock, lock};

/// Where a replay writes to. The names are those in `pipeline.replays`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Kind {
    /// The live table.
    InPlace,
    /// A shadow.
    Shadow,
}

impl Kind {
    /// What it writes to.
    pub fn destination(self) -> Destination {
        match self {
            Kind::InPlace => Destination::Correction,
            Kind::Shadow => Destination::Shadow,
        }
    }
}

/// A replay as recorded in Postgres.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Replay {
    /// Its number.
    pub id: i64,
    /// Domain name.
    pub domain: String,
    /// Where it writes to.
    pub kind: Kind,
    /// The request.
    pub request: String,
    /// The stream of the topic that it reads.
    pub stream_id: Uuid,
    /// One past the last offset to read in each partition; a shadow has none.
    pub end_offsets: Option<Vec<i64>>,
    /// The number of the pass, from 1.
    pub pass: i32,
    /// The process that works on it, or did.
    pub owner: String,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it last wrote something.
    pub updated_at: DateTime<Utc>,
    /// Rows read so far.
    pub rows_read: i64,
    /// Rows of new keys written.
    pub inserted: i64,
    /// Rows changed.
    pub changed: i64,
    /// Rows that are rejects now.
    pub rejected_anew: i64,
    /// Rows that are rejects no longer.
    pub accepted_anew: i64,
    /// Rows removed from the table.
    pub removed: i64,
}

/// The columns that [`Replay`] reads.
const COLUMNS: &str = "id, domain, kind, request, stream_id, end_offsets, pass, owner, began_at, updated_at, rows_read, \
     inserted, changed, rejected_anew, accepted_anew, removed";

/// The replay that this process works on.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its number.
    pub id: i64,
    /// The name under which this process writes.
    pub owner: String,
}

/// A request for a replay.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The domain.
    pub domain: &'static Domain,
    /// What it writes to.
    pub kind: Kind,
    /// The request as text; the texts are equal only if the requests are.
    pub request: &'a str,
    /// The stream of the topic.
    pub stream_id: Uuid,
    /// (partition, offset) to start at.
    pub starts: &'a [(i32, i64)],
    /// One past the last offset to read in each partition.
    pub end_offsets: Option<Vec<i64>>,
    /// A name for this process, unlike any other's.
    pub owner: &'a str,
}

/// Why a replay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Another replay of the domain is unfinished.
    #[error(
        "replay {} of {} is unfinished ({}): continue it with the same command, or end it with `freshet replay {} \
         --abandon`", .0.id, .0.domain, .0.request, .0.domain
    )]
    Unfinished(Box<Replay>),
    /// It was started on a topic that no longer exists.
    #[error(
        "replay {} of {} was started on a topic that no longer exists: end it with `freshet replay {} --abandon`",
        .0.id, .0.domain, .0.domain
    )]
    OtherStream(Box<Replay>),
    /// The shadow could never take the live table's place.
    #[error("no shadow of {domain} is filled, because it could not take the table's place: {}", .reasons.join("; "))]
    InTheWay {
        /// The domain.
        domain: &'static str,
        /// Why, each with what to do.
        reasons: Vec<String>,
    },
    /// The unfinished shadow was made by a contract with another key, or other columns.
    #[error(
        "the shadow was made by another contract: drop it with `freshet replay {0} --into shadow --drop`, and fill a new one"
    )]
    OtherContract(&'static str),
    /// Postgres does not answer.
    #[error("record the replay: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// The domain's unfinished replay.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unfinished(pool: &PgPool, domain: &str) -> Result<Option<Replay>, sqlx::Error> {
    let sql = format!("SELECT {COLUMNS} FROM pipeline.replays WHERE domain = $1 AND ended_at IS NULL");
    sqlx::query_as(AssertSqlSafe(sql)).bind(domain).fetch_optional(pool).await
}

/// Records that the replay goes on.
///
/// # Errors
/// If Postgres does not answer.
pub async fn touch(pool: &PgPool, replay: &Running) -> Result<(), sqlx::Error> {
    let sql = "UPDATE pipeline.replays SET updated_at = now() WHERE id = $1 AND owner = $2 AND ended_at IS NULL";
    sqlx::query(sql).bind(replay.id).bind(&replay.owner).execute(pool).await.map(drop)
}

/// Starts a replay, or continues an interrupted one with the same request. Takes its bookmarks and returns them. The
/// caller holds a [`ReplayLock`] on the domain.
///
/// # Errors
/// [`BeginError`]; nothing has changed then.
pub async fn begin(pool: &PgPool, wanted: &Wanted<'_>) -> Result<(Replay, Vec<Assigned>), BeginError> {
    let Wanted { domain, kind, request, stream_id, starts, end_offsets, owner } = wanted;
    match unfinished(pool, domain.name).await? {
        Some(found) if found.kind != *kind || found.request != *request => {
            return Err(BeginError::Unfinished(Box::new(found)));
        }
        Some(found) if found.stream_id != *stream_id => return Err(BeginError::OtherStream(Box::new(found))),
        Some(_) if *kind == Kind::Shadow => {
            let mut connection = pool.acquire().await?;
            if !crate::shadow::is_as_declared(&mut connection, domain).await? {
                return Err(BeginError::OtherContract(domain.name));
            }
        }
        Some(_) => {}
        None => {
            let mut transaction = transactions::begin(pool, "begin_replay", Limits::SHORT).await?;
            sqlx::query(
                "INSERT INTO pipeline.replays (domain, kind, request, stream_id, end_offsets, owner, start_offsets)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(domain.name)
            .bind(kind)
            .bind(request)
            .bind(stream_id)
            .bind(end_offsets)
            .bind(owner)
            .bind(by_partition(starts))
            .execute(&mut *transaction)
            .await?;
            forget_state(&mut transaction, kind.destination(), domain.name).await?;
            if *kind == Kind::Shadow {
                let reasons = crate::shadow::create(&mut transaction, domain).await?;
                if !reasons.is_empty() {
                    transaction.rollback().await?;
                    return Err(BeginError::InTheWay { domain: domain.name, reasons });
                }
            }
            transaction.commit().await?;
        }
    }
    let taken = bookmarks::take(pool, kind.destination(), domain.name, *stream_id, owner, starts).await?;
    let sql = format!(
        "UPDATE pipeline.replays SET owner = $2, updated_at = now() WHERE domain = $1 AND ended_at IS NULL
         RETURNING {COLUMNS}"
    );
    let replay = sqlx::query_as(AssertSqlSafe(sql)).bind(domain.name).bind(owner).fetch_one(pool).await?;
    Ok((replay, taken))
}

/// Offsets as an array that starts with partition 0.
fn by_partition(offsets: &[(i32, i64)]) -> Vec<i64> {
    let mut array = vec![0; offsets.iter().map(|(partition, _)| *partition as usize + 1).max().unwrap_or(0)];
    for (partition, offset) in offsets {
        array[*partition as usize] = *offset;
    }
    array
}

/// Deletes the progress of a replay.
async fn forget_state(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
) -> Result<(), sqlx::Error> {
    for table in [destination.bookmarks(), destination.progress()] {
        let sql = format!("DELETE FROM {table} WHERE domain = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(domain).execute(&mut *connection).await?;
    }
    Ok(())
}
