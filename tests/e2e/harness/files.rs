//! Reads the published files in their three formats back into rows of text, spelled as the oracles spell them.

use std::io::Write;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::plain::{NULL, number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Double,
    Text,
    Bool,
}

fn kind(column: &str) -> Kind {
    match column {
        "date" | "location_name" | "window_kind" | "window_start" | "window_end" => Kind::Text,
        "is_projected" | "final" => Kind::Bool,
        "id" | "location_id" | "population" | "projection_year" | "total_beds" | "available_beds" | "doctors"
        | "nurses" | "days" | "beds_available_min" => Kind::Int,
        column if column.ends_with("_cases") || column.ends_with("_stock") => Kind::Int,
        _ => Kind::Double,
    }
}

/// The rows of a file, each cell by its column's kind.
pub(crate) fn read(format: &str, bytes: &[u8], columns: &[&str]) -> Vec<Vec<String>> {
    match format {
        "csv" => read_csv(bytes, columns),
        "json" => read_json(bytes, columns),
        "parquet" => read_parquet(bytes, columns),
        other => panic!("no format {other}"),
    }
}

/// What JSON can say of a row: it has no NaN and no infinities.
pub(crate) fn as_json_says(rows: &[Vec<String>], columns: &[&str]) -> Vec<Vec<String>> {
    let cell = |(cell, column): (&String, &&str)| match kind(column) {
        Kind::Double if matches!(cell.as_str(), "NaN" | "inf" | "-inf") => NULL.to_owned(),
        _ => cell.clone(),
    };
    rows.iter().map(|row| row.iter().zip(columns).map(cell).collect()).collect()
}

fn read_csv(bytes: &[u8], columns: &[&str]) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_reader(bytes);
    assert_eq!(reader.headers().expect("a header").iter().collect::<Vec<_>>(), columns);
    let cell = |(text, column): (&str, &&str)| match (text, kind(column)) {
        ("", _) => NULL.to_owned(),
        (text, Kind::Double) => number(text.parse().expect("a double")),
        ("0", Kind::Bool) => "false".to_owned(),
        ("1", Kind::Bool) => "true".to_owned(),
        (text, Kind::Bool) => panic!("{text} in {column}"),
        (text, _) => text.to_owned(),
    };
    let rows = reader.records().map(|record| record.expect("a record").iter().zip(columns).map(cell).collect());
    rows.collect()
}

/// One object a line. Numbers are taken as text: serde_json's own parser may be off by the last digit.
fn read_json(bytes: &[u8], columns: &[&str]) -> Vec<Vec<String>> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let all: serde_json::Value = serde_json::from_str(text).expect("the file is one JSON document");
    let objects = all.as_array().expect("an array");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(objects.len(), lines.len(), "one object a line");
    let row = |(line, object): (&&str, &serde_json::Value)| {
        let mut rest = line.trim_end_matches(',');
        let cells = columns.iter().enumerate().map(|(at, column)| {
            let opening = format!("{}\"{column}\":", if at == 0 { '{' } else { ',' });
            rest = rest.strip_prefix(opening.as_str()).unwrap_or_else(|| panic!("{column} comes next in {line}"));
            let value = &object[*column];
            let token = match value {
                serde_json::Value::String(text) => serde_json::to_string(text).expect("text"),
                _ => rest[..rest.find([',', '}']).expect("an end")].to_owned(),
            };
            rest = &rest[token.len()..];
            match (value, kind(column)) {
                (serde_json::Value::Null, _) => NULL.to_owned(),
                (serde_json::Value::String(text), Kind::Text) => text.clone(),
                (serde_json::Value::Number(_), Kind::Double) => number(token.parse().expect("a double")),
                (serde_json::Value::Number(_), Kind::Int) | (serde_json::Value::Bool(_), Kind::Bool) => token,
                (value, kind) => panic!("{value} in {column} is no {kind:?}"),
            }
        });
        let cells: Vec<String> = cells.collect();
        assert_eq!(rest, "}", "no further column");
        cells
    };
    lines.iter().zip(objects).map(row).collect()
}

fn read_parquet(bytes: &[u8], columns: &[&str]) -> Vec<Vec<String>> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("write");
    let reader = SerializedFileReader::new(file).expect("Parquet");
    let rows = reader.get_row_iter(None).expect("rows").map(|row| {
        let row = row.expect("a row");
        let names: Vec<&str> = row.get_column_iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, columns);
        let cell = |(name, field): (&String, &Field)| match (field, kind(name)) {
            (Field::Null, _) => NULL.to_owned(),
            (Field::Int(value), Kind::Int) => value.to_string(),
            (Field::Long(value), Kind::Int) => value.to_string(),
            (Field::Double(value), Kind::Double) => number(*value),
            (Field::Str(value), Kind::Text) => value.clone(),
            (Field::Bool(value), Kind::Bool) => value.to_string(),
            (Field::Date(days), Kind::Text) => {
                let day = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).expect("the epoch");
                (day + chrono::TimeDelta::days((*days).into())).to_string()
            }
            (field, kind) => panic!("{field} in {name} is no {kind:?}"),
        };
        row.get_column_iter().map(cell).collect()
    });
    rows.collect()
}
