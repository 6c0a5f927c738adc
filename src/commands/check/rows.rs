//! The tests of rows: each goes the way of a row in a file, through header, casts and rules, and is judged as it would be
//! in the pipeline.

use freshet_ingest::frame::{FrameLimits, Framer};
use freshet_ingest::header::Header;
use freshet_processors::validate::validate;
use freshet_topics::Pipeline;
use freshet_topics::pipeline::examples::{Example, Examples};

use super::Failure;

/// How many rows the folder tests.
pub(super) fn count(pipeline: &Pipeline) -> usize {
    pipeline.examples.iter().map(|examples| examples.rows.len()).sum()
}

/// Judges every row of every test.
pub(super) fn check(pipeline: &Pipeline) -> Vec<Failure> {
    pipeline.examples.iter().flat_map(check_file).collect()
}

fn check_file(examples: &'static Examples) -> Vec<Failure> {
    let header = with_record(&examples.header, |record| Header::read(examples.domain, record));
    match header {
        Ok(Ok(header)) => examples.rows.iter().filter_map(|example| check_row(examples, &header, example)).collect(),
        Ok(Err(error)) => vec![format!("{}:1:1: {error}", examples.file)],
        Err(error) => vec![format!("{}:1:1: {error}", examples.file)],
    }
}

fn check_row(examples: &Examples, header: &Header, example: &Example) -> Option<Failure> {
    let differs = with_record(&example.cells, |record| {
        let verdict = validate(examples.domain, &header.raw_row(record));
        let verdict = verdict.as_ref();
        example.differs(
            examples.domain,
            verdict
                .map(|accepted| (accepted.values.as_slice(), &accepted.notes))
                .map_err(|refusal| (refusal.column, refusal.rule)),
        )
    });
    let said = differs.unwrap_or_else(|error| Some(error.to_string()))?;
    Some(format!("{}:{}:{}: {said}", examples.file, example.place.line, example.place.column))
}

/// Frames these cells as a line of a file would be.
fn with_record<T>(
    cells: &[String],
    judge: impl FnOnce(&freshet_ingest::frame::Record<'_>) -> T,
) -> Result<T, freshet_ingest::frame::FrameError> {
    let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
    let line = format!("{}\n", quoted.join(","));
    let mut framer = Framer::new(FrameLimits::default());
    let mut rest = line.as_bytes();
    let record = framer.next(&mut rest)?;
    Ok(judge(&record.expect("a quoted line is a record")))
}
