//! Arroyo's clock. Its steps do not ask the system for the time, but a copy that somebody has to set: they measure by it the
//! age of a batch, the interval of group commits, and how long they may take to finish.
//!
//! The loop sets it each time it has waited. While the steps finish it does not; so a thread of coarsetime's sets it too: one
//! for the whole process, since such a thread never ends.

use std::sync::LazyLock;

use coarsetime::Updater;

/// Exact enough for the seconds that steps may take to finish.
const INTERVAL_MS: u64 = 100;

/// `None` if the system has no thread to give: then the loop alone sets the clock, and steps take the time they need.
static UPDATER: LazyLock<Option<Updater>> = LazyLock::new(|| {
    let started = Updater::new(INTERVAL_MS).start();
    started.inspect_err(|error| tracing::warn!(%error, "cannot start the thread of the clock")).ok()
});

/// Sets the clock from now on.
pub(crate) fn start() {
    LazyLock::force(&UPDATER);
}

/// Sets the clock now.
pub(crate) fn set() {
    coarsetime::Instant::update();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sentry_arroyo::utils::timing::Deadline;

    use super::*;

    #[test]
    fn arroyo_sees_the_clock_that_is_set() {
        set();
        let deadline = Deadline::new(Duration::from_millis(10));
        std::thread::sleep(Duration::from_millis(20));
        set();
        assert!(deadline.has_elapsed());
    }

    #[test]
    fn arroyos_clock_goes_on() {
        start();
        let deadline = Deadline::new(Duration::from_millis(INTERVAL_MS));
        let has_elapsed = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(INTERVAL_MS));
            deadline.has_elapsed()
        });
        assert!(has_elapsed);
    }
}
