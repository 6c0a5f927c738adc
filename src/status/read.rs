//! Reads the status from Postgres, in a handful of statements that stay cheap as the ledger grows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_sinks::ledger::{NEWEST_OF_ITS_KEY_SQL, ObjectState};
use freshet_sinks::output_state::{self, OutputFailure};
use freshet_sinks::{event_queue, listings, unmatched};
use freshet_topics::log::Ends;
use freshet_topics::{Domain, Pipeline};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    DomainStatus, FailedOutput, Halted, LifeStatus, Listed, ORPHANS_COUNTED, Orphans, OutputsStatus, Outside,
    PartitionStatus, PassedOver, QueueStatus, ReplayStatus, Rows, Status, UNMATCHED_NAMED, columns, files, locks,
};

/// Distinct keys looked at for orphans, at most.
const KEYS_LOOKED_AT: i64 = 200_000;

/// Reads the status of `domains`, some or all of a pipeline's, a statement after the other. `listed`: which files to list, if any.
///
/// # Errors
/// If Postgres does not answer, or was not migrated.
pub async fn read(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    domains: &[&'static Domain],
    outside: &Outside,
    listed: Option<&Listed>,
) -> Result<Status> {
    let at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *connection).await.context("connect to Postgres")?;
    let (files, rows) = counts(connection).await.context("count the files and rows in the ledger")?;
    let mostly_rejected = mostly_rejected(connection).await.context("count the files that were mostly rejected")?;
    let places = positions(connection).await.context("read the bookmarks")?;
    let mut statuses = Vec::new();
    for domain in domains {
        let mut status = DomainStatus { domain: domain.name, ..DomainStatus::default() };
        fill_files(&mut status, &files, at);
        status.rows = rows.get(domain.name).copied().unwrap_or_default();
        status.rows.published = files.iter().filter(|it| it.domain == domain.name).map(|it| it.rows).sum();
        status.mostly_rejected_files = mostly_rejected.get(domain.name).copied().unwrap_or(0);
        fill_position(&mut status, &places, outside.log_ends.get(domain.name));
        status.replay = replay(connection, domain).await.context("look for replays")?;
        status.orphans =
            orphans(connection, pipeline, domain).await.with_context(|| format!("count orphans of {}", domain.name))?;
        statuses.push(status);
    }
    let blocked = locks::read(connection, pipeline).await.context("look for locks")?;
    let waiting = waiting(connection).await.context("count the change marks")?;
    let failed = output_state::failures(connection).await.context("read which outputs do not work")?;
    let files = match listed {
        Some(listed) => Some(files::list(connection, listed).await.context("list the files in the ledger")?),
        None => None,
    };
    let life = life(connection).await.context("read the lives of the ledger")?;
    let passed_over = passed_over(connection).await.context("count the skipped rows")?;
    let columns = columns::notes(connection).await.context("read which columns files have and lack")?;
    let unmatched = unmatched::read(connection, UNMATCHED_NAMED).await.context("read what belongs to no domain")?;
    let unlisted = listings::unlisted(connection).await.context("read what cannot be listed")?;
    let queue = event_queue::read(connection).await.context("read the state of the event queue")?;
    let event_queue = queue.map(|state| QueueStatus { reading: state.reading(), state });
    let outputs = outputs(waiting, failed, outside);
    Ok(Status {
        at,
        domains: statuses,
        outputs,
        blocked,
        missing_topics: outside.missing_topics.clone(),
        life,
        passed_over,
        columns,
        unmatched,
        unlisted,
        event_queue,
        files,
    })
}

/// Domain → files of the last day that are applied though most of their rows were not: nothing else tells of a small one.
/// One that is overwritten says nothing any more.
async fn mostly_rejected(connection: &mut PgConnection) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let counts: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT o.domain, count(*) FROM (
            -- Few files have any: not each file of a day is looked at.
            SELECT object, generation, sum(rejected) AS rejected FROM pipeline.progress
            WHERE rejected > 0 GROUP BY object, generation
         ) AS p
         JOIN pipeline.objects o ON o.id = p.object AND o.generation = p.generation
         WHERE o.applied_at > now() - interval '1 day' AND o.state = 'applied' AND 2 * p.rejected > o.rows
            AND {NEWEST_OF_ITS_KEY_SQL}
         GROUP BY o.domain"
    )))
    .fetch_all(connection)
    .await?;
    Ok(counts.into_iter().collect())
}

async fn life(connection: &mut PgConnection) -> Result<LifeStatus, sqlx::Error> {
    sqlx::query_as("SELECT number, began_at, why FROM pipeline.lives ORDER BY number DESC LIMIT 1")
        .fetch_one(connection)
        .await
}

