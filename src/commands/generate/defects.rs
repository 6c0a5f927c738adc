//! The defects of `freshet generate --dirty`: at least one for every cast, rule and requirement of a domain, derived
//! from its contract.
//!
//! Half of all chances are shared by kinds of defects and the other half by columns, so that a rule that one column of
//! twenty has is reached as well. What rejects a whole file (a wrong header, a NUL byte, an unclosed quote, invalid UTF-8,
//! a rule that fails the file) is not among them: one such row would cost thousands.

use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cast, Cell, Column, Comparison, Domain, Limit, Otherwise, Value};

use super::files::Row;
use super::random::Dice;

/// A defect of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Defect {
    /// A cell, by the place of its column.
    Cell(usize, Change),
    /// The row ends after this many cells.
    Short(usize),
    /// One cell more than the header has.
    Extra,
    /// An empty line before the row.
    BlankLine,
    /// The row comes twice, the second time with other values.
    Again,
    /// After the row one of a week before, whose key an earlier file may have brought.
    Late,
}

/// The change of a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// This text.
    Set(String),
    /// Its text between these.
    Around(&'static str, &'static str),
    /// `2025-9-5`; of a date that has no zero to lose, a time behind it.
    ShortDate,
    /// `1.0` or `0.0`, as pandas writes true and false beside an empty cell.
    FlagAsFloat,
    /// A moment without its zone.
    WithoutZone,
    /// On the wrong side of the cell of another column.
    Beyond(Comparison, usize),
}

/// The defects of a domain, by kind; no kind is empty.
pub(super) struct Defects {
    kinds: Vec<Vec<Defect>>,
}

impl Defects {
    /// All possible defects of a row of the domain.
    pub(super) fn of(domain: &'static Domain) -> Defects {
        let is_fact = domain.event_time.is_some();
        let mut kinds: Vec<Vec<Defect>> = vec![Vec::new(); 5];
        for (at, column) in domain.columns.iter().enumerate() {
            let is_key = domain.key.contains(&column.name);
            let mut changes = [empty(column), uncastable(column.cast), odd(column.cast, is_key), broken(column)];
            if column.decimal_comma {
                // Missing values are in the contract as files have them.
                changes[1..].iter_mut().flatten().for_each(Change::swap_signs);
            }
            for (kind, changes) in kinds.iter_mut().zip(changes) {
                kind.extend(changes.into_iter().filter(|it| may(column, it)).map(|it| Defect::Cell(at, it)));
            }
        }
        kinds[4] = vec![Defect::Short(1), Defect::Short(domain.columns.len() / 2), Defect::Extra];
        if is_fact {
            kinds[4].extend([Defect::BlankLine, Defect::Again, Defect::Late]);
        }
        for rule in domain.row_rules {
            let change = Change::Beyond(rule.comparison, domain.index_of(rule.other));
            kinds.push(vec![Defect::Cell(domain.index_of(rule.column), change)]);
        }
        kinds.retain(|kind| !kind.is_empty());
        Defects { kinds }
    }

    /// One of them.
    pub(super) fn pick(&self, dice: &mut Dice) -> &Defect {
        let kind = dice.pick(&self.kinds);
        dice.pick(kind)
    }
}

impl Defect {
    /// Makes the row defective. The last three of [`Defect`] are about more than the row and do nothing here.
    pub(super) fn apply(&self, row: &mut Row) {
        match self {
            Defect::Cell(at, change) => {
                let other = match change {
                    Change::Beyond(_, other) => row.cell(*other),
                    _ => String::new(),
                };
                row.set(*at, |text| change.of(text, &other));
            }
            Defect::Short(cells) => row.truncate(*cells.min(&row.len())),
            Defect::Extra => row.text("one too many"),
            Defect::BlankLine | Defect::Again | Defect::Late => {}
        }
    }
}

impl Change {
    /// Makes the points of numbers commas, and their commas points.
    fn swap_signs(&mut self) {
        match self {
            Change::Set(text) => {
                let swapped = |sign| match sign {
                    '.' => ',',
                    ',' => '.',
                    other => other,
                };
                *text = text.chars().map(swapped).collect();
            }
            Change::Around(_, after) if *after == ".7" => *after = ",7",
            _ => {}
        }
    }

