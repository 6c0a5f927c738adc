//! Files: the newest of the ledger, the results of their rows, and how long they took.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_sinks::ledger::{ObjectState, UNFINISHED_SQL};
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

/// Which files are listed.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// At most so many, the newest.
    pub files_max: u32,
    /// Of this domain.
    pub domain: Option<&'static str>,
    /// With a key like one of these, as LIKE takes them; any, if there are none.
    pub like: Vec<String>,
    /// Last modified then or later.
    pub since: Option<DateTime<Utc>>,
}

/// Files listed of each state, the newest.
const FILES_A_STATE: i64 = 40;
/// Files that lost rows are counted up to here.
const LOSSES_COUNTED: i64 = 1_000;
/// Longest that the version of the outputs is looked for which first held a file.
pub(crate) const OUTPUTS_TIMEOUT: Duration = Duration::from_secs(4);
/// Files of each domain whose way through is told, the newest.
const FILES_TIMED: i64 = 40;

/// A page of the ledger, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Files {
    pub files: Vec<FileStatus>,
    /// Files there are of those that were asked for.
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
    /// When it was applied; of one that is not, when something happened to it last.
    pub touched_at: DateTime<Utc>,
    /// Columns of its header that the domain does not have: the first of them, and how many more.
    pub unknown_columns: Vec<String>,
    /// Columns that it lacks, and for which its rows have the contract's value.
    pub absent_defaults: Vec<String>,
    /// Rows of it whose key comes again further down in it: of each key the last row loads.
    pub overtaken: i64,
}

/// One object version, with the results of its rows.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct FileOutcome {
    #[sqlx(flatten)]
    #[serde(flatten)]
    status: FileStatus,
    size_bytes: i64,
    /// From its last-modified to when all of its rows were applied; none before.
    seconds: Option<f64>,
}

/// Files of which rows were rejected.
#[derive(Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub(crate) struct Losses {
    /// Files with a rejected row, counted up to a bound, the newest first.
    files: i64,
    /// Those of them of which every row was rejected.
    whole: i64,
    /// Whether there are more.
    more: bool,
}

impl FileOutcome {
    /// `pipeline.objects.id`.
    pub(crate) fn id(&self) -> i64 {
        self.status.id
    }

    pub(crate) fn domain(&self) -> &str {
        &self.status.domain
    }

    pub(crate) fn key(&self) -> &str {
        &self.status.key
    }

    pub(crate) fn state(&self) -> ObjectState {
        self.status.state
    }

    /// Rows of it that were rejected.
    pub(crate) fn rejected(&self) -> i64 {
        self.status.rejected
    }
}

/// Which files are requested, by their result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    /// Not through.
    Open,
    /// Applied, and some row of it was.
    Applied,
    /// As a whole, or each of its rows.
    Rejected,
    /// With a rejected row.
    Rejects,
    Superseded,
}

impl Kind {
    /// All, by what they are called in an address.
    const NAMES: [(&'static str, Kind); 6] = [
        ("all", Kind::All),
        ("open", Kind::Open),
        ("applied", Kind::Applied),
        ("rejected", Kind::Rejected),
        ("rejects", Kind::Rejects),
        ("superseded", Kind::Superseded),
    ];

    pub(crate) fn by_name(name: &str) -> Option<Kind> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// What holds of such a file `o`, and of what became of its rows, `p`; `$1` is the state `applied`.
    fn condition(self) -> Cow<'static, str> {
        match self {
            Kind::All => "true".into(),
            Kind::Open => format!("o.state IN {UNFINISHED_SQL}").into(),
            Kind::Applied => "o.state = $1 AND NOT (o.rows > 0 AND coalesce(p.rejected, 0) >= o.rows)".into(),
            Kind::Rejected => "(o.state = 'rejected' OR o.state = $1 AND o.rows > 0 AND p.rejected >= o.rows)".into(),
            Kind::Rejects => "p.rejected > 0".into(),
            Kind::Superseded => "o.state = 'superseded'".into(),
        }
    }
}

