//! Rules of a contract: limits of a column with the action for values that break them, and rules over two columns.
//!
//! A limit is an option of the logical type (`minimum`, `pattern`, …) or an `enum`. By default a value that breaks it
//! rejects its row, under the name of the limit in [`LIMITS`]. An entry of `quality` gives limits another name and
//! another action; it applies to the limits in its property `limits`, or to all limits that no other entry lists.

use regex::Regex;

use super::columns::Columns;
use super::custom::VENDOR;
use super::words::{for_people, leak, one_of, texts_of, value_of};
use crate::pipeline::mistake::{Mistakes, Place, did_you_mean};
use crate::pipeline::yaml::{Map, Node};
use crate::{Cast, Comparison, Limit, Otherwise, RowRule, Rule};

/// The keys of the limits, with the name that a reject is counted under unless a quality rule has another.
const LIMITS: [(&str, &str); 8] = [
    ("minimum", "below_minimum"),
    ("maximum", "above_maximum"),
    ("exclusiveMinimum", "below_minimum"),
    ("exclusiveMaximum", "above_maximum"),
    ("minLength", "too_short"),
    ("maxLength", "too_long"),
    ("pattern", "pattern_mismatch"),
    ("enum", "not_allowed"),
];

/// Names that freshet uses for its own counts; a rule of a contract needs another name.
const TAKEN: [&str; 17] = [
    crate::judge::REQUIRED_EMPTY,
    crate::judge::EMPTY_TO_DEFAULT,
    crate::judge::MISSING_VALUE,
    crate::judge::UNCASTABLE,
    crate::judge::UNCASTABLE_TO_NULL,
    crate::judge::UNCASTABLE_TO_DEFAULT,
    crate::cast::FRACTION_CUT,
    crate::cast::GROUPING_REMOVED,
    crate::cast::DATE_NORMALISED,
    crate::cast::TIME_CUT,
    crate::cast::FRACTION_ROUNDED,
    crate::cast::OVERFLOW_TO_INFINITY,
    crate::cast::ZONE_ASSUMED,
    "extra_cells",
    "stray_quote",
    "refused_by_database",
    "malformed_message",
];

/// Keys of a quality rule that are for people and other tools.
const FOR_PEOPLE: [&str; 12] = [
    "id",
    "authoritativeDefinitions",
    "businessImpact",
    "description",
    "dimension",
    "method",
    "schedule",
    "scheduler",
    "severity",
    "tags",
    "unit",
    "customProperties",
];

/// A limit of a column, under its key.
#[derive(Debug)]
struct Found {
    key: &'static str,
    place: Place,
    limit: Limit,
}

/// The rules of a column, in the order of its quality rules, then the limits that none of them lists.
pub(super) fn of_column(map: &Map<'_, '_>, cast: Option<Cast>, mistakes: &mut Mistakes) -> &'static [Rule] {
    let limits = limits_of(map, cast, mistakes);
    let qualities = map.get("quality").map(|list| list.list(mistakes)).unwrap_or_default();
    let qualities: Vec<Quality> = qualities.iter().filter_map(|item| Quality::read(item, &limits, mistakes)).collect();
    let Some(cast) = cast else { return &[] };
    let is_named = |key: &str| qualities.iter().any(|quality| quality.limits.contains(&key));
    let mut rules = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for quality in &qualities {
        let all = quality.limits.is_empty();
        let of_it = |found: &&Found| if all { !is_named(found.key) } else { quality.limits.contains(&found.key) };
        let own: Vec<&Found> = limits.iter().filter(of_it).collect();
        if own.is_empty() {
            mistakes.add(quality.place, format!("the rule `{}` has no limit to check", quality.name));
        }
        for found in &own {
            if taken.contains(&found.key) {
                mistakes.add(quality.place, format!("two rules apply to `{}`", found.key));
            }
            taken.push(found.key);
            check_otherwise(quality, found, cast, mistakes);
        }
        let limits: Vec<Limit> = own.iter().map(|found| found.limit).collect();
        rules.push(Rule { name: quality.name, limits: limits.leak(), otherwise: quality.otherwise });
    }
    for found in limits.iter().filter(|found| !taken.contains(&found.key)) {
        let name = LIMITS.iter().find(|(key, _)| *key == found.key).map_or(found.key, |(_, name)| name);
        rules.push(Rule { name, limits: vec![found.limit].leak(), otherwise: Otherwise::Reject });
    }
    rules.leak()
}

