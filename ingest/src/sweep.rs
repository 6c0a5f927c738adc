//! Complete or repair: the one place that decides whether a published object has arrived as a whole.
//!
//! Once the bookmarks have passed an object's end offsets, the rows received are counted. All there: `applied`.
//! Fewer: the object is published again from row 0 under the same numbers, so that what is there is a duplicate
//! and what is missing fits. One repair is outstanding by construction, since only a published object is
//! judged. Every write is guarded by the state (and the repair count) that was judged, and skips rows that
//! another sweeper has locked: two sweeps at once do each thing once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_topics::{Domain, trace};
use sqlx::PgPool;

use crate::metrics;
use crate::settings::IngestSettings;

/// Objects judged in one statement.
const PAGE: i64 = 1_000;

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects found complete.
    pub applied: u64,
    /// Objects sent back to be published again.
    pub repaired: u64,
    /// Published objects whose end the bookmarks have not reached.
    pub waiting: u64,
}

impl std::ops::AddAssign for Swept {
    fn add_assign(&mut self, other: Swept) {
        self.applied += other.applied;
        self.repaired += other.repaired;
        self.waiting += other.waiting;
    }
}

/// What becomes of a published object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its records may still be on their way.
    Wait,
    /// All rows were received.
    Applied,
    /// Rows are missing that nothing will bring any more.
    Repair,
}

/// Decides it.
///
/// | bookmarks have passed its end | rows received | verdict |
/// |---|---|---|
/// | no | – | wait |
/// | yes | all | applied |
/// | yes | fewer | repair |
///
/// More than all cannot be: seqs are a function of the bytes, and counted once each.
pub fn judge(passed: bool, received: i64, rows: i64) -> Verdict {
    match passed {
        false => Verdict::Wait,
        true if received >= rows => Verdict::Applied,
        true => Verdict::Repair,
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Published {
    id: i64,
    bucket: String,
    key: String,
    src_ord: i64,
    repairs: i32,
    rows: i64,
    passed: bool,
    received: i64,
}

/// Looks at every published object of the domain once.
///
/// # Errors
/// If Postgres does not answer. What was done until then stands.
pub async fn sweep_once(pool: &PgPool, domain: &Domain, settings: &IngestSettings) -> Result<Swept, sqlx::Error> {
    let mut swept = Swept::default();
    let mut after = i64::MIN;
    loop {
        let page = published(pool, domain.name, after).await?;
        let Some(last) = page.last() else { return Ok(swept) };
        after = last.src_ord;
        let (mut applied, mut repairs) = (vec![], vec![]);
        for object in &page {
            match judge(object.passed, object.received, object.rows) {
                Verdict::Wait => swept.waiting += 1,
                Verdict::Applied => applied.push(object),
                Verdict::Repair => repairs.push(object),
            }
        }
        swept.applied += mark_applied(pool, domain, &applied).await?;
        swept.repaired += send_back(pool, &repairs, domain, settings).await?;
    }
}

/// The next page of published objects. One statement, so that bookmarks and progress are of one moment: both
/// move in the same transaction.
async fn published(pool: &PgPool, domain: &str, after: i64) -> Result<Vec<Published>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.bucket, o.key, o.src_ord, o.repairs, coalesce(o.rows, 0) AS rows, b.passed,
            CASE WHEN b.passed THEN coalesce((
                SELECT sum(upper(r) - lower(r))
                FROM pipeline.progress p CROSS JOIN LATERAL unnest(p.received) AS r
                WHERE p.object = o.id AND p.generation = o.generation), 0)
            ELSE 0 END::bigint AS received
         FROM (
            SELECT * FROM pipeline.objects
            WHERE state = 'published' AND domain = $1 AND src_ord > $2
            ORDER BY src_ord
            LIMIT $3
         ) AS o
         CROSS JOIN LATERAL (
            -- The ends of a stream that was given up by adopt are never reached: what was received counts.
            SELECT NOT EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = o.domain AND s.stream_id = o.stream_id)
                AND EXISTS (SELECT FROM pipeline.streams s WHERE s.domain = o.domain) OR NOT EXISTS (
                SELECT FROM UNNEST(o.end_offsets) WITH ORDINALITY AS e (end_offset, ord)
                LEFT JOIN pipeline.bookmarks m
                    ON m.domain = o.domain AND m.partition = e.ord - 1 AND m.stream_id = o.stream_id
                WHERE e.end_offset > 0 AND (m.next_offset IS NULL OR m.next_offset < e.end_offset)
            ) AS passed
         ) AS b
         ORDER BY o.src_ord",
    )
    .bind(domain)
    .bind(after)
    .bind(PAGE)
    .fetch_all(pool)
    .await
}

