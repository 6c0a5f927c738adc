//! Complete or repair: the one place that decides whether all rows of a published object have arrived.
//!
//! Once the bookmarks have passed an object's end offsets, the rows received are counted. If all are there, the object
//! is `applied`. If not, it is published again from row 0 under the same numbers: rows that arrived are duplicates,
//! missing ones are added. The same happens if the log ends before the object does, because the bookmarks can never
//! pass that end.
//!
//! An object has at most one repair at a time, because only a published object is judged. Every write is guarded by the
//! state and the repair count that were judged, so two sweeps at once do everything once.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use freshet_topics::failpoint::{self, Point};
use freshet_topics::{Domain, Overwrite};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::lost::{Lost, lost_rows, received};
use super::object::{COLUMNS, Object};
use super::reason::Reason;
use super::replace;
use super::transition::Event;
use super::write::change_all;
use crate::backoff::Backoff;
use crate::postgres::{ErrorKind, error_kind};
use crate::transactions::{self, Limits};

/// Objects judged in one statement.
const PAGE: i64 = 1_000;

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Objects found complete.
    pub applied: Vec<Arrived>,
    /// Objects to be published again, with the number of rows received of each.
    pub repaired: Vec<(Object, i64)>,
    /// Published objects whose end the bookmarks have not reached.
    pub waiting: u64,
    /// Rows removed from the table because only an older version of an object had them.
    pub replaced: i64,
    /// Why some objects that are complete stay published until a later sweep.
    pub failure: Option<sqlx::Error>,
    /// How long it took, without waiting for a connection.
    pub took: Duration,
}

/// An object whose rows have all arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// The object.
    pub object: Object,
    /// Whether this is the first time; false if the object was sent again.
    pub is_new: bool,
    /// From its last-modified time to the commit of its last row, in seconds.
    pub freshness_seconds: f64,
}

/// The verdict on a published object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its records may not be applied yet.
    Wait,
    /// All rows were received.
    Applied,
    /// Rows are missing and will not arrive any more.
    Repair,
}

/// Decides about a published object.
///
/// | bookmarks have passed its end | rows received | the log ends before it does | verdict |
/// |---|---|---|---|
/// | – | all | yes | applied |
/// | – | fewer | yes | repair |
/// | no | – | no | wait |
/// | yes | all | no | applied |
/// | yes | fewer | no | repair |
///
/// More than all is impossible: sequence numbers are a function of the bytes, and each counts once.
pub fn judge(passed: bool, received: i64, rows: i64, is_truncated: bool) -> Verdict {
    match (passed || is_truncated, received >= rows) {
        (false, _) => Verdict::Wait,
        (true, true) => Verdict::Applied,
        (true, false) => Verdict::Repair,
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Published {
    #[sqlx(flatten)]
    object: Object,
    passed: bool,
    received: i64,
    is_new: bool,
    last_row_at: DateTime<Utc>,
}

/// Checks every published object of the domain once. `is_truncated` tells whether the log ends before an object does,
/// which only Kafka knows. If an object cannot be completed, [`Swept::failure`] says why, and the others are checked.
///
/// # Errors
/// If Postgres does not answer. Work done before that stays done.
pub async fn sweep(
    pool: &PgPool,
    domain: &Domain,
    back_off: Backoff,
    mut is_truncated: impl FnMut(&Object) -> bool,
) -> Result<Swept, sqlx::Error> {
    let mut swept = Swept::default();
    let mut after = i64::MIN;
    let mut connection = pool.acquire().await?;
    let began = Instant::now();
    loop {
        let page = published(&mut connection, domain.name, after).await?;
        let Some(last) = page.last() else { return Ok(Swept { took: began.elapsed(), ..swept }) };
        after = last.object.src_ord;
        let (mut applied, mut repairs) = (vec![], vec![]);
        for one in page {
            let truncated = !one.passed && is_truncated(&one.object);
            match judge(one.passed, one.received, one.object.rows.unwrap_or(0), truncated) {
                Verdict::Wait => swept.waiting += 1,
                Verdict::Applied => applied.push(one),
                Verdict::Repair => repairs.push((one, truncated)),
            }
        }
        repair(&mut connection, repairs, back_off, &mut swept).await?;
        complete(&mut connection, domain, applied, &mut swept).await;
    }
}

/// Finds objects that were given up as never read although some of their rows arrived (a listener that died, or was
/// slow, had sent them), and records that the others are missing. Returns those objects as they were.
///
/// # Errors
/// If Postgres does not answer. Records written before that stay.
pub async fn name_late_rows(pool: &PgPool, domain: &str) -> Result<Vec<Object>, sqlx::Error> {
    let (mut late, mut after) = (Vec::new(), i64::MIN);
    let mut connection = pool.acquire().await?;
    loop {
        let objects: Vec<Object> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM pipeline.objects o
             WHERE o.domain = $1 AND o.id > $2
                AND o.state = 'superseded' AND o.cause->>'kind' = 'gone' AND o.cause->>'lost' = 'nothing'
                AND EXISTS (SELECT FROM pipeline.progress p
                    WHERE p.object = o.id AND p.generation = o.generation AND p.domain = o.domain)
             ORDER BY o.id LIMIT $3"
        )))
        .bind(domain)
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = objects.last() else { return Ok(late) };
        after = last.id;
        for object in objects {
            let lost = lost_rows(&object, &received(&mut connection, &object).await?);
            let event = |_: &Object| Event::RowsArrived { lost: lost.clone() };
            let is_said = lost != Lost::Nothing
                && !change_all(&mut connection, std::slice::from_ref(&object), event).await?.is_empty();
            late.extend(is_said.then_some(object));
        }
    }
}

