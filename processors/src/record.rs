//! A record on its way from the consumer to the batch: as it is consumed, and as it is validated.

use freshet_sinks::apply::ReceivedRow;
use freshet_sinks::apply::rejects::Refusal;
use freshet_topics::judge::Notes;
use freshet_topics::message::MessageError;
use freshet_topics::message::packed::{Head, Row};
use freshet_topics::{Domain, Kept, Provenance, RawRow};
use uuid::Uuid;

use crate::validate::validate;

/// A record that is no row of a file, or none that this version can read.
pub(crate) const MALFORMED_MESSAGE: &str = "malformed_message";

/// A record as it left the consumer.
#[derive(Debug, Clone)]
pub(crate) enum Consumed {
    /// One row of a file, or several.
    Message {
        /// Where they come from and how they are packed, or why that cannot be read.
        head: Result<Head, String>,
        /// The message's value.
        value: Box<[u8]>,
    },
    /// A stream record: it moves the bookmark and nothing else.
    Stream,
}

/// A record with the rules applied to it. Nothing is refused here: a row that cannot load says why.
#[derive(Debug, Clone)]
pub(crate) enum Validated {
    /// The rows of a message, each to load or to reject. They stay together: a message is applied as a whole.
    Rows(Vec<ReceivedRow>),
    /// A stream record.
    Stream,
}

/// The value of an ordinary row, in bytes.
const ORDINARY_ROW_BYTES: usize = 1024;

impl Validated {
    /// How much of a batch it fills: each row one, and more for a long one, so that a batch is bounded in bytes too.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Validated::Rows(rows) => rows.iter().map(|row| 1 + row.raw.len() / ORDINARY_ROW_BYTES).sum(),
            Validated::Stream => 1,
        }
    }
}

/// Applies the rules to a record.
pub(crate) fn validated(domain: &'static Domain, partition: i32, offset: i64, consumed: Consumed) -> Validated {
    match consumed {
        Consumed::Message { head, value } => Validated::Rows(received(domain, partition, offset, head, value)),
        Consumed::Stream => Validated::Stream,
    }
}

fn received(
    domain: &'static Domain,
    partition: i32,
    offset: i64,
    head: Result<Head, String>,
    value: Box<[u8]>,
) -> Vec<ReceivedRow> {
    let (origin, error) = match head {
        Ok(head) => match unpacked(domain, offset, &head, &value) {
            Ok(rows) => return rows,
            // The row that the message is, and so its number, is known.
            Err(error) if head.packed.is_none() => (Some(head.first), error.to_string()),
            // None of its rows is received: they are sent again, in a message that may be as it should.
            Err(error) => (None, of_object(&head, &error)),
        },
        Err(error) => (None, error),
    };
    let provenance = origin.unwrap_or_else(|| not_from_a_file(partition, offset));
    let refusal = Refusal { rule: MALFORMED_MESSAGE, column: None, value: Some(error) };
    vec![ReceivedRow {
        provenance,
        offset,
        raw: value,
        outcome: Err(refusal),
        notes: Notes::default(),
        kept: Kept::default(),
    }]
}

/// Whose rows a packed message has that cannot be read, and why.
fn of_object(Head { first, packed }: &Head, error: &MessageError) -> String {
    let rows = packed.as_ref().map_or(1, |packed| packed.rows);
    format!("{rows} rows of object {} from row {} on, which are sent again: {error}", first.object, first.row)
}

/// The rows of a message, in their order: all of them or none.
fn unpacked(domain: &'static Domain, offset: i64, head: &Head, value: &[u8]) -> Result<Vec<ReceivedRow>, MessageError> {
    let mut rows = Vec::with_capacity(head.packed.as_ref().map_or(1, |packed| packed.rows.min(value.len())));
    head.for_each_row(domain, value, |provenance, row| {
        let decoded = row.decode(domain)?;
        let (outcome, notes, kept) = match validate(domain, &decoded) {
            Ok(accepted) => (Ok(accepted.values), accepted.notes, accepted.kept),
            Err(refusal) => (Err(refusal), Notes::default(), Kept::default()),
        };
        rows.push(ReceivedRow { provenance, offset, raw: raw(domain, &row, &decoded), outcome, notes, kept });
        Ok(())
    })?;
    Ok(rows)
}

