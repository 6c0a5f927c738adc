//! `freshet check`: every mistake of a pipeline folder at once, and its tests. It needs no server; where a Postgres can be
//! reached, the outputs are tried there too, in a schema that is gone afterwards.

mod outputs;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use freshet_sinks::postgres;
use freshet_topics::Pipeline;
use freshet_topics::causes::in_one_line;
use freshet_topics::pipeline::mistake::Mistake;

use crate::config::Config;
use crate::pipeline;

/// Options of `freshet check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Pipeline folder; unless given, that of --pipeline, else the shipped one
    pub folder: Option<PathBuf>,
}

/// A server that does not answer within this is out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks a folder and prints the result. `config` has a Postgres to try outputs in, or the reason why there is none.
///
/// # Errors
/// If Postgres stops answering. Mistakes and failed tests are printed, and the exit code is 1.
pub async fn run(folder: Option<&Path>, config: Result<Config>) -> Result<ExitCode> {
    let checked = folder.map_or_else(pipeline::sound, pipeline::read);
    let pipeline = match checked {
        Ok(pipeline) => pipeline,
        Err(broken) => {
            println!("{broken}");
            return Ok(ExitCode::FAILURE);
        }
    };
    // A test that does not come out as it says, or a query that does not work, is one more mistake of a file.
    let mut failures: Vec<Mistake> = rows::check(pipeline);
    let mut untried = None;
    if !pipeline.outputs.is_empty() {
        match connect(config).await {
            Ok(mut connection) => failures.extend(outputs::check(&mut connection, pipeline).await?),
            Err(error) => {
                let said = in_one_line(error.as_ref());
                untried = Some(format!("outputs were not checked, because Postgres is not available: {said}"))
            }
        }
    }
    for mistake in &failures {
        println!("{mistake}");
    }
    if let Some(untried) = &untried {
        println!("{untried}");
    }
    println!("{}", summary(pipeline, failures.len(), untried.is_none()));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(config: Result<Config>) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
    let pool = postgres::pool(&config?.postgres).context("read the settings")?;
    // The pool tries for longer: somebody waits here for an answer about files.
    tokio::time::timeout(CONNECT_TIMEOUT, pool.acquire()).await.context("no answer in time")?.context("connect")
}

fn summary(pipeline: &Pipeline, failed: usize, tried: bool) -> String {
    let tests = rows::count(pipeline) + if tried { pipeline.cases.len() } else { 0 };
    let (domains, outputs) = (counted(pipeline.domains.len(), "domain"), counted(pipeline.outputs.len(), "output"));
    let tests = match (tests, failed) {
        (0, 0) => "it has no tests yet".to_owned(),
        (tests, 0) => format!("{} passed", counted(tests, "test")),
        (_, failed) => format!("{failed} not as expected"),
    };
    format!("{}: {domains}, {outputs}, without mistakes; {tests}", pipeline.name)
}

/// `1 row`, `2 rows`.
fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
