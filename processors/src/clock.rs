//! Arroyo's clock, without its hurry.
//!
//! Each of arroyo's processors starts a thread that reads the clock every ten milliseconds; there is no setting for it. On an
//! idle machine the four of them took a third of freshet's CPU, nearly all of it for waking up. Arroyo compares this time
//! with the interval of group commits, a second, and measures its own steps with it (`arroyo_*` among the metrics): their
//! times are counted in larger steps, and are right on average.

/// How late the thread may wake up: a tenth of the interval of group commits. Linux lets it wake up together with others.
#[cfg(target_os = "linux")]
const SLACK_NANOS: std::num::NonZeroU64 = std::num::NonZeroU64::new(100_000_000).expect("not zero");

/// Runs `start`; threads that it starts may wake up late from a sleep, on systems that can do this. A thread has the timer
/// slack of the one that started it (prctl(2), `PR_SET_TIMERSLACK`). The calling thread itself is as before.
pub(crate) fn unhurried<T>(start: impl FnOnce() -> T) -> T {
    set_slack(true);
    let started = start();
    set_slack(false);
    started
}

/// A failure changes nothing but the cost, so it is none.
#[cfg(target_os = "linux")]
fn set_slack(is_large: bool) {
    rustix::thread::set_current_timer_slack(is_large.then_some(SLACK_NANOS)).ok();
}

#[cfg(not(target_os = "linux"))]
fn set_slack(_is_large: bool) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::current_timer_slack;

    use super::*;

    #[test]
    fn a_thread_that_is_started_may_be_late_and_its_starter_may_not() {
        let before = current_timer_slack().expect("asked");
        let slack = || current_timer_slack().expect("asked");
        let started = unhurried(|| std::thread::spawn(slack));
        assert_eq!(started.join().expect("it ends"), SLACK_NANOS.get());
        assert_eq!(current_timer_slack().expect("asked"), before);
    }
}
