//! A record as it leaves the consumer.

use bytes::{Bytes, BytesMut};
use freshet_topics::{Provenance, stream};
use rdkafka::message::{BorrowedMessage, Message};

/// A record as it left the consumer.
#[derive(Debug, Clone)]
pub(crate) enum Consumed {
    /// One with rows, or with something that is none.
    Row(Row),
    /// A stream record: it moves the bookmark and nothing else.
    Stream,
}

/// A record that should have rows.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Where they come from, or why that cannot be read.
    pub(crate) provenance: Result<Provenance, String>,
    /// The message's value.
    pub(crate) value: Bytes,
}

/// The value of an ordinary row, in bytes.
const ORDINARY_ROW_BYTES: usize = 1024;

impl Consumed {
    /// How much of a batch it fills: one row, and more for a long one, so that a batch is bounded in bytes too.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Consumed::Row(row) => 1 + row.value.len() / ORDINARY_ROW_BYTES,
            Consumed::Stream => 1,
        }
    }
}

/// Memory is asked for in pieces of so many bytes: for the values of a thousand ordinary messages or more. A piece is
/// freed when all batches with values in it are applied.
const PIECE_BYTES: usize = 256 * 1024;

/// Takes messages out of librdkafka's memory, many values into one piece of our own.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    piece: BytesMut,
}

impl Taker {
    /// The record of a message. One of other objects than those that are asked for, or of none, is `None`.
    pub(crate) fn take(&mut self, message: &BorrowedMessage, is_wanted: impl Fn(i64) -> bool) -> Option<Consumed> {
        if stream::stream_id(message.headers()).is_some() {
            return Some(Consumed::Stream);
        }
        let provenance = Provenance::from_headers(message.headers()).map_err(|error| error.to_string());
        // Object 0 is nobody's, as what cannot be read is.
        let object = provenance.as_ref().map_or(0, |provenance| provenance.object);
        is_wanted(object).then(|| {
            let value = self.copy(message.payload().unwrap_or_default());
            Consumed::Row(Row { provenance, value })
        })
    }

    fn copy(&mut self, value: &[u8]) -> Bytes {
        if self.piece.capacity() < value.len() {
            self.piece = BytesMut::with_capacity(PIECE_BYTES.max(value.len()));
        }
        self.piece.extend_from_slice(value);
        self.piece.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_row_fills_more_of_a_batch() {
        let of = |bytes: usize| {
            Consumed::Row(Row { provenance: Err(String::new()), value: vec![b' '; bytes].into() }).weight()
        };
        assert_eq!((of(0), of(1023), of(1024), of(10_240)), (1, 1, 2, 11));
        assert_eq!(Consumed::Stream.weight(), 1);
    }

    #[test]
    fn values_are_taken_whole_however_they_lie_in_their_pieces() {
        let mut taker = Taker::default();
        let sizes = [0, 10, PIECE_BYTES - 20, 30, PIECE_BYTES + 1, 7, PIECE_BYTES];
        let values: Vec<Vec<u8>> = sizes.iter().zip(b'a'..).map(|(size, letter)| vec![letter; *size]).collect();
        let taken: Vec<Bytes> = values.iter().map(|value| taker.copy(value)).collect();
        assert_eq!(taken, values);
    }
}
