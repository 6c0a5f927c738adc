//! The pipeline folder: what a team declares of its feeds and outputs, read from files.
//!
//! Reading finds every mistake of every file at once and names each with file, line and column.

pub mod mistake;
pub mod output;
pub mod sql;
pub mod yaml;
