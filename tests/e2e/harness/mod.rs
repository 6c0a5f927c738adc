//! What every story stands on.

pub(crate) mod aws;
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
pub(crate) mod sessions;
mod stack;
pub(crate) mod tcp;
mod topic;
pub(crate) mod wire;
mod world;

use std::path::PathBuf;

use freshet::roles::Role;
use freshet_topics::{Pipeline, domains};

pub(crate) use own_stack::{OwnStack, Server};
pub(crate) use process::{Process, resident_mib_max};
pub(crate) use stack::{endpoints, folder};
pub(crate) use world::{Object, Roles, SETTLED_WITHIN, World};

/// A metric of a domain, as all that run within this test program have counted it; none before it was.
pub(crate) fn metric(name: &str, domain: &str) -> Option<prometheus::proto::Metric> {
    let family = prometheus::gather().into_iter().find(|family| family.name() == name)?;
    let is_of_domain = |it: &&prometheus::proto::Metric| it.get_label().iter().any(|label| label.value() == domain);
    family.get_metric().iter().find(is_of_domain).cloned()
}

/// Every role of the shipped pipeline.
pub(crate) fn all_roles() -> Vec<Role> {
    Role::all(Pipeline::shipped())
}

/// Every role of the shipped pipeline but one.
pub(crate) fn roles_but(other: Role) -> Vec<Role> {
    all_roles().into_iter().filter(|role| *role != other).collect()
}

/// The role that processes a domain.
pub(crate) fn processor_of(domain: &str) -> Role {
    Role::Process(domains::by_name(domain).expect("a domain"))
}

/// Where `scripts/setup` puts what it installs.
pub(crate) fn cache_folder() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let home = of("FRESHET_HOME")
        .or_else(|| of("XDG_CACHE_HOME").map(|it| it.join("freshet")))
        .or_else(|| of("HOME").map(|it| it.join(".cache/freshet")));
    home.expect("FRESHET_HOME, XDG_CACHE_HOME or HOME is set")
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
