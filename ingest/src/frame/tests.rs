use proptest::prelude::*;

use super::*;

/// What a reading gives, up to and including its error.
type Reading = Vec<Result<Row, FrameError>>;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    line: u64,
    row: Option<i64>,
    cells: Vec<String>,
    after: Position,
}

fn read<'c>(mut framer: Framer, chunks: impl IntoIterator<Item = &'c [u8]>) -> Reading {
    let mut reading = Vec::new();
    let mut push = |result: Result<Option<Record<'_>>, FrameError>| {
        let more = matches!(result, Ok(Some(_)));
        reading.extend(result.transpose().map(|result| {
            result.map(|record| Row {
                line: record.line(),
                row: record.row(),
                cells: record.iter().map(str::to_owned).collect(),
                after: Position::default(),
            })
        }));
        more
    };
    let mut positions = Vec::new();
    for mut chunk in chunks {
        while push(framer.next(&mut chunk)) {
            positions.push(framer.position());
        }
    }
    if push(framer.finish()) {
        positions.push(framer.position());
    }
    // Only the rows before an error have a position.
    for (row, position) in reading.iter_mut().flatten().zip(positions) {
        row.after = position;
    }
    if let Some(error) = reading.iter().position(Result::is_err) {
        reading.truncate(error + 1);
    }
    reading
}

fn whole(text: impl AsRef<[u8]>) -> Reading {
    read(Framer::new(FrameLimits::default()), [text.as_ref()])
}

/// An independent parser, one byte after the other over the whole file: RFC 4180 with `csv-core`'s leniency.
fn reference(file: &[u8]) -> Reading {
    #[derive(PartialEq)]
    enum In {
        FieldStart,
        Plain,
        Quotes,
        QuoteWithinQuotes,
    }
    let bom = if file.starts_with(BOM) { 3 } else { 0 };
    let (mut at, mut line) = (bom, 1);
    let mut reading = Vec::new();
    while at < file.len() {
        let (record_line, from) = (line, at);
        let (mut fields, mut state, mut opened, mut ended) = (vec![vec![]], In::FieldStart, 0, false);
        let mut quoted = false;
        while at < file.len() && !ended {
            let byte = file[at];
            let is_line_end = byte == b'\n' || byte == b'\r' && file.get(at + 1) != Some(&b'\n');
            let byte_line = line;
            line += u64::from(is_line_end);
            at += 1;
            let field = fields.last_mut().expect("there is one");
            match (&state, byte) {
                (In::Quotes, b'"') => state = In::QuoteWithinQuotes,
                (In::Quotes, _) => field.push((byte, byte_line)),
                (In::QuoteWithinQuotes, b'"') => {
                    field.push((byte, byte_line));
                    state = In::Quotes;
                }
                (In::FieldStart, b'"') => {
                    (state, opened, quoted) = (In::Quotes, byte_line, true);
                }
                (_, b',') => {
                    fields.push(vec![]);
                    state = In::FieldStart;
                }
                (_, b'\r' | b'\n') => {
                    if byte == b'\r' && !is_line_end {
                        (at, line) = (at + 1, line + 1);
                    }
                    ended = true;
                }
                _ => {
                    field.push((byte, byte_line));
                    state = In::Plain;
                }
            }
        }
        if let Some((_, line)) = fields.iter().flatten().find(|(byte, _)| *byte == 0) {
            reading.push(Err(FrameError::NulByte { line: *line }));
            return reading;
        }
        if state == In::Quotes {
            reading.push(Err(FrameError::UnclosedQuote { line: opened }));
            return reading;
        }
        if !quoted && file[from..at].iter().all(|byte| *byte <= b' ') {
            continue;
        }
        let mut cells = Vec::new();
        for field in &fields {
            let bytes: Vec<u8> = field.iter().map(|(byte, _)| *byte).collect();
            match String::from_utf8(bytes) {
                Ok(cell) => cells.push(cell),
                Err(error) => {
                    let line = field[error.utf8_error().valid_up_to()].1;
                    reading.push(Err(FrameError::InvalidUtf8 { line }));
                    return reading;
                }
            }
        }
        let row = reading.len() as i64;
        let after = Position { byte: at as u64, line, row };
        reading.push(Ok(Row { line: record_line, row: (row > 0).then(|| row - 1), cells, after }));
    }
    reading
}

fn cut<'f>(mut file: &'f [u8], sizes: &[usize]) -> Vec<&'f [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle().take(2 * file.len() + sizes.len()) {
        let (chunk, rest) = file.split_at((*size).min(file.len()));
        chunks.push(chunk);
        file = rest;
    }
    chunks.push(file);
    chunks
}

