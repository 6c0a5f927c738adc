//! A model of the whole pipeline that searches every interleaving of its steps, faults among them.
//!
//! One [`world::World`] holds what S3, Kafka and Postgres hold and what each process has in mind. An action is one step
//! of one process, or a fault: a crash, a lost answer, a record that comes late, a process that wakes after it was taken for
//! dead (which is nothing but a step that others overtook). A step looks at, or changes, one shared thing. Some look at a
//! second one in the same breath (a claim at the topic, a taken bookmark at the log, a sweep at the log's end). Decisions are not copied: each step calls the function that the program calls ([`freshet_sinks::ledger`],
//! [`freshet_ingest::decisions`], [`freshet_processors::decisions`]). What the program leaves to SQL (guards of an
//! update, the newer row of a key) the model does by hand in [`database`]; [`postgres`] holds the two together by taking
//! the same steps on a real Postgres and comparing after each.
//!
//! [`possible`] says which steps there are at a moment, [`steps`] takes them; [`properties`] says what must hold.
//!
//! - [`scenarios`]: small worlds, searched exhaustively;
//! - [`mutations`]: the same with one rule taken out: the search has to find what breaks;
//! - [`walks`]: larger worlds, walked at random.
//!
//! Time is not in the model: a lease or a wait may end at any moment, which is more than any clock can do.

mod database;
mod faults;
mod kafka;
mod mutations;
mod possible;
mod postgres;
mod properties;
mod scenarios;
mod search;
mod steps;
mod walks;
mod world;
