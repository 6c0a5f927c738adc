//! A moment as an argument of a command.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

/// `2026-03-01T00:00:00Z`, or `2026-03-01`, which is its first second in UTC.
///
/// # Errors
/// If the text is neither.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let date = || Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).ok();
    time.or_else(date).ok_or_else(|| "write a time as 2026-03-01 or 2026-03-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_second() {
        for (text, seconds) in
            [("1970-01-02", 86_400), ("1970-01-02T00:00:01Z", 86_401), ("1970-01-02T01:00:00+01:00", 86_400)]
        {
            assert_eq!(parse_time(text).map(|time| time.timestamp()), Ok(seconds), "{text}");
        }
        for text in ["", "yesterday", "2026-02-30", "2026-03", "1772323200"] {
            assert!(parse_time(text).is_err_and(|said| said.contains("2026-03-01")), "{text}");
        }
    }
}
