//! A body of unknown length for S3: in memory while it is small, then in a temporary file; hashed while it is written.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

use aws_sdk_s3::primitives::{ByteStream, Length};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::cache::is_left_behind;

/// The most bytes kept in memory. About twelve bodies are open at once, and eight being uploaded.
pub(super) const MEMORY_BYTES: usize = 1024 * 1024;

/// The names of temporary files begin with it.
const PREFIX: &str = "freshet-output-";

/// A body that is being written.
#[derive(Default)]
pub struct Spool {
    buffer: Vec<u8>,
    file: Option<NamedTempFile>,
    length: u64,
    hash: Sha256,
}

/// A body that is complete.
#[derive(Debug)]
pub struct Spooled {
    body: Body,
    length: u64,
    sha256: String,
}

#[derive(Debug)]
enum Body {
    Memory(Bytes),
    /// Deleted when dropped.
    File(TempPath),
    /// A file that belongs to somebody else, who may delete it: an open file can still be read.
    Open(File),
}

impl Spool {
    /// An empty body.
    pub fn new() -> Self {
        Spool::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.spill()?;
        } else {
            self.hash.update(&self.buffer);
        }
        let body = match self.file {
            Some(file) => Body::File(file.into_temp_path()),
            None => Body::Memory(self.buffer.into()),
        };
        Ok(Spooled { body, length: self.length, sha256: hex::encode(self.hash.finalize()) })
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(NamedTempFile::with_prefix(PREFIX)?),
        };
        file.write_all(&self.buffer)?;
        self.hash.update(&self.buffer);
        self.buffer.clear();
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        if self.buffer.len() >= MEMORY_BYTES {
            self.spill()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spooled {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its SHA-256, hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The bytes, readable in any order; the file behind them lives as long as `self`.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn read(&self) -> io::Result<Readable> {
        match &self.body {
            Body::Memory(bytes) => Ok(Readable::Memory(bytes.clone())),
            Body::File(path) => Ok(Readable::File(File::open(path)?)),
            Body::Open(file) => Ok(Readable::File(file.try_clone()?)),
        }
    }

    /// Its bytes, if they are in memory.
    pub(super) fn memory(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Memory(bytes) => Some(bytes),
            Body::File(_) | Body::Open(_) => None,
        }
    }

    /// A body in a file owned by the caller; it must not be read in two places at once.
    pub(super) fn of_file(file: File, length: u64, sha256: String) -> Self {
        Spooled { body: Body::Open(file), length, sha256 }
    }

    /// Renames its temporary file, and keeps it open. A body without a file, or a name on another file system, changes
    /// nothing.
    pub(super) fn named(self, path: &Path) -> (Self, bool) {
        let Spooled { body, length, sha256 } = self;
        let Body::File(temporary) = body else { return (Spooled { body, length, sha256 }, false) };
        let (body, is_named) = match File::open(&temporary) {
            Ok(open) => match temporary.persist(path) {
                Ok(()) => (Body::Open(open), true),
                Err(error) => (Body::File(error.path), false),
            },
            Err(_) => (Body::File(temporary), false),
        };
        (Spooled { body, length, sha256 }, is_named)
    }

    /// A part of it, as the body of a request. A temporary file counts as written to again, so that it is not deleted as
    /// left behind while its parts are sent for hours ([`sweep_spools`]).
    pub(super) async fn stream(&self, offset: u64, length: u64) -> io::Result<ByteStream> {
        let part = match &self.body {
            Body::Memory(bytes) => return Ok(bytes.slice(offset as usize..(offset + length) as usize).into()),
            Body::File(path) => {
                // If it fails, the file is only swept earlier.
                File::open(path).and_then(|file| file.set_modified(SystemTime::now())).ok();
                ByteStream::read_from().path(path)
            }
            Body::Open(file) => ByteStream::read_from().file(file.try_clone()?.into()),
        };
        part.offset(offset).length(Length::Exact(length)).build().await.map_err(io::Error::other)
    }
}

