//! The types that a column of an output may have: how its values come from Postgres and how they are written to a file.
//! A type is one line of the table, one arm in each function here and a case of each test.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

/// Postgres counts from 2000-01-01.
const POSTGRES_EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("2000 has a first day");

/// Declares the types: the name in manifests and in Postgres, and sqlx's names of the types read as this one.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal reads [$($of:literal),*],)*) => {
        /// The type of a column.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All types.
            pub(super) const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// Its name.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }

            /// The type for a column of a query, by sqlx's name of its type.
            pub(super) fn of(sqlx_name: &str) -> Option<Kind> {
                match sqlx_name {
                    $($($of)|* => Some(Kind::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// 32-bit integer.
    Int32 = "int4" reads ["INT4"],
    /// 64-bit integer.
    Int64 = "int8" reads ["INT8"],
    /// Double precision.
    Double = "float8" reads ["FLOAT8"],
    /// A decimal number, exact: its digits. Text in Parquet, since the precision is unknown.
    Numeric = "numeric" reads ["NUMERIC"],
    /// Text.
    Text = "text" reads ["TEXT", "VARCHAR", "CHAR", "NAME"],
    /// Calendar date.
    Date = "date" reads ["DATE"],
    /// Boolean.
    Bool = "bool" reads ["BOOL"],
    /// A moment, in UTC.
    Timestamp = "timestamptz" reads ["TIMESTAMPTZ"],
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Int(i64),
    Double(f64),
    /// The digits of a decimal number, or `NaN`, `Infinity`, `-Infinity`.
    Digits(&'a str),
    Text(&'a str),
    Date(NaiveDate),
    Bool(bool),
    Timestamp(DateTime<Utc>),
}

impl Kind {
    /// The type with this name.
    pub(super) fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// A column as it is selected, so that [`Kind::read`] understands its bytes.
    pub(super) fn selected(self, column: &str) -> String {
        match self {
            Kind::Numeric | Kind::Text => format!("{column}::text"),
            _ => column.to_owned(),
        }
    }

    /// A column as rows are ordered by it: text by bytes.
    pub(super) fn ordered(self, column: &str) -> String {
        match self {
            Kind::Text => format!("{column}::text COLLATE \"C\" NULLS FIRST"),
            _ => format!("{column} NULLS FIRST"),
        }
    }

    /// A value in Postgres' binary format; `None` for one that a file cannot contain, such as the date `infinity`.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Cell<'_>> {
        Some(match self {
            Kind::Int32 => Cell::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
            Kind::Int64 => Cell::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
            Kind::Double => Cell::Double(f64::from_be_bytes(bytes.try_into().ok()?)),
            Kind::Numeric => Cell::Digits(str::from_utf8(bytes).ok()?),
            Kind::Text => Cell::Text(str::from_utf8(bytes).ok()?),
            Kind::Bool => Cell::Bool(bytes != [0]),
            Kind::Date => {
                let days = i32::from_be_bytes(bytes.try_into().ok()?);
                let distance = Days::new(days.unsigned_abs().into());
                let date = match days < 0 {
                    true => POSTGRES_EPOCH.checked_sub_days(distance),
                    false => POSTGRES_EPOCH.checked_add_days(distance),
                };
                Cell::Date(date?)
            }
            Kind::Timestamp => {
                let micros = i64::from_be_bytes(bytes.try_into().ok()?);
                let epoch = POSTGRES_EPOCH.and_time(chrono::NaiveTime::MIN).and_utc();
                Cell::Timestamp(epoch.checked_add_signed(TimeDelta::microseconds(micros))?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_postgres_sends_it() {
        let date = |text: &str| Cell::Date(text.parse().expect("a date"));
        let moment = |text: &str| Cell::Timestamp(text.parse().expect("a moment"));
        let cases: &[(Kind, &[u8], Option<Cell<'_>>)] = &[
            (Kind::Int32, &(-5_i32).to_be_bytes(), Some(Cell::Int(-5))),
            (Kind::Int64, &(1_i64 << 40).to_be_bytes(), Some(Cell::Int(1 << 40))),
            (Kind::Double, &0.1_f64.to_be_bytes(), Some(Cell::Double(0.1))),
            (Kind::Numeric, b"-1.50", Some(Cell::Digits("-1.50"))),
            (Kind::Text, "é".as_bytes(), Some(Cell::Text("é"))),
            (Kind::Date, &0_i32.to_be_bytes(), Some(date("2000-01-01"))),
            (Kind::Date, &(-1_i32).to_be_bytes(), Some(date("1999-12-31"))),
            (Kind::Date, &i32::MAX.to_be_bytes(), None),
            (Kind::Date, &i32::MIN.to_be_bytes(), None),
            (Kind::Bool, &[1], Some(Cell::Bool(true))),
            (Kind::Bool, &[0], Some(Cell::Bool(false))),
            (Kind::Timestamp, &1_500_000_i64.to_be_bytes(), Some(moment("2000-01-01T00:00:01.5Z"))),
            (Kind::Timestamp, &i64::MAX.to_be_bytes(), None),
            (Kind::Timestamp, &i64::MIN.to_be_bytes(), None),
            (Kind::Int32, &[1], None),
        ];
        for (kind, bytes, expected) in cases {
            assert_eq!(kind.read(bytes), *expected, "{kind:?} {bytes:?}");
        }
    }

    #[test]
    fn a_type_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
            assert_eq!(Kind::of(&kind.name().to_uppercase()), Some(*kind));
        }
        assert_eq!(Kind::of("JSONB"), None);
    }
}
