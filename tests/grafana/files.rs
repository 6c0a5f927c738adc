//! The files under test, read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Those of any pipeline, in the order of their links: Overview leads to the others.
pub(crate) const DASHBOARDS: [&str; 3] = ["overview", "pipeline", "data-quality"];
/// The outputs of the shipped pipeline.
pub(crate) const OUTPUTS: [&str; 4] =
    ["current_health_risks", "current_hospital_resources", "resilience_scores", "window_metrics"];
/// Where pipelines are; each has its boards in a folder `boards`.
const PIPELINES: &str = "pipelines";

/// The boards of the pipelines, as paths in the repository.
pub(crate) fn boards() -> Vec<String> {
    let pipelines = fs::read_dir(path(PIPELINES)).expect("read the folder of pipelines").flatten();
    let boards = pipelines.filter_map(|pipeline| fs::read_dir(pipeline.path().join("boards")).ok()).flatten().flatten();
    let mut found: Vec<String> = boards
        .map(|board| board.path().strip_prefix(ROOT).expect("in the repository").to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".json"))
        .collect();
    found.sort();
    found
}

/// All that Grafana is given: the dashboards of any pipeline, then the boards.
pub(crate) fn all() -> Vec<String> {
    DASHBOARDS.map(str::to_owned).into_iter().chain(boards()).collect()
}

/// The file of a dashboard, as [`all`] names it.
pub(crate) fn file_of(name: &str) -> String {
    if name.ends_with(".json") { name.to_owned() } else { format!("grafana/dashboards/{name}.json") }
}

/// A path in the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

pub(crate) fn dashboard(name: &str) -> Value {
    let file = file_of(name);
    serde_json::from_str(&read(&file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The string at a key; the empty one if there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A panel and where it is, for messages.
pub(crate) struct Panel {
    pub(crate) place: String,
    pub(crate) json: Value,
}

impl Panel {
    pub(crate) fn kind(&self) -> &str {
        text(&self.json, "type")
    }

    pub(crate) fn is_row(&self) -> bool {
        self.kind() == "row"
    }

    pub(crate) fn targets(&self) -> &[Value] {
        list(&self.json["targets"])
    }
}

/// All panels of a dashboard, rows included.
pub(crate) fn panels(name: &str) -> Vec<Panel> {
    let dashboard = dashboard(name);
    let panel = |json: &Value| Panel { place: format!("{name}: {}", text(json, "title")), json: json.clone() };
    list(&dashboard["panels"]).iter().map(panel).collect()
}

/// Every string in a value, wherever it stands.
pub(crate) fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        _ => {}
    }
}

/// The words of a text that could be names.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_')
}
