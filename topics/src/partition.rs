//! Which partition a row goes to: a pure function of its location, so that all rows of a key, from any file, are
//! ordered in one partition.

use crate::cast;

/// The Kafka message key for a raw location id: its canonical integer if it casts (`1`, `01` and `1.0` are the same),
/// else its raw text, else none.
pub fn message_key(raw: &str) -> Option<String> {
    if let Some(cast) = cast::int(raw) {
        return Some(cast.value.to_string());
    }
    (!cast::is_blank(raw) && raw.len() <= KEY_BYTES_MAX).then(|| raw.to_owned())
}

/// A longer raw location id is not used as key: such a row is rejected anyway, and Kafka limits key and value together.
const KEY_BYTES_MAX: usize = 1024;

/// The partition of a message key among `count`: murmur2 as Kafka's Java clients have it, masked to a positive
/// number; a message without a key goes to partition 0.
pub fn partition_of(key: Option<&str>, count: i32) -> i32 {
    debug_assert!(count > 0, "a topic has at least one partition");
    match key {
        None => 0,
        Some(key) => {
            let positive = murmur2(key.as_bytes()) & 0x7fff_ffff;
            // Both operands are non-negative and the remainder is below `count`, so it fits.
            (positive % count.unsigned_abs()) as i32
        }
    }
}

/// MurmurHash2 with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ (data.len() as u32);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafkas_java_client() {
        let cases: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text:?}");
        }
    }

    #[test]
    fn spellings_of_one_location_share_a_key() {
        let cases = [
            ("1", Some("1")),
            ("01", Some("1")),
            (" 1.0 ", Some("1")),
            ("+1", Some("1")),
            ("x7", Some("x7")),
            (&"x".repeat(KEY_BYTES_MAX + 1), None),
            ("", None),
            ("  ", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(message_key(raw).as_deref(), expected, "{raw:?}");
        }
    }

    #[test]
    fn a_row_without_a_key_goes_to_partition_zero() {
        assert_eq!(partition_of(None, 12), 0);
        for count in 1..=64 {
            for key in 0..100 {
                assert!((0..count).contains(&partition_of(Some(&key.to_string()), count)));
            }
        }
    }
}
