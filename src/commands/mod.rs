//! What the commands do that are more than a role.

pub mod adopt;
pub mod bench;
pub mod demo;
pub mod generate;
pub mod observe;
pub mod status;
pub mod terminal;
pub mod up;
