//! What Postgres knows about the topics: their streams and the halted partitions. Commands report halts that would
//! otherwise go unnoticed.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use freshet_sinks::bookmarks::{self, Bookmark, streams};
use freshet_sinks::ledger::on_one_line;
use freshet_topics::Domain;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

/// A server that does not answer within this is left out: these commands are about Kafka.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// `undefined_table`, `undefined_column`, `invalid_schema_name`: the schema is not there yet, or older.
const NO_SCHEMA: [&str; 3] = ["42P01", "42703", "3F000"];

/// What is known about a domain's topic; empty before its first use.
#[derive(Debug, Clone, Default)]
pub struct KnownTopic {
    /// Its stream.
    pub stream: Option<Uuid>,
    bookmarks: Vec<Bookmark>,
}

impl KnownTopic {
    /// What a person accepted a partition's beginning as.
    pub fn accepted(&self, partition: i32) -> Option<&str> {
        let bookmark = self.bookmarks.iter().find(|bookmark| bookmark.partition == partition)?;
        bookmark.accepted_beginning.as_deref()
    }

    /// Which partitions are halted and why; nothing if none is.
    pub fn halted(&self) -> Option<String> {
        let halted: Vec<&Bookmark> = self.bookmarks.iter().filter(|bookmark| bookmark.halted.is_some()).collect();
        // It may repeat what Postgres says of a row.
        let reason = on_one_line(halted.first()?.halted.as_deref()?);
        let numbers: Vec<i32> = halted.iter().map(|bookmark| bookmark.partition).collect();
        Some(match numbers.as_slice() {
            [one] => format!("partition {one} is halted: {reason}"),
            several => format!("{} are halted, the first because {reason}", partitions(several)),
        })
    }
}

/// `partition 3`, `partitions 1, 2, 3`.
pub fn partitions(numbers: &[i32]) -> String {
    let plural = if numbers.len() == 1 { "" } else { "s" };
    let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
    format!("partition{plural} {}", numbers.join(", "))
}

/// Asks Postgres about each of the domains; a schema that is not there yet knows nothing.
///
/// # Errors
/// If Postgres does not answer soon.
pub async fn known_topics(
    pool: &PgPool,
    domains: &[&'static Domain],
) -> anyhow::Result<HashMap<&'static str, KnownTopic>> {
    // By itself first: the pool would keep trying for half a minute.
    let options = pool.connect_options();
    let connected = tokio::time::timeout(ANSWER_TIMEOUT, PgConnection::connect_with(&options)).await;
    let connection = connected.context("connect to Postgres: no answer")?.context("connect to Postgres")?;
    connection.close().await.context("connect to Postgres")?;
    let mut known = HashMap::new();
    for domain in domains {
        match known_topic(pool, domain.name).await {
            Ok(topic) => _ = known.insert(domain.name, topic),
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|it| NO_SCHEMA.contains(&&*it)) => {}
            Err(error) => return Err(error).context("read the bookmarks"),
        }
    }
    Ok(known)
}

async fn known_topic(pool: &PgPool, domain: &str) -> Result<KnownTopic, sqlx::Error> {
    let stream = streams::known(pool, domain).await?;
    Ok(KnownTopic { stream, bookmarks: bookmarks::read(pool, domain, None).await? })
}

/// Reports on standard error which partitions of these domains are halted, and what to run. Errors are ignored here:
/// the command itself reports its own.
pub async fn warn(pool: &PgPool, domains: &[&'static Domain]) {
    let Ok(known) = known_topics(pool, domains).await else { return };
    for domain in domains {
        if let Some(halted) = known.get(domain.name).and_then(KnownTopic::halted) {
            eprintln!("freshet: {} {halted}", domain.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halted_partitions_are_named_with_the_reason_of_the_first() {
        let bookmark = |partition, halted: Option<&str>| Bookmark {
            partition,
            next_offset: 0,
            halted: halted.map(str::to_owned),
            accepted_beginning: None,
        };
        let known = |bookmarks| KnownTopic { stream: None, bookmarks };
        assert_eq!(known(vec![bookmark(0, None)]).halted(), None);
        let odd = known(vec![bookmark(3, Some("x\u{1b}[2J\ny"))]);
        assert_eq!(odd.halted().as_deref(), Some("partition 3 is halted: x\\u{1b}[2J\\ny"));
        let one = known(vec![bookmark(0, None), bookmark(1, Some("x; see `y`"))]);
        assert_eq!(one.halted().as_deref(), Some("partition 1 is halted: x; see `y`"));
        let two = known(vec![bookmark(0, Some("x")), bookmark(2, Some("y"))]);
        assert_eq!(two.halted().as_deref(), Some("partitions 0, 2 are halted, the first because x"));
    }
}
