//! Shows what a file changed, for people and as JSON.

use std::collections::BTreeMap;

use freshet_ingest::inspect::visible;
use freshet_processors::changes::{Change, Example, KEYS_MAX};
use freshet_sinks::ledger::on_one_line;
use serde_json::{Value, json};

use super::{Found, list_of};
use crate::commands::named::Version;
use crate::commands::terminal::{Look, counted, thousands, wrap, wrapped};

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 40;
/// Files that are named of those that have newer rows.
const FILES_MAX: usize = 5;

/// Whether a change is of one kind.
type IsOfKind = fn(&Change) -> bool;

/// Why nothing can be shown.
pub(super) fn nothing(version: Option<&Version>, said: &str, look: Look) -> String {
    let mut parts: Vec<String> = version.map(|version| heading(version, look)).unwrap_or_default();
    parts.push(wrapped(look, said, |line| look.bad(line)));
    parts.join("\n")
}

fn heading(version: &Version, look: Look) -> Vec<String> {
    let Version { id, key, version_id, etag, last_modified, applied_at, .. } = version;
    let time = "%Y-%m-%d %H:%M:%S UTC";
    let of = version_id.as_ref().map_or_else(|| format!("etag {etag}"), |id| format!("version {id}"));
    let applied = applied_at.map_or(String::new(), |at| format!(", applied {}", at.format(time)));
    let line = format!("no. {id}, {of}, written {}{applied}", last_modified.format(time));
    vec![look.bold(&on_one_line(key)), wrapped(look, &line, |line| look.faint(line))]
}

pub(super) fn changes(found: &Found, look: Look) -> String {
    let Found { version, changes, .. } = found;
    let mut parts = heading(version, look);
    parts.extend(counts(found).into_iter().map(|(name, rows, note)| count(name, rows, &note, look)));
    let sum = |objects: &BTreeMap<i64, i64>| objects.values().sum::<i64>();
    let (replaced, since) = (sum(&changes.replaced), sum(&changes.replaced_by));
    if replaced > 0 {
        let line = format!("it replaced {}, of {}", counted(replaced, "row"), by(&changes.replaced, found));
        parts.push(wrapped(look, &line, str::to_owned));
    }
    if since > 0 {
        let line = format!("replaced since: {}, by {}", counted(since, "row"), by(&changes.replaced_by, found));
        parts.push(wrapped(look, &line, str::to_owned));
    }
    parts.extend(notes(found).iter().map(|note| wrapped(look, note, |line| look.busy(line))));
    let kinds: [(&str, i64, IsOfKind); 3] = [
        ("added", changes.added, |change| matches!(change, Change::Added)),
        ("changed", changes.changed, |change| matches!(change, Change::Changed(_))),
        ("lost", changes.lost_to.values().sum(), |change| matches!(change, Change::Lost(_))),
    ];
    for (name, all, is_of_kind) in kinds {
        let examples: Vec<&Example> = changes.examples.iter().filter(|example| is_of_kind(&example.change)).collect();
        if examples.is_empty() {
            continue;
        }
        parts.push(look.bold(name));
        let narrower = Look { width: look.width.saturating_sub(2), ..look };
        parts.extend(examples.iter().map(|it| indented(&wrapped(narrower, &example(it, found), str::to_owned))));
        let more = all - examples.len() as i64;
        parts.extend((more > 0).then(|| look.faint(&format!("  and {} more; --examples shows more", thousands(more)))));
    }
    if let [_, _, ..] = found.versions.as_slice() {
        let line =
            format!("versions of the file, the newest first: {}; --version shows another", list_of(&found.versions));
        parts.push(wrapped(look, &line, |line| look.faint(line)));
    }
    parts.join("\n")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// What became of the rows, with what it means; kinds without a row are left out.
fn counts(found: &Found) -> Vec<(&'static str, i64, String)> {
    let Found { version, changes, .. } = found;
    let listed = |counts: &BTreeMap<&'static str, i64>| {
        counts.iter().map(|(name, count)| format!("{name} {}", thousands(*count))).collect::<Vec<_>>().join(", ")
    };
    let rejects = format!(
        "{}; see `freshet rejects list --file {}`",
        listed(&changes.rejected),
        crate::print::quoted(&version.key)
    );
    let all = [
        ("rows", changes.rows, "of the file".to_owned()),
        ("added", changes.added, "the table had no row of the key".to_owned()),
        ("changed", changes.changed, listed(&changes.columns)),
        ("same", changes.same, "the table had the same values".to_owned()),
        ("lost", changes.lost_to.values().sum(), format!("newer data was there, from {}", by(&changes.lost_to, found))),
        ("repeated", changes.repeated, "a later row of the file has the same key".to_owned()),
        ("rejected", changes.rejected.values().sum(), rejects),
    ];
    all.into_iter().filter(|(name, count, _)| *count > 0 || *name == "rows").collect()
}

