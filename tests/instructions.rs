//! What a row costs in instructions, counted by Valgrind, so that neither the machine's speed nor its load counts.
//!
//! Each piece of work is done twice in a process of its own, with so many rows and with twice as many: the difference is
//! what the rows cost, without the start of the program. What is counted is held against the table below. Where it has
//! become more, say why in the commit that changes the table; where it has become much less, lower the table, so that it
//! guards what was won.

use std::collections::BTreeMap;
use std::process::Command;

use bytes::Bytes;
use freshet_ingest::frame::{FrameLimits, Framer};
use freshet_ingest::header::Header;
use freshet_topics::cells::Cells;
use freshet_topics::message::packed::{Head, Pack};
use freshet_topics::message::push_rows;
use freshet_topics::{Domain, Provenance, domains, judge};
use uuid::Uuid;

/// What a row of seven columns costs: of a release build, by rustc 1.95, on x86-64.
const INSTRUCTIONS_A_ROW: [(&str, i64); 4] = [("publish", 4_731), ("read", 2_253), ("judge", 4_021), ("alone", 6_106)];
/// Compilers and processors differ by some percent; an allocation a row, or a copy of its text, is more than this.
const MORE_PERCENT_MAX: i64 = 12;
/// With so much less the table guards nothing.
const LESS_PERCENT_MAX: i64 = 25;

/// A batch of the size that processors write.
const ROWS: usize = 5_000;
/// What the process under Valgrind is to do: the name of a piece of work and a number of rows.
const WORK: &str = "FRESHET_COUNTED_WORK";

const FIRST: Provenance = Provenance {
    object: 4_711,
    generation: 1,
    row: 0,
    line: 2,
    src_ord: 1_758_412_800_000_000,
    seq: 0,
    parser: 1,
    nonce: Uuid::nil(),
    partitions: 4,
};

#[test]
#[cfg_attr(debug_assertions, ignore = "the table is of a release build")]
fn a_row_costs_no_more_instructions_than_it_did() {
    let counted: BTreeMap<&str, i64> = INSTRUCTIONS_A_ROW.iter().map(|(work, _)| (*work, a_row(work))).collect();
    println!("{counted:?}");
    for (work, expected) in INSTRUCTIONS_A_ROW {
        let percent = counted[work] * 100 / expected - 100;
        assert!(percent <= MORE_PERCENT_MAX, "{work}: {expected} a row, now {} ({percent} % more)", counted[work]);
        assert!(percent >= -LESS_PERCENT_MAX, "{work}: {expected} a row, now {}: lower the table", counted[work]);
    }
}

/// What a row costs more.
fn a_row(work: &str) -> i64 {
    let rows = ROWS as i64;
    (instructions(work, 2 * ROWS) - instructions(work, ROWS)) / rows
}

/// All instructions of a process that does the work for so many rows.
fn instructions(work: &str, rows: usize) -> i64 {
    let this = std::env::current_exe().expect("this test");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(this);
    valgrind.args(["--ignored", "--exact", "child_that_valgrind_counts"]).env(WORK, format!("{work} {rows}"));
    let output = valgrind.output().expect("run valgrind, which `scripts/setup tests` installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let total = said.lines().find_map(|line| line.split_once("Collected :")).expect("a total").1;
    total.trim().parse().expect("a number")
}

#[test]
#[ignore = "run under Valgrind by the test above"]
fn child_that_valgrind_counts() {
    let Ok(work) = std::env::var(WORK) else { return };
    let (name, rows) = work.split_once(' ').expect("a name and a number");
    let (domain, rows) = (domains::by_name("health").expect("declared"), rows.parse().expect("a number"));
    match name {
        "publish" => {
            assert_eq!(publish(domain, &file(rows)).iter().map(|(head, _)| rows_of(head)).sum::<usize>(), rows)
        }
        "read" => assert_eq!(read(domain, &messages(domain), rows).rows(), rows),
        "judge" => judge(domain, &read(domain, &messages(domain), ROWS), rows / ROWS),
        "alone" => assert_eq!(read(domain, &alone(domain), rows).rows(), rows),
        other => panic!("no such work: {other}"),
    }
}

fn rows_of(head: &Head) -> usize {
    head.packed.as_ref().map_or(1, |packed| packed.rows)
}

/// A file as senders make them.
fn file(rows: usize) -> String {
    let mut text =
        "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected\n".to_owned();
    for row in 0..rows {
        let (location, day, cases) = (1 + row % 500, 1 + row % 28, row % 97);
        text += &format!("{location},2025-09-{day:02},{cases},{},{},{},false\n", cases / 2, cases / 3, cases / 4);
    }
    text
}

/// Frames a file and packs its rows.
fn publish(domain: &'static Domain, file: &str) -> Vec<(Head, Bytes)> {
    let (mut framer, mut input) = (Framer::new(FrameLimits::default(), domain.delimiter), file.as_bytes());
    let record = framer.next(&mut input).expect("framed").expect("a header");
    let header = Header::read(domain, domains::all(), &record).expect("a header");
    let columns = header.columns(domain);
    let (mut pack, mut sent, mut seq) = (Pack::default(), Vec::new(), 0);
    let mut send = |pack: &mut Pack| {
        let headers = pack.headers(&columns).expect("rows");
        sent.push((Head::from_headers(Some(&headers)).expect("a head"), Bytes::copy_from_slice(pack.value())));
        pack.clear();
    };
    while let Some(record) = framer.next(&mut input).expect("framed") {
        let provenance = Provenance { row: seq, line: record.line().cast_signed(), seq, ..FIRST };
        header.write(&record, 0, pack.line(&provenance));
        seq += 1;
        if pack.is_full(200) {
            send(&mut pack);
        }
    }
    if !pack.is_empty() {
        send(&mut pack);
    }
    sent
}

/// Packed messages with [`ROWS`] rows.
fn messages(domain: &'static Domain) -> Vec<(Head, Bytes)> {
    publish(domain, &file(ROWS))
}

/// The same rows, each in a message of its own.
fn alone(domain: &'static Domain) -> Vec<(Head, Bytes)> {
    let packed = messages(domain);
    let rows = packed.iter().flat_map(|(head, value)| head.rows(domain, value).expect("rows"));
    let alone = rows.map(|(first, row)| {
        let mut value = Vec::new();
        row.encode(domain, &mut value);
        (Head { first, packed: None }, Bytes::from(value))
    });
    alone.collect()
}

/// Reads rows out of messages, over and over until there are so many.
fn read(domain: &'static Domain, messages: &[(Head, Bytes)], rows: usize) -> Cells {
    let (mut cells, mut origins) = (Cells::of(domain), Vec::new());
    for (head, value) in messages.iter().cycle().take(messages.len() * rows / ROWS) {
        push_rows(domain, head, value, &mut cells, |provenance, _| origins.push(provenance)).expect("rows");
    }
    assert_eq!(origins.len(), rows);
    cells
}

fn judge(domain: &'static Domain, cells: &Cells, times: usize) {
    for _ in 0..times {
        assert!(judge::columns(domain, cells).refusals.is_empty(), "ordinary rows");
    }
}
