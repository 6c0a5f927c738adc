//! The list of files: one line each, with the reason and other notes in full below it.

use freshet_sinks::ledger::ObjectState;

use super::word;
use crate::commands::terminal::{Look, about, columns, shorten, thousands, wrap, wrapped};
use crate::status::{FileStatus, Files};

/// A key has at least so much room on its line.
const KEY_CHARS_MIN: usize = 16;
/// Numbers are about so much on narrower terminals.
const FULL_NUMBERS: usize = 100;
/// Indentation of the notes on a file.
const INDENT: usize = 4;

/// A count of a file.
type Count = fn(&FileStatus) -> i64;

/// Counts that most files have none of: a column is there where a file has some. What the name does not say is explained
/// below the list.
const COUNTS: [(&str, Count, &str); 4] = [
    ("rows\nrejected", |file| file.rejected, ""),
    ("values\ncorrected", |file| file.corrected, ""),
    ("rows\nstale", |file| file.stale, "stale: newer data was there"),
    (
        "rows\novertaken",
        |file| file.overtaken,
        "overtaken: a later row of the file has the same key; these rows are counted as applied or stale, too",
    ),
];

pub(super) fn list(files: &Files, look: Look) -> String {
    if files.files.is_empty() {
        return "no files found".into();
    }
    let number = if look.width < FULL_NUMBERS { about } else { thousands };
    let has_some = |count: Count| files.files.iter().any(|file| count(file) > 0);
    let counts = || COUNTS.into_iter().filter(|(_, count, _)| has_some(*count));
    let heading = ["state", "applied or\nupdated (UTC)", "rows"].into_iter().chain(counts().map(|(name, ..)| name));
    let mut records = vec![heading.chain(["file"]).map(str::to_owned).collect::<Vec<_>>()];
    for file in &files.files {
        let touched = file.touched_at.format("%m-%d %H:%M:%S").to_string();
        let mut record = vec![word(file.state).to_owned(), touched, rows(file, number)];
        record.extend(counts().map(|(_, count, _)| number(count(file))));
        record.push(String::new());
        records.push(record);
    }
    let room = place_keys(&mut records, files, look);
    let key_column = records[0].len() - 1;
    let mut lines = columns(look, &records, &[0, 1, key_column]).into_iter();
    let heading_lines = 2;
    let mut text: Vec<String> = lines.by_ref().take(heading_lines).collect();
    for (line, file) in lines.zip(&files.files) {
        text.push(paint(&line, file.state, look));
        text.extend(notes(file, room, look));
    }
    let legend: Vec<&str> = counts().map(|(.., means)| means).filter(|means| !means.is_empty()).collect();
    text.extend((!legend.is_empty()).then(|| wrapped(look, &legend.join("; "), |line| look.faint(line))));
    let shown = files.files.len() as i64;
    if shown < files.total {
        let note =
            format!("the newest {} of {} files; more with --files-max", thousands(shown), thousands(files.total));
        text.push(look.faint(&note));
    }
    text.join("\n")
}

/// Puts the keys into the last column: they may take what the others leave. Where that is next to nothing they stand below
/// their lines. Returns how many characters there are.
fn place_keys(records: &mut [Vec<String>], files: &Files, look: Look) -> usize {
    let taken = columns(Look { color: false, ..look }, records, &[0, 1]).iter().map(|line| line.chars().count()).max();
    let room = look.width.saturating_sub(taken.unwrap_or(0) + 2);
    let room = if room < KEY_CHARS_MIN { 0 } else { room };
    for (record, file) in records.iter_mut().skip(1).zip(&files.files) {
        if let (Some(key), 1..) = (record.last_mut(), room) {
            *key = shorten(&file.key, room);
        }
    }
    if room == 0
        && let Some(heading) = records[0].last_mut()
    {
        heading.clear();
    }
    room
}

/// The file's rows, and how many of them have arrived where some have not.
fn rows(file: &FileStatus, number: fn(i64) -> String) -> String {
    match file.rows {
        None => "–".to_owned(),
        Some(rows) if file.received < rows && !file.state.is_final() => {
            format!("{} of {}", number(file.received), number(rows))
        }
        Some(rows) => number(rows),
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
