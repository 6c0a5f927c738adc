//! What every story stands on.

pub(crate) mod clock;
pub(crate) mod data;
pub(crate) mod files;
pub(crate) mod formulas;
mod framing;
pub(crate) mod http;
pub(crate) mod oracles;
pub(crate) mod own_stack;
pub(crate) mod plain;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod rules;
pub(crate) mod server;
mod stack;
pub(crate) mod tcp;
pub(crate) mod wire;
mod world;

use freshet::roles::Role;
use freshet_topics::Pipeline;

pub(crate) use own_stack::{OwnStack, Server};
pub(crate) use process::Process;
pub(crate) use stack::folder;
pub(crate) use world::{Object, World};

/// Every role of the shipped pipeline.
pub(crate) fn all_roles() -> Vec<Role> {
    Role::all(Pipeline::shipped())
}

/// The seed of a random test, printed; `FRESHET_TEST_SEED` gives one to replay.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("FRESHET_TEST_SEED") {
        Ok(text) => text.parse().expect("FRESHET_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("replay with FRESHET_TEST_SEED={seed}");
    seed
}
