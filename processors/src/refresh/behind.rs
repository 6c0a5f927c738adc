//! Where the tables stand against what is published. Pure.

use std::collections::BTreeMap;

use freshet_sinks::lives::{self, Relation};
use freshet_sinks::outputs::Manifest;

/// The version of the program's part in the outputs, kept in the manifest: what a manifest holds, and how rows become
/// files. Raise it with any change there; it marks every window, and keeps programs of before from publishing over it. What
/// an output itself is has a definition of its own.
pub const CODE_VERSION: u32 = 2;

/// What tells how far the tables are, as one snapshot shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableState {
    /// The lives of the ledger, oldest first.
    pub lives: Vec<String>,
    /// Domain → the epoch of its stream.
    pub epochs: BTreeMap<String, i64>,
    /// Domain → partition → next offset.
    pub bookmarks: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// Whether what is published was made by a program like this one, of this life of the ledger: then only what changed is
/// derived.
pub fn goes_on(manifest: &Manifest, tables: &TableState) -> bool {
    let same_life = lives::relation(&manifest.lives, &tables.lives) == Relation::Same;
    same_life && manifest.code_version == CODE_VERSION
}

/// Why the tables are behind what is published, if they are: then they were restored from an older state, and publishing
/// them would take readers back.
pub fn why_behind(manifest: &Manifest, tables: &TableState) -> Option<String> {
    match lives::relation(&manifest.lives, &tables.lives) {
        Relation::Same => manifest.behind(&tables.epochs, &tables.bookmarks),
        Relation::Other => None,
        Relation::Later => {
            let own = tables.lives.len();
            Some(format!(
                "the ledger is in life {own}, but the published outputs come from a later life that it does \
                          not know"
            ))
        }
    }
}
