//! Reads the raw bucket for the listener: listing, HEAD, and the content of one version of an object.
//!
//! A read is pinned: every GET carries the ETag as `If-Match`, and the versionId if there is one, so that a file
//! overwritten while it is read is never a mixture. Compressed content is inflated on the way ([`inflate`]). Errors
//! tell the cause, which decides what happens to the object: the version is gone ([`ReadError::Gone`]), the file itself
//! is invalid ([`ReadError::Rejected`]), or another attempt may succeed ([`ReadError::Transient`],
//! [`ReadError::Denied`]).
//!
//! Waits are bounded: the client is expected to have connect, read and attempt timeouts, as `freshet_sinks::s3::client`
//! sets them; a body that sends no byte for [`BODY_TIMEOUT`] is abandoned here. The caller limits the request rate:
//! each method says how many requests it makes.

mod error;
mod inflate;
mod transcode;
mod versions;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime as S3Time};
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt};
use percent_encoding::percent_decode_str;

pub use error::{Fault, ReadError, Refusal, fault};
pub use freshet_sinks::ledger::ObjectVersion;
use freshet_sinks::ledger::on_one_line;
use freshet_topics::TextEncoding;
pub use inflate::{ReadLimits, Unreadable};
use tokio_util::io::ReaderStream;
pub use transcode::encoded;
pub use versions::{Listed, VersionPages};

use error::{chain, classified, content_error, detail, transient};
use inflate::{Compression, Content, ContentError, Source};
use transcode::Transcoder;

use crate::logged_once::{LoggedOnce, WhenFull};

/// The most keys that S3 returns on one page of a listing.
const PAGE_KEYS_MAX: i32 = 1000;
/// Longest wait for the next bytes of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads from any bucket of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ObjectReader {
    client: Client,
    limits: ReadLimits,
    /// Unreadable keys that were logged. Clones share it.
    unreadable: Arc<LoggedOnce>,
}

impl ObjectReader {
    /// Reads through `client`, with the default limits on compressed objects.
    pub fn new(client: Client) -> Self {
        ObjectReader {
            client,
            limits: ReadLimits::default(),
            unreadable: Arc::new(LoggedOnce::new(WhenFull::StopLogging)),
        }
    }

    /// With other limits on compressed objects.
    pub fn with_limits(self, limits: ReadLimits) -> Self {
        ObjectReader { limits, ..self }
    }

