//! A plain batch load: files in, tables, rejects and corrections out. Written from the rules as they are
//! documented, on purpose without a line of freshet's own casts and rules, so that the two can disagree.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::framing::{self, Line};

/// NULL, in a row of text.
pub(crate) const NULL: &str = "∅";

/// What the rules ask of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    /// A negative one becomes 0.
    Count,
    /// Outside −90..60, or NaN, it rejects the row.
    Temperature,
    /// Outside 0..3000, or NaN, it becomes NULL.
    Rain,
    /// Outside 0..100, or NaN, it becomes NULL.
    Percent,
    /// Outside 0..1, or NaN, it becomes 0.0.
    Probability,
    Bool,
    /// Outside 1800-01-01..2200-12-31 it rejects the row.
    Date,
    /// Trimmed.
    Text,
    /// A negative one, or one that does not cast, rejects the row.
    Population,
    /// The same in double.
    Area,
}

impl Kind {
    fn is_double(self) -> bool {
        matches!(self, Kind::Temperature | Kind::Rain | Kind::Percent | Kind::Probability | Kind::Area)
    }
}

struct Column {
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    /// Empty or uncastable rejects the row.
    required: bool,
    /// What a file without the column gets.
    absent: &'static str,
    /// What an empty cell gets.
    empty: &'static str,
}

/// Cells that say that nothing is known.
const MISSING: [&str; 15] = [
    "NA", "N/A", "n/a", "null", "NULL", "None", "\\N", "*", "-", "-99", "-999", "-9999", "-99999", "-999999", "9999.9",
];

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, aliases: &[], kind, required: false, absent: NULL, empty: NULL }
}

const fn required(name: &'static str, kind: Kind) -> Column {
    Column { required: true, ..column(name, kind) }
}

const fn is_projected() -> Column {
    Column { absent: "false", empty: "false", ..column("is_projected", Kind::Bool) }
}

pub(crate) struct Spec {
    pub(crate) domain: &'static str,
    pub(crate) table: &'static str,
    /// Columns of the key, by place.
    key: &'static [usize],
    columns: &'static [Column],
}

pub(crate) static SPECS: [Spec; 4] = [
    Spec {
        domain: "locations",
        table: "locations",
        key: &[0],
        columns: &[
            Column { aliases: &["location_id", "locationid"], ..required("id", Kind::Int) },
            Column { aliases: &["district", "location_name"], ..required("name", Kind::Text) },
            Column {
                aliases: &["urban_rural", "location_type", "urbanrural"],
                required: true,
                absent: "Unknown",
                ..column("type", Kind::Text)
            },
            Column { absent: "0", ..column("population", Kind::Population) },
            Column { absent: "0.0", ..column("area", Kind::Area) },
        ],
    },
    Spec {
        domain: "climate",
        table: "climate_data",
        key: &[0, 1, 8, 9],
        columns: &[
            required("location_id", Kind::Int),
            required("date", Kind::Date),
            required("temperature", Kind::Temperature),
            column("rainfall", Kind::Rain),
            column("humidity", Kind::Percent),
            column("flood_probability", Kind::Probability),
            column("cyclone_probability", Kind::Probability),
            column("heatwave_probability", Kind::Probability),
            is_projected(),
            column("projection_year", Kind::Int),
        ],
    },
    Spec {
        domain: "health",
        table: "health_data",
        key: &[0, 1, 6, 7],
        columns: &[
            required("location_id", Kind::Int),
            required("date", Kind::Date),
            column("dengue_cases", Kind::Count),
            column("malaria_cases", Kind::Count),
            column("heatstroke_cases", Kind::Count),
            column("diarrhea_cases", Kind::Count),
            is_projected(),
            column("projection_year", Kind::Int),
        ],
    },
    Spec {
        domain: "hospital",
        table: "hospital_data",
        key: &[0, 1, 9, 10],
        columns: &[
            required("location_id", Kind::Int),
            required("date", Kind::Date),
            column("total_beds", Kind::Count),
            column("available_beds", Kind::Count),
            column("doctors", Kind::Count),
            column("nurses", Kind::Count),
            column("iv_fluids_stock", Kind::Count),
            column("antibiotics_stock", Kind::Count),
            column("antipyretics_stock", Kind::Count),
            is_projected(),
            column("projection_year", Kind::Int),
        ],
    },
];

