//! Arroyo's clock, without its hurry.
//!
//! Each of arroyo's processors starts a thread that reads the clock every ten milliseconds, for all of them; there is no
//! setting for it. On an idle machine the four of them took a third of freshet's CPU, nearly all of it for waking up. Here
//! they may be late, and the consumer's loop reads the clock itself whenever it looks at the time: for the age of a batch,
//! the interval of group commits and the metrics of arroyo.

/// How late the threads may wake up: they then do it together with others. Nothing but the loop needs them to be in time.
#[cfg(target_os = "linux")]
const SLACK_NANOS: std::num::NonZeroU64 = std::num::NonZeroU64::new(100_000_000).expect("not zero");

/// Reads the clock for all that is decided by it until the next time.
pub(crate) fn read() {
    coarsetime::Instant::update();
}

/// Runs `start`; threads that it starts may wake up late from a sleep, on systems that can do this. A thread has the timer
/// slack of the one that started it (prctl(2), `PR_SET_TIMERSLACK`). The calling thread itself is as before.
pub(crate) fn unhurried<T>(start: impl FnOnce() -> T) -> T {
    let _slack = Slack::set();
    start()
}

/// The slack of this thread until it is dropped: also after a panic, for the thread is used for other work.
struct Slack;

impl Slack {
    fn set() -> Slack {
        set_slack(true);
        Slack
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        set_slack(false);
    }
}

/// A failure changes nothing but the cost, so it is none.
#[cfg(target_os = "linux")]
fn set_slack(is_large: bool) {
    rustix::thread::set_current_timer_slack(is_large.then_some(SLACK_NANOS)).ok();
}

#[cfg(not(target_os = "linux"))]
fn set_slack(_is_large: bool) {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sentry_arroyo::utils::timing::Deadline;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_is_started_may_be_late_and_its_starter_may_not() {
        let slack = || rustix::thread::current_timer_slack().expect("asked");
        let before = slack();
        let started = unhurried(|| std::thread::spawn(slack));
        assert_eq!(started.join().expect("it ends"), SLACK_NANOS.get());
        assert_eq!(slack(), before);
        assert!(std::panic::catch_unwind(|| unhurried(|| panic!("no thread"))).is_err());
        assert_eq!(slack(), before);
    }

    #[test]
    fn arroyo_sees_the_clock_that_is_read() {
        read();
        let deadline = Deadline::new(Duration::from_millis(10));
        std::thread::sleep(Duration::from_millis(50));
        read();
        assert!(deadline.has_elapsed());
    }
}
