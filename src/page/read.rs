//! Reads the sections of the page from Postgres and S3.
//!
//! A service that does not answer is named in `away` and not asked for more; what cannot be read is named in `trouble`.
//! The sections keep their last content, because the page is needed most when a service is down.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::Utc;
use freshet_topics::Pipeline;
use freshet_topics::causes::in_one_line;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::timeout;

use super::answers::{self, Answers};
use super::entities;
use super::feed::{Reading, Sections, Source};
use super::history::History;
use super::published::{Published, Shown};
use super::upload;
use crate::config::Config;
use crate::roles::Services;
use crate::status::files::{self, FileOutcome, Freshness, Losses};
use crate::status::quality::Quality;
use crate::status::table_rows::{self, TableRows};
use crate::status::{self, Outside, Status};

/// The section that says when the others were read. It is different each time and, by its name, the last.
const WHEN: &str = "when";
/// A reading of one service ends after this, and starts again with the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What ends a statement at the server, well before its reading is given up: whoever stops waiting for one does not
/// stop it.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '7s'";

/// What stays as it is.
#[derive(Debug, Serialize)]
pub(super) struct About {
    version: &'static str,
    raw_bucket: String,
    processed_bucket: String,
    endpoint: String,
    /// Domain → the prefixes that its files may have.
    prefixes: Vec<(&'static str, Vec<String>)>,
    /// Column → the dimension of which it holds a reference: what has a history.
    entities: BTreeMap<&'static str, &'static str>,
    /// Whether files may be dropped on the page.
    may_write: bool,
    /// The file to source for addresses and keys.
    env_file: String,
}

impl About {
    pub(super) fn new(config: &Config, env_file: &Path) -> About {
        let prefixes = config.pipeline.domains.iter().map(|domain| {
            let patterns = config.ingest.all_patterns_of(domain);
            (domain.name, patterns.filter(|it| it.ends_with('/')).map(str::to_owned).collect())
        });
        About {
            version: env!("CARGO_PKG_VERSION"),
            raw_bucket: config.s3.raw_bucket.clone(),
            processed_bucket: config.s3.processed_bucket.clone(),
            endpoint: config.s3.endpoint.clone(),
            prefixes: prefixes.collect(),
            entities: entities::by_column(config.pipeline),
            may_write: upload::may_write(&config.http),
            env_file: env_file.display().to_string(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Tables {
    status: Status,
    files: Vec<FileOutcome>,
    /// Domain → its newest applied files, the oldest first.
    freshness: BTreeMap<String, Vec<Freshness>>,
    quality: Quality,
    losses: Losses,
    tables: BTreeMap<&'static str, TableRows>,
}

/// Reads the state, and remembers what it was.
pub(super) struct Reader {
    pipeline: &'static Pipeline,
    pool: PgPool,
    published: Published,
    answers: Answers,
    history: Arc<History>,
    sections: Sections,
}

impl Reader {
    pub(super) fn new(services: Services, history: Arc<History>, about: About) -> Reader {
        let mut sections = Sections::new();
        put(&mut sections, "about", &about);
        Reader {
            pipeline: services.config.pipeline,
            pool: services.pool.clone(),
            published: Published::new(&services),
            answers: Answers::new(&services),
            history,
            sections,
        }
    }
}

impl Source for Reader {
    async fn read(&mut self) -> Reading {
        self.answers.look().await;
        let asked = Instant::now();
        let outside = Outside { missing_topics: self.answers.missing_topics(), ..Outside::default() };
        // S3 after Postgres: a change that no longer waits there is in what is published here.
        let tables = match self.answers.is_there(answers::POSTGRES) {
            true => Some(timeout(ANSWER_TIMEOUT, Tables::read(&self.pool, self.pipeline, &outside)).await),
            false => None,
        };
        let published = match self.answers.is_there(answers::S3) {
            true => Some(timeout(ANSWER_TIMEOUT, self.published.look()).await),
            false => None,
        };
        let work = asked.elapsed();
        let tables = tables.map(|tables| tables.context("no answer in time").and_then(|it| it).context("Postgres"));
        let published = published.map(|look| look.context("no answer in time").and_then(|it| it).context("S3"));
        let trouble =
            [tables.as_ref().and_then(|it| it.as_ref().err()), published.as_ref().and_then(|it| it.as_ref().err())];
        let trouble: Vec<String> = trouble.into_iter().flatten().map(|error| in_one_line(error.as_ref())).collect();
        let sections = &mut self.sections;
        let shown = self.published.shown();
        if let Some(Ok(mut tables)) = tables {
            tables.add(&shown);
            put(sections, "status", &tables.status);
            put(sections, "files", &tables.files);
            put(sections, "freshness", &tables.freshness);
            put(sections, "losses", &tables.losses);
            put(sections, "quality", &tables.quality);
            put(sections, "tables", &tables.tables);
        }
        put(sections, "away", &self.answers.away());
        put(sections, "outputs", &shown);
        put(sections, "charts", self.published.charts());
        put(sections, "history", &self.history.columns());
        put(sections, "trouble", &trouble);
        put(sections, WHEN, &Utc::now());
        Reading { sections: sections.clone(), work }
    }
}

fn put(sections: &mut Sections, name: &'static str, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => drop(sections.insert(name, json)),
        Err(error) => tracing::error!(%error, section = name, "write a section of the status page"),
    }
}

impl Tables {
    async fn read(pool: &PgPool, pipeline: &'static Pipeline, outside: &Outside) -> Result<Tables> {
        // One after the other: a viewer costs one connection. The transaction is there for the timeout, which ends with it.
        let mut transaction = pool.begin().await.context("connect")?;
        let connection = &mut *transaction;
        sqlx::query(STATEMENT_TIMEOUT).execute(&mut *connection).await.context("bound the reading")?;
        let tables = Tables {
            status: status::read(connection, pipeline, pipeline.domains, outside, None).await?,
            quality: Quality::read(connection, pipeline).await?,
            files: files::newest(connection).await.context("list the files in the ledger")?,
            freshness: files::freshness(connection, pipeline.domains).await.context("read how long files took")?,
            losses: files::losses(connection).await.context("count the files that lost rows")?,
            tables: table_rows::read(connection, pipeline.domains).await.context("count the rows of the tables")?,
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
