use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::cells::Cells;
use crate::message::packed::{Head, Pack};
use crate::message::push_rows;
use crate::pipeline::Pipeline;
use crate::{Comparison, DOMAINS, Domain, Limit, NewColumn, Provenance, RawRow, RowRule, domains, kept};

/// A row of the domain that loads.
fn good(domain: &Domain) -> RawRow<'static> {
    let examples = Pipeline::shipped().examples.iter().find(|examples| examples.domain == domain).expect("tests");
    examples.raw_row(&examples.rows[0])
}

fn raw_row<'a>(cells: &[&'a str]) -> RawRow<'a> {
    let cells = cells.iter().map(|text| Cell::Text((*text).into())).collect();
    RawRow { cells, extra: Vec::new(), new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 }
}

#[test]
fn the_rows_of_the_shipped_tests_get_the_verdicts_they_declare() {
    for examples in Pipeline::shipped().examples {
        for example in &examples.rows {
            let judged = row(examples.domain, &examples.raw_row(example));
            assert_eq!(example.differs(examples.domain, &judged), None, "{}: {:?}", examples.file, example.cells);
        }
    }
}

#[test]
fn a_row_with_cells_beyond_the_header_is_rejected() {
    for domain in DOMAINS {
        let mut long = good(domain);
        long.extra = vec!["beyond".into(), "it".into()];
        let judged = row(domain, &long);
        let refusal = judged.refusal(0).expect("rejected");
        assert_eq!((refusal.rule, refusal.value.as_deref()), (EXTRA_CELLS, Some("beyond")));
    }
}

#[test]
fn a_row_with_a_stray_quote_is_rejected_with_its_line() {
    for domain in DOMAINS {
        let cells = vec![Cell::Absent; domain.columns.len()];
        let stray = RawRow { cells, stray_quote: Some("7,\"Goa".into()), ..raw_row(&[]) };
        let judged = row(domain, &stray);
        let refusal = judged.refusal(0).expect("rejected");
        assert_eq!((refusal.rule, refusal.column, refusal.value.as_deref()), (STRAY_QUOTE, None, Some("7,\"Goa")));
    }
}

