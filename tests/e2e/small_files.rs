//! Many small files: together they cost few statements, and each ends as if it were alone.

use crate::harness::World;

/// Statements that wrote to the ledger, counted by a trigger.
async fn count_writes(world: &World) {
    world
        .execute(
            "CREATE SEQUENCE test.writes;
             CREATE FUNCTION test.count_write() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM nextval('test.writes'); RETURN NULL; END $$;
             CREATE TRIGGER test_count_write AFTER UPDATE ON pipeline.objects
                FOR EACH STATEMENT EXECUTE FUNCTION test.count_write();",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_cost_few_statements_and_a_bad_one_among_them_harms_no_other() {
    const FILES: i64 = 200;
    let world = World::new("small-files").await;
    count_writes(&world).await;
    for number in 0..FILES {
        let text = match number {
            // Neither is like the others: no column is known, and a row is bad.
            50 => "colour,taste\nred,sweet\n".to_owned(),
            60 => format!("location_id,date,dengue_cases\n{number},soon,1\n"),
            _ => format!("location_id,date,dengue_cases\n{number},2025-06-01,{number}\n"),
        };
        world.put(&format!("health/{number:03}.csv"), text).await;
    }
    let roles = world.run_all();
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (FILES as u64 - 1, 1), "{waited}");
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, FILES - 2);
    // One by one it is a claim and an end for each, 400, and the sweeps.
    let writes: i64 = world.query("SELECT last_value FROM test.writes").await;
    assert!(writes < FILES / 2, "{writes} statements for {FILES} files");
    world.all_hold().await;
    roles.stop().await;
}