fn file(with_faults: bool) -> impl Strategy<Value = Vec<u8>> {
    let piece = |text: &'static [u8]| Just(text);
    let faults = if with_faults { 1 } else { 0 };
    let pieces = prop_oneof![
        12 => prop::sample::select(vec![&b"a"[..], b"12.5", b"\xc3\xa9", b" ", b"x y", b"\xef\xbb\xbf", b"\t \x01"]),
        10 => piece(b","),
        8 => prop::sample::select(vec![&b"\n"[..], b"\n", b"\r\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r\n"]),
        6 => prop::sample::select(vec![
            &b"\"q\""[..], b"\"\"", b"\"a,b\"", b"\"\"\"\"", b"\"l\nm\"", b"\"l\r\nm\"", b"\"\r\"", b"\"\n\"", b"\"d\"\"d\"",
            b"\"\r\",\"\n\"", b"\"\xc3\xa9\"", b"\"q\"t\"",
        ]),
        1 => prop::sample::select(vec![&b"\""[..], b"a\"b"]),
        faults => prop::sample::select(vec![&b"\0"[..], b"\xff", b"\xc3", b"\xa9", b"\xc3,\xa9", b"\"\n\0\"", b"\"\xc3\",\"\xa9\"", b"\"\n\xff\""]),
    ];
    (prop::bool::weighted(0.2), prop::collection::vec(pieces, 0..40))
        .prop_map(|(bom, pieces)| [if bom { BOM } else { b"" }, &pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_give_what_the_reference_parser_gives(
        file in file(true), sizes in prop::collection::vec(0..9usize, 1..12),
    ) {
        let expected = reference(&file);
        prop_assert_eq!(&whole(&file), &expected);
        prop_assert_eq!(&read(Framer::new(FrameLimits::default()), cut(&file, &sizes)), &expected);
        prop_assert_eq!(&read(Framer::new(FrameLimits::default()), cut(&file, &[1])), &expected);
    }

    #[test]
    fn resuming_at_any_boundary_gives_the_rest(file in file(true), sizes in prop::collection::vec(0..9usize, 1..12)) {
        let all = whole(&file);
        for (index, row) in all.iter().enumerate() {
            let Ok(row) = row else { break };
            let rest = &file[row.after.byte as usize..];
            let resumed = read(Framer::resume(FrameLimits::default(), row.after), cut(rest, &sizes));
            prop_assert_eq!(&resumed[..], &all[index + 1..], "resumed at {:?}", row.after);
        }
    }

    #[test]
    fn any_chunks_meet_the_same_limit(
        file in file(true), sizes in prop::collection::vec(0..9usize, 1..12),
        record_bytes_max in 1..12usize, fields_max in 1..5usize, field_bytes_max in 1..8usize,
    ) {
        let limits = FrameLimits { record_bytes_max, fields_max, field_bytes_max };
        let whole = read(Framer::new(limits), [&file[..]]);
        prop_assert_eq!(&read(Framer::new(limits), cut(&file, &sizes)), &whole);
        prop_assert_eq!(&read(Framer::new(limits), cut(&file, &[1])), &whole);
        for row in whole.iter().flatten() {
            prop_assert!(row.cells.len() <= fields_max && row.cells.concat().len() <= record_bytes_max);
            prop_assert!(row.cells.iter().all(|cell| cell.len() <= field_bytes_max));
        }
        // A file within its limits is not touched by them.
        if let Some(Ok(_)) | None = whole.last() {
            prop_assert_eq!(&whole, &reference(&file));
        }
    }
}

#[test]
fn every_spelling_of_a_file_gives_the_same_rows() {
    let expected = [vec!["id", "name"], vec!["1", "Goa"], vec!["2", ""]];
    for text in [
        "id,name\n1,Goa\n2,\n",
        "id,name\n1,Goa\n2,",
        "id,name\r\n1,Goa\r\n2,\r\n",
        "id,name\r1,Goa\r2,\r",
        "\u{feff}id,name\n1,Goa\n2,\n",
        "\u{feff}\"id\",name\n1,\"Goa\"\n2,\"\"",
        "\n\n  \t\nid,name\n\r\n1,Goa\n \u{1}\r\n2,\n\n   ",
    ] {
        let rows: Vec<_> = whole(text).into_iter().map(|row| row.expect("a row").cells).collect();
        assert_eq!(rows, expected, "{text:?}");
    }
}

#[test]
fn lines_and_positions_are_exact() {
    let text = "\u{feff}id,note\r\n\r\n1,\"two\r\nlines\"\r\n \n2,\"\r\",\"\n\"\n3,\"open\"";
    let rows: Vec<_> = whole(text).into_iter().map(|row| row.expect("a row")).collect();
    let places: Vec<_> = rows.iter().map(|row| (row.line, row.row, row.after)).collect();
    let at = |byte, line, row| Position { byte, line, row };
    assert_eq!(
        places,
        [(1, None, at(12, 2, 0)), (3, Some(0), at(30, 5, 1)), (6, Some(1), at(42, 9, 2)), (9, Some(2), at(50, 9, 3)),]
    );
    assert_eq!(text.len(), 50);
    assert_eq!(rows[2].cells, ["2", "\r", "\n"]);
}

#[test]
fn a_file_at_fault_is_refused_with_the_line() {
    for (file, error) in [
        (&b"id\n1\0\n"[..], FrameError::NulByte { line: 2 }),
        (b"\xff\xfei\0d\0", FrameError::NulByte { line: 1 }),
        (b"id\n\"a\nb\nc\0\"\n", FrameError::NulByte { line: 4 }),
        (b"id\n1\n\xe9t\xe9\n", FrameError::InvalidUtf8 { line: 3 }),
        (b"id\n1,\"\n\xc3\",\"\xa9\"\n", FrameError::InvalidUtf8 { line: 3 }),
        (b"id\n\"one\ntwo\",\"three\n4\n5\n", FrameError::UnclosedQuote { line: 3 }),
        (b"id\n1,\"", FrameError::UnclosedQuote { line: 2 }),
        (b"\xef\xbb", FrameError::InvalidUtf8 { line: 1 }),
    ] {
        assert_eq!(whole(file).pop(), Some(Err(error)), "{}", file.escape_ascii());
    }
    for text in ["", "\u{feff}", "\n\r\n", "  \n\t", "\u{feff}\r\n"] {
        assert_eq!(whole(text), [], "{text:?}");
    }
    assert_eq!(whole("\"\"").len(), 1, "a quoted empty cell is no blank line");
}

#[test]
fn a_record_at_its_limit_passes_and_one_byte_more_does_not() {
    let limits = FrameLimits { record_bytes_max: 8, fields_max: 3, field_bytes_max: 5 };
    for (text, expected) in [
        ("12345,123\n", None),
        ("\"12345\",123", None),
        ("1,2,3\n", None),
        ("123456\n", Some(FrameError::FieldTooLong { line: 1, limit: 5 })),
        ("1,\"\n3456\n", Some(FrameError::FieldTooLong { line: 1, limit: 5 })),
        ("1\n\n12345,1234\n", Some(FrameError::RecordTooLong { line: 3, limit: 8 })),
        ("1,2,3\n1,2,3,4\n", Some(FrameError::TooManyFields { line: 2, limit: 3 })),
        ("1,2,3,\n", Some(FrameError::TooManyFields { line: 1, limit: 3 })),
    ] {
        for size in [1, 3, 100] {
            let reading = read(Framer::new(limits), cut(text.as_bytes(), &[size]));
            let error = reading.last().and_then(|row| row.clone().err());
            assert_eq!(error, expected, "{text:?} in chunks of {size}");
        }
    }
}

#[test]
fn an_unclosed_quote_in_a_large_file_is_noticed_in_bounded_memory() {
    let mut framer = Framer::new(FrameLimits::default());
    let mut start = &b"id,note\n1,\"open\n"[..];
    assert!(framer.next(&mut start).expect("the header").is_some());
    assert!(framer.next(&mut start).expect("an open row").is_none());
    let chunk = b"2,some more text of a large file\n".repeat(1000);
    let error = (0..1000).find_map(|_| framer.next(&mut &chunk[..]).err());
    assert_eq!(error, Some(FrameError::FieldTooLong { line: 2, limit: 256 << 10 }));
    assert!(framer.text.len() <= 1 << 20);
}

/// Prints the throughput: `cargo test --release -p freshet-ingest frame_throughput -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn frame_throughput() {
    let plain = b"17,2025-08-22,31.25,0.0,77.5,0.03,0.001,0.2,false,\n".to_vec();
    let quoted = b"17,\"2025-08-22\",31.25,0.0,\"77,5\",0.03,0.001,0.2,false,\n".to_vec();
    for (name, line) in [("plain", plain), ("quoted", quoted)] {
        let chunk = line.repeat(256 * 1024 / line.len());
        let started = std::time::Instant::now();
        let mut framer = Framer::new(FrameLimits::default());
        let (mut bytes, mut cells) = (0, 0);
        while bytes < 1 << 30 {
            let mut rest = &chunk[..];
            while let Some(record) = framer.next(&mut rest).expect("a row") {
                cells += record.len();
            }
            bytes += chunk.len();
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {:.0} MB/s, {cells} cells", bytes as f64 / 1e6 / seconds);
    }
}
