//! Outputs are queries: one that does not work stops alone, one that changes is derived again alone, and what only a
//! dimension made dirty comes bit by bit.

use freshet::roles::Role;
use freshet_processors::refresh::check::{Checked, check};
use freshet_processors::refresh::{self, Outcome, Publication, RefreshContext};
use freshet_sinks::output_state::DefinitionChange;
use freshet_sinks::outputs::{Condition, Manifest, Store, WindowFiles};
use freshet_sinks::tables::{self, Identity, Setup};
use freshet_topics::Pipeline;
use freshet_topics::pipeline::mistake::Mistakes;
use freshet_topics::pipeline::output::Output;

use crate::harness::oracles::entries;
use crate::harness::{World, data, roles_but};

fn read(name: &str, head: &str, query: &str) -> &'static Output {
    let text = format!("/* freshet\ndescription: d\n{head}*/\n{query}");
    let mut mistakes = Mistakes::of(name);
    let output = Output::read(&format!("{name}.sql"), &text, Pipeline::shipped().domains, &mut mistakes);
    output.unwrap_or_else(|| panic!("{:?}", mistakes.into_sorted()))
}

/// Health rows of the window, a place a row, with more columns.
fn health(name: &str, head: &str, columns: &str) -> &'static Output {
    let query = format!(
        "SELECT h.location_id, h.date, {columns} FROM health_data AS h JOIN locations AS l ON l.id = h.location_id
         WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false"
    );
    read(name, &format!("facts: [health]\ndimensions: [locations]\n{head}"), &query)
}

/// The shipped outputs and these.
fn with(outputs: &[&'static Output]) -> Vec<&'static Output> {
    Pipeline::shipped().outputs.iter().chain(outputs).copied().collect()
}

fn context(world: &World, outputs: Vec<&'static Output>) -> RefreshContext {
    RefreshContext {
        settings: world.services.config.metrics.clone(),
        pool: world.services.pool.clone(),
        s3: world.services.s3.clone(),
        bucket: world.processed_bucket().to_owned(),
        domains: Pipeline::shipped().domains,
        outputs: outputs.leak(),
    }
}

async fn set_up(context: &RefreshContext) -> Vec<DefinitionChange> {
    // The roles that run beside are of the shipped one, whatever the outputs are.
    let shipped = Pipeline::shipped();
    let pipeline = Identity { name: shipped.name, hash: shipped.hash };
    let setup = Setup {
        schema: "public",
        domains: context.domains,
        outputs: context.outputs,
        pipeline,
        allowed_lateness_days: context.settings.allowed_lateness_days,
    };
    tables::apply(&context.pool, &setup).await.expect("set the outputs up").outputs
}

async fn publish(context: &RefreshContext) -> Publication {
    refresh::publish_once(context).await.expect("publish")
}

fn of<'m>(manifest: &'m Manifest, output: &str) -> Vec<&'m WindowFiles> {
    manifest.windows.iter().filter(|window| window.output == output).collect()
}

/// The lines of a window's CSV file.
async fn csv(world: &World, window: &WindowFiles) -> Vec<String> {
    let bytes = world.output(&window.files["csv"].key).await;
    String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned).collect()
}

