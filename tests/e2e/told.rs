//! What no row tells: columns that files have or lack, names that are no data, objects that belong to no domain.

use std::process::{Command, Output};
use std::time::Duration;

use freshet_topics::failpoint;
use serde_json::{Value, json};

use crate::harness::{World, data, folder};

fn freshet(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(arguments).env_clear().envs(world.variables()).current_dir(folder());
    command.output().expect("run freshet")
}

fn status(world: &World) -> Value {
    let output = freshet(world, &["status", "--json", "--files"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_a_file_has_or_lacks_are_told_of_until_it_is_mended() {
    let world = World::new("told-columns").await;
    let roles = world.run_all();
    world.put("locations/whole.csv", "id,name,type,population,area\n1,Goa,Urban,5000,2.5\n").await;
    world.settle().await;
    world.next_second().await;
    world.put("locations/lacking.csv", "id,name,type,colour,remarks\n1,Goa,Urban,red,\n2,Assam,Rural,,new\n").await;
    world.settle().await;
    let told = status(&world);
    let note = |rule: &str, column: &str| json!({"domain": "locations", "rule": rule, "column": column, "files": 1, "key": "locations/lacking.csv"});
    assert_eq!(
        told["columns"],
        json!([
            note("absent_default", "area"),
            note("absent_default", "population"),
            note("unknown_column", "colour"),
            note("unknown_column", "remarks"),
        ])
    );
    let file = &told["files"]["files"][0];
    assert_eq!(file["unknown_columns"], json!(["colour", "remarks"]), "{file:#}");
    assert_eq!(file["absent_defaults"], json!(["population", "area"]), "{file:#}");
    let text = String::from_utf8(freshet(&world, &["status"]).stdout).expect("UTF-8");
    for line in ["unknown_column: locations `colour` in 1 file,", "absent_default: locations `population` in 1 file,"] {
        assert!(text.contains(line), "{line}\n{text}");
    }

    // Overwritten by one that has what it should, and nothing else: there is nothing to tell any more.
    world.next_second().await;
    world.put("locations/lacking.csv", "id,name,type,population,area\n1,Goa,Urban,5000,2.5\n2,Assam,Rural,7,1\n").await;
    world.settle().await;
    assert_eq!(status(&world)["columns"], json!([]));
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_later_row_of_their_own_file_overtakes_are_counted_once_whatever_comes_between() {
    // Small chunks and batches: rows of one key are in several.
    let world = World::with("told-overtaken", |config| {
        config.ingest.chunk_bytes = 256;
        config.process.batch_rows_max = 7;
    })
    .await;
    let roles = world.run_all();
    let hours: String =
        (0..48).map(|hour| format!("1,2025-01-{:02} {:02}:00,{hour}\n", 1 + hour / 24, hour % 24)).collect();
    world.put("health/hours.csv", format!("location_id,date,dengue_cases\n{hours}")).await;
    world.put("health/days.csv", data::health(2, "2025-02-01", 20, 1)).await;
    world.settle().await;
    let overtaken = "SELECT array_agg(overtaken ORDER BY key DESC) FROM pipeline.objects";
    assert_eq!(world.query::<Vec<i64>>(overtaken).await, [46, 0]);
    let cases: Vec<i32> =
        world.column("SELECT dengue_cases FROM health_data WHERE date < '2025-02-01' ORDER BY date").await;
    assert_eq!(cases, [23, 47], "the last of each day");
    let told = "SELECT array_agg(corrections ORDER BY date) FROM health_data WHERE date < '2025-02-01'";
    let expected: Vec<Value> = vec![json!({"_overtaken": 23, "date": "time_cut"}); 2];
    assert_eq!(world.query::<Vec<Value>>(told).await, expected);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data WHERE corrections ? '_overtaken'").await, 2);
    // It is told for the file, and is no correction of a value.
    let counted: Vec<String> =
        world.column("SELECT DISTINCT jsonb_object_keys(corrections) FROM pipeline.progress ORDER BY 1").await;
    assert_eq!(counted, ["date:date_normalised", "date:time_cut"]);
    // Sent again, it is the same file.
    let output = freshet(&world, &["republish", "--object", "health/hours.csv", "--yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.settle().await;
    assert_eq!(world.query::<Vec<i64>>(overtaken).await, [46, 0]);
    assert_eq!(world.query::<Vec<Value>>(told).await, expected);
    let output = freshet(&world, &["replay", "health", "--from", "beginning", "--dry-run"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Nothing would change"), "{said}");
    let files = status(&world)["files"]["files"].clone();
    assert_eq!(
        files.as_array().expect("files").iter().map(|file| &file["overtaken"]).filter(|it| **it == 46).count(),
        1
    );
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_goes_on_in_the_middle_of_a_file_tells_the_same_of_overtaken_rows() {
    let world = World::with("told-resumed", |config| {
        config.ingest.chunk_bytes = 8_192;
        config.ingest.lease_ms = 1_500;
    })
    .await;
    // Several chunks, whatever pieces S3 sends them in, and the rows of a key in different ones.
    let file = |year: i32| {
        let row = |row: i32| format!("{},{year}-01-01,{row}\n", 1 + row % 20_000);
        "location_id,date,dengue_cases\n".to_owned() + &(0..60_000).map(row).collect::<String>()
    };
    let text = file(2025);
    world.put_packed("health/packed.csv", data::gzip(text.as_bytes()).await, text.as_bytes()).await;
    world.put("health/plain.csv", file(2024)).await;
    let action = "3*off->return(kill)";
    let doomed = world.spawn_failing(&["ingest"], failpoint::Point::ChunkAcknowledged, action);
    doomed.killed(Duration::from_secs(60)).await;
    let resumed: i64 = world.query("SELECT max(resume_row) FROM pipeline.objects").await;
    assert!(0 < resumed && resumed < 60_000, "{resumed}");
    let roles = world.run_all();
    world.settle().await;
    let told = "SELECT array_agg(DISTINCT corrections) FROM health_data";
    assert_eq!(world.query::<Vec<Value>>(told).await, [json!({"_overtaken": 2})]);
    assert_eq!(world.query::<Vec<i64>>("SELECT array_agg(overtaken) FROM pipeline.objects").await, [40_000, 40_000]);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_thousand_unknown_columns_makes_no_long_line_of_the_log() {
    let world = World::new("told-thousand").await;
    let ingest = world.spawn(&["ingest", "--set", "http.listen="]);
    let many: String = (0..1_000).map(|number| format!(",a_column_that_nobody_has_heard_of_{number}")).collect();
    world.put("locations/many.csv", format!("id,name{many}\n1,Goa\n")).await;
    world.until("it is published", "SELECT bool_or(state = 'published') FROM pipeline.objects").await;
    let log = ingest.log();
    let line = log.lines().find(|line| line.contains("the file has unknown columns")).expect("the event");
    assert!(line.contains("and 970 more"), "{line}");
    assert!(line.len() < 3_000, "{} bytes", line.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_data_are_no_files() {
    let world = World::new("told-names").await;
    let roles = world.run_all();
    let good = data::health(1, "2025-01-01", 5, 1);
    let names = ["_SUCCESS", "_temporary/0/a.csv", ".a.csv.crc", "a.csv.tmp", "b.part", "c.csv.filepart", "manifest"];
    for name in names {
        // Some of them would load, and some reject.
        world.put(&format!("health/{name}"), if name.ends_with(".csv") { good.as_str() } else { "x\n" }).await;
    }
    world.put("health/folder/", "").await;
    world.put("_SUCCESS", "").await;
    world.put("health/a.csv", &good).await;
    let waited = world.settle().await;
    assert_eq!((waited.objects, waited.applied), (1, 1), "{waited}");
    let keys: Vec<String> = world.column("SELECT key FROM pipeline.objects").await;
    assert_eq!(keys, ["health/a.csv"]);
    assert_eq!(status(&world)["unmatched"]["objects"], 0, "no data is nobody's file either");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_belongs_to_no_domain_is_named_until_it_is_gone() {
    let world = World::new("told-unmatched").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(1, "2025-01-01", 5, 1)).await;
    for key in ["helth/x.csv", "data/health/x.csv", "raw/notes.txt", "top.txt"] {
        world.put(key, "a,b\n").await;
    }
    world.settle().await;
    let count = |count: i64| format!("SELECT count(*) = {count} FROM pipeline.unmatched");
    world.until("all of them are found", &count(4)).await;
    let hints: Vec<Option<String>> = world.column("SELECT hint FROM pipeline.unmatched ORDER BY key").await;
    let hint = |text: &str| Some(text.to_owned());
    assert_eq!(
        hints,
        [hint("`health/` is inside the path: move it to the top"), hint("did you mean `health/`?"), None, None]
    );
    assert_eq!(status(&world)["unmatched"]["objects"], 4);
    let text = String::from_utf8(freshet(&world, &["status"]).stdout).expect("UTF-8");
    assert!(text.contains("belongs to no domain: `helth/x.csv` (did you mean `health/`?)"), "{text}");

    let waited = freshet(&world, &["status", "--wait"]);
    let said = String::from_utf8(waited.stderr).expect("UTF-8");
    assert_eq!(waited.status.code(), Some(1), "{said}");
    assert!(said.contains("4 objects belong to no domain and are not read"), "{said}");

    // Moved, they are files; deleted, they are nothing.
    world.put("health/x.csv", data::health(2, "2025-01-01", 5, 1)).await;
    for key in ["helth/x.csv", "data/health/x.csv", "raw/notes.txt", "top.txt"] {
        world.delete(key).await;
    }
    world.until("they are gone", &count(0)).await;
    let waited = freshet(&world, &["status", "--wait"]);
    assert_eq!(waited.status.code(), Some(0), "{}", String::from_utf8_lossy(&waited.stderr));
    world.all_hold().await;
    roles.stop().await;
}
