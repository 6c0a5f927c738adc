//! Small readers for every part of a contract: a word of a list, a name, a value of a column's type.

use std::fmt::Write as _;

use crate::pipeline::mistake::{Mistakes, Place, did_you_mean};
use crate::pipeline::yaml::{Map, Node};
use crate::{Cast, Value};

/// Postgres cuts identifiers at this length.
const NAME_BYTES_MAX: usize = 63;

/// Lives as long as the process, as the pipeline does.
pub(super) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// A text that lives as long as the process.
pub(super) fn leaked(text: &str) -> &'static str {
    String::leak(text.trim().to_owned())
}

/// A text that may be absent.
pub(super) fn text_of(map: &Map<'_, '_>, key: &'static str, mistakes: &mut Mistakes) -> &'static str {
    map.get(key).and_then(|node| node.text(mistakes)).map_or("", leaked)
}

/// True or false; false if the key is absent.
pub(super) fn flag_of(map: &Map<'_, '_>, key: &'static str, mistakes: &mut Mistakes) -> bool {
    map.get(key).and_then(|node| node.flag(mistakes)).unwrap_or_default()
}

/// Keys for people and other tools: accepted, but not checked.
pub(super) fn for_people(map: &Map<'_, '_>, keys: &[&'static str]) {
    for key in keys {
        map.get(key);
    }
}

/// One of the words, or a mistake.
pub(super) fn one_of<T: Copy>(node: &Node<'_, '_>, words: &[(&'static str, T)], mistakes: &mut Mistakes) -> Option<T> {
    let word = node.text(mistakes)?;
    let found = words.iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let hint = did_you_mean(word, names.iter().copied());
        mistakes.add(node.place(), format!("`{word}` is not one of {}{hint}", names.join(", ")));
    }
    found.map(|(_, value)| *value)
}

/// The text of a scalar, as a cell would hold it.
fn cell_text(node: &Node<'_, '_>) -> Option<String> {
    let number = || node.as_whole().map(|number| number.to_string()).or(node.as_number().map(|it| it.to_string()));
    let flag = || node.as_flag().map(|flag| flag.to_string());
    node.as_text().map(str::to_owned).or_else(number).or_else(flag)
}

/// A value of a column's type, or a mistake.
pub(super) fn value_of(node: &Node<'_, '_>, cast: Cast, mistakes: &mut Mistakes) -> Option<&'static Value<'static>> {
    let text = match cast {
        // A number in a text column could be spelled in several ways: the author has to quote it.
        Cast::Text | Cast::TrimmedText => node.text(mistakes)?.to_owned(),
        _ => cell_text(node).unwrap_or_default(),
    };
    let text: &'static str = leaked(&text);
    match cast.read(text) {
        Some(read) if read.correction.is_none() => Some(leak(read.value)),
        _ => {
            let found = if text.is_empty() { node.kind().to_owned() } else { format!("`{text}`") };
            mistakes.add(node.place(), format!("a value of type {} is expected here, not {found}", cast.sql_type()));
            None
        }
    }
}

/// The items of a list of texts with their positions, without repetition; other types and repeated texts are mistakes.
pub(super) fn texts_of(node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Vec<(&'static str, Place)> {
    let mut texts: Vec<(&'static str, Place)> = Vec::new();
    for item in node.list(mistakes) {
        let Some(text) = item.text(mistakes) else { continue };
        if texts.iter().any(|(other, _)| *other == text) {
            mistakes.add(item.place(), format!("`{text}` occurs twice"));
            continue;
        }
        texts.push((String::leak(text.to_owned()), item.place()));
    }
    texts
}

/// A name that is valid in Kafka, Postgres, Prometheus and a shell: lower-case letters, digits and `_`, beginning with
/// a letter.
pub(super) fn identifier(
    node: &Node<'_, '_>,
    what: &str,
    bytes_max: usize,
    mistakes: &mut Mistakes,
) -> Option<&'static str> {
    let name = node.text(mistakes)?;
    let is_plain = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let bytes_max = bytes_max.min(NAME_BYTES_MAX);
    if is_plain && name.len() <= bytes_max {
        return Some(leaked(name));
    }
    let mut said = format!(
        "`{name}` is not a valid name for {what}: use lower-case letters, digits and `_`, beginning with a letter"
    );
    let _ = write!(said, ", at most {bytes_max} characters");
    mistakes.add(node.place(), said);
    None
}
