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
    fn long_text_loses_its_middle_and_no_line_breaks_a_table() {
        assert_eq!(shorten("abc\ndef", 10), "abc def");
        assert_eq!(shorten("health/2025-09-21.csv", 11), "healt…1.csv");
        assert_eq!(shorten("ü".repeat(20).as_str(), 5).chars().count(), 5);
    }
}
