//! `freshet status --wait`: returns once everything dropped so far is applied and published.
//!
//! "So far" is the listing of the raw bucket at the start: every object in it is in the ledger in a final state,
//! and so is everything that was in the ledger already. Then every change mark that there was by then has been
//! taken up, and the whole-file copies are at the published version. What is dropped meanwhile is not waited
//! for; only copies that fall behind again because of it are. An output whose query fails is not waited for either: it is
//! named.
//!
//! However many files are open, the wait takes a bounded share of Postgres: a look asks for some of them, and the pause
//! after it grows with what it took. However slow the services are, it ends in time: a look under way is given up.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use freshet_ingest::names;
use freshet_sinks::ledger::{ObjectState, UNFINISHED_SQL, register};
use freshet_sinks::output_state;
use freshet_sinks::unmatched::Unmatched;
use freshet_topics::Pipeline;
use freshet_topics::causes::in_one_line;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

use super::{FailedOutput, Outputs};
use crate::text::{shorten, span};

/// An object under a domain's prefix, as the listing of the raw bucket shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dropped {
    pub key: String,
    /// Its ETag, spelled as the ledger spells it.
    pub etag: String,
    pub size_bytes: i64,
    /// When S3 says it was written; only whole seconds are compared.
    pub last_modified: DateTime<Utc>,
}

/// The result of waiting.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Waited {
    /// Objects in the listing.
    pub objects: u64,
    /// Of these, applied.
    pub applied: u64,
    /// Rejected as a whole.
    pub rejected: u64,
    /// Superseded: overwritten, or the same content as before.
    pub superseded: u64,
    /// Outputs with a failing query: they lack the change, and waiting does not help.
    pub failed_outputs: Vec<FailedOutput>,
    pub seconds: f64,
}

impl std::fmt::Display for Waited {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Waited { objects, applied, rejected, superseded, failed_outputs, seconds } = self;
        let files = if *objects == 1 { "file" } else { "files" };
        let failed: Vec<&str> = failed_outputs.iter().map(|failed| failed.output.as_str()).collect();
        let outputs = match failed.as_slice() {
            [] => "outputs are current".to_owned(),
            failed => format!("outputs are current, except {}", failed.join(", ")),
        };
        write!(
            formatter,
            "{objects} {files}: {applied} applied, {rejected} rejected, {superseded} superseded; {outputs} ({seconds:.1}s)"
        )
    }
}

/// Between two looks, at least and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A pause is so many times as long as what it follows took: no more than a quarter of the time is spent asking.
const PAUSE_SHARE: u32 = 3;
/// A look that begins just before the end may take this long.
const LOOK_MIN: Duration = Duration::from_secs(2);
/// Longest that a message about the end waits for what it would say of halted partitions.
const HALTED_WITHIN: Duration = Duration::from_secs(2);
/// Open objects that one statement asks for.
const ASKED_MAX: usize = 1_000;
/// Between two listings, at least, to see whether what the ledger has not found is still there.
const LIST_AGAIN: Duration = Duration::from_secs(2);
/// How long an object that belongs to no domain is taken for one that was just dropped.
const UNMATCHED_FRESH: TimeDelta = TimeDelta::hours(1);
/// Open objects named in a message.
const NAMED: usize = 3;

/// Waits. `list` gives the objects under the prefixes of the pipeline's domains in the raw bucket; `outputs` what S3
/// shows of the derived outputs (twelve requests; it is not asked before all rows are applied).
///
/// # Errors
/// If it takes longer than `timeout`; the message says what is still open. Services that do not answer are
/// asked again until then.
pub async fn wait<L, O>(
    pool: &PgPool,
    bucket: &str,
    pipeline: &Pipeline,
    list: L,
    outputs: O,
    timeout: Duration,
) -> Result<Waited>
where
    L: AsyncFn() -> Result<Vec<Dropped>>,
    O: AsyncFn() -> Result<Outputs>,
{
    let started = Instant::now();
    let left = || timeout.saturating_sub(started.elapsed());
    let mut waiting = Waiting::new(pool, bucket, pipeline);
    let mut open = "the files in S3 are not listed yet".to_owned();
    loop {
        let began = Instant::now();
        match tokio::time::timeout(left().max(LOOK_MIN), waiting.look(&list, &outputs)).await {
            Ok(Ok(None)) => {
                waiting.waited.seconds = started.elapsed().as_secs_f64();
                return Ok(waiting.waited);
            }
            Ok(Ok(Some(found))) => open = found,
            Ok(Err(error)) => open = in_one_line(error.as_ref()),
            // What the look before found is what is known.
            Err(_) => {}
        }
        if left().is_zero() {
            let halted = tokio::time::timeout(HALTED_WITHIN, waiting.halted()).await.ok().flatten();
            let halted = halted.map(|halted| format!("; {halted}")).unwrap_or_default();
            bail!(
                "not everything is applied and published after {}: {open}{halted}; see `freshet status --files`",
                span(timeout)
            );
        }
        tokio::time::sleep(pause(began.elapsed()).min(left())).await;
    }
}

