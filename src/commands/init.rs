//! `freshet init`: a pipeline folder to begin with. From sample files it drafts contracts, an output and tests;
//! comments show what was seen and what was guessed.

mod draft;
mod key;
mod look;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use look::Looked;

/// Options of `freshet init`.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// Folder to create; if it exists, it must be empty
    folder: PathBuf,
    /// A sample file (CSV) to draft a contract from; may be given several times
    #[arg(long = "from", value_name = "FILE")]
    from: Vec<PathBuf>,
}

const README: &str = include_str!("init/README.md");

/// Creates the folder, and prints the next steps.
///
/// # Errors
/// If the folder holds something, a sample cannot be read, or a file cannot be written. Samples are read first, so that
/// a folder that is made is whole.
pub fn run(args: &InitArgs) -> Result<()> {
    let folder = &args.folder;
    let is_empty = !folder.exists() || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(is_empty, "{} already exists and is not empty: choose a new folder", folder.display());
    let looked: Vec<Looked> = args.from.iter().map(|path| look::at(path)).collect::<Result<_>>()?;
    let names: BTreeSet<&str> = looked.iter().map(|looked| looked.name.as_str()).collect();
    ensure!(names.len() == looked.len(), "two samples would become the same domain: rename one of the files");
    let files: Vec<(PathBuf, String)> = looked.iter().flat_map(draft::files).collect();
    for part in ["domains", "outputs", "tests"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).with_context(|| format!("make folder {}", part.display()))?;
    }
    let readme = (PathBuf::from("README.md"), README.to_owned());
    for (path, text) in [readme].iter().chain(&files) {
        let path = folder.join(path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    print!("{}", report(folder, &looked, &files));
    Ok(())
}

/// What was made, and the next steps.
fn report(folder: &Path, looked: &[Looked], files: &[(PathBuf, String)]) -> String {
    let folder = folder.display();
    let mut text = format!("Created {folder}.\n\n");
    for looked in looked {
        let (rows, columns) = (looked.rows, looked.columns.len());
        text += &format!("  {}: a domain of {columns} columns, drafted from {rows} rows\n", looked.name);
    }
    for (path, _) in files {
        text += &format!("  {folder}/{}\n", path.display());
    }
    text += &match looked.is_empty() {
        true => {
            format!("\nNext: write a contract in {folder}/domains (docs/contracts.md), or start over with --from.\n")
        }
        false => format!(
            "\nNext: check the lines marked `guess` in {folder}/domains and correct them. Then:\n\n  \
             freshet check {folder}\n  freshet --pipeline {folder} up\n"
        ),
    };
    text
}
