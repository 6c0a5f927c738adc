//! Registering objects in the ledger: identity and order.
//!
//! Whatever a listing or a notification says of a key, what is registered is what a HEAD tells while the key
//! is locked. So two listeners that find the same key at once register it once, and the order of a key's
//! versions in the ledger is the order in which S3 held them.

use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt};
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;

use crate::object::{ObjectVersion, ReadError};
use crate::order;

/// Keys in one transaction: bounds how long their locks are held.
pub const KEYS_PER_TRANSACTION: usize = 64;
/// HEAD requests at once.
const HEADS_AT_ONCE: usize = 16;

/// What became of a key.
#[derive(Debug)]
pub enum Registered {
    /// A new version, under this object id.
    New(i64),
    /// The version that S3 holds is in the ledger.
    Known,
    /// S3 holds nothing under this key any more.
    Gone,
    /// S3 could not be asked; try again later.
    Failed(ReadError),
}

/// The transaction `register`: locks the keys, asks S3 what it holds under each, and gives every version that
/// the ledger does not know its place in the domain's order, in the order of `keys`. At most
/// [`KEYS_PER_TRANSACTION`] keys, each once; the result is in their order.
///
/// Two at once: the second waits for the locks, which both take in the same order, and finds everything known.
/// The future must run to its end (a cancelled transaction would stay open in the pool).
///
/// # Errors
/// If Postgres does not answer. Nothing is registered then.
pub async fn register<F>(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    keys: &[String],
    head: impl Fn(String) -> F,
) -> Result<Vec<Registered>, sqlx::Error>
where
    F: Future<Output = Result<Option<ObjectVersion>, ReadError>>,
{
    debug_assert!(keys.len() <= KEYS_PER_TRANSACTION);
    let mut transaction = pool.begin().await?;
    lock_keys(&mut transaction, bucket, keys).await?;
    let heads: Vec<_> = stream::iter(keys.iter().cloned()).map(head).buffered(HEADS_AT_ONCE).collect().await;
    let versions: Vec<&ObjectVersion> = heads.iter().filter_map(|head| head.as_ref().ok()?.as_ref()).collect();
    lock_domain(&mut transaction, domain).await?;
    let mut ids = insert_unknown(&mut transaction, bucket, domain, &versions).await?.into_iter();
    transaction.commit().await?;
    let outcome = |head| match head {
        Ok(None) => Registered::Gone,
        Ok(Some(_)) => ids.next().flatten().map_or(Registered::Known, Registered::New),
        Err(error) => Registered::Failed(error),
    };
    Ok(heads.into_iter().map(outcome).collect())
}

/// The transaction `place_anew`: gives a version that was published a place above all that its domain has had up to
/// now, and sets it back to be published in a new generation. `false` if it is on its way, or its key has a newer one.
///
/// # Errors
/// If Postgres does not answer. Nothing has changed then.
pub(crate) async fn place_anew(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    key: &str,
    object: i64,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    lock_keys(&mut transaction, bucket, &[key.to_owned()]).await?;
    lock_domain(&mut transaction, domain).await?;
    let (now, newest): (i64, Option<i64>) = sqlx::query_as(
        "SELECT extract(epoch FROM now())::bigint, max(src_ord) FROM pipeline.objects WHERE domain = $1",
    )
    .bind(domain)
    .fetch_one(&mut *transaction)
    .await?;
    let second = order::second_for(now, newest);
    let newest_in_second = newest_in_seconds(&mut transaction, domain, &[second]).await?;
    let src_ord = order::assign(second, newest, newest_in_second.get(&second).copied());
    let done = sqlx::query(
        "UPDATE pipeline.objects SET state = 'discovered', src_ord = $2, generation = generation + 1,
            parser_version = NULL, partition_count = NULL, repairs = repairs + 1, attempts = 0,
            lease_epoch = lease_epoch + 1, lease_owner = NULL, lease_until = NULL, next_attempt_at = now(),
            resume_byte = 0, resume_line = 0, resume_row = 0, resume_seqs = NULL, end_offsets = NULL,
            rows = NULL, partition_rows = NULL, stream_id = NULL, reason = 'sent again as new'
         WHERE id = $1 AND state IN ('applied', 'rejected', 'superseded')
            AND NOT EXISTS (SELECT FROM pipeline.objects n
                WHERE n.bucket = objects.bucket AND n.key = objects.key AND n.src_ord > objects.src_ord)",
    )
    .bind(object)
    .bind(src_ord)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() == 1)
}

