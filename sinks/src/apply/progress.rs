//! Which rows of an object were received: a set of sequence numbers per (object, generation, partition), and counts of
//! what happened to them.
//!
//! Sequence numbers are a pure function of the file's bytes, so a row that is published twice has the same number both
//! times: it is a duplicate, which is counted and skipped. Nothing waits for a gap; a sweep finds it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::destination::Destination;

/// A set of sequence numbers, stored as ordered half-open ranges: nearly always one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SeqSet {
    ranges: Vec<(i64, i64)>,
}

impl SeqSet {
    /// Adds a number; false if it was there before.
    ///
    /// | set | add | after |
    /// |---|---|---|
    /// | {} | 0 | {[0,1)} |
    /// | {[0,3)} | 3 | {[0,4)} |
    /// | {[0,3)} | 1 | duplicate |
    /// | {[0,3),[4,6)} | 3 | {[0,6)} |
    pub fn insert(&mut self, seq: i64) -> bool {
        // The first range that ends at or after `seq`: the only one that can contain it or be extended by it.
        let at = self.ranges.partition_point(|&(_, end)| end < seq);
        let joins_next =
            |ranges: &[(i64, i64)], index: usize| ranges.get(index).is_some_and(|&(start, _)| start == seq + 1);
        match self.ranges.get(at).copied() {
            Some((start, end)) if start <= seq && seq < end => return false,
            Some((_, end)) if end == seq => {
                self.ranges[at].1 = seq + 1;
                if joins_next(&self.ranges, at + 1) {
                    self.ranges[at].1 = self.ranges.remove(at + 1).1;
                }
            }
            _ if joins_next(&self.ranges, at) => self.ranges[at].0 = seq,
            _ => self.ranges.insert(at, (seq, seq + 1)),
        }
        true
    }

    /// How many numbers the set holds.
    pub fn len(&self) -> i64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The numbers from 0 up to `end` (exclusive) that the set does not contain.
    ///
    /// | set | below 5 |
    /// |---|---|
    /// | {} | {[0,5)} |
    /// | {[0,2),[3,4)} | {[2,3),[4,5)} |
    /// | {[0,9)} | {} |
    pub fn missing_below(&self, end: i64) -> SeqSet {
        let mut missing = SeqSet::default();
        let mut from = 0;
        for &(start, stop) in self.ranges.iter().chain(&[(end, end)]) {
            if from < start.min(end) {
                missing.ranges.push((from, start.min(end)));
            }
            from = from.max(stop);
        }
        missing
    }
}

/// The text form of Postgres' `int8multirange`: `{[0,5),[7,9)}`.
impl fmt::Display for SeqSet {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("{")?;
        for (index, (start, end)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}[{start},{end})")?;
        }
        formatter.write_str("}")
    }
}

/// The text is not a multirange of half-open ranges.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an int8multirange of half-open ranges")]
pub struct ParseSeqSetError(String);

impl FromStr for SeqSet {
    type Err = ParseSeqSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSeqSetError(text.to_owned());
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(error)?;
        let ranges = inner
            .split_terminator("),")
            .map(|range| {
                let (start, end) = range.strip_prefix('[')?.trim_end_matches(')').split_once(',')?;
                Some((start.parse().ok()?, end.parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(error)?;
        Ok(SeqSet { ranges })
    }
}

/// One generation of one object in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// `pipeline.objects.id`.
    pub object: i64,
    /// The generation.
    pub generation: i32,
    /// The partition.
    pub partition: i32,
}

/// What a batch adds to the counts of a [`Part`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows written to the table.
    pub applied: i64,
    /// Rows that lost to newer data.
    pub stale: i64,
    /// Rows received before.
    pub duplicate: i64,
    /// Rows that cannot load.
    pub rejected: i64,
    /// Changes made to values.
    pub corrected: i64,
    /// The same by `column:rule`, including values that broke a rule and loaded anyway.
    pub corrections: BTreeMap<String, i64>,
}

impl Counts {
    /// Counts one correction.
    pub fn correct(&mut self, column: &str, rule: &str) {
        self.corrected += 1;
        *self.corrections.entry(format!("{column}:{rule}")).or_default() += 1;
    }

