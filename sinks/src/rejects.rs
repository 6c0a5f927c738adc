//! Dead letters: rows that cannot load, kept whole with where they came from and why.

use freshet_topics::Provenance;
use sqlx::PgConnection;

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

/// Why a row cannot load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that refuses it: `required_empty`, `uncastable`, `negative`, `extra_cells`, `refused_by_database`, …
    pub rule: &'static str,
    /// The column at fault, where one is.
    pub column: Option<&'static str>,
    /// What stood there, or what the database said.
    pub value: Option<String>,
}

/// Values and raw rows are kept up to this many characters: enough for any real row, and a bound on what a
/// hostile file can make Postgres hold per row.
const TEXT_MAX: usize = 64 * 1024;

/// Postgres' text has no NUL.
fn storable(text: &str) -> String {
    text.chars().filter(|character| *character != '\0').take(TEXT_MAX).collect()
}

/// Inserts rejects as part of the transaction `apply`. A row rejected again (by a replay) replaces what was
/// said of it before.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    domain: &str,
    topic: &str,
    rejects: &[Reject],
) -> Result<(), sqlx::Error> {
    if rejects.is_empty() {
        return Ok(());
    }
    let column = |pick: fn(&Reject) -> i64| rejects.iter().map(pick).collect::<Vec<i64>>();
    sqlx::query(
        r#"INSERT INTO pipeline.rejects
               (domain, topic, object, generation, row, line, partition, "offset", "column", value, rule, raw)
           SELECT DISTINCT ON (u.object, u.generation, u.row) $1, $2, u.*
           FROM UNNEST($3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::text[],
                       $10::text[], $11::text[], $12::text[])
                AS u (object, generation, row, line, partition, "offset", "column", value, rule, raw)
           ON CONFLICT (object, generation, row) DO UPDATE SET
               domain = excluded.domain, topic = excluded.topic, line = excluded.line,
               partition = excluded.partition, "offset" = excluded."offset", "column" = excluded."column",
               value = excluded.value, rule = excluded.rule, raw = excluded.raw, rejected_at = now()"#,
    )
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