/// Held until the end of the transaction. Sorted, so that two sets of keys never wait for each other.
async fn lock_keys(connection: &mut PgConnection, bucket: &str, keys: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(locks.id) FROM (
            SELECT DISTINCT hashtextextended($1 || '/' || key, 0) AS id FROM UNNEST($2::text[]) AS k (key) ORDER BY 1
         ) AS locks",
    )
    .bind(bucket)
    .bind(keys)
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes `src_ord` unique without a retry. Taken after the locks on keys, and by nobody before them.
async fn lock_domain(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freshet order of ' || $1, 1))")
        .bind(domain)
        .execute(connection)
        .await?;
    Ok(())
}

/// The id of each version that was not known, `None` for one that was.
async fn insert_unknown(
    connection: &mut PgConnection,
    bucket: &str,
    domain: &str,
    versions: &[&ObjectVersion],
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let columns = Columns::of(versions);
    let history = history(connection, bucket, &columns).await?;
    let fresh: Vec<usize> = (0..versions.len()).filter(|index| !history[*index].known).collect();
    let mut ids = vec![None; versions.len()];
    if fresh.is_empty() {
        return Ok(ids);
    }
    let columns = Columns::of(&fresh.iter().map(|index| versions[*index]).collect::<Vec<_>>());
    let newest: Vec<Option<i64>> = fresh.iter().map(|index| history[*index].newest).collect();
    let seconds: Vec<i64> = columns
        .last_modified
        .iter()
        .zip(&newest)
        .map(|(last_modified, newest)| order::second_for(last_modified.timestamp(), *newest))
        .collect();
    let mut newest_in_second = newest_in_seconds(connection, domain, &seconds).await?;
    let mut src_ords = Vec::with_capacity(fresh.len());
    for (second, newest) in seconds.iter().zip(newest) {
        let in_second = newest_in_second.get(second).copied();
        let src_ord = order::assign(*second, newest, in_second);
        newest_in_second.insert(*second, src_ord);
        src_ords.push(src_ord);
    }
    let inserted = insert(connection, bucket, domain, &columns, &src_ords).await?;
    for (index, id) in fresh.into_iter().zip(inserted) {
        ids[index] = Some(id);
    }
    Ok(ids)
}

/// Versions as the arrays that statements take.
struct Columns<'a> {
    keys: Vec<&'a str>,
    version_ids: Vec<Option<&'a str>>,
    etags: Vec<&'a str>,
    sizes: Vec<i64>,
    last_modified: Vec<DateTime<Utc>>,
}

impl<'a> Columns<'a> {
    fn of(versions: &[&'a ObjectVersion]) -> Self {
        Columns {
            keys: versions.iter().map(|version| version.key.as_str()).collect(),
            version_ids: versions.iter().map(|version| version.version_id.as_deref()).collect(),
            etags: versions.iter().map(|version| version.etag.as_str()).collect(),
            sizes: versions.iter().map(|version| version.size_bytes).collect(),
            last_modified: versions.iter().map(|version| version.last_modified).collect(),
        }
    }
}

#[derive(sqlx::FromRow)]
struct History {
    known: bool,
    newest: Option<i64>,
}

/// Whether each version is in the ledger, and the highest `src_ord` its key has there.
async fn history(
    connection: &mut PgConnection,
    bucket: &str,
    columns: &Columns<'_>,
) -> Result<Vec<History>, sqlx::Error> {
    sqlx::query_as(
        "SELECT
            CASE WHEN n.version_id IS NOT NULL THEN EXISTS (
                SELECT FROM pipeline.objects o
                WHERE o.bucket = $1 AND o.key = n.key AND o.version_id = n.version_id)
            ELSE EXISTS (
                SELECT FROM pipeline.objects o
                WHERE o.bucket = $1 AND o.key = n.key AND o.etag = n.etag AND o.size_bytes = n.size_bytes
                  AND o.last_modified = n.last_modified AND o.version_id IS NULL)
            END AS known,
            (SELECT max(o.src_ord) FROM pipeline.objects o WHERE o.bucket = $1 AND o.key = n.key) AS newest
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])
            WITH ORDINALITY AS n (key, version_id, etag, size_bytes, last_modified, ord)
         ORDER BY n.ord",
    )
    .bind(bucket)
    .bind(&columns.keys)
    .bind(&columns.version_ids)
    .bind(&columns.etags)
    .bind(&columns.sizes)
    .bind(&columns.last_modified)
    .fetch_all(connection)
    .await
}

