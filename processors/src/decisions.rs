//! The pure decisions of processors and publishers in one place, for the model that searches every interleaving
//! (`tests/model`).

pub use crate::refresh::{CODE_VERSION, TableState, goes_on, why_behind};
pub use crate::start::{Start, decide_start};
