//! One publication: snapshot → files → manifest → swap → delete the marks.
//!
//! The pointer is read before the snapshot is taken, and the swap compares it with that state. So if another publisher
//! was faster, the swap fails, and the published version never goes back in time, however many publishers there are.
//! Only the tables are locked, against being dropped: a frozen publisher delays neither the others nor the garbage
//! collection, and its swap is refused when it continues.
//!
//! A publisher with an older program than the published version publishes nothing ([`Outcome::Outdated`]), nor does one
//! whose outputs have since been set up with other definitions ([`Outcome::Superseded`]), so in a rolling upgrade the
//! newest program and folder win.
//!
//! Files deleted by hand are restored: see [`super::verification`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, NaiveDate, Utc};
use freshet_sinks::output_state;
use freshet_sinks::outputs::{Current, Damage, Manifest, Published, Store};
use freshet_topics::failpoint::{self, Point};
use freshet_topics::pipeline::output::Output;
use freshet_topics::trace;
use tokio_util::sync::CancellationToken;

use super::basis::{Basis, Began};
use super::behind::{CODE_VERSION, why_behind};
use super::derivation::{Derivation, Plan, entries};
use super::pace::{Allowance, measured};
use super::snapshot::Snapshot;
use super::verification::Verification;
use super::{RefreshContext, RefreshError, metrics, postgres, readers};
use crate::windows::{Place, Waiting};

/// Every conflict means that another publisher has finished, so this many in a row mean that something is wrong.
const CONFLICTS_MAX: u32 = 20;
/// Marks deleted by one statement.
const MARKS_BATCH: usize = 10_000;

/// The result of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is a new version.
    Published,
    /// There was nothing to publish.
    Unchanged,
    /// The tables are older than the published version, for this reason; nothing is published until that is resolved.
    Refused(String),
    /// The published outputs were derived by newer code than this program has.
    Outdated {
        /// The published code version.
        published: u32,
        /// This program's code version.
        own: u32,
    },
    /// An output was set up with another definition than this program has; nothing is published until they agree.
    Superseded(String),
}

/// A publication, for tests and the status.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Its result.
    pub outcome: Outcome,
    /// The version that is current now; 0 if there is none.
    pub version: u64,
    /// Windows derived again, each once however many outputs have it.
    pub windows: usize,
    /// Windows that were derived, counted for each output: not the rest of an output that failed.
    pub output_windows: usize,
    /// Data files written; unchanged files are not written.
    pub files: usize,
    /// Marks consumed.
    pub marks: usize,
    /// Ranges of dates that only a dimension changed and that were derived.
    pub taken: usize,
    /// Ranges of dates that keep waiting because only a dimension changed.
    pub waiting: usize,
    /// The number of dirty windows, counted for each output, if more are dirty than may be derived yet.
    pub put_off: Option<usize>,
    /// Outputs whose query fails: their published files are from an earlier state.
    pub failed: Vec<&'static str>,
    /// Whether something was restored that had been deleted or put back by hand.
    pub mended: bool,
    /// From reading the pointer to the swap.
    pub duration: Duration,
    /// The part of it that is work: without waiting for locked tables, and without the time for which the process was
    /// frozen. Zero if there was nothing to do.
    pub worked: Duration,
}

impl Publication {
    /// Nothing was published, and this version is current.
    fn unchanged(version: u64) -> Publication {
        Publication {
            outcome: Outcome::Unchanged,
            version,
            windows: 0,
            output_windows: 0,
            files: 0,
            marks: 0,
            taken: 0,
            waiting: 0,
            put_off: None,
            failed: Vec::new(),
            mended: false,
            duration: Duration::ZERO,
            worked: Duration::ZERO,
        }
    }
}

/// What became of a swap of the pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swapped {
    /// It names the new version.
    New,
    /// It stays: the new version is the published one but for its number.
    Same,
    /// Another publisher was faster.
    Overtaken,
}

