//! Judging: casts each cell and checks it against the rules of its column, then against the rules over two columns.
//! Pure and context-free: the same text always gets the same verdict, so a replay decides like the first time.
//!
//! | cell | column | value | counted as |
//! |---|---|---|---|
//! | no such column | a value or NULL for it | that | |
//! | empty, or blanks alone | rejects | – | [`REQUIRED_EMPTY`] |
//! | | NULL | NULL | |
//! | | a value for it | that | [`EMPTY_TO_DEFAULT`], or nothing where an absent column has the same |
//! | stands for "not known" | rejects empty cells | – | [`MISSING_VALUE`] |
//! | | NULL or a value for them | that | [`MISSING_VALUE`] |
//! | does not cast | rejects | – | [`UNCASTABLE`] |
//! | | NULL | NULL | [`UNCASTABLE_TO_NULL`] |
//! | | a value for it | that | [`UNCASTABLE_TO_DEFAULT`] |
//! | breaks a rule | – | as the rule says | the rule's name |
//!
//! [`columns`] judges the rows of a batch, column by column; a single row is a batch of one ([`row`]).

mod batch;
mod point;

pub use self::batch::{Judged, Refusal, columns, row};

use self::point::with_point;
use crate::cast::{self, Casted, GROUPING_REMOVED};
use crate::cells::CellRef;
use crate::rules::{Otherwise, Rule};
use crate::{Cast, Cell, Column, Instead, Value};

/// A required cell is empty.
pub const REQUIRED_EMPTY: &str = "required_empty";
/// An empty cell got its column's default.
pub const EMPTY_TO_DEFAULT: &str = "empty_to_default";
/// A cell stands for "not known".
pub const MISSING_VALUE: &str = "missing_value";
/// A cell does not cast, and its column has no default for that.
pub const UNCASTABLE: &str = "uncastable";
/// A cell does not cast and became NULL.
pub const UNCASTABLE_TO_NULL: &str = "uncastable_to_null";
/// A cell does not cast and got its column's default.
pub const UNCASTABLE_TO_DEFAULT: &str = "uncastable_to_default";
/// The row has more cells than the header.
pub const EXTRA_CELLS: &str = "extra_cells";
/// A quote on the line is never closed, or has text after its end.
pub const STRAY_QUOTE: &str = "stray_quote";
/// A message that is not a row of a file, or that this version cannot read.
pub const MALFORMED_MESSAGE: &str = "malformed_message";

/// A correction or a warning about a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Its column.
    pub column: &'static str,
    /// The rule that it is counted under.
    pub rule: &'static str,
}

/// Corrections and warnings about the values of some cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Values that were changed, in the order of the changes.
    pub corrections: Vec<Note>,
    /// Values that break a rule but load unchanged.
    pub warnings: Vec<Note>,
}

/// Collects notes.
trait Notebook {
    /// A value was changed.
    fn correct(&mut self, note: Note);
    /// A value breaks a rule but loads unchanged.
    fn warn(&mut self, note: Note);
}

impl Notebook for Notes {
    fn correct(&mut self, note: Note) {
        self.corrections.push(note);
    }

    fn warn(&mut self, note: Note) {
        self.warnings.push(note);
    }
}

/// Why a cell rejects its row, or its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The rule that it is counted under.
    pub rule: &'static str,
    /// Whether the contract rejects the whole file for it.
    pub whole_file: bool,
}

/// The value of a cell.
///
/// # Errors
/// Why the cell's row cannot load.
pub fn cell<'t>(column: &'static Column, cell: &'t Cell<'_>, notes: &mut Notes) -> Result<Value<'t>, Refused> {
    judged(column, cell.as_ref(), &mut String::new(), notes)
}