/// The limits of a column, of all rules.
fn limits_of(map: &Map<'_, '_>, cast: Option<Cast>, mistakes: &mut Mistakes) -> Vec<Found> {
    let mut limits = Vec::new();
    if let Some(options) = map.get("logicalTypeOptions").and_then(|node| node.map(mistakes)) {
        for (key, _) in LIMITS {
            if let Some(node) = options.get(key).filter(|_| key != "enum")
                && let Some(cast) = cast
                && let Some(limit) = limit_of(key, &node, cast, mistakes)
            {
                limits.push(Found { key, place: node.place(), limit });
            }
        }
        options.end(mistakes);
    }
    if let Some(node) = map.get("enum")
        && let Some(cast) = cast
    {
        let items = node.list(mistakes);
        let values = items.iter().filter_map(|item| {
            let item = item.map(mistakes)?;
            let value = item.need("value", mistakes).and_then(|node| value_of(&node, cast, mistakes));
            for_people(&item, &["id", "label", "description", "customProperties", "authoritativeDefinitions", "tags"]);
            item.end(mistakes);
            value.cloned()
        });
        let values: Vec<_> = values.collect();
        limits.push(Found { key: "enum", place: node.place(), limit: Limit::OneOf(values.leak()) });
    }
    check_order(&limits, mistakes);
    limits
}

fn limit_of(key: &str, node: &Node<'_, '_>, cast: Cast, mistakes: &mut Mistakes) -> Option<Limit> {
    let is_text = cast.logical_type() == "string";
    let fits = match key {
        "minLength" | "maxLength" | "pattern" => is_text,
        _ => !is_text && cast != Cast::Bool,
    };
    if !fits {
        mistakes.add(node.place(), format!("`{key}` does not fit a column of type {}", cast.sql_type()));
        return None;
    }
    let length = |mistakes: &mut Mistakes| {
        let length = node.whole(mistakes)?;
        let found = usize::try_from(length).ok();
        if found.is_none() {
            mistakes.add(node.place(), "a length cannot be below 0");
        }
        found
    };
    Some(match key {
        "minimum" => Limit::Minimum(value_of(node, cast, mistakes)?),
        "maximum" => Limit::Maximum(value_of(node, cast, mistakes)?),
        "exclusiveMinimum" => Limit::Above(value_of(node, cast, mistakes)?),
        "exclusiveMaximum" => Limit::Below(value_of(node, cast, mistakes)?),
        "minLength" => Limit::MinLength(length(mistakes)?),
        "maxLength" => Limit::MaxLength(length(mistakes)?),
        _ => match Regex::new(&format!("^(?:{})$", node.text(mistakes)?)) {
            Ok(pattern) => Limit::Pattern(leak(pattern)),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                mistakes.add(node.place(), format!("the pattern cannot be read: {why}"));
                return None;
            }
        },
    })
}

/// A minimum above its maximum accepts no value.
fn check_order(limits: &[Found], mistakes: &mut Mistakes) {
    for low in limits {
        for high in limits {
            let reversed = match (low.limit, high.limit) {
                (Limit::Minimum(low), Limit::Maximum(high)) => low.compare(high).is_gt(),
                (Limit::Minimum(low) | Limit::Above(low), Limit::Maximum(high) | Limit::Below(high)) => {
                    low.compare(high).is_ge()
                }
                (Limit::MinLength(low), Limit::MaxLength(high)) => low > high,
                _ => false,
            };
            if reversed {
                mistakes.add(high.place, format!("`{}` and `{}` cannot both be satisfied", high.key, low.key));
            }
        }
    }
}

/// An entry of a column's `quality` for freshet.
#[derive(Debug)]
struct Quality {
    name: &'static str,
    place: Place,
    /// The keys of the limits that it applies to; empty: all that no other entry lists.
    limits: Vec<&'static str>,
    otherwise: Otherwise,
}

impl Quality {
    /// `None` if it is for other tools.
    fn read(node: &Node<'_, '_>, limits: &[Found], mistakes: &mut Mistakes) -> Option<Quality> {
        let Own { name, place, rule } = Own::read(node, mistakes)?;
        let otherwise = rule.need("otherwise", mistakes).and_then(|it| one_of(&it, &Otherwise::NAMES, mistakes));
        let mut named = Vec::new();
        for (key, place) in rule.get("limits").map(|it| texts_of(&it, mistakes)).unwrap_or_default() {
            match limits.iter().find(|found| found.key == key) {
                Some(found) => named.push(found.key),
                None => {
                    let hint = did_you_mean(key, limits.iter().map(|found| found.key));
                    mistakes.add(place, format!("the column has no limit `{key}`{hint}"));
                }
            }
        }
        rule.end(mistakes);
        Some(Quality { name: name?, place, limits: named, otherwise: otherwise? })
    }
}

/// An entry of `quality` for the engine freshet.
struct Own<'d, 't> {
    name: Option<&'static str>,
    place: Place,
    /// Its `implementation`.
    rule: Map<'d, 't>,
}

