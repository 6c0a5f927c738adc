//! `freshet check`: every mistake of a pipeline folder at once, and its tests. It needs no server; where a Postgres can be
//! reached, the outputs are tried there too, in a schema that is gone afterwards.

mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use freshet_topics::Pipeline;

use crate::pipeline;

/// Options of `freshet check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Pipeline folder; unless given, that of --pipeline, else the shipped one
    pub folder: Option<PathBuf>,
}

/// A test that did not come out as it says, or an output that cannot be derived: one line, with its place.
pub(super) type Failure = String;

/// Checks a folder and says what it found.
///
/// # Errors
/// None of its own: mistakes and failed tests are told, and the exit code is 1.
pub fn run(folder: Option<&Path>) -> ExitCode {
    let checked = folder.map_or_else(pipeline::sound, pipeline::read);
    let pipeline = match checked {
        Ok(pipeline) => pipeline,
        Err(broken) => {
            println!("{broken}");
            return ExitCode::FAILURE;
        }
    };
    let failures = rows::check(pipeline);
    for failure in &failures {
        println!("{failure}");
    }
    println!("{}", told(pipeline, failures.len()));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn told(pipeline: &Pipeline, failed: usize) -> String {
    let (domains, rows) = (pipeline.domains.len(), rows::count(pipeline));
    let read = format!("{}: {}", pipeline.name, counted(domains, "domain"));
    match (rows, failed) {
        (0, _) => format!("{read}, without mistakes; it has no tests yet"),
        (rows, 0) => format!("{read}, without mistakes; {} as expected", counted(rows, "row")),
        (rows, failed) => format!("{read}, without mistakes; {failed} of {} not as expected", counted(rows, "row")),
    }
}

/// `1 row`, `2 rows`.
fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
