//! When a domain's next listing comes: soon by itself, and seldom while the store announces every new file.

use std::time::Duration;

use freshet_sinks::backoff::Backoff;

use super::Found;
use crate::IngestSettings;

/// While the store announces new files and more are expected, listings take at most this fraction of the time (one in
/// this many parts), up to the longest interval.
const LISTING_SHARE: u32 = 10;
/// The same while every file was announced, up to [`LONGEST_INTERVALS_MAX`].
const IDLE_LISTING_SHARE: u32 = 100;
/// The longest wait before a listing of many objects, in longest intervals.
const LONGEST_INTERVALS_MAX: u32 = 12;

/// What a turn of a domain's discovery came to, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Another listener lists the domain.
    Others,
    /// This listener lists it.
    Own {
        /// The result of its listing.
        found: Found,
        /// How long that took.
        took: Duration,
        /// Whether a store has sent any notification.
        has_notified: bool,
        /// Whether announced keys were missed before.
        missed: bool,
        /// How long until a key that could not be registered is tried again, if there is one.
        retry_in: Option<Duration>,
    },
    /// Another listener lists the domain, and this one did not find everything, although it missed keys that the other
    /// was not told of.
    Incomplete {
        /// How long its listing took.
        took: Duration,
    },
    /// S3 or Postgres did not answer.
    Failed,
}

/// How long to wait for the next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// If announced keys are missed meanwhile, so that a listing has to find them.
    pub(super) least: Duration,
    /// Otherwise.
    pub(super) most: Duration,
}

/// How the turns of a domain follow each other.
#[derive(Debug)]
pub(super) struct Pace {
    least: Duration,
    most: Duration,
    back_off: Backoff,
    /// Between two listings, as it has grown so far.
    interval: Duration,
    /// Failed or incomplete turns in a row.
    pub(super) failures: u32,
}

impl Pace {
    /// Begins with the shortest interval.
    pub(super) fn new(settings: &IngestSettings) -> Self {
        let least = Duration::from_millis(settings.list_interval_ms);
        let most = Duration::from_millis(settings.list_interval_max_ms).max(least);
        Pace { least, most, back_off: settings.back_off(), interval: least, failures: 0 }
    }

    /// The wait after a turn. It is not cut short after a failure, which keys that come would only repeat.
    ///
    /// | turn | until the next | if announced keys are missed |
    /// |---|---|---|
    /// | another listener's | the shortest interval, a second at least | the shortest interval |
    /// | its own | the interval, or longer after a long listing | the shortest interval |
    /// | its own, and a key is tried again later | as long at most, or longer after a long listing | the shortest interval |
    /// | incomplete | the back-off, or longer after a long listing | the same |
    /// | failed | the back-off, the shortest interval at least | the same |
    pub(super) fn after(&mut self, turn: Turn) -> Wait {
        let (least, most) = (self.least, self.most);
        self.failures = match turn {
            Turn::Others | Turn::Own { .. } => 0,
            Turn::Incomplete { .. } | Turn::Failed => self.failures + 1,
        };
        let back_off = least.max(self.back_off.after(self.failures));
        match turn {
            Turn::Others => Wait { least, most: least.max(Duration::from_secs(1)) },
            Turn::Own { found, took, has_notified, missed, retry_in } => {
                let tells = has_notified && found.unlisted == 0;
                let has_told_all = tells && (found.registered == 0 || missed);
                self.interval = next_interval(self.interval, least, most, has_told_all);
                let is_idle = has_told_all && !missed;
                let pause = if tells { pause_for(took, least, most, is_idle) } else { Duration::ZERO };
                let retry = retry_in.map(|retry| least.max(retry).max(pause_for(took, least, most, false)));
                let pause = self.interval.max(pause);
                // What comes soon takes half of the time at most.
                Wait { least: least.max(took), most: retry.map_or(pause, |retry| pause.min(retry)) }
            }
            Turn::Incomplete { took } => {
                let pause = back_off.max(pause_for(took, least, most, false));
                Wait { least: pause, most: pause }
            }
            Turn::Failed => {
                self.interval = least;
                Wait { least: back_off, most: back_off }
            }
        }
    }
}

/// The time until the next listing: the shortest interval, doubled up to the longest while every file is announced.
///
/// | so far | the store tells, and the listing found nothing else | next |
/// |---|---|---|
/// | any | no | the least |
/// | any | yes | twice as long, the most at most |
pub(crate) fn next_interval(so_far: Duration, least: Duration, most: Duration, is_told: bool) -> Duration {
    if is_told { (so_far * 2).min(most) } else { least }
}