async fn dengue(world: &World, day: &str, cases: i32) {
    let row = format!("location_id,date,dengue_cases,is_projected\n1,{day},{cases},false\n");
    world.put("health/one.csv", row).await;
    world.applied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_work_stops_its_output_alone_until_it_works_again() {
    let world = World::new("failing-output").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 20, 1)).await;
    world.applied().await;
    let daily = health("daily", "windows: [day, all]\nkey: [location_id, date]\n", "100 / h.dengue_cases AS share");
    let twice = health("twice", "windows: [month]\nkey: [date]\n", "1 AS one");
    let slow = read("slow", "windows: [month]\nfacts: [health]\nkey: [a]\n", "SELECT 1 AS a FROM pg_sleep(30)");
    let typed = read("typed", "windows: [month]\nfacts: [health]\nkey: [a]\n", "SELECT ARRAY[1] AS a");
    let mut context = context(&world, with(&[daily, twice, slow, typed]));
    // Of all queries here only that one takes so long, on a busy machine too.
    context.settings.query_timeout_s = 5;
    assert_eq!(publish(&context).await.outcome, Outcome::Superseded(SUPERSEDED.into()));
    assert_eq!(set_up(&context).await.len(), 4);

    let first = publish(&context).await;
    assert_eq!((first.outcome, first.failed), (Outcome::Published, vec!["slow", "twice", "typed"]));
    let reason = async |output: &str| {
        let sql = format!("SELECT reason FROM pipeline.output_failures WHERE output = '{output}'");
        world.query::<String>(&sql).await
    };
    assert!(reason("twice").await.ends_with("two rows have the same key (date)"), "{}", reason("twice").await);
    assert!(reason("slow").await.contains("took longer than metrics.query_timeout_s"), "{}", reason("slow").await);
    assert!(reason("typed").await.contains("is of type int4[]: cast it"), "{}", reason("typed").await);
    let before = world.manifest().await;
    assert_eq!((of(&before, "daily").len(), of(&before, "twice").len()), (21, 0));
    assert_eq!(
        csv(&world, of(&before, "daily")[0]).await,
        ["location_id,date,share", "1,2025-07-01,50", "2,2025-07-01,33"]
    );

    // A value that the query cannot take: its windows stay as they are, all of one state, and the others go on.
    dengue(&world, "2025-07-05", 0).await;
    dengue(&world, "2025-07-06", 9).await;
    let second = publish(&context).await;
    assert_eq!(second.failed, ["daily", "slow", "twice", "typed"]);
    // Of the two windows that cannot be derived, whichever is found first.
    assert!(reason("daily").await.contains(": division by zero"), "{}", reason("daily").await);
    let after = world.manifest().await;
    assert_eq!(of(&after, "daily"), of(&before, "daily"));
    assert_ne!(of(&after, "current_health_risks"), of(&before, "current_health_risks"));
    assert!(after.outputs["daily"].stale && !after.outputs["current_health_risks"].stale);
    assert_eq!(after.changed["daily"], before.changed["daily"]);
    world.until("the marks are taken up", "SELECT NOT EXISTS (SELECT FROM pipeline.marks)").await;

    // It is left alone for a while, then tried, and then all of it is derived. The while is made longer than a busy
    // machine needs until the next publication.
    let is_left_alone = "SELECT retry_at > retry_from FROM pipeline.output_failures WHERE output = 'daily'";
    assert!(world.query::<bool>(is_left_alone).await);
    let longer = "UPDATE pipeline.output_failures SET retry_at = now() + interval '1 hour' WHERE output = 'daily'";
    world.execute(longer).await;
    dengue(&world, "2025-07-05", 50).await;
    let third = publish(&context).await;
    assert!(third.failed.contains(&"daily") && world.manifest().await.outputs["daily"].stale, "{third:?}");
    world.execute("UPDATE pipeline.output_failures SET retry_at = retry_from WHERE output = 'daily'").await;
    let fourth = publish(&context).await;
    assert_eq!(fourth.failed, ["slow", "twice", "typed"]);
    let mended = world.manifest().await;
    assert!(!mended.outputs["daily"].stale);
    let day = |day: usize| csv(&world, of(&mended, "daily")[day - 1]);
    assert_eq!((day(5).await[1].as_str(), day(6).await[1].as_str()), ("1,2025-07-05,2", "1,2025-07-06,11"));
    let all = of(&mended, "daily")[20];
    assert_eq!((all.window_kind.as_str(), all.rows, csv(&world, all).await.len()), ("all", 40, 41));
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.output_failures").await, 3);

    // Another definition is tried at once, and what is taken away goes.
    let twice = health("twice", "windows: [month]\nkey: [date, location_id]\n", "1 AS one");
    let context = self::context(&world, with(&[daily, twice]));
    set_up(&context).await;
    assert_eq!(publish(&context).await.failed, [""; 0]);
    let manifest = world.manifest().await;
    assert_eq!(of(&manifest, "twice")[0].rows, 40);
    assert_eq!(manifest.outputs.keys().filter(|name| ["slow", "typed"].contains(&name.as_str())).count(), 0);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.output_failures").await, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_tried_again_begins_where_it_failed_and_uploads_nothing() {
    let world = World::new("tried-again").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-01-01", 60, 1)).await;
    world.applied().await;
    dengue(&world, "2025-01-30", 0).await;
    let daily = health("daily", "windows: [day]\nkey: [location_id, date]\n", "100 / h.dengue_cases AS share");
    let context = context(&world, with(&[daily]));
    set_up(&context).await;
    assert_eq!(publish(&context).await.failed, ["daily"]);
    let again = async || {
        world.execute("UPDATE pipeline.output_failures SET retry_at = retry_from").await;
        publish(&context).await
    };
    let second = again().await;
    assert_eq!((second.failed, second.files, second.output_windows), (vec!["daily"], 0, 0));

    dengue(&world, "2025-01-30", 50).await;
    assert_eq!(again().await.failed, [""; 0]);
    assert_eq!(of(&world.manifest().await, "daily").len(), 60);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_of_an_output_that_fails_is_restored_once_it_works_and_not_said_to_be_before() {
    let world = World::new("missing-failing").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 20, 1)).await;
    world.applied().await;
    let daily = health("daily", "windows: [day]\nkey: [location_id, date]\n", "100 / h.dengue_cases AS share");
    let context = context(&world, with(&[daily]));
    set_up(&context).await;
    publish(&context).await;
    dengue(&world, "2025-07-05", 0).await;
    assert_eq!(publish(&context).await.failed, ["daily"]);
    let before = world.manifest().await;
    let window = of(&before, "daily")[0];
    let delete = world.services.s3.delete_object().bucket(world.processed_bucket()).key(&window.files["csv"].key);
    delete.send().await.expect("delete a file");

    for day in ["2025-07-06", "2025-07-07"] {
        dengue(&world, day, 50).await;
        let publication = publish(&context).await;
        assert_eq!((publication.failed, publication.mended), (vec!["daily"], false));
    }
    dengue(&world, "2025-07-05", 50).await;
    world.execute("UPDATE pipeline.output_failures SET retry_at = retry_from").await;
    assert!(publish(&context).await.mended);
    assert_eq!(of(&world.manifest().await, "daily")[0], window);
    assert_eq!(csv(&world, window).await[1], "1,2025-07-01,50");
    running.stop().await;
}

