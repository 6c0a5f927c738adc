//! Replays: which are under way, what was asked of them, how far they are, and how one ends.
//!
//! A domain has one that is not ended at most. Who works on it holds an advisory lock on a connection of its own
//! ([`Hold`]), so that another is refused while it lives and may go on where it stopped once it is dead. What it writes
//! carries its name and its bookmarks' epochs: should it be taken for dead and wake up, nothing of it fits any more.

pub mod correct;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::apply::ApplyError;
use crate::apply::marks::Marks;
use crate::apply::progress::Part;
use crate::apply::upsert::{Changed, quoted};
use crate::bookmark::{self, Taken};
use crate::destination::Destination;
use crate::replay::correct::{Corrected, Moved};

/// Where a replay writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The live table.
    InPlace,
    /// A shadow.
    Shadow,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::InPlace => "in_place",
            Kind::Shadow => "shadow",
        }
    }

    /// The place it writes to.
    pub fn destination(self) -> Destination {
        match self {
            Kind::InPlace => Destination::Correction,
            Kind::Shadow => Destination::Shadow,
        }
    }
}

/// A replay, as it is written down.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Replay {
    /// Its number.
    pub id: i64,
    /// Domain name.
    pub domain: String,
    /// `in_place` or `shadow`.
    pub kind: String,
    /// What was asked for.
    pub request: String,
    /// The topic it reads.
    pub stream_id: Uuid,
    /// One past the last offset to read in each partition; a shadow has none.
    pub end_offsets: Option<Vec<i64>>,
    /// Which reading it is at, from 1.
    pub pass: i32,
    /// Who works on it, or did.
    pub owner: String,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it last wrote something.
    pub updated_at: DateTime<Utc>,
    /// Rows read so far.
    pub rows_read: i64,
    /// Rows of new keys written.
    pub inserted: i64,
    /// Rows changed.
    pub changed: i64,
    /// Rows that are rejects now.
    pub rejected_anew: i64,
    /// Rows that are rejects no longer.
    pub accepted_anew: i64,
    /// Rows removed from the table.
    pub removed: i64,
}

/// Its columns, as [`Replay`] reads them.
const COLUMNS: &str = "id, domain, kind, request, stream_id, end_offsets, pass, owner, began_at, updated_at, rows_read, \
     inserted, changed, rejected_anew, accepted_anew, removed";

/// The replay that this process works on.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its number.
    pub id: i64,
    /// The name under which this process writes.
    pub owner: String,
}

/// What a replay is asked to do.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The domain.
    pub domain: &'static Domain,
    /// Where to.
    pub kind: Kind,
    /// What was asked for, in words that are equal if and only if the request is.
    pub request: &'a str,
    /// The topic.
    pub stream_id: Uuid,
    /// (partition, offset) to begin at.
    pub starts: &'a [(i32, i64)],
    /// One past the last offset to read in each partition.
    pub end_offsets: Option<Vec<i64>>,
    /// A name for this process, unlike any other's.
    pub owner: &'a str,
}

/// Why a replay cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Another one of the domain has not ended.
    #[error(
        "replay {} of {} has not ended ({}): go on with it by asking the same again, or give it up with \
         `freshet replay {} --abandon`", .0.id, .0.domain, .0.request, .0.domain
    )]
    Unfinished(Box<Replay>),
    /// It was begun on a topic that is gone.
    #[error(
        "replay {} of {} was begun on a topic that is gone: give it up with `freshet replay {} --abandon`",
        .0.id, .0.domain, .0.domain
    )]
    OtherStream(Box<Replay>),
    /// Postgres does not answer.
    #[error("write the replay down: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// Keeps others from working on the domain's replays until it is dropped, or the process dies.
#[derive(Debug)]
pub struct Hold {
    _connection: PgConnection,
}

/// Postgres lets go of what a process held that has just ended within moments.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const LET_GO_LOOK: Duration = Duration::from_millis(50);

/// Takes hold of a domain's replays; `None` while another process has it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn hold(pool: &PgPool, domain: &str) -> Result<Option<Hold>, sqlx::Error> {
    // Not the pool's: closing it, in whatever way, is what lets go.
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    let began = Instant::now();
    loop {
        let held = "SELECT pg_try_advisory_lock(hashtextextended('freshet replay of ' || $1, 2))";
        if sqlx::query_scalar(held).bind(domain).fetch_one(&mut connection).await? {
            return Ok(Some(Hold { _connection: connection }));
        }
        if began.elapsed() > LET_GO_WITHIN {
            return Ok(None);
        }
        tokio::time::sleep(LET_GO_LOOK).await;
    }
}

