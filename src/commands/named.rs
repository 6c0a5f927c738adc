//! Files that a person names: their versions in the ledger, what a version waits for, and why a name has none.

use chrono::{DateTime, Utc};
use freshet_ingest::names::{Name, nearest};
use freshet_sinks::ledger::{ObjectState, on_one_line};
use freshet_topics::Domain;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::terminal::thousands;
use crate::roles::Services;

/// Versions of one key that are read, the newest.
const VERSIONS_MAX: i64 = 100;
/// Files among which near names are looked for, the newest.
const LOOKED_AT: i64 = 20_000;
/// Near names that are given.
const NEAR_MAX: usize = 3;

/// A version of a file, with the results of its rows.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub(super) struct Version {
    /// `pipeline.objects.id`.
    pub(super) id: i64,
    pub(super) domain: String,
    pub(super) key: String,
    pub(super) version_id: Option<String>,
    pub(super) etag: String,
    pub(super) last_modified: DateTime<Utc>,
    pub(super) state: ObjectState,
    /// Why it is in its state.
    pub(super) reason: Option<String>,
    /// Rows of the file, once they are known.
    pub(super) rows: Option<i64>,
    pub(super) applied: i64,
    /// Rows that were older than what was there.
    pub(super) stale: i64,
    pub(super) rejected: i64,
    /// Changes made to values.
    pub(super) corrected: i64,
    pub(super) applied_at: Option<DateTime<Utc>>,
    /// The newer version by which its rows have left the table.
    pub(super) replaced_by: Option<i64>,
    pub(super) generation: i32,
    #[serde(skip)]
    pub(super) src_ord: i64,
    #[serde(skip)]
    pub(super) nonce: Uuid,
}

/// What a query of [`Version`]s selects, of `o`, an object joined to [`PROGRESS`].
pub(super) const COLUMNS: &str =
    "o.id, o.domain, o.key, o.version_id, o.etag, o.last_modified, o.state, o.reason, o.rows,
    o.applied_at, o.replaced_by, o.generation, o.src_ord, o.nonce, coalesce(p.applied, 0)::bigint AS applied,
    coalesce(p.stale, 0)::bigint AS stale, coalesce(p.rejected, 0)::bigint AS rejected,
    coalesce(p.corrected, 0)::bigint AS corrected";
/// The results of the rows of `o`.
pub(super) const PROGRESS: &str = "LEFT JOIN LATERAL (
        SELECT sum(applied) AS applied, sum(stale) AS stale, sum(rejected) AS rejected, sum(corrected) AS corrected
        FROM pipeline.progress p WHERE p.object = o.id AND p.generation = o.generation
    ) AS p ON true";

/// The versions of a file in the ledger, the newest first.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn versions(services: &Services, key: &str) -> Result<Vec<Version>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipeline.objects o {PROGRESS} WHERE o.bucket = $1 AND o.key = $2
         ORDER BY o.src_ord DESC LIMIT $3"
    )))
    .bind(&services.config.s3.raw_bucket)
    .bind(key)
    .bind(VERSIONS_MAX)
    .fetch_all(&services.pool)
    .await
}

/// The version that is meant if none is named: the newest, without those that were not loaded because an older one has the same
/// content or S3 did not have them.
pub(super) fn newest(versions: &[Version]) -> Option<&Version> {
    versions.iter().find(|version| version.state != ObjectState::Superseded).or(versions.first())
}

/// The key that a person means: without the bucket in front, as other tools write it.
pub(super) fn key<'f>(services: &Services, file: &'f str) -> &'f str {
    let in_bucket = file.strip_prefix("s3://").and_then(|rest| rest.strip_prefix(&services.config.s3.raw_bucket));
    in_bucket.and_then(|rest| rest.strip_prefix('/')).unwrap_or(file)
}

/// The pattern of keys as LIKE takes it: `*` stands for any characters, everything else for itself.
pub(super) fn like(pattern: &str) -> String {
    let mut like = String::new();
    for character in pattern.chars() {
        match character {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', character]),
            other => like.push(other),
        }
    }
    like
}

/// Whether this is a pattern for several files, not the key of one.
pub(super) fn is_pattern(key: &str) -> bool {
    key.contains('*')
}

/// Whether the ledger has a file of that name, or of that pattern.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn is_known(pool: &PgPool, pattern: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pipeline.objects WHERE key LIKE $1)")
        .bind(like(pattern))
        .fetch_one(pool)
        .await
}

/// Why the version is not applied, in one sentence; `None` if it is.
pub(super) fn waits(version: &Version) -> Option<String> {
    let Version { state, reason, rows, applied, stale, rejected, .. } = version;
    let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    Some(match state {
        ObjectState::Applied => return None,
        ObjectState::Rejected => format!("the file was rejected as a whole{reason}"),
        ObjectState::Superseded => format!("the file was not loaded{reason}"),
        ObjectState::Discovered => format!("the file waits for `freshet ingest`; no row of it is sent yet{reason}"),
        ObjectState::Publishing => format!("the file is being sent to Kafka{reason}"),
        ObjectState::Published => {
            let judged = thousands(applied + stale + rejected);
            let of = rows.map_or("?".to_owned(), thousands);
            format!("the file is queued: {judged} of {of} rows are applied{reason}")
        }
    })
}

