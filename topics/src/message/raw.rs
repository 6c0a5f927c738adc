//! The raw text of a row in its message, kept until it is known whether the row loads; for most rows it is never used.

use std::sync::Arc;

use bytes::Bytes;

use super::packed::lines;

/// The original text of one row in its message.
#[derive(Debug, Clone)]
pub enum RawText {
    /// The value of a message with one row.
    Alone(Bytes),
    /// A line of a packed message.
    Packed {
        /// The columns of the message, separated by commas.
        columns: Arc<str>,
        /// The line.
        line: Bytes,
    },
    /// The value of a message that cannot be read.
    Unread {
        /// The value.
        value: Bytes,
        /// How many rows it seems to be.
        rows: usize,
    },
}

/// Empty: for a row that did not come from a message.
impl Default for RawText {
    fn default() -> Self {
        RawText::Alone(Bytes::new())
    }
}

impl RawText {
    /// The text stored for a reject, from which its cells can be understood: an object by column name, as in a message
    /// with one row. For anything that is not a row, the original text.
    pub fn to_text(&self) -> String {
        match self {
            RawText::Alone(value) | RawText::Unread { value, .. } => String::from_utf8_lossy(value).into_owned(),
            RawText::Packed { columns, line } => {
                let line = String::from_utf8_lossy(line);
                lines::object(columns, &line).unwrap_or_else(|_| line.into_owned())
            }
        }
    }

    /// How many rows it is, or seems to be.
    pub fn rows(&self) -> usize {
        match self {
            RawText::Alone(_) | RawText::Packed { .. } => 1,
            RawText::Unread { rows, .. } => *rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_kept_as_an_object_whichever_form_it_came_in() {
        let packed = |line: &'static str| RawText::Packed { columns: "id,name".into(), line: line.into() };
        let cases = [
            (RawText::Alone(r#"{"id":"7"}"#.into()), r#"{"id":"7"}"#),
            (RawText::Alone(Bytes::from_static(b"\xff")), "\u{fffd}"),
            (RawText::Unread { value: "[0,2,\"7\"".into(), rows: 9 }, "[0,2,\"7\""),
            (packed(r#"[0,2,"7\"\\",null]"#), r#"{"id":"7\"\\","name":null}"#),
            (
                packed(r#"[0,2,"7",{ "_extra":["x"],"_later":{"a":[]} }]"#),
                r#"{"id":"7", "_extra":["x"],"_later":{"a":[]} }"#,
            ),
            (packed("[0,2,{}]"), "{}"),
            // Cells that cannot be read are never constructed; the text would be stored unchanged.
            (packed(r#"[0,2,"7","Goa","x"]"#), r#"[0,2,"7","Goa","x"]"#),
            (packed("[0,2,7]"), "[0,2,7]"),
        ];
        for (raw, expected) in cases {
            assert_eq!(raw.to_text(), expected, "{raw:?}");
        }
    }
}
