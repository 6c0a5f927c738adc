//! Larger worlds, walked at random: more files, more processes and every fault.
//!
//! A walk is given by its seed. `FRESHET_MODEL_WALKS` says how many are walked (`make model`: a million),
//! `FRESHET_MODEL_SEED` with which to begin: `FRESHET_MODEL_WALKS=1 FRESHET_MODEL_SEED=n` walks one again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::faults::{Budget, Fault};
use crate::possible::Action;
use crate::properties::{at_every_moment, at_rest};
use crate::scenarios::two_files;
use crate::world::{Scenario, World};

/// Walks in `make test`.
const WALKS: u64 = 10_000;
/// No history is longer: one that is goes round in circles.
const STEPS_MAX: usize = 3_000;

/// The world of a walk: every fault up to twice.
fn large(seed: u64) -> Scenario {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let contents: Vec<Vec<u8>> =
        (0..4).map(|_| (0..random.random_range(1..=5)).map(|_| random.random_range(0..6)).collect()).collect();
    let keys = ["health/a.csv", "health/b.csv", "health/c.csv"];
    let mut second = 100;
    let mut puts = Vec::new();
    for _ in 0..random.random_range(2..=5) {
        second += random.random_range(0..2);
        puts.push((*keys.choose(&mut random).expect("keys"), random.random_range(0..contents.len()), second));
    }
    let faults: Vec<(Fault, u8)> = Fault::ALL.iter().map(|fault| (*fault, random.random_range(0..=2))).collect();
    Scenario {
        puts,
        contents,
        partitions: random.random_range(1..=2),
        chunk_rows: random.random_range(1..=3),
        listeners: 3,
        processors: 3,
        publishers: 2,
        budget: Budget::of(&faults),
        is_created: random.random_bool(0.7),
        reads_in_parts: true,
        ..two_files("a walk", &[])
    }
}

/// Walks until nothing is left to do; what is wrong, if anything is, and the way there.
pub(crate) fn walk(scenario: &Scenario, seed: u64) -> (Option<&'static str>, Vec<Action>, World) {
    let mut random = StdRng::seed_from_u64(seed);
    // How often a fault comes where one may: some histories are calm, some are not.
    let often = random.random_range(0.02..0.4);
    let mut world = World::of(scenario);
    let mut history = Vec::new();
    loop {
        let (steps, faults) = (world.steps(scenario), world.faults(scenario));
        if let Some(wrong) = steps.is_empty().then(|| at_rest(scenario, &world)).flatten() {
            return (Some(wrong), history, world);
        }
        let from = match (steps.is_empty(), faults.is_empty()) {
            (true, true) => return (None, history, world),
            (true, false) if random.random_bool(0.5) => return (None, history, world),
            (true, false) => &faults,
            (false, false) if random.random_bool(often) => &faults,
            (false, _) => &steps,
        };
        let action = *from.choose(&mut random).expect("there is one");
        history.push(action);
        world = world.after(scenario, action);
        if let Some(wrong) = at_every_moment(scenario, &world) {
            return (Some(wrong), history, world);
        }
        if history.len() > STEPS_MAX {
            return (Some("it never comes to rest"), history, world);
        }
    }
}

/// Takes the steps of a history that are possible, and what is left to do after them; what is wrong, if anything is.
pub(crate) fn retrace(scenario: &Scenario, history: &[Action]) -> (Option<&'static str>, Vec<Action>) {
    let mut world = World::of(scenario);
    let mut taken = Vec::new();
    let mut planned = history.iter().copied();
    loop {
        let steps = world.steps(scenario);
        let action = match planned.next() {
            Some(action) if steps.contains(&action) || world.faults(scenario).contains(&action) => action,
            Some(_) => continue,
            None if steps.is_empty() => return (at_rest(scenario, &world), taken),
            None => steps[0],
        };
        world = world.after(scenario, action);
        taken.push(action);
        let wrong = at_every_moment(scenario, &world).or((taken.len() > STEPS_MAX).then_some("it never comes to rest"));
        if wrong.is_some() {
            return (wrong, taken);
        }
    }
}

/// The shortest history that is found by leaving steps out.
pub(crate) fn shrink(scenario: &Scenario, wrong: &'static str, history: Vec<Action>) -> Vec<Action> {
    let (mut shortest, mut size) = (history, 16);
    while size > 0 {
        let mut at = 0;
        while at < shortest.len() {
            let mut shorter = shortest.clone();
            shorter.drain(at..(at + size).min(shortest.len()));
            match retrace(scenario, &shorter) {
                (Some(found), taken) if found == wrong && taken.len() < shortest.len() => shortest = taken,
                _ => at += size,
            }
        }
        size /= 2;
    }
    shortest
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn large_worlds_walked_at_random_come_to_rest_and_nothing_goes_wrong() {
    let walks = number("FRESHET_MODEL_WALKS").unwrap_or(WALKS);
    let first = number("FRESHET_MODEL_SEED").unwrap_or_else(|| rand::random_range(0..1 << 40));
    let (next, steps, began) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let met: Vec<AtomicU64> = Fault::ALL.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = first + next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + walks {
                        return;
                    }
                    let scenario = large(seed);
                    let (wrong, history, world) = walk(&scenario, seed);
                    if let Some(wrong) = wrong {
                        // Others need not go on.
                        next.store(walks, Ordering::Relaxed);
                        let history = shrink(&scenario, wrong, history);
                        panic!("walk {seed}: {wrong}\n{scenario:#?}\nafter\n{history:?}");
                    }
                    steps.fetch_add(history.len() as u64, Ordering::Relaxed);
                    for (fault, met) in Fault::ALL.iter().zip(&met) {
                        let times = scenario.budget.left(*fault) - world.budget.left(*fault);
                        met.fetch_add(times.into(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let steps = steps.into_inner();
    println!("{walks} walks from seed {first}, {steps} steps, {:.1} s", began.elapsed().as_secs_f64());
    for (fault, met) in Fault::ALL.iter().zip(met) {
        let met = met.into_inner();
        println!("  {fault:?}: {met} times");
        assert!(met > 0 || walks < WALKS, "{fault:?} was never met");
    }
}
