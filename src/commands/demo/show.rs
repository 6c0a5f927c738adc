//! The results of the demonstration: tables, outputs, times and addresses.

use std::time::Duration;

use anyhow::{Context, Result};
use freshet_sinks::outputs::{copy_key, read_current};
use sqlx::AssertSqlSafe;

use super::Demo;
use crate::commands::terminal::{shorten, span, table, thousands, without_password};
use crate::status::Waited;

/// Rows of each output that are shown.
const ROWS: usize = 3;
/// The beginning of an output is read, not all of it: enough for a header and some rows.
const BYTES: usize = 8 * 1024;
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
        println!("{}", excerpt(demo, &text));
    }
    Ok(())
}

async fn beginning(demo: &Demo<'_>, key: &str) -> Result<String> {
    let range = format!("bytes=0-{}", BYTES - 1);
    let answer = demo.s3.get_object().bucket(demo.processed_bucket).key(key).range(range).send().await?;
    let bytes = answer.body.collect().await?.into_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A table of the first rows and of as many columns as fit: the first ones, which say what a row is about, and
/// the last ones, which hold the scores.
fn excerpt(demo: &Demo<'_>, text: &str) -> String {
    let rows: Vec<Vec<String>> = records(text).take(ROWS + 1).collect();
    let Some(header) = rows.first() else { return "(empty)".into() };
    let cell = |row: &Vec<String>, column: usize| rounded(row.get(column).map_or("", String::as_str));
    let width_of = |column: usize| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0) + 3;
    let chosen = choose(&(0..header.len()).map(width_of).collect::<Vec<_>>(), demo.look.width);
    let records: Vec<Vec<String>> = rows
        .iter()
        .map(|row| chosen.iter().map(|column| column.map_or("…".into(), |column| cell(row, column))).collect())
        .collect();
    table(demo.look, &records, 0)
}

/// Columns by index, `None` for the gap where some were left out.
fn choose(widths: &[usize], width: usize) -> Vec<Option<usize>> {
    if widths.iter().sum::<usize>() < width {
        return (0..widths.len()).map(Some).collect();
    }
    // The gap takes four, the last border one.
    let mut left = width.saturating_sub(5);
    let (mut front, mut back) = (Vec::new(), Vec::new());
    let mut order: Vec<(bool, usize)> = (0..3.min(widths.len())).map(|column| (true, column)).collect();
    order.extend((3..widths.len()).rev().map(|column| (false, column)));
    for (in_front, column) in order {
        let Some(rest) = left.checked_sub(widths[column]) else { break };
        left = rest;
        if in_front { front.push(Some(column)) } else { back.push(Some(column)) }
    }
    front.push(None);
    front.extend(back.into_iter().rev());
    front
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
    fn the_first_columns_and_the_last_are_kept() {
        assert_eq!(choose(&[10, 10, 10], 100), [Some(0), Some(1), Some(2)]);
        let chosen = choose(&[10; 12], 60);
        assert_eq!(chosen, [Some(0), Some(1), Some(2), None, Some(10), Some(11)]);
        assert_eq!(choose(&[50, 50, 50], 60), [Some(0), None]);
    }

    #[test]
    fn numbers_are_rounded_for_reading_only() {
        for (text, shown) in [("9.905782514157796", "9.9058"), ("2025-09-21", "2025-09-21"), ("0.5", "0.5"), ("", "")] {
            assert_eq!(rounded(text), shown);
        }
        assert_eq!(rounded("St. Somewhere on the Hill"), shorten("St. Somewhere on the Hill", CELL));
    }
}
