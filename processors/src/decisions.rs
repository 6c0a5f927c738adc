//! What processors and publishers decide by pure functions, in one place: the model that searches every interleaving
//! (`tests/model`) takes its steps by these.

pub use crate::refresh::{CODE_VERSION, TableState, goes_on, why_behind};
pub use crate::start::{Start, decide_start};
