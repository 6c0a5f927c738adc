//! Publishing: a worker claims an object, reads it through once to check it, and once more to publish it.
//!
//! A file of at most a chunk is fetched once and kept in memory for both passes. A bigger one is streamed
//! twice, and its resume point moves in the ledger after each chunk, once Kafka has acknowledged all of it.
//! Every pass reads the pinned version, so that a file overwritten meanwhile is never a mixture.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::{Domain, PARSER_VERSION, trace};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::check::{Checked, Checker, FileReject, HeaderReader};
use crate::claim::{Claim, Content, Progress, Start, nothing_to_do, start};
use crate::frame::Framer;
use crate::gate::OpenTopic;
use crate::header::{Header, HeaderError};
use crate::leases::Lease;
use crate::ledger;
use crate::object::{ObjectBody, ReadError};
use crate::producer::ProduceError;
use crate::rows::{RowPublisher, SendError};
use crate::{IngestError, Listener, metrics};

/// How an attempt ended, other than with all rows published.
#[derive(Debug)]
enum Stop {
    /// The file is at fault.
    Rejected(FileReject),
    /// The object reader found the file at fault.
    Unreadable(String),
    /// S3 no longer has this version; so many rows of it were published.
    Overtaken(String, i64),
    /// It has the content of an earlier version.
    SameContent(String, Vec<u8>),
    /// Another listener has the object now.
    LeaseLost,
    /// The domain is closed or the listener shuts down: to go on later from the resume point.
    Paused,
    /// The ledger does not answer, or refuses.
    Ledger(sqlx::Error),
    /// Anything else of the world.
    World(String),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Stop::Ledger(error)
    }
}

impl From<FileReject> for Stop {
    fn from(reject: FileReject) -> Self {
        Stop::Rejected(reject)
    }
}

impl From<ProduceError> for Stop {
    fn from(error: ProduceError) -> Self {
        Stop::World(error.to_string())
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Stop::World(error.to_string())
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Superseded { .. } => Stop::Overtaken(text, 0),
            ReadError::Rejected { .. } => Stop::Unreadable(text),
            ReadError::World { .. } | ReadError::Denied { .. } => Stop::World(text),
        }
    }
}

/// A write that found another listener's epoch ends the attempt.
fn still_mine(written: bool) -> Result<(), Stop> {
    if written { Ok(()) } else { Err(Stop::LeaseLost) }
}

/// Whose turn it is among the domains; shared by the workers, so that a big backlog of one domain does not
/// hold up the others.
pub(crate) type Turn = AtomicUsize;

