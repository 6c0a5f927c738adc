//! Which rows of an object are lost for good, from the rows published and received.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};

use super::object::Object;
use crate::apply::progress::SeqSet;

/// The most partitions named in a reason; `pipeline.progress` has all of them.
const PARTITIONS_NAMED_MAX: usize = 20;

/// Rows that will never arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// None.
    Nothing,
    /// These rows.
    Rows {
        /// How many.
        count: i64,
        /// Partition and sequence numbers, in Postgres' text form of a multirange, in the order of partitions.
        seqs: Vec<(i32, String)>,
    },
    /// All rows from this one on, and missing rows before it: the object was being published for the first time.
    From {
        /// The first row, from 0.
        row: i64,
        /// Rows received when it was given up; equal to `row` if all rows before it had arrived.
        #[serde(default)]
        received: i64,
    },
    /// The number of rows was never known; this many arrived.
    Unknown {
        /// Rows received.
        received: i64,
    },
}

/// Decides it for an object whose version S3 no longer has.
///
/// | rows per partition known | published up to | received | lost |
/// |---|---|---|---|
/// | yes | – | all | nothing |
/// | yes | – | fewer | those that are missing, by partition |
/// | no | a row later than the first | – | every row from there on, and of those before it what had not arrived |
/// | no | nothing | some (the ledger forgot how far it was) | unknown |
/// | no | nothing | none, in the first reading | nothing: it was never read |
/// | no | nothing | none, in a later one | unknown: what the readings before it brought is another count |
pub fn lost_rows(object: &Object, received: &BTreeMap<i32, SeqSet>) -> Lost {
    let Some(partition_rows) = &object.partition_rows else {
        let count: i64 = received.values().map(SeqSet::len).sum();
        return match (object.resume_row, count) {
            (0, 0) if object.generation == 1 => Lost::Nothing,
            (0, received) => Lost::Unknown { received },
            (row, received) => Lost::From { row, received },
        };
    };
    let mut seqs = Vec::new();
    let mut count = 0;
    for (partition, rows) in (0..).zip(partition_rows) {
        let missing = received.get(&partition).cloned().unwrap_or_default().missing_below(*rows);
        if !missing.is_empty() {
            count += missing.len();
            seqs.push((partition, missing.to_string()));
        }
    }
    if count == 0 { Lost::Nothing } else { Lost::Rows { count, seqs } }
}

impl fmt::Display for Lost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Nothing => formatter.write_str("no rows are missing"),
            Lost::Rows { count, seqs } => {
                let named = seqs.iter().take(PARTITIONS_NAMED_MAX);
                let named: Vec<String> = named.map(|(at, seqs)| format!("partition {at}: seqs {seqs}")).collect();
                let more = if seqs.len() > PARTITIONS_NAMED_MAX { "; …" } else { "" };
                write!(formatter, "{count} rows are missing ({}{more})", named.join("; "))
            }
            Lost::From { row, received } if received < row => write!(
                formatter,
                "the rows from {row} on are missing; of the {row} rows before, {received} were received"
            ),
            Lost::From { row, .. } => write!(formatter, "the rows from {row} on are missing"),
            Lost::Unknown { received } => {
                write!(formatter, "{received} of its rows were received; how many it has is not known")
            }
        }
    }
}

/// The sequence numbers received of the newest generation of an object, by partition.
///
/// # Errors
/// If Postgres does not answer.
pub async fn received(connection: &mut PgConnection, object: &Object) -> Result<BTreeMap<i32, SeqSet>, sqlx::Error> {
    let rows: Vec<(i32, String)> = sqlx::query_as(
        "SELECT partition, received::text FROM pipeline.progress WHERE object = $1 AND generation = $2 AND domain = $3",
    )
    .bind(object.id)
    .bind(object.generation)
    .bind(&object.domain)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(partition, received)| {
            let received = received.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            Ok((partition, received))
        })
        .collect()
}

/// Whether rows of any generation of an object were received.
///
/// # Errors
/// If Postgres does not answer.
pub async fn has_rows(pool: &PgPool, object: &Object) -> Result<bool, sqlx::Error> {
    let any =
        "SELECT EXISTS (SELECT FROM pipeline.progress WHERE object = $1 AND domain = $2 AND NOT isempty(received))";
    sqlx::query_scalar(any).bind(object.id).bind(&object.domain).fetch_one(pool).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> SeqSet {
        text.parse().expect("a set")
    }

    #[test]
    fn what_is_lost_follows_from_rows_and_progress_alone() {
        let object =
            |partition_rows: Option<Vec<i64>>, resume_row| Object { partition_rows, resume_row, ..Object::example() };
        let received =
            |sets: &[(i32, &str)]| sets.iter().map(|(at, text)| (*at, set(text))).collect::<BTreeMap<_, _>>();
        let all = received(&[(0, "{[0,3)}"), (2, "{[0,4)}")]);
        let some = received(&[(2, "{[0,1),[3,4)}")]);
        let rows = Some(vec![3, 0, 4]);
        assert_eq!(lost_rows(&object(rows.clone(), 0), &all), Lost::Nothing);
        let lost = lost_rows(&object(rows, 0), &some);
        assert_eq!(lost.to_string(), "5 rows are missing (partition 0: seqs {[0,3)}; partition 2: seqs {[1,3)})");
        let lost = lost_rows(&object(None, 7), &some);
        assert_eq!(lost.to_string(), "the rows from 7 on are missing; of the 7 rows before, 2 were received");
        assert_eq!(lost_rows(&object(None, 7), &all).to_string(), "the rows from 7 on are missing");
        assert_eq!(lost_rows(&object(None, 0), &some), Lost::Unknown { received: 2 });
        assert_eq!(lost_rows(&object(None, 0), &BTreeMap::new()), Lost::Nothing);
        let later = Object { generation: 2, ..object(None, 0) };
        assert_eq!(lost_rows(&later, &BTreeMap::new()), Lost::Unknown { received: 0 });
    }
}
