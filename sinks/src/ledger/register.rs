//! Registering objects: identity and order.
//!
//! A listing or a notification only names a key. What is registered is S3's answer while the key is locked: its current
//! version, from a HEAD, or all of its versions, from a listing of versions. So two listeners that find the same key at
//! once register it once, and the ledger has the versions of a key in the order in which S3 held them.
//!
//! A version is known if its version id is known or, if the bucket keeps no versions, if the *newest* version of its
//! key has its ETag, size and second. An older version that looks the same is a different one: the key was written A,
//! B, A.
//!
//! All of this holds within a domain. A key that was another domain's before (a contract was renamed, or another one
//! names the key now) is registered anew: what was loaded of it is in another table.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::object::{COLUMNS, Object, ObjectVersion};
use super::order;
use super::transition::Event;
use super::write::change_all;
use crate::advisory;
use crate::transactions::{self, Limits};

/// The most keys in one transaction; it bounds how long their locks are held.
pub const KEYS_PER_TRANSACTION: usize = 128;
/// HEAD requests at once.
const HEADS_AT_ONCE: usize = 32;
/// Bounds how long a listener that freezes while it asks S3 holds the locks on its keys. If S3 takes longer to answer for
/// all of them, nothing is registered, and they are looked at again.
const LIMITS: Limits = Limits { idle: Some(Duration::from_secs(100)), client_check: None, lock: None };

/// A session may keep a plan from when there were few objects, which reads all of them for each key.
const BY_INDEX: &str = "SET LOCAL enable_seqscan = off";

/// The result of registering a key.
#[derive(Debug)]
pub enum Registered<E> {
    /// New versions under these object ids, the oldest first.
    New(Vec<(i64, ObjectVersion)>),
    /// This object was given up as gone, but S3 has it: it will be published again.
    Reappeared(i64),
    /// The version that S3 holds is in the ledger.
    Known,
    /// S3 holds nothing under this key any more.
    Absent,
    /// S3 could not be asked; try again later.
    Failed(E),
}

/// The transaction `register`: it locks the keys, asks S3 what it holds under each, and gives each unknown version its
/// place in the domain's order, in the order of `keys`. At most [`KEYS_PER_TRANSACTION`] keys, each once; the result is
/// in their order.
///
/// `held` returns the versions of a key, the oldest first and the current one last, or only the current one; none if S3
/// holds nothing. `since`: see [`first_new`].
///
/// Of two at once, the second waits for the locks, which both take in the same order, and finds everything known. The
/// future must run to its end (a cancelled transaction would stay open in the pool).
///
/// # Errors
/// If Postgres does not answer. Nothing is registered then.
pub async fn register<F, E>(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    keys: &[String],
    since: Option<DateTime<Utc>>,
    held: impl Fn(String) -> F,
) -> Result<Vec<Registered<E>>, sqlx::Error>
where
    F: Future<Output = Result<Vec<ObjectVersion>, E>>,
{
    debug_assert!(keys.len() <= KEYS_PER_TRANSACTION);
    let mut transaction = transactions::begin(pool, "register", LIMITS).await?;
    sqlx::raw_sql(BY_INDEX).execute(&mut *transaction).await?;
    lock_keys(&mut transaction, bucket, keys).await?;
    let held: Vec<_> = stream::iter(keys.iter().cloned()).map(held).buffered(HEADS_AT_ONCE).collect().await;
    let found: Vec<&[ObjectVersion]> =
        held.iter().filter_map(|held| held.as_deref().ok()).filter(|versions| !versions.is_empty()).collect();
    lock_domain(&mut transaction, domain).await?;
    let mut outcomes = register_versions(&mut transaction, bucket, domain, &found, since).await?.into_iter();
    transaction.commit().await?;
    let outcome = |held: Result<Vec<ObjectVersion>, E>| match held {
        Ok(versions) if versions.is_empty() => Registered::Absent,
        Ok(_) => match outcomes.next() {
            Some(Outcome::New(objects)) => Registered::New(objects),
            Some(Outcome::Reappeared(id)) => Registered::Reappeared(id),
            Some(Outcome::Known) | None => Registered::Known,
        },
        Err(error) => Registered::Failed(error),
    };
    Ok(held.into_iter().map(outcome).collect())
}

/// Held until the end of the transaction.
async fn lock_keys(connection: &mut PgConnection, bucket: &str, keys: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(advisory::KEYS).bind(bucket).bind(keys).execute(connection).await?;
    Ok(())
}

/// Makes `src_ord` unique without a retry. Taken after the locks on keys, never before them.
pub(super) async fn lock_domain(connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
    sqlx::query(advisory::ORDER).bind(domain).execute(connection).await?;
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    New(Vec<(i64, ObjectVersion)>),
    Reappeared(i64),
    Known,
}

