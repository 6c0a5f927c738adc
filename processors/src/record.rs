//! A record on its way from the consumer to the batch: as it is consumed, and as it is validated.

use freshet_sinks::apply::ReceivedRow;
use freshet_sinks::apply::rejects::Refusal;
use freshet_topics::judge::Notes;
use freshet_topics::message::MessageError;
use freshet_topics::{Domain, Kept, Provenance, RawRow};
use uuid::Uuid;

use crate::validate::validate;

/// A record that is no row of a file, or none that this version can read.
pub(crate) const MALFORMED_MESSAGE: &str = "malformed_message";

/// A record as it left the consumer.
#[derive(Debug, Clone)]
pub(crate) enum Consumed {
    /// A row.
    Row {
        /// Where it comes from, or why that cannot be read.
        provenance: Result<Provenance, String>,
        /// The message's value.
        value: Box<[u8]>,
    },
    /// A stream record: it moves the bookmark and nothing else.
    Stream,
}

/// A record with the rules applied to it. Nothing is refused here: a row that cannot load says why.
#[derive(Debug, Clone)]
pub(crate) enum Validated {
    /// A row, to load or to reject.
    Row(Box<ReceivedRow>),
    /// A stream record.
    Stream,
}

/// The value of an ordinary row, in bytes.
const ORDINARY_ROW_BYTES: usize = 1024;

impl Validated {
    /// How much of a batch it fills: one row, and more for a long one, so that a batch is bounded in bytes too.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Validated::Row(row) => 1 + row.raw.len() / ORDINARY_ROW_BYTES,
            Validated::Stream => 1,
        }
    }
}

/// Applies the rules to a record.
pub(crate) fn validated(domain: &'static Domain, partition: i32, offset: i64, consumed: Consumed) -> Validated {
    match consumed {
        Consumed::Row { provenance, value } => {
            Validated::Row(Box::new(received(domain, partition, offset, provenance, value)))
        }
        Consumed::Stream => Validated::Stream,
    }
}

fn received(
    domain: &'static Domain,
    partition: i32,
    offset: i64,
    provenance: Result<Provenance, String>,
    raw: Box<[u8]>,
) -> ReceivedRow {
    let decoded = match &provenance {
        Ok(_) => RawRow::decode(domain, &raw).map_err(|error: MessageError| error.to_string()),
        Err(error) => Err(error.clone()),
    };
    let (outcome, notes, kept) = match decoded {
        Ok(row) => match validate(domain, &row) {
            Ok(accepted) => (Ok(accepted.values), accepted.notes, accepted.kept),
            Err(refusal) => (Err(refusal), Notes::default(), Kept::default()),
        },
        Err(error) => {
            let refusal = Refusal { rule: MALFORMED_MESSAGE, column: None, value: Some(error) };
            (Err(refusal), Notes::default(), Kept::default())
        }
    };
    let provenance = provenance.unwrap_or_else(|_| not_from_a_file(partition, offset));
    ReceivedRow { provenance, offset, raw, outcome, notes, kept }
}

/// A message without an origin stands under object 0, its partition as generation, its offset as row and
/// sequence number, so that it too is rejected exactly once.
fn not_from_a_file(partition: i32, offset: i64) -> Provenance {
    let nonce = Uuid::nil();
    let (object, line, src_ord, parser, partitions) = (0, 0, 0, 0, 0);
    Provenance { object, generation: partition, row: offset, line, src_ord, seq: offset, parser, nonce, partitions }
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;

    #[test]
    fn a_message_that_is_no_row_becomes_a_reject_and_never_an_error() {
        let provenance = Provenance { object: 9, generation: 1, parser: 1, ..not_from_a_file(0, 0) };
        let cases = [
            (Err("header `object` is missing".to_owned()), "{}", 0),
            (Ok(provenance), "not json", 9),
            (Ok(provenance), "[1]", 9),
        ];
        for (origin, value, object) in cases {
            let consumed = Consumed::Row { provenance: origin, value: value.as_bytes().into() };
            let Validated::Row(row) = validated(DOMAINS[0], 3, 41, consumed) else { panic!("{value} is a row") };
            assert_eq!((row.offset, row.provenance.object), (41, object));
            assert_eq!(row.outcome.expect_err("rejected").rule, MALFORMED_MESSAGE);
        }
    }

    #[test]
    fn a_long_row_fills_more_of_a_batch() {
        let of = |bytes: usize| {
            let value = vec![b' '; bytes].into_boxed_slice();
            validated(DOMAINS[0], 0, 0, Consumed::Row { provenance: Err(String::new()), value }).weight()
        };
        assert_eq!((of(0), of(1023), of(1024), of(10_240)), (1, 1, 2, 11));
        assert_eq!(Validated::Stream.weight(), 1);
    }
}
