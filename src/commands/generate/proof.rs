//! Proves that sample rows load: some rows of a domain are judged before any is written, so that a contract with too
//! little information for valid rows is refused with a clear message.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use freshet_topics::{Cell, RawRow, judge};

use super::day::Day;
use super::files::Row;
use super::fill::{Scratch, Take, Today, World};
use super::measured::limits;
use super::shape::{Form, Shape, Source};
use super::{GenerateOptions, days};

/// Days that are tried, as the first and the last so many of all.
const DAYS_TRIED: usize = 6;

/// Judges some rows of the first and the last entities, on the first and the last days.
///
/// # Errors
/// The first cell that would be refused or changed, and what to say in the contract.
pub(super) fn rows_load(world: &World, shape: &Shape, options: &GenerateOptions) -> Result<()> {
    let asked = f64::from(options.entities);
    for (filled, column) in shape.columns.iter().zip(shape.domain.columns) {
        let Source::Entity(first) = filled.source else { continue };
        let takes = match &filled.form {
            Form::Choice(cells) => cells.len() as f64,
            _ => limits(column).1 - first + 1.0,
        };
        let (name, column) = (shape.domain.name, column.name);
        ensure!(
            takes >= asked,
            "column {column} of {name} can identify at most {takes} entities, not {asked}: use a smaller --entities"
        );
    }
    let mut entities = [1, 2, 3, options.entities / 2, options.entities - 1, options.entities].to_vec();
    entities.retain(|entity| (1..=options.entities).contains(entity));
    for today in todays(shape, options) {
        for entity in &entities {
            for take in [Take::First, Take::Again] {
                let mut row = Row::of(shape.domain.delimiter);
                world.fill(shape, &mut row, &mut Scratch::default(), *entity, &today, take);
                judged(shape, &row)?;
            }
        }
    }
    Ok(())
}

fn todays(shape: &Shape, options: &GenerateOptions) -> Vec<Today> {
    if !shape.is_fact() {
        return vec![Today::any(shape, Day::new(options.end, 0))];
    }
    let first = days(options, shape).take(DAYS_TRIED);
    let last = days(options, shape).rev().take(DAYS_TRIED);
    first.chain(last).map(|day| Today::new(shape, day)).collect()
}

/// Nothing is to be refused, corrected or warned of.
fn judged(shape: &Shape, row: &Row) -> Result<()> {
    let domain = shape.domain;
    let refused = |column: &str, rule: &str| {
        let text = row.cell(domain.index_of(column));
        format!(
            "sample data of {} would have `{text}` in column {column}, which is counted as {rule}: describe its \
             values in the contract, under `sample` of that column",
            domain.name
        )
    };
    let cells = (0..domain.columns.len()).map(|at| Cell::Text(row.cell(at).into())).collect();
    let raw = RawRow { cells, extra: Vec::new(), new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 };
    let judged = judge::row(domain, &raw);
    if let Some(refusal) = judged.refusal(0) {
        bail!(refused(refusal.column.unwrap_or_default(), refusal.rule));
    }
    match judged.corrections.iter().chain(judged.warnings.iter()).next() {
        Some((_, note)) => bail!(refused(note.column, note.rule)),
        None => Ok(()),
    }
}
