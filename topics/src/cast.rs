//! From the text of a cell to a value, as the batch jobs cast on Spark with `ansi.enabled=false`, with a few more
//! spellings of dates. Every function is pure and allocates nothing; `None` means that the text does not cast.
//!
//! Blanks are the characters 0x01 to 0x20. They are ignored around numbers, booleans and dates; a no-break space is not
//! one of them.

mod whole;

pub use self::whole::{big_int, int};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use rust_decimal::Decimal;

/// A value, and the name of the correction if casting changed what the text said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Casted<T> {
    /// The value.
    pub value: T,
    /// The rule that the change is counted under.
    pub correction: Option<&'static str>,
}

/// The fraction of an integer, other than zero, was dropped.
pub const FRACTION_CUT: &str = "fraction_cut";
/// An integer was written in groups of three digits, separated by commas.
pub const GROUPING_REMOVED: &str = "grouping_removed";
/// A finite decimal is too large for a double and became an infinity.
pub const OVERFLOW_TO_INFINITY: &str = "overflow_to_infinity";
/// A date in another spelling than `yyyy-MM-dd` was accepted.
pub const DATE_NORMALISED: &str = "date_normalised";
/// A date was followed by a time of day other than midnight, which is dropped.
pub const TIME_CUT: &str = "time_cut";
/// A decimal had more digits after the point than its column keeps, and was rounded.
pub const FRACTION_ROUNDED: &str = "fraction_rounded";
/// A timestamp had no zone and was read as UTC, or no time of day and was read as midnight.
pub const ZONE_ASSUMED: &str = "zone_assumed";

/// The most digits of a decimal.
pub const NUMERIC_PRECISION_MAX: u8 = 28;

impl<T> Casted<T> {
    fn plain(value: T) -> Option<Self> {
        Some(Casted { value, correction: None })
    }

    /// The same with a value of another type.
    pub(crate) fn with<V>(self, other: impl FnOnce(T) -> V) -> Casted<V> {
        Casted { value: other(self.value), correction: self.correction }
    }
}

fn is_blank_char(character: char) -> bool {
    ('\u{1}'..='\u{20}').contains(&character)
}

/// The text without blanks at either end.
pub fn trim(text: &str) -> &str {
    match text.as_bytes() {
        // True for nearly every cell. No byte of a longer character is as low as a blank.
        [first, .., last] if *first > b' ' && *last > b' ' => text,
        _ => text.trim_matches(is_blank_char),
    }
}

/// Whether the text is empty or has only blanks.
pub fn is_blank(text: &str) -> bool {
    trim(text).is_empty()
}

/// Sign, digits before and digits after the point; at least one digit.
fn decimal_parts(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !(whole.is_empty() && fraction.is_empty()) && digits(whole) && digits(fraction);
    is_number.then_some((negative, whole, fraction))
}

/// A decimal number of at most `precision` digits, `scale` of them after the point: spelled like an integer, with an
/// optional exponent. More digits after the point are rounded, half away from zero.
pub fn numeric(text: &str, precision: u8, scale: u8) -> Option<Casted<Decimal>> {
    let trimmed = trim(text);
    let (number, exponent) = match trimmed.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (trimmed, 0),
    };
    let (negative, whole, fraction) = decimal_parts(number)?;
    // value = digits × 10^−places. Rounding looks at one digit beyond the scale; the others are dropped.
    let mut places = i64::try_from(fraction.len()).ok()? - i64::from(exponent);
    let beyond = usize::try_from(places - i64::from(scale) - 1).unwrap_or(0);
    places -= i64::try_from(beyond).ok()?;
    let looked_at = (whole.len() + fraction.len()).saturating_sub(beyond);
    let (mut mantissa, mut is_rounded): (i128, bool) = (0, false);
    for (at, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if at < looked_at {
            mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        } else {
            is_rounded |= digit != b'0';
        }
    }
    match places - i64::from(scale) {
        1 => {
            is_rounded |= mantissa % 10 != 0;
            mantissa = mantissa.checked_add(5)? / 10;
        }
        fewer if mantissa != 0 => {
            let factor = 10_i128.checked_pow(u32::try_from(-fewer).ok()?)?;
            mantissa = mantissa.checked_mul(factor)?;
        }
        _ => {}
    }
    let fits = mantissa < 10_i128.pow(precision.into());
    let signed = if negative { -mantissa } else { mantissa };
    let value = Decimal::try_from_i128_with_scale(signed, scale.into()).ok().filter(|_| fits)?;
    Some(Casted { value, correction: is_rounded.then_some(FRACTION_ROUNDED) })
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
    // Rust's parser accepts exactly the decimal grammar once words and a second sign are excluded.
    if !number.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let value: f64 = number.parse().ok()?;
    let correction = value.is_infinite().then_some(OVERFLOW_TO_INFINITY);
    Some(Casted { value: sign * value, correction })
}

