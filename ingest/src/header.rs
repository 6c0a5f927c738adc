//! The header of a file, matched to the columns of its domain by name: in any order and case, with any separators
//! between words, ignoring invisible characters around it.
//!
//! A canonical name takes precedence over an alias: if a file of locations has both `id` and `location_id`, the latter
//! is an extra column. The columns are matched once for each file, so rows need no lookup.
//!
//! A typing error in a heading must not lose a column silently. So a file is rejected if it has no column of the domain
//! besides the key, or if it lacks a column and has a heading with nearly its name; the reason says what the file may
//! be instead ([`suspect`]).

pub(crate) mod names;
mod suspect;

use std::borrow::Cow;
use std::collections::BTreeMap;

use freshet_topics::cast;
use freshet_topics::heading::Candidates;
use freshet_topics::message::packed::Line;
use freshet_topics::message::{EXTRA, NEW_CELLS, OVERTAKEN, STRAY_QUOTE};
use freshet_topics::{Cell, Column, Domain, Instead, NearMiss, NewColumn, RawRow};

use self::names::{listed, shortened, trimmed};
use crate::frame::Record;

/// Why a file cannot belong to its domain. The text is the file's reject reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file has only blank lines.
    #[error("the file is empty: it has no header")]
    NoHeader,
    /// The file lacks columns that every file of the domain must have.
    #[error("header: no column {missing}, which {domain} files must have; found: {found}{hints}")]
    Missing {
        /// The domain's name.
        domain: &'static str,
        /// The columns, with their other accepted names.
        missing: String,
        /// The original header, shortened, without what may be personal values.
        found: String,
        /// The headings that are nearly columns, each after `; `.
        hints: String,
    },
    /// The file only has columns of the key: it has no values to load.
    #[error("header: no column of {domain} besides its key, so nothing would be loaded; found: {found}{hints}")]
    NoMeasure {
        /// The domain's name.
        domain: &'static str,
        /// The original header, shortened, without what may be personal values.
        found: String,
        /// The headings that are nearly columns, each after `; `.
        hints: String,
    },
    /// Headings that are nearly columns that the file lacks.
    #[error("header: {0}")]
    NearMiss(String),
    /// The columns are those of another domain.
    #[error("header: these are columns of {other}, not of {domain}: drop the file under `{pattern}`")]
    OtherDomain {
        /// The domain's name.
        domain: &'static str,
        /// The domain that has these columns.
        other: &'static str,
        /// Where files of that domain belong.
        pattern: &'static str,
    },
    /// The columns are there, but with another delimiter.
    #[error(
        "header: the columns are separated by {found}, not by {delimiter}: save the file as CSV with {delimiter}, or \
         say \
         `delimiter` in the contract"
    )]
    Delimiter {
        /// The delimiter in the file.
        found: &'static str,
        /// The delimiter of the contract.
        delimiter: &'static str,
    },
    /// A line that tells Excel the delimiter.
    #[error("line {line}: `{text}` is only for Excel: remove the line, and save the file as CSV with {delimiter}")]
    SeparatorLine {
        /// Its line number.
        line: u64,
        /// The line, shortened.
        text: String,
        /// The required delimiter.
        delimiter: &'static str,
    },
    /// The file has columns that the domain does not have, and its contract rejects such files.
    #[error(
        "header: {names} {verb} no column of {domain}, whose contract rejects files with new columns: remove them from \
         the file, or declare them in the contract"
    )]
    New {
        /// The domain's name.
        domain: &'static str,
        /// The columns, shortened.
        names: String,
        /// `is` or `are`.
        verb: &'static str,
    },
    /// Two columns of the file match the same column of the domain, and it is not clear which one counts.
    #[error(
        "header: columns {} (`{}`) and {} (`{}`) are both `{column}`; remove one",
        first.0, first.1, second.0, second.1
    )]
    Ambiguous {
        /// The column of the domain.
        column: &'static str,
        /// Position in the file from 1, and original name.
        first: (usize, String),
        /// Position in the file from 1, and original name.
        second: (usize, String),
    },
    /// A column of the file matches two columns of the domain, and it is not clear which one is meant.
    #[error("header: column {} (`{}`) may be `{first}` or `{second}`: spell it as one of them", heading.0, heading.1)]
    TwoColumns {
        /// Position in the file from 1, and original name.
        heading: (usize, String),
        /// A column of the domain.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
}