impl Spec {
    pub(crate) fn of(domain: &str) -> &'static Spec {
        SPECS.iter().find(|spec| spec.domain == domain).unwrap_or_else(|| panic!("no domain {domain}"))
    }

    pub(crate) fn column_names(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|column| column.name)
    }

    pub(crate) fn key_of(&self, row: &[String]) -> Vec<String> {
        self.key.iter().map(|place| row[*place].clone()).collect()
    }

    /// A value of Postgres' text form as this load spells it.
    pub(crate) fn canonical(&self, place: usize, text: Option<&str>) -> String {
        match (text, self.columns[place].kind) {
            (None, _) => NULL.to_owned(),
            (Some(text), kind) if kind.is_double() => number(text.parse().expect("a double")),
            (Some(text), _) => text.to_owned(),
        }
    }
}

/// Shortest text that reads back as the same double.
pub(crate) fn number(value: f64) -> String {
    format!("{value:?}")
}

/// A file that was received whole.
pub(crate) struct File<'a> {
    pub(crate) domain: &'static str,
    pub(crate) object: i64,
    pub(crate) src_ord: i64,
    /// Its rows are judged and counted, and stand in no table.
    pub(crate) is_replaced: bool,
    pub(crate) content: &'a [u8],
}

/// What all files together come to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Domain → key → row, the object that it comes from last.
    pub(crate) tables: BTreeMap<&'static str, BTreeMap<Vec<String>, Vec<String>>>,
    /// (domain, column or none, rule) → rows.
    pub(crate) rejects: BTreeMap<(String, String, String), i64>,
    /// (domain, `column:rule`) → changes.
    pub(crate) corrections: BTreeMap<(String, String), i64>,
    /// Object → rows.
    pub(crate) rows: BTreeMap<i64, i64>,
    /// Object → rows that cannot load.
    pub(crate) rejected: BTreeMap<i64, i64>,
}

/// Loads the files in their order; `refused` are rows that a constraint of the database keeps out.
pub(crate) fn load(mut files: Vec<File<'_>>, refused: impl Fn(&str, &[String]) -> bool) -> Loaded {
    files.sort_by_key(|file| (file.domain, file.src_ord));
    let mut loaded = Loaded::default();
    for file in &files {
        load_file(&mut loaded, file, &refused);
    }
    loaded
}

fn load_file(loaded: &mut Loaded, file: &File<'_>, refused: &impl Fn(&str, &[String]) -> bool) {
    let spec = Spec::of(file.domain);
    let mut records = framing::records(file.content).into_iter();
    let Some(Line::Cells(header)) = records.next() else { panic!("the file has a header") };
    let names: Vec<String> = header.iter().map(|name| heading(name)).collect();
    let places: Vec<Option<usize>> = spec
        .columns
        .iter()
        .map(|column| {
            let by = |wanted: &str| names.iter().position(|name| *name == heading(wanted));
            by(column.name).or_else(|| column.aliases.iter().find_map(|alias| by(alias)))
        })
        .collect();
    loaded.rows.insert(file.object, 0);
    for record in records {
        *loaded.rows.entry(file.object).or_default() += 1;
        let mut corrections = Vec::new();
        let judged = judge_row(spec, &places, names.len(), &record, &mut corrections);
        let judged = judged.and_then(|row| {
            count_corrections(loaded, spec.domain, &corrections);
            let refusal = || (NULL.to_owned(), "refused_by_database");
            if refused(spec.domain, &row) { Err(refusal()) } else { Ok(row) }
        });
        match judged {
            Ok(_) if file.is_replaced => {}
            Ok(mut row) => {
                let key = spec.key_of(&row);
                row.push(file.object.to_string());
                loaded.tables.entry(spec.domain).or_default().insert(key, row);
            }
            Err((column, rule)) => {
                *loaded.rejected.entry(file.object).or_default() += 1;
                *loaded.rejects.entry((spec.domain.into(), column, rule.into())).or_default() += 1;
            }
        }
    }
}