/// Why the ledger has no file of that name, with what is near.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn unknown(services: &Services, key: &str) -> Result<String, sqlx::Error> {
    let shown = on_one_line(key);
    if is_pattern(key) {
        return Ok(format!("no file is named `{shown}`"));
    }
    let domains = services.config.pipeline.domains;
    let name = services.config.ingest.name_in(domains, key);
    if let Name::NotData(pattern) = name {
        return Ok(format!("`{shown}` is skipped, because `{pattern}` is not data (setting `ingest.not_data`)"));
    }
    let near = near(&services.pool, &services.config.s3.raw_bucket, key).await?;
    if !near.is_empty() {
        return Ok(format!("no file `{shown}` was found; did you mean {}?", near.join(" or ")));
    }
    if name == Name::Foreign {
        let hint = nearest(key, &patterns(services, domains)).map_or(String::new(), |hint| format!(": {hint}"));
        return Ok(format!("`{shown}` belongs to no domain, so it is not read{hint}"));
    }
    Ok(format!("no file `{shown}` was found: it is not in the bucket, or not found yet"))
}

fn patterns<'s>(services: &'s Services, domains: &[&'static Domain]) -> Vec<&'s str> {
    domains.iter().flat_map(|domain| services.config.ingest.all_patterns_of(domain)).collect()
}

/// Keys near a name: those that end in it, else those with a few other letters.
async fn near(pool: &PgPool, bucket: &str, key: &str) -> Result<Vec<String>, sqlx::Error> {
    let keys: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT key FROM (SELECT key FROM pipeline.objects WHERE bucket = $1 ORDER BY id DESC LIMIT $2) AS o",
    )
    .bind(bucket)
    .bind(LOOKED_AT)
    .fetch_all(pool)
    .await?;
    Ok(near_among(&keys, key))
}

fn near_among(keys: &[String], key: &str) -> Vec<String> {
    let name = |key: &str| key.rsplit('/').next().unwrap_or(key).to_lowercase();
    let wanted = name(key);
    let slips = (wanted.chars().count() / 4).clamp(1, 3);
    let distance = |known: &String| match name(known) {
        same if same == wanted => Some(0),
        other => Some(strsim::osa_distance(&other, &wanted)).filter(|distance| *distance <= slips),
    };
    let mut near: Vec<(usize, usize, &String)> =
        keys.iter().filter_map(|known| Some((distance(known)?, strsim::osa_distance(known, key), known))).collect();
    near.sort();
    let best = near.first().map_or(0, |(distance, ..)| *distance);
    let near = near.into_iter().filter(|(distance, ..)| *distance == best).take(NEAR_MAX);
    near.map(|(.., key)| format!("`{}`", on_one_line(key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_another_folder_and_with_a_slip_are_near() {
        let keys =
            ["health/bad.csv", "health/week.csv", "climate/week.csv", "health/2025-03-01.csv"].map(str::to_owned);
        let cases: [(&str, &[&str]); 5] = [
            ("bad.csv", &["`health/bad.csv`"]),
            ("week.csv", &["`health/week.csv`", "`climate/week.csv`"]),
            ("health/wek.csv", &["`health/week.csv`", "`climate/week.csv`"]),
            ("health/BAD.CSV", &["`health/bad.csv`"]),
            ("health/other.csv", &[]),
        ];
        for (key, expected) in cases {
            assert_eq!(near_among(&keys, key), expected, "{key}");
        }
    }

    #[test]
    fn a_pattern_is_taken_by_like_for_itself_but_for_its_stars() {
        for (pattern, expected) in [("health/a.csv", "health/a.csv"), ("health/*_1%.csv", r"health/%\_1\%.csv")] {
            assert_eq!((like(pattern).as_str(), is_pattern(pattern)), (expected, pattern.contains('*')));
        }
        assert_eq!(like(r"a\b"), r"a\\b");
    }

    #[test]
    fn a_version_that_is_not_applied_says_what_it_waits_for() {
        let version = |state: ObjectState, reason: Option<&str>| Version {
            id: 1,
            domain: "health".into(),
            key: "health/a.csv".into(),
            version_id: None,
            etag: "e".into(),
            last_modified: DateTime::default(),
            state,
            reason: reason.map(str::to_owned),
            rows: Some(1_200),
            applied: 1,
            stale: 2,
            rejected: 3,
            corrected: 0,
            applied_at: None,
            replaced_by: None,
            generation: 1,
            src_ord: 1,
            nonce: Uuid::nil(),
        };
        assert_eq!(waits(&version(ObjectState::Applied, None)), None);
        for (state, reason, expected) in [
            (ObjectState::Published, None, "the file is queued: 6 of 1,200 rows are applied"),
            (ObjectState::Rejected, Some("header: x"), "the file was rejected as a whole: header: x"),
            (ObjectState::Superseded, Some("gone"), "the file was not loaded: gone"),
            (ObjectState::Discovered, None, "the file waits for `freshet ingest`; no row of it is sent yet"),
        ] {
            assert_eq!(waits(&version(state, reason)).as_deref(), Some(expected));
        }
    }
}
