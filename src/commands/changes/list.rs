//! The files since a time, one line each.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use sqlx::AssertSqlSafe;

use crate::commands::named::{COLUMNS, PROGRESS, Version};
use crate::commands::status::word;
use crate::commands::terminal::{Look, about, columns, shorten, wrapped};
use crate::roles::Services;

/// A key has at least so much room on its line.
const KEY_CHARS_MIN: usize = 16;

/// A count of a file.
type Count = fn(&Version) -> i64;

/// Counts that are shown where a file has some.
const COUNTS: [(&str, Count); 4] = [
    ("applied", |file| file.applied),
    ("older", |file| file.stale),
    ("rejected", |file| file.rejected),
    ("corrected", |file| file.corrected),
];

pub(super) async fn run(
    services: &Services,
    domain: Option<&Domain>,
    since: DateTime<Utc>,
    limit: u32,
    as_json: bool,
    look: Look,
) -> Result<ExitCode> {
    let files: Vec<Version> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM (
            SELECT * FROM pipeline.objects o WHERE o.last_modified >= $1 AND ($2::text IS NULL OR o.domain = $2)
            ORDER BY o.last_modified DESC, o.id DESC LIMIT $3
         ) AS o {PROGRESS} ORDER BY o.last_modified DESC, o.id DESC"
    )))
    .bind(since)
    .bind(domain.map(|domain| domain.name))
    .bind(i64::from(limit) + 1)
    .fetch_all(&services.pool)
    .await
    .context("read the ledger")?;
    let (shown, has_more) = match files.len() > limit as usize {
        true => (&files[..limit as usize], true),
        false => (files.as_slice(), false),
    };
    match as_json {
        true => super::print_json(&serde_json::json!({ "files": shown, "has_more": has_more }))?,
        false => println!("{}", show(shown, has_more, since, look)),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(files: &[Version], has_more: bool, since: DateTime<Utc>, look: Look) -> String {
    if files.is_empty() {
        return format!("no file since {}", since.format("%Y-%m-%d %H:%M:%S UTC"));
    }
    let counts: Vec<_> = COUNTS.into_iter().filter(|(_, count)| files.iter().any(|file| count(file) > 0)).collect();
    let names = counts.iter().map(|(name, _)| *name);
    let heading = ["written (UTC)", "state", "rows"].into_iter().chain(names).chain(["no.", "file"]);
    let mut records = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for file in files {
        let mut record = vec![
            file.last_modified.format("%m-%d %H:%M:%S").to_string(),
            word(file.state).to_owned(),
            file.rows.map_or("–".to_owned(), about),
        ];
        record.extend(counts.iter().map(|(_, count)| about(count(file))));
        record.extend([file.id.to_string(), String::new()]);
        records.push(record);
    }
    let plain = Look { color: false, ..look };
    let taken = columns(plain, &records, &[0, 1]).iter().skip(1).map(|line| line.chars().count()).max().unwrap_or(0);
    let room = look.width.saturating_sub(taken + 2).max(KEY_CHARS_MIN);
    let key_column = counts.len() + 4;
    for (record, file) in records.iter_mut().skip(1).zip(files) {
        if let Some(key) = record.last_mut() {
            *key = shorten(&file.key, room);
        }
    }
    let mut lines = columns(look, &records, &[0, 1, key_column]);
    if has_more {
        lines.push(look.faint("there are more files; --limit shows more"));
    }
    let legend = "applied: written to the table; older: newer data was there; `freshet changes FILE` shows what a file \
                  changed";
    lines.push(wrapped(look, legend, |line| look.faint(line)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use freshet_sinks::ledger::ObjectState;

    use super::*;

    fn file(id: i64, rows: i64, rejected: i64) -> Version {
        Version {
            id,
            domain: "visits".into(),
            key: format!("visits/a-long-name-of-a-folder/and-of-a-file-{id}.csv"),
            version_id: None,
            etag: "e".into(),
            last_modified: DateTime::default(),
            state: ObjectState::Published,
            reason: None,
            rows: Some(rows),
            applied: rows - rejected,
            stale: 0,
            rejected,
            corrected: 0,
            applied_at: None,
            replaced_by: None,
            generation: 1,
            src_ord: id,
            nonce: uuid::Uuid::nil(),
        }
    }

    #[test]
    fn each_file_is_a_line_and_counts_that_no_file_has_are_left_out() {
        let look = Look { width: 80, ..Look::PLAIN };
        let text = show(&[file(12, 1_200_000, 4), file(3, 7, 0)], true, DateTime::default(), look);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "written (UTC)   state   rows  applied  rejected  no.  file");
        assert!(lines[1].starts_with("01-01 00:00:00  queued  1.2M     1.2M         4   12  visits/"), "{text}");
        assert_eq!(lines[3], "there are more files; --limit shows more");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(show(&[], false, DateTime::default(), look), "no file since 1970-01-01 00:00:00 UTC");
    }
}