impl<'d, 't> Own<'d, 't> {
    /// `None` for entries of other types and engines: they are for people and other tools.
    fn read(node: &Node<'d, 't>, mistakes: &mut Mistakes) -> Option<Self> {
        let map = node.map(mistakes)?;
        let kinds = [("custom", true), ("library", false), ("text", false), ("sql", false)];
        let is_custom = map.get("type").is_some_and(|node| one_of(&node, &kinds, mistakes) == Some(true));
        let engine = map.get("engine");
        let named = engine.and_then(|node| node.text(mistakes));
        if named != Some(VENDOR) || !is_custom {
            let hint = named.map_or(String::new(), |engine| did_you_mean(engine, [VENDOR]));
            if let (Some(node), Some(engine)) = (engine, named.filter(|_| !hint.is_empty())) {
                let said = if is_custom {
                    format!("unknown engine `{engine}`{hint}")
                } else {
                    "a rule for freshet needs `type: custom`".to_owned()
                };
                mistakes.add(node.place(), said);
            }
            return None;
        }
        let name = name_of(&map, mistakes);
        let implementation = map.need("implementation", mistakes);
        for_people(&map, &FOR_PEOPLE);
        map.end(mistakes);
        let node = implementation?;
        Some(Own { name, place: node.place(), rule: node.map(mistakes)? })
    }
}

/// The name that a rule is counted under.
fn name_of(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<&'static str> {
    let node = map.need("name", mistakes)?;
    let name = super::words::identifier(&node, "a rule", usize::MAX, mistakes)?;
    if TAKEN.contains(&name) {
        mistakes.add(node.place(), format!("freshet uses the name `{name}` itself: choose another name for the rule"));
    }
    Some(name)
}

fn check_otherwise(quality: &Quality, found: &Found, cast: Cast, mistakes: &mut Mistakes) {
    let said = match quality.otherwise {
        Otherwise::Zero => match cast.zero() {
            None => format!("the type {} has no zero", cast.sql_type()),
            Some(zero) if !found.limit.holds(&zero) => format!("zero breaks `{}` as well", found.key),
            Some(_) => return,
        },
        Otherwise::Cap => match found.limit {
            Limit::Minimum(_) | Limit::Maximum(_) | Limit::MaxLength(_) => return,
            _ => format!("`{}` has no nearest value to cap to", found.key),
        },
        Otherwise::Reject | Otherwise::Null | Otherwise::Warn | Otherwise::Fail => return,
    };
    mistakes.add(quality.place, format!("the rule `{}`: {said}", quality.name));
}

/// The rules over two columns: the entries of the schema's `quality` for the engine freshet.
pub(super) fn of_rows(map: &Map<'_, '_>, columns: &Columns, mistakes: &mut Mistakes) -> &'static [RowRule] {
    let items = map.get("quality").map(|list| list.list(mistakes)).unwrap_or_default();
    let mut rules: Vec<RowRule> = Vec::new();
    for item in items {
        if let Some(own) = Own::read(&item, mistakes) {
            rules.extend(of_row(own, columns, mistakes));
        }
    }
    rules.leak()
}

/// Whether a column can hold every value of another one of the same type: a number may have more digits, a text blanks
/// around it.
fn takes(column: Cast, other: Cast) -> bool {
    match (column, other) {
        (Cast::Numeric { precision, scale }, Cast::Numeric { precision: theirs, scale: places }) => {
            scale >= places && precision - scale >= theirs - places
        }
        (Cast::TrimmedText, other) => other == Cast::TrimmedText,
        _ => true,
    }
}

fn of_row(own: Own<'_, '_>, columns: &Columns, mistakes: &mut Mistakes) -> Option<RowRule> {
    let Own { name, place, rule } = own;
    let column = rule.need("column", mistakes).and_then(|node| columns.at(&node, mistakes));
    let at_most = rule.get("atMost").map(|node| (Comparison::AtMost, node));
    let at_least = rule.get("atLeast").map(|node| (Comparison::AtLeast, node));
    let comparison = match (at_most, at_least) {
        (Some(one), None) | (None, Some(one)) => Some(one),
        _ => {
            mistakes.add(rule.place(), "either `atMost` or `atLeast` names the column to compare with");
            None
        }
    };
    let other = comparison.and_then(|(_, node)| columns.at(&node, mistakes));
    let words =
        [("reject", Otherwise::Reject), ("null", Otherwise::Null), ("cap", Otherwise::Cap), ("warn", Otherwise::Warn)];
    let otherwise = rule.need("otherwise", mistakes).and_then(|node| one_of(&node, &words, mistakes));
    rule.end(mistakes);
    let (column, other, (comparison, _)) = (column?, other?, comparison?);
    let [left, right] = [column.cast, other.cast].map(Cast::sql_type);
    let are_numeric = matches!((column.cast, other.cast), (Cast::Numeric { .. }, Cast::Numeric { .. }));
    if column.name == other.name || (left != right && !are_numeric) {
        let said =
            format!("`{}` ({left}) and `{}` ({right}) must be two columns of the same type", column.name, other.name);
        mistakes.add(place, said);
    } else if otherwise == Some(Otherwise::Cap) && !takes(column.cast, other.cast) {
        let said = format!(
            "`{}` ({left}) cannot be capped to `{}` ({right}), whose values may not fit: give both columns the same type",
            column.name, other.name
        );
        mistakes.add(place, said);
    }
    if otherwise == Some(Otherwise::Null) && column.is_filled() {
        mistakes.add(place, format!("`{}` is required: a rule cannot make it NULL", column.name));
    }
    Some(RowRule { name: name?, column: column.name, comparison, other: other.name, otherwise: otherwise? })
}
