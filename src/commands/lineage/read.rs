//! Reads what the table, the ledger and the topic know about a key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use freshet_processors::lineage::{self, Places, Sent};
use freshet_sinks::bookmarks::{self, Bookmark};
use freshet_sinks::ledger::{ObjectState, on_one_line};
use freshet_topics::judge::{Note, Refusal};
use freshet_topics::log::LogClient;
use freshet_topics::partition::{message_key, partition_of};
use freshet_topics::{Domain, Instead, Lineage, Order, Otherwise, Provenance, Value};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

use super::NotAValue;
use crate::roles::Services;

/// Files, or rows, that are named of many.
const UNREAD_MAX: i64 = 3;

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub(super) struct File {
    /// `pipeline.objects.id`.
    pub(super) id: i64,
    pub(super) key: String,
    pub(super) version_id: Option<String>,
    pub(super) etag: String,
    pub(super) last_modified: DateTime<Utc>,
    /// Where the contract says `onOverwrite: replace`: the newer version by which its rows have left the table.
    pub(super) replaced_by: Option<i64>,
    pub(super) state: ObjectState,
    /// Its rows, once they are known.
    pub(super) rows: Option<i64>,
    /// Rows of it that were judged.
    pub(super) received: i64,
    #[serde(skip)]
    pub(super) nonce: Option<uuid::Uuid>,
}

/// The row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// Every column, as JSON has it.
    pub(super) values: serde_json::Value,
    /// Which row of which object it is.
    #[serde(skip)]
    lineage: Lineage,
    /// The object's place in the order of its domain.
    #[serde(skip)]
    src_ord: i64,
    /// The file; none where the ledger does not know it.
    pub(super) file: Option<File>,
    /// Generation: which reading of the file.
    pub(super) generation: i32,
    /// Data row in it, from 0.
    pub(super) row: i64,
    /// The line on which it begins; none where the topic was not read, or no longer holds it.
    pub(super) line: Option<i64>,
    /// What was corrected in it: rules by column; none where that is not kept and the topic was not read.
    pub(super) corrections: Option<serde_json::Value>,
    /// Columns whose values refer to rows that are not there.
    pub(super) orphan_in: Vec<Dangling>,
}

/// A reference to a row that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Dangling {
    pub(super) column: &'static str,
    pub(super) value: String,
    /// The domain that has no row with the value in its column.
    pub(super) domain: &'static str,
    pub(super) of: &'static str,
}

/// Why a row of the key is not the one in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// The table's row is newer.
    Lost,
    /// The rules of this program refuse it.
    Rejected,
    /// Another ledger, or another life of this one, sent it.
    PassedOver,
    /// A newer version of its file was applied, and the contract says `onOverwrite: replace`.
    Replaced,
    /// It is past the bookmark: the processor has yet to come to it.
    Waiting,
    /// By the rules of this program it should be in the table, but is not: a replay would load it.
    NotThere,
}

/// A row of the key that is not the table's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Other {
    pub(super) fate: Fate,
    pub(super) file: Option<File>,
    pub(super) object: i64,
    pub(super) generation: i32,
    /// The position of its file in the order of its domain: another one than now if the file was sent again as new since.
    #[serde(skip)]
    pub(super) src_ord: i64,
    pub(super) row: i64,
    pub(super) line: i64,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) rule: Option<&'static str>,
    pub(super) column: Option<&'static str>,
    pub(super) value: Option<String>,
}

/// Everything that is known about the key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct KeyLineage {
    pub(super) domain: &'static str,
    pub(super) table: &'static str,
    pub(super) key: BTreeMap<&'static str, String>,
    pub(super) row: Option<Row>,
    /// The other rows of the key that the topic holds, the newest first; none where it was not read.
    pub(super) others: Option<Vec<Other>>,
    /// Records of the topic that were read.
    pub(super) records_read: i64,
    /// Whether the topic still begins where it did: if not, there may have been others.
    pub(super) is_whole: bool,
    /// Partitions that the key may be in and that are halted.
    pub(super) halted: Vec<i32>,
    /// Files of the domain of which not all rows are in the topic yet.
    pub(super) unread: Unread,
}

