//! The charts that outputs declare, from the newest published row of each item. They are read from the outputs'
//! own files, so that the page computes nothing of its own.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use chrono::{Days, NaiveDate, Utc};
use freshet_sinks::outputs::{FileRef, Manifest, Store};
use freshet_topics::pipeline::output::{Chart, Output, Worst};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Windows that are looked at, the newest first: on the first day of one not every thing has a row in it yet.
const WINDOWS: usize = 2;
/// Whose windows are read, the first that the output has: a month holds a row of most things and is soon read.
const KINDS: [&str; 5] = ["month", "week", "day", "year", "all"];
/// A file that is larger is not read: some hundred thousand rows are more than a chart shows.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Things that are shown, the worst first.
const THINGS: usize = 60;

/// The charts of a pipeline's outputs, as last read.
#[derive(Debug, Default)]
pub(super) struct Charts(Vec<Drawn>);

impl Charts {
    /// Those that the heads of `outputs` ask for, with nothing in them yet.
    pub(super) fn of(outputs: &[&'static Output]) -> Charts {
        let charts = outputs.iter().filter_map(|output| Some((*output, output.chart?)));
        Charts(charts.map(|(output, chart)| Drawn::new(output, chart)).collect())
    }

    /// Reads the newest files again where they are others than before. A chart whose files cannot be read stays as it
    /// was; the first such error is returned once the other charts are read.
    pub(super) async fn look(&mut self, store: &Store, manifest: &Manifest) -> Result<()> {
        let mut looked = Ok(());
        for drawn in &mut self.0 {
            let read = drawn.look(store, manifest).await;
            looked = looked.and(read.with_context(|| format!("read the charts of {}", drawn.output)));
        }
        looked
    }
}

impl Serialize for Charts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

/// A chart and what is in it.
#[derive(Debug, Serialize)]
struct Drawn {
    output: &'static str,
    /// The head's own; the page makes one of the output's name where there is none.
    title: Option<&'static str>,
    description: &'static str,
    /// The column that tells the things apart.
    by: &'static str,
    /// The column that names the things for people.
    label: Column,
    /// The column that is drawn first, then those beside it.
    values: Vec<Column>,
    newest: Option<Column>,
    /// Of the first column.
    range: Option<(i32, i32)>,
    is_low_worst: bool,
    /// Whether the files are too large to be read.
    too_large: bool,
    /// Things that have a row.
    things: usize,
    rows: Vec<Row>,
    #[serde(skip)]
    chart: Chart,
    /// The files they were read from.
    #[serde(skip)]
    files: Vec<FileRef>,
}

/// A column and what the head says that it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Column {
    name: &'static str,
    meaning: Option<&'static str>,
}

/// The newest row of a thing.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    thing: String,
    label: String,
    newest: Option<String>,
    /// In the order of the chart's columns; none where it is not known.
    values: Vec<Option<f64>>,
}

impl Drawn {
    fn new(output: &'static Output, chart: Chart) -> Drawn {
        let column = |name| Column {
            name,
            meaning: output.columns.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning),
        };
        Drawn {
            output: output.name,
            title: chart.title,
            description: output.description,
            by: chart.by,
            label: column(chart.label.unwrap_or(chart.by)),
            values: [chart.value].iter().chain(chart.beside).copied().map(column).collect(),
            newest: chart.newest.map(column),
            range: chart.range,
            is_low_worst: chart.worst == Worst::Low,
            too_large: false,
            things: 0,
            rows: Vec::new(),
            chart,
            files: Vec::new(),
        }
    }

    async fn look(&mut self, store: &Store, manifest: &Manifest) -> Result<()> {
        let files = newest(manifest, self.output, Utc::now().date_naive());
        if files == self.files {
            return Ok(());
        }
        self.too_large = files.iter().any(|file| file.bytes > FILE_BYTES_MAX);
        let columns = columns(&self.chart);
        let mut cells = Vec::new();
        for file in files.iter().filter(|_| !self.too_large) {
            let whole = store.fetch(file).await?;
            let mut json = Vec::new();
            whole.read()?.copy(0, whole.len(), &mut json)?;
            let columns = columns.clone();
            // Some tens of milliseconds for the largest.
            let read = tokio::task::spawn_blocking(move || read(&json, &columns)).await?;
            cells.extend(read.with_context(|| format!("read {}", file.key))?);
        }
        let mut rows = newest_of_each(cells, &self.chart);
        self.things = rows.len();
        rows.truncate(THINGS);
        (self.rows, self.files) = (rows, files);
        Ok(())
    }
}

