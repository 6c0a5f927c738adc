//! The content of an object as plain text bytes: format detected, inflated, and bounded.
//!
//! The first bytes decide: gzip (including several members, with zeros after them) and Zstandard (including several
//! frames) are inflated independent of the object's name and metadata, so that the same bytes are the same rows. Only a
//! file named `.gz` or `.zst` that is not compressed is rejected: such a file is rarely complete.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

/// The most bytes of one piece.
pub(super) const PIECE_BYTES_MAX: usize = 256 << 10;
/// Enough to distinguish the formats.
const MAGIC_BYTES: usize = 4;
/// Content up to this size is not a decompression bomb, whatever its ratio.
const RATIO_FREE_BYTES: u64 = 16 << 20;
/// Window of a Zstandard frame, as a power of two: 8 MiB, which every decoder must support (RFC 8878, 3.1.1.1.2) and
/// which `zstd` uses up to level 19. It is memory that the file demands.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Limits for compressed objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes after decompression. Default 16 GiB.
    pub inflated_bytes_max: u64,
    /// Bytes after decompression per byte before, checked beyond the first 16 MiB. Default 200; CSV of
    /// measurements has 4 to 20.
    pub inflate_ratio_max: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits { inflated_bytes_max: 16 << 30, inflate_ratio_max: 200 }
    }
}

/// Why the content of an object cannot be read. The text is its reject reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its name says that it is compressed, but it is not.
    #[error("the name ends in {0}, but the content is not {format}; rename it or compress it", format = format_of(.0))]
    NotCompressed(&'static str),
    /// It inflates to more than is allowed, or at a ratio that no table has.
    #[error(
        "the content inflates to more than {limit_bytes} bytes, the limit for an object of {object_bytes} bytes: split \
         the file, or raise ingest.inflated_bytes_max or ingest.inflate_ratio_max"
    )]
    TooLarge {
        /// The limit that applied.
        limit_bytes: u64,
        /// The size of the object.
        object_bytes: u64,
    },
    /// The compressed stream is incomplete.
    #[error("the compressed content is cut off; upload it again")]
    Truncated,
    /// The compressed stream is damaged, or demands too much memory.
    #[error("the compressed content cannot be read: {0}")]
    Damaged(String),
    /// Bytes that are not text in the encoding of the contract.
    #[error("the content is not text in {0}, as the contract says")]
    NotEncoded(&'static str),
    /// There is less content than was read before.
    #[error("the content ends before byte {0}, where reading should continue")]
    EndsEarly(u64),
    /// The store keeps it in an archive tier.
    #[error("the object is archived: restore it in S3, then run `freshet republish --file KEY`")]
    Archived,
}

/// Why there are no more bytes.
#[derive(Debug)]
pub(super) enum ContentError {
    /// The file is at fault.
    Unreadable(Unreadable),
    /// The store or the connection is at fault.
    Source(io::Error),
}