/// Which cell of a row belongs to which column of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// For each column of the domain, its index in the file, if it has one.
    places: Vec<Option<usize>>,
    /// Index of the column that messages are keyed by.
    partition_place: Option<usize>,
    /// Number of columns in the file.
    width: usize,
    ignored: Vec<String>,
    /// Columns that the domain does not have but keeps: their indexes, and the names under which their cells are kept.
    kept: Vec<(usize, String)>,
}

/// The beginning of headings that `freshet rejects export` adds: notes for the person who corrects the rows. These
/// columns are ignored, so that the file can be dropped unchanged.
pub const NOTES: &str = "_rejected_";

impl Header {
    /// Matches the first record of a file. `others` are the domains that its columns may belong to instead.
    ///
    /// # Errors
    /// If a required column is missing, two columns match the same one or one matches two, the only columns of the domain are
    /// its key, or a heading is nearly a column.
    pub fn read(
        domain: &'static Domain,
        others: &[&'static Domain],
        record: &Record<'_>,
    ) -> Result<Header, HeaderError> {
        let is_note: Vec<bool> = record.iter().map(|name| trimmed(name).starts_with(NOTES)).collect();
        let names: Vec<&str> =
            record.iter().zip(&is_note).map(|(name, note)| if *note { "" } else { trimmed(name) }).collect();
        if let Some(error) = suspect::separator_line(domain, record) {
            return Err(error);
        }
        let candidates: Vec<Candidates> = names.iter().map(|name| Candidates::of(domain, name)).collect();
        let mut places = Vec::with_capacity(domain.columns.len());
        for column in 0..domain.columns.len() {
            places.push(place_of(domain, column, &candidates, &names)?);
        }
        if let Some(error) = shared(domain, &places, &names) {
            return Err(error);
        }
        check_columns(domain, others, &places, &names, record)?;
        let is_ignored = |(place, _): &(usize, &&str)| !places.contains(&Some(*place)) && !is_note[*place];
        // Empty headings after the last one are not columns, unless they have cells.
        let named = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        let ignored: Vec<String> =
            names.iter().take(named).enumerate().filter(is_ignored).map(|(_, name)| shortened(name)).collect();
        if domain.on_new_column == NewColumn::Reject && !ignored.is_empty() {
            let verb = if ignored.len() == 1 { "is" } else { "are" };
            return Err(HeaderError::New {
                domain: domain.name,
                names: listed(ignored.iter().map(String::as_str)),
                verb,
            });
        }
        let mut kept = if domain.on_new_column.keeps() { kept(&names, &places) } else { Vec::new() };
        kept.retain(|(place, _)| !is_note[*place]);
        let partition_place = places[domain.index_of(domain.partition_by)];
        Ok(Header { partition_place, width: names.len(), ignored, kept, places })
    }

    /// Whether the file has the column at this index of the domain.
    pub(crate) fn has(&self, column: usize) -> bool {
        self.places.get(column).is_some_and(Option::is_some)
    }

    /// Names of the file's columns that the domain does not have, shortened, in their order.
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }

