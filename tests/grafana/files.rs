//! The files under test, read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// In the order of their links: Overview leads to the others.
pub(crate) const DASHBOARDS: [&str; 3] = ["overview", "pipeline", "data-quality"];

/// A path in the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

pub(crate) fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("grafana/dashboards/{name}.json")))
        .unwrap_or_else(|error| panic!("grafana/dashboards/{name}.json: {error}"))
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
