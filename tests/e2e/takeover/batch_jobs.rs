//! The tables that nightly batch jobs filled, with an API on them: taken over in one transaction, or left as they were.

use freshet::commands::setup::{self, Mode, Standing};

use super::{everything, of, says};
use crate::harness::{World, data, oracles};

/// Same names and columns as freshet's, and no lineage. Three rows of health and one of hospital share a key with a newer
/// one. `id` is a serial, a bigserial, or a bigint that nothing numbers.
pub(super) const TABLES: &str = "
    CREATE TABLE locations (id serial PRIMARY KEY, name varchar(100) NOT NULL, type varchar(50), population integer,
        area double precision);
    CREATE TABLE climate_data (id bigint, location_id integer, date date, temperature double precision,
        rainfall double precision, humidity double precision, flood_probability double precision,
        cyclone_probability double precision, heatwave_probability double precision, is_projected boolean,
        projection_year integer);
    CREATE TABLE health_data (id serial PRIMARY KEY, location_id integer NOT NULL REFERENCES locations (id),
        date date NOT NULL, dengue_cases integer, malaria_cases integer, heatstroke_cases integer,
        diarrhea_cases integer, is_projected boolean, projection_year integer, reviewed_by text);
    CREATE TABLE hospital_data (id bigserial PRIMARY KEY, location_id integer, date date, total_beds integer,
        available_beds integer, doctors integer, nurses integer, iv_fluids_stock integer, antibiotics_stock integer,
        antipyretics_stock integer, is_projected boolean, projection_year integer);
    INSERT INTO locations (name, type, population, area) VALUES ('Andhra Pradesh', 'state', 49577103, 162975), ('Goa', 'state', 1458545, 3702);
    INSERT INTO climate_data VALUES (7, 1, '2025-08-22', 30.5, 1, 80, 0.1, 0, 0.2, false, NULL);
    INSERT INTO health_data (location_id, date, dengue_cases, malaria_cases, heatstroke_cases, diarrhea_cases, is_projected)
    VALUES (1, '2025-08-22', 1, 1, 1, 1, false), (1, '2025-08-22', 2, 2, 2, 2, false), (2, '2025-08-22', 3, 3, 3, 3, false),
        (1, '2025-08-22', 4, 4, 4, 4, false), (2, '2025-08-22', 5, 5, 5, 5, false), (2, '2025-08-23', 6, 6, 6, 6, false);
    INSERT INTO hospital_data (location_id, date, total_beds, available_beds, doctors, nurses, is_projected)
    VALUES (1, '2025-08-22', 100, 10, 5, 6, false), (1, '2025-08-22', 200, 20, 5, 6, false);

    CREATE TABLE alerts (id serial PRIMARY KEY, location_id integer REFERENCES locations (id),
        health_id integer REFERENCES health_data (id) ON DELETE CASCADE);
    INSERT INTO alerts (location_id, health_id) VALUES (1, 4), (2, 6);
    CREATE VIEW named_health AS SELECT h.id, l.name, h.date, h.dengue_cases FROM health_data h JOIN locations l ON l.id = h.location_id;
    CREATE VIEW report AS SELECT name, sum(dengue_cases) AS cases FROM named_health GROUP BY name;
    COMMENT ON VIEW report IS 'of the API';
    GRANT SELECT ON named_health TO PUBLIC;
    CREATE INDEX api_health ON health_data (location_id, date DESC);";

