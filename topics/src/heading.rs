//! Headings as they are compared: which column of a domain a heading means.

use crate::{Column, Domain};

/// A heading in lower case and without separators between words: `Location ID`, `location-id` and `location_id` are the
/// same.
pub fn folded(name: &str) -> String {
    let parts = |character: &char| matches!(character, ' ' | '_' | '-' | '.') || is_invisible(*character);
    name.chars().filter(|character| !parts(character)).flat_map(char::to_lowercase).collect()
}

/// Whether the character is invisible, or looks like a blank but is not one.
pub fn is_invisible(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    is_format || character.is_control() || (character.is_whitespace() && character != ' ')
}

/// The columns of a domain that a heading may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// Their places in the domain: none if it has no such column, several if it is not clear which one is meant.
    pub columns: Vec<usize>,
    /// Whether the heading is their name, and not a synonym.
    pub is_name: bool,
}

impl Candidates {
    /// Those of a heading, whatever the other headings are.
    ///
    /// | heading | columns | means |
    /// |---|---|---|
    /// | `ICU_Beds` | `icubeds`, `icu_beds` | the second one |
    /// | `ICU Beds` | `icu_beds` | that one |
    /// | `icu beds` | `icubeds`, `icu_beds` | either |
    /// | `intensive care` | `icu_beds` with this synonym | that one, unless a column has this name |
    /// | `note` | none of this name | none |
    pub fn of(domain: &Domain, heading: &str) -> Candidates {
        // Two columns of a contract may differ only in the separators between their words.
        let spelled = places(domain, |column| column.name.eq_ignore_ascii_case(heading));
        if !spelled.is_empty() {
            return Candidates { columns: spelled, is_name: true };
        }
        let wanted = folded(heading);
        let named = places(domain, |column| folded(column.name) == wanted);
        if !named.is_empty() {
            return Candidates { columns: named, is_name: true };
        }
        let is_synonym = |column: &Column| column.aliases.iter().any(|alias| folded(alias) == wanted);
        Candidates { columns: places(domain, is_synonym), is_name: false }
    }
}

/// The column that a heading means, by its place in the domain; `None` if there is none, or if it is not clear which.
pub fn column_of(domain: &Domain, heading: &str) -> Option<usize> {
    match Candidates::of(domain, heading).columns[..] {
        [column] => Some(column),
        _ => None,
    }
}

fn places(domain: &Domain, is_meant: impl Fn(&Column) -> bool) -> Vec<usize> {
    domain.columns.iter().enumerate().filter(|(_, column)| is_meant(column)).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cast, DOMAINS};

    #[test]
    fn case_and_what_parts_words_do_not_matter() {
        for name in ["location_id", "Location ID", "LOCATION-ID", "location.id", "Location\u{a0}Id", "locationId"] {
            assert_eq!(folded(name), "locationid", "{name}");
        }
        assert_ne!(folded("location/id"), "locationid");
    }

    #[test]
    fn a_heading_means_a_column_by_name_before_one_by_synonym() {
        let mut columns = DOMAINS[0].columns.to_vec();
        let first = columns.len();
        columns.extend([
            Column { aliases: &["ward beds", "icu.beds"], ..Column::optional("beds", Cast::Int) },
            Column::optional("icubeds", Cast::Int),
            Column::optional("icu_beds", Cast::Int),
        ]);
        let domain = Domain { columns: columns.leak(), ..*DOMAINS[0] };
        let cases = [
            ("Beds", Some(0)),
            ("Ward-Beds", Some(0)),
            ("ICU_BEDS", Some(2)),
            ("icu beds", None),
            ("beds free", None),
            ("", None),
        ];
        for (heading, expected) in cases {
            assert_eq!(column_of(&domain, heading), expected.map(|at: usize| first + at), "{heading}");
        }
        assert_eq!(
            Candidates::of(&domain, "icu beds"),
            Candidates { columns: vec![first + 1, first + 2], is_name: true }
        );
        assert_eq!(Candidates::of(&domain, "Ward-Beds"), Candidates { columns: vec![first], is_name: false });
    }
}
