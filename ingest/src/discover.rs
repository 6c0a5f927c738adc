//! Discovery: the periodic listing of the raw bucket decides what there is to publish.
//!
//! Every listing covers all of a domain's prefixes and depends on no cursor, order or clock, so none of them can make
//! it miss an object. Entries that the ledger does not know are registered, in key order. Between two listings,
//! discovery lists the single keys that the store announced. Less often, it also finds objects that are in the ledger
//! but no longer in the bucket.

mod deletions;
mod looks;
mod pace;
mod pass;
mod registering;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use freshet_sinks::listings;
use freshet_sinks::lives::{self, Extent};
use freshet_sinks::postgres::{ErrorKind, error_kind};
use freshet_sinks::s3::Versions;
use freshet_topics::Domain;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::pace::next_interval;
use self::pace::{Pace, Turn};
use self::pass::{Pass, prefixes};
use crate::known::Known;
use crate::known::pages::Pages;
use crate::names::FOLDER;
use crate::object::ReadError;
use crate::{IngestError, IngestSettings, Listener, metrics};

/// The most listing entries remembered as settled, all domains together: about 20 MB. Beyond that, pages are
/// remembered.
const KNOWN_MAX: usize = 400_000;
/// The most listing pages remembered as settled, all domains together: a hundred million objects, about 7 MB.
const PAGES_MAX: usize = 100_000;
/// How often a listener without the lease lists for keys that it missed, if it never finds everything. What S3 does not
/// show to it, or what cannot be registered, is left to the listener with the lease, which meets the same.
const INCOMPLETE_MAX: u32 = 3;
/// Comparisons of the whole listing with the ledger take at most one in this many parts of the time.
const RECONCILE_SHARE: u32 = 20;
/// But they come at least this often, or take half of the time: one that took long may have waited for S3.
const RECONCILE_REST_MAX: Duration = Duration::from_secs(3_600);
/// The most prefixes reported as not listed.
const UNLISTED_MAX: usize = 20;

/// Why a listing was not finished. What it found and did not register yet is found again by the next one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoverError {
    /// S3 does not answer, or refuses.
    #[error("list the raw bucket: {0}")]
    Read(#[from] ReadError),
    /// The ledger does not answer, or refuses.
    #[error("compare the listing with the ledger: {0}")]
    Ledger(#[from] sqlx::Error),
}

/// The result of one listing of a domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    /// Entries that belong to the domain.
    listed: u64,
    /// Versions registered.
    registered: u64,
    /// Prefixes that could not be listed completely.
    unlisted: u64,
    /// Keys that were tried and could not be registered; they are tried again.
    unsettled: u64,
}

impl Found {
    /// Whether everything that the domain has was found.
    fn is_complete(&self) -> bool {
        self.unlisted == 0 && self.unsettled == 0
    }
}

/// Discovery of one domain.
struct Discovery {
    listener: Arc<Listener>,
    domain: &'static Domain,
    /// Ends a listing between two of its requests, so that the listener can leave its lease to others.
    stop: CancellationToken,
    known: Known,
    pages: Pages,
    /// Keys that could not be registered: failures so far, and when to try again.
    troubled: HashMap<String, (u32, Instant)>,
    /// When the whole listing was last compared with the ledger, and how long that took.
    reconciled: Option<(Instant, Duration)>,
    /// The number of comparisons so far.
    reconciliations: u64,
    /// The number of entries in the last listing.
    listed_before: u64,
    /// The key after which the next look for deletions continues; empty: from the first. So keys that exist but are no
    /// longer listed (a pattern was removed) do not keep later keys from their turn.
    deletions_after: String,
    /// How far the ledger had come at the last listing.
    extent: Option<Extent>,
    /// Whether the bucket keeps versions, by its last answer, and when it was last asked; `None` before the first
    /// answer.
    keeps_versions: Option<(bool, Instant)>,
    /// Whether it was logged that the store refuses to list versions, with the setting `auto`.
    is_refusal_said: bool,
    /// The time from which overwritten versions are registered; `None` before the first listing by versions.
    versions_from: Option<DateTime<Utc>>,
    /// When the listing lease was last taken or renewed.
    held_at: Option<Instant>,
    /// The parts that could not be listed, as last reported.
    unlisted: Option<BTreeMap<String, String>>,
}

