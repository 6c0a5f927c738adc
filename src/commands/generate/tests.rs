use std::collections::BTreeMap;

use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cell, Column, DOMAINS};

use super::defects::Defect;
use super::*;

fn options(folder: &Path) -> GenerateOptions {
    GenerateOptions { locations: 20, days: 40, rows_per_file: 300, ..GenerateOptions::into(folder) }
}

fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
    files(out).expect("a value").into_iter().map(|file| (file.key, fs::read(file.path).expect("a value"))).collect()
}

fn generate(change: impl FnOnce(&mut GenerateOptions)) -> (Summary, BTreeMap<String, Vec<u8>>) {
    let folder = tempfile::tempdir().expect("a value");
    let mut options = options(folder.path());
    change(&mut options);
    let summary = run(&options).expect("a value");
    let contents = contents(folder.path());
    (summary, contents)
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

/// Whether a cell casts with no correction and no rule changes it.
fn is_clean(column: &'static Column, text: &str) -> bool {
    let mut notes = Notes::default();
    judge::cell(column, &Cell::Text(text.into()), &mut notes).is_ok() && notes == Notes::default()
}

/// (rows, rows with anything wrong in a cell or their number), told by the declared domains alone.
fn judge(contents: &BTreeMap<String, Vec<u8>>, domain: &freshet_topics::Domain) -> (usize, usize) {
    let (mut rows, mut bad) = (0, 0);
    for (_, bytes) in contents.iter().filter(|(key, _)| domain.matches(key, [])) {
        let text = String::from_utf8(bytes.clone()).expect("a value");
        let mut lines = text.lines();
        let header: Vec<_> = lines.next().expect("a value").split(',').collect();
        let columns: Vec<_> = header.iter().map(|name| &domain.columns[domain.index_of(name)]).collect();
        assert_eq!(columns.len(), domain.columns.len());
        for line in lines.filter(|line| !line.is_empty()) {
            let cells: Vec<_> = line.split(',').collect();
            rows += 1;
            let clean = columns.iter().zip(&cells).all(|(column, cell)| is_clean(column, cell));
            bad += usize::from(!clean || cells.len() != columns.len());
        }
    }
    (rows, bad)
}

#[test]
fn every_row_of_a_clean_set_casts_without_correction() {
    let (summary, contents) = generate(|options| (options.locations, options.days) = (50, 400));
    for domain in DOMAINS {
        let rows = summary.domains.iter().find(|it| it.domain == domain.name).expect("a value").rows;
        assert_eq!(judge(&contents, domain), (rows as usize, 0), "{}", domain.name);
    }
}

#[test]
fn the_dirty_share_is_near_what_was_asked_and_the_rest_is_clean() {
    for share in [0.02, 0.3] {
        // One plain file a domain, so that the header is the plain one.
        let (summary, contents) = generate(|options| {
            (options.locations, options.days, options.dirty, options.rows_per_file) = (100, 200, share, 1_000_000);
        });
        for domain in &summary.domains[1..] {
            let found = domain.defects as f64 / (100.0 * 205.0);
            assert!((found - share).abs() < 0.1 * share, "{}: {found} of {share}", domain.domain);
            let (_, bad) = judge(&contents, freshet_topics::domains::by_name(domain.domain).expect("a value"));
            let visible = bad as f64 / domain.defects as f64;
            assert!((0.5..=1.2).contains(&visible), "{}: {visible} show in the cells", domain.domain);
        }
    }
}

#[test]
fn every_style_and_every_defect_comes_out() {
    let (summary, contents) = generate(|options| (options.locations, options.days, options.dirty) = (60, 60, 1.0));
    for shape in &SHAPES {
        for defect in shape.defects {
            if let Defect::Set(column, _) | Defect::Around(column, ..) = defect {
                assert!(shape.index_of(column).is_some(), "{}: {column}", shape.domain);
            }
        }
    }
    let any = |bytes: &[u8]| contents.values().any(|text| text.windows(bytes.len()).any(|part| part == bytes));
    for sign in ["\u{feff}location_id", "\r\n", "LOCATION_ID , DATE", ",station", "\"\"roof\"\"", "\n\n"] {
        assert!(any(sign.as_bytes()), "{sign:?}");
    }
    assert!(summary.domains[1].rows > 60 * 65, "repeated keys add rows");
}

#[test]
fn numbers_are_spelled_as_the_source_spells_them() {
    let mut row = Row::default();
    for (value, scale) in [(0.0, 1000), (1.0, 1000), (0.02, 1000), (0.702, 1000), (26.5, 10), (2253.0, 10)] {
        row.fixed(value, scale);
    }
    let mut text = Vec::new();
    row.write(&mut text);
    assert_eq!(String::from_utf8(text).expect("a value"), "0.0,1.0,0.02,0.702,26.5,2253.0");
}

#[test]
fn what_cannot_be_generated_is_refused_in_a_clear_line() {
    let folder = tempfile::tempdir().expect("a value");
    fs::write(folder.path().join("mine.txt"), "mine").expect("a value");
    let refused = |change: &dyn Fn(&mut GenerateOptions)| {
        let mut options = options(folder.path());
        change(&mut options);
        run(&options).expect_err("an error").to_string()
    };
    assert!(refused(&|_| {}).contains("is not empty"));
    assert!(refused(&|options| options.out = folder.path().join("mine.txt")).contains("is not a folder"));
    assert!(refused(&|options| options.dirty = 1.5).contains("--dirty 1.5"));
    assert!(refused(&|options| options.dirty = f64::NAN).contains("--dirty"));
    assert!(refused(&|options| options.days = 4_000_000).contains("years 1 to 9999"));
    assert!(refused(&|options| options.domains = vec!["pharmacy".into()]).contains("`pharmacy`"));
}
