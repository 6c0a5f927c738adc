//! A record as it leaves the consumer.

use bytes::{Bytes, BytesMut};
use freshet_topics::message::packed::Head;
use freshet_topics::stream;
use rdkafka::message::{BorrowedMessage, Message as _};

/// A record as it left the consumer.
#[derive(Debug, Clone)]
pub(crate) enum Consumed {
    /// A record with rows, or with something that is not a row.
    Message(Message),
    /// A stream record: it only moves the bookmark.
    Stream,
}

/// A record that should have rows.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The origin of its rows and how they are packed, or why that cannot be read.
    pub(crate) head: Result<Head, String>,
    /// Its value.
    pub(crate) value: Bytes,
}

/// The value of an ordinary row, in bytes.
const ORDINARY_ROW_BYTES: usize = 1024;

impl Message {
    /// The number of rows according to its head, but never more than bytes.
    pub(crate) fn rows(&self) -> usize {
        let packed = self.head.as_ref().ok().and_then(|head| head.packed.as_ref());
        packed.map_or(1, |packed| packed.rows.min(self.value.len()))
    }

    /// How much of a batch it fills: each row counts one, and long rows more, so that a batch is bounded in bytes too.
    pub(crate) fn weight(&self) -> usize {
        self.rows() + self.value.len() / ORDINARY_ROW_BYTES
    }
}

impl Consumed {
    /// How much of a batch it fills.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Consumed::Message(message) => message.weight(),
            Consumed::Stream => 1,
        }
    }
}

/// Memory is allocated in pieces of this size: for the values of a thousand ordinary messages or more. A piece is freed
/// when all batches with values in it are applied.
const PIECE_BYTES: usize = 256 * 1024;

/// Copies messages out of librdkafka's memory, many values into one piece.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    piece: BytesMut,
}

impl Taker {
    /// The record of a message; `None` if it belongs to an object that was not requested, or to none.
    pub(crate) fn take(&mut self, message: &BorrowedMessage, is_wanted: impl Fn(i64) -> bool) -> Option<Consumed> {
        if stream::stream_id(message.headers()).is_some() {
            return Some(Consumed::Stream);
        }
        let head = Head::from_headers(message.headers()).map_err(|error| error.to_string());
        // Rows of several objects never share a message. Unreadable messages count as object 0.
        let object = head.as_ref().map_or(0, |head| head.first.object);
        is_wanted(object).then(|| {
            let value = self.copy(message.payload().unwrap_or_default());
            Consumed::Message(Message { head, value })
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
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    #[test]
    fn a_long_row_fills_more_of_a_batch_and_a_message_as_much_as_its_rows() {
        let first = "12,1,0,2,3,0,2";
        let of = |rows: Option<usize>, bytes: usize| {
            let head = rows.map(|rows| {
                let header = |key, value| Header { key, value: Some(value) };
                let headers = OwnedHeaders::new().insert(header("pack", first)).insert(header("columns", "id"));
                Head::from_headers(Some(&headers.insert(header("rows", &rows.to_string())))).expect("a head")
            });
            let head = head.ok_or_else(String::new);
            Consumed::Message(Message { head, value: vec![b' '; bytes].into() }).weight()
        };
        let cases = [
            (None, 0, 1),
            (None, 1023, 1),
            (None, 1024, 2),
            (None, 10_240, 11),
            (Some(3), 40, 3),
            (Some(200), 10_240, 210),
            // Whatever its head says, it has no more rows than bytes.
            (Some(usize::MAX), 40, 40),
        ];
        for (rows, bytes, expected) in cases {
            assert_eq!(of(rows, bytes), expected, "{rows:?} {bytes}");
        }
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
