//! The registry of domains. A new domain is one file here and one line in the registry below.

use crate::Domain;

/// Declares the file of each domain and lists what it declares, so that a domain is one line.
macro_rules! registry {
    ($($file:ident::$domain:ident,)*) => {
        $(mod $file;)*

        /// Every domain, in the order in which lists and tables show them.
        pub static DOMAINS: &[&Domain] = &[$(&$file::$domain,)*];
    };
}

registry! {
    locations::LOCATIONS,
    climate::CLIMATE,
    health::HEALTH,
    hospital::HOSPITAL,
}

/// The domain of that name.
pub fn by_name(name: &str) -> Option<&'static Domain> {
    DOMAINS.iter().copied().find(|domain| domain.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declaration_names_only_columns_it_has() {
        for domain in DOMAINS {
            for column in domain.key.iter().chain([&domain.partition_by]) {
                domain.index_of(column);
            }
            if let Some(event_time) = &domain.event_time {
                domain.index_of(event_time.date);
                domain.index_of(event_time.projected);
            }
            for rule in domain.row_rules {
                let crate::RowRule::Cap { column, limit, .. } = rule;
                domain.index_of(column);
                domain.index_of(limit);
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
