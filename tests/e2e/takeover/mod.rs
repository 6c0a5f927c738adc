//! Tables that are there when freshet comes: those of version 0.1, and those that batch jobs filled. They are taken over
//! with all of their rows, or left as they were.

mod batch_jobs;
mod page;
mod partitioned;
mod version_0_1;

use freshet::commands::setup::{self, Finding, Mode, Standing};
use freshet_sinks::tables::{self, SetupError};
use freshet_topics::Pipeline;
use tokio_util::sync::CancellationToken;

use crate::harness::World;

/// What setup says of a thing.
fn of<'a>(findings: &'a [Finding], kind: &str, name: &str) -> &'a Finding {
    let found = findings.iter().find(|it| it.kind == kind && it.name.ends_with(name));
    found.unwrap_or_else(|| panic!("nothing is said of {kind} {name}: {findings:#?}"))
}

/// Whether a line that begins so is among those of a thing.
fn says(finding: &Finding, start: &str) -> bool {
    finding.details.iter().any(|detail| detail.starts_with(start))
}

/// What the catalog says of all tables, views, columns, constraints and indexes, and every row.
async fn everything(world: &World) -> Vec<String> {
    let mut all = world
        .column::<String>(
            "SELECT format('%s %s', oid::regclass, relkind) FROM pg_class
             WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                AND relnamespace::regnamespace::text NOT LIKE 'pg_%'
             UNION ALL SELECT format('%s.%s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull)
             FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
             UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
             UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg_%' ORDER BY 1",
        )
        .await;
    for table in
        world.column::<String>("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").await
    {
        let rows = format!("SELECT '{table} ' || t::text FROM public.\"{table}\" AS t ORDER BY 1");
        all.extend(world.column::<String>(&rows).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn two_setups_at_once_make_everything_once() {
    let world = World::unprepared("twosetups", |_| ()).await;
    let pool = &world.services.pool;
    let setup = world.services.setup();
    let (one, other) = tokio::join!(tables::apply(pool, &setup), tables::apply(pool, &setup));
    let (one, other) = (one.expect("set up"), other.expect("set up"));
    let steps = |plan: &tables::Plan| plan.tables.iter().map(|table| table.steps.len()).sum::<usize>();
    assert!(steps(&one).min(steps(&other)) == 0 && steps(&one).max(steps(&other)) > 0, "{one:#?}\n{other:#?}");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM pipeline.pipelines").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_live_in_a_schema_of_their_own_and_those_of_the_same_names_are_not_touched() {
    let world = World::unprepared("apart", |config| config.postgres.schema = "apart".into()).await;
    world
        .execute("CREATE TABLE public.health_data (theirs text); INSERT INTO public.health_data VALUES ('kept')")
        .await;
    let dry = setup::prepare(&world.services, Mode::Plan).await;
    assert_eq!(of(&dry, "schema", "apart").said, "would be created, for the tables");
    let made = setup::prepare(&world.services, Mode::Make).await;
    assert!(made.iter().all(|finding| finding.standing == Standing::Made), "{made:#?}");
    crate::harness::oracles::watch(&world).await;
    let roles = world.run_all();
    world.put("locations/one.csv", crate::harness::data::GOLDEN_LOCATION).await;
    world.put("hospital/one.csv", crate::harness::data::GOLDEN_HOSPITAL).await;
    world.put("health/one.csv", crate::harness::data::GOLDEN_HEALTH).await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
    assert_eq!(world.query::<i32>("SELECT dengue_cases FROM apart.health_data").await, 4911);
    assert_eq!(world.query::<String>("SELECT theirs FROM public.health_data").await, "kept");
    // A shadow is filled and swapped there too.
    let replay =
        ["replay", "health", "--into", "shadow", "--compare", "--swap", "--yes", "--set", "postgres.schema=apart"];
    let mut replayed = world.spawn(&replay);
    assert_eq!(replayed.ended(std::time::Duration::from_secs(60)).await, Some(0), "{}", replayed.log());
    assert_eq!(world.query::<i32>("SELECT dengue_cases FROM apart.health_data").await, 4911);

    // Whoever looks elsewhere afterwards is told where they are.
    let mut elsewhere = world.services.config.clone();
    elsewhere.postgres.schema = "public".into();
    let elsewhere = freshet::roles::Services::new(elsewhere).await.expect("services");
    let said = setup::prepare(&elsewhere, Mode::Make).await;
    let said = said.iter().find(|it| it.kind == "schema").expect("the schema");
    assert!(said.said.contains("freshet was set up in the schema apart"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_another_pipeline_than_was_set_up_waits_and_says_so() {
    let mut world = World::new("another").await;
    let own = world.services.config.pipeline;
    world.services.config.pipeline = Box::leak(Box::new(Pipeline { hash: "0123456789abcdef", ..*own }));
    let missing = freshet::ready::missing(&world.services, &[freshet::roles::Role::Metrics]).await;
    let [missing] = &missing[..] else { panic!("{missing:?}") };
    let said = missing.to_string();
    assert!(
        said.contains("this process has the pipeline climate_health (0123456789ab), and climate_health ("),
        "{said}"
    );
    assert!(said.contains("run `freshet setup` with this one"), "{said}");
    // Setting it up is what it waits for; the other one waits then.
    let changed = setup::prepare(&world.services, Mode::Make).await;
    assert_eq!(of(&changed, "pipeline", "climate_health").standing, Standing::Made, "{changed:#?}");
    assert_eq!(freshet::ready::missing(&world.services, &[freshet::roles::Role::Metrics]).await, []);
    world.services.config.pipeline = own;
    assert_eq!(freshet::ready::missing(&world.services, &[freshet::roles::Role::Metrics]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_declaration_widens_the_table_and_names_the_replays_for_the_rest() {
    let world = World::new("widened").await;
    world.execute("INSERT INTO health_data (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord) VALUES (1, '2025-01-01', false, 1, 1, 1, 1, 1)").await;
    let changed = changed_health();
    let mut setup = world.services.setup();
    (setup.domains, setup.pipeline.hash) = (changed, "changed");
    let mut connection = world.services.pool.acquire().await.expect("connect");
    let plan = tables::look(&mut connection, &setup).await.expect("look");
    let table = plan.tables.iter().find(|table| table.domain == "health").expect("health");
    let said: Vec<&str> = table.steps.iter().map(|step| step.said.as_str()).collect();
    let around = "drop while the columns are altered: view metrics.current_health_risks, \
                  metrics.resilience_scores, metrics.window_metrics";
    let steps = [around, "widen column dengue_cases from integer to bigint", "add column measles_cases integer"];
    assert_eq!(said[..3], steps);
    let dropped = "column malaria_cases is no longer declared, and stays: `freshet replay health --into shadow";
    assert!(table.not_done.iter().any(|it| it.starts_with(dropped)), "{table:#?}");
    let narrowed = "column diarrhea_cases stays integer but should be boolean: `freshet replay health --into shadow";
    assert!(table.not_done.iter().any(|it| it.starts_with(narrowed)), "{table:#?}");
    assert_eq!(plan.recording.judged_otherwise, ["health"]);
    tables::apply(&world.services.pool, &setup).await.expect("set up");
    let types: Vec<String> = world
        .column("SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'health_data'::regclass AND attname LIKE '%\\_cases' ORDER BY 1")
        .await;
    let expected = [
        "dengue_cases bigint",
        "diarrhea_cases integer",
        "heatstroke_cases integer",
        "malaria_cases integer",
        "measles_cases integer",
    ];
    assert_eq!(types, expected);
    // It stays not done, and is said again.
    let plan = tables::look(&mut connection, &setup).await.expect("look");
    let table = plan.tables.iter().find(|table| table.domain == "health").expect("health");
    assert!(table.steps.is_empty() && table.not_done.len() == 2, "{table:#?}");
    assert!(!plan.recording.changes && plan.recording.judged_otherwise.is_empty(), "{plan:#?}");
    let blocked = SetupError::Blocked(Box::new(plan));
    assert_eq!(blocked.to_string(), "", "nothing stands in the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_into_a_shadow_narrows_and_drops_what_setup_leaves() {
    use freshet_processors::replay::{Point, Progress, ReplayContext, Request, Shadow};
    let world = World::new("narrowed").await;
    let roles = world.run_all();
    world
        .put(
            "health/one.csv",
            "location_id,date,dengue_cases,malaria_cases,diarrhea_cases\n1,2025-01-01,5,6,1\n2,2025-01-01,7,8,3\n",
        )
        .await;
    world.settle().await;
    roles.stop().await;
    let mut setup = world.services.setup();
    (setup.domains, setup.pipeline.hash) = (changed_health(), "changed");
    tables::apply(&world.services.pool, &setup).await.expect("set up");
    let context = ReplayContext {
        domain: setup.domains.iter().find(|domain| domain.name == "health").expect("health"),
        settings: world.services.config.process.clone(),
        kafka: world.services.config.kafka.clone(),
        pool: world.services.pool.clone(),
        owner: "test".into(),
        rows_per_second: None,
    };
    let request = Request { from: Point::Beginning, to: None, objects: Vec::new() };
    let (progress, shutdown) = (tokio::sync::watch::Sender::new(Progress::default()), CancellationToken::new());
    let mut shadow = Shadow::open(&context, &request).await.expect("open");
    shadow.fill(&progress, &shutdown).await.expect("fill");
    let comparison = shadow.compare(&progress, &shutdown).await.expect("compare");
    // 1 is true now, and 3 is no boolean.
    assert_eq!((comparison.live_rows, comparison.shadow_rows, comparison.changed), (2, 2, 2), "{comparison:#?}");
    shadow.swap(&progress, &shutdown).await.expect("swap");
    let rows: Vec<String> = world.column("SELECT to_jsonb(h)::text FROM health_data h ORDER BY location_id").await;
    let row: serde_json::Value = serde_json::from_str(&rows[0]).expect("JSON");
    assert_eq!(
        (&row["dengue_cases"], &row["diarrhea_cases"], row.get("malaria_cases")),
        (&5.into(), &true.into(), None)
    );
    let mut connection = world.services.pool.acquire().await.expect("connect");
    let plan = tables::look(&mut connection, &setup).await.expect("look");
    let table = plan.tables.iter().find(|table| table.domain == "health").expect("health");
    assert!(table.not_done.is_empty() && table.steps.is_empty() && table.kept.is_empty(), "{table:#?}");
}

/// The domains, where health has one column wider, one of another type, one more and one fewer.
fn changed_health() -> &'static [&'static freshet_topics::Domain] {
    use freshet_topics::{Cast, Column, DOMAINS, Domain};
    let domains: Vec<&'static Domain> = DOMAINS
        .iter()
        .map(|&domain| {
            if domain.name != "health" {
                return domain;
            }
            let mut columns: Vec<Column> =
                domain.columns.iter().copied().filter(|column| column.name != "malaria_cases").collect();
            for column in &mut columns {
                match column.name {
                    "dengue_cases" => (column.cast, column.rules) = (Cast::BigInt, &[]),
                    "diarrhea_cases" => (column.cast, column.rules) = (Cast::Bool, &[]),
                    _ => {}
                }
            }
            columns.push(Column::optional("measles_cases", Cast::Int));
            let columns: &'static [Column] = columns.leak();
            Box::leak(Box::new(Domain { columns, ..*domain }))
        })
        .collect();
    domains.leak()
}
