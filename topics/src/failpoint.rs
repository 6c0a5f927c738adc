//! Places in freshet where a test can have the process killed, stopped or held up.
//!
//! They are there only with the feature `failpoints`, which the tests of this repository are built with and nothing that
//! is shipped is: without it [`reach`] is empty and the environment is not looked at.
//!
//! With it, the variable `FAILPOINTS` says what happens where, as the crate `fail` reads it: `NAME=ACTION;NAME=ACTION`.
//! An action is `return(kill)` (SIGKILL to this process), `return(stop)` (SIGSTOP to it) or `sleep(MILLISECONDS)`, each
//! with a count before it if wanted: `3*off->return(kill)` is the fourth time.

/// A place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A listener has claimed an object, and nothing is read of it.
    Claimed,
    /// A row of a chunk was handed to the producer.
    RowSent,
    /// Kafka has acknowledged all of a chunk, and the ledger does not know.
    ChunkAcknowledged,
    /// A batch is written, and its transaction is open.
    BeforeCommit,
    /// Postgres has committed a batch, and nobody in the process knows.
    AfterCommit,
    /// Rows of an older version are deleted and the newer one is applied, in a transaction that is open.
    Replaced,
    /// A publication has its snapshot.
    SnapshotTaken,
    /// A data file of a publication is in S3, others are not.
    FilePut,
    /// All data files of a publication are in S3.
    FilesPut,
    /// Its manifest, too.
    ManifestPut,
    /// The pointer names it, and the marks are there.
    PointerSwapped,
    /// The marks are deleted.
    MarksDeleted,
    /// A whole-file copy is in S3, others are not.
    CopyPut,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 13] = [
        Point::Claimed,
        Point::RowSent,
        Point::ChunkAcknowledged,
        Point::BeforeCommit,
        Point::AfterCommit,
        Point::Replaced,
        Point::SnapshotTaken,
        Point::FilePut,
        Point::FilesPut,
        Point::ManifestPut,
        Point::PointerSwapped,
        Point::MarksDeleted,
        Point::CopyPut,
    ];

    /// Its name in `FAILPOINTS`.
    pub fn name(self) -> &'static str {
        match self {
            Point::Claimed => "ingest.claimed",
            Point::RowSent => "ingest.row-sent",
            Point::ChunkAcknowledged => "ingest.chunk-acknowledged",
            Point::BeforeCommit => "apply.before-commit",
            Point::AfterCommit => "apply.after-commit",
            Point::Replaced => "sweep.replaced",
            Point::SnapshotTaken => "publish.snapshot-taken",
            Point::FilePut => "publish.file-put",
            Point::FilesPut => "publish.files-put",
            Point::ManifestPut => "publish.manifest-put",
            Point::PointerSwapped => "publish.pointer-swapped",
            Point::MarksDeleted => "publish.marks-deleted",
            Point::CopyPut => "publish.copy-put",
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub use absent::{listen, reach};
#[cfg(feature = "failpoints")]
pub use active::{listen, reach};

#[cfg(not(feature = "failpoints"))]
mod absent {
    /// Nothing: this build has no failpoints.
    #[inline(always)]
    pub fn listen() {}

    /// The process is at this point; nothing comes of it in this build.
    #[inline(always)]
    pub fn reach(_: super::Point) {}
}

#[cfg(feature = "failpoints")]
mod active {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Another thread may be the one that takes the signal, some microseconds later.
    const UNTIL_STOPPED: Duration = Duration::from_millis(200);

    /// Does from now on what `FAILPOINTS` says; for the whole life of the process.
    ///
    /// # Panics
    /// If it names a point that there is not.
    pub fn listen() {
        let said = std::env::var("FAILPOINTS").unwrap_or_default();
        for name in said.split(';').filter_map(|one| Some(one.split_once('=')?.0)) {
            let known = Point::ALL.iter().any(|point| point.name() == name.trim());
            assert!(known, "FAILPOINTS names {name}, which is not a failpoint");
        }
        // Dropping the scenario would end it.
        std::mem::forget(fail::FailScenario::setup());
    }

    /// The process is at this point: does what was asked for, if anything was.
    pub fn reach(point: Point) {
        fail::fail_point!(point.name(), |action| match action.as_deref() {
            Some("kill") => signal(Signal::KILL),
            Some("stop") => signal(Signal::STOP),
            other => panic!("{}: no action {other:?}", point.name()),
        });
    }

    fn signal(signal: Signal) {
        kill_process(getpid(), signal).expect("a process may signal itself");
        std::thread::sleep(UNTIL_STOPPED);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_point_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
