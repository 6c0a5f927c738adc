use std::collections::{BTreeMap, BTreeSet};

use freshet_ingest::frame::{FrameLimits, Framer};
use freshet_ingest::header::Header;
use freshet_topics::judge;
use freshet_topics::{Cast, Instead, Otherwise, Rule, Value, cast, domains};

use super::*;

fn options(folder: &Path) -> GenerateOptions {
    GenerateOptions { entities: 20, days: 40, rows_per_file: 300, ..GenerateOptions::into(folder) }
}

fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
    files(out).expect("a value").into_iter().map(|file| (file.key, fs::read(file.path).expect("a value"))).collect()
}

fn generate(change: impl FnOnce(&mut GenerateOptions)) -> (Summary, BTreeMap<String, Vec<u8>>) {
    let folder = tempfile::tempdir().expect("a value");
    let mut options = options(folder.path());
    change(&mut options);
    let summary = run(domains::all(), &options).expect("a value");
    let contents = contents(folder.path());
    (summary, contents)
}

#[test]
fn it_ends_with_the_command_that_drops_the_files() {
    let summary = Summary { out: "my samples".into(), domains: vec![] };
    let said = summary.report(Path::new(".freshet/env"));
    let lines: Vec<&str> = said.lines().rev().take(2).collect();
    assert_eq!(lines, ["  aws s3 cp --recursive 'my samples' \"s3://$FRESHET_RAW_BUCKET/\"", "  . .freshet/env"]);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    for dirty in [0.0, 0.2] {
        let (_, once) = generate(|options| options.dirty = dirty);
        let (_, again) = generate(|options| options.dirty = dirty);
        let (_, other) = generate(|options| (options.dirty, options.seed) = (dirty, 2));
        assert_eq!(once, again);
        assert_ne!(once, other);
    }
}

#[test]
fn more_days_leave_the_days_there_were_as_they_are() {
    let (_, short) = generate(|options| options.rows_per_file = u64::MAX);
    let (_, long) = generate(|options| (options.rows_per_file, options.days) = (u64::MAX, 60));
    let text = |set: &BTreeMap<String, Vec<u8>>| {
        let (_, bytes) = set.iter().find(|(key, _)| key.starts_with("health/")).expect("a value");
        String::from_utf8(bytes.clone()).expect("a value")
    };
    let (short, long) = (text(&short), text(&long));
    assert!(long.ends_with(short.split_once('\n').expect("a value").1));
}

#[test]
fn counts_are_locations_times_days_and_projections() {
    let (summary, contents) = generate(|_| {});
    for domain in &summary.domains {
        let rows: u64 = if domain.domain == "locations" { 20 } else { 20 * 45 };
        assert_eq!((domain.rows, domain.files), (rows, rows.div_ceil(300)), "{}", domain.domain);
        assert_eq!(domain.defects, 0);
        let of_domain = || contents.iter().filter(|(key, _)| key.starts_with(domain.domain));
        assert_eq!(of_domain().count() as u64, domain.files);
        let lines: usize = of_domain().map(|(_, bytes)| bytes.iter().filter(|byte| **byte == b'\n').count()).sum();
        assert_eq!(lines as u64, domain.rows + domain.files);
        assert_eq!(of_domain().map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), domain.bytes);
    }
    assert!(contents.contains_key("locations/locations.csv"), "{:?}", contents.keys());
    assert!(contents.contains_key("climate/climate-2025-08-13-00001.csv"), "{:?}", contents.keys());
}

/// How often which column was counted under which rule, and how many rows were, as (rows, rows with anything wrong).
type Judged = (BTreeMap<(&'static str, &'static str), u64>, u64, u64);

