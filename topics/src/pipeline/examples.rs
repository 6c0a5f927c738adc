//! The tests of a pipeline folder: rows of a domain's files, and the expected result for each.
//!
//! ```yaml
//! domain: health
//! header: [location_id, date, dengue_cases]   # all columns of the domain where it is left out
//! rows:
//!   - cells: ["1", "2025-09-21", "-4"]
//!     values: {dengue_cases: "0"}
//!     corrections: {dengue_cases: negative_to_zero}
//!   - cells: ["one", "2025-09-21", "4"]
//!     rejected: {column: location_id, rule: uncastable}
//! ```
//!
//! A row without `rejected` must load with exactly the listed corrections and warnings.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::mistake::{Mistakes, Place, did_you_mean};
use super::yaml::{Document, Map, Node};
use crate::columns::ByRow;
use crate::judge::{Judged, Note};
use crate::{Cell, Domain, RawRow};

/// One file of tests.
#[derive(Debug)]
pub struct Examples {
    /// The file, as a path in the pipeline folder.
    pub file: String,
    /// The domain of the rows.
    pub domain: &'static Domain,
    /// The header of a file with these rows.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Example>,
}

/// A row and its expected result.
#[derive(Debug)]
pub struct Example {
    /// Its position in its file.
    pub place: Place,
    /// Its cells, in the order of the header; a short row has fewer, a long one more.
    pub cells: Vec<String>,
    /// The expected result.
    pub expected: Expected,
}

/// The verdict that an [`Example`] must get.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// It loads.
    Applied {
        /// Values that were changed, as (column, rule), sorted.
        corrections: Vec<(String, String)>,
        /// Values that break a rule but load unchanged, as (column, rule), sorted.
        warnings: Vec<(String, String)>,
        /// Values to check, by column, as text; NULL is `None`.
        values: Vec<(&'static str, Option<String>)>,
    },
    /// It is rejected.
    Rejected {
        /// The column at fault, if it is one.
        column: Option<String>,
        /// The rule that it is counted under.
        rule: String,
    },
}

impl Examples {
    /// Reads a file of tests, finding its mistakes.
    pub fn read(
        file: &str,
        text: &str,
        domains: &'static [&'static Domain],
        mistakes: &mut Mistakes,
    ) -> Option<Examples> {
        let document = Document::parse(text, 0, mistakes)?;
        let map = document.root().map(mistakes)?;
        let domain = map.need("domain", mistakes).and_then(|node| domain_named(&node, domains, mistakes));
        let header = map.get("header").map(|node| node.texts(mistakes).iter().map(ToString::to_string).collect());
        let rows = map.need("rows", mistakes).map(|node| node.list(mistakes)).unwrap_or_default();
        map.end(mistakes);
        let domain = domain?;
        let header = header.unwrap_or_else(|| domain.columns.iter().map(|column| column.name.to_owned()).collect());
        let rows = rows.iter().filter_map(|node| Example::read(node, domain, mistakes)).collect();
        Some(Examples { file: file.to_owned(), domain, header, rows })
    }

    /// A row as read from a file with this header, which has the columns' canonical names.
    pub fn raw_row<'e>(&self, example: &'e Example) -> RawRow<'e> {
        let cell = |name: &str| match self.header.iter().position(|header| header == name) {
            None => Cell::Absent,
            Some(at) => example.cells.get(at).map_or(Cell::Missing, |text| Cell::Text(Cow::Borrowed(text))),
        };
        RawRow {
            cells: self.domain.columns.iter().map(|column| cell(column.name)).collect(),
            extra: example.cells.iter().skip(self.header.len()).map(|text| Cow::Borrowed(text.as_str())).collect(),
            new_cells: BTreeMap::new(),
            stray_quote: None,
            overtaken: 0,
        }
    }
}

impl Example {
    fn read(node: &Node<'_, '_>, domain: &'static Domain, mistakes: &mut Mistakes) -> Option<Example> {
        let map = node.map(mistakes)?;
        let cells = map.need("cells", mistakes).map(|node| node.texts(mistakes)).unwrap_or_default();
        let rejected = map.get("rejected").and_then(|node| rejected(&node, domain, mistakes));
        let corrections = rules(&map, "corrections", domain, mistakes);
        let warnings = rules(&map, "warnings", domain, mistakes);
        let values = values(&map, domain, mistakes);
        let says_both = rejected.is_some() && !(corrections.is_empty() && warnings.is_empty() && values.is_empty());
        if says_both {
            mistakes.add(map.place(), "a row that is rejected has no values and no corrections");
        }
        let place = map.place();
        map.end(mistakes);
        let expected = rejected.unwrap_or(Expected::Applied { corrections, warnings, values });
        Some(Example { place, cells: cells.iter().map(ToString::to_string).collect(), expected })
    }