/// A boolean: `t true y yes 1 1.0` or `f false n no 0 0.0`, in any case.
pub fn boolean(text: &str) -> Option<Casted<bool>> {
    let text = trim(text);
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(&["t", "true", "y", "yes", "1", "1.0"]) {
        Casted::plain(true)
    } else if is_one_of(&["f", "false", "n", "no", "0", "0.0"]) {
        Casted::plain(false)
    } else {
        None
    }
}

/// A real calendar date: `yyyy-MM-dd`; or, as the correction [`DATE_NORMALISED`], the same with one-digit month or day,
/// with blanks around, or followed by `T` or a space and midnight; or, as [`TIME_CUT`], followed by another time.
pub fn date(text: &str) -> Option<Casted<NaiveDate>> {
    if let Some(value) = iso_date(text) {
        return Casted::plain(value);
    }
    let (day, time) = day_and_time(trim(text));
    if !time.is_none_or(is_time_of_day) {
        return None;
    }
    let value = calendar_date(day)?;
    let normalised = text != day || day.len() != 10;
    let is_cut = time.is_some_and(|time| clock_and_zone(time).0.bytes().any(|byte| (b'1'..=b'9').contains(&byte)));
    // Losing data matters more than the spelling, so that is counted.
    Some(Casted { value, correction: if is_cut { Some(TIME_CUT) } else { normalised.then_some(DATE_NORMALISED) } })
}

/// A moment: a date as [`date`] reads it, `T` or a space, a time of day and a zone (`Z` or an offset). Without a zone
/// it is UTC, without a time of day midnight, both as the correction [`ZONE_ASSUMED`]. Digits beyond microseconds are
/// dropped.
pub fn timestamp(text: &str) -> Option<Casted<DateTime<Utc>>> {
    let (day, time) = day_and_time(trim(text));
    let day = calendar_date(day)?;
    if !time.is_none_or(is_time_of_day) {
        return None;
    }
    let (clock, zone) = time.map_or(("00:00", ""), clock_and_zone);
    let value = (day.and_time(NaiveTime::MIN) + clock_time(clock)? - offset(zone)?).and_utc();
    Some(Casted { value, correction: zone.is_empty().then_some(ZONE_ASSUMED) })
}

/// The text before and after the first `T` or blank.
fn day_and_time(text: &str) -> (&str, Option<&str>) {
    match text.find(['T', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// `yyyy-MM-dd`, as nearly every date is spelled; `None` for other texts.
fn iso_date(text: &str) -> Option<NaiveDate> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return None };
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0, |number: u32, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
    };
    // Four digits; Postgres' calendar has no year 0.
    let year = number(&[y1, y2, y3, y4])?.cast_signed();
    NaiveDate::from_ymd_opt(year, number(&[m1, m2])?, number(&[d1, d2])?).filter(|_| year > 0)
}

