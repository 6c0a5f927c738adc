//! A CSV of rejects for each version of a file, in a folder. It gets its name when it is whole: until then, it has one
//! that no listener reads, should the folder be dropped as it is.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use freshet_topics::{Domain, RawRow};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::csv::{self, Columns, Shape};
use super::select::Reject;
use crate::commands::terminal::counted;
use crate::print;

/// Of a new file, less the umask, as of any other.
const MODE: u32 = 0o666;

/// The files of a domain, written one after the other.
pub(super) struct Files<'c> {
    domain: &'static Domain,
    folder: PathBuf,
    /// The columns of each file's rows, by object.
    columns: &'c BTreeMap<i64, Columns>,
    as_json: bool,
    open: Option<Open>,
    written: Vec<Value>,
}

/// The file that is being written.
struct Open {
    object: i64,
    file: Option<String>,
    path: PathBuf,
    shape: Shape,
    rows: i64,
    out: BufWriter<NamedTempFile>,
}

impl<'c> Files<'c> {
    /// Makes the folder of the domain below this one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn new(
        domain: &'static Domain,
        folder: &Path,
        columns: &'c BTreeMap<i64, Columns>,
        as_json: bool,
    ) -> Result<Self> {
        let folder = folder.join(domain.name);
        fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        Ok(Files { domain, folder, columns, as_json, open: None, written: Vec::new() })
    }

    /// Writes a row; those of one object come one after the other.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn write(&mut self, reject: &Reject, row: &RawRow<'_>) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.object != reject.object) {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let path = self.folder.join(name_of(reject));
                let shape = Shape::of(self.domain, self.columns.get(&reject.object).into_iter());
                none.insert(Open::new(self.domain, path, shape, reject)?)
            }
        };
        let line = csv::line(self.domain, &open.shape, reject, row);
        open.out.write_all(line.as_bytes()).with_context(|| format!("write {}", open.path.display()))?;
        open.rows += 1;
        Ok(())
    }

    /// Ends the last file, and says what was written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn end(mut self) -> Result<()> {
        self.close()?;
        if self.as_json {
            print::raw(&format!("{}\n", serde_json::to_string_pretty(&self.written).context("write JSON")?));
        } else if self.written.is_empty() {
            println!("no such row was rejected");
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { file, path, rows, out, .. }) = self.open.take() else { return Ok(()) };
        let end = || out.into_inner().map_err(|error| error.into_error())?.persist(&path).map_err(|error| error.error);
        end().with_context(|| format!("write {}", path.display()))?;
        if !self.as_json {
            println!("{}: {}", path.display(), counted(rows, "row"));
        }
        self.written.push(json!({ "path": path.display().to_string(), "file": file, "rows": rows }));
        Ok(())
    }
}

impl Open {
    fn new(domain: &Domain, path: PathBuf, shape: Shape, reject: &Reject) -> Result<Self> {
        let make = || {
            let folder = path.parent().unwrap_or(Path::new("."));
            let file = tempfile::Builder::new()
                .prefix(".rejects-")
                .suffix(".part")
                .permissions(Permissions::from_mode(MODE))
                .tempfile_in(folder)?;
            let mut out = BufWriter::new(file);
            out.write_all(csv::heading(domain, &shape).as_bytes())?;
            std::io::Result::Ok(out)
        };
        let out = make().with_context(|| format!("write {}", path.display()))?;
        Ok(Open { object: reject.object, file: reject.file.clone(), path, shape, rows: 0, out })
    }
}

/// The last part of the file's key, and the number of its version: no two are the same.
pub(super) fn name_of(reject: &Reject) -> String {
    let key = reject.file.as_deref().unwrap_or("unknown");
    let last = key.rsplit('/').next().unwrap_or(key);
    let plain = last.split('.').next().unwrap_or(last);
    let is_safe = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    let safe: String = plain.chars().map(|it| if is_safe(it) { it } else { '-' }).collect();
    format!("rejects-{safe}-{}.csv", reject.object)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use freshet_topics::DOMAINS;

    use super::*;

    fn reject(object: i64, line: i64) -> Reject {
        let domain = DOMAINS[0];
        Reject {
            domain: domain.name.into(),
            file: Some(format!("folder/{object}.csv")),
            object,
            generation: 1,
            row: line - 2,
            line,
            column: None,
            value: None,
            rule: "late".into(),
            rejected_at: DateTime::default(),
            raw: format!(r#"{{"{}":"{line}"}}"#, domain.columns[0].name),
            topic: "t".into(),
            partition: 0,
            offset: 1,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join(DOMAINS[0].name)).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole_and_no_half_one_stays() {
        let (domain, folder) = (DOMAINS[0], tempfile::tempdir().expect("a folder"));
        let rejects = [reject(4, 2), reject(4, 9), reject(3, 2)];
        let rows = rejects.each_ref().map(|reject| csv::row(domain, reject).expect("a row"));
        let mut columns: BTreeMap<i64, Columns> = BTreeMap::new();
        rejects.iter().zip(&rows).for_each(|(reject, row)| columns.entry(reject.object).or_default().add(row));
        let mut files = Files::new(domain, folder.path(), &columns, true).expect("a folder");
        rejects.iter().zip(&rows).for_each(|(reject, row)| files.write(reject, row).expect("written"));
        let whole = "rejects-4-4.csv".to_owned();
        let now = names(folder.path());
        let [open, closed] = now.as_slice() else { panic!("{now:?} are not two") };
        assert!(open.starts_with('.') && open.ends_with(".part"), "{open} is still written");
        assert_eq!(*closed, whole);
        drop(files);
        assert_eq!(names(folder.path()), [whole], "interrupted, it leaves what is whole");

        let mut files = Files::new(domain, folder.path(), &columns, true).expect("a folder");
        rejects.iter().zip(&rows).for_each(|(reject, row)| files.write(reject, row).expect("written"));
        files.end().expect("written");
        assert_eq!(names(folder.path()), ["rejects-3-3.csv", "rejects-4-4.csv"]);
        let of = |name: &str| folder.path().join(domain.name).join(name);
        assert_eq!(fs::read_to_string(of("rejects-4-4.csv")).expect("written").lines().count(), 3);
        let plain = folder.path().join("plain");
        fs::write(&plain, "").expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode(&of("rejects-3-3.csv")), mode(&plain), "whoever reads other files reads it");
    }
}
