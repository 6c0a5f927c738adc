use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::judge::{self, Notes};
use crate::window::{Window, WindowKind};
use crate::{Cell, Comparison, Instead, Limit, NewColumn, Otherwise, Overwrite, RawRow, Value};

/// A contract with everything that a contract can have.
const FULL: &str = r#"
apiVersion: v3.2.0
kind: DataContract
id: clinics-visits
version: 1.0.0
description: {purpose: Visits to clinics., usage: Daily reports.}
schema:
  - name: visits
    customProperties:
      - {vendor: freshet, property: files, value: [visits/, raw/visits.csv]}
      - {vendor: freshet, property: eventTime, value: day}
      - {vendor: freshet, property: observedWhen, value: {state: final}}
      - {vendor: freshet, property: missingValues, value: ["NA", "-999"]}
      - {vendor: freshet, property: onNewColumn, value: keep}
      - {vendor: freshet, property: onOverwrite, value: replace}
      - {vendor: freshet, property: onNearMiss, value: reject}
      - {vendor: freshet, property: delimiter, value: ","}
      - {vendor: freshet, property: decimal, value: "."}
      - {vendor: freshet, property: encoding, value: utf-8}
      - {vendor: freshet, property: corrections, value: keep}
      - {vendor: elsewhere, property: anything, value: 1}
    quality:
      - name: seen_capped
        type: custom
        engine: freshet
        implementation: {column: seen, atMost: came, otherwise: cap}
      - {name: rows, type: sql, query: SELECT 1, mustBe: 1}
    properties:
      - name: day
        logicalType: date
        required: true
        primaryKey: true
        primaryKeyPosition: 2
        logicalTypeOptions: {minimum: "1800-01-01", maximum: "2200-12-31"}
      - name: clinic
        logicalType: integer
        physicalType: int4
        required: true
        primaryKey: true
        primaryKeyPosition: 1
        partitioned: true
        relationships: [{type: foreignKey, to: clinics.id}]
      - {name: came, logicalType: integer}
      - {name: seen, logicalType: integer}
      - name: state
        logicalType: string
        enum: [{value: draft}, {value: final}]
        quality:
          - {name: unknown_state, type: custom, engine: freshet, implementation: {otherwise: warn}}
        customProperties:
          - {vendor: freshet, property: absent, value: {default: final}}
          - {vendor: freshet, property: empty, value: {default: draft}}
      - name: cost
        logicalType: number
        physicalType: numeric(8,2)
        logicalTypeOptions: {minimum: 0, maximum: 1000}
        quality:
          - {name: cost_zero, type: custom, engine: freshet, implementation: {limits: [minimum], otherwise: zero}}
          - {name: cost_capped, type: custom, engine: freshet, implementation: {limits: [maximum], otherwise: cap}}
        customProperties:
          - {vendor: freshet, property: sample, value: {least: 2, greatest: 9.5, scale: came}}
      - name: patient
        logicalType: string
        classification: personal
        synonyms: [{synonym: Patient_Name}]
        logicalTypeOptions: {minLength: 2, maxLength: 40, pattern: "[A-Z].*"}
        customProperties:
          - {vendor: freshet, property: trim, value: false}
          - {vendor: freshet, property: missingValues, value: ["?"]}
      - name: seen_at
        logicalType: timestamp
        customProperties:
          - {vendor: freshet, property: uncastable, value: reject}
slaProperties:
  - {property: latency, value: 2, unit: min}
  - {property: retention, value: 3, unit: y}
"#;

const CLINICS: &str = "
apiVersion: v3.2.0
kind: DataContract
id: clinics
version: 1.0.0
schema:
  - name: clinics
    properties:
      - name: id
        logicalType: integer
        physicalType: int4
        required: true
        primaryKey: true
        partitioned: true
";

fn read(files: &[(&str, &str)]) -> Result<&'static Pipeline, Vec<String>> {
    Pipeline::of("t", &Folder::with(files), Vec::new())
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn full() -> &'static Domain {
    let files = [("domains/visits.odcs.yaml", FULL), ("domains/clinics.odcs.yaml", CLINICS)];
    read(&files).expect("no mistakes").domain("visits").expect("it is there")
}

/// The mistakes in the full contract with `from` replaced by `to`.
fn said(from: &str, to: &str) -> Vec<String> {
    assert!(FULL.contains(from), "{from}");
    let text = FULL.replacen(from, to, 1);
    read(&[("domains/visits.odcs.yaml", &text), ("domains/clinics.odcs.yaml", CLINICS)]).err().unwrap_or_default()
}

