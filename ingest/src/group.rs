//! Publishes several small objects at once: each is read and checked by itself, those that are ready are sent together,
//! and their results are written to the ledger by one statement.
//!
//! Nothing else is shared: each object has its own lease, chunk, numbers, offsets and outcome, as if it were alone. An
//! object that does not fit (it is bigger than it looked, or not at its beginning) is published by itself; of these, in all
//! groups, only as many at once as there are workers, so that memory is bounded. One that is slow to read delays the
//! others by at most [`TOGETHER`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use freshet_sinks::ledger::{self, Claim, Finished};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_topics::failpoint::{self, Point};
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Listener;
use crate::leases::Lease;
use crate::outcome::{self, Stop, still_mine};
use crate::producer::Chunk;
use crate::publish::{self, Ready};

/// The most objects of a group.
pub(crate) const OBJECTS_MAX: usize = 128;
/// The most objects of a group that are read at once.
const READS_AT_ONCE: usize = 32;

/// How long a file that is read waits for the others of its group: sent in parts, a hundred files cost Kafka twice as much.
const TOGETHER: Duration = Duration::from_millis(100);

/// Up to this size, as stored, an object is small: a group of them is at most a chunk.
pub(crate) fn small_bytes(chunk_bytes: usize) -> usize {
    chunk_bytes / OBJECTS_MAX
}

/// One object of a group in progress.
struct Member {
    claim: Claim,
    lease: Lease,
    started: Instant,
    began: SystemTime,
}

/// A member that passed the first pass, with all of its bytes.
struct InMemory {
    member: Member,
    ready: Ready,
    bytes: Vec<u8>,
}

/// Attempts to publish a group of claimed objects, and writes the outcome of each to the ledger. After `stop`, objects
/// that were not read yet are handed back.
///
/// # Errors
/// If the ledger refuses. Leases that were not ended expire then, and another attempt follows.
pub(crate) async fn attempt(
    listener: &Arc<Listener>,
    claims: Vec<Claim>,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let member = |claim: Claim| {
        failpoint::reach(Point::Claimed);
        let lease = listener.leases.hold(&claim.object);
        Member { claim, lease, started: Instant::now(), began: SystemTime::now() }
    };
    let members: Vec<Member> = claims.into_iter().map(member).collect();
    let read = |member: Member| read_apart(listener, member, stop);
    let mut read = stream::iter(members).map(read).buffer_unordered(READS_AT_ONCE);
    while let Some(first) = read.next().await {
        let mut ready: Vec<_> = first?.into_iter().collect();
        let until = Instant::now() + TOGETHER;
        while let Ok(Some(more)) = timeout_at(until, read.next()).await {
            ready.extend(more?);
        }
        if !ready.is_empty() {
            send(listener, ready).await?;
        }
    }
    Ok(())
}

/// Reads each in its own task, so that a panic caused by one object does not stop the others.
async fn read_apart(
    listener: &Arc<Listener>,
    member: Member,
    stop: &CancellationToken,
) -> Result<Option<InMemory>, sqlx::Error> {
    let (id, version) = (member.claim.object.id, member.claim.object.version.clone());
    let task = tokio::spawn(read(Arc::clone(listener), member, stop.clone()));
    task.await.unwrap_or_else(|panic| {
        outcome::panicked(id, &version, &panic);
        Ok(None)
    })
}

/// Makes the first pass. `None` if the object ended by itself.
async fn read(
    listener: Arc<Listener>,
    mut member: Member,
    stop: CancellationToken,
) -> Result<Option<InMemory>, sqlx::Error> {
    let listener = listener.as_ref();
    if stop.is_cancelled() {
        return end(listener, member, Err(Stop::Paused)).await.map(|()| None);
    }
    let keep_bytes_max = 2 * small_bytes(listener.settings.chunk_bytes);
    match publish::prepare(listener, &mut member.claim, keep_bytes_max).await {
        Err(stop) => end(listener, member, Err(stop)).await.map(|()| None),
        Ok(mut ready) => match ready.take_whole() {
            Some(bytes) => Ok(Some(InMemory { member, ready, bytes })),
            None => {
                let published = match stop.run_until_cancelled(listener.group_streams.acquire()).await {
                    Some(_place) => ready.publish(listener, &mut member.claim, &member.lease, &stop).await,
                    None => Err(Stop::Paused),
                };
                end(listener, member, published).await.map(|()| None)
            }
        },
    }
}

/// The second pass of all objects that are ready: sent from one blocking thread, acknowledged together, written
/// together.
async fn send(listener: &Listener, group: Vec<InMemory>) -> Result<(), sqlx::Error> {
    let chunk = |ready: &Ready| listener.producer.chunk(&ready.topic.name, ready.point.ends.len());
    let queued: Vec<(Chunk, InMemory)> = group.into_iter().map(|object| (chunk(&object.ready), object)).collect();
    let send = move || {
        let sent = queued.into_iter().map(|(chunk, object)| {
            let InMemory { member, mut ready, bytes } = object;
            let sent = ready.rows.publish(&bytes, true, &chunk);
            (member, ready, chunk, sent)
        });
        sent.collect::<Vec<_>>()
    };
    let sent = match tokio::task::spawn_blocking(send).await {
        Ok(sent) => sent,
        Err(panic) => {
            // The first pass found no error in the same bytes. The leases expire, and each object is then tried alone.
            tracing::error!(%panic, "a bug in freshet while it sent several objects");
            return Ok(());
        }
    };
    let mut finished = Vec::with_capacity(sent.len());
    for (member, mut ready, chunk, sent) in sent {
        // Also if sending failed: then messages that were sent do not mix with the next attempt.
        let acknowledged = listener.producer.acknowledged(chunk).await;
        match acknowledged.map_err(Stop::from).and_then(|delivered| sent.map(|()| delivered).map_err(Stop::from)) {
            Ok(delivered) => {
                failpoint::reach(Point::ChunkAcknowledged);
                let domain = &member.claim.object.domain;
                publish::acknowledged(listener, domain, &mut ready.point, &ready.rows, delivered);
                finished.push((member, ready));
            }
            Err(stop) => end(listener, member, Err(stop)).await?,
        }
    }
    record(listener, finished).await
}

async fn record(listener: &Listener, mut finished: Vec<(Member, Ready)>) -> Result<(), sqlx::Error> {
    let mut written: Vec<Finished<'_>> = finished
        .iter_mut()
        .map(|(member, ready)| Finished {
            claim: &mut member.claim,
            stream: ready.topic.stream_id,
            point: &ready.point,
            content: &ready.content,
        })
        .collect();
    match ledger::record_published(&listener.pool, &mut written).await {
        Ok(recorded) => {
            for ((member, ready), recorded) in finished.into_iter().zip(recorded) {
                end(listener, member, still_mine(recorded).map(|()| ready.point.row)).await?;
            }
            Ok(())
        }
        Err(error) if error_kind(&error) == ErrorKind::Schema => Err(error),
        Err(error) => {
            for (member, _) in finished {
                end(listener, member, Err(Stop::Transient(format!("write to the ledger: {error}")))).await?;
            }
            Ok(())
        }
    }
}

async fn end(listener: &Listener, member: Member, ended: Result<i64, Stop>) -> Result<(), sqlx::Error> {
    let Member { claim, lease, started, began } = member;
    let recorded = outcome::ended_with(listener, claim, ended, started.elapsed(), began).await;
    drop(lease);
    recorded
}
