//! Classifies objects by name: a file of a domain, an object beside the files that is not data, or an object of no
//! domain.
//!
//! Tools leave objects beside their files: markers (`_SUCCESS`), checksums, manifests, uploads that are not finished.
//! Such objects are neither data nor mistakes; they are only counted.

use std::borrow::Cow;

use freshet_sinks::ledger::on_one_line;
use freshet_topics::Domain;

use crate::IngestSettings;

/// Default patterns of names that are not data; `*` matches any characters within a part of the path.
pub(crate) const NOT_DATA: [&str; 21] = [
    "_*",
    ".*",
    "~$*",
    "*~",
    "*.crc",
    "*.md5",
    "*.sha256",
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*.download",
    "*.swp",
    "*.metadata",
    "*.manifest",
    "*manifest.json",
    "manifest",
    "manifest.csv",
    "thumbs.db",
];

/// The name of the pattern for keys that end in `/`, which some tools create to show a folder.
pub(crate) const FOLDER: &str = "/";

/// How a key relates to a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// A file of it.
    File,
    /// Under its prefix, but not data: the matching pattern.
    NotData(&'a str),
    /// Not one of its objects.
    Foreign,
}

impl IngestSettings {
    /// Classifies a key for a domain. Parts of the path that are in the domain's own pattern are not checked.
    pub fn name_of(&self, domain: &Domain, key: &str) -> Name<'_> {
        let patterns = || self.all_patterns_of(domain);
        if patterns().any(|pattern| pattern == key && !pattern.ends_with('/')) {
            return Name::File;
        }
        let prefix = patterns().filter(|it| it.ends_with('/') && key.starts_with(it)).max_by_key(|it| it.len());
        match prefix {
            None => Name::Foreign,
            Some(prefix) => self.not_data(&key[prefix.len()..]).map_or(Name::File, Name::NotData),
        }
    }

    /// Classifies a key for all domains together; the name of a key of no domain may still say that it is not data.
    pub fn name_in(&self, domains: &[&Domain], key: &str) -> Name<'_> {
        let own = domains.iter().map(|domain| self.name_of(domain, key)).find(|name| *name != Name::Foreign);
        own.unwrap_or_else(|| self.not_data(key).map_or(Name::Foreign, Name::NotData))
    }

    /// The pattern that matches a part of the path after the prefix, if any does.
    pub fn not_data(&self, rest: &str) -> Option<&str> {
        if rest.is_empty() || rest.ends_with('/') {
            return Some(FOLDER);
        }
        let rest = rest.to_lowercase();
        let says = |pattern: &&String| {
            let pattern = lower(pattern);
            rest.split('/').any(|part| fits(&pattern, part))
        };
        self.not_data.iter().find(says).map(String::as_str)
    }
}

/// A pattern in lower case, as nearly all are. Each key of each listing is compared with each pattern.
fn lower(pattern: &str) -> Cow<'_, str> {
    match pattern.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        true => pattern.into(),
        false => pattern.to_lowercase().into(),
    }
}

/// Whether a text matches the pattern, both as they are; `*` matches any characters.
pub fn fits(pattern: &str, part: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = part.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

/// What to do about an object that belongs to no domain; `None` if no name is similar.
///
/// | key | names | said |
/// |---|---|---|
/// | `oders/x.csv` | `orders/` | did you mean `orders/`? |
/// | `data/orders/x.csv` | `orders/` | `orders/` is inside the path: move it to the top |
/// | `orders-x.csv` | `orders/` | put it under `orders/` |
/// | `raw/oders.csv` | `raw/orders.csv` | did you mean `raw/orders.csv`? |
/// | `notes/x.txt` | `orders/` | – |
pub fn nearest(key: &str, names: &[&str]) -> Option<String> {
    let prefixes = || names.iter().filter(|name| name.ends_with('/'));
    let lower = key.to_lowercase();
    if let Some(inside) = prefixes().find(|prefix| lower.contains(&format!("/{}", prefix.to_lowercase()))) {
        return Some(format!("`{inside}` is inside the path: move it to the top"));
    }
    let near = names.iter().filter_map(|name| Some((distance(&lower, name)?, name)));
    if let Some((_, name)) = near.min_by_key(|(distance, _)| *distance) {
        return Some(format!("did you mean `{name}`?"));
    }
    let begins =
        |prefix: &&&str| !lower.contains('/') && lower.starts_with(&prefix.trim_end_matches('/').to_lowercase());
    prefixes().find(begins).map(|prefix| format!("put it under `{prefix}`"))
}

/// How many letters differ between a name and the text in its place in the key; `None` if they are too many for a
/// typing error.
fn distance(key: &str, name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let parts = name.matches('/').count();
    let of_key: Cow<'_, str> = match name.ends_with('/') {
        true if key.matches('/').count() >= parts => key.split_inclusive('/').take(parts).collect::<String>().into(),
        true => return None,
        false => key.into(),
    };
    let slips = name.trim_end_matches('/').chars().count() / 3;
    Some(strsim::osa_distance(&of_key, &name)).filter(|distance| *distance <= slips.clamp(1, 3))
}

