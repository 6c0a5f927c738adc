use proptest::prelude::*;

use super::*;

/// The result of a reading, up to and including its error.
type Reading = Vec<Result<Row, FrameError>>;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    line: u64,
    row: Option<i64>,
    cells: Vec<String>,
    /// The line of a stray quote.
    stray: Option<String>,
    after: Position,
}

fn read<'c>(mut framer: Framer, chunks: impl IntoIterator<Item = &'c [u8]>) -> Reading {
    read_with(&mut framer, chunks)
}

fn read_with<'c>(framer: &mut Framer, chunks: impl IntoIterator<Item = &'c [u8]>) -> Reading {
    let mut reading = Vec::new();
    let mut push = |result: Result<Option<Record<'_>>, FrameError>| {
        let more = matches!(result, Ok(Some(_)));
        reading.extend(result.transpose().map(|result| {
            result.map(|record| Row {
                line: record.line(),
                row: record.row(),
                cells: record.iter().map(str::to_owned).collect(),
                stray: record.stray_quote().map(str::to_owned),
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
    while push(framer.finish()) {
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
    read(Framer::new(FrameLimits::default(), b','), [text.as_ref()])
}

/// The bytes of each cell, with their lines.
type Cells = Vec<Vec<(u8, u64)>>;

/// The result of a record: its cells, or where the quote of a line with a stray quote opened.
enum Found {
    Cells { cells: Cells, end: usize },
    Stray { opened_at: usize },
    Fault(FrameError),
}

/// The line of each byte of a file, from 1; CR and LF belong to the line that they end.
fn lines(file: &[u8]) -> Vec<u64> {
    let mut line = 1;
    let mut lines = Vec::new();
    for (at, byte) in file.iter().enumerate() {
        lines.push(line);
        line += u64::from(*byte == b'\n' || *byte == b'\r' && file.get(at + 1) != Some(&b'\n'));
    }
    lines.push(line);
    lines
}

/// The end of the line that contains the byte, including its line end.
fn line_end(file: &[u8], mut at: usize) -> usize {
    while at < file.len() && file[at] != b'\n' && file[at] != b'\r' {
        at += 1;
    }
    if file[at..].starts_with(b"\r\n") { at + 2 } else { (at + 1).min(file.len()) }
}

/// A record being read.
struct Reference<'f> {
    file: &'f [u8],
    lines: &'f [u64],
    limits: FrameLimits,
    from: usize,
    cells: Cells,
    cell: Vec<(u8, u64)>,
    /// The quote of the current cell, within its quotes.
    opened_at: Option<usize>,
    /// The first quote whose cell spans a line end.
    first_span: Option<usize>,
}

impl Reference<'_> {
    /// Takes a byte as text.
    fn push(&mut self, at: usize) -> Result<(), Found> {
        self.cell.push((self.file[at], self.lines[at]));
        if b"\r\n".contains(&self.file[at]) {
            self.first_span = self.first_span.or(self.opened_at);
        }
        let record_bytes = self.cells.iter().map(Vec::len).sum::<usize>() + self.cell.len();
        let (field_max, record_max) = (self.limits.field_bytes_max, self.limits.record_bytes_max);
        if self.cell.len() > field_max {
            let line = self.cell[0].1;
            Err(self.over(FrameError::FieldTooLong { line, limit: field_max }, self.opened_at))
        } else if record_bytes > record_max {
            let line = self.lines[self.from];
            Err(self.over(FrameError::RecordTooLong { line, limit: record_max }, None))
        } else {
            Ok(())
        }
    }

    fn end_cell(&mut self) -> Result<(), Found> {
        let (line, limit) = (self.lines[self.from], self.limits.fields_max);
        if self.cells.len() == limit {
            return Err(self.over(FrameError::TooManyFields { line, limit }, None));
        }
        self.cells.push(std::mem::take(&mut self.cell));
        Ok(())
    }

    fn over(&self, error: FrameError, is_open: Option<usize>) -> Found {
        let nul = self.cells.iter().flatten().chain(&self.cell).find(|(byte, _)| *byte == 0);
        match (nul, is_open.or(self.first_span)) {
            (Some((_, line)), _) => Found::Fault(FrameError::NulByte { line: *line }),
            (None, Some(opened_at)) => Found::Stray { opened_at },
            (None, None) => Found::Fault(error),
        }
    }

    /// Reads cell after cell over the whole file, from its start again for each record.
    fn read(mut self) -> Result<(Cells, usize), Found> {
        let (file, mut at) = (self.file, self.from);
        loop {
            if file.get(at) == Some(&b'"') {
                let opened_at = at;
                self.opened_at = Some(opened_at);
                at += 1;
                loop {
                    match (file.get(at), file.get(at + 1)) {
                        (None, _) => return Err(Found::Stray { opened_at }),
                        (Some(b'"'), Some(b'"')) => at += 1,
                        (Some(b'"'), _) => break,
                        _ => {}
                    }
                    self.push(at)?;
                    at += 1;
                }
                self.opened_at = None;
                at += 1;
                while let Some(b' ' | b'\t') = file.get(at) {
                    self.push(at)?;
                    at += 1;
                }
                if !matches!(file.get(at), None | Some(b',' | b'\r' | b'\n')) {
                    return Err(Found::Stray { opened_at });
                }
            }
            while file.get(at).is_some_and(|byte| !b",\r\n".contains(byte)) {
                self.push(at)?;
                at += 1;
            }
            self.end_cell()?;
            match file.get(at) {
                Some(b',') => at += 1,
                _ => return Ok((self.cells, line_end(file, at))),
            }
        }
    }
}

/// The record that begins at a place.
fn reference_record(file: &[u8], lines: &[u64], from: usize, limits: FrameLimits) -> Found {
    let (cells, cell, opened_at, first_span) = (vec![], vec![], None, None);
    match (Reference { file, lines, limits, from, cells, cell, opened_at, first_span }).read() {
        Ok((cells, end)) => Found::Cells { cells, end },
        Err(found) => found,
    }
}

/// An independent parser over the whole file, which reads as far as each record needs.
fn reference(file: &[u8], limits: FrameLimits) -> Reading {
    let lines = lines(file);
    let mut at = 0;
    while file[at..].starts_with(BOM) {
        at += 3;
    }
    let mut reading: Reading = Vec::new();
    while at < file.len() {
        if file[at] == b'\n' || file[at] == b'\r' {
            at = line_end(file, at);
            continue;
        }
        let row = reading.len() as i64;
        let after = |end: usize| Position { byte: end as u64, line: lines[end], row };
        let row = (row > 0).then(|| row - 1);
        let judged = match reference_record(file, &lines, at, limits) {
            Found::Fault(error) => Err(error),
            Found::Stray { opened_at } => {
                let line = lines[opened_at];
                let end = line_end(file, opened_at);
                let mut text = &file[at..end];
                for line_end in [&b"\n"[..], b"\r"] {
                    text = text.strip_suffix(line_end).unwrap_or(text);
                }
                let of = |place: usize| lines[at + place];
                let stray = match (text.iter().position(|byte| *byte == 0), std::str::from_utf8(text)) {
                    (Some(place), _) => Err(FrameError::NulByte { line: of(place) }),
                    _ if row.is_none() => Err(FrameError::StrayQuote { line }),
                    (None, Err(error)) => Err(FrameError::InvalidUtf8 { line: of(error.valid_up_to()) }),
                    (None, Ok(text)) => Ok(text.to_owned()),
                };
                at = end;
                stray.map(|text| Row { line, row, cells: vec![], stray: Some(text), after: after(end) })
            }
            Found::Cells { cells, end } => {
                let from = std::mem::replace(&mut at, end);
                if cells.iter().flatten().all(|(byte, _)| (1..=b' ').contains(byte)) {
                    continue;
                }
                reference_cells(&cells).map(|cells| Row {
                    line: lines[from],
                    row,
                    cells,
                    stray: None,
                    after: after(end),
                })
            }
        };
        let is_over = judged.is_err();
        reading.push(judged);
        if is_over {
            break;
        }
    }
    reading
}

fn reference_cells(cells: &[Vec<(u8, u64)>]) -> Result<Vec<String>, FrameError> {
    if let Some((_, line)) = cells.iter().flatten().find(|(byte, _)| *byte == 0) {
        return Err(FrameError::NulByte { line: *line });
    }
    let text = |cell: &Vec<(u8, u64)>| {
        let bytes: Vec<u8> = cell.iter().map(|(byte, _)| *byte).collect();
        String::from_utf8(bytes)
            .map_err(|error| FrameError::InvalidUtf8 { line: cell[error.utf8_error().valid_up_to()].1 })
    };
    cells.iter().map(text).collect()
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
        1 => prop::sample::select(vec![&b"\""[..], b"a\"b", b"a\",\"", b",\"", b"\"\r", b",,,", b"\xef\xbb"]),
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
        let expected = reference(&file, FrameLimits::default());
        prop_assert_eq!(&whole(&file), &expected);
        prop_assert_eq!(&read(Framer::new(FrameLimits::default(), b','), cut(&file, &sizes)), &expected);
        prop_assert_eq!(&read(Framer::new(FrameLimits::default(), b','), cut(&file, &[1])), &expected);
    }

    #[test]
    fn resuming_at_any_boundary_gives_the_rest(file in file(true), sizes in prop::collection::vec(0..9usize, 1..12)) {
        let all = whole(&file);
        for (index, row) in all.iter().enumerate() {
            let Ok(row) = row else { break };
            let rest = &file[row.after.byte as usize..];
            let resumed = read(Framer::resume(FrameLimits::default(), b',', row.after), cut(rest, &sizes));
            prop_assert_eq!(&resumed[..], &all[index + 1..], "resumed at {:?}", row.after);
        }
    }

    #[test]
    fn any_chunks_meet_the_same_limit(
        file in file(true), sizes in prop::collection::vec(0..9usize, 1..12),
        record_bytes_max in 1..12usize, fields_max in 1..5usize, field_bytes_max in 1..8usize,
    ) {
        let limits = FrameLimits { record_bytes_max, fields_max, field_bytes_max };
        let whole = read(Framer::new(limits, b','), [&file[..]]);
        prop_assert_eq!(&read(Framer::new(limits, b','), cut(&file, &sizes)), &whole);
        prop_assert_eq!(&read(Framer::new(limits, b','), cut(&file, &[1])), &whole);
        prop_assert_eq!(&whole, &reference(&file, limits));
    }

    #[test]
    fn lines_that_all_open_a_quote_give_what_the_reference_parser_gives_and_are_looked_at_a_few_times(
        file in quoting_lines(), sizes in prop::collection::vec(0..40usize, 1..12),
        record_bytes_max in 1..60usize, fields_max in 1..20usize, field_bytes_max in 1..40usize,
    ) {
        let limits = FrameLimits { record_bytes_max, fields_max, field_bytes_max };
        let expected = reference(&file, limits);
        for sizes in [&sizes[..], &[1], &[usize::MAX]] {
            let mut framer = Framer::new(limits, b',');
            prop_assert_eq!(&read_with(&mut framer, cut(&file, sizes)), &expected);
            prop_assert!(framer.bytes_looked_at() <= LOOKS_MAX * file.len() as u64);
        }
    }
}

/// How often a byte may be looked at, on average.
const LOOKS_MAX: u64 = 8;

/// Lines that open a quote in all ways in which a line can begin, among others.
fn quoting_lines() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        &b"\",x\",\"z\n"[..],
        b"\",x\",\"z\r\n",
        b"a,\",\",x\",\"\r",
        b"\",\",\"\"\n",
        b"\"\"\"x\n",
        b"\n",
        b"a\n",
        b",,\n",
        b"x\",\"\n",
        b"\"a,x\"\",\n",
        b"\",x\",y\",\"\"\"\",\"zz\n",
        b"1,\"\n",
        b"\"a\"b\n",
        b"\0,\"\n",
        b"\",\0\",\"\n",
    ]);
    let faultless = line.prop_filter("no NUL", |line| !line.contains(&0));
    // Many of one kind, and some of any kind.
    (prop::collection::vec((faultless, 1..12usize), 0..12)).prop_map(|lines| {
        let lines = lines.into_iter().flat_map(|(line, times)| std::iter::repeat_n(line, times));
        [&b"h,i\n"[..], &lines.collect::<Vec<_>>().concat()].concat()
    })
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
        "\u{feff}\u{feff}\"id\",name\n,,\n1,Goa\n , \n2,\n,,,",
        "\n\n  \t\nid,name\n\r\n1,Goa\n \u{1}\r\n2,\n\n   ",
        "\"\",\"\"\nid,name\n\"\",\"\"\n1,Goa\n\"\"\n\" \",\r\n2,\"\"\n\"\r\n\",",
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
        (b"id\n\"a\0b\nc\n", FrameError::NulByte { line: 2 }),
        (b"id\n\"a\xffb\nc\n", FrameError::InvalidUtf8 { line: 2 }),
        (b"id\n1\n\xe9t\xe9\n", FrameError::InvalidUtf8 { line: 3 }),
        (b"id\n1,\"\n\xc3\",\"\xa9\"\n", FrameError::InvalidUtf8 { line: 3 }),
        (b"id,\"name\n1,2\n", FrameError::StrayQuote { line: 1 }),
        (b"\n\"id\"s\n1\n", FrameError::StrayQuote { line: 2 }),
        (b"\xef\xbb", FrameError::InvalidUtf8 { line: 1 }),
    ] {
        assert_eq!(whole(file).pop(), Some(Err(error)), "{}", file.escape_ascii());
    }
    for text in
        ["", "\u{feff}", "\n\r\n", "  \n\t", "\u{feff}\r\n", ",,,\n, ,\t\r\n,", "\"\"", "\"\",\"\"\r\n\" \",,\"\n\"\n"]
    {
        assert_eq!(whole(text), [], "{text:?}");
    }
}

