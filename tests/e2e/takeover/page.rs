//! The commands of docs/migrate.md, as they stand there, on a database of batch jobs.

use std::path::Path;
use std::process::Command;

use sqlx::{Connection, PgConnection};

use super::batch_jobs::TABLES;
use crate::harness::{World, data, folder, oracles};

const PAGE: &str = include_str!("../../../docs/migrate.md");

/// The blocks of commands.
fn blocks() -> Vec<&'static str> {
    PAGE.split("```sh\n").skip(1).map(|rest| rest.split_once("```").expect("it is closed").0).collect()
}

/// Runs a block in a shell that knows this world. Gives what it printed.
fn run(world: &World, old: &str, block: &str) -> String {
    let freshet = Path::new(env!("CARGO_BIN_EXE_freshet")).parent().expect("a folder");
    let path = format!("{}:{}", freshet.display(), std::env::var("PATH").expect("PATH"));
    let output = Command::new("bash")
        .args(["-c", &format!("set -eu -o pipefail\n{block}")])
        .envs(world.variables())
        .env("PATH", path)
        .env("DATABASE_URL", world.database_url())
        .env("OLD_DATABASE_URL", old)
        .current_dir(folder())
        .output()
        .expect("run bash");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{block}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_leads_from_batch_jobs_to_freshet() {
    let world = World::unprepared("page", |_| ()).await;
    let name = format!("{}-old", world.name());
    world.execute(&format!("CREATE DATABASE \"{name}\"")).await;
    let old_url = format!("{}/{name}", world.database_url().rsplit_once('/').expect("a database").0);
    let mut old = PgConnection::connect(&old_url).await.expect("connect");
    sqlx::raw_sql(TABLES).execute(&mut old).await.expect("make the tables");

    let blocks = blocks();
    let [copy, take_over, compare] = blocks[..] else { panic!("{blocks:#?}") };
    let planned = run(&world, &old_url, copy);
    // What the page shows of a plan is what it says.
    let shown = PAGE.split("```text\n").nth(1).and_then(|rest| rest.split_once("```")).expect("a plan").0;
    for line in shown.lines().skip(1) {
        // Up to what is another number or list for every database.
        let start =
            [":", ",", " 365", "of the table"].iter().fold(line, |line, end| line.split(end).next().expect("a start"));
        assert!(planned.lines().any(|said| said.starts_with(start)), "{line}\n{planned}");
    }
    let done = run(&world, &old_url, take_over);
    assert!(done.contains("adopted with its 6 rows") && done.contains("hospital_data |"), "{done}");
    assert!(done.contains("health_data: 3 rows here, 6 there: equal\n"), "{done}");
    assert!(done.trim_end().ends_with("equal"), "{done}");

    // Beside the old jobs: both get the next file.
    oracles::watch(&world).await;
    let roles = world.run_all();
    world.put("health/next.csv", data::GOLDEN_HEALTH).await;
    world.settle().await;
    roles.stop().await;
    sqlx::raw_sql(
        "INSERT INTO health_data (location_id, date, dengue_cases, malaria_cases, heatstroke_cases, diarrhea_cases, is_projected)
         VALUES (1, '2025-08-22', 4911, 5753, 0, 29614, false)",
    )
    .execute(&mut old)
    .await
    .expect("run the job");
    let said = run(&world, &old_url, compare);
    assert!(said.contains("health_data: 3 rows here, 7 there: equal\n"), "{said}");
}