/// The row in the form in which it is kept if it is rejected, which says by itself what its cells are: an object by column
/// name, as it stands in a message of its own.
fn raw(domain: &Domain, row: &Row<'_, '_>, decoded: &RawRow<'_>) -> Box<[u8]> {
    match row {
        Row::Alone(value) => (*value).into(),
        Row::Packed { cells, .. } => {
            let mut raw = Vec::with_capacity(cells.len() * 2);
            decoded.encode(domain, &mut raw);
            raw.into()
        }
    }
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
    use freshet_topics::message::packed::PackedHead;

    use super::*;

    fn origin() -> Provenance {
        Provenance { object: 9, generation: 1, parser: 1, ..not_from_a_file(0, 0) }
    }

    fn alone(first: Provenance) -> Result<Head, String> {
        Ok(Head { first, packed: None })
    }

    fn packed(rows: usize, columns: &str) -> Result<Head, String> {
        Ok(Head { first: origin(), packed: Some(PackedHead { rows, columns: columns.into() }) })
    }

    fn rows(head: Result<Head, String>, value: &str) -> Vec<ReceivedRow> {
        let consumed = Consumed::Message { head, value: value.as_bytes().into() };
        match validated(DOMAINS[0], 3, 41, consumed) {
            Validated::Rows(rows) => rows,
            Validated::Stream => panic!("{value} is a message"),
        }
    }

    #[test]
    fn a_message_that_is_no_row_becomes_a_reject_and_never_an_error() {
        let cases = [
            (Err("header `object` is missing".to_owned()), "{}", 0, ""),
            (alone(origin()), "not json", 9, ""),
            (alone(origin()), "[1]", 9, ""),
            // The rows of a packed one are not taken for received: they are sent again.
            (packed(2, "id"), "[0,2,\"7\"]\nx", 0, "2 rows of object 9 from row 0 on, which are sent again: line 2 of"),
        ];
        for (head, value, object, said) in cases {
            let rows = rows(head, value);
            let [row] = rows.as_slice() else { panic!("{value} is one record") };
            assert_eq!((row.offset, row.provenance.object), (41, object));
            assert_eq!(row.raw.as_ref(), value.as_bytes());
            let refusal = row.outcome.clone().expect_err("rejected");
            assert_eq!(refusal.rule, MALFORMED_MESSAGE);
            assert!(refusal.value.clone().unwrap_or_default().contains(said), "{refusal:?}");
        }
    }

    #[test]
    fn each_row_of_a_packed_message_is_judged_by_itself_and_kept_with_the_names_of_its_cells() {
        let value = "[4,6,\"7\",\"Goa\"]\n[9,12,\"x\",\"Pune\"]\n[10,13,\"8\",null,{\"_extra\":[\"y\"]}]";
        let rows = rows(packed(3, "id,name"), value);
        let place = |row: &ReceivedRow| (row.offset, row.provenance.row, row.provenance.line, row.provenance.seq);
        assert_eq!(rows.iter().map(place).collect::<Vec<_>>(), [(41, 4, 6, 0), (41, 9, 12, 1), (41, 10, 13, 2)]);
        let raw: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(&row.raw)).collect();
        let expected =
            [r#"{"id":"7","name":"Goa"}"#, r#"{"id":"x","name":"Pune"}"#, r#"{"id":"8","name":null,"_extra":["y"]}"#];
        assert_eq!(raw, expected);
        let refused = |row: &ReceivedRow| row.outcome.as_ref().err().map(|refusal| refusal.rule);
        assert_eq!(refused(&rows[2]), Some("extra_cells"));
        assert_eq!(rows[1].outcome.as_ref().expect_err("no number").column, Some("id"));
    }

    #[test]
    fn a_long_row_fills_more_of_a_batch_and_a_message_as_much_as_its_rows() {
        let of = |bytes: usize| {
            let value = vec![b' '; bytes].into_boxed_slice();
            validated(DOMAINS[0], 0, 0, Consumed::Message { head: Err(String::new()), value }).weight()
        };
        assert_eq!((of(0), of(1023), of(1024), of(10_240)), (1, 1, 2, 11));
        let value = "[4,6,\"7\"]\n[9,12,\"x\"]\n[10,13,\"8\"]";
        assert_eq!(Validated::Rows(rows(packed(3, "id"), value)).weight(), 3);
        assert_eq!(Validated::Stream.weight(), 1);
    }
}
