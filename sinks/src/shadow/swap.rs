//! The swap: the shadow takes the live table's place, in one transaction.
//!
//! Whatever takes longer with more files or dates is done before the live table is locked, so that its readers do not
//! wait for it: checks, marks, and moving the progress and the rejects, which the held bookmarks protect. Only what is
//! about the table itself comes after the lock.

use std::collections::BTreeMap;

use freshet_topics::{Domain, EventTime};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use super::dependants::{Renewed, View};
use super::{Held, LOCK_TIMEOUT, dependants};
use crate::apply::marks;
use crate::apply::upsert::has_surrogate_id;
use crate::bookmarks;
use crate::destination::Destination;
use crate::replay::Running;
use crate::tables::{self, Redeclared};
use crate::transactions;

/// The most entries of a long list that are named.
const NAMED_MAX: i64 = 20;

/// The result of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapped {
    /// Views that read the new table now.
    pub views: usize,
    /// Views of outputs that were dropped because the outputs' queries do not work with the new table, each with the
    /// error.
    pub dropped: Vec<String>,
}

/// Why a swap does not happen. Nothing has changed, unless it is not known ([`Refused::Unanswered`]).
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The shadow and the live table are at different offsets.
    #[error("the shadow is at other offsets than the live table ({0}): try again, or drop the shadow")]
    Elsewhere(String),
    /// Rows in the live table are not in the shadow, because the topic no longer has them.
    #[error(
        "rows of these files are counted in the live table but not in the shadow, because the topic does not hold \
         them: {}; send them again with `freshet republish`, wait until they are applied, and try again, or drop the \
         shadow", .0.join(", ")
    )]
    Incomplete(Vec<String>),
    /// Objects that a swap would leave behind depend on the live table.
    #[error(
        "other objects depend on the table and would be left behind: {}; drop them, swap, and recreate them", .0.join(", ")
    )]
    Dependants(Vec<String>),
    /// A view over the live table cannot be created over the shadow: it uses a column that has another type there, or
    /// is gone.
    #[error(
        "the view {view} cannot read the table as it is declared now ({said}): drop it (`pg_dump --table={view}` \
         keeps its definition and grants; DROP VIEW {view}), swap, and recreate it"
    )]
    View {
        /// Quoted for SQL.
        view: String,
        /// Postgres' error.
        said: String,
    },
    /// The live table was altered since the shadow was created.
    #[error("the table was altered after the shadow was created ({}): drop the shadow and fill a new one", .0.join(", "))]
    Altered(Vec<String>),
    /// These sessions hold the live table for longer than the swap tries.
    #[error("other sessions hold the table: {}; wait until they end, or end them, and try again", .0.join("; "))]
    InUse(Vec<String>),
    /// Another process works on the replay now.
    #[error("another process has taken over this replay")]
    Lost,
    /// Readers hold the live table for longer than the swap waits, or Postgres does not answer.
    #[error("swap the tables: {0}")]
    Postgres(#[from] sqlx::Error),
    /// The answer to the COMMIT was lost, and Postgres has not answered since.
    #[error(
        "swap the tables: {0}; whether it was done is not known: if `freshet status` still shows the replay, it was \
         not, and the same command continues"
    )]
    Unanswered(#[source] sqlx::Error),
}

/// Swaps, and commits. The live pipeline, which waits for `held`, finds its epochs raised, takes the bookmarks again
/// and continues with the new table. All windows of both tables are marked.
///
/// The answer to its COMMIT may be lost. Then what the replay has recorded tells whether the tables are swapped: if they
/// are, no shadow is left to continue, and the same command would fill a new one.
///
/// # Errors
/// [`Refused`].
pub async fn swap(pool: &PgPool, held: Held, domain: &'static Domain, replay: &Running) -> Result<Swapped, Refused> {
    let Held { mut transaction, bookmarks } = held;
    match swap_within(&mut transaction, domain, replay, &bookmarks).await {
        Ok(swapped) => {
            let Err(error) = transaction.commit().await else { return Ok(swapped) };
            match transactions::is_committed(|| is_recorded(pool, replay)).await {
                Some(true) => Ok(swapped),
                Some(false) => Err(Refused::Postgres(error)),
                None => Err(Refused::Unanswered(error)),
            }
        }
        Err(refused) => {
            // The caller may rely on its locks being free. If Postgres does not answer, it ends the transaction itself.
            transaction.rollback().await.ok();
            Err(refused)
        }
    }
}

