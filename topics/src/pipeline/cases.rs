//! The tests of outputs: input files, and the expected output file for a window.
//!
//! ```yaml
//! output: resilience_scores
//! window: {kind: month, start: 2025-08-01}   # and `final: true` if the query uses `:is_final`
//! given:
//!   locations: |
//!     id,name,type,population,area
//!     1,Goa,state,1000000,3702
//! expected: |
//!   location_id,date,location_name,…
//! ```
//!
//! The input is read like any file; the expected text is the output's CSV file as it would be published.

use chrono::NaiveDate;

use super::mistake::{Mistakes, Place, did_you_mean};
use super::output::Output;
use super::yaml::{Document, Map, Node};
use crate::Domain;
use crate::window::{Window, WindowKind};

/// A test of an output.
#[derive(Debug)]
pub struct OutputCase {
    /// The file, as a path in the pipeline folder.
    pub file: String,
    /// The output.
    pub output: &'static Output,
    /// The window that is derived.
    pub window: Window,
    /// Whether it is final.
    pub is_final: bool,
    /// Files of rows: the domain, the position of the text, and the CSV.
    pub given: Vec<(&'static Domain, Place, String)>,
    /// The position of the expected text.
    pub place: Place,
    /// The expected CSV file.
    pub expected: String,
}

impl OutputCase {
    /// Whether a file of tests is a test of an output.
    pub(super) fn is_one(text: &str) -> bool {
        text.lines().any(|line| line.starts_with("output:"))
    }

    /// Reads a file, finding its mistakes.
    pub fn read(
        file: &str,
        text: &str,
        domains: &'static [&'static Domain],
        outputs: &[&'static Output],
        mistakes: &mut Mistakes,
    ) -> Option<OutputCase> {
        let document = Document::parse(text, 0, mistakes)?;
        let map = document.root().map(mistakes)?;
        let output = map.need("output", mistakes).and_then(|node| output_named(&node, outputs, mistakes));
        let window = map.need("window", mistakes).and_then(|node| node.map(mistakes));
        let given = map.need("given", mistakes).and_then(|node| node.map(mistakes));
        let expected = map.need("expected", mistakes).and_then(|node| Some((node.place(), node.text(mistakes)?)));
        map.end(mistakes);
        let (window, is_final) = window.and_then(|map| read_window(map, output, mistakes))?;
        let given = given.map(|map| read_given(&map, domains, mistakes)).unwrap_or_default();
        let (place, expected) = expected?;
        let (output, expected) = (output?, expected.to_owned());
        Some(OutputCase { file: file.to_owned(), output, window, is_final, given, place, expected })
    }
}

fn output_named(node: &Node<'_, '_>, outputs: &[&'static Output], mistakes: &mut Mistakes) -> Option<&'static Output> {
    let name = node.text(mistakes)?;
    let found = outputs.iter().copied().find(|output| output.name == name);
    if found.is_none() {
        let hint = did_you_mean(name, outputs.iter().map(|output| output.name));
        mistakes.add(node.place(), format!("there is no output `{name}`{hint}"));
    }
    found
}

fn read_window(map: Map<'_, '_>, output: Option<&'static Output>, mistakes: &mut Mistakes) -> Option<(Window, bool)> {
    let kind = map.need("kind", mistakes).and_then(|node| window_kind(&node, output, mistakes));
    let start = map.need("start", mistakes).and_then(|node| date(&node, mistakes));
    let is_final = map.get("final").and_then(|node| node.flag(mistakes)).unwrap_or(false);
    map.end(mistakes);
    Some((Window::containing(kind?, start?), is_final))
}

fn window_kind(node: &Node<'_, '_>, output: Option<&'static Output>, mistakes: &mut Mistakes) -> Option<WindowKind> {
    let name = node.text(mistakes)?;
    let kinds = output.map_or(WindowKind::ALL, |output| output.windows);
    let found = kinds.iter().copied().find(|kind| kind.name() == name);
    if found.is_none() {
        let known: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        mistakes.add(node.place(), format!("the output has no windows of kind `{name}` (it has {})", known.join(", ")));
    }
    found
}

fn date(node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Option<NaiveDate> {
    let found = node.text(mistakes)?.parse::<NaiveDate>().ok();
    if found.is_none() {
        mistakes.add(node.place(), "a day of the window is expected here, such as 2025-08-01");
    }
    found
}

fn read_given(
    map: &Map<'_, '_>,
    domains: &'static [&'static Domain],
    mistakes: &mut Mistakes,
) -> Vec<(&'static Domain, Place, String)> {
    let mut given = Vec::new();
    for (name, place, node) in map.entries() {
        let Some(domain) = domains.iter().copied().find(|domain| domain.name == name) else {
            let hint = did_you_mean(name, domains.iter().map(|domain| domain.name));
            mistakes.add(place, format!("there is no domain `{name}`{hint}"));
            continue;
        };
        given.extend(node.text(mistakes).map(|text| (domain, node.place(), text.to_owned())));
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pipeline;

    fn read(text: &str) -> (Option<OutputCase>, Vec<String>) {
        let pipeline = Pipeline::shipped();
        let mut mistakes = Mistakes::of("tests/a.yaml");
        let case = OutputCase::read("tests/a.yaml", text, pipeline.domains, pipeline.outputs, &mut mistakes);
        (case, mistakes.into_sorted().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_case_is_files_a_window_and_a_file() {
        let (case, mistakes) = read(
            "output: window_metrics\nwindow: {kind: week, start: 2025-08-22, final: true}\ngiven:\n  locations: |\n    \
             id,name\n    1,Goa\nexpected: |\n  a,b\n",
        );
        assert_eq!(mistakes, [""; 0]);
        let case = case.expect("a case");
        assert_eq!((case.window.start.to_string().as_str(), case.is_final), ("2025-08-18", true));
        assert_eq!((case.given[0].2.as_str(), case.expected.as_str()), ("id,name\n1,Goa\n", "a,b\n"));
    }

    #[test]
    fn every_mistake_of_a_case_is_told() {
        let (case, mistakes) = read(
            "output: resilience_scores\nwindow: {kind: week, start: soon}\ngiven: {location: \"\"}\nexpeced: \"\"\n",
        );
        assert!(case.is_none());
        assert_eq!(
            mistakes,
            [
                "tests/a.yaml:1:1: `expected` is missing here",
                "tests/a.yaml:2:16: the output has no windows of kind `week` (it has month)",
                "tests/a.yaml:2:29: a day of the window is expected here, such as 2025-08-01",
                "tests/a.yaml:4:1: unknown key `expeced`; did you mean expected? (known here: expected, given, output, window)",
            ]
        );
    }
}
