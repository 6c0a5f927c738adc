//! Files: bytes to records, headers and values.

use freshet_ingest::frame::{FrameError, FrameLimits, Framer, Position};
use freshet_ingest::header::Header;
use freshet_topics::{Cast, DOMAINS, judge};
use rand::Rng;
use rand::rngs::StdRng;

use crate::driver::fuzz;

const FILES: [&[u8]; 7] = [
    b"id,name,type,population,area\n1,Goa,state,1500000,3702.5\n2,\"Port \"\"Blair\"\"\",town,,8.2\n",
    b"location_id,date,dengue_cases,is_projected\r\n7,2025-09-21,3,0.0\r\n\r\n7,2025-9-22,1e3,true\r\n",
    b"\xef\xbb\xbfLocation ID;date;temperature\r7;2025-09-21;26,5\r",
    b"id,name\n1,\"never closed\n2,b\n3,\"c\" d\n4,\"two\nlines\"\n",
    b"id,name\n,,\n1,a,,,\n",
    b"id,name\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n\",x\",\"z\n",
    b"",
];
const SIGNS: [&[u8]; 16] = [
    b"\"",
    b"\"\"",
    b",",
    b";",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
    b"\xff",
    b"\\N",
    b"-999999",
    b"1,234",
    b"id",
    b"location_id",
];
/// Small, so that a short input comes to each of them.
const LIMITS: FrameLimits = FrameLimits { record_bytes_max: 300, fields_max: 12, field_bytes_max: 100 };

/// What a reading gives: each record with its line, its row, its cells and whether it has a stray quote, and the position
/// after it; then how it ended.
type Reading = (Vec<(u64, Option<i64>, Vec<String>, Option<String>, Position)>, Option<FrameError>);

/// Reads bytes in pieces: all at once, or cut at random.
fn read(mut framer: Framer, bytes: &[u8], random: Option<&mut StdRng>) -> Reading {
    let mut pieces = vec![bytes];
    if let Some(random) = random {
        while let Some(last) = pieces.last().copied().filter(|last| last.len() > 1) {
            let at = random.random_range(1..=last.len().min(40));
            pieces.pop();
            pieces.extend([&last[..at], &last[at..]]);
            if at == last.len() {
                break;
            }
        }
    }
    let mut records = Vec::new();
    macro_rules! take {
        ($next:expr) => {
            loop {
                let record = match $next {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(error) => return (records, Some(error)),
                };
                let cells = record.iter().map(str::to_owned).collect();
                let (line, row, stray) = (record.line(), record.row(), record.stray_quote().map(str::to_owned));
                records.push((line, row, cells, stray, framer.position()));
            }
        };
    }
    for mut piece in pieces {
        take!(framer.next(&mut piece));
    }
    take!(framer.finish());
    (records, None)
}

/// How often a byte may be looked at, on average, whatever a file says.
const LOOKS_MAX: u64 = 8;

/// How many bytes the framer looks at to read these.
fn looked_at(mut input: &[u8]) -> u64 {
    let mut framer = Framer::new(LIMITS, b',');
    while matches!(framer.next(&mut input), Ok(Some(_))) {}
    while matches!(framer.finish(), Ok(Some(_))) {}
    framer.bytes_looked_at()
}

#[test]
fn the_same_bytes_give_the_same_records_however_they_are_cut_and_wherever_a_reading_resumes() {
    fuzz(&FILES, &SIGNS, |input, random| {
        let whole = read(Framer::new(LIMITS, b','), input, None);
        assert_eq!(read(Framer::new(LIMITS, b','), input, Some(random)), whole);
        let looked = looked_at(input);
        assert!(looked <= LOOKS_MAX * input.len() as u64, "{} bytes are looked at {looked} times", input.len());
        for (line, _, cells, ..) in &whole.0 {
            assert!(*line >= 1 && cells.len() <= LIMITS.fields_max);
            assert!(cells.iter().map(String::len).sum::<usize>() <= LIMITS.record_bytes_max);
        }
        if whole.0.is_empty() {
            return;
        }
        let after = random.random_range(0..whole.0.len());
        let position = whole.0[after].4;
        let rest = read(Framer::resume(LIMITS, b',', position), &input[position.byte as usize..], None);
        assert_eq!((rest.0.as_slice(), rest.1), (&whole.0[after + 1..], whole.1));
    });
}

