//! The live table and its shadow, row by row.

use freshet_topics::{Column, Domain};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::apply::upsert::quoted;
use crate::destination::Destination;

/// The most differences of each kind that are shown.
const SHOWN_MAX: i64 = 5;

/// A row that differs. Each side has its values in Postgres' text form of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// The key.
    pub key: String,
    /// In the live table; `None` where it has no such key.
    pub live: Option<String>,
    /// In the shadow; `None` where it has no such key.
    pub shadow: Option<String>,
}

/// How a shadow compares with the live table. Ids and lineage do not count. Of tables whose rows are not found in each other
/// by the key, because it or its types are declared otherwise, only the rows are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Rows of the live table.
    pub live_rows: i64,
    /// Rows of the shadow.
    pub shadow_rows: i64,
    /// Whether that is all: the rows of the one cannot be found in the other.
    pub is_only_counted: bool,
    /// The sum of a hash of each row, independent of their order.
    pub live_checksum: String,
    /// The same for the shadow.
    pub shadow_checksum: String,
    /// Keys that only the live table has: a swap removes them.
    pub only_live: i64,
    /// Keys that only the shadow has: a swap adds them.
    pub only_shadow: i64,
    /// Keys with different values: a swap changes them.
    pub changed: i64,
    /// The first differences of each kind, in key order.
    pub first: Vec<Differs>,
}

impl Comparison {
    /// Whether a swap would change no value.
    pub fn is_same(&self) -> bool {
        !self.is_only_counted && (self.only_live, self.only_shadow, self.changed) == (0, 0, 0)
    }
}

/// Compares, on a connection whose transaction sees one snapshot.
///
/// # Errors
/// If Postgres does not answer.
pub async fn compare(connection: &mut PgConnection, domain: &'static Domain) -> Result<Comparison, sqlx::Error> {
    let redeclared = super::redeclared(connection, domain).await?;
    if redeclared.is_keyed_otherwise {
        let (live_rows, shadow_rows) = counted(connection, domain).await?;
        return Ok(Comparison { live_rows, shadow_rows, is_only_counted: true, ..Comparison::default() });
    }
    // Declared types may differ from those of the live table, so values are compared as text.
    let spelled = |without: &[String]| {
        let one =
            |column: &Column| match (domain.key.contains(&column.name), without.iter().any(|it| it == column.name)) {
                (true, _) => format!("\"{}\"", column.name),
                (false, true) => format!("NULL::text AS \"{}\"", column.name),
                (false, false) => format!("\"{0}\"::text AS \"{0}\"", column.name),
            };
        domain.columns.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let live = format!("SELECT {} FROM {}", spelled(&redeclared.added), Destination::Live.table(domain));
    let shadow = format!("SELECT {} FROM {}", spelled(&[]), Destination::Shadow.table(domain));
    let mut comparison = Comparison::default();
    (comparison.live_rows, comparison.live_checksum) = sum(connection, &live).await?;
    (comparison.shadow_rows, comparison.shadow_checksum) = sum(connection, &shadow).await?;
    // The first of each kind, with how many of its kind there are: the tables are compared once.
    let first = format!(
        "{}, numbered AS (
            SELECT *, row_number() OVER (kind ORDER BY place) AS number, count(*) OVER kind AS of_its_kind
            FROM differing WINDOW kind AS (PARTITION BY live IS NULL, shadow IS NULL))
         SELECT key, live, shadow, of_its_kind FROM numbered WHERE number <= {SHOWN_MAX} ORDER BY place",
        differing(domain, &live, &shadow)
    );
    let first: Vec<(String, Option<String>, Option<String>, i64)> =
        sqlx::query_as(AssertSqlSafe(first)).fetch_all(connection).await?;
    for (key, live, shadow, of_its_kind) in first {
        match (&live, &shadow) {
            (Some(_), None) => comparison.only_live = of_its_kind,
            (None, _) => comparison.only_shadow = of_its_kind,
            (Some(_), Some(_)) => comparison.changed = of_its_kind,
        }
        comparison.first.push(Differs { key, live, shadow });
    }
    Ok(comparison)
}

/// Counts the rows of the live table and of its shadow.
///
/// # Errors
/// If Postgres does not answer.
pub async fn count(pool: &PgPool, domain: &'static Domain) -> Result<(i64, i64), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    counted(&mut connection, domain).await
}

async fn counted(connection: &mut PgConnection, domain: &Domain) -> Result<(i64, i64), sqlx::Error> {
    let (live, shadow) = (Destination::Live.table(domain), Destination::Shadow.table(domain));
    let sql = format!("SELECT (SELECT count(*) FROM {live}), (SELECT count(*) FROM {shadow})");
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(connection).await
}

async fn sum(connection: &mut PgConnection, rows: &str) -> Result<(i64, String), sqlx::Error> {
    let sql = format!(
        "SELECT count(*), to_hex((coalesce(sum(hashtextextended(ROW(r.*)::text, 0)::numeric), 0)
            % 9223372036854775807)::bigint) FROM ({rows}) AS r"
    );
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(connection).await
}

/// `WITH … differing`: keys that only one side has, or that have different values. Set operations and grouping treat
/// NULL as a value, as the keys do; a hash join would not.
fn differing(domain: &Domain, live: &str, shadow: &str) -> String {
    let key = quoted(domain.key.iter().copied(), "");
    format!(
        "WITH differing AS (
            SELECT ROW({key})::text AS key, row_number() OVER (ORDER BY {key}) AS place,
                max(text) FILTER (WHERE side = 'live') AS live, max(text) FILTER (WHERE side = 'shadow') AS shadow
            FROM (
                SELECT l.*, 'live' AS side, ROW(l.*)::text AS text
                FROM ({live} EXCEPT {shadow}) AS l
                UNION ALL
                SELECT s.*, 'shadow', ROW(s.*)::text
                FROM ({shadow} EXCEPT {live}) AS s
            ) AS sides
            GROUP BY {key})"
    )
}
