//! One publication: snapshot → files → manifest → swap → forget the marks.
//!
//! The pointer is read before the snapshot is taken, and swapped against what was read. So whoever published in
//! between makes the swap fail, and what is published never goes back in time, however many publishers there
//! are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, NaiveDate, Utc};
use freshet_sinks::lives::{self, Relation};
use freshet_sinks::outputs::{
    Condition, Current, DATA_PREFIX, FORMATS, FileRef, Manifest, OutputError, Put, Spooled, Store, WindowFiles,
};
use freshet_topics::trace;
use freshet_topics::window::{Window, WindowKind};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::aggregate::Locations;
use super::copies::content_type;
use super::format::Encoded;
use super::snapshot::Snapshot;
use super::{RefreshContext, RefreshError, metrics, pass};
use crate::derive::CODE_VERSION;
use crate::windows::{Dirty, Output, is_final};

/// Files on their way up at once.
const UPLOADS_MAX: usize = 8;
/// Every conflict means that another publisher has got on, so this many in a row mean that something is wrong.
const CONFLICTS_MAX: u32 = 20;
/// Marks deleted by one statement.
const MARKS_BATCH: usize = 10_000;

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is a new version.
    Published,
    /// Nothing was to be published.
    Unchanged,
    /// The tables are behind what was published, for this reason; nothing is published until that is resolved.
    Refused(String),
}

/// A publication, as tests and status see it.
#[derive(Debug, Clone)]
pub struct Publication {
    /// What became of it.
    pub outcome: Outcome,
    /// The version that is current now; 0 if there is none.
    pub version: u64,
    /// Windows derived again.
    pub windows: usize,
    /// Data files written; those that came out as they were are not.
    pub files: usize,
    /// Marks consumed.
    pub marks: usize,
    /// From reading the pointer to having swapped it.
    pub duration: Duration,
}

/// Publishes, and remembers the manifest that it saw last.
pub(super) struct Publisher {
    context: RefreshContext,
    store: Store,
    known: Option<Current>,
    /// Files whose rows were in the last publication, with the time of their last batch; empty while nobody traces.
    told: BTreeMap<i64, DateTime<Utc>>,
}

/// The files of the version to come.
type Files = BTreeMap<(Output, Window), WindowFiles>;

impl Publisher {
    pub(super) fn new(context: RefreshContext) -> Self {
        let store = Store::new(context.s3.clone(), &context.bucket);
        Publisher { context, store, known: None, told: BTreeMap::new() }
    }

    /// Publishes what the marks ask for, starting again as long as another publisher is faster.
    pub(super) async fn publish(
        &mut self,
        processing_date: NaiveDate,
        shutdown: &CancellationToken,
    ) -> Result<Publication, RefreshError> {
        for attempt in 1..=CONFLICTS_MAX {
            let began = Instant::now();
            let publication = self.attempt(processing_date, shutdown, began).await?;
            if let Some(publication) = publication {
                return Ok(publication);
            }
            metrics::CONFLICTS.inc();
            tokio::time::sleep(Duration::from_millis(10) * attempt).await;
        }
        Err(RefreshError::Conflicts)
    }

