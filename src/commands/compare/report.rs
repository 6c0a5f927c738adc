//! The result of a comparison, counted by table and column, with examples.

use std::collections::BTreeMap;
use std::fmt;

use freshet_ingest::inspect::visible;
use freshet_topics::{Column, Domain};
use serde::Serialize;

use super::merge::{Pair, Row};
use crate::commands::terminal::thousands;

/// A comparison of two databases.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether every table has the same rows on both sides.
    pub equal: bool,
    /// This database, without its login.
    pub here: String,
    /// The other one.
    pub there: String,
    pub tables: Vec<TableReport>,
}

/// A comparison of one table.
#[derive(Debug, Serialize)]
pub(super) struct TableReport {
    pub domain: &'static str,
    pub table: &'static str,
    /// Whether the other database has it.
    pub is_there: bool,
    pub rows_here: i64,
    pub rows_there: i64,
    /// Rows skipped, because a newer row has the same key.
    pub repeated_here: i64,
    pub repeated_there: i64,
    pub only_here: i64,
    pub only_there: i64,
    pub different: i64,
    /// In how many rows each column differs.
    pub columns: BTreeMap<&'static str, i64>,
    /// Columns that the other table lacks: they are not compared.
    pub columns_not_there: Vec<&'static str>,
    pub examples: Vec<Example>,
    #[serde(skip)]
    examples_max: u32,
    #[serde(skip)]
    key: Vec<&'static Column>,
}

/// A key that is not the same on both sides.
#[derive(Debug, Serialize)]
pub(super) struct Example {
    pub kind: Kind,
    /// Column and value.
    pub key: Vec<(&'static str, Option<String>)>,
    /// The columns that differ.
    pub values: Vec<Difference>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    OnlyHere,
    OnlyThere,
    Different,
}

/// A value that differs. `null` is NULL.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub column: &'static str,
    pub here: Option<String>,
    pub there: Option<String>,
}

impl Report {
    pub(super) fn new(here: String, there: String, tables: Vec<TableReport>) -> Report {
        Report { equal: tables.iter().all(TableReport::is_equal), here, there, tables }
    }
}

impl TableReport {
    pub(super) fn new(domain: &'static Domain, examples_max: u32) -> TableReport {
        TableReport {
            domain: domain.name,
            table: domain.table,
            is_there: true,
            rows_here: 0,
            rows_there: 0,
            repeated_here: 0,
            repeated_there: 0,
            only_here: 0,
            only_there: 0,
            different: 0,
            columns: BTreeMap::new(),
            columns_not_there: Vec::new(),
            examples: Vec::new(),
            examples_max,
            key: domain.key.iter().map(|name| &domain.columns[domain.index_of(name)]).collect(),
        }
    }

    pub(super) fn not_there(domain: &'static Domain) -> TableReport {
        TableReport { is_there: false, ..TableReport::new(domain, 0) }
    }

    fn is_equal(&self) -> bool {
        self.is_there && (self.only_here, self.only_there, self.different) == (0, 0, 0)
    }

    /// Counts what a key has on the two sides.
    pub(super) fn count(&mut self, compared: &[&'static Column], pair: Pair<'_>) {
        let max = i64::from(self.examples_max);
        match pair {
            Pair::Here(row) => {
                self.only_here += 1;
                if self.only_here <= max {
                    self.example(Kind::OnlyHere, row, Vec::new());
                }
            }
            Pair::There(row) => {
                self.only_there += 1;
                if self.only_there <= max {
                    self.example(Kind::OnlyThere, row, Vec::new());
                }
            }
            Pair::Both(here, there) if here.values != there.values => self.differs(compared, here, there),
            Pair::Both(..) => {}
        }
    }

    /// Every column has examples of its own, so that a frequent difference does not hide a rare one.
    fn differs(&mut self, compared: &[&'static Column], here: &Row, there: &Row) {
        self.different += 1;
        let mut is_shown = false;
        let mut values = Vec::new();
        for ((column, here), there) in compared.iter().zip(&here.values).zip(&there.values) {
            if here == there {
                continue;
            }
            let rows = self.columns.entry(column.name).or_default();
            *rows += 1;
            is_shown |= *rows <= i64::from(self.examples_max);
            let (here, there) = (shown(column, here), shown(column, there));
            values.push(Difference { column: column.name, here, there });
        }
        if is_shown {
            self.example(Kind::Different, here, values);
        }
    }

    fn example(&mut self, kind: Kind, row: &Row, values: Vec<Difference>) {
        let key = self.key.iter().zip(&row.key).map(|(column, value)| (column.name, shown(column, value))).collect();
        self.examples.push(Example { kind, key, values });
    }
}

/// A value for display: personal values are not shown.
fn shown(column: &Column, value: &Option<String>) -> Option<String> {
    value.as_ref().map(|value| if column.personal { "(personal)".to_owned() } else { value.clone() })
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "here {}, there {}", self.here, self.there)?;
        for table in &self.tables {
            write!(formatter, "{table}")?;
        }
        let differing: Vec<&str> = self.tables.iter().filter(|it| !it.is_equal()).map(|it| it.table).collect();
        match differing.is_empty() {
            true => writeln!(formatter, "equal"),
            false => writeln!(formatter, "not equal: {}", differing.join(", ")),
        }
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_there {
            return writeln!(formatter, "{}: missing there", self.table);
        }
        let [rows_here, rows_there, only_here, only_there, different] =
            [self.rows_here, self.rows_there, self.only_here, self.only_there, self.different].map(thousands);
        write!(formatter, "{}: {rows_here} rows here, {rows_there} there", self.table)?;
        match self.is_equal() {
            true => writeln!(formatter, ": equal")?,
            false => writeln!(formatter, ": {only_here} only here, {only_there} only there, {different} different")?,
        }
        for (rows, place) in [(self.repeated_here, "here"), (self.repeated_there, "there")] {
            if rows > 0 {
                let rows = thousands(rows);
                writeln!(
                    formatter,
                    "    skipped {place}, because another row with the same key has a greater id: {rows}"
                )?;
            }
        }
        if !self.columns_not_there.is_empty() {
            writeln!(formatter, "    missing there, not compared: {}", self.columns_not_there.join(", "))?;
        }
        for (column, rows) in &self.columns {
            writeln!(formatter, "    {column} differs: {}", thousands(*rows))?;
        }
        self.examples.iter().try_for_each(|example| writeln!(formatter, "    {example}"))
    }
}