/// The pause after a look that took this long.
///
/// | the look took | pause |
/// |---|---|
/// | 3 ms | 50 ms |
/// | 100 ms | 300 ms |
/// | 10 s | 5 s |
fn pause(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX)
}

struct Waiting<'a> {
    pool: &'a PgPool,
    bucket: &'a str,
    /// Files of a domain that no pipeline has any more are not waited for.
    domains: Vec<&'static str>,
    /// The tables whose rows have windows in the outputs.
    fact_tables: BTreeSet<&'static str>,
    /// The listing's objects that are not final yet; none before the first listing.
    objects: Option<Objects>,
    /// Objects up to this id were in the ledger at the start.
    known_before: i64,
    /// Once all objects are final: marks up to this id are theirs.
    marks_until: Option<i64>,
    waited: Waited,
}

struct Objects {
    /// Those that were not asked for lately come first.
    open: VecDeque<Dropped>,
    listed: Instant,
    /// How long the listing took.
    listing: Duration,
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a PgPool, bucket: &'a str, pipeline: &Pipeline) -> Self {
        Waiting {
            pool,
            bucket,
            domains: pipeline.domains.iter().map(|domain| domain.name).collect(),
            fact_tables: pipeline.outputs.iter().flat_map(|it| it.facts.iter()).map(|fact| fact.table).collect(),
            objects: None,
            known_before: 0,
            marks_until: None,
            waited: Waited::default(),
        }
    }

    /// One look: what is still open, or nothing.
    async fn look<L, O>(&mut self, list: &L, outputs: &O) -> Result<Option<String>>
    where
        L: AsyncFn() -> Result<Vec<Dropped>>,
        O: AsyncFn() -> Result<Outputs>,
    {
        if self.marks_until.is_none() {
            if let Some(open) = self.look_at_objects(list).await? {
                return Ok(Some(open));
            }
            self.marks_until = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM pipeline.marks")
                .fetch_one(self.pool)
                .await
                .map(Some)?;
        }
        let marks: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pipeline.marks WHERE id <= $1 OR dimension IS NOT NULL")
                .bind(self.marks_until.unwrap_or_default())
                .fetch_one(self.pool)
                .await?;
        if marks > 0 {
            return Ok(Some(format!("{marks} change marks are not in the outputs yet: is `freshet metrics` running?")));
        }
        let Outputs { manifest, copies_behind: behind } = outputs().await?;
        if manifest.is_none() && self.has_rows_of_outputs().await? {
            return Ok(Some("nothing is published yet: is `freshet metrics` running?".to_owned()));
        }
        if let Some(first) = behind.first() {
            let first = shorten(first, 60);
            return Ok(Some(format!("{} whole-file copies are not current, {first} among them", behind.len())));
        }
        let mut connection = self.pool.acquire().await?;
        let failed = output_state::failures(&mut connection).await?;
        self.waited.failed_outputs = failed.into_iter().map(FailedOutput::from).collect();
        Ok(None)
    }

    async fn look_at_objects<L>(&mut self, list: &L) -> Result<Option<String>>
    where
        L: AsyncFn() -> Result<Vec<Dropped>>,
    {
        let objects = match &mut self.objects {
            Some(objects) => objects,
            none => {
                self.known_before = register::newest_id(self.pool).await?;
                let began = Instant::now();
                let open = list().await?;
                self.waited.objects = open.len() as u64;
                none.insert(Objects { open: open.into(), listed: Instant::now(), listing: began.elapsed() })
            }
        };
        let unseen = take_finished(self.pool, self.bucket, &self.domains, &mut objects.open, &mut self.waited).await?;
        if unseen > 0 && objects.listed.elapsed() > LIST_AGAIN.max(objects.listing * PAUSE_SHARE) {
            // Deleted or overwritten before it was found: this version will never be loaded.
            let began = Instant::now();
            let there: HashSet<Dropped> = list().await?.into_iter().collect();
            let before = objects.open.len();
            objects.open.retain(|object| there.contains(object));
            self.waited.superseded += (before - objects.open.len()) as u64;
            (objects.listed, objects.listing) = (Instant::now(), began.elapsed());
        }
        if !objects.open.is_empty() {
            return Ok(Some(name(&objects.open, unseen)));
        }
        let unfinished: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT count(*) FROM pipeline.objects WHERE state IN {UNFINISHED_SQL} AND id <= $1 AND domain = ANY ($2)"
        )))
        .bind(self.known_before)
        .bind(&self.domains)
        .fetch_one(self.pool)
        .await?;
        Ok((unfinished > 0).then(|| format!("{unfinished} files found earlier are not applied yet")))
    }

    /// Whether there are rows that have windows in an output. Then a publisher publishes, and there was none yet if
    /// nothing is published; without such rows, nobody need wait for one.
    async fn has_rows_of_outputs(&self) -> Result<bool, sqlx::Error> {
        for table in &self.fact_tables {
            let sql = format!("SELECT EXISTS (SELECT FROM \"{table}\")");
            if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(self.pool).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn halted(&self) -> Option<String> {
        let first: Option<(String, i32, String)> = sqlx::query_as(
            "SELECT domain, partition, halted FROM pipeline.bookmarks WHERE halted IS NOT NULL
             ORDER BY domain, partition LIMIT 1",
        )
        .fetch_optional(self.pool)
        .await
        .ok()?;
        first.map(|(domain, partition, reason)| format!("{domain} partition {partition} is halted: {reason}"))
    }
}

/// Takes the finished ones out of `open` and counts them: those among the first [`ASKED_MAX`], and the next ones if all of
/// these are finished. The others go to the end, so that the next look asks for others. Returns how many of those that
/// were asked for are not in the ledger.
async fn take_finished(
    pool: &PgPool,
    bucket: &str,
    domains: &[&str],
    open: &mut VecDeque<Dropped>,
    waited: &mut Waited,
) -> Result<usize, sqlx::Error> {
    while !open.is_empty() {
        let asked: Vec<Dropped> = open.iter().take(ASKED_MAX).cloned().collect();
        let states = states(pool, bucket, domains, &asked).await?;
        open.drain(..asked.len());
        let still = count_finished(asked, &states, waited);
        let (all, unseen) = (still.len(), still.iter().filter(|(_, is_found)| !is_found).count());
        open.extend(still.into_iter().map(|(object, _)| object));
        if all > 0 {
            return Ok(unseen);
        }
    }
    Ok(0)
}

/// Counts the finished ones; returns the others, each with whether it is in the ledger.
fn count_finished(asked: Vec<Dropped>, states: &[Option<ObjectState>], waited: &mut Waited) -> Vec<(Dropped, bool)> {
    let mut still = Vec::new();
    for (object, state) in asked.into_iter().zip(states) {
        match state {
            Some(ObjectState::Applied) => waited.applied += 1,
            Some(ObjectState::Rejected) => waited.rejected += 1,
            Some(ObjectState::Superseded) => waited.superseded += 1,
            state => still.push((object, state.is_some())),
        }
    }
    still
}

/// The state of each object; none for one that is not in the ledger as the newest version of its key.
async fn states(
    pool: &PgPool,
    bucket: &str,
    domains: &[&str],
    objects: &[Dropped],
) -> Result<Vec<Option<ObjectState>>, sqlx::Error> {
    let keys: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    let etags: Vec<&str> = objects.iter().map(|object| object.etag.as_str()).collect();
    let sizes: Vec<i64> = objects.iter().map(|object| object.size_bytes).collect();
    let seconds: Vec<i64> = objects.iter().map(|object| object.last_modified.timestamp()).collect();
    sqlx::query_scalar(
        "SELECT (
            SELECT CASE WHEN o.etag = l.etag AND o.size_bytes = l.size_bytes
                AND floor(extract(epoch FROM o.last_modified)) = l.second THEN o.state END
            FROM (
                -- OFFSET 0: by the key, and not all files of the domain for each of them.
                SELECT * FROM pipeline.objects o WHERE o.bucket = $1 AND o.key = l.key ORDER BY o.src_ord DESC OFFSET 0
            ) AS o
            WHERE o.domain = ANY ($6) LIMIT 1
         )
         FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::bigint[])
            WITH ORDINALITY AS l (key, etag, size_bytes, second, ord)
         ORDER BY l.ord",
    )
    .bind(bucket)
    .bind(keys)
    .bind(etags)
    .bind(sizes)
    .bind(seconds)
    .bind(domains)
    .fetch_all(pool)
    .await
}

