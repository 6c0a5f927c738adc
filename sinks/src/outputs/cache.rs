//! Data files kept on this machine's disk, so that files that were written or read once need not be read from S3 again.
//!
//! A file is stored under the hash of its bytes and checked against it at each read, so damage to the folder does no
//! harm: a missing or damaged file is read from S3. Bodies of medium size are compressed: most of a JSON file is its
//! column names, and compressing it takes less time than writing it uncompressed would. The size is bounded: if there is
//! no room, files that the published
//! manifest does not name are deleted, the oldest first; if that is not enough, the new file is not cached.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::spool::MEMORY_BYTES;
use super::{FileRef, Spooled};

/// Bodies from this size on are compressed, as long as they are in memory. For a smaller one it costs more than it saves.
const COMPRESSED_FROM_BYTES: usize = 64 * 1024;
/// The fastest of zstd's usual levels.
const COMPRESSION: i32 = 1;
/// Disk space is used in blocks of this size.
const BLOCK_BYTES: u64 = 4_096;
/// Any other file in the folder is left over from an interrupted write if it is older than this.
pub(super) const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3_600);

/// Whether a file that was last written to then is left over.
pub(super) fn is_left_behind(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > LEFT_BEHIND_AFTER)
}

/// A SHA-256.
type Digest = [u8; 32];

/// A folder of data files. Clones share it.
#[derive(Debug, Clone)]
pub struct FileCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// File → its disk space, in bytes.
    files: HashMap<Digest, u64>,
    /// Their total disk space.
    bytes: u64,
    /// The files that the published manifest names.
    named: HashSet<Digest>,
    /// The files that it does not name, the oldest first; some of them may be deleted already.
    unnamed: VecDeque<Digest>,
}

impl FileCache {
    /// The files of a folder, which is created if needed, and holds at most this many bytes from now on.
    ///
    /// # Errors
    /// If the folder can neither be read nor created.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match entry.file_name().to_str().and_then(digest) {
                Some(digest) => found.push((modified, digest, metadata.len())),
                None if is_left_behind(modified) => {
                    fs::remove_file(entry.path()).ok();
                }
                None => {}
            }
        }
        found.sort_unstable();
        let cache =
            FileCache { shared: Arc::new(Shared { folder: folder.into(), bytes_max, state: Mutex::default() }) };
        let mut state = cache.state();
        for (_, digest, length) in found {
            state.insert(digest, on_disk(length));
        }
        cache.make_room(&mut state, 0);
        drop(state);
        Ok(cache)
    }

    /// Sets the files that the published manifest names: they stay.
    pub fn needs<'a>(&self, files: impl IntoIterator<Item = &'a FileRef>) {
        let named = files.into_iter().filter_map(|file| digest(&file.sha256)).collect();
        let mut state = self.state();
        let before = std::mem::replace(&mut state.named, named);
        // Files named until now are older than those added since.
        let (mut unnamed, since) = (VecDeque::new(), std::mem::take(&mut state.unnamed));
        unnamed.extend(
            before.into_iter().chain(since).filter(|it| state.files.contains_key(it) && !state.named.contains(it)),
        );
        state.unnamed = unnamed;
    }

    /// The file, if it is here and undamaged.
    pub(super) fn read(&self, file: &FileRef) -> Option<Spooled> {
        let digest = digest(&file.sha256)?;
        if !self.state().files.contains_key(&digest) {
            return None;
        }
        let path = self.path(&digest);
        match open(&path, file) {
            Ok(Some(body)) => Some(body),
            Ok(None) | Err(_) => {
                fs::remove_file(path).ok();
                self.state().forget(&digest);
                None
            }
        }
    }

    /// Keeps a file if there is room, and returns it. An error does not prevent publishing: the file is then read from
    /// S3.
    pub(super) fn keep(&self, body: Spooled) -> Spooled {
        let Some(digest) = digest(body.sha256()) else { return body };
        // Where there is room for nothing, it need not be compressed.
        if !self.admits(&mut self.state(), &digest, BLOCK_BYTES) {
            return body;
        }
        let small = match body.memory().filter(|bytes| is_compressed(bytes.len() as u64)).map(compress).transpose() {
            Ok(small) => small,
            Err(error) => {
                tracing::debug!(%error, "compress a data file");
                return body;
            }
        };
        let bytes = on_disk(small.as_ref().map_or(body.len(), |small| small.len() as u64));
        {
            let mut state = self.state();
            if !self.admits(&mut state, &digest, bytes) {
                return body;
            }
            state.insert(digest, bytes);
        }
        let path = self.path(&digest);
        let (body, is_named) = body.named(&path);
        if is_named {
            return body;
        }
        if let Err(error) = self.write(&body, small.as_deref(), &path) {
            tracing::debug!(%error, folder = %self.shared.folder.display(), "keep a data file");
            self.state().forget(&digest);
        }
        body
    }

    fn write(&self, body: &Spooled, small: Option<&[u8]>, path: &Path) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.shared.folder)?;
        match small {
            Some(small) => file.write_all(small)?,
            None => body.read()?.copy(0, body.len(), &mut file)?,
        }
        file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// Whether a file is not here yet and there is room for this many bytes, which is made.
    fn admits(&self, state: &mut State, digest: &Digest, bytes: u64) -> bool {
        !state.files.contains_key(digest) && self.make_room(state, bytes)
    }

    /// Whether this many bytes fit, after deleting as many unnamed files as necessary.
    fn make_room(&self, state: &mut State, bytes: u64) -> bool {
        while state.bytes + bytes > self.shared.bytes_max {
            let Some(oldest) = state.unnamed.pop_front() else { return false };
            if !state.named.contains(&oldest) && state.files.contains_key(&oldest) {
                fs::remove_file(self.path(&oldest)).ok();
                state.forget(&oldest);
            }
        }
        true
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.shared.folder.join(hex::encode(digest))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // If a panic left wrong counts, the folder gets larger or smaller, but no file is wrong.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, digest: Digest, bytes: u64) {
        self.bytes += bytes;
        self.files.insert(digest, bytes);
        if !self.named.contains(&digest) {
            self.unnamed.push_back(digest);
        }
    }

    fn forget(&mut self, digest: &Digest) {
        self.bytes -= self.files.remove(digest).unwrap_or(0);
    }
}