/// Discovers every domain until `stop`. A domain that cannot go on cancels it.
pub(crate) async fn discover(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let each = listener.domains.iter().map(|domain| discover_domain(Arc::clone(&listener), domain, stop.clone()));
    let ended = join_all(each).await.into_iter().collect();
    if let Err(error) = listings::release(&listener.pool, &listener.name).await {
        tracing::debug!(%error, "release the listing leases");
    }
    ended
}

async fn discover_domain(
    listener: Arc<Listener>,
    domain: &'static Domain,
    stop: CancellationToken,
) -> Result<(), IngestError> {
    let mut discovery = Discovery::new(Arc::clone(&listener), domain, stop.clone());
    let mut pace = Pace::new(&listener.settings);
    // Nobody heard what was announced before: it lists once, also if another one has the lease, which may have died.
    listener.hints.miss(domain);
    while !stop.is_cancelled() {
        let missed = listener.hints.take_missed(domain);
        let turn = match discovery.take_turn(missed).await {
            Ok(turn) => turn,
            Err(DiscoverError::Ledger(error)) if error_kind(&error) == ErrorKind::Schema => {
                // The other domains would go on, and nobody would hear that this one has ended.
                stop.cancel();
                return Err(IngestError::Schema { action: "compare the listing with the ledger", source: error });
            }
            Err(error) => {
                let (domain, bucket, failures) = (domain.name, &listener.bucket, pace.failures + 1);
                tracing::warn!(domain, bucket, %error, failures, "discovery failed, trying again");
                metrics::LISTING_FAILURES.with_label_values(&[domain]).inc();
                Turn::Failed
            }
        };
        if missed && is_to_be_repeated(turn, pace.failures) {
            // Nobody else knows of these keys.
            listener.hints.miss(domain);
        }
        let wait = pace.after(turn);
        if matches!(turn, Turn::Own { .. })
            && let Err(error) = discovery.hold_through(wait.most).await
        {
            // Another listener may list meanwhile, which does no harm.
            tracing::debug!(domain = domain.name, %error, "keep the listing lease");
        }
        discovery.look_at_hinted_keys(wait).await;
    }
    Ok(())
}

/// Whether a turn for missed keys has to be repeated, after so many that failed or were incomplete.
fn is_to_be_repeated(turn: Turn, failures: u32) -> bool {
    match turn {
        Turn::Others | Turn::Own { .. } => false,
        Turn::Incomplete { .. } => failures < INCOMPLETE_MAX,
        Turn::Failed => true,
    }
}

impl Discovery {
    /// Starts without any memory; discovers until `stop`.
    fn new(listener: Arc<Listener>, domain: &'static Domain, stop: CancellationToken) -> Self {
        let domains = listener.domains.len().max(1);
        let (known, pages) = (Known::new(KNOWN_MAX / domains), Pages::new(PAGES_MAX / domains));
        Discovery {
            listener,
            domain,
            stop,
            known,
            pages,
            troubled: HashMap::new(),
            reconciled: None,
            reconciliations: 0,
            listed_before: 0,
            deletions_after: String::new(),
            extent: None,
            keeps_versions: None,
            is_refusal_said: false,
            versions_from: None,
            held_at: None,
            unlisted: None,
        }
    }

    /// Lists, if it is this listener's turn: of several listeners, one lists a domain for as long as it keeps renewing
    /// its lease. One that starts or missed announced keys lists out of turn: the other does not know that a listing is
    /// due, and two listings at once cost more, but do no harm.
    ///
    /// | has the lease | missed keys | all was found | turn |
    /// |---|---|---|---|
    /// | yes | – | – | its own |
    /// | no | no | – | another's |
    /// | no | yes | yes | another's: it does not list again |
    /// | no | yes | no | incomplete |
    async fn take_turn(&mut self, missed: bool) -> Result<Turn, DiscoverError> {
        let began = Instant::now();
        if !self.hold().await? && !missed {
            // This one still looks at the keys that stores announce to it.
            return Ok(Turn::Others);
        }
        let found = self.discover_once().await?;
        let has_notified = self.listener.hints.has_notified();
        let retry_in = self.retry_in();
        Ok(match self.held_at {
            Some(_) => Turn::Own { found, took: began.elapsed(), has_notified, missed, retry_in },
            None if missed && !(found.is_complete() && retry_in.is_none()) => {
                Turn::Incomplete { took: began.elapsed() }
            }
            None => Turn::Others,
        })
    }