/// Decides about keys with these versions in S3.
async fn register_versions(
    connection: &mut PgConnection,
    bucket: &str,
    domain: &str,
    keys: &[&[ObjectVersion]],
    since: Option<DateTime<Utc>>,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let histories = histories(connection, bucket, domain, keys).await?;
    let mut outcomes = vec![Outcome::Known; keys.len()];
    let given_up: Vec<Object> = histories.iter().filter_map(|it| it.current.clone().filter(is_gone)).collect();
    let revived = change_all(connection, &given_up, |_| Event::Reappear).await?;
    let current: Vec<i64> = histories.iter().filter_map(|it| it.current.as_ref()).map(|object| object.id).collect();
    take_deletions_back(connection, &current).await?;
    let (mut new, mut key_newest, mut key_of_new) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (history, versions)) in histories.iter().zip(keys).enumerate() {
        if let Some(object) = history.current.as_ref().filter(|object| revived.contains(&object.id)) {
            outcomes[index] = Outcome::Reappeared(object.id);
        }
        for version in &versions[first_new(&history.known, versions, since)..] {
            new.push(version);
            key_newest.push(history.newest);
            key_of_new.push(index);
        }
    }
    if new.is_empty() {
        return Ok(outcomes);
    }
    let src_ords = places(connection, domain, &new, &key_newest).await?;
    let inserted = insert(connection, bucket, domain, &new, &src_ords).await?;
    for ((index, id), version) in key_of_new.into_iter().zip(inserted).zip(new) {
        let registered = (id, version.clone());
        match &mut outcomes[index] {
            Outcome::New(all) => all.push(registered),
            outcome => *outcome = Outcome::New(vec![registered]),
        }
    }
    Ok(outcomes)
}

/// The index from which the versions of a key, the oldest first, are to be registered.
///
/// | the ledger knows | first new |
/// |---|---|
/// | one of them | the one after the last that it knows |
/// | none of them | the first written since `since`; or else, and without `since`, the current one |
///
/// So the first listing of a bucket with a long history registers the current versions, and later listings register
/// every new version.
pub fn first_new(known: &[bool], versions: &[ObjectVersion], since: Option<DateTime<Utc>>) -> usize {
    if let Some(last_known) = known.iter().rposition(|known| *known) {
        return last_known + 1;
    }
    let is_since = |version: &ObjectVersion| since.is_some_and(|since| version.last_modified >= since);
    let current = versions.len().saturating_sub(1);
    versions.iter().position(is_since).unwrap_or(current)
}

fn is_gone(object: &Object) -> bool {
    object.reason().is_some_and(super::Reason::is_gone)
}

/// What the ledger knows about a key.
struct History {
    /// The object of the domain that its current version is registered as.
    current: Option<Object>,
    /// Which of its versions are registered in the domain.
    known: Vec<bool>,
    /// The highest `src_ord` of the key, in any domain: what is registered last is the newest of its key.
    newest: Option<i64>,
}

async fn histories(
    connection: &mut PgConnection,
    bucket: &str,
    domain: &str,
    held: &[&[ObjectVersion]],
) -> Result<Vec<History>, sqlx::Error> {
    let versions = || held.iter().copied().flatten();
    let keys: Vec<&str> = versions().map(|version| version.key.as_str()).collect();
    let ids: Vec<Option<&str>> = versions().map(|version| version.version_id.as_deref()).collect();
    // The newest version of each key, that of the domain, and those with the version ids. `OFFSET 0` makes Postgres look by
    // the key: by a plan from when there were few objects, it would read all of the domain for each new key.
    let found: Vec<Object> = sqlx::query_as(AssertSqlSafe(format!(
        "WITH listed AS (SELECT * FROM UNNEST($2::text[], $3::text[]) AS l (key, version_id)), known AS (
            SELECT o.id FROM listed AS l CROSS JOIN LATERAL (
                SELECT o.id FROM pipeline.objects o
                WHERE o.bucket = $1 AND o.key = l.key AND o.version_id = l.version_id OFFSET 0
            ) AS o
            UNION
            SELECT n.id FROM (SELECT DISTINCT key FROM listed) AS l CROSS JOIN LATERAL (
                (SELECT o.id FROM pipeline.objects o WHERE o.bucket = $1 AND o.key = l.key
                 ORDER BY o.src_ord DESC LIMIT 1)
                UNION ALL
                (SELECT o.id FROM (
                    SELECT e.id, e.domain FROM pipeline.objects e WHERE e.bucket = $1 AND e.key = l.key
                    ORDER BY e.src_ord DESC OFFSET 0
                 ) AS o WHERE o.domain = $4 LIMIT 1)
            ) AS n
         )
         SELECT {COLUMNS} FROM known CROSS JOIN LATERAL (
            SELECT * FROM pipeline.objects o WHERE o.id = known.id OFFSET 0
         ) AS o
         ORDER BY o.src_ord"
    )))
    .bind(bucket)
    .bind(&keys)
    .bind(&ids)
    .bind(domain)
    .fetch_all(connection)
    .await?;
    let mut by_key: HashMap<&str, Vec<&Object>> = HashMap::new();
    for object in &found {
        by_key.entry(object.version.key.as_str()).or_default().push(object);
    }
    let history = |versions: &&[ObjectVersion]| {
        let key = versions.last().map(|version| version.key.as_str()).unwrap_or_default();
        let of_key = by_key.get(key).map_or(&[][..], Vec::as_slice);
        let newest = of_key.last().map(|object| object.src_ord);
        let own: Vec<&Object> = of_key.iter().copied().filter(|object| object.domain == domain).collect();
        let same: Vec<Option<&Object>> = versions.iter().map(|version| find_version(&own, version)).collect();
        let known = same.iter().map(Option::is_some).collect();
        History { current: same.last().copied().flatten().cloned(), known, newest }
    };
    Ok(held.iter().map(history).collect())
}

