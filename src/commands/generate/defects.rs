//! What `freshet generate --dirty` does to a row: one defect for every cast and rule of the domains.
//!
//! What rejects a whole file (a wrong header, a NUL byte, an unclosed quote, invalid UTF-8) is not among them:
//! one such row would cost thousands.

use super::files::Row;

/// One thing that is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// This text in that column.
    Set(&'static str, &'static str),
    /// The column's text between these.
    Around(&'static str, &'static str, &'static str),
    /// `2025-9-5`; of a date that has no zero to lose, a time behind it.
    ShortDate,
    /// More beds available than there are.
    BedsAbove,
    /// The row ends after this many cells.
    Short(usize),
    /// One cell more than the header has.
    Extra,
    /// An empty line before the row.
    BlankLine,
    /// The row comes twice, the second time with other values.
    Again,
    /// After the row one of a week before, whose key an earlier file may have brought.
    Late,
}

impl Defect {
    /// Makes the row defective. The last three of [`Defect`] are about more than the row and do nothing here.
    pub(super) fn apply(self, row: &mut Row, index_of: impl Fn(&str) -> Option<usize>) {
        let mut set = |column: &str, change: &dyn Fn(&str) -> String| {
            if let Some(index) = index_of(column) {
                row.set(index, change);
            }
        };
        match self {
            Defect::Set(column, text) => set(column, &|_| text.to_owned()),
            Defect::Around(column, before, after) => set(column, &|text| format!("{before}{text}{after}")),
            Defect::ShortDate => set("date", &short_date),
            Defect::BedsAbove => set("available_beds", &|text| format!("9{text}")),
            Defect::Short(cells) => row.truncate(cells.min(row.len())),
            Defect::Extra => row.text("one too many"),
            Defect::BlankLine | Defect::Again | Defect::Late => {}
        }
    }
}

fn short_date(date: &str) -> String {
    match date.replace("-0", "-") {
        short if short != date => short,
        same => format!("{same}T00:00:00Z"),
    }
}

macro_rules! facts {
    ($($own:expr),* $(,)?) => {
        &[
            Defect::Set("location_id", ""),
            Defect::Set("location_id", "x"),
            Defect::Set("location_id", "1e3"),
            Defect::Set("location_id", "2147483648"),
            Defect::Around("location_id", "00", ""),
            Defect::Around("location_id", "", ".0"),
            Defect::Around("location_id", " +", " "),
            Defect::Set("date", ""),
            Defect::Set("date", "2025-02-29"),
            Defect::Set("date", "2025-13-40"),
            Defect::Set("date", "21/09/2025"),
            Defect::Set("date", "2025/09/21"),
            Defect::Set("date", "20250921"),
            Defect::Set("date", "25-09-21"),
            Defect::Set("date", "10000-01-01"),
            Defect::Around("date", "", "abc"),
            Defect::Around("date", "+", ""),
            Defect::Around("date", " ", " "),
            Defect::Around("date", "", "T00:00:00Z"),
            Defect::Around("date", "", " 10:00:00"),
            Defect::ShortDate,
            Defect::Set("is_projected", "on"),
            Defect::Set("is_projected", "1.0"),
            Defect::Set("is_projected", "2"),
            Defect::Set("projection_year", "next"),
            Defect::Set("projection_year", "2026.5"),
            Defect::Short(1),
            Defect::Short(3),
            Defect::Extra,
            Defect::BlankLine,
            Defect::Again,
            Defect::Late,
            $($own),*
        ]
    };
}

pub(super) static LOCATIONS: &[Defect] = &[
    Defect::Set("id", ""),
    Defect::Set("id", "x"),
    Defect::Set("name", ""),
    Defect::Set("name", "  \t "),
    Defect::Around("name", "  ", " "),
    Defect::Around("name", "", ", \"upper\"\nand lower"),
    Defect::Set("type", ""),
    Defect::Set("type", " "),
    Defect::Set("population", "many"),
    Defect::Set("population", "1,000"),
    Defect::Set("population", "-5"),
    Defect::Set("area", "wide"),
    Defect::Set("area", "-0.5"),
    Defect::Short(2),
    Defect::Extra,
];

pub(super) static CLIMATE: &[Defect] = facts![
    Defect::Set("temperature", ""),
    Defect::Set("temperature", "26,5"),
    Defect::Set("temperature", "26.5C"),
    Defect::Set("temperature", "--5"),
    Defect::Set("temperature", "NaN"),
    Defect::Set("temperature", "1e400"),
    Defect::Set("temperature", "-Infinity"),
    Defect::Around("temperature", " ", "\n"),
    Defect::Around("temperature", "", "f"),
    Defect::Set("rainfall", "1,000.5"),
    Defect::Set("rainfall", "heavy"),
    Defect::Set("rainfall", ""),
    Defect::Set("humidity", "80%"),
    Defect::Set("humidity", "\u{a0}80"),
    Defect::Set("flood_probability", "-0.1"),
    Defect::Set("flood_probability", "1.2"),
    Defect::Set("flood_probability", "NaN"),
    Defect::Set("cyclone_probability", "7e0"),
    Defect::Set("cyclone_probability", "maybe"),
    Defect::Set("heatwave_probability", "inf"),
];

pub(super) static HEALTH: &[Defect] = facts![
    Defect::Set("dengue_cases", "-5"),
    Defect::Set("dengue_cases", "12.7"),
    Defect::Set("dengue_cases", ""),
    Defect::Set("malaria_cases", "-0.5"),
    Defect::Set("malaria_cases", "1_000"),
    Defect::Set("malaria_cases", "0x10"),
    Defect::Set("heatstroke_cases", "NaN"),
    Defect::Set("heatstroke_cases", "99999999999"),
    Defect::Set("diarrhea_cases", "1,000"),
    Defect::Set("diarrhea_cases", "5%"),
    Defect::Set("diarrhea_cases", "２"),
];

pub(super) static HOSPITAL: &[Defect] = facts![
    Defect::BedsAbove,
    Defect::BedsAbove,
    Defect::Set("total_beds", "-5"),
    Defect::Set("total_beds", ""),
    Defect::Set("total_beds", "none"),
    Defect::Set("available_beds", "-1"),
    Defect::Set("doctors", "1e3"),
    Defect::Set("nurses", "-20"),
    Defect::Set("iv_fluids_stock", "-4"),
    Defect::Set("antibiotics_stock", "x"),
    Defect::Set("antipyretics_stock", "36.599999999999994"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_loses_its_zeros_or_gains_a_time() {
        assert_eq!(short_date("2025-09-05"), "2025-9-5");
        assert_eq!(short_date("2025-11-21"), "2025-11-21T00:00:00Z");
    }
}