/// Publishes, and remembers the manifest that it saw last.
pub(super) struct Publisher {
    context: RefreshContext,
    store: Store,
    known: Option<Current>,
    /// Where the pass over the dates that only dimensions changed has got to.
    reached: Option<Place>,
    verification: Verification,
    /// The loss that is already logged.
    announced: Option<String>,
    /// Why outputs fail, as already logged.
    said: BTreeMap<&'static str, String>,
    /// Files whose rows were in the last publication, with the time of their last batch; empty without a subscriber for
    /// traces.
    traced: BTreeMap<i64, DateTime<Utc>>,
}

impl Publisher {
    pub(super) fn new(context: RefreshContext, store: Store) -> Self {
        let interval = Duration::from_millis(context.settings.verify_interval_ms);
        Publisher {
            context,
            verification: Verification::new(store.clone(), interval),
            store,
            known: None,
            reached: None,
            announced: None,
            said: BTreeMap::new(),
            traced: BTreeMap::new(),
        }
    }

    /// Requests a verification, because something was found missing.
    pub(super) fn verify_soon(&mut self) {
        self.verification.soon();
    }

    /// Returns once the outputs have been verified; the next publication uses the result.
    pub(super) async fn verified(&mut self) {
        self.verification.ended().await;
    }

    /// Publishes marked changes and missing files, starting again as long as another publisher is faster.
    pub(super) async fn publish(
        &mut self,
        processing_date: NaiveDate,
        allowance: Allowance,
        shutdown: &CancellationToken,
    ) -> Result<Publication, RefreshError> {
        self.verification.take_up().await;
        if self.verification.damage.lost {
            self.known = None;
        }
        for attempt in 1..=CONFLICTS_MAX {
            let publication = self.attempt(processing_date, allowance, shutdown, Began::now()).await?;
            if let Some(publication) = publication {
                return Ok(publication);
            }
            metrics::CONFLICTS.inc();
            tokio::time::sleep(Duration::from_millis(10) * attempt).await;
        }
        Err(RefreshError::Conflicts)
    }

    /// Look → plan → derive → swap → settle. `None`: another publisher was first.
    async fn attempt(
        &mut self,
        processing_date: NaiveDate,
        allowance: Allowance,
        shutdown: &CancellationToken,
        began: Began,
    ) -> Result<Option<Publication>, RefreshError> {
        let basis = self.look().await?;
        let unchanged = Publication::unchanged(basis.version());
        if let Some(outcome) = outdated(&basis) {
            return Ok(Some(Publication { outcome, ..unchanged }));
        }
        let mut snapshot = self.snapshot(processing_date).await?;
        if let Some(outcome) = self.obstacle(&basis, &snapshot) {
            snapshot.close().await?;
            return Ok(Some(Publication { outcome, ..unchanged }));
        }
        let context = self.context.clone();
        let damage = &self.verification.damage;
        let plan = Plan::of(&context, &basis, damage, self.reached, allowance.waiting_max, &mut snapshot);
        let (plan, planned) = measured(plan).await;
        let mut plan = plan?;
        let is_idle = plan.is_empty() && snapshot.mark_ids.is_empty();
        let put_off = if is_idle { None } else { plan.put_off(allowance.windows_max) };
        if is_idle || put_off.is_some() {
            snapshot.close().await?;
            return Ok(Some(Publication { put_off, ..unchanged }));
        }
        self.announce(&basis);
        let applied = match trace::enabled() {
            true => snapshot.applied_lately().await.map_err(postgres("read what was applied lately"))?,
            false => BTreeMap::new(),
        };
        let damage = &self.verification.damage;
        let derive = plan.derive(&self.store, damage, &mut snapshot, allowance.readers, shutdown);
        let (derivation, derived) = measured(derive).await;
        let derivation = derivation?;
        if let Some((took, limit)) = began.overlong(self.context.settings.keep()) {
            return Err(RefreshError::Overlong { took, limit });
        }
        let (swapped, swapping) = measured(self.swap(&basis, &derivation.manifest, &mut snapshot)).await;
        let (outcome, version) = match swapped? {
            Swapped::New => (Outcome::Published, derivation.manifest.version),
            Swapped::Same => (Outcome::Unchanged, basis.version()),
            Swapped::Overtaken => {
                snapshot.close().await?;
                return Ok(None);
            }
        };
        failpoint::reach(Point::PointerSwapped);
        let marks = self.settle(snapshot, &derivation, applied, began).await?;
        Ok(Some(Publication {
            outcome,
            version,
            windows: derivation.windows,
            output_windows: derivation.output_windows,
            files: derivation.written,
            marks,
            taken: derivation.taken.len(),
            waiting: derivation.waiting.len(),
            failed: derivation.failed.keys().copied().collect(),
            put_off: None,
            mended: self.mended(&basis, &derivation),
            duration: began.at.elapsed(),
            worked: planned + derived + swapping,
        }))
    }