const SUPERSEDED: &str = "output daily is not set up; run the program and pipeline folder that were set up last, or run `freshet setup` \
     with these";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_query_is_derived_again_alone_and_an_older_one_publishes_nothing_over_it() {
    let world = World::new("changed-output").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-06-20", 40, 1)).await;
    world.applied().await;
    let head = "windows: [month, year]\nkey: [location_id, date]\n";
    let older = context(&world, with(&[health("daily", head, "h.dengue_cases AS cases, :is_final AS final")]));
    let newer = context(&world, with(&[health("daily", head, "h.malaria_cases AS cases, l.name")]));
    set_up(&older).await;
    publish(&older).await;
    let before = world.manifest().await;
    assert_eq!(
        of(&before, "daily").iter().map(|window| window.is_final).collect::<Vec<_>>(),
        [Some(true), Some(false), Some(false)]
    );

    assert_eq!(set_up(&newer).await, [DefinitionChange::Changed("daily".into())]);
    assert!(set_up(&newer).await.is_empty(), "setting up twice changes nothing");
    let old = publish(&older).await;
    assert!(
        matches!(&old.outcome, Outcome::Superseded(said) if said.contains("daily has since been set up with another definition")),
        "{old:?}"
    );
    let publication = publish(&newer).await;
    // June, July and 2025.
    assert_eq!((publication.outcome, publication.windows), (Outcome::Published, 3));
    let after = world.manifest().await;
    let others = |manifest: &Manifest| -> Vec<_> {
        entries(manifest).into_iter().filter(|((output, _, _), _)| output != "daily").collect()
    };
    assert_eq!(others(&after), others(&before));
    assert_eq!(
        csv(&world, of(&after, "daily")[0]).await[..2],
        ["location_id,date,cases,name", "1,2025-06-20,2,Place 1"]
    );

    // What version 0.1 published is taken over: everything is derived, and what came out the same keeps its file.
    let store = Store::new(world.services.s3.clone(), world.processed_bucket());
    let freshet_sinks::outputs::Published::Current(current) = store.published(None).await.expect("read") else {
        panic!("nothing is published")
    };
    let of_0_1 = Manifest { version: after.version + 1, code_version: 1, outputs: Default::default(), ..after.clone() };
    let swapped = store.publish(Condition::Unchanged(current.etag), &of_0_1).await.expect("publish");
    assert!(swapped.is_some());
    let taken_over = publish(&newer).await;
    assert_eq!((taken_over.outcome, taken_over.files), (Outcome::Published, 0));
    let manifest = world.manifest().await;
    assert_eq!((entries(&manifest), &manifest.outputs), (entries(&after), &after.outputs));

    // Going back is a setup like any other; only the names are new.
    set_up(&older).await;
    publish(&older).await;
    let manifest = world.manifest().await;
    let bytes = |manifest: &Manifest| -> Vec<_> {
        of(manifest, "daily").iter().map(|window| window.files["csv"].sha256.clone()).collect()
    };
    assert_eq!((others(&manifest), bytes(&manifest)), (others(&before), bytes(&before)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_has_rows_only_once_it_is_closed_is_published_when_it_closes() {
    let world = World::new("closing-output").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 20, 1)).await;
    world.applied().await;
    let of_the_window = "SELECT location_id, date, dengue_cases FROM health_data
         WHERE date >= :window_start AND date < :window_end AND NOT is_projected";
    let head = "facts: [health]\nwindows: [week]\nkey: [location_id, date]\n";
    let closed = read("closed", head, &format!("{of_the_window} AND :is_final"));
    let open = read("open", head, &format!("{of_the_window} AND NOT :is_final"));
    let context = context(&world, with(&[closed, open]));
    set_up(&context).await;
    publish(&context).await;
    let weeks = async |output: &str| -> Vec<String> {
        let manifest = world.manifest().await;
        of(&manifest, output).iter().map(|window| window.window_start.to_string()).collect()
    };
    let (first, second, third, fourth) = ("2025-06-30", "2025-07-07", "2025-07-14", "2025-07-21");
    assert_eq!((weeks("closed").await, weeks("open").await), (vec![first.into()], vec![second.into(), third.into()]));

    // The day that ends the second week's grace, in a week of its own.
    dengue(&world, "2025-07-21", 4).await;
    publish(&context).await;
    assert_eq!(weeks("closed").await, [first, second]);
    assert_eq!(weeks("open").await, [third, fourth]);

    // That day is corrected to be none: the watermark goes back, and the week opens again.
    world.execute("UPDATE health_data SET is_projected = true WHERE date = '2025-07-21'").await;
    dengue(&world, "2025-07-20", 4).await;
    publish(&context).await;
    assert_eq!(weeks("closed").await, [first]);
    assert!(weeks("open").await.starts_with(&[second.to_owned(), third.to_owned()]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_is_in_every_file_whatever_a_connection_remembers() {
    let world = World::new("widened-column").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 20, 1)).await;
    world.applied().await;
    running.stop().await;
    let head = "windows: [day]\nkey: [location_id, date]\n";
    let context = context(&world, with(&[health("daily", head, "h.dengue_cases")]));
    set_up(&context).await;
    publish(&context).await;
    let columns = async || world.manifest().await.outputs["daily"].columns.clone();
    assert_eq!(columns().await[2], ("dengue_cases".to_owned(), "int4".to_owned()));

    // The views would keep the column as it is.
    world.execute("DROP SCHEMA metrics CASCADE").await;
    world.execute("ALTER TABLE health_data ALTER dengue_cases TYPE bigint").await;
    let pool = freshet_sinks::postgres::pool(&world.services.config.postgres).expect("a pool");
    let fresh = RefreshContext { pool, ..context.clone() };
    let mark = "INSERT INTO pipeline.marks (domain, dates) VALUES ('health', '[2025-07-05,2025-07-05]')";
    for (of, whole) in [(&fresh, true), (&context, false), (&fresh, false), (&context, false)] {
        world.execute(mark).await;
        let publication = publish(of).await;
        // A file of Parquet for each day has other bytes, once.
        assert_eq!((publication.failed.len(), publication.files >= 20), (0, whole), "{publication:?}");
        assert!(whole || publication.files == 0, "{publication:?}");
        assert_eq!(columns().await[2], ("dengue_cases".to_owned(), "int8".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_of_a_query_does_not_limit_the_search_for_the_dates_of_a_table() {
    let world = World::new("slow-dates").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-07-01", 20, 1)).await;
    world.applied().await;
    running.stop().await;
    let daily = health("daily", "windows: [day]\nkey: [location_id, date]\n", "h.dengue_cases");
    let mut context = context(&world, vec![daily]);
    context.settings.query_timeout_s = 2;
    set_up(&context).await;
    publish(&context).await;

    // A tenth of a second a row: the two of a day are within the limit, all 40 are not. As a column has another type, all
    // windows are derived.
    for statement in [
        "DROP SCHEMA metrics CASCADE",
        "CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql COST 1000000 AS
            $$ BEGIN PERFORM pg_sleep(0.1); RETURN true; END $$",
        "ALTER TABLE health_data RENAME TO all_health",
        "CREATE VIEW health_data AS SELECT location_id, date, is_projected, dengue_cases::bigint AS dengue_cases
            FROM all_health WHERE slow()",
        "INSERT INTO pipeline.marks (domain, dates) VALUES ('health', '[2025-07-05,2025-07-05]')",
    ] {
        world.execute(statement).await;
    }
    let publication = publish(&context).await;
    assert_eq!((publication.failed, publication.output_windows), (vec![], 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_dimension_made_dirty_comes_bit_by_bit_behind_the_facts() {
    let world = World::new("dimension-batches").await;
    let running = world.run(&roles_but(Role::Metrics));
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/all.csv", data::health(2, "2025-01-01", 150, 1)).await;
    world.applied().await;
    let head = "windows: [day, all]\nkey: [location_id, date]\n";
    let context = context(&world, with(&[health("daily", head, "h.dengue_cases AS cases, l.name")]));
    set_up(&context).await;
    publish(&context).await;

    // A name changes, and with it 150 days; meanwhile a fact of the first of them.
    world.put("locations/one.csv", "id,name,type,population,area\n1,Another,state,100000,1.5\n").await;
    world.applied().await;
    dengue(&world, "2025-01-02", 77).await;
    let publication = publish(&context).await;
    assert!(publication.waiting > 0 && publication.windows < 150, "{publication:?}");
    let manifest = world.manifest().await;
    let windows = of(&manifest, "daily");
    assert_eq!(csv(&world, windows[1]).await[1], "1,2025-01-02,77,Another", "what a fact made dirty waits for nothing");
    assert_eq!(csv(&world, windows[0]).await[1], "1,2025-01-01,2,Place 1");
    assert_eq!(csv(&world, windows[149]).await[1], "1,2025-05-30,151,Another", "the newest come first");
    let waiting: i64 = world.query("SELECT count(*) FROM pipeline.marks WHERE dimension = 'locations'").await;
    assert_eq!(usize::try_from(waiting), Ok(publication.waiting));

    let mut publications = 1;
    while publish(&context).await.waiting > 0 {
        publications += 1;
        assert!(publications < 10, "it does not come to an end");
    }
    let manifest = world.manifest().await;
    for window in of(&manifest, "daily") {
        let lines = csv(&world, window).await;
        assert!(lines.iter().skip(1).all(|line| line.ends_with("Another") == line.starts_with("1,")), "{lines:?}");
    }
    assert_eq!(of(&manifest, "daily").len(), 151);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.marks").await, 0);

    // The role takes one bit after the other by itself, and is done when nothing waits.
    set_up(&self::context(&world, with(&[]))).await;
    world.put("locations/all.csv", data::locations(3).replace("Place", "Town")).await;
    running.stop().await;
    let running = world.run_all();
    world.settle().await;
    world.all_hold().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_checked_against_the_tables_without_any_row() {
    let world = World::new("checked-output").await;
    let mut connection = world.services.pool.acquire().await.expect("a connection");
    for output in Pipeline::shipped().outputs {
        let Checked { columns, wrong } = check(&mut connection, output).await.expect("an answer");
        assert_eq!(wrong, [], "{}", output.name);
        assert!(columns.len() > 5 && columns.iter().all(|(name, _)| !output.hidden.contains(&name.as_str())));
    }
    let head = "windows: [day]\nfacts: [health]\nkey: [date]\ncolumns: {n: x}\nchart: {by: date, value: m}\n";
    let cases = [
        // The head is eight lines.
        (
            "SELECT date, -- when\n  1 AS n\nFROM helth_data",
            vec!["11:6: relation \"helth_data\" does not exist (SQLSTATE 42P01)"],
        ),
        (
            "SELECT :window_start AS date, h.dat\nFROM health_data AS h",
            vec![
                "9:31: column h.dat does not exist; Perhaps you meant to reference the column \"h.date\". (SQLSTATE 42703)",
            ],
        ),
        (
            "SELECT date FROM health_data\nWHERE date = :is_final",
            vec![
                "10:12: operator does not exist: date = boolean; No operator matches the given name and argument types. You might need \
             to add explicit type casts. (SQLSTATE 42883)",
            ],
        ),
        ("SELECT date FROM\n  health_data WHERE -- x\n", vec!["10:20: syntax error at end of input (SQLSTATE 42601)"]),
        (
            "SELECT id, id AS n FROM health_data",
            vec!["1:1: the key names date, which is not a column of the query (it has id, n)"],
        ),
        (
            "SELECT h.date, count(*) AS n, max(random()) AS m FROM health_data AS h
             WHERE location_id IN (SELECT id FROM locations) GROUP BY h.date",
            vec![
                "1:1: it reads locations, which is not a table of its facts and dimensions: a change there would go \
                 unnoticed",
                "1:1: it calls random(), which returns a different value each time: the same rows must give the same \
                 bytes",
            ],
        ),
        (
            "SELECT h.date, 1 AS n, length(current_user::text) AS m FROM health_data AS h
             WHERE h.date <= current_date AND now() IS NOT NULL AND localtimestamp > '2025-01-01'",
            vec![
                "1:1: it uses now(), which depends on when or as whom it runs: the same rows must give the same bytes",
                "1:1: it uses the current date or time, which depends on when or as whom it runs: the same rows must \
                 give the same bytes",
                "1:1: it uses the current role, database or schema, which depends on when or as whom it runs: the same \
                 rows must give the same bytes",
            ],
        ),
        (
            "SELECT date FROM health_data WHERE date < :window_end",
            vec![
                "1:1: `columns` names n, which is not a published column",
                "1:1: `chart` names m, which is not a published column",
            ],
        ),
    ];
    for (query, expected) in cases {
        let checked = check(&mut connection, read("a", head, query)).await.expect("an answer");
        let wrong = checked.wrong.iter().map(|(place, said)| format!("{}:{}: {said}", place.line, place.column));
        assert_eq!(wrong.collect::<Vec<_>>(), expected, "{query}");
    }
    let clean = "SELECT count(*) FROM pg_class WHERE relname = 'freshet_check'";
    assert_eq!(world.query::<i64>(clean).await, 0);
}
