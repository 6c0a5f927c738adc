//! Judging the rows of a batch, column by column.
//!
//! The verdict on each row is the same as if it were judged alone: the first column at fault, in declaration order,
//! rejects it, then the rules over two columns; notes on a rejected row are dropped. Refusals and notes are stored by
//! row beside the values, so an ordinary row without any costs nothing extra.

use crate::cells::{CellRef, Cells};
use crate::columns::{ByRow, Columns};
use crate::kept;
use crate::rules::{Otherwise, RowRule};
use crate::{Column, Domain, RawRow, Value};

use super::{EXTRA_CELLS, MALFORMED_MESSAGE, Note, Notebook, Refused, STRAY_QUOTE, judged};

/// Why a row cannot load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that rejects it: `required_empty`, `uncastable`, `negative`, `extra_cells`, `refused_by_database`, …
    pub rule: &'static str,
    /// The column at fault, if it is one.
    pub column: Option<&'static str>,
    /// The offending value, or the message of the database.
    pub value: Option<String>,
}

/// A batch of rows, judged.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// The values: the domain's columns, then those that its contract keeps besides, with JSON text. The values of a
    /// refused row have no meaning.
    pub values: Columns,
    /// Rows that cannot load, with the reason.
    pub refusals: ByRow<Refusal>,
    /// Changed values of the other rows, in column order, those changed by rules over two columns last.
    pub corrections: ByRow<Note>,
    /// Values of the other rows that break a rule but load unchanged, in the same order.
    pub warnings: ByRow<Note>,
}

impl Judged {
    /// Why a row cannot load; `None` if it can.
    pub fn refusal(&self, row: usize) -> Option<&Refusal> {
        self.refusals.first_of(row)
    }

    /// The value of a row in one of the [additional columns](Domain::kept_columns); `None` is NULL.
    pub fn kept(&self, domain: &Domain, column: &str, row: usize) -> Option<&str> {
        let at = domain.kept_columns().position(|(name, _)| name == column)?;
        match self.values.get(domain.columns.len() + at, row) {
            Value::Text(json) => Some(json),
            _ => None,
        }
    }
}

/// Judges a single row: it is row 0.
pub fn row(domain: &'static Domain, row: &RawRow<'_>) -> Judged {
    let mut cells = Cells::of(domain);
    cells.push(row);
    columns(domain, &cells)
}

/// Judges the rows of a batch.
pub fn columns(domain: &'static Domain, cells: &Cells) -> Judged {
    let mut judging = Judging::begin(domain, cells);
    for (at, column) in domain.columns.iter().enumerate() {
        judging.column(at, column);
    }
    for rule in domain.row_rules {
        judging.row_rule(rule);
    }
    judging.end()
}

/// A batch that is being judged.
struct Judging<'c> {
    domain: &'static Domain,
    cells: &'c Cells,
    values: Columns,
    is_refused: Vec<bool>,
    refusals: Vec<(usize, Refusal)>,
    corrections: Vec<(usize, Note)>,
    warnings: Vec<(usize, Note)>,
}

/// Notes of one row.
struct RowNotes<'j> {
    row: usize,
    corrections: &'j mut Vec<(usize, Note)>,
    warnings: &'j mut Vec<(usize, Note)>,
}

impl Notebook for RowNotes<'_> {
    fn correct(&mut self, note: Note) {
        self.corrections.push((self.row, note));
    }

    fn warn(&mut self, note: Note) {
        self.warnings.push((self.row, note));
    }
}

impl<'c> Judging<'c> {
    /// Refuses rows that have no cells to judge, or too many.
    fn begin(domain: &'static Domain, cells: &'c Cells) -> Self {
        let rows = cells.rows();
        let mut judging = Judging {
            domain,
            cells,
            values: Columns::of(domain, rows),
            is_refused: vec![false; rows],
            refusals: Vec::new(),
            corrections: Vec::new(),
            warnings: Vec::new(),
        };
        for (row, why) in cells.malformed() {
            judging.refuse(row, MALFORMED_MESSAGE, None, why);
        }
        for (row, line) in cells.stray_quotes() {
            judging.refuse(row, STRAY_QUOTE, None, line);
        }
        for (row, first) in cells.extra() {
            judging.refuse(row, EXTRA_CELLS, None, first);
        }
        judging
    }

