//! How often to publish: immediately after a quiet period, rarely under a steady stream, and with a small share of the
//! machine during a heavy load.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

/// After a publication the publisher rests this many times as long as it took, unless it becomes quiet before: under a
/// steady stream of changes that take equally long it works at most a fifth of the time.
const REST_FACTOR: u32 = 4;
/// It rests at most this long: if Postgres or S3 was slow twice, changes must not wait long after it is well again.
const REST_MAX: Duration = Duration::from_secs(60);
/// The whole-file copies take at most a tenth of the time, however quiet it is: each of them is as long as the history.
/// They take more only if that would mean to rest for longer than [`COPIES_WAIT_MAX`].
const COPIES_REST_FACTOR: u32 = 9;
/// New whole-file copies rest at most this long, and wait at most as long for the end of a large load. If S3 was slow
/// twice, they must not stay behind for hours after it is well again.
pub(super) const COPIES_WAIT_MAX: Duration = Duration::from_secs(600);
/// If no marks come for this long, or for half of the duration that is rested for, the stream is over.
const QUIET_MIN: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(1);

/// During a heavy load, publications may take one part in this many of the time since the last one, or since the load
/// began.
const LOAD_SHARE: u32 = 10;
/// Publications may always take this much: a few windows are visible immediately even during a load.
const LOAD_CREDIT: Duration = Duration::from_millis(500);
/// Windows that only dimensions made dirty are derived for this long; then windows that facts made dirty meanwhile get
/// their turn.
const BIT: Duration = Duration::from_secs(1);
/// The fewest and the most of these windows, whatever they are expected to take.
const BIT_WINDOWS_MIN: usize = 4;
const BIT_WINDOWS_MAX: usize = 1_000;
/// The expected time of a window before one was derived.
const WINDOW_FIRST: Duration = Duration::from_millis(50);
/// The least expected time of a window: less than any query takes.
const WINDOW_MIN: Duration = Duration::from_micros(100);
/// A window counts as at most this many times the expectation: during a load a wrong one can be corrected only by
/// publishing, so one slow publication must not make the next one wait for hours.
const WINDOW_STEP_MAX: u32 = 8;

/// How often running work is measured, and the most time counted from one measurement to the next: the work consists of
/// shorter parts, so a longer gap means that the process was frozen.
const TICK: Duration = Duration::from_millis(50);
const TICK_MAX: Duration = Duration::from_millis(500);

/// Runs a future and measures for how long this process actually ran: time in which it was frozen does not count.
pub(super) async fn measured<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = pin!(work);
    let (mut seen, mut ran) = (Instant::now(), Duration::ZERO);
    loop {
        let ended = tokio::select! {
            biased;
            ended = &mut work => Some(ended),
            _ = ticks.tick() => None,
        };
        ran += seen.elapsed().min(TICK_MAX);
        seen = Instant::now();
        if let Some(ended) = ended {
            return (ended, ran);
        }
    }
}

/// The pace of an action whose cost grows with the data.
///
/// It follows the middle one of the last three durations: what takes long once, such as the first publication of a new
/// output or a write that S3 answers only at the third try, makes nothing wait, and what takes long again and again does.
#[derive(Debug)]
pub(super) struct Pace {
    interval_min: Duration,
    factor: u32,
    /// The longest rest, unless the least interval is longer.
    rest_max: Duration,
    last: Option<Run>,
    /// How long the last two runs took.
    recent: [Duration; 2],
    /// When a run last found nothing to do.
    idle: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    ended: Instant,
    /// The duration that is rested for.
    counted: Duration,
}

impl Pace {
    /// The pace of publications.
    pub(super) fn new(interval_min: Duration) -> Self {
        Pace::with(interval_min, REST_FACTOR, REST_MAX)
    }

    /// The pace of the whole-file copies.
    pub(super) fn of_copies(interval_min: Duration) -> Self {
        Pace::with(interval_min, COPIES_REST_FACTOR, COPIES_WAIT_MAX)
    }

    fn with(interval_min: Duration, factor: u32, rest_max: Duration) -> Self {
        Pace { interval_min, factor, rest_max, last: None, recent: [Duration::ZERO; 2], idle: None }
    }

