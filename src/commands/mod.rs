//! What the commands do that are more than a role.

pub mod adopt;
pub mod bench;
pub mod demo;
pub mod generate;
pub mod healthcheck;
pub mod observe;
pub mod setup;
pub mod status;
pub mod terminal;
pub mod up;
