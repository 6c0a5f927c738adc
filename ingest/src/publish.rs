//! Publishes a claimed object: reads it once to check it, and once more to publish it.
//!
//! A file of at most one chunk is fetched once and kept in memory for both passes. A bigger one is streamed twice, and
//! its resume point moves in the ledger after each chunk, once Kafka has acknowledged all of it. Every pass reads the
//! pinned version, so that a file overwritten meanwhile is never a mixture.

use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::ledger::{self, Claim, Content, Event, Numbering, ResumePoint, nothing_to_do};
use freshet_topics::Domain;
use freshet_topics::failpoint::{self, Point};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Listener;
use crate::check::{Checked, Checker, Earlier};
use crate::frame::{Framer, Position};
use crate::gate::{Delivered, OpenTopic};
use crate::header::Header;
use crate::header::names::listed;
use crate::leases::Lease;
use crate::metrics;
use crate::object::{ObjectBody, Stored};
use crate::outcome::{Stop, still_mine};
use crate::overtaken::Overtaking;
use crate::rows::RowPublisher;
use crate::start::{Start, start};

/// How long a file that would have to be read again from its start waits, in its middle, for the lag to fall. A store lets
/// a body stand that long.
const LAG_WAIT_MAX: Duration = Duration::from_secs(30);
/// The gate measures the lag of a paused domain as often.
const LAG_LOOK: Duration = Duration::from_millis(100);

/// Publishes the object and records it; returns the number of its rows.
pub(crate) async fn publish(
    listener: &Listener,
    claim: &mut Claim,
    lease: &Lease,
    stop: &CancellationToken,
) -> Result<i64, Stop> {
    prepare(listener, claim, listener.settings.chunk_bytes).await?.publish(listener, claim, lease, stop).await
}

/// A claimed object that passed the first pass.
pub(crate) struct Ready {
    pub(crate) topic: OpenTopic,
    pub(crate) rows: RowPublisher,
    pub(crate) point: ResumePoint,
    pub(crate) content: Content,
    /// `None`: it is read from its start, and not opened before its second pass begins.
    source: Option<Source>,
}

impl Ready {
    /// All of its bytes, if the whole file is in memory; they are moved out.
    pub(crate) fn take_whole(&mut self) -> Option<Vec<u8>> {
        match &mut self.source {
            Some(Source::Memory(bytes)) => Some(std::mem::take(bytes)),
            Some(Source::Stream(_)) | None => None,
        }
    }