/// Files that are found and not sent yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Unread {
    pub(super) number: i64,
    /// The first of them.
    pub(super) files: Vec<File>,
}

/// The partitions that the key may be in.
pub(super) struct Topic {
    name: String,
    places: Places,
    halted: Vec<i32>,
}

/// What the topic holds of a key.
pub(super) struct FromTopic {
    sent: Vec<(Sent, Option<File>)>,
    records: i64,
    is_whole: bool,
    halted: Vec<i32>,
}

impl KeyLineage {
    pub(super) fn new(
        domain: &'static Domain,
        key: &[Value<'_>],
        mut row: Option<Row>,
        topic: Option<FromTopic>,
        unread: Unread,
    ) -> KeyLineage {
        let (records_read, is_whole) = topic.as_ref().map_or((0, false), |topic| (topic.records, topic.is_whole));
        let halted = topic.as_ref().map_or_else(Vec::new, |topic| topic.halted.clone());
        let others = topic.map(|topic| {
            let mut others = Vec::new();
            for (sent, file) in topic.sent {
                match &mut row {
                    Some(row) if row.is(&sent) => row.complete(&sent),
                    _ => others.push(other(row.as_ref(), sent, file)),
                }
            }
            // A row that was sent twice is there twice: the first is enough.
            others.sort_by_key(|(order, other): &(_, Other)| (Reverse(*order), other.offset));
            others.dedup_by_key(|(order, _)| *order);
            others.into_iter().map(|(_, other)| other).collect()
        });
        let key = domain.key.iter().copied().zip(key.iter().map(ToString::to_string)).collect();
        KeyLineage {
            domain: domain.name,
            table: domain.table,
            key,
            row,
            others,
            records_read,
            is_whole,
            halted,
            unread,
        }
    }

    /// Whether nothing is known of the key.
    pub(super) fn is_empty(&self) -> bool {
        self.row.is_none() && self.others.as_ref().is_none_or(Vec::is_empty)
    }
}

impl Row {
    /// Whether a row was sent by an earlier reading of the file that this one is from.
    pub(super) fn is_read_again(&self, other: &Other) -> bool {
        other.object == self.lineage.object && other.generation < self.generation
    }

    /// Whether the file was sent again as new after a row of it.
    pub(super) fn is_sent_as_new(&self, other: &Other) -> bool {
        self.is_read_again(other) && other.src_ord < self.src_ord
    }

    fn is(&self, sent: &Sent) -> bool {
        let provenance = &sent.provenance;
        self.lineage == provenance.lineage() && self.src_ord == provenance.src_ord
    }

