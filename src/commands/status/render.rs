//! A status for people. Nothing is wider than the terminal: tables have a narrower form, and texts are wrapped.

mod files;
mod queue;
mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use freshet_ingest::names;
use freshet_sinks::ledger::{ObjectState, on_one_line};
use freshet_sinks::listings::Unlisted;
use freshet_sinks::replay::Kind;
use freshet_sinks::unmatched::{AllUnmatched, Unmatched};

use crate::commands::terminal::{Look, columns, first_that_fits, span, table, thousands, wrapped};
use crate::status::{Blocked, ColumnNote, DomainStatus, LifeStatus, MissingTopic, OutputsStatus, PassedOver, Status};

/// Objects of no domain, and columns, that are shown.
const UNMATCHED_SHOWN: usize = 5;
const COLUMNS_SHOWN: usize = 10;

/// Shows the status: first what needs attention, then files, rows, outputs, and the list of files if it was read.
pub fn render(status: &Status, look: Look) -> String {
    let mut parts = Vec::new();
    parts.extend(alarms(status, look));
    parts.push(files_by_state(status, look));
    parts.push(rows::counted(status, look));
    parts.push(outputs(&status.outputs, look));
    parts.extend(status.event_queue.as_ref().map(|queue| queue::line(queue, look)));
    parts.extend(column_notes(&status.columns, look));
    parts.extend(life(&status.life, look));
    parts.extend(status.domains.iter().filter_map(|domain| replay(domain, look)));
    if let Some(files) = &status.files {
        parts.push(files::list(files, look));
    }
    parts.join("\n")
}

fn alarms(status: &Status, look: Look) -> Option<String> {
    let mut lines: Vec<String> = status.domains.iter().flat_map(halted).collect();
    lines.extend(status.missing_topics.iter().map(missing_topic));
    lines.extend(status.blocked.iter().map(Blocked::describe));
    lines.extend(status.outputs.failed.iter().map(ToString::to_string));
    lines.extend(status.passed_over.as_ref().map(passed_over));
    lines.extend(status.unlisted.iter().map(unlisted));
    lines.extend(status.event_queue.as_ref().and_then(queue::alarm));
    let mut lines: Vec<String> = lines.iter().map(|line| wrapped(look, line, |line| look.bad(line))).collect();
    // Everything runs: they are less than a halt.
    lines.extend(unmatched(&status.unmatched).iter().map(|line| wrapped(look, line, |line| look.busy(line))));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Halted partitions of a domain: those with the same reason in one line.
fn halted(domain: &DomainStatus) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for halted in &domain.halted {
        by_reason.entry(&halted.reason).or_default().push(halted.partition.to_string());
    }
    let line = |(reason, partitions): (&str, Vec<String>)| {
        let noun = if partitions.len() == 1 { "partition" } else { "partitions" };
        format!("halted: {} {noun} {}: {reason}", domain.domain, partitions.join(", "))
    };
    by_reason.into_iter().map(line).collect()
}

/// The page says the same.
fn missing_topic(MissingTopic { domain, topic }: &MissingTopic) -> String {
    format!("topic {topic} does not exist, so no row of {domain} is published or applied: run `freshet topics create`")
}

/// Objects that belong to no domain: each looks like a file that nobody reads.
fn unmatched(unmatched: &AllUnmatched) -> Vec<String> {
    let shown = unmatched.newest.iter().take(UNMATCHED_SHOWN);
    let line =
        |object: &Unmatched| format!("belongs to no domain: {}", names::with_hint(&object.key, object.hint.as_deref()));
    let mut lines: Vec<String> = shown.map(line).collect();
    let more = unmatched.objects - lines.len() as i64;
    lines.extend((more > 0).then(|| format!("belong to no domain: {} more objects", thousands(more))));
    lines
}

/// A part of the raw bucket that cannot be listed, so that files in it are not found.
fn unlisted(unlisted: &Unlisted) -> String {
    format!("{}: `{}` cannot be listed: {}", unlisted.domain, on_one_line(&unlisted.prefix), unlisted.reason)
}

