//! Output to a terminal: colours, tables that fit, and readable numbers.

use std::io::IsTerminal;

use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Padding, Style};

pub use crate::text::{shorten, span, wrap};

/// What the output may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whether ANSI colours are wanted.
    pub color: bool,
    /// Columns of text that fit.
    pub width: usize,
}

/// Where nothing says how wide the terminal is, and never less than this can be laid out.
const WIDTH: std::ops::RangeInclusive<usize> = 60..=400;
/// Where the output goes to a file or another program.
const WIDTH_ELSEWHERE: usize = 100;

impl Look {
    /// For standard output as it is: no colour if it is not a terminal or `NO_COLOR` is set (to anything but the
    /// empty string, see no-color.org); `COLUMNS` wide, or as the terminal is, or 100.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || Some(usize::from(console::Term::stdout().size_checked()?.1));
        Look {
            color: std::io::stdout().is_terminal() && !refused,
            width: columns.or_else(terminal).unwrap_or(WIDTH_ELSEWHERE).clamp(*WIDTH.start(), *WIDTH.end()),
        }
    }

    pub const PLAIN: Look = Look { color: false, width: WIDTH_ELSEWHERE };

    fn paint(self, code: &str, text: &str) -> String {
        match self.color {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What is done.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What needs attention.
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Work in progress.
    pub fn busy(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What is beside the point.
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// A table; the first record is its heading, of one line or several. The first `text_columns` are text, the others numbers,
/// to the right. Colours go in after the layout, which would count them as characters.
pub fn table(look: Look, records: &[Vec<String>], text_columns: usize) -> String {
    let mut builder = Builder::default();
    let heading = heading_lines(records);
    let headings = (0..records.first().map_or(0, Vec::len)).map(|column| {
        let lines: Vec<&str> = heading.iter().map(|line| line[column].as_str()).collect();
        lines.join("\n")
    });
    builder.push_record(headings);
    for record in records.iter().skip(1) {
        builder.push_record(record.iter().map(String::as_str));
    }
    let mut table = builder.build();
    table.with(Style::rounded()).with(Padding::new(1, 1, 0, 0)).with(AlignmentStrategy::PerLine);
    table.modify(Columns::new(text_columns..), Alignment::right());
    let text = table.to_string();
    let bold = |(number, line): (usize, &str)| match number {
        number if (1..=heading.len()).contains(&number) => look.bold(line),
        _ => line.to_owned(),
    };
    text.lines().enumerate().map(bold).collect::<Vec<_>>().join("\n")
}

/// The lines of the first record, whose last ones stand beside each other: `files↵applied` is two.
fn heading_lines(records: &[Vec<String>]) -> Vec<Vec<String>> {
    let Some(heading) = records.first() else { return Vec::new() };
    let parts: Vec<Vec<&str>> = heading.iter().map(|cell| cell.split('\n').collect()).collect();
    let height = parts.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |parts: &Vec<&str>, line: usize| {
        (line + parts.len()).checked_sub(height).map_or(String::new(), |at| parts[at].to_owned())
    };
    (0..height).map(|line| parts.iter().map(|parts| cell(parts, line)).collect()).collect()
}

/// Columns without lines, two blanks apart; the first record is its heading, of one line or several. Those at
/// `text_columns` are text, the others numbers, to the right. Each line of what it gives is one of the heading, or a record.
pub fn columns(look: Look, records: &[Vec<String>], text_columns: &[usize]) -> Vec<String> {
    let count = records.first().map_or(0, Vec::len);
    let length = |text: &String| text.chars().count();
    let heading = heading_lines(records);
    let records: Vec<&Vec<String>> = heading.iter().chain(records.iter().skip(1)).collect();
    let widths: Vec<usize> =
        (0..count).map(|at| records.iter().filter_map(|it| it.get(at)).map(length).max().unwrap_or(0)).collect();
    let line = |record: &&Vec<String>| {
        let cells =
            record.iter().zip(&widths).enumerate().map(|(at, (text, width))| match text_columns.contains(&at) {
                true => format!("{text:<width$}"),
                false => format!("{text:>width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let bold = |(number, line): (usize, String)| if number < heading.len() { look.bold(&line) } else { line };
    records.iter().map(line).enumerate().map(bold).collect()
}

/// The first of the tables that fits the width, else the last.
pub fn first_that_fits(look: Look, tables: &[&dyn Fn() -> String]) -> String {
    let mut text = String::new();
    for table in tables {
        text = table();
        let plain = |line: &str| console::strip_ansi_codes(line).chars().count();
        if text.lines().map(plain).max().unwrap_or(0) <= look.width {
            break;
        }
    }
    text
}

/// The text over as many lines as it takes, those behind the first two blanks in, each painted.
pub fn wrapped(look: Look, text: &str, paint: impl Fn(&str) -> String) -> String {
    let lines = wrap(text, look.width.saturating_sub(2));
    let indent = |(number, line): (usize, &String)| match number {
        0 => paint(line),
        _ => format!("  {}", paint(line)),
    };
    lines.iter().enumerate().map(indent).collect::<Vec<_>>().join("\n")
}

/// `1234567` as `1.2M`, where there is no room for more: at most five characters up to a thousand billion.
pub fn about(number: i64) -> String {
    let size = number.unsigned_abs();
    let (unit, letter) = match size {
        0..100_000 => return thousands(number),
        100_000..1_000_000 => (1_000.0, "k"),
        1_000_000..1_000_000_000 => (1_000_000.0, "M"),
        _ => (1_000_000_000.0, "G"),
    };
    let amount = number as f64 / unit;
    if amount.abs() < 100.0 { format!("{amount:.1}{letter}") } else { format!("{amount:.0}{letter}") }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// `1 row`, `1,234 rows`: a number of things whose plural ends in s.
pub fn counted(number: i64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{} {thing}s", thousands(number)) }
}

/// A connection URL that may be shown: without its password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..host_end].rfind('@') else { return url.to_owned() };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}{}", &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn one_thing_is_not_several() {
        for (number, text) in [(0, "0 rows"), (1, "1 row"), (1_000, "1,000 rows")] {
            assert_eq!(counted(number, "row"), text);
        }
    }

    #[test]
    fn numbers_are_about_so_much_where_there_is_no_room() {
        let cases = [(0, "0"), (99_999, "99,999"), (987_654, "988k"), (1_234_567, "1.2M"), (123_456_789, "123M")];
        for (number, text) in cases.into_iter().chain([(-5_000_000_000, "-5.0G")]) {
            assert_eq!(about(number), text);
        }
    }

    #[test]
    fn columns_stand_under_their_headings_and_the_first_table_that_fits_is_taken() {
        let records = [["name", "rows"], ["ä", "1,234"]].map(|record| record.map(str::to_owned).to_vec());
        assert_eq!(columns(Look::PLAIN, &records, &[0]), ["name   rows", "ä     1,234"]);
        let tall = [["name", "rows\napplied"], ["ä", "1"]].map(|record| record.map(str::to_owned).to_vec());
        assert_eq!(columns(Look::PLAIN, &tall, &[0]), ["         rows", "name  applied", "ä           1"]);
        let drawn = table(Look { color: true, ..Look::PLAIN }, &tall, 1);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(
            lines[1..4],
            ["\u{1b}[1m│      │    rows │\u{1b}[0m", "\u{1b}[1m│ name │ applied │\u{1b}[0m", "├──────┼─────────┤"]
        );
        let narrow = Look { width: 60, color: true };
        let (long, fits) = (|| "x".repeat(61), || format!("{}\n", narrow.bold(&"x".repeat(60))));
        assert_eq!(first_that_fits(narrow, &[&long, &fits, &String::new]), fits());
        assert_eq!(first_that_fits(narrow, &[&long]), long());
        assert_eq!(
            wrapped(narrow, &"word ".repeat(13), |line| line.to_owned()),
            format!("{}\n  word word", "word ".repeat(11).trim())
        );
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = without_password("postgres://freshet:se/cret@127.0.0.1:5432/freshet");
        // A slash in a password must be written %2F in a URL; if it is not, at least nothing panics.
        assert!(shown.starts_with("postgres://"));
        assert_eq!(without_password("postgres://me:s%40x@[::1]:1/db?a=b"), "postgres://me@[::1]:1/db?a=b");
        assert_eq!(without_password("postgres://me@host/db"), "postgres://me@host/db");
        assert_eq!(without_password("postgres:///db"), "postgres:///db");
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let records = vec![vec!["a".to_owned(), "b".to_owned()], vec!["x".to_owned(), "1".to_owned()]];
        assert!(!table(Look::PLAIN, &records, 1).contains('\u{1b}'));
        let colored = table(Look { color: true, ..Look::PLAIN }, &records, 1);
        assert!(colored.contains("\u{1b}[1m"));
    }
}
