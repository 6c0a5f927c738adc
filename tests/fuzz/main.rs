//! Hostile bytes: whatever is read from outside is given mutated samples of itself, and must answer, never panic, and keep
//! what it promises.
//!
//! Each target runs for a second in `make test`, by a fixed seed, so that a failure is the same next time; `make fuzz`
//! runs each for a minute by a new seed. A failure prints the seed and the input.
//!
//! - [`driver`]: mutates samples, and tells of the input that broke a target;
//! - [`files`]: framing, headers, rows, casts, and the same cells as the `csv` crate on well-formed files;
//! - [`messages`]: Kafka messages, notifications of the store, contracts.

mod driver;
mod files;
mod messages;
