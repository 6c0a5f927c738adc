//! A description of a column's sample data. Only `freshet generate` uses it, and it is optional: the type and the rules
//! are enough to generate rows that load.

/// What the values of a column look like. What is not said follows from the column's rules and type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The least value of a number, before [`Sample::scale`].
    pub least: Option<f64>,
    /// The greatest value of a number, before [`Sample::scale`].
    pub greatest: Option<f64>,
    /// Digits after the point, at most [`DECIMALS_MAX`]. A whole number with decimals is written as `7.0`.
    pub decimals: Option<u8>,
    /// The time of the year in which values are great; all year round where there is none.
    pub season: Option<Season>,
    /// After so many days a value has nothing to do with the one before; between them it moves evenly.
    pub persistence_days: u32,
    /// A stock: greatest on one day in so many, then used up.
    pub refill_days: Option<u32>,
    /// 1 for values that are all as likely, up to [`SKEW_MAX`] for many near the least and few near the greatest.
    pub skew: u8,
    /// A number that the value is multiplied by: another column of the row, else of the row that it refers to.
    pub scale: Option<&'static str>,
    /// The cells to choose from, as they stand; then nothing of the above is said.
    pub of: &'static [&'static str],
}

/// A time of the year, which comes and goes gradually.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Season {
    /// Day of the year at its height, 1 to 366.
    pub peak_day: u16,
    /// From its beginning to its end.
    pub days: u16,
}

/// Digits after the point at most: more would be noise.
pub const DECIMALS_MAX: u8 = 6;
/// The greatest skew: half of all values are then below a thousandth of the greatest.
pub const SKEW_MAX: u8 = 10;

impl Sample {
    /// Nothing said: values that change over some days.
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
