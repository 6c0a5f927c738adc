//! The format of a feed's files: encoding, delimiter, decimal sign, and how exactly their headings must match.

use super::custom::Custom;
use super::words::one_of;
use crate::pipeline::mistake::Mistakes;
use crate::pipeline::yaml::Node;
use crate::{Column, NearMiss, TextEncoding};

/// The format of the files of a domain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) on_near_miss: NearMiss,
    pub(super) delimiter: u8,
    pub(super) encoding: TextEncoding,
    decimal_comma: bool,
}

impl Form {
    /// The column as written in the files.
    pub(super) fn column(&self, column: Column) -> Column {
        Column { decimal_comma: self.decimal_comma && column.cast.is_number(), ..column }
    }
}

/// Reads `onNearMiss`, `delimiter`, `decimal` and `encoding`.
pub(super) fn read(custom: &Custom<'_, '_>, mistakes: &mut Mistakes) -> Form {
    let near_misses = [("reject", NearMiss::Reject), ("ignore", NearMiss::Ignore)];
    let near_miss = custom.value("onNearMiss", mistakes).and_then(|node| one_of(&node, &near_misses, mistakes));
    let parting = custom.value("delimiter", mistakes);
    let delimiter = parting.and_then(|node| delimiter(&node, mistakes)).unwrap_or(b',');
    let point = custom.value("decimal", mistakes);
    let decimal_comma =
        point.and_then(|node| one_of(&node, &[(".", false), (",", true)], mistakes)).unwrap_or_default();
    let encodings = [
        ("utf-8", TextEncoding::Utf8),
        ("windows-1252", TextEncoding::Windows1252),
        ("utf-16", TextEncoding::Utf16Le),
        ("utf-16le", TextEncoding::Utf16Le),
        ("utf-16be", TextEncoding::Utf16Be),
    ];
    let encoding = custom.value("encoding", mistakes).and_then(|node| one_of(&node, &encodings, mistakes));
    Form {
        on_near_miss: near_miss.unwrap_or(NearMiss::Reject),
        delimiter,
        decimal_comma,
        encoding: encoding.unwrap_or(TextEncoding::Utf8),
    }
}

/// One ASCII character that cannot be part of a number, a name or a quote.
fn delimiter(node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Option<u8> {
    let text = node.text(mistakes)?;
    let is_delimiter = |byte: &u8| *byte == b'\t' || (byte.is_ascii_punctuation() && !b"\"'.+-_".contains(byte));
    match text.as_bytes() {
        [byte] if is_delimiter(byte) => Some(*byte),
        _ => {
            let said = format!(
                "`{}` cannot be a delimiter: use a tab (\"\\t\"), `;`, `|` or another punctuation mark",
                text.escape_debug()
            );
            mistakes.add(node.place(), said);
            None
        }
    }
}
