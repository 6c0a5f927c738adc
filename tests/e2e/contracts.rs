//! What a contract may say beyond the shipped ones, through the whole pipeline: every type, cells of new columns kept,
//! corrections on the row.

use freshet_sinks::tables;
use freshet_topics::{Cast, Column, Domain, NewColumn, domains};
use tokio_util::sync::CancellationToken;

use crate::harness::{World, metric};
use crate::replay::{everything, replayed};

/// The health feed with a column of each type that it does not have, and all that a row can keep.
fn keeping() -> &'static Domain {
    let health = domains::by_name("health").expect("a domain");
    let mut columns = health.columns.to_vec();
    columns.extend([
        Column::optional("visits", Cast::BigInt),
        Column::optional("cost", Cast::Numeric { precision: 8, scale: 2 }),
        Column::optional("seen_at", Cast::Timestamp),
    ]);
    let domain = Domain { columns: columns.leak(), on_new_column: NewColumn::Keep, keeps_corrections: true, ..*health };
    Box::leak(Box::new(domain))
}

const FILE: &str = "\
location_id,date,dengue_cases,visits,cost,seen_at,is_projected,note
1,2025-09-21,-4,3000000000,12.345,2025-09-21T10:00:00+05:30,f,open late
2,2025-09-21,5,1,7,2025-09-21,f,
3,2025-09-21,x,,,,f,\"says \"\"no\"\"\"
";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_keeps_new_cells_and_corrections_and_every_type_arrives() {
    let world = World::new("contracts").await;
    world.execute("ALTER TABLE health_data ADD visits int8, ADD cost numeric(8,2), ADD seen_at timestamptz").await;
    let roles = world.pipeline(keeping());
    // Twice: what is dropped again counts once.
    for _ in 0..2 {
        world.put("health/kept.csv", FILE).await;
        world.applied().await;
        let rows: String = world
            .query(
                "SELECT string_agg(concat_ws(' | ', location_id, dengue_cases, visits, cost,
                    to_char(seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), extra, corrections), E'\\n' ORDER BY location_id)
                 FROM health_data",
            )
            .await;
        let lines: Vec<&str> = rows.lines().collect();
        assert_eq!(
            lines,
            [
                r#"1 | 0 | 3000000000 | 12.35 | 2025-09-21 04:30 | {"note": "open late"} | {"cost": "fraction_rounded", "dengue_cases": "negative_to_zero"}"#,
                r#"2 | 5 | 1 | 7.00 | 2025-09-21 00:00 | {"seen_at": "zone_assumed"}"#,
                r#"3 | {"note": "says \"no\""} | {"dengue_cases": "uncastable_to_null"}"#,
            ]
        );
    }
    // What is said anew in a new column is a change of the row.
    let before: i64 = world.query("SELECT value_ord FROM health_data WHERE location_id = 2").await;
    world.next_second().await;
    world.put("health/later.csv", FILE.replace("2025-09-21,f,\n", "2025-09-21,f,closed\n")).await;
    world.applied().await;
    let (after, same): (i64, i64) = (
        world
            .query("SELECT value_ord FROM health_data WHERE location_id = 2 AND extra = '{\"note\": \"closed\"}'")
            .await,
        world.query("SELECT value_ord FROM health_data WHERE location_id = 1").await,
    );
    assert!(after > before && same == before, "{before} {after} {same}");
    roles.stop().await;
}

