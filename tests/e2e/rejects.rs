//! Rows that did not load: seen, taken out as CSV and mended, judged again; and where a row of a table is from.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use freshet::roles::Role;
use freshet_processors::replay::{self, Point, Request};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, folder, resident_mib_max, rules};
use crate::replay::{context, domain};

const HEADING: &str = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n";

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json_of(world: &World, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(&world.freshet(&[arguments, &["--json"]].concat()))).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_seen_taken_out_mended_and_dropped_again() {
    let world = World::new("rejects-mended").await;
    let roles = world.run_all();
    let rows = "1,2025-01-01,1,2,3,4\nx,2025-01-01,1,\"2,5\",3,4\n2,someday,1,2,3,4\n3,2025-01-01,1,\"2,3,4\n";
    world.put("health/odd.csv", format!("{HEADING}{rows}")).await;
    world.put("health/narrow.csv", "location_id,date,dengue_cases\ny,2025-01-01,1\n").await;
    world.settle().await;

    let listed = json_of(&world, &["rejects", "list", "health"]);
    assert_eq!(listed["total"], 4, "{listed:#}");
    let counted = |more: &[&str]| json_of(&world, &[&["rejects", "list"], more].concat())["total"].clone();
    assert_eq!(counted(&["health", "--rule", "uncastable"]), 3);
    assert_eq!(counted(&["--file", "health/narrow.csv"]), 1);
    assert_eq!(counted(&["climate"]), 0);
    assert_eq!((counted(&["--since", "2000-01-01"]), counted(&["--until", "2000-01-01"])), (4.into(), 0.into()));
    let text = said(&world.freshet(&["rejects", "list", "--limit", "2"]));
    assert!(text.contains("and 2 more") && text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // Of two files with different columns one CSV would say something else of one of them.
    let both = world.freshet(&["rejects", "export", "health"]);
    assert_eq!(both.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&both.stderr).contains("choose a file with --file"));
    let narrow = said(&world.freshet(&["rejects", "export", "health", "--file", "health/narrow.csv"]));
    assert!(narrow.starts_with("location_id,date,dengue_cases,_rejected_rule,"), "{narrow}");
    // A file is named in the same ways as to list, and a slip in its name is no file without rejects.
    let in_bucket = format!("s3://{}/health/narrow.csv", world.raw_bucket());
    for (file, code) in [("health/narow.csv", 1), (in_bucket.as_str(), 0)] {
        for command in [&["list", "health"][..], &["export", "health"], &["retry", "health", "--dry-run"]] {
            let output = world.freshet(&[&["rejects"][..], command, &["--file", file]].concat());
            let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned();
            assert_eq!(output.status.code(), Some(code), "{command:?} {file}: {text}");
            let is_unknown = text.contains("did you mean `health/narrow.csv`?");
            assert_eq!(is_unknown, code == 1, "{command:?} {file}: {text}");
            assert!(command[0] != "export" || output.stdout.is_empty() == is_unknown, "{file}: {text}");
        }
    }
    let of_both = json_of(&world, &["rejects", "export", "health"]);
    assert_eq!(of_both, listed["rejects"], "JSON has room for any columns");
    assert_eq!(json_of(&world, &["rejects", "export", "health", "--rule", "no_such"]), json!([]));
    let out = folder().join("rejects-out");
    let written = json_of(&world, &["rejects", "export", "health", "--out", out.to_str().expect("text")]);
    assert_eq!(written.as_array().map(Vec::len), Some(2), "{written:#}");
    let odd = world.object("health/odd.csv").await;
    let exported = fs::read_to_string(out.join(format!("health/rejects-odd-{}.csv", odd.id))).expect("written");
    let lines: Vec<&str> = exported.lines().collect();
    assert_eq!(lines.len(), 4, "{exported}");
    assert!(
        lines[1].starts_with("x,2025-01-01,1,\"2,5\",3,4,uncastable,location_id,x,,health/odd.csv,3"),
        "{exported}"
    );

    // Dropped as it is, it says the same of itself as the file did; mended, all of it loads.
    world.put("health/again.csv", &exported).await;
    world.settle().await;
    let again = world.object("health/again.csv").await;
    let rejected = format!("SELECT sum(rejected)::bigint FROM pipeline.progress WHERE object = {}", again.id);
    assert_eq!(world.query::<i64>(&rejected).await, 3);
    let told = "SELECT ignored_columns = '{}' FROM pipeline.objects WHERE key = 'health/again.csv'";
    assert!(world.query::<bool>(told).await, "its notes are no columns");
    let mended = exported.replace("x,2025-01-01,1,\"2,5\"", "7,2025-01-01,1,2").replace("2,someday", "2,2025-01-01");
    let mended = mended.replacen("\n,,,,,,", "\n3,2025-01-01,1,2,3,4,", 1);
    world.put("health/mended.csv", &mended).await;
    world.settle().await;
    let loaded: Vec<i32> = world.column("SELECT location_id FROM health_data ORDER BY 1").await;
    assert_eq!(loaded, [1, 2, 3, 7], "{mended}");
    world.all_hold().await;

    // Read once more, the file has each of its rejects once, although the table keeps those of both readings.
    said(&world.freshet(&["republish", "--file", "health/odd.csv", "--as-new", "--yes"]));
    world.settle().await;
    let kept = format!("SELECT count(*) FROM pipeline.rejects WHERE object = {}", odd.id);
    assert_eq!(world.query::<i64>(&kept).await, 6);
    assert_eq!(counted(&["health", "--file", "health/odd.csv"]), 3);
    let exported = said(&world.freshet(&["rejects", "export", "health", "--file", "health/odd.csv"]));
    assert_eq!(exported.lines().count(), 4, "{exported}");
    let would = json_of(&world, &["rejects", "retry", "health", "--file", "health/odd.csv", "--dry-run"]);
    assert_eq!(would[0]["rejects"], 3, "{would:#}");
    let traced = world.freshet(&["lineage", "health", "location_id=x", "date=2025-01-01"]);
    let text = String::from_utf8_lossy(&traced.stderr).into_owned();
    assert_eq!(text.matches("health/odd.csv line 3").count(), 1, "{text}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_rules_accept_is_loaded_once_and_the_rest_stays_rejected() {
    let world = World::new("rejects-retried").await;
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    let processors = world.process(rules::wrong());
    let rows = "1,2025-08-01,4,many,1,1\n2,2025-08-01,4,4,1,1\nx,2025-08-01,4,4,1,1\n3,2025-08-01,4,many,1,1\n";
    world.put("health/odd.csv", format!("{HEADING}{rows}")).await;
    world.settle().await;
    world.next_second().await;
    // Newer data of a key of which a row was rejected: it stays.
    world.put("health/newer.csv", format!("{HEADING}3,2025-08-01,9,9,9,9\n")).await;
    world.settle().await;
    processors.stop().await;
    others.stop().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 3);

    let roles = world.run_all();
    let would = json_of(&world, &["rejects", "retry", "health", "--dry-run"]);
    assert_eq!((&would[0]["rejects"], &would[0]["would_load"]), (&3.into(), &2.into()), "{would:#}");
    let refused = world.freshet(&["rejects", "retry", "health", "--rule", "uncastable"]);
    assert_eq!(refused.status.code(), Some(1), "nobody agreed");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 3, "nothing was changed");
    let none = json_of(&world, &["rejects", "retry", "health", "--rule", "no_such", "--yes"]);
    assert_eq!(none[0]["rejects"], 0);
    let text = said(&world.freshet(&["rejects", "retry", "health", "--yes"]));
    assert!(text.contains("health: 2 now load, 1 are still rejected"), "{text}");
    let again = json_of(&world, &["rejects", "retry", "all", "--yes"]);
    let of_health = again.as_array().expect("domains").iter().find(|it| it["domain"] == "health").expect("health");
    assert_eq!((&of_health["load_now"], &of_health["still_rejected"]), (&0.into(), &1.into()), "{again:#}");
    world.settle().await;
    let cases: Vec<i32> = world.column("SELECT dengue_cases FROM health_data ORDER BY location_id").await;
    assert_eq!(cases, [4, 4, 9]);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_interrupted_is_continued_by_the_next_one() {
    let world = World::new("rejects-continued").await;
    let others = world.run(&[Role::Ingest, Role::Metrics]);
    let processors = world.process(rules::wrong());
    for (name, location) in [("a", 1), ("b", 2)] {
        world.put(&format!("health/{name}.csv"), format!("{HEADING}{location},2025-08-01,4,many,1,1\n")).await;
    }
    world.settle().await;
    processors.stop().await;
    others.stop().await;

    let roles = world.run_all();
    // A retry of both files that gets nowhere.
    let partitions: Vec<i32> = world.column("SELECT partition FROM pipeline.rejects GROUP BY 1 ORDER BY 1").await;
    let ends = r#"SELECT max("offset") + 1 FROM pipeline.rejects GROUP BY partition ORDER BY partition"#;
    let ends: Vec<i64> = world.column(ends).await;
    let offsets = |at: Vec<i64>| Point::Offsets(partitions.iter().copied().zip(at).collect());
    let request = Request { from: offsets(vec![0; ends.len()]), to: Some(offsets(ends)), objects: Vec::new() };
    let (told, _) = watch::channel(Default::default());
    let stop = CancellationToken::new();
    stop.cancel();
    let interrupted = replay::in_place(&context(&world, domain("health")), &request, &told, &stop).await;
    interrupted.expect_err("it is interrupted");

    let text = said(&world.freshet(&["rejects", "retry", "health", "--file", "health/a.csv", "--yes"]));
    assert!(text.contains("continued first"), "{text}");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.replays WHERE ended_at IS NULL").await, 0);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 0, "those of both files: {text}");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

/// Rejects that are written as they are read: fewer than a file may have, but more text than a small machine has memory.
#[tokio::test(flavor = "multi_thread")]
async fn many_rejects_are_exported_with_little_memory() {
    const ROWS: usize = 10_000;
    const MIB_MAX: u64 = 120;
    let world = World::new("rejects-many").await;
    let roles = world.run_all();
    world.put("health/many.csv", format!("{HEADING}x,2025-01-01,1,2,3,4\n")).await;
    world.settle().await;
    roles.stop().await;
    // About 200 MB, which a table keeps compressed.
    let raw = r#"'{"location_id":"x","date":"2025-01-01","dengue_cases":"' || repeat('1', 20000) || '"}'"#;
    world
        .execute(&format!(
            r#"INSERT INTO pipeline.rejects
                   (domain, topic, object, generation, row, line, partition, "offset", "column", value, rule, raw)
               SELECT domain, topic, object, generation, row + n, line + n, partition, "offset", "column", value, rule,
                   {raw}
               FROM pipeline.rejects, generate_series(1, {ROWS}) AS n"#
        ))
        .await;
    for more in [None, Some("--json")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.args(["rejects", "export", "health"]).args(more).env_clear().envs(world.variables());
        let mut export = command.current_dir(folder()).stdout(Stdio::piped()).spawn().expect("run freshet");
        let mut out = BufReader::new(export.stdout.take().expect("a pipe"));
        // A pipe holds little: until it is read, most is still to come.
        let mut text = String::new();
        out.read_line(&mut text).expect("the first line");
        let mib = resident_mib_max(export.id());
        assert!(mib < MIB_MAX, "{more:?}: {mib} MiB before the first line is read");
        out.read_to_string(&mut text).expect("the rest");
        assert!(export.wait().expect("its end").success());
        match more {
            None => assert_eq!(text.lines().count(), ROWS + 2),
            Some(_) => assert_eq!(serde_json::from_str::<Vec<Value>>(&text).expect("JSON").len(), ROWS + 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_traced_to_its_line_and_so_is_what_lost_against_it() {
    let world = World::new("lineage").await;
    let roles = world.run_all();
    world.put("health/old.csv", format!("{HEADING}2,2025-01-01,1,1,1,1\n1,2025-01-01,1,1,1,1\n")).await;
    world.settle().await;
    world.next_second().await;
    let rows = "1,2025-01-01,7,7,7,7\n1,2025-01-01,-5,2,3,4\n1,2025-01-01,1,\"2,3,4\n";
    world.put("health/new.csv", format!("{HEADING}{rows}")).await;
    world.settle().await;

    let key = ["lineage", "health", "location_id=1", "date=2025-01-01"];
    let found = json_of(&world, &key);
    let row = &found["row"];
    assert_eq!((&row["file"]["key"], &row["line"]), (&"health/new.csv".into(), &3.into()), "{found:#}");
    assert_eq!(row["corrections"], json!({"dengue_cases": "negative_to_zero", "_overtaken": 1}), "{found:#}");
    assert_eq!(row["values"]["dengue_cases"], 0);
    let others = found["others"].as_array().expect("read");
    let places: Vec<(&str, &str, i64)> = others
        .iter()
        .map(|it| {
            let text = |value: &'static str| it.pointer(value).and_then(Value::as_str).expect("a text");
            (text("/fate"), text("/file/key"), it["line"].as_i64().expect("a line"))
        })
        .collect();
    assert_eq!(places, [("lost", "health/new.csv", 2), ("lost", "health/old.csv", 3)], "{found:#}");
    let text = said(&world.freshet(&key));
    for part in [
        "in health_data: from health/new.csv line 3",
        "corrected: dengue_cases (negative_to_zero)\n",
        "replaced 1 earlier row of its file\n",
        "lost to it: health/old.csv line 3",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // Without the topic: what the table and the ledger know.
    let alone = json_of(&world, &[&key[..], &["--table-only"]].concat());
    assert_eq!((&alone["row"]["line"], &alone["others"]), (&Value::Null, &Value::Null), "{alone:#}");
    let nobody = world.freshet(&["lineage", "health", "location_id=77", "date=2025-01-01"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stdout).contains("is not in health_data"));

    // A row that is rejected is of the key all the same.
    world.put("health/refused.csv", format!("{HEADING}1,2025-01-01,1,1,1,1,beyond\n")).await;
    world.settle().await;
    let found = json_of(&world, &key);
    assert_eq!((&found["others"][0]["fate"], &found["others"][0]["rule"]), (&"rejected".into(), &"extra_cells".into()));
    assert_eq!(domain("health").key.len(), found["key"].as_object().expect("a key").len());
    world.all_hold().await;
    roles.stop().await;
}
