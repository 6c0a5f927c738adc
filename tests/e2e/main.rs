//! End to end on the real components: files dropped in S3, through Kafka, into Postgres and the derived outputs.
//!
//! One file a story. Each test has a world of its own on one shared stack ([`harness::World`]) and ends with the
//! oracles ([`harness::oracles`]), which know the domains only from their own plain reading of the rules
//! ([`harness::plain`]) and formulas ([`harness::formulas`]).
//!
//! Random tests print their seed; `FRESHET_TEST_SEED` replays one. `FRESHET_TEST_LOG=1` shows freshet's log.

mod answers;
mod bad_files;
mod bookmarks;
mod by_copy;
mod changes;
mod command;
mod compare;
mod contracts;
mod copies;
mod events;
mod every_domain;
mod exactly_once;
mod faults;
mod formats;
mod frozen;
mod harness;
mod keys;
mod kills;
mod ledger;
mod listing;
mod operate;
mod output_views;
mod overwrite;
mod paces;
mod packed;
mod pooler;
mod publications;
mod queries;
mod rejects;
mod replace;
mod replay;
mod replay_ends;
mod republish;
mod restore;
mod roles;
mod shadow;
mod small_files;
mod spellings;
mod storage;
mod takeover;
mod told;
mod topics;
mod validate;
mod windows;
mod writers;
