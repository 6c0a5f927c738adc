//! The list of files: one line each, with the reason and other notes in full below it.

use freshet_sinks::ledger::ObjectState;

use super::word;
use crate::commands::terminal::{Look, columns, shorten, thousands, wrap};
use crate::status::{FileStatus, Files};

/// A key has at least so much room on its line.
const KEY_CHARS_MIN: usize = 16;
/// Indentation of the notes on a file.
const INDENT: usize = 4;

/// A count of a file.
type Count = fn(&FileStatus) -> i64;

/// Counts that most files have none of: a column is there where a file has some.
const COUNTS: [(&str, Count); 4] = [
    ("rejected", |file| file.rejected),
    ("corrected", |file| file.corrected),
    ("stale", |file| file.stale),
    ("overtaken", |file| file.overtaken),
];

pub(super) fn list(files: &Files, look: Look) -> String {
    if files.files.is_empty() {
        return "no files found yet".into();
    }
    let has_some = |count: Count| files.files.iter().any(|file| count(file) > 0);
    let counts: Vec<_> = COUNTS.into_iter().filter(|(name, count)| *name == "rejected" || has_some(*count)).collect();
    let heading = ["state", "rows"].into_iter().chain(counts.iter().map(|(name, _)| *name)).chain(["file"]);
    let mut records = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for file in &files.files {
        let mut record = vec![word(file.state).to_owned(), rows(file)];
        record.extend(counts.iter().map(|(_, count)| thousands(count(file))));
        record.push(String::new());
        records.push(record);
    }
    // The key stands last: what it may take is what the others leave.
    let taken = columns(Look { color: false, ..look }, &records, &[0]).iter().map(|line| line.chars().count()).max();
    let room = look.width.saturating_sub(taken.unwrap_or(0) + 2).max(KEY_CHARS_MIN);
    for (record, file) in records.iter_mut().skip(1).zip(&files.files) {
        if let Some(key) = record.last_mut() {
            *key = shorten(&file.key, room);
        }
    }
    let key_column = counts.len() + 2;
    let mut lines = columns(look, &records, &[0, key_column]).into_iter();
    let mut text: Vec<String> = lines.next().into_iter().collect();
    for (line, file) in lines.zip(&files.files) {
        text.push(paint(&line, file.state, look));
        text.extend(notes(file, room, look));
    }
    let shown = files.files.len() as i64;
    if shown < files.total {
        let note =
            format!("the newest {} of {} files; more with --files-max", thousands(shown), thousands(files.total));
        text.push(look.faint(&note));
    }
    text.join("\n")
}

/// The file's rows, and how many of them have arrived where some have not.
fn rows(file: &FileStatus) -> String {
    match file.rows {
        None => "–".to_owned(),
        Some(rows) if file.received < rows && !file.state.is_final() => {
            format!("{} of {}", thousands(file.received), thousands(rows))
        }
        Some(rows) => thousands(rows),
    }
}

/// The key where its line has no room for it, why the file is where it is, and its columns.
fn notes(file: &FileStatus, room: usize, look: Look) -> Vec<String> {
    let key = (file.key.chars().count() > room).then(|| file.key.clone());
    let columns =
        |what: &str, columns: &[String]| (!columns.is_empty()).then(|| format!("{what}: {}", columns.join(", ")));
    let notes = [
        key,
        file.reason.clone(),
        columns("unknown columns", &file.unknown_columns),
        columns("columns it lacks, with the contract's value in all rows", &file.absent_defaults),
    ];
    let lines = notes.into_iter().flatten().flat_map(|note| wrap(&note, look.width.saturating_sub(INDENT)));
    lines.map(|line| format!("{:INDENT$}{}", "", look.faint(&line))).collect()
}

fn paint(line: &str, state: ObjectState, look: Look) -> String {
    let word = word(state);
    let painted = match state {
        ObjectState::Applied => look.good(word),
        ObjectState::Rejected => look.bad(word),
        ObjectState::Publishing | ObjectState::Published => look.busy(word),
        ObjectState::Discovered | ObjectState::Superseded => return line.to_owned(),
    };
    line.replacen(word, &painted, 1)
}
