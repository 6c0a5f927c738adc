//! Every row of one key that a topic holds, and what the rules of this program say of each: what stands in the table won
//! against the others.
//!
//! It reads the partitions that the key may be in from their beginning, up to the live bookmarks, and moves nothing. What
//! retention has removed it cannot know.

use std::collections::{BTreeMap, BTreeSet};

use freshet_sinks::apply::ReceivedRow;
use freshet_topics::judge::{self, Notes};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::Ends;
use freshet_topics::{Domain, Provenance, RawRow, Value};

use crate::ranges::{self, Range, RangeError, Reading};

/// Rows read at once.
const BATCH_ROWS: usize = 5_000;

/// A row of the key.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Where it comes from.
    pub provenance: Provenance,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why it does not load, if it does not.
    pub refused: Option<Refused>,
    /// Values that were corrected in it, as (column, rule).
    pub corrections: Vec<(&'static str, &'static str)>,
}

/// Why a row does not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The rule.
    pub rule: &'static str,
    /// The column at fault, where one is.
    pub column: Option<&'static str>,
    /// What stood there.
    pub value: Option<String>,
}

/// Where to look: partition → where its log begins and ends, and what is applied of it.
pub type Places = BTreeMap<i32, (Ends, i64)>;

/// The rows of the key, one value for each column of it in the domain's order, in the order of each partition; and how many
/// records were read for it.
///
/// # Errors
/// If Kafka does not give the rows.
pub async fn sent(
    domain: &'static Domain,
    kafka: &KafkaSettings,
    places: &Places,
    key: &[Value],
) -> Result<(Vec<Sent>, i64), RangeError> {
    let range = |(&partition, (ends, bookmark)): (&i32, &(Ends, i64))| Range {
        partition,
        from: ends.low,
        to: ends.high.min(*bookmark).max(ends.low),
    };
    let ranges: Vec<Range> = places.iter().map(range).filter(|range| !range.is_empty()).collect();
    let mut open: BTreeSet<i32> = ranges.iter().map(|range| range.partition).collect();
    let ends: BTreeMap<i32, i64> = ranges.iter().map(|range| (range.partition, range.to)).collect();
    let records = ranges.iter().map(Range::len).sum();
    let reading = Reading { domain, kafka: kafka.clone(), ranges, objects: None, batch_rows_max: BATCH_ROWS };
    let mut batches = ranges::read(reading);
    let mut found = Vec::new();
    while !open.is_empty() {
        // The reader sends an error before it ends early.
        let Some(batch) = batches.recv().await.transpose()? else { break };
        for (partition, records) in batch.partitions {
            found.extend(records.rows.iter().filter(|row| is_of(domain, row, key)).map(|row| told(partition, row)));
            if ends.get(&partition).is_none_or(|end| records.next_offset >= *end) {
                open.remove(&partition);
            }
        }
    }
    Ok((found, records))
}

/// Whether the row is of the key, be it one that loads or not.
fn is_of(domain: &'static Domain, row: &ReceivedRow, key: &[Value]) -> bool {
    let places = domain.key.iter().map(|name| domain.index_of(name));
    if let Ok(values) = &row.outcome {
        return places.zip(key).all(|(place, value)| values[place] == *value);
    }
    let Ok(raw) = RawRow::decode(domain, &row.raw) else { return false };
    raw.stray_quote.is_none()
        && places.zip(key).all(|(place, value)| {
            let cast = judge::cell(&domain.columns[place], &raw.cells[place], &mut Notes::default());
            cast.is_ok_and(|cast| cast == *value)
        })
}

fn told(partition: i32, row: &ReceivedRow) -> Sent {
    let refused = row.outcome.as_ref().err().map(|refusal| Refused {
        rule: refusal.rule,
        column: refusal.column,
        value: refusal.value.clone(),
    });
    let corrections = row.notes.corrections.clone();
    Sent { provenance: row.provenance, partition, offset: row.offset, refused, corrections }
}
