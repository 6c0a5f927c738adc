//! Replay: rows in the topic are processed again while the live pipeline runs.
//!
//! A replay reads with its own assignment (`ranges`), never past the live bookmarks, judges the rows by the rules
//! of this program, and writes batch by batch, each in a transaction that moves the replay's own bookmarks. If it is
//! killed, the same command resumes it where it stopped. A domain has one replay at a time.
//!
//! - [`in_place`] corrects the live table. Old data never overwrites new data: the guard of the live upsert applies.
//! - [`preview`] shows what that would do, and writes nothing.
//! - [`Shadow`] fills a second table, compares it with the live one, and puts it in its place.

mod drive;
mod in_place;
mod plan;
mod shadow;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use freshet_sinks::apply::ApplyError;
use freshet_sinks::bookmarks;
use freshet_sinks::bookmarks::streams::{self, Binding};
use freshet_sinks::replay::{self as replays, BeginError, ReplayLock};
use freshet_sinks::shadow::Refused;
use freshet_topics::Domain;
use freshet_topics::catalog::{self, CatalogError};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::{Ends, LogError, LogReader};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

pub use in_place::{Preview, in_place, preview};
pub use plan::{ParsePointError, PlanError, Point, Request};
pub use shadow::Shadow;

use crate::ranges::RangeError;
use crate::settings::ProcessSettings;

/// What a replay needs.
#[derive(Clone)]
pub struct ReplayContext {
    /// The domain.
    pub domain: &'static Domain,
    /// Batching.
    pub settings: ProcessSettings,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Postgres.
    pub pool: PgPool,
    /// A name for this process, unlike any other's.
    pub owner: String,
    /// The most rows a second, to leave the machine to the live pipeline.
    pub rows_per_second: Option<NonZeroU32>,
}

impl ReplayContext {
    fn topic(&self) -> String {
        self.domain.topic(&self.kafka.topic_prefix)
    }
}

/// The progress of a replay, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages read.
    pub done: i64,
    /// Messages to read in total, as far as known.
    pub total: i64,
    /// Rows in the messages read.
    pub rows: i64,
    /// Rows that COPY wrote into a shadow.
    pub copied: u64,
}

impl Progress {
    /// Adds messages, with their rows, to those read.
    fn add(&mut self, messages: i64, rows: i64) {
        self.done += messages;
        self.rows += rows;
    }
}

/// The channel for a replay's progress.
pub type ProgressSender = watch::Sender<Progress>;

/// Why a replay did not finish.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Another process runs a replay of the domain.
    #[error("another process is replaying {domain}{}", of(.owner.as_deref()))]
    Busy {
        /// The domain.
        domain: &'static str,
        /// The process that runs it.
        owner: Option<String>,
    },
    /// The topic is not the one that the tables were made from.
    #[error("the topic of {0} is not the one that was applied: `freshet bookmarks adopt {0}` first")]
    OtherTopic(&'static str),
    /// The request does not fit the topic.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An unfinished replay prevents it.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// An error of Kafka.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// An error of Kafka.
    #[error("look at the topic: {0}")]
    Log(#[from] LogError),
    /// An error of Kafka.
    #[error("look at the topic: {0}")]
    Catalog(#[from] CatalogError),
    /// Postgres did not accept a batch, even after retries.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An error of Postgres.
    #[error("{action}: {source}")]
    Postgres {
        /// The attempted action.
        action: &'static str,
        /// Postgres' error.
        source: sqlx::Error,
    },
    /// Another process has taken over the replay, or another topic was adopted.
    #[error("another process has taken over this replay, or another topic was adopted meanwhile")]
    Lost,
    /// A partition is not read to its end, and is none of those that this run found.
    #[error("Kafka names fewer partitions than when this replay began: run the same command again to continue")]
    FewerPartitions,
    /// The shadow cannot catch up with the live pipeline, or rows do not arrive.
    #[error("the shadow could not catch up with the live table in {0} tries: try again when fewer rows arrive")]
    NotCaughtUp(u32),
    /// The shadow cannot take the live table's place.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Ctrl-C.
    #[error("interrupted; run the same command again to continue")]
    Interrupted,
    /// A task panicked.
    #[error("a task of the replay ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The thread that reads the topic panicked.
    #[error("the reader of the topic ended early")]
    Reader,
}

fn of(owner: Option<&str>) -> String {
    owner.map(|owner| format!(" ({owner})")).unwrap_or_default()
}

fn postgres(action: &'static str) -> impl Fn(sqlx::Error) -> ReplayError {
    move |source| ReplayError::Postgres { action, source }
}

/// Takes the lock of the domain's replays.
async fn lock(context: &ReplayContext) -> Result<ReplayLock, ReplayError> {
    let failed = postgres("lock the domain's replays");
    if let Some(lock) = replays::lock(&context.pool, context.domain.name).await.map_err(&failed)? {
        return Ok(lock);
    }
    let unfinished = replays::unfinished(&context.pool, context.domain.name).await.map_err(&failed)?;
    Err(ReplayError::Busy { domain: context.domain.name, owner: unfinished.map(|replay| replay.owner) })
}

/// The present topic, and how far it is applied.
struct Topic {
    stream_id: Uuid,
    ends: BTreeMap<i32, Ends>,
    /// Partition → the live bookmark.
    bookmarks: BTreeMap<i32, i64>,
}

async fn look(context: &ReplayContext) -> Result<Topic, ReplayError> {
    let failed = postgres("read the bookmarks");
    let state = catalog::describe(&context.kafka, context.domain).await?;
    let bound =
        streams::bind(&context.pool, context.domain.name, &state.topic, state.stream_id()).await.map_err(&failed)?;
    let Binding::Same(stream_id) = bound else { return Err(ReplayError::OtherTopic(context.domain.name)) };
    let bookmarks = bookmarks::offsets(&context.pool, context.domain.name, Some(stream_id)).await.map_err(&failed)?;
    let ends = ask(context, |reader, topic| reader.ends(topic)).await?;
    Ok(Topic { stream_id, ends, bookmarks })
}

/// Runs a query to Kafka on a thread that may block.
async fn ask<T: Send + 'static>(
    context: &ReplayContext,
    question: impl FnOnce(&LogReader, &str) -> Result<T, LogError> + Send + 'static,
) -> Result<T, ReplayError> {
    let (kafka, topic) = (context.kafka.clone(), context.topic());
    let asked = tokio::task::spawn_blocking(move || question(&LogReader::new(&kafka)?, &topic)).await;
    Ok(asked??)
}