    /// The changed text; `other` is the cell that it must exceed.
    fn of(&self, text: &str, other: &str) -> String {
        match self {
            Change::Set(text) => text.clone(),
            Change::Around(before, after) => format!("{before}{text}{after}"),
            Change::ShortDate => short_date(text),
            Change::FlagAsFloat => match freshet_topics::cast::boolean(text) {
                Some(flag) => if flag.value { "1.0" } else { "0.0" }.to_owned(),
                None => text.to_owned(),
            },
            Change::WithoutZone => text.trim_end_matches('Z').to_owned(),
            Change::Beyond(comparison, _) => beyond(*comparison, other),
        }
    }
}

fn short_date(date: &str) -> String {
    match date.replace("-0", "-") {
        short if short != date => short,
        same => format!("{same}T00:00:00Z"),
    }
}

/// A cell above another, or below it.
fn beyond(comparison: Comparison, other: &str) -> String {
    let above = comparison == Comparison::AtMost;
    // A number may have a decimal comma.
    if let Ok(number) = other.replacen(',', ".", 1).parse::<f64>() {
        // Half of a number that is not negative keeps to a limit of 0.
        let beyond = if above {
            2.0 * number.abs() + 1.0
        } else if number >= 2.0 {
            (number / 2.0).floor()
        } else {
            number - 1.0
        };
        let beyond = format!("{beyond}");
        return if other.contains(',') { beyond.replace('.', ",") } else { beyond };
    }
    if let (Some(year), Some(rest)) = (other.get(..4).and_then(|year| year.parse::<i32>().ok()), other.get(4..)) {
        return format!("{:04}{rest}", if above { year + 1 } else { year - 1 });
    }
    if above { format!("{other}z") } else { "!".to_owned() }
}

/// Whether a change costs no more than its row. What a cell around another text is, is not known before.
fn may(column: &'static Column, change: &Change) -> bool {
    let fails = column.rules.iter().any(|rule| rule.otherwise == Otherwise::Fail);
    match change {
        Change::Set(text) => {
            let mut notes = Notes::default();
            let raw = Cell::Text(text.as_str().into());
            !judge::cell(column, &raw, &mut notes).is_err_and(|refused| refused.whole_file)
        }
        _ => !fails,
    }
}

fn set<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Change> {
    texts.into_iter().map(|text| Change::Set(text.to_owned())).collect()
}

/// Cells that say nothing.
fn empty(column: &'static Column) -> Vec<Change> {
    let missing = column.missing_values;
    // As often empty as missing, however long that list is.
    let empty = ["", " \t "].into_iter().cycle().take(missing.len().max(2));
    set(empty.chain(missing.iter().copied()))
}

/// Cells that do not cast.
fn uncastable(cast: Cast) -> Vec<Change> {
    match cast {
        Cast::Int => {
            set(["x", "1,0,0", "0,123", "1_000", "0x10", "5%", "<5", "1 to 4", "NaN", "２", "2147483648", "-3e9"])
        }
        Cast::BigInt => set(["x", "1,0,0", "1_000", "0x10", "NaN", "9223372036854775808", "-1e19"]),
        Cast::Double => set(["x", "26,5", "26.5C", "--5", "80%", "\u{a0}80", "1,000.5,"]),
        Cast::Numeric { precision, scale } => {
            let too_many = "9".repeat(usize::from(precision - scale) + 1);
            set(["x", "26,5", "NaN", "Infinity", "5%", &too_many])
        }
        Cast::Bool => set(["on", "2", "0.5", "maybe", "Tru"]),
        Cast::Date => set([
            "2025-02-29",
            "2025-13-40",
            "21/09/2025",
            "2025/09/21",
            "20250921",
            "25-09-21",
            "10000-01-01",
            "2025-09-21abc",
            "+2025-09-21",
            "soon",
        ]),
        Cast::Timestamp => {
            set(["2025-02-29T00:00:00Z", "2025-09-21T25:00:00Z", "21/09/2025 10:00", "1758448800", "now"])
        }
        Cast::Text | Cast::TrimmedText => Vec::new(),
    }
}

