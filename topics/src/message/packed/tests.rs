use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{DOMAINS, NewColumn};

fn provenance(row: i64, line: i64, seq: i64) -> Provenance {
    let (object, generation, src_ord, parser, partitions) = (12, 1, 29_360_150_283_550_720, 2, 4);
    Provenance { object, generation, row, line, src_ord, seq, parser, nonce: Uuid::from_u128(9), partitions }
}

fn blank(domain: &Domain) -> RawRow<'static> {
    let cells = vec![Cell::Absent; domain.columns.len()];
    RawRow { cells, extra: vec![], new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 }
}

/// The columns of rows that all have the same columns.
fn columns(domain: &Domain, row: &RawRow<'_>) -> String {
    let present = domain.columns.iter().zip(&row.cells).filter(|(_, cell)| **cell != Cell::Absent);
    present.map(|(column, _)| column.name).collect::<Vec<_>>().join(",")
}

/// All rows of a message, or its error.
fn unpacked(
    domain: &Domain,
    headers: &OwnedHeaders,
    value: &[u8],
) -> Result<Vec<(Provenance, RawRow<'static>)>, MessageError> {
    Head::from_headers(Some(headers))?.rows(domain, value)
}

fn headers(pairs: &[(&str, &str)]) -> OwnedHeaders {
    let insert =
        |headers: OwnedHeaders, &(key, value): &(&str, &str)| headers.insert(Header { key, value: Some(value) });
    pairs.iter().fold(OwnedHeaders::new(), insert)
}

/// Topics keep messages for ever: see the test beside [`RawRow`]. Never change this one.
#[test]
fn a_packed_message_as_the_first_version_with_them_wrote_it_is_read() {
    let locations = crate::domains::by_name("locations").expect("declared");
    let headers = headers(&[
        ("pack", "12,1,3,5,29360150283550720,2,2,00000000000000000000000000000009,4"),
        ("rows", "3"),
        ("columns", "id,name,type"),
    ]);
    let value = concat!(
        "[3,5,\"7\",\"Goa \\\"north\\\"\",\"\"]\n",
        "[9,12,\"11\",null,null,{\"_later\":{\"deep\":[1]},\"_extra\":[\"beyond\"]}]\n",
        "[10,14,{\"_stray_quote\":\"8,\\\"Pune\"}]"
    );
    let rows = unpacked(locations, &headers, value.as_bytes()).expect("read");
    let origins: Vec<Provenance> = rows.iter().map(|(provenance, _)| *provenance).collect();
    assert_eq!(origins, [provenance(3, 5, 2), provenance(9, 12, 3), provenance(10, 14, 4)]);
    let mut expected = [blank(locations), blank(locations), blank(locations)];
    for (name, first, second) in [
        ("id", Cell::Text("7".into()), Cell::Text("11".into())),
        ("name", Cell::Text("Goa \"north\"".into()), Cell::Missing),
        ("type", Cell::Text("".into()), Cell::Missing),
    ] {
        expected[0].cells[locations.index_of(name)] = first;
        expected[1].cells[locations.index_of(name)] = second;
    }
    expected[1].extra = vec!["beyond".into()];
    expected[2].stray_quote = Some("8,\"Pune".into());
    assert_eq!(rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), expected);

    let mut pack = Pack::default();
    for (provenance, row) in origins.iter().zip(&expected) {
        pack.push(provenance, row);
    }
    let written = String::from_utf8(pack.value().to_vec()).expect("text");
    assert_eq!(written, value.replace("\"_later\":{\"deep\":[1]},", ""), "and is written the same way");
    let shown = |headers: &OwnedHeaders| format!("{:?}", headers.iter().collect::<Vec<_>>());
    assert_eq!(shown(&pack.headers("id,name,type").expect("headers")), shown(&headers));
}

