//! The tests of rows: each is read like a row of a file, through header, casts and rules, and judged as in the
//! pipeline.

use freshet_ingest::frame::{FrameLimits, Framer};
use freshet_ingest::header::Header;
use freshet_topics::Pipeline;
use freshet_topics::judge;
use freshet_topics::pipeline::examples::{Example, Examples};
use freshet_topics::pipeline::mistake::{Mistake, Place};

/// How many rows the folder tests.
pub(super) fn count(pipeline: &Pipeline) -> usize {
    pipeline.examples.iter().map(|examples| examples.rows.len()).sum()
}

/// Judges every row of every test.
pub(super) fn check(pipeline: &Pipeline) -> Vec<Mistake> {
    pipeline.examples.iter().flat_map(check_file).collect()
}

fn check_file(examples: &'static Examples) -> Vec<Mistake> {
    let header = with_record(&examples.header, |record| Header::read(examples.domain, &[], record));
    let at = |place, said| Mistake { file: examples.file.clone(), place, said };
    match header {
        Ok(Ok(header)) => examples.rows.iter().filter_map(|example| check_row(examples, &header, example)).collect(),
        Ok(Err(error)) => vec![at(Place::START, error.to_string())],
        Err(error) => vec![at(Place::START, error.to_string())],
    }
}

fn check_row(examples: &Examples, header: &Header, example: &Example) -> Option<Mistake> {
    let differs = with_record(&example.cells, |record| {
        example.differs(examples.domain, &judge::row(examples.domain, &header.raw_row(record)))
    });
    let said = differs.unwrap_or_else(|error| Some(error.to_string()))?;
    Some(Mistake { file: examples.file.clone(), place: example.place, said })
}

/// Frames these cells as a line of a file would be.
fn with_record<T>(
    cells: &[String],
    judge: impl FnOnce(&freshet_ingest::frame::Record<'_>) -> T,
) -> Result<T, freshet_ingest::frame::FrameError> {
    let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
    let line = format!("{}\n", quoted.join(","));
    let mut framer = Framer::new(FrameLimits::default(), b',');
    let mut rest = line.as_bytes();
    let record = framer.next(&mut rest)?;
    Ok(judge(&record.expect("a quoted line is a record")))
}
