//! Beside a running pipeline, a real Prometheus and Postgres: every query of every panel returns data, and the scores
//! that the board computes are those that the pipeline publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use chrono::NaiveDate;
use freshet_topics::DOMAINS;
use serde_json::Value;

use crate::files::{DASHBOARDS, Panel, all, dashboard, list, panels, text};
use crate::pipeline::{Pipeline, Rows};
use crate::prometheus::{Prometheus, has_number};
use crate::running::{RATE_INTERVAL, Running, Samples, board, sorted, variable, variable_in, wait_for};
use crate::variables::Chosen;

const SAMPLES: Samples = Samples {
    end: NaiveDate::from_ymd_opt(2025, 9, 21).expect("a date"),
    rows_per_file: 50_000,
    pause: Duration::ZERO,
};

#[test]
fn every_panel_has_data_beside_a_running_pipeline() {
    let Running { pipeline, prometheus, mut chosen, tables, started } = Running::start("grafana", &SAMPLES);
    assert_eq!(chosen.domains, sorted(DOMAINS.iter().map(|domain| domain.name.to_owned())));
    let facts = DOMAINS.iter().filter(|domain| domain.event_time.is_some()).map(|domain| domain.table.to_owned());
    assert_eq!(tables, sorted(facts));

    let mut asked = 0;
    for name in all() {
        for panel in panels(&name) {
            for target in panel.targets() {
                asked += 1;
                match text(&target["datasource"], "uid") {
                    "freshet-prometheus" => prometheus_has_data(&prometheus, &chosen, &panel, target, started),
                    _ => postgres_has_data(&pipeline, &mut chosen, &tables, &panel, target),
                }
            }
        }
    }
    the_marks_on_the_time_axis_can_be_asked_for(&pipeline, &chosen);
    println!("{asked} queries returned data");
    assert!(asked > 80);
    nothing_is_firing_but_the_files_that_should(&prometheus);
    the_scores_are_those_published(&pipeline, &chosen);
    a_fifth_domain_shows_by_itself(&pipeline, &mut chosen);
    tables_of_another_schema_show_too(&pipeline, &chosen);
}

fn prometheus_has_data(prometheus: &Prometheus, chosen: &Chosen, panel: &Panel, target: &Value, started: Instant) {
    let recent = || Chosen {
        from: SystemTime::now() - started.elapsed(),
        to: SystemTime::now(),
        domains: chosen.domains.clone(),
        outputs: chosen.outputs.clone(),
        table: None,
        location: None,
    };
    wait_for(&format!("{} {}: {}", panel.place, text(target, "refId"), text(target, "expr")), || {
        let recent = recent();
        let query = recent.promql(text(target, "expr"), RATE_INTERVAL);
        let series = match target["instant"] == true {
            true => prometheus.instant(&query),
            false => prometheus.range(&query, recent.range().as_secs()),
        };
        series.iter().any(has_number)
    });
}

/// Once for each value that the panel is repeated for.
fn postgres_has_data(pipeline: &Pipeline, chosen: &mut Chosen, tables: &[String], panel: &Panel, target: &Value) {
    let sql = text(target, "rawSql");
    let repeated = text(&panel.json, "repeat");
    assert_eq!(sql.contains("${table"), repeated == "table", "{}", panel.place);
    for table in if repeated.is_empty() { &tables[..1] } else { tables } {
        chosen.table = Some(table.clone());
        let found = pipeline.query(&chosen.sql(sql));
        assert!(!found.rows.is_empty(), "{} of {table}:\n{sql}", panel.place);
        let is_series = text(target, "format") == "time_series";
        assert_eq!(found.columns[0] == "time", is_series, "{}", panel.place);
        // What an override is for is there.
        for matcher in list(&panel.json["fieldConfig"]["overrides"]).iter().map(|it| text(&it["matcher"], "options")) {
            assert!(found.columns.iter().any(|column| column == matcher), "{}: no column {matcher}", panel.place);
        }
    }
}

/// Nothing was replayed here: that the query is one is enough, and that it has the columns that Grafana reads.
fn the_marks_on_the_time_axis_can_be_asked_for(pipeline: &Pipeline, chosen: &Chosen) {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        for mark in list(&dashboard["annotations"]["list"]) {
            let sql = text(&mark["target"], "rawSql");
            if !sql.is_empty() {
                assert_eq!(pipeline.query(&chosen.sql(sql)).columns, ["time", "timeend", "text", "tags"], "{name}");
            }
        }
    }
}

