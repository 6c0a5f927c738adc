//! Recognizes files that are not CSV by their first bytes, and says what to do.

/// The number of bytes looked at.
pub(crate) const START_BYTES: usize = 4096;

/// Why a file is not CSV, for its sender.
pub(crate) fn foreign(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    let holds = |word: &[u8]| memchr::memmem::find(start, word).is_some();
    let workbook = "this is an Excel workbook: save it as CSV UTF-8 and drop it again";
    let found = match start {
        [b'P', b'K', 3, 4, ..] if holds(b"[Content_Types].xml") || holds(b"xl/") => workbook,
        [0xd0, 0xcf, 0x11, 0xe0, ..] => workbook,
        [b'P', b'K', 3..=8, ..] => "this is a zip archive: unpack it, and drop the CSV file in it",
        // A page header in Thrift follows, which begins with 0x15. A heading may begin with these letters, too.
        [b'P', b'A', b'R', b'1', next, ..] if next.is_ascii_control() && !next.is_ascii_whitespace() => {
            "this is a Parquet file: write it as CSV UTF-8 and drop it again"
        }
        [b'%', b'P', b'D', b'F', ..] => "this is a PDF: ask for the table as CSV UTF-8 and drop that",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => UTF_16,
        _ if is_utf_16(start) => UTF_16,
        _ if begins(b"<!doctype html") || begins(b"<html") => {
            "this is a page of HTML, perhaps an error page in place of the file: fetch the file again, and drop that"
        }
        _ if begins(b"<?xml") || begins(b"<error") => {
            "this is XML, perhaps an error in place of the file: fetch the file again, and drop that"
        }
        _ if is_json(text) => "this is JSON: write it as CSV UTF-8 and drop it again",
        _ => return None,
    };
    Some(found)
}

const UTF_16: &str =
    "this is text in UTF-16: save it as CSV UTF-8 and drop it again, or set `encoding: utf-16` in the contract";

/// Without a byte order mark: in plain text, every other byte is NUL.
fn is_utf_16(start: &[u8]) -> bool {
    let pairs = start.chunks_exact(2).take(32);
    let count = pairs.len();
    let of = |at: usize| pairs.clone().filter(|pair| pair[at] == 0 && pair[1 - at] != 0).count();
    count >= 4 && (of(0) * 4 >= count * 3 || of(1) * 4 >= count * 3)
}

/// An object whose first name is in quotes, or a list of objects, lists or texts.
fn is_json(text: &[u8]) -> bool {
    let inner = |text: &[u8]| text[1..].trim_ascii_start().first().copied();
    match text.first() {
        Some(b'{') => matches!(inner(text), Some(b'"' | b'}')),
        Some(b'[') => matches!(inner(text), Some(b'{' | b'[' | b']' | b'"')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_instead_of_csv_is_named() {
        let utf_16: Vec<u8> = "location_id,date".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big_endian: Vec<u8> = "location_id,date".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let cases: [(&[u8], &str); 15] = [
            (b"PK\x03\x04\x14\0\x06\0\x08\0[Content_Types].xml", "Excel workbook"),
            (b"PK\x03\x04\x14\0\0\0\x08\0xl/workbook.xml", "Excel workbook"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel workbook: save it as CSV UTF-8 and drop it again"),
            (b"PK\x03\x04\x14\0\0\0\x08\0health.csv", "zip archive"),
            (b"PK\x05\x06\0\0\0\0", "zip archive"),
            (b"PAR1\x15\x04", "Parquet"),
            (b"%PDF-1.7\n", "PDF"),
            (b"\r\n<!DOCTYPE html><html>", "HTML"),
            (b"<html><body>502", "HTML"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"{ \"location_id\": 1}", "JSON"),
            (b"[{\"location_id\": 1}]", "JSON"),
            (b"\xff\xfel\0o\0", "UTF-16"),
            (&utf_16, "UTF-16"),
            (&big_endian, "UTF-16"),
        ];
        for (start, expected) in cases {
            let said = foreign(start).unwrap_or_default();
            assert!(said.contains(expected), "{}: {said}", start.escape_ascii());
        }
        for start in [
            "",
            "id,name\n1,a\n",
            "\u{feff}id\n",
            "PK,name\n",
            "<5,name\n",
            "[id],name\n",
            "{id},name\n",
            "1\0,2\0\n",
            "PAR1,PAR2\n",
        ] {
            assert_eq!(foreign(start.as_bytes()), None, "{start:?}");
        }
    }
}