/// The next page of published objects. One statement, so that bookmarks and progress belong to the same moment: both
/// move in the same transaction.
async fn published(connection: &mut PgConnection, domain: &str, after: i64) -> Result<Vec<Published>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS}, b.passed, o.applied_at IS NULL AS is_new, coalesce(p.received, 0)::bigint AS received,
            coalesce(p.last_row_at, clock_timestamp()) AS last_row_at
         FROM (
            SELECT * FROM pipeline.objects
            WHERE state = 'published' AND domain = $1 AND src_ord > $2
            ORDER BY src_ord
            LIMIT $3
         ) AS o
         CROSS JOIN LATERAL (
            -- After adopt, the ends of the old stream are never reached: only the received rows count.
            SELECT (
                NOT EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = o.domain AND s.stream_id = o.stream_id)
                AND EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = o.domain)
            ) OR NOT EXISTS (
                SELECT FROM UNNEST(o.end_offsets) WITH ORDINALITY AS e (end_offset, ord)
                LEFT JOIN pipeline.bookmarks m
                    ON m.domain = o.domain AND m.partition = e.ord - 1 AND m.stream_id = o.stream_id
                WHERE e.end_offset > 0 AND (m.next_offset IS NULL OR m.next_offset < e.end_offset)
            ) AS passed
         ) AS b
         CROSS JOIN LATERAL (
            SELECT sum((SELECT sum(upper(r) - lower(r)) FROM unnest(p.received) AS r)) AS received,
                max(p.updated_at) AS last_row_at
            FROM pipeline.progress p
            WHERE p.object = o.id AND p.generation = o.generation AND p.domain = o.domain
         ) AS p
         ORDER BY o.src_ord"
    )))
    .bind(domain)
    .bind(after)
    .bind(PAGE)
    .fetch_all(connection)
    .await
}

/// Completes objects: all at once, or if Postgres refuses to remove rows, half by half, so that only the objects stay
/// published that it refuses. After another error, such as a lock that somebody holds, nothing more is completed: each
/// page would wait for it.
async fn complete(connection: &mut PgConnection, domain: &Domain, objects: Vec<Published>, swept: &mut Swept) {
    let before: Vec<Object> = objects.iter().map(|one| one.object.clone()).collect();
    let mut written: Vec<i64> = Vec::new();
    let mut parts = vec![before.as_slice()];
    while swept.failure.as_ref().is_none_or(is_of_a_row)
        && let Some(part) = parts.pop()
    {
        match complete_at_once(connection, domain, part, swept).await {
            Ok(ids) => written.extend(ids),
            Err(error) if is_of_a_row(&error) && part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(error) => swept.failure = Some(error),
        }
    }
    for one in objects.into_iter().filter(|one| written.contains(&one.object.id)) {
        // S3's clock may be ahead of Postgres' by a little.
        let fresh = (one.last_row_at - one.object.version.last_modified).num_milliseconds().max(0) as f64 / 1_000.0;
        swept.applied.push(Arrived { object: one.object, is_new: one.is_new, freshness_seconds: fresh });
    }
}

fn is_of_a_row(error: &sqlx::Error) -> bool {
    error_kind(error) == ErrorKind::Row
}

/// Completes all of these objects or none; returns the ids of those that were written.
async fn complete_at_once(
    connection: &mut PgConnection,
    domain: &Domain,
    objects: &[Object],
    swept: &mut Swept,
) -> Result<Vec<i64>, sqlx::Error> {
    match domain.on_overwrite {
        Overwrite::Merge => change_all(connection, objects, |_| Event::Complete).await,
        Overwrite::Replace => complete_and_replace(connection, domain, objects, swept).await,
    }
}

/// The transaction `complete`: no reader sees an applied version together with rows that it replaces.
async fn complete_and_replace(
    connection: &mut PgConnection,
    domain: &Domain,
    objects: &[Object],
    swept: &mut Swept,
) -> Result<Vec<i64>, sqlx::Error> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let limits = Limits::SHORT.waiting_at_most(replace::LOCK_TIMEOUT);
    let mut transaction = transactions::begin_on(connection, "complete", limits).await?;
    replace::lock(&mut transaction, domain).await?;
    let written = change_all(&mut transaction, objects, |_| Event::Complete).await?;
    let replaced = replace::replace(&mut transaction, domain, Some(&written)).await?;
    failpoint::reach(Point::Replaced);
    transaction.commit().await?;
    swept.replaced += replaced;
    Ok(written)
}

async fn repair(
    connection: &mut PgConnection,
    objects: Vec<(Published, bool)>,
    back_off: Backoff,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    for (one, is_truncated) in objects {
        let Published { object, received, .. } = one;
        let reason = match is_truncated {
            true => Reason::LogTruncated,
            false => Reason::RowsMissing { received, rows: object.rows.unwrap_or(0) },
        };
        let event = |object: &Object| Event::Repair {
            reason: reason.clone(),
            back_off: back_off.after(object.repairs.unsigned_abs() + 1),
        };
        if !change_all(connection, std::slice::from_ref(&object), event).await?.is_empty() {
            swept.repaired.push((object, received));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_applied_or_repaired_only_once_nothing_more_can_come() {
        let cases = [
            (false, 0, 10, false, Verdict::Wait),
            (false, 10, 10, false, Verdict::Wait),
            (false, 10, 10, true, Verdict::Applied),
            (false, 4, 10, true, Verdict::Repair),
            (true, 10, 10, false, Verdict::Applied),
            (true, 0, 0, false, Verdict::Applied),
            (true, 9, 10, false, Verdict::Repair),
            (true, 0, 1, false, Verdict::Repair),
        ];
        for (passed, received, rows, truncated, expected) in cases {
            assert_eq!(judge(passed, received, rows, truncated), expected, "{passed} {received}/{rows} {truncated}");
        }
    }
}
