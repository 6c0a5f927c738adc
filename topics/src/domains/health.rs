//! Health: cases of four diseases, a location and a day.

use super::{FALSE, NEGATIVE_TO_ZERO, OBSERVED};
use crate::{Cast, Column, Domain, EventTime, Example, Expected, Instead, NewColumn};

pub(super) static HEALTH: Domain = Domain {
    name: "health",
    description: "",
    table: "health_data",
    patterns: &["health/", "raw/health_data.csv"],
    key: &["location_id", "date", "is_projected", "projection_year"],
    partition_by: "location_id",
    event_time: Some(EventTime { date: "date", observed_when: Some(OBSERVED) }),
    columns: &[
        Column::required("location_id", Cast::Int),
        Column::required("date", Cast::Date),
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("dengue_cases", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("malaria_cases", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("heatstroke_cases", Cast::Int) },
        Column { rules: NEGATIVE_TO_ZERO, ..Column::optional("diarrhea_cases", Cast::Int) },
        Column { absent: Instead::Value(&FALSE), ..Column::optional("is_projected", Cast::Bool) },
        Column::optional("projection_year", Cast::Int),
    ],
    row_rules: &[],
    on_new_column: NewColumn::Ignore,
    missing_values: &[],
    latency: None,
    examples: &[
        Example {
            cells: &["1", "2025-09-21", "2478", "4884", "0", "30002", "False", ""],
            expected: Expected::Applied(&[]),
        },
        Example {
            cells: &["1", "2025-09-21", "-1", "1e3", "12.7", "", "", ""],
            expected: Expected::Applied(&[
                ("dengue_cases", "negative_to_zero"),
                ("malaria_cases", "uncastable_to_null"),
                ("heatstroke_cases", "fraction_cut"),
            ]),
        },
        Example {
            cells: &["one", "2025-09-21", "1", "1", "1", "1", "f", ""],
            expected: Expected::Rejected("location_id", "uncastable"),
        },
        Example {
            cells: &["1", "21/09/2025", "1", "1", "1", "1", "f", ""],
            expected: Expected::Rejected("date", "uncastable"),
        },
    ],
};