impl From<Unreadable> for ContentError {
    fn from(reason: Unreadable) -> Self {
        ContentError::Unreadable(reason)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let ends_in = |suffix: &str| {
            name.len()
                .checked_sub(suffix.len())
                .and_then(|at| name.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        [Compression::Gzip, Compression::Zstd].into_iter().find(|compression| ends_in(compression.suffix()))
    }

    /// Text in UTF-8 never begins like these: their second byte cannot start a character.
    fn of_magic(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            // A skippable frame, which parallel compressors write first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }
}

fn format_of(suffix: &str) -> &'static str {
    if suffix == ".gz" { "gzip" } else { "Zstandard" }
}

/// The bytes of an object as the store sends them.
pub(super) type Source = BoxStream<'static, io::Result<Bytes>>;

/// The bytes of an object as they are framed.
pub(super) enum Content {
    Plain { source: Source, rest: Bytes },
    Inflated { reader: Inflating, buffer: BytesMut, inflated_bytes: u64, limit_bytes: u64, object_bytes: u64 },
}

impl Content {
    /// Content of which only a later part is requested, so there is no format to detect; not compressed.
    pub(super) fn plain_rest(source: Source) -> Self {
        Content::Plain { source, rest: Bytes::new() }
    }

    /// Looks at the first bytes, and inflates compressed content. `named` is the format that the name says,
    /// `object_bytes` the object's size.
    pub(super) async fn sniff(
        named: Option<Compression>,
        object_bytes: u64,
        mut source: Source,
        limits: ReadLimits,
    ) -> Result<Self, ContentError> {
        let start = start(&mut source).await.map_err(ContentError::Source)?;
        match (named, Compression::of_magic(&start)) {
            (None, None) => Ok(Content::Plain { source, rest: start }),
            (named, Some(found)) if named.is_none_or(|named| named == found) => {
                let ratio_bytes = object_bytes.saturating_mul(limits.inflate_ratio_max).max(RATIO_FREE_BYTES);
                let limit_bytes = ratio_bytes.min(limits.inflated_bytes_max);
                let reader = inflating(found, start, source);
                let buffer = BytesMut::new();
                Ok(Content::Inflated { reader, buffer, inflated_bytes: 0, limit_bytes, object_bytes })
            }
            (Some(named), _) => Err(Unreadable::NotCompressed(named.suffix()).into()),
            (None, Some(_)) => Ok(Content::Plain { source, rest: start }),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Content::Plain { .. })
    }

    /// The next bytes, at most [`PIECE_BYTES_MAX`] and at least one; `None` at the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ContentError> {
        match self {
            Content::Plain { source, rest } => {
                while rest.is_empty() {
                    match source.next().await {
                        Some(bytes) => *rest = bytes.map_err(ContentError::Source)?,
                        None => return Ok(None),
                    }
                }
                Ok(Some(rest.split_to(rest.len().min(PIECE_BYTES_MAX))))
            }
            Content::Inflated { reader, buffer, inflated_bytes, limit_bytes, object_bytes } => {
                buffer.reserve(PIECE_BYTES_MAX);
                let count = reader.read(buffer).await.map_err(inflate_error)?;
                *inflated_bytes += count as u64;
                if *inflated_bytes > *limit_bytes {
                    let (limit_bytes, object_bytes) = (*limit_bytes, *object_bytes);
                    return Err(Unreadable::TooLarge { limit_bytes, object_bytes }.into());
                }
                Ok((count > 0).then(|| buffer.split().freeze()))
            }
        }
    }
}

/// At least [`MAGIC_BYTES`], unless the object has fewer.
async fn start(source: &mut Source) -> io::Result<Bytes> {
    let mut start = Bytes::new();
    while start.len() < MAGIC_BYTES {
        match source.next().await.transpose()? {
            Some(bytes) if start.is_empty() => start = bytes,
            Some(bytes) => start = [start, bytes].concat().into(),
            None => break,
        }
    }
    Ok(start)
}

/// A failure of the source, wrapped so that it is distinguished from failures of the decoder, which have the same type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceFailed(io::Error);

type Compressed = Pin<Box<dyn AsyncBufRead + Send>>;

/// A decoder at work.
pub(super) enum Inflating {
    /// The current member; `None` after the last.
    Gzip(Option<GzipDecoder<Compressed>>),
    Zstd(Pin<Box<dyn AsyncRead + Send>>),
}

impl Inflating {
    /// Reads the next bytes, at most [`PIECE_BYTES_MAX`]; returns how many, 0 at the end.
    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Inflating::Zstd(decoder) => decoder.take(PIECE_BYTES_MAX as u64).read_buf(buffer).await,
            Inflating::Gzip(member) => loop {
                let Some(decoder) = member else { return Ok(0) };
                let count = decoder.take(PIECE_BYTES_MAX as u64).read_buf(buffer).await?;
                if count > 0 {
                    return Ok(count);
                }
                if let Some(decoder) = member.take() {
                    *member = next_member(decoder.into_inner()).await?.map(GzipDecoder::new);
                }
            },
        }
    }
}

/// The content after a member, without the zeros that tapes and some stores add as padding; `None` if there is none.
async fn next_member(mut compressed: Compressed) -> io::Result<Option<Compressed>> {
    loop {
        let bytes = compressed.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let is_padding = zeros == bytes.len();
        compressed.consume(zeros);
        if !is_padding {
            return Ok(Some(compressed));
        }
    }
}

fn inflating(compression: Compression, start: Bytes, source: Source) -> Inflating {
    let tagged = |bytes: io::Result<Bytes>| bytes.map_err(|error| io::Error::other(SourceFailed(error)));
    let reader = StreamReader::new(stream::iter([Ok(start)]).chain(source).map(tagged));
    match compression {
        Compression::Gzip => Inflating::Gzip(Some(GzipDecoder::new(Box::pin(reader)))),
        Compression::Zstd => {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)]);
            decoder.multiple_members(true);
            Inflating::Zstd(Box::pin(decoder))
        }
    }
}

