//! The pure decisions of a listener in one place, for the model that searches every interleaving (`tests/model`).

pub use crate::gate::{Step, decide_opening};
pub use crate::object::{Fault, Refusal, fault};
pub use crate::start::{Start, start};
