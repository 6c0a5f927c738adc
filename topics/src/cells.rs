//! The raw cells of a batch, stored by column with one shared text buffer, as read from messages.
//!
//! Data that only a few rows have is stored [by row](ByRow) beside the cells.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::columns::{ByRow, Span, Text};
use crate::message::push_json;
use crate::{Cell, Domain, RawRow, heading};

/// Files have few headings; more than these are looked up again.
const HEADINGS_MAX: usize = 1_000;

/// A cell of a batch.
#[derive(Debug, Clone, Copy)]
enum Raw {
    Absent,
    Missing,
    Text(Span),
}

/// One raw cell, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellRef<'t> {
    /// The file has no such column.
    Absent,
    /// The row is too short to reach the column.
    Missing,
    /// The text of the cell, possibly empty.
    Text(&'t str),
}

impl<'t> CellRef<'t> {
    /// The text of the cell; empty if the file or the row does not have it.
    pub fn text(self) -> &'t str {
        match self {
            CellRef::Text(text) => text,
            CellRef::Absent | CellRef::Missing => "",
        }
    }
}

impl Cell<'_> {
    /// The same, borrowed.
    pub fn as_ref(&self) -> CellRef<'_> {
        match self {
            Cell::Absent => CellRef::Absent,
            Cell::Missing => CellRef::Missing,
            Cell::Text(text) => CellRef::Text(text),
        }
    }
}

/// An end to which a batch can be truncated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    rows: usize,
    text_bytes: usize,
}

/// The raw cells of a batch.
#[derive(Debug)]
pub struct Cells {
    columns: Vec<Vec<Raw>>,
    text: Text,
    rows: usize,
    malformed: ByRow<String>,
    stray_quotes: ByRow<Span>,
    extra: ByRow<Span>,
    new_cells: ByRow<Span>,
    overtaken: ByRow<u32>,
    /// The new cells of the row being written, by heading.
    headed: Vec<(Span, Span)>,
    /// The same as JSON.
    json: Vec<u8>,
    /// What the headings of new cells mean now.
    headings: HashMap<String, Option<usize>>,
}

impl Cells {
    /// An empty batch.
    pub fn of(domain: &Domain) -> Self {
        Cells {
            columns: vec![Vec::new(); domain.columns.len()],
            text: Text::default(),
            rows: 0,
            malformed: ByRow::default(),
            stray_quotes: ByRow::default(),
            extra: ByRow::default(),
            new_cells: ByRow::default(),
            overtaken: ByRow::default(),
            headed: Vec::new(),
            json: Vec::new(),
            headings: HashMap::new(),
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A cell.
    pub fn get(&self, column: usize, row: usize) -> CellRef<'_> {
        match self.columns[column][row] {
            Raw::Absent => CellRef::Absent,
            Raw::Missing => CellRef::Missing,
            Raw::Text(span) => CellRef::Text(self.text.get(span)),
        }
    }

    /// Rows that could not be read, with the reason: they have no cells.
    pub fn malformed(&self) -> impl Iterator<Item = (usize, &str)> {
        self.malformed.iter().map(|(row, why)| (*row, why.as_str()))
    }

    /// Rows with a stray quote, with their line: they have no cells.
    pub fn stray_quotes(&self) -> impl Iterator<Item = (usize, &str)> {
        self.spelled(&self.stray_quotes)
    }

    /// Cells beyond the header, in their order.
    pub fn extra(&self) -> impl Iterator<Item = (usize, &str)> {
        self.spelled(&self.extra)
    }

    /// Cells of columns that the domain does not have but its contract keeps: a JSON object of text by heading for each
    /// row that has any.
    pub fn new_cells(&self) -> impl Iterator<Item = (usize, &str)> {
        self.spelled(&self.new_cells)
    }

    /// Rows that replaced earlier rows of the same file, with the number of rows replaced.
    pub fn overtaken(&self) -> impl Iterator<Item = (usize, u32)> {
        self.overtaken.iter().copied()
    }

    fn spelled<'c>(&'c self, by_row: &'c ByRow<Span>) -> impl Iterator<Item = (usize, &'c str)> {
        by_row.iter().map(|(row, span)| (*row, self.text.get(*span)))
    }

    /// Appends a row.
    pub fn push(&mut self, row: &RawRow<'_>) {
        let mut writer = self.begin();
        for (column, cell) in row.cells.iter().enumerate() {
            match cell {
                Cell::Absent => {}
                Cell::Missing => writer.cell(column, None),
                Cell::Text(text) => {
                    let text = writer.spell(text);
                    writer.cell(column, Some(text));
                }
            }
        }
        for text in &row.extra {
            let text = writer.spell(text);
            writer.extra(text);
        }
        if let Some(line) = &row.stray_quote {
            let line = writer.spell(line);
            writer.stray_quote(line);
        }
        writer.overtaken(row.overtaken);
        let mut new_cells = writer.new_cells();
        for (heading, text) in &row.new_cells {
            let headed = (new_cells.text().push(heading), new_cells.text().push(text));
            new_cells.push(headed);
        }
        new_cells.end();
        writer.end();
    }

