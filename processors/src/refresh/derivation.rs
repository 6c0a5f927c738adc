//! The contents of the next version: which windows of which outputs are derived, and which files are kept.
//!
//! An output is derived completely or not at all: if the query fails for one window, nothing of the output changes, so
//! that its files always come from one state of the tables and one definition.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use freshet_sinks::output_state::OutputFailure;
use freshet_sinks::outputs::{Damage, Derived, Manifest, Store, WindowFiles};
use freshet_topics::failpoint::{self, Point};
use freshet_topics::pipeline::output::Output;
use freshet_topics::window::{Window, WindowKind};
use tokio_util::sync::CancellationToken;

use super::basis::Basis;
use super::behind::{CODE_VERSION, goes_on};
use super::format::Column;
use super::kind::Kind;
use super::query::{self, Failure};
use super::readers::{self, Others, Work};
use super::snapshot::{Snapshot, tables};
use super::uploads::Uploads;
use super::{RefreshContext, RefreshError, metrics, postgres};
use crate::windows::{Bit, Dirty, Place, Waiting, is_final, least_watermark, take_waiting, turned};

/// The files of the next version.
type Files = BTreeMap<(&'static str, Window), WindowFiles>;

/// How an output is treated in the next version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All its windows are derived.
    Whole,
    /// Its dirty windows are derived.
    Following,
    /// Its query fails and is not tried again yet: its published files stay.
    Left,
}

/// Decides how an output is treated in the next version.
///
/// | published of it | its query | way |
/// |---|---|---|
/// | by this definition, up to date | any | following |
/// | nothing, by another definition or program, of another life, or stale | works, or is to be tried again | whole |
/// | the same | does not work, and is to be left alone | left |
fn way(continued: Option<&Derived>, output: &Output, failure: Option<&OutputFailure>) -> Way {
    let is_current = continued.is_some_and(|derived| derived.definition == output.definition && !derived.stale);
    match (is_current, failure.is_none_or(|failure| failure.is_due)) {
        (true, _) => Way::Following,
        (false, true) => Way::Whole,
        (false, false) => Way::Left,
    }
}

/// Leaves the outputs that failed before and would be tried again, as a whole.
fn leave_failed(ways: &mut BTreeMap<&'static str, Way>, failures: &BTreeMap<String, OutputFailure>, dirty: &mut Dirty) {
    for (output, way) in ways {
        if *way == Way::Whole && failures.contains_key(*output) {
            *way = Way::Left;
            dirty.forget(output);
        }
    }
}

/// Sorts the windows of an output that is tried again: first the one for which it failed, then the newest, as new rows
/// break a query more often than old ones.
fn sort_by_doubt(windows: &mut [Window], reason: &str) {
    windows.sort_by_key(|window| (!reason.starts_with(&query::spelled(*window)), Reverse(window.start)));
}

/// What is to be derived.
pub(super) struct Plan<'a> {
    context: &'a RefreshContext,
    basis: &'a Basis,
    ways: BTreeMap<&'static str, Way>,
    failures: BTreeMap<String, OutputFailure>,
    dirty: Dirty,
    /// Waiting dates that are derived now.
    taken: Vec<Waiting>,
    /// Dates that keep waiting.
    waiting: Vec<Waiting>,
    /// Where the pass over the waiting dates has got to then.
    reached: Option<Place>,
}

/// The result of a derivation.
pub(super) struct Derivation {
    /// The next version.
    pub(super) manifest: Manifest,
    /// Windows that were dirty, each once however many outputs have it.
    pub(super) windows: usize,
    /// Windows that were derived, counted for each output.
    pub(super) output_windows: usize,
    /// Data files written.
    pub(super) written: usize,
    /// Waiting dates that are derived now.
    pub(super) taken: Vec<Waiting>,
    /// Dates that keep waiting.
    pub(super) waiting: Vec<Waiting>,
    /// Where the pass over the waiting dates has got to.
    pub(super) reached: Option<Place>,
    /// The outputs whose query fails.
    pub(super) failed: BTreeMap<&'static str, Failed>,
    /// The outputs that failed before and work again, or no longer exist.
    pub(super) work_again: Vec<String>,
}

/// An output whose query fails.
pub(super) struct Failed {
    pub(super) reason: String,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Whether it is to be left alone for a while: it was tried now, or should have been.
    pub(super) is_to_wait: bool,
}

/// An output that is derived now.
struct OutputWork {
    work: Work,
    columns: Vec<Column>,
    /// Whether the work includes all its windows.
    is_whole: bool,
}

