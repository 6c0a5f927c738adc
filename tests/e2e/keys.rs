//! A contract gets another key, or a column of the key another type. The table is built anew in a shadow while the roles run
//! with the former contract, takes the live table's place, and setup finds it as declared.

use freshet_processors::replay::{Progress, ReplayError, Shadow};
use freshet_sinks::tables::{self, SetupError, TablePlan};
use freshet_topics::{Cast, Column, DOMAINS, Domain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, data};
use crate::replay::{context, domain, everything};

/// The health feed with another key.
fn keyed(key: &'static [&'static str]) -> &'static Domain {
    Box::leak(Box::new(Domain { key, ..*domain("health") }))
}

/// What a setup with this contract of health would do to its table.
async fn planned(world: &World, health: &'static Domain) -> TablePlan {
    let mut connection = world.services.pool.acquire().await.expect("connect");
    let plan = tables::look(&mut connection, &setup(world, health)).await.expect("look");
    plan.tables.into_iter().find(|table| table.domain == "health").expect("health")
}

fn setup<'a>(world: &'a World, health: &'static Domain) -> tables::Setup<'a> {
    let mut setup = world.services.setup();
    let domains: Vec<_> = DOMAINS.iter().map(|&it| if it.name == "health" { health } else { it }).collect();
    (setup.domains, setup.pipeline.hash) = (domains.leak(), "changed");
    setup
}

async fn open(world: &World, health: &'static Domain) -> Result<Shadow, ReplayError> {
    Shadow::open(&context(world, health), &everything()).await
}