/// What becomes of the rows of a domain: framed, matched to their header and judged as they are on the way.
fn judged(contents: &BTreeMap<String, Vec<u8>>, domain: &'static Domain) -> Judged {
    let (mut counts, mut rows, mut wrong) = (BTreeMap::new(), 0, 0);
    for (key, bytes) in contents.iter().filter(|(key, _)| domain.matches(key, [])) {
        let (mut framer, mut rest) = (Framer::new(FrameLimits::default(), domain.delimiter), bytes.as_slice());
        let header = Header::read(domain, &[], &framer.next(&mut rest).expect(key).expect(key)).expect(key);
        let mut count = |row: &freshet_topics::RawRow| {
            let judged = judge::row(domain, row);
            let noted: Vec<(&str, &str)> = match judged.refusal(0) {
                None => {
                    let notes = judged.corrections.iter().chain(judged.warnings.iter());
                    notes.map(|(_, note)| (note.column, note.rule)).collect()
                }
                Some(refusal) => vec![(refusal.column.unwrap_or_default(), refusal.rule)],
            };
            rows += 1;
            wrong += u64::from(!noted.is_empty());
            for counted in noted {
                *counts.entry(counted).or_insert(0) += 1;
            }
        };
        while let Some(record) = framer.next(&mut rest).expect(key) {
            count(&header.raw_row(&record));
        }
        while let Some(record) = framer.finish().expect(key) {
            count(&header.raw_row(&record));
        }
    }
    (counts, rows, wrong)
}

#[test]
fn every_row_of_a_clean_set_loads_as_it_stands() {
    let (summary, contents) = generate(|options| (options.entities, options.days) = (50, 400));
    for (domain, summary) in domains::all().iter().zip(&summary.domains) {
        assert_eq!(judged(&contents, domain), (BTreeMap::new(), summary.rows, 0), "{}", domain.name);
    }
}

#[test]
fn the_dirty_share_is_near_what_was_asked_and_the_rest_is_clean() {
    for share in [0.02, 0.3] {
        let (summary, contents) = generate(|options| {
            (options.entities, options.days, options.dirty) = (100, 200, share);
        });
        for (domain, summary) in domains::all().iter().zip(&summary.domains).skip(1) {
            let found = summary.defects as f64 / (100.0 * 205.0);
            assert!((found - share).abs() < 0.1 * share, "{}: {found} of {share}", domain.name);
            let (_, _, wrong) = judged(&contents, domain);
            let visible = wrong as f64 / summary.defects as f64;
            assert!((0.5..=1.0).contains(&visible), "{}: {visible} show in the cells", domain.name);
        }
    }
}

fn rejects_infinity(rule: &Rule) -> bool {
    rule.otherwise == Otherwise::Reject && rule.broken(&Value::Double(f64::INFINITY)).is_some()
}

/// All that a row of a domain can be counted under, column by column.
fn countable(domain: &'static Domain) -> BTreeSet<(&'static str, &'static str)> {
    let mut all = BTreeSet::from([("", judge::EXTRA_CELLS)]);
    let by = |instead: Instead, reject: &'static str, null: &'static str, value: &'static str| match instead {
        Instead::Reject => reject,
        Instead::Null => null,
        Instead::Value(_) => value,
    };
    for column in domain.columns {
        let (empty, uncastable) = (column.empty, column.uncastable);
        let mut add = |rule: &'static str| all.extend((!rule.is_empty()).then_some((column.name, rule)));
        let default = if empty == column.absent { "" } else { judge::EMPTY_TO_DEFAULT };
        add(by(empty, judge::REQUIRED_EMPTY, "", default));
        add(if column.missing_values.is_empty() { "" } else { judge::MISSING_VALUE });
        if !matches!(column.cast, Cast::Text | Cast::TrimmedText) {
            add(by(uncastable, judge::UNCASTABLE, judge::UNCASTABLE_TO_NULL, judge::UNCASTABLE_TO_DEFAULT));
        }
        // A key stays what it is, and is seldom above a thousand.
        let is_count = matches!(column.cast, Cast::Int | Cast::BigInt) && !domain.key.contains(&column.name);
        add(if is_count { cast::GROUPING_REMOVED } else { "" });
        add(if column.cast == Cast::Date { cast::TIME_CUT } else { "" });
        add(match column.cast {
            Cast::Int | Cast::BigInt => cast::FRACTION_CUT,
            // Of a row that is rejected nothing else is counted.
            Cast::Double if column.rules.iter().any(rejects_infinity) => "",
            Cast::Double => cast::OVERFLOW_TO_INFINITY,
            Cast::Numeric { .. } => cast::FRACTION_ROUNDED,
            Cast::Date => cast::DATE_NORMALISED,
            Cast::Timestamp => cast::ZONE_ASSUMED,
            Cast::Bool | Cast::Text | Cast::TrimmedText => "",
        });
        for rule in column.rules.iter().filter(|rule| rule.otherwise != Otherwise::Fail) {
            add(rule.name);
        }
    }
    all.extend(domain.row_rules.iter().map(|rule| (rule.column, rule.name)));
    all
}

