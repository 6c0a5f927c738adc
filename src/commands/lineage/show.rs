//! Shows what is known about a key, for people.

use chrono::{DateTime, Utc};
use freshet_topics::message::OVERTAKEN;

use super::read::{Fate, File, Lineage, Other, Row};
use crate::commands::terminal::{Look, thousands, wrapped};

pub(super) fn lineage(found: &Lineage, look: Look) -> String {
    let key: Vec<String> = found.key.iter().map(|(column, value)| format!("{column}={value}")).collect();
    let mut parts = vec![look.bold(&format!("{} {}", found.domain, key.join(" ")))];
    match &found.row {
        Some(row) => parts.extend(of_row(row, found.table, look)),
        None => parts.push(format!("is not in {}", found.table)),
    }
    match &found.others {
        None => parts.push(look.faint("the topic was not read, so rows that lost are not shown")),
        Some(others) => {
            parts.extend(others.iter().map(|other| wrapped(look, &of_other(other), str::to_owned)));
            if others.is_empty() {
                parts.push("no other row of this key is in the topic".to_owned());
            }
            let read = format!("{} records of the topic were read", thousands(found.records_read));
            let rest = match found.is_whole {
                true => "",
                false => "; it no longer has all rows that were sent, so there may have been others",
            };
            parts.push(look.faint(&format!("{read}{rest}")));
        }
    }
    if found.row.is_none() && found.others.as_ref().is_none_or(Vec::is_empty) {
        let files = "its file: not found, not read yet, or rejected as a whole? See `freshet status --files`";
        let rejects = format!("a row without a readable key: see `freshet rejects list {}`", found.domain);
        parts.extend([wrapped(look, files, str::to_owned), wrapped(look, &rejects, str::to_owned)]);
    }
    parts.join("\n")
}

fn of_row(row: &Row, table: &str, look: Look) -> Vec<String> {
    let place = place(row.file.as_ref(), row.line, row.row);
    let mut parts = vec![wrapped(look, &format!("in {table}: from {place}"), |line| look.good(line))];
    if let Some(corrections) = row.corrections.as_ref().and_then(serde_json::Value::as_object) {
        let corrected: Vec<String> = corrections.iter().filter_map(correction).collect();
        if !corrected.is_empty() {
            parts.push(wrapped(look, &format!("corrected: {}", corrected.join(", ")), |line| look.busy(line)));
        }
        if let Some(earlier) = corrections.get(OVERTAKEN).and_then(serde_json::Value::as_i64) {
            let rows = if earlier == 1 { "row" } else { "rows" };
            let line = format!("replaced {} earlier {rows} of its file", thousands(earlier));
            parts.push(wrapped(look, &line, |line| look.busy(line)));
        }
    }
    let is_shown = |(name, value): &(&String, &serde_json::Value)| *name != "corrections" && !value.is_null();
    let values = row.values.as_object().into_iter().flatten().filter(is_shown);
    let values: Vec<String> = values.map(|(name, value)| format!("{name}={value}")).collect();
    parts.push(wrapped(look, &values.join(" "), |line| look.faint(line)));
    parts
}

/// A column and what was done to its value: one rule as the table keeps it, or several.
fn correction((column, rules): (&String, &serde_json::Value)) -> Option<String> {
    let rules = match rules {
        serde_json::Value::Array(rules) => {
            rules.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(", ")
        }
        rule => rule.as_str()?.to_owned(),
    };
    Some(format!("{column} ({rules})"))
}

fn of_other(other: &Other) -> String {
    let place = place(other.file.as_ref(), Some(other.line), other.row);
    match other.fate {
        Fate::Lost => format!("lost to it: {place}"),
        Fate::Rejected => {
            let column = other.column.map_or(String::new(), |column| format!(" in {column}"));
            let value = other.value.as_ref().map_or(String::new(), |value| format!(": `{value}`"));
            format!("rejected ({}{column}{value}): {place}", other.rule.unwrap_or_default())
        }
        Fate::PassedOver => {
            format!("skipped, sent by another ledger or another life of this one: object {}", other.object)
        }
        Fate::Replaced => format!("removed from the table, because a newer version of its file was applied: {place}"),
        Fate::NotThere => {
            format!("should be in the table by the current rules but is not (a replay loads it): {place}")
        }
    }
}

/// File, version and line.
fn place(file: Option<&File>, line: Option<i64>, row: i64) -> String {
    let line = line.map_or_else(|| format!("data row {}", row + 1), |line| format!("line {line}"));
    match file {
        None => format!("a file unknown to the ledger, {line}"),
        Some(File { key, version_id, etag, last_modified, .. }) => {
            let version = version_id.as_ref().map_or_else(|| format!("etag {etag}"), |id| format!("version {id}"));
            format!("{key} {line} ({version}, written {})", written(*last_modified))
        }
    }
}

fn written(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