/// An object that belongs to no domain, for display.
pub fn with_hint(key: &str, hint: Option<&str>) -> String {
    let key = on_one_line(key);
    match hint {
        Some(hint) => format!("`{key}` ({hint})"),
        None => format!("`{key}`"),
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;

    #[test]
    fn what_tools_leave_beside_their_files_is_no_data() {
        let mut settings = IngestSettings::default();
        settings.patterns.insert("health".into(), vec!["_landing/.health/".into(), "one/_file.tmp".into()]);
        let health = DOMAINS[2];
        let cases = [
            ("health/a.csv", Name::File),
            ("health/day=1/part-0001.csv", Name::File),
            ("health/a_b.tmp.csv", Name::File),
            ("health/_SUCCESS", Name::NotData("_*")),
            ("health/_temporary/0/part-0001.csv", Name::NotData("_*")),
            ("health/.part-0001.csv.crc", Name::NotData(".*")),
            ("health/a.csv.crc", Name::NotData("*.crc")),
            ("health/A.CSV.TMP", Name::NotData("*.tmp")),
            ("health/a.csv.filepart", Name::NotData("*.filepart")),
            ("health/x-manifest.json", Name::NotData("*manifest.json")),
            ("health/", Name::NotData(FOLDER)),
            ("health/sub/", Name::NotData(FOLDER)),
            ("helth/a.csv", Name::Foreign),
            // A part that the domain's own pattern names is intended.
            ("_landing/.health/a.csv", Name::File),
            ("_landing/.health/_SUCCESS", Name::NotData("_*")),
            ("one/_file.tmp", Name::File),
        ];
        for (key, expected) in cases {
            assert_eq!(settings.name_of(health, key), expected, "{key}");
        }
        settings.not_data.clear();
        assert_eq!(settings.name_of(health, "health/_SUCCESS"), Name::File);
        assert_eq!(settings.name_of(health, "health/"), Name::NotData(FOLDER));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        let cases = [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*b*", "abc", true),
            ("*b*b", "ab", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
        ];
        for (pattern, part, expected) in cases {
            assert_eq!(fits(pattern, part), expected, "{pattern} {part}");
        }
    }

    #[test]
    fn the_nearest_prefix_is_named() {
        let names = ["climate/", "health/", "raw/health_data.csv", "in/coming/orders/"];
        let cases = [
            ("helth/x.csv", Some("did you mean `health/`?")),
            ("Health/x.csv", Some("did you mean `health/`?")),
            ("healht/deep/x.csv", Some("did you mean `health/`?")),
            ("data/health/x.csv", Some("`health/` is inside the path: move it to the top")),
            ("/health/x.csv", Some("`health/` is inside the path: move it to the top")),
            ("raw/helth_data.csv", Some("did you mean `raw/health_data.csv`?")),
            ("in/comming/orders/x.csv", Some("did you mean `in/coming/orders/`?")),
            ("health-2025.csv", Some("put it under `health/`")),
            ("notes/x.txt", None),
            ("x", None),
        ];
        for (key, expected) in cases {
            assert_eq!(nearest(key, &names).as_deref(), expected, "{key}");
        }
    }
}
