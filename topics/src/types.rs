//! The types that a column may have: their names in contracts and in Postgres, and how text becomes a value. A new type
//! is a variant of [`Cast`] and of [`Value`], a line in each table here, its column in [`crate::columns`], and its array
//! where batches are written.

use crate::Value;
use crate::cast::{self, Casted};
use crate::pipeline::mistake::did_you_mean;

/// The type that a cell is cast to; the accepted spellings are in [`crate::cast`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// 32-bit signed integer.
    Int,
    /// 64-bit signed integer.
    BigInt,
    /// Double precision.
    Double,
    /// Decimal number of at most `precision` digits, `scale` of them after the point.
    Numeric {
        /// The most digits, 1 to [`cast::NUMERIC_PRECISION_MAX`].
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    /// Boolean.
    Bool,
    /// Calendar date.
    Date,
    /// A moment: date, time of day and zone.
    Timestamp,
    /// The original text; only blanks are empty.
    Text,
    /// Text with blanks (0x01–0x20) trimmed from both ends.
    TrimmedText,
}

impl Cast {
    /// The type in Postgres, which is the `physicalType` of a contract.
    pub fn sql_type(self) -> String {
        match self {
            Cast::Int => "int4".to_owned(),
            Cast::BigInt => "int8".to_owned(),
            Cast::Double => "float8".to_owned(),
            Cast::Numeric { precision, scale } => format!("numeric({precision},{scale})"),
            Cast::Bool => "bool".to_owned(),
            Cast::Date => "date".to_owned(),
            Cast::Timestamp => "timestamptz".to_owned(),
            Cast::Text | Cast::TrimmedText => "text".to_owned(),
        }
    }

    /// The `logicalType` of a contract.
    pub fn logical_type(self) -> &'static str {
        match self {
            Cast::Int | Cast::BigInt => "integer",
            Cast::Double | Cast::Numeric { .. } => "number",
            Cast::Bool => "boolean",
            Cast::Date => "date",
            Cast::Timestamp => "timestamp",
            Cast::Text | Cast::TrimmedText => "string",
        }
    }

    /// Whether its values are numbers.
    pub fn is_number(self) -> bool {
        matches!(self.logical_type(), "integer" | "number")
    }

    /// Zero, for numbers; `None` for other types.
    pub fn zero(self) -> Option<Value<'static>> {
        self.read_number("0").map(|zero| zero.value)
    }

    /// The value of a cell's text; `None` if it does not cast.
    pub fn read(self, text: &str) -> Option<Casted<Value<'_>>> {
        match self {
            Cast::Int | Cast::BigInt | Cast::Double | Cast::Numeric { .. } => self.read_number(text),
            Cast::Bool => cast::boolean(text).map(|casted| casted.with(Value::Bool)),
            Cast::Date => cast::date(text).map(|casted| casted.with(Value::Date)),
            Cast::Timestamp => cast::timestamp(text).map(|casted| casted.with(Value::Timestamp)),
            Cast::Text => Some(Casted { value: Value::Text(text), correction: None }),
            Cast::TrimmedText => Some(Casted { value: Value::Text(cast::trim(text)), correction: None }),
        }
    }

    /// The corrections that reading a text may make.
    pub fn corrections(self) -> &'static [&'static str] {
        match self {
            Cast::Int | Cast::BigInt => &[cast::FRACTION_CUT, cast::GROUPING_REMOVED],
            Cast::Double => &[cast::OVERFLOW_TO_INFINITY],
            Cast::Numeric { .. } => &[cast::FRACTION_ROUNDED],
            Cast::Date => &[cast::DATE_NORMALISED, cast::TIME_CUT],
            Cast::Timestamp => &[cast::ZONE_ASSUMED],
            Cast::Bool | Cast::Text | Cast::TrimmedText => &[],
        }
    }

    /// The number of a text, which borrows nothing from the text; also `None` for every other type.
    pub(crate) fn read_number(self, text: &str) -> Option<Casted<Value<'static>>> {
        match self {
            Cast::Int => cast::int(text).map(|casted| casted.with(Value::Int)),
            Cast::BigInt => cast::big_int(text).map(|casted| casted.with(Value::BigInt)),
            Cast::Double => cast::double(text).map(|casted| casted.with(Value::Double)),
            Cast::Numeric { precision, scale } => {
                cast::numeric(text, precision, scale).map(|casted| casted.with(Value::Numeric))
            }
            Cast::Bool | Cast::Date | Cast::Timestamp | Cast::Text | Cast::TrimmedText => None,
        }
    }
}