/// Claims and publishes, one object after the other, until `stop`; the chunk under way is finished first.
pub(crate) async fn work(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let pause = Duration::from_millis(listener.settings.claim_interval_ms);
    let mut failures = 0;
    while !stop.is_cancelled() {
        // Listening before looking: what is registered in between is not missed.
        let woken = listener.work_to_do.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        match claim(&listener).await {
            Ok(Some(claim)) => {
                failures = 0;
                attempt_apart(&listener, claim, &stop).await?;
            }
            Ok(None) => {
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => {
                failures += 1;
                schema_or_wait(&listener, "claim an object in the ledger", error, failures, &stop).await?;
            }
        }
    }
    Ok(())
}

/// An error of the world is waited out; one of the schema or of permissions ends the listener.
async fn schema_or_wait(
    listener: &Listener,
    action: &'static str,
    error: sqlx::Error,
    failures: u32,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    if error_kind(&error) == ErrorKind::Schema {
        return Err(IngestError::Schema { action, source: error });
    }
    tracing::warn!(%error, "{action}");
    stop.run_until_cancelled(tokio::time::sleep(listener.settings.back_off(failures))).await;
    Ok(())
}

async fn claim(listener: &Listener) -> Result<Option<Claim>, sqlx::Error> {
    let domains = listener.gate.open_domains(listener.turn.fetch_add(1, Ordering::Relaxed));
    if domains.is_empty() {
        return Ok(None);
    }
    ledger::claim(&listener.pool, &listener.name, listener.lease(), &domains).await
}

/// One attempt in a task of its own: an object that makes freshet panic is a failed attempt, and stops neither
/// the listener nor the other objects.
async fn attempt_apart(listener: &Arc<Listener>, claim: Claim, stop: &CancellationToken) -> Result<(), IngestError> {
    let task = tokio::spawn(attempt(Arc::clone(listener), claim.clone(), stop.clone()));
    match task.await {
        Ok(ended) => ended,
        Err(panic) => {
            let reason = format!("a fault of freshet itself: {panic}");
            match fail(listener, &claim, &reason).await {
                Ok(()) => Ok(()),
                Err(error) => schema_or_wait(listener, RELEASE, error, 1, stop).await,
            }
        }
    }
}

const RELEASE: &str = "write the end of an attempt to the ledger";

/// One attempt at one object, and its end in the ledger.
async fn attempt(listener: Arc<Listener>, claim: Claim, stop: CancellationToken) -> Result<(), IngestError> {
    let (listener, stop) = (listener.as_ref(), &stop);
    let lease = listener.leases.hold(claim.id, claim.lease_epoch);
    let (started, began) = (Instant::now(), SystemTime::now());
    let outcome = publish(listener, &claim, &lease, stop).await;
    let ended = match outcome {
        Ok(rows) => {
            let domain = [claim.domain.as_str()];
            metrics::OBJECTS_PUBLISHED.with_label_values(&domain).inc();
            metrics::PUBLISH_DURATION.with_label_values(&domain).observe(started.elapsed().as_secs_f64());
            listener.sweep_to_do.notify_one();
            trace::passed(claim.id, "publish", began, told(&claim, Some(rows), None));
            tracing::info!(
                domain = claim.domain,
                key = claim.key,
                object = claim.id,
                rows,
                elapsed_ms = started.elapsed().as_millis() as u64,
                "published"
            );
            Ok(())
        }
        Err(reason) => end(listener, &claim, reason).await,
    };
    match ended {
        Ok(()) => Ok(()),
        Err(error) => schema_or_wait(listener, RELEASE, error, 1, stop).await,
    }
}

fn told<'a>(claim: &'a Claim, rows: Option<i64>, outcome: Option<&'a str>) -> trace::Detail<'a> {
    trace::Detail { domain: Some(&claim.domain), key: Some(&claim.key), rows, outcome, ..trace::Detail::default() }
}

/// The file goes no further.
fn tell_end(claim: &Claim, outcome: &str) {
    trace::passed(claim.id, trace::FILE, claim.last_modified.into(), told(claim, None, Some(outcome)));
}

/// Writes to the ledger how an attempt ended that did not publish the object. Where that fails too, the lease
/// runs out and another attempt follows.
async fn end(listener: &Listener, claim: &Claim, reason: Stop) -> Result<(), sqlx::Error> {
    let pool = &listener.pool;
    let Claim { id: object, domain, bucket, key, version_id, .. } = claim;
    let version = version_id.as_deref().unwrap_or(&claim.etag);
    let label = [domain.as_str()];
    match reason {
        Stop::Rejected(reject) => set_aside(listener, claim, &reject.to_string()).await?,
        Stop::Unreadable(reason) => set_aside(listener, claim, &reason).await?,
        Stop::Overtaken(reason, rows) => overtaken(listener, claim, &reason, rows.max(claim.resume_row)).await?,
        Stop::SameContent(reason, sha256) => {
            tracing::info!(domain, bucket, key, version, object, reason, "superseded");
            ledger::supersede(pool, claim, &reason, Some(&sha256)).await?;
            metrics::OBJECTS_SUPERSEDED.with_label_values(&label).inc();
            tell_end(claim, "superseded");
        }
        Stop::LeaseLost => tracing::debug!(domain, key, object, "another listener has the object"),
        Stop::Paused => _ = ledger::release(pool, claim, Duration::ZERO, None).await?,
        Stop::World(reason) => fail(listener, claim, &reason).await?,
        Stop::Ledger(error) => {
            // Said by whoever handles it if it is the schema's fault; the release will meet it again.
            if error_kind(&error) == ErrorKind::Schema {
                return Err(error);
            }
            fail(listener, claim, &format!("write to the ledger: {error}")).await?;
        }
    }
    Ok(())
}

async fn set_aside(listener: &Listener, claim: &Claim, reason: &str) -> Result<(), sqlx::Error> {
    let Claim { id: object, domain, bucket, key, .. } = claim;
    tracing::warn!(domain, bucket, key, object, reason, "rejected the file");
    ledger::reject(&listener.pool, claim, reason).await?;
    metrics::OBJECTS_REJECTED.with_label_values(&[domain.as_str()]).inc();
    tell_end(claim, "rejected");
    Ok(())
}

async fn fail(listener: &Listener, claim: &Claim, reason: &str) -> Result<(), sqlx::Error> {
    let Claim { id: object, domain, bucket, key, version_id, attempts, .. } = claim;
    let version = version_id.as_deref().unwrap_or(&claim.etag);
    let pause = listener.settings.back_off(attempts.unsigned_abs() + 1);
    let attempt = attempts + 1;
    let pause_ms = pause.as_millis() as u64;
    tracing::warn!(domain, bucket, key, version, object, reason, attempt, pause_ms, "publish failed, trying again");
    metrics::OBJECT_FAILURES.with_label_values(&[domain.as_str()]).inc();
    ledger::release(&listener.pool, claim, pause, Some(reason)).await?;
    Ok(())
}

/// S3 no longer has the version. Rows that were published of it and did not arrive, or that were not reached,
/// are named; newer versions that were set aside for having the same content then go their own way.
async fn overtaken(listener: &Listener, claim: &Claim, reason: &str, published: i64) -> Result<(), sqlx::Error> {
    let Claim { id: object, domain, bucket, key, .. } = claim;
    let missing = match claim.repairs > 0 {
        true => ledger::missing_rows(&listener.pool, claim).await?,
        false if published > 0 => Some(format!("the rows from {published} on are missing")),
        false => None,
    };
    let is_whole = missing.is_none() && claim.repairs > 0 && claim.rows.is_some();
    if is_whole && ledger::applied_before(&listener.pool, claim, reason).await? {
        tracing::info!(domain, bucket, key, object, reason, "not sent again: all its rows were received before");
        return Ok(());
    }
    let reason = missing.as_ref().map_or_else(|| reason.to_owned(), |missing| format!("{reason}; {missing}"));
    match missing {
        Some(_) => tracing::warn!(domain, bucket, key, object, reason, "superseded with rows missing"),
        None => tracing::info!(domain, bucket, key, object, reason, "superseded"),
    }
    if ledger::supersede(&listener.pool, claim, &reason, None).await? {
        metrics::OBJECTS_SUPERSEDED.with_label_values(&[domain.as_str()]).inc();
        tell_end(claim, "superseded");
        if ledger::wake_same_content(&listener.pool, claim).await? > 0 {
            listener.work_to_do.notify_waiters();
        }
    }
    Ok(())
}

/// Publishes the object and records it; gives the number of its rows.
async fn publish(listener: &Listener, claim: &Claim, lease: &Lease, stop: &CancellationToken) -> Result<i64, Stop> {
    let domain = listener.domain(&claim.domain).ok_or(Stop::Paused)?;
    let topic = listener.gate.topic(domain.name).ok_or(Stop::Paused)?;
    let mut claim = claim.clone();
    let start = start(&claim, PARSER_VERSION, topic.partitions, topic.stream_id);
    if start == Start::NextGeneration {
        still_mine(ledger::open_generation(&listener.pool, &claim, topic.partitions).await?)?;
        claim.generation += 1;
        (claim.parser_version, claim.partition_count) = (PARSER_VERSION, topic.partitions);
    }
    let (source, header, progress, content) = match (start, &claim.sha256) {
        (Start::ResumePoint, Some(sha256)) => resume(listener, &claim, domain, sha256.clone()).await?,
        _ => begin(listener, &claim, domain).await?,
    };
    let framer = match progress.at.row {
        0 => Framer::new(listener.frame_limits()),
        _ => Framer::resume(listener.frame_limits(), progress.at),
    };
    let limits = Arc::clone(&listener.limits);
    let rows = RowPublisher::new(domain, header, framer, &claim, progress.seqs.clone(), limits);
    Publishing { listener, claim: &claim, lease, stop, topic, content, progress }.run(source, rows).await
}

/// Where the second pass takes its bytes from.
enum Source {
    Memory(Vec<u8>),
    Stream(ObjectBody),
}

/// The first pass, and the second one set to begin at row 0.
async fn begin(
    listener: &Listener,
    claim: &Claim,
    domain: &'static Domain,
) -> Result<(Source, Header, Progress, Content), Stop> {
    let Checked { header, content, kept, rows, .. } = check(listener, claim, domain).await?;
    // An object that is published again, or was begun, is not set aside: its rows are in the topic.
    if claim.repairs == 0
        && claim.rows.is_none()
        && claim.resume_row == 0
        && let Some(reason) = nothing_to_do(claim, &content.sha256)
    {
        return Err(Stop::SameContent(reason, content.sha256));
    }
    if !content.ignored_columns.is_empty() {
        let Claim { id: object, bucket, key, .. } = claim;
        let columns = content.ignored_columns.join(", ");
        tracing::info!(domain = domain.name, bucket, key, object, columns, rows, "ignored unknown columns");
    }
    let source = match kept {
        Some(bytes) => Source::Memory(bytes),
        None => Source::Stream(open(listener, claim, 0).await?),
    };
    let progress = Progress::start(Default::default(), claim.partition_count as usize);
    Ok((source, header, progress, content))
}

/// The second pass set to go on at the resume point; the first one was made before that was written.
async fn resume(
    listener: &Listener,
    claim: &Claim,
    domain: &'static Domain,
    sha256: Vec<u8>,
) -> Result<(Source, Header, Progress, Content), Stop> {
    let mut reader = HeaderReader::new(domain, listener.frame_limits());
    let mut body = open(listener, claim, 0).await?;
    let header = loop {
        let Some(piece) = body.chunk().await? else { return Err(FileReject::from(HeaderError::NoHeader).into()) };
        if let Some(header) = reader.feed(&piece)? {
            break header;
        }
    };
    drop(body);
    let progress = Progress::of(claim);
    let body = open(listener, claim, progress.at.byte).await?;
    let content = Content { sha256, ignored_columns: claim.ignored_columns.clone() };
    Ok((Source::Stream(body), header, progress, content))
}

async fn check(listener: &Listener, claim: &Claim, domain: &'static Domain) -> Result<Checked, Stop> {
    let expected = usize::try_from(claim.size_bytes).unwrap_or(usize::MAX);
    let mut checker = Checker::new(domain, listener.frame_limits(), listener.settings.chunk_bytes, expected);
    let mut body = open(listener, claim, 0).await?;
    while let Some(piece) = body.chunk().await? {
        checker.feed(&piece)?;
        // Pieces may all be at hand: let other tasks have their turn.
        tokio::task::yield_now().await;
    }
    Ok(checker.finish()?)
}

async fn open(listener: &Listener, claim: &Claim, from_byte: u64) -> Result<ObjectBody, Stop> {
    Ok(listener.s3(listener.reader.open(&claim.version(), from_byte)).await?)
}

/// The second pass.
struct Publishing<'a> {
    listener: &'a Listener,
    claim: &'a Claim,
    lease: &'a Lease,
    stop: &'a CancellationToken,
    topic: OpenTopic,
    content: Content,
    progress: Progress,
}