    fn complete(&mut self, sent: &Sent) {
        self.line = Some(sent.provenance.line);
        if self.corrections.is_none() && !sent.corrections.is_empty() {
            let mut rules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for Note { column, rule } in &sent.corrections {
                rules.entry(column).or_default().push(rule);
            }
            self.corrections = Some(serde_json::json!(rules));
        }
    }
}

/// A row that is not the one in the table, with its position in the order.
fn other(row: Option<&Row>, sent: Sent, file: Option<File>) -> (Order, Other) {
    let Sent { provenance, partition, offset, waits, refused, .. } = sent;
    let order = provenance.order();
    let is_ours =
        file.as_ref().is_some_and(|file| lineage::is_of_ledger(provenance.nonce, file.nonce.unwrap_or_default()));
    let is_newer = |row: &Row| order > Order { src_ord: row.src_ord, generation: row.generation, row: row.row };
    let fate = match (&refused, &file) {
        _ if !is_ours => Fate::PassedOver,
        (Some(_), _) => Fate::Rejected,
        (None, Some(file)) if file.replaced_by.is_some() => Fate::Replaced,
        (None, _) if row.is_none_or(is_newer) && waits => Fate::Waiting,
        (None, _) if row.is_none_or(is_newer) => Fate::NotThere,
        (None, _) => Fate::Lost,
    };
    let (rule, column, value) = match refused {
        Some(Refusal { rule, column, value }) => (Some(rule), column, value),
        None => (None, None, None),
    };
    let Provenance { object, generation, src_ord, row, line, .. } = provenance;
    (order, Other { fate, file, object, generation, src_ord, row, line, partition, offset, rule, column, value })
}

/// The table's row of the key.
pub(super) async fn row(services: &Services, domain: &'static Domain, key: &[Value<'_>]) -> Result<Option<Row>> {
    let pool = &services.pool;
    let conditions = domain.key.iter().enumerate().map(|(at, name)| {
        let sql_type = domain.columns[domain.index_of(name)].cast.sql_type();
        format!("\"{name}\" IS NOT DISTINCT FROM ${}::text::{sql_type}", at + 1)
    });
    let conditions: Vec<String> = conditions.collect();
    let sql = format!(
        "SELECT to_jsonb(t) - '{{src_object,src_gen,src_row,src_ord,value_ord}}'::text[], src_object, src_gen, src_row, src_ord
         FROM \"{}\" t WHERE {}",
        domain.table,
        conditions.join(" AND ")
    );
    let mut query = sqlx::query_as::<_, (serde_json::Value, i64, i32, i64, i64)>(AssertSqlSafe(sql));
    for value in key {
        query = query.bind(match value {
            Value::Null => None,
            value => Some(value.to_string()),
        });
    }
    let Some((values, object, generation, row, src_ord)) = query.fetch_optional(pool).await? else { return Ok(None) };
    let file = files(pool, &[object]).await?.remove(&object);
    let corrections = values.get("corrections").filter(|it| !it.is_null()).cloned();
    let lineage = Lineage { object, generation, row };
    let orphan_in = dangling(services, domain, &values).await.context("look for the rows that it refers to")?;
    Ok(Some(Row { values, lineage, src_ord, file, generation, row, line: None, corrections, orphan_in }))
}

/// The references of a row to rows that are not there.
async fn dangling(
    services: &Services,
    domain: &'static Domain,
    values: &serde_json::Value,
) -> Result<Vec<Dangling>, sqlx::Error> {
    let mut dangling = Vec::new();
    for column in domain.columns {
        let Some(reference) = column.references else { continue };
        let Some(to) = services.config.pipeline.domain(reference.domain) else { continue };
        let value = match &values[column.name] {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let sql = format!(
            "SELECT EXISTS (SELECT FROM \"{}\" t WHERE t.\"{}\" = $1::text::{})",
            to.table,
            reference.column,
            column.cast.sql_type()
        );
        let is_there: bool = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&value).fetch_one(&services.pool).await?;
        if !is_there {
            dangling.push(Dangling { column: column.name, value, domain: to.name, of: reference.column });
        }
    }
    Ok(dangling)
}

/// What is selected of a file, of `o`.
const FILE: &str = "o.id, o.key, o.version_id, o.etag, o.last_modified, o.replaced_by, o.nonce, o.state, o.rows,
    (SELECT coalesce(sum(p.applied + p.stale + p.rejected), 0)::bigint FROM pipeline.progress p
     WHERE p.object = o.id AND p.generation = o.generation) AS received";

async fn files(pool: &PgPool, ids: &[i64]) -> Result<BTreeMap<i64, File>, sqlx::Error> {
    let sql = format!("SELECT {FILE} FROM pipeline.objects o WHERE o.id = ANY ($1)");
    let files: Vec<File> = sqlx::query_as(AssertSqlSafe(sql)).bind(ids).fetch_all(pool).await?;
    Ok(files.into_iter().map(|file| (file.id, file)).collect())
}

