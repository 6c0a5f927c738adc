//! Shows what is known about a key, for people.

use chrono::{DateTime, Utc};
use freshet_ingest::inspect::visible;
use freshet_sinks::ledger::{ObjectState, on_one_line};
use freshet_topics::message::OVERTAKEN;

use super::read::{Dangling, Fate, File, KeyLineage, Other, Row, Unread};
use crate::commands::status::word;
use crate::commands::terminal::{Look, thousands, wrapped};

pub(super) fn lineage(found: &KeyLineage, look: Look) -> String {
    let key: Vec<String> = found.key.iter().map(|(column, value)| format!("{column}={}", text(value))).collect();
    let mut parts = vec![look.bold(&format!("{} {}", found.domain, key.join(" ")))];
    match &found.row {
        Some(row) => parts.extend(of_row(row, found.table, look)),
        None => parts.push(format!("is not in {}", found.table)),
    }
    match &found.others {
        None => parts.push(look.faint("the topic was not read, so rows that lost are not shown")),
        Some(others) => {
            // Readings of one file say the same of its row: once is enough.
            let mut told: Vec<String> = Vec::new();
            for other in others {
                let line = of_other(other, found);
                if !told.contains(&line) {
                    told.push(line);
                }
            }
            parts.extend(told.iter().map(|line| wrapped(look, line, str::to_owned)));
            if others.is_empty() {
                let other = if found.row.is_some() { "no other row" } else { "no row" };
                parts.push(format!("{other} of this key is in the topic"));
            }
            if !found.is_whole {
                let said = "the topic no longer has all rows that were sent, so there may have been others";
                parts.push(wrapped(look, said, |line| look.faint(line)));
            }
        }
    }
    parts.extend(unread(found).map(|line| wrapped(look, &line, |line| look.busy(line))));
    if found.row.is_none() && found.others.as_ref().is_none_or(Vec::is_empty) {
        let files = "is its file not found yet, or rejected as a whole? See `freshet status --files`";
        let rejects = format!("is its key not readable? See `freshet rejects list {}`", found.domain);
        parts.extend([wrapped(look, files, str::to_owned), wrapped(look, &rejects, str::to_owned)]);
    }
    parts.join("\n")
}

