//! The published version: the pointer and the manifest that it names, how they advance, and what to do if one of them
//! was deleted.

use std::fmt;

use aws_sdk_s3::Client;
use freshet_topics::failpoint::{self, Point};
use sha2::{Digest, Sha256};

use super::copies::COPIES_MAX;
use super::key::{DATA_PREFIX, MANIFEST_PREFIX, POINTER, data_version, manifest_key, manifest_version};
use super::list::Listed;
use super::{Condition, Manifest, OutputError, Pointer, Put, Spooled, Store};

/// The pointer may move between reading it and reading its manifest, but not more often than this.
const READ_ATTEMPTS: usize = 3;
/// Pages of manifests, and of data files, that a publisher lists to find the highest version: ten million objects.
const PUBLISHER_PAGES_MAX: usize = 10_000;
/// A reader only asks whether there was a publication: the first page shows that.
const READER_PAGES_MAX: usize = 1;
/// The most manifests of the highest version that are read; each publisher that lost its swap left one.
const NEWEST_MAX: usize = 4;

pub(super) const JSON: &str = "application/json";

/// What is published.
#[derive(Debug, Clone)]
pub enum Published {
    /// Nothing: no publication to this bucket has finished. The next version is above this number, the version of a
    /// manifest left by an unfinished first publication; 0 if there is none.
    Nothing(u64),
    /// Something was published, but can no longer be found.
    Lost(Box<Lost>),
    /// This version.
    Current(Box<Current>),
}

/// The version that is published now.
#[derive(Debug, Clone)]
pub struct Current {
    /// The pointer's ETag, to swap against.
    pub etag: String,
    /// When S3 wrote the pointer, in Unix seconds.
    pub modified: i64,
    /// The pointer.
    pub pointer: Pointer,
    /// The manifest it names.
    pub manifest: Manifest,
}

/// What is left of outputs whose pointer or manifest was deleted.
#[derive(Debug, Clone)]
pub struct Lost {
    /// What is gone, for people.
    pub what: String,
    /// The condition for the pointer's swap.
    pub swap: Condition,
    /// The highest version that left a trace: the next one is above it.
    pub highest: u64,
    /// The newest manifest that still exists: the outputs must not go back behind its code version or its bookmarks.
    pub newest: Option<Manifest>,
}

/// The manifest that is published now, `None` before the first one.
///
/// # Errors
/// [`OutputError::Lost`] if what was published can no longer be found; others if S3 does not answer or the pointer
/// or manifest cannot be read.
pub async fn read_current(client: &Client, bucket: &str) -> Result<Option<Manifest>, OutputError> {
    Ok(Store::new(client.clone(), bucket).current_unless(None).await?.map(|current| current.manifest))
}

impl Store {
    /// What is published, for a reader. If the manifest is a known one, it is not read again: it never changes under
    /// its name.
    ///
    /// # Errors
    /// [`OutputError::Lost`] if what was published can no longer be found; others if S3 does not answer or the
    /// pointer or manifest cannot be read.
    pub async fn current_unless(&self, known: Option<&Current>) -> Result<Option<Current>, OutputError> {
        match self.look(known, READER_PAGES_MAX).await? {
            Look::Nothing(_) => Ok(None),
            Look::Current(current) => Ok(Some(*current)),
            Look::Lost(gone, _) => {
                Err(OutputError::Lost { bucket: self.bucket.clone(), key: POINTER.into(), message: gone.to_string() })
            }
        }
    }

    /// What is published, for a publisher.
    ///
    /// | pointer | its manifest | other traces | verdict |
    /// |---|---|---|---|
    /// | there | there | | current |
    /// | there | gone | | lost: swap against the pointer's ETag |
    /// | gone | | none, or of a first publication that did not get to its end | nothing |
    /// | gone | | a copy, or a version from 2 on | lost: swap against no pointer |
    ///
    /// # Errors
    /// If S3 does not answer or the pointer or manifest cannot be read.
    pub async fn published(&self, known: Option<&Current>) -> Result<Published, OutputError> {
        let (gone, traces) = match self.look(known, PUBLISHER_PAGES_MAX).await? {
            Look::Nothing(highest) => return Ok(Published::Nothing(highest)),
            Look::Current(current) => return Ok(Published::Current(current)),
            Look::Lost(gone, traces) => (gone, traces),
        };
        let (swap, pointed) = match &gone {
            Gone::Pointer => (Condition::Absent, 0),
            Gone::Manifest { etag, pointer } => (Condition::Unchanged(etag.clone()), pointer.version),
        };
        Ok(Published::Lost(Box::new(Lost {
            what: gone.to_string(),
            swap,
            highest: traces.highest().max(pointed),
            newest: self.newest_of(&traces).await?,
        })))
    }

