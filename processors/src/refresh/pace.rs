//! How often to publish: at once after quiet, seldom under a steady stream.

use std::time::{Duration, Instant};

/// After a publication the publisher rests this many times as long as it took, unless all is quiet before
/// that: it takes at most a fifth of a core during bulk loads.
const REST_FACTOR: u32 = 4;
/// Marks that stay away for this long, or for half of the last publication, mean that the load is over.
const QUIET_MIN: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(1);

/// The pace of something that costs more the more there is.
#[derive(Debug)]
pub(super) struct Pace {
    interval_min: Duration,
    last: Option<(Instant, Duration)>,
}

impl Pace {
    pub(super) fn new(interval_min: Duration) -> Self {
        Pace { interval_min, last: None }
    }

    /// Something ran from `began` to `ended`.
    pub(super) fn ran(&mut self, began: Instant, ended: Instant) {
        self.last = Some((ended, ended - began));
    }

    /// How long to rest from `now` on while marks keep coming.
    ///
    /// | last run | its duration | least interval | rest |
    /// |---|---|---|---|
    /// | never | | any | 0 |
    /// | ended now | 100 ms | 1 s | 1 s |
    /// | ended now | 2 s | 1 s | 8 s |
    /// | ended 7 s ago | 2 s | 1 s | 1 s |
    /// | ended 9 s ago | 2 s | 1 s | 0 |
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |(ended, duration)| {
            (ended + self.interval_min.max(duration * REST_FACTOR)).saturating_duration_since(now)
        })
    }

    /// How long marks must stay away for the rest to be cut short.
    pub(super) fn quiet(&self) -> Duration {
        self.last.map_or(QUIET_MIN, |(_, duration)| (duration / 2).clamp(QUIET_MIN, QUIET_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_the_work_and_ends() {
        let start = Instant::now();
        let millis = Duration::from_millis;
        assert_eq!(Pace::new(millis(1_000)).rest(start), Duration::ZERO);
        let cases =
            [(100, 0, 1_000, 100), (2_000, 0, 8_000, 1_000), (2_000, 7_000, 1_000, 1_000), (600, 9_000, 0, 300)];
        for (duration, ago, rest, quiet) in cases {
            let mut pace = Pace::new(millis(1_000));
            let ended = start + millis(duration);
            pace.ran(start, ended);
            assert_eq!((pace.rest(ended + millis(ago)), pace.quiet()), (millis(rest), millis(quiet)), "{duration}");
        }
    }
}