/// The files of the newest windows of an output, as JSON. Windows that start after tomorrow count only if there are no
/// others: contracts accept dates that are far off, and two mistyped ones would hide all that is known of today.
fn newest(manifest: &Manifest, output: &str, today: NaiveDate) -> Vec<FileRef> {
    let of = |kind: &str| {
        let windows = manifest.windows.iter().filter(|window| window.output == output && window.window_kind == kind);
        let mut windows: Vec<_> = windows.collect();
        windows.sort_by_key(|window| std::cmp::Reverse(window.window_start));
        windows
    };
    let windows = KINDS.iter().map(|kind| of(kind)).find(|windows| !windows.is_empty()).unwrap_or_default();
    let tomorrow = today + Days::new(1);
    let later = windows.iter().position(|window| window.window_start <= tomorrow).unwrap_or(0);
    windows.into_iter().skip(later).take(WINDOWS).filter_map(|window| window.files.get("json").cloned()).collect()
}

/// The columns that a chart needs: item, label, the column that decides the newest row, and the values.
fn columns(chart: &Chart) -> Vec<&'static str> {
    let named = [chart.by, chart.label.unwrap_or(chart.by), chart.newest.unwrap_or(chart.by), chart.value];
    named.iter().chain(chart.beside).copied().collect()
}

/// The newest row of each thing, the worst first, unknown ones last. `cells`: a row each, in the order of [`columns`].
fn newest_of_each(cells: Vec<Vec<Value>>, chart: &Chart) -> Vec<Row> {
    let mut newest: BTreeMap<String, (Value, Row)> = BTreeMap::new();
    for row in cells {
        let [thing, label, time, values @ ..] = row.as_slice() else { continue };
        let time = if chart.newest.is_some() { time.clone() } else { Value::Null };
        let row = Row {
            thing: text(thing),
            label: text(label),
            newest: chart.newest.map(|_| text(&time)),
            values: values.iter().map(Value::as_f64).collect(),
        };
        match newest.get(&row.thing) {
            Some((known, _)) if !is_after(&time, known) => {}
            _ => _ = newest.insert(row.thing.clone(), (time, row)),
        }
    }
    let mut rows: Vec<Row> = newest.into_values().map(|(_, row)| row).collect();
    let sign = if chart.worst == Worst::Low { 1.0 } else { -1.0 };
    let badness = |row: &Row| row.values.first().copied().flatten().map_or(f64::INFINITY, |value| sign * value);
    rows.sort_by(|left, right| badness(left).total_cmp(&badness(right)));
    rows
}

