//! What flows through freshet.
//!
//! This crate guarantees one description of the data that every stage shares: which domains there are, how a cell of
//! text becomes a value, what a row looks like as a Kafka message, and which topics carry it. It does no input or
//! output, except in [`catalog`], which creates and checks topics, [`log`], which reads their offsets, and
//! [`kafka::access`], with which every client logs in.
//!
//! The path of one row: a file's key selects its [`Domain`]; the header is matched to the domain's [`Column`]s; the
//! row's raw cells become a [`message`] keyed by location, whose [`partition`] is a pure function of that key; the
//! processor reads the [`cells`] of a whole batch back, [`cast`]s them and applies the columns' rules ([`judge`]). The
//! result is [`columns`] of values; each row has its [`Provenance`].

pub mod cast;
pub mod catalog;
pub mod causes;
pub mod cells;
pub mod columns;
pub mod domain;
pub mod domains;
pub mod failpoint;
pub mod heading;
pub mod judge;
pub mod kafka;
pub mod kept;
pub mod listed;
pub mod log;
pub mod message;
pub mod partition;
pub mod pipeline;
pub mod rules;
pub mod sample;
pub mod settings;
pub mod stream;
pub mod trace;
pub mod types;
pub mod value;
pub mod window;

pub use domain::{
    Column, Domain, EventTime, Instead, NearMiss, NewColumn, Observed, Overwrite, Reference, TextEncoding,
};
pub use domains::DOMAINS;
pub use message::{Cell, Lineage, Order, Provenance, RawRow};
pub use pipeline::Pipeline;
pub use rules::{Comparison, Limit, Otherwise, RowRule, Rule};
pub use sample::{Sample, Season};
pub use types::Cast;
pub use value::Value;

/// The version of the rules that turn bytes into rows: framing, header matching, sequence and partition.
///
/// It is frozen in the ledger for each object and generation. Raise it whenever the same bytes would get different
/// numbers; a listener of another version then opens a new generation at row 0.
pub const PARSER_VERSION: i32 = 3;