/// Of the samples, each has its alert.
fn nothing_is_firing_but_the_files_that_should(prometheus: &Prometheus) {
    let expected = ["FreshetFileRejected", "FreshetUnknownColumns"];
    wait_for("the alerts about the unreadable file and the unknown column", || {
        let firing = prometheus.instant(r#"ALERTS{alertstate="firing"}"#);
        let names: Vec<&str> = firing.iter().map(|it| text(&it["metric"], "alertname")).collect();
        assert!(names.iter().all(|name| expected.contains(name)), "{names:?}");
        expected.iter().all(|name| names.contains(name))
    });
}

/// By (location, date): the columns of each row as text, empty for unknown.
type Scores = BTreeMap<(String, String), BTreeMap<String, String>>;

fn published(pipeline: &Pipeline, output: &str) -> Scores {
    let bytes = pipeline.output(&format!("metrics/{output}.csv"));
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let rows = reader.deserialize().map(|row| row.expect("a row"));
    rows.map(|row: BTreeMap<String, String>| ((row["location_id"].clone(), row["date"].clone()), row)).collect()
}

/// The panels compute the formulas of the outputs in SQL; to the last digit, they say what the outputs say.
fn the_scores_are_those_published(pipeline: &Pipeline, chosen: &Chosen) {
    let risks = published(pipeline, "current_health_risks");
    let resources = published(pipeline, "current_hospital_resources");
    let resilience = published(pipeline, "resilience_scores");
    let location = chosen.location.as_deref().expect("a location");
    let (mut compared, mut unknown) = (BTreeSet::new(), 0);
    for panel in panels(&board()).iter().filter(|panel| panel.place.contains("Risk and resilience")) {
        let Some(target) = panel.targets().first() else { continue };
        let found = pipeline.query(&chosen.sql(text(target, "rawSql")));
        assert!(found.rows.len() > 10, "{}", panel.place);
        for row in &found.rows {
            let key = key_of(&found, row, location);
            for (column, cell) in found.columns.iter().zip(row) {
                let outputs = [&risks, &resources, &resilience];
                if !(column.ends_with("_risk") || column.ends_with("_score")) {
                    continue;
                }
                let said = outputs.iter().find_map(|output| output.get(&key)?.get(column)).map_or("", String::as_str);
                let number = |it: &str| it.parse::<f64>().ok();
                assert_eq!(number(cell), number(said), "{}: {column} of {key:?}", panel.place);
                unknown += usize::from(cell.is_empty());
                compared.insert(column.clone());
            }
        }
    }
    let columns = [
        "dengue_risk",
        "diarrhea_risk",
        "heatstroke_risk",
        "malaria_risk",
        "overall_risk",
        "resilience_score",
        "resource_score",
    ];
    assert_eq!(compared.iter().map(String::as_str).collect::<Vec<_>>(), columns);
    assert!(unknown > 0);
}

fn key_of(found: &Rows, row: &[String], location: &str) -> (String, String) {
    match found.columns.iter().any(|it| it == "time") {
        true => (location.to_owned(), found.cell(row, "time")[..10].to_owned()),
        false => (found.cell(row, "location_id").to_owned(), found.cell(row, "date").to_owned()),
    }
}

/// A domain's table is found by its columns, and its domain by the files that its rows are from.
fn a_fifth_domain_shows_by_itself(pipeline: &Pipeline, chosen: &mut Chosen) {
    pipeline.execute(include_str!("pharmacy.sql"));
    pipeline.execute(
        "WITH object AS (
            INSERT INTO pipeline.objects (bucket, key, etag, size_bytes, last_modified, domain, src_ord)
            VALUES ('raw', 'pharmacy/x.csv', 'x', 1, now(), 'pharmacy', 1) RETURNING id)
        INSERT INTO pharmacy_data (location_id, date, medicine, is_projected, src_object, src_gen, src_row, src_ord, value_ord)
        SELECT 1, '2025-09-21', 'Paracetamol', false, id, 1, 1, 1, 1 FROM object",
    );
    chosen.domains = vec!["pharmacy".into()];
    let tables = variable(pipeline, chosen, "table");
    assert_eq!(tables, ["pharmacy_data"]);
    chosen.table = tables.into_iter().next();
    let panels = panels(&board());
    let panel = panels.iter().find(|panel| panel.place.contains("Completeness by day")).expect("the panel");
    let found = pipeline.query(&chosen.sql(text(&panel.targets()[0], "rawSql")));
    // A date by type too: a time would begin at midnight where the server is.
    let days: Vec<&str> = found.rows.iter().filter(|row| row[1] != "0").map(|row| row[0].as_str()).collect();
    assert_eq!(days, ["2025-09-21"]);
}

/// They are looked for in the schema that Grafana's sessions search, and in no other.
fn tables_of_another_schema_show_too(pipeline: &Pipeline, chosen: &Chosen) {
    pipeline.execute("CREATE SCHEMA apart; ALTER TABLE pharmacy_data SET SCHEMA apart");
    assert_eq!(variable_in("apart", pipeline, chosen, "table"), ["pharmacy_data"]);
    assert!(variable(pipeline, chosen, "table").is_empty());
}