    /// Keeps the domain's listing lease until after the next listing. A listing that takes long renews it meanwhile.
    async fn hold(&mut self) -> Result<bool, sqlx::Error> {
        let lease = self.listener.lease();
        if self.held_at.is_some_and(|at| at.elapsed() < lease / 3) {
            return Ok(true);
        }
        self.hold_for(lease + self.longest_interval()).await
    }

    /// Extends the lease over a pause that is longer than the intervals in the settings. A shorter pause needs no
    /// extension: if this listener is killed, another one takes over when the lease expires.
    async fn hold_through(&mut self, pause: Duration) -> Result<bool, sqlx::Error> {
        match pause > self.longest_interval() {
            true => self.hold_for(self.listener.lease() + pause).await,
            false => Ok(true),
        }
    }

    async fn hold_for(&mut self, lease: Duration) -> Result<bool, sqlx::Error> {
        let Listener { pool, bucket, name, .. } = self.listener.as_ref();
        let is_held = listings::hold(pool, bucket, self.domain.name, name, lease).await?;
        self.held_at = is_held.then(Instant::now);
        Ok(is_held)
    }

    /// The longest interval in the settings.
    fn longest_interval(&self) -> Duration {
        let IngestSettings { list_interval_ms, list_interval_max_ms, .. } = self.listener.settings;
        Duration::from_millis(list_interval_ms.max(list_interval_max_ms))
    }

    /// One listing of everything that belongs to the domain. A part that cannot be listed does not keep the rest from
    /// being found. On `stop` it ends early, with what it found so far.
    ///
    /// # Errors
    /// If S3 or Postgres does not answer, or refuses everything.
    async fn discover_once(&mut self) -> Result<Found, DiscoverError> {
        let started = Instant::now();
        let interval = Duration::from_millis(self.listener.settings.reconcile_interval_ms);
        self.forget_if_the_ledger_went_back().await?;
        let mut pass = Pass::default();
        if self.reconciled.is_none_or(|(at, took)| at.elapsed() >= interval.max(reconcile_rest(took))) {
            self.known.forget();
            self.pages.forget();
            pass.reconciliation = Some(self.begin_reconciliation().await?);
        }
        self.ask_for_versions().await?;
        self.pages.begin();
        for prefix in prefixes(self.domain, &self.listener) {
            self.list_prefix(prefix, &mut pass).await?;
        }
        self.register(&mut pass).await?;
        if self.stop.is_cancelled() {
            // What was not listed is neither refused nor gone.
            return Ok(pass.found);
        }
        pass.found.unlisted = pass.unlisted.len() as u64;
        self.tell_unlisted(&pass.unlisted).await?;
        if !pass.has_answered
            && let Some((_, error)) = pass.unlisted.pop_first()
        {
            return Err(error.into());
        }
        self.show_not_data(&pass.not_data);
        self.listed_before = pass.found.listed;
        if pass.unlisted.is_empty() {
            self.pages.complete();
        }
        // Also with parts that cannot be listed: otherwise every listing would forget what it knew, and compare again.
        if let Some(reconciliation) = pass.reconciliation.take().filter(|it| !it.is_full()) {
            self.record_deletions(reconciliation, &pass.unlisted).await?;
            self.reconciliations += 1;
            self.reconciled = Some((Instant::now(), started.elapsed()));
        }
        if self.lists_versions() && pass.unlisted.is_empty() && self.versions_from.is_none() {
            let (pool, bucket) = (&self.listener.pool, &self.listener.bucket);
            let from = listings::begin_versions(pool, bucket, self.domain.name, pass.newest_listed).await?;
            self.versions_from = Some(from);
        }
        // Also at the end: what became known during this listing must not survive in its memory if the ledger went
        // back.
        self.forget_if_the_ledger_went_back().await?;
        metrics::LISTING_DURATION.observe(started.elapsed().as_secs_f64());
        Ok(pass.found)
    }