/// The rules that values of a column may be corrected by, without those over two columns.
pub fn corrections(column: &Column) -> Vec<&'static str> {
    let mut rules = column.cast.corrections().to_vec();
    if column.decimal_comma && !rules.contains(&GROUPING_REMOVED) {
        rules.push(GROUPING_REMOVED);
    }
    if matches!(column.empty, Instead::Value(_)) && column.empty != column.absent {
        rules.push(EMPTY_TO_DEFAULT);
    }
    if !column.missing_values.is_empty() && column.empty != Instead::Reject {
        rules.push(MISSING_VALUE);
    }
    match column.uncastable {
        // Every cell casts to text.
        _ if matches!(column.cast, Cast::Text | Cast::TrimmedText) => {}
        Instead::Null => rules.push(UNCASTABLE_TO_NULL),
        Instead::Value(_) => rules.push(UNCASTABLE_TO_DEFAULT),
        Instead::Reject => {}
    }
    rules.extend(column.rules.iter().filter(|rule| rule.otherwise.corrects()).map(|rule| rule.name));
    rules
}

/// The value of a cell. `scratch` is a buffer for a number with a decimal comma.
fn judged<'t>(
    column: &'static Column,
    cell: CellRef<'t>,
    scratch: &mut String,
    notes: &mut impl Notebook,
) -> Result<Value<'t>, Refused> {
    let text = match cell {
        CellRef::Absent => return Ok(column.absent.value()),
        CellRef::Missing => "",
        CellRef::Text(text) => text,
    };
    if cast::is_blank(text) {
        // If the file may lack the column, a row may lack the cell.
        let default = if column.empty == column.absent { "" } else { EMPTY_TO_DEFAULT };
        return instead(column, column.empty, [REQUIRED_EMPTY, "", default], notes);
    }
    if is_missing_value(column, cast::trim(text)) {
        return instead(column, column.empty, [MISSING_VALUE; 3], notes);
    }
    let read = match column.decimal_comma {
        true => with_point(text, scratch).and_then(|is_grouped| {
            let grouping = is_grouped.then_some(GROUPING_REMOVED);
            let read = column.cast.read_number(scratch);
            read.map(|casted| Casted { correction: casted.correction.or(grouping), ..casted })
        }),
        false => column.cast.read(text),
    };
    let Some(Casted { mut value, correction }) = read else {
        return instead(column, column.uncastable, [UNCASTABLE, UNCASTABLE_TO_NULL, UNCASTABLE_TO_DEFAULT], notes);
    };
    if let Some(rule) = correction {
        notes.correct(Note { column: column.name, rule });
    }
    for rule in column.rules {
        apply(column, rule, &mut value, notes)?;
    }
    Ok(value)
}

/// Whether a text, which is not empty, stands for "not known". Few cells begin like one of those texts.
fn is_missing_value(column: &Column, text: &str) -> bool {
    let first = text.as_bytes().first();
    column.missing_values.iter().any(|value| value.as_bytes().first() == first && *value == text)
}

/// The value for a cell without one, noted under the rule for a reject, for NULL or for a default.
fn instead(
    column: &Column,
    instead: Instead,
    names: [&'static str; 3],
    notes: &mut impl Notebook,
) -> Result<Value<'static>, Refused> {
    let [reject, null, default] = names;
    let rule = match instead {
        Instead::Reject => return Err(Refused { rule: reject, whole_file: false }),
        Instead::Null => null,
        Instead::Value(_) => default,
    };
    if !rule.is_empty() {
        notes.correct(Note { column: column.name, rule });
    }
    Ok(instead.value())
}

fn apply(
    column: &Column,
    rule: &'static Rule,
    value: &mut Value<'_>,
    notes: &mut impl Notebook,
) -> Result<(), Refused> {
    let Some(limit) = rule.broken(value) else { return Ok(()) };
    let note = Note { column: column.name, rule: rule.name };
    *value = match rule.otherwise {
        Otherwise::Reject => return Err(Refused { rule: rule.name, whole_file: false }),
        Otherwise::Fail => return Err(Refused { rule: rule.name, whole_file: true }),
        Otherwise::Warn => {
            notes.warn(note);
            return Ok(());
        }
        Otherwise::Null => Value::Null,
        // A contract with a rule that has no such value is refused.
        Otherwise::Zero => column.cast.zero().unwrap_or(Value::Null),
        Otherwise::Cap => limit.cap(value).unwrap_or(Value::Null),
    };
    notes.correct(note);
    Ok(())
}

#[cfg(test)]
mod tests;