    /// Counts one value that breaks a rule but loads anyway.
    pub fn warn(&mut self, column: &str, rule: &str) {
        *self.corrections.entry(format!("{column}:{rule}")).or_default() += 1;
    }
}

/// The received set of a part, with what this batch adds to its counts.
#[derive(Debug, Clone, Default)]
pub struct PartProgress {
    /// Every sequence number received so far.
    pub received: SeqSet,
    /// This batch's additions.
    pub added: Counts,
    stored_corrections: BTreeMap<String, i64>,
}

/// Reads the progress of the parts in a batch. The bookmark locks of the transaction exclude all other writers of these
/// partitions.
pub(crate) async fn load(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    parts: &[Part],
) -> Result<BTreeMap<Part, PartProgress>, sqlx::Error> {
    let mut progress: BTreeMap<Part, PartProgress> =
        parts.iter().map(|part| (*part, PartProgress::default())).collect();
    if parts.is_empty() {
        return Ok(progress);
    }
    let (objects, generations, partitions) = columns(parts.iter());
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT p.object, p.generation, p.partition, p.received::text, p.corrections
         FROM UNNEST($1::int8[], $2::int4[], $3::int4[]) AS u (object, generation, partition)
         JOIN {} AS p USING (object, generation, partition)
         WHERE p.domain = $4",
        destination.progress()
    )))
    .bind(objects)
    .bind(generations)
    .bind(partitions)
    .bind(domain)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let part = Part { object: row.try_get(0)?, generation: row.try_get(1)?, partition: row.try_get(2)? };
        let received: String = row.try_get(3)?;
        let Json(stored_corrections) = row.try_get(4)?;
        let received = received.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        progress.insert(part, PartProgress { received, added: Counts::default(), stored_corrections });
    }
    Ok(progress)
}

/// Writes the progress: the received set as it is now, and the counts added.
pub(crate) async fn save(
    connection: &mut PgConnection,
    destination: Destination,
    domain: &str,
    progress: &BTreeMap<Part, PartProgress>,
) -> Result<(), sqlx::Error> {
    if progress.is_empty() {
        return Ok(());
    }
    let (objects, generations, partitions) = columns(progress.keys());
    let all = || progress.values();
    let count = |pick: fn(&Counts) -> i64| all().map(|part| pick(&part.added)).collect::<Vec<i64>>();
    let corrections: Vec<Json<BTreeMap<String, i64>>> = all()
        .map(|part| {
            let mut merged = part.stored_corrections.clone();
            for (rule, added) in &part.added.corrections {
                *merged.entry(rule.clone()).or_default() += added;
            }
            Json(merged)
        })
        .collect();
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO {} AS p
             (domain, object, generation, partition, received, applied, stale, duplicate, rejected, corrected, corrections)
         SELECT $1, u.object, u.generation, u.partition, u.received::int8multirange,
                u.applied, u.stale, u.duplicate, u.rejected, u.corrected, u.corrections
         FROM UNNEST($2::int8[], $3::int4[], $4::int4[], $5::text[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
                     $10::int8[], $11::jsonb[])
              AS u (object, generation, partition, received, applied, stale, duplicate, rejected, corrected, corrections)
         ON CONFLICT (object, generation, partition, domain) DO UPDATE SET
             received = excluded.received,
             applied = p.applied + excluded.applied,
             stale = p.stale + excluded.stale,
             duplicate = p.duplicate + excluded.duplicate,
             rejected = p.rejected + excluded.rejected,
             corrected = p.corrected + excluded.corrected,
             corrections = excluded.corrections,
             updated_at = now()",
        destination.progress()
    )))
    .bind(domain)
    .bind(objects)
    .bind(generations)
    .bind(partitions)
    .bind(all().map(|part| part.received.to_string()).collect::<Vec<_>>())
    .bind(count(|counts| counts.applied))
    .bind(count(|counts| counts.stale))
    .bind(count(|counts| counts.duplicate))
    .bind(count(|counts| counts.rejected))
    .bind(count(|counts| counts.corrected))
    .bind(corrections)
    .execute(connection)
    .await?;
    Ok(())
}

fn columns<'a>(parts: impl Iterator<Item = &'a Part>) -> (Vec<i64>, Vec<i32>, Vec<i32>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        columns.0.push(part.object);
        columns.1.push(part.generation);
        columns.2.push(part.partition);
    }
    columns
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequence_numbers_join_into_ranges() {
        let cases: [(&[i64], &str); 7] = [
            (&[], "{}"),
            (&[0], "{[0,1)}"),
            (&[0, 1, 2], "{[0,3)}"),
            (&[2, 1, 0], "{[0,3)}"),
            (&[0, 2], "{[0,1),[2,3)}"),
            (&[0, 2, 1], "{[0,3)}"),
            (&[5, 0, 9, 1, 8], "{[0,2),[5,6),[8,10)}"),
        ];
        for (seqs, expected) in cases {
            let mut set = SeqSet::default();
            for seq in seqs {
                assert!(set.insert(*seq), "{seqs:?}");
            }
            for seq in seqs {
                assert!(!set.insert(*seq), "{seq} is a duplicate in {seqs:?}");
            }
            assert_eq!(set.to_string(), expected);
            assert_eq!(expected.parse::<SeqSet>().expect("parse"), set);
        }
        for bad in ["", "{", "{(0,1)}", "{[a,1)}", "[0,1)"] {
            assert!(bad.parse::<SeqSet>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_seq_set_holds_what_a_set_of_numbers_holds(seqs in prop::collection::vec(0i64..40, 0..200)) {
            let (mut set, mut reference) = (SeqSet::default(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(set.insert(seq), reference.insert(seq));
                prop_assert_eq!(set.len(), reference.len() as i64);
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
            prop_assert_eq!(set.to_string().parse::<SeqSet>().expect("parse"), set);
        }
    }
}
