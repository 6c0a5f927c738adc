//! Shows what a replay did or would do, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use freshet_ingest::inspect::visible;
use freshet_processors::replay::Preview;
use freshet_sinks::ledger::on_one_line;
use freshet_sinks::replay::correct::{Example, What};
use freshet_sinks::replay::{Kind, Replay};
use freshet_sinks::shadow::{Comparison, Differs, Swapped};
use freshet_topics::Domain;
use sqlx::PgPool;

use crate::commands::terminal::{Look, span, table, thousands};

/// A value longer than this is cut.
const VALUE_CHARS_MAX: usize = 120;

/// `, 250,000 rows in 2.5s (100,000 a second)`; nothing where nothing was read.
pub(in crate::commands) fn at_rate(rows: i64, took: Duration) -> String {
    if rows == 0 {
        return String::new();
    }
    let rate = rows as f64 / took.as_secs_f64().max(0.001);
    format!(", {} rows in {} ({} a second)", thousands(rows), span(took), thousands(rate as i64))
}

/// Not to be taken for an answer.
const NOTHING_READ: &str = "No row was read: the topic does not hold the rows you asked for. If retention or a loss \
                            of Kafka removed them, `freshet republish` sends their files again.";

/// The report of a replay in place.
pub(in crate::commands) fn in_place(domain: &Domain, replay: &Replay, took: Duration, look: Look) -> String {
    let head = format!("{}: replayed{}", domain.name, at_rate(replay.rows_read, took));
    let counts = [
        ("inserted", replay.inserted),
        ("changed", replay.changed),
        ("newly rejected", replay.rejected_anew),
        ("newly accepted", replay.accepted_anew),
        ("removed", replay.removed),
    ];
    if replay.rows_read == 0 {
        return format!("{head}\n{NOTHING_READ}");
    }
    if counts.iter().all(|(_, rows)| *rows == 0) {
        return format!("{head}\nNo differences: {} already agrees with the current rules.", domain.table);
    }
    format!("{head}\n{}\nAffected outputs are published again automatically.", rows_table(&counts, look))
}

fn rows_table(counts: &[(&str, i64)], look: Look) -> String {
    let heading = vec![String::new(), "rows".to_owned()];
    let rows = counts.iter().map(|(name, rows)| vec![(*name).to_owned(), thousands(*rows)]);
    table(look, &[heading].into_iter().chain(rows).collect::<Vec<_>>(), 1)
}

/// Object id → key, for examples.
pub(in crate::commands) async fn file_names(pool: &PgPool, examples: &[Example]) -> Result<BTreeMap<i64, String>> {
    let ids: Vec<i64> = examples.iter().map(|example| example.provenance.object).collect();
    let found: Vec<(i64, String)> = sqlx::query_as("SELECT id, key FROM pipeline.objects WHERE id = ANY ($1)")
        .bind(ids)
        .fetch_all(pool)
        .await
        .context("look up the files of the examples")?;
    Ok(found.into_iter().collect())
}

/// What a replay in place would do.
pub(in crate::commands) fn preview(
    domain: &Domain,
    preview: &Preview,
    files: &BTreeMap<i64, String>,
    took: Duration,
    look: Look,
) -> String {
    let corrected = &preview.corrected;
    let signed = |rows: u64| rows.cast_signed();
    let mut text = format!("{}: dry run{}; nothing was written", domain.name, at_rate(signed(corrected.read), took));
    if corrected.read == 0 {
        return format!("{text}\n{NOTHING_READ}");
    }
    let mut names: Vec<(String, i64)> = vec![
        ("would be inserted".into(), signed(corrected.inserted)),
        ("would be changed".into(), signed(corrected.changed)),
    ];
    names.extend(corrected.columns.iter().map(|(column, rows)| (format!("  in {column}"), signed(*rows))));
    names.extend(corrected.rejected_anew.iter().map(|(rule, rows)| (format!("newly rejected: {rule}"), signed(*rows))));
    names.extend(corrected.accepted_anew.iter().map(|(rule, rows)| (format!("newly accepted: {rule}"), signed(*rows))));
    if names.iter().all(|(_, rows)| *rows == 0) {
        return format!("{text}\nNothing would change: {} already agrees with the current rules.", domain.table);
    }
    let named: Vec<(&str, i64)> = names.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
    text = format!("{text}\n{}", rows_table(&named, look));
    if preview.at_most {
        text.push_str(
            "\nToo many keys differ to remember them all: a key with several rows may be counted more than \
                       once.",
        );
    }
    for example in &preview.examples {
        text.push_str(&format!("\n  {}", self::example(example, files, look)));
    }
    text
}

