//! The commands other than the roles.

pub mod bench;
pub mod bookmarks;
pub mod capacity;
pub mod changes;
pub mod check;
pub mod compare;
pub mod confirm;
pub mod demo;
pub mod domain_arg;
pub mod generate;
pub mod halted;
pub mod healthcheck;
pub mod init;
pub mod lineage;
mod named;
pub mod rejects;
pub mod replay;
pub mod republish;
pub mod restored;
pub mod setup;
pub mod silent;
pub mod status;
pub mod terminal;
pub mod time_arg;
pub mod topics;
pub mod up;
pub mod validate;
