//! `freshet compare`: what differs between the tables here and those of another database.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::harness::{World, data};

const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Tables of batch jobs: one row is equal, one differs, one is only there, and an older one shares a key.
const THERE: &str = "
    CREATE TABLE locations (id bigint, name varchar(50), type text, population bigint, area numeric);
    INSERT INTO locations VALUES (1, 'Place 1', 'state', 100000, 1.50), (2, 'Place 2', 'state', 200001, 2.5);
    CREATE TABLE health_data (id serial, location_id bigint, date date, dengue_cases double precision, malaria_cases integer,
        diarrhea_cases integer, is_projected boolean, projection_year integer);
    INSERT INTO health_data (location_id, date, dengue_cases, malaria_cases, diarrhea_cases, is_projected) VALUES
        (1, '2025-07-01', 9, 9, 9, false), (1, '2025-07-01', 3, 2, 2, false), (9, '2025-07-01', 1, 1, 1, false)";

#[tokio::test(flavor = "multi_thread")]
async fn rows_only_here_only_there_and_different_are_counted_and_shown() {
    let world = World::new("compared").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(2)).await;
    world
        .put(
            "health/all.csv",
            "location_id,date,dengue_cases,malaria_cases,diarrhea_cases\n1,2025-07-01,3,2,2\n2,2025-07-01,1,1,1\n",
        )
        .await;
    world.settle().await;
    roles.stop().await;
    let name = format!("{}-old", world.name());
    world.execute(&format!("CREATE DATABASE \"{name}\"")).await;
    let url = format!("{}/{name}", world.database_url().rsplit_once('/').expect("a database").0);
    let mut old = PgConnection::connect(&url).await.expect("connect");
    sqlx::raw_sql(THERE).execute(&mut old).await.expect("make the tables");

    let mut command = world.spawn(&["compare", "--examples", "5", &url]);
    assert_eq!(command.ended(ENDS_WITHIN).await, Some(2), "{}", command.log());
    let said = command.log();
    for line in [
        "locations: 2 rows here, 2 there: 0 only here, 0 only there, 1 different",
        "    population differs: 1",
        "    different: id=2, population 200000 here, 200001 there",
        "climate_data: missing there",
        "health_data: 2 rows here, 3 there: 1 only here, 1 only there, 0 different",
        "    skipped there, because another row with the same key has a greater id: 1",
        "    missing there, not compared: heatstroke_cases",
        "    only here: location_id=2 date=2025-07-01 is_projected=false projection_year=NULL",
        "    only there: location_id=9 date=2025-07-01 is_projected=false projection_year=NULL",
        "not equal: locations, climate_data, health_data, hospital_data",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\n{said}");
    }
    // Its own database is equal to it, and no login is shown.
    let own = world.database_url().to_owned();
    let mut command = world.spawn_with(&["compare", "--json"], &[("FRESHET_COMPARE_URL", own.clone())]);
    assert_eq!(command.ended(ENDS_WITHIN).await, Some(0), "{}", command.log());
    let log = command.log();
    let json: serde_json::Value = serde_json::from_str(&log[log.find("{\n").expect("JSON")..]).expect("JSON");
    assert_eq!((&json["equal"], &json["tables"][2]["rows_there"]), (&true.into(), &2.into()), "{json:#}");
    let login = own.split_once("://").and_then(|(_, rest)| rest.split_once('@')).expect("a login").0;
    let password = login.split_once(':').map_or(login, |(_, password)| password);
    assert!(!log.contains(&format!("{login}@")) && (password == login || !log.contains(password)), "{log}");

    // What cannot be read is an error, and no difference.
    let mut command = world.spawn(&["compare", "--examples", "5", "postgres://nobody:hunter2@127.0.0.1:1/none"]);
    assert_eq!(command.ended(ENDS_WITHIN).await, Some(1));
    assert!(command.log().contains("connect to the other database at 127.0.0.1:1/none"), "{}", command.log());
    let last = command.log().lines().last().expect("a line").to_owned();
    assert!(!last.contains("hunter2"), "{last}");
}