#[test]
fn the_shipped_folder_has_four_domains_and_tests_of_each() {
    let shipped = Pipeline::shipped();
    let names: Vec<&str> = shipped.domains.iter().map(|domain| domain.name).collect();
    assert_eq!(names, ["locations", "climate", "health", "hospital"]);
    for domain in shipped.domains {
        assert!(!domain.description.is_empty() && domain.latency == Some(Duration::from_secs(60)), "{}", domain.name);
        assert!(domain.columns.iter().all(|column| !column.description.is_empty()), "{}", domain.name);
        assert!(shipped.examples.iter().any(|examples| examples.domain == *domain), "{}", domain.name);
    }
    assert_eq!(shipped.domains[1].patterns, ["climate/", "raw/climate_data.csv"]);
    assert_eq!(shipped.domains[1].key, ["location_id", "date", "is_projected", "projection_year"]);
    let filled = |domain: &Domain| -> Vec<&str> {
        domain.columns.iter().filter(|column| domain.never_null(column)).map(|column| column.name).collect()
    };
    assert_eq!(filled(shipped.domains[0]), ["id", "name"]);
    assert_eq!(filled(shipped.domains[1]), ["location_id", "date", "temperature", "is_projected"]);
}

#[test]
fn a_key_belongs_to_one_domain_at_most() {
    let keys = [
        ("climate/2025-09-21.csv", Some("climate")),
        ("climate/deep/er.csv.gz", Some("climate")),
        ("climate/", None),
        ("raw/climate_data.csv", Some("climate")),
        ("raw/locations.csv", Some("locations")),
        ("raw/other.csv", None),
        ("climates/x.csv", None),
        ("health/x.csv", Some("health")),
        ("hospital/x.csv", Some("hospital")),
    ];
    for (key, expected) in keys {
        let of_it = Pipeline::shipped().domains.iter().filter(|domain| domain.matches(key, []));
        let found: Vec<_> = of_it.map(|domain| domain.name).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn all_that_a_contract_says_is_in_the_domain() {
    let visits = full();
    assert_eq!((visits.table, visits.description), ("visits", "Visits to clinics."));
    assert_eq!((visits.key, visits.partition_by), (["clinic", "day"].as_slice(), "clinic"));
    assert_eq!((visits.on_new_column, visits.latency), (NewColumn::Keep, Some(Duration::from_secs(120))));
    assert_eq!(visits.on_overwrite, Overwrite::Replace);
    assert!(Pipeline::shipped().domains.iter().all(|domain| domain.on_overwrite == Overwrite::Merge));
    assert!(visits.keeps_corrections && !Pipeline::shipped().domains[0].keeps_corrections);
    let event_time = visits.event_time.expect("a fact");
    assert_eq!((event_time.date, event_time.observed_sql("t.").as_str()), ("day", "t.\"state\" = 'final'"));
    let [day, clinic, _, _, state, cost, patient, seen_at] = visits.columns else { panic!("eight columns") };
    assert_eq!((day.rules.len(), day.rules[0].name, day.rules[1].name), (2, "below_minimum", "above_maximum"));
    let reference = clinic.references.expect("a reference");
    assert_eq!((reference.domain, reference.column), ("clinics", "id"));
    assert_eq!((state.absent.value(), state.empty.value()), (Value::Text("final"), Value::Text("draft")));
    assert!(matches!(state.rules[0].limits, [Limit::OneOf(values)] if values.len() == 2));
    let outcomes: Vec<_> = cost.rules.iter().map(|rule| (rule.name, rule.limits.len(), rule.otherwise)).collect();
    assert_eq!(outcomes, [("cost_zero", 1, Otherwise::Zero), ("cost_capped", 1, Otherwise::Cap)]);
    let sample = cost.sample.expect("a sample");
    assert_eq!((sample.least, sample.greatest, sample.scale), (Some(2.0), Some(9.5), Some("came")));
    assert!(patient.personal && patient.aliases == ["patient_name"] && patient.cast == crate::Cast::Text);
    assert_eq!(
        (patient.missing_values, state.missing_values),
        (["NA", "-999", "?"].as_slice(), ["NA", "-999"].as_slice())
    );
    assert_eq!((seen_at.uncastable, seen_at.empty), (Instead::Reject, Instead::Null));
    let rule = visits.row_rules[0];
    assert_eq!((rule.name, rule.comparison, rule.other), ("seen_capped", Comparison::AtMost, "came"));
}

#[test]
fn a_cell_gives_what_its_contract_says() {
    let visits = full();
    type Case = (&'static str, &'static str, Result<Option<&'static str>, &'static str>, &'static [&'static str]);
    let cases: &[Case] = &[
        ("came", " NA ", Ok(None), &["missing_value"]),
        ("came", "-999", Ok(None), &["missing_value"]),
        ("came", "-998", Ok(Some("-998")), &[]),
        ("came", "many", Ok(None), &["uncastable_to_null"]),
        ("clinic", "NA", Err("missing_value"), &[]),
        ("clinic", "", Err("required_empty"), &[]),
        ("clinic", "one", Err("uncastable"), &[]),
        ("day", "1799-12-31", Err("below_minimum"), &[]),
        ("day", "2200-12-31", Ok(Some("2200-12-31")), &[]),
        ("state", " ", Ok(Some("draft")), &["empty_to_default"]),
        ("state", "NA", Ok(Some("draft")), &["missing_value"]),
        ("state", " odd ", Ok(Some("odd")), &["warned: unknown_state"]),
        ("cost", "-3", Ok(Some("0.00")), &["cost_zero"]),
        ("cost", "1000.005", Ok(Some("1000.00")), &["fraction_rounded", "cost_capped"]),
        ("cost", "3.5", Ok(Some("3.50")), &[]),
        ("patient", "?", Ok(None), &["missing_value"]),
        ("patient", "A", Err("too_short"), &[]),
        ("patient", "ann", Err("pattern_mismatch"), &[]),
        ("patient", "Ann ", Ok(Some("Ann ")), &[]),
        ("seen_at", "noon", Err("uncastable"), &[]),
    ];
    for (name, text, expected, noted) in cases {
        let mut notes = Notes::default();
        let raw = Cell::Text((*text).into());
        let judged = judge::cell(visits.column(name).expect("a column"), &raw, &mut notes);
        let found = judged.map(|value| (!value.is_null()).then(|| value.to_string())).map_err(|refused| refused.rule);
        assert_eq!(found, expected.map(|text| text.map(str::to_owned)), "{name} {text:?}");
        let warned = notes.warnings.iter().map(|note| format!("warned: {}", note.rule));
        let found: Vec<String> = notes.corrections.iter().map(|note| note.rule.to_owned()).chain(warned).collect();
        assert_eq!(found, *noted, "{name} {text:?}");
    }
}

#[test]
fn two_columns_are_compared_where_both_are_known() {
    for (otherwise, expected, noted) in [
        ("cap", Ok(Value::BigInt(3)), ["seen_capped"].as_slice()),
        ("\"null\"", Ok(Value::Null), &["seen_capped"]),
        ("warn", Ok(Value::BigInt(5)), &[]),
        ("reject", Err("seen_capped"), &[]),
    ] {
        let text = FULL.replacen("otherwise: cap}", &format!("otherwise: {otherwise}}}"), 1);
        let files = [("domains/visits.odcs.yaml", text.as_str()), ("domains/clinics.odcs.yaml", CLINICS)];
        let visits = read(&files).expect("no mistakes").domain("visits").expect("it is there");
        let judged = |came: &str, seen: &str| {
            let row = format!(r#"{{"day":"2025-09-21","clinic":"1","came":"{came}","seen":"{seen}"}}"#);
            judge::row(visits, &RawRow::decode(visits, row.as_bytes()).expect("a row"))
        };
        for (came, seen, corrections) in [("", "5", 0), ("3.5", "5", 1), ("5", "5", 0)] {
            let found = judged(came, seen);
            let value = found.refusal(0).is_none().then(|| found.values.get(3, 0));
            assert_eq!(value, Some(Value::BigInt(5)), "by what is unknown or corrected nothing is judged");
            assert_eq!((found.corrections.of(0).len(), found.warnings.of(0).len()), (corrections, 0));
        }
        let found = judged("3", "5");
        let value = found.refusal(0).map_or(Ok(found.values.get(3, 0)), |refusal| Err(refusal.rule));
        assert_eq!(value, expected, "{otherwise}");
        assert_eq!(found.corrections.of(0).iter().map(|(_, note)| note.rule).collect::<Vec<_>>(), noted, "{otherwise}");
        assert_eq!(found.warnings.of(0).len(), usize::from(otherwise == "warn"));
    }
}

#[test]
fn a_value_is_capped_only_to_one_that_fits_its_column() {
    let mistakes = |size: &str, otherwise: &str| {
        let number = |name: &str, size: &str| format!("{name}, logicalType: number, physicalType: \"numeric({size})\"");
        let text = FULL
            .replace("came, logicalType: integer", &number("came", "12,2"))
            .replace("seen, logicalType: integer", &number("seen", size))
            .replace("came, otherwise: cap", &format!("came, otherwise: {otherwise}"));
        read(&[("domains/visits.odcs.yaml", &text), ("domains/clinics.odcs.yaml", CLINICS)]).err().unwrap_or_default()
    };
    for (size, otherwise) in [("12,2", "cap"), ("14,3", "cap"), ("6,2", "reject"), ("6,2", "warn")] {
        assert_eq!(mistakes(size, otherwise), Vec::<String>::new(), "{size} {otherwise}");
    }
    for size in ["6,2", "12,1", "12,3"] {
        let found = mistakes(size, "cap");
        let expected =
            format!("`seen` (numeric({size})) cannot be capped to `came` (numeric(12,2)), whose values may not fit");
        assert!(found.len() == 1 && found[0].contains(&expected), "{found:#?}");
    }
}

#[test]
fn a_key_that_cannot_be_read_is_never_null() {
    let optional = "      - name: seen_at\n        logicalType: timestamp\n        customProperties:\n          \
                    - {vendor: freshet, property: uncastable, value: reject}\n";
    let key = "      - name: seen_at\n        logicalType: timestamp\n        primaryKey: true\n        primaryKeyPosition: 3\n";
    let text = FULL.replacen(optional, key, 1);
    let files = [("domains/visits.odcs.yaml", text.as_str()), ("domains/clinics.odcs.yaml", CLINICS)];
    let seen_at = read(&files).expect("no mistakes").domain("visits").expect("it is there").columns[7];
    assert_eq!((seen_at.uncastable, seen_at.empty), (Instead::Reject, Instead::Null));
    let null = "        customProperties:\n          - {vendor: freshet, property: uncastable, value: \"null\"}\n";
    let found = said(optional, &format!("{key}{null}"));
    assert!(
        found.iter().any(|line| line.contains("a key that cannot be read is never NULL: `uncastable`")),
        "{found:#?}"
    );
}

#[test]
fn windows_of_the_shipped_domains_end_in_years_of_four_digits() {
    for domain in Pipeline::shipped().domains {
        let Some(event_time) = domain.event_time else { continue };
        let limits = domain.column(event_time.date).expect("a column").rules[0].limits;
        let [Limit::Minimum(Value::Date(first)), Limit::Maximum(Value::Date(last))] = limits else {
            panic!("{limits:?}")
        };
        for kind in [WindowKind::Day, WindowKind::Week, WindowKind::Month, WindowKind::Year] {
            let [first, last] = [first, last].map(|date| Window::containing(kind, *date));
            assert_eq!((first.start.to_string().len(), last.end().to_string().len()), (10, 10), "{first:?} {last:?}");
        }
    }
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_to_do() {
    let cases = [
        ("apiVersion: v3.2.0", "apiVersion: v2", "2:13: `v2` is not one of v3.2.0"),
        ("id: clinics-visits\n", "", "2:1: `id` is missing here"),
        ("version: 1.0.0", "version: 1", "5:10: text is expected here, not a whole number"),
        ("slaProperties:", "slaProperty:", "unknown key `slaProperty`; did you mean slaProperties?"),
        ("    quality:\n      - name", "    qualty:\n      - name", "unknown key `qualty`; did you mean quality?"),
        ("name: visits\n", "name: Visits\n", "8:11: `Visits` is not a valid name for a domain: use lower-case letters"),
        ("- name: visits\n", "- name: calls\n", "the domain `calls` belongs in domains/calls.odcs.yaml"),
        ("value: [visits/, raw/visits.csv]", "value: []", "`files` is empty"),
        ("[visits/, raw", "[/visits/, raw", "`/visits/` is not an object key"),
        ("[visits/, raw", "[clinics/old/, raw", "a file under `clinics/old/` may also match `clinics/` of clinics"),
        ("property: files", "property: fles", "unknown property `fles`; did you mean files?"),
        ("vendor: freshet", "vendor: freshe", "unknown vendor `freshe`; did you mean freshet?"),
        ("{vendor: freshet, property: files", "{property: files", "`files` has no vendor: write `vendor: freshet`"),
        ("eventTime, value: day", "eventTime, value: days", "11:55: there is no column `days`; did you mean day?"),
        ("eventTime, value: day", "eventTime, value: came", "must be a required column of type date"),
        ("{state: final}", "{stat: final}", "there is no column `stat`; did you mean state?"),
        ("{state: final}", "{state: 5}", "text is expected here, not a whole number"),
        ("{state: final}", "{}", "one column and its value are expected here"),
        ("value: keep", "value: kep", "`kep` is not one of ignore, keep, add, reject; did you mean keep?"),
        (
            "onOverwrite, value: replace",
            "onOverwrite, value: replce",
            "15:57: `replce` is not one of merge, replace; did you mean replace?",
        ),
        (
            "onNearMiss, value: reject",
            "onNearMiss, value: ignor",
            "16:56: `ignor` is not one of reject, ignore; did you mean ignore?",
        ),
        (
            "delimiter, value: \",\"",
            "delimiter, value: \"; \"",
            "17:55: `; ` cannot be a delimiter: use a tab (\"\\t\"), `;`, `|` or another punctuation mark",
        ),
        ("delimiter, value: \",\"", "delimiter, value: \"-\"", "17:55: `-` cannot be a delimiter: use a tab"),
        ("delimiter, value: \",\"", "delimiter, value: 5", "17:55: text is expected here, not a whole number"),
        ("decimal, value: \".\"", "decimal, value: \";\"", "18:53: `;` is not one of ., ,"),
        (
            "encoding, value: utf-8",
            "encoding, value: utf8",
            "19:54: `utf8` is not one of utf-8, windows-1252, utf-16, utf-16le, utf-16be; did you mean utf-8?",
        ),
        ("encoding, value: utf-8", "encoding", "19:9: the property `encoding` has no value"),
        ("corrections, value: keep", "corrections, value: kep", "`kep` is not one of count, keep; did you mean keep?"),
        ("\"-999\"]", "-999]", "text is expected here, not a whole number"),
        ("[\"NA\", ", "[\"NA\", \"NA\", ", "`NA` occurs twice"),
        ("[\"NA\", ", "[\" NA\", ", "write `NA`"),
        ("[\"NA\", ", "[\" \", ", "a cell with only blanks is empty"),
        ("atMost: came", "atMost: cam", "there is no column `cam`; did you mean came?"),
        ("atMost: came", "atMost: cost", "must be two columns of the same type"),
        ("atMost: came, ", "", "either `atMost` or `atLeast` names the column"),
        (
            "otherwise: cap}\n      - {name: rows",
            "otherwise: zero}\n      - {name: rows",
            "`zero` is not one of reject, null, cap, warn",
        ),
        ("name: seen_capped", "name: uncastable", "freshet uses the name `uncastable` itself"),
        ("engine: freshet\n", "engine: freshett\n", "unknown engine `freshett`; did you mean freshet?"),
        ("name: came,", "name: src_row,", "`src_row` is reserved by freshet or Postgres"),
        ("name: came,", "name: seen,", "the column `seen` occurs twice"),
        (
            "name: came,",
            "name: came, synonyms: [{synonym: patient name}],",
            "the synonym `patient_name` of `patient` is also a name of `came`",
        ),
        (
            "{synonym: Patient_Name}",
            "{synonym: Seen At}",
            "the synonym `seen at` of `patient` is also a name of `seen_at`",
        ),
        ("name: came,", "name: id,", "every table has its own `id`"),
        ("name: came, logicalType: integer", "name: came, logicalType: int", "`int` is not one of integer, number"),
        ("name: came,", "name: came, physicalType: text,", "the logicalType of text is string, not integer"),
        ("name: came,", "name: came, physicalType: jsonb,", "`jsonb` is not a type of a column"),
        ("name: came,", "name: came, physicalName: people,", "leave `physicalName` out"),
        ("name: came,", "name: came, unique: true,", "only the key is unique"),
        ("name: came,", "name: came, primaryKeyPosition: 3,", "`primaryKeyPosition` without `primaryKey: true`"),
        ("name: came,", "name: came, primaryKey: true,", "the position of `came` in the key is missing"),
        ("name: came,", "name: came, partitioned: true,", "rows are already partitioned by `clinic`, not by `came`"),
        ("primaryKeyPosition: 2", "primaryKeyPosition: 3", "positions in the key must be 1, 2, 3, …: `day` has 3"),
        ("        partitioned: true\n", "", "no column has `partitioned: true`"),
        ("to: clinics.id", "to: clinic.id", "there is no other domain `clinic`; did you mean clinics?"),
        ("least: 2, greatest", "least: 12, greatest", "`least` 12 is above `greatest` 9.5"),
        (
            "scale: came",
            "scale: cam",
            "there is no column `cam` in visits or a domain that it refers to; did you mean came?",
        ),
        ("scale: came", "scale: cost", "`cost` cannot scale itself"),
        ("scale: came", "scale: state", "`state` has type text: it must be a number"),
        ("to: clinics.id", "to: clinics.name", "`clinics.name` is not the key of clinics (id)"),
        ("to: clinics.id", "to: clinics", "write `domain.column`"),
        (
            "physicalType: int4",
            "physicalType: int8",
            "`clinic` has type int8, but the column that it refers to has type int4",
        ),
        (
            "classification: personal",
            "classification: persnal",
            "unknown classification `persnal`; did you mean personal?",
        ),
        (
            "minLength: 2, maxLength: 40",
            "minLength: 41, maxLength: 40",
            "`maxLength` and `minLength` cannot both be satisfied",
        ),
        ("minimum: 0, maximum: 1000", "minimum: 0, maximum: -1", "`maximum` and `minimum` cannot both be satisfied"),
        (
            "minimum: 0, maximum: 1000",
            "minimum: x, maximum: 1000",
            "a value of type numeric(8,2) is expected here, not `x`",
        ),
        ("minimum: 0, maximum: 1000", "minimum: 0.001, maximum: 1000", "is expected here, not `0.001`"),
        (
            "minimum: 0, maximum: 1000",
            "minLength: 0, maximum: 1000",
            "`minLength` does not fit a column of type numeric(8,2)",
        ),
        (
            "limits: [minimum], otherwise: zero",
            "limits: [minimun], otherwise: zero",
            "the column has no limit `minimun`; did you mean minimum?",
        ),
        ("limits: [maximum]", "limits: [minimum, maximum]", "two rules apply to `minimum`"),
        (
            "minimum: 0, maximum: 1000",
            "minimum: 1, maximum: 1000",
            "the rule `cost_zero`: zero breaks `minimum` as well",
        ),
        ("{otherwise: warn}", "{otherwise: cap}", "`enum` has no nearest value to cap to"),
        ("{otherwise: warn}", "{otherwise: zero}", "the type text has no zero"),
        (
            "enum: [{value: draft}, {value: final}]",
            "examples: [draft]",
            "the rule `unknown_state` has no limit to check",
        ),
        ("enum: [{value: draft}, ", "enum: [", "the default draft of `state` breaks its rule `unknown_state`"),
        ("pattern: \"[A-Z].*\"", "pattern: \"[A-Z\"", "the pattern cannot be read: unclosed character class"),
        ("property: trim, value: false", "property: trim, value: no thing", "true or false is expected here"),
        ("{default: draft}", "nothing", "`empty` must be `reject`, `null` or `{default: …}`"),
        ("name: seen_at\n", "name: seen_at\n        required: true\n        customProperties: []\n", "duplicated key"),
        (
            "value: reject}\nsla",
            "value: null}\n        required: true\nsla",
            "a required column is never NULL: `uncastable`",
        ),
        ("unit: min", "unit: m", "`m` is not one of s, min, h, d"),
        ("value: 2, unit: min", "value: 0, unit: min", "a latency is above 0"),
    ];
    let mut untold = Vec::new();
    for (from, to, expected) in cases {
        let found = said(from, to);
        if !found.iter().any(|line| line.starts_with("domains/") && line.contains(expected)) {
            untold.push((from, to, expected, found));
        }
    }
    assert!(untold.is_empty(), "{untold:#?}");
}

#[test]
fn what_follows_from_a_mistake_is_not_told_as_another() {
    let found = said("name: clinic\n        logicalType: integer", "name: clinic\n        logicalType: int");
    assert_eq!(found.len(), 1, "{found:#?}");
    let broken = CLINICS.replace("logicalType: integer", "logicalType: int");
    let found = read(&[("domains/visits.odcs.yaml", FULL), ("domains/clinics.odcs.yaml", &broken)]).expect_err("one");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn every_mistake_of_every_file_is_told_at_once() {
    let other =
        CLINICS.replace("name: clinics", "name: wards\n    physicalName: visits").replace("primaryKey: true", "");
    let found = read(&[
        ("domains/visits.odcs.yaml", &FULL.replace("logicalType: date", "logicalType: dat")),
        ("domains/wards.odcs.yaml", &other),
        ("tests/a.yaml", "domain: wards\nrows:\n  - cells: [x, 1]\n    rejectd: {}\n"),
    ])
    .expect_err("mistakes");
    for expected in [
        "domains/visits.odcs.yaml:30:22: `dat` is not one of",
        "domains/wards.odcs.yaml:10:7: no column has `primaryKey: true`",
        "tests/a.yaml:3:16: text is expected here",
        "tests/a.yaml:4:5: unknown key `rejectd`; did you mean rejected?",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:#?}");
    }
    let files: BTreeSet<&str> = found.iter().map(|line| line.split(':').next().expect("a file")).collect();
    assert_eq!(files.len(), 3, "{found:#?}");
}

#[test]
fn domains_do_not_share_a_name_or_a_table() {
    let twin = CLINICS.replace("name: clinics", "name: twins\n    physicalName: clinics");
    let found =
        read(&[("domains/clinics.odcs.yaml", CLINICS), ("domains/twins.odcs.yaml", &twin)]).expect_err("shared");
    assert_eq!(found, ["domains/twins.odcs.yaml:8:19: the table `clinics` is also the table of `clinics`"]);
    let found =
        read(&[("domains/clinics.odcs.yaml", CLINICS), ("domains/more.odcs.yaml", CLINICS)]).expect_err("twice");
    assert!(found.iter().any(|line| line.contains("there is another domain `clinics`")), "{found:?}");
    assert!(read(&[]).expect_err("empty")[0].contains("at least one contract"));
}

#[test]
fn a_folder_on_disk_is_read_and_what_is_no_part_of_it_is_told() {
    let folder = std::env::temp_dir().join(format!("freshet-pipeline-{}", std::process::id()));
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, bytes).expect("write");
    };
    write("domains/clinics.odcs.yaml", CLINICS.as_bytes());
    write("domains/.hidden", b"x");
    write("domains/README.md", b"x");
    let read = Pipeline::read(&folder).expect("no mistakes");
    assert_eq!((read.domains.len(), read.domains[0].name), (1, "clinics"));
    assert!(folder.ends_with(read.name), "{}", read.name);
    // Comments and layout do not count; contents do.
    write("domains/clinics.odcs.yaml", format!("# said\n{CLINICS}").as_bytes());
    assert_eq!(Pipeline::read(&folder).expect("no mistakes").hash, read.hash);
    write("domains/clinics.odcs.yaml", CLINICS.replace("1.0.0", "1.0.1").as_bytes());
    assert_ne!(Pipeline::read(&folder).expect("no mistakes").hash, read.hash);
    write("domains/wards.yaml", b"x");
    write("domains/odd.odcs.yaml", b"\xff");
    let found: Vec<String> = Pipeline::read(&folder).expect_err("mistakes").iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "domains/odd.odcs.yaml:1:1: this file cannot be read: it is not UTF-8",
            "domains/wards.yaml:1:1: this file is not read: a contract ends in .odcs.yaml",
        ]
    );
    std::fs::remove_dir_all(&folder).expect("clean up");
    let found = Pipeline::read(&folder).expect_err("nothing there");
    assert!(found[0].to_string().contains("a pipeline folder has its contracts here"), "{found:?}");
}