    /// How the verdict on its row differs from the expected one; `None` if it does not.
    pub fn differs(&self, domain: &Domain, judged: &Judged) -> Option<String> {
        match (&self.expected, judged.refusal(0)) {
            (Expected::Rejected { column, rule }, Some(found)) => {
                let same = (column.as_deref(), rule.as_str()) == (found.column, found.rule);
                let found = || shown(found.column.unwrap_or("the row"), found.rule);
                (!same).then(|| format!("rejected for {}, not as expected", found()))
            }
            (Expected::Rejected { column, rule }, None) => {
                let wanted = shown(column.as_deref().unwrap_or("the row"), rule);
                Some(format!("it loads; expected to be rejected for {wanted}"))
            }
            (Expected::Applied { .. }, Some(found)) => {
                Some(format!("rejected for {}; expected to load", shown(found.column.unwrap_or("the row"), found.rule)))
            }
            (Expected::Applied { corrections, warnings, values }, None) => {
                differs("corrections", corrections, &judged.corrections)
                    .or_else(|| differs("warnings", warnings, &judged.warnings))
                    .or_else(|| {
                        values.iter().find_map(|(column, wanted)| value_differs(domain, judged, column, wanted))
                    })
            }
        }
    }
}

fn shown(column: &str, rule: &str) -> String {
    format!("{column} ({rule})")
}

fn differs(what: &str, wanted: &[(String, String)], found: &ByRow<Note>) -> Option<String> {
    let mut found: Vec<(String, String)> =
        found.iter().map(|(_, note)| (note.column.to_owned(), note.rule.to_owned())).collect();
    found.sort();
    let list = |of: &[(String, String)]| match of {
        [] => "none".to_owned(),
        of => of.iter().map(|(column, rule)| shown(column, rule)).collect::<Vec<_>>().join(", "),
    };
    (found != wanted).then(|| format!("{what}: {}; expected: {}", list(&found), list(wanted)))
}

fn value_differs(domain: &Domain, found: &Judged, column: &str, wanted: &Option<String>) -> Option<String> {
    let value = found.values.get(domain.index_of(column), 0);
    let found = (!value.is_null()).then(|| value.to_string());
    let text = |it: &Option<String>| it.clone().unwrap_or_else(|| "NULL".to_owned());
    (found != *wanted).then(|| format!("{column} is {}; expected: {}", text(&found), text(wanted)))
}

fn domain_named(
    node: &Node<'_, '_>,
    domains: &'static [&'static Domain],
    mistakes: &mut Mistakes,
) -> Option<&'static Domain> {
    let name = node.text(mistakes)?;
    let found = domains.iter().copied().find(|domain| domain.name == name);
    if found.is_none() {
        let hint = did_you_mean(name, domains.iter().map(|domain| domain.name));
        mistakes.add(node.place(), format!("there is no domain `{name}`{hint}"));
    }
    found
}

fn column_named(name: &str, place: Place, domain: &'static Domain, mistakes: &mut Mistakes) -> Option<&'static str> {
    let found = domain.column(name).map(|column| column.name);
    if found.is_none() {
        let hint = did_you_mean(name, domain.columns.iter().map(|column| column.name));
        mistakes.add(place, format!("there is no column `{name}` in {}{hint}", domain.name));
    }
    found
}

fn rejected(node: &Node<'_, '_>, domain: &'static Domain, mistakes: &mut Mistakes) -> Option<Expected> {
    let map = node.map(mistakes)?;
    let column = map.get("column").and_then(|node| column_named(node.text(mistakes)?, node.place(), domain, mistakes));
    let rule = map.need("rule", mistakes).and_then(|node| node.text(mistakes));
    map.end(mistakes);
    Some(Expected::Rejected { column: column.map(str::to_owned), rule: rule?.to_owned() })
}

/// A mapping of columns to a rule, or to several.
fn rules(
    map: &Map<'_, '_>,
    key: &'static str,
    domain: &'static Domain,
    mistakes: &mut Mistakes,
) -> Vec<(String, String)> {
    let Some(map) = map.get(key).and_then(|node| node.map(mistakes)) else { return Vec::new() };
    let mut rules = Vec::new();
    for (name, place, node) in map.entries() {
        let column = column_named(name, place, domain, mistakes);
        let names = match node.as_text() {
            Some(rule) => vec![rule],
            None => node.texts(mistakes),
        };
        rules.extend(
            column.into_iter().flat_map(|column| names.iter().map(move |it| (column.to_owned(), (*it).to_owned()))),
        );
    }
    rules.sort();
    rules
}

/// A mapping of columns to their values as text.
fn values(map: &Map<'_, '_>, domain: &'static Domain, mistakes: &mut Mistakes) -> Vec<(&'static str, Option<String>)> {
    let Some(map) = map.get("values").and_then(|node| node.map(mistakes)) else { return Vec::new() };
    let mut values = Vec::new();
    for (name, place, node) in map.entries() {
        let text = if node.is_null() { Some(None) } else { node.text(mistakes).map(|text| Some(text.to_owned())) };
        values.extend(column_named(name, place, domain, mistakes).zip(text));
    }
    values
}