fn inflate_error(error: io::Error) -> ContentError {
    let kind = error.kind();
    let text = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<SourceFailed>()) {
        Some(Ok(source)) => ContentError::Source(source.0),
        _ if kind == io::ErrorKind::UnexpectedEof => Unreadable::Truncated.into(),
        _ => Unreadable::Damaged(text).into(),
    }
}

#[cfg(test)]
mod tests {
    use async_compression::Level;
    use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncWriteExt;

    use super::*;

    const TEXT: &[u8] = b"location_id,date,dengue_cases\n1,2025-09-21,2478\n2,2025-09-21,17\n";

    fn source(pieces: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Source {
        stream::iter(pieces.into_iter().map(|piece| piece.map(Bytes::from)).collect::<Vec<_>>()).boxed()
    }

    async fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder.write_all(text).await.expect("compress");
        encoder.shutdown().await.expect("compress");
        encoder.into_inner()
    }

    async fn zstd(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZstdEncoder::with_quality(Vec::new(), Level::Precise(3));
        encoder.write_all(text).await.expect("compress");
        encoder.shutdown().await.expect("compress");
        encoder.into_inner()
    }

    /// All of the content, read from a source that returns `cut` bytes at a time.
    async fn read(name: &str, object: &[u8], cut: usize, limits: ReadLimits) -> Result<Vec<u8>, ContentError> {
        let pieces = source(object.chunks(cut).map(|piece| Ok(piece.to_vec())));
        let mut content = Content::sniff(Compression::of_name(name), object.len() as u64, pieces, limits).await?;
        let mut all = Vec::new();
        while let Some(piece) = content.piece().await? {
            assert!((1..=PIECE_BYTES_MAX).contains(&piece.len()));
            all.extend_from_slice(&piece);
        }
        assert!(content.piece().await.is_ok_and(|piece| piece.is_none()), "the end is the end");
        Ok(all)
    }

