//! A typed cell, as it is stored in Postgres, and the order of values of one type.
//!
//! A value is small and `Copy`; text is borrowed from a batch ([`crate::columns`]), a contract or a cell.

use std::cmp::Ordering;
use std::fmt;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use rust_decimal::Decimal;

/// A typed cell, as it is stored in Postgres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'t> {
    /// SQL NULL.
    Null,
    /// `integer`.
    Int(i32),
    /// `bigint`.
    BigInt(i64),
    /// `double precision`; NaN and the infinities are values.
    Double(f64),
    /// `numeric` of the column's precision and scale.
    Numeric(Decimal),
    /// `boolean`.
    Bool(bool),
    /// `date`.
    Date(NaiveDate),
    /// `timestamp with time zone`, to the microsecond.
    Timestamp(DateTime<Utc>),
    /// `text`.
    Text(&'t str),
}

impl Value<'_> {
    /// A total order over the values of one type, as in Postgres: NaN is above every number and equal to itself, and
    /// zero has no sign; text is ordered by bytes. NULL counts as a value here and comes first.
    ///
    /// # Panics
    /// If the two have different types: values of one column never do.
    pub fn compare(&self, other: &Value<'_>) -> Ordering {
        match (self, other) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Less,
            (_, Value::Null) => Ordering::Greater,
            (Value::Int(left), Value::Int(right)) => left.cmp(right),
            (Value::BigInt(left), Value::BigInt(right)) => left.cmp(right),
            (Value::Double(left), Value::Double(right)) => compare_doubles(*left, *right),
            (Value::Numeric(left), Value::Numeric(right)) => left.cmp(right),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Date(left), Value::Date(right)) => left.cmp(right),
            (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(right),
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            _ => unreachable!("the values of one column have one type"),
        }
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
}

/// NaN is above every number and equal to itself, and zero has no sign.
pub(crate) fn compare_doubles(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// For people, and as a literal that Postgres reads back as the same value.
impl fmt::Display for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => write!(formatter, "NULL"),
            Value::Int(value) => write!(formatter, "{value}"),
            Value::BigInt(value) => write!(formatter, "{value}"),
            Value::Double(value) => write!(formatter, "{value}"),
            Value::Numeric(value) => write!(formatter, "{value}"),
            Value::Bool(value) => write!(formatter, "{value}"),
            Value::Date(value) => write!(formatter, "{value}"),
            Value::Timestamp(value) => write!(formatter, "{}", value.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Value::Text(value) => write!(formatter, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ordered_as_postgres_orders_them() {
        let nan = || Value::Double(f64::NAN);
        let number = |text: &str| Value::Numeric(text.parse().expect("a number"));
        let cases = [
            (Value::Null, Value::Null, Ordering::Equal),
            (Value::Null, Value::Int(i32::MIN), Ordering::Less),
            (Value::Int(1), Value::Null, Ordering::Greater),
            (Value::Bool(true), Value::Bool(false), Ordering::Greater),
            (Value::BigInt(3), Value::BigInt(4), Ordering::Less),
            (nan(), Value::Double(f64::INFINITY), Ordering::Greater),
            (Value::Double(0.0), nan(), Ordering::Less),
            (nan(), nan(), Ordering::Equal),
            (Value::Double(-0.0), Value::Double(0.0), Ordering::Equal),
            (number("1.0"), number("1.00"), Ordering::Equal),
            (number("-2"), number("1.5"), Ordering::Less),
            (Value::Text("B"), Value::Text("a"), Ordering::Less),
        ];
        for (left, right, expected) in cases {
            assert_eq!(left.compare(&right), expected, "{left:?} {right:?}");
        }
    }
}