/// Files of the domain that are found, and of which rows may not be in the topic yet.
pub(super) async fn unread(pool: &PgPool, domain: &Domain) -> Result<Unread, sqlx::Error> {
    let waiting = "FROM pipeline.objects o WHERE o.domain = $1 AND o.state IN ('discovered', 'publishing')";
    let sql = format!("SELECT {FILE} {waiting} ORDER BY o.src_ord LIMIT $2");
    let files = sqlx::query_as(AssertSqlSafe(sql)).bind(domain.name).bind(UNREAD_MAX).fetch_all(pool).await?;
    let sql = format!("SELECT count(*) {waiting}");
    let number = sqlx::query_scalar(AssertSqlSafe(sql)).bind(domain.name).fetch_one(pool).await?;
    Ok(Unread { number, files })
}

/// Which rows are rejected because of a cell that is no value of the key; of a file that was sent again as new, as it was
/// read last.
pub(super) async fn rejected_with(pool: &PgPool, domain: &Domain, error: &NotAValue) -> Result<String> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT o.key, r.line FROM pipeline.rejects r
         JOIN pipeline.objects o ON o.id = r.object AND o.generation = r.generation
         WHERE r.domain = $1 AND r.rule = $2 AND r.\"column\" = $3 AND coalesce(r.value, '') = $4
         ORDER BY r.object DESC, r.row LIMIT $5",
    )
    .bind(domain.name)
    .bind(error.rule)
    .bind(error.column)
    .bind(&error.text)
    .bind(UNREAD_MAX)
    .fetch_all(pool)
    .await
    .context("look for rejected rows")?;
    if rows.is_empty() {
        return Ok("a row with it is rejected, but there is none so far".to_owned());
    }
    let rows: Vec<String> = rows.iter().map(|(key, line)| format!("{} line {line}", on_one_line(key))).collect();
    Ok(format!("rows with it are rejected, such as {}; see `freshet rejects list {}`", rows.join(", "), domain.name))
}

/// The partitions that the key may be in, and how far they are applied.
pub(super) async fn topic(services: &Services, domain: &'static Domain, key: &[Value<'_>]) -> Result<Topic> {
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let ends =
        LogClient::new(&services.config.kafka).ends(&topic).await.with_context(|| format!("look at topic {topic}"))?;
    let bookmarks = bookmarks::read(&services.pool, domain.name, None).await.context("read the bookmarks")?;
    let wanted =
        partitions(&services.pool, domain, key, ends.len()).await.context("read the partition count of the topic")?;
    let applied = |partition: i32| bookmarks.iter().find(|it| it.partition == partition).map(|it| it.next_offset);
    // What no processor has read yet has no bookmark, and waits from its beginning.
    let places: Places = ends
        .into_iter()
        .filter(|(partition, _)| wanted.contains(partition))
        .map(|(partition, ends)| (partition, (ends, applied(partition).unwrap_or(ends.low))))
        .collect();
    let is_halted = |bookmark: &&Bookmark| wanted.contains(&bookmark.partition) && bookmark.halted.is_some();
    let halted = bookmarks.iter().filter(is_halted).map(|bookmark| bookmark.partition).collect();
    Ok(Topic { name: topic, places, halted })
}