    /// Publishes the object by itself and records it; returns the number of its rows.
    pub(crate) async fn publish(
        self,
        listener: &Listener,
        claim: &mut Claim,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Result<i64, Stop> {
        let Ready { topic, rows, point, content, source } = self;
        let source = match source {
            Some(source) => source,
            None => {
                let domain = listener.domain(&claim.object.domain).ok_or(Stop::Paused)?;
                Source::Stream(Box::new(open(listener, claim, domain).await?))
            }
        };
        Publishing { listener, claim, lease, stop, topic, content, point }.run(source, rows).await
    }
}

/// Makes the first pass; a file of at most this many bytes after decompression stays in memory.
pub(crate) async fn prepare(listener: &Listener, claim: &mut Claim, keep_bytes_max: usize) -> Result<Ready, Stop> {
    let domain = listener.domain(&claim.object.domain).ok_or(Stop::Paused)?;
    let topic = listener.gate.topic(domain.name).ok_or(Stop::Paused)?;
    let numbering = listener.numbering(domain, topic.partitions);
    let start = start(claim, numbering, topic.stream_id);
    let resumed = match (start, claim.object.sha256.clone()) {
        (Start::ResumePoint, Some(sha256)) => resume(listener, claim, domain, sha256).await?,
        _ => Resumed::NotAsked,
    };
    if start == Start::NextGeneration || matches!(resumed, Resumed::Unfit) {
        open_generation(listener, claim, numbering).await?;
    }
    let Prepared { source, header, overtaking, point, content } = match resumed {
        Resumed::Ready(prepared) => *prepared,
        Resumed::Unfit | Resumed::NotAsked => begin(listener, claim, domain, keep_bytes_max).await?,
    };
    let framer = match point.row {
        0 => Framer::new(listener.frame_limits(), domain.delimiter),
        _ => Framer::resume(listener.frame_limits(), domain.delimiter, position(&point)),
    };
    let limits = Arc::clone(&listener.limits);
    let rows = RowPublisher::new(domain, header, framer, claim, point.seqs.clone(), overtaking, limits);
    let rows = rows.packing(listener.rows_per_message);
    Ok(Ready { topic, rows, point, content, source })
}

/// Records that the object is read again from its first row, under other numbers.
async fn open_generation(listener: &Listener, claim: &mut Claim, numbering: Numbering) -> Result<(), Stop> {
    // The ledger still has the figures of the generation before, which tell what is lost if the object is gone.
    let version = &claim.object.version;
    if !listener.s3(listener.reader.exists(version)).await? {
        return Err(Stop::Gone(format!("{version} is no longer there")));
    }
    still_mine(ledger::record(&listener.pool, claim, Event::OpenGeneration(numbering)).await?)?;
    (claim.numbering, claim.received) = (numbering, 0);
    // Once for a change. Again and again, if listeners with different limits or contracts take turns.
    tracing::warn!(
        object = %claim.object.version,
        "read again from its first row: its contract, the limits of [ingest], the partitions or the program have changed"
    );
    Ok(())
}

fn position(point: &ResumePoint) -> Position {
    Position { byte: point.byte.unsigned_abs(), line: point.line.unsigned_abs(), row: point.row }
}

/// The second pass, ready to begin.
struct Prepared {
    /// As in [`Ready`].
    source: Option<Source>,
    header: Header,
    overtaking: Option<Overtaking>,
    point: ResumePoint,
    content: Content,
}

/// What became of the resume point of a claimed object.
enum Resumed {
    /// The second pass continues there.
    Ready(Box<Prepared>),
    /// The contract has changed since, and does not take the header any more: all rows are numbered anew.
    Unfit,
    /// There is none for this numbering and this stream.
    NotAsked,
}

/// The source of the bytes of the second pass.
enum Source {
    Memory(Vec<u8>),
    Stream(Box<ObjectBody>),
}

impl Source {
    /// Whether whoever resumes must read the part before again: it cannot be requested from the middle.
    fn is_read_again(&self) -> bool {
        matches!(self, Source::Stream(body) if body.stored() == Stored::Otherwise)
    }
}

/// The first pass, and the second one prepared to begin at row 0.
async fn begin(
    listener: &Listener,
    claim: &Claim,
    domain: &'static Domain,
    keep_bytes_max: usize,
) -> Result<Prepared, Stop> {
    let Checked { header, content, kept, rows, .. } = check(listener, claim, domain, keep_bytes_max).await?;
    if let Some(original) = nothing_to_do(claim, &content.sha256) {
        return Err(Stop::SameContent(original, content.sha256));
    }
    if !content.ignored_columns.is_empty() {
        let columns = listed(header.ignored_columns().iter().map(String::as_str));
        let object = &claim.object.version;
        let kept = domain.on_new_column.keeps();
        tracing::info!(%object, id = claim.object.id, columns, rows, kept, "the file has unknown columns");
    }
    if !content.absent_defaults.is_empty() {
        let columns = listed(content.absent_defaults.iter().map(String::as_str));
        let object = &claim.object.version;
        tracing::info!(%object, id = claim.object.id, columns, rows, "the file lacks columns; their defaults are used");
    }
    let source = kept.map(Source::Memory);
    let partitions = vec![0; claim.numbering.partitions as usize];
    // The start of a file is line 1.
    let point = ResumePoint { byte: 0, line: 1, row: 0, seqs: partitions.clone(), ends: partitions };
    let overtaking = Overtaking::of(domain, content.overtaken);
    Ok(Prepared { source, header, overtaking, point, content })
}

/// The second pass, prepared to continue at the resume point; the first pass was made before that was written.
async fn resume(listener: &Listener, claim: &Claim, domain: &'static Domain, sha256: Vec<u8>) -> Result<Resumed, Stop> {
    let point = claim.object.resume_point(claim.numbering.partitions as usize);
    let (limits, overtaken) = (listener.frame_limits(), claim.object.overtaken);
    let mut earlier = Earlier::new(domain, &listener.domains, limits, overtaken, point.row);
    let mut opened = open(listener, claim, domain).await?;
    while let Some(piece) = opened.chunk().await? {
        match earlier.feed(&piece) {
            Ok(false) => tokio::task::yield_now().await,
            Ok(true) => break,
            Err(_) => return Ok(Resumed::Unfit),
        }
    }
    let Ok((header, overtaking)) = earlier.finish() else { return Ok(Resumed::Unfit) };
    let stored = opened.stored();
    drop(opened);
    let (version, from_byte) = (&claim.object.version, point.byte.unsigned_abs());
    let body = listener.s3(listener.reader.open_from(version, domain.encoding, stored, from_byte)).await?;
    let content = Content {
        sha256,
        ignored_columns: claim.object.ignored_columns.clone(),
        absent_defaults: claim.object.absent_defaults.clone(),
        overtaken: claim.object.overtaken,
    };
    let source = Some(Source::Stream(Box::new(body)));
    Ok(Resumed::Ready(Box::new(Prepared { source, header, overtaking, point, content })))
}

async fn check(
    listener: &Listener,
    claim: &Claim,
    domain: &'static Domain,
    keep_bytes_max: usize,
) -> Result<Checked, Stop> {
    let expected = usize::try_from(claim.object.version.size_bytes).unwrap_or(usize::MAX);
    let mut checker = Checker::new(domain, &listener.domains, listener.frame_limits(), keep_bytes_max, expected);
    let mut body = open(listener, claim, domain).await?;
    while let Some(piece) = body.chunk().await? {
        checker.feed(&piece)?;
        // All pieces may be available at once: let other tasks run.
        tokio::task::yield_now().await;
    }
    Ok(checker.finish()?)
}

async fn open(listener: &Listener, claim: &Claim, domain: &Domain) -> Result<ObjectBody, Stop> {
    Ok(listener.s3(listener.reader.open(&claim.object.version, domain.encoding)).await?)
}

/// The second pass.
struct Publishing<'a> {
    listener: &'a Listener,
    claim: &'a mut Claim,
    lease: &'a Lease,
    stop: &'a CancellationToken,
    topic: OpenTopic,
    content: Content,
    point: ResumePoint,
}

