//! Rejects as a CSV file of their domain: the original cells, and notes with the reasons.
//!
//! The headings of the notes begin with [`NOTES`], so that a listener ignores them: once the cells are corrected, the
//! file can be dropped unchanged.

use std::collections::BTreeSet;

use freshet_ingest::header::NOTES;
use freshet_topics::{Cell, Domain, RawRow, TextEncoding};

use super::select::Reject;

/// What the notes say: the rule, the column, the value, what stood beyond the header or on a line with a stray quote, and
/// where the row is from.
const NOTE_NAMES: [&str; 6] = ["rule", "column", "value", "text", "file", "line"];

/// The columns that rows of one file were sent with, gathered row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Columns {
    /// For each of the domain's, whether any row has it. A line with a stray quote has none, and fits any: empty as long
    /// as there is no other row.
    has: Vec<bool>,
    /// Headings of new ones.
    new: BTreeSet<String>,
}

/// The columns under one header: of the domain, and new ones by heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Places in the domain.
    columns: Vec<usize>,
    new: Vec<String>,
}

/// The row as it was sent; `None` if its text was too long to be kept whole, so that it is no valid JSON any more.
pub(super) fn row(domain: &Domain, reject: &Reject) -> Option<RawRow<'static>> {
    RawRow::decode(domain, reject.raw.as_bytes()).ok()
}

impl Columns {
    /// Takes the columns of one more row.
    pub(super) fn add(&mut self, row: &RawRow<'_>) {
        for name in row.new_cells.keys() {
            if !self.new.contains(name.as_ref()) {
                self.new.insert(name.to_string());
            }
        }
        if row.stray_quote.is_none() {
            self.has.resize(row.cells.len(), false);
            self.has.iter_mut().zip(&row.cells).for_each(|(has, cell)| *has |= *cell != Cell::Absent);
        }
    }
}

impl Shape {
    /// All columns that any of these files has; those of the domain where none has any.
    pub(super) fn of<'c>(domain: &Domain, files: impl Iterator<Item = &'c Columns> + Clone) -> Shape {
        let has = |column: &usize| files.clone().any(|file| file.has.get(*column).is_some_and(|has| *has));
        let mut columns: Vec<usize> = (0..domain.columns.len()).filter(has).collect();
        if columns.is_empty() {
            columns = (0..domain.columns.len()).collect();
        }
        let new: BTreeSet<&String> = files.clone().flat_map(|file| &file.new).collect();
        Shape { columns, new: new.into_iter().cloned().collect() }
    }
}

/// Whether rows of several files fit under one header: for a column that only some files lack, an empty cell would mean
/// something else than a missing column. Of one file, rows may lack an empty cell of a column that was declared since.
pub(super) fn are_one_shape<'c>(files: impl Iterator<Item = &'c Columns>) -> bool {
    let mut framed = files.map(|file| &file.has).filter(|has| !has.is_empty());
    let Some(first) = framed.next() else { return true };
    framed.all(|has| has == first)
}

/// The first line. Where the text of the contract's files is not UTF-8, a byte order mark says that this is.
pub(super) fn heading(domain: &Domain, shape: &Shape) -> String {
    let mark = if domain.encoding == TextEncoding::Utf8 { "" } else { "\u{feff}" };
    let notes = NOTE_NAMES.iter().map(|name| format!("{NOTES}{name}"));
    let names = shape.columns.iter().map(|column| domain.columns[*column].name.to_owned());
    format!("{mark}{}", written(domain, names.chain(shape.new.iter().cloned()).chain(notes)))
}

/// The line of a reject.
pub(super) fn line(domain: &Domain, shape: &Shape, reject: &Reject, row: &RawRow<'_>) -> String {
    written(domain, record(shape, reject, row).into_iter())
}

/// Cells on a line; a contract's own delimiter is kept.
fn written(domain: &Domain, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| quoted(&cell, domain.delimiter)).collect();
    cells.join(char::from(domain.delimiter).to_string().as_str()) + "\n"
}