    /// `None`: another publisher was first.
    async fn attempt(
        &mut self,
        processing_date: NaiveDate,
        shutdown: &CancellationToken,
        began: Instant,
    ) -> Result<Option<Publication>, RefreshError> {
        let previous = self.store.current_unless(self.known.as_ref()).await?;
        self.known = previous.clone();
        let previous = previous.as_ref();
        let version = previous.map_or(0, |current| current.manifest.version);
        let publication = |outcome, version, windows, files, marks| {
            Ok(Some(Publication { outcome, version, windows, files, marks, duration: began.elapsed() }))
        };
        let mut snapshot = Snapshot::open(&self.context.pool, self.context.domains, processing_date)
            .await
            .map_err(postgres("take a snapshot"))?;
        if let Some(reason) = previous.and_then(|it| behind(&it.manifest, &snapshot)) {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            return publication(Outcome::Refused(reason), version, 0, 0, 0);
        }
        let dirty = self.dirty(&mut snapshot, previous).await?;
        if previous.is_some() && dirty.is_empty() && snapshot.mark_ids.is_empty() {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            return publication(Outcome::Unchanged, version, 0, 0, 0);
        }
        let applied = match trace::enabled() {
            true => snapshot.applied_lately().await.map_err(postgres("read what was applied lately"))?,
            false => BTreeMap::new(),
        };
        let (manifest, files) = self.derive(&mut snapshot, previous, &dirty, shutdown).await?;
        let unchanged = previous.is_some_and(|it| it.manifest == Manifest { version, ..manifest.clone() });
        if !unchanged && self.store.publish(previous, &manifest).await? == Put::Refused {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            return Ok(None);
        }
        let marks = std::mem::take(&mut snapshot.mark_ids);
        snapshot.close().await.map_err(postgres("close the snapshot"))?;
        self.tell(applied, began, manifest.version);
        self.forget(&marks).await.map_err(postgres("delete the marks that are published"))?;
        match unchanged {
            true => publication(Outcome::Unchanged, version, dirty.len(), files, marks.len()),
            false => publication(Outcome::Published, manifest.version, dirty.len(), files, marks.len()),
        }
    }

    /// Tells of each file with rows in this publication that was not yet in the last that it is published.
    fn tell(&mut self, applied: BTreeMap<i64, DateTime<Utc>>, began: Instant, version: u64) {
        let began = SystemTime::now() - began.elapsed();
        for (object, at) in &applied {
            if self.told.get(object) != Some(at) {
                let version = i64::try_from(version).ok();
                trace::passed(*object, "refresh", began, trace::Detail { version, ..trace::Detail::default() });
            }
        }
        self.told = applied;
    }

    /// The windows to derive: what the marks say and what has closed or opened since; or everything, where
    /// nothing was published yet, or other formulas or another life of the ledger made it.
    async fn dirty(&self, snapshot: &mut Snapshot, previous: Option<&Current>) -> Result<Dirty, RefreshError> {
        let failed = postgres("find the dirty windows");
        let Some(previous) = previous.filter(|current| goes_on(&current.manifest, snapshot)) else {
            return snapshot.everything().await.map_err(failed);
        };
        let mut dirty = snapshot.dirty().await.map_err(failed)?;
        for (output, window, files) in entries(&previous.manifest) {
            if files.is_final.is_some_and(|before| before != self.is_final(snapshot, output, window)) {
                dirty.mark_output(output, window);
            }
        }
        Ok(dirty)
    }

    fn is_final(&self, snapshot: &Snapshot, output: Output, window: Window) -> bool {
        is_final(window, self.context.settings.allowed_lateness_days, snapshot.watermark(output))
    }

    /// Derives the dirty windows, writes their files, and says what the next version consists of.
    async fn derive(
        &self,
        snapshot: &mut Snapshot,
        previous: Option<&Current>,
        dirty: &Dirty,
        shutdown: &CancellationToken,
    ) -> Result<(Manifest, usize), RefreshError> {
        let before = previous.map(|current| &current.manifest);
        let mut files: Files = match before.filter(|manifest| goes_on(manifest, snapshot)) {
            Some(manifest) => {
                entries(manifest).map(|(output, window, files)| ((output, window), files.clone())).collect()
            }
            None => Files::new(),
        };
        let mut uploads = Uploads::new(self.store.clone(), before);
        let locations = match dirty.is_empty() {
            true => Locations::new(),
            false => snapshot.locations().await.map_err(postgres("read the locations"))?,
        };
        metrics::DIRTY_WINDOWS.set(dirty.len() as i64);
        for (window, outputs) in dirty.iter() {
            if shutdown.is_cancelled() {
                return Err(RefreshError::Stopped);
            }
            let closed = self.is_final(snapshot, Output::WindowMetrics, window);
            let derived = pass::derive(snapshot.connection(), &locations, window, outputs, closed).await?;
            metrics::WINDOWS.inc();
            for (output, encoded) in derived {
                let closed = (output == Output::WindowMetrics).then_some(closed);
                match uploads.add(output, window, closed, encoded).await? {
                    Some(entry) => files.insert((output, window), entry),
                    None => files.remove(&(output, window)),
                };
            }
        }
        let written = uploads.finish().await?;
        let version = before.map_or(0, |manifest| manifest.version) + 1;
        let manifest = Manifest {
            version,
            code_version: CODE_VERSION,
            lives: snapshot.lives.clone(),
            epochs: snapshot.epochs.clone(),
            bookmarks: snapshot.bookmarks.clone(),
            watermarks: snapshot.watermarks.clone(),
            changed: changed(before, &files, version),
            windows: files.into_values().collect(),
        };
        Ok((manifest, written))
    }