/// The shortest time until the next listing while the store announces new files, so that long listings take a small
/// share of the time.
///
/// | every new file was announced | the interval may grow | delay |
/// |---|---|---|
/// | no: the announcement may follow a moment later | – | ten times as long as it took, the longest interval at most |
/// | yes | no | the same |
/// | yes | yes | a hundred times as long as it took, twelve of the longest intervals at most |
fn pause_for(took: Duration, least: Duration, most: Duration, is_idle: bool) -> Duration {
    match is_idle && most > least {
        true => (took * IDLE_LISTING_SHARE).min(most * LONGEST_INTERVALS_MAX),
        false => (took * LISTING_SHARE).min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_come_less_often_only_while_the_store_tells_of_all() {
        let [least, most] = [100, 1_000].map(Duration::from_millis);
        let (mut interval, mut seen) = (least, Vec::new());
        for is_told in [true, true, true, true, true, false, true, false] {
            interval = next_interval(interval, least, most, is_told);
            seen.push(interval.as_millis());
        }
        assert_eq!(seen, [200, 400, 800, 1_000, 1_000, 100, 200, 100]);
        assert_eq!(next_interval(least, least, least, true), least, "not where it is not to grow");
    }

    #[test]
    fn a_listing_that_takes_long_comes_seldom_while_the_store_tells_of_all() {
        let [least, most] = [100, 5_000].map(Duration::from_millis);
        let cases =
            [(2, true, 200), (300, true, 30_000), (2_000, true, 60_000), (300, false, 3_000), (2_000, false, 5_000)];
        for (took, is_idle, expected) in cases {
            let pause = pause_for(Duration::from_millis(took), least, most, is_idle);
            assert_eq!(pause.as_millis(), expected, "{took} ms, {is_idle}");
        }
        assert_eq!(pause_for(most, least, least, true), least, "not where it is not to grow");
    }

    #[test]
    fn a_key_that_could_not_be_registered_is_listed_again_when_it_may_be_tried_unless_listings_take_long() {
        let [least, most] = [100, 5_000].map(Duration::from_millis);
        let back_off = Backoff::new(least, most);
        for (retry_in, took, expected) in [
            (None, 2, 5_000),
            (Some(500), 2, 500),
            (Some(1), 2, 100),
            (Some(60_000), 2, 5_000),
            (None, 300, 30_000),
            (Some(500), 300, 3_000),
        ] {
            let mut pace = Pace { least, most, back_off, interval: most, failures: 0 };
            let (retry_in, took) = (retry_in.map(Duration::from_millis), Duration::from_millis(took));
            let found = Found::default();
            let wait = pace.after(Turn::Own { found, took, has_notified: true, missed: false, retry_in });
            assert_eq!(wait.most.as_millis(), expected, "{retry_in:?} after {took:?}");
            assert_eq!(wait.least, least.max(took));
        }
    }

    #[test]
    fn keys_that_were_missed_bring_the_next_listing_forward_but_not_after_a_failure() {
        let [least, most] = [100, 1_000].map(Duration::from_millis);
        let back_off = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut pace = Pace { least, most, back_off, interval: least, failures: 0 };
        let (found, took) = (Found::default(), Duration::ZERO);
        let own = Turn::Own { found, took, has_notified: true, missed: false, retry_in: None };
        let turns = [
            (Turn::Others, [100, 1_000]),
            (own, [100, 200]),
            (own, [100, 400]),
            // What was listed out of turn says nothing about how often to ask for the lease.
            (Turn::Others, [100, 1_000]),
            (own, [100, 800]),
            (Turn::Failed, [500, 500]),
            (Turn::Failed, [1_000, 1_000]),
            (own, [100, 200]),
            (Turn::Incomplete { took: Duration::from_secs(9) }, [1_000, 1_000]),
            (Turn::Incomplete { took: Duration::from_millis(2) }, [1_000, 1_000]),
            (Turn::Failed, [2_000, 2_000]),
        ];
        for (index, (turn, expected)) in turns.into_iter().enumerate() {
            let wait = pace.after(turn);
            assert_eq!([wait.least, wait.most], expected.map(Duration::from_millis), "{index}: {turn:?}");
        }
    }
}
