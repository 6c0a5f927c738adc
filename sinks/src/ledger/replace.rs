//! Versions that are replaced: where a contract says `onOverwrite: replace`, rows that only an older version of an object
//! holds leave the table once a newer version is applied.
//!
//! An older version is marked (`pipeline.objects.replaced_by`) and its rows are deleted in one transaction, which is that
//! in which the newer one becomes applied. From then on, rows of it that arrive count as older, in the live pipeline,
//! in a replay and in a shadow ([`crate::lives::sift`] reads the mark). A batch holds a shared lock from before it
//! reads the marks until it commits, and marking takes the lock exclusively: so one of the two always sees the work of
//! the other.
//!
//! The rows of a version are found by an index on the object, which setup creates for such contracts: the cost of an
//! overwrite depends on the older versions, not on the size of the table.
//!
//! If such a row had replaced a row of another object, that older row does not return by itself, because the table no
//! longer has it. A replay restores it.

use freshet_topics::{Domain, Overwrite};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::apply::marks::Marks;
use crate::apply::removal;
use crate::destination::Destination;
use crate::transactions::{self, Limits};

/// Held while a batch of such a domain is applied.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn lock_shared(connection: &mut PgConnection, domain: &Domain) -> Result<(), sqlx::Error> {
    if domain.on_overwrite == Overwrite::Replace {
        sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended('freshet replace in ' || $1, 2))")
            .bind(domain.name)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Held alone while versions are marked and their rows deleted.
pub(super) async fn lock(connection: &mut PgConnection, domain: &Domain) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freshet replace in ' || $1, 2))")
        .bind(domain.name)
        .execute(connection)
        .await?;
    Ok(())
}

/// Replaces all versions that have a newer applied version and are not marked yet: a contract that said otherwise until
/// now, a version that became applied without a sweep. Returns the number of rows removed from the table.
///
/// # Errors
/// If Postgres does not answer.
pub async fn replace_overwritten(pool: &PgPool, domain: &Domain) -> Result<i64, sqlx::Error> {
    if domain.on_overwrite != Overwrite::Replace {
        return Ok(0);
    }
    let mut transaction = transactions::begin(pool, "replace", Limits::SHORT).await?;
    lock(&mut transaction, domain).await?;
    let removed = replace(&mut transaction, domain, None).await?;
    transaction.commit().await?;
    Ok(removed)
}

/// Marks the versions that are older than one of `applied` (than any that is applied, if none is named) and deletes their
/// rows. To be called under [`lock`].
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