    /// Deletes exactly these marks. One that a publisher deletes twice, or two at once, is gone all the same.
    async fn forget(&self, marks: &[i64]) -> Result<(), sqlx::Error> {
        for marks in marks.chunks(MARKS_BATCH) {
            sqlx::query("DELETE FROM pipeline.marks WHERE id = ANY($1)")
                .bind(marks)
                .execute(&self.context.pool)
                .await?;
        }
        Ok(())
    }
}

/// Whether what is published was made by these formulas, of this life of the ledger: then only what changed is derived.
fn goes_on(manifest: &Manifest, snapshot: &Snapshot) -> bool {
    let same_life = lives::relation(&manifest.lives, &snapshot.lives) == Relation::Same;
    same_life && manifest.code_version == CODE_VERSION
}

/// Why the tables are behind what is published, if they are.
fn behind(manifest: &Manifest, snapshot: &Snapshot) -> Option<String> {
    match lives::relation(&manifest.lives, &snapshot.lives) {
        Relation::Same => manifest.behind(&snapshot.epochs, &snapshot.bookmarks),
        Relation::Other => None,
        Relation::Later => {
            let own = snapshot.lives.len();
            Some(format!("the ledger is in its life {own}, published is a later one that it does not know"))
        }
    }
}

/// The files of a manifest with what they are of; what this version does not know is left out.
fn entries(manifest: &Manifest) -> impl Iterator<Item = (Output, Window, &WindowFiles)> {
    manifest.windows.iter().filter_map(|files| {
        let output = Output::ALL.into_iter().find(|output| output.name() == files.output)?;
        let kind = WindowKind::from_name(&files.window_kind)?;
        Some((output, Window { kind, start: files.window_start }, files))
    })
}

/// For each output the version in which one of its files last changed.
fn changed(before: Option<&Manifest>, files: &Files, version: u64) -> BTreeMap<String, u64> {
    let each = Output::ALL.into_iter().map(|output| {
        let now = files.iter().filter(|((of, _), _)| *of == output).map(|(_, files)| files);
        let same = before
            .filter(|manifest| now.eq(entries(manifest).filter(|(of, _, _)| *of == output).map(|(_, _, files)| files)));
        let since = same.and_then(|manifest| manifest.changed.get(output.name()).copied());
        (output.name().to_owned(), since.unwrap_or(version))
    });
    each.collect()
}

fn postgres(action: &'static str) -> impl Fn(sqlx::Error) -> RefreshError {
    move |source| RefreshError::Postgres { action, source }
}

/// Data files on their way to S3, [`UPLOADS_MAX`] at once.
struct Uploads {
    store: Store,
    /// Keys that the version before names: those files are there, and are kept.
    present: BTreeSet<String>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<Result<Put, OutputError>>,
    files: usize,
}

impl Uploads {
    fn new(store: Store, before: Option<&Manifest>) -> Self {
        Uploads {
            store,
            present: before.into_iter().flat_map(Manifest::keys).map(str::to_owned).collect(),
            slots: Arc::new(Semaphore::new(UPLOADS_MAX)),
            tasks: JoinSet::new(),
            files: 0,
        }
    }