    /// What is published; if it is gone, what is left within this many pages of listings.
    async fn look(&self, known: Option<&Current>, pages_max: usize) -> Result<Look, OutputError> {
        let mut gone = None;
        for _ in 0..READ_ATTEMPTS {
            let Some(found) = self.get(POINTER).await? else {
                let traces = self.traces(pages_max).await?;
                // A first publication may have finished meanwhile.
                if self.get(POINTER).await?.is_some() {
                    continue;
                }
                return Ok(match traces.prove_a_publication() {
                    true => Look::Lost(Gone::Pointer, traces),
                    // Data files alone do not use up a version number: under the same name, they have the same bytes.
                    // Otherwise, a publisher that dies in its first publication again and again would reach numbers
                    // that look like a finished one.
                    false => Look::Nothing(traces.manifests),
                });
            };
            let pointer: Pointer = self.parse(POINTER, &found.bytes)?;
            let (etag, modified) = (found.etag, found.modified);
            if let Some(known) = known.filter(|known| known.pointer == pointer) {
                return Ok(Look::Current(Box::new(Current { etag, modified, ..known.clone() })));
            }
            if let Some(manifest) = self.manifest(&pointer.manifest).await? {
                return Ok(Look::Current(Box::new(Current { etag, modified, pointer, manifest })));
            }
            gone = Some(Gone::Manifest { etag, pointer });
        }
        match gone {
            Some(gone) => Ok(Look::Lost(gone, self.traces(pages_max).await?)),
            None => Err(self.content(POINTER, "it appears and disappears".into())),
        }
    }

    /// The manifest under that key.
    pub(super) async fn manifest(&self, key: &str) -> Result<Option<Manifest>, OutputError> {
        match self.get(key).await? {
            Some(found) => self.parse(key, &found.bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Writes the manifest and moves the pointer to it, if `swap` holds.
    ///
    /// Returns the pointer, or `None` if another publisher was first: then start again from [`Store::published`]. If
    /// the connection drops before the answer, the pointer is read: the manifest that it names is the published one.
    ///
    /// # Errors
    /// If S3 does not answer. The swap may then still happen; starting again is safe.
    pub async fn publish(&self, swap: Condition, manifest: &Manifest) -> Result<Option<Pointer>, OutputError> {
        let bytes = self.render(manifest)?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let key = manifest_key(manifest.version, &sha256);
        // Refused: the same bytes may exist already, from an attempt whose answer was lost or from a publisher that saw
        // the same state. Or another write of them was in progress (409), which may have failed: a pointer must not
        // name an object that does not exist.
        let put = self.put(&key, &Spooled::from(bytes), JSON, Condition::Absent).await?;
        if put == Put::Refused && self.head(&key).await?.is_none() {
            return Ok(None);
        }
        failpoint::reach(Point::ManifestPut);
        let pointer = Pointer { version: manifest.version, manifest: key, sha256 };
        let swapped = self.put(POINTER, &Spooled::from(self.render(&pointer)?), JSON, swap).await;
        if matches!(swapped, Ok(Put::Written)) {
            return Ok(Some(pointer));
        }
        // A refusal may mean that the SDK's first attempt succeeded and its second one found the swap done.
        let refused = || swapped.map(|_| None);
        let Some(found) = self.get(POINTER).await? else { return refused() };
        match self.parse::<Pointer>(POINTER, &found.bytes)? == pointer {
            true => Ok(Some(pointer)),
            false => refused(),
        }
    }

    /// What exists besides the pointer. The highest version is taken from all objects that carry one, so a version
    /// number can repeat only if all of these objects were deleted.
    async fn traces(&self, pages_max: usize) -> Result<Traces, OutputError> {
        let mut traces = Traces::default();
        self.each_listed(MANIFEST_PREFIX, pages_max, |listed| traces.see_manifest(listed)).await?;
        self.each_listed(DATA_PREFIX, pages_max, |listed| traces.data = traces.data.max(data_version(&listed.key)))
            .await?;
        traces.copies = self.highest_copy(COPIES_MAX).await?.map_or(0, |(_, version)| version);
        Ok(traces)
    }

    /// The manifest with the newest code version among the newest ones that still exist.
    async fn newest_of(&self, traces: &Traces) -> Result<Option<Manifest>, OutputError> {
        let mut newest: Option<Manifest> = None;
        for key in traces.newest.iter().take(NEWEST_MAX) {
            let Some(manifest) = self.manifest(key).await? else { continue };
            if newest.as_ref().is_none_or(|newest| newest.code_version < manifest.code_version) {
                newest = Some(manifest);
            }
        }
        Ok(newest)
    }
}

/// What a look at the pointer shows.
enum Look {
    Nothing(u64),
    Current(Box<Current>),
    Lost(Gone, Traces),
}

/// What was deleted.
enum Gone {
    Pointer,
    Manifest { etag: String, pointer: Pointer },
}

impl fmt::Display for Gone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gone::Pointer => formatter.write_str("the pointer is missing, though outputs were published"),
            Gone::Manifest { pointer, .. } => {
                write!(formatter, "the pointer names manifest {}, which does not exist", pointer.manifest)
            }
        }
    }
}

