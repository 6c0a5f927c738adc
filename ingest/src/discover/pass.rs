//! One listing of a domain's prefixes, page by page: which entries are new, and what the listing has come to so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use freshet_sinks::ledger::register;
use freshet_sinks::s3::Versions;
use freshet_topics::Domain;

use super::deletions::Reconciliation;
use super::{Discovery, Found};
use crate::Listener;
use crate::listing::{Listing, Ways};
use crate::names::Name;
use crate::object::{Listed, ObjectVersion, ReadError};

/// The most new objects collected before they are registered, so that one listing of a full bucket stays bounded.
const FOUND_MAX: usize = 20_000;

/// What one listing has come to so far. It is forgotten with the listing; what outlives it is in [`Discovery`].
#[derive(Default)]
pub(super) struct Pass {
    /// New entries that are not registered yet, at most about [`FOUND_MAX`].
    pub(super) fresh: Vec<Listed>,
    /// The counts so far.
    pub(super) found: Found,
    /// The comparison with the ledger, if this listing is to be compared.
    pub(super) reconciliation: Option<Reconciliation>,
    /// The parts that cannot be listed, and why.
    pub(super) unlisted: BTreeMap<String, ReadError>,
    /// Whether S3 gave any page.
    pub(super) has_answered: bool,
    /// Objects whose names say that they are not data, by matching pattern.
    pub(super) not_data: BTreeMap<String, i64>,
    /// When the newest version was written; 1970 before the first one.
    pub(super) newest_listed: DateTime<Utc>,
}

impl Discovery {
    /// Lists a prefix. Parts of it that cannot be listed are noted, and everything else is found.
    pub(super) async fn list_prefix(&mut self, prefix: String, pass: &mut Pass) -> Result<(), sqlx::Error> {
        let (listener, stop) = (Arc::clone(&self.listener), self.stop.clone());
        let ways = match (self.lists_versions(), listener.versions) {
            (true, Versions::Auto) => Ways::VersionsIfAllowed,
            (true, _) => Ways::Versions,
            (false, _) => Ways::Current,
        };
        let mut listing = Listing::new(&listener.reader, &listener.limits, &listener.bucket, prefix, ways);
        // Only a request for a page is interrupted, never a transaction.
        while let Some(Some(page)) = stop.run_until_cancelled(listing.next()).await {
            self.take_page(page, pass).await?;
            self.between_requests().await?;
        }
        // If keys cannot be listed either, the login is at fault, and the refusal says nothing about versions.
        if let Some(error) = listing.versions_refused.take().filter(|_| listing.has_answered)
            && !std::mem::replace(&mut self.is_refusal_said, true)
        {
            let (domain, bucket) = (self.domain.name, &listener.bucket);
            tracing::warn!(
                domain,
                bucket,
                %error,
                "versions cannot be listed, so a version that is overwritten before the next listing is missed: allow \
                 s3:ListBucketVersions, or set s3.versions = \"off\""
            );
        }
        pass.unlisted.append(&mut listing.unlisted);
        pass.has_answered |= listing.has_answered;
        Ok(())
    }

    /// Between two pages or two batches of new objects. A listing of a full bucket takes minutes: meanwhile its lease has
    /// to be renewed, and announced keys should not wait for its end.
    pub(super) async fn between_requests(&mut self) -> Result<(), sqlx::Error> {
        if self.held_at.is_some() {
            self.hold().await?;
        }
        let asked = self.listener.hints.take_keys(self.domain);
        if !asked.is_empty() {
            self.look_and_tell(asked).await;
        }
        Ok(())
    }

    /// Takes the new entries of a page: none if the page is the same as when all of it was settled.
    async fn take_page(&mut self, page: Vec<Listed>, pass: &mut Pass) -> Result<(), sqlx::Error> {
        if self.pages.contains(&page) {
            for entry in &page {
                self.count(entry, pass);
            }
            return Ok(());
        }
        let shown = page.clone();
        self.take_entries(page, pass).await?;
        for entry in &shown {
            if self.is_file(entry) && !self.known.contains(entry) {
                return Ok(());
            }
        }
        self.pages.insert(&shown);
        Ok(())
    }