#[test]
fn a_record_at_its_limit_passes_and_one_byte_more_does_not() {
    let limits = FrameLimits { record_bytes_max: 8, fields_max: 3, field_bytes_max: 5 };
    for (text, expected) in [
        ("12345,123\n", None),
        ("\"12345\",123", None),
        ("1,2,3\n", None),
        ("123456\n", Some(FrameError::FieldTooLong { line: 1, limit: 5 })),
        ("1,\"\n3456\n", Some(FrameError::StrayQuote { line: 1 })),
        ("1\n\n12345,1234\n", Some(FrameError::RecordTooLong { line: 3, limit: 8 })),
        ("1,2,3\n1,2,3,4\n", Some(FrameError::TooManyFields { line: 2, limit: 3 })),
        ("1,2,3,\n", Some(FrameError::TooManyFields { line: 1, limit: 3 })),
    ] {
        for size in [1, 3, 100] {
            let reading = read(Framer::new(limits, b','), cut(text.as_bytes(), &[size]));
            let error = reading.last().and_then(|row| row.clone().err());
            assert_eq!(error, expected, "{text:?} in chunks of {size}");
        }
    }
}

/// The lines, rows and cells of a file; lines with a stray quote are shown between bars.
fn outline(text: &str) -> Vec<String> {
    let shown = |row: Row| match row.stray {
        Some(text) => format!("{} |{text}|", row.line),
        None => format!("{} {}", row.line, row.cells.join(";")),
    };
    whole(text).into_iter().skip(1).map(|row| shown(row.expect("a row"))).collect()
}