fn example(example: &Example, files: &BTreeMap<i64, String>, look: Look) -> String {
    let provenance = &example.provenance;
    let file = match files.get(&provenance.object) {
        Some(key) => on_one_line(key).into_owned(),
        None => format!("object {}", provenance.object),
    };
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), cut);
    let what = match &example.what {
        What::Inserted { key } => format!("inserts {}", whole(key)),
        What::Changed { key, column, before, after } => {
            format!("{} {column}: {} → {}", whole(key), value(before), value(after))
        }
        What::RejectedAnew(refusal) => {
            let column = refusal.column.map(|column| format!(" {column}")).unwrap_or_default();
            format!("rejected, {}{column}: {}", refusal.rule, value(&refusal.value))
        }
        What::AcceptedAnew(rule) => format!("accepted, no longer {rule}"),
    };
    format!("{} {what}", look.faint(&format!("{file} line {}:", provenance.line)))
}

fn cut(text: &str) -> String {
    visible(text, VALUE_CHARS_MAX)
}

/// A key, which a long one is still told from another by; but its text does not tell the terminal what to do.
fn whole(key: &str) -> String {
    visible(key, usize::MAX)
}

/// How a shadow compares with the live table.
pub(in crate::commands) fn comparison(domain: &Domain, comparison: &Comparison, look: Look) -> String {
    let Comparison { live_rows, shadow_rows, live_checksum, shadow_checksum, .. } = comparison;
    if comparison.is_only_counted {
        let shadow = format!("shadow.{}", domain.table);
        let rows = [(domain.table, *live_rows), (shadow.as_str(), *shadow_rows)];
        return format!(
            "{}\nThe key ({}) or the types of its columns are declared otherwise than those of the table: rows cannot be \
             compared one by one, only counted.",
            rows_table(&rows, look),
            domain.key.join(", ")
        );
    }
    let records = [
        ["", "rows", "checksum"].map(str::to_owned).to_vec(),
        vec![domain.table.to_owned(), thousands(*live_rows), live_checksum.clone()],
        vec![format!("shadow.{}", domain.table), thousands(*shadow_rows), shadow_checksum.clone()],
    ];
    let mut text = table(look, &records, 1);
    if comparison.is_same() {
        text.push_str("\nThe shadow and the table are equal.");
        return text;
    }
    text.push_str(&format!(
        "\nA swap would add {} rows, remove {} and change {}. The first of each:",
        thousands(comparison.only_shadow),
        thousands(comparison.only_live),
        thousands(comparison.changed)
    ));
    for Differs { key, live, shadow } in &comparison.first {
        let side = |name: &str, row: &Option<String>| row.as_deref().map(|row| format!("\n    {name:<7}{}", cut(row)));
        let sides = [side("live", live), side("shadow", shadow)].into_iter().flatten().collect::<String>();
        text.push_str(&format!("\n  {}{sides}", whole(key)));
    }
    text
}

/// What a swap did, with the rows of both tables as they were counted before it: more may have come since.
pub(in crate::commands) fn swapped(
    domain: &Domain,
    (rows_before, rows): (i64, i64),
    Swapped { views, dropped }: &Swapped,
) -> String {
    let views = match views {
        0 => String::new(),
        1 => "; one view reads it now".to_owned(),
        views => format!("; {views} views read it now"),
    };
    let dropped = match dropped.is_empty() {
        true => String::new(),
        false => {
            format!("; views dropped, because their outputs' queries fail on the new table: {}", dropped.join(", "))
        }
    };
    format!(
        "{}: swapped: {} has {} rows, had {}, counted before the last rows came{views}{dropped}",
        domain.name,
        domain.table,
        thousands(rows),
        thousands(rows_before)
    )
}

/// A replay that has not ended.
pub(in crate::commands) fn unfinished(replay: &Replay) -> String {
    let kind = if replay.kind == Kind::Shadow { "into a shadow" } else { "in place" };
    format!(
        "replay {} {kind}, {}, begun {} by {}, {} rows read",
        replay.id,
        replay.request,
        replay.began_at.format("%Y-%m-%d %H:%M:%S UTC"),
        replay.owner,
        thousands(replay.rows_read)
    )
}

/// A replay that was given up, which has removed this many rows.
pub(in crate::commands) fn abandoned(domain: &Domain, removed: i64) -> String {
    let name = domain.name;
    let removed = match removed {
        0 => return format!("{name}: abandoned"),
        1 => "1 row was".to_owned(),
        rows => format!("{} rows were", thousands(rows)),
    };
    format!(
        "{name}: abandoned. {removed} removed as rejects, or because the key is another now. \
         `freshet replay {name} --from beginning` brings back what the rules accept, and what was replaced."
    )
}

