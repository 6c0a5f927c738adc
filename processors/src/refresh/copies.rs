//! Whole-file copies under stable names, composed from the manifest's files without deriving anything again: CSV with
//! one header, JSON as one array, Parquet row group by row group.
//!
//! Files published from this machine are still in its disk cache; only the others are read from S3.

use freshet_sinks::outputs::{
    Current, FORMATS, Manifest, OutputError, Put, Readable, Spool, Spooled, Store, WindowFiles, copy_key,
    is_copy_current,
};
use freshet_topics::failpoint::{self, Point};
use futures::{StreamExt, TryStreamExt, stream};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::ChunkReader;
use parquet::file::writer::SerializedFileWriter;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::RefreshError;
use super::derivation::columns_of;
use super::format::{Column, FormatError, JSON_BETWEEN, JSON_CLOSE, JSON_OPEN, csv_header};
use super::metrics;
use super::pace::measured;
use super::parquet_file::{properties, schema};

/// Parts read ahead while one is appended; each is in memory up to a MiB, else in a temporary file.
const READ_AHEAD: usize = 8;

/// The result of updating the copies.
#[derive(Debug, Default)]
pub(super) struct Reconciled {
    /// Another reconciler wrote one of them at the same time, or a later version is published already: look again.
    pub(super) again: bool,
    /// Copies that did not exist.
    pub(super) absent: Vec<String>,
    /// How long copies were composed and written. Waiting for requests that fail is no work: the retry that follows has its
    /// own back-off.
    pub(super) worked: Duration,
    /// The first error; the copies of the other outputs were updated all the same.
    pub(super) failed: Option<RefreshError>,
}

/// Brings every whole-file copy to the version of `current`, those of one output after the other: one with a file that
/// cannot be read does not hold up the others.
pub(super) async fn reconcile(store: &Store, current: &Current) -> Reconciled {
    if let Some(cache) = store.cache() {
        cache.needs(current.manifest.windows.iter().flat_map(|window| window.files.values()));
    }
    let mut reconciled = Reconciled::default();
    for (output, derived) in &current.manifest.outputs {
        let version = current.manifest.changed.get(output).copied();
        let Some((version, columns)) = version.zip(columns_of(derived)) else { continue };
        match reconcile_output(store, &current.manifest, output, &columns, version, &mut reconciled).await {
            // Files that did not change since an earlier version are those of this one too.
            Ok(true) => metrics::COPY_VERSION.with_label_values(&[output]).set(current.manifest.version as i64),
            Ok(false) => reconciled.again = true,
            Err(error) => {
                reconciled.failed.get_or_insert(error);
            }
        }
    }
    reconciled
}

/// Brings the copies of one output, whose files last changed in `version`, to the version of the manifest. `false` if one
/// of them is not there yet: another reconciler was at it, or it is of a later version.
async fn reconcile_output(
    store: &Store,
    manifest: &Manifest,
    output: &str,
    columns: &[Column],
    version: u64,
    reconciled: &mut Reconciled,
) -> Result<bool, RefreshError> {
    let mut all_current = true;
    for format in FORMATS {
        let key = copy_key(output, format);
        let seen = store.head_copy(&key).await?;
        if let Some(copy) = &seen {
            if is_copy_current(copy.version, version, manifest.version) {
                continue;
            }
            if copy.version > manifest.version {
                // From a version that was published since, or that an operator took back: the publisher reports it.
                all_current = false;
                continue;
            }
        }
        let (composed, took) = measured(compose(store, manifest, output, columns, format)).await;
        if !matches!(composed, Err(RefreshError::Output(OutputError::Request { .. }))) {
            reconciled.worked += took;
        }
        let body = composed.map_err(|error| match error {
            RefreshError::Format(_) => error.in_which(format!("compose {key}")),
            other => other,
        })?;
        let was_absent = seen.is_none();
        let (put, took) = measured(store.put_copy(&key, &body, content_type(format), seen, version)).await;
        let put = put?;
        reconciled.worked += took;
        failpoint::reach(Point::CopyPut);
        match put {
            Put::Written => {
                metrics::COPY_BYTES.with_label_values(&[output]).inc_by(body.len());
                reconciled.absent.extend(was_absent.then_some(key));
            }
            Put::Refused => all_current = false,
        }
    }
    Ok(all_current)
}

/// The content type of a format's files.
pub(super) fn content_type(format: &str) -> &'static str {
    match format {
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        _ => "application/vnd.apache.parquet",
    }
}

async fn compose(
    store: &Store,
    manifest: &Manifest,
    output: &str,
    columns: &[Column],
    format: &str,
) -> Result<Spooled, RefreshError> {
    let windows = manifest.windows.iter().filter(|window| window.output == output);
    let files: Vec<_> = windows.filter_map(|window: &WindowFiles| window.files.get(format).cloned()).collect();
    let mut parts = stream::iter(files)
        .map(|file| {
            let store = store.clone();
            async move { store.kept_or_fetched(&file).await }
        })
        .buffered(READ_AHEAD);
    let mut whole = Whole::new(columns, format)?;
    while let Some(part) = parts.try_next().await? {
        whole.append(&part)?;
    }
    Ok(whole.finish()?)
}

/// A whole file being composed.
enum Whole {
    Csv { body: Spool, header: u64 },
    Json { body: Spool, parts: usize },
    Parquet(Box<SerializedFileWriter<Spool>>),
}

