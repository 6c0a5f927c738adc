//! How long to wait before a failed action is retried.

use std::time::Duration;

/// Exponential back-off between two bounds. Pure: the caller keeps the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// The first wait is `min`, and no wait is longer than `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max }
    }

    /// The wait after this many failures in a row: doubled each time, up to the longest.
    ///
    /// | failures | 0, 1 | 2 | 3 | … |
    /// |---|---|---|---|---|
    /// | wait | min | 2 min | 4 min | max |
    pub fn after(self, failures: u32) -> Duration {
        // Beyond 2^30 times the shortest wait, every bound is reached.
        let doublings = failures.saturating_sub(1).min(30);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_its_bound() {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let waits = [0, 1, 2, 3, 7, 8, 100, u32::MAX].map(|failures| backoff.after(failures).as_millis());
        assert_eq!(waits, [500, 500, 1_000, 2_000, 32_000, 60_000, 60_000, 60_000]);
    }
}