#[cfg(test)]
mod tests {
    use freshet_sinks::replay::correct::Corrected;
    use freshet_topics::judge::Refusal;
    use freshet_topics::{DOMAINS, Provenance};

    use super::*;

    fn provenance() -> Provenance {
        Provenance {
            object: 7,
            generation: 1,
            row: 3,
            line: 5,
            src_ord: 1,
            seq: 0,
            parser: 1,
            nonce: uuid::Uuid::nil(),
            partitions: 4,
        }
    }

    #[test]
    fn what_senders_wrote_does_not_tell_the_terminal_what_to_do() {
        let files = BTreeMap::from([(7, "health/\u{1b}[2J.csv".to_owned())]);
        let (key, text) = ("(a\r,1)".to_owned(), || Some("a\u{1b}[31m\nb".to_owned()));
        let refusal = Refusal { rule: "late", column: Some("name"), value: text() };
        let kinds = [
            (What::Inserted { key: key.clone() }, "inserts (a\\r,1)"),
            (
                What::Changed { key: key.clone(), column: "name", before: None, after: text() },
                "(a\\r,1) name: NULL → a\\u{1b}[31m\\nb",
            ),
            (What::RejectedAnew(refusal), "rejected, late name: a\\u{1b}[31m\\nb"),
        ];
        for (what, expected) in kinds {
            let shown = example(&Example { provenance: provenance(), what }, &files, Look::PLAIN);
            assert_eq!(shown, format!("health/\\u{{1b}}[2J.csv line 5: {expected}"));
        }
        let first = vec![Differs { key, live: text(), shadow: None }];
        let found = Comparison { only_live: 1, live_rows: 1, first, ..Comparison::default() };
        let shown = comparison(DOMAINS[2], &found, Look::PLAIN);
        assert!(shown.ends_with("\n  (a\\r,1)\n    live   a\\u{1b}[31m\\nb"), "{shown}");
    }

    #[test]
    fn a_preview_counts_by_column_and_rule_and_shows_where() {
        let provenance = provenance();
        let changed = What::Changed {
            key: "(1,2025-08-22,f,)".into(),
            column: "dengue_cases",
            before: Some("4911".into()),
            after: None,
        };
        let found = Preview {
            corrected: Corrected {
                read: 1_000,
                inserted: 2,
                changed: 3,
                columns: BTreeMap::from([("dengue_cases", 3)]),
                accepted_anew: BTreeMap::from([("uncastable".to_owned(), 4)]),
                ..Corrected::default()
            },
            examples: vec![Example { provenance, what: changed }],
            at_most: false,
        };
        let files = BTreeMap::from([(7, "health/a.csv".to_owned())]);
        let text = preview(DOMAINS[2], &found, &files, Duration::from_secs(1), Look::PLAIN);
        for part in [
            "nothing was written",
            "in dengue_cases",
            "newly accepted: uncastable",
            "health/a.csv line 5: (1,2025-08-22,f,) dengue_cases: 4911 → NULL",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        println!("{text}");
    }

    #[test]
    fn tables_of_different_keys_are_only_counted() {
        let counted = Comparison { live_rows: 1_200, shadow_rows: 7, is_only_counted: true, ..Comparison::default() };
        let text = comparison(DOMAINS[2], &counted, Look::PLAIN);
        assert!(text.contains("1,200") && text.contains("rows cannot be compared one by one"), "{text}");
        assert!(!text.contains("checksum") && !text.contains("equal"), "{text}");
    }

    #[test]
    fn a_replay_that_is_given_up_says_what_it_removed_and_what_brings_it_back() {
        assert_eq!(abandoned(DOMAINS[2], 0), "health: abandoned");
        for (rows, words) in [(1, "1 row was removed"), (1_200, "1,200 rows were removed")] {
            let text = abandoned(DOMAINS[2], rows);
            assert!(text.contains(words) && text.contains("`freshet replay health --from beginning`"), "{text}");
        }
    }

    #[test]
    fn rules_that_have_not_changed_say_so() {
        let of = |read| {
            let found = Preview { corrected: Corrected { read, ..Corrected::default() }, ..Preview::default() };
            preview(DOMAINS[2], &found, &BTreeMap::new(), Duration::ZERO, Look::PLAIN)
        };
        assert!(of(7).contains("Nothing would change: health_data already agrees with the current rules."));
        assert!(of(0).contains("No row was read"), "{}", of(0));
    }
}
