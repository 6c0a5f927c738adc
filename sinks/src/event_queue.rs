//! What the listeners know about the event queue of the store. It is for people; no decision depends on it.
//!
//! Each listener adds its counts since its last report; times and numbers of waiting messages are from the last report.

use std::ops::AddAssign;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::transactions::{self, Limits};

/// A queue that has not answered any listener for this long counts as not read; the alert uses the same time. A request
/// waits at most 20 s for a message.
const SILENT: TimeDelta = TimeDelta::minutes(5);

/// A listener's observations since its last report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the queue answered.
    pub is_answered: bool,
    /// Why it did not answer the last time; none if it did.
    pub failure: Option<String>,
    /// Whether the queue returned a message.
    pub is_told: bool,
    /// What became of its messages.
    pub counts: MessageCounts,
    /// Messages that wait, and messages that are taken but not settled; `None` if unknown.
    pub messages: Option<(i64, i64)>,
}

/// What became of the messages that a listener received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Deleted because the ledger has their objects.
    pub settled: i64,
    /// Deleted because there is nothing to do for them.
    pub other: i64,
    /// Left in the queue, to be received again.
    pub come_again: i64,
    /// Could not be read.
    pub unreadable: i64,
}

impl AddAssign for MessageCounts {
    fn add_assign(&mut self, more: MessageCounts) {
        let MessageCounts { settled, other, come_again, unreadable } = more;
        self.settled += settled;
        self.other += other;
        self.come_again += come_again;
        self.unreadable += unreadable;
    }
}

/// The queue, as its listeners know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct EventQueueState {
    /// Its URL.
    pub queue: String,
    /// When it last answered a listener.
    pub answered_at: Option<DateTime<Utc>>,
    /// Why it does not answer; none while it does.
    pub failure: Option<String>,
    /// When it last did not answer.
    pub failed_at: Option<DateTime<Utc>>,
    /// Approximate number of messages in it; `None` if the listener may not ask.
    pub waiting: Option<i64>,
    /// Messages that a listener took and has not settled.
    pub taken: Option<i64>,
    /// When it last gave a message.
    pub last_message_at: Option<DateTime<Utc>>,
    /// Messages deleted because the ledger has their objects.
    pub settled: i64,
    /// Messages deleted because there is nothing to do for them.
    pub other: i64,
    /// Times that a message was left in the queue, to be received again.
    pub come_again: i64,
    /// Times that a message could not be read; the queue moves it to its dead letters.
    pub unreadable: i64,
    /// When this was read.
    pub at: DateTime<Utc>,
}

/// Whether a queue is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// It answers.
    Reachable,
    /// It does not answer.
    Failing,
    /// No listener has reported for a while: none runs, or none has the queue in its settings.
    Silent,
}

impl EventQueueState {
    /// | last failure | last answer | reading |
    /// |---|---|---|
    /// | some | any | failing |
    /// | none | within five minutes | reachable |
    /// | none | before, or never | silent |
    pub fn reading(&self) -> Reading {
        match (&self.failure, self.answered_at) {
            (Some(_), _) => Reading::Failing,
            (None, Some(answered)) if self.at - answered <= SILENT => Reading::Reachable,
            (None, _) => Reading::Silent,
        }
    }
}

/// Adds a listener's observations. Data about another queue, from earlier settings, is deleted.
///
/// # Errors
/// If Postgres does not answer.
pub async fn note(pool: &PgPool, queue: &str, seen: &Seen) -> Result<(), sqlx::Error> {
    let mut transaction = transactions::begin(pool, "event_queue", Limits::SHORT).await?;
    sqlx::query("DELETE FROM pipeline.event_queue WHERE queue <> $1").bind(queue).execute(&mut *transaction).await?;
    let MessageCounts { settled, other, come_again, unreadable } = seen.counts;
    sqlx::query(
        "INSERT INTO pipeline.event_queue AS q (queue, answered_at, failure, failed_at, waiting, taken, last_message_at,
            settled, other, come_again, unreadable)
         VALUES ($1, CASE WHEN $2 THEN now() END, $3, CASE WHEN $3 IS NOT NULL THEN now() END, $4, $5,
            CASE WHEN $6 THEN now() END, $7, $8, $9, $10)
         ON CONFLICT (queue) DO UPDATE SET
            answered_at = coalesce(excluded.answered_at, q.answered_at),
            failure = excluded.failure,
            failed_at = coalesce(excluded.failed_at, q.failed_at),
            waiting = excluded.waiting, taken = excluded.taken,
            last_message_at = coalesce(excluded.last_message_at, q.last_message_at),
            settled = q.settled + excluded.settled, other = q.other + excluded.other,
            come_again = q.come_again + excluded.come_again, unreadable = q.unreadable + excluded.unreadable",
    )
    .bind(queue)
    .bind(seen.is_answered)
    .bind(&seen.failure)
    .bind(seen.messages.map(|(waiting, _)| waiting))
    .bind(seen.messages.map(|(_, taken)| taken))
    .bind(seen.is_told)
    .bind(settled)
    .bind(other)
    .bind(come_again)
    .bind(unreadable)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Forgets the queue: none is set any more.
///
/// # Errors
/// If Postgres does not answer.
pub async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM pipeline.event_queue").execute(pool).await.map(|_| ())
}

/// What is known about the queue; `None` if none is set.
///
/// # Errors
/// If Postgres does not answer.
pub async fn read(connection: &mut PgConnection) -> Result<Option<EventQueueState>, sqlx::Error> {
    sqlx::query_as(
        "SELECT queue, answered_at, failure, failed_at, waiting, taken, last_message_at, settled, other, come_again,
            unreadable, now() AS at
         FROM pipeline.event_queue ORDER BY answered_at DESC NULLS LAST LIMIT 1",
    )
    .fetch_optional(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_read_while_it_answers() {
        let at = DateTime::from_timestamp(10_000, 0).expect("a time");
        let state = |failure: Option<&str>, age_seconds: Option<i64>| EventQueueState {
            queue: "q".into(),
            answered_at: age_seconds.map(|seconds| at - TimeDelta::seconds(seconds)),
            failure: failure.map(str::to_owned),
            failed_at: None,
            waiting: None,
            taken: None,
            last_message_at: None,
            settled: 0,
            other: 0,
            come_again: 0,
            unreadable: 0,
            at,
        };
        let cases = [
            (Some("access denied"), Some(1), Reading::Failing),
            (Some("access denied"), None, Reading::Failing),
            (None, Some(0), Reading::Reachable),
            (None, Some(300), Reading::Reachable),
            (None, Some(301), Reading::Silent),
            (None, None, Reading::Silent),
        ];
        for (failure, age, expected) in cases {
            assert_eq!(state(failure, age).reading(), expected, "{failure:?} {age:?}");
        }
    }
}