async fn passed_over(connection: &mut PgConnection) -> Result<Option<PassedOver>, sqlx::Error> {
    sqlx::query_as(
        "SELECT sum(rows)::bigint AS rows, count(DISTINCT (nonce, object)) AS files,
            array_agg(DISTINCT domain ORDER BY domain) AS domains, max(last_seen) AS last_seen
         FROM pipeline.passed_over HAVING count(*) > 0",
    )
    .fetch_optional(connection)
    .await
}

async fn replay(connection: &mut PgConnection, domain: &Domain) -> Result<Option<ReplayStatus>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, kind, request, owner, began_at FROM pipeline.replays WHERE domain = $1 AND ended_at IS NULL",
    )
    .bind(domain.name)
    .fetch_optional(&mut *connection)
    .await
}

/// Change marks, the distinct ones among them, and the age of the oldest in seconds.
async fn waiting(connection: &mut PgConnection) -> Result<(i64, i64, Option<f64>), sqlx::Error> {
    sqlx::query_as(
        "SELECT count(*), count(DISTINCT (domain, dates, key, dimension)),
            extract(epoch FROM now() - min(marked_at))::double precision
         FROM pipeline.marks",
    )
    .fetch_one(&mut *connection)
    .await
}

fn outputs(
    (marks, dirty_windows, oldest): (i64, i64, Option<f64>),
    failed: Vec<OutputFailure>,
    outside: &Outside,
) -> OutputsStatus {
    let manifest = outside.outputs.as_ref().and_then(|outputs| outputs.manifest.as_ref());
    OutputsStatus {
        marks,
        dirty_windows,
        oldest_mark_seconds: oldest.map(|seconds| seconds.max(0.0)),
        version: manifest.map(|manifest| manifest.version),
        copies_behind: outside.outputs.as_ref().map(|outputs| outputs.copies_behind.clone()),
        failed: failed.into_iter().map(FailedOutput::from).collect(),
    }
}

/// Files of a domain in one state.
struct FileCount {
    domain: String,
    state: ObjectState,
    files: i64,
    rows: i64,
    newest: DateTime<Utc>,
    oldest: DateTime<Utc>,
}

/// What [`COUNTS`] gives: files in a state, or what came of rows.
#[derive(sqlx::FromRow)]
struct Count {
    domain: String,
    state: Option<ObjectState>,
    files: i64,
    /// Rows of the files, as far as they are published.
    rows: i64,
    newest: Option<DateTime<Utc>>,
    oldest: Option<DateTime<Utc>>,
    /// Rows received of the files' newest readings: applied, stale or rejected.
    received: i64,
    stale: i64,
    duplicate: i64,
    rejected: i64,
    corrected: i64,
}

/// One statement, so that all of it belongs to one moment. It does not read what a history of applied files came to: all
/// rows of an applied file were received, and those that are neither stale nor rejected are applied. The states stand in
/// it as they are, because only then Postgres knows which index has all that is asked for.
///
/// Messages that are no row of a file stand under object 0, and do not count. Earlier readings counted the same rows under
/// other numbers, and are taken off.
const COUNTS: &str = "
    SELECT domain, 'applied' AS state, count(*) AS files, coalesce(sum(rows), 0)::bigint AS rows,
        max(last_modified) AS newest, min(last_modified) AS oldest, coalesce(sum(rows), 0)::bigint AS received,
        0::bigint AS stale, 0::bigint AS duplicate, 0::bigint AS rejected, 0::bigint AS corrected
    FROM pipeline.objects WHERE state = 'applied' GROUP BY domain
    UNION ALL
    SELECT o.domain, o.state, count(*), coalesce(sum(coalesce(o.rows, o.resume_row)), 0)::bigint,
        max(o.last_modified), min(o.last_modified), coalesce(sum(p.received), 0)::bigint, 0, 0, 0, 0
    FROM pipeline.objects o CROSS JOIN LATERAL (
        SELECT sum(p.applied + p.stale + p.rejected) AS received FROM pipeline.progress p
        -- Of a file that nobody has taken yet no row is received, nor of a copy. There may be a million of either.
        WHERE o.partition_count IS NOT NULL AND o.cause->>'kind' IS DISTINCT FROM 'same_content'
            AND p.object = o.id AND p.generation = o.generation
    ) AS p
    -- As in the condition of its index.
    WHERE (o.state = 'applied') IS NOT TRUE GROUP BY o.domain, o.state
    UNION ALL
    SELECT domain, NULL, 0, 0, NULL, NULL, 0, sum(stale)::bigint, sum(duplicate)::bigint, sum(rejected)::bigint,
        sum(corrected)::bigint
    FROM pipeline.progress
    WHERE object > 0 AND (stale > 0 OR duplicate > 0 OR rejected > 0 OR corrected > 0) GROUP BY domain
    UNION ALL
    SELECT p.domain, NULL, 0, 0, NULL, NULL, 0, -sum(p.stale)::bigint, -sum(p.duplicate)::bigint,
        -sum(p.rejected)::bigint, -sum(p.corrected)::bigint
    FROM pipeline.objects o JOIN pipeline.progress p ON p.object = o.id AND p.generation < o.generation
    WHERE o.generation > 1 AND (p.stale > 0 OR p.duplicate > 0 OR p.rejected > 0 OR p.corrected > 0)
    GROUP BY p.domain";

