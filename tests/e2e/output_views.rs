//! Outputs are there as views, for those who read the database: with the rows that are published, whatever becomes of the
//! tables below them, and out of nobody's way.

use std::collections::{BTreeMap, BTreeSet};

use freshet::commands::setup::{self, Finding, Mode, Standing};
use freshet_processors::replay::{ReplayError, Shadow};
use freshet_sinks::shadow::Refused;
use freshet_sinks::tables;
use freshet_topics::Pipeline;
use freshet_topics::pipeline::mistake::Mistakes;
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::{Window, WindowKind};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, data};
use crate::replay::{context, domain, everything};

fn read(name: &str, head: &str, query: &str) -> &'static Output {
    let text = format!("/* freshet\ndescription: d\nfacts: [health]\n{head}*/\n{query}");
    let mut mistakes = Mistakes::of(name);
    let output = Output::read(&format!("{name}.sql"), &text, Pipeline::shipped().domains, &mut mistakes);
    output.unwrap_or_else(|| panic!("{:?}", mistakes.into_sorted()))
}

/// Rows as sets of names and values; numbers are doubles, which the two write in different ways.
fn rows(of: impl IntoIterator<Item = Value>) -> Vec<String> {
    let plain = |value: Value| value.as_f64().map_or_else(|| value.clone(), Value::from).to_string();
    let row = |row: Value| match row {
        Value::Object(cells) => cells.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => BTreeMap::from([("not a row".to_owned(), other.to_string())]),
    };
    let mut rows: Vec<String> = of.into_iter().map(|it| format!("{:?}", row(it))).collect();
    rows.sort();
    rows
}

/// What is published of an output.
async fn published(world: &World, output: &str) -> Vec<String> {
    let mut found = Vec::new();
    for window in world.manifest().await.windows.iter().filter(|window| window.output == output) {
        let bytes = world.output(&window.files["json"].key).await;
        found.extend(serde_json::from_slice::<Vec<Value>>(&bytes).expect("JSON"));
    }
    rows(found)
}

/// What a role reads in the view of an output.
async fn seen_by(world: &World, role: &str, output: &str) -> Vec<String> {
    let mut transaction = world.services.pool.begin().await.expect("begin");
    let become_role = format!("SET LOCAL ROLE {role}; SET LOCAL max_parallel_workers_per_gather = 0");
    transaction.execute(sqlx::raw_sql(AssertSqlSafe(become_role))).await.expect("become the role");
    let sql = format!("SELECT to_jsonb(v) FROM metrics.{output} AS v");
    rows(sqlx::query_scalar::<_, Value>(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await.expect("read the view"))
}

async fn assert_views_are_what_is_published(world: &World, role: &str) {
    for output in Pipeline::shipped().outputs {
        let (seen, published) = (seen_by(world, role, output.name).await, published(world, output.name).await);
        assert!(published.len() > 10, "{}: {published:#?}", output.name);
        assert_eq!(seen, published, "{}", output.name);
    }
}

fn view<'a>(findings: &'a [Finding], output: &str) -> &'a Finding {
    let found = findings.iter().find(|it| it.kind == "view" && it.name == format!("metrics.{output}"));
    found.unwrap_or_else(|| panic!("nothing is said of {output}: {findings:#?}"))
}