    /// The basis of the next version, as the pointer is now.
    async fn look(&mut self) -> Result<Basis, RefreshError> {
        let published = self.store.published(self.known.as_ref()).await?;
        self.known = match &published {
            Published::Current(current) => Some((**current).clone()),
            _ => None,
        };
        Ok(Basis::of(published, &self.verification.damage))
    }

    /// The state of the tables to publish. The metrics say which outputs fail in it.
    async fn snapshot(&self, processing_date: NaiveDate) -> Result<Snapshot, RefreshError> {
        let snapshot = Snapshot::open(&self.context.pool, self.context.domains, processing_date).await;
        let snapshot = snapshot.map_err(postgres("take a snapshot"))?;
        failpoint::reach(Point::SnapshotTaken);
        for output in self.context.outputs {
            let is_failed = snapshot.failures.iter().any(|failure| failure.output == output.name);
            metrics::OUTPUT_FAILED.with_label_values(&[output.name]).set(is_failed.into());
        }
        Ok(snapshot)
    }

    /// Why nothing can be published from this snapshot over this basis.
    fn obstacle(&self, basis: &Basis, snapshot: &Snapshot) -> Option<Outcome> {
        let behind = basis.seen.as_ref().and_then(|manifest| why_behind(manifest, &snapshot.tables));
        let superseded = || superseded(self.context.outputs, &snapshot.definitions).map(Outcome::Superseded);
        behind.map(Outcome::Refused).or_else(superseded)
    }

    /// Makes this the published version, unless it is the same as the one before but for its number.
    async fn swap(
        &mut self,
        basis: &Basis,
        manifest: &Manifest,
        snapshot: &mut Snapshot,
    ) -> Result<Swapped, RefreshError> {
        if basis.kept().is_some_and(|kept| *kept == Manifest { version: kept.version, ..manifest.clone() }) {
            return Ok(Swapped::Same);
        }
        let publish = self.store.publish(basis.swap.clone(), manifest);
        let Some(pointer) = readers::awake(snapshot.connection(), publish).await?? else {
            return Ok(Swapped::Overtaken);
        };
        // The pointer is always read again before it is compared; the manifest need not be.
        self.known = Some(Current { etag: String::new(), modified: 0, pointer, manifest: manifest.clone() });
        Ok(Swapped::New)
    }

    /// After the swap: ends the snapshot, records what was published, and deletes its marks. Returns how many.
    async fn settle(
        &mut self,
        mut snapshot: Snapshot,
        derivation: &Derivation,
        applied: BTreeMap<i64, DateTime<Utc>>,
        began: Began,
    ) -> Result<usize, RefreshError> {
        let mut marks = std::mem::take(&mut snapshot.mark_ids);
        marks.extend(derivation.taken.iter().filter_map(|one| one.mark));
        snapshot.close().await?;
        self.trace_publication(applied, began.at, derivation.manifest.version);
        self.record(derivation).await.map_err(postgres("record which outputs work"))?;
        self.settle_marks(&marks, &derivation.waiting)
            .await
            .map_err(postgres("delete the marks that are published"))?;
        self.reached = derivation.reached;
        failpoint::reach(Point::MarksDeleted);
        Ok(marks.len())
    }

