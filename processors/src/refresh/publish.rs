//! One publication: snapshot → files → manifest → swap → delete the marks.
//!
//! The pointer is read before the snapshot is taken, and swapped against what was read. So whoever published in
//! between makes the swap fail, and what is published never goes back in time, however many publishers there
//! are. Nothing is locked but the tables, against being dropped: a publisher that is frozen half-way holds up
//! neither the others nor the garbage collection, and finds its swap refused when it wakes.
//!
//! Outputs have an order of code: a publisher whose formulas are older than those of what is published publishes
//! nothing ([`Outcome::Outdated`]), so that in a rolling upgrade the newest program wins.
//!
//! What was deleted by hand is made again: see [`Publisher::verify_if_due`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, NaiveDate, Utc};
use freshet_sinks::outputs::{Current, Damage, Manifest, Published, Put, Store, WindowFiles};
use freshet_topics::failpoint::{self, Point};
use freshet_topics::trace;
use freshet_topics::window::{Window, WindowKind};
use tokio_util::sync::CancellationToken;

use super::aggregate::Locations;
use super::basis::{Basis, Began};
use super::behind::{goes_on, why_behind};
use super::snapshot::Snapshot;
use super::uploads::Uploads;
use super::{RefreshContext, RefreshError, metrics, pass};
use crate::derive::CODE_VERSION;
use crate::windows::{Dirty, Output, is_final};

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
    /// What is published was derived by later code than this program has.
    Outdated {
        /// The code version of what is published.
        published: u32,
        /// This program's.
        own: u32,
    },
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
    /// Whether something was made again that had been deleted or put back by hand.
    pub mended: bool,
    /// From reading the pointer to having swapped it.
    pub duration: Duration,
}

/// Publishes, and remembers the manifest that it saw last.
pub(super) struct Publisher {
    context: RefreshContext,
    store: Store,
    known: Option<Current>,
    /// What the last verification found and no publication has mended yet.
    damage: Damage,
    verified_at: Option<Instant>,
    /// The damage that the log speaks of already.
    announced: Option<String>,
    /// Files whose rows were in the last publication, with the time of their last batch; empty while nobody traces.
    traced: BTreeMap<i64, DateTime<Utc>>,
}

/// The files of the version to come.
type Files = BTreeMap<(Output, Window), WindowFiles>;

impl Publisher {
    pub(super) fn new(context: RefreshContext) -> Self {
        let store = Store::new(context.s3.clone(), &context.bucket);
        Publisher {
            context,
            store,
            known: None,
            damage: Damage::default(),
            verified_at: None,
            announced: None,
            traced: BTreeMap::new(),
        }
    }

    /// How long until the outputs are to be verified again; none before the first time.
    pub(super) fn verification_in(&self) -> Duration {
        let interval = Duration::from_millis(self.context.settings.verify_interval_ms);
        self.verified_at.map_or(Duration::ZERO, |at| interval.saturating_sub(at.elapsed()))
    }

    /// Has the outputs verified before the next publication: somebody found something gone.
    pub(super) fn verify_soon(&mut self) {
        self.verified_at = None;
    }

    /// Publishes what the marks ask for and what is gone, starting again as long as another publisher is faster.
    pub(super) async fn publish(
        &mut self,
        processing_date: NaiveDate,
        shutdown: &CancellationToken,
    ) -> Result<Publication, RefreshError> {
        self.verify_if_due().await;
        for attempt in 1..=CONFLICTS_MAX {
            let publication = self.attempt(processing_date, shutdown, Began::now()).await?;
            if let Some(publication) = publication {
                return Ok(publication);
            }
            metrics::CONFLICTS.inc();
            tokio::time::sleep(Duration::from_millis(10) * attempt).await;
        }
        Err(RefreshError::Conflicts)
    }

