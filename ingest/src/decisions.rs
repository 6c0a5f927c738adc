//! What a listener decides by pure functions, in one place: the model that searches every interleaving (`tests/model`)
//! takes its steps by these.

pub use crate::gate::{Step, decide_opening};
pub use crate::object::{Fault, Refusal, fault};
pub use crate::start::{Start, start};
