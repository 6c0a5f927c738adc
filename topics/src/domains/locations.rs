//! Locations: the places that every fact refers to, with the population that rates divide by.

use crate::{Absent, Cast, Column, Domain, Example, Expected, Rule};

pub(super) static LOCATIONS: Domain = Domain {
    name: "locations",
    table: "locations",
    patterns: &["locations/", "raw/locations.csv"],
    key: &["id"],
    partition_by: "id",
    event_time: None,
    columns: &[
        Column::required("id", Cast::Int).aliases(&["location_id", "locationid"]),
        Column::required("name", Cast::TrimmedText).aliases(&["district", "location_name"]),
        Column::optional("type", Cast::Text)
            .aliases(&["urban_rural", "location_type", "urbanrural"])
            .absent(Absent::Text("Unknown"))
            .reject_empty(),
        Column::optional("population", Cast::Int)
            .absent(Absent::Int(0))
            .reject_uncastable()
            .rules(&[Rule::NegativeRejected]),
        Column::optional("area", Cast::Double)
            .absent(Absent::Double(0.0))
            .reject_uncastable()
            .rules(&[Rule::NegativeRejected]),
    ],
    row_rules: &[],
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
};