#[test]
fn an_absent_column_gets_its_default_and_a_missing_cell_is_empty() {
    for domain in DOMAINS {
        for (index, column) in domain.columns.iter().enumerate() {
            let mut absent = good(domain);
            absent.cells[index] = Cell::Absent;
            if column.absent != Instead::Reject {
                let judged = row(domain, &absent);
                assert_eq!(judged.refusal(0), None, "{}.{}", domain.name, column.name);
                assert_eq!(judged.values.get(index, 0), column.absent.value(), "{}.{}", domain.name, column.name);
            }
            for empty in [Cell::Missing, Cell::Text("".into()), Cell::Text(" \t".into())] {
                let mut missing = good(domain);
                missing.cells[index] = empty;
                let judged = row(domain, &missing);
                match judged.refusal(0) {
                    None => assert_eq!(judged.values.get(index, 0), column.empty.value()),
                    Some(refusal) => {
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
    let judged = row(locations, &raw_row(&["1", " Goa\t", " state ", "1", "1"]));
    assert_eq!(judged.refusal(0), None);
    assert_eq!(judged.values.get(1, 0), Value::Text("Goa"));
    assert_eq!(judged.values.get(2, 0), Value::Text("state"));
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
        let judged = row(hospital, &raw_row(&cells));
        assert_eq!(judged.refusal(0), None, "{total} {available}");
        assert_eq!(judged.values.get(3, 0), expected, "{total} {available}");
        assert_eq!(judged.corrections.of(0).len(), corrections, "{total} {available}");
    }
}

/// A domain with an example of everything that judging handles.
fn everything() -> &'static Domain {
    fn leak<T>(value: T) -> &'static T {
        Box::leak(Box::new(value))
    }
    let rule = |name, limit, otherwise| Rule { name, limits: vec![limit].leak(), otherwise };
    let rules = |rules: Vec<Rule>| -> &'static [Rule] { rules.leak() };
    let (zero, nine) = (leak(Value::BigInt(0)), leak(Value::BigInt(9)));
    let price = Cast::Numeric { precision: 8, scale: 2 };
    let columns = vec![
        Column::required("id", Cast::Int),
        Column {
            rules: rules(vec![
                rule("shortened", Limit::MaxLength(6), Otherwise::Cap),
                rule("odd", Limit::MinLength(2), Otherwise::Warn),
            ]),
            ..Column::optional("name", Cast::TrimmedText)
        },
        Column {
            rules: rules(vec![
                rule("negative_to_zero", Limit::Minimum(zero), Otherwise::Zero),
                rule("many", Limit::Below(nine), Otherwise::Reject),
            ]),
            ..Column::optional("came", Cast::BigInt)
        },
        Column { empty: Instead::Value(nine), ..Column::optional("seen", Cast::BigInt) },
        Column { decimal_comma: true, missing_values: &["NA"], ..Column::optional("price", price) },
        Column { uncastable: Instead::Reject, ..Column::optional("day", Cast::Date) },
        Column::optional("note", Cast::Text),
        Column::optional("ratio", Cast::Double),
    ];
    let row_rule = |name, column, other, otherwise| {
        let comparison = Comparison::AtMost;
        RowRule { name, column, comparison, other, otherwise }
    };
    leak(Domain {
        columns: columns.leak(),
        row_rules: vec![
            row_rule("noted_late", "note", "name", Otherwise::Warn),
            row_rule("seen_capped", "seen", "came", Otherwise::Cap),
            row_rule("more_seen", "came", "seen", Otherwise::Reject),
            row_rule("named", "note", "name", Otherwise::Cap),
        ]
        .leak(),
        on_new_column: NewColumn::Keep,
        keeps_corrections: true,
        ..*DOMAINS[0]
    })
}

const TEXTS: [&str; 16] = [
    "",
    " ",
    "7",
    "-3",
    "12.7",
    "1,234",
    "x",
    "NA",
    "2025-9-5",
    "2025-09-05",
    "1.234,5",
    "NaN",
    "1e3",
    " a \"long\" text ",
    "é",
    "3",
];

#[test]
fn every_correction_of_a_cell_is_one_that_its_column_may_get() {
    let mut corrected = 0;
    for column in DOMAINS.into_iter().flat_map(|domain| domain.columns).chain(everything().columns) {
        let may_get = corrections(column);
        for text in TEXTS.into_iter().chain(["1e400", "12.345", "2025-09-05 10:30"]) {
            let mut notes = Notes::default();
            // A cell that rejects its row is not corrected.
            cell(column, &Cell::Text(text.into()), &mut notes).ok();
            for Note { rule, .. } in notes.corrections {
                corrected += 1;
                assert!(
                    may_get.contains(&rule),
                    "{}: {text:?} is corrected by {rule}, not by {may_get:?}",
                    column.name
                );
            }
        }
    }
    assert!(corrected > 20, "{corrected}");
}

/// Values of messages: mostly rows, valid and invalid, and some that are not rows.
fn message(domain: &'static Domain) -> impl Strategy<Value = Vec<u8>> {
    let text = || (0..TEXTS.len()).prop_map(|at| Cow::Borrowed(TEXTS[at]));
    let cell = prop_oneof![
        1 => Just(Cell::Absent),
        1 => Just(Cell::Missing),
        8 => text().prop_map(Cell::Text),
    ];
    let cells = proptest::collection::vec(cell, domain.columns.len() - 1);
    let rare = |size: usize| prop_oneof![6 => Just(0..1), 1 => Just(1..size)];
    let extra = rare(3).prop_flat_map(move |size| proptest::collection::vec(text(), size));
    let new_cells = rare(3).prop_flat_map(move |size| proptest::collection::btree_map(text(), text(), size));
    let stray = prop_oneof![9 => Just(None), 1 => text().prop_map(Some)];
    let overtaken = prop_oneof![9 => Just(0), 1 => 1..9u32];
    let row =
        (cells, extra, new_cells, stray, overtaken).prop_map(move |(cells, extra, new_cells, stray, overtaken)| {
            let cells = std::iter::once(Cell::Text("1".into())).chain(cells);
            // A line with a stray quote has no cells.
            let cells = cells.map(|cell| if stray.is_some() { Cell::Absent } else { cell }).collect();
            let mut value = Vec::new();
            RawRow { cells, extra, new_cells, stray_quote: stray, overtaken }.encode(domain, &mut value);
            value
        });
    let none =
        ["", "[]", r#"{"id":"1","name":7}"#, r#"{"id":"1","_extra":["beyond",1]}"#, r#"{"_new":{"a":"b","c":0}}"#];
    let none = (0..none.len()).prop_map(move |at| none[at].as_bytes().to_vec());
    prop_oneof![9 => row, 1 => none]
}

/// Everything that was found about a row.
fn verdict(domain: &Domain, judged: &Judged, row: usize) -> String {
    let values = |at: usize| match judged.refusal(row) {
        None => judged.values.get(at, row).to_string(),
        Some(_) => String::new(),
    };
    let values: Vec<String> = (0..domain.columns.len()).map(values).collect();
    let kept = [kept::EXTRA, kept::CORRECTIONS].map(|column| judged.kept(domain, column, row));
    let notes = [&judged.corrections, &judged.warnings]
        .map(|notes| notes.of(row).iter().map(|(_, note)| (note.column, note.rule)).collect::<Vec<_>>());
    format!("{:?} {values:?} {notes:?} {kept:?}", judged.refusal(row))
}

const FIRST: Provenance = Provenance {
    object: 1,
    generation: 1,
    row: 0,
    line: 2,
    src_ord: 1,
    seq: 0,
    parser: 1,
    nonce: uuid::Uuid::nil(),
    partitions: 1,
};

/// Appends the row of a message, or a malformed one with the reason.
fn push(domain: &'static Domain, value: &[u8], cells: &mut Cells) {
    let head = Head { first: FIRST, packed: None };
    if let Err(error) = push_rows(domain, &head, &Bytes::copy_from_slice(value), cells, |_, _| {}) {
        cells.push_malformed(error.to_string());
    }
}

/// Rows of a file that has all columns, packed: missing cells are `null`.
fn packed(domain: &'static Domain, rows: &[RawRow<'_>]) -> Cells {
    let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
    let mut pack = Pack::default();
    for (row, number) in rows.iter().zip(0..) {
        pack.push(&Provenance { row: number, line: number + 2, seq: number, ..FIRST }, row);
    }
    let mut cells = Cells::of(domain);
    let Some(headers) = pack.headers(&names.join(",")) else { return cells };
    let head = Head::from_headers(Some(&headers)).expect("a head");
    push_rows(domain, &head, &Bytes::copy_from_slice(pack.value()), &mut cells, |_, _| {}).expect("rows");
    cells
}

proptest! {
    #[test]
    fn rows_of_a_batch_are_judged_as_each_would_be_alone(
        messages in proptest::collection::vec(message(everything()), 0..40)
    ) {
        let domain = everything();
        let mut all = Cells::of(domain);
        for value in &messages {
            push(domain, value, &mut all);
        }
        prop_assert_eq!(all.rows(), messages.len());
        let judged = columns(domain, &all);
        let mut refused = 0;
        for (at, value) in messages.iter().enumerate() {
            let mut alone = Cells::of(domain);
            push(domain, value, &mut alone);
            let alone = columns(domain, &alone);
            prop_assert_eq!(verdict(domain, &judged, at), verdict(domain, &alone, 0), "row {}", at);
            refused += usize::from(alone.refusal(0).is_some());
            if let Ok(raw) = RawRow::decode(domain, value) {
                prop_assert_eq!(verdict(domain, &row(domain, &raw), 0), verdict(domain, &alone, 0));
            } else {
                prop_assert_eq!(alone.refusal(0).map(|refusal| refusal.rule), Some(MALFORMED_MESSAGE));
            }
        }
        prop_assert_eq!(judged.refusals.iter().count(), refused);
    }

    #[test]
    fn rows_are_the_same_packed_or_each_in_a_message_of_its_own(
        messages in proptest::collection::vec(message(everything()), 0..40)
    ) {
        let domain = everything();
        let of_one_file = |mut row: RawRow<'static>| {
            let cells = row.cells.iter_mut().filter(|_| row.stray_quote.is_none());
            cells.filter(|cell| **cell == Cell::Absent).for_each(|cell| *cell = Cell::Missing);
            row
        };
        let decoded = messages.iter().filter_map(|value| RawRow::decode(domain, value).ok());
        let rows: Vec<RawRow<'_>> = decoded.map(of_one_file).collect();
        let (packed, mut alone) = (packed(domain, &rows), Cells::of(domain));
        for row in &rows {
            let mut value = Vec::new();
            row.encode(domain, &mut value);
            push(domain, &value, &mut alone);
        }
        prop_assert_eq!((packed.rows(), alone.rows()), (rows.len(), rows.len()));
        let judged = [&packed, &alone].map(|cells| columns(domain, cells));
        for at in 0..rows.len() {
            prop_assert_eq!(packed.raw_row(at), alone.raw_row(at), "row {}", at);
            prop_assert_eq!(verdict(domain, &judged[0], at), verdict(domain, &judged[1], at), "row {}", at);
        }
    }
}

#[test]
fn what_was_noted_of_a_refused_row_is_forgotten() {
    let domain = everything();
    let mut cells = Cells::of(domain);
    for value in [r#"{"id":"1.5","came":"12"}"#, r#"{"id":"1.5","came":"3"}"#, r#"{"id":"x","day":"x"}"#] {
        cells.push(&RawRow::decode(domain, value.as_bytes()).expect("a row"));
    }
    let judged = columns(domain, &cells);
    let refused = |row: usize| judged.refusal(row).map(|refusal| (refusal.column, refusal.rule));
    assert_eq!(
        [0, 1, 2].map(refused),
        [Some((Some("came"), "many")), None, Some((Some("id"), UNCASTABLE))],
        "the first column at fault"
    );
    assert!(judged.corrections.of(0).is_empty());
    assert_eq!(judged.corrections.of(1), [(1, Note { column: "id", rule: cast::FRACTION_CUT })]);
    assert_eq!(judged.kept(domain, kept::CORRECTIONS, 1), Some(r#"{"id":"fraction_cut"}"#));
    assert_eq!(judged.kept(domain, kept::CORRECTIONS, 0), None);
}