    /// Refuses a row, unless it was refused before.
    fn refuse(&mut self, row: usize, rule: &'static str, column: Option<&'static str>, value: &str) {
        if !std::mem::replace(&mut self.is_refused[row], true) {
            self.refusals.push((row, Refusal { rule, column, value: Some(value.to_owned()) }));
        }
    }

    /// Judges a column.
    fn column(&mut self, at: usize, column: &'static Column) {
        let mut scratch = String::new();
        for row in 0..self.cells.rows() {
            if self.is_refused[row] {
                self.values.push(at, Value::Null);
                continue;
            }
            let cell = self.cells.get(at, row);
            let (corrections, warnings) = (&mut self.corrections, &mut self.warnings);
            match judged(column, cell, &mut scratch, &mut RowNotes { row, corrections, warnings }) {
                Ok(value) => self.values.push(at, value),
                Err(Refused { rule, .. }) => {
                    self.values.push(at, Value::Null);
                    self.refuse(row, rule, Some(column.name), cell.text());
                }
            }
        }
    }

    /// Applies a rule over two columns, to rows that have both values and whose other value was not corrected: a
    /// corrected value is no basis for judging.
    fn row_rule(&mut self, rule: &'static RowRule) {
        let (at, other) = (self.domain.index_of(rule.column), self.domain.index_of(rule.other));
        // In the order of the rows, for lookups.
        self.corrections.sort_by_key(|(row, _)| *row);
        let before = std::mem::take(&mut self.corrections);
        let corrected = |row: usize| {
            let from = before.partition_point(|(noted, _)| *noted < row);
            before[from..].iter().take_while(|(noted, _)| *noted == row).any(|(_, note)| note.column == rule.other)
        };
        let note = Note { column: rule.column, rule: rule.name };
        for row in 0..self.cells.rows() {
            let holds = || rule.comparison.holds(&self.values.get(at, row), &self.values.get(other, row));
            if self.is_refused[row] || holds() || corrected(row) {
                continue;
            }
            match rule.otherwise {
                Otherwise::Cap => self.values.copy(row, other, at),
                Otherwise::Null | Otherwise::Zero => self.values.set(at, row, Value::Null),
                Otherwise::Warn => {
                    self.warnings.push((row, note));
                    continue;
                }
                Otherwise::Reject | Otherwise::Fail => {
                    let found: CellRef<'c> = self.cells.get(at, row);
                    self.refuse(row, rule.name, Some(rule.column), found.text());
                    continue;
                }
            }
            self.corrections.push((row, note));
        }
        self.corrections.splice(0..0, before);
    }

    /// Drops the notes of refused rows, and fills the columns that the contract keeps for the others.
    fn end(mut self) -> Judged {
        let is_refused = &self.is_refused;
        let of_good_rows = |notes: Vec<(usize, Note)>| -> ByRow<Note> {
            notes.into_iter().filter(|(row, _)| !is_refused[*row]).collect()
        };
        let (corrections, warnings) = (of_good_rows(self.corrections), of_good_rows(self.warnings));
        for (at, (name, _)) in self.domain.kept_columns().enumerate() {
            let at = self.domain.columns.len() + at;
            for _ in 0..self.cells.rows() {
                self.values.push(at, Value::Null);
            }
            if name == kept::CORRECTIONS {
                let overtaken = self.cells.overtaken().filter(|(row, _)| !is_refused[*row]).collect();
                kept::corrections(&corrections, &overtaken, |row, json| self.values.set(at, row, Value::Text(json)));
                continue;
            }
            for (row, json) in self.cells.new_cells().filter(|(row, _)| !is_refused[*row]) {
                self.values.set(at, row, Value::Text(json));
            }
        }
        Judged { values: self.values, refusals: self.refusals.into_iter().collect(), corrections, warnings }
    }
}