    /// Takes the new entries among these.
    async fn take_entries(&mut self, entries: Vec<Listed>, pass: &mut Pass) -> Result<(), sqlx::Error> {
        let mut unseen = Vec::new();
        for entry in entries {
            let is_file = self.count(&entry, pass);
            if is_file && !self.known.contains(&entry) && !self.is_troubled(&entry.version.key) {
                unseen.push(entry);
            }
        }
        self.compare(unseen, pass).await?;
        if pass.fresh.len() >= FOUND_MAX {
            self.register(pass).await?;
        }
        Ok(())
    }

    /// Asks the ledger about entries that are not remembered.
    async fn compare(&mut self, unseen: Vec<Listed>, pass: &mut Pass) -> Result<(), sqlx::Error> {
        let (latest, overwritten): (Vec<Listed>, Vec<Listed>) = unseen.into_iter().partition(|entry| entry.is_latest);
        let versions = |entries: &[Listed]| entries.iter().map(|entry| entry.version.clone()).collect::<Vec<_>>();
        let Listener { pool, bucket, .. } = self.listener.as_ref();
        let domain = self.domain.name;
        let mut unknown = Vec::new();
        if !latest.is_empty() {
            let listed = versions(&latest);
            unknown = register::unknown(pool, bucket, domain, &listed.iter().collect::<Vec<_>>()).await?;
        }
        // Before the first listing is complete, it is not known since when overwritten versions count.
        if let Some(since) = self.versions_from.filter(|_| !overwritten.is_empty()) {
            let listed = versions(&overwritten);
            let listed: Vec<&ObjectVersion> = listed.iter().collect();
            unknown.extend(register::unknown_overwritten(pool, bucket, domain, &listed, since).await?);
        }
        for (entry, unknown) in latest.into_iter().chain(overwritten).zip(unknown) {
            // A file has one domain: that to which it would be announced.
            match unknown && self.listener.domain_of(&entry.version.key) == Some(self.domain) {
                true => pass.fresh.push(entry),
                false => self.known.insert(&entry),
            }
        }
        Ok(())
    }

    /// Counts an entry; returns whether it is a file of the domain.
    fn count(&self, entry: &Listed, pass: &mut Pass) -> bool {
        let key = &entry.version.key;
        match self.listener.settings.name_of(self.domain, key) {
            Name::File => {}
            Name::NotData(pattern) => {
                *pass.not_data.entry(pattern.to_owned()).or_default() += i64::from(entry.is_latest);
                return false;
            }
            Name::Foreign => return false,
        }
        pass.found.listed += u64::from(entry.is_latest);
        pass.newest_listed = pass.newest_listed.max(entry.version.last_modified);
        if let Some(reconciliation) = pass.reconciliation.as_mut().filter(|_| entry.is_latest) {
            reconciliation.show(self.known.fingerprint(key));
        }
        true
    }

    fn is_file(&self, entry: &Listed) -> bool {
        self.listener.settings.name_of(self.domain, &entry.version.key) == Name::File
    }
}

/// The prefixes to list: a pattern that is a whole key is a prefix too. Prefixes covered by another one are left out.
pub(super) fn prefixes(domain: &Domain, listener: &Listener) -> BTreeSet<String> {
    cover(listener.settings.all_patterns_of(domain))
}

fn cover<'a>(patterns: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let patterns: BTreeSet<&str> = patterns.collect();
    let covered = |pattern: &&&str| {
        patterns.iter().any(|other| other != *pattern && other.ends_with('/') && pattern.starts_with(other))
    };
    patterns.iter().filter(|pattern| !covered(pattern)).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_listed_once() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&["climate/", "raw/climate_data.csv"], &["climate/", "raw/climate_data.csv"]),
            (&["climate/", "climate/2025/", "climate/x.csv"], &["climate/"]),
            (&["raw/a", "raw/a.csv"], &["raw/a", "raw/a.csv"]),
            (&["a/", "a/"], &["a/"]),
        ];
        for (patterns, expected) in cases {
            let found: Vec<String> = cover(patterns.iter().copied()).into_iter().collect();
            assert_eq!(found, expected, "{patterns:?}");
        }
    }
}