/// A real day of the years 1 to 9999.
fn calendar_date(day: &str) -> Option<NaiveDate> {
    let mut parts = day.split('-');
    let (year, month, day_of_month) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |part: &str, shortest: usize, longest: usize| {
        (shortest..=longest).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if parts.next().is_some() || !digits(year, 4, 4) || !digits(month, 1, 2) || !digits(day_of_month, 1, 2) {
        return None;
    }
    // Postgres' calendar has no year 0.
    let year: i32 = year.parse().ok().filter(|year| *year > 0)?;
    NaiveDate::from_ymd_opt(year, month.parse().ok()?, day_of_month.parse().ok()?)
}

/// The time since midnight of a clock that [`is_time_of_day`] has accepted. A leap second is the first of the next
/// minute, as in Postgres.
fn clock_time(clock: &str) -> Option<TimeDelta> {
    let mut parts = clock.split(':');
    let (hours, minutes): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds = parts.next().unwrap_or("00");
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = digits.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    let seconds: i64 = whole.parse().ok()?;
    Some(TimeDelta::seconds((hours * 60 + minutes) * 60 + seconds) + TimeDelta::microseconds(micros))
}

/// The offset of a zone that [`is_time_of_day`] has accepted.
fn offset(zone: &str) -> Option<TimeDelta> {
    let mut digits = zone.bytes().filter(u8::is_ascii_digit).map(|digit| i64::from(digit - b'0'));
    let mut number = || digits.next().unwrap_or(0) * 10 + digits.next().unwrap_or(0);
    let (hours, minutes) = (number(), number());
    // The largest offset from UTC in use.
    if hours > 15 || minutes > 59 {
        return None;
    }
    let minutes = hours * 60 + minutes;
    Some(TimeDelta::minutes(if zone.starts_with('-') { -minutes } else { minutes }))
}

/// The time of day without its zone, and the zone.
fn clock_and_zone(text: &str) -> (&str, &str) {
    match text.find(['Z', '+', '-']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    }
}

/// `hh:mm`, optionally `:ss` and a fraction, optionally `Z` or an offset `±hh:mm`, `±hhmm` or `±hh`.
fn is_time_of_day(text: &str) -> bool {
    let (clock, zone) = clock_and_zone(text);
    let zone_is_valid = match zone.as_bytes() {
        [] | [b'Z'] => true,
        [b'+' | b'-', rest @ ..] => {
            let offset = || rest.iter().filter(|byte| **byte != b':');
            let digits = offset().count();
            matches!(digits, 2 | 4)
                && (rest.len() == digits || (rest.len() == 5 && rest[2] == b':'))
                && offset().all(u8::is_ascii_digit)
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
    fn booleans_cast_as_the_batch_jobs_and_pandas_spell_them() {
        for text in ["t", "T", "true", "True", "TRUE", "y", "yes", "Yes", "1", "1.0", " true\t"] {
            assert_eq!(boolean(text).map(|cast| cast.value), Some(true), "{text:?}");
        }
        for text in ["f", "F", "false", "False", "n", "no", "NO", "0", " 0 ", "0.0"] {
            assert_eq!(boolean(text).map(|cast| cast.value), Some(false), "{text:?}");
        }
        for text in ["", " ", "1.", "1.00", "0.5", "-0.0", "on", "off", "2", "-1", "truee", "\u{a0}t"] {
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
            ("2025-9-21 00:00", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21T00:00:00.000+05:30", "2025-09-21", Some(DATE_NORMALISED)),
            ("2025-09-21T00:00:00.001Z", "2025-09-21", Some(TIME_CUT)),
            ("2025-9-5 00:01", "2025-09-05", Some(TIME_CUT)),
            ("2025-09-21 10:00:00", "2025-09-21", Some(TIME_CUT)),
            ("2025-09-21 10:00", "2025-09-21", Some(TIME_CUT)),
            ("2025-09-21T10:00:00.123+05:30", "2025-09-21", Some(TIME_CUT)),
            ("2025-09-21T10:00:00-0530", "2025-09-21", Some(TIME_CUT)),
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

    #[test]
    fn decimals_keep_their_digits_and_are_rounded_to_their_scale() {
        let good = [
            ("12.5", "12.50", None),
            ("+0012.50", "12.50", None),
            ("-.5", "-0.50", None),
            ("5.", "5.00", None),
            ("1e3", "1000.00", None),
            ("125E-2", "1.25", None),
            ("1.005", "1.01", Some(FRACTION_ROUNDED)),
            ("-1.005", "-1.01", Some(FRACTION_ROUNDED)),
            ("1.004999999999999999999999999999999999", "1.00", Some(FRACTION_ROUNDED)),
            ("-0.001", "0.00", Some(FRACTION_ROUNDED)),
            ("1e-40", "0.00", Some(FRACTION_ROUNDED)),
            ("9999.99", "9999.99", None),
            ("0e99", "0.00", None),
        ];
        for (text, value, correction) in good {
            let casted = numeric(text, 6, 2).unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!((casted.value.to_string().as_str(), casted.correction), (value, correction), "{text:?}");
        }
        for text in ["", ".", "10000", "9999.995", "1e99", "1e", "e5", "1,5", "NaN", "1e99999999999", "--1", "1_0"] {
            assert_eq!(numeric(text, 6, 2), None, "{text:?}");
        }
        let widest = "1234567890123456789012345678";
        assert_eq!(numeric(widest, 28, 0).expect("28 digits").value.to_string(), widest);
        for text in ["79228162514264337593543950335", "99999999999999999999999999999999999999999"] {
            assert_eq!(numeric(text, 28, 0), None, "{text}");
        }
        // As many digits as an i128 holds, and one more to round by: 2^127 − 1 and its neighbours.
        for text in ["17014118346046923173168730371588410572.7", "17014118346046923173168730371588410572.2"] {
            assert_eq!(numeric(text, 28, 0), None, "{text}");
            assert_eq!(numeric(&format!("{}.{}", &text[..36], text[36..].replace('.', "")), 28, 2), None, "{text}");
        }
    }

    #[test]
    fn moments_have_a_zone_or_are_taken_for_utc() {
        let good = [
            ("2025-09-21T10:00:00Z", "2025-09-21T10:00:00Z", None),
            ("2025-9-21 10:00:00.1234567+05:30", "2025-09-21T04:30:00.123456Z", None),
            ("2025-09-21T10:00:00-0530", "2025-09-21T15:30:00Z", None),
            (" 2025-09-21T00:30+01 ", "2025-09-20T23:30:00Z", None),
            ("2025-12-31T23:59:60Z", "2026-01-01T00:00:00Z", None),
            ("2025-09-21T10:00", "2025-09-21T10:00:00Z", Some(ZONE_ASSUMED)),
            ("2025-09-21", "2025-09-21T00:00:00Z", Some(ZONE_ASSUMED)),
        ];
        for (text, value, correction) in good {
            let value: DateTime<Utc> = value.parse().expect("a moment");
            assert_eq!(timestamp(text), Some(Casted { value, correction }), "{text:?}");
        }
        for text in ["", "10:00", "2025-09-21T", "2025-09-21T25:00Z", "2025-02-29T10:00Z", "2025-09-21T10:00+99:00"] {
            assert_eq!(timestamp(text), None, "{text:?}");
        }
    }
}
