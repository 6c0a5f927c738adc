//! With any rule taken out the search finds a history in which something is wrong.

use crate::faults::{Fault, Mutation};
use crate::possible::Action;
use crate::scenarios::{one_file, search, two_files};
use crate::walks::retrace;
use crate::world::Scenario;

/// One file of one row, and one process of each kind.
fn tiny(faults: &[(Fault, u8)]) -> Scenario {
    Scenario { contents: vec![vec![0]], listeners: 1, processors: 1, ..one_file("", faults) }
}

/// A world in which the search notices that a rule is taken out, and what it finds there.
fn missed(mutation: Mutation) -> (Scenario, &'static str) {
    use Fault::{
        AckLost, Crash, Delete, ForeignAnswer, LeaseRunsOut, LogCut, Rebalance, Restore, Retention, SendAsNew, Shadow,
        TopicMadeAgain,
    };
    match mutation {
        Mutation::NoSequenceCheck => (one_file("", &[(AckLost, 1)]), "a row counts twice"),
        Mutation::BookmarkApart => (one_file("", &[(Crash, 1)]), "a file was published again though nothing was lost"),
        Mutation::NoBookmarkEpoch => {
            (one_file("", &[(Rebalance, 1), (TopicMadeAgain, 1)]), "a former owner of a partition wrote to it")
        }
        Mutation::NoLeaseEpoch => {
            (one_file("", &[(LeaseRunsOut, 1)]), "a listener wrote to an object that was another's by then")
        }
        Mutation::ArrivalOrderWins => {
            (two_files("", &[]), "the table does not have the newest row that was received of a key")
        }
        Mutation::UnconditionalPointer => (Scenario { publishers: 2, ..one_file("", &[]) }, "the outputs went back"),
        Mutation::WakeApart => (
            Scenario {
                puts: vec![("health/a.csv", 0, 100), ("health/a.csv", 1, 101)],
                contents: vec![vec![0], vec![0]],
                copies: vec![(0, 1)],
                ..tiny(&[(Crash, 1), (Retention, 2)])
            },
            "what S3 holds is not in the table",
        ),
        Mutation::ForeignAnswerEndsAVersion => {
            (one_file("", &[(ForeignAnswer, 1)]), "what S3 holds is not in the table")
        }
        Mutation::GivenUpForGood => (
            Scenario { puts: vec![("health/a.csv", 0, 100), ("health/a.csv", 0, 100)], ..one_file("", &[(Delete, 1)]) },
            "what S3 holds is not in the table",
        ),
        Mutation::NoNonce => (
            Scenario {
                puts: vec![("health/a.csv", 0, 100), ("health/b.csv", 1, 100)],
                contents: vec![vec![0], vec![1]],
                ..tiny(&[(Restore, 1)])
            },
            "what S3 holds is not in the table",
        ),
        Mutation::LostByRepairs => (
            one_file("", &[(TopicMadeAgain, 1), (Delete, 1)]),
            "an object is applied, and rows of it were not received",
        ),
        Mutation::SwapNewestReadingOnly => (
            tiny(&[(SendAsNew, 1), (Retention, 2), (Shadow, 2)]),
            "the table does not have the newest row that was received of a key",
        ),
        Mutation::OpenByFirstPartition => (
            Scenario { partitions: 2, contents: vec![vec![1]], is_created: false, ..tiny(&[]) },
            "a person had to mend what nothing had broken",
        ),
        Mutation::AdoptKeepsBookmarks => (tiny(&[(Retention, 2)]), "an object never ends"),
        Mutation::NoTruncationWatch => (tiny(&[(LogCut, 1)]), "an object never ends"),
        Mutation::AsNewByClock => (
            Scenario { puts: vec![("health/a.csv", 0, 100), ("health/b.csv", 0, 101)], ..tiny(&[(SendAsNew, 1)]) },
            "a file that was dropped later stands below one that was sent as new before",
        ),
        Mutation::IdleOwnerLooksAtEpochsOnly => (tiny(&[(Restore, 1)]), "an object never ends"),
        Mutation::LateRowsUnnamed => (
            Scenario { contents: vec![vec![0, 1]], ..tiny(&[(Crash, 1), (Delete, 1)]) },
            "rows are lost that nobody names",
        ),
        Mutation::SameLooksKnown => (
            Scenario {
                puts: vec![("health/a.csv", 0, 100), ("health/a.csv", 1, 100), ("health/a.csv", 0, 100)],
                contents: vec![vec![0], vec![0]],
                ..tiny(&[])
            },
            "what S3 holds is not in the table",
        ),
    }
}

/// All of them.
pub(crate) const ALL: [Mutation; 19] = [
    Mutation::NoSequenceCheck,
    Mutation::BookmarkApart,
    Mutation::NoBookmarkEpoch,
    Mutation::NoLeaseEpoch,
    Mutation::ArrivalOrderWins,
    Mutation::UnconditionalPointer,
    Mutation::WakeApart,
    Mutation::ForeignAnswerEndsAVersion,
    Mutation::GivenUpForGood,
    Mutation::NoNonce,
    Mutation::LostByRepairs,
    Mutation::SwapNewestReadingOnly,
    Mutation::OpenByFirstPartition,
    Mutation::AdoptKeepsBookmarks,
    Mutation::NoTruncationWatch,
    Mutation::AsNewByClock,
    Mutation::IdleOwnerLooksAtEpochsOnly,
    Mutation::LateRowsUnnamed,
    Mutation::SameLooksKnown,
];

/// A history that is found with a rule taken out, and the world that it is found in, with the rule.
pub(crate) fn found(mutation: Mutation) -> (Scenario, Vec<Action>) {
    let (whole, _) = missed(mutation);
    let (_, history) = search(&Scenario { mutation: Some(mutation), ..whole.clone() }, 1).expect("it is missed");
    (whole, history)
}

#[test]
fn with_any_rule_taken_out_the_search_finds_what_breaks() {
    for mutation in ALL {
        let (whole, expected) = missed(mutation);
        let found = search(&Scenario { mutation: Some(mutation), ..whole.clone() }, 1);
        let (what, history) = found.unwrap_or_else(|| panic!("{mutation:?} is not missed"));
        println!("{mutation:?}: {what}, after {} steps", history.len());
        assert_eq!(what, expected, "{mutation:?}, after {history:?}");
        // With the rule, the same history ends well.
        let (wrong, taken) = retrace(&whole, &history);
        assert_eq!(wrong, None, "{mutation:?}, with the rule, after {taken:?}");
    }
}