impl Publishing<'_> {
    async fn run(mut self, mut source: Source, mut rows: RowPublisher) -> Result<i64, Stop> {
        let chunk_bytes = self.listener.settings.chunk_bytes;
        let is_read_again = source.is_read_again() || self.content.overtaken > 0;
        let mut has_waited = false;
        loop {
            let (bytes, last) = match &mut source {
                Source::Memory(bytes) => (std::mem::take(bytes), true),
                Source::Stream(body) => match fill(body, chunk_bytes).await {
                    // The store may have dropped a body that nobody read: no fault of the file.
                    Err(Stop::Transient(_)) if has_waited => return Err(Stop::Paused),
                    filled => filled?,
                },
            };
            rows = self.publish_chunk(rows, bytes, last).await?;
            if last {
                break;
            }
            self.checkpoint().await?;
            has_waited = is_read_again && self.wait_for_the_lag().await;
            if !self.may_go_on() {
                return Err(Stop::Paused);
            }
        }
        let Publishing { listener, claim, topic, content, point, .. } = self;
        let event = Event::Publish { stream: topic.stream_id, point: &point, content: &content };
        still_mine(ledger::record(&listener.pool, claim, event).await?)?;
        Ok(point.row)
    }

    /// Sends a chunk from a blocking thread and waits until Kafka has acknowledged all of it. It waits even if sending
    /// failed, so that messages that were sent do not mix with the next attempt.
    async fn publish_chunk(
        &mut self,
        mut rows: RowPublisher,
        bytes: Vec<u8>,
        last: bool,
    ) -> Result<RowPublisher, Stop> {
        let chunk = self.listener.producer.chunk(&self.topic.name, self.point.ends.len());
        let send = move || {
            let sent = rows.publish(&bytes, last, &chunk);
            (rows, chunk, sent)
        };
        let (rows, chunk, sent) = tokio::task::spawn_blocking(send)
            .await
            .map_err(|error| Stop::Transient(format!("publish rows: {error}")))?;
        let delivered = self.listener.producer.acknowledged(chunk).await?;
        sent?;
        failpoint::reach(Point::ChunkAcknowledged);
        acknowledged(self.listener, &self.claim.object.domain, &mut self.point, &rows, delivered);
        Ok(rows)
    }

    /// Between two chunks: saves the resume point.
    async fn checkpoint(&mut self) -> Result<(), Stop> {
        let Publishing { listener, claim, topic, content, point, .. } = self;
        // A chunk within one long header or row has no boundary to resume from.
        if point.row > 0 {
            let event = Event::Checkpoint { stream: topic.stream_id, point, content };
            still_mine(ledger::record(&listener.pool, claim, event).await?)?;
        }
        if self.lease.is_lost() { Err(Stop::LeaseLost) } else { Ok(()) }
    }

    /// Waits while only the lag is in the way, and keeps lease and body. Returns whether it waited.
    async fn wait_for_the_lag(&self) -> bool {
        let Listener { gate, lag_waits, .. } = self.listener;
        let is_in_the_way = || gate.is_paused_for_lag(&self.claim.object.domain, &self.topic) && !self.lease.is_lost();
        if !is_in_the_way() {
            return false;
        }
        let Ok(_place) = lag_waits.try_acquire() else { return false };
        let until = Instant::now() + LAG_WAIT_MAX;
        while is_in_the_way() && Instant::now() < until {
            if self.stop.run_until_cancelled(tokio::time::sleep(LAG_LOOK)).await.is_none() {
                break;
            }
        }
        true
    }

    /// Whether to send the next chunk. The topic may have been closed, recreated, or extended by partitions since.
    fn may_go_on(&self) -> bool {
        let topic = self.listener.gate.topic(&self.claim.object.domain);
        topic.as_ref() == Some(&self.topic) && !self.stop.is_cancelled()
    }
}

/// Moves the point after everything that `rows` has sent: this many messages, which Kafka has acknowledged up to
/// `ends`.
pub(crate) fn acknowledged(
    listener: &Listener,
    domain: &str,
    point: &mut ResumePoint,
    rows: &RowPublisher,
    (messages, ends): (i64, Vec<i64>),
) {
    let before = point.row;
    for (end, chunk_end) in point.ends.iter_mut().zip(&ends) {
        *end = *chunk_end.max(end);
    }
    let at = rows.position();
    (point.byte, point.line, point.row) = (at.byte.cast_signed(), at.line.cast_signed(), at.row);
    point.seqs = rows.seqs().to_vec();
    let published = point.row - before;
    listener.gate.published(domain, &Delivered { ends, messages, rows: published });
    metrics::ROWS_PUBLISHED.with_label_values(&[domain]).inc_by(published.unsigned_abs());
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