/// Columns that files have beside their domain, or lack though they have a default.
fn column_notes(notes: &[ColumnNote], look: Look) -> Option<String> {
    let line = |note: &ColumnNote| {
        let ColumnNote { domain, rule, column, files, key } = note;
        let file = if *files == 1 { "file" } else { "files" };
        let text = format!("{rule}: {domain} `{column}` in {} {file}, the newest {key}", thousands(*files));
        wrapped(look, &text, |line| look.busy(line))
    };
    let mut lines: Vec<String> = notes.iter().take(COLUMNS_SHOWN).map(line).collect();
    let more = notes.len().saturating_sub(COLUMNS_SHOWN);
    lines.extend((more > 0).then(|| look.faint(&format!("{more} more columns: `freshet status --json`"))));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The line stays until the table is emptied: skipped rows may exist nowhere else.
fn passed_over(PassedOver { rows, files, .. }: &PassedOver) -> String {
    let (rows, files) = (thousands(*rows), thousands(*files));
    format!("skipped: {rows} rows of {files} files from another life of the ledger; see docs/restore.md")
}

/// Empty for a ledger that never went back in time.
fn life(life: &LifeStatus, look: Look) -> Option<String> {
    let LifeStatus { number, began_at, why } = life;
    let began = began_at.format("%Y-%m-%d %H:%M:%S UTC");
    (*number > 1).then(|| format!("{} life {number}, begun {began} ({why})", look.bold("ledger ")))
}

/// A column for each state; if there is no room, one column for all unfinished states.
fn files_by_state(status: &Status, look: Look) -> String {
    let of_files = |name: &str| format!("files\n{name}");
    let all = || {
        let states = ObjectState::ALL.map(|state| of_files(word(state)));
        let heading = ["domain".to_owned()].into_iter().chain(states).chain(["oldest\nopen".to_owned()]);
        let mut records = vec![heading.collect::<Vec<_>>()];
        for domain in &status.domains {
            let counts = ObjectState::ALL.iter().map(|state| thousands(files_in(domain, *state)));
            let oldest = age(domain.oldest_unfinished_seconds);
            records.push(std::iter::once(domain.domain.to_owned()).chain(counts).chain([oldest]).collect());
        }
        records
    };
    let few = || {
        let ended = [ObjectState::Applied, ObjectState::Rejected, ObjectState::Superseded];
        let names = ["open"].into_iter().chain(ended.map(word)).map(of_files);
        let heading = ["domain".to_owned()].into_iter().chain(names).chain(["oldest\nopen".to_owned()]);
        let mut records = vec![heading.collect::<Vec<_>>()];
        for domain in &status.domains {
            let counts = ended.map(|state| thousands(files_in(domain, state)));
            let oldest = age(domain.oldest_unfinished_seconds);
            let begin = [domain.domain.to_owned(), thousands(domain.unfinished())];
            records.push(begin.into_iter().chain(counts).chain([oldest]).collect());
        }
        records
    };
    let narrow = || columns(look, &few(), &[0]).join("\n");
    first_that_fits(look, &[&|| table(look, &all(), 1), &|| table(look, &few(), 1), &narrow])
}

/// A state as people read it, on the status page too: "published" sounds finished, though the rows still wait in Kafka.
pub(in crate::commands) fn word(state: ObjectState) -> &'static str {
    match state {
        ObjectState::Published => "queued",
        state => state.name(),
    }
}

fn files_in(domain: &DomainStatus, state: ObjectState) -> i64 {
    domain.files.get(&state).copied().unwrap_or(0)
}

fn age(seconds: Option<f64>) -> String {
    seconds.map_or("–".into(), |seconds| span(Duration::from_secs_f64(seconds.max(0.0))))
}