/// Versions that left a trace; 0 if none did.
#[derive(Debug, Default)]
struct Traces {
    manifests: u64,
    /// The keys of the manifests of that version.
    newest: Vec<String>,
    data: u64,
    copies: u64,
}

impl Traces {
    fn see_manifest(&mut self, listed: Listed) {
        let Some(version) = manifest_version(&listed.key) else { return };
        if version > self.manifests {
            self.manifests = version;
            self.newest.clear();
        }
        if version == self.manifests {
            self.newest.push(listed.key);
        }
    }

    fn highest(&self) -> u64 {
        self.manifests.max(self.data).max(self.copies)
    }

    /// Whether a publication ever finished. Copies are made only from a published version. A second version begins only
    /// after a published first one, or after the manifest of one that died between its last two requests.
    ///
    /// | manifests up to | data files up to | copies up to | verdict |
    /// |---|---|---|---|
    /// | 0 | 0 or 1 | none | perhaps not |
    /// | 1 | up to 2 | none | perhaps not: the second may have been begun on a first that died before its pointer |
    /// | 2 | any | any | yes |
    /// | any | two more than manifests | any | yes |
    /// | any | any | 1 | yes |
    fn prove_a_publication(&self) -> bool {
        self.copies > 0 || self.manifests > 1 || self.data > self.manifests + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_proven_by_its_copies_or_by_the_next_one() {
        let cases = [
            ((0, 0, 0), false, 0),
            ((0, 1, 0), false, 1),
            ((1, 1, 0), false, 1),
            ((1, 1, 1), true, 1),
            ((0, 0, 7), true, 7),
            ((2, 1, 0), true, 2),
            ((0, 2, 0), true, 2),
            ((1, 2, 0), false, 2),
            ((5, 9, 7), true, 9),
        ];
        for ((manifests, data, copies), proven, highest) in cases {
            let traces = Traces { manifests, data, copies, newest: Vec::new() };
            assert_eq!((traces.prove_a_publication(), traces.highest()), (proven, highest), "{traces:?}");
        }
    }

    #[test]
    fn the_newest_manifests_are_those_of_the_highest_version() {
        let mut traces = Traces::default();
        for key in ["3-a", "10-b", "9-c", "10-d", "readme.txt"] {
            traces.see_manifest(Listed { key: format!("{MANIFEST_PREFIX}{key}"), modified: 0, bytes: None });
        }
        assert_eq!(traces.manifests, 10);
        assert_eq!(traces.newest, ["10-b", "10-d"].map(|key| format!("{MANIFEST_PREFIX}{key}")));
    }
}
