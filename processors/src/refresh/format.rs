//! Writes one stream of typed rows as CSV, JSON and Parquet; the same rows give the same bytes.
//!
//! - **CSV**: header; numbers shortest round-trip, as serde_json prints them (`1e+16`), `numeric` digit by digit; NULL
//!   empty, empty text `""`; booleans 0/1; NaN and the infinities `NaN`, `Infinity`, `-Infinity`; moments in UTC; RFC
//!   4180 quoting; lines end in `\n`.
//! - **JSON**: one array of objects, one object a line, columns in order; NULL, NaN and infinities `null`.
//! - **Parquet**: see [`parquet_file`](super::parquet_file).

use std::borrow::Cow;
use std::io::{self, Write};

use chrono::{Datelike, NaiveDate, SecondsFormat};
use freshet_sinks::outputs::{Spool, Spooled};
use parquet::errors::ParquetError;

use super::kind::{Cell, Kind};
use super::parquet_file::ParquetFile;

/// The beginning of a JSON array, the text between its objects, and its end.
pub(super) const JSON_OPEN: &[u8] = b"[\n";
pub(super) const JSON_BETWEEN: &[u8] = b",\n";
pub(super) const JSON_CLOSE: &[u8] = b"\n]\n";

/// Errors while rows are written to files.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A temporary file could not be written or read.
    #[error("spool an output through a temporary file: {0}")]
    Io(#[from] io::Error),
    /// Parquet could not be written or read.
    #[error("write parquet: {0}")]
    Parquet(#[from] ParquetError),
}

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// The three files of a table, complete.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) rows: u64,
    /// In the order of [`freshet_sinks::outputs::FORMATS`].
    pub(super) files: [Spooled; 3],
}

/// The three files of a table while they are written.
pub(super) struct Table {
    /// The names of the columns as they precede a value in JSON.
    names: Vec<Vec<u8>>,
    csv: Spool,
    json: Spool,
    parquet: ParquetFile,
    rows: u64,
    /// The current row in CSV and in JSON: a row has dozens of parts, and is written as a whole.
    row: [Vec<u8>; 2],
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Result<Self, FormatError> {
        let mut csv = Spool::new();
        csv.write_all(&csv_header(columns))?;
        let mut json = Spool::new();
        json.write_all(JSON_OPEN)?;
        let parquet = ParquetFile::new(columns)?;
        let names = columns.iter().map(|column| format!("{}:", serde_json::Value::from(column.name.as_str())).into());
        Ok(Table { names: names.collect(), csv, json, parquet, rows: 0, row: Default::default() })
    }

    /// Adds a row, one cell for each column.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), FormatError> {
        assert_eq!(cells.len(), self.names.len(), "a row has a cell for each column");
        let [csv, json] = &mut self.row;
        csv.clear();
        json.clear();
        json.extend_from_slice(if self.rows == 0 { b"{" } else { b",\n{" });
        for (index, (name, cell)) in self.names.iter().zip(cells).enumerate() {
            if index > 0 {
                csv.push(b',');
                json.push(b',');
            }
            json.extend_from_slice(name);
            write_cell(*cell, csv, json)?;
        }
        csv.push(b'\n');
        json.push(b'}');
        self.csv.write_all(csv)?;
        self.json.write_all(json)?;
        self.parquet.row(cells)?;
        self.rows += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Encoded, FormatError> {
        self.json.write_all(if self.rows == 0 { &JSON_CLOSE[1..] } else { JSON_CLOSE })?;
        Ok(Encoded { rows: self.rows, files: [self.csv.finish()?, self.json.finish()?, self.parquet.finish()?] })
    }
}

/// The first line of a CSV file.
pub(super) fn csv_header(columns: &[Column]) -> Vec<u8> {
    let names: Vec<_> = columns.iter().map(|column| csv_text(&column.name)).collect();
    let mut header = names.join(",").into_bytes();
    header.push(b'\n');
    header
}

