//! Outputs, tried: each query is checked against empty tables, and each test of an output against the rows that it gives.
//! Everything happens in one transaction, in a schema of its own, and is rolled back.

use anyhow::{Context, Result};
use freshet_ingest::frame::{FrameLimits, Framer};
use freshet_ingest::header::Header;
use freshet_processors::refresh::check;
use freshet_sinks::apply::upsert::{Candidate, Upsert};
use freshet_sinks::apply::{Origin, Rows};
use freshet_sinks::destination::Destination;
use freshet_sinks::tables::{self, Identity, Setup};
use freshet_topics::cells::Cells;
use freshet_topics::message::RawText;
use freshet_topics::pipeline::cases::OutputCase;
use freshet_topics::pipeline::mistake::Mistake;
use freshet_topics::{Domain, PARSER_VERSION, Pipeline, Provenance, judge};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Tries all outputs.
///
/// # Errors
/// If Postgres does not answer, or may not make a schema.
pub(super) async fn check(connection: &mut PgConnection, pipeline: &Pipeline) -> Result<Vec<Mistake>> {
    let mut transaction = connection.begin().await.context("begin")?;
    make_tables(&mut transaction, pipeline).await?;
    let mut failures = Vec::new();
    for output in pipeline.outputs {
        let checked = check::check(&mut transaction, output).await?;
        let file = format!("outputs/{}.sql", output.name);
        let wrong = checked.wrong.into_iter();
        failures.extend(wrong.map(|(place, said)| Mistake { file: file.clone(), place, said }));
    }
    for case in pipeline.cases {
        let mut scratch = transaction.begin().await.context("begin a test")?;
        failures.extend(try_case(&mut scratch, case).await?);
        scratch.rollback().await.context("end a test")?;
    }
    transaction.rollback().await.context("roll back")?;
    Ok(failures)
}

/// Makes a schema with the pipeline's tables, empty, and looks there from now on.
async fn make_tables(connection: &mut PgConnection, pipeline: &Pipeline) -> Result<()> {
    let schema = format!("freshet_check_{}", Uuid::new_v4().simple());
    let Pipeline { name, hash, domains, outputs, .. } = *pipeline;
    let make = format!("CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *connection).await.context("make a schema to try outputs in")?;
    // No view is made here, so that no window needs to close.
    let pipeline = Identity { name, hash };
    let setup = Setup { schema: &schema, domains, outputs, pipeline, allowed_lateness_days: 0 };
    let plan = tables::look(connection, &setup).await.context("plan the tables")?;
    for sql in plan.tables.iter().flat_map(|table| &table.steps).flat_map(|step| &step.sql) {
        sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&mut *connection).await.context("make the tables")?;
    }
    Ok(())
}

/// Loads what is given, derives the window, and compares.
async fn try_case(connection: &mut PgConnection, case: &'static OutputCase) -> Result<Option<Mistake>> {
    let at = |place, said| Mistake { file: case.file.clone(), place, said };
    for (domain, place, text) in &case.given {
        if let Err(said) = load(connection, domain, text).await? {
            return Ok(Some(at(*place, said)));
        }
    }
    let derived = check::csv(connection, case.output, case.window, case.is_final).await?;
    let differs = match derived {
        Ok(found) => differs(&case.expected, &found),
        Err(reason) => Some(reason),
    };
    Ok(differs.map(|said| at(case.place, said)))
}

/// Loads the rows of a file, as the pipeline would; or says which does not load.
async fn load(connection: &mut PgConnection, domain: &'static Domain, text: &str) -> Result<Result<(), String>> {
    let rows = match rows(domain, text) {
        Ok(rows) => rows,
        Err(said) => return Ok(Err(said)),
    };
    let upsert = Upsert::new(domain, Destination::Live);
    let mut candidates: Vec<Candidate<'_>> =
        (0..rows.origins.len()).map(|index| Candidate { row: rows.row(index), index }).collect();
    // The later row of a key wins, as within a file.
    candidates.sort_by(|left, right| upsert.compare(left, right));
    candidates.dedup_by(|next, kept| upsert.compare_keys(next, kept).is_eq());
    let written = upsert.write(connection, &candidates).await;
    Ok(written.map(drop).map_err(|error| format!("{}: {error}", domain.name)))
}

/// The rows of a file, judged.
fn rows(domain: &'static Domain, text: &str) -> Result<Rows, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", domain.name);
    let whole = format!("{text}\n");
    let (mut framer, mut rest) = (Framer::new(FrameLimits::default(), domain.delimiter), whole.as_bytes());
    let header = framer.next(&mut rest).map_err(|error| wrong(&error))?.ok_or_else(|| wrong(&"there is no header"))?;
    let header = Header::read(domain, &[], &header).map_err(|error| wrong(&error))?;
    let (mut cells, mut origins) = (Cells::of(domain), Vec::new());
    while let Some(record) = framer.next(&mut rest).map_err(|error| wrong(&error))? {
        cells.push(&header.raw_row(&record));
        origins.push(origin(origins.len() as i64, record.line().cast_signed()));
    }
    let judged = judge::columns(domain, &cells);
    if let Some((row, refusal)) = judged.refusals.iter().next() {
        let (line, column) = (origins[*row].provenance.line, refusal.column.unwrap_or("the row"));
        return Err(wrong(&format!("line {line}: {column} is rejected ({})", refusal.rule)));
    }
    Ok(Rows { origins, judged })
}

fn origin(row: i64, line: i64) -> Origin {
    let (object, generation, src_ord, partitions) = (1, 1, 1, 1);
    let nonce = Uuid::nil();
    let parser = PARSER_VERSION;
    let provenance = Provenance { object, generation, row, line, src_ord, seq: row, parser, nonce, partitions };
    Origin { partition: 0, offset: row, provenance, raw: RawText::default() }
}

/// The first line in which two files differ.
fn differs(expected: &str, found: &str) -> Option<String> {
    let (mut expected, mut found) = (expected.trim_end().lines(), found.trim_end().lines());
    for number in 1.. {
        match (expected.next(), found.next()) {
            (None, None) => break,
            (left, right) if left == right => {}
            (left, right) => {
                let shown = |line: Option<&str>| line.map_or("nothing".to_owned(), |line| format!("`{line}`"));
                return Some(format!("line {number} is {}; expected: {}", shown(right), shown(left)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_told() {
        assert_eq!(differs("a,b\n1,2\n", "a,b\n1,2"), None);
        assert_eq!(differs("a\n1\n", "a\n2\n").as_deref(), Some("line 2 is `2`; expected: `1`"));
        assert_eq!(differs("a\n1\n", "a\n").as_deref(), Some("line 2 is nothing; expected: `1`"));
        assert_eq!(differs("a", "a\n1").as_deref(), Some("line 2 is `1`; expected: nothing"));
    }

    #[test]
    fn a_row_that_does_not_load_is_told_with_its_line() {
        let health = Pipeline::shipped().domain("health").expect("shipped");
        assert_eq!(
            rows(health, "location_id,date,dengue_cases\n1,2025-01-01,3\n").map(|rows| rows.origins.len()),
            Ok(1)
        );
        let said = rows(health, "location_id,date,dengue_cases\n1,2025-01-01,3\none,2025-01-01,3\n").expect_err("bad");
        assert_eq!(said, "health: line 3: location_id is rejected (uncastable)");
    }
}