/// Which files are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Of any domain, if none.
    pub(crate) domain: Option<String>,
    pub(crate) kind: Kind,
    /// What stands somewhere in their key, in any case.
    pub(crate) search: String,
    /// Only files with a smaller `pipeline.objects.id`.
    pub(crate) before: i64,
    /// How many are given.
    pub(crate) files_max: i64,
    /// How many are looked at.
    pub(crate) looked_at_max: i64,
}

/// How long a file took.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Freshness {
    #[serde(skip)]
    domain: String,
    key: String,
    applied_at: DateTime<Utc>,
    /// From its last-modified, a whole second, to when all of its rows were applied.
    seconds: f64,
}

/// The newest files of the ledger that are asked for.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn list(connection: &mut PgConnection, listed: &Listed) -> Result<Files, sqlx::Error> {
    let Listed { files_max, domain, like, since } = listed;
    let of = "FROM pipeline.objects o WHERE ($1::text IS NULL OR o.domain = $1) AND ($2 = '{}' OR o.key LIKE ANY ($2))
        AND ($3::timestamptz IS NULL OR o.last_modified >= $3)";
    let sql = format!(
        "SELECT {STATUS} FROM (SELECT o.* {of} ORDER BY o.id DESC LIMIT $4) AS o {PROGRESS} ORDER BY o.id DESC"
    );
    let files = sqlx::query_as(AssertSqlSafe(sql)).bind(domain).bind(like).bind(since).bind(i64::from(*files_max));
    let files: Vec<FileStatus> = files.fetch_all(&mut *connection).await?;
    let total = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {of}"))).bind(domain).bind(like).bind(since);
    Ok(Files { files, total: total.fetch_one(&mut *connection).await? })
}

/// What a query of [`FileStatus`]es selects, of `o`, an object joined to [`PROGRESS`].
const STATUS: &str = "o.id, o.domain, o.key, o.state, o.rows, o.reason, o.last_modified,
    o.ignored_columns AS unknown_columns, o.absent_defaults, o.overtaken,
    coalesce(CASE WHEN o.state = 'applied' THEN o.applied_at END,
        greatest(o.discovered_at, o.published_at, p.updated_at)) AS touched_at,
    coalesce(p.received, 0)::bigint AS received, coalesce(p.rejected, 0)::bigint AS rejected,
    coalesce(p.stale, 0)::bigint AS stale, coalesce(p.corrected, 0)::bigint AS corrected";

/// What a query of [`FileOutcome`]s selects, of `o`, an object; `$1` is the state `applied`.
///
/// A file is through when the ledger says so for the first time: its progress is written anew by a replay or a swap.
fn outcome() -> String {
    format!(
        "{STATUS}, o.size_bytes, CASE WHEN o.state = $1
            THEN greatest(extract(epoch FROM o.applied_at - o.last_modified), 0)::double precision END AS seconds"
    )
}

/// The results of the rows of `o`, joined to it.
const PROGRESS: &str = "LEFT JOIN LATERAL (
        SELECT sum(applied + stale + rejected) AS received, sum(rejected) AS rejected, sum(stale) AS stale,
            sum(corrected) AS corrected, max(p.updated_at) AS updated_at
        FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation
    ) AS p ON true";

/// The objects with rejects, the newest first, one step in the primary key of the rejects each; `$2` of them at most.
const REJECTED: &str = "WITH RECURSIVE step (object) AS (
        (SELECT max(object) FROM pipeline.rejects)
        UNION ALL
        SELECT (SELECT max(r.object) FROM pipeline.rejects r WHERE r.object < s.object) FROM step s WHERE s.object > 0
    ), rejected AS (SELECT object FROM step WHERE object > 0 LIMIT $2)";