async fn swap_within(
    connection: &mut PgConnection,
    domain: &'static Domain,
    replay: &Running,
    bookmarks: &BTreeMap<i32, i64>,
) -> Result<Swapped, Refused> {
    let redeclared = super::redeclared(connection, domain).await?;
    check(connection, domain, bookmarks, &redeclared).await?;
    wait_for_readers(connection, domain).await?;
    mark(connection, domain, &redeclared).await?;
    move_state(connection, domain.name).await?;
    let views = lock(connection, domain).await?;
    // A partition that was added after the bookmarks were held has written its rows by now, or waits for the table. The
    // shadow has no bookmark of it, so this refuses, and rolls back what was moved in its place. What it writes later
    // stays: the former progress and rejects are deleted already.
    let bookmarks = bookmarks::offsets(&mut *connection, domain.name, None).await?;
    let elsewhere = elsewhere(connection, domain.name, &bookmarks).await?;
    if !elsewhere.is_empty() {
        return Err(Refused::Elsewhere(elsewhere.join(", ")));
    }
    forget_bookmarks(connection, domain.name).await?;
    let dropped = swap_table(connection, domain, &views).await?;
    raise_epochs(connection, domain.name).await?;
    end(connection, replay).await?;
    Ok(Swapped { views: views.len() - dropped.len(), dropped })
}

async fn check(
    connection: &mut PgConnection,
    domain: &'static Domain,
    bookmarks: &BTreeMap<i32, i64>,
    redeclared: &Redeclared,
) -> Result<(), Refused> {
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    let elsewhere = elsewhere(connection, domain.name, bookmarks).await?;
    if !elsewhere.is_empty() {
        return Err(Refused::Elsewhere(elsewhere.join(", ")));
    }
    let incomplete = incomplete(connection, domain.name).await?;
    if !incomplete.is_empty() {
        return Err(Refused::Incomplete(incomplete));
    }
    let never_null: Vec<&str> =
        domain.columns.iter().filter(|column| domain.never_null(column)).map(|column| column.name).collect();
    let altered = dependants::made_otherwise(connection, &live, &shadow, redeclared, &never_null).await?;
    if !altered.is_empty() {
        return Err(Refused::Altered(altered));
    }
    let left_behind = dependants::left_behind(connection, &live).await?;
    if !left_behind.is_empty() {
        return Err(Refused::Dependants(left_behind));
    }
    Ok(())
}

/// Marks the rows of both tables: outputs change for rows that go as well as for rows that come. If the live table cannot
/// tell which of its rows are observed, all of its dates are marked. If it has no such dates, its outputs are defined
/// otherwise now, and are derived again as a whole.
async fn mark(
    connection: &mut PgConnection,
    domain: &'static Domain,
    redeclared: &Redeclared,
) -> Result<(), sqlx::Error> {
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    let can_be_read = match &domain.event_time {
        Some(event_time) => event_time.columns().all(|column| redeclared.is_the_same(column)),
        None => redeclared.added.iter().all(|column| column != domain.dimension_key()),
    };
    if can_be_read {
        return marks::mark_everything(connection, domain, &[live, shadow]).await;
    }
    marks::mark_everything(connection, domain, &[shadow]).await?;
    match domain.event_time {
        Some(event_time) if redeclared.is_the_same(event_time.date) => {
            let event_time = Some(EventTime { observed_when: None, ..event_time });
            marks::mark_everything(connection, &Domain { event_time, ..*domain }, &[live]).await
        }
        _ => Ok(()),
    }
}

