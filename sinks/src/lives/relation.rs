//! How the ledger that published the outputs relates to this one.

/// What a published manifest's ledger is to the one that the tables belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same life: epochs and bookmarks compare.
    Same,
    /// An earlier life of this ledger, or another ledger altogether: nothing compares, and everything is derived from
    /// the tables again.
    Other,
    /// A later life of this ledger than it knows of: these tables were restored from before it, or given up for a
    /// database that was promoted.
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
