//! Rules on values: the condition, the action for a value that breaks it, and the name under which that is counted.
//!
//! A new kind of limit is a variant of [`Limit`] with its line in [`Limit::holds`] and in the table of the tests, and
//! its key in [`crate::pipeline`].

use std::cmp::Ordering;

use regex::Regex;

use crate::Value;

/// A rule on one value of a row.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The name that corrections and rejects are counted under.
    pub name: &'static str,
    /// The limits that the value must satisfy, all of them. NULL satisfies every limit.
    pub limits: &'static [Limit],
    /// The action if it does not.
    pub otherwise: Otherwise,
}

/// A condition on a value.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Not below. NaN is above every number.
    Minimum(&'static Value<'static>),
    /// Not above.
    Maximum(&'static Value<'static>),
    /// Above.
    Above(&'static Value<'static>),
    /// Below.
    Below(&'static Value<'static>),
    /// Text with at least this many characters.
    MinLength(usize),
    /// Text with at most this many characters.
    MaxLength(usize),
    /// Text that the expression matches completely.
    Pattern(&'static Regex),
    /// One of these values.
    OneOf(&'static [Value<'static>]),
}

/// The action for a value that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The row is rejected.
    Reject,
    /// It becomes NULL: a correction.
    Null,
    /// It becomes 0: a correction.
    Zero,
    /// It becomes the limit that it breaks: a correction.
    Cap,
    /// It loads unchanged and is counted.
    Warn,
    /// The file is rejected before any row of it is published. A row that was published before the rule existed is
    /// rejected.
    Fail,
}

impl Otherwise {
    /// All actions, by their words in a contract.
    pub const NAMES: [(&'static str, Otherwise); 6] = [
        ("reject", Otherwise::Reject),
        ("null", Otherwise::Null),
        ("zero", Otherwise::Zero),
        ("cap", Otherwise::Cap),
        ("warn", Otherwise::Warn),
        ("fail", Otherwise::Fail),
    ];

    /// Whether the value is changed, and the row loads.
    pub fn corrects(self) -> bool {
        matches!(self, Otherwise::Null | Otherwise::Zero | Otherwise::Cap)
    }
}

/// A rule that compares two columns of a row. It is applied only if both have a value and the other one was not
/// corrected: a corrected value is no basis for judging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRule {
    /// The name that corrections and rejects are counted under.
    pub name: &'static str,
    /// The column that is judged, and corrected.
    pub column: &'static str,
    /// How it must compare with the other column.
    pub comparison: Comparison,
    /// The column that it is compared with, of the same type.
    pub other: &'static str,
    /// The action if it does not; never [`Otherwise::Zero`] or [`Otherwise::Fail`].
    pub otherwise: Otherwise,
}

/// How a value must compare with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Not above it.
    AtMost,
    /// Not below it.
    AtLeast,
}

impl Rule {
    /// The first limit that a value breaks.
    pub fn broken(&self, value: &Value<'_>) -> Option<Limit> {
        self.limits.iter().copied().find(|limit| !limit.holds(value))
    }
}

impl Limit {
    /// Whether a value satisfies it. True for a type that the limit does not apply to: a contract with such a rule is
    /// refused.
    pub fn holds(self, value: &Value<'_>) -> bool {
        if value.is_null() {
            return true;
        }
        let length = |text: &str| text.chars().count();
        match (self, value) {
            (Limit::Minimum(limit), value) => value.compare(limit).is_ge(),
            (Limit::Maximum(limit), value) => value.compare(limit).is_le(),
            (Limit::Above(limit), value) => value.compare(limit).is_gt(),
            (Limit::Below(limit), value) => value.compare(limit).is_lt(),
            (Limit::MinLength(characters), Value::Text(text)) => length(text) >= characters,
            (Limit::MaxLength(characters), Value::Text(text)) => length(text) <= characters,
            (Limit::Pattern(pattern), Value::Text(text)) => pattern.is_match(text),
            (Limit::OneOf(allowed), value) => allowed.iter().any(|one| value.compare(one).is_eq()),
            (Limit::MinLength(_) | Limit::MaxLength(_) | Limit::Pattern(_), _) => true,
        }
    }

