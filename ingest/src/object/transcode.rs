//! Text in another encoding as UTF-8, piece by piece. Positions in a file are counted after the conversion.

use bytes::Bytes;
use encoding_rs::{Decoder, DecoderResult, UTF_16BE, UTF_16LE, WINDOWS_1252};
use freshet_topics::TextEncoding;

use super::inflate::Unreadable;

/// Turns pieces of text into UTF-8; a byte order mark at the start overrides the contract.
pub(super) struct Transcoder {
    decoder: Decoder,
    name: &'static str,
}

impl Transcoder {
    /// `None` for UTF-8, which is left as it is.
    pub(super) fn of(encoding: TextEncoding) -> Option<Self> {
        let (encoding, name) = match encoding {
            TextEncoding::Utf8 => return None,
            TextEncoding::Windows1252 => (WINDOWS_1252, "windows-1252"),
            TextEncoding::Utf16Le => (UTF_16LE, "utf-16"),
            TextEncoding::Utf16Be => (UTF_16BE, "utf-16be"),
        };
        Some(Transcoder { decoder: encoding.new_decoder(), name })
    }

    /// The piece in UTF-8: at most three times as long, and possibly empty. With `last`, the text ends after it.
    pub(super) fn piece(&mut self, mut piece: &[u8], last: bool) -> Result<Bytes, Unreadable> {
        let mut text = Vec::new();
        loop {
            // Three bytes for each byte, and the rest of a cut character.
            let from = text.len();
            text.resize(from + 3 * piece.len() + 16, 0);
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(piece, &mut text[from..], last);
            text.truncate(from + written);
            piece = &piece[read..];
            match result {
                DecoderResult::InputEmpty => return Ok(text.into()),
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => return Err(Unreadable::NotEncoded(self.name)),
            }
        }
    }
}

/// Text as a file in that encoding has it, such as sample data. A character that the encoding lacks becomes `?`, which needs
/// no quotes where that did not.
pub fn encoded(encoding: TextEncoding, text: &str) -> Vec<u8> {
    match encoding {
        TextEncoding::Utf8 => text.as_bytes().to_vec(),
        TextEncoding::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        TextEncoding::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        TextEncoding::Windows1252 => {
            let byte = |character: char| {
                // Room for the numeric reference that stands for a character which is not there.
                let (mut character_bytes, mut encoded) = ([0; 4], [0; 16]);
                let text = character.encode_utf8(&mut character_bytes);
                let (.., is_lacking) = WINDOWS_1252.new_encoder().encode_from_utf8(text, &mut encoded, true);
                if is_lacking { b'?' } else { encoded[0] }
            };
            text.chars().map(byte).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(encoding: TextEncoding, file: &[u8], cut: usize) -> Result<String, Unreadable> {
        let mut transcoder = Transcoder::of(encoding).expect("another encoding");
        let mut text = Vec::new();
        for piece in file.chunks(cut) {
            text.extend(transcoder.piece(piece, false)?);
        }
        text.extend(transcoder.piece(&[], true)?);
        Ok(String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn text_that_was_encoded_is_read_back() {
        for encoding in [TextEncoding::Windows1252, TextEncoding::Utf16Le, TextEncoding::Utf16Be] {
            let text = "id,name\n1,Côte–€\n";
            assert_eq!(read(encoding, &encoded(encoding, text), 3).expect("text"), text, "{encoding:?}");
        }
        assert_eq!(encoded(TextEncoding::Windows1252, "é☃☃"), b"\xe9??");
        assert_eq!(encoded(TextEncoding::Utf8, "é"), "é".as_bytes());
    }

    #[test]
    fn text_is_the_same_in_every_encoding_and_cut() {
        let text = "id,name\n1,Côte–€\n";
        let utf_16 = |mark: &str| format!("{mark}{text}").encode_utf16().collect::<Vec<u16>>();
        let little = |mark| utf_16(mark).into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let big = |mark| utf_16(mark).into_iter().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
        for (encoding, file) in [
            (TextEncoding::Windows1252, b"id,name\n1,C\xf4te\x96\x80\n".to_vec()),
            (TextEncoding::Windows1252, format!("\u{feff}{text}").into_bytes()),
            (TextEncoding::Utf16Le, little("\u{feff}")),
            (TextEncoding::Utf16Le, big("\u{feff}")),
            (TextEncoding::Utf16Le, little("")),
            (TextEncoding::Utf16Be, big("")),
        ] {
            for cut in [1, 2, 3, 1000] {
                assert_eq!(read(encoding, &file, cut).expect("text"), text, "{encoding:?} by {cut}");
            }
        }
        let broken = read(TextEncoding::Utf16Le, b"a\0\0\xd8b\0", 2).expect_err("half of a pair");
        assert_eq!(broken.to_string(), "the content is not text in utf-16, as the contract says");
        assert!(read(TextEncoding::Utf16Le, b"a\0b", 9).is_err(), "half of a character");
    }
}
