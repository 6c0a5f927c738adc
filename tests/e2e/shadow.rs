//! A second table is filled beside the live one, compared, and takes its place, while files keep coming.

use std::time::Duration;

use freshet::roles::Role;
use freshet_processors::replay::{Point, Progress, ReplayContext, ReplayError, Request, Shadow};
use freshet_sinks::shadow::{Refused, holders};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::http::within;
use crate::harness::sessions::pid_of;
use crate::harness::wire::{Cut, Wire};
use crate::harness::{SETTLED_WITHIN, World, data, roles_but};
use crate::replay::{context, domain, everything};

async fn open(world: &World, request: &Request) -> Shadow {
    Shadow::open(&context(world, domain("health")), request).await.unwrap_or_else(|error| panic!("open: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_takes_the_tables_place_under_load_and_no_row_is_lost() {
    let world = World::new("swap").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(20)).await;
    world.put("health/all.csv", data::health(20, "2025-01-01", 300, 5)).await;
    world.put("hospital/all.csv", data::hospital(20, "2025-01-01", 300, 5)).await;
    world.settle().await;
    // What no file has ever said, what was lost, and what was altered by hand.
    world
        .execute(
            "INSERT INTO health_data (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord)
                VALUES (1, '1999-01-01', false, 0, 1, 0, 0, 0);
             DELETE FROM health_data WHERE location_id = 2 AND date = '2025-02-02';
             UPDATE health_data SET malaria_cases = 12345 WHERE location_id = 3;
             CREATE ROLE swap_reader; GRANT SELECT ON health_data TO swap_reader;
             CREATE ROLE swap_listener;
             ALTER DEFAULT PRIVILEGES IN SCHEMA shadow GRANT SELECT, DELETE ON TABLES TO swap_listener;
             ALTER DEFAULT PRIVILEGES IN SCHEMA shadow GRANT SELECT ON TABLES TO PUBLIC;
             CREATE VIEW dengue WITH (security_barrier) AS SELECT location_id, date, dengue_cases FROM health_data;
             CREATE VIEW dengue_of_one AS SELECT * FROM dengue WHERE location_id = 1;",
        )
        .await;
    let ids = "SELECT coalesce(sum(hashtext(ROW(location_id, date, id)::text)), 0)::bigint FROM health_data
        WHERE date BETWEEN '2025-01-01' AND '2025-10-27' AND NOT (location_id = 2 AND date = '2025-02-02')";
    let (ids_before, token) = (world.query::<i64>(ids).await, CancellationToken::new());
    let (told, _) = watch::channel(Progress::default());
    let over = CancellationToken::new();

    let swap = async {
        let mut shadow = open(&world, &everything()).await;
        shadow.fill(&told, &token).await.expect("fill");
        assert!(told.borrow().copied >= 3_000, "it is filled by COPY: {:?}", told.borrow());
        let may_delete = "SELECT has_table_privilege('swap_listener', 'shadow.health_data', 'DELETE')";
        assert!(world.query::<bool>(may_delete).await, "a shadow has the default privileges of its schema");
        let compared = shadow.compare(&told, &token).await.expect("compare");
        assert_eq!((compared.only_live, compared.only_shadow, compared.changed), (1, 1, 300), "{compared:#?}");
        assert_ne!(compared.live_checksum, compared.shadow_checksum);
        assert!(compared.first.iter().any(|it| it.key.contains("1999-01-01") && it.shadow.is_none()), "{compared:#?}");
        let swapped = shadow.swap(&told, &token).await.expect("swap");
        over.cancel();
        swapped
    };
    // Some files come after the swap.
    let load = async {
        let (mut days, mut after) = (0, 0);
        while after < 5 {
            let date = format!("2026-{:02}-{:02}", 1 + days / 28, 1 + days % 28);
            world.put(&format!("health/{date}.csv"), data::health(20, &date, 1, days)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            days += 1;
            after += i32::from(over.is_cancelled());
            assert!(days < 330, "the swap takes too long");
        }
        days
    };
    // Readers of the view never fail.
    let readers = async {
        while !over.is_cancelled() {
            world.query::<i64>("SELECT count(*) FROM dengue_of_one").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (swapped, days, ()) = tokio::join!(swap, load, readers);
    // That of somebody, and those of three outputs.
    assert_eq!(swapped.views, 4);
    world.settle().await;
    world.all_hold().await;
    let rows: i64 = world.query("SELECT count(*) FROM health_data").await;
    assert_eq!(rows, 6_000 + i64::from(days) * 20, "each row of each file once, and no other");
    assert_eq!(world.query::<i64>(ids).await, ids_before, "ids are kept by key");
    let same: bool = world
        .query("SELECT (SELECT count(*) FROM dengue_of_one) = (SELECT count(*) FROM health_data WHERE location_id = 1)")
        .await;
    assert!(same, "views read the new table");
    let barrier: bool =
        world.query("SELECT 'security_barrier=true' = ANY (reloptions) FROM pg_class WHERE relname = 'dengue'").await;
    assert!(barrier, "views keep their options");
    assert!(world.query::<bool>("SELECT has_table_privilege('swap_reader', 'health_data', 'SELECT')").await);
    let may = "SELECT has_table_privilege('swap_listener', 'health_data', 'SELECT, DELETE')";
    assert!(!world.query::<bool>(may).await, "nobody may do more than before");
    let left: i64 = world.query("SELECT count(*) FROM pg_class WHERE relname LIKE 'health_data%' AND relnamespace <> 'public'::regnamespace").await;
    assert_eq!(left, 0, "nothing of the old table or of the shadow is left");
    let indexes: Vec<String> =
        world.column("SELECT indexname::text FROM pg_indexes WHERE tablename = 'health_data' ORDER BY 1").await;
    assert_eq!(indexes, ["health_data_date", "health_data_key", "health_data_pkey"]);

    // New rows get ids that nobody has had, and a second swap finds nothing to change.
    world.put("health/later.csv", data::health(20, "2027-01-01", 1, 3)).await;
    world.settle().await;
    let unique: bool = world.query("SELECT count(DISTINCT id) = count(*) FROM health_data").await;
    assert!(unique);
    let mut shadow = open(&world, &everything()).await;
    let compared = shadow.compare(&told, &token).await.expect("compare");
    assert!(compared.is_same() && compared.live_checksum == compared.shadow_checksum, "{compared:#?}");
    shadow.swap(&told, &token).await.expect("swap again");
    world.settle().await;
    world.all_hold().await;
    world.execute("DROP OWNED BY swap_reader, swap_listener; DROP ROLE swap_reader, swap_listener").await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_beside_a_long_reader_lets_the_live_pipeline_go_on_and_names_the_reader() {
    let world = World::new("swap-reader").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(3, "2025-01-01", 10, 5)).await;
    world.settle().await;
    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    let mut reader = world.services.pool.begin().await.expect("a transaction");
    let pid = "SELECT pg_backend_pid() FROM health_data LIMIT 1";
    let pid: i32 = sqlx::query_scalar(pid).fetch_one(&mut *reader).await.expect("read the table");
    let over = CancellationToken::new();

    let swap = async {
        open(&world, &everything()).await.swap(&told, &token).await.expect("swap");
        assert!(over.is_cancelled(), "it waited for the reader");
    };
    let read = async {
        // Longer than an attempt waits.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let holders = holders(&world.services.pool, domain("health")).await.expect("look at the locks");
        let is_named = |holder: &String| holder.starts_with(&format!("session {pid} (")) && holder.contains("since ");
        assert!(holders.iter().any(is_named), "{pid}: {holders:?}");
        world.put("health/later.csv", data::health(3, "2026-01-01", 10, 5)).await;
        world.applied().await;
        over.cancel();
        reader.rollback().await.expect("the reader ends");
    };
    tokio::join!(swap, read);
    world.settle().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 60);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_table_do_not_wait_while_a_swap_moves_the_progress_of_its_files() {
    let world = World::new("swap-progress").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(3, "2025-01-01", 10, 5)).await;
    world.settle().await;
    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    // As if there was so much of it that moving it takes long.
    let mut holder = world.services.pool.begin().await.expect("a transaction");
    let hold = "SELECT FROM pipeline.progress WHERE domain = 'health' FOR UPDATE";
    sqlx::query(hold).execute(&mut *holder).await.expect("the progress");
    let holder_pid = pid_of(&mut holder).await;

    let swap = async {
        open(&world, &everything()).await.swap(&told, &token).await.expect("swap");
    };
    // Whether the one that waits for the progress keeps readers out of the table meanwhile; null if nobody waits. In one
    // look: an attempt gives up after some seconds, and each begins with a moment alone with the table.
    let keeps_out = format!(
        "SELECT bool_or(EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.mode = 'AccessExclusiveLock'
            AND l.locktype = 'relation' AND l.relation = 'health_data'::regclass))
         FROM pg_stat_activity AS a
         WHERE a.datname = current_database() AND {holder_pid} = ANY (pg_blocking_pids(a.pid))"
    );
    let read = async {
        let look = async || world.query::<Option<bool>>(&keeps_out).await;
        let keeps_out = within(SETTLED_WITHIN, "the swap waits for the progress", look).await;
        assert!(!keeps_out, "readers of the table wait");
        assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 30);
        holder.rollback().await.expect("the progress is free");
    };
    tokio::join!(swap, read);
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_marks_the_dates_of_both_tables_whatever_index_is_on_them() {
    let world = World::new("swap-marks").await;
    let roles = world.run(&roles_but(Role::Metrics));
    world.put("health/january.csv", data::health(3, "2025-01-30", 3, 5)).await;
    world.put("health/march.csv", data::health(2, "2025-03-05", 1, 5)).await;
    world.applied().await;
    let (told, token) = (watch::channel(Progress::default()).0, CancellationToken::new());
    let brin = "DROP INDEX health_data_date; CREATE INDEX health_data_date ON health_data USING brin (date)";
    let nulls = "DROP INDEX health_data_date; CREATE INDEX health_data_date ON health_data (date DESC NULLS LAST)";
    for index in ["", brin, nulls, "DROP INDEX health_data_date"] {
        world.execute(index).await;
        // One date is in the live table alone, one in the shadow alone. Projections are no windows: they stand before all
        // dates, between them, on one of them and behind them.
        world
            .execute(
                "DELETE FROM pipeline.marks;
                 DELETE FROM health_data WHERE date = '2025-03-05';
                 INSERT INTO health_data (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord)
                    VALUES (1, '1999-01-01', false, 0, 1, 0, 0, 0), (1, '1998-01-01', true, 0, 1, 0, 0, 0),
                        (1, '2025-02-10', true, 0, 1, 0, 0, 0), (9, '2025-01-31', true, 0, 1, 0, 0, 0),
                        (1, '2030-01-01', true, 0, 1, 0, 0, 0)",
            )
            .await;
        open(&world, &everything()).await.swap(&told, &token).await.expect("swap");
        let marks: Vec<String> =
            world.column("SELECT dates::text FROM pipeline.marks WHERE domain = 'health' ORDER BY dates").await;
        let expected = ["[1999-01-01,1999-01-02)", "[2025-01-30,2025-02-02)", "[2025-03-05,2025-03-06)"];
        assert_eq!(marks, expected, "after {index:?}");
    }
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_would_leave_something_behind_refuses_and_names_it() {
    let world = World::new("dependants").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(3, "2025-01-01", 10, 5)).await;
    world.settle().await;
    // The shadow gets constraints of its own that are equal to these.
    world
        .execute(
            "ALTER TABLE health_data ADD CONSTRAINT not_negative CHECK (dengue_cases >= 0);
             ALTER TABLE health_data ADD CONSTRAINT of_two CHECK (malaria_cases >= 0 OR date > '2000-01-01')",
        )
        .await;
    let checks = "SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), E'\n' ORDER BY conname)
        FROM pg_constraint WHERE contype = 'c' AND conrelid = 'public.health_data'::regclass";
    let before: String = world.query(checks).await;
    let (told, _) = watch::channel(Default::default());
    let token = CancellationToken::new();
    let cases = [
        (
            "CREATE TABLE notes (id bigint REFERENCES health_data (id))",
            "DROP TABLE notes",
            "constraint notes_id_fkey on table notes",
        ),
        (
            "CREATE MATERIALIZED VIEW sums AS SELECT sum(dengue_cases) FROM health_data",
            "DROP MATERIALIZED VIEW sums",
            "materialized view sums",
        ),
        (
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER told AFTER INSERT ON health_data EXECUTE FUNCTION nothing()",
            "DROP FUNCTION nothing CASCADE",
            "trigger told on table health_data",
        ),
        (
            "ALTER TABLE health_data ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE health_data DISABLE ROW LEVEL SECURITY",
            "row level security",
        ),
        (
            "ALTER TABLE health_data ADD COLUMN remark text",
            "ALTER TABLE health_data DROP COLUMN remark",
            "only the live table has column remark text",
        ),
        (
            "ALTER TABLE health_data ADD CONSTRAINT late CHECK (dengue_cases < 1000000)",
            "ALTER TABLE health_data DROP CONSTRAINT late",
            "only the live table has constraint late",
        ),
    ];
    for (make, drop, named) in cases {
        let mut shadow = open(&world, &everything()).await;
        shadow.fill(&told, &token).await.expect("fill");
        world.execute(make).await;
        let refused = shadow.swap(&told, &token).await.expect_err("it refuses").to_string();
        assert!(refused.contains(named), "{named} in {refused}");
        world.execute(drop).await;
    }
    open(&world, &everything()).await.swap(&told, &token).await.expect("without them it swaps");
    assert_eq!(world.query::<String>(checks).await, before);
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_somebody_added_are_there_after_a_swap_whatever_their_names() {
    let world = World::new("indexes").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(3, "2025-01-01", 100, 5)).await;
    world.settle().await;
    world
        .execute(
            "CREATE INDEX \"odd \"\"ON\"\" one\" ON health_data (malaria_cases DESC NULLS LAST) INCLUDE (id)
                WITH (fillfactor = 70);
             COMMENT ON INDEX \"odd \"\"ON\"\" one\" IS 'It''s somebody''s';
             CREATE INDEX partial ON health_data (date) WHERE dengue_cases > 3;
             -- Postgres names it health_data_date_idx, which is also what it calls the shadow's health_data_date.
             CREATE INDEX ON health_data (date) WHERE dengue_cases > 4;
             CREATE INDEX of_text ON health_data ((date::timestamp));
             CREATE UNIQUE INDEX unique_id ON health_data (id, date);
             ALTER TABLE health_data ADD CONSTRAINT apart EXCLUDE USING btree (id WITH =);
             CREATE INDEX broken ON health_data (dengue_cases);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass;",
        )
        .await;
    let indexes = "SELECT string_agg(
            pg_get_indexdef(i.indexrelid) || i.indisprimary || coalesce(obj_description(i.indexrelid, 'pg_class'), ''),
            E'\n' ORDER BY c.relname)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'public.health_data'::regclass";
    let (told, _) = watch::channel(Progress::default());
    let token = CancellationToken::new();
    let wanted: String = world.query(indexes).await;
    open(&world, &everything()).await.swap(&told, &token).await.expect("swap");
    assert_eq!(world.query::<String>(indexes).await, wanted);

    // A serial column keeps its sequence, and numbers new rows.
    world.execute("ALTER TABLE health_data ADD COLUMN \"No \"\"1\"\"\" bigserial").await;
    open(&world, &everything()).await.swap(&told, &token).await.expect("swap with a serial column");
    let owner = "SELECT d.refobjid = 'public.health_data'::regclass AND s.relnamespace = 'public'::regnamespace
        FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a'
        WHERE s.relkind = 'S' AND s.relname = 'health_data_No \"1\"_seq'";
    assert!(world.query::<bool>(owner).await, "the sequence belongs to the new table");
    world.put("health/later.csv", data::health(3, "2026-01-01", 10, 5)).await;
    world.settle().await;
    let numbered = "SELECT count(DISTINCT \"No \"\"1\"\"\") = count(*) AND count(*) = 330 FROM health_data";
    assert!(world.query::<bool>(numbered).await);
    world.all_hold().await;
    roles.stop().await;
}