#[test]
fn a_stray_quote_costs_the_line_on_which_it_opened_and_no_other() {
    for (rows, expected) in [
        // Not closed before a stray quote far below.
        ("1,a\n2,\"b\n3,c\n4,d \"x\" e\n5,f\n", vec!["2 1;a", "3 |2,\"b|", "4 3;c", "5 4;d \"x\" e", "6 5;f"]),
        ("1,\"N,\"N,2\n2,a\n", vec!["2 |1,\"N,\"N,2|", "3 2;a"]),
        ("1,\"a\"b\r\n2,c\r\n", vec!["2 |1,\"a\"b|", "3 2;c"]),
        ("1,\"a\r\n2,\"b\r\n3,c\r\n", vec!["2 |1,\"a|", "3 |2,\"b|", "4 3;c"]),
        ("1,\"a\r2,b\r", vec!["2 |1,\"a|", "3 2;b"]),
        // The end of the file within quotes.
        ("1,\"a\n2,b\n\n3,c", vec!["2 |1,\"a|", "3 2;b", "5 3;c"]),
        ("1,a\n2,\"", vec!["2 1;a", "3 |2,\"|"]),
        ("1,\"a\nb\",\"c\n2,d\n", vec!["3 |1,\"a\nb\",\"c|", "4 2;d"]),
        // Quotes that are not stray.
        ("1,\"two\nlines\"\n2,\"b\"", vec!["2 1;two\nlines", "4 2;b"]),
        ("1,Fort \"Old\" Town\n2,5\"\n3,\"C:\\\"\n", vec!["2 1;Fort \"Old\" Town", "3 2;5\"", "4 3;C:\\"]),
        ("1,\"a\" ,b\n2,\"say \"\"x\"\"\"\t\n", vec!["2 1;a ;b", "3 2;say \"x\"\t"]),
        ("1,\"Camp \\\"North\\\"\"\n2,a\n", vec!["2 |1,\"Camp \\\"North\\\"\"|", "3 2;a"]),
    ] {
        assert_eq!(outline(&format!("id,name\n{rows}")), expected, "{rows:?}");
    }
}

