//! A listing of a prefix that continues if a part of it cannot be listed.
//!
//! If a page fails, the prefix is listed in parts: the keys at its own level, and each folder by itself. If the level
//! fails too, although listing is allowed, it is divided by the next character of its keys. Parts that still cannot be
//! listed are reported, and everything else is found. None of this depends on the server's order.

use std::collections::BTreeMap;

use crate::limits::Limits;
use crate::object::{Listed, ObjectReader, Pages, ReadError, VersionPages};

/// How often a prefix is divided by characters.
const DEPTH_MAX: u8 = 1;
/// The most parts of one listing; beyond that, a part that fails is reported and not divided.
const PARTS_MAX: usize = 300;
/// The next characters of keys that are tried.
const CHARACTERS: std::ops::RangeInclusive<u8> = b' '..=b'~';

/// How a prefix is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// The current objects of the keys.
    Current,
    /// All versions of the keys.
    Versions,
    /// All versions or, if that is not allowed, the current objects.
    VersionsIfAllowed,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    prefix: String,
    /// Only the keys at its own level; its folders are separate parts.
    is_level: bool,
    depth: u8,
}

enum Source<'a> {
    Current(Pages<'a>),
    Versions(VersionPages<'a>),
}

/// A listing under way.
pub(crate) struct Listing<'a> {
    reader: &'a ObjectReader,
    limits: &'a Limits,
    bucket: &'a str,
    ways: Ways,
    parts: Vec<Part>,
    /// Parts that the listing was divided into.
    divided: usize,
    under_way: Option<(Part, Source<'a>)>,
    /// Whether the store gave any page.
    pub(crate) has_answered: bool,
    /// Why versions are not listed, if they were wanted and are refused.
    pub(crate) versions_refused: Option<ReadError>,
    /// What could not be listed, and why.
    pub(crate) unlisted: BTreeMap<String, ReadError>,
}

impl<'a> Listing<'a> {
    /// Of all keys that begin with `prefix`.
    pub(crate) fn new(
        reader: &'a ObjectReader,
        limits: &'a Limits,
        bucket: &'a str,
        prefix: String,
        ways: Ways,
    ) -> Self {
        let parts = vec![Part { prefix, is_level: false, depth: 0 }];
        Listing {
            reader,
            limits,
            bucket,
            ways,
            parts,
            divided: 0,
            under_way: None,
            has_answered: false,
            versions_refused: None,
            unlisted: BTreeMap::new(),
        }
    }

    /// The next page; `None` after the last. If parts were listed again, entries are repeated.
    pub(crate) async fn next(&mut self) -> Option<Vec<Listed>> {
        loop {
            let (part, mut source) = match self.under_way.take() {
                Some(under_way) => under_way,
                None => {
                    let part = self.parts.pop()?;
                    let source = self.source(&part);
                    (part, source)
                }
            };
            self.limits.s3_request().await;
            let page = match &mut source {
                Source::Current(pages) => {
                    pages.next().await.map(|page| page.map(|page| page.into_iter().map(Listed::from).collect()))
                }
                Source::Versions(pages) => pages.next().await,
            };
            match page {
                Ok(Some(page)) => {
                    self.has_answered = true;
                    self.under_way = Some((part, source));
                    return Some(page);
                }
                Ok(None) => self.folders(part, source),
                Err(error) => self.divide(part, error),
            }
        }
    }

    fn source(&self, part: &Part) -> Source<'a> {
        let prefix = part.prefix.clone();
        match (part.is_level, self.ways) {
            // Overwritten versions at this level are found by the next listing that succeeds as a whole.
            (true, _) => Source::Current(self.reader.list_level(self.bucket, prefix)),
            (false, Ways::Current) => Source::Current(self.reader.list_pages(self.bucket, prefix)),
            (false, Ways::Versions | Ways::VersionsIfAllowed) => {
                Source::Versions(self.reader.list_versions(self.bucket, prefix))
            }
        }
    }

    /// Makes the folders of a level parts of their own.
    fn folders(&mut self, part: Part, source: Source<'_>) {
        if let (true, Source::Current(pages)) = (part.is_level, source) {
            let whole = |prefix| Part { prefix, is_level: false, depth: part.depth };
            self.add(pages.folders().into_iter().map(whole).collect());
        }
    }

    /// How a failed part is handled.
    ///
    /// | the part | the store has answered | then |
    /// |---|---|---|
    /// | whole, by versions where allowed, and that is refused | no | the same without versions |
    /// | whole | – | its level, and its folders |
    /// | a level that is not denied | yes | named, and by the characters with which its keys go on |
    /// | a level otherwise | – | named |
    /// | any, divided too often | – | named |
    fn divide(&mut self, part: Part, error: ReadError) {
        let is_refused = self.ways == Ways::VersionsIfAllowed && !self.has_answered;
        if is_refused && matches!(error, ReadError::Denied { .. }) {
            (self.ways, self.versions_refused) = (Ways::Current, Some(error));
            self.parts.push(part);
            return;
        }
        let is_divisible = self.divided < PARTS_MAX && part.depth <= DEPTH_MAX;
        if !part.is_level && is_divisible {
            self.add(vec![Part { is_level: true, ..part }]);
            return;
        }
        let is_denied = matches!(error, ReadError::Denied { .. });
        if is_divisible && part.depth < DEPTH_MAX && self.has_answered && !is_denied {
            let longer = |byte: u8| format!("{}{}", part.prefix, char::from(byte));
            let whole = |byte| Part { prefix: longer(byte), is_level: false, depth: part.depth + 1 };
            self.add(CHARACTERS.map(whole).collect());
        }
        self.unlisted.insert(part.prefix, error);
    }

    fn add(&mut self, parts: Vec<Part>) {
        self.divided += parts.len();
        self.parts.extend(parts);
    }
}

#[cfg(test)]
mod tests;
