//! Why an object is in its state: a value for decisions and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lost::Lost;

/// Reasons are for people; tables have the details of a long list.
const REASON_CHARS_MAX: usize = 2_000;

/// Why an object is in its state. Stored in `pipeline.objects.cause` as JSON, and as text in `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// It has the same content as this older version of its key, which is published or applied.
    SameContent {
        /// The older version.
        object: i64,
    },
    /// S3 no longer has this version.
    Gone {
        /// S3's answer.
        detail: String,
        /// Rows that were published or begun, and did not arrive.
        lost: Lost,
    },
    /// S3 no longer has this version; all of its rows were received before.
    ReceivedBefore {
        /// S3's answer.
        detail: String,
    },
    /// The file is at fault.
    Unreadable {
        /// Where and why, for its sender.
        detail: String,
    },
    /// The last attempt failed; it will be tried again.
    Failed {
        /// The error.
        detail: String,
    },
    /// Some of its rows did not arrive; it is published again.
    RowsMissing {
        /// Rows received.
        received: i64,
        /// Rows of the file.
        rows: i64,
    },
    /// The log is shorter than what Kafka had acknowledged; it is published again.
    LogTruncated,
    /// Somebody asked for it with `freshet republish`.
    SentAgain,
    /// Somebody asked for it with `freshet republish --as-new`.
    SentAsNew,
    /// The topic was adopted; it is published again.
    Adopted,
    /// It was given up as gone, but is still in the bucket.
    StillThere,
    /// It was a copy of this older version, which was given up.
    OriginalGone {
        /// The older version.
        object: i64,
    },
}

impl Reason {
    /// The version that it was set aside for.
    pub fn same_content_as(&self) -> Option<i64> {
        match self {
            Reason::SameContent { object } => Some(*object),
            _ => None,
        }
    }

    /// Whether the version was given up because S3 did not have it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Reason::Gone { .. })
    }

    /// The sentence for people, of bounded length.
    pub fn text(&self) -> String {
        let text = self.to_string();
        match text.char_indices().nth(REASON_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::SameContent { object } => write!(formatter, "same content as object {object}, nothing to do"),
            Reason::Gone { detail, lost: Lost::Nothing } => formatter.write_str(detail),
            Reason::Gone { detail, lost } => write!(formatter, "{detail}; {lost}"),
            Reason::ReceivedBefore { detail } => write!(formatter, "{detail}; all of its rows were received before"),
            Reason::Unreadable { detail } | Reason::Failed { detail } => formatter.write_str(detail),
            Reason::RowsMissing { received, rows } => {
                write!(formatter, "{received} of {rows} rows were received: publishing it again")
            }
            Reason::LogTruncated => {
                formatter.write_str("the log is shorter than what Kafka had acknowledged: publishing it again")
            }
            Reason::SentAgain => formatter.write_str("sent again"),
            Reason::SentAsNew => formatter.write_str("sent again as new"),
            Reason::Adopted => formatter.write_str("the topic was adopted: publishing it again"),
            Reason::StillThere => formatter.write_str("it seemed to be gone, but the bucket still has it"),
            Reason::OriginalGone { object } => {
                write!(
                    formatter,
                    "object {object}, of which it is a copy, could not be published: publishing this \
                     one instead"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_database_and_is_bounded_for_people() {
        let gone = Reason::Gone { detail: "gone".into(), lost: Lost::From { row: 7, received: 2 } };
        let lost = Lost::Rows { count: 3, seqs: vec![(2, "{[0,3)}".into())] };
        let named = Reason::Gone { detail: "gone".into(), lost };
        for reason in [gone, named, Reason::SameContent { object: 5 }, Reason::SentAgain] {
            let json = serde_json::to_string(&reason).expect("JSON");
            assert_eq!(serde_json::from_str::<Reason>(&json).expect("a reason"), reason, "{json}");
        }
        let long = Reason::Failed { detail: "ä".repeat(3_000) };
        assert_eq!(long.text().chars().count(), REASON_CHARS_MAX + 1);
    }
}