    /// The nearest value that satisfies the limit, for capping; `None` for a limit that has none.
    pub fn cap<'t>(self, value: &Value<'t>) -> Option<Value<'t>> {
        match (self, value) {
            (Limit::Minimum(limit) | Limit::Maximum(limit), _) => Some(*limit),
            (Limit::MaxLength(characters), Value::Text(text)) => {
                let end = text.char_indices().nth(characters).map_or(text.len(), |(end, _)| end);
                Some(Value::Text(&text[..end]))
            }
            _ => None,
        }
    }
}

impl Comparison {
    /// Whether the comparison holds; it does if one of the values is NULL.
    pub fn holds(self, value: &Value<'_>, other: &Value<'_>) -> bool {
        if value.is_null() || other.is_null() {
            return true;
        }
        match (self, value.compare(other)) {
            (_, Ordering::Equal) => true,
            (Comparison::AtMost, ordering) => ordering == Ordering::Less,
            (Comparison::AtLeast, ordering) => ordering == Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leak<T>(value: T) -> &'static T {
        Box::leak(Box::new(value))
    }

    fn int(value: i32) -> Value<'static> {
        Value::Int(value)
    }

    fn text(value: &str) -> Value<'_> {
        Value::Text(value)
    }

    #[test]
    fn each_kind_of_limit_holds_or_not_and_caps_or_not() {
        let (zero, one) = (leak(Value::Double(0.0)), leak(Value::Double(1.0)));
        let (two, nan) = (Value::Double(2.0), Value::Double(f64::NAN));
        let letters = Limit::Pattern(leak(Regex::new("^(?:[a-z]+)$").expect("an expression")));
        let choice = Limit::OneOf(vec![int(1), int(3)].leak());
        let cases = [
            (Limit::Minimum(zero), Value::Double(-0.0), true, Some(*zero)),
            (Limit::Minimum(zero), Value::Double(-1.0), false, Some(*zero)),
            (Limit::Minimum(zero), nan, true, Some(*zero)),
            (Limit::Maximum(one), *one, true, Some(*one)),
            (Limit::Maximum(one), two, false, Some(*one)),
            (Limit::Maximum(one), nan, false, Some(*one)),
            (Limit::Above(one), *one, false, None),
            (Limit::Above(one), two, true, None),
            (Limit::Below(one), *one, false, None),
            (Limit::Below(one), *zero, true, None),
            (Limit::MinLength(2), text("é"), false, None),
            (Limit::MinLength(2), text("éé"), true, None),
            (Limit::MaxLength(2), text("éé"), true, Some(text("éé"))),
            (Limit::MaxLength(2), text("ééé"), false, Some(text("éé"))),
            (letters, text("abc"), true, None),
            (letters, text("ab1"), false, None),
            (choice, int(3), true, None),
            (choice, int(2), false, None),
        ];
        for (limit, value, holds, cap) in cases {
            assert_eq!(limit.holds(&value), holds, "{limit:?} {value:?}");
            assert_eq!(limit.cap(&value), cap, "{limit:?} {value:?}");
            assert!(limit.holds(&Value::Null), "{limit:?} NULL");
        }
    }

    #[test]
    fn two_values_compare_where_both_are_known() {
        let cases = [
            (Comparison::AtMost, int(1), int(1), true),
            (Comparison::AtMost, int(2), int(1), false),
            (Comparison::AtLeast, int(2), int(1), true),
            (Comparison::AtLeast, int(0), int(1), false),
            (Comparison::AtMost, Value::Null, int(1), true),
            (Comparison::AtLeast, int(0), Value::Null, true),
        ];
        for (comparison, value, other, holds) in cases {
            assert_eq!(comparison.holds(&value, &other), holds, "{comparison:?} {value:?} {other:?}");
        }
    }
}
