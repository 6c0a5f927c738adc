//! A replay in place, and its preview.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use freshet_sinks::apply::difference::Difference;
use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::apply::{ApplyError, Batch};
use freshet_sinks::bookmarks::BookmarkMove;
use freshet_sinks::destination::Destination;
use freshet_sinks::replay::correct::{self, Corrected, Example};
use freshet_sinks::replay::{self as replays, Finished, Kind, Replay, Running, Wanted};
use freshet_topics::Lineage;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use super::drive::{Drive, Sink, announce, left, positions as taken_positions};
use super::plan::{self, Times};
use super::{PlanError, Point, ProgressSender, ReplayContext, ReplayError, Request, Topic, ask, lock, look, postgres};
use crate::ranges::{self, Range, Reading};

/// The most keys that a preview distinguishes; beyond that it counts rows.
const KEYS_MAX: usize = 1_000_000;
/// How often the end of a replay is tried, [`FINISH_PAUSE`] apart: half a minute.
const FINISH_TRIES_MAX: u32 = 30;
const FINISH_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Replays in place: corrects the live table by the rules of this program. Returns the recorded replay.
///
/// # Errors
/// [`ReplayError`]. Corrections made until then stay, and the same request continues from there.
pub async fn in_place(
    context: &ReplayContext,
    request: &Request,
    progress: &ProgressSender,
    shutdown: &CancellationToken,
) -> Result<Replay, ReplayError> {
    let _lock = lock(context).await?;
    let topic = look(context).await?;
    let ranges = plan(context, request, &topic).await?;
    let objects = objects(context, request).await?;
    let mut end_offsets = vec![0; ranges.iter().map(|range| range.partition as usize + 1).max().unwrap_or(0)];
    for range in &ranges {
        end_offsets[range.partition as usize] = range.to;
    }
    let wanted = Wanted {
        domain: context.domain,
        kind: Kind::InPlace,
        request: &request.to_string(),
        stream_id: topic.stream_id,
        starts: &ranges.iter().map(|range| (range.partition, range.from)).collect::<Vec<_>>(),
        end_offsets: Some(end_offsets),
        owner: &context.owner,
    };
    let (replay, taken) = replays::begin(&context.pool, &wanted).await?;
    // An interrupted replay keeps the ends from when it began.
    let ends: BTreeMap<i32, i64> = (0..).zip(replay.end_offsets.iter().flatten().copied()).collect();
    let mut positions = taken_positions(&taken);
    announce(progress, left(&positions, &ends).sum());
    let running = Running { id: replay.id, owner: context.owner.clone() };
    let upsert = Upsert::new(context.domain, Destination::Correction);
    let sink = Sink::InPlace(running.clone());
    let rows_per_second = context.rows_per_second;
    let drive = Drive { context, upsert: &upsert, sink, objects, rows_per_second, progress };
    loop {
        drive.run(&mut positions, &ends, shutdown).await?;
        match finish(context, &running, shutdown).await? {
            Finished::Ended(replay) => return Ok(*replay),
            Finished::Again => {
                let (_, taken) = replays::begin(&context.pool, &wanted).await?;
                positions = taken_positions(&taken);
                let total = left(&positions, &ends).sum();
                // Otherwise it would ask for its end without end.
                if total == 0 {
                    return Err(ReplayError::FewerPartitions);
                }
                announce(progress, total);
            }
        }
    }
}

/// Finishes, retrying for a while after transient errors: a live batch may be at the same rows. Where the answer to a
/// COMMIT was lost, the next try finds what it did.
async fn finish(
    context: &ReplayContext,
    running: &Running,
    shutdown: &CancellationToken,
) -> Result<Finished, ReplayError> {
    let mut tries = 0;
    loop {
        match replays::finish(&context.pool, context.domain, running).await {
            Err(ApplyError::Transient(error)) if tries < FINISH_TRIES_MAX => {
                tries += 1;
                tracing::warn!(domain = context.domain.name, %error, "cannot finish the replay, trying again");
            }
            Err(ApplyError::Lost(_)) => return Err(ReplayError::Lost),
            finished => return Ok(finished?),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(FINISH_PAUSE)).await.is_none() {
            return Err(ReplayError::Interrupted);
        }
    }
}

/// The preview of [`in_place`] on the present table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// The counts.
    pub corrected: Corrected,
    /// Examples of each kind.
    pub examples: Vec<Example>,
    /// Whether there were so many keys to write that one of them may have been counted for several of its rows.
    pub at_most: bool,
}