    async fn reason(name: &str, object: &[u8], limits: ReadLimits) -> Unreadable {
        match read(name, object, 7, limits).await {
            Err(ContentError::Unreadable(reason)) => reason,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_same_text_comes_out_of_every_format_and_cut() {
        let (gzip_text, zstd_text) = (gzip(TEXT).await, zstd(TEXT).await);
        let (first, second) = TEXT.split_at(20);
        let members = [gzip(first).await, gzip(b"").await, gzip(second).await].concat();
        let padded = [&gzip_text[..], &[0; 700]].concat();
        let padded_between = [&gzip(first).await[..], &[0; 9], &gzip(second).await, &[0; 3]].concat();
        let frames = [&b"\x50\x2a\x4d\x18\x02\0\0\0xx"[..], &zstd(first).await, &zstd(second).await].concat();
        for (name, object) in [
            ("a.csv", TEXT),
            ("a", TEXT),
            ("a.csv.gz", &gzip_text),
            ("A.GZ", &gzip_text),
            ("a.gz", &members),
            ("a.gz", &padded),
            ("a.gz", &padded_between),
            ("a.csv.zst", &zstd_text),
            // Plain names: the first bytes decide.
            ("a.csv", &gzip_text),
            ("gz", &members),
            ("a", &padded),
            ("a.csv", &zstd_text),
            ("a.txt", &frames),
            ("ü.Zst", &frames),
        ] {
            for cut in [1, 2, 3, 10, 1 << 20] {
                let text = read(name, object, cut, ReadLimits::default()).await.expect(name);
                assert_eq!(text, TEXT, "{name} by {cut}");
            }
        }
        assert_eq!(read("a.csv", b"", 1, ReadLimits::default()).await.expect("empty"), b"");
        assert_eq!(read("a.gz", &gzip(b"").await, 1, ReadLimits::default()).await.expect("empty"), b"");
    }

    #[tokio::test]
    async fn large_content_comes_in_bounded_pieces() {
        let text: Vec<u8> = (0..3_000_000_u32).flat_map(|number| (number % 251).to_le_bytes()).collect();
        for (name, object) in [("a.csv", text.clone()), ("a.gz", gzip(&text).await), ("a.zst", zstd(&text).await)] {
            for cut in [4096, 1 << 30] {
                assert_eq!(read(name, &object, cut, ReadLimits::default()).await.expect(name), text, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_that_lies_rejects_the_file() {
        let (gzip_text, zstd_text) = (gzip(TEXT).await, zstd(TEXT).await);
        for (name, object, expected) in [
            ("a.csv.gz", TEXT, Unreadable::NotCompressed(".gz")),
            ("a.gz", b"", Unreadable::NotCompressed(".gz")),
            ("a.gz", b"\x1f", Unreadable::NotCompressed(".gz")),
            ("a.gz", &zstd_text, Unreadable::NotCompressed(".gz")),
            ("a.zst", &gzip_text, Unreadable::NotCompressed(".zst")),
        ] {
            assert_eq!(reason(name, object, ReadLimits::default()).await, expected, "{name}");
        }
        assert_eq!(
            Unreadable::NotCompressed(".zst").to_string(),
            "the name ends in .zst, but the content is not Zstandard; rename it or compress it"
        );
    }

    #[tokio::test]
    async fn content_cut_off_anywhere_or_damaged_is_never_taken_for_whole() {
        for (name, object) in [("a.gz", gzip(TEXT).await), ("a.zst", zstd(TEXT).await)] {
            for len in 4..object.len() {
                assert_eq!(
                    reason(name, &object[..len], ReadLimits::default()).await,
                    Unreadable::Truncated,
                    "{name} {len}"
                );
                let second = [&object[..], &object[..len]].concat();
                assert_eq!(reason(name, &second, ReadLimits::default()).await, Unreadable::Truncated, "{name} + {len}");
            }
            let with_rubbish = [&object[..], b"and more text"].concat();
            let damaged = reason(name, &with_rubbish, ReadLimits::default()).await;
            assert!(matches!(damaged, Unreadable::Damaged(_)), "{name}: {damaged:?}");
        }
        let mut flipped = gzip(TEXT).await;
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        let damaged = reason("a.gz", &flipped, ReadLimits::default()).await;
        assert!(matches!(damaged, Unreadable::Damaged(_)), "{damaged:?}");
    }

    #[tokio::test]
    async fn a_bomb_is_refused_long_before_it_is_inflated() {
        let zeros = vec![b'0'; 40 << 20];
        for (name, object) in [("a.gz", gzip(&zeros).await), ("a.zst", zstd(&zeros).await)] {
            let object_bytes = object.len() as u64;
            let limit_bytes = (object_bytes * 200).max(RATIO_FREE_BYTES);
            let too_large = Unreadable::TooLarge { limit_bytes, object_bytes };
            assert_eq!(reason(name, &object, ReadLimits::default()).await, too_large);
            let roomy = ReadLimits { inflate_ratio_max: u64::MAX, ..ReadLimits::default() };
            assert_eq!(read(name, &object, 1 << 20, roomy).await.expect(name).len(), zeros.len());
        }
        let object = gzip(TEXT).await;
        for (inflated_bytes_max, fits) in [(TEXT.len() as u64, true), (TEXT.len() as u64 - 1, false)] {
            let limits = ReadLimits { inflated_bytes_max, ..ReadLimits::default() };
            assert_eq!(read("a.gz", &object, 9, limits).await.is_ok(), fits);
        }
    }

    #[tokio::test]
    async fn a_window_that_demands_much_memory_is_refused() {
        // A frame header with a window descriptor of 2^27 bytes, and one raw block.
        let frame = b"\x28\xb5\x2f\xfd\x00\x88\x19\x00\x00abc";
        let damaged = reason("a.zst", frame, ReadLimits::default()).await;
        assert!(matches!(damaged, Unreadable::Damaged(_)), "{damaged:?}");
        let frame = b"\x28\xb5\x2f\xfd\x00\x58\x19\x00\x00abc";
        assert_eq!(read("a.zst", frame, 9, ReadLimits::default()).await.expect("2^21 is fine"), b"abc");
    }

    #[tokio::test]
    async fn a_source_that_breaks_is_not_the_fault_of_the_file() {
        let broken = || Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection reset"));
        for (name, object) in [("a.csv", TEXT.to_vec()), ("a.gz", gzip(TEXT).await), ("a.zst", zstd(TEXT).await)] {
            for len in [0, 3, 20] {
                let pieces = source([Ok(object[..len].to_vec()), broken()]);
                let error = match Content::sniff(Compression::of_name(name), 99, pieces, ReadLimits::default()).await {
                    Err(error) => error,
                    Ok(mut content) => loop {
                        match content.piece().await {
                            Ok(Some(_)) => {}
                            Ok(None) => panic!("{name}: the end"),
                            Err(error) => break error,
                        }
                    },
                };
                assert!(matches!(error, ContentError::Source(_)), "{name} {len}: {error:?}");
            }
        }
    }
}
