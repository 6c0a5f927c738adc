//! A pipeline with samples of every kind of thing that a panel shows, and a Prometheus that reads it.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use chrono::NaiveDate;
use freshet_topics::DOMAINS;

use crate::files::{OUTPUTS, boards, dashboard, list, text};
use crate::pipeline::Pipeline;
use crate::prometheus::Prometheus;
use crate::variables::Chosen;

/// A scrape and an evaluation of the rules take a second each.
const DATA_TIMEOUT: Duration = Duration::from_secs(30);
/// As Grafana makes it of a scrape interval of a second.
pub(crate) const RATE_INTERVAL: &str = "4s";
/// Samples begin long before today.
const YEARS: Duration = Duration::from_secs(3 * 365 * 86_400);

/// The files that are dropped.
pub(crate) struct Samples {
    /// The last observed day.
    pub(crate) end: NaiveDate,
    /// Files have no more rows than this.
    pub(crate) rows_per_file: u32,
    /// After each file.
    pub(crate) pause: Duration,
}

/// What is running, and what is chosen on its dashboards: all there is, and one location.
pub(crate) struct Running {
    pub(crate) pipeline: Pipeline,
    pub(crate) prometheus: Prometheus,
    pub(crate) chosen: Chosen,
    /// The tables that a panel is repeated for.
    pub(crate) tables: Vec<String>,
    /// When Prometheus began to read.
    pub(crate) started: Instant,
}

impl Running {
    /// Starts all, and drops the samples.
    pub(crate) fn start(name: &str, samples: &Samples) -> Running {
        let pipeline = Pipeline::start(name);
        let address = pipeline.env("FRESHET_HTTP").trim_start_matches("http://").to_owned();
        let prometheus = Prometheus::start(&pipeline.folder().join("prometheus"), &address);
        let started = Instant::now();
        // A counter's first steps are seen only if it was read before.
        let is_read = || !prometheus.instant(r#"freshet_role_info{role="ingest"}"#).is_empty();
        wait_for("the pipeline to be read", is_read);
        pipeline.execute("CREATE ROLE grafana; GRANT pg_read_all_data TO grafana");
        drop_samples(&pipeline, samples);
        // The whole-file copies follow the windows one output after the other, and a scrape may fall between two of them.
        let outputs = sorted(OUTPUTS.map(str::to_owned).into_iter());
        let copied = || prometheus.label_values("freshet_stable_copy_version", "output");
        wait_for("a copy of every output", || copied() == outputs);

        let mut chosen = Chosen {
            from: SystemTime::now() - YEARS,
            to: SystemTime::now() + Duration::from_secs(60),
            domains: prometheus.label_values("freshet_files", "domain"),
            outputs: copied(),
            table: None,
            location: None,
        };
        let tables = variable(&pipeline, &chosen, "table");
        chosen.location = variable(&pipeline, &chosen, "location").into_iter().next();
        Running { pipeline, prometheus, chosen, tables, started }
    }
}

/// Every kind of thing that a panel shows: dirty rows, a file that cannot be read, rows of a location that is not known.
fn drop_samples(pipeline: &Pipeline, samples: &Samples) {
    let folder = pipeline.folder().join("samples");
    let out = folder.to_string_lossy().into_owned();
    let (end, rows) = (samples.end.to_string(), samples.rows_per_file.to_string());
    let generate = ["generate", "--out", &out, "--seed", "7", "--locations", "12", "--days", "40", "--dirty", "0.02"];
    pipeline.run(&[&generate[..], &["--end", &end, "--rows-per-file", &rows]].concat());
    let locations = folder.join("locations/locations.csv");
    let known = fs::read_to_string(&locations).expect("read the locations");
    let known: Vec<&str> = known.lines().collect();
    fs::write(&locations, known[..known.len() - 1].join("\n")).expect("forget the last location");
    fs::write(folder.join("health/unreadable.csv"), "when,how many\n2025-09-20,3\n").expect("write a file");
    // The latest day of location 1: one count unknown, and no hospital's row. Its risk is unknown then, and never 100.
    let day_after = samples.end.succ_opt().expect("a day");
    let unknown =
        format!("location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n1,{day_after},,7,0,31\n");
    fs::write(folder.join("health/unknown.csv"), unknown).expect("write a file");
    // Of what no row tells: a column that nobody knows, columns that are absent and have a default, a name that is no data.
    fs::write(folder.join("locations/more.csv"), "id,name,type,remarks\n1,Goa,Urban,new\n").expect("write a file");
    fs::write(folder.join("health/_SUCCESS"), "").expect("write a file");
    // In turn, as senders that do not wait for each other do.
    let mut files = Vec::new();
    for domain in DOMAINS {
        let folder = fs::read_dir(folder.join(domain.name)).expect("the domain's files").flatten();
        let mut of_it: Vec<_> = folder.map(|file| file.path()).collect();
        of_it.sort();
        files.extend(of_it.into_iter().enumerate().map(|(turn, file)| (turn, domain.name, file)));
    }
    files.sort();
    for (_, domain, file) in files {
        pipeline.drop_file(&format!("{domain}/{}", file.file_name().expect("a file").to_string_lossy()), &file);
        std::thread::sleep(samples.pause);
    }
    pipeline.run(&["status", "--wait", "--timeout", "120s"]);
}

pub(crate) fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let since = Instant::now();
    while !there() {
        assert!(since.elapsed() < DATA_TIMEOUT, "waited for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(crate) fn sorted(items: impl Iterator<Item = String>) -> Vec<String> {
    items.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The one board of the shipped pipeline.
pub(crate) fn board() -> String {
    let [board] = boards().try_into().expect("one board");
    board
}

/// The values of a variable of the board, by its query.
pub(crate) fn variable(pipeline: &Pipeline, chosen: &Chosen, name: &str) -> Vec<String> {
    variable_in("public", pipeline, chosen, name)
}

/// The same, if Grafana's sessions search that schema.
pub(crate) fn variable_in(schema: &str, pipeline: &Pipeline, chosen: &Chosen, name: &str) -> Vec<String> {
    let dashboard = dashboard(&board());
    let variables = list(&dashboard["templating"]["list"]);
    let variable = variables.iter().find(|it| text(it, "name") == name).expect("the variable");
    let found = pipeline.query_in(schema, &chosen.sql(text(variable, "query")));
    found.rows.iter().map(|row| found.cell(row, "__value").to_owned()).collect()
}
