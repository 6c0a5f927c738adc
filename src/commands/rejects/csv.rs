//! Rejects as a CSV file of their domain: the original cells, and notes with the reasons.
//!
//! The headings of the notes begin with [`NOTES`], so that a listener ignores them: once the cells are corrected, the
//! file can be dropped unchanged.

use std::collections::{BTreeMap, BTreeSet};

use freshet_ingest::header::NOTES;
use freshet_topics::message::MessageError;
use freshet_topics::{Cell, Domain, RawRow, TextEncoding};

use super::select::Reject;

/// What the notes say: the rule, the column, the value, what stood beyond the header or on a line with a stray quote, and
/// where the row is from.
const NOTE_NAMES: [&str; 6] = ["rule", "column", "value", "text", "file", "line"];

/// The columns that a row was sent with: of the domain, and new ones by heading.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Places in the domain.
    columns: Vec<usize>,
    new: Vec<String>,
}

/// A reject, decoded.
pub(super) struct Sent<'a> {
    reject: &'a Reject,
    row: RawRow<'a>,
}

/// Decodes the rows.
///
/// # Errors
/// Of the first that is no row of the domain.
pub(super) fn decode<'a>(domain: &'static Domain, rejects: &'a [Reject]) -> Result<Vec<Sent<'a>>, MessageError> {
    let sent = |reject: &'a Reject| Ok(Sent { row: RawRow::decode(domain, reject.raw.as_bytes())?, reject });
    rejects.iter().map(sent).collect()
}

/// The columns of rows of one file: all that any of them has. A line with a stray quote has none, and fits any.
pub(super) fn shape(domain: &Domain, rows: &[Sent<'_>]) -> Shape {
    let has = |column: &usize| rows.iter().any(|sent| is_framed(sent) && sent.row.cells[*column] != Cell::Absent);
    let mut columns: Vec<usize> = (0..domain.columns.len()).filter(has).collect();
    if columns.is_empty() {
        columns = (0..domain.columns.len()).collect();
    }
    let new: BTreeSet<&str> = rows.iter().flat_map(|sent| sent.row.new_cells.keys()).map(AsRef::as_ref).collect();
    Shape { columns, new: new.into_iter().map(str::to_owned).collect() }
}

fn is_framed(sent: &Sent<'_>) -> bool {
    sent.row.stray_quote.is_none()
}

/// Whether rows of several files fit under one header: for a column that only some files lack, an empty cell would mean
/// something else than a missing column. Of one file, rows may lack an empty cell of a column that was declared since.
pub(super) fn is_one_shape(rows: &[Sent<'_>]) -> bool {
    let mut shapes: BTreeMap<(i64, i32), Vec<bool>> = BTreeMap::new();
    for Sent { reject, row } in rows.iter().filter(|sent| is_framed(sent)) {
        let shape = shapes.entry((reject.object, reject.generation)).or_insert_with(|| vec![false; row.cells.len()]);
        shape.iter_mut().zip(&row.cells).for_each(|(has, cell)| *has |= *cell != Cell::Absent);
    }
    let mut shapes = shapes.into_values();
    let Some(first) = shapes.next() else { return true };
    shapes.all(|shape| shape == first)
}

/// The file. A contract's own delimiter is kept; where its text is not UTF-8, a byte order mark says that this is.
pub(super) fn write(domain: &Domain, shape: &Shape, rows: &[Sent<'_>]) -> String {
    let mark = if domain.encoding == TextEncoding::Utf8 { "" } else { "\u{feff}" };
    let notes = NOTE_NAMES.iter().map(|name| format!("{NOTES}{name}"));
    let names = shape.columns.iter().map(|column| domain.columns[*column].name.to_owned());
    let heading: Vec<String> = names.chain(shape.new.iter().cloned()).chain(notes).collect();
    let lines = std::iter::once(heading).chain(rows.iter().map(|sent| record(shape, sent)));
    let lines = lines.map(|cells| {
        let cells: Vec<String> = cells.iter().map(|cell| quoted(cell, domain.delimiter)).collect();
        cells.join(char::from(domain.delimiter).to_string().as_str()) + "\n"
    });
    format!("{mark}{}", lines.collect::<String>())
}

fn record(shape: &Shape, Sent { reject, row }: &Sent<'_>) -> Vec<String> {
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
        let rows = decode(health, &rejects).expect("rows");
        assert!(is_one_shape(&rows), "a line with a stray quote fits any");
        let text = write(health, &shape(health, &rows), &rows);
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
        assert!(is_one_shape(&decode(health, &rejects).expect("rows")), "they are of one file");
        rejects[1].object = 2;
        assert!(!is_one_shape(&decode(health, &rejects).expect("rows")));
        let broken = [reject("no row", "malformed_message", None, 0)];
        assert!(decode(health, &broken).is_err());
    }
}