/// The object that a version is registered as, among the domain's objects of its key in their order.
///
/// | the version | known as |
/// |---|---|
/// | has a version id | the one with that id |
/// | has none | the newest, if key, ETag, size and second are the same |
pub fn find_version<'a>(of_key: &[&'a Object], version: &ObjectVersion) -> Option<&'a Object> {
    match &version.version_id {
        Some(_) => of_key.iter().find(|object| object.version.version_id == version.version_id).copied(),
        None => of_key.last().filter(|object| object.version == *version).copied(),
    }
}

/// The places of new versions in the domain's order, in the order given.
async fn places(
    connection: &mut PgConnection,
    domain: &str,
    versions: &[&ObjectVersion],
    key_newest: &[Option<i64>],
) -> Result<Vec<i64>, sqlx::Error> {
    // Versions of one key get ascending positions; the earlier ones are not in the ledger yet.
    let mut newest_of_key: HashMap<&str, i64> = HashMap::new();
    let mut seconds = Vec::with_capacity(versions.len());
    for (version, newest) in versions.iter().zip(key_newest) {
        let newest = newest_of_key.get(version.key.as_str()).copied().or(*newest);
        let second = order::second_for(version.last_modified.timestamp(), newest);
        newest_of_key.insert(&version.key, order::first_of(second));
        seconds.push(second);
    }
    newest_of_key.clear();
    let mut newest_in_second = newest_in_seconds(connection, domain, &seconds).await?;
    let mut src_ords = Vec::with_capacity(versions.len());
    for ((second, version), newest) in seconds.into_iter().zip(versions).zip(key_newest) {
        let newest = newest_of_key.get(version.key.as_str()).copied().or(*newest);
        let src_ord = order::assign(second, newest, newest_in_second.get(&second).copied());
        newest_of_key.insert(&version.key, src_ord);
        newest_in_second.insert(second, src_ord);
        src_ords.push(src_ord);
    }
    Ok(src_ords)
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

/// Versions as arrays for statements.
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

/// The locks make a conflict impossible; if there is one anyway, it is a bug that must not be hidden.
async fn insert(
    connection: &mut PgConnection,
    bucket: &str,
    domain: &str,
    versions: &[&ObjectVersion],
    src_ords: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let columns = Columns::of(versions);
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

/// The entries of a domain's listing that must be registered: those that are not the newest version of their key in the
/// domain, and those that were given up as gone or recorded as deleted. Compares what the listing has, to the second; a
/// listing of versions also has their ids.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unknown(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    listed: &[&ObjectVersion],
) -> Result<Vec<bool>, sqlx::Error> {
    let columns = Columns::of(listed);
    let seconds: Vec<i64> = columns.last_modified.iter().map(DateTime::timestamp).collect();
    sqlx::query_scalar(
        "SELECT NOT coalesce((
            SELECT o.etag = l.etag AND o.size_bytes = l.size_bytes
                AND date_trunc('second', o.last_modified) = to_timestamp(l.second)
                AND (l.version_id IS NULL OR o.version_id IS NOT DISTINCT FROM l.version_id)
                AND NOT (o.state = 'superseded' AND coalesce(o.cause->>'kind', '') = 'gone')
                AND o.deleted_at IS NULL
            FROM (
                -- OFFSET 0: by the key, as in `histories`.
                SELECT * FROM pipeline.objects o WHERE o.bucket = $1 AND o.key = l.key ORDER BY o.src_ord DESC OFFSET 0
            ) AS o
            WHERE o.domain = $7 LIMIT 1), false)
         FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
            WITH ORDINALITY AS l (key, etag, size_bytes, second, version_id, ord)
         ORDER BY l.ord",
    )
    .bind(bucket)
    .bind(&columns.keys)
    .bind(&columns.etags)
    .bind(&columns.sizes)
    .bind(seconds)
    .bind(&columns.version_ids)
    .bind(domain)
    .fetch_all(pool)
    .await
}

