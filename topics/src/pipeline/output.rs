//! An output: one query in a file, with a head that declares its sources and windows.
//!
//! ```sql
//! /* freshet
//! description: New cases a day.
//! windows: [month]
//! facts: [health]
//! dimensions: [locations]
//! key: [location_id, date]
//! columns: {cases: "new cases on the day"}
//! */
//! SELECT h.location_id, h.date, l.name, h.cases
//! FROM health_data AS h JOIN locations AS l ON l.id = h.location_id
//! WHERE h.date >= :window_start AND h.date < :window_end AND NOT h.is_projected
//! ```

use std::path::Path;

use sha2::{Digest, Sha256};

use super::mistake::{Mistakes, Place, did_you_mean};
use super::sql::{Parameter, Query, place_of};
use super::yaml::{Document, Map, Node};
use crate::Domain;
use crate::window::WindowKind;

/// Raise it if the program orders or writes rows in another way, so that the same query gives different bytes.
const LAYOUT: u32 = 1;
/// Postgres cuts identifiers at this length.
const NAME_BYTES_MAX: usize = 63;

/// A derived output. It lives as long as the process, like its pipeline.
#[derive(Debug)]
pub struct Output {
    /// The stem of its file: its name in keys, manifests, metrics and views.
    pub name: &'static str,
    /// What it is for, for people.
    pub description: &'static str,
    /// The kinds of window that it has files for, in the order of [`WindowKind::ALL`].
    pub windows: &'static [WindowKind],
    /// The domains whose changes make its windows dirty; each has an event time.
    pub facts: &'static [&'static Domain],
    /// The domains that the facts refer to: a change makes the windows dirty that have rows of the changed entity.
    pub dimensions: &'static [&'static Domain],
    /// The columns that identify a row and order the rows: NULL first, text by bytes.
    pub key: &'static [&'static str],
    /// Columns of the key that are not published.
    pub hidden: &'static [&'static str],
    /// Descriptions of columns, by name; not every column needs one.
    pub columns: &'static [(&'static str, &'static str)],
    /// How the status page draws it, if it does.
    pub chart: Option<Chart>,
    /// The query.
    pub query: Query,
    /// The SHA-256 of everything that decides its bytes, hexadecimal: the canonical text of the query, windows, domains
    /// and key, and how facts are placed in event time, which decides what windows there are.
    pub definition: &'static str,
}

/// A bar chart of an output: one bar per value of a column, from its newest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chart {
    /// Its title; `None`: the name of the output.
    pub title: Option<&'static str>,
    /// The column that identifies each bar.
    pub by: &'static str,
    /// The column with names for people; `None`: the same column.
    pub label: Option<&'static str>,
    /// The column that is drawn, a number.
    pub value: &'static str,
    /// The column that decides the newest row; `None` if there is one row per bar.
    pub newest: Option<&'static str>,
    /// More columns that are drawn next to it, also numbers.
    pub beside: &'static [&'static str],
    /// The range of the axis; `None`: from 0 to the greatest value.
    pub range: Option<(i32, i32)>,
    /// Which values come first.
    pub worst: Worst,
}

/// The values that a person should look at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worst {
    /// The smallest ones.
    Low,
    /// The greatest ones.
    High,
}

/// Outputs are declared once, so identity is the name.
impl PartialEq for Output {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Output {}

impl Output {
    /// Reads the file of an output, given as a path in the pipeline folder with its text. Adds every mistake in it, and
    /// returns the output if there is none.
    pub fn read(
        file: &str,
        text: &str,
        domains: &[&'static Domain],
        mistakes: &mut Mistakes,
    ) -> Option<&'static Output> {
        let before = mistakes.count();
        let name = name(file, mistakes);
        let head = head(text, domains, mistakes);
        let query = Query::read(text, mistakes);
        let (Some(head), Some(query), true) = (head, query, mistakes.count() == before) else { return None };
        let definition = leak(&definition(name, &head, &query));
        Some(Box::leak(Box::new(Output {
            name: leak(name),
            description: head.description,
            windows: head.windows,
            facts: head.facts,
            dimensions: head.dimensions,
            key: head.key,
            hidden: head.hidden,
            columns: head.columns,
            chart: head.chart,
            query,
            definition,
        })))
    }