impl<'a> Plan<'a> {
    /// The windows to derive: those that are marked, that have closed or opened since, and that have lost a file; or
    /// all windows of an output if they were made by another definition, program or life of the ledger. Waiting dates are
    /// taken from the place on that the pass over them has `reached`.
    pub(super) async fn of(
        context: &'a RefreshContext,
        basis: &'a Basis,
        damage: &Damage,
        reached: Option<Place>,
        waiting_max: usize,
        snapshot: &mut Snapshot,
    ) -> Result<Plan<'a>, RefreshError> {
        let failures: BTreeMap<_, _> = snapshot.failures.iter().map(|it| (it.output.clone(), it.clone())).collect();
        let continued = basis.kept().filter(|manifest| goes_on(manifest, &snapshot.tables));
        let way_of = |output: &&'static Output| {
            let derived = continued.and_then(|manifest| manifest.outputs.get(output.name));
            (output.name, way(derived, output, failures.get(output.name)))
        };
        let ways: BTreeMap<&'static str, Way> = context.outputs.iter().map(way_of).collect();
        let in_way = |way: Way| context.outputs.iter().copied().filter(|it| ways[it.name] == way).collect::<Vec<_>>();
        let (following, whole) = (in_way(Way::Following), in_way(Way::Whole));

        let mut dirty = Dirty::default();
        snapshot.changed.iter().for_each(|dates| dirty.mark(&following, dates, None));
        if let Some(continued) = continued {
            for output in following.iter().filter(|output| output.closes()) {
                dirty.extend(turned_windows(context, continued, snapshot, output).await?);
            }
        }
        // Also those whose dates are gone, or that turned because the allowed lateness is another one now.
        for (output, window, files) in continued.into_iter().flat_map(|it| entries(&following, it)) {
            let turned = files.is_final.is_some_and(|before| before != closed(context, snapshot, output, window));
            if turned || files.files.values().any(|file| damage.missing.contains(&file.key)) {
                dirty.mark_window(output.name, window);
            }
        }
        snapshot.look_up_dimensions(&following).await.map_err(postgres("find the dirty windows"))?;
        let waiting = std::mem::take(&mut snapshot.waiting);
        let Bit { mut dirty, taken, rest: waiting, reached } =
            take_waiting(&following, dirty, waiting, reached, waiting_max);
        for output in &whole {
            dirty.extend(everything(snapshot, output).await?);
        }
        Ok(Plan { context, basis, ways, failures, dirty, taken, waiting, reached })
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        let is_known = |name: &String| self.ways.contains_key(name.as_str());
        let same_outputs = self.basis.kept().is_some_and(|manifest| manifest.outputs.keys().all(is_known));
        same_outputs
            && self.dirty.is_empty()
            && self.taken.is_empty()
            && !self.ways.values().any(|way| *way == Way::Whole)
            && self.work_again().is_empty()
    }

    /// If there are more windows, counted for each output, than may be derived yet: leaves the outputs that are only tried
    /// again, so that the others need not wait until there is time for all of their windows. Returns the number of windows
    /// if it is still too large; but a version that was lost is restored at once, as readers have none.
    pub(super) fn put_off(&mut self, windows_max: usize) -> Option<usize> {
        if self.basis.lost.is_some() {
            return None;
        }
        if self.dirty.output_windows() > windows_max {
            leave_failed(&mut self.ways, &self.failures, &mut self.dirty);
        }
        Some(self.dirty.output_windows()).filter(|windows| *windows > windows_max)
    }

    /// Derives the dirty windows, several at once, writes their files, and returns the contents of the next version.
    pub(super) async fn derive(
        self,
        store: &Store,
        damage: &Damage,
        snapshot: &mut Snapshot,
        readers: usize,
        shutdown: &CancellationToken,
    ) -> Result<Derivation, RefreshError> {
        let (before, version, outputs) = (self.basis.kept(), self.basis.next_version(), self.context.outputs);
        let mut uploads = Uploads::new(store.clone(), version, outputs, before, &damage.missing);
        metrics::DIRTY_WINDOWS.set(self.dirty.windows() as i64);
        let exported = match readers.min(self.dirty.output_windows()) {
            0 | 1 => None,
            _ => Some(readers::export(snapshot.connection()).await?),
        };
        let bounds = query::set_bounds(snapshot.connection(), self.context.settings.query_timeout());
        bounds.await.map_err(postgres("set the bounds of queries"))?;
        let mut failed = self.left_alone();
        let mut works = self.prepare_all(snapshot, &mut failed).await?;
        self.run(&mut works, &mut uploads, snapshot, exported.as_deref(), readers, shutdown).await?;
        let mut files: Files = before
            .into_iter()
            .flat_map(|manifest| entries(outputs, manifest))
            .map(|(output, window, files)| ((output.name, window), files.clone()))
            .collect();
        let tried = |it: &OutputWork| it.work.made.len() + usize::from(it.work.failed.is_some());
        let output_windows: usize = works.iter().map(tried).sum();
        let derived = self.collect(works, &mut files, &mut failed);
        let written = readers::awake(snapshot.connection(), uploads.finish()).await??;
        failpoint::reach(Point::FilesPut);
        let work_again = self.work_again().into_iter().filter(|name| !failed.contains_key(name.as_str())).collect();
        let manifest = Manifest {
            version,
            code_version: CODE_VERSION,
            changed: changed(before, &derived, &files, version),
            outputs: derived,
            lives: snapshot.tables.lives.clone(),
            epochs: snapshot.tables.epochs.clone(),
            bookmarks: snapshot.tables.bookmarks.clone(),
            watermarks: snapshot.watermarks.clone(),
            windows: files.into_values().collect(),
        };
        let (windows, taken, waiting, reached) = (self.dirty.windows(), self.taken, self.waiting, self.reached);
        Ok(Derivation { manifest, windows, output_windows, written, taken, waiting, reached, failed, work_again })
    }

    /// The outputs whose query failed and is not tried again yet. One that is due has to wait as after a failure.
    fn left_alone(&self) -> BTreeMap<&'static str, Failed> {
        let failed = |output: &&'static Output| {
            let failure = self.failures.get(output.name).filter(|_| self.ways[output.name] == Way::Left)?;
            let failures = failure.failures.unsigned_abs();
            Some((output.name, Failed { reason: failure.reason.clone(), failures, is_to_wait: failure.is_due }))
        };
        self.context.outputs.iter().filter_map(failed).collect()
    }

    /// Prepares the outputs that are derived now; those whose query fails already are added to `failed`.
    async fn prepare_all(
        &self,
        snapshot: &mut Snapshot,
        failed: &mut BTreeMap<&'static str, Failed>,
    ) -> Result<Vec<OutputWork>, RefreshError> {
        let mut works = Vec::new();
        for output in self.in_turn() {
            let known = self.basis.kept().and_then(|manifest| manifest.outputs.get(output.name));
            match self.prepare(output, known, snapshot).await {
                Ok(work) => works.extend(work),
                Err(Failure::Query(reason)) => {
                    let recovered = query::recover(snapshot.connection()).await;
                    recovered.map_err(postgres("go on after a query that failed"))?;
                    failed.insert(output.name, self.failed(output, reason));
                }
                Err(Failure::World(error)) => return Err(error.in_which(format!("derive {}", output.name))),
            }
        }
        Ok(works)
    }

    /// Puts what was derived in place of the files before, and returns how each output is derived in the next version.
    /// Outputs whose query failed keep their files, and are added to `failed`.
    fn collect(
        &self,
        works: Vec<OutputWork>,
        files: &mut Files,
        failed: &mut BTreeMap<&'static str, Failed>,
    ) -> BTreeMap<String, Derived> {
        let mut redefined: BTreeMap<&str, Derived> = BTreeMap::new();
        for OutputWork { work, columns, is_whole } in works {
            let name = work.output.name;
            if let Some(reason) = work.failed {
                failed.insert(name, self.failed(work.output, reason));
                continue;
            }
            redefined.insert(name, derived_as(work.output, &columns));
            if is_whole {
                files.retain(|(of, _), _| *of != name);
            }
            for (window, entry) in work.made {
                match entry {
                    Some(entry) => files.insert((name, window), entry),
                    None => files.remove(&(name, window)),
                };
            }
        }
        let derived = |output: &&'static Output| {
            let known = || self.basis.kept().and_then(|manifest| manifest.outputs.get(output.name)).cloned();
            let derived = redefined.remove(output.name).or_else(known)?;
            Some((output.name.to_owned(), Derived { stale: failed.contains_key(output.name), ..derived }))
        };
        self.context.outputs.iter().filter_map(derived).collect()
    }

    /// The outputs, with those that failed last time at the end, so that beyond their first windows they only delay the
    /// swap.
    fn in_turn(&self) -> Vec<&'static Output> {
        let mut outputs = self.context.outputs.to_vec();
        outputs.sort_by_key(|output| self.failures.contains_key(output.name));
        outputs
    }

    /// Outputs recorded as failed that are tried now, up to date, or no longer exist.
    fn work_again(&self) -> Vec<String> {
        let is_left = |name: &String| self.ways.get(name.as_str()) == Some(&Way::Left);
        self.failures.keys().filter(|name| !is_left(name)).cloned().collect()
    }

    /// Describes an output that was tried now and failed.
    fn failed(&self, output: &Output, reason: String) -> Failed {
        let before = self.failures.get(output.name).map_or(0, |it| it.failures.unsigned_abs());
        Failed { reason, failures: before.saturating_add(1), is_to_wait: true }
    }

    /// Finds the columns of an output's query, and its windows; `None` if there is nothing to derive.
    async fn prepare(
        &self,
        output: &'static Output,
        known: Option<&Derived>,
        snapshot: &mut Snapshot,
    ) -> Result<Option<OutputWork>, Failure> {
        let way = self.ways[output.name];
        let mut windows = self.dirty.of(output.name);
        if way == Way::Left || (way == Way::Following && windows.is_empty()) {
            return Ok(None);
        }
        let query = query::prepare(snapshot.connection(), output).await?;
        let columns = query.published();
        // The columns are those of the tables, as in SELECT *: if one was added, every file gets it.
        let others = way == Way::Following && known.and_then(columns_of).is_none_or(|known| known != columns);
        if others {
            let timeout = self.context.settings.query_timeout();
            windows = everything_unlimited(snapshot, output, timeout).await?.of(output.name);
        }
        let failure = self.failures.get(output.name).filter(|_| way == Way::Whole);
        if let Some(failure) = failure {
            sort_by_doubt(&mut windows, &failure.reason);
        }
        let closed = |window| (window, closed(self.context, snapshot, output, window));
        let windows: Vec<_> = windows.into_iter().map(closed).collect();
        // Most likely it fails again. Then one of its windows was derived, alone, and nothing is uploaded.
        if let (Some(_), [(window, is_final), _, ..]) = (failure, windows.as_slice()) {
            query.run(snapshot.connection(), *window, *is_final).await?;
        }
        let work = Work { output, query, windows, made: Vec::new(), failed: None };
        Ok(Some(OutputWork { work, columns, is_whole: others || way == Way::Whole }))
    }

    /// Derives the windows of all these outputs.
    async fn run(
        &self,
        works: &mut [OutputWork],
        uploads: &mut Uploads<'_>,
        snapshot: &mut Snapshot,
        exported: Option<&str>,
        readers: usize,
        shutdown: &CancellationToken,
    ) -> Result<(), RefreshError> {
        let windows: usize = works.iter().map(|it| it.work.windows.len()).sum();
        let (pool, count) = (&self.context.pool, readers.min(windows).saturating_sub(1));
        let mut connections = readers::connect(pool, if exported.is_some() { count } else { 0 }).await;
        let (tables, timeout) = (tables(self.context.domains), self.context.settings.query_timeout());
        let mut others = Others::open(&mut connections, exported, &tables, timeout).await;
        let works = works.iter_mut().map(|it| &mut it.work).collect();
        readers::derive(snapshot.connection(), &mut others, works, uploads, shutdown).await
    }
}