/// Numbers by their size; anything else, dates and times among it, as text. Nothing is after what it equals.
fn is_after(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left > right,
        _ => text(left) > text(right),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The rows of a file, of each the cells of `columns`; a column that a row does not have is NULL. The rest is passed
/// over as it is read, so that a wide row costs no more than a narrow one.
fn read(json: &[u8], columns: &[&'static str]) -> Result<Vec<Vec<Value>>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let rows = Rows(columns).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(rows)
}

struct Rows<'a>(&'a [&'static str]);
struct Cells<'a>(&'a [&'static str]);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Vec<Value>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Vec<Value>>;
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of rows")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(row) = rows.next_element_seed(Cells(self.0))? {
            read.push(row);
        }
        Ok(read)
    }
}

impl<'de> DeserializeSeed<'de> for Cells<'_> {
    type Value = Vec<Value>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Cells<'_> {
    type Value = Vec<Value>;
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row as an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut row: A) -> Result<Self::Value, A::Error> {
        let mut cells = vec![Value::Null; self.0.len()];
        while let Some(name) = row.next_key::<String>()? {
            if !self.0.contains(&name.as_str()) {
                row.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: Value = row.next_value()?;
            for (column, cell) in self.0.iter().zip(&mut cells) {
                if *column == name {
                    cell.clone_from(&value);
                }
            }
        }
        Ok(cells)
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::WindowFiles;

    use super::*;

    const CHART: Chart = Chart {
        title: None,
        by: "place_id",
        label: Some("place"),
        value: "strength",
        newest: Some("date"),
        beside: &["risk"],
        range: Some((0, 100)),
        worst: Worst::Low,
    };

    fn rows(json: &str, chart: &Chart) -> Vec<(String, Vec<Option<f64>>)> {
        let cells = read(json.as_bytes(), &columns(chart)).expect("rows");
        newest_of_each(cells, chart).into_iter().map(|row| (row.label, row.values)).collect()
    }

    #[test]
    fn each_thing_stands_once_with_its_newest_row_the_worst_first() {
        let json = r#"[
            {"place_id":1,"date":"2025-09-20","place":"a","risk":1.0,"more":[{"x":1}],"strength":99.5},
            {"place_id":2,"date":"2025-09-21","place":"b","risk":null,"strength":null},
            {"place_id":1,"date":"2025-09-22","place":"a","risk":40.0,"strength":80},
            {"place_id":3,"date":"2025-08-31","place":"a","risk":90.0,"strength":10.0}
        ]"#;
        let (known, unknown) = (|value: f64| Some(value), None);
        let expected = [("a", known(10.0), known(90.0)), ("a", known(80.0), known(40.0)), ("b", unknown, unknown)];
        let expected = expected.map(|(label, value, beside)| (label.to_owned(), vec![value, beside]));
        assert_eq!(rows(json, &CHART), expected, "two things of one name are two");

        let high = Chart { worst: Worst::High, ..CHART };
        let labels: Vec<_> = rows(json, &high).into_iter().map(|(_, values)| values[0]).collect();
        assert_eq!(labels, [Some(80.0), Some(10.0), None], "what is not known is last either way");
    }

    #[test]
    fn a_chart_may_name_no_more_than_things_and_a_value() {
        let chart = Chart { label: None, newest: None, beside: &[], ..CHART };
        let json = r#"[{"place_id":"x","strength":1},{"place_id":"x","strength":2},{"strength":3}]"#;
        assert_eq!(rows(json, &chart), [("x".to_owned(), vec![Some(1.0)]), (String::new(), vec![Some(3.0)])]);
    }

    #[test]
    fn numbers_are_newer_by_their_size_and_times_by_their_text() {
        for (left, right, expected) in [
            (Value::from(10), Value::from(9), true),
            (Value::from(9), Value::from(10), false),
            (Value::from("2025-10-01"), Value::from("2025-09-30"), true),
            (Value::from("2025-10-01"), Value::from("2025-10-01"), false),
            (Value::from("2025-10-01"), Value::Null, true),
        ] {
            assert_eq!(is_after(&left, &right), expected, "{left} after {right}");
        }
    }

    fn window(output: &str, kind: &str, start: &str) -> WindowFiles {
        WindowFiles {
            output: output.to_owned(),
            window_kind: kind.into(),
            window_start: start.parse().expect("a date"),
            rows: 1,
            is_final: None,
            files: [("json".to_owned(), FileRef { key: start.to_owned(), sha256: String::new(), bytes: 1 })].into(),
        }
    }

    /// The first days of the windows that are read.
    fn read_on(today: &str, windows: &[WindowFiles], output: &str) -> Vec<String> {
        let manifest = Manifest { windows: windows.to_vec(), ..Manifest::default() };
        newest(&manifest, output, today.parse().expect("a date")).into_iter().map(|file| file.key).collect()
    }

    #[test]
    fn only_the_newest_windows_of_one_kind_are_read() {
        let windows = [
            window("strengths", "month", "2025-07-01"),
            window("strengths", "month", "2025-08-01"),
            window("strengths", "month", "2025-09-01"),
            window("strengths", "week", "2025-11-03"),
            window("others", "month", "2025-12-01"),
            window("others", "all", "2025-01-01"),
        ];
        let read = |output| read_on("2025-12-31", &windows, output);
        assert_eq!(read("strengths"), ["2025-09-01", "2025-08-01"]);
        assert_eq!(read("others"), ["2025-12-01"]);
        assert!(read("none").is_empty());
    }

    #[test]
    fn windows_of_mistyped_dates_are_read_only_if_there_are_no_others() {
        let starts = ["2025-09-01", "2025-10-01", "2052-10-01", "2200-12-01"];
        let windows = starts.map(|start| window("strengths", "month", start));
        assert_eq!(read_on("2025-10-15", &windows, "strengths"), ["2025-10-01", "2025-09-01"]);
        assert_eq!(
            read_on("2025-09-30", &windows, "strengths"),
            ["2025-10-01", "2025-09-01"],
            "east of UTC it is tomorrow"
        );
        assert_eq!(read_on("2025-09-29", &windows, "strengths"), ["2025-09-01"]);
        assert_eq!(read_on("2025-01-01", &windows, "strengths"), ["2200-12-01", "2052-10-01"]);
    }
}