/// The files by state, and what their rows came to by domain.
async fn counts(connection: &mut PgConnection) -> Result<(Vec<FileCount>, BTreeMap<String, Rows>), sqlx::Error> {
    let counts: Vec<Count> = sqlx::query_as(COUNTS).fetch_all(connection).await?;
    let rows = row_counts(&counts);
    let files = counts.into_iter().filter_map(|count| {
        let Count { domain, state, files, rows, newest, oldest, .. } = count;
        Some(FileCount { domain, state: state?, files, rows, newest: newest?, oldest: oldest? })
    });
    Ok((files.collect(), rows))
}

fn row_counts(counts: &[Count]) -> BTreeMap<String, Rows> {
    let mut domains: BTreeMap<String, Rows> = BTreeMap::new();
    for count in counts {
        let rows = domains.entry(count.domain.clone()).or_default();
        rows.applied += count.received - count.stale - count.rejected;
        rows.stale += count.stale;
        rows.duplicate += count.duplicate;
        rows.rejected += count.rejected;
        rows.corrected += count.corrected;
    }
    domains
}

fn fill_files(status: &mut DomainStatus, counts: &[FileCount], at: DateTime<Utc>) {
    let age = |then: DateTime<Utc>| ((at - then).num_milliseconds().max(0)) as f64 / 1_000.0;
    for state in ObjectState::ALL {
        let count = counts.iter().find(|count| count.domain == status.domain && count.state == state);
        status.files.insert(state, count.map_or(0, |count| count.files));
        match (count, state) {
            (Some(count), ObjectState::Applied) => status.freshness_seconds = Some(age(count.newest)),
            (Some(count), state) if !state.is_final() => {
                let older = status.oldest_unfinished_seconds.unwrap_or(0.0);
                status.oldest_unfinished_seconds = Some(age(count.oldest).max(older));
            }
            _ => {}
        }
    }
}

#[derive(sqlx::FromRow)]
struct Position {
    domain: String,
    partition: i32,
    next_offset: i64,
    published_end: i64,
    halted: Option<String>,
}

/// Where each partition is, and where the published files of its stream end: objects that are applied are behind
/// the bookmark already, so that only the unfinished ones are looked at.
async fn positions(connection: &mut PgConnection) -> Result<Vec<Position>, sqlx::Error> {
    sqlx::query_as(
        "WITH ends AS (
            SELECT o.domain, (e.ord - 1)::integer AS partition, max(e.end_offset) AS end_offset
            FROM pipeline.objects o CROSS JOIN LATERAL UNNEST(o.end_offsets) WITH ORDINALITY AS e (end_offset, ord)
            -- Not a parameter: a plan that is kept for any state cannot use the index of published files.
            WHERE o.state = 'published'
                AND o.stream_id = (SELECT s.stream_id FROM pipeline.streams s WHERE s.domain = o.domain)
            GROUP BY 1, 2
         )
         SELECT coalesce(b.domain, e.domain) AS domain, coalesce(b.partition, e.partition) AS partition,
            coalesce(b.next_offset, 0) AS next_offset, coalesce(e.end_offset, 0) AS published_end, b.halted
         FROM pipeline.bookmarks b FULL JOIN ends e ON e.domain = b.domain AND e.partition = b.partition
         ORDER BY 1, 2",
    )
    .fetch_all(&mut *connection)
    .await
}