/// Names the objects that belong to no domain and were written within the last hour, the newest first; none if there are
/// none. Whoever has just dropped a file under a wrong name is to know; what was left in the bucket long ago is in
/// `freshet status`, and must not spoil every wait.
pub fn name_unmatched(unmatched: &[Unmatched], now: DateTime<Utc>) -> Option<String> {
    let fresh: Vec<&Unmatched> =
        unmatched.iter().filter(|object| now - object.last_modified <= UNMATCHED_FRESH).collect();
    let names: Vec<String> = fresh
        .iter()
        .take(NAMED)
        .map(|object| names::with_hint(&shorten(&object.key, 60), object.hint.as_deref()))
        .collect();
    let more = if fresh.len() > NAMED { ", …" } else { "" };
    let said = match fresh.len() {
        0 => return None,
        1 => "1 object belongs to no domain and is not read".to_owned(),
        count => format!("{count} objects belong to no domain and are not read"),
    };
    Some(format!("{said}: {}{more}", names.join(", ")))
}

/// Names some of the open objects. If they are more than one look asks for, how many of them have finished since they
/// were asked for is not known, nor how many of the others were not found.
fn name(open: &VecDeque<Dropped>, unseen: usize) -> String {
    let (up_to, at_least) = if open.len() > ASKED_MAX { ("up to ", "at least ") } else { ("", "") };
    let names: Vec<String> = open.iter().take(NAMED).map(|object| shorten(&object.key, 60)).collect();
    let more = if open.len() > NAMED { ", …" } else { "" };
    let unseen = match unseen {
        0 => String::new(),
        unseen => format!(" ({at_least}{unseen} not found by a listener yet: is `freshet ingest` running?)"),
    };
    let files = match open.len() {
        1 => "1 file is not finished".to_owned(),
        count => format!("{up_to}{count} files are not finished"),
    };
    format!("{files}{unseen}: {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_just_dropped_under_a_wrong_name_is_named() {
        let now = DateTime::from_timestamp(100_000, 0).expect("a time");
        let object = |key: &str, seconds: i64, hint: Option<&str>| Unmatched {
            key: key.into(),
            size_bytes: 1,
            last_modified: now - TimeDelta::seconds(seconds),
            hint: hint.map(str::to_owned),
        };
        let old = object("notes.txt", 3_601, None);
        assert_eq!(name_unmatched(&[], now), None);
        assert_eq!(name_unmatched(std::slice::from_ref(&old), now), None);
        let fresh = object("helth/x.csv", 5, Some("did you mean `health/`?"));
        assert_eq!(
            name_unmatched(&[fresh.clone(), old], now).as_deref(),
            Some("1 object belongs to no domain and is not read: `helth/x.csv` (did you mean `health/`?)")
        );
        let many: Vec<Unmatched> = (0..4).map(|number| object(&format!("x{number}"), number, None)).collect();
        assert_eq!(
            name_unmatched(&many, now).as_deref(),
            Some("4 objects belong to no domain and are not read: `x0`, `x1`, `x2`, …")
        );
    }

    #[test]
    fn outputs_that_lack_the_change_are_not_called_current() {
        let failed = |output: &str| FailedOutput {
            output: output.into(),
            reason: "division by zero".into(),
            since: DateTime::default(),
        };
        let mut waited = Waited { objects: 2, applied: 2, seconds: 0.5, ..Waited::default() };
        let before = "2 files: 2 applied, 0 rejected, 0 superseded; outputs are current";
        assert_eq!(waited.to_string(), format!("{before} (0.5s)"));
        waited.failed_outputs = vec![failed("daily"), failed("slow")];
        assert_eq!(waited.to_string(), format!("{before}, except daily, slow (0.5s)"));
    }

    fn dropped(number: usize) -> Dropped {
        Dropped {
            key: format!("health/{number}.csv"),
            etag: "e".into(),
            size_bytes: 1,
            last_modified: DateTime::default(),
        }
    }

    #[test]
    fn a_message_names_a_few_and_counts_the_rest() {
        let open = |count: usize| (0..count).map(dropped).collect::<VecDeque<_>>();
        assert_eq!(name(&open(1), 0), "1 file is not finished: health/0.csv");
        assert_eq!(
            name(&open(5), 2),
            "5 files are not finished (2 not found by a listener yet: is `freshet ingest` running?): \
             health/0.csv, health/1.csv, health/2.csv, …"
        );
        let many = name(&open(1_001), 7);
        assert!(many.starts_with("up to 1001 files are not finished (at least 7 not found"), "{many}");
    }

    #[test]
    fn finished_files_are_counted_and_the_others_stay() {
        let states = [
            Some(ObjectState::Applied),
            Some(ObjectState::Publishing),
            Some(ObjectState::Rejected),
            None,
            Some(ObjectState::Superseded),
        ];
        let mut waited = Waited::default();
        let still = count_finished((0..5).map(dropped).collect(), &states, &mut waited);
        assert_eq!(still, [(dropped(1), true), (dropped(3), false)]);
        assert_eq!((waited.applied, waited.rejected, waited.superseded), (1, 1, 1));
    }

    #[test]
    fn whoever_waits_leaves_most_of_the_time_to_others() {
        for (took, paused) in [(3, 50), (100, 300), (10_000, 5_000)] {
            assert_eq!(pause(Duration::from_millis(took)), Duration::from_millis(paused), "{took}");
        }
    }
}
