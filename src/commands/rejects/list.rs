//! `freshet rejects list`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use freshet_ingest::inspect::visible;
use freshet_sinks::ledger::on_one_line;
use freshet_topics::Domain;
use serde_json::json;

use super::Which;
use super::select::{self, Reject};
use super::without::{self, Without};
use crate::commands::terminal::{Look, columns, shorten, thousands, wrapped};
use crate::roles::Services;

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 40;

pub(super) async fn run(
    services: &Services,
    domains: &[&'static Domain],
    which: &Which,
    limit: u32,
    as_json: bool,
    look: Look,
) -> Result<ExitCode> {
    let total = select::count(&services.pool, domains, which).await.context("count the rejects")?;
    let rejects = select::read(&services.pool, domains, which, limit).await.context("read the rejects")?;
    let without = without::find(services, domains, which).await?;
    match as_json {
        true => {
            let without: Vec<_> = without.iter().map(|it| json!({ "file": it.file, "reason": it.reason })).collect();
            let found = json!({ "total": total, "rejects": rejects, "files_without_rejects": without });
            crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&found).context("write JSON")?));
        }
        false => println!("{}", show(&rejects, total, &without, look)),
    }
    Ok(match without::are_known(&without) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// A heading for each file, and its rows below.
fn show(rejects: &[Reject], total: i64, without: &[Without], look: Look) -> String {
    if rejects.is_empty() && without.is_empty() {
        return "no such row was rejected".to_owned();
    }
    let mut text = Vec::new();
    for of_file in rejects.chunk_by(|one, other| one.object == other.object && one.domain == other.domain) {
        let file = match &of_file[0].file {
            Some(key) => on_one_line(key).into_owned(),
            None => format!("messages of {} that are not rows", of_file[0].topic),
        };
        text.push(look.bold(&file));
        let mut records = vec![["line", "column", "rule", "value"].map(str::to_owned).to_vec()];
        records.extend(of_file.iter().map(|reject| {
            let value =
                reject.value.as_ref().map_or("–".into(), |value| format!("`{}`", visible(value, VALUE_CHARS_MAX)));
            vec![reject.line.to_string(), reject.column.clone().unwrap_or("–".into()), reject.rule.clone(), value]
        }));
        let room = look.width.saturating_sub(2);
        text.extend(
            columns(Look { color: false, ..look }, &records, &[0, 1, 2, 3])
                .iter()
                .map(|line| format!("  {}", shorten(line, room))),
        );
    }
    let more = total - rejects.len() as i64;
    text.extend((more > 0).then(|| look.faint(&format!("and {} more; --limit shows more", thousands(more)))));
    text.extend(without.iter().map(|file| wrapped(look, &file.reason, str::to_owned)));
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn rows_stand_under_their_file_and_what_is_left_out_is_counted() {
        let reject = |object: i64, line: i64, value: &str| Reject {
            domain: "health".into(),
            file: (object > 0).then(|| format!("health/{object}.csv")),
            object,
            generation: 1,
            row: line - 2,
            line,
            column: (object > 0).then(|| "date".into()),
            value: Some(value.into()),
            rule: "uncastable".into(),
            rejected_at: DateTime::default(),
            raw: "{}".into(),
            topic: "freshet.health".into(),
            partition: 0,
            offset: 1,
        };
        let rejects = [reject(2, 3, "someday"), reject(2, 14, "a\u{a0}b"), reject(0, 0, &"x".repeat(200))];
        let text = show(&rejects, 1_003, &[], Look { width: 60, ..Look::PLAIN });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "health/2.csv");
        assert_eq!(lines[2], "  3     date    uncastable  `someday`");
        assert_eq!(lines[3], "  14    date    uncastable  `a\\u{a0}b`");
        assert_eq!(lines[4], "messages of freshet.health that are not rows");
        assert_eq!(lines[7], "and 1,000 more; --limit shows more");
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{text}");
        assert_eq!(show(&[], 0, &[], Look::PLAIN), "no such row was rejected");
        let odd = Reject { file: Some("health/\u{1b}[31m\nred.csv".into()), ..reject(3, 2, "x") };
        let text = show(&[odd], 1, &[], Look::PLAIN);
        assert_eq!(text.lines().next(), Some("health/\\u{1b}[31m\\nred.csv"), "a terminal is not told what to do");
        let without = [Without { file: "a".into(), reason: "a: no row of it was rejected".into(), is_known: true }];
        assert_eq!(show(&[], 0, &without, Look::PLAIN), "a: no row of it was rejected");
    }
}
