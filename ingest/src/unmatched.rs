//! Looks periodically for objects of the raw bucket that belong to no domain, so that a misspelled prefix is reported.
//!
//! The discovery of a domain lists its own prefixes and never sees other objects. This lists what is beside the
//! prefixes: folder by folder above a prefix, everything in other folders. Its findings are only reported, so it need
//! not be fast.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use freshet_sinks::unmatched::{self, KEPT_MAX, Unmatched};
use tokio_util::sync::CancellationToken;

use crate::discover::{DiscoverError, next_interval};
use crate::names::{Name, nearest};
use crate::object::ObjectVersion;
use crate::{IngestError, Listener};

/// The most requests of one look: in a bucket with more objects outside its domains, the look ends there.
const REQUESTS_MAX: usize = 1_000;

/// Looks until `stop`. Failures are retried after the interval.
pub(crate) async fn run(listener: Arc<Listener>, stop: CancellationToken) -> Result<(), IngestError> {
    let least = Duration::from_millis(listener.settings.unmatched_interval_ms);
    let most = Duration::from_millis(listener.settings.list_interval_max_ms).max(least);
    let (mut told, mut interval) = (BTreeSet::new(), least);
    while !stop.is_cancelled() {
        // Not interrupted by `stop`: a transaction is finished rather than left open.
        match look(&listener, &stop).await {
            Ok(found) => {
                let is_as_before = !tell(&listener, &found, &mut told);
                interval = next_interval(interval, least, most, is_as_before && listener.hints.has_notified());
            }
            Err(error) => {
                interval = least;
                tracing::warn!(bucket = listener.bucket, %error, "cannot look for objects that belong to no domain");
            }
        }
        stop.run_until_cancelled(async {
            tokio::time::sleep(least).await;
            _ = tokio::time::timeout(interval - least, listener.hints.wait_for_unmatched()).await;
        })
        .await;
    }
    Ok(())
}

/// Logs each object that was not there at the last look; returns whether any was added or removed.
fn tell(listener: &Listener, found: &[Unmatched], told: &mut BTreeSet<String>) -> bool {
    for object in found.iter().filter(|object| !told.contains(&object.key)) {
        let (bucket, key) = (&listener.bucket, crate::names::with_hint(&object.key, object.hint.as_deref()));
        tracing::warn!(bucket, key, "an object belongs to no domain");
    }
    let now = found.iter().map(|object| object.key.clone()).collect();
    std::mem::replace(told, now) != *told
}

/// One look; returns the objects to be recorded, the newest first.
async fn look(listener: &Listener, stop: &CancellationToken) -> Result<Vec<Unmatched>, DiscoverError> {
    let mut found: Vec<ObjectVersion> = Vec::new();
    let mut folders = vec![String::new()];
    let mut requests = 0;
    while let Some(folder) = folders.pop() {
        let level = is_above(listener, &folder);
        let mut pages = match level {
            true => listener.reader.list_level(&listener.bucket, &folder),
            false => listener.reader.list_pages(&listener.bucket, &folder),
        };
        while let Some(page) = listener.s3(pages.next()).await? {
            found.extend(page.into_iter().filter(|object| is_unmatched(listener, &object.key)));
            keep_newest(&mut found);
            requests += 1;
            if requests >= REQUESTS_MAX || stop.is_cancelled() {
                return take_down(listener, found).await;
            }
        }
        folders.extend(pages.folders().into_iter().filter(|folder| !is_covered(listener, folder)));
    }
    take_down(listener, found).await
}

async fn take_down(listener: &Listener, found: Vec<ObjectVersion>) -> Result<Vec<Unmatched>, DiscoverError> {
    let names: Vec<&str> = names(listener).collect();
    let found: Vec<Unmatched> = found
        .into_iter()
        .map(|object| Unmatched {
            hint: nearest(&object.key, &names),
            key: object.key,
            size_bytes: object.size_bytes,
            last_modified: object.last_modified,
        })
        .collect();
    unmatched::replace(&listener.pool, &listener.bucket, &found).await?;
    Ok(found)
}

fn keep_newest(found: &mut Vec<ObjectVersion>) {
    if found.len() > KEPT_MAX {
        found.sort_by(|one, other| other.last_modified.cmp(&one.last_modified).then_with(|| one.key.cmp(&other.key)));
        found.truncate(KEPT_MAX);
    }
}

/// All patterns of all domains.
fn names(listener: &Listener) -> impl Iterator<Item = &str> {
    listener.domains.iter().flat_map(|domain| listener.settings.all_patterns_of(domain))
}

/// Whether a pattern continues below the folder.
fn is_above(listener: &Listener, folder: &str) -> bool {
    names(listener).any(|name| name.starts_with(folder) && name != folder)
}

/// Whether everything in the folder belongs to a domain.
fn is_covered(listener: &Listener, folder: &str) -> bool {
    names(listener).any(|name| name.ends_with('/') && folder.starts_with(name))
}

fn is_unmatched(listener: &Listener, key: &str) -> bool {
    listener.settings.name_in(&listener.domains, key) == Name::Foreign
}