    /// Appends a row that cannot be read.
    pub fn push_malformed(&mut self, why: String) {
        self.malformed.push(self.rows, why);
        self.begin().end();
    }

    /// Begins a row. All columns are absent until they are written. If the writer is dropped before the row is ended,
    /// nothing is appended.
    pub(crate) fn begin(&mut self) -> RowWriter<'_> {
        let before = self.end();
        for column in &mut self.columns {
            column.push(Raw::Absent);
        }
        RowWriter { cells: self, before, is_ended: false }
    }

    /// The current end of the batch.
    pub(crate) fn end(&self) -> End {
        End { rows: self.rows, text_bytes: self.text.len() }
    }

    /// Removes everything after this end.
    pub(crate) fn truncate(&mut self, end: End) {
        self.rows = end.rows;
        for column in &mut self.columns {
            column.truncate(end.rows);
        }
        for by_row in [&mut self.stray_quotes, &mut self.extra, &mut self.new_cells] {
            by_row.truncate(end.rows);
        }
        self.malformed.truncate(end.rows);
        self.overtaken.truncate(end.rows);
        self.text.truncate(end.text_bytes);
    }

    /// A row as its file has it.
    pub(crate) fn raw_row(&self, row: usize) -> RawRow<'static> {
        let owned = |text: &str| Cow::Owned(text.to_owned());
        let cell = |cell: CellRef<'_>| match cell {
            CellRef::Absent => Cell::Absent,
            CellRef::Missing => Cell::Missing,
            CellRef::Text(text) => Cell::Text(owned(text)),
        };
        let of_row =
            |by_row: &ByRow<Span>| by_row.of(row).iter().map(|(_, span)| owned(self.text.get(*span))).collect();
        let new_cells = self.new_cells.first_of(row).map(|span| self.text.get(*span));
        RawRow {
            cells: (0..self.columns.len()).map(|column| cell(self.get(column, row))).collect(),
            extra: of_row(&self.extra),
            new_cells: new_cells.map_or_else(Default::default, |json| {
                serde_json::from_str(json).expect("an object of text that was written here")
            }),
            stray_quote: self.stray_quotes.first_of(row).map(|span| owned(self.text.get(*span))),
            overtaken: self.overtaken.first_of(row).copied().unwrap_or_default(),
        }
    }
}

/// Writes the last row of a batch. A cell that is written twice keeps the last text.
pub(crate) struct RowWriter<'c> {
    cells: &'c mut Cells,
    before: End,
    is_ended: bool,
}

impl RowWriter<'_> {
    /// The buffer for the row's texts.
    pub(crate) fn text(&mut self) -> &mut Text {
        &mut self.cells.text
    }

    fn spell(&mut self, text: &str) -> Span {
        self.cells.text.push(text)
    }

    /// Sets a cell; `None` if the row is too short to reach the column.
    pub(crate) fn cell(&mut self, column: usize, text: Option<Span>) {
        self.cells.columns[column][self.cells.rows] = text.map_or(Raw::Missing, Raw::Text);
    }

    /// Adds a cell beyond the header.
    pub(crate) fn extra(&mut self, text: Span) {
        self.cells.extra.push(self.cells.rows, text);
    }

    /// Removes the cells beyond the header.
    pub(crate) fn no_extra(&mut self) {
        self.cells.extra.truncate(self.cells.rows);
    }

    /// Sets the line of a stray quote.
    pub(crate) fn stray_quote(&mut self, line: Span) {
        self.cells.stray_quotes.truncate(self.cells.rows);
        self.cells.stray_quotes.push(self.cells.rows, line);
    }

    /// Sets how many earlier rows of its file it replaces.
    pub(crate) fn overtaken(&mut self, count: u32) {
        self.cells.overtaken.truncate(self.cells.rows);
        if count > 0 {
            self.cells.overtaken.push(self.cells.rows, count);
        }
    }

    /// Begins the cells of columns that the domain does not have.
    pub(crate) fn new_cells(&mut self) -> NewCellsWriter<'_> {
        self.cells.headed.clear();
        self.cells.new_cells.truncate(self.cells.rows);
        let text_bytes = self.cells.text.len();
        NewCellsWriter { cells: self.cells, text_bytes, declared: Vec::new() }
    }

    pub(crate) fn end(mut self) {
        self.is_ended = true;
        self.cells.rows += 1;
    }
}