impl fmt::Display for Example {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole, since long values may differ at their end; but a table's text does not tell the terminal what to do.
        let null = |value: &Option<String>| {
            value.as_ref().map_or_else(|| "NULL".to_owned(), |value| visible(value, usize::MAX))
        };
        formatter.write_str(match self.kind {
            Kind::OnlyHere => "only here:",
            Kind::OnlyThere => "only there:",
            Kind::Different => "different:",
        })?;
        self.key.iter().try_for_each(|(column, value)| write!(formatter, " {column}={}", null(value)))?;
        for Difference { column, here, there } in &self.values {
            write!(formatter, ", {column} {} here, {} there", null(here), null(there))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::DOMAINS;

    fn row(key: &str, values: &[&str]) -> Row {
        let text = |value: &&str| (*value != "NULL").then(|| (*value).to_owned());
        Row { key: vec![text(&key)], values: values.iter().map(text).collect() }
    }

    #[test]
    fn differences_are_counted_by_column_with_examples_of_each() {
        let domain = DOMAINS.iter().find(|domain| domain.key.len() == 1).expect("a dimension");
        let compared: Vec<&'static Column> = domain.columns.iter().skip(1).take(2).collect();
        let (key, one, two) = (domain.key[0], compared[0].name, compared[1].name);
        let mut report = TableReport::new(domain, 1);
        report.count(&compared, Pair::Both(&row("1", &["a", "b"]), &row("1", &["a", "b"])));
        assert!(report.is_equal());
        report.count(&compared, Pair::Both(&row("2", &["a", "b"]), &row("2", &["x", "b"])));
        report.count(&compared, Pair::Both(&row("3", &["a", "b"]), &row("3", &["x", "b"])));
        report.count(&compared, Pair::Both(&row("4", &["a", "NULL"]), &row("4", &["x", "b"])));
        report.count(&compared, Pair::Here(&row("5", &["a", "b"])));
        report.count(&compared, Pair::There(&row("6", &["a", "b"])));
        report.count(&compared, Pair::There(&row("7", &["a", "b"])));
        (report.rows_here, report.rows_there) = (5, 6);
        let report = Report::new("h".into(), "t".into(), vec![report]);
        assert!(!report.equal);
        let expected = format!(
            "here h, there t\n{table}: 5 rows here, 6 there: 1 only here, 2 only there, 3 different\n    \
             {one} differs: 3\n    {two} differs: 1\n    \
             different: {key}=2, {one} a here, x there\n    \
             different: {key}=4, {one} a here, x there, {two} NULL here, b there\n    \
             only here: {key}=5\n    only there: {key}=6\nnot equal: {table}\n",
            table = domain.table
        );
        assert_eq!(report.to_string(), expected);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["tables"][0]["columns"][one], &json["equal"]), (&3.into(), &false.into()));
        assert_eq!(json["tables"][0]["examples"][0]["kind"], "different");
    }

    #[test]
    fn a_value_is_shown_on_its_line_with_invisible_characters_escaped() {
        let text = |value: &str| Some(value.to_owned());
        let values = vec![Difference { column: "name", here: text("a\u{1b}[2J\nb"), there: text("a\u{a0}b") }];
        let example = Example { kind: Kind::Different, key: vec![("id", text("1\r"))], values };
        let expected = "different: id=1\\r, name a\\u{1b}[2J\\nb here, a\\u{a0}b there";
        assert_eq!(example.to_string(), expected);
    }

    #[test]
    fn what_says_something_of_a_person_is_not_shown() {
        let column = Column { personal: true, ..DOMAINS[0].columns[0] };
        assert_eq!(shown(&column, &Some("Ann".into())).as_deref(), Some("(personal)"));
        assert_eq!(shown(&column, &None), None);
    }
}