fn count_corrections(loaded: &mut Loaded, domain: &str, corrections: &[String]) {
    for correction in corrections {
        *loaded.corrections.entry((domain.into(), correction.clone())).or_default() += 1;
    }
}

type Refusal = (String, &'static str);

fn judge_row(
    spec: &Spec,
    places: &[Option<usize>],
    width: usize,
    line: &Line,
    corrections: &mut Vec<String>,
) -> Result<Vec<String>, Refusal> {
    let Line::Cells(record) = line else { return Err((NULL.to_owned(), "stray_quote")) };
    if record.iter().skip(width).any(|cell| !trim(cell).is_empty()) {
        return Err((NULL.to_owned(), "extra_cells"));
    }
    let mut row = Vec::new();
    for (at, (column, place)) in spec.columns.iter().zip(places).enumerate() {
        let value = match place {
            None => column.absent.to_owned(),
            Some(place) => {
                let text = record.get(*place).map_or("", String::as_str);
                judge(column, spec.key.contains(&at), text, corrections)
                    .map_err(|rule| (column.name.to_owned(), rule))?
            }
        };
        row.push(value);
    }
    if spec.domain == "hospital"
        && !corrections.iter().any(|correction| correction.starts_with("total_beds:"))
        && let (Ok(total), Ok(available)) = (row[2].parse::<i64>(), row[3].parse::<i64>())
        && available > total
    {
        row[3] = row[2].clone();
        corrections.push("available_beds:beds_capped".into());
    }
    Ok(row)
}

fn judge(column: &Column, is_key: bool, text: &str, corrections: &mut Vec<String>) -> Result<String, &'static str> {
    let bare = trim(text);
    if bare.is_empty() {
        return if column.required { Err("required_empty") } else { Ok(column.empty.into()) };
    }
    let mut correct = |rule: &str| corrections.push(format!("{}:{rule}", column.name));
    if MISSING.contains(&bare) {
        if column.required {
            return Err("missing_value");
        }
        correct("missing_value");
        return Ok(column.empty.into());
    }
    let value = match column.kind {
        Kind::Text => Some(bare.to_owned()),
        Kind::Bool => match bare.to_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "1" | "1.0" => Some("true".into()),
            "f" | "false" | "n" | "no" | "0" | "0.0" => Some("false".into()),
            _ => None,
        },
        Kind::Date => match date(text, bare, &mut correct) {
            Some(day) if *day < *"1800-01-01" || *day > *"2200-12-31" => return Err("out_of_range"),
            day => day,
        },
        Kind::Int | Kind::Count | Kind::Population => match int(bare, &mut correct) {
            Some(negative) if negative < 0 && column.kind == Kind::Population => return Err("negative"),
            Some(negative) if negative < 0 && column.kind == Kind::Count => {
                correct("negative_to_zero");
                Some("0".into())
            }
            other => other.map(|value| value.to_string()),
        },
        kind => match double(bare, &mut correct) {
            Some(value) => Some(measured(kind, value, &mut correct)?),
            None => None,
        },
    };
    match value {
        Some(value) => Ok(value),
        None if column.required || is_key || matches!(column.kind, Kind::Population | Kind::Area) => Err("uncastable"),
        None => {
            correct("uncastable_to_null");
            Ok(NULL.into())
        }
    }
}

/// A double that was read, held against what can be.
fn measured(kind: Kind, value: f64, correct: &mut impl FnMut(&str)) -> Result<String, &'static str> {
    let is_within = |least: f64, greatest: f64| value >= least && value <= greatest;
    match kind {
        Kind::Area if value < 0.0 => return Err("negative"),
        Kind::Temperature if !is_within(-90.0, 60.0) => return Err("out_of_range"),
        Kind::Rain if !is_within(0.0, 3000.0) => correct("out_of_range_to_null"),
        Kind::Percent if !is_within(0.0, 100.0) => correct("out_of_range_to_null"),
        Kind::Probability if !is_within(0.0, 1.0) => {
            correct("probability_to_zero");
            return Ok("0.0".into());
        }
        _ => return Ok(number(value)),
    }
    Ok(NULL.into())
}

