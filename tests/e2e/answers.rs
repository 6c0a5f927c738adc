//! Why is this row not there? The answers of the command line, each where it is the right one.

use std::process::Output;

use freshet::roles::Role;
use serde_json::Value;

use crate::harness::World;

const HEADING: &str = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n";

/// What it prints, without its line breaks.
fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    format!("{text}{}", String::from_utf8_lossy(&output.stderr)).replace("\n  ", " ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_waits_is_told_from_one_that_is_missing() {
    let world = World::new("answers-waiting").await;
    let roles = world.run_all();
    world.put("locations/places.csv", "id,name,type,population,area\n1,Goa,Urban,5000,2.5\n").await;
    world.put("health/week.csv", format!("{HEADING}1,2025-01-01,1,1,1,1\n77,2025-01-01,1,1,1,1\n")).await;
    world.settle().await;
    let of =
        |location: &str| world.freshet(&["lineage", "health", &format!("location_id={location}"), "date=2025-01-01"]);

    // In the table, and in no output, as its location is not known.
    let orphan = said(&of("77"));
    assert!(orphan.contains("orphan: its location_id is 77, and locations has no row with that id"), "{orphan}");
    assert!(!said(&of("1")).contains("orphan"));
    let nobody = of("5");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("no row of this key is in the topic"), "{nobody:?}");
    roles.stop().await;

    // In the topic, and not applied.
    let ingest = world.run(&[Role::Ingest]);
    world.next_second().await;
    world.put("health/late.csv", format!("{HEADING}5,2025-01-01,1,1,1,1\n6,2025-01-01,1,1,1,1\n")).await;
    let published = "SELECT max(state) = 'published' FROM pipeline.objects WHERE key = 'health/late.csv'";
    world.until("it is published", published).await;
    let waiting = of("5");
    assert_eq!(waiting.status.code(), Some(0));
    let text = said(&waiting);
    assert!(text.contains("waiting: its file health/late.csv is queued, 0 of 2 rows applied (line 2)"), "{text}");
    ingest.stop().await;

    // Found, and not sent.
    world.execute("UPDATE pipeline.objects SET state = 'discovered' WHERE key = 'health/late.csv'").await;
    let text = said(&of("8"));
    assert!(text.contains("not read yet, so they may have a row of this key: health/late.csv (discovered)"), "{text}");
    world.execute("UPDATE pipeline.objects SET state = 'published' WHERE key = 'health/late.csv'").await;
    let roles = world.run_all();
    world.settle().await;
    assert!(said(&of("5")).contains("in health_data: from health/late.csv line 2"));

    // Sent again as new: the row is newer than itself.
    for _ in 0..2 {
        let again = world.freshet(&["republish", "--file", "health/late.csv", "--as-new", "--yes"]);
        assert!(said(&again).contains("Rows that only other files have stay in the table"), "{again:?}");
        world.settle().await;
    }
    let text = said(&of("5"));
    let lost = "lost to it: line 2 of the same file, before the file was sent again as new";
    assert_eq!(text.matches(lost).count(), 1, "{text}");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_topic_that_no_processor_has_read_yet_waits() {
    let world = World::new("answers-first").await;
    let ingest = world.run(&[Role::Ingest]);
    world.put("health/first.csv", format!("{HEADING}5,2025-01-01,1,1,1,1\n")).await;
    world.until("it is published", "SELECT max(state) = 'published' FROM pipeline.objects").await;
    let waiting = world.freshet(&["lineage", "health", "location_id=5", "date=2025-01-01"]);
    let text = said(&waiting);
    assert_eq!(waiting.status.code(), Some(0), "{text}");
    assert!(text.contains("waiting: its file health/first.csv is queued, 0 of 1 rows applied (line 2)"), "{text}");
    ingest.stop().await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_of_an_output_whose_query_fails() {
    let world = World::new("answers-failed").await;
    let roles = world.run_all();
    world.put("health/first.csv", format!("{HEADING}5,2025-01-01,1,1,1,1\n")).await;
    world.settle().await;
    let wait = || world.freshet(&["status", "--wait", "--timeout", "30s"]);
    let current = wait();
    assert!(current.status.success() && said(&current).contains("; outputs are current ("), "{current:?}");
    // As the publisher records it, and leaves the output alone for a while.
    world
        .execute(
            "INSERT INTO pipeline.output_failures (output, definition, reason, retry_at)
             SELECT output, definition, 'division by zero', now() + interval '1 hour'
             FROM pipeline.output_definitions WHERE output = 'current_health_risks' ORDER BY number DESC LIMIT 1",
        )
        .await;
    let failed = wait();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let text = String::from_utf8_lossy(&failed.stdout);
    assert!(text.starts_with("1 file: 1 applied") && text.contains("current, except current_health_risks ("), "{text}");
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(text.contains("output current_health_risks has not been derived since"), "{text}");
    assert!(text.contains("division by zero"), "{text}");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_rejects_is_told_from_one_that_is_rejected_or_unknown() {
    let world = World::new("answers-rejects").await;
    let roles = world.run_all();
    world.put("health/good.csv", format!("{HEADING}1,2025-01-01,1,1,1,1\n")).await;
    world.put("health/bad.csv", format!("{HEADING},2025-01-01,1,1,1,1\nx,2025-01-01,1,1,1,1\n")).await;
    world.put("health/nearmiss.csv", "location_id,dat,dengue_cases\n1,2025-01-01,1\n").await;
    world.settle().await;
    let list = |more: &[&str]| world.freshet(&[&["rejects", "list"], more].concat());
    let cases = [
        ("health/good.csv", 0, "health/good.csv: no row of it was rejected"),
        ("health/nearmiss.csv", 0, "health/nearmiss.csv: the file was rejected as a whole: header"),
        ("bad.csv", 1, "no file `bad.csv` was found; did you mean `health/bad.csv`?"),
        ("health/_mine.csv", 1, "`health/_mine.csv` is skipped, because `_*` is not data (setting `ingest.not_data`)"),
    ];
    for (file, code, expected) in cases {
        let output = list(&["--file", file]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{file}: {text}");
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let none = said(&list(&["--file", "health/bad.csv", "--rule", "late"]));
    assert!(none.contains("health/bad.csv: no such row of it was rejected"), "{none}");
    let both = list(&["--file", "health/bad.csv", "--file", "health/good.csv", "--json"]);
    let both: Value = serde_json::from_slice(&both.stdout).expect("JSON");
    assert_eq!((&both["total"], &both["files_without_rejects"][0]["file"]), (&2.into(), &"health/good.csv".into()));

    // A key that cannot be read names the rows that have it.
    for (cell, expected) in [
        (
            "x",
            "`x` is not a value of location_id (uncastable): rows with it are rejected, such as health/bad.csv line 3",
        ),
        (
            "",
            "an empty cell is not a value of location_id (required_empty): rows with it are rejected, such as health/bad.csv line 2",
        ),
        ("y", "`y` is not a value of location_id (uncastable): a row with it is rejected, but there is none so far"),
    ] {
        let output = world.freshet(&["lineage", "health", &format!("location_id={cell}"), "date=2025-01-01"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(expected), "{expected}\n{output:?}");
    }
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_files_is_narrowed_by_name_domain_and_time() {
    let world = World::new("answers-files").await;
    let roles = world.run_all();
    let row = |location: &str| format!("{HEADING}{location},2025-01-01,1,1,1,1\n");
    world.put("health/a.csv", row("1")).await;
    world.put("health/a_1.csv", row("x")).await;
    world.put("health/ab1.csv", row("y")).await;
    world.put("locations/a.csv", "id,name,type,population,area\n1,Goa,Urban,5000,2.5\n").await;
    world.settle().await;
    let keys = |more: &[&str]| {
        let output = world.freshet(&[&["status", "--json"], more].concat());
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let files = status["files"]["files"].as_array().expect("files").clone();
        assert_eq!(status["files"]["total"], files.len(), "{more:?}");
        let mut keys: Vec<String> = files.iter().map(|file| file["key"].as_str().expect("a key").to_owned()).collect();
        keys.sort();
        (output.status.code(), keys.join(" "))
    };
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--files"], 0, "health/a.csv health/a_1.csv health/ab1.csv locations/a.csv"),
        (&["--file", "health/a.csv"], 0, "health/a.csv"),
        (&["--file", "*/a*1.csv", "--file", "locations/a.csv"], 0, "health/a_1.csv health/ab1.csv locations/a.csv"),
        (&["--file", "*a_1*"], 0, "health/a_1.csv"),
        (&["--domain", "locations"], 0, "locations/a.csv"),
        (&["--domain", "health", "--since", "2999-01-01"], 0, ""),
        (&["--file", "a.csv"], 1, ""),
    ];
    for (arguments, code, expected) in cases {
        assert_eq!(keys(arguments), (Some(code), expected.to_owned()), "{arguments:?}");
    }
    assert!(said(&world.freshet(&["status", "--file", "a.csv"])).contains("did you mean `health/a.csv`"));
    // When it was applied.
    let applied: String = world
        .query("SELECT to_char(applied_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS') FROM pipeline.objects WHERE key = 'health/a.csv'")
        .await;
    let text = said(&world.freshet(&["status", "--file", "health/a.csv"]));
    assert!(text.contains(&format!("applied  {applied}     1  health/a.csv")), "{text}");
    // The same names choose rejects.
    for (pattern, lines) in [("health/a_1.csv", 1), ("health/a*", 2), ("locations/*", 0)] {
        let output = world.freshet(&["rejects", "list", "--file", pattern, "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&found["total"], output.status.code()), (&lines.into(), Some(0)), "{pattern}: {found:#}");
    }
    world.all_hold().await;
    roles.stop().await;
}