/// The highest `src_ord` of the domain within each second that has one.
async fn newest_in_seconds(
    connection: &mut PgConnection,
    domain: &str,
    seconds: &[i64],
) -> Result<HashMap<i64, i64>, sqlx::Error> {
    let found: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT s.second, o.src_ord
         FROM (SELECT DISTINCT second, first, next FROM UNNEST($2::bigint[], $3::bigint[], $4::bigint[])
                AS s (second, first, next)) AS s
         CROSS JOIN LATERAL (
            SELECT src_ord FROM pipeline.objects
            WHERE domain = $1 AND src_ord >= s.first AND src_ord < s.next
            ORDER BY src_ord DESC LIMIT 1
         ) AS o",
    )
    .bind(domain)
    .bind(seconds)
    .bind(seconds.iter().map(|second| order::first_of(*second)).collect::<Vec<_>>())
    .bind(seconds.iter().map(|second| order::first_of(*second + 1)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}

/// The locks make a conflict impossible; one that came all the same would be a fault to see, not to pass over.
async fn insert(
    connection: &mut PgConnection,
    bucket: &str,
    domain: &str,
    columns: &Columns<'_>,
    src_ords: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let inserted: Vec<(i64, i64)> = sqlx::query_as(
        "INSERT INTO pipeline.objects
            (bucket, key, version_id, etag, size_bytes, last_modified, domain, src_ord)
         SELECT $1, n.key, n.version_id, n.etag, n.size_bytes, n.last_modified, $2, n.src_ord
         FROM UNNEST($3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[])
            AS n (key, version_id, etag, size_bytes, last_modified, src_ord)
         RETURNING src_ord, id",
    )
    .bind(bucket)
    .bind(domain)
    .bind(&columns.keys)
    .bind(&columns.version_ids)
    .bind(&columns.etags)
    .bind(&columns.sizes)
    .bind(&columns.last_modified)
    .bind(src_ords)
    .fetch_all(connection)
    .await?;
    let by_src_ord: HashMap<i64, i64> = inserted.into_iter().collect();
    src_ords.iter().map(|src_ord| by_src_ord.get(src_ord).copied().ok_or(sqlx::Error::RowNotFound)).collect()
}

/// Which entries of a listing the ledger does not know. A listing has no version ids, so what it does tell is
/// compared, to the second.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unknown(pool: &PgPool, bucket: &str, listed: &[&ObjectVersion]) -> Result<Vec<bool>, sqlx::Error> {
    let columns = Columns::of(listed);
    let seconds: Vec<i64> = columns.last_modified.iter().map(DateTime::timestamp).collect();
    sqlx::query_scalar(
        "SELECT NOT EXISTS (
            SELECT FROM pipeline.objects o
            WHERE o.bucket = $1 AND o.key = l.key AND o.etag = l.etag AND o.size_bytes = l.size_bytes
              AND date_trunc('second', o.last_modified) = to_timestamp(l.second))
         FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::bigint[])
            WITH ORDINALITY AS l (key, etag, size_bytes, second, ord)
         ORDER BY l.ord",
    )
    .bind(bucket)
    .bind(&columns.keys)
    .bind(&columns.etags)
    .bind(&columns.sizes)
    .bind(seconds)
    .fetch_all(pool)
    .await
}

/// Keys of the domain after `after` that the ledger holds as present, in order, at most `limit`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn present_keys(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT DISTINCT key FROM pipeline.objects
         WHERE bucket = $1 AND domain = $2 AND key > $3 AND deleted_at IS NULL
         ORDER BY key LIMIT $4",
    )
    .bind(bucket)
    .bind(domain)
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Records that S3 holds nothing under these keys; versions registered since `asked_at` are left alone. No row
/// of any table is touched by a deletion.
///
/// # Errors
/// If Postgres does not answer.
pub async fn record_deletions(
    pool: &PgPool,
    bucket: &str,
    keys: &[String],
    asked_at: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET deleted_at = now()
         WHERE bucket = $1 AND key = ANY ($2) AND deleted_at IS NULL AND discovered_at < $3",
    )
    .bind(bucket)
    .bind(keys)
    .bind(asked_at)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
