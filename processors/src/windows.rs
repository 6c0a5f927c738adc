//! When a window is closed and which windows are dirty: pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Days, NaiveDate};
use freshet_topics::window::{Window, WindowKind};

/// Events that claim to be from later than this many days after the processing date are no evidence of time: one
/// row dated 9999 must not close everything.
const FUTURE_DAYS: u64 = 1;

/// The latest event date that may move a watermark.
pub(crate) fn watermark_limit(processing_date: NaiveDate) -> NaiveDate {
    processing_date + Days::new(FUTURE_DAYS)
}

/// The watermark of something derived from several domains: the least of theirs, and none as long as one of
/// them has none.
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
/// A watermark of day d says that day d has begun, and a window ends as the day after its last begins.
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

/// A derived output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Output {
    /// Rates and risks, one row a health row.
    HealthRisks,
    /// Rates and scores, one row a hospital row.
    HospitalResources,
    /// One row where both are present.
    ResilienceScores,
    /// Aggregates by week and month.
    WindowMetrics,
}

impl Output {
    /// All of them, in the order of manifests.
    pub(crate) const ALL: [Output; 4] =
        [Output::HealthRisks, Output::HospitalResources, Output::ResilienceScores, Output::WindowMetrics];

    /// Its name in keys, manifests and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Output::HealthRisks => "current_health_risks",
            Output::HospitalResources => "current_hospital_resources",
            Output::ResilienceScores => "resilience_scores",
            Output::WindowMetrics => "window_metrics",
        }
    }

    /// The domains whose facts it is derived from.
    pub(crate) const fn sources(self) -> &'static [&'static str] {
        match self {
            Output::HealthRisks => &["health"],
            Output::HospitalResources => &["hospital"],
            Output::ResilienceScores => &["health", "hospital"],
            Output::WindowMetrics => &["health", "hospital", "climate"],
        }
    }

    /// Whether it has files of that kind of window.
    pub(crate) const fn has(self, kind: WindowKind) -> bool {
        matches!((self, kind), (Output::WindowMetrics, _) | (_, WindowKind::Month))
    }
}

/// The windows to derive again, and which outputs of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    windows: BTreeMap<Window, BTreeSet<Output>>,
}

impl Dirty {
    /// Marks what is derived from `domain` in that window. A domain that feeds no output marks nothing.
    ///
    /// | mark | outputs |
    /// |---|---|
    /// | health, month | current_health_risks, resilience_scores, window_metrics |
    /// | hospital, month | current_hospital_resources, resilience_scores, window_metrics |
    /// | climate, month | window_metrics |
    /// | health, hospital or climate, week | window_metrics |
    /// | anything else | none |
    pub(crate) fn mark(&mut self, domain: &str, window: Window) {
        for output in Output::ALL {
            if output.sources().contains(&domain) && output.has(window.kind) {
                self.mark_output(output, window);
            }
        }
    }

    /// Marks both windows that hold a date.
    pub(crate) fn mark_date(&mut self, domain: &str, date: NaiveDate) {
        for kind in [WindowKind::Week, WindowKind::Month] {
            self.mark(domain, Window::containing(kind, date));
        }
    }

    /// Marks one output of a window.
    pub(crate) fn mark_output(&mut self, output: Output, window: Window) {
        self.windows.entry(window).or_default().insert(output);
    }

    /// The windows, weeks first, by start, with their outputs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Window, &BTreeSet<Output>)> {
        self.windows.iter().map(|(window, outputs)| (*window, outputs))
    }

    /// How many windows.
    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether nothing is marked.
    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_mark_dirties_what_is_derived_from_it_and_nothing_else() {
        use Output::{HealthRisks, HospitalResources, ResilienceScores, WindowMetrics};
        let cases: &[(&str, WindowKind, &[Output])] = &[
            ("health", WindowKind::Month, &[HealthRisks, ResilienceScores, WindowMetrics]),
            ("hospital", WindowKind::Month, &[HospitalResources, ResilienceScores, WindowMetrics]),
            ("climate", WindowKind::Month, &[WindowMetrics]),
            ("health", WindowKind::Week, &[WindowMetrics]),
            ("hospital", WindowKind::Week, &[WindowMetrics]),
            ("climate", WindowKind::Week, &[WindowMetrics]),
            ("locations", WindowKind::Week, &[]),
            ("pharmacy", WindowKind::Month, &[]),
        ];
        for (domain, kind, outputs) in cases {
            let window = Window::containing(*kind, date("2025-09-21"));
            let mut dirty = Dirty::default();
            dirty.mark(domain, window);
            dirty.mark(domain, window);
            let found: Vec<Output> = dirty.iter().flat_map(|(_, outputs)| outputs.iter().copied()).collect();
            assert_eq!(found, *outputs, "{domain} {kind:?}");
            assert_eq!(dirty.len(), usize::from(!outputs.is_empty()));
        }
    }

    #[test]
    fn a_date_lies_in_a_week_and_a_month() {
        let mut dirty = Dirty::default();
        dirty.mark_date("climate", date("2025-09-21"));
        let starts: Vec<NaiveDate> = dirty.iter().map(|(window, _)| window.start).collect();
        assert_eq!(starts, [date("2025-09-15"), date("2025-09-01")]);
    }
}
