//! Files: the newest of the ledger, what became of their rows, and how long they took.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freshet_sinks::ledger::ObjectState;
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::PgConnection;

/// Files listed of each state, the newest.
const FILES_A_STATE: i64 = 40;
/// Files of each domain whose way through is told, the newest.
const FILES_TIMED: i64 = 40;

/// A page of the ledger, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Files {
    pub files: Vec<FileStatus>,
    /// Files there are.
    pub total: i64,
}

/// One object version.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct FileStatus {
    /// `pipeline.objects.id`.
    pub id: i64,
    pub domain: String,
    pub key: String,
    /// Where it stands.
    pub state: ObjectState,
    /// Rows in the file, once they are known.
    pub rows: Option<i64>,
    /// Rows received by the processor: applied, stale and rejected.
    pub received: i64,
    pub rejected: i64,
    /// Rows that are older than what was there.
    pub stale: i64,
    /// Changes made to values.
    pub corrected: i64,
    /// Why it is rejected, superseded or tried again.
    pub reason: Option<String>,
    /// When S3 says it was written.
    pub last_modified: DateTime<Utc>,
    /// Columns of its header that the domain does not have: the first of them, and how many more.
    pub unknown_columns: Vec<String>,
    /// Columns that it lacks, and for which its rows have the contract's value.
    pub absent_defaults: Vec<String>,
    /// Rows of it whose key comes again further down in it: of each key the last row loads.
    pub overtaken: i64,
}

/// One object version, with what became of its rows.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct FileOutcome {
    #[sqlx(flatten)]
    #[serde(flatten)]
    status: FileStatus,
    size_bytes: i64,
    /// From its last-modified to the commit of its last row; none before it is applied.
    seconds: Option<f64>,
}

/// How long a file was on its way.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Freshness {
    #[serde(skip)]
    domain: String,
    key: String,
    applied_at: DateTime<Utc>,
    /// From its last-modified, a whole second, to the commit of its last row.
    seconds: f64,
}

/// The newest files of the ledger, `limit` of them.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn list(connection: &mut PgConnection, limit: u32) -> Result<Files, sqlx::Error> {
    let files: Vec<FileStatus> = sqlx::query_as(
        "SELECT o.id, o.domain, o.key, o.state, o.rows, o.reason, o.last_modified,
            o.ignored_columns AS unknown_columns, o.absent_defaults, o.overtaken,
            coalesce(p.received, 0)::bigint AS received, coalesce(p.rejected, 0)::bigint AS rejected,
            coalesce(p.stale, 0)::bigint AS stale, coalesce(p.corrected, 0)::bigint AS corrected
         FROM (SELECT * FROM pipeline.objects ORDER BY id DESC LIMIT $1) AS o
         LEFT JOIN LATERAL (
            SELECT sum(applied + stale + rejected) AS received, sum(rejected) AS rejected, sum(stale) AS stale,
                sum(corrected) AS corrected
            FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation
         ) AS p ON true
         ORDER BY o.id DESC",
    )
    .bind(i64::from(limit))
    .fetch_all(&mut *connection)
    .await?;
    let total = sqlx::query_scalar("SELECT count(*) FROM pipeline.objects").fetch_one(&mut *connection).await?;
    Ok(Files { files, total })
}

/// The newest files of each state, the newest first.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn newest(connection: &mut PgConnection) -> Result<Vec<FileOutcome>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.domain, o.key, o.state, o.rows, o.reason, o.last_modified, o.size_bytes,
            o.ignored_columns AS unknown_columns, o.absent_defaults, o.overtaken,
            coalesce(p.received, 0)::bigint AS received, coalesce(p.rejected, 0)::bigint AS rejected,
            coalesce(p.stale, 0)::bigint AS stale, coalesce(p.corrected, 0)::bigint AS corrected,
            CASE WHEN o.state = $3
                THEN greatest(extract(epoch FROM p.committed_at - o.last_modified), 0)::double precision END AS seconds
         FROM UNNEST($1::text[]) AS s (state)
         CROSS JOIN LATERAL (
            SELECT * FROM pipeline.objects o WHERE o.state = s.state ORDER BY o.id DESC LIMIT $2
         ) AS o
         LEFT JOIN LATERAL (
            SELECT sum(applied + stale + rejected) AS received, sum(rejected) AS rejected, sum(stale) AS stale,
                sum(corrected) AS corrected, max(updated_at) AS committed_at
            FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation
         ) AS p ON true
         ORDER BY o.id DESC",
    )
    .bind(ObjectState::ALL.map(ObjectState::name).as_slice())
    .bind(FILES_A_STATE)
    .bind(ObjectState::Applied)
    .fetch_all(connection)
    .await
}

/// Domain → its newest applied files, the oldest first.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn freshness(
    connection: &mut PgConnection,
    domains: &[&'static Domain],
) -> Result<BTreeMap<String, Vec<Freshness>>, sqlx::Error> {
    let names: Vec<&str> = domains.iter().map(|domain| domain.name).collect();
    let files: Vec<Freshness> = sqlx::query_as(
        "SELECT o.domain, o.key, p.committed_at AS applied_at,
            greatest(extract(epoch FROM p.committed_at - o.last_modified), 0)::double precision AS seconds
         FROM UNNEST($1::text[]) AS d (domain)
         CROSS JOIN LATERAL (
            SELECT * FROM pipeline.objects o WHERE o.domain = d.domain AND o.state = $3
            ORDER BY o.src_ord DESC LIMIT $2
         ) AS o
         CROSS JOIN LATERAL (
            SELECT max(updated_at) AS committed_at
            FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation
         ) AS p
         WHERE p.committed_at IS NOT NULL
         ORDER BY o.src_ord",
    )
    .bind(names)
    .bind(FILES_TIMED)
    .bind(ObjectState::Applied)
    .fetch_all(connection)
    .await?;
    let mut freshness: BTreeMap<String, Vec<Freshness>> = BTreeMap::new();
    for file in files {
        freshness.entry(file.domain.clone()).or_default().push(file);
    }
    Ok(freshness)
}
