//! Compares rows with the table: what a replay would write, before it writes.
//!
//! | table | row | difference |
//! |---|---|---|
//! | no row of the key | – | to be inserted |
//! | older lineage | – | to be replaced |
//! | the very lineage of the row | other values: the rules have changed | to be changed |
//! | the very lineage of the row | the same values | none |
//! | newer lineage | – | it lost: old data never replaces new |
//!
//! Postgres returns only rows that differ or have lost to newer data; nothing is locked.

use std::sync::Arc;

use freshet_topics::{Domain, Lineage};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::arrays::{self, unnest};
use super::upsert::{Candidate, Upsert, differs, quoted, row_of_key, value_columns};

/// How rows compare with the table. Rows that are in the table unchanged are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Rows to write.
    pub differing: Vec<Difference>,
    /// The caller's indexes of rows whose key has newer data in the table.
    pub lost: Vec<usize>,
}

/// A row that differs from the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The caller's index of the row.
    pub index: usize,
    /// Its key, in Postgres' text form of a row. With [`Detail::Counts`], only if the row is not in the table under
    /// this key yet.
    pub key: Option<String>,
    /// The row in the table; `None` if there is none.
    pub before: Option<Before>,
}

/// The row that the table has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Which row of a file it is.
    pub lineage: Lineage,
    /// Columns whose value differs.
    pub columns: Arc<[&'static str]>,
    /// With [`Detail::Examples`], the table's value of the first of these columns, as text.
    pub first: Option<String>,
}

/// How much detail to return about a difference. Text costs Postgres more than all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What is needed to count and to write.
    Counts,
    /// Also what is shown to people.
    Examples,
}

/// The statement of [`Upsert::differences`].
pub(crate) fn statement(domain: &Domain, table: &str, detail: Detail) -> String {
    let key = format!("ROW({})::text", quoted(domain.key.iter().copied(), "u."));
    let (key, texts) = match detail {
        Detail::Examples => {
            let texts: Vec<String> = value_columns(domain).map(|name| format!("t.\"{name}\"::text")).collect();
            (key, format!("ARRAY[{}]::text[]", texts.join(", ")))
        }
        Detail::Counts => {
            let same_row = "(u.src_object, u.src_gen, u.src_row) = (t.src_object, t.src_gen, t.src_row)";
            (format!("CASE WHEN {same_row} THEN NULL ELSE {key} END"), "NULL::text[]".to_owned())
        }
    };
    format!(
        "SELECT u.ord - 1, {key}, t.src_object, t.src_gen, t.src_row, ARRAY[{differs}]::bool[], {texts},
            coalesce((u.src_ord, u.src_gen, u.src_row) < (t.src_ord, t.src_gen, t.src_row), false)
         FROM {rows}
         LEFT JOIN LATERAL ({row}) AS t ON true
         WHERE t.src_object IS NULL
            OR (u.src_ord, u.src_gen, u.src_row) <> (t.src_ord, t.src_gen, t.src_row)
            OR ({new}) IS DISTINCT FROM ({old})",
        differs = differs(domain, "t"),
        rows = unnest(domain, ", ord"),
        row = row_of_key(domain, table, "*"),
        new = quoted(value_columns(domain), "u."),
        old = quoted(value_columns(domain), "t."),
    )
}

impl Upsert {
    /// Compares rows, one for each key, with the table.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn differences(
        &self,
        connection: &mut PgConnection,
        rows: &[Candidate<'_>],
        detail: Detail,
    ) -> Result<Differences, sqlx::Error> {
        let mut differences = Differences::default();
        if rows.is_empty() {
            return Ok(differences);
        }
        let sql = statement(self.domain(), &self.destination().table(self.domain()), detail);
        let query = sqlx::query(AssertSqlSafe(sql));
        let answer = arrays::bind(self.domain(), query, rows).fetch_all(connection).await?;
        let columns: Vec<&'static str> = value_columns(self.domain()).collect();
        for row in &answer {
            let place: i64 = row.try_get(0)?;
            // The place is that of a row that was sent.
            let index = rows[place as usize].index;
            if row.try_get(7)? {
                differences.lost.push(index);
                continue;
            }
            let lineage = match row.try_get::<Option<i64>, _>(2)? {
                Some(object) => Some(Lineage { object, generation: row.try_get(3)?, row: row.try_get(4)? }),
                None => None,
            };
            let (differs, texts): (Vec<bool>, Option<Vec<Option<String>>>) = (row.try_get(5)?, row.try_get(6)?);
            let differing = || (0..).zip(&differs).filter(|(_, differs)| **differs).map(|(at, _): (usize, _)| at);
            let before = lineage.map(|lineage| Before {
                lineage,
                columns: differing().map(|at| columns[at]).collect(),
                first: texts.and_then(|texts| texts.into_iter().nth(differing().next()?)?),
            });
            differences.differing.push(Difference { index, key: row.try_get(1)?, before });
        }
        Ok(differences)
    }
}