/// Sets up the contract, whose table is as declared already.
async fn set_up(world: &World, health: &'static Domain) {
    for _ in 0..2 {
        let table = planned(world, health).await;
        assert!(table.steps.is_empty() && table.not_done.is_empty() && table.blocked.is_empty(), "{table:#?}");
        tables::apply(&world.services.pool, &setup(world, health)).await.expect("set up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_whose_key_changed_goes_live_through_a_shadow() {
    let world = World::new("new-key").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/observed.csv", data::health(3, "2020-01-01", 1_000, 5)).await;
    world.settle().await;
    world.next_second().await;
    world.put("health/projected.csv", data::health(3, "2020-01-01", 10, 900).replace(",false", ",true")).await;
    world.settle().await;
    // What others have added.
    world
        .execute(
            "CREATE INDEX theirs ON health_data (dengue_cases);
             ALTER TABLE health_data ADD COLUMN remark text DEFAULT 'none',
                ADD CONSTRAINT not_negative CHECK (dengue_cases >= 0);
             CREATE ROLE new_key_reader; GRANT SELECT ON health_data TO new_key_reader;
             CREATE VIEW dengue AS SELECT location_id, date, dengue_cases FROM health_data;
             CREATE TABLE before AS SELECT location_id, date, id FROM health_data",
        )
        .await;

    // A projection now replaces what was observed. Setup removes no rows, and says what does.
    let health = keyed(&["location_id", "date"]);
    let blocked = planned(&world, health).await.blocked;
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(blocked[0].starts_with("30 rows with the same key (location_id, date) as another row"), "{blocked:?}");
    assert!(blocked[0].contains("`freshet replay health --into shadow --compare --swap`"), "{blocked:?}");
    let refused = tables::apply(&world.services.pool, &setup(&world, health)).await.expect_err("nothing is set up");
    assert!(matches!(refused, SetupError::Blocked(_)), "{refused}");

    // It is followed, and the roles go on with the former contract.
    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    let mut shadow = open(&world, health).await.unwrap_or_else(|error| panic!("open: {error}"));
    shadow.fill(&told, &token).await.expect("fill");
    assert!(told.borrow().copied > 0, "it is filled by COPY: {:?}", told.borrow());
    world.put("health/later.csv", data::health(3, "2026-01-01", 10, 5)).await;
    world.applied().await;
    let compared = shadow.compare(&told, &token).await.expect("compare");
    assert_eq!((compared.live_rows, compared.shadow_rows), (3_060, 3_030), "{compared:?}");
    assert!(compared.is_only_counted && !compared.is_same() && compared.first.is_empty(), "{compared:?}");
    roles.stop().await;
    let swapped = shadow.swap(&told, &token).await.expect("swap");
    assert_eq!((swapped.views, swapped.dropped.len()), (4, 0), "{swapped:?}");

    let rows: String = world
        .query("SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE is_projected), count(remark)) FROM health_data")
        .await;
    assert_eq!(rows, "3030 30 3030", "the newest row of each key");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.rejects").await, 0);
    let kept = "SELECT count(*) FROM health_data JOIN before USING (location_id, date, id)";
    assert_eq!(world.query::<i64>(kept).await, 3_000, "each has the id of one of the rows that had its key");
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'health_data_key'";
    assert_eq!(world.query::<String>(key).await, "UNIQUE NULLS NOT DISTINCT (location_id, date)");
    let indexes: Vec<String> =
        world.column("SELECT indexname::text FROM pg_indexes WHERE tablename = 'health_data' ORDER BY 1").await;
    assert_eq!(indexes, ["health_data_date", "health_data_key", "health_data_pkey", "theirs"]);
    let theirs = "SELECT has_table_privilege('new_key_reader', 'health_data', 'SELECT')
        AND EXISTS (SELECT FROM pg_constraint WHERE conname = 'not_negative' AND conrelid = 'health_data'::regclass)
        AND (SELECT count(*) FROM dengue) = 3030";
    assert!(world.query::<bool>(theirs).await);

    set_up(&world, health).await;
    let processors = world.pipeline(health);
    let two = "location_id,date,dengue_cases,is_projected\n1,2027-01-01,5,false\n1,2027-01-01,6,true\n";
    world.put("health/two.csv", two).await;
    world.applied().await;
    assert_eq!(world.column::<i32>("SELECT dengue_cases FROM health_data WHERE date = '2027-01-01'").await, [6]);

    // The key of another shadow is the table's.
    let mut shadow = open(&world, health).await.unwrap_or_else(|error| panic!("open again: {error}"));
    let compared = shadow.compare(&told, &token).await.expect("compare");
    assert!(compared.is_same() && compared.live_checksum == compared.shadow_checksum, "{compared:#?}");
    shadow.swap(&told, &token).await.expect("swap again");
    assert_eq!(world.query::<i64>(kept).await, 3_000);
    processors.stop().await;
    world.execute("DROP OWNED BY new_key_reader; DROP ROLE new_key_reader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_the_key_that_gets_another_type_goes_live_through_a_shadow() {
    let world = World::new("key-typed").await;
    let roles = world.run_all();
    let file = "location_id,date,dengue_cases,is_projected,projection_year\n\
                1,2030-01-01,5,true,2030\n1,2030-01-01,6,true,2031\n2,2025-01-01,7,false,\n";
    world.put("health/years.csv", file).await;
    world.settle().await;
    roles.stop().await;
    let greatest: i64 = world.query("SELECT max(id) FROM health_data").await;

    let mut columns: Vec<Column> = domain("health").columns.to_vec();
    for column in columns.iter_mut().filter(|column| column.name == "projection_year") {
        (column.cast, column.rules) = (Cast::Text, &[]);
    }
    let health: &'static Domain = Box::leak(Box::new(Domain { columns: columns.leak(), ..*domain("health") }));
    let not_done = planned(&world, health).await.not_done;
    let expected = "column projection_year stays integer but should be text: `freshet replay health --into shadow";
    assert!(not_done.iter().any(|it| it.starts_with(expected)), "{not_done:?}");

    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    let mut shadow = open(&world, health).await.unwrap_or_else(|error| panic!("open: {error}"));
    let compared = shadow.compare(&told, &token).await.expect("compare");
    assert_eq!((compared.live_rows, compared.shadow_rows, compared.is_only_counted), (3, 3, true), "{compared:?}");
    shadow.swap(&told, &token).await.expect("swap");
    let rows =
        "SELECT concat_ws(' ', location_id, dengue_cases, projection_year) FROM health_data ORDER BY dengue_cases";
    assert_eq!(world.column::<String>(rows).await, ["1 5 2030", "1 6 2031", "2 7"]);
    let types = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'health_data'::regclass AND attname = 'projection_year'";
    assert_eq!(world.query::<String>(types).await, "text");
    let least: i64 = world.query("SELECT min(id) FROM health_data").await;
    assert!(least > greatest, "ids that nobody has had: {least} after {greatest}");
    set_up(&world, health).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_with_another_key_that_could_not_be_swapped_is_not_filled() {
    let world = World::new("key-refused").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(3, "2025-01-01", 10, 5)).await;
    world.settle().await;
    roles.stop().await;
    let health = keyed(&["location_id", "dengue_cases"]);
    let cases = [
        (
            "CREATE TABLE notes (id bigint REFERENCES health_data (id))",
            "DROP TABLE notes",
            "constraint notes_id_fkey on table notes depends on the table: drop it",
        ),
        (
            "ALTER TABLE health_data RENAME CONSTRAINT health_data_key TO theirs",
            "ALTER TABLE health_data RENAME CONSTRAINT theirs TO health_data_key",
            "stop the processors of health, drop it",
        ),
    ];
    for (make, undo, named) in cases {
        world.execute(make).await;
        let refused = open(&world, health).await.err().unwrap_or_else(|| panic!("{named}: it is filled")).to_string();
        assert!(refused.contains(named), "{named} in {refused}");
        let left = "SELECT to_regclass('shadow.health_data') IS NOT NULL OR EXISTS (SELECT FROM pipeline.replays)";
        assert!(!world.query::<bool>(left).await, "{named}: nothing has begun");
        world.execute(undo).await;
    }

    // One that is begun is not filled by another contract.
    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    let mut shadow = open(&world, health).await.unwrap_or_else(|error| panic!("open: {error}"));
    shadow.fill(&told, &token).await.expect("fill");
    drop(shadow);
    let refused = open(&world, domain("health")).await.err().expect("the former contract").to_string();
    assert!(refused.contains("was made by another contract: drop it"), "{refused}");
    let shadow = open(&world, health).await.unwrap_or_else(|error| panic!("go on: {error}"));
    shadow.swap(&told, &token).await.expect("swap");
    set_up(&world, health).await;
}