    /// Records a run that took `duration` and ended at `ended`; zero if it found nothing to do, which says nothing about
    /// how long others take.
    pub(super) fn ran(&mut self, duration: Duration, ended: Instant) {
        if duration.is_zero() {
            self.idle = Some(ended);
            return;
        }
        let [older, newer] = self.recent;
        let mut three = [older, newer, duration];
        three.sort();
        self.recent = [newer, duration];
        self.last = Some(Run { ended, counted: three[1] });
    }

    /// How long to rest from `now` on while marks keep coming. For publications:
    ///
    /// | last run | it took | the two before | least interval | rest |
    /// |---|---|---|---|---|
    /// | never | | | any | 0 |
    /// | ended now | 100 ms | 100 ms each | 1 s | 1 s |
    /// | ended now | 2 s | 2 s, and any or none | 1 s | 8 s |
    /// | ended 7 s ago | 2 s | 2 s each | 1 s | 1 s |
    /// | ended 9 s ago | 2 s | 2 s each | 1 s | 0 |
    /// | ended now | 10 minutes | 200 ms each, or none | 1 s | 1 s |
    /// | ended now | 10 minutes | 10 minutes, and any | 1 s | a minute |
    /// | ended now | 10 minutes | 10 minutes, and any | 2 minutes | 2 minutes |
    /// | found nothing, just now | | | 1 s | 1 s, or what is left of the rest before |
    pub(super) fn rest(&self, now: Instant) -> Duration {
        let rest = |run: Run| (run.counted * self.factor).min(self.rest_max).max(self.interval_min);
        let after_run = self.last.map(|run| run.ended + rest(run));
        let after_idle = self.idle.map(|ended| ended + self.interval_min);
        // `None` is less than any time.
        let end = after_run.max(after_idle);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    /// After how long without marks the rest ends early.
    pub(super) fn quiet(&self) -> Duration {
        self.last.map_or(QUIET_MIN, |run| (run.counted / 2).clamp(QUIET_MIN, QUIET_MAX))
    }

    /// When the last run ended that had something to do.
    fn ended(&self) -> Option<Instant> {
        self.last.map(|run| run.ended)
    }
}

/// Whether to rest before the next publication. What is left of a large change is known already: resting would only delay
/// it, unless nothing of it may be taken, as under a heavy load.
///
/// | left | taken by the last publication | rest |
/// |---|---|---|
/// | nothing | any | yes |
/// | some | some | no |
/// | some | nothing | yes |
pub(super) fn rests(left: usize, taken: usize) -> bool {
    left == 0 || taken == 0
}

/// What one publication may derive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Windows, counted for each output. If more are dirty, nothing is published yet: a version has one state of the
    /// tables.
    pub(super) windows_max: usize,
    /// The most of these windows that only dimensions made dirty.
    pub(super) waiting_max: usize,
    /// Windows at once.
    pub(super) readers: usize,
}

impl Allowance {
    /// Windows derived at once if nothing else needs the machine: while Postgres computes two, the rows of another are
    /// written to files. With two, a third of two cores stayed idle. Each takes a connection and the memory of a row
    /// group.
    const READERS: usize = 3;
    /// Everything, but only several seconds' worth of windows that only dimensions made dirty.
    pub(super) const ALL: Allowance =
        Allowance { windows_max: usize::MAX, waiting_max: 100, readers: Allowance::READERS };
}

