//! From the text of a cell to a value, as the batch jobs cast on Spark with `ansi.enabled=false`, and for dates
//! one step beyond. Every function is pure; `None` means that the text does not cast.
//!
//! Blanks are the characters 0x01 to 0x20. They are ignored around numbers, booleans and dates; a no-break
//! space is not one of them.

use chrono::NaiveDate;

/// A value, and the name of the correction where casting altered what the text said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Casted<T> {
    /// The value.
    pub value: T,
    /// The rule that the alteration is counted under.
    pub correction: Option<&'static str>,
}

/// A fraction other than zero was cut off an integer.
pub const FRACTION_CUT: &str = "fraction_cut";
/// A finite decimal is too large for a double and became an infinity.
pub const OVERFLOW_TO_INFINITY: &str = "overflow_to_infinity";
/// A date was understood that is not spelled `yyyy-MM-dd`.
pub const DATE_NORMALISED: &str = "date_normalised";

impl<T> Casted<T> {
    fn plain(value: T) -> Option<Self> {
        Some(Casted { value, correction: None })
    }
}

fn is_blank_char(character: char) -> bool {
    ('\u{1}'..='\u{20}').contains(&character)
}

/// The text without blanks at either end.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_blank_char)
}

/// Whether the text is empty or blanks alone.
pub fn is_blank(text: &str) -> bool {
    trim(text).is_empty()
}

/// A 32-bit integer: optional sign, digits, optional fraction, which is cut off toward zero.
///
/// At least one digit must stand before or after the point; a bare `.` or sign is not a number.
pub fn int(text: &str) -> Option<Casted<i32>> {
    let text = trim(text);
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut value: i64 = 0;
    for byte in whole.bytes() {
        value = value * 10 + i64::from(byte - b'0');
        if value > i64::from(i32::MAX) + 1 {
            return None;
        }
    }
    let value = i32::try_from(if negative { -value } else { value }).ok()?;
    let cut = fraction.bytes().any(|byte| byte != b'0');
    Some(Casted { value, correction: cut.then_some(FRACTION_CUT) })
}

/// A double: decimal with optional exponent and optional `d` or `f` suffix, `NaN`, or an infinity, in any case.
pub fn double(text: &str) -> Option<Casted<f64>> {
    let text = trim(text);
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return Casted::plain(sign * f64::INFINITY);
    }
    if text.eq_ignore_ascii_case("nan") {
        return Casted::plain(f64::NAN);
    }
    let number = unsigned.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(unsigned);
    // Rust's parser takes exactly the decimal grammar once words and a second sign are ruled out.
    if !number.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let value: f64 = number.parse().ok()?;
    let correction = value.is_infinite().then_some(OVERFLOW_TO_INFINITY);
    Some(Casted { value: sign * value, correction })
}

/// A boolean: `t true y yes 1` or `f false n no 0`, in any case.
pub fn boolean(text: &str) -> Option<Casted<bool>> {
    let text = trim(text);
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(&["t", "true", "y", "yes", "1"]) {
        Casted::plain(true)
    } else if is_one_of(&["f", "false", "n", "no", "0"]) {
        Casted::plain(false)
    } else {
        None
    }
}