    /// Sends the files of a window that are new, waiting while too many are under way. `None`: it has no rows.
    async fn add(
        &mut self,
        output: Output,
        window: Window,
        is_final: Option<bool>,
        encoded: Encoded,
    ) -> Result<Option<WindowFiles>, RefreshError> {
        if encoded.rows == 0 {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        for (format, body) in FORMATS.into_iter().zip(encoded.files) {
            let file = file_ref(output, window, format, &body);
            if !self.present.contains(&file.key) {
                self.send(file.key.clone(), format, body).await?;
            }
            files.insert(format.to_owned(), file);
        }
        Ok(Some(WindowFiles {
            output: output.name().to_owned(),
            window_kind: window.kind.name().to_owned(),
            window_start: window.start,
            rows: encoded.rows,
            is_final,
            files,
        }))
    }

    async fn send(&mut self, key: String, format: &'static str, body: Spooled) -> Result<(), RefreshError> {
        while let Some(done) = self.tasks.try_join_next() {
            done.map_err(RefreshError::Task)??;
        }
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| RefreshError::Stopped)?;
        self.files += 1;
        metrics::FILES.inc();
        metrics::BYTES.inc_by(body.len());
        let store = self.store.clone();
        self.tasks.spawn(async move {
            let _slot = slot;
            store.put(&key, &body, content_type(format), Condition::Always).await
        });
        Ok(())
    }

    /// Waits until all are there; how many were written.
    async fn finish(mut self) -> Result<usize, RefreshError> {
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(RefreshError::Task)??;
        }
        Ok(self.files)
    }
}

/// A data file's name says what it is and which bytes it holds: 64 bits of their hash.
fn file_ref(output: Output, window: Window, format: &str, body: &Spooled) -> FileRef {
    let (kind, start, hash) = (window.kind.name(), window.start, &body.sha256()[..16]);
    FileRef {
        key: format!("{DATA_PREFIX}{}/{kind}-{start}-{hash}.{format}", output.name()),
        sha256: body.sha256().to_owned(),
        bytes: body.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(Output, &str, u64)]) -> Files {
        let entry = |(output, start, rows): &(Output, &str, u64)| {
            let window = Window { kind: WindowKind::Month, start: start.parse().expect("a date") };
            let files = WindowFiles {
                output: output.name().into(),
                window_kind: "month".into(),
                window_start: window.start,
                rows: *rows,
                is_final: None,
                files: BTreeMap::new(),
            };
            ((*output, window), files)
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn an_output_keeps_its_version_while_its_files_stay() {
        use Output::{HealthRisks, HospitalResources};
        let first = files(&[(HealthRisks, "2025-08-01", 1), (HospitalResources, "2025-08-01", 1)]);
        let manifest = |files: &Files, changed| Manifest {
            changed,
            windows: files.values().cloned().collect(),
            ..Manifest::default()
        };
        let at_one = changed(None, &first, 1);
        assert!(at_one.len() == Output::ALL.len() && at_one.values().all(|version| *version == 1));
        let one = manifest(&first, at_one);
        type Case<'a> = (&'a [(Output, &'a str, u64)], [u64; 4]);
        let cases: &[Case] = &[
            (&[(HealthRisks, "2025-08-01", 1), (HospitalResources, "2025-08-01", 1)], [1, 1, 1, 1]),
            (&[(HealthRisks, "2025-08-01", 2), (HospitalResources, "2025-08-01", 1)], [2, 1, 1, 1]),
            (&[(HospitalResources, "2025-08-01", 1)], [2, 1, 1, 1]),
            (&[(HealthRisks, "2025-08-01", 1), (HospitalResources, "2025-09-01", 1)], [1, 2, 1, 1]),
        ];
        for (now, versions) in cases {
            let changed = changed(Some(&one), &files(now), 2);
            let found = Output::ALL.map(|output| changed[output.name()]);
            assert_eq!(found, *versions, "{now:?}");
        }
    }
}