/// Reads all of health's topic into a shadow and swaps.
async fn swap(world: &World, of: &'static freshet_topics::Domain) -> Result<usize, ReplayError> {
    let (progress, shutdown) = (watch::Sender::default(), CancellationToken::new());
    let mut shadow = Shadow::open(&context(world, of), &everything()).await?;
    shadow.fill(&progress, &shutdown).await?;
    Ok(shadow.swap(&progress, &shutdown).await?.views)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_database_sees_what_is_published_also_after_a_swap() {
    let world = World::new("views").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("climate/all.csv", data::climate(3, "2025-06-20", 50, 2)).await;
    world.put("health/all.csv", data::health(3, "2025-06-20", 50, 1)).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-06-20", 40, 3)).await;
    world.settle().await;
    world
        .execute(
            "CREATE ROLE views_reader; CREATE ROLE views_half;
             GRANT SELECT ON locations, climate_data, health_data, hospital_data TO views_reader;
             GRANT SELECT ON health_data TO views_half",
        )
        .await;
    let told = setup::prepare(&world.services, Mode::Plan).await;
    assert_eq!(view(&told, "window_metrics").said, "found, would be readable by views_reader");
    let told = setup::prepare(&world.services, Mode::Make).await;
    assert_eq!(view(&told, "window_metrics").said, "found, now readable by views_reader");
    let again = setup::prepare(&world.services, Mode::Make).await;
    assert!(again.iter().all(|finding| finding.standing == Standing::Found), "{again:#?}");
    assert_views_are_what_is_published(&world, "views_reader").await;
    let comments: Vec<String> = world
        .column(
            "SELECT obj_description(c.oid, 'pg_class') || ' / ' || col_description(c.oid, a.attnum)
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
             WHERE c.oid = 'metrics.current_health_risks'::regclass AND a.attname = 'overall_risk'",
        )
        .await;
    let [comment] = &comments[..] else { panic!("{comments:?}") };
    assert!(comment.starts_with("Rates and risks of four diseases, a row for each day that a location"), "{comment}");
    assert!(comment.ends_with(" / the mean of the four risks"), "{comment}");
    let hidden = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'metrics' AND column_name LIKE '%\\_projection\\_year'";
    assert_eq!(world.query::<i64>(hidden).await, 0, "hidden columns are not there");

    assert_eq!(swap(&world, domain("health")).await.expect("swap"), 3);
    world.settle().await;
    world.put("health/more.csv", data::health(3, "2025-08-09", 5, 4)).await;
    world.settle().await;
    assert_views_are_what_is_published(&world, "views_reader").await;
    let again = setup::prepare(&world.services, Mode::Make).await;
    assert!(again.iter().all(|finding| finding.standing == Standing::Found), "{again:#?}");
    world.all_hold().await;
    roles.stop().await;
    world.execute("DROP OWNED BY views_reader, views_half; DROP ROLE views_reader, views_half").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_follows_its_output_and_stands_in_nobodys_way() {
    let world = World::new("views-kept").await;
    world.execute("CREATE TABLE metrics.theirs (n int4); CREATE ROLE views_kept_reader").await;
    let select = "SELECT date, dengue_cases AS n FROM health_data WHERE date >= :window_start AND date < :window_end";
    let daily = read("daily", "windows: [day]\nkey: [date]\n", select);
    let broken = read("broken", "windows: [day]\nkey: [n]\n", "SELECT helth AS n FROM health_data");
    let theirs = read("theirs", "windows: [all]\nkey: [n]\n", "SELECT 1 AS n");
    let set_up = async |outputs: &[&'static Output]| {
        let mut setup = world.services.setup();
        setup.outputs = outputs.to_vec().leak();
        let views = tables::apply(&world.services.pool, &setup).await.expect("set up").views;
        let said = |it: &freshet_sinks::output_views::ViewPlan| {
            let failed = it.failed.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{} {:?}{failed}", it.output, it.change)
        };
        views.iter().map(said).collect::<Vec<_>>()
    };
    let first = set_up(&[daily, broken, theirs]).await;
    let expected = [
        "daily Make",
        "broken Make: column \"helth\" does not exist",
        "theirs Make: metrics.theirs exists and was not created by freshet: rename it, and run setup again",
        "current_health_risks Drop",
        "current_hospital_resources Drop",
        "resilience_scores Drop",
        "window_metrics Drop",
    ];
    assert_eq!(first, expected);
    let standing =
        || "SELECT string_agg(c.relname, ' ' ORDER BY 1) FROM pg_class c WHERE relnamespace = 'metrics'::regnamespace";
    assert_eq!(world.query::<String>(standing()).await, "daily theirs");

    // Other columns, in other order: it is another view, and those who were let read it still are.
    world.execute("GRANT SELECT ON metrics.daily TO views_kept_reader").await;
    let select = "SELECT malaria_cases::text AS m, date FROM health_data WHERE date = :window_start";
    let changed = read("daily", "windows: [day]\nkey: [date]\n", select);
    assert_eq!(set_up(&[changed]).await, ["daily Replace"]);
    assert_eq!(set_up(&[changed]).await, [""; 0]);
    world
        .execute(
            "INSERT INTO health_data (location_id, date, malaria_cases, is_projected, src_object, src_gen, src_row, src_ord,
                value_ord) VALUES (1, '2025-01-01', 4, false, 0, 1, 0, 0, 0), (1, '2030-01-01', 5, true, 0, 1, 0, 0, 0)",
        )
        .await;
    assert_eq!(world.column::<String>("SELECT m || ' ' || date FROM metrics.daily").await, ["4 2025-01-01"]);
    assert!(world.query::<bool>("SELECT has_table_privilege('views_kept_reader', 'metrics.daily', 'SELECT')").await);

    // Somebody's view over it keeps it as it is, and says so.
    world.execute("CREATE VIEW public.over_it AS SELECT m FROM metrics.daily").await;
    let [said] = &set_up(&[daily]).await[..] else { panic!("one view") };
    assert!(said.contains("view over_it depends on view metrics.daily"), "{said}");
    world.execute("DROP VIEW public.over_it").await;
    assert_eq!(set_up(&[daily]).await, ["daily Replace"]);
    assert_eq!(world.query::<i64>("SELECT count(*) FROM metrics.theirs").await, 0);
    world.execute("DROP OWNED BY views_kept_reader; DROP ROLE views_kept_reader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_asks_for_the_windows_that_are_published() {
    let world = World::new("views-windows").await;
    let select = "SELECT :window_kind AS kind, :window_start - date '2000-01-01' AS first, \
                  :window_end - date '2000-01-01' AS next";
    let bounds = read("bounds", "windows: [day, week, month, year, all]\nkey: [kind, first]\n", select);
    let mut setup = world.services.setup();
    setup.outputs = vec![bounds].leak();
    tables::apply(&world.services.pool, &setup).await.expect("set up");
    let days = ["0001-01-01", "2024-02-29", "2024-12-30", "2025-01-01", "9999-12-31"];
    let mut expected = BTreeSet::new();
    let since = |date: chrono::NaiveDate| (date - data::date("2000-01-01")).num_days();
    for (day, row) in days.iter().zip(0..) {
        world
            .execute(&format!(
                "INSERT INTO health_data (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord)
                 VALUES (1, '{day}', false, 0, 1, {row}, 0, 0)"
            ))
            .await;
        for kind in WindowKind::ALL {
            let window = Window::containing(*kind, data::date(day));
            expected.insert(format!("{} {} {}", kind.name(), since(window.start), since(window.end())));
        }
    }
    let seen: Vec<String> = world.column("SELECT concat_ws(' ', kind, first, next) FROM metrics.bounds").await;
    assert_eq!(seen.len(), expected.len(), "each window once");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_to_another_type_makes_the_view_of_an_output_anew_and_names_that_of_somebody_else() {
    let world = World::new("views-typed").await;
    let roles = world.run_all();
    world.put("health/one.csv", "location_id,date,dengue_cases\n1,2025-01-01,5\n").await;
    world.settle().await;
    roles.stop().await;
    let select = "SELECT date, dengue_cases AS n FROM health_data WHERE date = :window_start";
    let daily = read("daily", "windows: [day]\nkey: [date]\n", select);
    let mut setup = world.services.setup();
    setup.outputs = vec![daily].leak();
    tables::apply(&world.services.pool, &setup).await.expect("set up");
    world.execute("CREATE VIEW theirs AS SELECT dengue_cases FROM health_data").await;

    let health = domain("health");
    let mut columns = health.columns.to_vec();
    for column in columns.iter_mut().filter(|column| column.name == "dengue_cases") {
        (column.cast, column.rules) = (freshet_topics::Cast::Text, &[]);
    }
    let changed: &'static _ = Box::leak(Box::new(freshet_topics::Domain { columns: columns.leak(), ..*health }));
    let refused = swap(&world, changed).await.expect_err("theirs is in the way");
    assert!(matches!(&refused, ReplayError::Refused(Refused::View { view, .. }) if view == "theirs"), "{refused}");
    assert!(refused.to_string().contains("DROP VIEW theirs"), "{refused}");
    world.execute("DROP VIEW theirs").await;
    assert_eq!(swap(&world, changed).await.expect("swap"), 1);
    assert_eq!(world.column::<String>("SELECT n FROM metrics.daily").await, ["5"]);
}
