//! The results of the demonstration: tables, outputs, times and addresses.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use freshet_sinks::outputs::{copy_key, read_current};
use freshet_topics::pipeline::output::Output;
use sqlx::AssertSqlSafe;

use super::Demo;
use crate::commands::terminal::{Look, shorten, span, table, thousands, without_password};
use crate::status::Waited;

/// Rows of each output that are shown.
const ROWS: usize = 3;
/// The beginning of an output is read, not all of it: enough for a header and some rows.
const BYTES: usize = 8 * 1024;
/// Columns that a gap takes.
const GAP: usize = 4;
/// Widest cell shown.
const CELL: usize = 18;

/// The row counts of the tables.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn tables(demo: &Demo<'_>) -> Result<()> {
    let mut records = vec![["table", "rows", "rejected", "corrected"].map(str::to_owned).to_vec()];
    for domain in demo.pipeline.domains {
        let sql = format!(
            "SELECT (SELECT count(*) FROM \"{}\"), coalesce(sum(rejected), 0)::bigint,
                coalesce(sum(corrected), 0)::bigint
             FROM pipeline.progress WHERE domain = $1",
            domain.table
        );
        let counts: (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(domain.name)
            .fetch_one(demo.pool)
            .await
            .with_context(|| format!("count the rows of {}", domain.table))?;
        let (rows, rejected, corrected) = counts;
        records.push(vec![domain.table.to_owned(), thousands(rows), thousands(rejected), thousands(corrected)]);
    }
    println!("{}", demo.look.bold("In Postgres"));
    println!("{}", table(demo.look, &records, 1));
    Ok(())
}

/// The first rows of every output, from the copies that any reader of the bucket sees.
///
/// # Errors
/// If S3 does not answer.
pub(super) async fn outputs(demo: &Demo<'_>) -> Result<()> {
    let manifest = read_current(demo.s3, demo.processed_bucket).await.context("read the published version")?;
    let Some(manifest) = manifest else {
        println!("no outputs yet: no rows for them have arrived");
        return Ok(());
    };
    for output in manifest.changed.keys() {
        let key = copy_key(output, "csv");
        let text =
            beginning(demo, &key).await.with_context(|| format!("read output s3://{}/{key}", demo.processed_bucket))?;
        println!();
        println!("{} {}", demo.look.bold(output), demo.look.faint(&format!("s3://{}/{key}", demo.processed_bucket)));
        println!("{}", excerpt(demo, output, &text));
    }
    Ok(())
}

async fn beginning(demo: &Demo<'_>, key: &str) -> Result<String> {
    let range = format!("bytes=0-{}", BYTES - 1);
    let answer = demo.s3.get_object().bucket(demo.processed_bucket).key(key).range(range).send().await?;
    let bytes = answer.body.collect().await?.into_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A table of the first rows and of as many columns as fit, those first that say what a row is about and what the output is
/// for: its key, what the status page draws of it, and the columns that its head describes.
fn excerpt(demo: &Demo<'_>, output: &str, text: &str) -> String {
    let rows: Vec<Vec<String>> = records(text).take(ROWS + 1).collect();
    let Some(header) = rows.first() else { return "(empty)".into() };
    let output = demo.pipeline.outputs.iter().find(|it| it.name == output);
    drawn(demo.look, header, &rows[1..], &output.map_or(Vec::new(), |output| important(output)))
}

/// Columns by name, the most important first.
fn important(output: &Output) -> Vec<&'static str> {
    let chart = output.chart.into_iter().flat_map(|chart| {
        [chart.by].into_iter().chain(chart.label).chain([chart.value]).chain(chart.beside.iter().copied())
    });
    output.key.iter().copied().chain(chart).chain(output.columns.iter().map(|(name, _)| *name)).collect()
}

fn drawn(look: Look, header: &[String], rows: &[Vec<String>], important: &[&str]) -> String {
    let cell = |row: &Vec<String>, column: usize| rounded(row.get(column).map_or("", String::as_str));
    let widest = |column: usize| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
    let named = important.iter().filter_map(|name| header.iter().position(|it| it == name));
    let order: Vec<usize> = named.chain(0..header.len()).collect();
    let whole: Vec<String> = header.iter().map(|name| shorten(name, CELL)).collect();
    let broken: Vec<String> = header.iter().enumerate().map(|(column, name)| broken(name, widest(column))).collect();
    let choose = |headings: &[String]| {
        let heading = |column: usize| headings[column].lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..header.len()).map(|column| widest(column).max(heading(column)) + 3).collect();
        choose(&widths, &order, look.width)
    };
    let (headings, chosen) = match choose(&whole) {
        chosen if chosen.iter().all(Option::is_some) => (whole, chosen),
        _ => {
            let chosen = choose(&broken);
            (broken, chosen)
        }
    };
    let record = |cell: &dyn Fn(usize) -> String| -> Vec<String> {
        chosen.iter().map(|column| column.map_or("…".into(), cell)).collect()
    };
    let mut records = vec![record(&|column| headings[column].clone())];
    records.extend(rows.iter().map(|row| record(&|column| cell(row, column))));
    table(look, &records, 0)
}

/// A name over two lines, parted where both are short, if it is longer than what stands below it.
fn broken(name: &str, width: usize) -> String {
    let places = name.match_indices('_').map(|(at, _)| at);
    let best = places.min_by_key(|at| (*at).max(name.len() - at));
    match best {
        Some(at) if name.chars().count() > width => format!("{}\n{}", &name[..at], shorten(&name[at..], CELL)),
        _ => shorten(name, CELL),
    }
}

