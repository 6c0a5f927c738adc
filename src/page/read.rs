//! What the page shows, section by section, as it is read from Postgres and S3.
//!
//! What does not answer leaves its sections as they were and is named in `trouble`: the page is wanted most when
//! something is down.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_sinks::ledger::ObjectState;
use freshet_topics::DOMAINS;
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::feed::{Sections, Source};
use super::history::History;
use super::published::{Published, Shown};
use crate::commands::status::{self, FileStatus, Outside, Status};
use crate::config::Config;
use crate::roles::Services;

/// The section that says when the others were read. It is different each time and, by its name, the last.
const WHEN: &str = "when";
/// A service that does not answer within this counts as away, until the next reading.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What ends a statement at the server: whoever stops waiting for one does not stop it.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '9s'";
/// Files listed of each state, the newest.
const FILES_A_STATE: i64 = 40;
/// Files of each domain whose way through is charted, the newest.
const FILES_CHARTED: i64 = 40;
const RULES: i64 = 60;

/// What stays as it is.
#[derive(Debug, Serialize)]
pub(super) struct About {
    version: &'static str,
    raw_bucket: String,
    processed_bucket: String,
    endpoint: String,
    /// Domain → the prefixes that its files may have.
    prefixes: Vec<(&'static str, Vec<String>)>,
    /// The file to source for addresses and keys.
    env_file: String,
}

impl About {
    pub(super) fn new(config: &Config, env_file: &Path) -> About {
        let prefixes = DOMAINS.iter().map(|domain| {
            let patterns = domain.patterns.iter().copied().chain(config.ingest.patterns_of(domain.name));
            (domain.name, patterns.filter(|it| it.ends_with('/')).map(str::to_owned).collect())
        });
        About {
            version: env!("CARGO_PKG_VERSION"),
            raw_bucket: config.s3.raw_bucket.clone(),
            processed_bucket: config.s3.processed_bucket.clone(),
            endpoint: config.s3.endpoint.clone(),
            prefixes: prefixes.collect(),
            env_file: env_file.display().to_string(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Tables {
    status: Status,
    files: Vec<File>,
    /// Domain → its newest applied files, the oldest first.
    freshness: BTreeMap<String, Vec<Freshness>>,
    quality: Quality,
}

/// A file as the page lists it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct File {
    #[sqlx(flatten)]
    #[serde(flatten)]
    status: FileStatus,
    size_bytes: i64,
    /// Rows with a value corrected.
    corrected: i64,
    /// From its last-modified to the commit of its last row; none before it is applied.
    seconds: Option<f64>,
}

/// How long a file was on its way.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Freshness {
    #[serde(skip)]
    domain: String,
    key: String,
    applied_at: DateTime<Utc>,
    /// From its last-modified, a whole second, to the commit of its last row.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Quality {
    rejects: Vec<Rejects>,
    corrections: Vec<Corrections>,
}

/// Rows that a rule keeps out, with one of them as an example.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Rejects {
    domain: String,
    rule: String,
    rows: i64,
    key: Option<String>,
    line: i64,
    column: Option<String>,
    value: Option<String>,
}

/// Changes that a rule made to the values of a column.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Corrections {
    domain: String,
    column: String,
    rule: String,
    values: i64,
}

/// Reads the state, and remembers what it was.
pub(super) struct Reader {
    pool: PgPool,
    published: Published,
    history: Arc<History>,
    sections: Sections,
}

impl Reader {
    pub(super) fn new(services: Services, history: Arc<History>, about: About) -> Reader {
        let mut sections = Sections::new();
        put(&mut sections, "about", &about);
        Reader { pool: services.pool.clone(), published: Published::new(&services), history, sections }
    }
}

impl Source for Reader {
    async fn read(&mut self) -> Sections {
        // S3 after Postgres: a change that no longer waits there is in what is published here.
        let tables = tokio::time::timeout(ANSWER_TIMEOUT, Tables::read(&self.pool)).await;
        let published = tokio::time::timeout(ANSWER_TIMEOUT, self.published.look()).await;
        let tables = tables.context("no answer in time").and_then(|tables| tables).context("Postgres");
        let published = published.context("no answer in time").and_then(|look| look).context("S3");
        let trouble = [tables.as_ref().err(), published.as_ref().err()];
        let trouble: Vec<String> = trouble.into_iter().flatten().map(|error| format!("{error:#}")).collect();
        let sections = &mut self.sections;
        let shown = self.published.shown();
        if let Ok(mut tables) = tables {
            tables.add(&shown);
            put(sections, "status", &tables.status);
            put(sections, "files", &tables.files);
            put(sections, "freshness", &tables.freshness);
            put(sections, "quality", &tables.quality);
        }
        put(sections, "outputs", &shown);
        put(sections, "scores", self.published.scores());
        put(sections, "history", &self.history.columns());
        put(sections, "trouble", &trouble);
        put(sections, WHEN, &Utc::now());
        sections.clone()
    }
}

fn put(sections: &mut Sections, name: &'static str, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => drop(sections.insert(name, json)),
        Err(error) => tracing::error!(%error, section = name, "write a section of the status page"),
    }
}