impl Whole {
    fn new(columns: &[Column], format: &str) -> Result<Self, FormatError> {
        let mut body = Spool::new();
        Ok(match format {
            "csv" => {
                let header = csv_header(columns);
                body.write_all(&header)?;
                Whole::Csv { body, header: header.len() as u64 }
            }
            "json" => {
                body.write_all(JSON_OPEN)?;
                Whole::Json { body, parts: 0 }
            }
            _ => {
                let writer = SerializedFileWriter::new(body, schema(columns)?, Arc::new(properties()))?;
                Whole::Parquet(Box::new(writer))
            }
        })
    }

    fn append(&mut self, part: &Spooled) -> Result<(), FormatError> {
        let mut bytes = part.read()?;
        match self {
            Whole::Csv { body, header } => bytes.copy(*header, part.len(), body)?,
            Whole::Json { body, parts } => {
                if *parts > 0 {
                    body.write_all(JSON_BETWEEN)?;
                }
                *parts += 1;
                bytes.copy(JSON_OPEN.len() as u64, part.len() - JSON_CLOSE.len() as u64, body)?;
            }
            Whole::Parquet(writer) => match bytes {
                Readable::Memory(bytes) => append_row_groups(writer, &bytes)?,
                Readable::File(file) => append_row_groups(writer, &file)?,
            },
        }
        Ok(())
    }

    fn finish(self) -> Result<Spooled, FormatError> {
        match self {
            Whole::Csv { body, .. } => Ok(body.finish()?),
            Whole::Json { mut body, parts } => {
                body.write_all(if parts == 0 { &JSON_CLOSE[1..] } else { JSON_CLOSE })?;
                Ok(body.finish()?)
            }
            Whole::Parquet(writer) => Ok(writer.into_inner()?.finish()?),
        }
    }
}

/// Splices the encoded columns of `part` in, as `parquet-concat` of the parquet crate does.
fn append_row_groups<R: ChunkReader>(writer: &mut SerializedFileWriter<Spool>, part: &R) -> Result<(), FormatError> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(part)?;
    for group in metadata.row_groups() {
        let mut to = writer.next_row_group()?;
        for column in group.columns() {
            let close = ColumnCloseResult {
                bytes_written: column.compressed_size() as u64,
                rows_written: group.num_rows() as u64,
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            to.append_column(part, close)?;
        }
        to.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;
    use crate::refresh::format::Table;
    use crate::refresh::kind::{Cell, Kind};

    fn columns() -> Vec<Column> {
        let scores = ["overall_risk", "resource_score", "resilience_score"].map(|name| (name, Kind::Double));
        let names = [("location_id", Kind::Int32), ("date", Kind::Date), ("location_name", Kind::Text)];
        let column = |(name, kind): (&str, Kind)| Column { name: name.to_owned(), kind };
        names.into_iter().chain(scores).map(column).collect()
    }

    fn parts() -> Vec<[Spooled; 3]> {
        let row = |location: i64| {
            let date = chrono::NaiveDate::from_ymd_opt(2025, 9, 21).expect("a date");
            [Cell::Int(location), Cell::Date(date), Cell::Text("a, b"), Cell::Double(0.5), Cell::Null, Cell::Null]
        };
        let part = |locations: std::ops::Range<i64>| {
            let mut table = Table::new(&columns()).expect("a table");
            locations.for_each(|location| table.row(&row(location)).expect("a row"));
            table.finish().expect("files").files
        };
        vec![part(0..2), part(2..3), part(3..5_000)]
    }

    fn parquet(bytes: Vec<u8>) -> impl FileReader {
        SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("parquet")
    }

    fn whole(format: usize, parts: &[[Spooled; 3]]) -> Vec<u8> {
        let mut whole = Whole::new(&columns(), FORMATS[format]).expect("a file");
        parts.iter().for_each(|part| whole.append(&part[format]).expect("a part"));
        let whole = whole.finish().expect("complete");
        let mut bytes = Vec::new();
        whole.read().expect("read").copy(0, whole.len(), &mut bytes).expect("copy");
        bytes
    }

    #[test]
    fn parts_become_one_csv_one_array_and_one_parquet_file() {
        let parts = parts();
        let csv = String::from_utf8(whole(0, &parts)).expect("UTF-8");
        assert_eq!(csv.lines().count(), 5_001);
        assert_eq!(csv.matches("location_id").count(), 1);
        assert!(csv.starts_with("location_id,date,location_name,overall_risk,resource_score,resilience_score\n0,"));
        let json: Vec<serde_json::Value> = serde_json::from_slice(&whole(1, &parts)).expect("JSON");
        assert_eq!(json.len(), 5_000);
        assert!((0..).zip(&json).all(|(location, row)| row["location_id"] == location));
        let parquet = parquet(whole(2, &parts));
        assert_eq!(parquet.metadata().num_row_groups(), 3);
        assert_eq!(parquet.metadata().file_metadata().created_by(), Some("freshet"));
        let rows =
            parquet.get_row_iter(None).expect("rows").map(|row| row.expect("a row").get_int(0).expect("a number"));
        assert!(rows.eq(0..5_000));
    }

    #[test]
    fn no_parts_become_an_empty_file_of_each_format() {
        assert_eq!(whole(0, &[]), csv_header(&columns()));
        assert_eq!(whole(1, &[]), b"[\n]\n");
        let parquet = parquet(whole(2, &[]));
        assert_eq!(parquet.metadata().file_metadata().schema_descr().num_columns(), columns().len());
    }
}