    /// Compares what is there with what is published, every [`super::MetricsSettings::verify_interval_ms`]. An error
    /// keeps nothing from being published.
    async fn verify_if_due(&mut self) {
        if !self.verification_in().is_zero() {
            return;
        }
        match self.store.verify(self.damage.resume_after.as_deref()).await {
            Ok(damage) => {
                // More was found than one verification takes in: the next one follows as soon as this is mended.
                let more = damage.resume_after.is_some() && !damage.missing.is_empty();
                self.verified_at = (!more).then(Instant::now);
                if damage.lost {
                    self.known = None;
                }
                self.damage = damage;
            }
            Err(error) => {
                self.verified_at = Some(Instant::now());
                metrics::ERRORS.inc();
                tracing::warn!(%error, "verify the outputs; it is tried again");
            }
        }
    }

    /// `None`: another publisher was first.
    async fn attempt(
        &mut self,
        processing_date: NaiveDate,
        shutdown: &CancellationToken,
        began: Began,
    ) -> Result<Option<Publication>, RefreshError> {
        let published = self.store.published(self.known.as_ref()).await?;
        self.known = match &published {
            Published::Current(current) => Some((**current).clone()),
            _ => None,
        };
        let basis = Basis::of(published, &self.damage);
        let mut publication = Publication {
            outcome: Outcome::Unchanged,
            version: basis.version(),
            windows: 0,
            files: 0,
            marks: 0,
            mended: false,
            duration: Duration::ZERO,
        };
        let published_code = basis.seen.as_ref().map_or(0, |manifest| manifest.code_version);
        if published_code > CODE_VERSION {
            publication.outcome = Outcome::Outdated { published: published_code, own: CODE_VERSION };
            return Ok(Some(publication));
        }
        let mut snapshot = Snapshot::open(&self.context.pool, self.context.domains, processing_date)
            .await
            .map_err(postgres("take a snapshot"))?;
        failpoint::reach(Point::SnapshotTaken);
        if let Some(reason) = basis.seen.as_ref().and_then(|it| why_behind(it, &snapshot.tables)) {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            publication.outcome = Outcome::Refused(reason);
            return Ok(Some(publication));
        }
        let dirty = self.dirty(&mut snapshot, basis.kept()).await?;
        if basis.kept().is_some() && dirty.is_empty() && snapshot.mark_ids.is_empty() {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            return Ok(Some(publication));
        }
        self.announce(&basis);
        let applied = match trace::enabled() {
            true => snapshot.applied_lately().await.map_err(postgres("read what was applied lately"))?,
            false => BTreeMap::new(),
        };
        let (manifest, files) = self.derive(&mut snapshot, &basis, &dirty, shutdown).await?;
        if let Some((took, limit)) = began.overlong(self.context.settings.keep()) {
            return Err(RefreshError::Overlong { took, limit });
        }
        let unchanged = basis.kept().is_some_and(|it| *it == Manifest { version: it.version, ..manifest.clone() });
        if !unchanged && self.store.publish(basis.swap.clone(), &manifest).await? == Put::Refused {
            snapshot.close().await.map_err(postgres("close the snapshot"))?;
            return Ok(None);
        }
        failpoint::reach(Point::PointerSwapped);
        let marks = std::mem::take(&mut snapshot.mark_ids);
        snapshot.close().await.map_err(postgres("close the snapshot"))?;
        self.trace_publication(applied, began.at, manifest.version);
        self.delete_marks(&marks).await.map_err(postgres("delete the marks that are published"))?;
        failpoint::reach(Point::MarksDeleted);
        if !unchanged {
            publication.outcome = Outcome::Published;
            publication.version = manifest.version;
        }
        publication.mended = self.mended(&basis);
        Ok(Some(Publication {
            windows: dirty.len(),
            files,
            marks: marks.len(),
            duration: began.at.elapsed(),
            ..publication
        }))
    }

