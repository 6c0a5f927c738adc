//! Dead letters: rows that cannot load, stored whole with their origin and the reason.

use std::collections::BTreeMap;

pub use freshet_topics::judge::Refusal;
use freshet_topics::{Lineage, Provenance};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::destination::Destination;

/// A row that cannot load.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// Where the row comes from.
    pub provenance: Provenance,
    /// Partition of the message.
    pub partition: i32,
    /// Offset of the message.
    pub offset: i64,
    /// The row as the file had it, as JSON.
    pub raw: String,
    /// Why.
    pub refusal: Refusal,
}

/// Values and raw rows are stored up to this many characters: enough for any real row, and a bound on what a hostile
/// file can make Postgres store for each row.
const TEXT_MAX: usize = 64 * 1024;

/// Text in Postgres cannot contain NUL.
fn storable(text: &str) -> String {
    text.chars().filter(|character| *character != '\0').take(TEXT_MAX).collect()
}

/// Inserts rejects as part of a transaction. If a row is rejected again for another reason, the new reject replaces the
/// old one; for the same reason, the old one stays.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    topic: &str,
    rejects: &[Reject],
) -> Result<(), sqlx::Error> {
    if rejects.is_empty() {
        return Ok(());
    }
    let column = |pick: fn(&Reject) -> i64| rejects.iter().map(pick).collect::<Vec<i64>>();
    sqlx::query(AssertSqlSafe(format!(
        r#"INSERT INTO {} AS r
               (domain, topic, object, generation, row, line, partition, "offset", "column", value, rule, raw)
           SELECT DISTINCT ON (u.object, u.generation, u.row) $1, $2, u.*
           FROM UNNEST($3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::text[],
                       $10::text[], $11::text[], $12::text[])
                AS u (object, generation, row, line, partition, "offset", "column", value, rule, raw)
           ON CONFLICT (object, generation, row, domain) DO UPDATE SET
               topic = excluded.topic, line = excluded.line,
               partition = excluded.partition, "offset" = excluded."offset", "column" = excluded."column",
               value = excluded.value, rule = excluded.rule, raw = excluded.raw, rejected_at = now()
           WHERE (r.rule, r."column", r.value) IS DISTINCT FROM (excluded.rule, excluded."column", excluded.value)"#,
        destination.rejects()
    )))
    .bind(domain)
    .bind(topic)
    .bind(column(|reject| reject.provenance.object))
    .bind(column(|reject| reject.provenance.generation.into()))
    .bind(column(|reject| reject.provenance.row))
    .bind(column(|reject| reject.provenance.line))
    .bind(column(|reject| reject.partition.into()))
    .bind(column(|reject| reject.offset))
    .bind(rejects.iter().map(|reject| reject.refusal.column.map(str::to_owned)).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.refusal.value.as_deref().map(storable)).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.refusal.rule.to_owned()).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| storable(&reject.raw)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Objects, generations and rows, as `UNNEST` takes them.
pub(crate) fn unzipped<'a>(rows: impl IntoIterator<Item = &'a Lineage>) -> (Vec<i64>, Vec<i32>, Vec<i64>) {
    rows.into_iter().map(|lineage| (lineage.object, lineage.generation, lineage.row)).collect()
}

/// The rejects among `rows`, with their rule.
pub(crate) async fn among(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    rows: &[Lineage],
) -> Result<BTreeMap<Lineage, String>, sqlx::Error> {
    let (objects, generations, numbers) = unzipped(rows);
    let found: Vec<(i64, i32, i64, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT r.object, r.generation, r.row, r.rule
         FROM UNNEST($2::int8[], $3::int4[], $4::int8[]) AS u (object, generation, row)
         JOIN {} AS r USING (object, generation, row)
         WHERE r.domain = $1",
        destination.rejects()
    )))
    .bind(domain)
    .bind(objects)
    .bind(generations)
    .bind(numbers)
    .fetch_all(connection)
    .await?;
    let rule = |(object, generation, row, rule)| (Lineage { object, generation, row }, rule);
    Ok(found.into_iter().map(rule).collect())
}

/// Deletes rejects that now load.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    rows: &[Lineage],
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (objects, generations, numbers) = unzipped(rows);
    sqlx::query(AssertSqlSafe(format!(
        "DELETE FROM {} AS r USING UNNEST($2::int8[], $3::int4[], $4::int8[]) AS u (object, generation, row)
         WHERE r.domain = $1 AND r.object = u.object AND r.generation = u.generation AND r.row = u.row",
        destination.rejects()
    )))
    .bind(domain)
    .bind(objects)
    .bind(generations)
    .bind(numbers)
    .execute(connection)
    .await?;
    Ok(())
}
