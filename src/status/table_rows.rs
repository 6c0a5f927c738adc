//! How many rows the tables hold.

use std::collections::BTreeMap;

use freshet_topics::Domain;
use serde::Serialize;
use sqlx::PgConnection;

use super::locks;

/// Rows of a table are counted up to here: some milliseconds. Of more, Postgres' own estimate is shown.
const ROWS_COUNTED: i64 = 50_000;

/// Rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct TableRows {
    rows: i64,
    /// Whether there are about so many.
    about: bool,
}

/// Domain → rows of its table, without those whose table is locked.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn read(
    connection: &mut PgConnection,
    domains: &[&'static Domain],
) -> Result<BTreeMap<&'static str, TableRows>, sqlx::Error> {
    let mut tables = BTreeMap::new();
    for domain in domains {
        let sql = format!(
            "SELECT (SELECT count(*) FROM (SELECT FROM \"{0}\" LIMIT {ROWS_COUNTED} + 1) AS counted),
                (SELECT reltuples::bigint FROM pg_class WHERE oid = '\"{0}\"'::regclass)",
            domain.table
        );
        if let Some((counted, estimate)) = locks::unless_locked(connection, sql).await? {
            tables.insert(domain.name, rows(counted, estimate));
        }
    }
    Ok(tables)
}

/// | counted | estimate | rows |
/// |---|---|---|
/// | 7 | any | 7 |
/// | 50,001 | 1,200,000 | about 1,200,000 |
/// | 50,001 | -1 (not analyzed yet), or of before | about 50,001 |
fn rows(counted: i64, estimate: i64) -> TableRows {
    match counted {
        0..=ROWS_COUNTED => TableRows { rows: counted, about: false },
        _ => TableRows { rows: estimate.max(counted), about: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_is_counted_and_a_large_one_estimated() {
        for (counted, estimate, expected, about) in
            [(0, -1, 0, false), (7, 90, 7, false), (50_001, 1_200_000, 1_200_000, true), (50_001, -1, 50_001, true)]
        {
            assert_eq!(rows(counted, estimate), TableRows { rows: expected, about }, "{counted} {estimate}");
        }
    }
}