/// A SHA-256 from its hexadecimal digits.
fn digest(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

fn is_compressed(bytes: u64) -> bool {
    (COMPRESSED_FROM_BYTES as u64..MEMORY_BYTES as u64).contains(&bytes)
}

/// A body of such a size, as it is stored.
fn compress(bytes: &Bytes) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, COMPRESSION)
}

/// The stored body; `None` if its hash differs.
fn open(path: &Path, file: &FileRef) -> io::Result<Option<Spooled>> {
    let mut found = File::open(path)?;
    let length = found.metadata()?.len();
    let is_compressed = is_compressed(file.bytes);
    let length_max = match is_compressed {
        true => zstd::zstd_safe::compress_bound(file.bytes as usize) as u64,
        false => file.bytes,
    };
    if length > length_max {
        return Ok(None);
    }
    let body = if file.bytes <= MEMORY_BYTES as u64 {
        let mut bytes = Vec::with_capacity(length as usize);
        found.read_to_end(&mut bytes)?;
        Spooled::from(match is_compressed {
            true => zstd::bulk::decompress(&bytes, file.bytes as usize)?,
            false => bytes,
        })
    } else {
        let mut hash = Sha256::new();
        io::copy(&mut found, &mut hash)?;
        found.rewind()?;
        Spooled::of_file(found, length, hex::encode(hash.finalize()))
    };
    Ok(Some(body).filter(|body| body.sha256() == file.sha256))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;
    use crate::outputs::Spool;

    const MIB: u64 = 1024 * 1024;

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn body(text: &[u8]) -> (FileRef, Spooled) {
        let mut spool = Spool::new();
        spool.write_all(text).expect("written");
        let body = spool.finish().expect("complete");
        let file = FileRef { key: "metrics/data/x".into(), sha256: body.sha256().to_owned(), bytes: body.len() };
        (file, body)
    }

    fn bytes(body: &Spooled) -> Vec<u8> {
        let mut bytes = Vec::new();
        body.read().expect("read").copy(0, body.len(), &mut bytes).expect("copied");
        bytes
    }

    fn is_kept(cache: &FileCache, file: &FileRef) -> bool {
        cache.read(file).is_some()
    }

    #[test]
    fn a_file_is_read_back_as_it_was_kept_by_this_process_and_the_next() {
        let folder = folder();
        let cache = FileCache::open(folder.path(), 64 * MIB).expect("a cache");
        let large: Vec<u8> = (0..3 * MIB + 17).map(|index| (index % 251) as u8).collect();
        let medium = COMPRESSED_FROM_BYTES;
        for text in
            [b"".as_slice(), b"a,b\n", &large[..medium - 1], &large[..medium], &large[..MIB as usize - 1], &large]
        {
            let (file, body) = body(text);
            assert!(cache.read(&file).is_none(), "nothing is kept yet");
            cache.keep(body);
            let next = FileCache::open(folder.path(), 64 * MIB).expect("a cache");
            for cache in [&cache, &next] {
                assert_eq!(bytes(&cache.read(&file).expect("kept")), text);
            }
            let stored = fs::metadata(folder.path().join(&file.sha256)).expect("a file").len();
            assert_eq!(stored < file.bytes, is_compressed(file.bytes), "{stored} of {}", file.bytes);
        }
    }

    #[test]
    fn what_was_changed_or_deleted_on_the_disk_is_not_taken_for_the_file() {
        let folder = folder();
        let cache = FileCache::open(folder.path(), 64 * MIB).expect("a cache");
        let large = vec![b'x'; 2 * MIB as usize];
        let compressed = |text: &[u8]| compress(&Bytes::copy_from_slice(text)).expect("compressed");
        let mut changed = large.clone();
        changed[17] = b'y';
        let medium = vec![b'x'; COMPRESSED_FROM_BYTES];
        for (text, other) in [
            (b"abc".to_vec(), b"abd".to_vec()),
            (b"ab".to_vec(), b"abc".to_vec()),
            (medium.clone(), medium.clone()),
            (medium.clone(), compressed(&large[1..medium.len() + 1].to_ascii_uppercase())),
            (medium.clone(), compressed(&large)),
            (medium, changed.clone()),
            (large, changed),
        ] {
            let (file, kept) = body(&text);
            cache.keep(kept);
            fs::write(folder.path().join(&file.sha256), other).expect("changed");
            assert!(!is_kept(&cache, &file));
            cache.keep(body(&text).1);
            fs::remove_file(folder.path().join(&file.sha256)).expect("deleted");
            assert!(!is_kept(&cache, &file));
            cache.keep(body(&text).1);
            assert!(is_kept(&cache, &file), "it is kept once more");
        }
    }

    #[test]
    fn what_no_manifest_names_makes_room_the_oldest_first_and_what_it_names_stays() {
        let folder = folder();
        let cache = FileCache::open(folder.path(), 3 * BLOCK_BYTES).expect("a cache");
        let texts = ["a", "b", "c", "d", "e", "f"];
        let files = texts.map(|text| body(text.as_bytes()).0);
        let keep = |cache: &FileCache, index: usize| cache.keep(body(texts[index].as_bytes()).1);
        let kept = |cache: &FileCache| (0..6).filter(|index| is_kept(cache, &files[*index])).collect::<Vec<_>>();
        (0..3).for_each(|index| drop(keep(&cache, index)));
        cache.needs([&files[0], &files[1]]);
        keep(&cache, 3);
        assert_eq!(kept(&cache), [0, 1, 3]);
        cache.needs([&files[0], &files[3]]);
        keep(&cache, 4);
        assert_eq!(kept(&cache), [0, 3, 4]);
        cache.needs([&files[0], &files[3], &files[4]]);
        keep(&cache, 5);
        assert_eq!(kept(&cache), [0, 3, 4], "there is no room for another");
        drop(cache);
        let smaller = FileCache::open(folder.path(), 2 * BLOCK_BYTES).expect("a cache");
        assert_eq!(kept(&smaller).len(), 2, "a lower bound holds at once");
    }

    #[test]
    fn what_was_left_half_written_goes_once_it_is_old() {
        let folder = folder();
        for (name, age) in [(".tmpold", LEFT_BEHIND_AFTER * 2), (".tmpnew", Duration::ZERO)] {
            let file = File::create(folder.path().join(name)).expect("made");
            file.set_modified(SystemTime::now() - age).expect("made older");
        }
        FileCache::open(folder.path(), MIB).expect("a cache");
        assert!(!folder.path().join(".tmpold").exists() && folder.path().join(".tmpnew").exists());
    }
}
