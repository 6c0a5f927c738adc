//! Headings as they are compared: which column of a domain a heading means.

use crate::Domain;

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

/// The column that this heading names, by its place in the domain.
///
/// | heading | columns | means |
/// |---|---|---|
/// | `ICU Beds` | `icu_beds` | that one |
/// | `icu beds` | `icubeds`, `icu_beds` | none: it may be either |
/// | `intensive care` | `icu_beds` with this synonym | that one, unless a column has this name |
/// | `note` | none of this name | none |
pub fn column_of(domain: &Domain, heading: &str) -> Option<usize> {
    let wanted = folded(heading);
    let columns = || domain.columns.iter().enumerate();
    let spelled = columns().find(|(_, column)| column.name.eq_ignore_ascii_case(heading));
    if let Some((at, _)) = spelled {
        return Some(at);
    }
    let mut named = columns().filter(|(_, column)| folded(column.name) == wanted);
    let synonym = || columns().find(|(_, column)| column.aliases.iter().any(|alias| folded(alias) == wanted));
    match (named.next(), named.next()) {
        (Some(_), Some(_)) => None,
        (Some((at, _)), None) => Some(at),
        (None, _) => synonym().map(|(at, _)| at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cast, Column, DOMAINS};

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
    }
}
