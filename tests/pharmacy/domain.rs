//! Pharmacy: the stock and price of each medicine, a location and a day.
//!
//! No domain of freshet: `tests/fifth_domain.rs` adds this file to a copy of the sources.

use crate::{Absent, Cast, Column, Domain, EventTime, Example, Expected, Rule};

pub(super) static PHARMACY: Domain = Domain {
    name: "pharmacy",
    table: "pharmacy_data",
    patterns: &["pharmacy/", "raw/pharmacy_data.csv"],
    key: &["location_id", "date", "medicine", "is_projected", "projection_year"],
    partition_by: "location_id",
    event_time: Some(EventTime { date: "date", projected: "is_projected" }),
    columns: &[
        Column::required("location_id", Cast::Int),
        Column::required("date", Cast::Date),
        Column::required("medicine", Cast::TrimmedText).aliases(&["drug"]),
        Column::optional("stock", Cast::Int).rules(&[Rule::NegativeToZero]),
        Column::optional("price", Cast::Double),
        Column::optional("is_projected", Cast::Bool).absent(Absent::Bool(false)),
        Column::optional("projection_year", Cast::Int),
    ],
    row_rules: &[],
    examples: &[
        Example {
            cells: &["1", "2025-09-21", "Paracetamol", "120", "1.5", "False", ""],
            expected: Expected::Applied(&[]),
        },
        Example {
            cells: &["1", "2025-09-21", "Doxycycline", "-3", "cheap", "", ""],
            expected: Expected::Applied(&[("stock", "negative_to_zero"), ("price", "uncastable_to_null")]),
        },
        Example {
            cells: &["1", "2025-09-21", " ", "120", "1.5", "f", ""],
            expected: Expected::Rejected("medicine", "required_empty"),
        },
    ],
};
