//! Files of all four domains, in any order, dirty as they come: the tables are a plain batch load of them, and the
//! outputs are the formulas over the tables.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::harness::{World, data, seed};

/// Of files that break every rule.
const EVERY_RULE_SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn dirty_files_in_any_order_load_as_one_batch_would() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let generated = |seed, days| {
        data::generated(|options| {
            options.seed = seed;
            options.entities = 12;
            options.days = days;
            options.dirty = 0.2;
            options.rows_per_file = 150;
        })
    };
    let mut files = generated(seed, 50);
    // What is dirty in random files is a matter of luck: these break every rule that is looked for below.
    files.extend(
        generated(EVERY_RULE_SEED, 75).into_iter().map(|(key, content)| (key.replace('/', "/every-rule-"), content)),
    );
    files.shuffle(&mut random);
    // The facts come first.
    files.sort_by_key(|(key, _)| key.starts_with("locations/"));
    let locations = files.iter().filter(|(key, _)| key.starts_with("locations/")).count();
    let world = World::new("batch").await;
    let roles = world.run_all();
    let facts = files.len() - locations;
    for (at, (key, content)) in files.iter().enumerate() {
        world.put(key, content).await;
        if at + 1 == facts / 3 || at + 1 == facts {
            world.settle().await;
        }
        if random.random_ratio(1, 10) {
            tokio::task::yield_now().await;
        }
    }
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (files.len() as u64, 0), "{waited}");
    let loaded = world.all_hold().await;
    roles.stop().await;
    // The data was dirty enough for the oracles to see every rule.
    for rule in ["required_empty", "uncastable", "extra_cells", "missing_value", "out_of_range"] {
        assert!(loaded.rejects.keys().any(|(_, _, found)| found == rule), "no row is rejected as {rule}");
    }
    for rule in [
        "negative_to_zero",
        "probability_to_zero",
        "beds_capped",
        "uncastable_to_null",
        "date_normalised",
        "missing_value",
        "grouping_removed",
        "out_of_range_to_null",
    ] {
        assert!(loaded.corrections.keys().any(|(_, found)| found.ends_with(rule)), "no value is corrected as {rule}");
    }
    let projected = loaded.tables["climate"].values().filter(|row| row[8] == "true").count();
    assert!(projected > 0, "projections load too");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_golden_row_comes_out_to_the_last_digit() {
    let world = World::new("golden").await;
    let roles = world.run_all();
    world.put("hospital/golden.csv", data::GOLDEN_HOSPITAL).await;
    world.put("health/golden.csv", data::GOLDEN_HEALTH).await;
    world.settle().await;
    world.put("locations/golden.csv", data::GOLDEN_LOCATION).await;
    world.settle().await;
    let text = async |output: &str| {
        let bytes = world.output(&format!("metrics/{output}.csv")).await;
        String::from_utf8(bytes).expect("UTF-8").lines().nth(1).expect("a row").to_owned()
    };
    let risks = text("current_health_risks").await;
    assert!(risks.contains(",4911,5753,0,29614,0,,Andhra Pradesh,49577103,9.905782514157796,"), "{risks}");
    assert!(risks.ends_with(",3.9511855570369514"), "{risks}");
    let resources = text("current_hospital_resources").await;
    assert!(resources.ends_with(",72.45575980239641"), "{resources}");
    let scores = text("resilience_scores").await;
    assert_eq!(scores, "1,2025-08-22,Andhra Pradesh,3.9511855570369514,72.45575980239641,98.91167595951671");
    world.all_hold().await;
    roles.stop().await;
}
