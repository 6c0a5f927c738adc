//! How the ledger that published the outputs relates to this one.

/// How the ledger of a published manifest relates to the ledger of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same life: epochs and bookmarks compare.
    Same,
    /// An earlier life of this ledger, or another ledger altogether: nothing compares, and everything is derived from
    /// the tables again.
    Other,
    /// A later life that this ledger does not know: these tables were restored from a backup taken before it, or belong
    /// to a database that another one was promoted to replace.
    Later,
}

/// Compares the lives in a manifest with the ledger's own, both oldest first.
///
/// | the manifest's | the ledger's | relation |
/// |---|---|---|
/// | none: an earlier version published it | any | same |
/// | …, a | …, a | same |
/// | …, a | …, a, b | other: this ledger has begun a new life |
/// | …, a, b | …, a | later |
/// | …, a, b | …, a, c | other: both went on from one backup |
/// | a | b | other: a recreated database |
pub fn relation(published: &[String], own: &[String]) -> Relation {
    match (published.split_last(), own.last()) {
        (None, _) => Relation::Same,
        (Some((last, _)), Some(current)) if last == current => Relation::Same,
        (Some((_, earlier)), Some(current)) if earlier.contains(current) => Relation::Later,
        _ => Relation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_compared_within_one_life_only() {
        let lives = |text: &str| text.chars().map(|one| one.to_string()).collect::<Vec<_>>();
        let cases = [
            ("", "a", Relation::Same),
            ("a", "a", Relation::Same),
            ("xa", "xa", Relation::Same),
            ("a", "ab", Relation::Other),
            ("ab", "a", Relation::Later),
            ("abc", "a", Relation::Later),
            ("ab", "ac", Relation::Other),
            ("a", "b", Relation::Other),
        ];
        for (published, own, expected) in cases {
            assert_eq!(relation(&lives(published), &lives(own)), expected, "{published} {own}");
        }
    }
}
