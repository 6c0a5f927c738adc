//! When a window is closed and which windows are dirty. Pure.

use std::collections::BTreeSet;

use chrono::{Days, NaiveDate};
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::{Window, WindowKind};

/// Event dates more than this many days after the processing date do not move the watermark: one row dated 9999 must
/// not close everything.
const FUTURE_DAYS: u64 = 1;
/// No row has an earlier date.
const FIRST_DATE: NaiveDate = NaiveDate::from_ymd_opt(0, 1, 1).expect("the year 0 has a first day");

/// The latest event date that may move a watermark.
pub(crate) fn watermark_limit(processing_date: NaiveDate) -> NaiveDate {
    processing_date + Days::new(FUTURE_DAYS)
}

/// The watermark of an output of several domains: the earliest of theirs, and none while one of them has none.
///
/// | watermarks | least |
/// |---|---|
/// | 2025-09-03, 2025-09-01 | 2025-09-01 |
/// | 2025-09-03, none | none |
/// | no domains | none |
pub(crate) fn least_watermark(watermarks: impl IntoIterator<Item = Option<NaiveDate>>) -> Option<NaiveDate> {
    watermarks.into_iter().reduce(|left, right| left.zip(right).map(|(left, right)| left.min(right))).flatten()
}

/// Whether a window is closed: the watermark has passed its end by the allowed lateness.
///
/// A watermark of day d says that day d has begun, and a window ends when the day after its last begins.
///
/// | window | lateness | watermark | final |
/// |---|---|---|---|
/// | week from 2025-09-15 | 7 | 2025-09-28 | no |
/// | week from 2025-09-15 | 7 | 2025-09-29 | yes |
/// | week from 2025-09-15 | 0 | 2025-09-22 | yes |
/// | any | any | none | no |
pub(crate) fn is_final(window: Window, allowed_lateness_days: u32, watermark: Option<NaiveDate>) -> bool {
    let closes = window.end().checked_add_days(Days::new(allowed_lateness_days.into()));
    matches!((watermark, closes), (Some(watermark), Some(closes)) if watermark >= closes)
}

/// The dates of all windows of these kinds that close or open again when the watermark moves, if there are any. Other
/// windows may have such dates too.
///
/// | kinds | lateness | watermark before | now | dates |
/// |---|---|---|---|---|
/// | week | 7 | 2025-09-28 | 2025-09-29 | 2025-09-15 to 2025-09-21 |
/// | week | 7 | 2025-09-29 | 2025-09-28 | the same: the week opens again |
/// | week | 7 | 2025-09-29 | 2025-10-05 | none: the next week closes on October 6 |
/// | week, month | 7 | 2025-10-07 | 2025-10-08 | 2025-09-01 to 2025-09-30 |
/// | week | 7 | none | 2025-09-29 | all up to 2025-09-21 |
/// | all | any | any | any | none: it never closes |
pub(crate) fn turned(
    kinds: &[WindowKind],
    allowed_lateness_days: u32,
    before: Option<NaiveDate>,
    now: Option<NaiveDate>,
) -> Option<(NaiveDate, NaiveDate)> {
    // Windows that end on this day or earlier are closed.
    let closed_until = |watermark: Option<NaiveDate>| {
        let end = watermark?.checked_sub_days(Days::new(allowed_lateness_days.into()));
        end.filter(|end| *end > FIRST_DATE)
    };
    let (before, now) = (closed_until(before).unwrap_or(FIRST_DATE), closed_until(now).unwrap_or(FIRST_DATE));
    let (from, to) = (before.min(now), before.max(now));
    let first_of = |kind: &WindowKind| Some(Window::containing(*kind, from)).filter(|window| window.end() <= to);
    let first = kinds.iter().filter_map(first_of).map(|window| window.start).min()?;
    Some((first, to.pred_opt()?))
}

/// What must be derived again: windows, by output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    windows: BTreeSet<(&'static str, Window)>,
}