    /// The cells of a data row in the order of the domain's columns. None of them is copied.
    pub fn raw_row<'a>(&self, record: &Record<'a>) -> RawRow<'a> {
        // A blank cell has no value.
        let said = |place: &usize| record.get(*place).filter(|text| !cast::is_blank(text)).map(Cow::Borrowed);
        let new_cell = |(place, name): &(usize, String)| Some((Cow::Owned(name.clone()), said(place)?));
        if let Some(line) = record.stray_quote() {
            let (cells, stray_quote) = (vec![Cell::Absent; self.places.len()], Some(Cow::Borrowed(line)));
            return RawRow { cells, stray_quote, extra: Vec::new(), new_cells: BTreeMap::new(), overtaken: 0 };
        }
        let beyond = || (self.width..record.len()).filter_map(|place| record.get(place));
        // One comma too many does not matter.
        let is_longer = beyond().any(|text| !cast::is_blank(text));
        RawRow {
            new_cells: self.kept.iter().filter_map(new_cell).collect(),
            cells: (0..self.places.len()).map(|column| self.cell(column, record)).collect(),
            extra: beyond().filter(|_| is_longer).map(Cow::Borrowed).collect(),
            stray_quote: None,
            overtaken: 0,
        }
    }

    /// The names of the domain's columns that the file has, in declaration order, separated by commas.
    pub fn columns(&self, domain: &Domain) -> String {
        let present = domain.columns.iter().zip(&self.places).filter(|(_, place)| place.is_some());
        present.map(|(column, _)| column.name).collect::<Vec<_>>().join(",")
    }

    /// Writes a data row as a line of a packed message: the cells of [`raw_row`](Self::raw_row) and how many rows it
    /// overtakes, with no allocation for an ordinary row.
    pub fn write(&self, record: &Record<'_>, overtaken: u32, mut line: Line<'_>) {
        match record.stray_quote() {
            Some(text) => line.attribute(STRAY_QUOTE, text),
            None => self.places.iter().flatten().for_each(|place| line.cell(record.get(*place))),
        }
        if record.len() > self.width || !self.kept.is_empty() {
            let row = self.raw_row(record);
            if !row.extra.is_empty() {
                line.attribute(EXTRA, &row.extra);
            }
            if !row.new_cells.is_empty() {
                line.attribute(NEW_CELLS, &row.new_cells);
            }
        }
        if overtaken > 0 {
            line.attribute(OVERTAKEN, &overtaken);
        }
        line.end();
    }

    /// The cell of one column of the domain in a data row.
    pub(crate) fn cell<'a>(&self, column: usize, record: &Record<'a>) -> Cell<'a> {
        match self.places.get(column).copied().flatten() {
            None => Cell::Absent,
            Some(place) => record.get(place).map_or(Cell::Missing, |text| Cell::Text(Cow::Borrowed(text))),
        }
    }

    /// The most bytes that the headings of kept columns take in a row.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.iter().map(|(_, name)| name.len()).sum()
    }

    /// The original text of the cell that the row's message is keyed by; `None` if the file or the row does not have
    /// it.
    pub fn partition_cell<'a>(&self, record: &Record<'a>) -> Option<&'a str> {
        record.get(self.partition_place?)
    }
}

/// The names under which cells of unmatched columns are kept: the heading, or the column's number in the file; a
/// repeated heading also gets its number.
fn kept(names: &[&str], places: &[Option<usize>]) -> Vec<(usize, String)> {
    let mut kept: Vec<(usize, String)> = Vec::new();
    for (place, name) in names.iter().enumerate().filter(|(place, _)| !places.contains(&Some(*place))) {
        let number = place + 1;
        let name = match *name {
            "" => format!("column {number}"),
            name if kept.iter().any(|(_, other)| other == name) => format!("{name} (column {number})"),
            name => name.to_owned(),
        };
        kept.push((place, name));
    }
    kept
}

/// Where the file has the column at this index of the domain: under its name, else under a synonym.
fn place_of(
    domain: &'static Domain,
    column: usize,
    candidates: &[Candidates],
    names: &[&str],
) -> Result<Option<usize>, HeaderError> {
    let is_meant = |it: &Candidates, is_name: bool| it.is_name == is_name && it.columns.contains(&column);
    let under = |is_name: bool| single(&domain.columns[column], names, |place| is_meant(&candidates[place], is_name));
    match under(true)? {
        None => under(false),
        place => Ok(place),
    }
}