/// The overwritten versions that may have to be registered: those that the ledger does not have in the domain, and that
/// are newer than one that it has, or than `since`. [`register`] decides about them.
///
/// # Errors
/// If Postgres does not answer.
pub async fn unknown_overwritten(
    pool: &PgPool,
    bucket: &str,
    domain: &str,
    listed: &[&ObjectVersion],
    since: DateTime<Utc>,
) -> Result<Vec<bool>, sqlx::Error> {
    let columns = Columns::of(listed);
    sqlx::query_scalar(
        "SELECT l.version_id IS NOT NULL
            -- OFFSET 0: by the key, as in `histories`.
            AND NOT EXISTS (SELECT FROM (
                    SELECT o.domain FROM pipeline.objects o
                    WHERE o.bucket = $1 AND o.key = l.key AND o.version_id = l.version_id OFFSET 0
                ) AS o WHERE o.domain = $6)
            AND (l.last_modified >= $5 OR EXISTS (SELECT FROM (
                    SELECT o.domain, o.last_modified FROM pipeline.objects o
                    WHERE o.bucket = $1 AND o.key = l.key OFFSET 0
                ) AS o WHERE o.domain = $6 AND o.last_modified <= l.last_modified))
         FROM UNNEST($2::text[], $3::text[], $4::timestamptz[])
            WITH ORDINALITY AS l (key, version_id, last_modified, ord)
         ORDER BY l.ord",
    )
    .bind(bucket)
    .bind(&columns.keys)
    .bind(&columns.version_ids)
    .bind(&columns.last_modified)
    .bind(since)
    .bind(domain)
    .fetch_all(pool)
    .await
}

/// Keys of the domain after `after` that are present according to the ledger, in order, at most `limit`.
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

/// The id of the newest object; 0 if there is none.
///
/// # Errors
/// If Postgres does not answer.
pub async fn newest_id(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM pipeline.objects").fetch_one(pool).await
}

/// Records that S3 holds nothing under these keys; versions registered after object `newest_id` are left alone. A
/// deletion changes no rows of the domains' tables.
///
/// # Errors
/// If Postgres does not answer.
pub async fn record_deletions(
    pool: &PgPool,
    bucket: &str,
    keys: &[String],
    newest_id: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE pipeline.objects SET deleted_at = clock_timestamp()
         WHERE bucket = $1 AND key = ANY ($2) AND deleted_at IS NULL AND id <= $3",
    )
    .bind(bucket)
    .bind(keys)
    .bind(newest_id)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Takes back the deletion of keys whose current versions these objects are: the delete marker above them was removed.
/// Otherwise the next deletion would not be noticed either.
async fn take_deletions_back(connection: &mut PgConnection, current: &[i64]) -> Result<(), sqlx::Error> {
    if current.is_empty() {
        return Ok(());
    }
    // Locked in the order of their ids, as in every write of several objects, so that there are no deadlocks.
    sqlx::query(
        "UPDATE pipeline.objects AS o SET deleted_at = NULL FROM (
            SELECT d.id FROM pipeline.objects AS c JOIN pipeline.objects AS d ON d.bucket = c.bucket AND d.key = c.key
            WHERE c.id = ANY ($1) AND c.deleted_at IS NOT NULL AND d.deleted_at IS NOT NULL
            ORDER BY d.id FOR UPDATE OF d
         ) AS locked WHERE o.id = locked.id",
    )
    .bind(current)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_all_versions_after_the_last_known_one_are_new_and_else_those_since_the_first_listing() {
        let at = |second: i64| DateTime::from_timestamp(second, 0).expect("a second");
        let version = |second: i64| ObjectVersion { last_modified: at(second), ..Object::example().version };
        let versions = [version(10), version(20), version(30)];
        let cases = [
            ([false, false, false], None, 2),
            ([false, false, true], None, 3),
            ([false, true, false], None, 2),
            ([true, false, false], Some(at(30)), 1),
            ([true, false, true], Some(at(10)), 3),
            ([false, false, false], Some(at(15)), 1),
            ([false, false, false], Some(at(10)), 0),
            ([false, false, false], Some(at(99)), 2),
        ];
        for (known, since, expected) in cases {
            assert_eq!(first_new(&known, &versions, since), expected, "{known:?} {since:?}");
        }
    }
}
