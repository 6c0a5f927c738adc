//! The driver of a target: mutated samples for as long as it may take.

use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How long each target runs, in seconds; a fraction will do.
const SECONDS: &str = "FRESHET_FUZZ_SECONDS";
/// Where the numbers come from; `make fuzz` sets another each time.
const SEED: &str = "FRESHET_FUZZ_SEED";
/// Mutations of a sample, at most: enough to break it twice over, few enough to leave it something to break.
const MUTATIONS_MAX: usize = 8;
/// Bytes of an input, at most. What is longer finds nothing that this does not.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// A target gets more inputs than this, however short its time is.
const INPUTS_MIN: u64 = 100;
/// What that may take beyond its time on a busy machine.
const SLACK: Duration = Duration::from_secs(60);

/// Gives `target` mutated samples until its time is over. `words` are put in here and there: what the reader treats apart.
pub(crate) fn fuzz(samples: &[&[u8]], words: &[&[u8]], target: impl Fn(&[u8], &mut StdRng)) {
    let (seconds, seed): (f64, u64) = (setting(SECONDS, 1.0), setting(SEED, 1));
    let (mut random, begun) = (StdRng::seed_from_u64(seed), Instant::now());
    let (time, mut inputs) = (Duration::from_secs_f64(seconds), 0_u64);
    while inputs <= INPUTS_MIN || begun.elapsed() < time {
        let so_far = begun.elapsed();
        assert!(so_far < time + SLACK, "a target that takes so long finds nothing: {inputs} inputs in {so_far:.1?}");
        let input = match samples.get(inputs as usize) {
            Some(sample) => sample.to_vec(),
            None => mutated(samples, words, &mut random),
        };
        inputs += 1;
        let held = panic::catch_unwind(AssertUnwindSafe(|| target(&input, &mut random)));
        if let Err(panic) = held {
            eprintln!("input {inputs} of {SEED}={seed} broke it: b\"{}\"", input.escape_ascii());
            panic::resume_unwind(panic);
        }
    }
    println!("{inputs} inputs in {:.1?}", begun.elapsed());
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

fn mutated(samples: &[&[u8]], words: &[&[u8]], random: &mut StdRng) -> Vec<u8> {
    let mut input = one_of(samples, random).to_vec();
    for _ in 0..random.random_range(1..=MUTATIONS_MAX) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let other = one_of(samples, random);
                let from = random.random_range(0..=other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            5 => input.truncate(at),
            _ if !words.is_empty() => {
                let word = one_of(words, random);
                input.splice(at..at, word.iter().copied());
            }
            _ => {}
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn one_of<'a>(some: &[&'a [u8]], random: &mut StdRng) -> &'a [u8] {
    some[random.random_range(0..some.len())]
}