    /// Whether a domain is one of its facts.
    pub fn has_fact(&self, domain: &str) -> bool {
        self.facts.iter().any(|fact| fact.name == domain)
    }

    /// Whether a domain is one of its dimensions.
    pub fn has_dimension(&self, domain: &str) -> bool {
        self.dimensions.iter().any(|dimension| dimension.name == domain)
    }

    /// Whether its query gives a different result once a window is closed.
    pub fn closes(&self) -> bool {
        self.query.asks_for(Parameter::IsFinal)
    }
}

/// The stem of the file's name.
fn name<'f>(file: &'f str, mistakes: &mut Mistakes) -> &'f str {
    let name = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !begins || !name.chars().all(is_plain) || name.len() > NAME_BYTES_MAX {
        mistakes.add(
            Place::START,
            format!(
                "an output is named after its file, and `{name}` is not a valid name: use at most {NAME_BYTES_MAX} \
                 lower-case letters, digits and `_`, beginning with a letter"
            ),
        );
    }
    name
}

/// The contents of the head.
struct Head {
    description: &'static str,
    windows: &'static [WindowKind],
    facts: &'static [&'static Domain],
    dimensions: &'static [&'static Domain],
    key: &'static [&'static str],
    hidden: &'static [&'static str],
    columns: &'static [(&'static str, &'static str)],
    chart: Option<Chart>,
}

fn head(text: &str, domains: &[&'static Domain], mistakes: &mut Mistakes) -> Option<Head> {
    let Some((yaml, lines_before)) = head_text(text) else {
        mistakes.add(
            Place::START,
            "the head is missing: `/* freshet` on a line, then description, windows, facts and key as YAML, then `*/`",
        );
        return None;
    };
    let document = Document::parse(yaml, lines_before, mistakes)?;
    let map = document.root().map(mistakes)?;
    let description = map.need("description", mistakes).and_then(|node| node.text(mistakes));
    let windows = windows(map.need("windows", mistakes), mistakes);
    let facts = facts(map.need("facts", mistakes), domains, mistakes);
    let dimensions = known_domains(map.get("dimensions"), domains, mistakes);
    let key = names(map.need("key", mistakes), mistakes);
    let hidden = hidden(map.get("hidden"), &key, mistakes);
    let columns = columns(map.get("columns"), mistakes);
    let chart = map.get("chart").and_then(|node| chart(node, &hidden, mistakes));
    map.end(mistakes);
    Some(Head {
        description: leak(description?),
        windows: leak_all(windows),
        facts: leak_all(facts),
        dimensions: leak_all(dimensions),
        key: leak_all(key),
        hidden: leak_all(hidden),
        columns: leak_all(columns),
        chart,
    })
}

/// The text of the head, and the lines of the file before it.
fn head_text(text: &str) -> Option<(&str, usize)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("/*").map(|at| from + at) {
        let inner = text[at + 2..].trim_start();
        let yaml = inner.strip_prefix("freshet").filter(|rest| rest.starts_with(['\n', '\r']));
        if let Some(yaml) = yaml {
            let begin = text.len() - yaml.len();
            let end = yaml.find("*/")?;
            return Some((&yaml[..end], place_of(text, begin).line - 1));
        }
        from = at + 2;
    }
    None
}

fn windows(node: Option<Node<'_, '_>>, mistakes: &mut Mistakes) -> Vec<WindowKind> {
    let Some(node) = node else { return Vec::new() };
    let known = || WindowKind::ALL.iter().map(|kind| kind.name());
    let mut found = Vec::new();
    for item in node.list(mistakes) {
        let Some(name) = item.text(mistakes) else { continue };
        match WindowKind::from_name(name) {
            Some(kind) => found.push(kind),
            None => {
                let (hint, known) = (did_you_mean(name, known()), known().collect::<Vec<_>>().join(", "));
                mistakes.add(item.place(), format!("there is no window `{name}`{hint} (there are {known})"));
            }
        }
    }
    if found.is_empty() {
        mistakes.add(node.place(), "an output needs at least one kind of window, such as [month]");
    }
    found.sort();
    found.dedup();
    found
}

