//! Event-time windows: tumbling ISO weeks (from Monday) and calendar months over a row's date.

use chrono::{Datelike, Days, Months, NaiveDate};

/// The two kinds of window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// ISO week, Monday to Sunday.
    Week,
    /// Calendar month.
    Month,
}

impl WindowKind {
    /// Both kinds, in the order of the outputs.
    pub const ALL: [WindowKind; 2] = [WindowKind::Week, WindowKind::Month];

    /// The spelling in tables, manifests and file names.
    pub const fn name(self) -> &'static str {
        match self {
            WindowKind::Week => "week",
            WindowKind::Month => "month",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        WindowKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One window: every date from `start` up to but not including [`Window::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Week or month.
    pub kind: WindowKind,
    /// Its first day.
    pub start: NaiveDate,
}

impl Window {
    /// The window of that kind that holds `date`.
    ///
    /// | date | week from | month from |
    /// |---|---|---|
    /// | 2025-09-21 (Sunday) | 2025-09-15 | 2025-09-01 |
    /// | 2025-09-22 (Monday) | 2025-09-22 | 2025-09-01 |
    /// | 2026-01-01 (Thursday) | 2025-12-29 | 2026-01-01 |
    pub fn containing(kind: WindowKind, date: NaiveDate) -> Self {
        let back = match kind {
            WindowKind::Week => date.weekday().num_days_from_monday(),
            WindowKind::Month => date.day0(),
        };
        // Dates are years 0000 to 9999 by the cast, so neither end leaves chrono's range.
        Window { kind, start: date - Days::new(back.into()) }
    }

    /// The day after its last.
    pub fn end(&self) -> NaiveDate {
        match self.kind {
            WindowKind::Week => self.start + Days::new(7),
            WindowKind::Month => self.start + Months::new(1),
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
        let cases = [
            ("2025-09-21", "2025-09-15", "2025-09-22", "2025-09-01", "2025-10-01"),
            ("2025-09-22", "2025-09-22", "2025-09-29", "2025-09-01", "2025-10-01"),
            ("2026-01-01", "2025-12-29", "2026-01-05", "2026-01-01", "2026-02-01"),
            ("2024-02-29", "2024-02-26", "2024-03-04", "2024-02-01", "2024-03-01"),
            ("0001-01-01", "0001-01-01", "0001-01-08", "0001-01-01", "0001-02-01"),
            ("9999-12-31", "9999-12-27", "+10000-01-03", "9999-12-01", "+10000-01-01"),
        ];
        for (day, week_start, week_end, month_start, month_end) in cases {
            let week = Window::containing(WindowKind::Week, date(day));
            let month = Window::containing(WindowKind::Month, date(day));
            assert_eq!((week.start, week.end()), (date(week_start), date(week_end)), "{day}");
            assert_eq!((month.start, month.end()), (date(month_start), date(month_end)), "{day}");
        }
    }
}