/// The logical types of a contract, each with its type if a contract names no physical one.
pub const LOGICAL_TYPES: [(&str, Cast); 6] = [
    ("integer", Cast::BigInt),
    ("number", Cast::Double),
    ("boolean", Cast::Bool),
    ("date", Cast::Date),
    ("timestamp", Cast::Timestamp),
    ("string", Cast::TrimmedText),
];

/// Other names of the types that Postgres accepts.
const SPELLINGS: [(&str, Cast); 14] = [
    ("int4", Cast::Int),
    ("integer", Cast::Int),
    ("int", Cast::Int),
    ("int8", Cast::BigInt),
    ("bigint", Cast::BigInt),
    ("float8", Cast::Double),
    ("double precision", Cast::Double),
    ("bool", Cast::Bool),
    ("boolean", Cast::Bool),
    ("date", Cast::Date),
    ("timestamptz", Cast::Timestamp),
    ("timestamp with time zone", Cast::Timestamp),
    ("text", Cast::TrimmedText),
    ("varchar", Cast::TrimmedText),
];

/// The type named by a contract's `physicalType`. Text is trimmed unless the contract says otherwise.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn physical(name: &str) -> Result<Cast, String> {
    let lower = name.trim().to_lowercase();
    if let Some((_, cast)) = SPELLINGS.iter().find(|(spelling, _)| *spelling == lower) {
        return Ok(*cast);
    }
    if let Some(arguments) = lower.strip_prefix("numeric").or_else(|| lower.strip_prefix("decimal")) {
        return numeric(arguments).ok_or_else(|| {
            format!(
                "`{name}` has no size: write numeric(precision, scale), with at most {} digits",
                cast::NUMERIC_PRECISION_MAX
            )
        });
    }
    let hint = did_you_mean(&lower, SPELLINGS.iter().map(|(spelling, _)| *spelling));
    Err(format!(
        "`{name}` is not a type of a column{hint} (known: int4, int8, float8, numeric(p,s), bool, date, timestamptz, text)"
    ))
}

/// `(10,2)`, or `(10)` for a scale of 0.
fn numeric(arguments: &str) -> Option<Cast> {
    let arguments = arguments.trim().strip_prefix('(')?.strip_suffix(')')?;
    let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let fits = (1..=cast::NUMERIC_PRECISION_MAX).contains(&precision) && scale <= precision;
    fits.then_some(Cast::Numeric { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_text_and_has_its_names() {
        let numeric = Cast::Numeric { precision: 6, scale: 2 };
        let cases = [
            (Cast::Int, "int4", "integer", " 7 ", "7"),
            (Cast::BigInt, "int8", "integer", "3e9", "3000000000"),
            (Cast::Double, "float8", "number", "1e3", "1000"),
            (numeric, "numeric(6,2)", "number", "12.5", "12.50"),
            (Cast::Bool, "bool", "boolean", "yes", "true"),
            (Cast::Date, "date", "date", "2025-9-5", "2025-09-05"),
            (Cast::Timestamp, "timestamptz", "timestamp", "2025-09-05T10:00:00+05:30", "2025-09-05T04:30:00Z"),
            (Cast::Text, "text", "string", " a ", " a "),
            (Cast::TrimmedText, "text", "string", " a ", "a"),
        ];
        for (cast, sql, logical, text, value) in cases {
            assert_eq!((cast.sql_type().as_str(), cast.logical_type()), (sql, logical));
            assert_eq!(cast.read(text).expect(text).value.to_string(), value, "{cast:?}");
            assert_eq!(cast.zero().is_some(), cast.is_number(), "{cast:?}");
            let named = physical(sql).expect("a type by its name in Postgres");
            assert_eq!(named.sql_type(), sql);
            assert!(LOGICAL_TYPES.iter().any(|(name, usual)| *name == logical && usual.logical_type() == logical));
        }
    }

    #[test]
    fn a_physical_type_is_one_that_postgres_and_freshet_have() {
        let good = [
            ("Double Precision", Cast::Double),
            ("numeric(10, 2)", Cast::Numeric { precision: 10, scale: 2 }),
            ("DECIMAL(5)", Cast::Numeric { precision: 5, scale: 0 }),
            ("bigint", Cast::BigInt),
        ];
        for (name, cast) in good {
            assert_eq!(physical(name), Ok(cast), "{name}");
        }
        for name in ["numeric", "numeric(0,0)", "numeric(29,2)", "numeric(2,3)", "numeric(2", "jsonb", "int2", ""] {
            assert!(physical(name).is_err(), "{name}");
        }
        assert!(physical("boolaen").expect_err("no type").contains("did you mean boolean?"));
    }
}
