//! Locations: the places that every fact refers to, with the population that rates divide by.

use std::sync::LazyLock;

use super::{DOUBLE_ZERO, INT_ZERO, NEGATIVE_REJECTED, NEGATIVE_REJECTED_DOUBLE};
use crate::{Cast, Column, Domain, Example, Expected, Instead, NewColumn, Value};

pub(super) static LOCATIONS: LazyLock<Domain> = LazyLock::new(|| Domain {
    name: "locations",
    description: "",
    table: "locations",
    patterns: &["locations/", "raw/locations.csv"],
    key: &["id"],
    partition_by: "id",
    event_time: None,
    columns: vec![
        Column { aliases: &["location_id", "locationid"], ..Column::required("id", Cast::Int) },
        Column { aliases: &["district", "location_name"], ..Column::required("name", Cast::TrimmedText) },
        Column {
            aliases: &["urban_rural", "location_type", "urbanrural"],
            absent: Instead::Value(Box::leak(Box::new(Value::Text("Unknown".into())))),
            empty: Instead::Reject,
            ..Column::optional("type", Cast::Text)
        },
        Column {
            absent: Instead::Value(&INT_ZERO),
            uncastable: Instead::Reject,
            rules: NEGATIVE_REJECTED,
            ..Column::optional("population", Cast::Int)
        },
        Column {
            absent: Instead::Value(&DOUBLE_ZERO),
            uncastable: Instead::Reject,
            rules: NEGATIVE_REJECTED_DOUBLE,
            ..Column::optional("area", Cast::Double)
        },
    ]
    .leak(),
    row_rules: &[],
    on_new_column: NewColumn::Ignore,
    missing_values: &[],
    latency: None,
    examples: &[
        Example { cells: &["1", "Andhra Pradesh", "state", "49577103", "162975"], expected: Expected::Applied(&[]) },
        Example { cells: &["7.0", "  Goa ", "state", "", ""], expected: Expected::Applied(&[]) },
        Example { cells: &["", "Nowhere", "state", "1", "1"], expected: Expected::Rejected("id", "required_empty") },
        Example { cells: &["x", "Nowhere", "state", "1", "1"], expected: Expected::Rejected("id", "uncastable") },
        Example { cells: &["2", "   ", "state", "1", "1"], expected: Expected::Rejected("name", "required_empty") },
        Example { cells: &["2", "Assam", "", "1", "1"], expected: Expected::Rejected("type", "required_empty") },
        Example {
            cells: &["2", "Assam", "state", "many", "1"],
            expected: Expected::Rejected("population", "uncastable"),
        },
        Example { cells: &["2", "Assam", "state", "1", "-0.5"], expected: Expected::Rejected("area", "negative") },
    ],
});
