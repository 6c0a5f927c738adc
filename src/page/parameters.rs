//! The query parameters of a URL.

use std::collections::BTreeMap;

use axum::http::Uri;
use percent_encoding::percent_decode_str;

/// Characters of a parameter; no key and no cell that is searched for is longer.
const CHARS_MAX: usize = 1_024;

/// Parameters by name; the last of a name holds.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn of(uri: &Uri) -> Parameters {
        let decode = |text: &str| -> String {
            let text = percent_decode_str(text).decode_utf8_lossy();
            // Postgres' text has no NUL.
            text.chars().filter(|it| *it != '\0').take(CHARS_MAX).collect()
        };
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        Parameters(pairs.map(|(name, value)| (decode(name), decode(value))).collect())
    }

    /// One that is given and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// One that is a number.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_bounded() {
        let of = |uri: String| Parameters::of(&uri.parse().expect("an address"));
        let found = of("/page/files?domain=a&search=x%20%26%25%C3%A9%00&before=12&empty=&domain=b".to_owned());
        assert_eq!((found.text("domain"), found.text("search")), (Some("b"), Some("x &%é")));
        assert_eq!((found.number("before"), found.number("search"), found.text("empty")), (Some(12), None, None));
        assert_eq!(found.text("none"), None);
        assert_eq!(of(format!("/?long={}", "y".repeat(9_999))).text("long").map(str::len), Some(CHARS_MAX));
        assert!(of("/".to_owned()).text("domain").is_none());
    }
}
