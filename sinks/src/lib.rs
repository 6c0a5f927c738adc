//! Where freshet's data comes to rest: tables in Postgres and derived outputs in S3.
//!
//! This crate promises that a batch of rows, the bookmark that says how far the topic is applied, and every
//! count about them move in one transaction ([`apply`]), and that derived outputs are published as a whole or
//! not at all ([`outputs`]).
//!
//! One batch's path through it: [`bookmark`] decides whether the batch is the next one, [`lives`] which of its rows this
//! ledger sent, [`progress`] which of them are new, [`upsert`] writes the newest row of each key, [`rejects`] keeps what
//! could not load, and [`marks`] tell the publisher which windows to derive again.
//!
//! A batch that is replayed goes the same way into a [`shadow`], or [`mod@correct`]s the tables in place.

pub mod adopt;
pub mod apply;
pub mod bookmark;
pub mod correct;
pub mod difference;
pub mod lives;
pub mod marks;
pub mod metrics;
mod newest;
pub mod outputs;
pub mod place;
pub mod postgres;
pub mod progress;
pub mod rebookmark;
pub mod refusals;
pub mod rejects;
pub mod replays;
pub mod s3;
pub mod schema;
pub mod shadow;
pub mod streams;
pub mod upsert;
