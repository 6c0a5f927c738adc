//! Text for people: spans of time, and what is too long for a line.

use std::time::Duration;

/// A span of time in its two largest units: `3d 4h`, `5m 12s`, `1.2s`, `340ms`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The text on one line and at most `width` characters long; what is cut out of its middle is marked.
pub fn shorten(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let length = clean.chars().count();
    if length <= width {
        return clean;
    }
    let keep = width.saturating_sub(1);
    let (front, back) = (keep.div_ceil(2), keep / 2);
    let start: String = clean.chars().take(front).collect();
    let end: String = clean.chars().skip(length - back).collect();
    format!("{start}…{end}")
}

/// The text on lines of at most `width` characters, parted at blanks; a longer word is parted anywhere. Blanks of all kinds
/// are one blank.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let clean: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let mut lines: Vec<String> = Vec::new();
    for word in clean.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + length <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => {
                let characters: Vec<char> = word.chars().collect();
                lines.extend(characters.chunks(width).map(|part| part.iter().collect::<String>()));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        for (milliseconds, text) in
            [(340, "340ms"), (1_240, "1.2s"), (312_000, "5m 12s"), (7_260_000, "2h 1m"), (273_600_000, "3d 4h")]
        {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn text_is_parted_at_blanks_and_no_line_is_longer_than_it_may_be() {
        let cases: [(&str, usize, &[&str]); 6] = [
            ("", 5, &[]),
            ("one two", 7, &["one two"]),
            ("one two", 6, &["one", "two"]),
            ("one\n two\tthree", 80, &["one two three"]),
            ("a abcdefgh b", 4, &["a", "abcd", "efgh", "b"]),
            ("ä ö", 0, &["ä", "ö"]),
        ];
        for (text, width, expected) in cases {
            assert_eq!(wrap(text, width), expected, "{text:?} at {width}");
        }
    }

    #[test]
    fn long_text_loses_its_middle_and_no_line_breaks_a_table() {
        assert_eq!(shorten("abc\ndef", 10), "abc def");
        assert_eq!(shorten("health/2025-09-21.csv", 11), "healt…1.csv");
        assert_eq!(shorten("ü".repeat(20).as_str(), 5).chars().count(), 5);
    }
}
