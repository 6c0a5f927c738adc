//! Guesses what is wrong with a header that does not fit its domain: misspelled columns, columns of another domain,
//! another delimiter.

use freshet_topics::heading::folded;
use freshet_topics::{Domain, Instead, cast};

use super::HeaderError;
use super::names::shortened;
use crate::frame::Record;

/// The most headings named in an error, so that it stays readable whatever the file has.
const NEAR_MISSES_MAX: usize = 10;
/// The most characters of a heading that are compared: no column name is that long.
const COMPARED_CHARS_MAX: usize = 100;
/// A heading with fewer letters is the beginning of too many names.
const BEGINNING_CHARS_MIN: usize = 4;
/// Possible delimiters, and their names.
const DELIMITERS: [(char, &str); 4] = [(',', "commas"), (';', "semicolons"), ('\t', "tabs"), ('|', "bars (`|`)")];

/// Unknown headings that nearly match a column that the file lacks, as one sentence each.
pub(super) fn near_misses(domain: &'static Domain, places: &[Option<usize>], names: &[&str]) -> Vec<String> {
    let is_unknown = |(place, name): &(usize, &&str)| !name.is_empty() && !places.contains(&Some(*place));
    let unknown = names.iter().enumerate().filter(is_unknown);
    let near = unknown.filter_map(|(_, name)| Some((name, nearest(domain, places, name)?)));
    near.take(NEAR_MISSES_MAX)
        .map(|(name, column)| format!("`{}` is not a column: did you mean `{column}`?", shortened(name)))
        .collect()
}

/// The missing column that the heading is nearest to.
pub(super) fn nearest(domain: &'static Domain, places: &[Option<usize>], heading: &str) -> Option<&'static str> {
    let lacking = domain.columns.iter().zip(places).filter(|(_, place)| place.is_none());
    let distances = lacking.filter_map(|(column, _)| {
        let spellings = [column.name].into_iter().chain(column.aliases.iter().copied());
        let slips = spellings.filter_map(|spelling| slips(heading, spelling)).min();
        // A heading without the last words of the name: `Dengue` for `dengue_cases`.
        slips.or(is_beginning(heading, column.name).then_some(usize::MAX)).map(|slips| (slips, column.name))
    });
    distances.min().map(|(_, name)| name)
}

/// How many letters differ, if they are few for the length of the name.
fn slips(heading: &str, name: &str) -> Option<usize> {
    if heading.chars().nth(COMPARED_CHARS_MAX).is_some() {
        return None;
    }
    let (heading, name) = (folded(heading), folded(name));
    let letters = heading.chars().count().min(name.chars().count());
    // One in four letters, and at most three.
    let slips = strsim::osa_distance(&heading, &name);
    (slips <= (letters / 4).min(3)).then_some(slips)
}

fn is_beginning(heading: &str, name: &str) -> bool {
    let heading = folded(heading);
    let words = name.match_indices(['_', '-', '.', ' ']).map(|(end, _)| folded(&name[..end]));
    heading.chars().count() >= BEGINNING_CHARS_MIN && words.into_iter().any(|beginning| beginning == heading)
}

/// The other domain, if the columns belong to one.
pub(super) fn other_domain(domain: &'static Domain, others: &[&'static Domain], names: &[&str]) -> Option<HeaderError> {
    let others = others.iter().copied().filter(|other| *other != domain);
    let fitting = others.filter_map(|other| Some((fit(other, names)?, other)));
    let (measures, other) = fitting.max_by_key(|(measures, _)| *measures)?;
    let pattern = other.patterns.first()?;
    (measures > 0 && fit(domain, names).unwrap_or(0) < measures).then_some(HeaderError::OtherDomain {
        domain: domain.name,
        other: other.name,
        pattern,
    })
}

/// How many columns besides the key the names have; `None` if a required one is missing.
fn fit(domain: &'static Domain, names: &[&str]) -> Option<usize> {
    let names: Vec<String> = names.iter().map(|name| folded(name)).collect();
    let mut measures = 0;
    for column in domain.columns {
        let mut spellings = [column.name].into_iter().chain(column.aliases.iter().copied());
        let is_there = spellings.any(|spelling| names.contains(&folded(spelling)));
        if !is_there && column.absent == Instead::Reject {
            return None;
        }
        measures += usize::from(is_there && !domain.key.contains(&column.name));
    }
    Some(measures)
}

/// The delimiter of the file, if it is not the domain's.
pub(super) fn otherwise_parted(domain: &'static Domain, record: &Record<'_>) -> Option<HeaderError> {
    let text = record.iter().collect::<Vec<_>>().join(&char::from(domain.delimiter).to_string());
    let is_another = |(delimiter, _): &&(char, &str)| *delimiter != char::from(domain.delimiter);
    DELIMITERS.iter().filter(is_another).find_map(|(delimiter, found)| {
        let names: Vec<&str> = text.split(*delimiter).map(|name| cast::trim(name).trim_matches('"')).collect();
        let is_header = names.len() > 1 && fit(domain, &names).is_some();
        is_header.then(|| HeaderError::Delimiter { found, delimiter: name_of(domain.delimiter) })
    })
}

/// Excel's own first line `sep=;`.
pub(super) fn separator_line(domain: &'static Domain, record: &Record<'_>) -> Option<HeaderError> {
    let first = record.get(0)?;
    let is_short = record.iter().map(str::len).sum::<usize>() <= "sep=;".len();
    let is_separator = first.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("sep="));
    let text = record.iter().collect::<Vec<_>>().join(&char::from(domain.delimiter).to_string());
    (is_short && is_separator).then(|| HeaderError::SeparatorLine {
        line: record.line(),
        text: shortened(&text),
        delimiter: name_of(domain.delimiter),
    })
}

/// The name of the delimiter.
fn name_of(delimiter: u8) -> &'static str {
    let known = DELIMITERS.iter().find(|(known, _)| *known == char::from(delimiter));
    known.map_or("the delimiter of the contract", |(_, name)| name)
}