/// Marks objects as applied and observes how fresh each was when its last row was committed.
async fn mark_applied(pool: &PgPool, domain: &Domain, objects: &[&Published]) -> Result<u64, sqlx::Error> {
    if objects.is_empty() {
        return Ok(0);
    }
    let applied: Vec<(i64, f64, DateTime<Utc>, bool)> = sqlx::query_as(
        "WITH mine AS (
            SELECT o.id, o.applied_at IS NULL AS is_new FROM pipeline.objects o
            JOIN UNNEST($1::bigint[], $2::integer[]) AS judged (id, repairs)
                ON judged.id = o.id AND judged.repairs = o.repairs
            WHERE o.state = 'published'
            ORDER BY o.id
            FOR UPDATE OF o SKIP LOCKED
         )
         UPDATE pipeline.objects o SET state = 'applied', applied_at = coalesce(o.applied_at, now()), reason = NULL
         FROM mine WHERE o.id = mine.id
         RETURNING o.id, extract(epoch FROM coalesce(
            (SELECT max(p.updated_at) FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation),
            now()) - o.last_modified)::double precision, o.last_modified, mine.is_new",
    )
    .bind(objects.iter().map(|object| object.id).collect::<Vec<_>>())
    .bind(objects.iter().map(|object| object.repairs).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let freshness = metrics::FRESHNESS.with_label_values(&[domain.name]);
    // S3's clock may be ahead of Postgres' by a little. A file that was sent again is as fresh as it was the first time.
    for (id, seconds, last_modified, _) in applied.iter().filter(|(.., is_new)| *is_new) {
        freshness.observe(seconds.max(0.0));
        let object = objects.iter().find(|object| object.id == *id);
        let detail = trace::Detail {
            domain: Some(domain.name),
            key: object.map(|object| object.key.as_str()),
            outcome: Some("applied"),
            rows: object.map(|object| object.rows),
            ..trace::Detail::default()
        };
        trace::passed(*id, trace::FILE, (*last_modified).into(), detail);
    }
    Ok(applied.len() as u64)
}

/// Back to row 0 of the same generation. What the first publishing counted (rows, rows per partition) stays,
/// so that the missing rows can be named if S3 no longer has the version.
async fn send_back(
    pool: &PgPool,
    objects: &[&Published],
    domain: &Domain,
    settings: &IngestSettings,
) -> Result<u64, sqlx::Error> {
    if objects.is_empty() {
        return Ok(0);
    }
    let pause = |object: &&Published| settings.back_off(object.repairs.unsigned_abs() + 1);
    let sent_back: Vec<i64> = sqlx::query_scalar(
        "WITH mine AS (
            SELECT o.id, judged.pause_ms FROM pipeline.objects o
            JOIN UNNEST($1::bigint[], $2::integer[], $3::double precision[]) AS judged (id, repairs, pause_ms)
                ON judged.id = o.id AND judged.repairs = o.repairs
            WHERE o.state = 'published'
            ORDER BY o.id
            FOR UPDATE OF o SKIP LOCKED
         )
         UPDATE pipeline.objects o SET state = 'discovered', repairs = o.repairs + 1, attempts = 0,
            resume_byte = 0, resume_line = 0, resume_row = 0, resume_seqs = NULL, end_offsets = NULL,
            next_attempt_at = now() + mine.pause_ms * interval '1 millisecond',
            reason = 'rows are missing: publishing again'
         FROM mine WHERE o.id = mine.id
         RETURNING o.id",
    )
    .bind(objects.iter().map(|object| object.id).collect::<Vec<_>>())
    .bind(objects.iter().map(|object| object.repairs).collect::<Vec<_>>())
    .bind(objects.iter().map(pause).map(milliseconds).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    for object in objects.iter().filter(|object| sent_back.contains(&object.id)) {
        tracing::warn!(
            domain = domain.name,
            bucket = object.bucket,
            key = object.key,
            object = object.id,
            rows = object.rows,
            received = object.received,
            repair = object.repairs + 1,
            "rows of a published object did not arrive: publishing it again"
        );
    }
    Ok(sent_back.len() as u64)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_nothing_will_bring_are_repaired() {
        let cases = [
            (false, 0, 10, Verdict::Wait),
            (false, 10, 10, Verdict::Wait),
            (true, 10, 10, Verdict::Applied),
            (true, 0, 0, Verdict::Applied),
            (true, 9, 10, Verdict::Repair),
            (true, 0, 1, Verdict::Repair),
        ];
        for (passed, received, rows, expected) in cases {
            assert_eq!(judge(passed, received, rows), expected, "{passed} {received}/{rows}");
        }
    }
}
