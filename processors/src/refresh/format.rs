//! One stream of typed rows as CSV, JSON and Parquet, the same rows giving the same bytes.
//!
//! - **CSV**: header; numbers shortest round-trip, as serde_json prints them (`1e+16`); NULL empty, empty text `""`; booleans 0/1; NaN and the
//!   infinities `NaN`, `Infinity`, `-Infinity`; RFC 4180 quoting; lines end in `\n`.
//! - **JSON**: one array of objects, one object a line, columns in order; NULL, NaN and infinities `null`.
//! - **Parquet**: plain Arrow types, zstd, a fixed writer name and no further metadata.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Float64Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::{Datelike, NaiveDate};
use freshet_sinks::outputs::{Spool, Spooled};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::schema::{Column, Kind};

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 4_096;
/// A row group is in memory, encoded, until it is full.
const ROW_GROUP_ROWS: usize = 65_536;
/// Days from 0001-01-01 to 1970-01-01, from which Parquet counts.
const EPOCH_FROM_CE: i32 = 719_163;

/// What a JSON array begins with, what stands between its objects, and what it ends with.
pub(super) const JSON_OPEN: &[u8] = b"[\n";
pub(super) const JSON_BETWEEN: &[u8] = b",\n";
pub(super) const JSON_CLOSE: &[u8] = b"\n]\n";

/// What keeps rows from becoming files.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A temporary file could not be written or read.
    #[error("spool an output through a temporary file: {0}")]
    Io(#[from] io::Error),
    /// Parquet could not be written or read.
    #[error("write parquet: {0}")]
    Parquet(#[from] ParquetError),
}

/// One value of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Null,
    Int(i64),
    Double(f64),
    Text(&'a str),
    Date(NaiveDate),
    Bool(bool),
}

impl From<Option<i32>> for Cell<'_> {
    fn from(value: Option<i32>) -> Self {
        value.map_or(Cell::Null, |value| Cell::Int(value.into()))
    }
}

impl From<Option<i64>> for Cell<'_> {
    fn from(value: Option<i64>) -> Self {
        value.map_or(Cell::Null, Cell::Int)
    }
}

impl From<Option<f64>> for Cell<'_> {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Cell::Null, Cell::Double)
    }
}

/// The three files of a table, complete.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) rows: u64,
    /// In the order of [`freshet_sinks::outputs::FORMATS`].
    pub(super) files: [Spooled; 3],
}

/// The three files of a table as they are written.
pub(super) struct Table {
    columns: &'static [Column],
    csv: Spool,
    json: Spool,
    parquet: ArrowWriter<Spool>,
    builders: Vec<Builder>,
    batched: usize,
    rows: u64,
    /// The text of the cell at hand.
    text: Vec<u8>,
}

impl Table {
    pub(super) fn new(columns: &'static [Column]) -> Result<Self, FormatError> {
        let mut csv = Spool::new();
        csv.write_all(&csv_header(columns))?;
        let mut json = Spool::new();
        json.write_all(JSON_OPEN)?;
        let options = ArrowWriterOptions::new().with_properties(properties()).with_skip_arrow_metadata(true);
        let parquet = ArrowWriter::try_new_with_options(Spool::new(), Arc::new(arrow_schema(columns)), options)?;
        let builders = columns.iter().map(|(_, kind)| Builder::new(*kind)).collect();
        Ok(Table { columns, csv, json, parquet, builders, batched: 0, rows: 0, text: Vec::new() })
    }

    /// Adds a row, one cell a column.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), FormatError> {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.json.write_all(if self.rows == 0 { b"{" } else { b",\n{" })?;
        for (index, ((name, _), cell)) in self.columns.iter().zip(cells).enumerate() {
            if index > 0 {
                self.csv.write_all(b",")?;
                self.json.write_all(b",")?;
            }
            write!(self.json, "\"{name}\":")?;
            write_cell(*cell, &mut self.text, &mut self.csv, &mut self.json)?;
        }
        self.csv.write_all(b"\n")?;
        self.json.write_all(b"}")?;
        for (builder, cell) in self.builders.iter_mut().zip(cells) {
            builder.append(*cell);
        }
        self.rows += 1;
        self.batched += 1;
        if self.batched == BATCH_ROWS {
            self.write_batch()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Encoded, FormatError> {
        self.write_batch()?;
        self.json.write_all(if self.rows == 0 { &JSON_CLOSE[1..] } else { JSON_CLOSE })?;
        let parquet = self.parquet.into_inner()?;
        Ok(Encoded { rows: self.rows, files: [self.csv.finish()?, self.json.finish()?, parquet.finish()?] })
    }

    fn write_batch(&mut self) -> Result<(), FormatError> {
        if self.batched == 0 {
            return Ok(());
        }
        let arrays = self.builders.iter_mut().map(Builder::finish).collect();
        let schema = Arc::new(arrow_schema(self.columns));
        let batch = RecordBatch::try_new(schema, arrays).map_err(ParquetError::from)?;
        self.parquet.write(&batch)?;
        self.batched = 0;
        Ok(())
    }
}

/// The first line of a CSV file.
pub(super) fn csv_header(columns: &[Column]) -> Vec<u8> {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut header = names.join(",").into_bytes();
    header.push(b'\n');
    header
}

/// Everything about the Parquet files that is not their rows.
pub(super) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("freshet".into())
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .build()
}