    /// The listing of all keys that begin with `prefix`, page by page. The order is unspecified, and each key is as it
    /// was at some moment while the listing ran.
    pub fn list_pages<'a>(&'a self, bucket: &'a str, prefix: impl Into<Cow<'a, str>>) -> Pages<'a> {
        Pages { reader: self, bucket, prefix: prefix.into(), next: NextPage::First, folders: None }
    }

    /// The same for keys that begin with `prefix` and have no `/` after it; the folders of the other keys are in
    /// [`Pages::folders`] at the end.
    pub fn list_level<'a>(&'a self, bucket: &'a str, prefix: impl Into<Cow<'a, str>>) -> Pages<'a> {
        Pages { folders: Some(Vec::new()), ..self.list_pages(bucket, prefix) }
    }

    /// Logs once that a key cannot be read, however often it is listed.
    fn say_unreadable(&self, bucket: &str, key: &str) {
        if self.unreadable.first_time(key) {
            tracing::warn!(bucket, key, "skipped an object whose key is not UTF-8 or contains a NUL: rename it");
        }
    }

    /// What `key` has now; `None` if nothing. One request, and another one if the first finds nothing.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`].
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectVersion>, ReadError> {
        let at = || format!("s3://{bucket}/{}", on_one_line(key));
        let head = match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(head) => head,
            Err(error) if is_unexplained(&error) => return self.confirm_gone(bucket, key, None).await.map(|()| None),
            Err(error) => return Err(classified("look up", at(), &error)),
        };
        let lacks = |what| transient("look up", at(), format!("the server gave no {what}"));
        Ok(Some(ObjectVersion {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            // `null` is not an identity: while versioning is off, every overwrite has that name.
            version_id: head.version_id.filter(|id| id != "null"),
            etag: head.e_tag.ok_or_else(|| lacks("ETag"))?,
            size_bytes: head.content_length.ok_or_else(|| lacks("Content-Length"))?,
            last_modified: head.last_modified.and_then(|at| to_second(&at)).ok_or_else(|| lacks("Last-Modified"))?,
        }))
    }

    /// Whether exactly this version can still be read. One request, and another one if the first finds nothing.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`].
    pub async fn exists(&self, version: &ObjectVersion) -> Result<bool, ReadError> {
        let ObjectVersion { bucket, key, version_id, etag, .. } = version;
        match self.client.head_object().bucket(bucket).key(key).set_version_id(version_id.clone()).send().await {
            Ok(head) => Ok(head.e_tag.is_none_or(|found| found == *etag)),
            Err(error) if is_unexplained(&error) => {
                self.confirm_gone(bucket, key, version_id.clone()).await.map(|()| false)
            }
            Err(error) => Err(classified("look up", version.to_string(), &error)),
        }
    }

    /// Whether the listing of its key shows this version now. One request for each page of keys that begin with its
    /// key.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`].
    pub async fn is_listed(&self, version: &ObjectVersion) -> Result<bool, ReadError> {
        let is_same = |entry: &ObjectVersion| ObjectVersion { version_id: version.version_id.clone(), ..entry.clone() };
        let mut pages = self.list_pages(&version.bucket, version.key.as_str());
        while let Some(page) = pages.next().await? {
            if page.iter().any(|entry| is_same(entry) == *version) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The answer to a HEAD has no body, and so no error code: a GET of the first byte makes S3 explain it.
    async fn confirm_gone(&self, bucket: &str, key: &str, version_id: Option<String>) -> Result<(), ReadError> {
        let at = || format!("s3://{bucket}/{}", on_one_line(key));
        let request = self.client.get_object().bucket(bucket).key(key).set_version_id(version_id).range("bytes=0-0");
        match request.send().await {
            Ok(_) => Err(transient("look up", at(), "HEAD does not find it, but GET does".into())),
            Err(error) => match classified("look up", at(), &error) {
                ReadError::Gone { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// The content of exactly this version as UTF-8, from its start. One request, whose body is then streamed.
    ///
    /// # Errors
    /// Any [`ReadError`].
    pub async fn open(&self, version: &ObjectVersion, encoding: TextEncoding) -> Result<ObjectBody, ReadError> {
        self.open_and_skip(version, encoding, 0).await
    }

    /// The same from `from_byte` on (counted after decompression and decoding). An earlier opening of this version from
    /// its start has shown how it is stored: content stored as it is framed is requested from there; compressed
    /// content, or content in another encoding, is read from its start, and the part before is skipped. One request.
    ///
    /// # Errors
    /// Any [`ReadError`].
    pub async fn open_from(
        &self,
        version: &ObjectVersion,
        encoding: TextEncoding,
        stored: Stored,
        from_byte: u64,
    ) -> Result<ObjectBody, ReadError> {
        if from_byte == 0 || stored == Stored::Otherwise {
            return self.open_and_skip(version, encoding, from_byte).await;
        }
        let object_bytes = u64::try_from(version.size_bytes).unwrap_or(0);
        if from_byte >= object_bytes {
            // There is nothing left to read. It only matters whether the object exists.
            return match self.exists(version).await? {
                true => Ok(ObjectBody::at_end(version, object_bytes, from_byte)),
                false => Err(ReadError::Gone { object: version.to_string() }),
            };
        }
        let answer = self.get(version, from_byte).await?;
        // A server that ignores the range sends everything.
        let sent_from = if answer.content_range().is_some() { from_byte } else { 0 };
        let content = Content::plain_rest(source_of(answer.body, object_bytes - sent_from));
        let object = version.to_string();
        Ok(ObjectBody { content, stored: Stored::AsFramed, transcoder: None, object, at: sent_from, from_byte })
    }

    async fn open_and_skip(
        &self,
        version: &ObjectVersion,
        encoding: TextEncoding,
        from_byte: u64,
    ) -> Result<ObjectBody, ReadError> {
        let object_bytes = u64::try_from(version.size_bytes).unwrap_or(0);
        let answer = self.get(version, 0).await?;
        let named = Compression::of_name(&version.key);
        let content = Content::sniff(named, object_bytes, source_of(answer.body, object_bytes), self.limits)
            .await
            .map_err(|error| content_error(&version.to_string(), error))?;
        Ok(ObjectBody::of_content(content, encoding, version.to_string(), from_byte))
    }

    async fn get(&self, version: &ObjectVersion, range_from: u64) -> Result<GetObjectOutput, ReadError> {
        let ObjectVersion { bucket, key, version_id, etag, .. } = version;
        let mut request = self.client.get_object().bucket(bucket).key(key).set_version_id(version_id.clone());
        // Also with a versionId: the version called `null` may be overwritten.
        request = request.if_match(etag);
        if range_from > 0 {
            request = request.range(format!("bytes={range_from}-"));
        }
        let answer = request.send().await.map_err(|error| classified("read", version.to_string(), &error))?;
        match answer.e_tag() {
            Some(found) if found != etag => Err(ReadError::Gone { object: version.to_string() }),
            _ => Ok(answer),
        }
    }
}

/// A listing under way. Only the current page is in memory.
#[derive(Debug)]
pub struct Pages<'a> {
    reader: &'a ObjectReader,
    bucket: &'a str,
    prefix: Cow<'a, str>,
    next: NextPage,
    /// Folders found so far, if a level is listed.
    folders: Option<Vec<String>>,
}

#[derive(Debug, PartialEq)]
enum NextPage {
    First,
    From(String),
    None,
}

impl Pages<'_> {
    /// The folders of a level that the pages so far showed.
    pub fn folders(self) -> Vec<String> {
        self.folders.unwrap_or_default()
    }

    /// The next page, of at most 1000 keys and possibly none; `None` after the last. One request.
    ///
    /// # Errors
    /// [`ReadError::Transient`], [`ReadError::Denied`]. The same page may be requested again.
    pub async fn next(&mut self) -> Result<Option<Vec<ObjectVersion>>, ReadError> {
        let token = match &self.next {
            NextPage::None => return Ok(None),
            NextPage::First => None,
            NextPage::From(token) => Some(token.clone()),
        };
        let at = || format!("s3://{}/{}", self.bucket, self.prefix);
        let request = self.reader.client.list_objects_v2().bucket(self.bucket).set_continuation_token(token);
        let prefix = (!self.prefix.is_empty()).then(|| self.prefix.clone().into_owned());
        // Keys may contain characters that XML cannot.
        let request = request.set_prefix(prefix).max_keys(PAGE_KEYS_MAX).encoding_type(EncodingType::Url);
        let request = request.set_delimiter(self.folders.is_some().then(|| "/".to_owned()));
        let answer = request.send().await.map_err(|error| match classified("list", at(), &error) {
            ReadError::Gone { object } => transient("list", object, detail(&error)),
            error => error,
        })?;
        let next = match (answer.is_truncated(), answer.next_continuation_token()) {
            (Some(true), Some(token)) => NextPage::From(token.to_owned()),
            (Some(true), None) => {
                return Err(transient("list", at(), "the listing is incomplete and has no continuation token".into()));
            }
            _ => NextPage::None,
        };
        if next != NextPage::None && next == self.next {
            return Err(transient("list", at(), "the listing repeats its continuation token".into()));
        }
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let page =
            answer.contents().iter().filter_map(|entry| listed(self.reader, self.bucket, entry, is_encoded)).collect();
        if let Some(folders) = &mut self.folders {
            let found = answer.common_prefixes().iter().filter_map(|folder| folder.prefix());
            folders.extend(found.filter_map(|it| if is_encoded { url_decoded(it) } else { Some(it.to_owned()) }));
        }
        self.next = next;
        Ok(Some(page))
    }
}

/// An entry of a listing; `None` for an entry that is not an object (a folder in some S3-compatible stores), and for
/// one whose key is not text that Postgres can store: it would make everything listed with it fail.
fn listed(
    reader: &ObjectReader,
    bucket: &str,
    entry: &aws_sdk_s3::types::Object,
    is_encoded: bool,
) -> Option<ObjectVersion> {
    Some(ObjectVersion {
        bucket: bucket.to_owned(),
        key: key_of(reader, bucket, entry.key()?, is_encoded)?,
        version_id: None,
        etag: entry.e_tag()?.to_owned(),
        size_bytes: entry.size()?,
        last_modified: to_second(entry.last_modified()?)?,
    })
}

/// The key of an entry, if it can be read.
fn key_of(reader: &ObjectReader, bucket: &str, escaped: &str, is_encoded: bool) -> Option<String> {
    let key = if is_encoded { url_decoded(escaped) } else { Some(escaped.to_owned()) };
    let Some(key) = key.filter(|key| !key.contains('\0')) else {
        reader.say_unreadable(bucket, escaped);
        return None;
    };
    Some(key)
}

/// Decodes as in a query: `+` is a space, `%2B` a plus. `None` if the result is not UTF-8, or a percent sign does not
/// begin an escape: S3 escapes them, and a wrongly guessed key would be another object's.
fn url_decoded(text: &str) -> Option<String> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    // `%2B` is still escaped here: every plus is a space.
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// Whether an answer to a HEAD says only that there is nothing.
fn is_unexplained<E>(error: &SdkError<E, HttpResponse>) -> bool {
    error.raw_response().is_some_and(|response| matches!(response.status().as_u16(), 404 | 405 | 412))
}

fn to_second(time: &S3Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), 0)
}

/// How an object's content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Byte by byte as it is framed, so that a later part can be requested.
    AsFramed,
    /// Compressed, or in another encoding.
    Otherwise,
}