/// How an output was derived, with the columns of its query.
fn derived_as(output: &Output, columns: &[Column]) -> Derived {
    let column = |column: &Column| (column.name.clone(), column.kind.name().to_owned());
    let columns = columns.iter().map(column).collect();
    Derived { definition: output.definition.to_owned(), columns, stale: false }
}

/// All windows of an output that contain dates of its facts.
async fn everything(snapshot: &mut Snapshot, output: &'static Output) -> Result<Dirty, RefreshError> {
    let mut dirty = Dirty::default();
    for fact in output.facts {
        for dates in snapshot.dates(fact, None).await.map_err(postgres("find the windows of an output"))? {
            dirty.mark(&[output], &dates, None);
        }
    }
    Ok(dirty)
}

/// The same, where statements are limited in time: the limit is that of a window's query, and reading the dates of a large
/// table may take longer.
async fn everything_unlimited(
    snapshot: &mut Snapshot,
    output: &'static Output,
    timeout: Duration,
) -> Result<Dirty, RefreshError> {
    let action = "set the time limit of queries";
    query::limit(snapshot.connection(), Duration::ZERO).await.map_err(postgres(action))?;
    let dirty = everything(snapshot, output).await?;
    query::limit(snapshot.connection(), timeout).await.map_err(postgres(action))?;
    Ok(dirty)
}