impl Drop for RowWriter<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.cells.truncate(self.before);
        }
    }
}

/// Writes the cells of new columns of the last row of a batch.
pub(crate) struct NewCellsWriter<'c> {
    cells: &'c mut Cells,
    text_bytes: usize,
    /// Those of columns that the domain has now.
    declared: Vec<(usize, (Span, Span))>,
}

impl NewCellsWriter<'_> {
    /// The buffer for headings and texts.
    pub(crate) fn text(&mut self) -> &mut Text {
        &mut self.cells.text
    }

    /// Adds a heading and the text under it. If a heading occurs twice, the last text counts.
    pub(crate) fn push(&mut self, headed: (Span, Span)) {
        self.cells.headed.push(headed);
    }

    /// The same for a message that may be older than the contract. If the column is declared by now, the text is its cell,
    /// unless the row has one; what is no such cell is kept if the contract still keeps new ones.
    pub(crate) fn push_of(&mut self, domain: &Domain, headed: (Span, Span)) {
        if let Some(new) = self.declare(domain, headed).filter(|_| domain.on_new_column.keeps()) {
            self.push(new);
        }
    }

    /// Takes the text for the cell of a declared column, and gives back what is none. Under several headings of a column,
    /// its name counts before a synonym, as in a file.
    fn declare(&mut self, domain: &Domain, headed: (Span, Span)) -> Option<(Span, Span)> {
        let Cells { text, headings, columns, rows, .. } = &mut *self.cells;
        let name = text.get(headed.0);
        let column = headings.get(name).copied().unwrap_or_else(|| {
            if headings.len() == HEADINGS_MAX {
                headings.clear();
            }
            let column = heading::column_of(domain, name);
            headings.insert(name.to_owned(), column);
            column
        });
        let is_free = |column: &usize| matches!(columns[*column][*rows], Raw::Absent);
        let Some(column) = column.filter(is_free) else { return Some(headed) };
        let is_name = |it: Span| heading::folded(text.get(it)) == heading::folded(domain.columns[column].name);
        match self.declared.iter_mut().find(|(of, _)| *of == column) {
            None => {
                self.declared.push((column, headed));
                None
            }
            Some((_, taken)) if is_name(headed.0) && !is_name(taken.0) => Some(std::mem::replace(taken, headed)),
            Some(_) => Some(headed),
        }
    }

    /// Stores them as one JSON object, and the cells of declared columns with the others.
    pub(crate) fn end(self) {
        let Cells { text, headed, json, rows, new_cells, columns, .. } = self.cells;
        write_object(json, text, headed);
        if self.declared.is_empty() {
            text.truncate(self.text_bytes);
        }
        if !headed.is_empty() {
            let json = std::str::from_utf8(json).expect("JSON of text is text");
            new_cells.push(*rows, text.push(json));
        }
        for (column, (_, cell)) in self.declared {
            columns[column][*rows] = Raw::Text(cell);
        }
    }
}

