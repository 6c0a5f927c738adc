//! The advisory locks that freshet takes in Postgres, each as the statement that takes it.
//!
//! | lock | hash of | seed | only one at a time may | taken |
//! |---|---|---|---|---|
//! | [`KEYS`] | bucket, `/`, key | 0 | register versions of the key | sorted |
//! | [`ORDER`] | `freshet order of ` domain | 1 | give a place in the domain's order | after [`KEYS`] |
//! | [`REPLACE`] | `freshet replace in ` domain | 2 | mark versions as replaced | first |
//! | [`REPLACE_SHARED`] | the same | 2 | apply batches, but then many may | after [`MOVED`] and the bookmarks |
//! | [`REPLAY`] | `freshet replay of ` domain | 2 | replay the domain | alone, in a session of its own |
//! | [`SETUP`] | `freshet setup` | 3 | set tables up | first |
//! | [`MOVED`] | `freshet rows that move in ` domain | 4 | move rows to another date | before the bookmarks |
//! | [`LIVES`] | no text: `frshlife` in ASCII | | begin a life of the ledger | after [`REPLACE_SHARED`] |
//!
//! All but [`REPLAY`] are held until the end of their transaction. No text, seed or number may change: during an upgrade,
//! processes of two versions must still exclude each other.

/// Keys `$2` of bucket `$1`. Sorted, so that two transactions never wait for each other in a circle.
pub(crate) const KEYS: &str = "SELECT pg_advisory_xact_lock(locks.id) FROM (
            SELECT DISTINCT hashtextextended($1 || '/' || key, 0) AS id FROM UNNEST($2::text[]) AS k (key) ORDER BY 1
         ) AS locks";

/// Domain `$1`.
pub(crate) const ORDER: &str = "SELECT pg_advisory_xact_lock(hashtextextended('freshet order of ' || $1, 1))";

/// Domain `$1`, exclusively.
pub(crate) const REPLACE: &str = "SELECT pg_advisory_xact_lock(hashtextextended('freshet replace in ' || $1, 2))";

/// Domain `$1`, shared by those who apply batches.
pub(crate) const REPLACE_SHARED: &str =
    "SELECT pg_advisory_xact_lock_shared(hashtextextended('freshet replace in ' || $1, 2))";

/// Domain `$1`; does not wait, and returns whether the session has the lock.
pub(crate) const REPLAY: &str = "SELECT pg_try_advisory_lock(hashtextextended('freshet replay of ' || $1, 2))";

/// The database.
pub(crate) const SETUP: &str = "SELECT pg_advisory_xact_lock(hashtextextended('freshet setup', 3))";

/// Domain `$1`.
pub(crate) const MOVED: &str = "SELECT pg_advisory_xact_lock(hashtextextended('freshet rows that move in ' || $1, 4))";

/// The ledger.
pub(crate) const LIVES: &str = "SELECT pg_advisory_xact_lock(7382089631546304101)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_lives_is_its_name_in_ascii() {
        let id = i64::from_be_bytes(*b"frshlife");
        assert!(LIVES.contains(&format!("({id})")), "{id} in {LIVES}");
    }
}
