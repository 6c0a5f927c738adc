//! A date, with what rows of it share.

use chrono::{Datelike, Days, NaiveDate};

use super::LATE_DAYS;

/// A date, with what rows of it share.
pub(super) struct Day {
    pub(super) date: NaiveDate,
    /// Days since the year 1.
    pub(super) number: u64,
    /// Day of the year from 0.
    pub(super) ordinal: f64,
    pub(super) text: String,
    /// 0 for an observed day, else how many years ahead.
    pub(super) years_ahead: u32,
}

impl Day {
    pub(super) fn new(date: NaiveDate, years_ahead: u32) -> Self {
        let number = u64::try_from(date.num_days_from_ce()).unwrap_or_default();
        Day { date, number, ordinal: f64::from(date.ordinal0()), text: spelled(date), years_ahead }
    }

    /// The day that a late row is dated.
    pub(super) fn earlier(&self) -> Day {
        Day::new(self.date - Days::new(LATE_DAYS.into()), self.years_ahead)
    }

    /// As a number, as values of dates are: days since the year 1.
    pub(super) fn as_number(&self) -> f64 {
        f64::from(self.date.num_days_from_ce())
    }

    pub(super) fn year(&self) -> f64 {
        f64::from(self.date.year())
    }
}

/// `yyyy-MM-dd`.
pub(super) fn spelled(date: NaiveDate) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
}
