//! What a file changed in its table, told afterwards from the topic; and what is said of files that changed nothing.

use std::process::Output;

use freshet::roles::Role;
use serde_json::{Value, json};

use crate::harness::{World, data};

const HEADING: &str = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n";

fn changes(world: &World, arguments: &[&str]) -> Output {
    world.freshet(&[&["changes"], arguments].concat())
}

fn text(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn json_of(world: &World, arguments: &[&str]) -> Value {
    let output = changes(world, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn drop_file(world: &World, key: &str, rows: &str) {
    world.next_second().await;
    world.put(key, format!("{HEADING}{rows}")).await;
    world.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_tells_what_it_changed_and_what_was_replaced_since() {
    let world = World::new("changes").await;
    let roles = world.run_all();
    drop_file(&world, "health/old.csv", "1,2025-01-01,1,1,1,1\n2,2025-01-01,2,2,2,2\n4,2025-01-02,3,3,3,3\n").await;
    // Changed, the same, added twice, one key twice, rejected.
    let mine = "1,2025-01-01,7,,1,1\n2,2025-01-01,2,2,2,2\n4,2025-01-01,3,3,3,3\n5,2025-01-01,1,1,1,1\n\
                5,2025-01-01,6,6,6,6\nx,2025-01-01,1,1,1,1\n";
    drop_file(&world, "health/mine.csv", mine).await;
    drop_file(&world, "health/later.csv", "4,2025-01-01,9,9,9,9\n1,2025-03-01,1,1,1,1\n").await;

    let found = json_of(&world, &["health/mine.csv"]);
    let told = &found["changes"];
    let count = |name: &str| told[name].as_i64().unwrap_or_else(|| panic!("{name}: {told:#}"));
    let counts = ["rows", "added", "changed", "same", "lost", "repeated", "replaced_since", "left_out"].map(count);
    assert_eq!(counts, [6, 2, 1, 1, 0, 1, 1, 0], "{told:#}");
    assert_eq!(told["columns"], json!({"dengue_cases": 1, "malaria_cases": 1}));
    assert_eq!(told["rejected"], json!({"uncastable": 1}));
    assert_eq!(told["replaced_by"][0]["key"], "health/later.csv");
    assert_eq!((&told["replaced"][0]["key"], &told["replaced"][0]["rows"]), (&"health/old.csv".into(), &2.into()));
    assert_eq!(found["topic_is_whole"], true);
    let shown = text(&changes(&world, &["health/mine.csv"])).replace("\n    ", " ");
    for line in [
        "  added             2  the table had no row of the key",
        "  changed           1  dengue_cases 1, malaria_cases 1",
        "it replaced 2 rows, of health/old.csv (2)",
        "replaced since: 1 row, by health/later.csv (1)",
        "dengue_cases 1 → 7, malaria_cases 1 → NULL",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }

    // Dropped again with the same content, there is another version, which is not loaded.
    drop_file(&world, "health/mine.csv", mine).await;
    let again = json_of(&world, &["health/mine.csv"]);
    assert_eq!((&again["changes"], again["versions"].as_array().map(Vec::len)), (told, Some(2)), "{again:#}");

    // Sent again, it is the same file; sent again as new, it replaces what came since.
    let republish = |more: &[&str]| {
        let output = world.freshet(&[&["republish", "--file", "health/mine.csv", "--yes"], more].concat());
        assert!(output.status.success(), "{output:?}");
    };
    republish(&[]);
    world.settle().await;
    assert_eq!(json_of(&world, &["health/mine.csv"])["changes"], *told);
    republish(&["--as-new"]);
    world.settle().await;
    let as_new = json_of(&world, &["health/mine.csv"]);
    let count = |name: &str| as_new["changes"][name].as_i64().expect(name);
    assert_eq!(["added", "changed", "same", "repeated", "replaced_since"].map(count), [0, 1, 3, 1, 0], "{as_new:#}");

    // Of two versions either may be asked for.
    drop_file(&world, "health/old.csv", "1,2025-01-01,8,8,8,8\n").await;
    let newest = json_of(&world, &["health/old.csv"]);
    assert_eq!((&newest["changes"]["rows"], &newest["changes"]["changed"]), (&1.into(), &1.into()), "{newest:#}");
    let first = newest["versions"][1].to_string();
    let older = json_of(&world, &["health/old.csv", "--version", &first]);
    assert_eq!((&older["changes"]["rows"], &older["changes"]["added"]), (&3.into(), &3.into()), "{older:#}");

    let since = text(&changes(&world, &["--since", "2020-01-01", "--domain", "health"]));
    assert_eq!(since.lines().filter(|line| line.contains("health/")).count(), 5, "{since}");
    assert!(text(&changes(&world, &["--since", "2020-01-01", "--domain", "climate"])).starts_with("no file since"));
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_file_added_are_removed_by_key_and_the_outputs_follow() {
    let world = World::new("changes-undone").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("climate/all.csv", data::climate(3, "2025-08-01", 40, 1)).await;
    world.put("health/good.csv", data::health(2, "2025-08-01", 40, 1)).await;
    world.settle().await;
    drop_file(&world, "health/bad.csv", "1,2025-08-03,500,1,1,1\n3,2025-08-03,500,1,1,1\n").await;
    let undo = world.freshet(&["republish", "--file", "health/good.csv", "--as-new", "--yes"]);
    assert!(undo.status.success(), "{undo:?}");
    world.settle().await;
    let found = json_of(&world, &["health/bad.csv"]);
    assert_eq!((&found["changes"]["added"], &found["changes"]["replaced_since"]), (&1.into(), &1.into()), "{found:#}");
    let added = &found["changes"]["examples"].as_array().expect("examples")[1];
    assert_eq!((&added["change"], &added["key"]["location_id"]), (&"added".into(), &"3".into()), "{found:#}");
    let before = world.manifest().await.version;
    let statements = "BEGIN; DELETE FROM health_data WHERE location_id = 3 AND date = '2025-08-03';
        INSERT INTO pipeline.marks (domain, dates) VALUES ('health', daterange('2025-08-03', '2025-08-04')); COMMIT";
    world.execute(statements).await;
    world.settle().await;
    assert!(world.manifest().await.version > before);
    world.outputs_follow_the_tables().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_nothing_says_why() {
    let world = World::new("changes-none").await;
    let roles = world.run_all();
    drop_file(&world, "health/week.csv", "1,2025-01-01,1,1,1,1\n").await;
    world.put("health/nearmiss.csv", "location_id,dat,dengue_cases\n1,2025-01-01,1\n").await;
    world.settle().await;
    roles.stop().await;
    let ingest = world.run(&[Role::Ingest]);
    world.next_second().await;
    world.put("health/queued.csv", format!("{HEADING}2,2025-01-01,1,1,1,1\n3,2025-01-01,1,1,1,1\n")).await;
    let published = "SELECT max(state) = 'published' FROM pipeline.objects WHERE key = 'health/queued.csv'";
    world.until("it is published", published).await;

    let cases = [
        ("health/nearmiss.csv", "the file was rejected as a whole: header"),
        ("health/queued.csv", "the file is queued: 0 of 2 rows are applied"),
        ("week.csv", "no file `week.csv` was found; did you mean `health/week.csv`?"),
        ("health/weeek.csv", "did you mean `health/week.csv`?"),
        ("health/mine.csv.part", "`health/mine.csv.part` is skipped, because `*.part` is not data"),
        ("helth/other.csv", "belongs to no domain, so it is not read: did you mean `health/`?"),
        ("health/other.csv", "it is not in the bucket, or not found yet"),
    ];
    for (file, expected) in cases {
        let output = changes(&world, &[file]);
        let said = text(&output).replace("\n  ", " ");
        assert_eq!(output.status.code(), Some(1), "{file}: {said}");
        assert!(said.contains(expected), "{expected}\n{said}");
        assert_eq!(json_of(&world, &[file])["changes"], Value::Null, "{file}");
    }
    let with_bucket = format!("s3://{}/health/week.csv", world.raw_bucket());
    assert!(changes(&world, &[&with_bucket]).status.success());
    ingest.stop().await;
}
