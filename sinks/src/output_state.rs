//! What Postgres knows about the outputs besides the marks: the last definition set up for each, and which ones fail.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_topics::pipeline::output::Output;
use sqlx::{PgConnection, PgPool};

use crate::backoff::Backoff;

/// How long an output with a failing query is not tried again. A retry begins with the window that failed last. So with a
/// time limit of one minute, a query that always times out there delays the other outputs, once the intervals have grown,
/// for about a tenth of the time.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));

/// What a setup does to an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionChange {
    /// It is new: all its windows are derived.
    Added(String),
    /// Its definition has changed: all its windows are derived again.
    Changed(String),
    /// It was removed: the next version does not have it.
    Dropped(String),
}

impl DefinitionChange {
    /// The output.
    pub fn output(&self) -> &str {
        match self {
            DefinitionChange::Added(name) | DefinitionChange::Changed(name) | DefinitionChange::Dropped(name) => name,
        }
    }

    /// Whether it was removed.
    pub fn is_dropped(&self) -> bool {
        matches!(self, DefinitionChange::Dropped(_))
    }
}

/// Output → its definition at the last setup; empty in a database that is not set up yet.
///
/// # Errors
/// If Postgres does not answer.
pub async fn definitions(connection: &mut PgConnection) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let is_there = sqlx::query_scalar("SELECT to_regclass('pipeline.output_definitions') IS NOT NULL");
    if !is_there.fetch_one(&mut *connection).await? {
        return Ok(BTreeMap::new());
    }
    let newest: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT DISTINCT ON (output) output, definition FROM pipeline.output_definitions ORDER BY output, number DESC",
    )
    .fetch_all(connection)
    .await?;
    Ok(newest.into_iter().filter_map(|(output, definition)| Some((output, definition?))).collect())
}

/// What setting these outputs up would change.
///
/// | set up last | now | change |
/// |---|---|---|
/// | none | a | added |
/// | a | a | none |
/// | a | b | changed |
/// | a | none | dropped |
pub fn changes(before: &BTreeMap<String, String>, outputs: &[&'static Output]) -> Vec<DefinitionChange> {
    let now = outputs.iter().filter_map(|output| match before.get(output.name) {
        None => Some(DefinitionChange::Added(output.name.to_owned())),
        Some(definition) if definition == output.definition => None,
        Some(_) => Some(DefinitionChange::Changed(output.name.to_owned())),
    });
    let is_gone = |name: &&String| outputs.iter().all(|output| output.name != **name);
    let dropped = before.keys().filter(is_gone).map(|name| DefinitionChange::Dropped(name.clone()));
    now.chain(dropped).collect()
}

/// Records these changes as part of a setup, in the setup's own transaction.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn set_up(
    connection: &mut PgConnection,
    outputs: &[&'static Output],
    changes: &[DefinitionChange],
) -> Result<(), sqlx::Error> {
    for change in changes {
        let name = change.output();
        let definition = outputs.iter().find(|output| output.name == name).map(|output| output.definition);
        sqlx::query("INSERT INTO pipeline.output_definitions (output, definition) VALUES ($1, $2)")
            .bind(name)
            .bind(definition)
            .execute(&mut *connection)
            .await?;
        // A failure of the former definition does not apply to the new one.
        sqlx::query("DELETE FROM pipeline.output_failures WHERE output = $1")
            .bind(name)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// An output whose query fails.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct OutputFailure {
    /// The output.
    pub output: String,
    /// What is wrong, for people.
    pub reason: String,
    /// Times in a row.
    pub failures: i32,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it is tried again.
    pub retry_at: DateTime<Utc>,
    /// Whether it may be tried again now.
    pub is_due: bool,
}

/// The outputs whose query fails, by name.
///
/// # Errors
/// If Postgres does not answer.
pub async fn failures(connection: &mut PgConnection) -> Result<Vec<OutputFailure>, sqlx::Error> {
    sqlx::query_as(
        "SELECT output, reason, failures, since, retry_at, NOT (now() >= retry_from AND now() < retry_at) AS is_due
         FROM pipeline.output_failures ORDER BY output",
    )
    .fetch_all(connection)
    .await
}

/// Records that an output's query failed, with the number of failures in a row. It is left alone for a while.
///
/// # Errors
/// If Postgres does not answer.
pub async fn failed(pool: &PgPool, output: &Output, reason: &str, failures: u32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO pipeline.output_failures AS f (output, definition, reason, failures, retry_at)
         VALUES ($1, $2, $3, $4, now() + $5 * interval '1 second')
         ON CONFLICT (output) DO UPDATE SET definition = excluded.definition, reason = excluded.reason,
            failures = excluded.failures, retry_from = excluded.retry_from, retry_at = excluded.retry_at,
            since = CASE WHEN f.definition = excluded.definition THEN f.since ELSE excluded.since END",
    )
    .bind(output.name)
    .bind(output.definition)
    .bind(reason)
    .bind(i32::try_from(failures).unwrap_or(i32::MAX))
    .bind(RETRY_BACKOFF.after(failures).as_secs_f64())
    .execute(pool)
    .await?;
    Ok(())
}

/// Records that these outputs work, or no longer exist.
///
/// # Errors
/// If Postgres does not answer.
pub async fn work(pool: &PgPool, outputs: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM pipeline.output_failures WHERE output = ANY($1)").bind(outputs).execute(pool).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;

    fn output(name: &str, query: &str) -> &'static Output {
        let text = format!("/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [id]\n*/ {query}");
        Output::read(&format!("{name}.sql"), &text, &DOMAINS, &mut Mistakes::of(name)).expect("an output")
    }

    #[test]
    fn a_setup_changes_what_is_new_other_or_gone() {
        let (a, b) = (output("a", "SELECT 1 AS id"), output("b", "SELECT 1 AS id"));
        let before = |outputs: &[(&str, &str)]| {
            outputs.iter().map(|(name, definition)| ((*name).to_owned(), (*definition).to_owned())).collect()
        };
        let cases = [
            (before(&[]), vec![a], vec![DefinitionChange::Added("a".into())]),
            (before(&[("a", a.definition)]), vec![a], vec![]),
            (before(&[("a", b.definition)]), vec![a], vec![DefinitionChange::Changed("a".into())]),
            (
                before(&[("a", a.definition), ("c", "x")]),
                vec![a, b],
                vec![DefinitionChange::Added("b".into()), DefinitionChange::Dropped("c".into())],
            ),
        ];
        for (before, outputs, expected) in cases {
            assert_eq!(changes(&before, &outputs), expected, "{before:?}");
        }
    }
}
