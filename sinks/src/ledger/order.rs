//! The position of an object in its domain's order.

/// Bits of `src_ord` below the second.
const TIE_BITS: u32 = 24;

/// The second that a `src_ord` lies in.
pub fn second_of(src_ord: i64) -> i64 {
    src_ord >> TIE_BITS
}

/// The lowest `src_ord` of a second.
pub fn first_of(second: i64) -> i64 {
    second << TIE_BITS
}

/// The second of an object's position: its own last-modified time, but never before that of the newest version of its
/// key, since what S3 holds now is newer than anything it held before.
pub fn second_for(last_modified_second: i64, key_newest: Option<i64>) -> i64 {
    last_modified_second.max(key_newest.map_or(0, second_of)).max(0)
}

/// The `src_ord` of an object that S3 holds now, from the newest one of its key and the newest one of its domain in the
/// second given by [`second_for`].
///
/// | the key had | the domain has in that second | src_ord |
/// |---|---|---|
/// | nothing | nothing | (second, 0) |
/// | nothing | (second, n) | (second, n + 1) |
/// | an older second | nothing | (second, 0) |
/// | (second, k) | (second, n ≥ k) | (second, n + 1) |
/// | a newer second (a clock stepped back) | (newer, n) | (newer, n + 1) |
/// | (second, k), in another domain | nothing, or n < k | (second, k + 1) |
pub fn assign(second: i64, key_newest: Option<i64>, newest_in_second: Option<i64>) -> i64 {
    let above = |other: Option<i64>| other.map_or(i64::MIN, |other| other + 1);
    first_of(second).max(above(key_newest)).max(above(newest_in_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_stands_above_all_its_key_had_and_beside_its_second() {
        let at = |second: i64, tie: i64| Some(first_of(second) + tie);
        let cases = [
            // (last modified, key newest, domain newest in the second, expected)
            (100, None, None, at(100, 0)),
            (100, None, at(100, 7), at(100, 8)),
            (100, at(99, 3), None, at(100, 0)),
            (100, at(100, 2), at(100, 7), at(100, 8)),
            (100, at(100, 7), at(100, 7), at(100, 8)),
            (100, at(120, 4), at(120, 4), at(120, 5)),
            (100, at(100, 9), None, at(100, 10)),
            (-5, None, None, at(0, 0)),
        ];
        for (last_modified, key_newest, in_second, expected) in cases {
            let second = second_for(last_modified, key_newest);
            assert_eq!(Some(assign(second, key_newest, in_second)), expected, "{last_modified} {key_newest:?}");
        }
    }

    #[test]
    fn later_seconds_stand_above_earlier_ones_whatever_their_ties() {
        assert!(first_of(101) > first_of(100) + (1 << TIE_BITS) - 1);
        assert_eq!(second_of(first_of(1_700_000_000) + 5), 1_700_000_000);
    }
}