#[test]
fn an_unclosed_quote_in_a_large_file_costs_one_line_in_bounded_memory() {
    let line = b"2,some more text of a large file\n";
    let mut file = b"id,note\n1,\"open\n".to_vec();
    file.extend(line.repeat(100_000));
    let mut framer = Framer::new(FrameLimits::default(), b',');
    let (mut rows, mut strays) = (0, Vec::new());
    for mut chunk in file.chunks(100_000) {
        while let Some(record) = framer.next(&mut chunk).expect("a row") {
            rows += 1;
            strays.extend(record.stray_quote().map(|text| (record.line(), text.to_owned())));
        }
        assert!(framer.held.capacity() <= 1 << 20);
    }
    assert_eq!((rows, strays), (100_002, vec![(2, "1,\"open".to_owned())]));
    // All of it on one line: only as much is kept as fits a message.
    let mut one_line = Framer::new(FrameLimits::default(), b',');
    let mut start = &b"id,note\n1,\"open"[..];
    assert!(one_line.next(&mut start).expect("the header").is_some());
    assert!(one_line.next(&mut start).expect("an open row").is_none());
    for _ in 0..20 {
        assert!(one_line.next(&mut &[b'x'; 100_000][..]).expect("the line goes on").is_none());
        assert!(one_line.held.capacity() <= 1 << 20);
    }
    let mut end = &b"\n2,a\n"[..];
    let text = one_line.next(&mut end).expect("a row").and_then(|row| row.stray_quote()).map(str::len);
    assert_eq!(text, Some(64 << 10));
    assert_eq!(one_line.next(&mut end).expect("a row").map(|row| row.line()), Some(3));
}

