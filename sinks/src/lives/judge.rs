//! Whether a row was sent by this ledger, and what it proves if not.

use freshet_topics::Provenance;
use uuid::Uuid;

/// The ledger's entry of an object.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Entry {
    /// Its domain.
    pub domain: String,
    /// Its nonce.
    pub nonce: Uuid,
    /// Its newest generation.
    pub generation: i32,
    /// Its place in the domain's order; earlier readings may have had another.
    pub src_ord: i64,
    /// The parser version that the newest generation is frozen to, once a listener has begun it.
    pub parser_version: Option<i32>,
    /// The partition count that it is frozen to.
    pub partition_count: Option<i32>,
}

/// The verdict on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to a file of the ledger.
    Ours,
    /// Another ledger sent it, or another life of this one.
    PassedOver,
    /// This ledger sent it in its current life but does not know it any more: the ledger went back in time.
    Forgotten,
}

/// The life in which an object was registered, from its nonce; 0 if there were no lives yet.
pub fn life_of(nonce: Uuid) -> i64 {
    nonce.as_u64_pair().0.cast_signed()
}

/// Decides what a row of `domain`'s topic is to a ledger in the life `current` that has `entry` under the row's object
/// id.
///
/// A listener registers an object, opens a generation and freezes it in transactions that commit before its first row
/// is sent. So this ledger knows everything that it sent, unless it went back in time.
///
/// | the row's object | its reading | the row's life | verdict |
/// |---|---|---|---|
/// | 0: a message that is not a row of a file | – | – | ours |
/// | known: same nonce and domain | older than the ledger's | – | ours |
/// | known | the ledger's, numbered alike: same `src_ord`, parser, partition count (or it does not say) | – | ours |
/// | known | the ledger's, numbered otherwise, or not begun yet by what the ledger knows | current | forgotten |
/// | known | newer than the ledger's | current | forgotten |
/// | id unknown, or of an object with another nonce | – | current | forgotten |
/// | same nonce, another domain | – | – | passed over |
/// | any other nonce | – | an ended or unknown life | passed over |
pub fn judge(row: &Provenance, domain: &str, entry: Option<&Entry>, current: i64) -> Verdict {
    if row.object == 0 {
        return Verdict::Ours;
    }
    let known = entry.filter(|entry| entry.nonce == row.nonce);
    if known.is_some_and(|entry| entry.domain != domain) {
        return Verdict::PassedOver;
    }
    match known {
        Some(entry) if row.generation < entry.generation => Verdict::Ours,
        Some(entry) if row.generation == entry.generation && is_numbered_alike(row, entry) => Verdict::Ours,
        _ if life_of(row.nonce) == current => Verdict::Forgotten,
        _ => Verdict::PassedOver,
    }
}

/// Whether a row of the newest generation was numbered with the parser and partition count of the ledger.
fn is_numbered_alike(row: &Provenance, entry: &Entry) -> bool {
    let same_partitions = row.partitions == 0 || entry.partition_count == Some(row.partitions);
    row.src_ord == entry.src_ord && entry.parser_version == Some(row.parser) && same_partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: u64 = 0xd00d_4000_0000_0001;
    const ENDED: u64 = 0xbeef_4000_0000_0002;

    fn row(life: u64, lower: u64) -> Provenance {
        Provenance {
            object: 7,
            generation: 2,
            row: 0,
            line: 2,
            src_ord: 50,
            seq: 0,
            parser: 1,
            nonce: Uuid::from_u64_pair(life, lower),
            partitions: 4,
        }
    }

    fn entry(life: u64, lower: u64) -> Entry {
        Entry {
            domain: "health".into(),
            nonce: Uuid::from_u64_pair(life, lower),
            generation: 2,
            src_ord: 50,
            parser_version: Some(1),
            partition_count: Some(4),
        }
    }

    #[test]
    fn a_row_counts_only_where_the_ledger_knows_the_very_reading_it_is_of() {
        use Verdict::{Forgotten, Ours, PassedOver};
        let (now, then) = (|| row(CURRENT, 1), || row(ENDED, 1));
        let here = || entry(CURRENT, 1);
        let cases: Vec<(&str, Provenance, Option<Entry>, Verdict)> = vec![
            ("no row of a file", Provenance { object: 0, nonce: Uuid::nil(), ..now() }, None, Ours),
            ("known", now(), Some(here()), Ours),
            ("known, of an ended life", then(), Some(entry(ENDED, 1)), Ours),
            ("from before lives", row(0, 0), Some(entry(0, 0)), Ours),
            (
                "an older reading, placed elsewhere",
                Provenance { generation: 1, src_ord: 9, ..now() },
                Some(here()),
                Ours,
            ),
            ("partitions not said", Provenance { partitions: 0, ..now() }, Some(here()), Ours),
            ("placed elsewhere", Provenance { src_ord: 51, ..now() }, Some(here()), Forgotten),
            ("placed elsewhere, ended", Provenance { src_ord: 51, ..then() }, Some(entry(ENDED, 1)), PassedOver),
            ("another parser", Provenance { parser: 2, ..now() }, Some(here()), Forgotten),
            ("other partitions", Provenance { partitions: 6, ..now() }, Some(here()), Forgotten),
            ("not begun", now(), Some(Entry { parser_version: None, partition_count: None, ..here() }), Forgotten),
            ("a newer reading", Provenance { generation: 3, ..now() }, Some(here()), Forgotten),
            ("a newer reading, ended", Provenance { generation: 3, ..then() }, Some(entry(ENDED, 1)), PassedOver),
            ("unknown", now(), None, Forgotten),
            ("the id is another's", now(), Some(entry(CURRENT, 2)), Forgotten),
            ("unknown, of an ended life", then(), None, PassedOver),
            ("the id is another's, ended", then(), Some(here()), PassedOver),
            ("from before lives, unknown", row(0, 0), None, PassedOver),
            ("from before lives, the id is another's", row(0, 0), Some(here()), PassedOver),
            ("another domain's", now(), Some(Entry { domain: "climate".into(), ..here() }), PassedOver),
        ];
        for (name, row, entry, verdict) in cases {
            assert_eq!(judge(&row, "health", entry.as_ref(), CURRENT.cast_signed()), verdict, "{name}");
        }
    }
}