/// The content of an object, as text bytes.
pub struct ObjectBody {
    content: Content,
    stored: Stored,
    /// If the text is not UTF-8; `None` also after its end.
    transcoder: Option<Transcoder>,
    object: String,
    /// How many bytes are before the next piece of `content`.
    at: u64,
    /// The first byte that is wanted.
    from_byte: u64,
}

impl fmt::Debug for ObjectBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ObjectBody").field("object", &self.object).field("at", &self.at).finish_non_exhaustive()
    }
}

impl ObjectBody {
    /// How the object is stored.
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// A file on this machine, read like an object with its name.
    ///
    /// # Errors
    /// [`ReadError::Transient`] if the system cannot read it; [`ReadError::Rejected`] if its name and its first bytes
    /// do not agree.
    pub async fn of_file(path: &Path, encoding: TextEncoding, limits: ReadLimits) -> Result<ObjectBody, ReadError> {
        let object = path.display().to_string();
        let unread = |error: io::Error| transient("read", object.clone(), error.to_string());
        let file = tokio::fs::File::open(path).await.map_err(unread)?;
        let metadata = file.metadata().await.map_err(unread)?;
        if metadata.is_dir() {
            return Err(transient("read", object, "it is a folder".to_owned()));
        }
        let source = ReaderStream::new(file).boxed();
        let said = Compression::of_name(&object);
        let content = Content::sniff(said, metadata.len(), source, limits).await;
        let content = content.map_err(|error| content_error(&object, error))?;
        Ok(ObjectBody::of_content(content, encoding, object, 0))
    }