/// Cells that cast, in a spelling that is not the plain one or with a correction. Those of a key stay what they are: the
/// row of another entity is not touched.
fn odd(cast: Cast, is_key: bool) -> Vec<Change> {
    use Change::Around;
    let mut changes = match cast {
        Cast::Int | Cast::BigInt => {
            vec![Around("00", ""), Around(" +", " "), Around("", ".7"), Around("", "e0")]
        }
        Cast::Double => vec![Around(" ", "\n"), Around("", "f"), Around("", "e0")],
        Cast::Numeric { .. } => vec![Around(" +", " ")],
        Cast::Bool => vec![Around(" ", "\t"), Change::FlagAsFloat],
        Cast::Date => vec![Change::ShortDate, Around(" ", " "), Around("", "T00:00:00Z"), Around("", " 10:00:00")],
        Cast::Timestamp => vec![Change::WithoutZone, Around(" ", " ")],
        Cast::Text if is_key => Vec::new(),
        Cast::TrimmedText if is_key => vec![Around("  ", " ")],
        Cast::Text | Cast::TrimmedText => vec![Around("  ", " "), Around("", ", \"upper\"\nand lower")],
    };
    if !is_key {
        changes.extend(match cast {
            Cast::Int => set(["12.7", "-0.5", "3e3", "1e+05", "1,234", "1,234,567", "2147483647", "-2147483648"]),
            Cast::BigInt => set(["12.7", "-0.5", "3e9", "1,234", "9223372036854775807", "-9223372036854775808"]),
            Cast::Double => set(["NaN", "1e400", "-Infinity", "inf", "7e0", "-0.0"]),
            Cast::Numeric { scale, .. } => set([format!("0.{}7", "0".repeat(scale.into())).as_str(), "0e0"]),
            Cast::Bool => set(["t", "YES", "0", "n", "0.0", "1.0"]),
            _ => Vec::new(),
        });
    }
    changes
}

/// Cells that break a rule, one a limit.
fn broken(column: &'static Column) -> Vec<Change> {
    let rules = column.rules.iter().filter(|rule| rule.otherwise != Otherwise::Fail);
    let limits = rules.flat_map(|rule| rule.limits.iter().map(move |limit| (rule, limit)));
    let breaks = limits.filter_map(|(rule, limit)| {
        candidates(limit).into_iter().find(|text| {
            let value = column.cast.read(text).map(|casted| casted.value);
            !freshet_topics::cast::is_blank(text)
                && !column.missing_values.contains(&text.as_str())
                && value.is_some_and(|value| rule.broken(&value).is_some())
        })
    });
    breaks.map(Change::Set).collect()
}

/// Texts of which one should not keep to a limit.
fn candidates(limit: &Limit) -> Vec<String> {
    let beside = |value: &Value<'_>, below: bool| match value {
        Value::Int(_) | Value::BigInt(_) | Value::Double(_) | Value::Numeric(_) => {
            let number: f64 = value.to_string().parse().unwrap_or_default();
            let by = |step: f64| format!("{}", if below { number - step } else { number + step });
            vec![by(5.0), by(0.5)]
        }
        Value::Date(_) | Value::Timestamp(_) => {
            let text = value.to_string();
            let year: i32 = text[..4].parse().unwrap_or_default();
            vec![format!("{:04}{}", if below { year - 1 } else { year + 1 }, text[4..].replace("-02-29", "-02-28"))]
        }
        Value::Text(text) => vec![if below { "!".to_owned() } else { format!("{text}z") }],
        Value::Bool(flag) => vec![(!flag).to_string()],
        Value::Null => Vec::new(),
    };
    match limit {
        Limit::Minimum(value) => beside(value, true),
        Limit::Maximum(value) => beside(value, false),
        Limit::Above(value) | Limit::Below(value) => vec![value.to_string()],
        Limit::MinLength(characters) => vec!["x".repeat(characters.saturating_sub(1))],
        Limit::MaxLength(characters) => vec!["x".repeat(characters + 1)],
        Limit::Pattern(_) => ["?!", "x", "X", "0", "0 x"].map(str::to_owned).to_vec(),
        Limit::OneOf(values) => {
            let beyond = values.iter().flat_map(|value| beside(value, false).into_iter().chain(beside(value, true)));
            beyond.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_loses_its_zeros_or_gains_a_time() {
        assert_eq!(short_date("2025-09-05"), "2025-9-5");
        assert_eq!(short_date("2025-11-21"), "2025-11-21T00:00:00Z");
    }

    #[test]
    fn a_cell_comes_to_be_on_the_wrong_side_of_another() {
        let cases = [
            ("100", "201", "50"),
            ("1", "3", "0"),
            ("0", "1", "-1"),
            ("2.5", "6", "1"),
            ("2,25", "5,5", "1"),
            ("2025-09-21", "2026-09-21", "2024-09-21"),
            ("2025-09-21T10:00:00Z", "2026-09-21T10:00:00Z", "2024-09-21T10:00:00Z"),
            ("abc", "abcz", "!"),
        ];
        for (other, above, below) in cases {
            assert_eq!(beyond(Comparison::AtMost, other), above);
            assert_eq!(beyond(Comparison::AtLeast, other), below);
        }
    }
}