    /// With the setting `auto`, asks whether the bucket keeps versions, and since when they count: at most as often as
    /// the whole listing is compared with the ledger. The last answer holds until there is another one: if a passing
    /// fault counted as "no", a version that is overwritten meanwhile would never be found.
    ///
    /// # Errors
    /// If the store does not answer and has never answered, or if Postgres does not answer.
    async fn ask_for_versions(&mut self) -> Result<(), DiscoverError> {
        let listener = Arc::clone(&self.listener);
        let interval = Duration::from_millis(listener.settings.reconcile_interval_ms);
        let is_due = self.keeps_versions.is_none_or(|(_, at)| at.elapsed() >= interval);
        if listener.versions == Versions::Auto && is_due {
            let said = self.keeps_versions.map(|(keeps, _)| keeps);
            let keeps = match (listener.s3(listener.reader.keeps_versions(&listener.bucket)).await, said) {
                (Ok(keeps), _) => keeps,
                (Err(error), Some(said)) => {
                    tracing::debug!(domain = self.domain.name, %error, "ask whether versions are kept");
                    said
                }
                // We may not know, so we may not list versions either.
                (Err(ReadError::Denied { .. }), None) => false,
                (Err(error), None) => return Err(error.into()),
            };
            self.keeps_versions = Some((keeps, Instant::now()));
        }
        if self.lists_versions() && self.versions_from.is_none() {
            self.versions_from = listings::versions_from(&listener.pool, &listener.bucket, self.domain.name).await?;
        }
        Ok(())
    }

    /// Whether versions are listed, by the last answer.
    fn lists_versions(&self) -> bool {
        match self.listener.versions {
            Versions::On => true,
            Versions::Off => false,
            Versions::Auto => self.keeps_versions.is_some_and(|(keeps, _)| keeps),
        }
    }

    /// Logs once that a prefix cannot be listed, and once that it can be again; counts it, and records it for the
    /// status.
    async fn tell_unlisted(&mut self, unlisted: &BTreeMap<String, ReadError>) -> Result<(), sqlx::Error> {
        let now: BTreeMap<String, String> =
            unlisted.iter().map(|(prefix, error)| (prefix.clone(), error.to_string())).collect();
        let (domain, bucket) = (self.domain.name, self.listener.bucket.as_str());
        metrics::UNLISTED_PREFIXES.with_label_values(&[domain]).set(now.len() as i64);
        if !now.is_empty() {
            metrics::LISTING_FAILURES.with_label_values(&[domain]).inc();
        }
        if self.unlisted.as_ref() == Some(&now) {
            return Ok(());
        }
        let told: Vec<(&str, &str)> =
            now.iter().take(UNLISTED_MAX).map(|(prefix, reason)| (prefix.as_str(), reason.as_str())).collect();
        listings::replace_unlisted(&self.listener.pool, bucket, domain, &told).await?;
        let before = self.unlisted.take().unwrap_or_default();
        for (prefix, reason) in now.iter().filter(|(prefix, _)| !before.contains_key(*prefix)).take(UNLISTED_MAX) {
            tracing::warn!(domain, bucket, prefix, reason, "cannot be listed; everything else is found");
        }
        for prefix in before.keys().filter(|prefix| !now.contains_key(*prefix)).take(UNLISTED_MAX) {
            tracing::info!(domain, bucket, prefix, "can be listed again");
        }
        self.unlisted = Some(now);
        Ok(())
    }

    fn show_not_data(&self, not_data: &BTreeMap<String, i64>) {
        for pattern in self.listener.settings.not_data.iter().map(String::as_str).chain([FOLDER]) {
            let objects = not_data.get(pattern).copied().unwrap_or_default();
            metrics::NOT_DATA_OBJECTS.with_label_values(&[self.domain.name, pattern]).set(objects);
        }
    }

    /// Forgets what is settled if Postgres was restored, or another server promoted, while this listener runs.
    async fn forget_if_the_ledger_went_back(&mut self) -> Result<(), sqlx::Error> {
        let now = lives::extent(&self.listener.pool).await?;
        if self.extent.is_some_and(|before| now.went_back_since(before)) {
            self.known.forget();
            self.pages.forget();
        }
        self.extent = Some(now);
        Ok(())
    }
}

/// How long not to compare the whole listing with the ledger again.
///
/// | took | rest |
/// |---|---|
/// | 1 s | 20 s |
/// | 10 minutes | an hour |
/// | 2 hours | 2 hours |
fn reconcile_rest(took: Duration) -> Duration {
    (took * RECONCILE_SHARE).min(RECONCILE_REST_MAX.max(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_that_took_long_is_not_rested_for_for_ever() {
        for (took_s, rest_s) in [(1, 20), (600, 3_600), (7_200, 7_200)] {
            assert_eq!(reconcile_rest(Duration::from_secs(took_s)), Duration::from_secs(rest_s), "{took_s}");
        }
    }
}
