//! The record of the last setup: which pipeline, and each domain's declaration.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::{Identity, Setup};

/// What was set up last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its name.
    pub name: String,
    /// The hash of all that it declares.
    pub hash: String,
    /// The schema of the tables.
    pub schema: String,
    /// Each domain's declaration.
    pub domains: BTreeMap<String, Declared>,
    /// When it was set up.
    pub set_up_at: DateTime<Utc>,
}

/// The parts of a domain's declaration that a later one is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// A hash of everything that decides how a row is judged: types, limits, rules, key.
    pub judgement: String,
    /// Every column that this or an earlier declaration had.
    pub columns: Vec<String>,
}

/// The change of the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// The last record, if there is one.
    pub before: Option<Recorded>,
    /// Whether it changes.
    pub changes: bool,
    /// Domains whose rows were judged by another declaration.
    pub judged_otherwise: Vec<&'static str>,
    /// Domains that were set up and are no longer part of the pipeline.
    pub gone: Vec<String>,
    /// Problems that prevent the whole setup.
    pub blocked: Vec<String>,
}

impl Declared {
    /// The declaration of a domain, including the columns of the one before.
    fn of(domain: &Domain, before: Option<&Declared>) -> Declared {
        let former = before.map(|before| before.columns.clone()).unwrap_or_default();
        let mut columns: Vec<String> = domain.columns.iter().map(|column| column.name.to_owned()).collect();
        columns.extend(former);
        columns.sort();
        columns.dedup();
        Declared { judgement: judgement(domain), columns }
    }
}

/// A hash of everything that decides how a row is judged.
fn judgement(domain: &Domain) -> String {
    let mut text = format!("{:?}{:?}{:?}", domain.key, domain.partition_by, domain.row_rules);
    text += &format!("{:?}", domain.missing_values);
    for column in domain.columns {
        text += &format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
            column.name,
            column.cast,
            column.absent,
            column.empty,
            column.uncastable,
            column.rules,
            column.missing_values
        );
    }
    hex::encode(Sha256::digest(text))
}

/// Reads what was set up last; `None` if nothing was, or the schema is older.
///
/// # Errors
/// If Postgres does not answer.
pub async fn last(connection: &mut PgConnection) -> Result<Option<Recorded>, sqlx::Error> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass('pipeline.pipelines') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !is_there {
        return Ok(None);
    }
    type Row = (String, String, String, Json<BTreeMap<String, Declared>>, DateTime<Utc>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT name, hash, schema, domains, set_up_at FROM pipeline.pipelines ORDER BY id DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(name, hash, schema, domains, set_up_at)| Recorded {
        name,
        hash,
        schema,
        domains: domains.0,
        set_up_at,
    }))
}

/// How the pipeline that was set up last differs from this one; `None` if it is this one.
///
/// # Errors
/// If Postgres does not answer, or was not migrated.
pub async fn another(pool: &PgPool, pipeline: Identity<'_>) -> Result<Option<String>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    Ok(told_apart(last(&mut connection).await?.as_ref(), pipeline))
}

/// | set up last | this one | |
/// |---|---|---|
/// | nothing | any | none is set up |
/// | the same hash | | the same |
/// | another hash | | another |
fn told_apart(last: Option<&Recorded>, pipeline: Identity<'_>) -> Option<String> {
    match last {
        None => Some("no pipeline was set up: run `freshet setup`".to_owned()),
        Some(last) if last.hash == pipeline.hash => None,
        Some(last) => Some(format!(
            "this process has the pipeline {} ({}), and {} ({}) was set up last, on {}: run `freshet setup` with this one, \
             or start this process with that one",
            pipeline.name,
            short(pipeline.hash),
            last.name,
            short(&last.hash),
            last.set_up_at.format("%Y-%m-%d %H:%M UTC")
        )),
    }
}

/// As much of a hash as is needed to distinguish two.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Compares what is to be set up with what is recorded.
pub(super) fn recording(setup: &Setup<'_>, before: Option<Recorded>) -> Recording {
    let Some(last) = &before else { return Recording { changes: true, ..Recording::default() } };
    let mut recording = Recording::default();
    if last.schema != setup.schema {
        recording.blocked.push(format!(
            "the tables are in the schema {0}, but postgres.schema is {1}: set postgres.schema = \"{0}\", or move \
             each table \
             (ALTER TABLE {0}.… SET SCHEMA {1}) and _sqlx_migrations with it, and UPDATE pipeline.pipelines SET schema = '{1}'",
            last.schema, setup.schema
        ));
    }
    let domains = declared(setup, Some(last));
    recording.changes = last.hash != setup.pipeline.hash || last.name != setup.pipeline.name || last.domains != domains;
    recording.judged_otherwise = setup
        .domains
        .iter()
        .filter(|domain| last.domains.get(domain.name).is_some_and(|it| it.judgement != judgement(domain)))
        .map(|domain| domain.name)
        .collect();
    let is_there = |name: &str| setup.domains.iter().any(|domain| domain.name == name);
    recording.gone = last.domains.keys().filter(|name| !is_there(name)).cloned().collect();
    recording.before = before;
    recording
}

