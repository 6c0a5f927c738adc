//! Columns that files have and their domain does not, and columns that they lack and for which all of their rows got the
//! contract's value: information that a person may have to act on, and that no row tells.

use freshet_sinks::ledger::NEWEST_OF_ITS_KEY_SQL;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

/// Maximum number of columns shown, those of most files.
const COLUMNS: i64 = 60;

/// The rule under which a column is shown.
pub const UNKNOWN_COLUMN: &str = "unknown_column";
/// The same, for one that is absent and has a default.
pub const ABSENT_DEFAULT: &str = "absent_default";

/// A column of files, in the newest version of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ColumnNote {
    pub domain: String,
    /// `unknown_column` or `absent_default`.
    pub rule: String,
    /// As it stands in the header of the files, or is called in the domain.
    pub column: String,
    /// Files.
    pub files: i64,
    /// The newest of them.
    pub key: String,
}

/// Reads the unknown and missing columns of files.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn notes(connection: &mut PgConnection) -> Result<Vec<ColumnNote>, sqlx::Error> {
    // Overwritten versions do not count: the note disappears once a file is corrected.
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT o.domain, c.rule, c.\"column\", count(*) AS files, (array_agg(o.key ORDER BY o.src_ord DESC))[1] AS key
         FROM pipeline.objects o CROSS JOIN LATERAL (
            SELECT $1 AS rule, unnest(o.ignored_columns) AS \"column\"
            UNION ALL SELECT $2, unnest(o.absent_defaults)
         ) AS c
         WHERE (o.ignored_columns <> '{{}}' OR o.absent_defaults <> '{{}}') AND {NEWEST_OF_ITS_KEY_SQL}
         GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT $3"
    )))
    .bind(UNKNOWN_COLUMN)
    .bind(ABSENT_DEFAULT)
    .bind(COLUMNS)
    .fetch_all(connection)
    .await
}