#[test]
fn well_formed_files_have_the_cells_that_the_csv_crate_reads() {
    // Cells are the input, cut at a byte of its own; the writer quotes what has to be.
    fuzz(
        &[b"a|b|c||d \"e\"|two\nlines|,|1,5| x |\xc3\xa9"],
        &[b"|", b"\"", b",", b"\n", b"\r\n", b" "],
        |input, random| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            if text.contains('\0') {
                return;
            }
            let columns = random.random_range(1..=4);
            let cells: Vec<&str> = text.split('|').collect();
            let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
            writer.write_record((0..columns).map(|column| format!("column {column}"))).expect("a header");
            for row in cells.chunks_exact(columns) {
                writer.write_record(row).expect("a row");
            }
            let file = writer.into_inner().expect("a file");
            let (records, error) = read(Framer::new(FrameLimits::default(), b','), &file, Some(random));
            assert_eq!(error, None);
            let found: Vec<Vec<String>> = records.into_iter().map(|(_, _, cells, ..)| cells).collect();
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file.as_slice());
            let rows =
                reader.records().map(|row| row.expect("a row").iter().map(str::to_owned).collect::<Vec<String>>());
            // A row that says nothing is a blank line.
            let is_blank =
                |row: &Vec<String>| row.iter().flat_map(|cell| cell.bytes()).all(|it| (1..=b' ').contains(&it));
            assert_eq!(found, rows.filter(|row| !is_blank(row)).collect::<Vec<Vec<String>>>());
        },
    );
}

#[test]
fn every_header_is_read_or_refused_and_every_row_gets_a_verdict() {
    fuzz(&FILES, &SIGNS, |input, _| {
        for domain in DOMAINS {
            let others: Vec<_> = DOMAINS.iter().copied().filter(|other| other != domain).collect();
            let (mut framer, mut rest) = (Framer::new(LIMITS, domain.delimiter), input);
            let Ok(Some(record)) = framer.next(&mut rest) else { continue };
            let Ok(header) = Header::read(domain, &others, &record) else { continue };
            while let Ok(Some(record)) = framer.next(&mut rest) {
                let row = header.raw_row(&record);
                assert_eq!(row.cells.len(), domain.columns.len());
                let judged = judge::row(domain, &row);
                for column in 0..domain.columns.len() {
                    let _ = judged.values.get(column, 0);
                }
            }
        }
    });
}

#[test]
fn what_casts_casts_to_the_same_value_again() {
    let casts = [
        Cast::Int,
        Cast::BigInt,
        Cast::Double,
        Cast::Numeric { precision: 12, scale: 3 },
        Cast::Bool,
        Cast::Date,
        Cast::Timestamp,
        Cast::Text,
        Cast::TrimmedText,
    ];
    let samples: [&[u8]; 10] = [
        b"12",
        b"-0.5e-3",
        b"1e+05",
        b"1,234,567",
        b"NaN",
        b"true",
        b"0.0",
        b"2025-9-5",
        b"2025-09-05T10:00:00+05:30",
        b" a ",
    ];
    let words: [&[u8]; 10] = [b"e", b"E9", b"-", b"+", b".", b",", b"0", b"99999999", b"T", b"\xc2\xa0"];
    fuzz(&samples, &words, |input, _| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        for cast in casts {
            let Some(read) = cast.read(text) else { continue };
            let spelled = read.value.to_string();
            let again = cast.read(&spelled).unwrap_or_else(|| panic!("{cast:?} {:?}", read.value));
            assert!(again.value.compare(&read.value).is_eq(), "{cast:?} {:?} {:?}", read.value, again.value);
        }
    });
}
