//! A description of a column's sample data. Only `freshet generate` uses it, and it is optional: the type and the rules
//! are enough to generate rows that load.

/// What the values of a column look like. Defaults follow from the column's rules and type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The smallest value of a number, before [`Sample::scale`].
    pub least: Option<f64>,
    /// The greatest value of a number, before [`Sample::scale`].
    pub greatest: Option<f64>,
    /// Digits after the point, at most [`DECIMALS_MAX`]. A whole number with decimals is written as `7.0`.
    pub decimals: Option<u8>,
    /// The time of the year in which values are large; all year round if there is none.
    pub season: Option<Season>,
    /// After this many days a value is independent of the one before; in between it changes evenly.
    pub persistence_days: u32,
    /// A stock: greatest on one day in this many, then used up.
    pub refill_days: Option<u32>,
    /// 1 for a uniform distribution, up to [`SKEW_MAX`] for many small values and few large ones.
    pub skew: u8,
    /// A number that the value is multiplied by: another column of the row, or of the row that it refers to.
    pub scale: Option<&'static str>,
    /// The cells to choose from, as they are; then the other fields are not set.
    pub of: &'static [&'static str],
}

/// A time of the year, which comes and goes gradually.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Season {
    /// Day of the year at its peak, 1 to 366.
    pub peak_day: u16,
    /// Its length from beginning to end.
    pub days: u16,
}

/// The most digits after the point: more would be noise.
pub const DECIMALS_MAX: u8 = 6;
/// The greatest skew: half of all values are then below a thousandth of the greatest.
pub const SKEW_MAX: u8 = 10;

impl Sample {
    /// Without details: values that change over some days.
    pub const PLAIN: Sample = Sample {
        least: None,
        greatest: None,
        decimals: None,
        season: None,
        persistence_days: 5,
        refill_days: None,
        skew: 1,
        scale: None,
        of: &[],
    };
}
