//! Logs a repeated event once.
//!
//! When a service is away, every loop that needs it meets the same error at each try. The log is to say what is wrong, and
//! say it again when that changes, not how often it was tried. So a warning or an error that says the same as one written
//! within [`REMIND_AFTER`] is left out.
//!
//! Two events say the same if they come from the same place in the code with the same fields, less those that count the
//! tries or say when the next one is.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A condition that persists is logged again after this time, for people who only look at the end of a log.
const REMIND_AFTER: Duration = Duration::from_secs(60);
/// A process has some dozens of places that warn, in its few domains.
const REMEMBERED_MAX: usize = 500;
/// Fields that are different at each try.
const COUNTS: [&str; 6] = ["attempt", "attempts", "failures", "pause_ms", "wait_ms", "acquired_after_secs"];

/// Leaves out what was just written.
pub(super) struct WithoutRepeats<F> {
    inner: F,
    written: Mutex<Written>,
}

impl<F> WithoutRepeats<F> {
    pub(super) fn new(inner: F) -> Self {
        WithoutRepeats { inner, written: Mutex::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithoutRepeats<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if *event.metadata().level() <= Level::WARN {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.is_repeat(said(event), Instant::now()) {
                return Ok(());
            }
        }
        self.inner.format_event(context, writer, event)
    }
}

/// What was written, and when.
#[derive(Default)]
struct Written(HashMap<String, Instant>);

impl Written {
    /// | the same was written | repeat |
    /// |---|---|
    /// | never | no |
    /// | less than a minute ago | yes |
    /// | earlier | no |
    fn is_repeat(&mut self, said: String, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < REMIND_AFTER;
        if self.0.get(&said).is_some_and(|&at| is_fresh(at)) {
            return true;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, &mut at| is_fresh(at));
        }
        if self.0.len() >= REMEMBERED_MAX {
            // So many different things at once: rather too much of them than too little.
            self.0.clear();
        }
        self.0.insert(said, now);
        false
    }
}

/// What an event says, as text that is equal where it says the same.
fn said(event: &Event<'_>) -> String {
    let place = event.metadata();
    let mut said = Said(format!("{}:{}", place.target(), place.line().unwrap_or(0)));
    event.record(&mut said);
    said.0
}

struct Said(String);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !COUNTS.contains(&field.name()) {
            let value = format!("{value:?}");
            // Writing to a string cannot fail.
            _ = write!(self.0, " {}={}", field.name(), without_times(&value));
        }
    }
}

/// A text without the time until the next try, and without what librdkafka says of how long the last one took.
fn without_times(text: &str) -> &str {
    let text = text.split(" (after ").next().unwrap_or(text);
    match text.rsplit_once(" in ") {
        Some((before, time)) if time.starts_with(|it: char| it.is_ascii_digit()) && time.ends_with('s') => before,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_written_once_a_minute_and_what_changes_at_once() {
        let (start, mut written) = (Instant::now(), Written::default());
        for (second, said, repeat) in [
            (0, "refused", false),
            (1, "refused", true),
            (2, "starting up", false),
            (3, "refused", true),
            (59, "refused", true),
            (60, "refused", false),
            (61, "refused", true),
        ] {
            let at = start + Duration::from_secs(second);
            assert_eq!(written.is_repeat(said.into(), at), repeat, "{said} after {second} s");
        }
    }

    #[test]
    fn a_flood_of_different_things_is_written_and_does_not_grow_the_memory() {
        let (start, mut written) = (Instant::now(), Written::default());
        for number in 0..3 * REMEMBERED_MAX {
            assert!(!written.is_repeat(number.to_string(), start));
            assert!(written.0.len() <= REMEMBERED_MAX);
        }
    }

    #[test]
    fn times_do_not_make_a_difference_and_anything_else_does() {
        for (text, expected) in [
            ("apply failed, trying again in 500ms", "apply failed, trying again"),
            ("apply failed, trying again in 1.5s", "apply failed, trying again"),
            ("halted, looking again in 30s", "halted, looking again"),
            ("127.0.0.1:9092: Connection refused (after 0ms in state CONNECT)", "127.0.0.1:9092: Connection refused"),
            ("column dengue in health_datas", "column dengue in health_datas"),
            ("line 12", "line 12"),
        ] {
            assert_eq!(without_times(text), expected);
        }
    }
}