fn outputs(outputs: &OutputsStatus, look: Look) -> String {
    let version = match (outputs.version, &outputs.copies_behind) {
        (_, None) => "S3 was not asked".to_owned(),
        (None, Some(_)) => "nothing published yet".to_owned(),
        (Some(version), Some(behind)) if behind.is_empty() => {
            look.good(&format!("version {version}, whole-file copies current"))
        }
        (Some(version), Some(behind)) => {
            let copies = if behind.len() == 1 { "copy" } else { "copies" };
            look.busy(&format!("version {version}, {} {copies} still older", behind.len()))
        }
    };
    let marks = match outputs.marks {
        0 => "nothing to derive".to_owned(),
        1 => look.busy("1 change waiting to be derived"),
        marks => look.busy(&format!("{} changes waiting to be derived", thousands(marks))),
    };
    format!("{} {version}, {marks}", look.bold("outputs"))
}

/// The replay that has not ended.
fn replay(domain: &DomainStatus, look: Look) -> Option<String> {
    let replay = domain.replay.as_ref()?;
    let kind = if replay.kind == Kind::Shadow { "into a shadow" } else { "in place" };
    let began = replay.began_at.format("%Y-%m-%d %H:%M:%S UTC");
    let text = format!("{} {kind}, {}, begun {began} by {}", domain.domain, replay.request, replay.owner);
    // As wide as the word before it.
    let narrower = Look { width: look.width.saturating_sub(8), ..look };
    Some(format!("{} {}", look.bold("replay "), wrapped(narrower, &text, |line| look.busy(line))))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::status::{FailedOutput, FileStatus, Files, Halted, Orphans, ReplayStatus, Rows};

    const REASON: &str = "line 12: a field is longer than 65536 bytes,\nwhich is the limit: is a quote left open on line 3, \
        where a cell begins with one that no other ends before the end of the line?";

    fn status() -> Status {
        let domains = freshet_topics::DOMAINS.iter().map(|domain| DomainStatus {
            domain: domain.name,
            files: ObjectState::ALL.into_iter().map(|state| (state, 1_234)).collect(),
            rows: Rows { published: 987_654, applied: 987_576, rejected: 78, ..Rows::default() },
            lag_messages: 12_000,
            freshness_seconds: Some(1.25),
            orphans: Some(Orphans { rows: 100_000, more: true, locations: 3 }),
            halted: [2, 3].map(|partition| Halted { partition, reason: "topic was recreated".into() }).to_vec(),
            ..DomainStatus::default()
        });
        let file = |id: i64, state: ObjectState, reason: Option<&str>| FileStatus {
            id,
            domain: "health".into(),
            key: format!("health/a-rather-long-folder-name/another-one/health-2025-09-21-{id:05}.csv"),
            state,
            rows: Some(50_000),
            received: 50_000,
            rejected: 12,
            stale: 7,
            corrected: 3 * (id - 1),
            reason: reason.map(str::to_owned),
            last_modified: DateTime::default(),
            touched_at: DateTime::default(),
            unknown_columns: vec!["colour".into()],
            absent_defaults: vec![],
            overtaken: 49_000,
        };
        let files = vec![file(2, ObjectState::Applied, None), file(1, ObjectState::Rejected, Some(REASON))];
        Status {
            at: DateTime::default(),
            domains: domains.collect(),
            blocked: vec![Blocked {
                table: "health_data".into(),
                waited_seconds: 24.4,
                holder: 812,
                who: "ann, psql".into(),
                statement: "VACUUM FULL".into(),
            }],
            missing_topics: vec![MissingTopic { domain: "climate", topic: "freshet.climate".into() }],
            outputs: OutputsStatus {
                marks: 3,
                version: Some(7),
                copies_behind: Some(vec![]),
                failed: vec![FailedOutput {
                    output: "daily_scores".into(),
                    reason: "no column x".into(),
                    since: DateTime::default(),
                }],
                ..OutputsStatus::default()
            },
            life: LifeStatus { number: 2, began_at: DateTime::default(), why: "restored".into() },
            passed_over: Some(PassedOver {
                rows: 1_234_567,
                files: 12_345,
                domains: vec!["health".into()],
                last_seen: DateTime::default(),
            }),
            columns: vec![ColumnNote {
                domain: "health".into(),
                rule: "unknown_column".into(),
                column: "remarks".into(),
                files: 1_200,
                key: "health/a-rather-long-folder-name/another-one/health-2025-09-21.csv".into(),
            }],
            unmatched: AllUnmatched {
                objects: 1_000,
                newest: vec![Unmatched {
                    key: "helth/2025-09-21/a-rather-long-name-of-a-file.csv".into(),
                    size_bytes: 1,
                    last_modified: DateTime::default(),
                    hint: Some("did you mean `health/`?".into()),
                }],
            },
            event_queue: None,
            unlisted: vec![Unlisted {
                domain: "health".into(),
                prefix: "health/closed/".into(),
                reason: "list s3://raw/health/closed/: access denied (403 AccessDenied)".into(),
                since: DateTime::default(),
            }],
            files: Some(Files { files, total: 9_000 }),
        }
    }

    #[test]
    fn a_replay_that_has_not_ended_is_shown() {
        let mut status = status();
        status.domains[2].replay = Some(ReplayStatus {
            id: 4,
            kind: Kind::Shadow,
            request: "from beginning".into(),
            owner: "here:17:0badcafe".into(),
            began_at: DateTime::default(),
        });
        let text = render(&status, Look::PLAIN);
        let expected =
            "replay  health into a shadow, from beginning, begun 1970-01-01 00:00:00 UTC by here:17:0badcafe";
        assert!(text.lines().any(|line| line == expected), "{text}");
    }

    #[test]
    fn every_line_fits_and_nothing_is_coloured_where_it_is_not_wanted() {
        for width in [80, 100, 180] {
            let text = render(&status(), Look { width, ..Look::PLAIN });
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{} at {width}: {line}", line.chars().count());
            }
            // Whole, whatever the width.
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for whole in [REASON.replace('\n', " ").as_str(), "unknown columns: colour", "health-2025-09-21-00001.csv"]
            {
                assert!(words.contains(whole), "{whole} at {width} in\n{text}");
            }
            println!("{text}\n");
        }
        let text = render(&status(), Look::PLAIN);
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("\nledger  life 2, begun 1970-01-01 00:00:00 UTC (restored)\n"), "{text}");
        assert!(text.contains("queued") && !text.contains("publishing │ published"), "{text}");
        // Long ones go on below.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "halted: health partitions 2, 3: topic was recreated halted: hospital",
            "health_data is locked: freshet has waited 24 s for session 812 (ann, psql): VACUUM FULL.",
            "topic freshet.climate does not exist, so no row of climate is published or applied: run `freshet topics \
             create`",
            "output daily_scores has not been derived since 1970-01-01 00:00:00 UTC: no column x",
            "skipped: 1,234,567 rows of 12,345 files",
            "987,654",
            "100,000+",
            "version 7",
            "the newest 2 of 9,000 files",
            "unknown_column: health `remarks` in 1,200 files, the newest health/",
            "(did you mean `health/`?)",
            "belong to no domain: 999 more objects",
        ] {
            assert!(words.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let colored = render(&status(), Look { color: true, ..Look::PLAIN });
        let mut plain = String::new();
        let mut rest = colored.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain.push_str(before);
            rest = after.split_once('m').map_or("", |(_, rest)| rest);
        }
        plain.push_str(rest);
        assert_eq!(plain, render(&status(), Look::PLAIN));
    }

    #[test]
    fn the_json_names_every_domain() {
        let json = serde_json::to_value(status()).expect("json");
        assert_eq!(json["domains"][2]["domain"], "health");
        assert_eq!(json["domains"][2]["rows"]["applied"], 987_576);
        assert_eq!(json["outputs"]["version"], 7);
    }
}