impl Tables {
    async fn read(pool: &PgPool) -> Result<Tables> {
        // One after the other: a viewer costs one connection. The transaction is there for the timeout, which ends with it.
        let mut transaction = pool.begin().await.context("connect")?;
        let connection = &mut *transaction;
        sqlx::query(STATEMENT_TIMEOUT).execute(&mut *connection).await.context("bound the reading")?;
        let tables = Tables {
            status: status::read(connection, &DOMAINS, &Outside::default(), None).await?,
            files: files(connection).await.context("list the files in the ledger")?,
            freshness: freshness(connection).await.context("read how long files took")?,
            quality: Quality {
                rejects: rejects(connection).await.context("count the rejects")?,
                corrections: corrections(connection).await.context("count the corrections")?,
            },
        };
        transaction.commit().await.context("end the reading")?;
        Ok(tables)
    }

    /// What only S3 knows.
    fn add(&mut self, published: &Shown) {
        self.status.outputs.version = published.version;
        self.status.outputs.copies_behind = Some(published.copies_behind.clone());
    }
}

/// The newest files of each state, the newest first.
async fn files(connection: &mut PgConnection) -> Result<Vec<File>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.domain, o.key, o.state, o.rows, o.reason, o.last_modified, o.size_bytes,
            coalesce(p.received, 0)::bigint AS received, coalesce(p.rejected, 0)::bigint AS rejected,
            coalesce(p.corrected, 0)::bigint AS corrected,
            CASE WHEN o.state = $3
                THEN greatest(extract(epoch FROM p.committed_at - o.last_modified), 0)::double precision END AS seconds
         FROM UNNEST($1::text[]) AS s (state)
         CROSS JOIN LATERAL (
            SELECT * FROM pipeline.objects o WHERE o.state = s.state ORDER BY o.id DESC LIMIT $2
         ) AS o
         LEFT JOIN LATERAL (
            SELECT sum(applied + stale + rejected) AS received, sum(rejected) AS rejected,
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

async fn freshness(connection: &mut PgConnection) -> Result<BTreeMap<String, Vec<Freshness>>, sqlx::Error> {
    let names: Vec<&str> = DOMAINS.iter().map(|domain| domain.name).collect();
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
    .bind(FILES_CHARTED)
    .bind(ObjectState::Applied)
    .fetch_all(connection)
    .await?;
    let mut freshness: BTreeMap<String, Vec<Freshness>> = BTreeMap::new();
    for file in files {
        freshness.entry(file.domain.clone()).or_default().push(file);
    }
    Ok(freshness)
}

/// Counted in the index of rules; the example is whichever stands first there.
async fn rejects(connection: &mut PgConnection) -> Result<Vec<Rejects>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.domain, c.rule, c.rows, o.key, e.line, e.\"column\", left(e.value, 60) AS value
         FROM (SELECT domain, rule, count(*) AS rows FROM pipeline.rejects GROUP BY domain, rule) AS c
         CROSS JOIN LATERAL (
            SELECT r.object, r.line, r.\"column\", r.value FROM pipeline.rejects r
            WHERE r.domain = c.domain AND r.rule = c.rule LIMIT 1
         ) AS e
         LEFT JOIN pipeline.objects o ON o.id = e.object
         ORDER BY c.rows DESC, c.domain, c.rule LIMIT $1",
    )
    .bind(RULES)
    .fetch_all(connection)
    .await
}

async fn corrections(connection: &mut PgConnection) -> Result<Vec<Corrections>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.domain, split_part(c.what, ':', 1) AS \"column\", split_part(c.what, ':', 2) AS rule,
            sum(c.number::bigint)::bigint AS values
         FROM pipeline.progress p JOIN pipeline.objects o ON o.id = p.object AND o.generation = p.generation
            CROSS JOIN LATERAL jsonb_each_text(p.corrections) AS c (what, number)
         GROUP BY p.domain, c.what ORDER BY 4 DESC, 1, 2, 3 LIMIT $1",
    )
    .bind(RULES)
    .fetch_all(connection)
    .await
}
