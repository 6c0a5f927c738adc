//! A report for people.

use freshet_sinks::ledger::on_one_line;

use super::report::{Place, Report, State};
use crate::commands::terminal::{Look, columns, thousands, wrapped};

/// The report of one file: the result, the reasons and their positions.
pub(super) fn report(report: &Report, look: Look) -> String {
    let of = report.domain.map_or(String::new(), |domain| format!(" ({domain})"));
    let what = match report.state {
        State::Loads => look.good("loads"),
        State::LoadsInPart => look.busy("loads in part"),
        State::Rejected => look.bad("is rejected"),
        State::NotData => look.bad("is not read"),
    };
    let mut parts = vec![format!("{}{of}: {what}{}", look.bold(&on_one_line(&report.file)), counts(report))];
    parts.extend(report.reason.as_ref().map(|reason| indented(look, reason)));
    parts.extend(list(look, "unknown columns", &report.unknown_columns));
    parts.extend(list(look, "columns it lacks, with the contract's value in all rows", &report.absent_defaults));
    let rules = |count: i64, what: &str, name: &str| format!("{} {what} by {name}", thousands(count));
    parts.extend(places(look, "rejects", &report.rejects, report.rejected));
    parts.extend((!report.rejects.is_empty()).then(|| {
        let rules = report
            .rejects_by_rule
            .iter()
            .map(|(rule, rows)| rules(*rows, if *rows == 1 { "row" } else { "rows" }, rule));
        indented(look, &format!("rejected: {}", rules.collect::<Vec<_>>().join(", ")))
    }));
    parts.extend(places(look, "corrections", &report.corrections, report.corrected));
    parts.extend((!report.corrections.is_empty()).then(|| {
        let rules = report.corrections_by_rule.iter().map(|(place, values)| {
            let (column, rule) = place.split_once(':').unwrap_or((place, ""));
            let what = if *values == 1 { "value" } else { "values" };
            rules(*values, &format!("{what} of {column}"), rule)
        });
        indented(look, &format!("corrected: {}", rules.collect::<Vec<_>>().join(", ")))
    }));
    parts.join("\n")
}

fn counts(report: &Report) -> String {
    if report.reason.is_some() {
        return String::new();
    }
    let rows = if report.rows == 1 { "row" } else { "rows" };
    let mut counts = vec![format!("{} {rows}", thousands(report.rows))];
    let more = [
        (report.rejected, "rejected"),
        (report.corrected, if report.corrected == 1 { "value corrected" } else { "values corrected" }),
        (report.overtaken, "overtaken"),
    ];
    counts.extend(
        more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", thousands(*count))),
    );
    format!(", {}", counts.join(", "))
}

fn list(look: Look, what: &str, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| indented(look, &format!("{what}: {}", names.join(", "))))
}

fn indented(look: Look, text: &str) -> String {
    let narrower = Look { width: look.width.saturating_sub(2), ..look };
    wrapped(narrower, text, str::to_owned).lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// The places, and how many are not shown.
fn places(look: Look, what: &str, places: &[Place], all: i64) -> Option<String> {
    if places.is_empty() {
        return None;
    }
    let mut records = vec![["line", "column", "rule", "value"].map(str::to_owned).to_vec()];
    for Place { line, column, value, stored, rule } in places {
        let stored = stored.as_ref().map_or(String::new(), |stored| format!(" → {stored}"));
        let value = value.as_ref().map_or("–".into(), |value| format!("`{value}`"));
        let value = format!("{value}{stored}");
        records.push(vec![line.to_string(), column.unwrap_or("–").to_owned(), (*rule).to_owned(), value]);
    }
    let mut lines: Vec<String> =
        columns(look, &records, &[1, 2, 3]).into_iter().map(|line| format!("    {line}")).collect();
    lines.insert(0, format!("  {what}"));
    let more = all - places.len() as i64;
    lines.extend((more > 0).then(|| look.faint(&format!("    and {} more; --examples shows more", thousands(more)))));
    Some(lines.join("\n"))
}