/// The domain's replay that has not ended.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unfinished(pool: &PgPool, domain: &str) -> Result<Option<Replay>, sqlx::Error> {
    let sql = format!("SELECT {COLUMNS} FROM pipeline.replays WHERE domain = $1 AND ended_at IS NULL");
    sqlx::query_as(AssertSqlSafe(sql)).bind(domain).fetch_optional(pool).await
}

/// Begins a replay, or goes on with the one that was interrupted and was asked the same. Gives its bookmarks, taken.
/// To be called with a [`Hold`] on the domain.
///
/// # Errors
/// [`BeginError`]; nothing has changed then.
pub async fn begin(pool: &PgPool, wanted: &Wanted<'_>) -> Result<(Replay, Vec<Taken>), BeginError> {
    let Wanted { domain, kind, request, stream_id, starts, end_offsets, owner } = wanted;
    match unfinished(pool, domain.name).await? {
        Some(found) if found.kind != kind.name() || found.request != *request => {
            return Err(BeginError::Unfinished(Box::new(found)));
        }
        Some(found) if found.stream_id != *stream_id => return Err(BeginError::OtherStream(Box::new(found))),
        Some(_) => {}
        None => {
            let mut transaction = pool.begin().await?;
            sqlx::query(
                "INSERT INTO pipeline.replays (domain, kind, request, stream_id, end_offsets, owner, start_offsets)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(domain.name)
            .bind(kind.name())
            .bind(request)
            .bind(stream_id)
            .bind(end_offsets)
            .bind(owner)
            .bind(by_partition(starts))
            .execute(&mut *transaction)
            .await?;
            forget_state(&mut transaction, kind.destination(), domain.name).await?;
            if *kind == Kind::Shadow {
                crate::shadow::create(&mut transaction, domain).await?;
            }
            transaction.commit().await?;
        }
    }
    let taken = bookmark::take(pool, kind.destination(), domain.name, *stream_id, owner, starts).await?;
    let sql = format!(
        "UPDATE pipeline.replays SET owner = $2, updated_at = now() WHERE domain = $1 AND ended_at IS NULL
         RETURNING {COLUMNS}"
    );
    let replay = sqlx::query_as(AssertSqlSafe(sql)).bind(domain.name).bind(owner).fetch_one(pool).await?;
    Ok((replay, taken))
}

/// Offsets as an array that has partition 0 first.
fn by_partition(offsets: &[(i32, i64)]) -> Vec<i64> {
    let mut array = vec![0; offsets.iter().map(|(partition, _)| *partition as usize + 1).max().unwrap_or(0)];
    for (partition, offset) in offsets {
        array[*partition as usize] = *offset;
    }
    array
}

/// Forgets how far a replay was.
async fn forget_state(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
) -> Result<(), sqlx::Error> {
    for table in [destination.bookmarks(), destination.progress()] {
        let sql = format!("DELETE FROM {table} WHERE domain = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(domain).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Ends the domain's replay before it has read all: what it has judged up to now holds, a shadow is dropped.
/// To be called with a [`Hold`] on the domain. Gives what was ended.
///
/// # Errors
/// If Postgres does not answer.
pub async fn abandon(pool: &PgPool, domain: &'static Domain) -> Result<Option<Replay>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let sql = format!(
        "UPDATE pipeline.replays SET ended_at = now(),
            outcome = CASE kind WHEN 'shadow' THEN 'dropped' ELSE 'abandoned' END
         WHERE domain = $1 AND ended_at IS NULL RETURNING {COLUMNS}"
    );
    let ended: Option<Replay> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(domain.name).fetch_optional(&mut *transaction).await?;
    if let Some(ended) = &ended {
        remove_suspects(&mut transaction, domain, ended.id).await?;
        take_over_corrections(&mut transaction, domain.name).await?;
        forget_state(&mut transaction, Destination::Correction, domain.name).await?;
        crate::shadow::drop_all(&mut transaction, domain).await?;
    }
    transaction.commit().await?;
    Ok(ended)
}

/// A row that may stand in the table where it does not belong any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Object, generation and row.
    pub(crate) lineage: (i64, i32, i64),
    /// The key under which it belongs; `None` where it is a reject.
    pub(crate) kept: Option<String>,
}

/// Remembers suspects; what was said last of a row holds.
pub(crate) async fn suspect(
    connection: &mut PgConnection,
    replay: &Running,
    suspects: &[Suspect],
) -> Result<(), sqlx::Error> {
    if suspects.is_empty() {
        return Ok(());
    }
    let last: BTreeMap<(i64, i32, i64), &Option<String>> =
        suspects.iter().map(|suspect| (suspect.lineage, &suspect.kept)).collect();
    sqlx::query(
        "INSERT INTO pipeline.replay_suspects (replay, object, generation, row, kept)
         SELECT $1, u.* FROM UNNEST($2::int8[], $3::int4[], $4::int8[], $5::text[]) AS u (object, generation, row, kept)
         ON CONFLICT (replay, object, generation, row) DO UPDATE SET kept = excluded.kept",
    )
    .bind(replay.id)
    .bind(last.keys().map(|lineage| lineage.0).collect::<Vec<_>>())
    .bind(last.keys().map(|lineage| lineage.1).collect::<Vec<_>>())
    .bind(last.keys().map(|lineage| lineage.2).collect::<Vec<_>>())
    .bind(last.values().map(|kept| (*kept).clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves rows between the counts of their files. The sum of applied, stale and rejected stays: what is a reject now
/// is taken from `applied`, and from `stale` where no more were applied.
pub(crate) async fn recount(
    connection: &mut PgConnection,
    domain: &str,
    moved: &BTreeMap<Part, Moved>,
) -> Result<(), sqlx::Error> {
    if moved.is_empty() {
        return Ok(());
    }
    let count = |pick: fn(&Moved) -> i64| moved.values().map(pick).collect::<Vec<i64>>();
    sqlx::query(
        "UPDATE pipeline.progress AS p SET
            rejected = p.rejected + u.rejected - u.accepted,
            applied = p.applied + u.written - least(p.applied + u.written, u.rejected),
            stale = p.stale + u.accepted - u.written - (u.rejected - least(p.applied + u.written, u.rejected))
         FROM UNNEST($1::int8[], $2::int4[], $3::int4[], $4::int8[], $5::int8[], $6::int8[])
            AS u (object, generation, partition, accepted, written, rejected)
         WHERE p.object = u.object AND p.generation = u.generation AND p.partition = u.partition AND p.domain = $7",
    )
    .bind(moved.keys().map(|part| part.object).collect::<Vec<_>>())
    .bind(moved.keys().map(|part| part.generation).collect::<Vec<_>>())
    .bind(moved.keys().map(|part| part.partition).collect::<Vec<_>>())
    .bind(count(|moved| moved.accepted))
    .bind(count(|moved| moved.written))
    .bind(count(|moved| moved.rejected))
    .bind(domain)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a batch to what the replay has done.
///
/// # Errors
/// [`ApplyError::Lost`] if another process works on the replay by now, or another topic was adopted.
pub(crate) async fn add(
    connection: &mut PgConnection,
    replay: &Running,
    corrected: &Corrected,
) -> Result<(), ApplyError> {
    let added = sqlx::query(
        "UPDATE pipeline.replays SET rows_read = rows_read + $3, inserted = inserted + $4, changed = changed + $5,
            rejected_anew = rejected_anew + $6, accepted_anew = accepted_anew + $7, updated_at = now()
         WHERE id = $1 AND owner = $2 AND ended_at IS NULL
            AND EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = replays.domain AND s.stream_id = replays.stream_id)",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .bind(corrected.read.cast_signed())
    .bind(corrected.inserted.cast_signed())
    .bind(corrected.changed.cast_signed())
    .bind(corrected.rejected_anew.values().sum::<u64>().cast_signed())
    .bind(corrected.accepted_anew.values().sum::<u64>().cast_signed())
    .execute(connection)
    .await?;
    match added.rows_affected() {
        0 => Err(ApplyError::Lost(Vec::new())),
        _ => Ok(()),
    }
}

/// What came of a replay in place that has read all.
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It is over.
    Ended(Box<Replay>),
    /// Rows were removed from places that others may take: it has begun to read once more.
    Again,
}

/// Readings at most. The first one removes whatever has no place any more; the second finds every place free that is.
const PASSES_MAX: i32 = 2;

/// Ends a replay in place that has read all: removes what rows that were judged otherwise have left behind. Where that
/// was any, it sets the replay back to its start, once. The live pipeline may write newer rows meanwhile; those have
/// another lineage and stay.
///
/// # Errors
/// [`ApplyError::Lost`] if another process works on the replay by now.
pub async fn finish(pool: &PgPool, domain: &'static Domain, replay: &Running) -> Result<Finished, ApplyError> {
    let mut transaction = pool.begin().await?;
    let pass: Option<i32> = sqlx::query_scalar(
        "SELECT pass FROM pipeline.replays WHERE id = $1 AND owner = $2 AND ended_at IS NULL FOR UPDATE",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .fetch_optional(&mut *transaction)
    .await?;
    let pass = pass.ok_or_else(|| ApplyError::Lost(Vec::new()))?;
    let removed = remove_suspects(&mut transaction, domain, replay.id).await?;
    if removed > 0 && pass < PASSES_MAX {
        set_back(&mut transaction, domain.name, replay.id, removed).await?;
        transaction.commit().await?;
        return Ok(Finished::Again);
    }
    take_over_corrections(&mut transaction, domain.name).await?;
    forget_state(&mut transaction, Destination::Correction, domain.name).await?;
    let sql = format!(
        "UPDATE pipeline.replays SET removed = removed + $2, ended_at = now(), updated_at = now(), outcome = 'done'
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let ended = sqlx::query_as(AssertSqlSafe(sql)).bind(replay.id).bind(removed).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Finished::Ended(Box::new(ended)))
}

/// Sets a replay back to where it began, for another reading.
async fn set_back(connection: &mut PgConnection, domain: &str, replay: i64, removed: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE pipeline.replays SET pass = pass + 1, removed = removed + $2, updated_at = now() WHERE id = $1",
    )
    .bind(replay)
    .bind(removed)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE pipeline.replay_bookmarks AS b SET next_offset = r.start_offsets[b.partition + 1], updated_at = now()
         FROM pipeline.replays AS r WHERE r.id = $2 AND b.domain = $1",
    )
    .bind(domain)
    .bind(replay)
    .execute(connection)
    .await?;
    Ok(())
}

/// Corrections are counted anew where all rows that the live pipeline has received were read again.
async fn take_over_corrections(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    // A batch of the live pipeline adds to the corrections that it has read: not while these are written.
    sqlx::query("SELECT FROM pipeline.bookmarks WHERE domain = $1 ORDER BY partition FOR UPDATE")
        .bind(domain)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "UPDATE pipeline.progress AS p SET corrected = r.corrected, corrections = r.corrections
         FROM pipeline.replay_progress AS r
         WHERE r.domain = $1 AND p.domain = r.domain
            AND p.object = r.object AND p.generation = r.generation AND p.partition = r.partition
            AND p.received = r.received AND p.corrections IS DISTINCT FROM r.corrections",
    )
    .bind(domain)
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes from the table what suspects left under a key that is not theirs, marks it, and counts it.
async fn remove_suspects(
    connection: &mut PgConnection,
    domain: &'static Domain,
    replay: i64,
) -> Result<i64, sqlx::Error> {
    let (returned, changed) = match &domain.event_time {
        Some(it) => (
            quoted([it.date, it.projected], "t."),
            format!("array_agg(DISTINCT \"{}\") FILTER (WHERE \"{}\" IS FALSE)", it.date, it.projected),
        ),
        None => (quoted([domain.partition_by], "t."), format!("array_agg(DISTINCT \"{}\")", domain.partition_by)),
    };
    let sql = format!(
        "WITH removed AS (
            DELETE FROM {table} AS t USING pipeline.replay_suspects AS s
            WHERE s.replay = $1 AND t.src_object = s.object AND t.src_gen = s.generation AND t.src_row = s.row
                AND s.kept IS DISTINCT FROM ROW({key})::text
            RETURNING {returned}
         )
         SELECT count(*), {changed} FROM removed",
        table = Destination::Live.table(domain),
        key = quoted(domain.key.iter().copied(), "t."),
    );
    let query = |sql: String| sqlx::query_as::<_, (i64, Option<Vec<NaiveDate>>)>(AssertSqlSafe(sql)).bind(replay);
    let (removed, changed) = match domain.event_time {
        Some(_) => {
            let (removed, dates) = query(sql).fetch_one(&mut *connection).await?;
            (removed, Changed::Dates(dates.unwrap_or_default()))
        }
        None => {
            let (removed, ids): (i64, Option<Vec<i32>>) =
                sqlx::query_as(AssertSqlSafe(sql)).bind(replay).fetch_one(&mut *connection).await?;
            (removed, Changed::Locations(ids.unwrap_or_default()))
        }
    };
    let mut marks = Marks::default();
    marks.add(&changed);
    marks.append(&mut *connection, domain.name).await?;
    sqlx::query("DELETE FROM pipeline.replay_suspects WHERE replay = $1").bind(replay).execute(connection).await?;
    Ok(removed)
}