fn single(
    column: &'static Column,
    names: &[&str],
    matches: impl Fn(usize) -> bool,
) -> Result<Option<usize>, HeaderError> {
    let mut places = (0..names.len()).filter(|place| matches(*place));
    match (places.next(), places.next()) {
        (Some(first), Some(second)) => {
            let (first, second) = (numbered(first, names), numbered(second, names));
            Err(HeaderError::Ambiguous { column: column.name, first, second })
        }
        (place, _) => Ok(place),
    }
}

/// The heading that is the place of two columns, if there is one: their names differ only in separators, and it is
/// spelled as neither.
fn shared(domain: &'static Domain, places: &[Option<usize>], names: &[&str]) -> Option<HeaderError> {
    domain.columns.iter().zip(places).enumerate().find_map(|(at, (column, place))| {
        let place = (*place)?;
        let first = places[..at].iter().position(|other| *other == Some(place))?;
        let first = domain.columns[first].name;
        Some(HeaderError::TwoColumns { heading: numbered(place, names), first, second: column.name })
    })
}

/// The position of a heading in the file, from 1, and the heading.
fn numbered(place: usize, names: &[&str]) -> (usize, String) {
    (place + 1, shortened(names[place]))
}

/// Checks that the matched columns make it a file of the domain.
fn check_columns(
    domain: &'static Domain,
    others: &[&'static Domain],
    places: &[Option<usize>],
    names: &[&str],
    record: &Record<'_>,
) -> Result<(), HeaderError> {
    let missing = missing(domain, places);
    let measures = || domain.columns.iter().zip(places).filter(|(column, _)| !domain.key.contains(&column.name));
    let has_no_measure = measures().next().is_some() && measures().all(|(_, place)| place.is_none());
    if (has_no_measure || !missing.is_empty())
        && let Some(error) = suspect::otherwise_parted(domain, record).or(suspect::other_domain(domain, others, names))
    {
        return Err(error);
    }
    let near = suspect::near_misses(domain, places, names);
    let found = || found(domain, places, names);
    let hints = || near.iter().map(|near| format!("; {near}")).collect();
    if !missing.is_empty() {
        return Err(HeaderError::Missing { domain: domain.name, missing, found: found(), hints: hints() });
    }
    if has_no_measure {
        return Err(HeaderError::NoMeasure { domain: domain.name, found: found(), hints: hints() });
    }
    match near.is_empty() || domain.on_near_miss == NearMiss::Ignore {
        true => Ok(()),
        false => Err(HeaderError::NearMiss(near.join("; "))),
    }
}

/// The headings of a file. Of a domain with personal columns only those that are columns or nearly: a file without a
/// header line has the values of its first row here.
fn found(domain: &'static Domain, places: &[Option<usize>], names: &[&str]) -> String {
    if !domain.has_personal_columns() {
        return listed(names.iter().copied());
    }
    let is_heading = |(place, name): &(usize, &&str)| {
        places.contains(&Some(*place)) || suspect::nearest(domain, places, name).is_some()
    };
    let headings: Vec<&str> = names.iter().enumerate().filter(is_heading).map(|(_, name)| *name).collect();
    let others = match names.len() - headings.len() {
        0 => return listed(headings.into_iter()),
        others => format!("{others} unknown, not shown because the contract has personal columns"),
    };
    match headings.is_empty() {
        true => others,
        false => format!("{}, and {others}", listed(headings.into_iter())),
    }
}

/// The required columns that this file lacks, with their other accepted names.
fn missing(domain: &'static Domain, places: &[Option<usize>]) -> String {
    let spellings = |column: &Column| match column.aliases {
        [] => format!("`{}`", column.name),
        aliases => format!("`{}` (or `{}`)", column.name, aliases.join("`, `")),
    };
    let lacking = domain.columns.iter().zip(places);
    let lacking = lacking.filter(|(column, place)| place.is_none() && column.absent == Instead::Reject);
    lacking.map(|(column, _)| spellings(column)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
