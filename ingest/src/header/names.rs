//! Headings as text: trimming and showing them.

use freshet_topics::heading::is_invisible;

/// The most names listed in an error, and the most characters of each, so that an error stays readable whatever the
/// file has.
const NAMES_SHOWN_MAX: usize = 30;
const NAME_CHARS_MAX: usize = 40;

/// Without invisible characters around it: blanks of all kinds, zero-width characters, byte order marks.
pub(crate) fn trimmed(name: &str) -> &str {
    name.trim_matches(|character: char| character != '\0' && (character == ' ' || is_invisible(character)))
}

/// On one line, with invisible characters escaped (`\u{a0}`), and of bounded length.
pub(crate) fn shortened(name: &str) -> String {
    shown(name, NAME_CHARS_MAX)
}

/// At most `chars_max` characters on one line, with invisible ones escaped; `…` if there are more.
pub(crate) fn shown(text: &str, chars_max: usize) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(chars_max).flat_map(visible).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let escaped = is_invisible(character).then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// Names of a file, shortened, and only a few of them.
pub(crate) fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    let count = names.len();
    let mut listed: Vec<String> = names.take(NAMES_SHOWN_MAX).map(|name| format!("`{}`", shortened(name))).collect();
    if count > NAMES_SHOWN_MAX {
        listed.push(format!("and {} more", count - NAMES_SHOWN_MAX));
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_around_a_heading_is_trimmed() {
        for name in ["cases", " cases\t", "cases\u{a0}", "\u{feff}\u{feff}cases", "\u{200b}cases\u{2060} \u{3000}"] {
            assert_eq!(trimmed(name), "cases", "{}", name.escape_unicode());
        }
        assert_eq!(trimmed("new\u{a0}cases"), "new\u{a0}cases");
    }

    #[test]
    fn what_cannot_be_seen_is_shown_escaped() {
        for (name, expected) in [
            ("cases", "cases"),
            ("new cases", "new cases"),
            ("cases\u{a0}", "cases\\u{a0}"),
            ("\u{feff}id", "\\u{feff}id"),
            ("a\u{200b}b\tc", "a\\u{200b}b\\tc"),
            ("ज़िला – \"é\"", "ज़िला – \"é\""),
        ] {
            assert_eq!(shortened(name), expected);
        }
    }
}
