//! Finds every row of one key in a topic, with the verdict of the present rules on each; the row in the table won over
//! the others.
//!
//! It reads the partitions that may contain the key from their beginning to their end, and moves no bookmark. A row past
//! the live bookmark waits to be applied. Rows removed by retention cannot be found.

use std::collections::{BTreeMap, BTreeSet};

use freshet_sinks::apply::{Origin, ReceivedRow};
use freshet_topics::judge::{self, Note, Notes, Refusal};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::Ends;
use freshet_topics::{Domain, Provenance, RawRow, Value};
use uuid::Uuid;

use crate::ranges::{self, LOOKUP_BATCH_ROWS, Range, RangeError, Reading};

/// A row of the key.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Where it comes from.
    pub provenance: Provenance,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Whether it is past the bookmark, so that it waits for the processor.
    pub waits: bool,
    /// Why it does not load, if it does not.
    pub refused: Option<Refusal>,
    /// Its corrections.
    pub corrections: Vec<Note>,
}

/// Where to look: partition → the ends of its log, and how far it is applied.
pub type Places = BTreeMap<i32, (Ends, i64)>;

/// The rows of the key, in the order of each partition, and how many records were read for them. The key has one value
/// for each of its columns, in the domain's order.
///
/// # Errors
/// If Kafka does not deliver the rows.
pub async fn sent(
    domain: &'static Domain,
    kafka: &KafkaSettings,
    places: &Places,
    key: &[Value<'_>],
) -> Result<(Vec<Sent>, i64), RangeError> {
    let range = |(&partition, (ends, _)): (&i32, &(Ends, i64))| Range {
        partition,
        from: ends.low,
        to: ends.high.max(ends.low),
    };
    let ranges: Vec<Range> = places.iter().map(range).filter(|range| !range.is_empty()).collect();
    let mut open: BTreeSet<i32> = ranges.iter().map(|range| range.partition).collect();
    let ends: BTreeMap<i32, i64> = ranges.iter().map(|range| (range.partition, range.to)).collect();
    let records = ranges.iter().map(Range::len).sum();
    let reading = Reading { domain, kafka: kafka.clone(), ranges, objects: None, batch_rows_max: LOOKUP_BATCH_ROWS };
    let mut batches = ranges::read(reading);
    let mut found = Vec::new();
    while !open.is_empty() {
        // The reader sends an error before it ends early.
        let Some(batch) = batches.recv().await.transpose()? else { break };
        let rows = (0..batch.rows.origins.len()).map(|at| batch.rows.row(at));
        found.extend(rows.filter(|row| is_of(domain, row, key)).map(|row| sent_row(&row, places)));
        for (partition, offsets) in batch.partitions {
            if ends.get(&partition).is_none_or(|end| offsets.next >= *end) {
                open.remove(&partition);
            }
        }
    }
    Ok((found, records))
}

/// Whether a row with that nonce is of the object with the other one, and not of one with the same id in another life of
/// the ledger. A nil nonce is from before there were nonces.
pub fn is_of_ledger(row: Uuid, object: Uuid) -> bool {
    row.is_nil() || object.is_nil() || row == object
}

/// Whether the row has this key, whether it loads or not.
fn is_of(domain: &'static Domain, row: &ReceivedRow<'_>, key: &[Value<'_>]) -> bool {
    let places = domain.key.iter().map(|name| domain.index_of(name));
    if row.refusal().is_none() {
        let values = &row.rows().judged.values;
        return places.zip(key).all(|(place, value)| values.get(place, row.at()) == *value);
    }
    let Ok(raw) = RawRow::decode(domain, row.origin().raw.to_text().as_bytes()) else { return false };
    raw.stray_quote.is_none()
        && places.zip(key).all(|(place, value)| {
            let mut notes = Notes::default();
            let cast = judge::cell(&domain.columns[place], &raw.cells[place], &mut notes);
            cast.is_ok_and(|cast| cast == *value)
        })
}

fn sent_row(row: &ReceivedRow<'_>, places: &Places) -> Sent {
    let Origin { partition, offset, provenance, .. } = *row.origin();
    let corrections = row.rows().judged.corrections.of(row.at()).iter().map(|(_, note)| *note).collect();
    let waits = places.get(&partition).is_some_and(|(_, bookmark)| offset >= *bookmark);
    Sent { provenance, partition, offset, waits, refused: row.refusal().cloned(), corrections }
}
