//! Judging a row: cast every cell, apply the column's rules, then the rules over columns. Pure and
//! context-free: the same text gives the same verdict for ever, so that a replay decides as the first time did.

use std::borrow::Cow;

use freshet_sinks::apply::rejects::Refusal;
use freshet_topics::cast::{self, Casted};
use freshet_topics::{Cast, Cell, Column, Domain, RawRow, RowRule, Rule, Value};

/// A required cell is empty.
pub const REQUIRED_EMPTY: &str = "required_empty";
/// A cell does not cast and its column does not take NULL for it.
pub const UNCASTABLE: &str = "uncastable";
/// A cell does not cast and became NULL.
pub const UNCASTABLE_TO_NULL: &str = "uncastable_to_null";
/// An amount that cannot be negative is.
pub const NEGATIVE: &str = "negative";
/// A count that cannot be negative became 0.
pub const NEGATIVE_TO_ZERO: &str = "negative_to_zero";
/// A probability outside 0..=1 became 0.
pub const PROBABILITY_TO_ZERO: &str = "probability_to_zero";
/// The row has more cells than the header.
pub const EXTRA_CELLS: &str = "extra_cells";

/// A row that loads, and what was changed to make it so.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// One value a column of the domain.
    pub values: Vec<Value>,
    /// Corrections as (column, rule), in column order, rules over columns last.
    pub corrections: Vec<(&'static str, &'static str)>,
}

/// Judges a row.
///
/// # Errors
/// Why the row cannot load: the first column at fault, in declaration order.
pub fn validate(domain: &'static Domain, row: &RawRow) -> Result<Accepted, Refusal> {
    if let Some(first) = row.extra.first() {
        return Err(Refusal { rule: EXTRA_CELLS, column: None, value: Some(first.clone().into_owned()) });
    }
    let mut accepted = Accepted { values: Vec::with_capacity(domain.columns.len()), corrections: Vec::new() };
    for (column, cell) in domain.columns.iter().zip(&row.cells) {
        let value = judge_cell(column, cell, &mut accepted.corrections)?;
        accepted.values.push(value);
    }
    for rule in domain.row_rules {
        apply_row_rule(domain, rule, &mut accepted);
    }
    Ok(accepted)
}

type Corrections = Vec<(&'static str, &'static str)>;

fn judge_cell(column: &'static Column, cell: &Cell, corrections: &mut Corrections) -> Result<Value, Refusal> {
    let text = match cell {
        Cell::Absent => return Ok(column.absent.value()),
        Cell::Missing => "",
        Cell::Text(text) => text.as_ref(),
    };
    let refuse = |rule| Refusal { rule, column: Some(column.name), value: Some(text.to_owned()) };
    if cast::is_blank(text) {
        return if column.reject_empty { Err(refuse(REQUIRED_EMPTY)) } else { Ok(Value::Null) };
    }
    let Some(Casted { mut value, correction }) = cast_text(column.cast, text) else {
        if column.reject_uncastable {
            return Err(refuse(UNCASTABLE));
        }
        corrections.push((column.name, UNCASTABLE_TO_NULL));
        return Ok(Value::Null);
    };
    corrections.extend(correction.map(|rule| (column.name, rule)));
    for rule in column.rules {
        match (rule, &value) {
            (Rule::NegativeToZero, Value::Int(number)) if *number < 0 => {
                value = Value::Int(0);
                corrections.push((column.name, NEGATIVE_TO_ZERO));
            }
            (Rule::ProbabilityToZero, Value::Double(number)) if !(0.0..=1.0).contains(number) => {
                value = Value::Double(0.0);
                corrections.push((column.name, PROBABILITY_TO_ZERO));
            }
            (Rule::NegativeRejected, Value::Int(number)) if *number < 0 => return Err(refuse(NEGATIVE)),
            (Rule::NegativeRejected, Value::Double(number)) if *number < 0.0 => return Err(refuse(NEGATIVE)),
            _ => {}
        }
    }
    Ok(value)
}

fn cast_text(to: Cast, text: &str) -> Option<Casted<Value>> {
    fn wrap<T>(casted: Casted<T>, variant: fn(T) -> Value) -> Casted<Value> {
        Casted { value: variant(casted.value), correction: casted.correction }
    }
    let plain = |text: Cow<str>| Casted { value: Value::Text(text.into()), correction: None };
    match to {
        Cast::Int => cast::int(text).map(|casted| wrap(casted, Value::Int)),
        Cast::Double => cast::double(text).map(|casted| wrap(casted, Value::Double)),
        Cast::Bool => cast::boolean(text).map(|casted| wrap(casted, Value::Bool)),
        Cast::Date => cast::date(text).map(|casted| wrap(casted, Value::Date)),
        Cast::Text => Some(plain(text.into())),
        Cast::TrimmedText => Some(plain(cast::trim(text).into())),
    }
}