/// What the topic holds of the key.
pub(super) async fn sent(
    services: &Services,
    domain: &'static Domain,
    key: &[Value<'_>],
    topic: &Topic,
    row: Option<&Row>,
) -> Result<FromTopic> {
    let Topic { name, places, halted } = topic;
    let is_whole = places.values().all(|(ends, _)| ends.low == 0);
    let read = lineage::sent(domain, &services.config.kafka, places, key).await;
    let (sent, records) = read.with_context(|| format!("read topic {name}"))?;
    let ids: BTreeSet<i64> =
        sent.iter().map(|sent| sent.provenance.object).chain(row.map(|row| row.lineage.object)).collect();
    let files = files(&services.pool, &ids.into_iter().collect::<Vec<_>>()).await.context("look up the files")?;
    let sent = sent.into_iter().map(|sent| {
        let file = files.get(&sent.provenance.object).cloned();
        (sent, file)
    });
    Ok(FromTopic { sent: sent.collect(), records, is_whole, halted: halted.clone() })
}

/// The partitions that rows of the key were sent to, by all the counts of partitions that the topic has had.
async fn partitions(
    pool: &PgPool,
    domain: &Domain,
    key: &[Value<'_>],
    now: usize,
) -> Result<BTreeSet<i32>, sqlx::Error> {
    let all = 0..i32::try_from(now).unwrap_or(i32::MAX);
    let at = domain.key.iter().position(|name| *name == domain.partition_by);
    let Some(key) = at.and_then(|at| message_key_of(domain, &key[at])) else { return Ok(all.collect()) };
    let counts: Vec<i32> = sqlx::query_scalar(
        "SELECT DISTINCT partition_count FROM pipeline.objects WHERE domain = $1 AND partition_count > 0",
    )
    .bind(domain.name)
    .fetch_all(pool)
    .await?;
    let counts = counts.into_iter().chain([all.end]).filter(|count| *count > 0);
    Ok(counts.map(|count| partition_of(Some(&key), count)).collect())
}

/// The message key of all rows with this value in the partition column; `None` if it follows from the cell, not from the
/// value.
///
/// | value | column | message key |
/// |---|---|---|
/// | a number of 32 bits | neither defaults nor rules that correct | the number, however it was spelled |
/// | the same | with one of them | of whatever the cell had |
/// | the same | with a decimal comma | of the cell: `1.234` is 1234 |
/// | a larger number | any | the text of the cell: `3e9` is not `3000000000` |
/// | text, a date … | any | the text of the cell, with its blanks |
/// | NULL | any | none, or the text of a missing value |
fn message_key_of(domain: &Domain, value: &Value<'_>) -> Option<String> {
    let column = &domain.columns[domain.index_of(domain.partition_by)];
    let number = match value {
        Value::Int(number) => *number,
        Value::BigInt(number) => i32::try_from(*number).ok()?,
        _ => return None,
    };
    let has_default = [column.absent, column.empty, column.uncastable].iter().any(|it| matches!(it, Instead::Value(_)));
    let corrects = |otherwise| matches!(otherwise, Otherwise::Zero | Otherwise::Cap);
    let is_corrected = column.rules.iter().any(|rule| corrects(rule.otherwise))
        || domain.row_rules.iter().any(|rule| rule.column == column.name && corrects(rule.otherwise));
    if column.decimal_comma || has_default || is_corrected { None } else { message_key(&number.to_string()) }
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, Column, DOMAINS, Rule};

    use super::*;

    #[test]
    fn rows_of_a_key_are_looked_for_in_one_partition_only_if_all_spellings_of_it_go_there() {
        let ward = Column::required("ward", Cast::Int);
        let capped: &[Rule] = &[Rule { name: "capped", limits: &[], otherwise: Otherwise::Cap }];
        let seven = Value::Int(7);
        let cases = [
            (ward, seven, Some("7")),
            (Column::required("ward", Cast::BigInt), Value::BigInt(7), Some("7")),
            (Column::required("ward", Cast::BigInt), Value::BigInt(3_000_000_000), None),
            (Column::required("ward", Cast::TrimmedText), Value::Text("AB1"), None),
            (Column::optional("ward", Cast::Int), Value::Null, None),
            (Column { decimal_comma: true, ..ward }, seven, None),
            (Column { absent: Instead::Value(&Value::Int(7)), ..ward }, seven, None),
            (Column { rules: capped, ..ward }, seven, None),
        ];
        for (column, value, expected) in cases {
            let columns = vec![column].leak();
            let domain = Domain { columns, partition_by: "ward", row_rules: &[], ..*DOMAINS[0] };
            assert_eq!(message_key_of(&domain, &value).as_deref(), expected, "{column:?} {value:?}");
        }
    }
}
