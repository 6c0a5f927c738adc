//! Small worlds, searched exhaustively: two files of three rows, two listeners, two processors, two publishers.
//!
//! All faults at once would be too many histories for a test, so each world has those that meddle with one another. A
//! file that is overwritten is two files of one key; the contents share keys of the table, so that order matters.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::faults::{Budget, Fault};
use crate::properties::{at_every_moment, at_rest};
use crate::world::Scenario;

/// Two files under two keys, within one second, which share a row of the table.
pub(crate) fn two_files(name: &'static str, faults: &[(Fault, u8)]) -> Scenario {
    Scenario {
        name,
        puts: vec![("health/a.csv", 0, 100), ("health/b.csv", 1, 100)],
        contents: vec![vec![0, 1, 2], vec![2, 3, 4]],
        copies: Vec::new(),
        partitions: 1,
        chunk_rows: 2,
        listeners: 2,
        processors: 2,
        publishers: 2,
        budget: Budget::of(faults),
        is_created: true,
        reads_in_parts: false,
        mutation: None,
    }
}

/// A file that is overwritten within its second.
pub(crate) fn overwrite(name: &'static str, faults: &[(Fault, u8)]) -> Scenario {
    Scenario {
        puts: vec![("health/a.csv", 0, 100), ("health/a.csv", 1, 100)],
        contents: vec![vec![0, 1, 2], vec![0, 1, 2]],
        ..two_files(name, faults)
    }
}

/// One file, and one process of each kind beside those that a fault brings in.
pub(crate) fn one_file(name: &'static str, faults: &[(Fault, u8)]) -> Scenario {
    Scenario {
        puts: vec![("health/a.csv", 0, 100)],
        contents: vec![vec![0, 1, 2]],
        publishers: 1,
        ..two_files(name, faults)
    }
}

pub(crate) fn all() -> Vec<Scenario> {
    use Fault::{
        AckLost, CommitLost, Crash, Delay, Delete, Duplicate, ForeignAnswer, LeaseRunsOut, LogCut, PutLost, Rebalance,
        Replay, Restore, Retention, SendAgain, SendAsNew, Shadow, TopicMadeAgain,
    };
    vec![
        two_files("two files, nothing goes wrong", &[]),
        overwrite("an overwritten file, nothing goes wrong", &[]),
        one_file("a crash, and a lease that runs out", &[(Crash, 1), (LeaseRunsOut, 1)]),
        one_file("a crash, and a processor that wakes", &[(Crash, 1), (Rebalance, 1)]),
        one_file("two processors that wake", &[(Rebalance, 2)]),
        one_file("a crash, and a COMMIT without an answer", &[(Crash, 1), (CommitLost, 1)]),
        one_file("acknowledgements lost, late, twice", &[(AckLost, 1), (Delay, 1), (Duplicate, 1)]),
        one_file("a crash, and a swap without an answer", &[(Crash, 1), (PutLost, 1)]),
        one_file("a topic made again", &[(TopicMadeAgain, 1)]),
        one_file("a backup restored", &[(Restore, 1)]),
        one_file("retention faster than the processors", &[(Retention, 2)]),
        one_file("a log that loses its end", &[(LogCut, 2)]),
        one_file("a file sent again, and as new", &[(SendAgain, 1), (SendAsNew, 1)]),
        one_file("a replay, and a shadow", &[(Replay, 1), (Shadow, 2)]),
        one_file("a file deleted, a 404, a lease that runs out", &[(Delete, 1), (ForeignAnswer, 1), (LeaseRunsOut, 1)]),
        Scenario { publishers: 1, ..overwrite("a slow listener, a file overwritten", &[(LeaseRunsOut, 1)]) },
        Scenario { publishers: 1, processors: 1, ..two_files("two files, a lost acknowledgement", &[(AckLost, 1)]) },
        Scenario {
            partitions: 2,
            is_created: false,
            publishers: 1,
            ..one_file("a topic created while all runs", &[(Rebalance, 1)])
        },
    ]
}

/// Searches a world, prints what it came to, and gives what is wrong, with the history that leads there.
pub(crate) fn search(scenario: &Scenario, threads: usize) -> Option<(&'static str, Vec<crate::possible::Action>)> {
    let began = Instant::now();
    let checker =
        scenario.clone().checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let took = began.elapsed();
    println!(
        "{}: {} worlds, {} of them different, depth {}, {:.1} s",
        scenario.name,
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        took.as_secs_f64()
    );
    let wrong = checker.discoveries().into_iter().find_map(|(name, path)| match name {
        "every moment" | "rest" | "every object ends" => {
            let last = path.last_state().clone();
            let what = at_every_moment(scenario, &last).or_else(|| at_rest(scenario, &last)).unwrap_or(name);
            Some((what, path.into_actions()))
        }
        _ => None,
    });
    if wrong.is_none() {
        for property in scenario.properties() {
            let is_sometimes = matches!(property.expectation, stateright::Expectation::Sometimes);
            assert!(
                !is_sometimes || checker.discovery(property.name).is_some(),
                "{}: {} was never reached",
                scenario.name,
                property.name
            );
        }
    }
    wrong
}

#[test]
fn small_worlds_are_searched_through_and_nothing_goes_wrong() {
    for scenario in all() {
        if let Some((what, history)) = search(&scenario, 2) {
            panic!("{}: {what}, after {history:#?}", scenario.name);
        }
    }
}