/// Files that may have rows of the key and are not sent yet.
fn unread(found: &KeyLineage) -> Option<String> {
    let Unread { number, files } = &found.unread;
    if files.is_empty() {
        return None;
    }
    let mut names: Vec<String> =
        files.iter().map(|file| format!("{} ({})", on_one_line(&file.key), word(file.state))).collect();
    let more = number - files.len() as i64;
    names.extend((more > 0).then(|| format!("{} more", thousands(more))));
    Some(format!("not read yet, so they may have a row of this key: {}", names.join(", ")))
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
    for Dangling { column, value, domain, of } in &row.orphan_in {
        let line = format!(
            "orphan: its {column} is {}, and {domain} has no row with that {of}: outputs that need one leave this \
             row out",
            text(value)
        );
        parts.push(wrapped(look, &line, |line| look.busy(line)));
    }
    let is_shown = |(name, value): &(&String, &serde_json::Value)| *name != "corrections" && !value.is_null();
    let values = row.values.as_object().into_iter().flatten().filter(is_shown);
    let values: Vec<String> = values.map(|(name, value)| format!("{name}={}", text(&value.to_string()))).collect();
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

fn of_other(other: &Other, found: &KeyLineage) -> String {
    let place = place(other.file.as_ref(), Some(other.line), other.row);
    match other.fate {
        Fate::Lost if found.row.as_ref().is_some_and(|row| row.is_sent_as_new(other)) => {
            format!("lost to it: line {} of the same file, before the file was sent again as new", other.line)
        }
        Fate::Lost if found.row.as_ref().is_some_and(|row| row.is_read_again(other)) => {
            format!("lost to it: line {} of the same file, before the file was read again", other.line)
        }
        Fate::Lost => format!("lost to it: {place}"),
        Fate::Waiting => waiting(other, found),
        Fate::Rejected => {
            let column = other.column.map_or(String::new(), |column| format!(" in {column}"));
            let value = other.value.as_ref().map_or(String::new(), |value| format!(": `{}`", text(value)));
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

/// `waiting: its file health/a.csv is queued, 0 of 2 rows applied (line 2)`
fn waiting(other: &Other, found: &KeyLineage) -> String {
    let halted = match found.halted.contains(&other.partition) {
        true => format!(
            "; partition {} of the topic is halted, see `freshet bookmarks list {}`",
            other.partition, found.domain
        ),
        false => String::new(),
    };
    let Some(File { key, state, rows, received, .. }) = &other.file else {
        return format!("waiting: it is in the topic, and not applied yet{halted}");
    };
    if *state == ObjectState::Applied {
        return format!("applied while this was read, so ask again: {} line {}", on_one_line(key), other.line);
    }
    let of = rows.map_or("?".to_owned(), thousands);
    format!(
        "waiting: its file {} is {}, {} of {of} rows applied (line {}){halted}",
        on_one_line(key),
        word(*state),
        thousands(*received),
        other.line
    )
}

/// A value of a file or of the table, whole; but its text does not tell the terminal what to do.
fn text(value: &str) -> String {
    visible(value, usize::MAX)
}

/// File, version and line.
fn place(file: Option<&File>, line: Option<i64>, row: i64) -> String {
    let line = line.map_or_else(|| format!("data row {}", row + 1), |line| format!("line {line}"));
    match file {
        None => format!("a file unknown to the ledger, {line}"),
        Some(File { key, version_id, etag, last_modified, .. }) => {
            let version = version_id.as_ref().map_or_else(|| format!("etag {etag}"), |id| format!("version {id}"));
            format!("{} {line} ({version}, written {})", on_one_line(key), written(*last_modified))
        }
    }
}

fn written(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(others: Vec<Other>, halted: Vec<i32>, is_whole: bool) -> KeyLineage {
        KeyLineage {
            domain: "visits",
            table: "visits",
            key: BTreeMap::from([("ward", "7".to_owned())]),
            row: None,
            others: Some(others),
            records_read: 9,
            is_whole,
            halted,
            unread: Unread { number: 0, files: Vec::new() },
        }
    }

    fn waiting(generation: i32) -> Other {
        let (rule, column, value) = (None, None, None);
        let (fate, file, object, src_ord, row, line) = (Fate::Waiting, None, 4, 1, 0, 2);
        Other { fate, file, object, generation, src_ord, row, line, partition: 3, offset: 8, rule, column, value }
    }

    #[test]
    fn a_row_that_waits_in_a_halted_partition_says_so_once() {
        let text =
            |halted| lineage(&found(vec![waiting(2), waiting(1)], halted, true), Look { width: 200, ..Look::PLAIN });
        let said = "waiting: it is in the topic, and not applied yet";
        assert_eq!(text(vec![]), format!("visits ward=7\nis not in visits\n{said}"));
        let halted = "partition 3 of the topic is halted, see `freshet bookmarks list visits`";
        assert_eq!(text(vec![3]), format!("visits ward=7\nis not in visits\n{said}; {halted}"));
    }

    #[test]
    fn what_senders_wrote_is_shown_with_invisible_characters_escaped() {
        let file = File {
            id: 4,
            key: "visits/\u{1b}[2J.csv".into(),
            version_id: None,
            etag: "e".into(),
            last_modified: DateTime::default(),
            replaced_by: None,
            state: ObjectState::Applied,
            rows: Some(1),
            received: 1,
            nonce: None,
        };
        let rejected =
            Other { fate: Fate::Rejected, rule: Some("late"), value: Some("a\u{1b}[31m\nb".into()), ..waiting(1) };
        let mut found = found(vec![Other { file: Some(file), ..rejected }], Vec::new(), true);
        found.key = BTreeMap::from([("ward", "7\u{9b}1m".to_owned())]);
        let shown = lineage(&found, Look { width: 200, ..Look::PLAIN });
        assert!(shown.starts_with("visits ward=7\\u{9b}1m\n"), "{shown}");
        assert!(shown.contains("rejected (late: `a\\u{1b}[31m\\nb`): visits/\\u{1b}[2J.csv line 2 ("), "{shown}");
    }

    #[test]
    fn a_key_without_a_row_says_where_to_look_and_what_cannot_be_known() {
        let text = lineage(&found(Vec::new(), Vec::new(), false), Look::PLAIN);
        for part in
            ["no row of this key is in the topic", "the topic no longer has all rows", "`freshet rejects list visits`"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("records") && !text.contains("no other row"), "{text}");
    }
}