#[test]
fn a_message_of_one_row_is_read_with_the_same_words() {
    let (domain, origin) = (DOMAINS[0], provenance(3, 5, 2));
    let rows = unpacked(domain, &origin.to_headers(), br#"{"id":"7"}"#).expect("read");
    assert_eq!((rows.len(), rows[0].0), (1, origin));
    assert_eq!(rows[0].1.cells[0], Cell::Text("7".into()));
}

#[test]
fn a_version_before_packed_messages_finds_no_origin_in_one() {
    let mut pack = Pack::default();
    pack.push(&provenance(0, 2, 0), &blank(DOMAINS[0]));
    let error = Provenance::from_headers(pack.headers("").as_ref()).expect_err("no origin");
    assert!(matches!(error, MessageError::Origin("object")), "{error}");
    assert!(RawRow::decode(DOMAINS[0], pack.value()).is_err(), "nor a row");
}

#[test]
fn a_message_with_a_fault_anywhere_is_refused_as_a_whole_and_the_fault_named() {
    let good = ("[0,2,\"7\",\"Goa\"]\n[1,3,\"8\",null]", "2", "id,name");
    let cases = [
        ((good.0, "3", good.2), "the value has 2 rows, and the header `rows` says 3"),
        ((good.0, "1", good.2), "the value has 2 rows, and the header `rows` says 1"),
        (("[0,2,\"7\",\"Goa\"]\nx\ny", "1", good.2), "the value has 3 rows, and the header `rows` says 1"),
        ((good.0, "x", good.2), "header `rows`"),
        ((good.0, "0", good.2), "header `rows`"),
        ((good.0, good.1, "id"), "line 1 of the value is not a row: it has more cells"),
        (("[0,2,\"7\",\"Goa\"]\n[1,3,\"8\",null", "2", good.2), "line 2 of the value is not a row: it does not end"),
        (("[0,2,\"7\",\"Goa\"]\n", "2", good.2), "line 2 of the value is not a row: it is not an array"),
        (("[0,2,\"7\",\"Goa\"]\n{\"id\":\"7\"}", "2", good.2), "line 2 of the value is not a row: it is not an array"),
        (("[0,2,\"7\",\"Goa\"] [", "1", good.2), "line 1 of the value is not a row: it does not end"),
        (("[0,2,7]", "1", good.2), "line 1 of the value is not a row: a cell is neither"),
        (("[0,2,\"7]", "1", good.2), "line 1 of the value is not a row: a cell has no closing quote"),
        (("[0,2,\"7\\\"]", "1", good.2), "line 1 of the value is not a row: a cell has no closing quote"),
        (("[0,2,\"7\",nullnull]", "1", good.2), "line 1 of the value is not a row: it does not end"),
        (("[-1,2]", "1", good.2), "line 1 of the value is not a row: it does not begin with a row number"),
        (
            ("[9223372036854775807,2]", "1", good.2),
            "line 1 of the value is not a row: it does not begin with a row number",
        ),
        (("[1]", "1", good.2), "line 1 of the value is not a row: it has no line number"),
        (("", "1", good.2), "line 1 of the value is not a row: it is not an array"),
    ];
    let origin = provenance(0, 2, 0).to_string();
    let read = |(value, rows, columns): (&str, &str, &str)| {
        let headers = headers(&[("pack", &origin), ("rows", rows), ("columns", columns)]);
        unpacked(DOMAINS[0], &headers, value.as_bytes()).map(|rows| rows.len()).map_err(|error| error.to_string())
    };
    assert_eq!(read(good), Ok(2));
    for (message, expected) in cases {
        let error = read(message).expect_err(expected);
        assert!(error.contains(expected), "{message:?}: {error}");
    }
    let without = |missing: &str| {
        let all = [("pack", origin.as_str()), ("rows", "2"), ("columns", good.2)];
        let some: Vec<(&str, &str)> = all.into_iter().filter(|(name, _)| *name != missing).collect();
        unpacked(DOMAINS[0], &headers(&some), good.0.as_bytes()).expect_err(missing).to_string()
    };
    assert!(without("rows").contains("header `rows`") && without("columns").contains("header `columns`"));
    assert!(without("pack").contains("header `origin`"), "{}", without("pack"));
    let headers = headers(&[("pack", &origin), ("rows", "1"), ("columns", "id")]);
    let error = unpacked(DOMAINS[0], &headers, b"[0,2,\"7\"]\n[1,3,\"\xff\"]").expect_err("bytes that are no text");
    assert_eq!(error.to_string(), "line 2 of the value is not a row: it is not UTF-8");
}

#[test]
fn columns_that_this_version_does_not_know_are_passed_over() {
    let headers = headers(&[("pack", "12,1,0,2,3,0,2"), ("rows", "1"), ("columns", "colour,id,deep")]);
    let rows = unpacked(DOMAINS[0], &headers, br#"[0,2,"red","7",null]"#).expect("read");
    let mut expected = blank(DOMAINS[0]);
    expected.cells[DOMAINS[0].index_of("id")] = Cell::Text("7".into());
    assert_eq!(rows[0].1, expected);
}

#[test]
fn a_message_is_full_by_rows_or_bytes_and_a_long_row_travels_alone() {
    let (mut pack, long) = (Pack::default(), "x".repeat(PACK_BYTES_MAX));
    assert!(pack.is_empty() && !pack.is_full(2) && !pack.is_too_full_for(PACK_BYTES_MAX), "no row waits for ever");
    let mut row = blank(DOMAINS[0]);
    row.cells[0] = Cell::Text("7".into());
    pack.push(&provenance(0, 2, 0), &row);
    assert!(!pack.is_full(2) && pack.is_too_full_for(PACK_BYTES_MAX) && !pack.is_too_full_for(100));
    pack.push(&provenance(1, 3, 1), &row);
    assert!(pack.is_full(2) && !pack.is_full(3));
    pack.clear();
    assert!(pack.is_empty() && pack.headers("id").is_none());
    row.cells[0] = Cell::Text(long.into());
    pack.push(&provenance(2, 4, 2), &row);
    assert!(pack.is_full(1_000));
}

/// Text of all kinds: empty, with quotes, line ends, escapes, and words of JSON.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just("null".to_owned()), Just("]".to_owned()), "[ -~]{0,12}", "[\\PC\\n\\r\\t\"\\\\,\\x00-\\x1f]{0,12}"]
}

fn row(domain: &'static Domain, present: Vec<bool>) -> impl Strategy<Value = RawRow<'static>> {
    let cells = prop::collection::vec(prop::option::weighted(0.9, text()), domain.columns.len());
    let extra = prop::collection::vec(text(), 0..2);
    // No column has such a heading.
    let headings = text().prop_map(|heading| format!("/{heading}"));
    let new_cells = prop::collection::btree_map(headings, text(), 0..2);
    let stray = prop::option::weighted(0.1, text());
    let overtaken = prop_oneof![3 => Just(0), 1 => any::<u32>()];
    (cells, extra, new_cells, stray, overtaken).prop_map(move |(cells, extra, new_cells, stray, overtaken)| {
        if let Some(line) = stray {
            return RawRow { stray_quote: Some(line.into()), ..blank(domain) };
        }
        let cell = |(cell, present): (Option<String>, &bool)| match (present, cell) {
            (false, _) => Cell::Absent,
            (true, None) => Cell::Missing,
            (true, Some(text)) => Cell::Text(text.into()),
        };
        RawRow {
            cells: cells.into_iter().zip(&present).map(cell).collect(),
            extra: extra.into_iter().map(Cow::Owned).collect(),
            new_cells: new_cells.into_iter().map(|(name, text)| (name.into(), text.into())).collect(),
            stray_quote: None,
            overtaken,
        }
    })
}

/// Rows that one file could have, of a domain that keeps new columns.
fn rows() -> impl Strategy<Value = (&'static Domain, Vec<RawRow<'static>>)> {
    let keeping = |domain: &&'static Domain| -> &'static Domain {
        Box::leak(Box::new(Domain { on_new_column: NewColumn::Keep, ..**domain }))
    };
    let domains: Vec<&'static Domain> = DOMAINS.iter().map(keeping).collect();
    prop::sample::select(domains).prop_flat_map(|domain| {
        let present = prop::collection::vec(any::<bool>(), domain.columns.len());
        present.prop_flat_map(move |present| (Just(domain), prop::collection::vec(row(domain, present), 1..20)))
    })
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked_as_it_was((domain, rows) in rows(), first in 0i64..1 << 40) {
        let mut pack = Pack::default();
        let origin = |number: usize| {
            let number = number as i64;
            provenance(first + number * 3, first + number * 4 + 2, first + number)
        };
        for (number, row) in rows.iter().enumerate() {
            pack.push(&origin(number), row);
        }
        let ordinary = rows.iter().find(|row| row.stray_quote.is_none());
        let names = ordinary.map(|row| columns(domain, row)).unwrap_or_default();
        let head = Head::from_headers(pack.headers(&names).as_ref()).expect("it has rows");
        let found = head.rows(domain, pack.value()).expect("it is read");
        prop_assert_eq!(pack.value().split(|byte| *byte == b'\n').count(), rows.len(), "a line a row");
        for line in pack.value().split(|byte| *byte == b'\n') {
            let line: serde_json::Value = serde_json::from_slice(line).expect("any reader of JSON reads it");
            prop_assert!(line.is_array());
        }
        for (number, (found, row)) in found.iter().zip(&rows).enumerate() {
            prop_assert_eq!(found, &(origin(number), row.clone()));
        }
        prop_assert_eq!(found.len(), rows.len());
        // A reject is stored as if it came from a message with one row.
        let (mut cells, mut kept) = (Cells::of(domain), Vec::new());
        let value = Bytes::copy_from_slice(pack.value());
        push_rows(domain, &head, &value, &mut cells, |_, raw| kept.push(raw.to_text())).expect("it is read");
        for (kept, row) in kept.iter().zip(&rows) {
            let mut alone = Vec::new();
            row.encode(domain, &mut alone);
            prop_assert_eq!(kept.as_bytes(), alone);
        }
    }
}