fn count(name: &str, rows: i64, note: &str, look: Look) -> String {
    let front = format!("  {name:<8}  {:>9}  ", thousands(rows));
    let width = front.chars().count();
    let lines = wrap(note, look.width.saturating_sub(width));
    let lines = lines.iter().enumerate().map(|(at, line)| match at {
        0 => format!("{front}{line}"),
        _ => format!("{}{line}", " ".repeat(width)),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Files by name with their rows, those with the most first.
fn by(objects: &BTreeMap<i64, i64>, found: &Found) -> String {
    let mut objects: Vec<(i64, i64)> = objects.iter().map(|(object, rows)| (*object, *rows)).collect();
    objects.sort_by_key(|(object, rows)| (-rows, *object));
    let rest: i64 = objects.iter().skip(FILES_MAX).map(|(_, rows)| rows).sum();
    let named = objects.iter().take(FILES_MAX);
    let mut named: Vec<String> =
        named.map(|(object, rows)| format!("{} ({})", name(*object, found), thousands(*rows))).collect();
    named.extend((rest > 0).then(|| format!("others ({})", thousands(rest))));
    named.join(", ")
}

fn name(object: i64, found: &Found) -> String {
    match found.files.get(&object) {
        None => format!("object {object}"),
        Some(key) if *key == found.version.key => format!("its version {object}"),
        Some(key) => on_one_line(key).into_owned(),
    }
}

fn notes(found: &Found) -> Vec<String> {
    let Found { version, changes, is_whole, replaced, .. } = found;
    let gone = version.rows.map_or(0, |rows| rows - changes.rows);
    let mut notes = Vec::new();
    if gone > 0 {
        notes.push(format!(
            "the topic no longer has {} of the file: they are not in these numbers",
            counted(gone, "row")
        ));
    }
    if !is_whole {
        let said =
            "the topic no longer has all older rows: a row that counts as added here may have replaced one of those";
        notes.push(said.to_owned());
    }
    if changes.left_out > 0 {
        let said = format!(
            "{} not compared: no more than {} keys of a file are",
            if changes.left_out == 1 {
                "1 row was".to_owned()
            } else {
                format!("{} rows were", thousands(changes.left_out))
            },
            thousands(KEYS_MAX as i64)
        );
        notes.push(said);
    }
    if let Some(older) = replaced {
        notes.push(format!("rows that only version {older} had were removed (onOverwrite: replace)"));
    }
    if let Some(newer) = version.replaced_by {
        notes.push(format!("its rows were removed when version {newer} was applied (onOverwrite: replace)"));
    }
    notes
}

fn value(value: &Option<String>) -> String {
    value.as_ref().map_or_else(|| "NULL".to_owned(), |value| visible(value, VALUE_CHARS_MAX))
}

/// `line 2: site=1 date=2025-09-21: cases 4 → 9`; as `freshet lineage` reads it, a column that is NULL is left
/// out.
fn example(example: &Example, found: &Found) -> String {
    let key = example.key.iter().filter(|(_, it)| it.is_some());
    let key: Vec<String> = key.map(|(column, it)| format!("{column}={}", value(it))).collect();
    let change = match &example.change {
        Change::Added => String::new(),
        Change::Changed(values) => {
            let values = values.iter().map(|(column, old, new)| format!("{column} {} → {}", value(old), value(new)));
            format!(": {}", values.collect::<Vec<_>>().join(", "))
        }
        Change::Lost(to) => format!(": newer in {}", name(*to, found)),
    };
    format!("line {}: {}{change}", example.line, key.join(" "))
}

pub(super) fn json(found: &Found) -> Value {
    let Found { version, versions, changes, is_whole, replaced, .. } = found;
    let by = |objects: &BTreeMap<i64, i64>| -> Vec<Value> {
        let by =
            |(object, rows): (&i64, &i64)| json!({ "object": object, "key": found.files.get(object), "rows": rows });
        objects.iter().map(by).collect()
    };
    let example = |example: &Example| {
        let key: BTreeMap<&str, &Option<String>> = example.key.iter().map(|(column, it)| (*column, it)).collect();
        let (kind, columns, lost_to) = match &example.change {
            Change::Added => ("added", None, None),
            Change::Changed(columns) => ("changed", Some(columns), None),
            Change::Lost(to) => ("lost", None, Some(to)),
        };
        let column = |(column, before, after): &(&str, Option<String>, Option<String>)| json!({ "column": column, "before": before, "after": after });
        let columns: Vec<Value> = columns.into_iter().flatten().map(column).collect();
        json!({ "change": kind, "line": example.line, "key": key, "columns": columns, "lost_to": lost_to })
    };
    json!({
        "file": version,
        "versions": versions,
        "changes": {
            "rows": changes.rows,
            "added": changes.added,
            "changed": changes.changed,
            "columns": changes.columns,
            "same": changes.same,
            "replaced": by(&changes.replaced),
            "lost": changes.lost_to.values().sum::<i64>(),
            "lost_to": by(&changes.lost_to),
            "repeated": changes.repeated,
            "rejected": changes.rejected,
            "replaced_since": changes.replaced_by.values().sum::<i64>(),
            "replaced_by": by(&changes.replaced_by),
            "left_out": changes.left_out,
            "examples": changes.examples.iter().map(example).collect::<Vec<_>>(),
        },
        "topic_is_whole": is_whole,
        "replaces_version": replaced,
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use freshet_processors::changes::Changes;
    use freshet_sinks::ledger::ObjectState;

    use super::*;

    fn found() -> Found {
        let version = Version {
            id: 12,
            domain: "health".into(),
            key: "health/mine.csv".into(),
            version_id: Some("6714".into()),
            etag: "e".into(),
            last_modified: DateTime::default(),
            state: ObjectState::Applied,
            reason: None,
            rows: Some(1_000),
            applied: 8,
            stale: 1,
            rejected: 1,
            corrected: 0,
            applied_at: Some(DateTime::default()),
            replaced_by: None,
            generation: 1,
            src_ord: 1,
            nonce: uuid::Uuid::nil(),
        };
        let key = |id: &str| vec![("location_id", Some(id.to_owned())), ("date", Some("2025-09-21".to_owned()))];
        let values = vec![
            ("dengue_cases", Some("4".to_owned()), Some("9".to_owned())),
            ("malaria_cases", None, Some("a\u{a0}b".to_owned())),
        ];
        let changes = Changes {
            rows: 998,
            rejected: BTreeMap::from([("uncastable", 1)]),
            added: 3,
            changed: 1,
            columns: BTreeMap::from([("dengue_cases", 1), ("malaria_cases", 1)]),
            replaced: BTreeMap::from([(3, 1), (7, 4)]),
            lost_to: BTreeMap::from([(7, 2)]),
            replaced_by: BTreeMap::from([(8, 1), (9, 3)]),
            examples: vec![
                Example { line: 2, key: key("1"), change: Change::Added },
                Example { line: 3, key: key("2"), change: Change::Changed(values) },
                Example { line: 4, key: key("3"), change: Change::Lost(7) },
            ],
            ..Changes::default()
        };
        let files = [(3, "health/mine.csv"), (7, "health/week.csv"), (9, "health/b.csv")];
        let files = files.map(|(object, key)| (object, key.to_owned())).into();
        Found { version, versions: vec![12, 3], changes, files, is_whole: false, replaced: None }
    }

    #[test]
    fn what_a_file_changed_is_counted_with_examples_and_fits_the_terminal() {
        let text = changes(&found(), Look { width: 80, ..Look::PLAIN });
        for line in [
            "health/mine.csv",
            "  rows            998  of the file",
            "  added             3  the table had no row of the key",
            "  changed           1  dengue_cases 1, malaria_cases 1",
            "  lost              2  newer data was there, from health/week.csv (2)",
            "it replaced 5 rows, of health/week.csv (4), its version 3 (1)",
            "replaced since: 4 rows, by health/b.csv (3), object 8 (1)",
            "  line 2: location_id=1 date=2025-09-21",
            "  and 2 more; --examples shows more",
            "  line 4: location_id=3 date=2025-09-21: newer in health/week.csv",
            "the topic no longer has 2 rows of the file: they are not in these numbers",
            "versions of the file, the newest first: 12, 3; --version shows another",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(
            text.contains(
                "line 3: location_id=2 date=2025-09-21: dengue_cases 4 → 9, malaria_cases\n    NULL → a\\u{a0}b"
            ),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains("  same") && !text.contains("repeated"), "{text}");
    }

    #[test]
    fn programs_read_the_same_numbers() {
        let json = json(&found());
        assert_eq!((&json["changes"]["lost"], &json["changes"]["replaced_since"]), (&2.into(), &4.into()));
        assert_eq!(json["changes"]["examples"][1]["columns"][0]["after"], "9");
        assert_eq!(json["changes"]["lost_to"][0]["key"], "health/week.csv");
    }
}