/// Partitions in which the two bookmarks differ, or belong to different streams.
async fn elsewhere(
    connection: &mut PgConnection,
    domain: &str,
    bookmarks: &BTreeMap<i32, i64>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('partition %s at %s, live at %s', coalesce(l.partition, s.partition),
            coalesce(s.next_offset, 0), coalesce(l.next_offset, 0))
         FROM UNNEST($2::int4[], $3::int8[]) AS l (partition, next_offset)
         FULL JOIN (SELECT * FROM shadow.bookmarks WHERE domain = $1) AS s ON s.partition = l.partition
         LEFT JOIN pipeline.streams AS t ON t.domain = $1
         WHERE s.next_offset IS DISTINCT FROM l.next_offset OR s.stream_id IS DISTINCT FROM t.stream_id",
    )
    .bind(domain)
    .bind(bookmarks.keys().copied().collect::<Vec<_>>())
    .bind(bookmarks.values().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Files from which the live pipeline has received rows that the shadow has not, in any state. Each generation of a
/// file is checked by itself: the newest one may not have been read yet, and then the live table's rows are from an
/// older one.
///
/// | the shadow has of the reading | of the file's newest reading | missing |
/// |---|---|---|
/// | every row that the live pipeline has | – | no |
/// | fewer | every row of the file: newer rows stand over these | no |
/// | fewer | fewer, or how many there are is not known yet | yes |
///
/// Messages that are not rows of a file (object 0) are only rejects: they do not count.
async fn incomplete(connection: &mut PgConnection, domain: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH missing AS (
            SELECT l.object, l.generation, sum(m.rows) AS rows
            FROM pipeline.progress AS l
            LEFT JOIN shadow.progress AS s
                ON s.object = l.object AND s.generation = l.generation AND s.partition = l.partition
                AND s.domain = l.domain
            CROSS JOIN LATERAL (
                SELECT sum(upper(r) - lower(r)) AS rows FROM unnest(l.received - coalesce(s.received, '{}')) AS r
            ) AS m
            WHERE l.domain = $1 AND l.object <> 0 AND NOT l.received <@ coalesce(s.received, '{}')
            GROUP BY l.object, l.generation
         ),
         newest AS (
            SELECT o.id, sum(upper(r) - lower(r)) AS rows
            FROM pipeline.objects AS o
            JOIN shadow.progress AS s ON s.object = o.id AND s.generation = o.generation AND s.domain = o.domain
            CROSS JOIN LATERAL unnest(s.received) AS r
            WHERE o.domain = $1
            GROUP BY o.id
         )
         SELECT format('%s (object %s, %s rows of its reading %s)',
            coalesce(o.key, 'a file that is not in the ledger'), m.object, m.rows, m.generation)
         FROM missing AS m
         LEFT JOIN pipeline.objects AS o ON o.id = m.object
         LEFT JOIN newest AS n ON n.id = m.object
         WHERE (o.generation > m.generation AND n.rows >= o.rows) IS NOT TRUE
         ORDER BY o.src_ord, m.object, m.generation LIMIT $2",
    )
    .bind(domain)
    .bind(NAMED_MAX)
    .fetch_all(connection)
    .await
}

