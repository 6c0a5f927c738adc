//! Judging a row: every cell by its column, then the rules over columns. Pure and context-free: the same text gives the
//! same verdict for ever, so that a replay decides as the first time did.

use freshet_sinks::apply::rejects::Refusal;
use freshet_topics::judge::{self, Notes, Refused};
use freshet_topics::{Cell, Domain, Kept, RawRow, Value};

/// The row has more cells than the header.
pub const EXTRA_CELLS: &str = "extra_cells";
/// A quote on the line is never closed, or has text after its end.
pub const STRAY_QUOTE: &str = "stray_quote";

/// A row that loads, and what was noted to make it so.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// One value a column of the domain.
    pub values: Vec<Value>,
    /// What was changed, and what was let pass.
    pub notes: Notes,
    /// What stands beside its values.
    pub kept: Kept,
}

/// Judges a row.
///
/// # Errors
/// Why the row cannot load: the first column at fault, in declaration order.
pub fn validate(domain: &'static Domain, row: &RawRow) -> Result<Accepted, Refusal> {
    if let Some(line) = &row.stray_quote {
        return Err(Refusal { rule: STRAY_QUOTE, column: None, value: Some(line.clone().into_owned()) });
    }
    if let Some(first) = row.extra.first() {
        return Err(Refusal { rule: EXTRA_CELLS, column: None, value: Some(first.clone().into_owned()) });
    }
    let values = Vec::with_capacity(domain.columns.len());
    let mut accepted = Accepted { values, notes: Notes::default(), kept: Kept::default() };
    for (column, cell) in domain.columns.iter().zip(&row.cells) {
        let value = judge::cell(column, cell, &mut accepted.notes).map_err(|why| refusal(column.name, cell, why))?;
        accepted.values.push(value);
    }
    judge::row(domain, &mut accepted.values, &mut accepted.notes)
        .map_err(|(column, why)| refusal(column, &row.cells[domain.index_of(column)], why))?;
    accepted.kept = Kept::of(domain, row, &accepted.notes);
    Ok(accepted)
}

fn refusal(column: &'static str, cell: &Cell, why: Refused) -> Refusal {
    let value = match cell {
        Cell::Text(text) => text.clone().into_owned(),
        Cell::Absent | Cell::Missing => String::new(),
    };
    Refusal { rule: why.rule, column: Some(column), value: Some(value) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use freshet_topics::judge::REQUIRED_EMPTY;
    use freshet_topics::pipeline::Pipeline;
    use freshet_topics::{DOMAINS, Instead, domains};

    /// A row of the domain that loads.
    fn good(domain: &Domain) -> RawRow<'static> {
        let examples = Pipeline::shipped().examples.iter().find(|examples| examples.domain == domain).expect("tests");
        examples.raw_row(&examples.rows[0])
    }

    fn row<'a>(cells: &[&'a str]) -> RawRow<'a> {
        let cells = cells.iter().map(|text| Cell::Text((*text).into())).collect();
        RawRow { cells, extra: Vec::new(), new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 }
    }

    #[test]
    fn the_rows_of_the_shipped_tests_get_the_verdicts_they_declare() {
        for examples in Pipeline::shipped().examples {
            for example in &examples.rows {
                let verdict = validate(examples.domain, &examples.raw_row(example));
                let verdict = match &verdict {
                    Ok(accepted) => Ok((accepted.values.as_slice(), &accepted.notes)),
                    Err(refusal) => Err((refusal.column, refusal.rule)),
                };
                assert_eq!(example.differs(examples.domain, verdict), None, "{}: {:?}", examples.file, example.cells);
            }
        }
    }

    #[test]
    fn a_row_with_cells_beyond_the_header_is_rejected() {
        for domain in DOMAINS {
            let mut long = good(domain);
            long.extra = vec!["beyond".into()];
            let refusal = validate(domain, &long).expect_err("rejected");
            assert_eq!((refusal.rule, refusal.value.as_deref()), (EXTRA_CELLS, Some("beyond")));
        }
    }

    #[test]
    fn an_absent_column_gets_its_default_and_a_missing_cell_is_empty() {
        for domain in DOMAINS {
            for (index, column) in domain.columns.iter().enumerate() {
                let mut absent = good(domain);
                absent.cells[index] = Cell::Absent;
                if column.absent != Instead::Reject {
                    let accepted = validate(domain, &absent).expect("accepted");
                    assert_eq!(accepted.values[index], column.absent.value(), "{}.{}", domain.name, column.name);
                }
                for empty in [Cell::Missing, Cell::Text("".into()), Cell::Text(" \t".into())] {
                    let mut missing = good(domain);
                    missing.cells[index] = empty;
                    match validate(domain, &missing) {
                        Ok(accepted) => assert_eq!(accepted.values[index], column.empty.value()),
                        Err(refusal) => {
                            assert_eq!(column.empty, Instead::Reject);
                            assert_eq!((refusal.column, refusal.rule), (Some(column.name), REQUIRED_EMPTY));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn text_is_trimmed_in_all_columns() {
        let locations = domains::by_name("locations").expect("registered");
        let accepted = validate(locations, &row(&["1", " Goa\t", " state ", "1", "1"])).expect("accepted");
        assert_eq!(accepted.values[1], Value::Text("Goa".into()));
        assert_eq!(accepted.values[2], Value::Text("state".into()));
    }

    #[test]
    fn beds_are_capped_only_by_a_total_that_was_given() {
        let hospital = domains::by_name("hospital").expect("registered");
        let cases = [
            ("100", "150", Value::Int(100), 1),
            ("100", "100", Value::Int(100), 0),
            ("", "150", Value::Int(150), 0),
            ("x", "150", Value::Int(150), 1),
            ("-1", "150", Value::Int(150), 1),
            ("-999999", "35", Value::Int(35), 1),
            ("100.5", "150", Value::Int(150), 1),
            ("100.0", "-150", Value::Int(0), 1),
            ("100", "", Value::Null, 0),
        ];
        for (total, available, expected, corrections) in cases {
            let cells = ["1", "2025-09-21", total, available, "", "", "", "", "", "f", ""];
            let accepted = validate(hospital, &row(&cells)).expect("accepted");
            assert_eq!(accepted.values[3], expected, "{total} {available}");
            assert_eq!(accepted.notes.corrections.len(), corrections, "{total} {available}");
        }
    }
}
