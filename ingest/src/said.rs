//! Remembers what was logged, so that a repeated condition is logged once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The most things remembered: about 100 kB.
const SAID_MAX: usize = 1_000;

/// What to do when [`SAID_MAX`] things are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// They are not logged: the remembered ones occur again and again.
    Silent,
    /// All are forgotten and they are logged: the remembered ones rarely occur again.
    Said,
}

/// A bounded memory of what was logged.
#[derive(Debug)]
pub(crate) struct Said {
    things: Mutex<HashSet<String>>,
    beyond: Beyond,
}

impl Said {
    /// Starts empty.
    pub(crate) fn new(beyond: Beyond) -> Self {
        Said { things: Mutex::default(), beyond }
    }

    /// Whether this is to be logged now. Of two concurrent callers, one gets `true`.
    pub(crate) fn is_unsaid(&self, what: &str) -> bool {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        if things.contains(what) {
            return false;
        }
        if things.len() >= SAID_MAX {
            match self.beyond {
                Beyond::Silent => return false,
                Beyond::Said => things.clear(),
            }
        }
        things.insert(what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once() {
        for beyond in [Beyond::Silent, Beyond::Said] {
            let said = Said::new(beyond);
            let asked = ["a", "b", "a", "a", "b"].map(|what| said.is_unsaid(what));
            assert_eq!(asked, [true, true, false, false, false], "{beyond:?}");
        }
    }

    #[test]
    fn of_too_many_either_none_more_is_said_or_all_are_forgotten() {
        for (beyond, expected) in [(Beyond::Silent, [false, false]), (Beyond::Said, [true, true])] {
            let said = Said::new(beyond);
            assert!((0..SAID_MAX).all(|number| said.is_unsaid(&number.to_string())));
            assert!(!said.is_unsaid("0"));
            assert_eq!([said.is_unsaid("one more"), said.is_unsaid("0")], expected, "{beyond:?}");
            assert!(said.things.lock().expect("not poisoned").len() <= SAID_MAX);
        }
    }
}