/// A real calendar date: `yyyy-MM-dd`; or, as the correction [`DATE_NORMALISED`], the same with one-digit month
/// or day, with blanks around, or followed by `T` or a space and a time of day.
pub fn date(text: &str) -> Option<Casted<NaiveDate>> {
    let trimmed = trim(text);
    let (day, time) = match trimmed.find(['T', ' ']) {
        Some(at) => (&trimmed[..at], Some(&trimmed[at + 1..])),
        None => (trimmed, None),
    };
    if !time.is_none_or(is_time_of_day) {
        return None;
    }
    let mut parts = day.split('-');
    let (year, month, day_of_month) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |part: &str, shortest: usize, longest: usize| {
        (shortest..=longest).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if parts.next().is_some() || !digits(year, 4, 4) || !digits(month, 1, 2) || !digits(day_of_month, 1, 2) {
        return None;
    }
    // Year 0 is no year of Postgres' calendar.
    let year: i32 = year.parse().ok().filter(|year| *year > 0)?;
    let value = NaiveDate::from_ymd_opt(year, month.parse().ok()?, day_of_month.parse().ok()?)?;
    let normalised = text != day || day.len() != 10;
    Some(Casted { value, correction: normalised.then_some(DATE_NORMALISED) })
}

/// `hh:mm`, optionally `:ss` and a fraction, optionally `Z` or an offset `±hh:mm`, `±hhmm` or `±hh`.
fn is_time_of_day(text: &str) -> bool {
    let (clock, zone) = match text.find(['Z', '+', '-']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let zone_is_valid = match zone.as_bytes() {
        [] | [b'Z'] => true,
        [b'+' | b'-', rest @ ..] => {
            let offset: Vec<u8> = rest.iter().copied().filter(|byte| *byte != b':').collect();
            matches!(offset.len(), 2 | 4)
                && (rest.len() == offset.len() || (rest.len() == 5 && rest[2] == b':'))
                && offset.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    let mut parts = clock.split(':');
    let two_digits = |part: Option<&str>, below: u8| {
        part.is_some_and(|part| {
            part.len() == 2
                && part.bytes().all(|byte| byte.is_ascii_digit())
                && part.parse::<u8>().is_ok_and(|number| number < below)
        })
    };
    let hours_and_minutes = two_digits(parts.next(), 24) && two_digits(parts.next(), 60);
    let seconds_are_valid = parts.next().is_none_or(|seconds| {
        let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
        two_digits(Some(whole), 61) && !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit())
    });
    zone_is_valid && hours_and_minutes && seconds_are_valid && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_cast_as_the_batch_jobs_cast_them() {
        let good = [
            ("5", 5, None),
            ("+5", 5, None),
            ("-5", -5, None),
            ("005", 5, None),
            ("0", 0, None),
            ("-0", 0, None),
            ("2253.0", 2253, None),
            ("5.", 5, None),
            ("12.7", 12, Some(FRACTION_CUT)),
            ("-12.7", -12, Some(FRACTION_CUT)),
            ("-0.5", 0, Some(FRACTION_CUT)),
            (".5", 0, Some(FRACTION_CUT)),
            (".0", 0, None),
            ("2147483647", i32::MAX, None),
            ("2147483647.9", i32::MAX, Some(FRACTION_CUT)),
            ("-2147483648", i32::MIN, None),
            ("0000000000000000000000007", 7, None),
            (" \t7\r\n\u{1}", 7, None),
        ];
        for (text, value, correction) in good {
            assert_eq!(int(text), Some(Casted { value, correction }), "{text:?}");
        }
        let bad = [
            "",
            " ",
            ".",
            "+",
            "-",
            "+.",
            "1e3",
            "1,000",
            "1_000",
            "0x10",
            "5%",
            "NaN",
            "２",
            "2147483648",
            "-2147483649",
            "99999999999999999999999999",
            "--5",
            "1.2.3",
            "5 5",
            "\u{a0}5",
            "5\u{a0}",
            "1.x",
            "5L",
        ];
        for text in bad {
            assert_eq!(int(text), None, "{text:?}");
        }
    }

    #[test]
    fn doubles_cast_as_the_batch_jobs_cast_them() {
        let good = [
            ("26.5", 26.5),
            ("1e3", 1000.0),
            ("1E+3", 1000.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1.5f", 1.5),
            ("1.5D", 1.5),
            ("-2", -2.0),
            ("+2", 2.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+INF", f64::INFINITY),
            (" 7 ", 7.0),
        ];
        for (text, value) in good {
            assert_eq!(double(text), Some(Casted { value, correction: None }), "{text:?}");
        }
        assert!(double("nAn").is_some_and(|cast| cast.value.is_nan() && cast.correction.is_none()));
        for (text, value) in [("1e400", f64::INFINITY), ("-1e400", f64::NEG_INFINITY)] {
            assert_eq!(double(text), Some(Casted { value, correction: Some(OVERFLOW_TO_INFINITY) }), "{text:?}");
        }
        let bad = [
            "",
            " ",
            "26,5",
            "1,000.5",
            "26.5C",
            "--5",
            "+-5",
            "f",
            "d",
            ".",
            "e5",
            "1e",
            "1.5ff",
            "0x10",
            "infinit",
            "infinityd",
            "nand",
            "+-inf",
            "1 2",
            "\u{a0}1",
            "１",
        ];
        for text in bad {
            assert_eq!(double(text), None, "{text:?}");
        }
    }

    #[test]
    fn booleans_cast_as_the_batch_jobs_cast_them() {
        for text in ["t", "T", "true", "True", "TRUE", "y", "yes", "Yes", "1", " true\t"] {
            assert_eq!(boolean(text).map(|cast| cast.value), Some(true), "{text:?}");
        }
        for text in ["f", "F", "false", "False", "n", "no", "NO", "0", " 0 "] {
            assert_eq!(boolean(text).map(|cast| cast.value), Some(false), "{text:?}");
        }
        for text in ["", " ", "1.0", "on", "off", "2", "-1", "truee", "\u{a0}t"] {
            assert_eq!(boolean(text), None, "{text:?}");
        }
    }

    #[test]
    fn dates_are_real_days_in_one_spelling_and_a_few_more_as_corrections() {
        let day = |text: &str| text.parse::<NaiveDate>().expect("a date");
        let good = [
            ("2024-02-29", "2024-02-29", None),
            ("0001-01-01", "0001-01-01", None),
            ("9999-12-31", "9999-12-31", None),
            ("2025-9-5", "2025-09-05", Some(DATE_NORMALISED)),
            ("2025-09-5", "2025-09-05", Some(DATE_NORMALISED)),
            (" 2025-09-21\t", "2025-09-21", Some(DATE_NORMALISED)),
            (" 2025-9-21", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21T00:00:00Z", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21 10:00:00", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21 10:00", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21T10:00:00.123+05:30", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21T10:00:00-0530", "2025-09-21", Some(DATE_NORMALISED)),
        ];
        for (text, value, correction) in good {
            assert_eq!(date(text), Some(Casted { value: day(value), correction }), "{text:?}");
        }
        let bad = [
            "",
            " ",
            "2025-02-29",
            "2025-13-40",
            "21/09/2025",
            "2025/09/21",
            "20250921",
            "25-09-21",
            "10000-01-01",
            "2025-09-04abc",
            "+2025-09-21",
            "-2025-09-21",
            "0000-01-01",
            "2025-09",
            "2025-09-21-",
            "2025-009-21",
            "2025-09-21T",
            "2025-09-21 x",
            "2025-09-21T25:00:00",
            "2025-09-21T10:00:00+",
            "2025-09-21T10:00:00+1:2",
            "\u{a0}2025-09-21",
            "２025-09-21",
            "2025-00-10",
            "2025-01-00",
        ];
        for text in bad {
            assert_eq!(date(text), None, "{text:?}");
        }
    }
}
