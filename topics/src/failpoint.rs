//! Points in freshet at which a test can kill, stop or delay the process.
//!
//! They exist only with the feature `failpoints`, which the tests of this repository enable and shipped builds do not:
//! without it [`reach`] is empty and the environment is not read.
//!
//! With it, the variable `FAILPOINTS` sets an action for each point, in the syntax of the crate `fail`:
//! `NAME=ACTION;NAME=ACTION`. An action is `return(kill)` (SIGKILL to this process), `return(stop)` (SIGSTOP to it) or
//! `sleep(MILLISECONDS)`, each with a count before it if wanted: `3*off->return(kill)` is the fourth time.

/// A point in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A listener has claimed an object but not read it yet.
    Claimed,
    /// A row of a chunk was handed to the producer.
    RowSent,
    /// Kafka has acknowledged a whole chunk, but the ledger does not know yet.
    ChunkAcknowledged,
    /// A batch is written, and its transaction is open.
    BeforeCommit,
    /// Postgres has committed a batch, but the process does not know yet.
    AfterCommit,
    /// Rows of an older version are deleted and the newer one is applied, in a transaction that is still open.
    Replaced,
    /// A publication has its snapshot.
    SnapshotTaken,
    /// One data file of a publication is in S3, others are not.
    FilePut,
    /// All data files of a publication are in S3.
    FilesPut,
    /// The manifest is in S3, too.
    ManifestPut,
    /// The pointer names it, but the marks are not deleted yet.
    PointerSwapped,
    /// The marks are deleted.
    MarksDeleted,
    /// One whole-file copy is in S3, others are not.
    CopyPut,
}

impl Point {
    /// All points.
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
    /// Does nothing: this build has no failpoints.
    #[inline(always)]
    pub fn listen() {}

    /// The process is at this point; does nothing in this build.
    #[inline(always)]
    pub fn reach(_: super::Point) {}
}

#[cfg(feature = "failpoints")]
mod active {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Another thread may receive the signal, some microseconds later.
    const UNTIL_STOPPED: Duration = Duration::from_millis(200);

    /// Enables the actions in `FAILPOINTS` for the whole life of the process.
    ///
    /// # Panics
    /// If it names an unknown point.
    pub fn listen() {
        let said = std::env::var("FAILPOINTS").unwrap_or_default();
        for name in said.split(';').filter_map(|one| Some(one.split_once('=')?.0)) {
            let known = Point::ALL.iter().any(|point| point.name() == name.trim());
            assert!(known, "FAILPOINTS names {name}, which is not a failpoint");
        }
        // Dropping the scenario would end it.
        std::mem::forget(fail::FailScenario::setup());
    }

    /// The process is at this point: runs the action set for it, if any.
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
