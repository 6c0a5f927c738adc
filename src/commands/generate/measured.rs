//! The values of a column that does not depend on other columns: from its sample, else from its rules, else from its
//! type.

use anyhow::{Result, ensure};
use chrono::{Datelike, Timelike};
use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cast, Cell, Column, Limit, Sample, Value};

use super::random::{Dice, name};
use super::shape::{Form, Measure, Source};

/// 2000-01-01, as a number of days: where dates of dimensions begin.
pub(super) const DAY_2000: f64 = 730_120.0;
/// Twenty-five years, in which they lie.
const DIMENSION_DAYS: f64 = 9_131.0;
const SECONDS_A_DAY: f64 = 86_400.0;
/// How long before its day a row of it may say that something was.
const DAYS_BEFORE: f64 = 14.0;
/// Whole numbers lie in so wide a range where nothing says more.
const WIDTH_WHOLE: f64 = 1_000.0;
/// So do numbers with a fraction.
const WIDTH: f64 = 100.0;
/// Beyond that, not every whole number is a double.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// Made-up texts that are tried on the rules of a column.
const TEXTS_TRIED: u64 = 32;

/// Where the values of a column come from, and how they are written.
///
/// # Errors
/// If no value can be found that keeps to the column's rules.
pub(super) fn measured(column: &'static Column, is_fact: bool) -> Result<(Source, Form)> {
    let choice = |cells: Vec<String>| (Source::Pick(cells.len()), Form::Choice(cells));
    if column.sample.is_some_and(|sample| !sample.of.is_empty()) || listed(column).is_some() {
        let cells = clean_cells(column);
        ensure!(!cells.is_empty(), "none of the cells listed in its `sample` or its rules satisfies its rules");
        return Ok(choice(cells));
    }
    match column.cast {
        Cast::Bool => Ok(choice(["False", "True"].map(str::to_owned).to_vec())),
        Cast::Text | Cast::TrimmedText => texts(column).map(|texts| match texts.is_empty() {
            true => (Source::Pick(NAMES), Form::Name),
            false => choice(texts),
        }),
        Cast::Int | Cast::BigInt | Cast::Double | Cast::Numeric { .. } => number(column, is_fact),
        Cast::Date if is_fact => Ok((near(column, 1.0, -DAYS_BEFORE), Form::Date)),
        Cast::Timestamp if is_fact => Ok((near(column, SECONDS_A_DAY, SECONDS_A_DAY - 1.0), Form::Timestamp)),
        Cast::Date => Ok((since_2000(column, 1.0), Form::Date)),
        Cast::Timestamp => Ok((since_2000(column, SECONDS_A_DAY), Form::Timestamp)),
    }
}

/// So many different names there may be.
const NAMES: usize = 1 << 32;

/// Whether a cell loads unchanged, without corrections.
pub(super) fn is_clean(column: &'static Column, text: &str) -> bool {
    let mut notes = Notes::default();
    judge::cell(column, &Cell::Text(text.into()), &mut notes).is_ok() && notes == Notes::default()
}

/// The cells that the sample or a rule lists, but those that break a rule.
pub(super) fn clean_cells(column: &'static Column) -> Vec<String> {
    let said = column.sample.map(|sample| sample.of).filter(|of| !of.is_empty());
    let mut cells = match (said, listed(column)) {
        (Some(of), _) => of.iter().map(|text| (*text).to_owned()).collect(),
        (None, Some(values)) => values.iter().map(|value| spelled(column, value.to_string())).collect(),
        (None, None) => Vec::new(),
    };
    cells.retain(|text| is_clean(column, text));
    cells
}

/// A value as a cell of the column: with the decimal sign of its files.
pub(super) fn spelled(column: &Column, value: String) -> String {
    if column.decimal_comma { value.replace('.', ",") } else { value }
}

/// The values that a rule allows.
fn listed(column: &Column) -> Option<&'static [Value<'static>]> {
    column.rules.iter().flat_map(|rule| rule.limits).find_map(|limit| match limit {
        Limit::OneOf(values) => Some(*values),
        _ => None,
    })
}