/// A heading without its case and all that is neither letter nor digit.
fn heading(name: &str) -> String {
    name.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Without the characters 0x01 to 0x20 at its ends.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c != '\0' && c <= ' ')
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Sign and digits, with groups of three, a fraction that is cut off, or an exponent, which moves the point by hand.
fn int(text: &str, correct: &mut impl FnMut(&str)) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    let (number, exponent) = unsigned.split_once('e').unwrap_or((unsigned, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_grouped = whole.contains(',');
    let groups: Vec<&str> = whole.split(',').collect();
    let are_groups = groups[1..].iter().all(|group| group.len() == 3) && (1..=3).contains(&groups[0].len());
    if is_grouped && (!are_groups || whole.starts_with('0') || unsigned.contains('e')) {
        return None;
    }
    let whole = groups.concat();
    let tens = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if !all_digits(&whole) || !all_digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    if tens.is_empty() || !all_digits(tens) {
        return None;
    }
    // More tens than these leave nothing of the number, or more than 32 bits.
    let tens = tens.parse::<usize>().unwrap_or(usize::MAX).min(whole.len() + fraction.len() + 20);
    let (whole, fraction) = if exponent.starts_with('-') {
        let padded = "0".repeat(tens) + &whole;
        let (left, moved) = padded.split_at(padded.len() - tens);
        (left.to_owned(), format!("{moved}{fraction}"))
    } else {
        let padded = fraction.to_owned() + &"0".repeat(tens);
        let (moved, right) = padded.split_at(tens);
        (whole + moved, right.to_owned())
    };
    let whole = whole.trim_start_matches('0');
    if whole.len() > 10 {
        return None;
    }
    let value: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let value = if text.starts_with('-') { -value } else { value };
    if i32::try_from(value).is_err() {
        return None;
    }
    if !fraction.trim_end_matches('0').is_empty() {
        correct("fraction_cut");
    } else if is_grouped {
        correct("grouping_removed");
    }
    Some(value)
}

fn double(text: &str, correct: &mut impl FnMut(&str)) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let (negative, rest) = match lower.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, lower.strip_prefix('+').unwrap_or(&lower)),
    };
    if rest == "inf" || rest == "infinity" {
        return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if lower == "nan" {
        return Some(f64::NAN);
    }
    let rest = rest.strip_suffix(['d', 'f']).unwrap_or(rest);
    let (mantissa, exponent) = rest.split_once('e').unwrap_or((rest, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_decimal = all_digits(whole) && all_digits(fraction) && whole.len() + fraction.len() > 0;
    if !is_decimal || exponent.is_empty() || !all_digits(exponent) {
        return None;
    }
    let value: f64 = rest.parse().ok()?;
    if value.is_infinite() {
        correct("overflow_to_infinity");
    }
    Some(if negative { -value } else { value })
}

fn date(text: &str, bare: &str, correct: &mut impl FnMut(&str)) -> Option<String> {
    let (day, time) = match bare.split_once(['T', ' ']) {
        Some((day, time)) => (day, Some(time.as_bytes())),
        None => (bare, None),
    };
    if let Some(time) = time {
        let is_clock = time.len() >= 5 && time[2] == b':' && [0, 1, 3, 4].iter().all(|at| time[*at].is_ascii_digit());
        if !is_clock {
            return None;
        }
    }
    let parts: Vec<&str> = day.split('-').collect();
    let [year, month, day_of_month] = parts[..] else { return None };
    if year.len() != 4 || !all_digits(year) || year == "0000" {
        return None;
    }
    for part in [month, day_of_month] {
        if !(1..=2).contains(&part.len()) || !all_digits(part) {
            return None;
        }
    }
    let date = NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, day_of_month.parse().ok()?)?;
    let spelled = date.format("%Y-%m-%d").to_string();
    let clock: Vec<u8> = time.unwrap_or_default().iter().copied().take_while(|byte| !b"Z+-".contains(byte)).collect();
    if clock.iter().any(|byte| *byte != b'0' && byte.is_ascii_digit()) {
        correct("time_cut");
    } else if text != spelled {
        correct("date_normalised");
    }
    Some(spelled)
}