fn apply_row_rule(domain: &Domain, rule: &RowRule, accepted: &mut Accepted) {
    let RowRule::Cap { column, limit, rule } = rule;
    let (at, limit_at) = (domain.index_of(column), domain.index_of(limit));
    if let (Value::Int(value), Value::Int(limit)) = (&accepted.values[at], &accepted.values[limit_at])
        && value > limit
    {
        accepted.values[at] = Value::Int(*limit);
        accepted.corrections.push((domain.columns[at].name, rule));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::{Absent, DOMAINS, Expected, domains};

    fn row<'a>(cells: &[&'a str]) -> RawRow<'a> {
        RawRow { cells: cells.iter().map(|text| Cell::Text((*text).into())).collect(), extra: Vec::new() }
    }

    #[test]
    fn every_domains_examples_get_the_verdict_they_declare() {
        for domain in DOMAINS {
            for example in domain.examples {
                let verdict = validate(domain, &row(example.cells));
                match (&example.expected, verdict) {
                    (Expected::Applied(corrections), Ok(accepted)) => {
                        assert_eq!(accepted.corrections, *corrections, "{}: {:?}", domain.name, example.cells);
                    }
                    (Expected::Rejected(column, rule), Err(refusal)) => {
                        assert_eq!((refusal.column, refusal.rule), (Some(*column), *rule), "{:?}", example.cells);
                    }
                    (expected, verdict) => panic!("{:?}: expected {expected:?}, got {verdict:?}", example.cells),
                }
            }
        }
    }

    #[test]
    fn a_row_with_cells_beyond_the_header_is_rejected() {
        for domain in DOMAINS {
            let mut good = row(domain.examples[0].cells);
            good.extra = vec!["beyond".into()];
            let refusal = validate(domain, &good).expect_err("rejected");
            assert_eq!((refusal.rule, refusal.value.as_deref()), (EXTRA_CELLS, Some("beyond")));
        }
    }

    #[test]
    fn an_absent_column_gets_its_default_and_a_missing_cell_is_empty() {
        for domain in DOMAINS {
            for (index, column) in domain.columns.iter().enumerate() {
                let mut absent = row(domain.examples[0].cells);
                absent.cells[index] = Cell::Absent;
                if column.absent != Absent::RejectFile {
                    let accepted = validate(domain, &absent).expect("accepted");
                    assert_eq!(accepted.values[index], column.absent.value(), "{}.{}", domain.name, column.name);
                }
                for empty in [Cell::Missing, Cell::Text("".into()), Cell::Text(" \t".into())] {
                    let mut missing = row(domain.examples[0].cells);
                    missing.cells[index] = empty;
                    match validate(domain, &missing) {
                        Ok(accepted) => assert_eq!(accepted.values[index], Value::Null),
                        Err(refusal) => {
                            assert!(column.reject_empty);
                            assert_eq!((refusal.column, refusal.rule), (Some(column.name), REQUIRED_EMPTY));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn text_keeps_its_blanks_but_for_names() {
        let locations = domains::by_name("locations").expect("registered");
        let accepted = validate(locations, &row(&["1", " Goa\t", " state ", "1", "1"])).expect("accepted");
        assert_eq!(accepted.values[1], Value::Text("Goa".into()));
        assert_eq!(accepted.values[2], Value::Text(" state ".into()));
    }

    #[test]
    fn beds_are_capped_only_where_both_are_known() {
        let hospital = domains::by_name("hospital").expect("registered");
        let cases = [
            ("100", "150", Value::Int(100), 1),
            ("100", "100", Value::Int(100), 0),
            ("", "150", Value::Int(150), 0),
            ("x", "150", Value::Int(150), 1),
            ("-1", "150", Value::Int(0), 2),
            ("100", "", Value::Null, 0),
        ];
        for (total, available, expected, corrections) in cases {
            let cells = ["1", "2025-09-21", total, available, "", "", "", "", "", "f", ""];
            let accepted = validate(hospital, &row(&cells)).expect("accepted");
            assert_eq!(accepted.values[3], expected, "{total} {available}");
            assert_eq!(accepted.corrections.len(), corrections, "{total} {available}");
        }
    }
}
