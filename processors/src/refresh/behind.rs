//! Compares the state of the tables with the published version. Pure.

use std::collections::BTreeMap;

use freshet_sinks::lives::{self, Relation};
use freshet_sinks::outputs::Manifest;

/// The version of the program's part in the outputs, stored in the manifest: its contents, and how rows become files.
/// Raise it with any change there; this marks every window, and keeps older programs from publishing over it. Each
/// output's query has its own hash.
pub const CODE_VERSION: u32 = 2;

/// The progress of the tables, as seen by one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableState {
    /// The lives of the ledger, oldest first.
    pub lives: Vec<String>,
    /// Domain → the epoch of its stream.
    pub epochs: BTreeMap<String, i64>,
    /// Domain → partition → next offset.
    pub bookmarks: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// Whether the published version was made by a program like this one, in this life of the ledger: then only changes are
/// derived.
pub fn goes_on(manifest: &Manifest, tables: &TableState) -> bool {
    let same_life = lives::relation(&manifest.lives, &tables.lives) == Relation::Same;
    same_life && manifest.code_version == CODE_VERSION
}

/// Why the tables are older than the published version, if they are: then Postgres was restored to an older state, and
/// publishing would take readers back in time.
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