/// The declarations by domain. A domain that is no longer part of the pipeline is kept.
fn declared(setup: &Setup<'_>, last: Option<&Recorded>) -> BTreeMap<String, Declared> {
    let mut all = last.map(|last| last.domains.clone()).unwrap_or_default();
    for domain in setup.domains {
        let declared = Declared::of(domain, all.get(domain.name));
        all.insert(domain.name.to_owned(), declared);
    }
    all
}

/// Records what is set up now.
pub(super) async fn write(
    connection: &mut PgConnection,
    setup: &Setup<'_>,
    last: Option<&Recorded>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO pipeline.pipelines (name, hash, schema, domains) VALUES ($1, $2, $3, $4)")
        .bind(setup.pipeline.name)
        .bind(setup.pipeline.hash)
        .bind(setup.schema)
        .bind(Json(declared(setup, last)))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::{Cast, Column, DOMAINS};

    fn setup(hash: &str) -> Setup<'_> {
        let pipeline = Identity { name: "p", hash };
        Setup { schema: "public", domains: &DOMAINS, outputs: &[], pipeline, allowed_lateness_days: 7 }
    }

    fn recorded(setup: &Setup<'_>) -> Recorded {
        Recorded {
            name: setup.pipeline.name.into(),
            hash: setup.pipeline.hash.into(),
            schema: setup.schema.into(),
            domains: declared(setup, None),
            set_up_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_changed_since_the_last_setup_is_told() {
        let last = recorded(&setup("one"));
        assert!(recording(&setup("one"), None).changes, "nothing was set up");
        let same = recording(&setup("one"), Some(last.clone()));
        assert_eq!((same.changes, same.judged_otherwise.len(), same.blocked.len()), (false, 0, 0), "{same:?}");
        let described = recording(&setup("two"), Some(last.clone()));
        assert!(
            described.changes && described.judged_otherwise.is_empty(),
            "another text, the same rules: {described:?}"
        );
        let elsewhere = recording(&Setup { schema: "apart", ..setup("one") }, Some(last.clone()));
        assert!(elsewhere.blocked[0].starts_with("the tables are in the schema public, but postgres.schema is apart"));
        let fewer = recording(&Setup { domains: &DOMAINS[1..], ..setup("one") }, Some(last.clone()));
        assert_eq!((fewer.gone, fewer.changes), (vec![DOMAINS[0].name.to_owned()], false));
        let mut before = last;
        before.domains.get_mut(DOMAINS[0].name).expect("declared").judgement = "other".into();
        assert_eq!(recording(&setup("one"), Some(before)).judged_otherwise, [DOMAINS[0].name]);
    }

    #[test]
    fn a_column_that_was_declared_once_is_remembered() {
        let last = recorded(&setup("one"));
        let columns: &'static [Column] = vec![Column::required("other", Cast::Int)].leak();
        let domain = Domain { columns, ..*DOMAINS[0] };
        let now = Declared::of(&domain, last.domains.get(domain.name));
        assert!(now.columns.contains(&"other".to_owned()) && now.columns.len() == DOMAINS[0].columns.len() + 1);
        assert_ne!(now.judgement, last.domains[domain.name].judgement);
    }

    #[test]
    fn a_process_tells_its_pipeline_from_the_one_that_was_set_up() {
        let last = recorded(&setup("aaaaaaaaaaaaaaaa"));
        assert_eq!(told_apart(Some(&last), setup("aaaaaaaaaaaaaaaa").pipeline), None);
        let another = told_apart(Some(&last), setup("bbbbbbbbbbbbbbbb").pipeline).expect("another");
        assert!(another.contains("the pipeline p (bbbbbbbbbbbb), and p (aaaaaaaaaaaa) was set up last"), "{another}");
        assert!(told_apart(None, setup("a").pipeline).expect("none").contains("no pipeline was set up"));
    }
}
