//! Where rejects are: in the topic and in their files. Postgres gathers it; no row is read, so that a file of millions
//! takes little memory.

use std::collections::BTreeMap;

use freshet_processors::replay::{Point, Request};
use freshet_topics::Domain;
use sqlx::{PgPool, Postgres, QueryBuilder};

use super::{Which, select};

/// Files that a replay is restricted to by name; of more, all rows of the range are judged again.
const FILES_MAX: usize = 1_000;
/// Runs that Postgres counts at once: arrays of less than a megabyte.
const RUNS_AT_ONCE: usize = 10_000;

/// The place of rejects of one topic that are rows of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// By partition: the first offset, and the one behind the last.
    offsets: BTreeMap<i32, (i64, i64)>,
    /// Keys of the files, in order; empty if there are more than [`FILES_MAX`].
    files: Vec<String>,
    pub(super) file_count: i64,
    /// Which rows they are. Later queries ask for these, not for what was selected by: a replay may refuse a row for
    /// another reason, at a later time, and rows that it newly refuses are none of them.
    runs: Vec<Run>,
}

/// Rows of a file, one after the other, all of which were rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
struct Run {
    object: i64,
    generation: i32,
    first: i64,
    /// The row behind the last.
    past: i64,
}

impl Extent {
    /// That of the rejects that are meant, of this topic: others cannot be judged again, nor can messages that are no
    /// rows of a file.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(super) async fn of(
        pool: &PgPool,
        domain: &'static Domain,
        topic: &str,
        which: &Which,
    ) -> Result<Self, sqlx::Error> {
        let begun = |select: &str| {
            let mut query = select::query(select, &[domain], which);
            query.push(" AND o.key IS NOT NULL AND r.topic = ").push_bind(topic);
            query
        };
        let mut snapshot = select::snapshot(pool).await?;
        let mut query = begun(r#"SELECT r.partition, min(r."offset"), max(r."offset") + 1"#);
        let offsets: Vec<(i32, i64, i64)> =
            query.push(" GROUP BY r.partition").build_query_as().fetch_all(&mut *snapshot).await?;
        let mut query = begun("SELECT o.key, count(*) OVER ()");
        query.push(" GROUP BY o.key ORDER BY o.key LIMIT ").push_bind(FILES_MAX as i64);
        let files: Vec<(String, i64)> = query.build_query_as().fetch_all(&mut *snapshot).await?;
        let runs = runs(begun).build_query_as().fetch_all(&mut *snapshot).await?;
        let file_count = files.first().map_or(0, |(_, count)| *count);
        let is_whole = file_count == files.len() as i64;
        Ok(Extent {
            offsets: offsets.into_iter().map(|(partition, first, past)| (partition, (first, past))).collect(),
            files: if is_whole { files.into_iter().map(|(key, _)| key).collect() } else { Vec::new() },
            file_count,
            runs,
        })
    }

    /// How many rejects it has.
    pub(super) fn count(&self) -> i64 {
        self.runs.iter().map(|run| run.past - run.first).sum()
    }

    /// The part of the topic that holds them, of their files; `None` if there are none.
    pub(super) fn request(&self) -> Option<Request> {
        let points = |pick: fn(&(i64, i64)) -> i64| {
            Point::Offsets(self.offsets.iter().map(|(partition, span)| (*partition, pick(span))).collect())
        };
        let (from, to) = (points(|span| span.0), points(|span| span.1));
        (!self.offsets.is_empty()).then(|| Request { from, to: Some(to), objects: self.files.clone() })
    }

    /// How many of its rows are rejects still.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(super) async fn still_rejected(&self, pool: &PgPool, domain: &Domain) -> Result<i64, sqlx::Error> {
        let mut still = 0;
        for runs in self.runs.chunks(RUNS_AT_ONCE) {
            let column = |pick: fn(&Run) -> i64| runs.iter().map(pick).collect::<Vec<i64>>();
            // Run by run, each a part of the primary key: a join on the file alone would compare all runs with all rows.
            let found: i64 = sqlx::query_scalar(
                "SELECT coalesce(sum(c.rows), 0)::bigint
                 FROM UNNEST($2::bigint[], $3::integer[], $4::bigint[], $5::bigint[])
                    AS u (object, generation, first, past)
                 CROSS JOIN LATERAL (
                    SELECT count(*) AS rows FROM pipeline.rejects r
                    WHERE r.domain = $1 AND r.object = u.object AND r.generation = u.generation
                        AND r.row >= u.first AND r.row < u.past
                 ) AS c",
            )
            .bind(domain.name)
            .bind(column(|run| run.object))
            .bind(runs.iter().map(|run| run.generation).collect::<Vec<i32>>())
            .bind(column(|run| run.first))
            .bind(column(|run| run.past))
            .fetch_one(pool)
            .await?;
            still += found;
        }
        Ok(still)
    }
}

/// Rows of a file that follow one another have the same difference between their number in the file and that among the
/// rejects.
fn runs(begun: impl FnOnce(&str) -> QueryBuilder<Postgres>) -> QueryBuilder<Postgres> {
    let mut query = begun(
        "SELECT object, generation, min(row) AS first, max(row) + 1 AS past FROM (
            SELECT r.object, r.generation, r.row,
                r.row - row_number() OVER (PARTITION BY r.object, r.generation ORDER BY r.row) AS run",
    );
    query.push(") AS numbered GROUP BY object, generation, run");
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_part_of_the_topic_that_holds_them_is_asked_for() {
        assert_eq!(Extent::default().request(), None);
        let run = |first: i64, past: i64| Run { object: 1, generation: 1, first, past };
        let extent = Extent {
            offsets: BTreeMap::from([(0, (7, 13)), (3, (1, 2))]),
            files: vec!["a".into(), "b".into()],
            file_count: 2,
            runs: vec![run(0, 3), run(5, 6)],
        };
        assert_eq!(extent.count(), 4);
        assert_eq!(extent.request().expect("some").to_string(), r#"from 0:7,3:1 to 0:13,3:2 of ["a", "b"]"#);
    }
}