/// The newest files of each state and the newest with rejected rows, the newest first. Those that are not applied are in an
/// index of their own; there are few of them, and behind each step from one to the next could be a million others.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn newest(connection: &mut PgConnection) -> Result<Vec<FileOutcome>, sqlx::Error> {
    let sql = format!(
        "{REJECTED}, shown AS (
            SELECT o.id FROM UNNEST($3::text[]) AS s (state)
            CROSS JOIN LATERAL (
                SELECT id FROM pipeline.objects o WHERE o.state = s.state AND (o.state = 'applied') IS NOT TRUE
                ORDER BY o.id DESC LIMIT $2
            ) AS o
            UNION
            (SELECT id FROM pipeline.objects o WHERE o.state = 'applied' ORDER BY o.id DESC LIMIT $2)
            UNION
            SELECT object FROM rejected
         )
         SELECT {} FROM shown JOIN pipeline.objects o ON o.id = shown.id {PROGRESS} ORDER BY o.id DESC",
        outcome()
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(ObjectState::Applied)
        .bind(FILES_A_STATE)
        .bind(ObjectState::ALL.map(ObjectState::name).as_slice())
        .fetch_all(connection)
        .await
}

/// One file.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn one(connection: &mut PgConnection, id: i64) -> Result<Option<FileOutcome>, sqlx::Error> {
    let sql = format!("SELECT {} FROM pipeline.objects o {PROGRESS} WHERE o.id = $2", outcome());
    sqlx::query_as(AssertSqlSafe(sql)).bind(ObjectState::Applied).bind(id).fetch_optional(connection).await
}

/// The newest files that are wanted, and the last one that was looked at for them, if there are more behind it.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn page(
    connection: &mut PgConnection,
    wanted: Wanted,
) -> Result<(Vec<FileOutcome>, Option<i64>), sqlx::Error> {
    let Wanted { domain, kind, search, before, files_max, looked_at_max } = wanted;
    // Both are in the order of the primary key: nothing is sorted, and the first page ends the scan.
    let sql = format!(
        "SELECT {}
         FROM (SELECT * FROM pipeline.objects WHERE id < $2 ORDER BY id DESC LIMIT $3) AS o {PROGRESS}
         WHERE ($4::text IS NULL OR o.domain = $4) AND ($5 = '' OR strpos(lower(o.key), lower($5)) > 0) AND {}
         ORDER BY o.id DESC LIMIT $6",
        outcome(),
        kind.condition()
    );
    let files = sqlx::query_as(AssertSqlSafe(sql))
        .bind(ObjectState::Applied)
        .bind(before)
        .bind(looked_at_max)
        .bind(domain)
        .bind(search)
        .bind(files_max)
        .fetch_all(&mut *connection)
        .await?;
    let looked_to =
        "SELECT l.id FROM (SELECT id FROM pipeline.objects WHERE id < $1 ORDER BY id DESC OFFSET $2 LIMIT 1) AS l
         WHERE EXISTS (SELECT FROM pipeline.objects o WHERE o.id < l.id)";
    let looked_to =
        sqlx::query_scalar(looked_to).bind(before).bind(looked_at_max - 1).fetch_optional(connection).await?;
    Ok((files, looked_to))
}

/// Counts the files of which rows were rejected.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn losses(connection: &mut PgConnection) -> Result<Losses, sqlx::Error> {
    let sql = format!(
        "{REJECTED}
         SELECT count(*) AS files, count(*) FILTER (WHERE p.rejected >= o.rows AND o.state = $1) AS whole,
            (SELECT count(*) FROM rejected) >= $2 AS more
         FROM rejected r JOIN pipeline.objects o ON o.id = r.object {PROGRESS} WHERE p.rejected > 0"
    );
    sqlx::query_as(AssertSqlSafe(sql)).bind(ObjectState::Applied).bind(LOSSES_COUNTED).fetch_one(connection).await
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
        "SELECT o.domain, o.key, o.applied_at,
            greatest(extract(epoch FROM o.applied_at - o.last_modified), 0)::double precision AS seconds
         FROM UNNEST($1::text[]) AS d (domain)
         CROSS JOIN LATERAL (
            SELECT * FROM pipeline.objects o WHERE o.domain = d.domain AND o.state = $3
            ORDER BY o.src_ord DESC LIMIT $2
         ) AS o
         WHERE o.applied_at IS NOT NULL
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