/// Without Kafka's answer, what is published counts as the log.
fn fill_position(status: &mut DomainStatus, positions: &[Position], kafkas: Option<&BTreeMap<i32, Ends>>) {
    let own = || positions.iter().filter(|position| position.domain == status.domain);
    let next = |partition: i32| own().find(|it| it.partition == partition).map_or(0, |it| it.next_offset);
    let at = |partition, next_offset, ends: Ends| {
        let lag_messages = ends.waiting(next_offset);
        PartitionStatus { partition, next_offset, lag_messages }
    };
    let published = |it: &Position| Ends { low: 0, high: it.published_end };
    status.partitions = match kafkas {
        Some(ends) => ends.iter().map(|(partition, ends)| at(*partition, next(*partition), *ends)).collect(),
        None => own().map(|it| at(it.partition, it.next_offset, published(it))).collect(),
    };
    let halted = own().filter_map(|position| {
        let reason = position.halted.clone()?;
        Some(Halted { partition: position.partition, reason })
    });
    status.halted = halted.collect();
    status.lag_is_kafkas = kafkas.is_some();
    status.lag_messages = status.partitions.iter().map(|partition| partition.lag_messages).sum();
}

/// Counts the facts that refer to rows of another domain which are not known, without reading the table: what is referred
/// to is found by skipping through the key's index, whose first column it is. None where the key begins otherwise.
async fn orphans(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    domain: &Domain,
) -> Result<Option<Orphans>, sqlx::Error> {
    let Some(sql) = orphans_sql(pipeline, domain) else { return Ok(None) };
    let counted: Option<(i64, i64)> = locks::unless_locked(connection, sql).await?;
    let Some((rows, locations)) = counted else { return Ok(None) };
    Ok(Some(Orphans { rows: rows.min(ORPHANS_COUNTED), more: rows > ORPHANS_COUNTED, locations }))
}

fn orphans_sql(pipeline: &Pipeline, domain: &Domain) -> Option<String> {
    domain.event_time?;
    let first = domain.column(domain.key.first()?)?;
    let reference = first.references?;
    let known = pipeline.domain(reference.domain)?.table;
    let (table, column, key) = (domain.table, first.name, reference.column);
    Some(format!(
        "WITH RECURSIVE named (key) AS (
            (SELECT \"{column}\" FROM \"{table}\" ORDER BY \"{column}\" LIMIT 1)
            UNION ALL
            SELECT (SELECT t.\"{column}\" FROM \"{table}\" t WHERE t.\"{column}\" > n.key
                    ORDER BY t.\"{column}\" LIMIT 1)
            FROM named n WHERE n.key IS NOT NULL
         ), unknown AS MATERIALIZED (
            SELECT n.key FROM (SELECT key FROM named LIMIT {KEYS_LOOKED_AT}) n
            WHERE n.key IS NOT NULL
                AND NOT EXISTS (SELECT FROM \"{known}\" k WHERE k.\"{key}\" = n.key)
         )
         SELECT
            (SELECT count(*) FROM (SELECT FROM \"{table}\" t WHERE t.\"{column}\" IN (SELECT key FROM unknown)
                                   LIMIT {ORPHANS_COUNTED} + 1) AS counted),
            (SELECT count(*) FROM unknown)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_counted_where_the_key_begins_with_a_reference() {
        let pipeline = Pipeline::shipped();
        for domain in pipeline.domains {
            let sql = orphans_sql(pipeline, domain);
            assert_eq!(sql.is_some(), domain.event_time.is_some(), "{}", domain.name);
            assert!(
                sql.is_none_or(|sql| sql.contains("FROM \"locations\" k WHERE k.\"id\" = n.key")),
                "{}",
                domain.name
            );
        }
    }

    #[test]
    fn lag_is_kafkas_where_kafka_answers_and_the_ledgers_elsewhere() {
        let position = |partition, next_offset, published_end| Position {
            domain: "health".into(),
            partition,
            next_offset,
            published_end,
            halted: (partition == 1).then(|| "the topic was recreated".into()),
        };
        let positions = [position(0, 10, 15), position(1, 4, 0)];
        let mut status = DomainStatus { domain: "health", ..DomainStatus::default() };
        fill_position(&mut status, &positions, None);
        assert_eq!((status.lag_messages, status.lag_is_kafkas, status.halted.len()), (5, false, 1));
        let ends = |low, high| Ends { low, high };
        let kafkas = BTreeMap::from([(0, ends(0, 20)), (1, ends(0, 4)), (2, ends(0, 3))]);
        fill_position(&mut status, &positions, Some(&kafkas));
        assert_eq!((status.lag_messages, status.lag_is_kafkas), (12, true));
        // Retention was faster than the processor: what is gone does not wait.
        fill_position(&mut status, &positions, Some(&BTreeMap::from([(1, ends(6, 8))])));
        assert_eq!(status.lag_messages, 2);
    }
}
