//! Derived outputs in S3, published as a whole or not at all: the only module that writes the processed bucket's outputs.
//!
//! It guarantees that a reader sees one whole version; that versions only grow, whatever is deleted by hand; and that
//! no file is deleted that is named by a version that readers may still use, or by a later version.
//!
//! How: the name of a data file carries the version that first named it and is never reused ([`key`]), so no reader
//! ever sees a file change, and the garbage collection needs no lock ([`collect`]). A [`Manifest`] names all files of a
//! version. The pointer [`POINTER`] names the manifest and moves by compare-and-swap: of two publishers at once, one
//! wins and the other starts again. Whole-file copies under stable names carry the version that they were made from and
//! are replaced only by a newer one.
//!
//! The path of one version: [`Store::published`] tells what is published and the ETag to swap against → [`Store::put`]
//! writes the new files → [`Store::publish`] writes the manifest and swaps the pointer → [`Store::put_copy`] updates
//! the stable names → [`Store::verify`] finds what was deleted by hand → [`collect`] deletes what no recent manifest
//! names. Data files that were written or read stay on this machine's disk for a while ([`FileCache`]), so that files
//! combined from them need not read them from S3 again.
//!
//! Only S3's own error codes count: an object is gone if S3's code says so; a 404 without one, as from a proxy, is an
//! error that is retried ([`OutputError::Request`]).
//!
//! All of this depends on conditional writes; [`probe`] refuses a store that does not honour them.

mod cache;
mod collect;
mod copies;
mod error;
mod first;
mod key;
mod list;
mod manifest;
mod probe;
mod published;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod write;

pub use aws_sdk_s3::Client;
pub use cache::FileCache;
pub use collect::{Collected, collect, publication_max};
pub use copies::{WholeFileCopy, copies_behind, is_copy_current};
pub use error::OutputError;
pub use first::First;
pub use key::{POINTER, copy_key, data_key};
pub use manifest::{Derived, FORMATS, FileRef, Manifest, Pointer, WindowFiles};
pub use probe::{PROBES, probe};
pub use published::{Current, Lost, Published, read_current};
pub use spool::{Readable, Spool, Spooled, sweep_spools};
pub use store::{Condition, Put, Store};
pub use verify::Damage;
