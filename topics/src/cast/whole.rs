//! Whole numbers as people, R and spreadsheets spell them: digits with a fraction, an exponent, or in groups of three.
//!
//! No float is used, so every digit counts, and a large exponent takes no more work than the text is long.

use super::{Casted, FRACTION_CUT, GROUPING_REMOVED, trim};

/// Larger exponents are read as this one: no cell has enough digits for a difference.
const EXPONENT_MAX: i64 = 1_000_000_000_000;

/// A 32-bit integer: optional sign, digits, possibly in groups of three, optional fraction, which is truncated toward
/// zero; or without groups and with an exponent.
///
/// At least one digit must stand before or after the point; a bare `.` or sign is not a number.
pub fn int(text: &str) -> Option<Casted<i32>> {
    let Casted { value, correction } = big_int(text)?;
    Some(Casted { value: i32::try_from(value).ok()?, correction })
}

/// A 64-bit integer, spelled as a 32-bit one is.
pub fn big_int(text: &str) -> Option<Casted<i64>> {
    let text = trim(text);
    if let Some(value) = few_digits(text) {
        return Casted::plain(value);
    }
    let (negative, unsigned) = signed(text);
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent_of(exponent)?),
        None => (unsigned, 0),
    };
    let (before, after) = number.split_once('.').unwrap_or((number, ""));
    let is_grouped = before.contains(',');
    let is_whole = if is_grouped { number.len() == unsigned.len() && groups(before) } else { digits(before) };
    if !is_whole || !digits(after) || before.len() + after.len() == 0 {
        return None;
    }
    let (value, is_cut) = moved(negative, before, after, exponent)?;
    let grouping = is_grouped.then_some(GROUPING_REMOVED);
    // Losing data matters more than the spelling, so that is counted.
    Some(Casted { value, correction: if is_cut { Some(FRACTION_CUT) } else { grouping } })
}

/// The number of plain digits, as nearly every integer is spelled, if 64 bits can hold that many digits.
fn few_digits(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    text.bytes().try_fold(0, |number: i64, byte| Some(number * 10 + digit(byte)?))
}

/// Whether it is negative, and the text after the sign.
fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits in groups of three; the first group may be shorter. A text that begins with a zero has a decimal comma
/// instead.
fn groups(text: &str) -> bool {
    let mut groups = text.split(',');
    let first = groups.next().unwrap_or_default();
    (1..=3).contains(&first.len())
        && digits(first)
        && !first.starts_with('0')
        && groups.all(|group| group.len() == 3 && digits(group))
}

/// A sign and digits; larger numbers are reduced to [`EXPONENT_MAX`].
fn exponent_of(text: &str) -> Option<i64> {
    let (negative, unsigned) = signed(text);
    if unsigned.is_empty() || !digits(unsigned) {
        return None;
    }
    let size = unsigned.parse().unwrap_or(EXPONENT_MAX).min(EXPONENT_MAX);
    Some(if negative { -size } else { size })
}