/// The page that describes contracts.
const PAGE: &str = include_str!("../../../docs/contracts.md");

/// A contract of visits, with these additions to the table and these columns.
fn visits(schema: &str, columns: &str) -> String {
    format!(
        "apiVersion: v3.2.0
kind: DataContract
id: visits
version: 1.0.0
schema:
  - name: visits
{schema}    properties:
      - {{name: clinic, logicalType: integer, required: true, primaryKey: true, primaryKeyPosition: 1, partitioned: true}}
      - {{name: day, logicalType: date, required: true, primaryKey: true, primaryKeyPosition: 2}}
      - {{name: visitors, logicalType: integer, logicalTypeOptions: {{minimum: 0}}}}
      - {{name: is_projected, logicalType: boolean}}
      - {{name: total_beds, logicalType: integer}}
      - {{name: available_beds, logicalType: integer}}
{columns}"
    )
}

/// Blocks of YAML on the page, each with the word for the part that it belongs to.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let blocks = PAGE.split("\n```yaml").skip(1);
    blocks
        .map(|rest| rest.split_once("\n```").expect("its end").0.split_once('\n').expect("a word and a text"))
        .collect()
}

#[test]
fn every_example_of_the_page_is_read_without_mistakes() {
    let locations = CLINICS.replace("name: clinics", "name: locations");
    let fact = "    customProperties: [{vendor: freshet, property: eventTime, value: day}]\n";
    let mut kinds = BTreeSet::new();
    for (kind, text) in blocks() {
        let (contract, test) = match kind.trim() {
            "contract" => (text.to_owned(), None),
            "schema" => (visits(&format!("{text}\n"), ""), None),
            "column" => (visits(fact, text), None),
            "test" => (visits(fact, ""), Some(text)),
            other => panic!("a block of YAML says what it is a part of, not `{other}`: {text}"),
        };
        let mut files =
            vec![("domains/locations.odcs.yaml", locations.as_str()), ("domains/visits.odcs.yaml", &contract)];
        files.extend(test.map(|text| ("tests/visits.yaml", text)));
        let read = read(&files).unwrap_or_else(|mistakes| panic!("{mistakes:#?}\n{text}"));
        for examples in read.examples {
            for example in &examples.rows {
                let judged = judge::row(examples.domain, &examples.raw_row(example));
                assert_eq!(example.differs(examples.domain, &judged), None);
            }
        }
        kinds.insert(kind.trim());
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

#[test]
fn the_page_names_every_key_that_is_known() {
    // An unknown key at each level, so that the mistake lists the known ones.
    let levels = [
        ("id: clinics-visits", "id: clinics-visits\nzzz: 1"),
        ("usage: Daily", "zzz: 1, usage: Daily"),
        ("- name: visits\n", "- name: visits\n    zzz: 1\n"),
        ("property: files,", "property: files, zzz: 1,"),
        ("{vendor: elsewhere, property: anything", "{vendor: freshet, property: zzz"),
        ("engine: freshet\n", "engine: freshet\n        zzz: 1\n"),
        ("atMost: came", "zzz: 1, atMost: came"),
        ("- name: cost\n", "- name: cost\n        zzz: 1\n"),
        ("minimum: 0, maximum: 1000", "zzz: 1, minimum: 0, maximum: 1000"),
        ("limits: [minimum],", "zzz: 1, limits: [minimum],"),
        ("{least: 2,", "{zzz: 1, least: 2,"),
        ("property: trim, value: false", "property: zzz, value: false"),
        ("{value: draft}", "{value: draft, zzz: 1}"),
        ("{synonym: Patient_Name}", "{synonym: Patient_Name, zzz: 1}"),
        ("to: clinics.id", "to: clinics.id, zzz: 1"),
        ("value: {default: draft}", "value: {default: draft, zzz: 1}"),
        ("unit: min}", "unit: min, zzz: 1}"),
    ];
    let mut known = BTreeSet::new();
    for (from, to) in levels {
        let found = said(from, to);
        let lists: Vec<&str> =
            found.iter().filter_map(|line| line.split_once("(known here: ")).map(|it| it.1).collect();
        assert_eq!(lists.len(), 1, "{to}: {found:#?}");
        known.extend(lists[0].trim_end_matches(')').split(", ").map(str::to_owned));
    }
    let tests = Examples::read("t", "zzz: 1\n", Pipeline::shipped().domains, &mut Mistakes::of("t"));
    assert!(tests.is_none());
    known.extend(
        ["domain", "header", "rows", "cells", "values", "corrections", "warnings", "rejected"].map(str::to_owned),
    );
    for name in crate::types::LOGICAL_TYPES.iter().map(|(name, _)| *name).chain(Otherwise::NAMES.iter().map(|it| it.0))
    {
        known.insert(name.to_owned());
    }
    for key in known {
        let is_named =
            [format!("`{key}`"), format!("`{key}:"), format!("`{{{key}:")].iter().any(|it| PAGE.contains(it))
                || blocks().iter().any(|(_, text)| text.contains(&format!("{key}:")));
        assert!(is_named, "docs/contracts.md does not name `{key}`");
    }
}
