//! freshet: a CSV file dropped in S3 is in Postgres and in the derived outputs seconds later, exactly once.
//!
//! This package only wires: the command line ([`cli`]), the settings ([`config`]), the roles ([`roles`]), the
//! local stack ([`local`]), HTTP, how far everything is ([`status`]), the survey of it, the status page ([`page`]), and
//! logs. The actual work is in the crates it imports: `freshet_ingest` (S3 to Kafka), `freshet_processors` (Kafka
//! to Postgres, Postgres to S3), over `freshet_sinks` and `freshet_topics`.

#[macro_use]
mod print;

pub mod cli;
pub mod commands;
pub mod config;
pub mod http;
pub mod local;
mod metrics;
pub mod page;
pub mod pipeline;
pub mod ready;
pub mod roles;
pub mod status;
mod survey;
pub mod telemetry;
mod text;
