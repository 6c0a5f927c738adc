//! Rows as a Parquet file: gathered column by column until a row group is full, then encoded.
//!
//! The file has the types that [`schema`] gives, zstd, a fixed writer name and no further metadata, so the same rows give
//! the same bytes.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Datelike;
use freshet_sinks::outputs::{Spool, Spooled};
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::format::{Column, FormatError};
use super::kind::{Cell, Kind};

/// The rows of a row group are in memory until it is full.
pub(super) const ROW_GROUP_ROWS: usize = 65_536;
/// Days from 0001-01-01 to 1970-01-01, Parquet's epoch.
const EPOCH_FROM_CE: i32 = 719_163;
/// The levels of a value that is there, and of NULL (<https://parquet.apache.org/docs/file-format/nulls/>).
const PRESENT: i16 = 1;
const ABSENT: i16 = 0;

/// Everything about the files that is neither their rows nor their types.
pub(super) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("freshet".into())
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .build()
}

/// The types of the columns; each may hold NULL.
pub(super) fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let field = |Column { name, kind }: &Column| {
        let (physical, logical) = types(*kind);
        let field = Type::primitive_type_builder(name, physical);
        field.with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build().map(Arc::new)
    };
    let fields = columns.iter().map(field).collect::<Result<_, _>>()?;
    // The root has no meaning; Arrow's writers, which others use, call it so.
    Ok(Arc::new(Type::group_type_builder("arrow_schema").with_fields(fields).build()?))
}

