//! A database of version 0.1, with rows, ledger and marks in it: freshet goes on with it.

use std::borrow::Cow;

use freshet::commands::setup::{self, Mode, Standing};
use freshet::roles::Role;
use freshet_sinks::postgres::MIGRATIONS;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};

use super::of;
use crate::harness::{World, data, oracles, roles_but};

/// The migration of version 0.1 that made the four tables.
const DOMAINS: &str = include_str!("0002_domains.sql");
/// The last migration of version 0.1.
const LAST: i64 = 8;

/// The migrations as version 0.1 had them.
fn migrations() -> Migrator {
    let domains = Migration::new(2, Cow::Borrowed("domains"), MigrationType::Simple, DOMAINS.into_sql_str(), false);
    let others = MIGRATIONS.iter().filter(|migration| migration.version <= LAST).cloned();
    Migrator::with_migrations(others.chain([domains]).collect())
}

/// The marks as version 0.1 had them: a week and a month for each date.
const MARKS: &str = "(SELECT row_number() OVER () AS id, m.domain, k.kind AS window_kind,
        date_trunc(k.kind, d.date)::date AS window_start, m.key::int AS location_id, m.marked_at
    FROM pipeline.marks AS m
    LEFT JOIN (generate_series(timestamp '2025-01-01', timestamp '2026-01-01', interval '1 day') AS d (date)
        CROSS JOIN (VALUES ('week'), ('month')) AS k (kind)) ON m.dates @> d.date::date
    ) AS marks";

/// Makes a database as version 0.1 would have, with what is in this one. Gives its URL.
async fn as_version_0_1(world: &World) -> String {
    let name = format!("{}-old", world.name());
    world.execute(&format!("CREATE DATABASE \"{name}\"")).await;
    let url = format!("{}/{name}", world.database_url().rsplit_once('/').expect("a database").0);
    let mut old = PgConnection::connect(&url).await.expect("connect");
    migrations().run(&mut old).await.expect("migrate");
    // What a migration has put in is copied too.
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_schema || '.' || table_name, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
         FROM information_schema.columns WHERE table_schema IN ('public', 'pipeline') AND table_name <> '_sqlx_migrations'
         GROUP BY 1",
    )
    .fetch_all(&mut old)
    .await
    .expect("list the tables");
    for (table, columns) in tables {
        sqlx::query(AssertSqlSafe(format!("TRUNCATE {table} CASCADE"))).execute(&mut old).await.expect("empty");
        let mut from = world.services.pool.acquire().await.expect("connect");
        let source = if table == "pipeline.marks" { MARKS } else { &table };
        let mut rows =
            from.copy_out_raw(&format!("COPY (SELECT {columns} FROM {source}) TO STDOUT")).await.expect("read");
        let mut bytes = Vec::new();
        while let Some(chunk) = futures::StreamExt::next(&mut rows).await {
            bytes.extend_from_slice(&chunk.expect("read"));
        }
        let mut into = old.copy_in_raw(&format!("COPY {table} ({columns}) FROM STDIN")).await.expect("write");
        into.send(bytes).await.expect("write");
        into.finish().await.expect("write");
        sqlx::query(
            "SELECT setval(s, 1000000) FROM pg_attribute a CROSS JOIN pg_get_serial_sequence($1, a.attname::text) AS s
             WHERE a.attrelid = $1::regclass AND a.attidentity <> ''",
        )
        .bind(table)
        .execute(&mut old)
        .await
        .expect("number on");
    }
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_version_0_1_is_taken_over_with_nothing_lost_or_read_again() {
    let mut world = World::new("version01").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("climate/all.csv", data::climate(3, "2025-07-01", 40, 1)).await;
    world.put("health/all.csv", data::health(3, "2025-07-01", 40, 1)).await;
    world.put("hospital/all.csv", data::hospital(3, "2025-07-01", 40, 1)).await;
    world.put("health/bad.csv", "location_id,date\none,2025-01-01\n").await;
    world.settle().await;
    roles.stop().await;
    // Marks that nobody has derived from yet.
    let roles = world.run(&roles_but(Role::Metrics));
    world.next_second().await;
    world.put("health/late.csv", data::health(3, "2025-07-05", 1, 2)).await;
    world.applied().await;
    roles.stop().await;

    let url = as_version_0_1(&world).await;
    let old = PgConnection::connect(&url).await.expect("connect");
    old.close().await.expect("close");
    world.move_to(url).await;
    let rows = async |world: &World| {
        let mut all = Vec::new();
        for table in
            ["locations", "climate_data", "health_data", "hospital_data", "pipeline.objects", "pipeline.progress"]
        {
            // Without the columns that are new, and in which nothing stands yet.
            let sql = format!(
                "SELECT '{table} ' || (jsonb_strip_nulls(to_jsonb(t)) - '{{absent_defaults,overtaken}}'::text[])::text
                 FROM {table} AS t ORDER BY 1"
            );
            all.extend(world.column::<String>(&sql).await);
        }
        all
    };
    let before = rows(&world).await;
    assert!(before.len() > 370, "{}", before.len());
    let marks = async |world: &World| world.query::<i64>("SELECT count(*) FROM pipeline.marks").await;
    let marked = marks(&world).await;
    assert!(marked > 0, "nothing waits to be derived");
    let dry = setup::prepare(&world.services, Mode::Plan).await;
    let schema = dry.iter().find(|it| it.kind == "schema").expect("the schema");
    assert!(schema.said.starts_with("at version 8; would be brought to version "), "{schema}");
    assert_eq!(rows(&world).await, before);
    let done = setup::prepare(&world.services, Mode::Make).await;
    for table in ["locations", "climate_data", "health_data", "hospital_data"] {
        let finding = of(&done, "table", table);
        assert_eq!((finding.standing, finding.said.as_str()), (Standing::Made, "found, and changed"), "{done:#?}");
        assert!(
            finding
                .details
                .iter()
                .all(|it| it.starts_with("set the comments of ")
                    || it.starts_with("add column ") && it.ends_with(" jsonb")),
            "{finding:#?}"
        );
    }
    assert_eq!(rows(&world).await, before, "not a row is another");
    assert_eq!(marks(&world).await, marked, "what waits is what waited");
    let again = setup::prepare(&world.services, Mode::Make).await;
    assert!(again.iter().all(|finding| finding.standing == Standing::Found), "{again:#?}");

    // It goes on: the marks are derived from, and what comes is applied.
    oracles::watch(&world).await;
    let roles = world.run_all();
    world.put("health/new.csv", data::health(3, "2025-07-06", 30, 3)).await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
    let objects = world.objects().await;
    assert_eq!((objects.len(), objects.iter().map(|it| it.generation).max()), (7, Some(1)), "{objects:#?}");
}
