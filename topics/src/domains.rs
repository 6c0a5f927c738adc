//! The shipped domains by short names, for tests. The program gets its domains from its pipeline.

use std::ops::Deref;

use crate::Domain;
use crate::pipeline::Pipeline;

/// The shipped domains as a slice.
#[derive(Debug, Clone, Copy)]
pub struct Shipped;

/// Every shipped domain, in the order in which lists and tables show them.
pub const DOMAINS: Shipped = Shipped;

/// The shipped domains.
pub fn all() -> &'static [&'static Domain] {
    Pipeline::shipped().domains
}

impl Deref for Shipped {
    type Target = [&'static Domain];

    fn deref(&self) -> &Self::Target {
        all()
    }
}

impl IntoIterator for Shipped {
    type Item = &'static &'static Domain;
    type IntoIter = std::slice::Iter<'static, &'static Domain>;

    fn into_iter(self) -> Self::IntoIter {
        all().iter()
    }
}

/// The shipped domain with this name.
pub fn by_name(name: &str) -> Option<&'static Domain> {
    Pipeline::shipped().domain(name)
}
