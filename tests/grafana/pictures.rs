//! Pictures of the dashboards: `make pictures`. Every panel's queries are asked as Grafana asks them, and `grafana/pictures/`
//! draws the answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use chrono::Utc;
use serde_json::{Value, json};

use crate::files::{all, dashboard, path, text};
use crate::pipeline::Pipeline;
use crate::prometheus::Prometheus;
use crate::running::{Running, Samples};
use crate::variables::Chosen;

/// After each file, so that the charts have something to tell.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Some forty files.
const ROWS_PER_FILE: u32 = 50;
/// What the charts of days show: more than the samples have.
const DAYS: Duration = Duration::from_secs(60 * 86_400);
/// Above the pause, so that a rate has more than one file in it.
const RATE_INTERVAL: &str = "8s";
/// Where `scripts/setup pictures` puts what draws them.
const PICTURES: &str = "grafana/pictures";

#[test]
#[ignore = "draws pictures, for people to look at: make pictures"]
fn draws_every_dashboard() {
    let Running { pipeline, prometheus, chosen, tables, started } = Running::start(
        "pictures",
        &Samples { end: Utc::now().date_naive(), rows_per_file: ROWS_PER_FILE, pause: PAUSE },
    );
    let folder = pipeline.folder().join("answers");
    fs::create_dir_all(&folder).expect("make the folder of the answers");
    for name in all() {
        let seen = Seen { pipeline: &pipeline, prometheus: &prometheus, chosen: &chosen, tables: &tables };
        let answered = seen.answered(&dashboard(&name), started.elapsed());
        let stem = Path::new(&name).file_stem().expect("a name").to_string_lossy().into_owned();
        let file = folder.join(format!("{stem}.json"));
        fs::write(file, answered.to_string()).expect("write the answers");
    }
    let to = std::env::var_os("FRESHET_PICTURES").map_or_else(|| path(PICTURES).join("drawn"), PathBuf::from);
    let mut node = Command::new("node");
    node.arg("draw.js").arg(&folder).arg(&to).current_dir(path(PICTURES));
    let status = node.status().expect("run node: scripts/setup installs it");
    assert!(status.success(), "draw.js: {status}");
    for name in all() {
        let picture = to.join(Path::new(&name).with_extension("png").file_name().expect("a name"));
        assert!(picture.is_file(), "no {}", picture.display());
    }
}

/// What a person would see who opens a dashboard now.
struct Seen<'a> {
    pipeline: &'a Pipeline,
    prometheus: &'a Prometheus,
    chosen: &'a Chosen,
    tables: &'a [String],
}

impl Seen<'_> {
    /// A dashboard, its time range, the values of its variables, and for each query of each panel the answer.
    fn answered(&self, dashboard: &Value, past: Duration) -> Value {
        let now = SystemTime::now();
        let chosen =
            |past| Chosen { from: now - past, to: now, table: self.tables.first().cloned(), ..self.chosen.clone() };
        let (recent, long) = (chosen(past), chosen(DAYS));
        let mut answers = serde_json::Map::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let mut of_panel = serde_json::Map::new();
            for target in panel["targets"].as_array().into_iter().flatten() {
                let answer = match text(&target["datasource"], "uid") {
                    "freshet-prometheus" => self.of_prometheus(&recent, target),
                    _ => self.of_postgres(&long, target),
                };
                of_panel.insert(text(target, "refId").to_owned(), answer);
            }
            answers.insert(panel["id"].to_string(), Value::Object(of_panel));
        }
        json!({
            "dashboard": dashboard,
            "recent": [seconds(recent.from), seconds(recent.to)],
            "days": [seconds(long.from), seconds(long.to)],
            "variables": { "table": recent.table, "location": self.chosen.location },
            "answers": answers,
        })
    }

    fn of_prometheus(&self, recent: &Chosen, target: &Value) -> Value {
        let query = recent.promql(text(target, "expr"), RATE_INTERVAL);
        // All of a panel at one time, as Grafana asks: rows of several answers are put together by it.
        match target["instant"] == true {
            true => json!(self.prometheus.instant_at(&query, seconds(recent.to))),
            false => json!(self.prometheus.range_between(&query, seconds(recent.from), seconds(recent.to))),
        }
    }

    /// Its rows as objects, written as JSON, which keeps the types and, unread, the order of the columns.
    fn of_postgres(&self, long: &Chosen, target: &Value) -> Value {
        let sql = long.sql(text(target, "rawSql"));
        let found = self.pipeline.query(&format!("SELECT coalesce(json_agg(row), '[]') AS rows FROM ({sql}) AS row"));
        Value::from(found.cell(&found.rows[0], "rows"))
    }
}

fn seconds(time: SystemTime) -> i64 {
    chrono::DateTime::<Utc>::from(time).timestamp()
}