fn types(kind: Kind) -> (PhysicalType, Option<LogicalType>) {
    match kind {
        Kind::Int32 => (PhysicalType::INT32, None),
        Kind::Int64 => (PhysicalType::INT64, None),
        Kind::Double => (PhysicalType::DOUBLE, None),
        Kind::Numeric | Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Date => (PhysicalType::INT32, Some(LogicalType::Date)),
        Kind::Bool => (PhysicalType::BOOLEAN, None),
        Kind::Timestamp => (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
    }
}

/// A file while it is written.
pub(super) struct ParquetFile {
    writer: SerializedFileWriter<Spool>,
    columns: Vec<Gathered>,
    /// Rows that are gathered.
    rows: usize,
}

impl ParquetFile {
    /// An empty file.
    pub(super) fn new(columns: &[Column]) -> Result<Self, FormatError> {
        let writer = SerializedFileWriter::new(Spool::new(), schema(columns)?, Arc::new(properties()))?;
        Ok(ParquetFile { writer, columns: columns.iter().map(|column| Gathered::new(column.kind)).collect(), rows: 0 })
    }

    /// Adds a row, one cell for each column.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), FormatError> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(*cell);
        }
        self.rows += 1;
        if self.rows == ROW_GROUP_ROWS {
            self.write_row_group()?;
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<Spooled, FormatError> {
        self.write_row_group()?;
        Ok(self.writer.into_inner()?.finish()?)
    }

    fn write_row_group(&mut self) -> Result<(), FormatError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for gathered in &mut self.columns {
            let Some(mut column) = group.next_column()? else { break };
            gathered.write(&mut column)?;
            column.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

/// What is gathered of a column.
struct Gathered {
    /// Of each row, whether a value is there.
    levels: Vec<i16>,
    /// Those that are.
    values: Values,
}

enum Values {
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Double(Vec<f64>),
    Bool(Vec<bool>),
    /// All of them in one text, and where each ends.
    Text {
        text: Vec<u8>,
        ends: Vec<usize>,
    },
}

impl Gathered {
    fn new(kind: Kind) -> Self {
        let values = match types(kind).0 {
            PhysicalType::INT32 => Values::Int(Vec::new()),
            PhysicalType::INT64 => Values::BigInt(Vec::new()),
            PhysicalType::DOUBLE => Values::Double(Vec::new()),
            PhysicalType::BOOLEAN => Values::Bool(Vec::new()),
            _ => Values::Text { text: Vec::new(), ends: Vec::new() },
        };
        Gathered { levels: Vec::new(), values }
    }

    fn push(&mut self, cell: Cell<'_>) {
        self.levels.push(if cell == Cell::Null { ABSENT } else { PRESENT });
        match (&mut self.values, cell) {
            (_, Cell::Null) => {}
            (Values::Int(values), Cell::Int(value)) => {
                values.push(i32::try_from(value).expect("a column of 32 bits holds 32 bits"));
            }
            (Values::Int(values), Cell::Date(value)) => values.push(value.num_days_from_ce() - EPOCH_FROM_CE),
            (Values::BigInt(values), Cell::Int(value)) => values.push(value),
            (Values::BigInt(values), Cell::Timestamp(value)) => values.push(value.timestamp_micros()),
            (Values::Double(values), Cell::Double(value)) => values.push(value),
            (Values::Bool(values), Cell::Bool(value)) => values.push(value),
            (Values::Text { text, ends }, Cell::Text(value) | Cell::Digits(value)) => {
                text.extend_from_slice(value.as_bytes());
                ends.push(text.len());
            }
            (_, cell) => panic!("{cell:?} is not of its column's type"),
        }
    }

    /// Encodes it, and starts again with nothing.
    fn write(&mut self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = Some(self.levels.as_slice());
        match &mut self.values {
            Values::Int(values) => {
                column.typed::<Int32Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::BigInt(values) => {
                column.typed::<Int64Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Double(values) => {
                column.typed::<DoubleType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Bool(values) => {
                column.typed::<BoolType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Text { text, ends } => {
                let text = Bytes::from(std::mem::take(text));
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let of = |(start, end): (usize, &usize)| ByteArray::from(text.slice(start..*end));
                let values: Vec<ByteArray> = starts.zip(ends.iter()).map(of).collect();
                column.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
                ends.clear();
            }
        }
        self.levels.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};

    use super::*;

    fn read(file: &Spooled) -> SerializedFileReader<Bytes> {
        let mut bytes = Vec::new();
        file.read().expect("read").copy(0, file.len(), &mut bytes).expect("copy");
        SerializedFileReader::new(Bytes::from(bytes)).expect("parquet")
    }

    fn file(columns: &[Column], rows: &[Vec<Cell<'_>>]) -> Spooled {
        let mut file = ParquetFile::new(columns).expect("a file");
        rows.iter().for_each(|row| file.row(row).expect("a row"));
        file.finish().expect("complete")
    }

    fn all() -> Vec<Column> {
        Kind::ALL.iter().map(|kind| Column { name: format!("a {}", kind.name()), kind: *kind }).collect()
    }

    #[test]
    fn a_value_of_each_type_and_null_read_back_and_there_is_no_clock_and_no_version() {
        let day = "1969-12-31".parse().expect("a date");
        let at = "1969-12-31T23:59:59.000001Z".parse().expect("a moment");
        let values = vec![
            Cell::Int(-5),
            Cell::Int(1 << 40),
            Cell::Double(0.1),
            Cell::Digits("-1.50"),
            Cell::Text("é"),
            Cell::Date(day),
            Cell::Bool(true),
            Cell::Timestamp(at),
        ];
        let reader = read(&file(&all(), &[values, vec![Cell::Null; 8], vec![Cell::Null; 8]]));
        let metadata = reader.metadata().file_metadata();
        assert_eq!((metadata.created_by(), metadata.num_rows()), (Some("freshet"), 3));
        assert!(metadata.key_value_metadata().is_none());
        let rows: Vec<Row> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
        let fields: Vec<&Field> = rows[0].get_column_iter().map(|(_, field)| field).collect();
        let expected = [
            Field::Int(-5),
            Field::Long(1 << 40),
            Field::Double(0.1),
            Field::Str("-1.50".into()),
            Field::Str("é".into()),
            Field::Date(-1),
            Field::Bool(true),
            Field::TimestampMicros(-999_999),
        ];
        assert_eq!(fields, expected.iter().collect::<Vec<_>>());
        assert!(rows[1].get_column_iter().all(|(_, field)| *field == Field::Null));
    }

    #[test]
    fn rows_stand_in_row_groups_and_the_same_rows_give_the_same_bytes() {
        let columns = [("n", Kind::Int64), ("text", Kind::Text)];
        let columns = columns.map(|(name, kind)| Column { name: name.into(), kind });
        let texts: Vec<String> = (0..ROW_GROUP_ROWS + 7).map(|row| format!("text {}", row % 40)).collect();
        let cell = |row: usize| if row.is_multiple_of(3) { Cell::Null } else { Cell::Text(&texts[row]) };
        let rows: Vec<Vec<Cell<'_>>> = (0..texts.len()).map(|row| vec![Cell::Int(row as i64), cell(row)]).collect();
        let written = file(&columns, &rows);
        assert_eq!(written.sha256(), file(&columns, &rows).sha256());
        let reader = read(&written);
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, [ROW_GROUP_ROWS as i64, 7]);
        for (at, row) in reader.get_row_iter(None).expect("rows").enumerate() {
            let row = row.expect("a row");
            let text = if at.is_multiple_of(3) { Field::Null } else { Field::Str(texts[at].clone()) };
            assert_eq!(
                row.get_column_iter().map(|(_, field)| field).collect::<Vec<_>>(),
                [&Field::Long(at as i64), &text]
            );
        }
        assert_eq!(read(&file(&columns, &[])).metadata().num_row_groups(), 0);
    }
}
