//! Judging a cell: cast it, then apply the rules of its column. Pure and context-free: the same text gives the same
//! verdict for ever, so that a replay decides as the first time did.
//!
//! | cell | column | value | counted as |
//! |---|---|---|---|
//! | no such column | a value or NULL for it | that | |
//! | empty, or blanks alone | rejects | – | [`REQUIRED_EMPTY`] |
//! | | NULL | NULL | |
//! | | a value for it | that | [`EMPTY_TO_DEFAULT`], or nothing where an absent column has the same |
//! | stands for "not known" | rejects empty cells | – | [`MISSING_VALUE`] |
//! | | NULL or a value for them | that | [`MISSING_VALUE`] |
//! | does not cast | rejects | – | [`UNCASTABLE`] |
//! | | NULL | NULL | [`UNCASTABLE_TO_NULL`] |
//! | | a value for it | that | [`UNCASTABLE_TO_DEFAULT`] |
//! | breaks a rule | – | what the rule says | the rule's name |

use crate::cast::{self, Casted, GROUPING_REMOVED};
use crate::rules::{Otherwise, Rule};
use crate::{Cell, Column, Domain, Instead, Value};

/// A required cell is empty.
pub const REQUIRED_EMPTY: &str = "required_empty";
/// An empty cell became the value that its column has for it.
pub const EMPTY_TO_DEFAULT: &str = "empty_to_default";
/// A cell stands for "not known".
pub const MISSING_VALUE: &str = "missing_value";
/// A cell does not cast and its column takes nothing for it.
pub const UNCASTABLE: &str = "uncastable";
/// A cell does not cast and became NULL.
pub const UNCASTABLE_TO_NULL: &str = "uncastable_to_null";
/// A cell does not cast and became the value that its column has for it.
pub const UNCASTABLE_TO_DEFAULT: &str = "uncastable_to_default";

/// What was noted on the way to the values of a row, each as (column, rule).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Values that were changed, in column order, rules over columns last.
    pub corrections: Vec<(&'static str, &'static str)>,
    /// Values that break a rule and load as they are.
    pub warnings: Vec<(&'static str, &'static str)>,
}

/// Why a cell rejects its row, or its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The rule that it is counted under.
    pub rule: &'static str,
    /// Whether the contract rejects the whole file for it.
    pub whole_file: bool,
}

/// The value of a cell.
///
/// # Errors
/// Why the row of the cell cannot load.
pub fn cell(column: &'static Column, cell: &Cell, notes: &mut Notes) -> Result<Value, Refused> {
    let text = match cell {
        Cell::Absent => return Ok(column.absent.value()),
        Cell::Missing => "",
        Cell::Text(text) => text.as_ref(),
    };
    if cast::is_blank(text) {
        // Where the file need not say it, the row need not.
        let default = if column.empty == column.absent { "" } else { EMPTY_TO_DEFAULT };
        return instead(column, column.empty, [REQUIRED_EMPTY, "", default], notes);
    }
    if !column.missing_values.is_empty() && column.missing_values.contains(&cast::trim(text)) {
        return instead(column, column.empty, [MISSING_VALUE; 3], notes);
    }
    let read = match column.decimal_comma {
        true => with_point(text).and_then(|(number, is_grouped)| {
            let grouping = is_grouped.then_some(GROUPING_REMOVED);
            column.cast.read(&number).map(|casted| Casted { correction: casted.correction.or(grouping), ..casted })
        }),
        false => column.cast.read(text),
    };
    let Some(Casted { mut value, correction }) = read else {
        return instead(column, column.uncastable, [UNCASTABLE, UNCASTABLE_TO_NULL, UNCASTABLE_TO_DEFAULT], notes);
    };
    notes.corrections.extend(correction.map(|rule| (column.name, rule)));
    for rule in column.rules {
        apply(column, rule, &mut value, notes)?;
    }
    Ok(value)
}

/// A number with a decimal comma as one with a decimal point, and whether points between its groups of three digits were
/// taken out; `None` where points stand elsewhere.
///
/// | text | number | grouped |
/// |---|---|---|
/// | `26,5` | `26.5` | no |
/// | `1.234,5` | `1234.5` | yes |
/// | `26.5` | none | |
fn with_point(text: &str) -> Option<(String, bool)> {
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
    let point = if fraction.is_some() { "." } else { "" };
    Some((format!("{}{point}{}", whole.replace('.', ""), fraction.unwrap_or_default()), is_grouped))
}

/// What stands where a cell says nothing, noted under the name for a reject, for NULL or for a value.
fn instead(column: &Column, instead: Instead, names: [&'static str; 3], notes: &mut Notes) -> Result<Value, Refused> {
    let [reject, null, default] = names;
    let name = match instead {
        Instead::Reject => return Err(Refused { rule: reject, whole_file: false }),
        Instead::Null => null,
        Instead::Value(_) => default,
    };
    if !name.is_empty() {
        notes.corrections.push((column.name, name));
    }
    Ok(instead.value())
}

fn apply(column: &Column, rule: &'static Rule, value: &mut Value, notes: &mut Notes) -> Result<(), Refused> {
    let Some(limit) = rule.broken(value) else { return Ok(()) };
    let corrected = match rule.otherwise {
        Otherwise::Reject => return Err(Refused { rule: rule.name, whole_file: false }),
        Otherwise::Fail => return Err(Refused { rule: rule.name, whole_file: true }),
        Otherwise::Warn => {
            notes.warnings.push((column.name, rule.name));
            return Ok(());
        }
        Otherwise::Null => Value::Null,
        // A contract with a rule that a value cannot be brought to is refused.
        Otherwise::Zero => column.cast.zero().unwrap_or(Value::Null),
        Otherwise::Cap => limit.cap(value).unwrap_or(Value::Null),
    };
    *value = corrected;
    notes.corrections.push((column.name, rule.name));
    Ok(())
}

/// Applies the rules over two columns to the values of a row.
///
/// # Errors
/// The column at fault, and why its row cannot load.
pub fn row(domain: &'static Domain, values: &mut [Value], notes: &mut Notes) -> Result<(), (&'static str, Refused)> {
    for rule in domain.row_rules {
        let (at, other) = (domain.index_of(rule.column), domain.index_of(rule.other));
        let other_is_corrected = notes.corrections.iter().any(|(column, _)| *column == rule.other);
        if rule.holds(&values[at], &values[other], other_is_corrected) {
            continue;
        }
        values[at] = match rule.otherwise {
            Otherwise::Cap => values[other].clone(),
            Otherwise::Null | Otherwise::Zero => Value::Null,
            Otherwise::Warn => {
                notes.warnings.push((rule.column, rule.name));
                continue;
            }
            Otherwise::Reject | Otherwise::Fail => {
                return Err((rule.column, Refused { rule: rule.name, whole_file: false }));
            }
        };
        notes.corrections.push((rule.column, rule.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cast;

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
            let value = cell(column, &Cell::Text(text.into()), &mut notes);
            let read = cast.read(expected.unwrap_or_default()).map(|read| read.value.to_string());
            assert_eq!(value.ok().map(|value| value.to_string()), read, "{text}");
            assert_eq!(notes.corrections.first().map(|(_, rule)| *rule), counted, "{text}");
        }
    }
}
