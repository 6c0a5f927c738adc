//! Which values of a file may be shown on the page.

use freshet_topics::Domain;

/// What is shown of a personal value.
pub(crate) const PERSONAL: &str = "(personal)";

/// A value as it may be shown.
///
/// | domain | column | shown |
/// |---|---|---|
/// | without personal columns | any | as it is |
/// | with them | one that is not personal | as it is |
/// | with them | a personal one | `(personal)` |
/// | with them | none or unknown: part of a line, which may hold anything | `(personal)` |
/// | that this program does not know | any | `(personal)` |
pub(crate) fn shown(domain: Option<&Domain>, column: Option<&str>, value: Option<String>) -> Option<String> {
    let is_open = domain.is_some_and(|domain| {
        let named = domain.columns.iter().find(|it| Some(it.name) == column);
        !domain.has_personal_columns() || named.is_some_and(|column| !column.personal)
    });
    value.map(|value| if is_open { value } else { PERSONAL.to_owned() })
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, Column, DOMAINS};

    use super::*;

    #[test]
    fn a_value_that_may_be_personal_is_not_shown() {
        let open = DOMAINS[0];
        let columns = vec![
            Column { personal: true, ..Column::optional("patient", Cast::Text) },
            Column::optional("ward", Cast::Text),
        ];
        let closed = Domain { columns: columns.leak(), ..*open };
        for (domain, column, expected) in [
            (Some(open), Some(open.columns[0].name), "Ann"),
            (Some(open), None, "Ann"),
            (Some(&closed), Some("ward"), "Ann"),
            (Some(&closed), Some("patient"), PERSONAL),
            (Some(&closed), Some("colour"), PERSONAL),
            (Some(&closed), None, PERSONAL),
            (None, Some("ward"), PERSONAL),
        ] {
            assert_eq!(shown(domain, column, Some("Ann".into())).as_deref(), Some(expected), "{column:?}");
        }
        assert_eq!(shown(Some(&closed), Some("patient"), None), None);
    }
}