#[test]
fn a_dirty_set_reaches_every_cast_rule_and_requirement() {
    let (_, contents) = generate(|options| (options.entities, options.days, options.dirty) = (600, 10, 1.0));
    for domain in domains::all() {
        let (counts, ..) = judged(&contents, domain);
        let missed: Vec<_> = countable(domain).into_iter().filter(|it| !counts.contains_key(it)).collect();
        assert_eq!(missed, [], "{}: nothing was counted under these", domain.name);
    }
}

#[test]
fn every_style_comes_out_and_rows_come_again() {
    let (summary, contents) = generate(|options| (options.entities, options.days, options.dirty) = (60, 60, 1.0));
    let any = |bytes: &[u8]| contents.values().any(|text| text.windows(bytes.len()).any(|part| part == bytes));
    for sign in ["\u{feff}location_id", "\r\n", "LOCATION_ID , DATE", ",remark", "\"\"roof\"\"", "\n\n"] {
        assert!(any(sign.as_bytes()), "{sign:?}");
    }
    assert!(summary.domains[1].rows > 60 * 65, "repeated keys add rows");
}

#[test]
fn numbers_are_spelled_as_the_source_spells_them() {
    let mut row = Row::of(b',');
    for (value, ten_to) in
        [(0.0, 1e3), (1.0, 1e3), (0.02, 1e3), (0.702, 1e3), (26.5, 10.0), (2253.0, 10.0), (-0.05, 1e2)]
    {
        row.fixed(value, ten_to, b'.');
    }
    row.whole(-70.0);
    let mut text = Vec::new();
    row.write(&mut text);
    assert_eq!(String::from_utf8(text).expect("a value"), "0.0,1.0,0.02,0.702,26.5,2253.0,-0.05,-70");
    for (delimiter, expected) in [(b';', "26,5;a,b;\"c;d\""), (b',', "\"26,5\",\"a,b\",c;d")] {
        let (mut row, mut text) = (Row::of(delimiter), Vec::new());
        row.fixed(26.5, 10.0, b',');
        row.text("a,b");
        row.text("c;d");
        row.write(&mut text);
        assert_eq!(String::from_utf8(text).expect("a value"), expected);
    }
}

#[test]
fn what_cannot_be_generated_is_refused_in_a_clear_line() {
    let folder = tempfile::tempdir().expect("a value");
    fs::write(folder.path().join("mine.txt"), "mine").expect("a value");
    let refused = |change: &dyn Fn(&mut GenerateOptions)| {
        let mut options = options(folder.path());
        change(&mut options);
        run(domains::all(), &options).expect_err("an error").to_string()
    };
    assert!(refused(&|_| {}).contains("is not empty"));
    assert!(refused(&|options| options.out = folder.path().join("mine.txt")).contains("is not a folder"));
    assert!(refused(&|options| options.dirty = 1.5).contains("--dirty 1.5"));
    assert!(refused(&|options| options.dirty = f64::NAN).contains("--dirty"));
    assert!(refused(&|options| options.days = 4_000_000).contains("years 1 to 9999"));
    assert!(refused(&|options| options.domains = vec!["pharmacy".into()]).contains("`pharmacy`"));
}

mod another;
