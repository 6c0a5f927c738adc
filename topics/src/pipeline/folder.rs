//! The files of a pipeline folder, in memory: the embedded one or one on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use include_dir::{Dir, include_dir};

use super::mistake::{Mistake, Mistakes, Place};

/// The pipeline that is shipped.
static SHIPPED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../pipelines/climate_health");
/// The name of its folder.
pub(super) const SHIPPED_NAME: &str = "climate_health";

/// Contracts and queries are written by hand: a longer file cannot be one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files that are read: folder, file extension, and what each is.
pub(super) const KINDS: [(&str, &str, &str); 3] =
    [("domains", ".odcs.yaml", "a contract"), ("outputs", ".sql", "an output"), ("tests", ".yaml", "a test")];

/// The texts of the files, by their paths in the folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<String, String>,
}

impl Folder {
    /// The embedded folder.
    pub(super) fn shipped() -> Folder {
        let mut folder = Folder::default();
        for (name, ending, _) in KINDS {
            for file in SHIPPED.get_dir(name).into_iter().flat_map(Dir::files) {
                let path = file.path().to_string_lossy().into_owned();
                if let Some(text) = file.contents_utf8().filter(|_| path.ends_with(ending)) {
                    folder.files.insert(path, text.to_owned());
                }
            }
        }
        folder
    }

    /// A folder on disk, and the files that cannot be read.
    pub(super) fn read(folder: &Path) -> (Folder, Vec<Mistake>) {
        let (mut read, mut mistakes) = (Folder::default(), Vec::new());
        for (name, ending, what) in KINDS {
            let mut names = match names(&folder.join(name)) {
                Ok(names) => names,
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != "domains" => continue,
                Err(error) => {
                    let mut found = Mistakes::of(name);
                    let shown = folder.display();
                    found.add(Place::START, format!("a pipeline folder has its contracts here; in {shown}: {error}"));
                    mistakes.extend(found.into_sorted());
                    continue;
                }
            };
            names.sort();
            for file in names {
                let path = format!("{name}/{file}");
                let mut found = Mistakes::of(&path);
                if !file.ends_with(ending) {
                    found.add(Place::START, format!("this file is not read: {what} ends in {ending}"));
                } else if let Some(text) = text(&folder.join(&path), &mut found) {
                    read.files.insert(path, text);
                }
                mistakes.extend(found.into_sorted());
            }
        }
        (read, mistakes)
    }

    /// A folder with these files.
    #[cfg(test)]
    pub(super) fn with(files: &[(&str, &str)]) -> Folder {
        Folder { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
    }

    /// Paths and texts of the files of one of its folders, by path.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let of_it = move |path: &str| path.split_once('/').is_some_and(|(folder, _)| folder == name);
        self.files.iter().filter(move |(path, _)| of_it(path)).map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// Names of files, without hidden ones and pages about them.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.ends_with(".md") {
            names.push(name);
        }
    }
    Ok(names)
}

fn text(path: &Path, mistakes: &mut Mistakes) -> Option<String> {
    let read = || -> io::Result<Vec<u8>> {
        match fs::metadata(path)?.len() {
            0..=FILE_BYTES_MAX => fs::read(path),
            bytes => {
                Err(io::Error::other(format!("it has {bytes} bytes, more than the {FILE_BYTES_MAX} that are read")))
            }
        }
    };
    let text = read().and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8")));
    match text {
        Ok(text) => Some(text),
        Err(error) => {
            mistakes.add(Place::START, format!("this file cannot be read: {error}"));
            None
        }
    }
}
