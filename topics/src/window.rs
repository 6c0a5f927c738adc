//! Event-time windows: tumbling days, ISO weeks (from Monday), calendar months and years over a row's date, and one
//! window with all dates.
//!
//! A kind is one line in the table of [`kinds!`], one arm in each function here and one column in the tests' table.

use chrono::{Datelike, Days, Months, NaiveDate};

/// Declares the kinds in the order of the outputs, each with its spelling.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of window.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum WindowKind {
            $($(#[$doc])* $kind,)*
        }

        impl WindowKind {
            /// Every kind, in the order of the outputs.
            pub const ALL: &[WindowKind] = &[$(WindowKind::$kind,)*];

            /// The spelling in the heads of outputs, in manifests and in file names.
            pub const fn name(self) -> &'static str {
                match self {
                    $(WindowKind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A calendar day.
    Day = "day",
    /// ISO week, Monday to Sunday.
    Week = "week",
    /// Calendar month.
    Month = "month",
    /// Calendar year.
    Year = "year",
    /// All dates, in one window that never closes.
    All = "all",
}

/// The start of [`WindowKind::All`]: no cast gives an earlier date.
const ALL_START: NaiveDate = NaiveDate::from_ymd_opt(0, 1, 1).expect("the year 0 has a first day");
/// Its end: every cast gives an earlier date.
const ALL_END: NaiveDate = NaiveDate::from_ymd_opt(10_000, 1, 1).expect("the year 10000 has a first day");

impl WindowKind {
    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        WindowKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// One window: every date from `start` up to but not including [`Window::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Its kind.
    pub kind: WindowKind,
    /// Its first day.
    pub start: NaiveDate,
}

impl Window {
    /// The window of that kind that contains `date`.
    ///
    /// | date | week from | month from | year from |
    /// |---|---|---|---|
    /// | 2025-09-21 (Sunday) | 2025-09-15 | 2025-09-01 | 2025-01-01 |
    /// | 2025-09-22 (Monday) | 2025-09-22 | 2025-09-01 | 2025-01-01 |
    /// | 2026-01-01 (Thursday) | 2025-12-29 | 2026-01-01 | 2026-01-01 |
    pub fn containing(kind: WindowKind, date: NaiveDate) -> Self {
        // Dates are years 0000 to 9999 by the cast, so no end leaves chrono's range.
        let start = match kind {
            WindowKind::Day => date,
            WindowKind::Week => date - Days::new(date.weekday().num_days_from_monday().into()),
            WindowKind::Month => date - Days::new(date.day0().into()),
            WindowKind::Year => date - Days::new(date.ordinal0().into()),
            WindowKind::All => ALL_START,
        };
        Window { kind, start }
    }

    /// The windows of that kind that contain a date from `first` up to and including `last`, by start.
    pub fn touching(kind: WindowKind, first: NaiveDate, last: NaiveDate) -> impl Iterator<Item = Window> {
        let next = |window: &Window| Some(Window { kind: window.kind, start: window.end() });
        std::iter::successors(Some(Window::containing(kind, first)), next)
            .take_while(move |window| window.start <= last)
    }

    /// The day after its last.
    pub fn end(&self) -> NaiveDate {
        match self.kind {
            WindowKind::Day => self.start + Days::new(1),
            WindowKind::Week => self.start + Days::new(7),
            WindowKind::Month => self.start + Months::new(1),
            WindowKind::Year => self.start + Months::new(12),
            WindowKind::All => ALL_END,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn windows_hold_their_dates() {
        use WindowKind::{All, Day, Month, Week, Year};
        let cases = [
            (Day, "2025-09-21", "2025-09-21", "2025-09-22"),
            (Day, "9999-12-31", "9999-12-31", "+10000-01-01"),
            (Week, "2025-09-21", "2025-09-15", "2025-09-22"),
            (Week, "2025-09-22", "2025-09-22", "2025-09-29"),
            (Week, "2026-01-01", "2025-12-29", "2026-01-05"),
            (Week, "0001-01-01", "0001-01-01", "0001-01-08"),
            (Week, "9999-12-31", "9999-12-27", "+10000-01-03"),
            (Month, "2025-09-21", "2025-09-01", "2025-10-01"),
            (Month, "2026-01-01", "2026-01-01", "2026-02-01"),
            (Month, "2024-02-29", "2024-02-01", "2024-03-01"),
            (Month, "9999-12-31", "9999-12-01", "+10000-01-01"),
            (Year, "2025-01-01", "2025-01-01", "2026-01-01"),
            (Year, "2024-12-31", "2024-01-01", "2025-01-01"),
            (All, "0000-01-01", "0000-01-01", "+10000-01-01"),
            (All, "9999-12-31", "0000-01-01", "+10000-01-01"),
        ];
        for (kind, day, start, end) in cases {
            let window = Window::containing(kind, date(day));
            assert_eq!((window.start, window.end()), (date(start), date(end)), "{kind:?} {day}");
        }
    }

    #[test]
    fn a_range_of_dates_touches_the_windows_that_hold_one_of_them() {
        use WindowKind::{All, Day, Month, Week, Year};
        let cases: &[(WindowKind, &str, &str, &[&str])] = &[
            (Day, "2025-09-30", "2025-10-01", &["2025-09-30", "2025-10-01"]),
            (Week, "2025-09-21", "2025-09-22", &["2025-09-15", "2025-09-22"]),
            (Week, "2025-09-16", "2025-09-17", &["2025-09-15"]),
            (Month, "2025-09-21", "2025-11-01", &["2025-09-01", "2025-10-01", "2025-11-01"]),
            (Year, "2024-12-31", "2025-12-31", &["2024-01-01", "2025-01-01"]),
            (All, "2024-12-31", "2025-12-31", &["0000-01-01"]),
            (Month, "9999-12-31", "9999-12-31", &["9999-12-01"]),
        ];
        for (kind, first, last, starts) in cases {
            let found: Vec<_> = Window::touching(*kind, date(first), date(last)).map(|window| window.start).collect();
            assert_eq!(found, starts.iter().map(|start| date(start)).collect::<Vec<_>>(), "{kind:?} {first}");
        }
    }

    #[test]
    fn a_name_gives_its_kind_back() {
        for kind in WindowKind::ALL {
            assert_eq!(WindowKind::from_name(kind.name()), Some(*kind));
        }
        assert_eq!(WindowKind::from_name("quarter"), None);
    }
}
