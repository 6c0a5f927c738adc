//! What a contract may say beyond the shipped ones, through the whole pipeline: every type, cells of new columns kept,
//! corrections on the row.

use freshet_topics::{Cast, Column, Domain, NewColumn, domains};

use crate::harness::World;

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
    world
        .execute(
            "ALTER TABLE health_data ADD visits int8, ADD cost numeric(8,2), ADD seen_at timestamptz, ADD extra jsonb",
        )
        .await;
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
