//! Replaced versions: if a contract says `onOverwrite: replace`, rows that only an older version of an object has leave
//! the table once a newer version is applied.
//!
//! One transaction makes the newer version applied, marks the older one (`pipeline.objects.replaced_by`) and deletes
//! its rows. From then on, rows of the older version that still arrive count as older, in the live pipeline, in a
//! replay and in a shadow ([`crate::lives::sift`] reads the mark). A batch holds a shared lock from before it reads the
//! marks until it commits, and marking takes the lock exclusively, so one of the two always sees the work of the other.
//!
//! The rows of a version are found by an index on the object, which setup creates for such contracts: the cost of an
//! overwrite depends on the older versions, not on the size of the table.
//!
//! If such a row had replaced a row of another object, that older row does not come back by itself, because the table
//! no longer has it. A replay restores it.

use std::time::Duration;

use freshet_topics::{Domain, Overwrite};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::advisory;
use crate::apply::marks::Marks;
use crate::apply::removal;
use crate::destination::Destination;
use crate::transactions::{self, Limits};

/// Longest wait for a lock. A batch holds its locks for a second or so; whoever locked the table may hold it for hours,
/// and the other domains are swept after this one.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the lock in shared mode, for applying a batch of such a domain.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn lock_shared(connection: &mut PgConnection, domain: &Domain) -> Result<(), sqlx::Error> {
    if domain.on_overwrite == Overwrite::Replace {
        sqlx::query(advisory::REPLACE_SHARED).bind(domain.name).execute(connection).await?;
    }
    Ok(())
}

/// Takes the lock exclusively, for marking versions and deleting their rows.
pub(super) async fn lock(connection: &mut PgConnection, domain: &Domain) -> Result<(), sqlx::Error> {
    sqlx::query(advisory::REPLACE).bind(domain.name).execute(connection).await?;
    Ok(())
}

/// Replaces all versions that have a newer applied version and are not marked yet: the contract was changed, or a
/// version became applied without a sweep. Returns the number of rows removed from the table.
///
/// # Errors
/// If Postgres does not answer, or refuses to remove a row, or somebody holds a lock. Nothing is replaced then.
pub async fn replace_overwritten(pool: &PgPool, domain: &Domain) -> Result<i64, sqlx::Error> {
    if domain.on_overwrite != Overwrite::Replace {
        return Ok(0);
    }
    let limits = Limits::SHORT.waiting_at_most(LOCK_TIMEOUT);
    let mut transaction = transactions::begin(pool, "replace", limits).await?;
    lock(&mut transaction, domain).await?;
    let removed = replace(&mut transaction, domain, None).await?;
    transaction.commit().await?;
    Ok(removed)
}

/// Marks the versions that are older than one of `applied` (than any applied version, if none is named) and deletes
/// their rows. The caller holds [`lock`].
pub(super) async fn replace(
    connection: &mut PgConnection,
    domain: &Domain,
    applied: Option<&[i64]>,
) -> Result<i64, sqlx::Error> {
    let marked: Vec<i64> = sqlx::query_scalar(
        "UPDATE pipeline.objects AS o SET replaced_by = n.id
         FROM (
            SELECT DISTINCT ON (bucket, key) id, bucket, key, src_ord FROM pipeline.objects
            WHERE domain = $1 AND state = 'applied' AND ($2::int8[] IS NULL OR id = ANY($2))
            ORDER BY bucket, key, src_ord DESC
         ) AS n
         WHERE o.domain = $1 AND o.bucket = n.bucket AND o.key = n.key AND o.src_ord < n.src_ord
            AND o.replaced_by IS NULL
         RETURNING o.id",
    )
    .bind(domain.name)
    .bind(applied)
    .fetch_all(&mut *connection)
    .await?;
    if marked.is_empty() {
        return Ok(0);
    }
    let delete = |table: String| format!("DELETE FROM {table} AS t WHERE t.src_object = ANY($1)");
    let (removed, changed) =
        removal::remove(connection, domain, &delete(Destination::Live.table(domain)), &marked).await?;
    let mut marks = Marks::default();
    marks.add(&changed);
    marks.append(&mut *connection, domain.name).await?;
    let shadow = Destination::Shadow.table(domain);
    let has_shadow: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&shadow).fetch_one(&mut *connection).await?;
    if has_shadow {
        sqlx::query(AssertSqlSafe(delete(shadow))).bind(&marked).execute(connection).await?;
    }
    Ok(removed)
}