/// Adds a cell to the row in CSV and in JSON.
fn write_cell(cell: Cell<'_>, csv: &mut Vec<u8>, json: &mut Vec<u8>) -> io::Result<()> {
    let start = csv.len();
    match cell {
        Cell::Null => json.extend_from_slice(b"null"),
        Cell::Bool(value) => {
            csv.push(if value { b'1' } else { b'0' });
            json.extend_from_slice(if value { b"true" } else { b"false" });
        }
        Cell::Text(value) => {
            csv.extend_from_slice(csv_text(value).as_bytes());
            serde_json::to_writer(json, value)?;
        }
        Cell::Double(value) if !value.is_finite() => {
            csv.extend_from_slice(not_finite(value).as_bytes());
            json.extend_from_slice(b"null");
        }
        Cell::Double(value) => {
            serde_json::to_writer(&mut *csv, &value)?;
            json.extend_from_slice(&csv[start..]);
        }
        Cell::Int(value) => {
            serde_json::to_writer(&mut *csv, &value)?;
            json.extend_from_slice(&csv[start..]);
        }
        Cell::Digits(value) => {
            csv.extend_from_slice(value.as_bytes());
            // NaN and the infinities have no digits.
            let is_number = value.ends_with(|last: char| last.is_ascii_digit());
            json.extend_from_slice(if is_number { value.as_bytes() } else { b"null" });
        }
        Cell::Date(value) => {
            write_date(value, csv)?;
            write_quoted(&csv[start..], json);
        }
        Cell::Timestamp(value) => {
            csv.extend_from_slice(value.to_rfc3339_opts(SecondsFormat::AutoSi, true).as_bytes());
            write_quoted(&csv[start..], json);
        }
    }
    Ok(())
}

/// Text without characters that JSON escapes.
fn write_quoted(text: &[u8], json: &mut Vec<u8>) {
    json.push(b'"');
    json.extend_from_slice(text);
    json.push(b'"');
}

/// The same text as chrono's, but faster for years of four digits: nearly every row has a date.
fn write_date(date: NaiveDate, text: &mut Vec<u8>) -> io::Result<()> {
    let Ok(year @ 0..=9_999) = u32::try_from(date.year()) else { return write!(text, "{date}") };
    let digit = |number: u32, at: u32| b'0' + (number / at % 10) as u8;
    let (month, day) = (date.month(), date.day());
    text.extend([1_000, 100, 10, 1].map(|at| digit(year, at)));
    text.extend([b'-', digit(month, 10), digit(month, 1), b'-', digit(day, 10), digit(day, 1)]);
    Ok(())
}

fn not_finite(value: f64) -> &'static str {
    match (value.is_nan(), value > 0.0) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    }
}