/// The shadow's progress and rejects become those of the domain.
async fn move_state(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    for table in ["progress", "rejects"] {
        for sql in [
            format!("DELETE FROM pipeline.{table} WHERE domain = $1"),
            format!("INSERT INTO pipeline.{table} SELECT * FROM shadow.{table} WHERE domain = $1"),
            format!("DELETE FROM shadow.{table} WHERE domain = $1"),
        ] {
            sqlx::query(AssertSqlSafe(sql)).bind(domain).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn forget_bookmarks(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM shadow.bookmarks WHERE domain = $1").bind(domain).execute(connection).await?;
    Ok(())
}

/// Locks the live table and its views, and releases them at once. If a reader holds one of them for long, the attempt
/// fails here, before it has marked and moved in vain what the next one marks and moves again.
async fn wait_for_readers(connection: &mut PgConnection, domain: &'static Domain) -> Result<(), sqlx::Error> {
    let mut attempt = connection.begin().await?;
    let locked = lock(&mut attempt, domain).await;
    attempt.rollback().await?;
    locked.map(drop)
}

/// Locks the live table and the views over it exclusively, the views first: that is also the order of those who read
/// through them.
async fn lock(connection: &mut PgConnection, domain: &'static Domain) -> Result<Vec<View>, sqlx::Error> {
    let live = Destination::Live.table(domain);
    let views = dependants::views(connection, &live).await?;
    for view in &views {
        dependants::lock(connection, view).await?;
    }
    let sql = format!("LOCK TABLE {live} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(views)
}

/// The sessions that hold the live table in transactions that are older than an attempt to swap, the oldest first. Whoever
/// reads through a view holds the table too. When others' transactions began, Postgres tells only some users.
///
/// # Errors
/// If Postgres does not answer.
pub async fn holders(pool: &PgPool, domain: &'static Domain) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('session %s (%s)', a.pid, concat_ws(', ', a.usename,
            coalesce(nullif(a.application_name, ''), a.backend_type), a.state,
            'since ' || date_trunc('second', a.xact_start)))
         FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            AND (a.xact_start < now() - make_interval(secs => $2)) IS NOT FALSE
            AND EXISTS (SELECT FROM pg_locks l
                WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND l.relation = $1::regclass)
         ORDER BY a.xact_start, a.pid LIMIT $3",
    )
    .bind(Destination::Live.table(domain))
    .bind(LOCK_TIMEOUT.as_secs_f64())
    .bind(NAMED_MAX)
    .fetch_all(pool)
    .await
}

/// Puts the shadow in the place of the live table, under its views, and drops the old table. Returns the views of
/// outputs that were dropped.
async fn swap_table(
    connection: &mut PgConnection,
    domain: &'static Domain,
    views: &[View],
) -> Result<Vec<String>, Refused> {
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    let before = tables::views::over(connection, &live).await?;
    let schema: String = sqlx::query_scalar(
        "SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = $1::regclass",
    )
    .bind(&live)
    .fetch_one(&mut *connection)
    .await?;
    let mut statements = dependants::allowed(connection, &live, &shadow).await?;
    if has_surrogate_id(domain) {
        // The shadow's ids came from the live table's sequence: its own sequence continues from there.
        let of = |table: &str| format!("pg_get_serial_sequence('{table}', 'id')");
        let live_sequence: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT {}", of(&live)))).fetch_one(&mut *connection).await?;
        let goes_on =
            |sequence: String| format!("SELECT setval({}, last_value, is_called) FROM {sequence}", of(&shadow));
        statements.extend(live_sequence.map(goes_on));
    }
    // They would move with the old table, and be dropped with it.
    let serials = dependants::serials(connection, &live, &shadow).await?;
    statements.extend(serials.iter().map(|(sequence, _)| format!("ALTER SEQUENCE {sequence} OWNED BY NONE")));
    statements.extend([
        format!("ALTER TABLE {live} SET SCHEMA shadow_retired"),
        format!("ALTER TABLE {shadow} SET SCHEMA {schema}"),
    ]);
    let owned = |(sequence, column): &(String, String)| format!("ALTER SEQUENCE {sequence} OWNED BY {live}.{column}");
    statements.extend(serials.iter().map(owned));
    for sql in statements {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    let mut dropped = Vec::new();
    for view in views {
        if let Renewed::Dropped(why) = dependants::renew(connection, view, &before).await? {
            dropped.push(format!("{} ({why})", view.name()));
        }
    }
    let retired = format!("DROP TABLE shadow_retired.\"{}\"", domain.table);
    sqlx::query(AssertSqlSafe(retired)).execute(connection).await?;
    Ok(dropped)
}

/// Raises the epoch of the stream, because the outputs now belong to another table, and of the owners, because they
/// remember the old one.
async fn raise_epochs(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE pipeline.streams SET epoch = epoch + 1 WHERE domain = $1")
        .bind(domain)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE pipeline.bookmarks SET owner_epoch = owner_epoch + 1, updated_at = now() WHERE domain = $1")
        .bind(domain)
        .execute(connection)
        .await?;
    Ok(())
}

async fn end(connection: &mut PgConnection, replay: &Running) -> Result<(), Refused> {
    let ended = sqlx::query(
        "UPDATE pipeline.replays SET ended_at = now(), updated_at = now(), outcome = 'swapped'
         WHERE id = $1 AND owner = $2 AND ended_at IS NULL",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .execute(connection)
    .await?;
    match ended.rows_affected() {
        0 => Err(Refused::Lost),
        _ => Ok(()),
    }
}

/// Whether this process has ended the replay by a swap. While the swap is under way, this waits.
async fn is_recorded(pool: &PgPool, replay: &Running) -> Result<bool, sqlx::Error> {
    let is_swapped: Option<bool> = sqlx::query_scalar(
        "SELECT coalesce(outcome = 'swapped', false) FROM pipeline.replays WHERE id = $1 AND owner = $2 FOR SHARE",
    )
    .bind(replay.id)
    .bind(&replay.owner)
    .fetch_optional(pool)
    .await?;
    Ok(is_swapped.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_altered_is_reported_in_one_line() {
        let reasons = ["column a is new", "column b is gone"].map(str::to_owned);
        let said = Refused::Altered(reasons.into()).to_string();
        assert!(said.contains("(column a is new, column b is gone)"), "{said}");
    }
}
