//! Which copy of a domain's state a transaction writes to.
//!
//! The live pipeline has the domain's table and, in the schema `pipeline`, its bookmarks, its progress and its rejects.
//! A replay has its own bookmarks and progress, so that it is fenced and can be resumed like the live pipeline. In
//! place, it corrects the live table and its rejects. A *shadow* is a second copy of all of them, under the same names
//! in the schema `shadow`, which the live pipeline does not touch.

use freshet_topics::Domain;

/// A copy of a domain's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The tables that everybody reads.
    Live,
    /// The live table, corrected by a replay.
    Correction,
    /// A second table.
    Shadow,
}

impl Destination {
    /// The domain's table, quoted for SQL. The live one is found by the session's search path, which is that of
    /// `postgres.schema`.
    pub fn table(self, domain: &Domain) -> String {
        match self {
            Destination::Live | Destination::Correction => format!("\"{}\"", domain.table),
            Destination::Shadow => format!("shadow.\"{}\"", domain.table),
        }
    }

    /// The table of bookmarks.
    pub(crate) fn bookmarks(self) -> &'static str {
        match self {
            Destination::Live => "pipeline.bookmarks",
            Destination::Correction => "pipeline.replay_bookmarks",
            Destination::Shadow => "shadow.bookmarks",
        }
    }

    /// The table of progress.
    pub(crate) fn progress(self) -> &'static str {
        match self {
            Destination::Live => "pipeline.progress",
            Destination::Correction => "pipeline.replay_progress",
            Destination::Shadow => "shadow.progress",
        }
    }

    /// The table of rejects.
    pub(crate) fn rejects(self) -> &'static str {
        match self {
            Destination::Live | Destination::Correction => "pipeline.rejects",
            Destination::Shadow => "shadow.rejects",
        }
    }
}
