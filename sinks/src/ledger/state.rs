//! The states of an object.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of an object version. The names are those in `pipeline.objects`, in the order in which an object goes
/// through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ObjectState {
    /// Found, and waiting for a listener.
    Discovered,
    /// A listener has the lease on it.
    Publishing,
    /// All of its rows are acknowledged by Kafka.
    Published,
    /// All of its rows were received by the processors.
    Applied,
    /// The file cannot be read; no row of this reading was published.
    Rejected,
    /// Nothing is to be published: it has the same content as the version before, or S3 no longer has it.
    Superseded,
}

/// The states of an object that is not final, as a list in SQL.
pub const UNFINISHED_SQL: &str = "('discovered', 'publishing', 'published')";

impl ObjectState {
    /// Whether copies of an object in this state may stay set aside: it has their rows, or will have them.
    pub fn keeps_copies(self) -> bool {
        !matches!(self, ObjectState::Superseded | ObjectState::Rejected)
    }

    /// Every state.
    pub const ALL: [ObjectState; 6] = [
        ObjectState::Discovered,
        ObjectState::Publishing,
        ObjectState::Published,
        ObjectState::Applied,
        ObjectState::Rejected,
        ObjectState::Superseded,
    ];

    /// Its name in `pipeline.objects`, in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ObjectState::Discovered => "discovered",
            ObjectState::Publishing => "publishing",
            ObjectState::Published => "published",
            ObjectState::Applied => "applied",
            ObjectState::Rejected => "rejected",
            ObjectState::Superseded => "superseded",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        ObjectState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the state is final unless an operator acts.
    pub const fn is_final(self) -> bool {
        matches!(self, ObjectState::Applied | ObjectState::Rejected | ObjectState::Superseded)
    }
}

impl fmt::Display for ObjectState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for state in ObjectState::ALL {
            assert_eq!(serde_json::to_value(state).expect("JSON"), state.name());
            assert_eq!(ObjectState::from_name(state.name()), Some(state));
            assert_eq!(UNFINISHED_SQL.contains(&format!("'{state}'")), !state.is_final());
        }
    }
}
