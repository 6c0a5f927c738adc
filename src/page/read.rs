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
use sqlx::{Connection, PgConnection, PgPool};
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

/// What Postgres says, as far as it could be read.
#[derive(Debug, Default)]
struct Tables {
    status: Option<Status>,
    files: Option<Vec<FileOutcome>>,
    /// Domain → its newest applied files, the oldest first.
    freshness: Option<BTreeMap<String, Vec<Freshness>>>,
    quality: Option<Quality>,
    losses: Option<Losses>,
    tables: Option<BTreeMap<&'static str, TableRows>>,
    /// Why parts could not be read.
    failed: Vec<anyhow::Error>,
}

/// A part of [`Tables`] that is read by itself.
#[derive(Debug, Clone, Copy)]
enum Part {
    Status,
    Files,
    Freshness,
    Quality,
    Losses,
    Tables,
}

/// In the order in which they are read: those that count many rows come last, as little time is left after a slow one.
const PARTS: [Part; 6] = [Part::Status, Part::Files, Part::Freshness, Part::Quality, Part::Losses, Part::Tables];

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
        let mut tables = Tables::default();
        let mut failed: Vec<anyhow::Error> = Vec::new();
        // S3 after Postgres: a change that no longer waits there is in what is published here.
        if self.answers.is_there(answers::POSTGRES) {
            let read = timeout(ANSWER_TIMEOUT, tables.read(&self.pool, self.pipeline, &outside)).await;
            let read = read.context("no answer in time").and_then(|it| it);
            failed.extend(tables.failed.drain(..).chain(read.err()).map(|error| error.context("Postgres")));
        }
        if self.answers.is_there(answers::S3) {
            let look = timeout(ANSWER_TIMEOUT, self.published.look()).await;
            let look = look.context("no answer in time").and_then(|it| it).context("S3");
            failed.extend(look.err());
        }
        let work = asked.elapsed();
        let trouble: Vec<String> = failed.iter().map(|error| in_one_line(error.as_ref())).collect();
        let sections = &mut self.sections;
        let shown = self.published.shown();
        tables.add(&shown);
        put_read(sections, "status", tables.status.as_ref());
        put_read(sections, "files", tables.files.as_ref());
        put_read(sections, "freshness", tables.freshness.as_ref());
        put_read(sections, "losses", tables.losses.as_ref());
        put_read(sections, "quality", tables.quality.as_ref());
        put_read(sections, "tables", tables.tables.as_ref());
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

/// What could not be read stays as it was.
fn put_read(sections: &mut Sections, name: &'static str, value: Option<&impl Serialize>) {
    if let Some(value) = value {
        put(sections, name, value);
    }
}

impl Tables {
    /// Reads the parts, without those that fail.
    ///
    /// One after the other: a viewer costs one connection. The transaction is there for the timeout, which ends with it,
    /// and each part has a savepoint, so that one that takes too long does not end the transaction.
    async fn read(&mut self, pool: &PgPool, pipeline: &'static Pipeline, outside: &Outside) -> Result<()> {
        let mut transaction = pool.begin().await.context("connect")?;
        let connection = &mut *transaction;
        sqlx::query(STATEMENT_TIMEOUT).execute(&mut *connection).await.context("bound the reading")?;
        for part in PARTS {
            let mut attempt = connection.begin().await.context("begin a part of the reading")?;
            let read = self.read_part(part, &mut attempt, pipeline, outside).await;
            // Nothing was written.
            let ended = attempt.rollback().await;
            match (read, ended) {
                (Ok(()), ended) => ended.context("end a part of the reading")?,
                (Err(error), Ok(())) => self.failed.push(error),
                // The connection is gone.
                (Err(error), Err(_)) => return Err(error),
            }
        }
        transaction.commit().await.context("end the reading")
    }

    async fn read_part(
        &mut self,
        part: Part,
        connection: &mut PgConnection,
        pipeline: &'static Pipeline,
        outside: &Outside,
    ) -> Result<()> {
        let domains = pipeline.domains;
        match part {
            Part::Status => self.status = Some(status::read(connection, pipeline, domains, outside, None).await?),
            Part::Files => {
                self.files = Some(files::newest(connection).await.context("list the files in the ledger")?);
            }
            Part::Freshness => {
                let freshness = files::freshness(connection, domains).await;
                self.freshness = Some(freshness.context("read how long files took")?);
            }
            Part::Quality => self.quality = Some(Quality::read(connection, pipeline).await?),
            Part::Losses => {
                self.losses = Some(files::losses(connection).await.context("count the files that lost rows")?);
            }
            Part::Tables => {
                let tables = table_rows::read(connection, domains).await;
                self.tables = Some(tables.context("count the rows of the tables")?);
            }
        }
        Ok(())
    }

    /// What only S3 knows.
    fn add(&mut self, published: &Shown) {
        if let Some(status) = &mut self.status {
            status.outputs.version = published.version;
            status.outputs.copies_behind = Some(published.copies_behind.clone());
        }
    }
}
