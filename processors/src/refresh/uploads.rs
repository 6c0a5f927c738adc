//! Uploads the data files of a version: unchanged files keep their names, new ones get names that no file had before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use freshet_sinks::outputs::{FORMATS, FileRef, Manifest, OutputError, Spooled, Store, WindowFiles, data_key};
use freshet_topics::failpoint::{self, Point};
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::Window;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::copies::content_type;
use super::derivation::entries;
use super::format::Encoded;
use super::{RefreshError, metrics, panicked};

/// Concurrent uploads of files.
const UPLOADS_MAX: usize = 8;

/// Uploads data files to S3, [`UPLOADS_MAX`] at once.
pub(super) struct Uploads<'a> {
    store: Store,
    /// The next version, which is in the names of new files.
    version: u64,
    /// The files of the version before, all of which exist except the missing ones.
    before: BTreeMap<(&'static str, Window), &'a WindowFiles>,
    missing: &'a BTreeSet<String>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<Result<(), OutputError>>,
    files: usize,
}

impl<'a> Uploads<'a> {
    pub(super) fn new(
        store: Store,
        version: u64,
        outputs: &[&'static Output],
        before: Option<&'a Manifest>,
        missing: &'a BTreeSet<String>,
    ) -> Uploads<'a> {
        let before = before
            .into_iter()
            .flat_map(|manifest| entries(outputs, manifest))
            .map(|(output, window, files)| ((output.name, window), files));
        Uploads {
            store,
            version,
            before: before.collect(),
            missing,
            slots: Arc::new(Semaphore::new(UPLOADS_MAX)),
            tasks: JoinSet::new(),
            files: 0,
        }
    }

    /// Uploads the files of a window that are new or gone, waiting while too many uploads are running. `None`: it has
    /// no rows.
    pub(super) async fn add(
        &mut self,
        output: &'static str,
        window: Window,
        is_final: Option<bool>,
        encoded: Encoded,
    ) -> Result<Option<WindowFiles>, RefreshError> {
        if encoded.rows == 0 {
            return Ok(None);
        }
        let before = self.before.get(&(output, window)).copied();
        let mut files = BTreeMap::new();
        for (format, body) in FORMATS.into_iter().zip(encoded.files) {
            let before = before.and_then(|before| before.files.get(format));
            let (file, write) = match kept(before, body.sha256(), self.missing) {
                Some((file, write)) => (file.clone(), write),
                None => (self.new_file(output, window, format, &body), true),
            };
            if write {
                self.send(output, file.clone(), format, body).await?;
            }
            files.insert(format.to_owned(), file);
        }
        Ok(Some(WindowFiles {
            output: output.to_owned(),
            window_kind: window.kind.name().to_owned(),
            window_start: window.start,
            rows: encoded.rows,
            is_final,
            files,
        }))
    }

    fn new_file(&self, output: &'static str, window: Window, format: &str, body: &Spooled) -> FileRef {
        let (kind, sha256) = (window.kind.name(), body.sha256());
        FileRef {
            key: data_key(output, kind, window.start, self.version, sha256, format),
            sha256: sha256.to_owned(),
            bytes: body.len(),
        }
    }

    async fn send(
        &mut self,
        output: &str,
        file: FileRef,
        format: &'static str,
        body: Spooled,
    ) -> Result<(), RefreshError> {
        while let Some(done) = self.tasks.try_join_next() {
            done.map_err(panicked("upload a file"))??;
        }
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| RefreshError::Stopped)?;
        self.files += 1;
        metrics::FILES.with_label_values(&[output]).inc();
        metrics::BYTES.with_label_values(&[output]).inc_by(body.len());
        let store = self.store.clone();
        self.tasks.spawn(async move {
            let _slot = slot;
            let put = store.put_file(&file, body, content_type(format)).await;
            failpoint::reach(Point::FilePut);
            put
        });
        Ok(())
    }

    /// Waits until all are uploaded; returns how many were written.
    pub(super) async fn finish(mut self) -> Result<usize, RefreshError> {
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(panicked("upload a file"))??;
        }
        Ok(self.files)
    }
}

/// The file of the version before, if it has these bytes, and whether it has to be written again; `None` if a new file
/// is needed.
///
/// | before | bytes | gone | file | written |
/// |---|---|---|---|---|
/// | none | | | new | yes |
/// | a file | others | any | new | yes |
/// | a file | the same | no | as before | no |
/// | a file | the same | yes | as before: readers of an older manifest have it back too | yes |
fn kept<'a>(before: Option<&'a FileRef>, sha256: &str, missing: &BTreeSet<String>) -> Option<(&'a FileRef, bool)> {
    before.filter(|file| file.sha256 == sha256).map(|file| (file, missing.contains(&file.key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_name_while_its_bytes_stay_and_is_written_only_where_it_is_gone() {
        let before = FileRef { key: "there".into(), sha256: "same".into(), bytes: 1 };
        let gone = FileRef { key: "gone".into(), ..before.clone() };
        let missing = BTreeSet::from(["gone".to_owned()]);
        let cases = [
            (None, "same", None),
            (Some(&before), "other", None),
            (Some(&gone), "other", None),
            (Some(&before), "same", Some((&before, false))),
            (Some(&gone), "same", Some((&gone, true))),
        ];
        for (before, sha256, expected) in cases {
            assert_eq!(kept(before, sha256, &missing), expected, "{before:?} {sha256}");
        }
    }
}
