//! YAML with the position of every value, so that each mistake can be reported with line and column.
//!
//! Reading continues after mistakes: a value of the wrong type is reported and read as `None`; keys that were not read
//! are reported at the end of their mapping ([`Map::end`]).

use std::cell::RefCell;
use std::collections::BTreeSet;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::mistake::{Mistakes, Place, did_you_mean};

/// A document, parsed.
#[derive(Debug)]
pub struct Document<'t> {
    root: MarkedYaml<'t>,
    /// Lines of the file before the text.
    before: usize,
}

impl<'t> Document<'t> {
    /// Parses a text that begins after `before` lines of its file. Text that is not YAML, or not a single document, is
    /// a mistake.
    pub fn parse(text: &'t str, before: usize, mistakes: &mut Mistakes) -> Option<Self> {
        match MarkedYaml::load_from_str(text) {
            Ok(mut documents) if documents.len() == 1 => documents.pop().map(|root| Document { root, before }),
            Ok(documents) => {
                let said = format!("one YAML document is expected, not {}", documents.len());
                mistakes.add(Place { line: before + 1, column: 1 }, said);
                None
            }
            Err(error) => {
                let place = Place { line: before + error.marker().line(), column: error.marker().col() + 1 };
                mistakes.add(place, format!("this is not YAML: {}", error.info()));
                None
            }
        }
    }

    /// Its outermost value.
    pub fn root(&self) -> Node<'_, 't> {
        Node { yaml: &self.root, before: self.before }
    }

    /// Its content without layout, comments and order of keys: JSON with sorted keys.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        write_canonical(&self.root, &mut text);
        text
    }
}

fn write_canonical(yaml: &MarkedYaml<'_>, text: &mut String) {
    match &yaml.data {
        YamlData::Mapping(pairs) => {
            let mut entries: Vec<String> = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                let mut entry = String::new();
                write_canonical(key, &mut entry);
                entry.push(':');
                write_canonical(value, &mut entry);
                entries.push(entry);
            }
            entries.sort();
            text.push('{');
            text.push_str(&entries.join(","));
            text.push('}');
        }
        YamlData::Sequence(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        YamlData::Value(Scalar::String(value)) => text.push_str(&serde_json::Value::from(value.as_ref()).to_string()),
        YamlData::Value(Scalar::Integer(value)) => text.push_str(&value.to_string()),
        YamlData::Value(Scalar::FloatingPoint(value)) => text.push_str(&value.into_inner().to_string()),
        YamlData::Value(Scalar::Boolean(value)) => text.push_str(&value.to_string()),
        _ => text.push_str("null"),
    }
}

/// A value with its position.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d, 't> {
    yaml: &'d MarkedYaml<'t>,
    before: usize,
}

impl<'d, 't> Node<'d, 't> {
    /// The position where it begins.
    pub fn place(&self) -> Place {
        Place { line: self.before + self.yaml.span.start.line(), column: self.yaml.span.start.col() + 1 }
    }