impl Dirty {
    /// Marks the windows of these outputs that facts of `domain` with these dates make dirty. `dimension`: only outputs
    /// that depend on it; `None` if the facts themselves changed.
    ///
    /// | facts | dimension | outputs |
    /// |---|---|---|
    /// | health | none | all with the fact health |
    /// | health | locations | all with the fact health and the dimension locations |
    /// | a domain that feeds no output | any | none |
    pub(crate) fn mark(&mut self, outputs: &[&'static Output], dates: &Dates, dimension: Option<&str>) {
        for output in outputs {
            if output.has_fact(dates.domain) && dimension.is_none_or(|it| output.has_dimension(it)) {
                for kind in output.windows {
                    let windows = Window::touching(*kind, dates.first, dates.last);
                    self.windows.extend(windows.map(|window| (output.name, window)));
                }
            }
        }
    }

    /// Marks one window of an output.
    pub(crate) fn mark_window(&mut self, output: &'static str, window: Window) {
        self.windows.insert((output, window));
    }

    /// Takes the windows of an output away.
    pub(crate) fn forget(&mut self, output: &str) {
        self.windows.retain(|(of, _)| *of != output);
    }

    /// Adds all windows of the other.
    pub(crate) fn extend(&mut self, other: Dirty) {
        self.windows.extend(other.windows);
    }

    /// The windows that are dirty here but not there.
    pub(crate) fn without(mut self, other: &Dirty) -> Dirty {
        self.windows.retain(|window| !other.windows.contains(window));
        self
    }

    /// The windows of an output, the shortest kind first, by start.
    pub(crate) fn of(&self, output: &'static str) -> Vec<Window> {
        self.windows.iter().filter(|(of, _)| *of == output).map(|(_, window)| *window).collect()
    }

    /// How many windows, each once however many outputs have it.
    pub(crate) fn windows(&self) -> usize {
        self.windows.iter().map(|(_, window)| *window).collect::<BTreeSet<_>>().len()
    }

    /// The same, counted for each output.
    pub(crate) fn output_windows(&self) -> usize {
        self.windows.len()
    }

    /// Whether nothing is marked.
    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

/// A range of dates of facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dates {
    /// The domain of the facts.
    pub(crate) domain: &'static str,
    /// The first of them.
    pub(crate) first: NaiveDate,
    /// The last of them.
    pub(crate) last: NaiveDate,
}

/// Dates of facts that refer to changed rows of a dimension: no fact has made their windows dirty, so they wait until
/// there is time for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The id of their mark; `None` if they come only from the dimension's own mark.
    pub(crate) mark: Option<i64>,
    /// The dimension.
    pub(crate) dimension: String,
    /// The dates.
    pub(crate) dates: Dates,
}

impl Waiting {
    fn place(&self) -> Place {
        (self.dates.last, self.dates.domain)
    }
}

