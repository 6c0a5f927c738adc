//! Hospital: beds, staff and stocks, a location and a day.

use super::{FALSE, NEGATIVE_TO_ZERO, OBSERVED};
use crate::{Cast, Column, Comparison, Domain, EventTime, Example, Expected, Instead, NewColumn, Otherwise, RowRule};

pub(super) static HOSPITAL: Domain = Domain {
    name: "hospital",
    description: "",
    table: "hospital_data",
    patterns: &["hospital/", "raw/hospital_data.csv"],
    key: &["location_id", "date", "is_projected", "projection_year"],
    partition_by: "location_id",
    event_time: Some(EventTime { date: "date", observed_when: Some(OBSERVED) }),
    columns: &[
        Column::required("location_id", Cast::Int),
        Column::required("date", Cast::Date),
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("total_beds", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("available_beds", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("doctors", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("nurses", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("iv_fluids_stock", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("antibiotics_stock", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("antipyretics_stock", Cast::Int) },
        Column { absent: Instead::Value(&FALSE), ..Column::optional("is_projected", Cast::Bool) },
        Column::optional("projection_year", Cast::Int),
    ],
    row_rules: &[RowRule {
        name: "beds_capped",
        column: "available_beds",
        comparison: Comparison::AtMost,
        other: "total_beds",
        otherwise: Otherwise::Cap,
    }],
    on_new_column: NewColumn::Ignore,
    missing_values: &[],
    latency: None,
    examples: &[
        Example {
            cells: &["1", "2025-09-21", "97457", "82512", "27626", "103904", "0", "0", "2253.0", "False", ""],
            expected: Expected::Applied(&[]),
        },
        Example {
            cells: &["1", "2025-09-21", "100", "150", "1", "1", "36.6", "-4", "x", "no", ""],
            expected: Expected::Applied(&[
                ("iv_fluids_stock", "fraction_cut"),
                ("antibiotics_stock", "negative_to_zero"),
                ("antipyretics_stock", "uncastable_to_null"),
                ("available_beds", "beds_capped"),
            ]),
        },
        Example {
            cells: &["1", "2025-09-21", "-5", "150", "", "", "", "", "", "no", ""],
            expected: Expected::Applied(&[("total_beds", "negative_to_zero"), ("available_beds", "beds_capped")]),
        },
        Example {
            cells: &["1", "", "1", "1", "1", "1", "1", "1", "1", "f", ""],
            expected: Expected::Rejected("date", "required_empty"),
        },
    ],
};