/// The windows of an output that contain dates of its facts and that have closed or opened since the published version.
/// A window without rows has no entry in the manifest, but it may have rows once it is closed.
async fn turned_windows(
    context: &RefreshContext,
    continued: &Manifest,
    snapshot: &mut Snapshot,
    output: &'static Output,
) -> Result<Dirty, RefreshError> {
    let lateness = context.settings.allowed_lateness_days;
    let before = least_watermark(output.facts.iter().map(|fact| continued.watermarks.get(fact.name).copied()));
    let now = snapshot.watermark(output);
    let Some(within) = turned(output.windows, lateness, before, now) else { return Ok(Dirty::default()) };
    let mut near = Dirty::default();
    for fact in output.facts {
        for dates in snapshot.dates(fact, Some(within)).await.map_err(postgres("find the windows that closed"))? {
            near.mark(&[output], &dates, None);
        }
    }
    let mut dirty = Dirty::default();
    let has_turned = |window: &Window| is_final(*window, lateness, before) != is_final(*window, lateness, now);
    near.of(output.name).into_iter().filter(has_turned).for_each(|window| dirty.mark_window(output.name, window));
    Ok(dirty)
}

fn closed(context: &RefreshContext, snapshot: &Snapshot, output: &Output, window: Window) -> bool {
    is_final(window, context.settings.allowed_lateness_days, snapshot.watermark(output))
}