#[test]
fn a_file_of_lines_that_each_open_a_quote_is_looked_at_a_few_times_not_a_thousand() {
    let long = format!("\",x\",\"{}\n", "z".repeat(3000));
    // Blank lines between them, which belong to the quoted cell for one record and do not count for the next.
    let parted = format!("\",x\",\"z\n{}", "\n".repeat(700));
    // The cell that begins on each line does not end.
    let lost = format!("a,\"b{}\n", "\n\"\"x".repeat(5000));
    let fast = ["\",x\",\"z\n".to_owned(), long, parted, lost, format!("{},\"\n", ",\",x\",".repeat(200))];
    for line in fast {
        let file = format!("h,i\n{}", line.repeat(3 * (1 << 20) / line.len()));
        for size in [4096, 1 << 20] {
            let mut framer = Framer::new(FrameLimits::default(), b',');
            let mut rows = 0;
            for mut chunk in file.as_bytes().chunks(size) {
                while framer.next(&mut chunk).expect("a row").is_some() {
                    rows += 1;
                }
            }
            while framer.finish().expect("a row").is_some() {
                rows += 1;
            }
            let looks = framer.bytes_looked_at() / file.len() as u64;
            assert!(rows > 1 && looks <= LOOKS_MAX, "{}…: {rows} rows, looked at {looks} times", &line[..6]);
        }
    }
}

#[test]
fn cells_may_be_parted_by_another_sign() {
    for (delimiter, line) in [(b';', "1;\"a;b\";2,5"), (b'\t', "1\t\"a;b\"\t2,5"), (b'|', "1|a;b|2,5")] {
        let mut framer = Framer::new(FrameLimits::default(), delimiter);
        let text = format!("{line}\n");
        let cells: Vec<String> = match framer.next(&mut text.as_bytes()).expect("a record") {
            Some(record) => record.iter().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        assert_eq!(cells, ["1", "a;b", "2,5"], "{line}");
    }
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
        let mut framer = Framer::new(FrameLimits::default(), b',');
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
