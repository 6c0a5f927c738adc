//! Climate: temperature, rain and the probabilities of disasters, a location and a day.

use super::{FALSE, OBSERVED, PROBABILITY_TO_ZERO};
use crate::{Cast, Column, Domain, EventTime, Example, Expected, Instead, NewColumn};

pub(super) static CLIMATE: Domain = Domain {
    name: "climate",
    description: "",
    table: "climate_data",
    patterns: &["climate/", "raw/climate_data.csv"],
    key: &["location_id", "date", "is_projected", "projection_year"],
    partition_by: "location_id",
    event_time: Some(EventTime { date: "date", observed_when: Some(OBSERVED) }),
    columns: &[
        Column::required("location_id", Cast::Int),
        Column::required("date", Cast::Date),
        Column::required("temperature", Cast::Double),
        Column::optional("rainfall", Cast::Double),
        Column::optional("humidity", Cast::Double),
        Column { rules: PROBABILITY_TO_ZERO, ..Column::optional("flood_probability", Cast::Double) },
        Column { rules: PROBABILITY_TO_ZERO, ..Column::optional("cyclone_probability", Cast::Double) },
        Column { rules: PROBABILITY_TO_ZERO, ..Column::optional("heatwave_probability", Cast::Double) },
        Column { absent: Instead::Value(&FALSE), ..Column::optional("is_projected", Cast::Bool) },
        Column::optional("projection_year", Cast::Int),
    ],
    row_rules: &[],
    on_new_column: NewColumn::Ignore,
    missing_values: &[],
    latency: None,
    examples: &[
        Example {
            cells: &["1", "2025-09-21", "26.5", "406.3", "77.4", "0.702", "0.534", "0.02", "False", ""],
            expected: Expected::Applied(&[]),
        },
        Example {
            cells: &["1", "2030-09-21", "29.9", "", "", "1.0", "0", "0.4", "True", "2030.0"],
            expected: Expected::Applied(&[]),
        },
        Example {
            cells: &["1", "2025-9-5", "26.5", "26,5", "77.4", "1.2", "NaN", "-0.1", "maybe", "soon"],
            expected: Expected::Applied(&[
                ("date", "date_normalised"),
                ("rainfall", "uncastable_to_null"),
                ("flood_probability", "probability_to_zero"),
                ("cyclone_probability", "probability_to_zero"),
                ("heatwave_probability", "probability_to_zero"),
                ("is_projected", "uncastable_to_null"),
                ("projection_year", "uncastable_to_null"),
            ]),
        },
        Example {
            cells: &["1", "2025-09-21", "", "1", "1", "0", "0", "0", "f", ""],
            expected: Expected::Rejected("temperature", "required_empty"),
        },
        Example {
            cells: &["1", "2025-02-29", "26.5", "1", "1", "0", "0", "0", "f", ""],
            expected: Expected::Rejected("date", "uncastable"),
        },
    ],
};
