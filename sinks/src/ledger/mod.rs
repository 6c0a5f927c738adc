//! The object ledger: one row for each version of each object in the raw bucket, from the moment it is found until all
//! of its rows are applied.
//!
//! This module is the only one that writes `pipeline.objects`, and the only one that decides about an object. It
//! guarantees:
//! - a version is registered once, at its place in the order of its domain ([`register`]);
//! - a state changes only as the pure function [`transition()`] allows, and related changes are written together
//!   ([`write`]);
//! - a listener that has lost its lease writes nothing any more ([`claim`]);
//! - a published object becomes applied, or is published again ([`sweep`]).
//!
//! The path of one object:
//!
//! ```text
//!            ┌───────────── failed, paused, lease expired ────────────┐
//!            ▼                                                        │
//! register → discovered ── claim ──► publishing ── publish ──► published ── sweep ──► applied
//!            ▲                           │  └── reject ──► rejected     │
//!            │                           └── set aside, gone ──► superseded
//!            └── restart: rows are missing, sent again, adopted, still in the bucket
//! ```
//!
//! Only Postgres' clock counts. A lease and a wait are intervals, from `from` (until the first claim: from when the object
//! was found) until `until`: a clock that jumps back to before `from`, or forward beyond `until`, ends them early and
//! never makes them longer. Ending one early only costs work: two listeners that publish the same object write the same
//! rows under the same numbers.

mod claim;
mod lost;
mod object;
pub mod order;
mod reason;
pub mod register;
mod replace;
mod restart;
mod state;
mod sweep;
mod transition;
mod write;

pub use claim::{
    ATTEMPTS_HOLDING_BACK, Claim, Claimant, Earlier, Numbering, OpenDomain, Renewal, Take, claim, may_claim,
    nothing_to_do, renew,
};
pub use lost::{Lost, has_rows, lost_rows, received};
pub use object::{Content, Guard, NEWEST_OF_ITS_KEY_SQL, Object, ObjectVersion, ResumePoint, on_one_line};
pub use reason::Reason;
pub(crate) use replace::lock_shared;
pub use replace::replace_overwritten;
pub use restart::{Selection, adopt, is_sendable, select, send_again, send_as_new};
pub use state::{ObjectState, UNFINISHED_SQL};
pub use sweep::{Arrived, Swept, Verdict, judge, name_late_rows, sweep};
pub use transition::{Change, Event, Lease, Wait, transition};
pub(crate) use write::milliseconds;
pub use write::{Finished, Recorded, record, record_gone, record_published};
