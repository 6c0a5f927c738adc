//! The registry of domains.

mod climate;
mod health;
mod hospital;
mod locations;

use std::ops::Deref;
use std::sync::LazyLock;

use crate::rules::{Limit, Otherwise, Rule};
use crate::{Domain, Observed, Value};

static SHIPPED: LazyLock<Vec<&'static Domain>> =
    LazyLock::new(|| vec![&*locations::LOCATIONS, &climate::CLIMATE, &health::HEALTH, &hospital::HOSPITAL]);

/// The shipped domains as a slice.
#[derive(Debug, Clone, Copy)]
pub struct Shipped;

/// Every shipped domain, in the order in which lists and tables show them.
pub const DOMAINS: Shipped = Shipped;

/// The shipped domains.
pub fn all() -> &'static [&'static Domain] {
    &SHIPPED
}

impl Deref for Shipped {
    type Target = [&'static Domain];

    fn deref(&self) -> &Self::Target {
        all()
    }
}

impl IntoIterator for Shipped {
    type Item = &'static &'static Domain;
    type IntoIter = std::slice::Iter<'static, &'static Domain>;

    fn into_iter(self) -> Self::IntoIter {
        all().iter()
    }
}

/// The shipped domain of that name.
pub fn by_name(name: &str) -> Option<&'static Domain> {
    all().iter().copied().find(|domain| domain.name == name)
}

static FALSE: Value = Value::Bool(false);
static INT_ZERO: Value = Value::Int(0);
static DOUBLE_ZERO: Value = Value::Double(0.0);
static DOUBLE_ONE: Value = Value::Double(1.0);
const OBSERVED: Observed = Observed { column: "is_projected", value: &FALSE };
static NEGATIVE_TO_ZERO: &[Rule] =
    &[Rule { name: "negative_to_zero", limits: &[Limit::Minimum(&INT_ZERO)], otherwise: Otherwise::Zero }];
static NEGATIVE_REJECTED: &[Rule] =
    &[Rule { name: "negative", limits: &[Limit::Minimum(&INT_ZERO)], otherwise: Otherwise::Reject }];
static NEGATIVE_REJECTED_DOUBLE: &[Rule] =
    &[Rule { name: "negative", limits: &[Limit::Minimum(&DOUBLE_ZERO)], otherwise: Otherwise::Reject }];
static PROBABILITY_TO_ZERO: &[Rule] = &[Rule {
    name: "probability_to_zero",
    limits: &[Limit::Minimum(&DOUBLE_ZERO), Limit::Maximum(&DOUBLE_ONE)],
    otherwise: Otherwise::Zero,
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declaration_names_only_columns_it_has() {
        for domain in DOMAINS {
            for column in domain.key.iter().chain([&domain.partition_by]) {
                domain.index_of(column);
            }
            for column in domain.event_time.iter().flat_map(|event_time| event_time.columns()) {
                domain.index_of(column);
            }
            for rule in domain.row_rules {
                domain.index_of(rule.column);
                domain.index_of(rule.other);
            }
            for example in domain.examples {
                assert_eq!(example.cells.len(), domain.columns.len(), "{}: {:?}", domain.name, example.cells);
            }
            assert!(!domain.examples.is_empty(), "{} needs examples", domain.name);
        }
    }

    #[test]
    fn a_key_belongs_to_one_domain_at_most() {
        let keys = [
            ("climate/2025-09-21.csv", Some("climate")),
            ("climate/deep/er.csv.gz", Some("climate")),
            ("climate/", None),
            ("raw/climate_data.csv", Some("climate")),
            ("raw/locations.csv", Some("locations")),
            ("raw/other.csv", None),
            ("climates/x.csv", None),
            ("health/x.csv", Some("health")),
            ("hospital/x.csv", Some("hospital")),
        ];
        for (key, expected) in keys {
            let found: Vec<_> =
                DOMAINS.iter().filter(|domain| domain.matches(key, [])).map(|domain| domain.name).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{key}");
        }
    }
}