pub(super) fn arrow_schema(columns: &[Column]) -> Schema {
    let field = |(name, kind): &Column| {
        let data_type = match kind {
            Kind::Int32 => DataType::Int32,
            Kind::Int64 => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Date => DataType::Date32,
            Kind::Bool => DataType::Boolean,
        };
        Field::new(*name, data_type, true)
    };
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

fn write_cell(cell: Cell<'_>, text: &mut Vec<u8>, csv: &mut Spool, json: &mut Spool) -> io::Result<()> {
    text.clear();
    match cell {
        Cell::Null => return json.write_all(b"null"),
        Cell::Bool(value) => {
            csv.write_all(if value { b"1" } else { b"0" })?;
            return json.write_all(if value { b"true" } else { b"false" });
        }
        Cell::Text(value) => {
            write_csv_text(value, csv)?;
            serde_json::to_writer(&mut *text, value)?;
            return json.write_all(text);
        }
        Cell::Double(value) if !value.is_finite() => {
            let name = if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            csv.write_all(name.as_bytes())?;
            return json.write_all(b"null");
        }
        Cell::Double(value) => serde_json::to_writer(&mut *text, &value)?,
        Cell::Int(value) => serde_json::to_writer(&mut *text, &value)?,
        Cell::Date(value) => {
            write!(text, "{value}")?;
            csv.write_all(text)?;
            return write!(json, "\"{value}\"");
        }
    }
    csv.write_all(text)?;
    json.write_all(text)
}

fn write_csv_text(value: &str, csv: &mut Spool) -> io::Result<()> {
    match value.is_empty() || value.contains([',', '"', '\n', '\r']) {
        true => write!(csv, "\"{}\"", value.replace('"', "\"\"")),
        false => csv.write_all(value.as_bytes()),
    }
}

/// A column of the batch at hand.
enum Builder {
    Int32(Int32Builder),
    Int64(Int64Builder),
    Double(Float64Builder),
    Text(StringBuilder),
    Date(Date32Builder),
    Bool(BooleanBuilder),
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Int32 => Builder::Int32(Int32Builder::new()),
            Kind::Int64 => Builder::Int64(Int64Builder::new()),
            Kind::Double => Builder::Double(Float64Builder::new()),
            Kind::Text => Builder::Text(StringBuilder::new()),
            Kind::Date => Builder::Date(Date32Builder::new()),
            Kind::Bool => Builder::Bool(BooleanBuilder::new()),
        }
    }

    fn append(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Builder::Int32(builder), Cell::Int(value)) => {
                builder.append_value(i32::try_from(value).expect("a column of 32 bits holds 32 bits"));
            }
            (Builder::Int64(builder), Cell::Int(value)) => builder.append_value(value),
            (Builder::Double(builder), Cell::Double(value)) => builder.append_value(value),
            (Builder::Text(builder), Cell::Text(value)) => builder.append_value(value),
            (Builder::Date(builder), Cell::Date(value)) => {
                builder.append_value(value.num_days_from_ce() - EPOCH_FROM_CE);
            }
            (Builder::Bool(builder), Cell::Bool(value)) => builder.append_value(value),
            (Builder::Int32(builder), Cell::Null) => builder.append_null(),
            (Builder::Int64(builder), Cell::Null) => builder.append_null(),
            (Builder::Double(builder), Cell::Null) => builder.append_null(),
            (Builder::Text(builder), Cell::Null) => builder.append_null(),
            (Builder::Date(builder), Cell::Null) => builder.append_null(),
            (Builder::Bool(builder), Cell::Null) => builder.append_null(),
            (_, cell) => panic!("{cell:?} is not of its column's type"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Int32(builder) => Arc::new(builder.finish()),
            Builder::Int64(builder) => Arc::new(builder.finish()),
            Builder::Double(builder) => Arc::new(builder.finish()),
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Date(builder) => Arc::new(builder.finish()),
            Builder::Bool(builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::Readable;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    const COLUMNS: &[Column] = &[
        ("i", Kind::Int32),
        ("l", Kind::Int64),
        ("d", Kind::Double),
        ("t", Kind::Text),
        ("day", Kind::Date),
        ("b", Kind::Bool),
    ];

    fn encode(rows: &[[Cell<'_>; 6]]) -> Encoded {
        let mut table = Table::new(COLUMNS).expect("a table");
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
    fn parquet_reads_back_and_has_no_clock_or_versions() {
        let encoded = encode(&rows());
        let Readable::Memory(file) = encoded.files[2].read().expect("read") else { panic!("small") };
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet");
        assert_eq!(reader.metadata().file_metadata().created_by(), Some("freshet"));
        assert!(reader.metadata().file_metadata().key_value_metadata().is_none());
        let batches: Vec<RecordBatch> = reader.build().expect("reader").map(|batch| batch.expect("batch")).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows().len());
        let types: Vec<&DataType> = batches[0].columns().iter().map(|column| column.data_type()).collect();
        let expected =
            [DataType::Int32, DataType::Int64, DataType::Float64, DataType::Utf8, DataType::Date32, DataType::Boolean];
        assert_eq!(types, expected.iter().collect::<Vec<_>>());
        let days = batches[0].column(4).as_any().downcast_ref::<arrow::array::Date32Array>().expect("days");
        assert_eq!(days.value_as_date(0), NaiveDate::from_ymd_opt(2025, 8, 22));
    }

    #[test]
    fn the_same_rows_give_the_same_bytes_across_batches() {
        let many: Vec<_> = (0..BATCH_ROWS * 2 + 7)
            .map(|row| {
                let day = NaiveDate::from_num_days_from_ce_opt(739_000 + row as i32 % 40).expect("a date");
                let double = (row as f64).sqrt();
                [
                    Cell::Int(row as i64 % 50),
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
