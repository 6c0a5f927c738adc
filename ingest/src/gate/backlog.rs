//! Estimates how many rows are in the messages that wait in a topic.
//!
//! Kafka counts messages, and one may have one row or hundreds. What this listener has sent and no bookmark has passed
//! tells how many rows a message has at present; messages of other listeners, and earlier ones, are assumed to be
//! similar. So the count is exact with one listener, and close with several.

use std::collections::VecDeque;

use freshet_sinks::bookmarks::Bookmark;

/// The granularity of the memory in rows: the limit need not be exact.
const STEP_ROWS: i64 = 1_000;
/// The most steps remembered, about a megabyte; beyond that, the last one grows.
const STEPS_MAX: usize = 4_096;

/// Messages that Kafka has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// One past the last message in each partition, 0 if there is none.
    pub(crate) ends: Vec<i64>,
    /// Number of messages.
    pub(crate) messages: i64,
    /// Number of rows in them.
    pub(crate) rows: i64,
}

/// Messages that were sent and are not applied.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    steps: VecDeque<Delivered>,
    /// The last known rows and messages: the ratio used for everything that is not known.
    last: Option<(i64, i64)>,
}

impl Backlog {
    /// Remembers sent messages.
    pub(super) fn add(&mut self, delivered: &Delivered) {
        if delivered.messages == 0 {
            return;
        }
        let is_at_end = self.steps.len() >= STEPS_MAX;
        match self.steps.back_mut().filter(|last| is_at_end || last.rows < STEP_ROWS) {
            Some(last) if last.ends.len() == delivered.ends.len() => {
                last.ends.iter_mut().zip(&delivered.ends).for_each(|(end, new)| *end = (*end).max(*new));
                last.messages += delivered.messages;
                last.rows += delivered.rows;
            }
            _ => self.steps.push_back(delivered.clone()),
        }
    }

    /// The number of rows in this many messages that the bookmarks have not passed.
    pub(super) fn rows(&mut self, messages: i64, bookmarks: &[Bookmark]) -> i64 {
        let at = |partition| bookmarks.iter().find(|it| it.partition == partition).map_or(0, |it| it.next_offset);
        let is_passed = |step: &Delivered| (0..).zip(&step.ends).all(|(partition, end)| *end <= at(partition));
        while self.steps.pop_front_if(|step| is_passed(step)).is_some() {}
        if !self.steps.is_empty() {
            let sums = self.steps.iter().map(|step| (step.rows, step.messages));
            self.last = sums.reduce(|sum, step| (sum.0 + step.0, sum.1 + step.1));
        }
        let (rows, of) = self.last.unwrap_or((1, 1));
        // A log and a limit are far below the largest exact integer of a float.
        (messages as f64 * rows as f64 / of as f64).ceil() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookmarks(next: &[i64]) -> Vec<Bookmark> {
        let bookmark = |(partition, next_offset): (i32, &i64)| Bookmark {
            partition,
            next_offset: *next_offset,
            halted: None,
            accepted_beginning: None,
        };
        (0..).zip(next).map(bookmark).collect()
    }

    fn sent(ends: &[i64], messages: i64, rows: i64) -> Delivered {
        Delivered { ends: ends.to_vec(), messages, rows }
    }

    #[test]
    fn what_waits_is_counted_in_the_rows_that_were_sent() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.rows(7, &bookmarks(&[1, 1])), 7, "nothing is known: a row a message");
        backlog.add(&sent(&[11, 11], 20, 4_000));
        assert_eq!(backlog.rows(20, &bookmarks(&[1, 1])), 4_000);
        assert_eq!(backlog.rows(5, &bookmarks(&[11, 6])), 1_000, "half is applied");
        // Then files of one row each.
        for file in 0..100 {
            backlog.add(&sent(&[12 + file, 0], 1, 1));
        }
        assert_eq!(backlog.rows(120, &bookmarks(&[1, 1])), 4_100);
        assert_eq!(backlog.rows(100, &bookmarks(&[11, 11])), 100, "the big file is applied");
        assert_eq!(backlog.rows(3, &bookmarks(&[112, 11])), 3, "others send as this one did");
        assert!(backlog.steps.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut backlog = Backlog::default();
        for message in 0..2 * STEPS_MAX as i64 {
            backlog.add(&sent(&[message + 2], 1, 2 * STEP_ROWS));
        }
        assert_eq!(backlog.steps.len(), STEPS_MAX);
        assert_eq!(backlog.rows(1, &bookmarks(&[0])), 2 * STEP_ROWS);
        backlog.add(&sent(&[0], 0, 0));
        assert_eq!(backlog.steps.len(), STEPS_MAX, "a chunk without a row is none");
    }
}