fn facts(node: Option<Node<'_, '_>>, domains: &[&'static Domain], mistakes: &mut Mistakes) -> Vec<&'static Domain> {
    let Some(node) = node else { return Vec::new() };
    let found = known_domains(Some(node), domains, mistakes);
    for domain in &found {
        if domain.event_time.is_none() {
            let said = format!("`{}` has no event time: it is a dimension, not a fact", domain.name);
            mistakes.add(node.place(), said);
        }
    }
    if found.is_empty() {
        mistakes.add(node.place(), "an output needs at least one fact: a domain with an event time");
    }
    found
}

fn known_domains(
    node: Option<Node<'_, '_>>,
    domains: &[&'static Domain],
    mistakes: &mut Mistakes,
) -> Vec<&'static Domain> {
    let Some(node) = node else { return Vec::new() };
    let mut found: Vec<&'static Domain> = Vec::new();
    for item in node.list(mistakes) {
        let Some(name) = item.text(mistakes) else { continue };
        match domains.iter().find(|domain| domain.name == name) {
            Some(domain) if found.contains(domain) => {
                mistakes.add(item.place(), format!("`{name}` is listed twice"));
            }
            Some(domain) => found.push(domain),
            None => {
                let known = domains.iter().map(|domain| domain.name);
                let (hint, known) = (did_you_mean(name, known.clone()), known.collect::<Vec<_>>().join(", "));
                mistakes.add(item.place(), format!("there is no domain `{name}`{hint} (there are {known})"));
            }
        }
    }
    found
}

/// Names of columns, without repetition.
fn names(node: Option<Node<'_, '_>>, mistakes: &mut Mistakes) -> Vec<&'static str> {
    let Some(node) = node else { return Vec::new() };
    let mut found: Vec<&'static str> = Vec::new();
    for item in node.list(mistakes) {
        let Some(name) = item.text(mistakes) else { continue };
        match found.contains(&name) {
            true => mistakes.add(item.place(), format!("`{name}` is listed twice")),
            false => found.push(leak(name)),
        }
    }
    if found.is_empty() {
        mistakes.add(node.place(), "at least one column is expected here");
    }
    found
}

fn hidden(node: Option<Node<'_, '_>>, key: &[&'static str], mistakes: &mut Mistakes) -> Vec<&'static str> {
    let hidden = node.map(|node| (node.place(), names(Some(node), mistakes)));
    let Some((place, hidden)) = hidden else { return Vec::new() };
    for name in hidden.iter().filter(|name| !key.contains(name)) {
        let said = format!("`{name}` is not in the key: only columns of the key can be hidden");
        mistakes.add(place, said);
    }
    hidden
}

fn columns(node: Option<Node<'_, '_>>, mistakes: &mut Mistakes) -> Vec<(&'static str, &'static str)> {
    let Some(map) = node.and_then(|node| node.map(mistakes)) else { return Vec::new() };
    let meanings = map.entries().filter_map(|(name, _, node)| Some((leak(name), leak(node.text(mistakes)?))));
    meanings.collect()
}

fn chart(node: Node<'_, '_>, hidden: &[&str], mistakes: &mut Mistakes) -> Option<Chart> {
    let map = node.map(mistakes)?;
    let column = |node: Option<Node<'_, '_>>, mistakes: &mut Mistakes| {
        let (place, name) = node.and_then(|node| Some((node.place(), node.text(mistakes)?)))?;
        if hidden.contains(&name) {
            mistakes.add(place, format!("`{name}` is hidden: a column that is not published cannot be drawn"));
        }
        Some(leak(name))
    };
    let by = map.need("by", mistakes);
    let by = column(by, mistakes);
    let value = map.need("value", mistakes);
    let value = column(value, mistakes);
    let newest = column(map.get("newest"), mistakes);
    let label = column(map.get("label"), mistakes);
    let beside = names(map.get("beside"), mistakes);
    let range = range(&map, mistakes);
    let worst = worst(map.get("worst"), mistakes);
    let title = map.get("title").and_then(|node| node.text(mistakes)).map(leak);
    map.end(mistakes);
    Some(Chart { title, by: by?, label, value: value?, newest, beside: leak_all(beside), range, worst })
}

/// The greatest values, unless the file says that the smallest are the worst.
fn worst(node: Option<Node<'_, '_>>, mistakes: &mut Mistakes) -> Worst {
    let Some(node) = node else { return Worst::High };
    match node.text(mistakes) {
        Some("low") => Worst::Low,
        Some("high") | None => Worst::High,
        Some(other) => {
            mistakes.add(node.place(), format!("`low` or `high` is expected here, not `{other}`"));
            Worst::High
        }
    }
}

fn range(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<(i32, i32)> {
    let node = map.get("range")?;
    let ends: Vec<i64> = node.list(mistakes).iter().filter_map(|end| end.whole(mistakes)).collect();
    let ends: Vec<i32> = ends.into_iter().filter_map(|end| i32::try_from(end).ok()).collect();
    match ends[..] {
        [least, greatest] if least < greatest => Some((least, greatest)),
        _ => {
            mistakes.add(node.place(), "the least and the greatest value are expected here, such as [0, 100]");
            None
        }
    }
}

fn definition(name: &str, head: &Head, query: &Query) -> String {
    let domains = |domains: &[&'static Domain]| domains.iter().map(|domain| domain.name).collect::<Vec<_>>();
    let windows: Vec<&str> = head.windows.iter().map(|kind| kind.name()).collect();
    let (facts, dimensions) = (domains(head.facts), domains(head.dimensions));
    let placed = head.facts.iter().filter_map(|fact| fact.event_time.as_ref());
    let facts = (facts, placed.map(|time| (time.date, time.observed_sql(""))).collect::<Vec<_>>());
    let decisive = (LAYOUT, name, windows, facts, dimensions, head.key, head.hidden, query.canonical());
    hex::encode(Sha256::digest(format!("{decisive:?}")))
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn leak_all<T>(values: Vec<T>) -> &'static [T] {
    Box::leak(values.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DOMAINS, EventTime};

    const HEAD: &str = "description: d\nwindows: [week, day]\nfacts: [health]\nkey: [location_id, date]\n";

    fn read(file: &str, text: &str) -> Result<&'static Output, Vec<String>> {
        let mut mistakes = Mistakes::of(file);
        let read = Output::read(file, text, &DOMAINS, &mut mistakes);
        read.ok_or_else(|| mistakes.into_sorted().iter().map(ToString::to_string).collect())
    }

    fn with(head: &str, query: &str) -> Result<&'static Output, Vec<String>> {
        read("outputs/a.sql", &format!("/* freshet\n{head}*/\n{query}"))
    }

    #[test]
    fn a_file_becomes_an_output() {
        let more = "dimensions: [locations]\nhidden: [date]\ncolumns: {n: \"how many\"}\n\
                    chart: {title: How many, by: location_id, label: name, value: n, newest: day, beside: [m], \
                    range: [0, 100], worst: low}\n";
        let output = with(&format!("{HEAD}{more}"), "SELECT 1 -- one\n").expect("an output");
        assert_eq!((output.name, output.windows), ("a", &[WindowKind::Day, WindowKind::Week][..]));
        assert!(output.has_fact("health") && output.has_dimension("locations") && !output.has_fact("locations"));
        assert_eq!((output.key, output.hidden), (&["location_id", "date"][..], &["date"][..]));
        assert_eq!((output.columns, output.query.canonical().as_str()), (&[("n", "how many")][..], "SELECT 1"));
        let chart = Chart {
            title: Some("How many"),
            by: "location_id",
            label: Some("name"),
            value: "n",
            newest: Some("day"),
            beside: &["m"],
            range: Some((0, 100)),
            worst: Worst::Low,
        };
        assert_eq!(output.chart, Some(chart));
        assert!(!output.closes() && with(HEAD, "SELECT :is_final").expect("an output").closes());
    }

    #[test]
    fn the_definition_changes_with_what_decides_the_bytes_and_with_nothing_else() {
        let definition = |head: &str, query: &str| with(head, query).expect("an output").definition;
        let one = definition(HEAD, "SELECT 1");
        assert_eq!(one.len(), 64);
        for (head, query) in [
            (HEAD.to_owned(), "SELECT  1 -- the same\n;"),
            (HEAD.replace("description: d", "description: e"), "SELECT 1"),
            (format!("{HEAD}columns: {{n: m}}\n"), "SELECT 1"),
            (HEAD.replace("week, day", "day, week"), "SELECT 1"),
        ] {
            assert_eq!(definition(&head, query), one, "{head} {query}");
        }
        for (head, query) in [
            (HEAD.to_owned(), "SELECT 2"),
            (HEAD.replace("week, day", "week"), "SELECT 1"),
            (HEAD.replace("health", "hospital"), "SELECT 1"),
            (format!("{HEAD}dimensions: [locations]\n"), "SELECT 1"),
            (HEAD.replace("location_id, date", "date, location_id"), "SELECT 1"),
            (format!("{HEAD}hidden: [date]\n"), "SELECT 1"),
        ] {
            assert_ne!(definition(&head, query), one, "{head} {query}");
        }
        assert_ne!(read("b.sql", &format!("/* freshet\n{HEAD}*/ SELECT 1")).expect("an output").definition, one);
    }

    #[test]
    fn the_definition_changes_with_the_event_time_of_a_fact() {
        let health = **DOMAINS.iter().find(|domain| domain.name == "health").expect("a domain");
        let event_time = health.event_time.expect("a fact");
        let definition = |event_time: EventTime| {
            let domain: &'static Domain = Box::leak(Box::new(Domain { event_time: Some(event_time), ..health }));
            let text = format!("/* freshet\n{HEAD}*/\nSELECT 1");
            Output::read("outputs/a.sql", &text, &[domain], &mut Mistakes::of("a")).expect("an output").definition
        };
        let one = definition(event_time);
        assert_eq!(one, with(HEAD, "SELECT 1").expect("an output").definition);
        assert_ne!(definition(EventTime { observed_when: None, ..event_time }), one);
        assert_ne!(definition(EventTime { date: "reported_on", ..event_time }), one);
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let head = "description: 5\nwindows: [weeks]\nfacts: [locations, helth]\ndimensions: [locations, locations]\n\
                    hidden: [x]\nkey: [date, date]\nchart: {by: x, range: [1], worst: least}\nkeys: []\n";
        let expected = [
            "outputs/a.sql:2:14: text is expected here, not a whole number",
            "outputs/a.sql:3:10: an output needs at least one kind of window, such as [month]",
            "outputs/a.sql:3:11: there is no window `weeks`; did you mean week? (there are day, week, month, year, all)",
            "outputs/a.sql:4:8: `locations` has no event time: it is a dimension, not a fact",
            "outputs/a.sql:4:20: there is no domain `helth`; did you mean health? (there are locations, climate, \
             health, hospital)",
            "outputs/a.sql:5:25: `locations` is listed twice",
            "outputs/a.sql:6:9: `x` is not in the key: only columns of the key can be hidden",
            "outputs/a.sql:7:13: `date` is listed twice",
            "outputs/a.sql:8:8: `value` is missing here",
            "outputs/a.sql:8:13: `x` is hidden: a column that is not published cannot be drawn",
            "outputs/a.sql:8:23: the least and the greatest value are expected here, such as [0, 100]",
            "outputs/a.sql:8:35: `low` or `high` is expected here, not `least`",
            "outputs/a.sql:9:1: unknown key `keys`; did you mean key? (known here: chart, columns, description, \
             dimensions, facts, hidden, key, windows)",
            "outputs/a.sql:11:8: there is no parameter `:window`",
        ];
        let found = with(head, "SELECT :window").expect_err("mistakes");
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn a_file_without_a_head_or_a_name_is_a_mistake() {
        let found = read("Big.sql", "/* freshet: is not it */ SELECT 1").expect_err("mistakes");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|said| said.contains("`Big` is not a valid name")), "{found:?}");
        assert!(found.iter().any(|said| said.starts_with("Big.sql:1:1: the head is missing")), "{found:?}");
        assert!(read("a.sql", "-- a\n\n/* freshet\nwindows: [week").is_err());
    }
}