/// Columns by index, those that come first in `order` as long as they fit, in the order of the output; `None` for each gap
/// where some were left out. `widths` are with the line and the blanks before the next column.
fn choose(widths: &[usize], order: &[usize], width: usize) -> Vec<Option<usize>> {
    let with_gaps = |chosen: &BTreeSet<usize>| {
        let mut columns: Vec<Option<usize>> = Vec::new();
        for column in 0..widths.len() {
            match chosen.contains(&column) {
                true => columns.push(Some(column)),
                false if columns.last() == Some(&None) => {}
                false => columns.push(None),
            }
        }
        columns
    };
    let mut chosen = BTreeSet::new();
    for column in order {
        let is_new = chosen.insert(*column);
        let columns = with_gaps(&chosen);
        let taken: usize = 1 + columns.iter().map(|column| column.map_or(GAP, |column| widths[column])).sum::<usize>();
        if is_new && taken > width {
            chosen.remove(column);
        }
    }
    with_gaps(&chosen)
}

/// A cell for reading: four decimals are enough here.
fn rounded(text: &str) -> String {
    match text.split_once('.') {
        Some((_, decimals)) if decimals.len() > 4 => {
            text.parse().map_or_else(|_| shorten(text, CELL), |value: f64| format!("{value:.4}"))
        }
        _ => shorten(text, CELL),
    }
}

/// The records of CSV text, but not a last one that was cut off.
fn records(text: &str) -> impl Iterator<Item = Vec<String>> {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    let mut rest = text[..end].chars().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let (mut record, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        while let Some(character) = rest.next() {
            match character {
                '"' if quoted && rest.peek() == Some(&'"') => cell.extend(rest.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => record.push(std::mem::take(&mut cell)),
                '\r' if !quoted => {}
                '\n' if !quoted => break,
                other => cell.push(other),
            }
        }
        record.push(cell);
        Some(record)
    })
}

pub(super) fn timing(demo: &Demo<'_>, waited: &Waited, drop_to_visible: Option<Duration>) {
    let all = span(Duration::from_secs_f64(waited.seconds));
    println!();
    println!("{}", demo.look.bold("Times"));
    println!("  {:<18} {all}, applied and published", format!("{} files", waited.objects));
    if let Some(duration) = drop_to_visible {
        println!("  {:<18} {}, from the drop to its rows in Postgres", "one more file", span(duration));
    }
}

pub(super) fn places(demo: &Demo<'_>) {
    println!();
    println!("{}", demo.look.bold("Where everything is"));
    for (label, value) in &demo.places {
        println!("  {label:<18} {}", without_password(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read_as_it_is_written() {
        let text = "a,b\r\n1,\"x, \"\"y\"\"\nz\"\n,\ncut,of";
        let rows: Vec<_> = records(text).collect();
        assert_eq!(rows, [vec!["a", "b"], vec!["1", "x, \"y\"\nz"], vec!["", ""]]);
        assert_eq!(records("").count(), 0);
        assert_eq!(records("cut").count(), 0);
    }

    #[test]
    fn the_most_important_columns_are_kept_in_their_order() {
        let none: [usize; 0] = [];
        assert_eq!(choose(&[10; 3], &[2, 0, 1], 31), [Some(0), Some(1), Some(2)]);
        assert_eq!(choose(&[10; 5], &[3, 1, 0, 2, 4], 36), [None, Some(1), None, Some(3), None]);
        // One that is too wide makes no room for itself, and those after it may fit.
        assert_eq!(choose(&[10, 50, 10], &[1, 0, 2], 40), [Some(0), None, Some(2)]);
        assert_eq!(choose(&[], &none, 40), []);
    }

    #[test]
    fn what_an_output_is_for_is_shown_in_eighty_columns() {
        let pipeline = freshet_topics::Pipeline::shipped();
        let output = pipeline.outputs.iter().find(|it| it.name == "resilience_scores").expect("an output");
        let text = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let header =
            text(&["location_id", "date", "location_name", "overall_risk", "resource_score", "resilience_score"]);
        let row = text(&["1", "2025-06-24", "North Palmaabad", "0.78796", "43.99061", "99.55868"]);
        let wide = drawn(Look { width: 80, ..Look::PLAIN }, &header, std::slice::from_ref(&row), &important(output));
        let expected = "│ location │            │                 │ overall │ resource │ resilience │\n\
                        │      _id │       date │   location_name │   _risk │   _score │     _score │";
        assert!(wide.contains(expected) && wide.lines().all(|line| line.chars().count() <= 80), "{wide}");
        let narrow = drawn(Look { width: 60, ..Look::PLAIN }, &header, &[row], &important(output));
        assert!(narrow.contains("99.5587") && narrow.contains("│ … │"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    }

    #[test]
    fn numbers_are_rounded_for_reading_only() {
        for (text, shown) in [("9.905782514157796", "9.9058"), ("2025-09-21", "2025-09-21"), ("0.5", "0.5"), ("", "")] {
            assert_eq!(rounded(text), shown);
        }
        assert_eq!(rounded("St. Somewhere on the Hill"), shorten("St. Somewhere on the Hill", CELL));
    }
}