/// The health feed with one row a location: a later file moves it to another date.
fn moving() -> &'static Domain {
    let health = domains::by_name("health").expect("a domain");
    Box::leak(Box::new(Domain { key: &["location_id"], ..*health }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_leaves_its_date_marks_it_too() {
    let world = World::new("moved-rows").await;
    world.execute("ALTER TABLE health_data DROP CONSTRAINT health_data_key, ADD UNIQUE (location_id)").await;
    let roles = world.pipeline(moving());
    let cases = [
        ("2025-08-30", "false", vec!["2025-08-30"]),
        ("2025-09-02", "false", vec!["2025-08-30", "2025-09-02"]),
        // What is no longer observed leaves its date, and a projection has none to leave.
        ("2025-09-02", "true", vec!["2025-09-02"]),
        ("2025-09-05", "true", vec![]),
        ("2025-09-05", "false", vec!["2025-09-05"]),
    ];
    for (day, is_projected, marked) in cases {
        world.execute("DELETE FROM pipeline.marks").await;
        world.next_second().await;
        let year = if is_projected == "true" { "2025" } else { "" };
        let head = "location_id,date,dengue_cases,is_projected,projection_year";
        world.put("health/one.csv", format!("{head}\n7,{day},1,{is_projected},{year}\n")).await;
        world.applied().await;
        let dates = "SELECT DISTINCT lower(dates)::text FROM pipeline.marks WHERE domain = 'health' ORDER BY 1";
        assert_eq!(world.column::<String>(dates).await, marked, "{day} {is_projected}");
    }
    roles.stop().await;
}

/// Rows enough for COPY, with values of every type that are spelled or stored in a way of their own.
fn values_of_every_type() -> String {
    let numbers = ["0", "-0.0", "NaN", "inf", "-inf", "1e-300", "25.1", ""];
    let costs = ["0", "-0.01", "999999.99", "0.1", "12345.678", "-10000", ""];
    let seen = ["0001-01-01T00:00Z", "9999-12-31T23:59:59.999999Z", "1969-07-20T20:17:40.5Z", "2000-01-01", ""];
    let names = ["plain", "\"two\nlines\"", "tab\there", "back\\slash", "é😀", "\\N", ""];
    let mut text = "location_id,date,visits,level,cost,seen_at,name,note\n".to_owned();
    for row in 0..2_000 {
        let pick = |values: &[&'static str]| values[row % values.len()];
        let visits = [0, i64::MAX, i64::MIN, -1][row % 4];
        let (level, cost, seen, name) = (pick(&numbers), pick(&costs), pick(&seen), pick(&names));
        text += &format!("{},{:04}-02-28,{visits},{level},{cost},{seen},{name},{name}\n", row + 1, 1800 + row % 400);
    }
    text
}

/// Rows that COPY has written in this test program, by any story.
fn copied(domain: &str) -> u64 {
    metric("freshet_rows_copied_total", domain).map_or(0, |metric| metric.get_counter().get_value() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_every_type_is_the_same_by_copy_and_by_upsert() {
    let mut columns = keeping().columns.to_vec();
    columns.extend([Column::optional("level", Cast::Double), Column::optional("name", Cast::Text)]);
    let domain: &'static _ = Box::leak(Box::new(Domain { columns: columns.leak(), ..*keeping() }));
    let mut tables = Vec::new();
    for story in ["types-copied", "types-upserted"] {
        let world = World::new(story).await;
        let added = "ADD visits int8, ADD cost numeric(8,2), ADD seen_at timestamptz, ADD level float8, ADD name text";
        world.execute(&format!("ALTER TABLE health_data {added}")).await;
        if story == "types-upserted" {
            // COPY is for tables in which nobody else has a hand.
            let trigger = "EXECUTE FUNCTION suppress_redundant_updates_trigger()";
            world.execute(&format!("CREATE TRIGGER t BEFORE UPDATE ON health_data FOR EACH ROW {trigger}")).await;
        }
        let before = copied("health");
        let roles = world.pipeline(domain);
        world.put("health/types.csv", values_of_every_type()).await;
        world.applied().await;
        if story == "types-copied" {
            // Batches of few rows are not.
            assert!(copied("health") >= before + 800, "most are written by COPY");
        }
        let row = "location_id, date, visits, level, cost, seen_at, name, extra, corrections";
        let rows = format!("SELECT ROW({row})::text FROM health_data ORDER BY 1");
        tables.push(world.column::<String>(&rows).await);
        roles.stop().await;
        // And by a replay in place that changes every row.
        let wrong =
            "visits = 1, level = NULL, cost = 0, seen_at = now(), name = 'wrong', extra = NULL, corrections = NULL";
        world.execute(&format!("UPDATE health_data SET {wrong}")).await;
        assert_eq!(replayed(&world, domain, &everything()).await.changed, 2_000);
        tables.push(world.column::<String>(&rows).await);
    }
    assert_eq!(tables[0].len(), 2_000);
    assert!(tables.iter().all(|table| *table == tables[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_place_minds_no_names_of_columns_and_leaves_what_a_trigger_makes_of_rows() {
    let mut columns = keeping().columns.to_vec();
    columns.extend(["place", "part", "differs"].map(|name| Column::optional(name, Cast::Text)));
    let domain: &'static _ = Box::leak(Box::new(Domain { columns: columns.leak(), ..*keeping() }));
    let world = World::new("names-and-triggers").await;
    let added = "ADD visits int8, ADD cost numeric(8,2), ADD seen_at timestamptz, ADD place text, ADD part text, \
        ADD differs text";
    world.execute(&format!("ALTER TABLE health_data {added}")).await;
    let roles = world.pipeline(domain);
    world.put("health/a.csv", "location_id,date,is_projected,place,part,differs\n1,2025-09-21,f,here,a,no\n").await;
    world.applied().await;
    roles.stop().await;
    let row = "SELECT concat_ws(' ', place, part, differs) FROM health_data";
    let wrong = "UPDATE health_data SET place = 'wrong', differs = 'wrong'";
    world.execute(wrong).await;
    assert_eq!(replayed(&world, domain, &everything()).await.changed, 1);
    assert_eq!(world.query::<String>(row).await, "here a no");

    let shout = "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.place := upper(NEW.place); RETURN NEW; END $$";
    world.execute(shout).await;
    world.execute("CREATE TRIGGER shout BEFORE INSERT ON health_data FOR EACH ROW EXECUTE FUNCTION shout()").await;
    world.execute(wrong).await;
    replayed(&world, domain, &everything()).await;
    assert_eq!(world.query::<String>(row).await, "HERE a no", "as the upsert stores it");
}

/// The shipped domains, with this one in place of its namesake.
fn with(domain: &'static Domain) -> &'static [&'static Domain] {
    let all = freshet_topics::DOMAINS.iter().map(|&it| if it.name == domain.name { domain } else { it });
    all.collect::<Vec<_>>().leak()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_files_have_is_added_by_a_setup_and_holds_through_replay_and_swap() {
    let world = World::new("added-column").await;
    let health = domains::by_name("health").expect("a domain");
    let adding: &'static _ = Box::leak(Box::new(Domain { on_new_column: NewColumn::Add, ..*health }));
    let set_up = async |domain| {
        let mut setup = world.services.setup();
        setup.domains = with(domain);
        let plan = tables::apply(&world.services.pool, &setup).await.expect("set up");
        let table = plan.tables.into_iter().find(|table| table.domain == "health").expect("health");
        table.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let seen = async || {
        let rows = "SELECT concat_ws(' | ', location_id, note, icu_beds_free) FROM health_data ORDER BY location_id";
        world.column::<String>(rows).await
    };
    assert_eq!(set_up(adding).await, [""; 0], "the shipped contract keeps new columns already");
    let roles = world.pipeline(adding);
    let file = "location_id,date,dengue_cases,note,ICU beds (free)\n1,2025-09-21,4,open late,7\n2,2025-09-21,5,,\n";
    for _ in 0..2 {
        world.put("health/added.csv", file).await;
        world.applied().await;
    }
    let added = set_up(adding).await;
    let expected = [
        "add column icu_beds_free text, with the values of the files' column \"ICU beds (free)\"",
        "add column note text, with the values of the files' column \"note\"",
    ];
    assert_eq!(added, expected);
    assert_eq!(seen().await, ["1 | open late | 7", "2"], "also of rows that were there");
    assert_eq!(set_up(adding).await, [""; 0]);

    // The pipeline goes on, and a newer file changes the column.
    world.next_second().await;
    world.put("health/later.csv", file.replace(",5,,", ",5,closed,0")).await;
    world.applied().await;
    assert_eq!(seen().await, ["1 | open late | 7", "2 | closed | 0"]);
    roles.stop().await;
    let (progress, shutdown) = (Default::default(), CancellationToken::new());
    let context = crate::replay::context(&world, adding);
    world.execute("UPDATE health_data SET extra = NULL WHERE location_id = 1").await;
    replayed(&world, adding, &everything()).await;
    assert_eq!(seen().await, ["1 | open late | 7", "2 | closed | 0"]);
    let mut shadow = freshet_processors::replay::Shadow::open(&context, &everything()).await.expect("open");
    shadow.fill(&progress, &shutdown).await.expect("fill");
    shadow.swap(&progress, &shutdown).await.expect("swap");
    assert_eq!(seen().await, ["1 | open late | 7", "2 | closed | 0"]);
    assert_eq!(set_up(adding).await, [""; 0]);

    // Declared, it is a column like any other.
    let mut columns = adding.columns.to_vec();
    let beds = Column { aliases: &["ICU beds (free)"], ..Column::optional("icu_beds_free", Cast::Int) };
    columns.extend([Column::optional("note", Cast::Text), beds]);
    let declared: &'static _ = Box::leak(Box::new(Domain { columns: columns.leak(), ..*adding }));
    let steps = set_up(declared).await;
    assert_eq!(steps[0], "turn column note into a stored column: it is declared now");
    assert!(steps.contains(&"recreate column icu_beds_free as int4: it is declared now".to_owned()), "{steps:?}");
    assert_eq!(seen().await, ["1 | open late", "2 | closed"]);
    let roles = world.pipeline(declared);
    world.put("health/declared.csv", "location_id,date,note,icu_beds_free\n3,2025-09-21,new,9\n").await;
    world.applied().await;
    assert_eq!(seen().await, ["1 | open late", "2 | closed", "3 | new | 9"]);
    roles.stop().await;

    // As the plan says, a replay fills it with what the older messages have under its heading.
    let (progress, context) = (Default::default(), crate::replay::context(&world, declared));
    replayed(&world, declared, &everything()).await;
    let filled = ["1 | open late | 7", "2 | closed | 0", "3 | new | 9"];
    assert_eq!(seen().await, filled);
    let mut shadow = freshet_processors::replay::Shadow::open(&context, &everything()).await.expect("open");
    shadow.fill(&progress, &shutdown).await.expect("fill");
    shadow.swap(&progress, &shutdown).await.expect("swap");
    assert_eq!(seen().await, filled);
    let extra: i64 = world.query("SELECT count(*) FROM health_data WHERE extra IS NOT NULL").await;
    assert_eq!(extra, 0, "it is a column like any other");
}