/// Made-up texts that keep to the rules of a column; none where any text does.
fn texts(column: &'static Column) -> Result<Vec<String>> {
    if column.rules.is_empty() && column.missing_values.is_empty() {
        return Ok(Vec::new());
    }
    let (mut shortest, mut longest) = (0, usize::MAX);
    for limit in column.rules.iter().flat_map(|rule| rule.limits) {
        match limit {
            Limit::MinLength(characters) => shortest = shortest.max(*characters),
            Limit::MaxLength(characters) => longest = longest.min(*characters),
            _ => {}
        }
    }
    let fitted = |text: &str| text.chars().cycle().take(text.len().max(shortest).min(longest)).collect::<String>();
    let mut texts: Vec<String> = Vec::new();
    for number in 0..TEXTS_TRIED {
        let name = name(&mut Dice::of(&[number]));
        let code = format!("{}{number:03}", &name[..1]);
        for text in [&name, &name.to_lowercase(), &name.to_uppercase(), &code, &format!("{number:03}")] {
            let text = fitted(text);
            if is_clean(column, &text) && !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    ensure!(
        !texts.is_empty(),
        "no generated text satisfies its rules: list some values in its contract, as `sample: {{of: […]}}`"
    );
    Ok(texts)
}

fn number(column: &'static Column, is_fact: bool) -> Result<(Source, Form)> {
    let sample = column.sample.unwrap_or(Sample::PLAIN);
    let is_whole = matches!(column.cast, Cast::Int | Cast::BigInt);
    let limits = limits(column);
    let width = if is_whole { WIDTH_WHOLE } else { WIDTH };
    // Without limits of its own, a type's are too far for values that look like any.
    let of_type = type_limits(column.cast);
    let lowest = Some(limits.0).filter(|lowest| *lowest != of_type.0);
    let highest = Some(limits.1).filter(|highest| *highest != of_type.1);
    let greatest = sample.greatest.or(highest);
    let least = sample.least.or(lowest).unwrap_or_else(|| greatest.map_or(0.0, |it| (it - width).max(0.0).min(it)));
    ensure!(limits.0 <= limits.1, "no number satisfies all of its rules");
    let decimals = sample.decimals.unwrap_or(decimals(column.cast));
    let measure = Measure {
        least,
        greatest: greatest.unwrap_or(least + width),
        decimals: if is_whole { 0 } else { decimals },
        season: sample.season.filter(|_| is_fact),
        persistence_days: sample.persistence_days.into(),
        refill_days: sample.refill_days.filter(|_| is_fact).map(u64::from),
        skew: sample.skew,
        scale: None,
        limits,
        missing: column.missing_values.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    Ok((Source::Measure(measure), Form::Number { decimals }))
}

/// Digits after the point where nothing says how many.
fn decimals(cast: Cast) -> u8 {
    match cast {
        Cast::Double => 1,
        Cast::Numeric { scale, .. } => scale.min(freshet_topics::sample::DECIMALS_MAX),
        _ => 0,
    }
}

fn near(column: &'static Column, a_day: f64, away: f64) -> Source {
    Source::Near { a_day, away, limits: limits(column) }
}

/// Some time since the year 2000, one an entity.
fn since_2000(column: &'static Column, a_day: f64) -> Source {
    let limits = limits(column);
    let least = (DAY_2000 * a_day).clamp(limits.0, limits.1);
    let greatest = ((DAY_2000 + DIMENSION_DAYS) * a_day).clamp(limits.0, limits.1);
    Source::Measure(Measure {
        least,
        greatest,
        decimals: 0,
        season: None,
        persistence_days: 1,
        refill_days: None,
        skew: 1,
        scale: None,
        limits,
        missing: Vec::new(),
    })
}

/// The least and the greatest number that the type and the rules of a column allow; where none is, the first is above
/// the second.
pub(super) fn limits(column: &Column) -> (f64, f64) {
    let (mut least, mut greatest) = type_limits(column.cast);
    // The next number beyond a limit that is not allowed itself.
    let mut step = 1.0;
    for _ in 0..column.sample.and_then(|sample| sample.decimals).unwrap_or(decimals(column.cast)) {
        step /= 10.0;
    }
    for limit in column.rules.iter().flat_map(|rule| rule.limits) {
        match limit {
            Limit::Minimum(value) => least = number_of(value).map_or(least, |it| least.max(it)),
            Limit::Maximum(value) => greatest = number_of(value).map_or(greatest, |it| greatest.min(it)),
            Limit::Above(value) => least = number_of(value).map_or(least, |it| least.max(it + step)),
            Limit::Below(value) => greatest = number_of(value).map_or(greatest, |it| greatest.min(it - step)),
            _ => {}
        }
    }
    (least, greatest)
}

fn type_limits(cast: Cast) -> (f64, f64) {
    match cast {
        Cast::Int => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Cast::Numeric { precision, scale } => {
            let greatest = (0..precision - scale).fold(1.0, |power, _| power * 10.0) - 1.0;
            (-greatest, greatest)
        }
        // The years 1 to 9999.
        Cast::Date => (1.0, 3_652_059.0),
        Cast::Timestamp => (SECONDS_A_DAY, 3_652_059.0 * SECONDS_A_DAY),
        _ => (-WHOLE_MAX, WHOLE_MAX),
    }
}

/// A value as a number: of a date its day, of a moment its second.
fn number_of(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(value) => Some(f64::from(*value)),
        Value::BigInt(value) => Some(*value as f64),
        Value::Double(value) => Some(*value).filter(|value| value.is_finite()),
        Value::Numeric(value) => value.to_string().parse().ok(),
        Value::Date(value) => Some(f64::from(value.num_days_from_ce())),
        Value::Timestamp(value) => {
            let days = f64::from(value.date_naive().num_days_from_ce());
            Some(days * SECONDS_A_DAY + f64::from(value.time().num_seconds_from_midnight()))
        }
        Value::Bool(_) | Value::Text(_) | Value::Null => None,
    }
}