/// Writes texts by heading as a JSON object, in the order of the headings.
fn write_object(json: &mut Vec<u8>, text: &Text, headed: &mut [(Span, Span)]) {
    headed.sort_by_key(|(heading, _)| text.get(*heading));
    json.clear();
    json.push(b'{');
    for (at, (heading, cell)) in headed.iter().enumerate() {
        let heading = text.get(*heading);
        if headed.get(at + 1).is_some_and(|(next, _)| text.get(*next) == heading) {
            continue;
        }
        if json.len() > 1 {
            json.push(b',');
        }
        push_json(json, heading);
        json.push(b':');
        push_json(json, text.get(*cell));
    }
    json.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DOMAINS;

    #[test]
    fn a_new_cell_whose_column_is_declared_by_now_is_its_cell_unless_the_row_has_one() {
        let keeping = Domain { on_new_column: crate::NewColumn::Keep, ..*DOMAINS[0] };
        let [id, name] = ["id", "name"].map(|column| keeping.index_of(column));
        let cases = [
            (r#"{"id":"7","_new":{"Name":"Goa","note":"x"}}"#, CellRef::Text("Goa"), Some(r#"{"note":"x"}"#)),
            (r#"{"id":"7","_new":{"NAME ":"Goa"}}"#, CellRef::Text("Goa"), None),
            (r#"{"id":"7","_new":{"name":"a","Name":"b"}}"#, CellRef::Text("a"), Some(r#"{"Name":"b"}"#)),
            (r#"{"id":"7","_new":{"district":"x"}}"#, CellRef::Text("x"), None),
            (r#"{"id":"7","_new":{"district":"x","Name":"a"}}"#, CellRef::Text("a"), Some(r#"{"district":"x"}"#)),
            (r#"{"id":"7","_new":{"Name":"a","district":"x"}}"#, CellRef::Text("a"), Some(r#"{"district":"x"}"#)),
            (r#"{"id":"7","name":"Goa","_new":{"Name":"x"}}"#, CellRef::Text("Goa"), Some(r#"{"Name":"x"}"#)),
            (r#"{"id":"7","name":null,"_new":{"Name":"x"}}"#, CellRef::Missing, Some(r#"{"Name":"x"}"#)),
            (r#"{"id":"7","_new":{"note":"x"}}"#, CellRef::Absent, Some(r#"{"note":"x"}"#)),
        ];
        let mut cells = Cells::of(&keeping);
        for (json, ..) in cases {
            crate::message::push_row(&keeping, json.as_bytes(), &mut cells).expect("a row");
        }
        // A contract that keeps no new cells any more has those of the columns that it declares.
        let mut ignoring = Cells::of(&keeping);
        let domain = Domain { on_new_column: crate::NewColumn::Ignore, ..keeping };
        crate::message::push_row(&domain, cases[0].0.as_bytes(), &mut ignoring).expect("a row");
        assert_eq!((ignoring.get(name, 0), ignoring.new_cells().count()), (CellRef::Text("Goa"), 0));

        for (row, (json, expected, kept)) in cases.into_iter().enumerate() {
            assert_eq!((cells.get(id, row), cells.get(name, row)), (CellRef::Text("7"), expected), "{json}");
            assert_eq!(cells.new_cells().find(|(at, _)| *at == row).map(|(_, json)| json), kept, "{json}");
        }
    }

    #[test]
    fn a_row_that_is_given_up_leaves_nothing() {
        let mut cells = Cells::of(DOMAINS[0]);
        let row = RawRow::decode(DOMAINS[0], br#"{"id":"7","name":null}"#).expect("a row");
        cells.push(&row);
        let bytes = cells.text.len();
        let mut writer = cells.begin();
        let half = writer.spell("half");
        writer.cell(1, Some(half));
        writer.extra(half);
        writer.stray_quote(half);
        writer.overtaken(7);
        let mut new_cells = writer.new_cells();
        new_cells.push((half, half));
        new_cells.end();
        drop(writer);
        assert_eq!((cells.rows(), cells.text.len()), (1, bytes));
        cells.push_malformed("no row".into());
        cells.push(&row);
        assert_eq!([0, 2].map(|at| cells.raw_row(at)), [row.clone(), row]);
        assert_eq!(cells.malformed().collect::<Vec<_>>(), [(1, "no row")]);
        assert_eq!((cells.extra().count(), cells.stray_quotes().count(), cells.new_cells().count()), (0, 0, 0));
        assert_eq!(cells.overtaken().count(), 0);
        assert_eq!(cells.get(0, 1), CellRef::Absent);
    }

    #[test]
    fn rows_that_are_taken_back_leave_nothing() {
        let mut cells = Cells::of(DOMAINS[0]);
        let row = |value: &str| RawRow::decode(DOMAINS[0], value.as_bytes()).expect("a row");
        cells.push(&row(r#"{"id":"7","_overtaken":3}"#));
        let (end, bytes) = (cells.end(), cells.text.len());
        cells.push(&row(r#"{"id":"8","_extra":["beyond"],"_overtaken":1}"#));
        cells.push(&row(r#"{"_stray_quote":"9,\""}"#));
        cells.push_malformed("no row".into());
        cells.truncate(end);
        assert_eq!((cells.rows(), cells.text.len()), (1, bytes));
        let rare = (cells.extra().count(), cells.stray_quotes().count(), cells.malformed().count());
        assert_eq!((rare, cells.overtaken().collect::<Vec<_>>()), ((0, 0, 0), vec![(0, 3)]));
        cells.push(&row(r#"{"id":"10"}"#));
        assert_eq!(cells.raw_row(1), row(r#"{"id":"10"}"#));
    }

    #[test]
    fn new_cells_stand_in_the_order_of_their_headings_the_last_of_each() {
        let keeping = Domain { on_new_column: crate::NewColumn::Keep, ..*DOMAINS[0] };
        let cases = [
            (r#"{"_new":{"b":"1","a":"\"x\"","b":"2"}}"#, Some(r#"{"a":"\"x\"","b":"2"}"#)),
            (r#"{"_new":{"b":"1"},"_new":{"c":"3"}}"#, Some(r#"{"c":"3"}"#)),
            (r#"{"_new":{"b":"1"},"_new":{}}"#, None),
            ("{}", None),
        ];
        for (value, expected) in cases {
            let mut cells = Cells::of(&keeping);
            crate::message::push_row(&keeping, value.as_bytes(), &mut cells).expect("a row");
            assert_eq!(cells.new_cells().map(|(_, json)| json).next(), expected, "{value}");
        }
    }
}
