//! Files as R, pandas, spreadsheets and statistical offices spell them: what was meant loads, what is not known is NULL,
//! what cannot be is rejected, and all of it is counted and named.

use crate::harness::World;

/// What a query gives, one text a row.
async fn lines(world: &World, sql: &str) -> Vec<String> {
    world.column(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_r_writes_are_those_numbers() {
    let world = World::new("rnumbers").await;
    let roles = world.run_all();
    world
        .put("locations/r.csv", "id,name,type,population,area\n71,East,district,4e+05,33.5\n72,West,NA,35e4,2e2\n")
        .await;
    world
        .put(
            "health/r.csv",
            "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected,projection_year\n\
             71,2025-03-04,5e3,17,NA,2e+05,FALSE,NA\n\
             72,2025-03-04,4.5e-1,NA,0,1.25e2,TRUE,2.03e3\n\
             7.3e1,2025-03-04,1,2,3,4,FALSE,NA\n\
             71,2025-03-05,3e9,1e,,,FALSE,\n",
        )
        .await;
    world.settle().await;
    let places =
        lines(&world, "SELECT concat_ws(' ', id, name, type, population, area) FROM locations ORDER BY id").await;
    assert_eq!(places, ["71 East district 400000 33.5"]);
    let rows = lines(
        &world,
        "SELECT concat_ws(' ', location_id, date, dengue_cases, malaria_cases, heatstroke_cases, diarrhea_cases,
            is_projected, projection_year, corrections) FROM health_data ORDER BY location_id, date",
    )
    .await;
    assert_eq!(
        rows,
        [
            r#"71 2025-03-04 5000 17 200000 f {"projection_year": "missing_value", "heatstroke_cases": "missing_value"}"#,
            r#"71 2025-03-05 f {"dengue_cases": "uncastable_to_null", "malaria_cases": "uncastable_to_null"}"#,
            r#"72 2025-03-04 0 0 125 t 2030 {"dengue_cases": "fraction_cut", "malaria_cases": "missing_value"}"#,
            r#"73 2025-03-04 1 2 3 4 f {"projection_year": "missing_value"}"#,
        ]
    );
    let rejects =
        lines(&world, "SELECT concat_ws(' ', domain, line, \"column\", rule, value) FROM pipeline.rejects").await;
    assert_eq!(rejects, ["locations 3 type missing_value NA"]);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_pandas_wrote_as_a_float_or_left_empty_finds_its_row() {
    let world = World::new("pandas").await;
    let roles = world.run_all();
    let header = "location_id,date,dengue_cases,malaria_cases,is_projected,projection_year\n";
    world.put("health/first.csv", format!("{header}5,2025-04-01,20,1,False,\n5,2025-04-02,21,1,False,\n")).await;
    world.settle().await;
    world.next_second().await;
    let revised = "5,2025-04-01,30,1,0.0,\n5,2025-04-02,31,1,,\n6,2031-04-01,9,1,1.0,2031.0\n7,2025-04-01,8,1,0.5,\n\
        8,2025-04-01,8,1,no,soon\n";
    world.put("health/revised.csv", format!("{header}{revised}")).await;
    world.settle().await;
    let rows = lines(
        &world,
        "SELECT concat_ws(' ', location_id, date, dengue_cases, is_projected, projection_year, corrections)
         FROM health_data ORDER BY location_id, date",
    )
    .await;
    assert_eq!(rows, ["5 2025-04-01 30 f", "5 2025-04-02 31 f", "6 2031-04-01 9 t 2031"]);
    let rejects =
        lines(&world, "SELECT concat_ws(' ', line, \"column\", rule, value) FROM pipeline.rejects ORDER BY line").await;
    assert_eq!(rejects, ["5 is_projected uncastable 0.5", "6 projection_year uncastable soon"]);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suppressed_and_impossible_values_are_null_or_rejected_and_named() {
    let world = World::new("suppressed").await;
    let roles = world.run_all();
    world
        .put(
            "hospital/s.csv",
            "location_id,date,total_beds,available_beds,doctors\n\
             1,2025-05-01,-999999,44,12\n2,2025-05-01,150,-999999,12\n3,2025-05-01,-3,44,-3\n4,2025-05-01,40,44,\\N\n\
             5,2025-05-01,40.5,44,\"2,345\"\n",
        )
        .await;
    world
        .put(
            "health/s.csv",
            "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n\
             1,2025-05-01,\"3,456\",<5,-99,1 to 4\n2,2025-05-01T14:30,2\u{202f}345,*,>900,-\n\
             1,2025-W18,1,1,1,1\n1,01/05/2025,1,1,1,1\n1,0000-05-01,1,1,1,1\n1,9999-12-31,1,1,1,1\n-,2025-05-01,1,1,1,1\n",
        )
        .await;
    world
        .put(
            "climate/s.csv",
            "location_id,date,temperature,rainfall,humidity\n\
             1,2025-05-01,31.5,9999.9,101\n2,2025-05-01T00:00:00Z,-89.9,-1,N/A\n3,2025-05-01,315,1,1\n4,2025-05-01,-99,1,1\n",
        )
        .await;
    world.settle().await;
    let beds = lines(
        &world,
        "SELECT concat_ws(' ', location_id, coalesce(total_beds::text, '?'), coalesce(available_beds::text, '?'),
            coalesce(doctors::text, '?'), corrections) FROM hospital_data ORDER BY location_id",
    )
    .await;
    assert_eq!(
        beds,
        [
            r#"1 ? 44 12 {"total_beds": "missing_value"}"#,
            r#"2 150 ? 12 {"available_beds": "missing_value"}"#,
            r#"3 0 44 0 {"doctors": "negative_to_zero", "total_beds": "negative_to_zero"}"#,
            r#"4 40 40 ? {"doctors": "missing_value", "available_beds": "beds_capped"}"#,
            r#"5 40 44 2345 {"doctors": "grouping_removed", "total_beds": "fraction_cut"}"#,
        ]
    );
    let cases = lines(
        &world,
        "SELECT concat_ws(' ', location_id, date, dengue_cases, malaria_cases, heatstroke_cases, diarrhea_cases, corrections)
         FROM health_data ORDER BY location_id",
    )
    .await;
    assert_eq!(
        cases,
        [
            r#"1 2025-05-01 3456 {"dengue_cases": "grouping_removed", "malaria_cases": "uncastable_to_null", "diarrhea_cases": "uncastable_to_null", "heatstroke_cases": "missing_value"}"#,
            r#"2 2025-05-01 {"date": "time_cut", "dengue_cases": "uncastable_to_null", "malaria_cases": "missing_value", "diarrhea_cases": "missing_value", "heatstroke_cases": "uncastable_to_null"}"#,
        ]
    );
    let weather = lines(
        &world,
        "SELECT concat_ws(' ', location_id, temperature, rainfall, humidity, corrections) FROM climate_data ORDER BY 1",
    )
    .await;
    assert_eq!(
        weather,
        [
            r#"1 31.5 {"humidity": "out_of_range_to_null", "rainfall": "missing_value"}"#,
            r#"2 -89.9 {"date": "date_normalised", "humidity": "missing_value", "rainfall": "out_of_range_to_null"}"#,
        ]
    );
    let rejects = lines(
        &world,
        "SELECT concat_ws(' ', domain, line, \"column\", rule, value) FROM pipeline.rejects ORDER BY domain, line",
    )
    .await;
    assert_eq!(
        rejects,
        [
            "climate 4 temperature out_of_range 315",
            "climate 5 temperature missing_value -99",
            "health 4 date uncastable 2025-W18",
            "health 5 date uncastable 01/05/2025",
            "health 6 date uncastable 0000-05-01",
            "health 7 date out_of_range 9999-12-31",
            "health 8 location_id missing_value -",
        ]
    );
    world.all_hold().await;
    roles.stop().await;
}
