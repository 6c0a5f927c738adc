//! Numbers with a decimal comma, rewritten with a decimal point.

use crate::cast;

/// Rewrites a number with a decimal comma into `scratch`, with a decimal point, and returns whether points between
/// groups of three digits were removed; `None` if there are points elsewhere.
///
/// | text | number | grouped |
/// |---|---|---|
/// | `26,5` | `26.5` | no |
/// | `1.234,5` | `1234.5` | yes |
/// | `26.5` | none | |
pub(super) fn with_point(text: &str, scratch: &mut String) -> Option<bool> {
    let (whole, fraction) = match text.split_once(',') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let is_grouped = whole.contains('.');
    let mut groups = cast::trim(whole).trim_start_matches(['-', '+']).split('.');
    let is_digits = |group: &str, least: usize| {
        (least..=3).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_digit())
    };
    if is_grouped
        && !(groups.next().is_some_and(|first| is_digits(first, 1)) && groups.all(|group| is_digits(group, 3)))
    {
        return None;
    }
    scratch.clear();
    scratch.extend(whole.split('.'));
    if let Some(fraction) = fraction {
        scratch.push('.');
        scratch.push_str(fraction);
    }
    Some(is_grouped)
}

#[cfg(test)]
mod tests {
    use crate::cast::{self, GROUPING_REMOVED};
    use crate::judge::{Notes, cell};
    use crate::{Cast, Cell, Column, Instead};

    #[test]
    fn a_decimal_comma_is_read_where_the_contract_says_so() {
        let price = Cast::Numeric { precision: 8, scale: 2 };
        for (cast, text, expected, counted) in [
            (Cast::Double, "26,5", Some("26.5"), None),
            (Cast::Double, " -26,5 ", Some("-26.5"), None),
            (Cast::Double, "1.234,5", Some("1234.5"), Some(GROUPING_REMOVED)),
            (Cast::Double, "1,5e3", Some("1500.0"), None),
            (Cast::Double, "NaN", Some("NaN"), None),
            (Cast::Double, "26.5", None, None),
            (Cast::Double, "1,234.5", None, None),
            (Cast::Double, "1.23,5", None, None),
            (Cast::Int, "-1.234.567", Some("-1234567"), Some(GROUPING_REMOVED)),
            (Cast::Int, "7,0", Some("7"), None),
            (Cast::Int, "7,5", Some("7"), Some(cast::FRACTION_CUT)),
            (price, "1.234,50", Some("1234.50"), Some(GROUPING_REMOVED)),
        ] {
            let plain = Column { uncastable: Instead::Reject, ..Column::optional("n", cast) };
            let column: &'static Column = Box::leak(Box::new(Column { decimal_comma: true, ..plain }));
            let mut notes = Notes::default();
            let raw = Cell::Text(text.into());
            let value = cell(column, &raw, &mut notes);
            let read = cast.read(expected.unwrap_or_default()).map(|read| read.value.to_string());
            assert_eq!(value.ok().map(|value| value.to_string()), read, "{text}");
            assert_eq!(notes.corrections.first().map(|note| note.rule), counted, "{text}");
        }
    }
}
