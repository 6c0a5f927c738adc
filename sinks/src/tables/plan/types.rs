//! How the type of an existing column fits the declared one.

/// How the type of an existing column fits the declared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Same,
    /// Postgres converts every value of it to the wanted type and back.
    Widen,
    /// It can hold every value of the wanted type as it is.
    Wider,
    Other,
}

/// Compares two types, as `pg_type` names them.
///
/// | there | wanted | |
/// |---|---|---|
/// | int2 | int4, int8, float8 | widened |
/// | int4 | int8, float8 | widened |
/// | int2, int4, int8 | numeric that has room for their digits | widened |
/// | numeric | numeric of no fewer digits, before the point and after it | widened |
/// | float4 | float8 | widened |
/// | varchar | text | widened |
/// | int8 | int4 | wider |
/// | numeric | numeric of fewer digits | wider |
/// | another | another | other |
pub(super) fn fit(found: &str, wanted: &str) -> Fit {
    match (found, wanted) {
        (found, wanted) if found == wanted => Fit::Same,
        ("int2", "int4" | "int8" | "float8")
        | ("int4", "int8" | "float8")
        | ("float4", "float8")
        | ("varchar", "text") => Fit::Widen,
        ("int8", "int4") => Fit::Wider,
        _ => match (digits(found), digits(wanted)) {
            (Some(found), Some(wanted)) if found.0 <= wanted.0 && found.1 <= wanted.1 => Fit::Widen,
            (Some(found), Some(wanted)) if found.0 >= wanted.0 && found.1 >= wanted.1 => Fit::Wider,
            _ => Fit::Other,
        },
    }
}

/// The most digits before and after the point that a number of this type can have, if decimals bound it.
pub(super) fn digits(type_name: &str) -> Option<(u32, u32)> {
    match type_name {
        "int2" => Some((5, 0)),
        "int4" => Some((10, 0)),
        "int8" => Some((19, 0)),
        numeric => {
            let (precision, scale) = numeric.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
            let (precision, scale): (u32, u32) = (precision.parse().ok()?, scale.parse().ok()?);
            Some((precision.checked_sub(scale)?, scale))
        }
    }
}

/// A type as people name it.
pub(super) fn shown(type_name: &str) -> &str {
    match type_name {
        "int4" => "integer",
        "int8" => "bigint",
        "float8" => "double precision",
        "bool" => "boolean",
        "timestamptz" => "timestamp with time zone",
        other => other,
    }
}
