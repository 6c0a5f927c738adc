//! The pipeline folder: what a team declares of its feeds and outputs, read from files.
//!
//! Reading finds every mistake of every file at once and names each with file, line and column. What was read is kept
//! to the end of the process, so that the names in it are plain `&'static str`.

pub mod mistake;
pub mod sample;
pub mod yaml;

use std::sync::LazyLock;

use crate::Domain;

/// A pipeline: its domains.
#[derive(Debug)]
pub struct Pipeline {
    /// The folder's name.
    pub name: &'static str,
    /// The domains, in the order in which lists and tables show them.
    pub domains: &'static [&'static Domain],
}

impl Pipeline {
    /// The pipeline that comes with the program.
    pub fn shipped() -> &'static Pipeline {
        static SHIPPED: LazyLock<Pipeline> =
            LazyLock::new(|| Pipeline { name: "climate_health", domains: crate::domains::all() });
        &SHIPPED
    }

    /// The domain of that name.
    pub fn domain(&self, name: &str) -> Option<&'static Domain> {
        self.domains.iter().copied().find(|domain| domain.name == name)
    }
}