/// The whole number of `before.after` with its point moved by `exponent`, and whether a digit other than zero was
/// dropped. `None` if 64 bits cannot hold it.
fn moved(negative: bool, before: &str, after: &str, exponent: i64) -> Option<(i64, bool)> {
    let all = || before.bytes().filter(|byte| *byte != b',').chain(after.bytes());
    let point = all().count() as i64 - after.len() as i64 + exponent;
    // Negative numbers, because there is one more of them.
    let mut value: i64 = 0;
    let mut at = 0;
    let mut is_cut = false;
    for byte in all() {
        if at < point {
            value = value.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))?;
        } else {
            is_cut |= byte != b'0';
        }
        at += 1;
    }
    // Zero stays zero, so the loop can end early.
    while at < point && value != 0 {
        value = value.checked_mul(10)?;
        at += 1;
    }
    Some((if negative { value } else { value.checked_neg()? }, is_cut))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    /// Valid for 32 and 64 bits.
    const GOOD: [(&str, i32, Option<&str>); 41] = [
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
        ("3e3", 3000, None),
        ("1E+05", 100_000, None),
        ("12e5", 1_200_000, None),
        ("9.0604e4", 90_604, None),
        ("9.06041e4", 90_604, Some(FRACTION_CUT)),
        ("-2.5e0", -2, Some(FRACTION_CUT)),
        (".5e1", 5, None),
        ("5.e2", 500, None),
        ("3000e-3", 3, None),
        ("3001e-3", 3, Some(FRACTION_CUT)),
        ("7e-400", 0, Some(FRACTION_CUT)),
        ("0e999999999999999999999999", 0, None),
        ("5e-999999999999999999999999", 0, Some(FRACTION_CUT)),
        ("1e0000000000000000000000003", 1000, None),
        ("2.147483647e9", i32::MAX, None),
        ("-2.147483648e+9", i32::MIN, None),
        ("0.000000000000000000000000000005e30", 5, None),
        ("1,234", 1234, Some(GROUPING_REMOVED)),
        ("-1,234,567", -1_234_567, Some(GROUPING_REMOVED)),
        ("12,345.00", 12_345, Some(GROUPING_REMOVED)),
        ("123,456.7", 123_456, Some(FRACTION_CUT)),
        (" +2,147,483,647 ", i32::MAX, Some(GROUPING_REMOVED)),
        ("100,000", 100_000, Some(GROUPING_REMOVED)),
    ];

    /// Invalid for 32 and 64 bits.
    const BAD: [&str; 44] = [
        "",
        " ",
        ".",
        "+",
        "-",
        "+.",
        "1_000",
        "0x10",
        "5%",
        "NaN",
        "２",
        "--5",
        "+-5",
        "1.2.3",
        "5 5",
        "\u{a0}5",
        "5\u{a0}",
        "1.x",
        "5L",
        "99999999999999999999999999",
        "e",
        "e5",
        "1e",
        "1e+",
        "1e+-5",
        "1e5.0",
        "1e1e1",
        ".e5",
        "1 e5",
        "1e99999999999999999999",
        "1e19",
        "1,",
        ",123",
        "1,23",
        "1,2345",
        "1234,567",
        "1,234,56",
        "0,123",
        "1,234e3",
        "1,,234",
        "1.234,5",
        "1,234.567,8",
        "1\u{202f}234",
        "1'234",
    ];

    #[test]
    fn whole_numbers_are_read_in_every_spelling_that_is_sure() {
        for (text, value, correction) in GOOD {
            assert_eq!(int(text), Some(Casted { value, correction }), "{text:?}");
            assert_eq!(big_int(text), Some(Casted { value: value.into(), correction }), "{text:?}");
        }
        for text in BAD {
            assert_eq!((int(text), big_int(text)), (None, None), "{text:?}");
        }
    }

    #[test]
    fn a_number_that_its_bits_do_not_hold_does_not_cast() {
        for text in ["2147483648", "-2147483649", "3e9", "2147483647.9e1", "2,147,483,648"] {
            assert_eq!(int(text), None, "{text:?}");
        }
        let good = [
            ("2147483648", 2_147_483_648),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9.223372036854775808e18", i64::MIN),
            (" 7.0 ", 7),
        ];
        for (text, value) in good {
            assert_eq!(big_int(text), Some(Casted { value, correction: None }), "{text:?}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "9.223372036854775808e18"] {
            assert_eq!(big_int(text), None, "{text:?}");
        }
    }

    static SPELLING: LazyLock<Regex> = LazyLock::new(|| {
        let spelling = r"(?x)^ (?<sign>[+-]?) (?: (?<groups>[1-9][0-9]{0,2}(?:,[0-9]{3})+) | (?<plain>[0-9]*) )
            (?: \.(?<after>[0-9]*) )? (?: [eE](?<exponent>[+-]?[0-9]+) )? $";
        Regex::new(spelling).expect("an expression")
    });

    /// A second implementation, with a regular expression and the number written out digit by digit: its value, whether
    /// digits were dropped, whether it was in groups. An exponent has at most four digits here.
    fn written_out(text: &str) -> Option<(i128, bool, bool)> {
        let found = SPELLING.captures(text.trim_matches(|it| ('\u{1}'..=' ').contains(&it)))?;
        let part = |name: &str| found.name(name).map_or("", |part| part.as_str());
        let is_grouped = !part("groups").is_empty();
        let mut before: Vec<char> = part("groups").replace(',', "").chars().chain(part("plain").chars()).collect();
        let mut after: VecDeque<char> = part("after").chars().collect();
        if before.is_empty() && after.is_empty() || is_grouped && !part("exponent").is_empty() {
            return None;
        }
        let exponent: i32 = part("exponent").parse().unwrap_or(0);
        for _ in 0..exponent.max(0) {
            before.push(after.pop_front().unwrap_or('0'));
        }
        for _ in exponent.min(0)..0 {
            after.push_front(before.pop().unwrap_or('0'));
        }
        let whole: String = before.into_iter().skip_while(|digit| *digit == '0').collect();
        let value: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let value = if part("sign") == "-" { -value } else { value };
        Some((value, after.iter().any(|digit| *digit != '0'), is_grouped))
    }

    fn agrees(text: &str) {
        let expected = written_out(text).map(|(value, is_cut, is_grouped)| {
            let grouping = is_grouped.then_some(GROUPING_REMOVED);
            (value, if is_cut { Some(FRACTION_CUT) } else { grouping })
        });
        let small = expected.filter(|(value, _)| i32::try_from(*value).is_ok());
        let large = expected.filter(|(value, _)| i64::try_from(*value).is_ok());
        assert_eq!(int(text).map(|it| (it.value.into(), it.correction)), small, "{text:?}");
        assert_eq!(big_int(text).map(|it| (it.value.into(), it.correction)), large, "{text:?}");
    }

    proptest! {
        #[test]
        fn numbers_are_what_they_are_written_out(
            text in "[ \t]?[+-]?([0-9]{0,12}|[0-9]{1,3}(,[0-9]{3}){1,3})(\\.[0-9]{0,12})?([eE][+-]?[0-9]{1,3})?[ ]?"
        ) {
            agrees(&text);
        }

        #[test]
        fn texts_of_the_characters_of_numbers_are_read_alike(text in "[-+0-9.,eE ]{0,9}") {
            if text.rsplit(['e', 'E']).next().is_none_or(|end| end.len() <= 5) {
                agrees(&text);
            }
        }

        #[test]
        fn any_text_at_all_is_read_alike(text in "\\PC{0,12}") {
            agrees(&text);
        }
    }

    #[test]
    fn a_long_cell_takes_no_longer_than_it_is_long() {
        let zeros = "0".repeat(1 << 20);
        assert_eq!(big_int(&format!("{zeros}7")).map(|it| it.value), Some(7));
        assert_eq!(big_int(&format!("0.{zeros}7e{}", zeros.len() + 1)).map(|it| it.value), Some(7));
        assert_eq!(big_int(&format!("7{zeros}e-{}", zeros.len())).map(|it| it.value), Some(7));
        assert_eq!(big_int(&format!("1e{zeros}3")).map(|it| it.value), Some(1000));
    }
}