/// Deletes every record of the topic of health, as retention would.
async fn delete_records(world: &World) {
    let topic = format!("{}health", world.services.config.kafka.topic_prefix);
    let mut until = TopicPartitionList::new();
    for partition in 0..4 {
        until.add_partition_offset(&topic, partition, Offset::End).expect("a partition");
    }
    let admin = AdminClient::<DefaultClientContext>::from_config(&world.services.config.kafka.client_config());
    admin.expect("an admin client").delete_records(&until, &AdminOptions::new()).await.expect("delete records");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_reading_are_not_swapped_away_while_the_newest_is_unread() {
    let world = World::new("readings").await;
    let roles = world.run_all();
    world.put("health/old.csv", data::health(12, "2025-01-01", 30, 5)).await;
    world.settle().await;
    delete_records(&world).await;
    roles.stop().await;

    // Sent again after the topic got more partitions, the file is read in a new generation. No processor has seen it.
    world.execute("UPDATE pipeline.objects SET partition_count = 3").await;
    let mut command = world.spawn(&["republish", "--object", "health/old.csv", "--yes"]);
    assert_eq!(command.ended(Duration::from_secs(60)).await, Some(0), "{}", command.log());
    let (progress, _) = watch::channel(Default::default());
    let token = CancellationToken::new();
    let refused = async |when: &str| {
        let swapped = open(&world, &everything()).await.swap(&progress, &token).await;
        let refused = swapped.err().unwrap_or_else(|| panic!("{when}: rows were swapped away"));
        assert!(matches!(refused, ReplayError::Refused(Refused::Incomplete(_))), "{when}: {refused}");
        assert!(refused.to_string().contains("health/old.csv (object"), "{when}: {refused}");
        assert!(refused.to_string().contains("360 rows of its reading 1"), "{when}: {refused}");
        assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 360, "{when}");
    };
    refused("before the new reading has begun").await;
    let listener = world.run(&[Role::Ingest]);
    let published = "SELECT generation = 2 AND state = 'published' FROM pipeline.objects";
    world.until("the file is published in a new generation", published).await;
    refused("while the new reading is not applied").await;
    listener.stop().await;

    // Applied in the new reading, all rows are in the shadow, over whatever the first one had.
    let roles = world.run_all();
    world.settle().await;
    open(&world, &everything()).await.swap(&progress, &token).await.expect("every row is there in the new reading");
    world.settle().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 360);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topic_no_longer_holds_is_named_and_sent_again_before_a_swap() {
    let world = World::new("retention").await;
    let roles = world.run_all();
    world.put("health/old.csv", data::health(12, "2025-01-01", 30, 5)).await;
    world.settle().await;
    delete_records(&world).await;
    world.put("health/new.csv", data::health(12, "2025-03-01", 30, 5)).await;
    world.settle().await;

    let (told, _) = watch::channel(Default::default());
    let token = CancellationToken::new();
    let refused = open(&world, &everything()).await.swap(&told, &token).await.expect_err("rows are gone");
    assert!(matches!(refused, ReplayError::Refused(Refused::Incomplete(_))), "{refused}");
    let words = refused.to_string();
    assert!(words.contains("health/old.csv") && !words.contains("health/new.csv"), "{words}");
    let offsets = Request { from: Point::Offsets([(0, 1)].into()), ..everything() };
    let gone = Shadow::open(&context(&world, domain("health")), &offsets).await.err().expect("the log begins later");
    assert!(gone.to_string().contains("retention has removed"), "{gone}");

    // Sent again and not yet there, it is missing all the same.
    roles.stop().await;
    let processor = world.run(&[Role::Process(domain("health"))]);
    let mut command = world.spawn(&["republish", "--object", "health/old.csv", "--yes"]);
    assert_eq!(command.ended(Duration::from_secs(60)).await, Some(0), "{}", command.log());
    let refused = open(&world, &everything()).await.swap(&told, &token).await.expect_err("rows are on their way");
    assert!(refused.to_string().contains("health/old.csv"), "{refused}");
    processor.stop().await;
    let roles = world.run_all();
    world.settle().await;
    open(&world, &everything()).await.swap(&told, &token).await.expect("all of it is in the topic again");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_fill_compare_swap_and_drop() {
    let world = World::new("shadow-commands").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(4)).await;
    world.put("health/all.csv", data::health(4, "2025-01-01", 30, 5)).await;
    world.settle().await;
    world.execute("DELETE FROM health_data WHERE location_id = 4").await;
    let run = async |line: &str| {
        let mut command = world.spawn(&line.split(' ').collect::<Vec<_>>());
        let code = command.ended(Duration::from_secs(60)).await;
        (code, command.log())
    };
    let (code, said) = run("replay health --into shadow").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("has caught up") && said.contains("shadow.health_data"), "{said}");
    let rows: i64 = world.query("SELECT count(*) FROM shadow.health_data").await;
    assert_eq!(rows, 120);
    let (code, said) = run("replay health --into shadow --compare").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("A swap would add 30 rows, remove 0 and change 0"), "{said}");
    let (code, said) = run("replay health --from beginning").await;
    assert_eq!(code, Some(1), "another kind of replay is refused: {said}");
    assert!(said.contains("is unfinished"), "{said}");
    let (code, said) = run("replay health --into shadow --drop --yes").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(world.query::<bool>("SELECT to_regclass('shadow.health_data') IS NULL").await);
    let (code, said) = run("replay health --into shadow --swap").await;
    assert_eq!(code, Some(1), "it asks first: {said}");
    assert!(said.contains("add --yes"), "{said}");
    let (code, said) = run("replay health --into shadow --swap --yes").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("health_data has 120 rows, had 90"), "{said}");
    let (code, said) = run("replay all --into shadow --swap --yes").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("health: the shadow has caught up, 120 rows in"), "{said}");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

