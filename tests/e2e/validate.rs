//! `freshet validate`: what it says of a file before it is dropped is what becomes of the file then.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{World, folder};

/// Runs `freshet validate` with nothing in its environment, in a folder of the story's own that holds the files.
fn validate(story: &str, files: &[(&str, Vec<u8>)], more: &[&str]) -> Output {
    let place: PathBuf = folder().join(format!("validate-{story}"));
    fs::create_dir_all(&place).expect("make the folder");
    for (name, content) in files {
        let path = place.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(path, content).expect("write the file");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.arg("validate").args(files.iter().map(|(name, _)| *name)).args(more);
    command.env_clear().env("COLUMNS", "80").current_dir(place).output().expect("run freshet")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

const HEADING: &str = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n";

/// Two rows that load, one of them corrected, and three that do not.
fn mixed() -> String {
    format!(
        "{HEADING}1,2025-01-01,-1,2,3,4\n2,2025-01-01,1,2,3,4\nx,2025-01-01,1,2,3,4\n3,someday,1,2,3,4\n4,2025-01-01,1,\"2,3,4\n"
    )
}

#[test]
fn a_script_learns_by_the_exit_code_whether_every_row_loads() {
    let good = format!("{HEADING}1,2025-01-01,1,2,3,4\n");
    let cases: &[(&str, &str, Vec<u8>, i32, &str)] = &[
        ("good", "health/a.csv", good.clone().into(), 0, "health/a.csv (health): loads, 1 row"),
        ("header", "a.csv", good.clone().into(), 0, "a.csv (health): loads, 1 row"),
        ("odd", "health/\u{1b}[2J.csv", good.clone().into(), 0, "health/\\u{1b}[2J.csv (health): loads, 1 row"),
        ("mixed", "health/a.csv", mixed().into(), 1, "loads in part, 5 rows, 3 rejected, 1 value corrected"),
        (
            "none",
            "health/a.csv",
            format!("{HEADING}x,2025-01-01,1,2,3,4\n").into(),
            1,
            "is rejected, 1 row, 1 rejected",
        ),
        ("slip", "health/a.csv", b"location_id,date,dengue_case\n1,2025-01-01,1\n".to_vec(), 1, "did you mean"),
        ("excel", "what.csv", b"PK\x03\x04....[Content_Types].xml".to_vec(), 1, "this is an Excel workbook"),
        ("marker", "health/_SUCCESS", Vec::new(), 1, "of ingest.not_data, so it is not read"),
        ("gzip", "health/a.csv.gz", good.into(), 1, "the content is not gzip"),
        ("unknown", "a.csv", b"no,such,header\n".to_vec(), 1, "name the domain with --domain (locations,"),
    ];
    for (story, name, content, code, expected) in cases {
        let output = validate(story, &[(name, content.clone())], &[]);
        let said = text(&output.stdout) + &text(&output.stderr);
        // However its lines are parted.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(*code), "{story}: {said}");
        assert!(said.contains(expected), "{story}: {said}");
    }
    let missing = validate("missing", &[], &["nowhere/health/a.csv"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("nowhere/health/a.csv"), "{}", text(&missing.stderr));
}

#[test]
fn rejects_and_corrections_are_named_by_line_column_and_value_within_eighty_columns() {
    let output = validate("places", &[("health/a.csv", mixed().into())], &[]);
    let said = text(&output.stdout);
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = said.lines().map(cells).collect();
    for expected in [
        ["4", "location_id", "uncastable", "`x`"].as_slice(),
        &["5", "date", "uncastable", "`someday`"],
        &["6", "–", "stray_quote"],
        &["2", "dengue_cases", "negative_to_zero", "`-1`", "→", "0"],
    ] {
        assert!(
            lines.iter().any(|line| line.len() >= expected.len() && line[..expected.len()] == *expected),
            "{expected:?} in\n{said}"
        );
    }
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let few = json(&validate("places", &[("health/a.csv", mixed().into())], &["--json", "--examples", "1"]));
    let file = &few["files"][0];
    assert_eq!(file["rejects"].as_array().map(Vec::len), Some(1));
    assert_eq!((&file["rejected"], &file["rejects_by_rule"]["uncastable"]), (&3.into(), &2.into()), "{file:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_before_is_what_comes_of_the_file() {
    let world = World::new("validate").await;
    let extra = format!("{HEADING}1,2025-02-01,1,2,3,4,5\n1,2025-02-02,1,2,,\n1,2025-02-02,-7,NA,1e2,4\n");
    let files = [("health/mixed.csv", mixed()), ("health/extra.csv", extra)];
    let said = validate("before", &files.clone().map(|(name, content)| (name, content.into_bytes())), &["--json"]);
    let roles = world.run_all();
    for (name, content) in &files {
        world.put(name, content).await;
    }
    world.settle().await;
    for file in json(&said)["files"].as_array().expect("files") {
        let name = file["file"].as_str().expect("a name");
        let object = world.object(name).await;
        let places = format!(
            "SELECT coalesce(jsonb_agg(jsonb_build_object('line', line, 'column', \"column\", 'value', value, 'rule', rule)
                ORDER BY line), '[]') FROM pipeline.rejects WHERE object = {}",
            object.id
        );
        assert_eq!(world.query::<Value>(&places).await, file["rejects"], "{name}");
        let counted = format!(
            "SELECT jsonb_build_array(sum(rejected), sum(corrected)) FROM pipeline.progress WHERE object = {}",
            object.id
        );
        let expected = serde_json::json!([file["rejected"], file["corrected"]]);
        assert_eq!(world.query::<Value>(&counted).await, expected, "{name}");
        let rules = format!(
            "SELECT coalesce(jsonb_object_agg(what, number), '{{}}') FROM (
                SELECT c.what, sum(c.number::bigint) AS number
                FROM pipeline.progress p, jsonb_each_text(p.corrections) AS c (what, number)
                WHERE p.object = {} GROUP BY 1) AS counted",
            object.id
        );
        assert_eq!(world.query::<Value>(&rules).await, file["corrections_by_rule"], "{name}");
        let overtaken = format!("SELECT to_jsonb(overtaken) FROM pipeline.objects WHERE id = {}", object.id);
        assert_eq!(world.query::<Value>(&overtaken).await, file["overtaken"], "{name}");
    }
    world.all_hold().await;
    roles.stop().await;
}