    /// Records which outputs fail and since when, for people and for the next publisher, and logs each once.
    async fn record(&mut self, derivation: &Derivation) -> Result<(), sqlx::Error> {
        for output in self.context.outputs {
            metrics::OUTPUT_FAILED
                .with_label_values(&[output.name])
                .set(derivation.failed.contains_key(output.name).into());
            let Some(failed) = derivation.failed.get(output.name) else {
                if self.said.remove(output.name).is_some() {
                    tracing::info!(output = output.name, "the output works again");
                }
                continue;
            };
            if self.said.get(output.name) != Some(&failed.reason) {
                tracing::error!(
                    output = output.name,
                    reason = failed.reason,
                    "the query of an output fails: its published state is not updated; the other outputs continue"
                );
                self.said.insert(output.name, failed.reason.clone());
            }
            if failed.is_to_wait {
                output_state::failed(&self.context.pool, output, &failed.reason, failed.failures).await?;
            }
        }
        match derivation.work_again.is_empty() {
            true => Ok(()),
            false => output_state::work(&self.context.pool, &derivation.work_again).await,
        }
    }

    /// Logs once that a version was deleted or put back by hand and is restored.
    fn announce(&mut self, basis: &Basis) {
        let Some(lost) = &basis.lost else { return };
        let text = format!("{lost}; all outputs are derived again, as version {}", basis.next_version());
        if self.announced.as_ref() != Some(&text) {
            tracing::warn!(bucket = self.context.bucket, "{text}");
            self.announced = Some(text);
        }
    }

    /// Whether the publication that has just succeeded restored something. What it did not restore stays damaged.
    fn mended(&mut self, basis: &Basis, derivation: &Derivation) -> bool {
        let Damage { missing, resume_after, .. } = std::mem::take(&mut self.verification.damage);
        self.announced = None;
        let fails = |output: &Output| derivation.failed.contains_key(output.name);
        let (made, left) = restored(self.context.outputs, basis.kept(), &missing, fails);
        self.verification.damage = Damage { missing: left, resume_after, ..Damage::default() };
        if let Some(first) = made.first() {
            tracing::warn!(
                bucket = self.context.bucket,
                count = made.len(),
                "data files of version {} were missing or damaged, {first} among them; their windows were derived again",
                basis.version()
            );
        }
        let mended = if basis.lost.is_some() { 1 } else { made.len() as u64 };
        metrics::MADE_AGAIN.inc_by(mended);
        mended > 0
    }

    /// Traces that each file with rows in this publication is published, if it was not in the last one.
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

