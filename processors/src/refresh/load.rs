//! Whether a large amount of data is being loaded: then publications use only a small share of the machine.

use std::time::{Duration, Instant};

use freshet_topics::Domain;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::pace::{Allowance, Budget, Pace};

/// From this many bytes on, files that are not applied yet count as a heavy load: some ten thousand rows, a second's
/// work. Less is a trickle, which should be visible immediately.
const MUCH_BYTES: i64 = 4 * 1024 * 1024;
/// A file counts as this many bytes more than it has: to look it up, read and record it takes as long as some two hundred
/// rows do. So hundreds of waiting files are a load too, however small they are.
const FILE_BYTES: i64 = 16 * 1024;
/// If more windows are dirty than may be derived yet, how often to check whether they may.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Only what is on its way counts, in domains of this pipeline:
///
/// | a file that | counts if |
/// |---|---|
/// | is not published yet and does not wait for a retry | something of its domain moves: a listener reads a file or published one just now, or rows are being applied; or it was found within the last minute |
/// | is published | rows of it are to be applied in a partition that is not halted and has moved within the last minute; or it was published just now, and its first rows are on their way |
///
/// So a stopped role, a removed domain and a halted partition leave nothing that counts. A time further ahead than a minute
/// is from before the clock went back; what moves gets a new one. A lease outweighs the wait in case the lease ends.
///
/// This is asked up to four times a second, perhaps beside a million files. So it reads the newest 10,000 files of each
/// state, in the order of the index `objects_not_applied`, before it judges them: 50 ms if there are as many. `OFFSET 0`
/// makes Postgres judge each of them once.
const IS_MUCH: &str = "WITH moved AS NOT MATERIALIZED (
        SELECT domain, partition, stream_id, next_offset FROM pipeline.bookmarks
        WHERE halted IS NULL AND updated_at BETWEEN now() - interval '1 minute' AND now() + interval '1 minute'
    )
    SELECT coalesce(sum(d.size_bytes), 0) >= $1
        OR EXISTS (SELECT FROM pipeline.replays WHERE ended_at IS NULL AND domain = ANY($2)
            AND updated_at BETWEEN now() - interval '10 seconds' AND now() + interval '1 minute')
    FROM (
        SELECT CASE
            WHEN bool_or(f.moves) THEN sum(f.size_bytes + $3) FILTER (WHERE f.moves OR NOT f.is_published)
            ELSE sum(f.size_bytes + $3) FILTER (WHERE f.is_new)
            END AS size_bytes
        FROM (
            SELECT o.domain, o.size_bytes, CASE o.state
                WHEN 'published' THEN
                    o.published_at BETWEEN now() - interval '10 seconds' AND now() + interval '1 minute'
                    OR (a.domain IS NOT NULL AND EXISTS (
                        SELECT FROM moved AS m WHERE m.domain = o.domain AND m.stream_id = o.stream_id
                            AND m.next_offset < o.end_offsets[m.partition + 1]))
                ELSE a.domain IS NOT NULL OR (now() >= o.lease_from AND now() < o.lease_until)
                END AS moves, o.state = 'published' AS is_published,
                o.state <> 'published'
                    AND o.discovered_at BETWEEN now() - interval '1 minute' AND now() + interval '1 minute' AS is_new
            FROM unnest(ARRAY['discovered', 'publishing', 'published']) AS s (state)
            CROSS JOIN LATERAL (
                SELECT * FROM pipeline.objects
                WHERE state = s.state AND (state = 'applied') IS NOT TRUE ORDER BY id DESC LIMIT 10000
            ) AS o
            LEFT JOIN (SELECT DISTINCT domain FROM moved) AS a ON a.domain = o.domain
            WHERE o.domain = ANY($2) AND (o.state = 'published' OR (now() >= o.lease_from AND now() < o.lease_until)
                OR (now() >= o.wait_from AND now() < o.next_attempt_at) IS NOT TRUE)
            OFFSET 0
        ) AS f
        GROUP BY f.domain
    ) AS d";

/// Whether a large amount of data is being loaded, or windows are still to be derived because a dimension changed.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn is_busy(pool: &PgPool, domains: &'static [&'static Domain]) -> Result<bool, sqlx::Error> {
    let is_dimension = "SELECT EXISTS (SELECT FROM pipeline.marks WHERE dimension IS NOT NULL)";
    Ok(is_much(pool, domains).await? || sqlx::query_scalar(is_dimension).fetch_one(pool).await?)
}

async fn is_much(pool: &PgPool, domains: &'static [&'static Domain]) -> Result<bool, sqlx::Error> {
    let domains: Vec<&'static str> = domains.iter().map(|domain| domain.name).collect();
    sqlx::query_scalar(IS_MUCH).bind(MUCH_BYTES).bind(domains).bind(FILE_BYTES).fetch_one(pool).await
}

/// The load, and the share that publications may use meanwhile.
pub(super) struct Load {
    pool: PgPool,
    domains: &'static [&'static Domain],
    pub(super) budget: Budget,
}

impl Load {
    pub(super) fn new(pool: &PgPool, domains: &'static [&'static Domain]) -> Self {
        Load { pool: pool.clone(), domains, budget: Budget::new() }
    }

    /// What the next publication may derive.
    pub(super) async fn allowance(&mut self, pace: &Pace) -> Allowance {
        let is_much = is_much(&self.pool, self.domains).await;
        // The publication uses the same Postgres, and reports its errors.
        let now = Instant::now();
        self.budget.load(is_much.unwrap_or(false), now);
        self.budget.allowance(pace, now)
    }

    /// Returns once this many windows may be derived, or on shutdown.
    pub(super) async fn until_allowed(&mut self, windows: usize, pace: &Pace, shutdown: &CancellationToken) {
        let allowed = async {
            while self.allowance(pace).await.windows_max < windows {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        shutdown.run_until_cancelled(allowed).await;
    }
}