fn csv_text(value: &str) -> Cow<'_, str> {
    match value.is_empty() || value.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")).into(),
        false => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(columns: &[(&str, Kind)]) -> Vec<Column> {
        columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect()
    }

    fn encode(rows: &[[Cell<'_>; 6]]) -> Encoded {
        let kinds = [
            ("i", Kind::Int32),
            ("l", Kind::Int64),
            ("d", Kind::Double),
            ("t", Kind::Text),
            ("day", Kind::Date),
            ("b", Kind::Bool),
        ];
        let mut table = Table::new(&columns(&kinds)).expect("a table");
        for row in rows {
            table.row(row).expect("a row");
        }
        table.finish().expect("files")
    }

    fn bytes(file: &Spooled) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read().expect("read").copy(0, file.len(), &mut bytes).expect("copy");
        bytes
    }

    fn text(file: &Spooled) -> String {
        String::from_utf8(bytes(file)).expect("UTF-8")
    }

    fn rows() -> Vec<[Cell<'static>; 6]> {
        let day = NaiveDate::from_ymd_opt(2025, 8, 22).expect("a date");
        let text = |double: f64, text: &'static str| {
            [
                Cell::Int(1),
                Cell::Int(1 << 40),
                Cell::Double(double),
                Cell::Text(text),
                Cell::Date(day),
                Cell::Bool(false),
            ]
        };
        vec![
            text(9.905782514157796, "Andhra Pradesh"),
            text(1e16, "a,\"b\"\nc"),
            text(100.0, ""),
            text(f64::NAN, "é\u{1}\\"),
            text(f64::NEG_INFINITY, " x "),
            [Cell::Null; 6],
            [
                Cell::Int(-5),
                Cell::Int(0),
                Cell::Double(-0.0),
                Cell::Text("t"),
                Cell::Date(NaiveDate::MIN),
                Cell::Bool(true),
            ],
        ]
    }

    #[test]
    fn csv_is_exact_to_the_byte() {
        let lines = [
            "i,l,d,t,day,b",
            "1,1099511627776,9.905782514157796,Andhra Pradesh,2025-08-22,0",
            "1,1099511627776,1e+16,\"a,\"\"b\"\"\nc\",2025-08-22,0",
            "1,1099511627776,100.0,\"\",2025-08-22,0",
            "1,1099511627776,NaN,é\u{1}\\,2025-08-22,0",
            "1,1099511627776,-Infinity, x ,2025-08-22,0",
            ",,,,,",
            "-5,0,-0.0,t,-262143-01-01,1",
            "",
        ];
        assert_eq!(text(&encode(&rows()).files[0]), lines.join("\n"));
        assert_eq!(text(&encode(&[]).files[0]), "i,l,d,t,day,b\n");
    }

    #[test]
    fn a_date_is_written_as_chrono_writes_it() {
        let dates = ["0000-01-01", "0999-12-31", "2024-02-29", "9999-10-10", "+10000-01-01", "-0001-03-04"];
        for date in dates.map(|date| date.parse::<NaiveDate>().expect("a date")) {
            let mut text = Vec::new();
            write_date(date, &mut text).expect("written");
            assert_eq!(String::from_utf8(text).expect("UTF-8"), date.to_string());
        }
    }

    #[test]
    fn digits_moments_and_names_are_exact_to_the_byte() {
        let moment = |text: &str| Cell::Timestamp(text.parse().expect("a moment"));
        let mut table = Table::new(&columns(&[("a \"b\"", Kind::Numeric), ("at", Kind::Timestamp)])).expect("a table");
        let rows = [
            [Cell::Digits("0.10"), moment("2025-08-22T10:00:00Z")],
            [Cell::Digits("NaN"), moment("1969-12-31T23:59:59.000001Z")],
        ];
        rows.iter().for_each(|row| table.row(row).expect("a row"));
        let files = table.finish().expect("files").files;
        let csv = "\"a \"\"b\"\"\",at\n0.10,2025-08-22T10:00:00Z\nNaN,1969-12-31T23:59:59.000001Z\n";
        assert_eq!(text(&files[0]), csv);
        let json = concat!(
            "[\n",
            r#"{"a \"b\"":0.10,"at":"2025-08-22T10:00:00Z"},"#,
            "\n",
            r#"{"a \"b\"":null,"at":"1969-12-31T23:59:59.000001Z"}"#,
            "\n]\n"
        );
        assert_eq!(text(&files[1]), json);
    }

    #[test]
    fn json_is_exact_to_the_byte() {
        let json = text(&encode(&rows()[..2]).files[1]);
        let expected = concat!(
            "[\n",
            r#"{"i":1,"l":1099511627776,"d":9.905782514157796,"t":"Andhra Pradesh","day":"2025-08-22","b":false},"#,
            "\n",
            r#"{"i":1,"l":1099511627776,"d":1e+16,"t":"a,\"b\"\nc","day":"2025-08-22","b":false}"#,
            "\n]\n"
        );
        assert_eq!(json, expected);
        let all: serde_json::Value = serde_json::from_str(&text(&encode(&rows()).files[1])).expect("JSON");
        assert_eq!(all[3]["d"], serde_json::Value::Null);
        assert_eq!(all[3]["t"], "é\u{1}\\");
        assert_eq!(all[5], serde_json::json!({"i":null,"l":null,"d":null,"t":null,"day":null,"b":null}));
        assert_eq!(text(&encode(&[]).files[1]), "[\n]\n");
    }

    #[test]
    fn the_same_rows_give_the_same_bytes() {
        let many: Vec<_> = (0..8_199)
            .map(|row| {
                let day = NaiveDate::from_num_days_from_ce_opt(739_000 + row % 40).expect("a date");
                let double = f64::from(row).sqrt();
                [
                    Cell::Int(i64::from(row % 50)),
                    Cell::Null,
                    Cell::Double(double),
                    Cell::Null,
                    Cell::Date(day),
                    Cell::Bool(false),
                ]
            })
            .collect();
        let (first, second) = (encode(&many), encode(&many));
        for (first, second) in first.files.iter().zip(&second.files) {
            assert_eq!(first.sha256(), second.sha256());
        }
        assert_eq!(first.rows, many.len() as u64);
    }
}