fn record(shape: &Shape, reject: &Reject, row: &RawRow<'_>) -> Vec<String> {
    let cells = shape.columns.iter().map(|column| match &row.cells[*column] {
        Cell::Text(text) => text.to_string(),
        Cell::Absent | Cell::Missing => String::new(),
    });
    let new = shape.new.iter().map(|name| row.new_cells.get(name.as_str()).map_or(String::new(), ToString::to_string));
    let text = row.stray_quote.as_ref().map_or_else(|| row.extra.join(", "), ToString::to_string);
    let notes = [
        reject.rule.clone(),
        reject.column.clone().unwrap_or_default(),
        reject.value.clone().unwrap_or_default(),
        text,
        reject.file.clone().unwrap_or_default(),
        reject.line.to_string(),
    ];
    cells.chain(new).chain(notes).collect()
}

/// A cell as CSV has it; in quotes only where it has to be.
fn quoted(cell: &str, delimiter: u8) -> String {
    let has = |character: char| matches!(character, '"' | '\n' | '\r') || character == char::from(delimiter);
    match cell.chars().any(has) || cell != cell.trim() {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use freshet_topics::domains;

    use super::*;

    fn reject(raw: &str, rule: &str, column: Option<&str>, line: i64) -> Reject {
        Reject {
            domain: "health".into(),
            file: Some("health/a.csv".into()),
            object: 1,
            generation: 1,
            row: line - 2,
            line,
            column: column.map(str::to_owned),
            value: Some("x".into()),
            rule: rule.into(),
            rejected_at: DateTime::default(),
            raw: raw.into(),
            topic: "t".into(),
            partition: 0,
            offset: 1,
        }
    }

    fn columns(domain: &Domain, rejects: &[Reject]) -> BTreeMap<i64, Columns> {
        let mut columns: BTreeMap<i64, Columns> = BTreeMap::new();
        for reject in rejects {
            columns.entry(reject.object).or_default().add(&row(domain, reject).expect("a row"));
        }
        columns
    }

    fn written_of(domain: &Domain, rejects: &[Reject]) -> String {
        let shape = Shape::of(domain, columns(domain, rejects).values());
        let lines = rejects.iter().map(|reject| line(domain, &shape, reject, &row(domain, reject).expect("a row")));
        std::iter::once(heading(domain, &shape)).chain(lines).collect()
    }

    #[test]
    fn the_cells_are_as_they_were_sent_and_the_notes_say_why() {
        let health = domains::by_name("health").expect("declared");
        let rejects = [
            reject(
                r#"{"location_id":"x","date":"2025-01-01","dengue_cases":" 1,5"}"#,
                "uncastable",
                Some("location_id"),
                2,
            ),
            reject(
                r#"{"location_id":"1","date":"2025-01-02","dengue_cases":null,"_new":{"note":"a \"b\""}}"#,
                "late",
                None,
                3,
            ),
            reject(r#"{"_stray_quote":"1,\"2,3"}"#, "stray_quote", None, 4),
        ];
        let text = written_of(health, &rejects);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "location_id,date,dengue_cases,note,_rejected_rule,_rejected_column,_rejected_value,_rejected_text,\
             _rejected_file,_rejected_line"
        );
        assert_eq!(lines[1], r#"x,2025-01-01," 1,5",,uncastable,location_id,x,,health/a.csv,2"#);
        assert_eq!(lines[2], r#"1,2025-01-02,,"a ""b""",late,,x,,health/a.csv,3"#);
        assert_eq!(lines[3], r#",,,,stray_quote,,x,"1,""2,3",health/a.csv,4"#);
    }

    #[test]
    fn rows_of_other_columns_do_not_stand_under_one_header() {
        let health = domains::by_name("health").expect("declared");
        let mut rejects = [
            reject(r#"{"location_id":"x","date":"2025-01-01","dengue_cases":"1"}"#, "a", None, 2),
            reject(r#"{"location_id":"x","date":"2025-01-01","malaria_cases":"1"}"#, "a", None, 2),
        ];
        assert_eq!(columns(health, &rejects).len(), 1, "they are of one file");
        assert!(are_one_shape(columns(health, &rejects).values()));
        rejects[1].object = 2;
        assert!(!are_one_shape(columns(health, &rejects).values()));
        assert_eq!(row(health, &reject("no row", "malformed_message", None, 0)), None);
        // A line with a stray quote fits any.
        rejects[1].raw = r#"{"_stray_quote":"1,\"2,3"}"#.into();
        assert!(are_one_shape(columns(health, &rejects).values()));
    }
}