    /// What kind of value it is, for people.
    pub fn kind(&self) -> &'static str {
        match &self.yaml.data {
            YamlData::Mapping(_) => "a mapping",
            YamlData::Sequence(_) => "a list",
            YamlData::Value(Scalar::String(_)) => "text",
            YamlData::Value(Scalar::Integer(_)) => "a whole number",
            YamlData::Value(Scalar::FloatingPoint(_)) => "a number",
            YamlData::Value(Scalar::Boolean(_)) => "true or false",
            YamlData::Value(Scalar::Null) => "nothing",
            _ => "something else",
        }
    }

    /// Whether it is null: `key:` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.yaml.data, YamlData::Value(Scalar::Null))
    }

    /// The value as text, if it is text.
    pub fn as_text(&self) -> Option<&'d str> {
        match &self.yaml.data {
            YamlData::Value(Scalar::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The value as a whole number, if it is one.
    pub fn as_whole(&self) -> Option<i64> {
        match &self.yaml.data {
            YamlData::Value(Scalar::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// The value as a number, if it is one, whole or not.
    pub fn as_number(&self) -> Option<f64> {
        match &self.yaml.data {
            YamlData::Value(Scalar::Integer(number)) => Some(*number as f64),
            YamlData::Value(Scalar::FloatingPoint(number)) => Some(number.into_inner()),
            _ => None,
        }
    }

    /// The value as true or false, if it is one of them.
    pub fn as_flag(&self) -> Option<bool> {
        match &self.yaml.data {
            YamlData::Value(Scalar::Boolean(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// Text, or a mistake.
    pub fn text(&self, mistakes: &mut Mistakes) -> Option<&'d str> {
        self.or_mistake(self.as_text(), "text", mistakes)
    }

    /// A whole number, or a mistake.
    pub fn whole(&self, mistakes: &mut Mistakes) -> Option<i64> {
        self.or_mistake(self.as_whole(), "a whole number", mistakes)
    }

    /// A number, or a mistake.
    pub fn number(&self, mistakes: &mut Mistakes) -> Option<f64> {
        self.or_mistake(self.as_number(), "a number", mistakes)
    }

    /// True or false, or a mistake.
    pub fn flag(&self, mistakes: &mut Mistakes) -> Option<bool> {
        self.or_mistake(self.as_flag(), "true or false", mistakes)
    }

    /// The items of a list; anything else is a mistake and has none.
    pub fn list(&self, mistakes: &mut Mistakes) -> Vec<Node<'d, 't>> {
        let before = self.before;
        let items = match &self.yaml.data {
            YamlData::Sequence(items) => Some(items.iter().map(|yaml| Node { yaml, before }).collect()),
            _ => None,
        };
        self.or_mistake(items, "a list", mistakes).unwrap_or_default()
    }

    /// The texts of a list; other items are mistakes and left out.
    pub fn texts(&self, mistakes: &mut Mistakes) -> Vec<&'d str> {
        self.list(mistakes).iter().filter_map(|item| item.text(mistakes)).collect()
    }

    /// A mapping, or a mistake.
    pub fn map(&self, mistakes: &mut Mistakes) -> Option<Map<'d, 't>> {
        let YamlData::Mapping(pairs) = &self.yaml.data else {
            return self.or_mistake(None, "a mapping", mistakes);
        };
        let before = self.before;
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let key = Node { yaml: key, before };
            if let Some(name) = key.text(mistakes) {
                entries.push(Entry { name, place: key.place(), value: Node { yaml: value, before } });
            }
        }
        Some(Map { place: self.place(), entries, asked: RefCell::default() })
    }

    fn or_mistake<T>(&self, value: Option<T>, wanted: &str, mistakes: &mut Mistakes) -> Option<T> {
        if value.is_none() {
            mistakes.add(self.place(), format!("{wanted} is expected here, not {}", self.kind()));
        }
        value
    }
}

#[derive(Debug)]
struct Entry<'d, 't> {
    name: &'d str,
    place: Place,
    value: Node<'d, 't>,
}

/// A mapping that remembers which of its keys were read.
#[derive(Debug)]
pub struct Map<'d, 't> {
    place: Place,
    entries: Vec<Entry<'d, 't>>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'d, 't> Map<'d, 't> {
    /// The position where it begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The value of a key; `None` if the key is absent or has no value.
    pub fn get(&self, name: &'static str) -> Option<Node<'d, 't>> {
        self.asked.borrow_mut().insert(name);
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        (!entry.value.is_null()).then_some(entry.value)
    }

    /// The value of a required key, or a mistake.
    pub fn need(&self, name: &'static str, mistakes: &mut Mistakes) -> Option<Node<'d, 't>> {
        let value = self.get(name);
        if value.is_none() {
            mistakes.add(self.place, format!("`{name}` is missing here"));
        }
        value
    }

    /// All keys with their positions and values, for mappings whose keys are chosen by the author.
    pub fn entries(&self) -> impl Iterator<Item = (&'d str, Place, Node<'d, 't>)> {
        self.entries.iter().map(|entry| (entry.name, entry.place, entry.value))
    }

    /// Reports every key that was not read as a mistake.
    pub fn end(self, mistakes: &mut Mistakes) {
        let asked = self.asked.into_inner();
        for entry in &self.entries {
            if !asked.contains(entry.name) {
                let known = asked.iter().copied().collect::<Vec<_>>().join(", ");
                let hint = did_you_mean(entry.name, asked.iter().copied());
                mistakes.add(entry.place, format!("unknown key `{}`{hint} (known here: {known})", entry.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, read: impl Fn(Map<'_, '_>, &mut Mistakes)) -> Vec<String> {
        let mut mistakes = Mistakes::of("f");
        if let Some(document) = Document::parse(text, 10, &mut mistakes)
            && let Some(map) = document.root().map(&mut mistakes)
        {
            read(map, &mut mistakes);
        }
        mistakes.into_sorted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let found = said("name: 5\nwindows: [week, 3]\nkye: x\n", |map, mistakes| {
            map.need("name", mistakes).and_then(|name| name.text(mistakes));
            map.need("key", mistakes);
            map.need("windows", mistakes).map(|windows| windows.texts(mistakes));
            map.end(mistakes);
        });
        assert_eq!(
            found,
            [
                "f:11:1: `key` is missing here",
                "f:11:7: text is expected here, not a whole number",
                "f:12:17: text is expected here, not a whole number",
                "f:13:1: unknown key `kye`; did you mean key? (known here: key, name, windows)",
            ]
        );
    }

    #[test]
    fn what_is_no_yaml_is_one_mistake() {
        let found = said("a: [1,\nb: }", |_, _| {});
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("f:12:") && found[0].contains("not YAML"), "{found:?}");
        assert_eq!(said("- 1\n", |_, _| {}), ["f:11:1: a mapping is expected here, not a list"]);
    }

    #[test]
    fn layout_and_order_do_not_count_but_what_is_said_does() {
        let canonical = |text: &str| {
            Document::parse(text, 0, &mut Mistakes::of("f")).map(|document| document.canonical()).expect("YAML")
        };
        let one = canonical("a: {b: [1, 2.5, x], c: null} # said\nd: true\n");
        assert_eq!(one, r#"{"a":{"b":[1,2.5,"x"],"c":null},"d":true}"#);
        assert_eq!(canonical("d:   true\na:\n  c:\n  b:\n  - 1\n  - 2.5\n  - 'x'\n"), one);
        assert_ne!(canonical("d: 'true'\na: {b: [1, 2.5, x], c: null}\n"), one);
    }
}