/// Every line about health, in order.
const OF_HEALTH: [&str; 14] = [
    "drop while the columns are altered: view named_health, report",
    "widen column id from integer to bigint",
    "let column id number new rows (identity), after the greatest id, instead of by nextval('health_data_id_seq'::regclass)",
    "add column extra jsonb",
    "add column corrections jsonb",
    "add the lineage columns src_object, src_gen, src_row, src_ord, value_ord: 0 in existing rows (6 rows), so that a \
     row of any \
     file wins",
    "move 3 rows to pipeline.taken_over_duplicates, because a row with a greater id has the same key (2 keys)",
    "add constraint health_data_key UNIQUE NULLS NOT DISTINCT (location_id, date, is_projected, projection_year)",
    "add index health_data_date on (date)",
    "recreate with the same definition: view named_health, report",
    "set the comments of ",
    "mark all windows of its rows, so that the outputs include them",
    "kept: foreign key health_data_location_id_fkey stays: a row that arrives before the row of locations that it \
     refers to is rejected",
    "",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_batch_jobs_are_taken_over_and_files_go_on_from_there() {
    let world = World::unprepared("batchjobs", |_| ()).await;
    world.execute(TABLES).await;
    let before = everything(&world).await;

    // A dry run says every line, and changes nothing.
    let dry = setup::prepare(&world.services, Mode::Plan).await;
    let health = of(&dry, "table", "health_data");
    assert_eq!(health.said, "found, made by another program: would be adopted with its 6 rows");
    for (line, expected) in health.details.iter().zip(OF_HEALTH) {
        assert!(line.starts_with(expected), "{line}\n{expected}\n{health:#?}");
    }
    assert_eq!(health.details.len(), OF_HEALTH.len() - 1, "{health:#?}");
    assert!(says(of(&dry, "table", "hospital_data"), "move 1 row to pipeline.taken_over_duplicates"), "{dry:#?}");
    assert!(says(of(&dry, "table", "locations"), "widen column name from character varying(100) to text"), "{dry:#?}");
    assert!(says(of(&dry, "table", "climate_data"), "add primary key (id)"), "{dry:#?}");
    assert!(dry.iter().all(|finding| finding.standing == Standing::Would), "{dry:#?}");
    assert_eq!(everything(&world).await, before);

    // Done, the same lines are said.
    let done = setup::prepare(&world.services, Mode::Make).await;
    assert!(done.iter().all(|finding| finding.standing == Standing::Made), "{done:#?}");
    let taken = of(&done, "table", "health_data");
    assert_eq!((taken.said.as_str(), &taken.details), ("adopted with its 6 rows", &health.details));
    let ids = "SELECT id FROM health_data ORDER BY id";
    assert_eq!(world.column::<i64>(ids).await, [4, 5, 6]);
    let aside: Vec<String> = world
        .column("SELECT format('%s %s %s %s', \"table\", row_id, kept_row_id, row->>'dengue_cases') FROM pipeline.taken_over_duplicates ORDER BY number")
        .await;
    let mut aside: Vec<&str> = aside.iter().map(String::as_str).collect();
    aside.sort_unstable();
    assert_eq!(aside, ["health_data 1 4 1", "health_data 2 4 2", "health_data 3 5 3", "hospital_data 1 2 "]);
    // What others have on them is there.
    assert_eq!(world.query::<i64>("SELECT cases FROM report WHERE name = 'Goa'").await, 11);
    assert_eq!(world.query::<String>("SELECT obj_description('report'::regclass)").await, "of the API");
    assert!(world.query::<bool>("SELECT has_table_privilege('public', 'named_health', 'SELECT')").await);
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'api_health'";
    assert_eq!(world.query::<i64>(there).await, 1);
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'alerts'::regclass";
    assert_eq!((world.query::<i64>(keys).await, world.query::<i64>("SELECT count(*) FROM alerts").await), (2, 2));
    // Whoever inserts without lineage may go on.
    world.execute("INSERT INTO climate_data (location_id, date, temperature, is_projected) VALUES (2, '2025-08-22', 29, false)").await;
    assert_eq!(world.query::<i64>("SELECT id FROM climate_data WHERE location_id = 2").await, 8);
    let again = setup::prepare(&world.services, Mode::Make).await;
    assert!(again.iter().all(|finding| finding.standing == Standing::Found), "{again:#?}");

    // A file's row takes the place of the row of its key; outputs are of both.
    oracles::watch(&world).await;
    let roles = world.run_all();
    world.put("health/new.csv", data::GOLDEN_HEALTH).await;
    world.settle().await;
    roles.stop().await;
    let rows: Vec<String> =
        world.column("SELECT format('%s %s %s', id, dengue_cases, src_object) FROM health_data ORDER BY id").await;
    assert_eq!(rows, ["4 4911 1", "5 5 0", "6 6 0"]);
    let risks = String::from_utf8(world.output("metrics/current_health_risks.csv").await).expect("UTF-8");
    let risks: Vec<&str> = risks.lines().skip(1).map(|line| line.split(",0,").next().expect("a start")).collect();
    assert_eq!(risks.len(), 3, "{risks:?}");
    assert!(risks[0].starts_with("4,1,2025-08-22,4911,") && risks[2].starts_with("6,2,2025-08-23,6,"), "{risks:?}");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.marks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_leaves_everything_as_it_was_and_says_what_to_do() {
    let world = World::unprepared("notaken", |_| ()).await;
    world.execute(TABLES).await;
    // Somebody refers to a row that would go, and would lose his own with it.
    world.execute("INSERT INTO alerts (location_id, health_id) VALUES (1, 1)").await;
    let before = everything(&world).await;
    for mode in [Mode::Plan, Mode::Make] {
        let said = setup::prepare(&world.services, mode).await;
        let health = of(&said, "table", "health_data");
        assert_eq!(health.standing, Standing::Failed, "{said:#?}");
        let blocked = "in the way: 1 row of alerts (alerts_health_id_fkey) refer to rows that would be removed";
        assert!(says(health, blocked), "{said:#?}");
        assert_eq!(of(&said, "table", "climate_data").standing, Standing::Failed, "{said:#?}");
        let schema = said.iter().find(|it| it.kind == "schema").expect("the schema");
        assert_eq!(schema.said, "empty; not changed until the tables can be set up");
        assert_eq!(everything(&world).await, before);
    }
    world.execute("UPDATE alerts SET health_id = 4 WHERE health_id = 1").await;

    // What no plan can foresee, in the middle of it, takes back all of it too.
    world
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'rows are kept'; END $$;
             CREATE TRIGGER keep BEFORE DELETE ON hospital_data EXECUTE FUNCTION keep()",
        )
        .await;
    let before = everything(&world).await;
    let said = setup::prepare(&world.services, Mode::Make).await;
    let schema = said.iter().find(|it| it.kind == "schema").expect("the schema");
    let expected = "nothing was changed: table hospital_data: move 1 row to";
    assert!(schema.said.starts_with(expected) && schema.said.contains("rows are kept"), "{schema}");
    assert_eq!(schema.standing, Standing::Failed);
    assert_eq!(everything(&world).await, before);

    world.execute("DROP TRIGGER keep ON hospital_data").await;
    let done = setup::prepare(&world.services, Mode::Make).await;
    assert!(says(of(&done, "table", "hospital_data"), "move 1 row to pipeline.taken_over_duplicates"), "{done:#?}");
    assert!(done.iter().all(|finding| !matches!(finding.standing, Standing::Failed | Standing::Differs)), "{done:#?}");
}