impl From<Vec<u8>> for Spooled {
    fn from(bytes: Vec<u8>) -> Self {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Spooled { length: bytes.len() as u64, body: Body::Memory(bytes.into()), sha256 }
    }
}

/// Deletes the temporary files in a folder that killed processes left behind, and returns how many: those that nothing was
/// written to, and of which no part was sent, for an hour. A body is sent as soon as it is complete; if one is needed for
/// longer, as by a process that was frozen, its upload fails and is made again.
///
/// # Errors
/// If the folder cannot be read. A file that cannot be deleted stays.
pub fn sweep_spools(folder: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_left = || entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(is_left_behind);
        swept += usize::from(is_ours && is_left() && fs::remove_file(entry.path()).is_ok());
    }
    Ok(swept)
}

/// The bytes of a complete body.
#[derive(Debug)]
pub enum Readable {
    /// In memory.
    Memory(Bytes),
    /// In a temporary file.
    File(File),
}

impl Readable {
    /// Copies the bytes from `start` up to `end`.
    ///
    /// # Errors
    /// If the temporary file cannot be read or `to` not be written.
    pub fn copy(&mut self, start: u64, end: u64, to: &mut impl Write) -> io::Result<()> {
        match self {
            Readable::Memory(bytes) => to.write_all(&bytes[start as usize..end as usize]),
            Readable::File(file) => {
                file.seek(SeekFrom::Start(start))?;
                io::copy(&mut file.take(end - start), to).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cache::LEFT_BEHIND_AFTER;
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_once_it_is_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = LEFT_BEHIND_AFTER * 2;
        let ours = ["freshet-output-old", "freshet-output-new"];
        for (name, age) in [(ours[0], old), (ours[1], Duration::ZERO), ("of-another-program", old)] {
            let file = File::create(folder.path().join(name)).expect("made");
            file.set_modified(SystemTime::now() - age).expect("made older");
        }
        for swept in [1, 0] {
            assert_eq!(sweep_spools(folder.path()).expect("a folder"), swept);
        }
        let is_there = |name: &str| folder.path().join(name).exists();
        assert!(!is_there(ours[0]) && is_there(ours[1]) && is_there("of-another-program"));
        // What is left behind is under a name that is looked for.
        let mut spool = Spool::new();
        spool.write_all(&vec![0; MEMORY_BYTES]).expect("written");
        let name = spool.file.as_ref().expect("a temporary file").path().file_name().expect("a name").to_owned();
        assert!(name.to_string_lossy().starts_with(PREFIX), "{name:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_being_sent_is_not_left_behind() {
        let mut spool = Spool::new();
        spool.write_all(&vec![0; MEMORY_BYTES]).expect("written");
        let spooled = spool.finish().expect("finish");
        let Body::File(path) = &spooled.body else { panic!("it is in memory") };
        let is_left = || is_left_behind(fs::metadata(path).and_then(|it| it.modified()).expect("a file"));
        let file = File::open(path).expect("a file");
        file.set_modified(SystemTime::now() - LEFT_BEHIND_AFTER * 2).expect("made older");
        assert!(is_left());
        drop(spooled.stream(0, 1).await.expect("a part"));
        assert!(!is_left());
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_memory_and_in_a_file() {
        for length in [0, 1, MEMORY_BYTES - 1, MEMORY_BYTES, 3 * MEMORY_BYTES + 17] {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut spool = Spool::new();
            for chunk in bytes.chunks(100_003) {
                spool.write_all(chunk).expect("write");
            }
            let spooled = spool.finish().expect("finish");
            assert_eq!(spooled.len(), length as u64);
            assert_eq!(spooled.sha256(), Spooled::from(bytes.clone()).sha256());
            let mut read = Vec::new();
            spooled.read().expect("read").copy(0, spooled.len(), &mut read).expect("copy");
            assert_eq!(read, bytes);
            let tail = spooled.stream(length as u64 / 2, length as u64 - length as u64 / 2).await.expect("stream");
            assert_eq!(tail.collect().await.expect("collect").to_vec(), bytes[length / 2..]);
        }
    }
}