/// The published columns of an output; `None` if a type is not known here.
pub(super) fn columns_of(derived: &Derived) -> Option<Vec<Column>> {
    let column = |(name, kind): &(String, String)| Some(Column { name: name.clone(), kind: Kind::from_name(kind)? });
    derived.columns.iter().map(column).collect()
}

/// The files of a manifest by output and window; other outputs are left out.
pub(super) fn entries<'m>(
    outputs: &[&'static Output],
    manifest: &'m Manifest,
) -> impl Iterator<Item = (&'static Output, Window, &'m WindowFiles)> {
    manifest.windows.iter().filter_map(move |files| {
        let output = outputs.iter().copied().find(|output| output.name == files.output)?;
        let kind = WindowKind::from_name(&files.window_kind)?;
        Some((output, Window { kind, start: files.window_start }, files))
    })
}

/// For each output the version in which one of its files last changed.
fn changed(
    before: Option<&Manifest>,
    derived: &BTreeMap<String, Derived>,
    files: &Files,
    version: u64,
) -> BTreeMap<String, u64> {
    let each = derived.iter().map(|(name, derived)| {
        let now = files.iter().filter(|((of, _), _)| *of == name.as_str()).map(|(_, files)| files);
        let same = before.filter(|manifest| {
            let columns = manifest.outputs.get(name).map(|before| &before.columns);
            columns == Some(&derived.columns) && now.eq(manifest.windows.iter().filter(|files| files.output == *name))
        });
        let since = same.and_then(|manifest| manifest.changed.get(name).copied());
        (name.clone(), since.unwrap_or(version))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;

    fn output() -> &'static Output {
        let text = "/* freshet\ndescription: d\nwindows: [day]\nfacts: [health]\nkey: [id]\n*/ SELECT 1 AS id";
        Output::read("a.sql", text, &DOMAINS, &mut Mistakes::of("a.sql")).expect("an output")
    }

    fn failure(is_due: bool) -> OutputFailure {
        let now = chrono::Utc::now();
        OutputFailure { output: "a".into(), reason: "r".into(), failures: 1, since: now, retry_at: now, is_due }
    }

    #[test]
    fn an_output_that_does_not_work_is_left_alone_until_it_is_tried_as_a_whole() {
        let output = output();
        let derived = |definition: &str, stale| Derived { definition: definition.into(), stale, ..Derived::default() };
        let (current, other, stale) =
            (derived(output.definition, false), derived("other", false), derived(output.definition, true));
        let cases = [
            (Some(&current), None, Way::Following),
            (Some(&current), Some(false), Way::Following),
            (None, None, Way::Whole),
            (Some(&other), None, Way::Whole),
            (Some(&stale), None, Way::Whole),
            (Some(&stale), Some(true), Way::Whole),
            (Some(&stale), Some(false), Way::Left),
            (Some(&other), Some(false), Way::Left),
            (None, Some(false), Way::Left),
        ];
        for (published, is_due, expected) in cases {
            let failure = is_due.map(failure);
            assert_eq!(way(published, output, failure.as_ref()), expected, "{published:?} {is_due:?}");
        }
    }

    #[test]
    fn only_outputs_that_are_tried_again_are_left_where_there_is_no_time_for_all() {
        let day = Window { kind: WindowKind::Day, start: "2025-07-01".parse().expect("a date") };
        let failures = BTreeMap::from(["again", "current"].map(|name| (name.to_owned(), failure(true))));
        let ways = [("again", Way::Whole), ("new", Way::Whole), ("current", Way::Following)];
        let (mut ways, mut dirty) = (BTreeMap::from(ways), Dirty::default());
        ways.keys().for_each(|&name| dirty.mark_window(name, day));
        leave_failed(&mut ways, &failures, &mut dirty);
        let expected = [("again", Way::Left), ("new", Way::Whole), ("current", Way::Following)];
        assert_eq!((ways, dirty.of("again"), dirty.output_windows()), (BTreeMap::from(expected), vec![], 2));
    }

    #[test]
    fn an_output_is_tried_again_where_it_failed_and_then_from_the_newest_window_on() {
        use WindowKind::{All, Day, Month};
        let window = |(kind, start): (WindowKind, &str)| Window { kind, start: start.parse().expect("a date") };
        let windows = [(Day, "2025-06-30"), (Day, "2025-07-01"), (Month, "2025-06-01"), (All, "0000-01-01")];
        for (reason, order) in [
            ("prepare: no such column", [1, 0, 2, 3]),
            ("day from 2025-06-30: division by zero", [0, 1, 2, 3]),
            ("all from 0000-01-01: division by zero", [3, 1, 0, 2]),
            ("day from 2025-06-29: its rows are gone", [1, 0, 2, 3]),
        ] {
            let mut sorted = windows.map(window);
            sort_by_doubt(&mut sorted, reason);
            assert_eq!(sorted, order.map(|at| window(windows[at])), "{reason}");
        }
    }

    #[test]
    fn an_output_keeps_its_version_while_its_files_and_columns_stay() {
        let files = |entries: &[(&'static str, &str, u64)]| -> Files {
            let entry = |(output, start, rows): &(&'static str, &str, u64)| {
                let window = Window { kind: WindowKind::Month, start: start.parse().expect("a date") };
                let files = WindowFiles {
                    output: (*output).into(),
                    window_kind: "month".into(),
                    window_start: window.start,
                    rows: *rows,
                    is_final: None,
                    files: BTreeMap::new(),
                };
                ((*output, window), files)
            };
            entries.iter().map(entry).collect()
        };
        let derived = |column: &str| {
            let columns = vec![(column.to_owned(), "int4".to_owned())];
            let of = |column: &Vec<(String, String)>| Derived { columns: column.clone(), ..Derived::default() };
            BTreeMap::from(["a", "b", "c"].map(|name| (name.to_owned(), of(&columns))))
        };
        let first = files(&[("a", "2025-08-01", 1), ("b", "2025-08-01", 1)]);
        let at_one = changed(None, &derived("x"), &first, 1);
        assert!(at_one.len() == 3 && at_one.values().all(|version| *version == 1));
        let windows = first.values().cloned().collect();
        let one = Manifest { changed: at_one, outputs: derived("x"), windows, ..Manifest::default() };
        type Case<'a> = (&'a [(&'static str, &'a str, u64)], &'a str, [u64; 3]);
        let cases: &[Case] = &[
            (&[("a", "2025-08-01", 1), ("b", "2025-08-01", 1)], "x", [1, 1, 1]),
            (&[("a", "2025-08-01", 2), ("b", "2025-08-01", 1)], "x", [2, 1, 1]),
            (&[("b", "2025-08-01", 1)], "x", [2, 1, 1]),
            (&[("a", "2025-08-01", 1), ("b", "2025-09-01", 1)], "x", [1, 2, 1]),
            (&[("a", "2025-08-01", 1), ("b", "2025-08-01", 1)], "y", [2, 2, 2]),
        ];
        for (now, column, versions) in cases {
            let changed = changed(Some(&one), &derived(column), &files(now), 2);
            assert_eq!(changed.values().copied().collect::<Vec<_>>(), *versions, "{now:?} {column}");
        }
    }
}