/// The place of waiting dates in a pass over all of them, which goes from the newest to the oldest.
pub(crate) type Place = (NaiveDate, &'static str);

/// What is derived of the waiting dates, and what is not.
pub(crate) struct Bit {
    /// What is dirty now.
    pub(crate) dirty: Dirty,
    /// The dates that were taken.
    pub(crate) taken: Vec<Waiting>,
    /// The dates that keep waiting.
    pub(crate) rest: Vec<Waiting>,
    /// Where the pass has got to; `None` at its end.
    pub(crate) reached: Option<Place>,
}

/// Takes as many of the waiting dates, the newest first, as make `windows_max` further windows dirty, and at least those
/// of one place unless that is 0. They are derived now, except windows that contain dates which are still to come in this
/// pass: those are derived with the last of these dates.
///
/// Dates that were marked again behind the place that the pass has `reached` wait for the next pass. So however fast a
/// dimension changes, the oldest windows have their turn, and a long window is derived once a pass.
///
/// | waiting | reached | taken, one place each | reached then |
/// |---|---|---|---|
/// | June, May, April | | June | June |
/// | June again, May, April | June | May | May |
/// | June, April | May | April | the end |
/// | June | | June | the end |
/// | June | May: nothing is left ahead | June, in a new pass | the end |
pub(crate) fn take_waiting(
    outputs: &[&'static Output],
    mut dirty: Dirty,
    mut waiting: Vec<Waiting>,
    reached: Option<Place>,
    windows_max: usize,
) -> Bit {
    waiting.sort_by_key(|one| std::cmp::Reverse(one.place()));
    let had_its_turn = |one: &Waiting| reached.is_some_and(|reached| one.place() >= reached);
    let (mut again, mut ahead): (Vec<Waiting>, Vec<Waiting>) = waiting.into_iter().partition(had_its_turn);
    if ahead.is_empty() {
        std::mem::swap(&mut again, &mut ahead);
    }
    let windows_of = |waiting: &[Waiting]| {
        let mut dirty = Dirty::default();
        waiting.iter().for_each(|one| dirty.mark(outputs, &one.dates, Some(&one.dimension)));
        dirty
    };
    let mut added = Dirty::default();
    let mut taken = 0;
    for place in ahead.chunk_by(|one, next| one.place() == next.place()) {
        if added.output_windows() >= windows_max {
            break;
        }
        added.extend(windows_of(place).without(&dirty));
        taken += place.len();
    }
    let mut rest = ahead.split_off(taken);
    dirty.extend(added.without(&windows_of(&rest)));
    let reached = if rest.is_empty() { None } else { ahead.last().map(Waiting::place).or(reached) };
    rest.extend(again);
    Bit { dirty, taken: ahead, rest, reached }
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn a_window_is_final_once_the_watermark_passed_it_by_the_lateness() {
        let cases = [
            (WindowKind::Week, "2025-09-15", 7, Some("2025-09-28"), false),
            (WindowKind::Week, "2025-09-15", 7, Some("2025-09-29"), true),
            (WindowKind::Week, "2025-09-15", 0, Some("2025-09-21"), false),
            (WindowKind::Week, "2025-09-15", 0, Some("2025-09-22"), true),
            (WindowKind::Month, "2025-09-01", 7, Some("2025-10-07"), false),
            (WindowKind::Month, "2025-09-01", 7, Some("2025-10-08"), true),
            (WindowKind::Month, "2025-09-01", 7, None, false),
            (WindowKind::Month, "9999-12-01", u32::MAX, Some("9999-12-31"), false),
        ];
        for (kind, start, lateness, watermark, expected) in cases {
            let window = Window { kind, start: date(start) };
            assert_eq!(is_final(window, lateness, watermark.map(date)), expected, "{start} {lateness} {watermark:?}");
        }
    }

    #[test]
    fn a_moved_watermark_turns_the_windows_between_its_two_states() {
        use WindowKind::{All, Day, Month, Week};
        type Case<'a> = (&'a [WindowKind], u32, Option<&'a str>, Option<&'a str>, Option<(&'a str, &'a str)>);
        let week = Some(("2025-09-15", "2025-09-21"));
        let cases: &[Case] = &[
            (&[Week], 7, Some("2025-09-28"), Some("2025-09-29"), week),
            (&[Week], 7, Some("2025-09-29"), Some("2025-09-28"), week),
            (&[Week], 7, Some("2025-09-29"), Some("2025-10-05"), None),
            (&[Week], 7, Some("2025-09-29"), Some("2025-09-29"), None),
            (&[Week], 0, Some("2025-09-21"), Some("2025-09-22"), week),
            (&[Week, Month], 7, Some("2025-10-07"), Some("2025-10-08"), Some(("2025-09-01", "2025-09-30"))),
            (&[Week, Month], 7, Some("2025-09-28"), Some("2025-09-29"), week),
            (&[Week, Month], 7, Some("2025-09-28"), Some("2025-10-08"), Some(("2025-09-01", "2025-09-30"))),
            (&[Day], 1, Some("2025-09-20"), Some("2025-09-22"), Some(("2025-09-19", "2025-09-20"))),
            (&[Week], 7, None, Some("2025-09-29"), Some(("-0001-12-27", "2025-09-21"))),
            (&[Week], 7, Some("2025-09-29"), None, Some(("-0001-12-27", "2025-09-21"))),
            (&[Day, All], 0, None, Some("9999-12-31"), Some(("0000-01-01", "9999-12-30"))),
            (&[All], 0, None, Some("9999-12-31"), None),
            (&[Day], u32::MAX, None, Some("9999-12-31"), None),
            (&[Day], 0, None, None, None),
        ];
        for (kinds, lateness, before, now, expected) in cases {
            let (before, now) = (before.map(date), now.map(date));
            let found = turned(kinds, *lateness, before, now);
            let expected = expected.map(|(first, last)| (date(first), date(last)));
            assert_eq!(found, expected, "{kinds:?} {lateness} {before:?} {now:?}");
        }
    }

    /// Every window that closed or opened, and no date beyond them.
    #[test]
    fn the_dates_of_what_turned_are_those_of_the_windows_whose_state_differs() {
        let days: Vec<NaiveDate> = date("2025-07-25").iter_days().take(80).collect();
        for kind in [WindowKind::Day, WindowKind::Week, WindowKind::Month] {
            for (before, now) in days.iter().flat_map(|before| days.iter().map(move |now| (*before, *now))) {
                let windows = Window::touching(kind, date("2025-05-01"), date("2025-12-31"));
                let differ = |window: &Window| is_final(*window, 7, Some(before)) != is_final(*window, 7, Some(now));
                let differing: Vec<Window> = windows.filter(differ).collect();
                let found = turned(&[kind], 7, Some(before), Some(now));
                let (first, last) = (differing.first().map(|it| it.start), differing.last().map(Window::end));
                assert_eq!(found.map(|(first, _)| first), first, "{kind:?} {before} {now}");
                assert!(found.is_none_or(|(_, to)| Some(to) >= last.and_then(|end| end.pred_opt())), "{kind:?} {now}");
            }
        }
    }

    #[test]
    fn an_aggregate_waits_for_the_slowest_domain() {
        let (early, late) = (Some(date("2025-09-01")), Some(date("2025-09-03")));
        let cases: &[(&[Option<NaiveDate>], Option<NaiveDate>)] = &[
            (&[late, early], early),
            (&[early, late, late], early),
            (&[late, None], None),
            (&[None, late], None),
            (&[], None),
            (&[late], late),
        ];
        for (watermarks, expected) in cases {
            assert_eq!(least_watermark(watermarks.iter().copied()), *expected, "{watermarks:?}");
        }
    }

    #[test]
    fn time_is_not_taken_from_the_far_future() {
        assert_eq!(watermark_limit(date("2025-12-31")), date("2026-01-01"));
    }

    fn output(name: &str, windows: &str, facts: &str, dimensions: &str) -> &'static Output {
        let text = format!(
            "/* freshet\ndescription: d\nwindows: [{windows}]\nfacts: [{facts}]\ndimensions: [{dimensions}]\nkey: [id]\n*/ \
             SELECT 1 AS id"
        );
        Output::read(&format!("{name}.sql"), &text, &DOMAINS, &mut Mistakes::of(name)).expect("an output")
    }

    fn dates(domain: &'static str, first: &str, last: &str) -> Dates {
        Dates { domain, first: date(first), last: date(last) }
    }

    #[test]
    fn a_mark_dirties_what_is_derived_from_it_and_nothing_else() {
        let outputs = [
            output("risks", "month", "health", "locations"),
            output("scores", "month", "health, hospital", ""),
            output("metrics", "week, month", "health, climate", "locations"),
        ];
        type Case = (&'static str, Option<&'static str>, &'static [(&'static str, usize)]);
        let cases: &[Case] = &[
            ("health", None, &[("risks", 1), ("scores", 1), ("metrics", 3)]),
            ("hospital", None, &[("risks", 0), ("scores", 1), ("metrics", 0)]),
            ("health", Some("locations"), &[("risks", 1), ("scores", 0), ("metrics", 3)]),
            ("health", Some("climate"), &[("risks", 0), ("scores", 0), ("metrics", 0)]),
            ("locations", None, &[("risks", 0), ("scores", 0), ("metrics", 0)]),
        ];
        for (domain, dimension, expected) in cases {
            let mut dirty = Dirty::default();
            for _ in 0..2 {
                dirty.mark(&outputs, &dates(domain, "2025-09-21", "2025-09-22"), *dimension);
            }
            for (output, windows) in *expected {
                assert_eq!(dirty.of(output).len(), *windows, "{domain} {dimension:?} {output}");
            }
            assert_eq!(dirty.is_empty(), expected.iter().all(|(_, windows)| *windows == 0));
        }
    }

    /// Two days of a month that wait because a location changed; their mark has its number.
    fn month(month: u32) -> Waiting {
        Waiting {
            mark: Some(month.into()),
            dimension: "locations".into(),
            dates: dates("health", &format!("2025-{month:02}-10"), &format!("2025-{month:02}-11")),
        }
    }

    #[test]
    fn what_only_dimensions_made_dirty_comes_bit_by_bit_and_each_window_once() {
        let outputs = [output("metrics", "week, month, all", "health", "locations")];
        let mut dirty = Dirty::default();
        dirty.mark(&outputs, &dates("health", "2025-01-10", "2025-01-10"), None);
        let mut waiting = (1..=6).map(month).collect::<Vec<_>>();
        let bit = take_waiting(&outputs, dirty.clone(), waiting.clone(), None, 0);
        assert_eq!(
            (bit.dirty.output_windows(), bit.taken.len(), bit.rest.len(), bit.reached),
            (dirty.output_windows(), 0, 6, None),
            "none while there is no time for any"
        );
        let mut reached = None;
        // The window of all dates: dirty by facts, then held back, then derived with the last of them.
        for (taken_now, windows, of_all) in [(vec![6, 5], 3 + 4, 1), (vec![4, 3], 4, 0), (vec![2, 1], 5, 1)] {
            let Bit { dirty: now, taken, rest, reached: then } = take_waiting(&outputs, dirty, waiting, reached, 4);
            assert_eq!(taken.iter().map(|one| one.mark.expect("a mark")).collect::<Vec<_>>(), taken_now);
            assert_eq!(now.output_windows(), windows, "{now:?}");
            let all = now.of("metrics").into_iter().filter(|window| window.kind == WindowKind::All).count();
            assert_eq!(all, of_all, "{now:?}");
            (dirty, waiting, reached) = (Dirty::default(), rest, then);
        }
        assert!(waiting.is_empty() && reached.is_none());
    }

    #[test]
    fn a_dimension_that_changes_all_the_time_lets_the_oldest_windows_have_their_turn() {
        let outputs = [output("metrics", "month, all", "health", "locations")];
        let (mut rest, mut reached, mut derived) = (Vec::new(), None, Vec::new());
        for _ in 0..8 {
            // Between two publications all months are marked again, twice.
            let waiting = rest.into_iter().chain((1..=4).map(month)).chain((1..=4).map(month)).collect();
            let bit = take_waiting(&outputs, Dirty::default(), waiting, reached, 1);
            derived.push(bit.dirty.of("metrics").into_iter().map(|window| window.kind).collect::<Vec<_>>());
            let months: Vec<_> = bit.taken.iter().map(|one| one.dates.last.month()).collect();
            let expected = 4 - (derived.len() as u32 - 1) % 4;
            assert!(months.iter().all(|month| *month == expected) && months.len() >= 2, "{months:?}");
            (rest, reached) = (bit.rest, bit.reached);
        }
        use WindowKind::{All, Month};
        let pass = [vec![Month], vec![Month], vec![Month], vec![Month, All]];
        assert_eq!(derived, [pass.clone(), pass].concat());
        assert!(rest.len() <= 4 * 3 * 2 + 2, "no more than what was marked since each had its turn: {}", rest.len());
    }
}