    /// Deletes exactly these marks, and stores dates that keep waiting and have no mark yet. Deleting a mark twice does
    /// no harm; storing one twice makes a window dirty once more.
    async fn settle_marks(&self, marks: &[i64], waiting: &[Waiting]) -> Result<(), sqlx::Error> {
        let mut transaction = self.context.pool.begin().await?;
        let kept: Vec<&Waiting> = waiting.iter().filter(|one| one.mark.is_none()).collect();
        for kept in kept.chunks(MARKS_BATCH) {
            sqlx::query(
                "INSERT INTO pipeline.marks (domain, dates, dimension)
                 SELECT u.domain, daterange(u.first, u.last, '[]'), u.dimension
                 FROM UNNEST($1::text[], $2::date[], $3::date[], $4::text[]) AS u (domain, first, last, dimension)",
            )
            .bind(kept.iter().map(|one| one.dates.domain.to_owned()).collect::<Vec<_>>())
            .bind(kept.iter().map(|one| one.dates.first).collect::<Vec<_>>())
            .bind(kept.iter().map(|one| one.dates.last).collect::<Vec<_>>())
            .bind(kept.iter().map(|one| one.dimension.clone()).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
        }
        // By a plan from when there were few marks, each mark would be compared with each of these.
        sqlx::raw_sql("SET LOCAL plan_cache_mode = force_custom_plan").execute(&mut *transaction).await?;
        for marks in marks.chunks(MARKS_BATCH) {
            sqlx::query("DELETE FROM pipeline.marks WHERE id = ANY($1)").bind(marks).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }
}

/// Whether newer code than this program's derived what is published.
fn outdated(basis: &Basis) -> Option<Outcome> {
    let published = basis.seen.as_ref().map_or(0, |manifest| manifest.code_version);
    (published > CODE_VERSION).then_some(Outcome::Outdated { published, own: CODE_VERSION })
}

/// The missing files of the version before that were made again, and those that stay missing.
///
/// | output | its missing files |
/// |---|---|
/// | was derived, or its dirty windows were | made again, or no longer needed |
/// | its query fails | stay missing until it works |
/// | no longer exists | of no use to anybody |
fn restored(
    outputs: &[&'static Output],
    before: Option<&Manifest>,
    missing: &BTreeSet<String>,
    fails: impl Fn(&Output) -> bool,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let of_outputs = before.into_iter().flat_map(|manifest| entries(outputs, manifest));
    let keys = of_outputs.flat_map(|(output, _, files)| files.files.values().map(move |file| (output, &file.key)));
    let (mut made, mut left) = (BTreeSet::new(), BTreeSet::new());
    for (output, key) in keys.filter(|(_, key)| missing.contains(*key)) {
        let set = if fails(output) { &mut left } else { &mut made };
        set.insert(key.clone());
    }
    (made, left)
}

/// How the last setup differs from this program's outputs; then another program or folder publishes.
///
/// | set up last | here | |
/// |---|---|---|
/// | a definition | the same | publishes |
/// | a definition | another | superseded |
/// | none, or taken away | one | superseded: never set up |
/// | a definition | none | superseded |
fn superseded(outputs: &[&'static Output], set_up: &BTreeMap<String, String>) -> Option<String> {
    let now = "run the program and pipeline folder that were set up last, or run `freshet setup` with these";
    for output in outputs {
        match set_up.get(output.name) {
            Some(definition) if definition == output.definition => {}
            Some(_) => {
                return Some(format!("output {} has since been set up with another definition; {now}", output.name));
            }
            None => return Some(format!("output {} is not set up; {now}", output.name)),
        }
    }
    let gone = set_up.keys().find(|name| outputs.iter().all(|output| output.name != **name));
    gone.map(|name| format!("output {name} was set up but is not known here; {now}"))
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::{FileRef, WindowFiles};
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;

    #[test]
    fn the_missing_files_of_an_output_that_fails_stay_missing() {
        let text = "/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [id]\n*/ SELECT 1 AS id";
        let read = |name: &str| {
            Output::read(&format!("{name}.sql"), text, &DOMAINS, &mut Mistakes::of(name)).expect("an output")
        };
        let window = |output: &str| WindowFiles {
            output: output.to_owned(),
            window_kind: "day".to_owned(),
            window_start: NaiveDate::MIN,
            rows: 1,
            is_final: None,
            files: ["there", "gone"]
                .map(|key| {
                    let file = FileRef { key: format!("{output} {key}"), sha256: String::new(), bytes: 1 };
                    (key.to_owned(), file)
                })
                .into(),
        };
        let windows = ["works", "fails", "dropped"].map(window).into();
        let manifest = Manifest { windows, ..Manifest::default() };
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<String>>();
        let missing = keys(&["works gone", "fails gone", "dropped gone", "of another version"]);
        let outputs = [read("works"), read("fails")];
        let found = restored(&outputs, Some(&manifest), &missing, |output| output.name == "fails");
        assert_eq!(found, (keys(&["works gone"]), keys(&["fails gone"])));
        assert_eq!(restored(&outputs, None, &missing, |_| false), (keys(&[]), keys(&[])));
    }

    #[test]
    fn only_outputs_as_they_were_set_up_last_are_published() {
        let text = "/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [id]\n*/ SELECT 1 AS id";
        let output = Output::read("a.sql", text, &DOMAINS, &mut Mistakes::of("a.sql")).expect("an output");
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: &[Case] = &[
            (&[("a", output.definition)], None),
            (&[("a", "other")], Some("output a has since been set up with another definition")),
            (&[], Some("output a is not set up")),
            (&[("a", output.definition), ("b", "x")], Some("output b was set up but is not known here")),
        ];
        for (set_up, expected) in cases {
            let set_up = set_up.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect();
            let found = superseded(&[output], &set_up);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{set_up:?}");
        }
    }
}
