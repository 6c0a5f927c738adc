//! Where freshet's data is stored: tables in Postgres and derived outputs in S3.
//!
//! This crate promises that a batch of rows, the bookmark that says how far the topic is applied, and every
//! count about them move in one transaction ([`apply`]), and that derived outputs are published as a whole or
//! not at all ([`outputs`]).
//!
//! [`apply`] begins with the path of one batch; [`lives`] decides which of its rows this ledger sent. A batch that a
//! [`replay`] reads again takes the same path: as a correction of the tables, or into a [`shadow`] of them.

mod advisory;
pub mod apply;
pub mod backoff;
pub mod bookmarks;
pub mod destination;
pub mod event_queue;
pub mod ledger;
pub mod listings;
pub mod lives;
pub mod metrics;
pub mod output_state;
pub mod output_views;
pub mod outputs;
pub mod postgres;
pub mod replay;
pub mod s3;
pub mod schema;
pub mod session;
pub mod shadow;
pub mod sqs;
pub mod tables;
pub mod transactions;
pub mod unmatched;