    /// The body of content that is at its start.
    fn of_content(content: Content, encoding: TextEncoding, object: String, from_byte: u64) -> ObjectBody {
        let transcoder = Transcoder::of(encoding);
        let is_as_framed = content.is_plain() && transcoder.is_none();
        let stored = if is_as_framed { Stored::AsFramed } else { Stored::Otherwise };
        ObjectBody { content, stored, transcoder, object, at: 0, from_byte }
    }

    /// The body of an object with nothing left to read.
    fn at_end(version: &ObjectVersion, object_bytes: u64, from_byte: u64) -> Self {
        let content = Content::plain_rest(stream::empty().boxed());
        let object = version.to_string();
        ObjectBody { content, stored: Stored::AsFramed, transcoder: None, object, at: object_bytes, from_byte }
    }

    /// The next bytes, at most 256 KiB (three times as many in another encoding) and at least one; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Transient`] if the body breaks off: open it again from where the bytes so far end.
    /// [`ReadError::Rejected`] if it cannot be inflated or decoded. After either, the body cannot be used any more.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let Some(mut piece) = self.piece().await.map_err(|error| content_error(&self.object, error))? else {
                return match self.at < self.from_byte {
                    true => Err(content_error(&self.object, Unreadable::EndsEarly(self.from_byte).into())),
                    false => Ok(None),
                };
            };
            let unwanted = self.from_byte.saturating_sub(self.at).min(piece.len() as u64);
            self.at += piece.len() as u64;
            let wanted = piece.split_off(unwanted as usize);
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
    }

    /// The next bytes in UTF-8, possibly none.
    async fn piece(&mut self) -> Result<Option<Bytes>, ContentError> {
        let piece = self.content.piece().await?;
        let Some(transcoder) = &mut self.transcoder else { return Ok(piece) };
        match piece {
            Some(piece) => Ok(Some(transcoder.piece(&piece, false)?)),
            None => {
                let rest = transcoder.piece(&[], true)?;
                self.transcoder = None;
                Ok(Some(rest))
            }
        }
    }
}

/// The body as a stream that ends in an error unless it has all `expected_bytes`, and that never waits for ever.
fn source_of(body: ByteStream, expected_bytes: u64) -> Source {
    let step = |(mut body, missing): (ByteStream, Option<u64>)| async move {
        // The last item was an error.
        let missing = missing?;
        let failed = |text: String| Some((Err(io::Error::other(text)), (ByteStream::default(), None)));
        match tokio::time::timeout(BODY_TIMEOUT, body.try_next()).await {
            Err(_) => failed(format!("no data for {} s", BODY_TIMEOUT.as_secs())),
            Ok(Err(error)) => failed(chain(&error)),
            Ok(Ok(None)) if missing > 0 => failed(format!("the body ended {missing} bytes early")),
            Ok(Ok(None)) => None,
            Ok(Ok(Some(bytes))) => match missing.checked_sub(bytes.len() as u64) {
                Some(missing) => Some((Ok(bytes), (body, Some(missing)))),
                None => failed("the body is longer than the object".into()),
            },
        }
    };
    // Fused: detecting the format reads again after the end of a very short body.
    stream::unfold((body, Some(expected_bytes)), step).fuse().boxed()
}

#[cfg(test)]
pub(crate) mod tests;