    /// Says once, for people, what was deleted or put back and is made again.
    fn announce(&mut self, basis: &Basis) {
        let text = match (&basis.lost, self.damage.missing.first()) {
            (Some(lost), _) => {
                format!("{lost}; all outputs are derived again, as version {}", basis.next_version())
            }
            (None, Some(first)) => format!(
                "{} data files that version {} names are gone, {first} among them; their windows are derived again",
                self.damage.missing.len(),
                basis.version()
            ),
            (None, None) => return,
        };
        if self.announced.as_ref() != Some(&text) {
            tracing::warn!(bucket = self.context.bucket, "{text}");
            self.announced = Some(text);
        }
    }

    /// Whether the publication that has just succeeded mended something.
    fn mended(&mut self, basis: &Basis) -> bool {
        let files = self.damage.missing.len() as u64;
        let mended = if basis.lost.is_some() { 1 } else { files };
        metrics::MADE_AGAIN.inc_by(mended);
        self.damage = Damage { resume_after: self.damage.resume_after.take(), ..Damage::default() };
        self.announced = None;
        mended > 0
    }

    /// Tells of each file with rows in this publication that was not yet in the last that it is published.
    fn trace_publication(&mut self, applied: BTreeMap<i64, DateTime<Utc>>, began: Instant, version: u64) {
        let began = SystemTime::now() - began.elapsed();
        for (object, at) in &applied {
            if self.traced.get(object) != Some(at) {
                let version = i64::try_from(version).ok();
                trace::passed(*object, "refresh", began, trace::Detail { version, ..trace::Detail::default() });
            }
        }
        self.traced = applied;
    }

    /// The windows to derive: what the marks say, what has closed or opened since, and what has lost a file; or
    /// everything, where no files are kept, or other formulas or another life of the ledger made them.
    async fn dirty(&self, snapshot: &mut Snapshot, kept: Option<&Manifest>) -> Result<Dirty, RefreshError> {
        let failed = postgres("find the dirty windows");
        let Some(kept) = kept.filter(|manifest| goes_on(manifest, &snapshot.tables)) else {
            return snapshot.everything().await.map_err(failed);
        };
        let mut dirty = snapshot.dirty().await.map_err(failed)?;
        for (output, window, files) in entries(kept) {
            let turned = files.is_final.is_some_and(|before| before != self.is_final(snapshot, output, window));
            if turned || files.files.values().any(|file| self.damage.missing.contains(&file.key)) {
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
        basis: &Basis,
        dirty: &Dirty,
        shutdown: &CancellationToken,
    ) -> Result<(Manifest, usize), RefreshError> {
        let (before, version) = (basis.kept(), basis.next_version());
        let mut files: Files = match before.filter(|manifest| goes_on(manifest, &snapshot.tables)) {
            Some(manifest) => {
                entries(manifest).map(|(output, window, files)| ((output, window), files.clone())).collect()
            }
            None => Files::new(),
        };
        let mut uploads = Uploads::new(self.store.clone(), version, before, &self.damage.missing);
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
        failpoint::reach(Point::FilesPut);
        let manifest = Manifest {
            version,
            code_version: CODE_VERSION,
            lives: snapshot.tables.lives.clone(),
            epochs: snapshot.tables.epochs.clone(),
            bookmarks: snapshot.tables.bookmarks.clone(),
            watermarks: snapshot.watermarks.clone(),
            changed: changed(before, &files, version),
            windows: files.into_values().collect(),
        };
        Ok((manifest, written))
    }

    /// Deletes exactly these marks. One that a publisher deletes twice, or two at once, is gone all the same.
    async fn delete_marks(&self, marks: &[i64]) -> Result<(), sqlx::Error> {
        for marks in marks.chunks(MARKS_BATCH) {
            sqlx::query("DELETE FROM pipeline.marks WHERE id = ANY($1)")
                .bind(marks)
                .execute(&self.context.pool)
                .await?;
        }
        Ok(())
    }
}

/// The files of a manifest with what they are of; what this version does not know is left out.
pub(super) fn entries(manifest: &Manifest) -> impl Iterator<Item = (Output, Window, &WindowFiles)> {
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