impl Publishing<'_> {
    async fn run(mut self, mut source: Source, mut rows: RowPublisher) -> Result<i64, Stop> {
        let chunk_bytes = self.listener.settings.chunk_bytes;
        loop {
            let (bytes, last) = match &mut source {
                Source::Memory(bytes) => (std::mem::take(bytes), true),
                Source::Stream(body) => fill(body, chunk_bytes).await.map_err(|error| self.located(error))?,
            };
            rows = self.publish_chunk(rows, bytes, last).await?;
            if last {
                break;
            }
            self.checkpoint().await?;
        }
        let Publishing { listener, claim, topic, content, progress, .. } = &self;
        let stream: Uuid = topic.stream_id;
        still_mine(ledger::publish(&listener.pool, claim, stream, progress, content).await?)?;
        Ok(self.progress.at.row)
    }

    /// A version that is overtaken between two chunks is so with rows published.
    fn located(&self, stop: Stop) -> Stop {
        match stop {
            Stop::Overtaken(reason, _) => Stop::Overtaken(reason, self.progress.at.row),
            other => other,
        }
    }

    /// Sends a chunk from a blocking thread and waits until Kafka has acknowledged all of it, also where
    /// sending failed: what was sent is then out of the way of the next attempt.
    async fn publish_chunk(
        &mut self,
        mut rows: RowPublisher,
        bytes: Vec<u8>,
        last: bool,
    ) -> Result<RowPublisher, Stop> {
        let before = self.progress.at.row;
        let chunk = self.listener.producer.chunk(&self.topic.topic, self.progress.ends.len());
        let send = move || {
            let sent = rows.publish(&bytes, last, &chunk);
            (rows, chunk, sent)
        };
        let (rows, chunk, sent) =
            tokio::task::spawn_blocking(send).await.map_err(|error| Stop::World(format!("publish rows: {error}")))?;
        let ends = self.listener.producer.settle(chunk).await?;
        sent?;
        for (end, chunk_end) in self.progress.ends.iter_mut().zip(ends) {
            *end = chunk_end.max(*end);
        }
        self.progress.at = rows.position();
        self.progress.seqs = rows.seqs().to_vec();
        let published = self.progress.at.row - before;
        self.listener.gate.published(&self.claim.domain, published);
        metrics::ROWS_PUBLISHED.with_label_values(&[self.claim.domain.as_str()]).inc_by(published.unsigned_abs());
        Ok(rows)
    }

    /// Between two chunks: saves the resume point, then looks whether to go on.
    async fn checkpoint(&self) -> Result<(), Stop> {
        let Publishing { listener, claim, topic, content, progress, .. } = self;
        // A chunk within one long header or row has no boundary to resume from.
        if progress.at.row > 0 {
            still_mine(ledger::checkpoint(&listener.pool, claim, topic.stream_id, progress, content).await?)?;
        }
        if self.lease.is_lost() {
            return Err(Stop::LeaseLost);
        }
        // The topic may have been closed, or made again, or have got more partitions since.
        let unchanged = listener.gate.topic(&claim.domain).as_ref() == Some(topic);
        if !unchanged || self.stop.is_cancelled() { Err(Stop::Paused) } else { Ok(()) }
    }
}

/// At least `chunk_bytes`, and whether the file ends after them.
async fn fill(body: &mut ObjectBody, chunk_bytes: usize) -> Result<(Vec<u8>, bool), Stop> {
    let mut bytes = Vec::with_capacity(chunk_bytes);
    while bytes.len() < chunk_bytes {
        match body.chunk().await? {
            Some(piece) => bytes.extend_from_slice(&piece),
            None => return Ok((bytes, true)),
        }
    }
    Ok((bytes, false))
}