/// The budget of publications, from the duration of earlier ones.
#[derive(Debug)]
pub(super) struct Budget {
    /// The expected time of a window.
    window: Duration,
    /// The start of the heavy load, if there is one.
    load: Option<Instant>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Budget { window: WINDOW_FIRST, load: None }
    }

    /// Records how long a publication with this many windows took.
    ///
    /// | expected | a window took | expected then |
    /// |---|---|---|
    /// | 50 ms | 150 ms | 100 ms |
    /// | 50 ms | 10 minutes | 225 ms |
    /// | 50 ms | nothing | 25 ms |
    pub(super) fn took(&mut self, windows: usize, duration: Duration) {
        if let Ok(windows @ 1..) = u32::try_from(windows) {
            let window = (duration / windows).min(self.window * WINDOW_STEP_MAX);
            // Half of the previous estimate: windows differ, and the machine is not always equally busy.
            self.window = ((self.window + window) / 2).max(WINDOW_MIN);
        }
    }

    /// Records whether there is a heavy load now.
    pub(super) fn load(&mut self, is_much: bool, now: Instant) {
        self.load = is_much.then(|| self.load.unwrap_or(now));
    }

    /// What may be derived at `now`.
    ///
    /// | load | a window takes | last publication | windows | of dimensions |
    /// |---|---|---|---|---|
    /// | little | 50 ms | any | all | 20 |
    /// | much, since now | 50 ms | any | 10 | 0 |
    /// | much, for 20 s | 50 ms | 10 s ago | 30 | 20 |
    /// | much, for 20 s | 50 ms | 100 s ago | 50 | 20 |
    /// | much, for 20 s | 10 s | 10 s ago | 0: not yet | 0 |
    pub(super) fn allowance(&self, pace: &Pace, now: Instant) -> Allowance {
        let bit = self.windows_in(BIT).clamp(BIT_WINDOWS_MIN, BIT_WINDOWS_MAX);
        let Some(load) = self.load else { return Allowance { waiting_max: bit, ..Allowance::ALL } };
        let since = pace.ended().map_or(load, |ended| ended.max(load));
        let earned = now.saturating_duration_since(since) / LOAD_SHARE;
        Allowance {
            windows_max: self.windows_in(LOAD_CREDIT + earned),
            waiting_max: self.windows_in(earned).min(bit),
            readers: 1,
        }
    }

    fn windows_in(&self, duration: Duration) -> usize {
        let windows = duration.as_secs_f64() / self.window.as_secs_f64().max(f64::EPSILON);
        // The cast saturates.
        windows as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn the_time_for_which_a_process_was_frozen_is_no_work() {
        let works = async {
            for _ in 0..3 {
                tokio::time::sleep(millis(100)).await;
            }
            7
        };
        let (ended, ran) = measured(works).await;
        assert!(ended == 7 && ran >= millis(300), "{ran:?}");
        // Nothing is polled meanwhile, as in a frozen process.
        let ((), ran) = measured(async { std::thread::sleep(TICK_MAX * 3) }).await;
        assert!(ran < TICK_MAX * 2, "{ran:?}");
    }

    #[test]
    fn the_rest_grows_with_the_work_and_ends() {
        // What runs took, one after the other, how long ago the last one ended, the rest, and the quiet that ends it.
        type Case = (&'static [u64], u64, u64, u64);
        let cases: &[Case] = &[
            (&[], 0, 0, 100),
            (&[100, 100], 0, 1_000, 100),
            (&[2_000, 2_000], 0, 8_000, 1_000),
            (&[2_000, 2_000], 7_000, 1_000, 1_000),
            (&[2_000, 2_000], 9_000, 0, 1_000),
            (&[600, 600], 0, 2_400, 300),
            // Once is an exception, also the first time; twice is not.
            (&[600_000], 0, 1_000, 100),
            (&[200, 600_000], 0, 1_000, 100),
            (&[200, 600_000, 200], 0, 1_000, 100),
            (&[200, 600_000, 600_000], 0, 60_000, 1_000),
            (&[10_000, 100, 10_000], 0, 40_000, 1_000),
            // A run that found nothing neither hides the others nor shortens their rest.
            (&[2_000, 0, 2_000], 0, 8_000, 1_000),
            (&[2_000, 2_000, 0], 0, 8_000, 1_000),
            (&[0], 0, 1_000, 100),
        ];
        for (runs, ago, rest, quiet) in cases {
            let (mut pace, mut now) = (Pace::new(millis(1_000)), Instant::now());
            for duration in *runs {
                now += millis(*duration);
                pace.ran(millis(*duration), now);
            }
            assert_eq!(
                (pace.rest(now + millis(*ago)), pace.quiet()),
                (millis(*rest), millis(*quiet)),
                "{runs:?} {ago}"
            );
        }
        let start = Instant::now();
        let mut copies = Pace::of_copies(millis(1_000));
        for (duration, rest) in [(2_000, 1_000), (0, 1_000), (2_000, 18_000), (5, 18_000), (5, 1_000)] {
            copies.ran(millis(duration), start);
            assert_eq!(copies.rest(start), millis(rest), "a tenth of the time");
        }
        let minute = Duration::from_secs(60);
        for (mut pace, rest) in [
            (Pace::of_copies(minute), minute * 10),
            (Pace::new(minute * 2), minute * 2),
            (Pace::of_copies(minute * 20), minute * 20),
        ] {
            pace.ran(minute * 10, start);
            pace.ran(minute * 10, start);
            assert_eq!(pace.rest(start), rest, "no longer than that, or than the interval");
        }
    }

    #[test]
    fn a_run_that_found_nothing_is_rested_for_and_not_counted_as_a_publication() {
        let (mut pace, start) = (Pace::new(millis(1_000)), Instant::now());
        pace.ran(millis(100), start);
        let later = start + millis(5_000);
        pace.ran(Duration::ZERO, later);
        assert_eq!((pace.rest(later), pace.ended()), (millis(1_000), Some(start)));
    }

    #[test]
    fn beside_a_load_publications_take_a_share_of_the_time_and_after_it_everything() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        // A load for this many seconds, a window's milliseconds, the last publication's end, windows, of dimensions, at
        // once.
        type Case = (Option<u64>, u64, Option<u64>, usize, usize, usize);
        let cases: &[Case] = &[
            (None, 50, None, usize::MAX, 20, 3),
            (None, 50, Some(0), usize::MAX, 20, 3),
            (None, 10_000, Some(0), usize::MAX, BIT_WINDOWS_MIN, 3),
            (None, 0, Some(0), usize::MAX, BIT_WINDOWS_MAX, 3),
            (Some(0), 50, None, 10, 0, 1),
            (Some(0), 50, Some(100), 10, 0, 1),
            (Some(20), 50, Some(0), 10, 0, 1),
            (Some(20), 50, Some(10), 30, 20, 1),
            (Some(20), 50, Some(100), 50, 20, 1),
            (Some(20), 10_000, Some(10), 0, 0, 1),
            // Every dirty window is derived in the end.
            (Some(900), 10_000, Some(800), 8, 4, 1),
        ];
        for (load, window, ended, windows_max, waiting_max, readers) in cases {
            let mut pace = Pace::new(millis(1_000));
            if let Some(ended) = ended {
                pace.ran(millis(10), ago(*ended));
            }
            let budget = Budget { window: millis(*window), load: load.map(ago) };
            let expected = Allowance { windows_max: *windows_max, waiting_max: *waiting_max, readers: *readers };
            assert_eq!(budget.allowance(&pace, now), expected, "{load:?} {window} {ended:?}");
        }
    }

    #[test]
    fn a_large_change_that_gets_on_is_not_delayed() {
        for (left, taken, expected) in [(0, 0, true), (0, 9, true), (7, 9, false), (7, 0, true)] {
            assert_eq!(rests(left, taken), expected, "{left} {taken}");
        }
    }

    #[test]
    fn what_a_window_takes_is_learned_and_a_load_has_a_beginning() {
        let mut budget = Budget::new();
        for _ in 0..20 {
            budget.took(10, millis(2_000));
            budget.took(0, millis(9_000));
        }
        assert!(budget.window.abs_diff(millis(200)) < millis(1), "{:?}", budget.window);
        // One that took very long changes little, and what lasts is learned all the same.
        budget.took(1, millis(600_000));
        assert!(budget.window < millis(1_000), "{:?}", budget.window);
        for window in [10_000, 0, 10_000] {
            for _ in 0..20 {
                budget.took(1, millis(window));
            }
            let expected = millis(window).max(WINDOW_MIN);
            assert!(budget.window.abs_diff(expected) < millis(10), "{window} {:?}", budget.window);
        }
        let start = Instant::now();
        for (is_much, at, since) in [(true, 0, Some(0)), (true, 5, Some(0)), (false, 6, None), (true, 7, Some(7))] {
            budget.load(is_much, start + millis(at));
            assert_eq!(budget.load, since.map(|since| start + millis(since)), "{at}");
        }
    }
}
