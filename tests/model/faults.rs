//! What may go wrong, and how often in one history.

/// A fault. A scenario has a budget of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A process dies between two of its steps, or with half of a chunk in the log.
    Crash,
    /// A lease runs out though its listener lives: it is slow, or frozen, and goes on later.
    LeaseRunsOut,
    /// Rows are in the log, and the producer hears that they are not.
    AckLost,
    /// Rows come into the log later, when their listener has given up.
    Delay,
    /// Rows come into the log twice.
    Duplicate,
    /// A partition is given to another processor while its owner lives and goes on.
    Rebalance,
    /// A transaction is committed, and its client hears nothing.
    CommitLost,
    /// The pointer is swapped, and the publisher hears nothing.
    PutLost,
    /// Something between S3 and the listener answers 404 of its own accord.
    ForeignAnswer,
    /// Retention removes the oldest record of a partition.
    Retention,
    /// A partition loses its newest record: an unclean election, a power cut.
    LogCut,
    /// The topic is deleted and recreated.
    TopicMadeAgain,
    /// Postgres goes back to a backup while all else goes on.
    Restore,
    /// A person sends a file again.
    SendAgain,
    /// A person sends a file again as the newest of its domain.
    SendAsNew,
    /// An object is deleted from the bucket.
    Delete,
    /// A topic's rows are read once more, to correct the table in place.
    Replay,
    /// A second table is filled from the topic, and takes the place of the first.
    Shadow,
}

impl Fault {
    /// All of them, in order.
    pub(crate) const ALL: [Fault; 18] = [
        Fault::Crash,
        Fault::LeaseRunsOut,
        Fault::AckLost,
        Fault::Delay,
        Fault::Duplicate,
        Fault::Rebalance,
        Fault::CommitLost,
        Fault::PutLost,
        Fault::ForeignAnswer,
        Fault::Retention,
        Fault::LogCut,
        Fault::TopicMadeAgain,
        Fault::Restore,
        Fault::SendAgain,
        Fault::SendAsNew,
        Fault::Delete,
        Fault::Replay,
        Fault::Shadow,
    ];

    /// Those after which rows may have to be published a second time.
    pub(crate) const LOSING: [Fault; 6] =
        [Fault::Retention, Fault::LogCut, Fault::TopicMadeAgain, Fault::Restore, Fault::SendAgain, Fault::SendAsNew];
}

/// How often each fault may still happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget([u8; Fault::ALL.len()]);

impl Budget {
    /// So many of each.
    pub(crate) fn of(faults: &[(Fault, u8)]) -> Budget {
        let mut budget = Budget::default();
        for (fault, times) in faults {
            budget.0[*fault as usize] = *times;
        }
        budget
    }

    /// How often it may still happen.
    pub(crate) fn left(&self, fault: Fault) -> u8 {
        self.0[fault as usize]
    }

    /// Takes one.
    pub(crate) fn spend(&mut self, fault: Fault) {
        self.0[fault as usize] -= 1;
    }
}

/// A rule that is taken out, to see that the search notices. The first six are the core of the protocol; the others
/// are holes that were found in the first version and closed, by their number in the review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    /// Rows that were received before count again.
    NoSequenceCheck,
    /// The bookmark moves in a transaction of its own, before the rows.
    BookmarkApart,
    /// Bookmarks move for whoever finds them where he left them, whoever owns them by now.
    NoBookmarkEpoch,
    /// What a listener writes is not guarded by its lease.
    NoLeaseEpoch,
    /// The row that comes last stands in the table.
    ArrivalOrderWins,
    /// The pointer is written whatever stands there.
    UnconditionalPointer,
    /// 5: Giving up a version and waking its copies are two transactions.
    WakeApart,
    /// 1: Any 404 ends a version, for good.
    ForeignAnswerEndsAVersion,
    /// 1: What was given up is never taken up again.
    GivenUpForGood,
    /// 2: Rows are told by their object's id alone, not by its nonce.
    NoNonce,
    /// 3: What is lost is decided by the number of repairs.
    LostByRepairs,
    /// 6: A shadow takes the table's place when it has what the newest reading of each file has.
    SwapNewestReadingOnly,
    /// 7, 20: A topic is open as soon as partition 0 has its stream record.
    OpenByFirstPartition,
    /// 8: Adopting leaves bookmarks before the log's start where they are.
    AdoptKeepsBookmarks,
    /// 10: Nobody looks whether the log became shorter.
    NoTruncationWatch,
    /// 17: A file sent as new takes its place from Postgres' clock, which may be ahead.
    AsNewByClock,
    /// A processor that has nothing to apply does not notice that Postgres went back.
    IdleOwnerLooksAtEpochsOnly,
    /// Rows of a version that was given up as never read arrive, and nobody says so.
    LateRowsUnnamed,
    /// 22: A version is known if any version of its key looks the same.
    SameLooksKnown,
}
