//! Remembers what was logged, so that a repeated condition is logged once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The most things remembered: about 100 kB.
const THINGS_MAX: usize = 1_000;

/// What to do when [`THINGS_MAX`] things are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Others are not logged: the remembered ones occur again and again.
    StopLogging,
    /// All are forgotten, and others are logged: the remembered ones rarely occur again.
    Forget,
}

/// A bounded memory of what was logged.
#[derive(Debug)]
pub(crate) struct LoggedOnce {
    things: Mutex<HashSet<String>>,
    when_full: WhenFull,
}

impl LoggedOnce {
    /// Starts empty.
    pub(crate) fn new(when_full: WhenFull) -> Self {
        LoggedOnce { things: Mutex::default(), when_full }
    }

    /// Remembers a thing; whether it is to be logged now. Of two concurrent callers, one gets `true`.
    pub(crate) fn first_time(&self, what: &str) -> bool {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        if things.contains(what) {
            return false;
        }
        if things.len() >= THINGS_MAX {
            match self.when_full {
                WhenFull::StopLogging => return false,
                WhenFull::Forget => things.clear(),
            }
        }
        things.insert(what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_logged_once() {
        for when_full in [WhenFull::StopLogging, WhenFull::Forget] {
            let logged = LoggedOnce::new(when_full);
            let asked = ["a", "b", "a", "a", "b"].map(|what| logged.first_time(what));
            assert_eq!(asked, [true, true, false, false, false], "{when_full:?}");
        }
    }

    #[test]
    fn of_too_many_either_none_more_is_logged_or_all_are_forgotten() {
        for (when_full, expected) in [(WhenFull::StopLogging, [false, false]), (WhenFull::Forget, [true, true])] {
            let logged = LoggedOnce::new(when_full);
            assert!((0..THINGS_MAX).all(|number| logged.first_time(&number.to_string())));
            assert!(!logged.first_time("0"));
            assert_eq!([logged.first_time("one more"), logged.first_time("0")], expected, "{when_full:?}");
            assert!(logged.things.lock().expect("not poisoned").len() <= THINGS_MAX);
        }
    }
}