/// Previews [`in_place`]. Nothing is written: the transaction is read-only.
///
/// # Errors
/// [`ReplayError`].
pub async fn preview(
    context: &ReplayContext,
    request: &Request,
    examples_max: usize,
    progress: &ProgressSender,
    shutdown: &CancellationToken,
) -> Result<Preview, ReplayError> {
    let topic = look(context).await?;
    let ranges = plan(context, request, &topic).await?;
    announce(progress, ranges.iter().map(Range::len).sum());
    let mut batches = ranges::read(Reading {
        domain: context.domain,
        kafka: context.kafka.clone(),
        ranges,
        objects: objects(context, request).await?,
        batch_rows_max: context.settings.batch_rows_max,
    });
    let failed = postgres("look at the table");
    let mut connection = context.pool.acquire().await.map_err(&failed)?;
    let upsert = Upsert::new(context.domain, Destination::Correction);
    let mut sum = Sum { examples_max, ..Sum::default() };
    while let Some(batch) = tokio::select! {
        batch = batches.recv() => batch,
        () = shutdown.cancelled() => return Err(ReplayError::Interrupted),
    } {
        let batch: Batch = batch?.placed(|partition, offsets| {
            Ok::<_, ReplayError>(BookmarkMove { partition, expected: offsets.first, next: offsets.next, epoch: 0 })
        })?;
        // One for each batch: a snapshot held for the whole log would keep Postgres from vacuuming behind the live
        // pipeline.
        let mut looking = connection.begin_with("BEGIN READ ONLY").await.map_err(&failed)?;
        let (corrected, differences, examples) = correct::preview(&mut looking, &upsert, &batch).await?;
        looking.rollback().await.map_err(&failed)?;
        sum.add(corrected, &differences, examples);
        let messages: i64 = batch.bookmarks.iter().map(|bookmark| bookmark.next - bookmark.expected).sum();
        let rows = batch.rows.origins.len() as i64;
        progress.send_modify(|progress| progress.add(messages, rows));
    }
    Ok(sum.preview)
}

/// Adds batches up. Because nothing is written, a later row of a counted key is not counted again.
#[derive(Default)]
struct Sum {
    preview: Preview,
    keys: HashSet<Option<String>>,
    /// Rows that are newly rejected or newly accepted.
    rows: HashSet<Lineage>,
    shown: BTreeMap<&'static str, usize>,
    examples_max: usize,
}

impl Sum {
    fn add(&mut self, batch: Corrected, differences: &[Difference], examples: Vec<Example>) {
        let sum = &mut self.preview.corrected;
        sum.read += batch.read;
        for difference in differences {
            if self.keys.len() >= KEYS_MAX {
                self.preview.at_most = true;
            } else if !self.keys.insert(difference.key.clone()) {
                continue;
            }
            match &difference.before {
                None => sum.inserted += 1,
                Some(before) => {
                    sum.changed += 1;
                    for column in before.columns.iter() {
                        *sum.columns.entry(column).or_default() += 1;
                    }
                }
            }
        }
        for example in examples {
            // A topic may hold a row twice.
            let mut is_new = || self.rows.len() >= KEYS_MAX || self.rows.insert(example.provenance.lineage());
            match &example.what {
                correct::What::RejectedAnew(refusal) if is_new() => {
                    *sum.rejected_anew.entry(refusal.rule).or_default() += 1;
                }
                correct::What::AcceptedAnew(rule) if is_new() => {
                    *sum.accepted_anew.entry(rule.clone()).or_default() += 1;
                }
                _ => {}
            }
            let shown = self.shown.entry(kind_of(&example)).or_default();
            if *shown < self.examples_max {
                *shown += 1;
                self.preview.examples.push(example);
            }
        }
    }
}

/// Distinguishes the kinds, so that each is shown.
fn kind_of(example: &Example) -> &'static str {
    match &example.what {
        correct::What::Inserted { .. } => "",
        correct::What::Changed { column, .. } => column,
        correct::What::RejectedAnew(_) => "newly rejected",
        correct::What::AcceptedAnew(_) => "newly accepted",
    }
}

/// Finds the offsets of a request.
pub(super) async fn plan(context: &ReplayContext, request: &Request, topic: &Topic) -> Result<Vec<Range>, ReplayError> {
    let from_times = times(context, Some(&request.from), topic).await?;
    let to_times = times(context, request.to.as_ref(), topic).await?;
    Ok(plan::ranges(request, &topic.ends, &from_times, &to_times, &topic.bookmarks)?)
}

async fn times(context: &ReplayContext, point: Option<&Point>, topic: &Topic) -> Result<Times, ReplayError> {
    let Some(Point::Time(time)) = point else { return Ok(Times::new()) };
    if *time > Utc::now() {
        return Err(PlanError::Future(Point::Time(*time).to_string()).into());
    }
    let (time, partitions): (DateTime<Utc>, Vec<i32>) = (*time, topic.ends.keys().copied().collect());
    ask(context, move |reader, topic| reader.offsets_since(topic, &partitions, time)).await
}

/// The ids of all versions of the requested objects.
async fn objects(context: &ReplayContext, request: &Request) -> Result<Option<BTreeSet<i64>>, ReplayError> {
    if request.objects.is_empty() {
        return Ok(None);
    }
    let found: Vec<(String, i64)> =
        sqlx::query_as("SELECT key, id FROM pipeline.objects WHERE domain = $1 AND key = ANY ($2)")
            .bind(context.domain.name)
            .bind(&request.objects)
            .fetch_all(&context.pool)
            .await
            .map_err(postgres("look the files up in the ledger"))?;
    let is_missing = |key: &&String| !found.iter().any(|(name, _)| name == *key);
    let missing: Vec<String> = request.objects.iter().filter(is_missing).cloned().collect();
    match missing.is_empty() {
        true => Ok(Some(found.into_iter().map(|(_, id)| id).collect())),
        false => Err(PlanError::NoObject(missing).into()),
    }
}