/// The answer to a COMMIT that is lost is no failed swap, and one that never arrives is none that was done.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_commit_gets_no_answer_is_known_by_what_it_recorded() {
    let world = World::new("swap-unanswered").await;
    let roles = world.run_all();
    world.put("health/all.csv", data::health(12, "2025-01-01", 30, 5)).await;
    world.settle().await;
    let options: PgConnectOptions = world.database_url().parse().expect("a URL");
    let direct = format!("{}:{}", options.get_host(), options.get_port());
    let wire = Wire::before(&direct);
    let pool = PgPool::connect(&world.database_url().replace(&direct, &wire.address)).await.expect("connect");
    let context = ReplayContext { pool, ..context(&world, domain("health")) };

    let (told, _) = watch::channel(Default::default());
    let token = CancellationToken::new();
    for (cut, is_swapped) in [(Cut::Before, false), (Cut::After, true)] {
        let mut shadow = Shadow::open(&context, &everything()).await.expect("open");
        shadow.fill(&told, &token).await.expect("fill");
        wire.cut(cut, 1);
        let swapped = shadow.swap(&told, &token).await;
        assert_eq!(swapped.is_ok(), is_swapped, "{cut:?}: {swapped:?}");
        assert_eq!(wire.cuts(), 1, "{cut:?}");
        wire.recover();
    }
    let outcomes: Vec<String> = world.column("SELECT outcome FROM pipeline.replays ORDER BY id").await;
    assert_eq!(outcomes, ["swapped"], "the second one continued the shadow of the first");
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
