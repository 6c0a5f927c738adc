//! The queue that the store tells through.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_sinks::event_queue::Reading;

use crate::commands::terminal::{Look, span, thousands, wrapped};
use crate::status::QueueStatus;

/// What needs a person: nothing is lost, and files come late.
pub(super) fn alarm(QueueStatus { reading, state }: &QueueStatus) -> Option<String> {
    let why = match reading {
        Reading::Reachable => return None,
        Reading::Failing => state.failure.clone().unwrap_or_default(),
        Reading::Silent => "no listener has read it for five minutes".to_owned(),
    };
    Some(format!("event queue is not read, so files are found by listing only: {}: {why}", state.queue))
}

/// Whether it is read, what is in it, and what happened to its messages so far.
pub(super) fn line(QueueStatus { reading, state }: &QueueStatus, look: Look) -> String {
    let said = match reading {
        Reading::Reachable => "reachable".to_owned(),
        Reading::Failing | Reading::Silent => match state.answered_at {
            Some(at) => format!("last answered {} ago", since(state.at, at)),
            None => "has never answered".to_owned(),
        },
    };
    let mut parts = vec![said];
    parts.extend(state.waiting.map(|waiting| format!("{} messages wait", thousands(waiting))));
    parts.push(match state.last_message_at {
        Some(at) => format!("last event {} ago", since(state.at, at)),
        None => "no event yet".to_owned(),
    });
    let counts = [
        (state.settled, "settled"),
        (state.other, "not about a file"),
        (state.come_again, "not settled, received again"),
        (state.unreadable, "unreadable (dead letters)"),
    ];
    parts.extend(
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", thousands(*count))),
    );
    // As wide as the name before it.
    let narrower = Look { width: look.width.saturating_sub(8), ..look };
    let text = wrapped(narrower, &parts.join(", "), str::to_owned);
    format!("{}   {text}", look.bold("queue"))
}

fn since(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    span(Duration::from_millis((now - then).num_milliseconds().max(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use freshet_sinks::event_queue::EventQueueState;

    use super::*;

    #[test]
    fn the_queue_is_said_to_be_read_or_why_it_is_not() {
        let at = DateTime::from_timestamp(10_000, 0).expect("a time");
        let state = |failure: Option<&str>, answered: Option<i64>| {
            let state = EventQueueState {
                queue: "https://sqs.example/1/drops".into(),
                answered_at: answered.map(|seconds| at - TimeDelta::seconds(seconds)),
                failure: failure.map(str::to_owned),
                failed_at: None,
                waiting: Some(1_200),
                taken: Some(2),
                last_message_at: answered.map(|_| at - TimeDelta::seconds(90)),
                settled: 12_345,
                other: 1,
                come_again: 0,
                unreadable: 2,
                at,
            };
            QueueStatus { reading: state.reading(), state }
        };
        let wide = Look { width: 200, ..Look::PLAIN };
        let good = state(None, Some(1));
        assert_eq!(
            line(&good, wide),
            "queue   reachable, 1,200 messages wait, last event 1m 30s ago, 12,345 settled, 1 not about a file, \
             2 unreadable (dead letters)"
        );
        assert_eq!(alarm(&good), None);
        let failing = state(Some("access denied"), Some(400));
        assert!(line(&failing, wide).starts_with("queue   last answered 6m 40s ago, "), "{}", line(&failing, wide));
        assert_eq!(
            alarm(&failing).as_deref(),
            Some(
                "event queue is not read, so files are found by listing only: https://sqs.example/1/drops: access \
                 denied"
            )
        );
        let silent = state(None, None);
        assert!(line(&silent, wide).starts_with("queue   has never answered, 1,200 messages wait, no event yet"));
        assert!(alarm(&silent).is_some_and(|said| said.ends_with("no listener has read it for five minutes")));
        assert!(line(&good, Look { width: 60, ..wide }).lines().all(|line| line.chars().count() <= 60));
    }
}
