//! Hints: a store announces an object, and its domain's discovery looks at that key at once.
//!
//! Correctness does not depend on them. A wrong hint costs a request; a lost one costs the time until the next listing.
//! What is registered is what S3 has under the key, not what the hint says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use freshet_topics::Domain;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::events::{self, NotificationError, StoreEvent};
use crate::metrics;
use crate::names::Name;
use crate::settings::IngestSettings;

/// The most keys of a domain that wait, about a megabyte. More keys come with the next listing, which is cheaper then.
const KEYS_MAX: usize = 5_000;

/// Announcements of stores, by domain. Clones share it.
#[derive(Clone)]
pub struct Hints {
    bucket: Arc<str>,
    settings: Arc<IngestSettings>,
    domains: Arc<[Waiting]>,
    /// Whether a store has sent any notification.
    notified: Arc<AtomicBool>,
    /// Notified when a store announces an object of the bucket that is not a file of any domain.
    unmatched: Arc<Notify>,
}

struct Waiting {
    domain: &'static Domain,
    keys: Mutex<Keys>,
    came: Notify,
    /// Since the last listing began, keys were dropped or could not be looked at, or the listener has just started: a
    /// listing is due.
    missed: AtomicBool,
    /// Since the last listing began, one was asked for, if it is this listener's turn to list.
    wanted: AtomicBool,
}

/// Keys to look at, each with the callers that wait for the result.
pub(crate) type Keys = BTreeMap<String, Vec<oneshot::Sender<Looked>>>;

/// The result of a look at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The ledger has what the store shows under it, or the store shows nothing.
    Settled,
    /// The store did not answer, or its answer could not be read.
    Unread,
    /// The ledger did not answer.
    NoLedger,
}

/// The answer to a request to look at a key.
#[derive(Debug)]
pub(crate) enum Look {
    /// It is in another bucket, belongs to no domain, or is a key that Postgres cannot store.
    Unmatched,
    /// Too many keys wait already.
    Full,
    /// It will be looked at; the receiver gets the result, or an error if the look was interrupted.
    Comes(oneshot::Receiver<Looked>),
}

impl Hints {
    /// For the raw bucket and its domains.
    pub fn new(bucket: &str, domains: &[&'static Domain], settings: &IngestSettings) -> Self {
        let waiting = |domain: &&'static Domain| Waiting {
            domain,
            keys: Mutex::default(),
            came: Notify::new(),
            missed: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        };
        let domains = domains.iter().map(waiting).collect();
        Hints {
            bucket: bucket.into(),
            settings: Arc::new(settings.clone()),
            domains,
            notified: Arc::default(),
            unmatched: Arc::default(),
        }
    }

    /// Whether a store has sent any notification, for any bucket: then it will announce new files.
    pub(crate) fn has_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    /// Has the next listing find a key that was announced, but could not be looked at or was not heard of.
    pub(crate) fn miss(&self, domain: &Domain) {
        if let Some(waiting) = self.waiting(domain) {
            waiting.missed.store(true, Ordering::Relaxed);
        }
    }

    /// Has the next listing come soon, if it is this listener's turn to list.
    pub(crate) fn want_listing(&self, domain: &Domain) {
        if let Some(waiting) = self.waiting(domain) {
            waiting.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether announced keys of a domain were missed; called when a listing begins, which finds them.
    pub(crate) fn take_missed(&self, domain: &Domain) -> bool {
        self.waiting(domain).is_some_and(|waiting| {
            waiting.wanted.store(false, Ordering::Relaxed);
            waiting.missed.swap(false, Ordering::Relaxed)
        })
    }

    /// Waits until a store announces an object of the bucket that is not a file of any domain; returns at once if that
    /// happened since the last wait.
    pub(crate) async fn wait_for_unmatched(&self) {
        self.unmatched.notified().await;
    }

    fn waiting(&self, domain: &Domain) -> Option<&Waiting> {
        self.domains.iter().find(|waiting| waiting.domain == domain)
    }

    /// Takes a notification; returns how many keys will be looked at.
    ///
    /// # Errors
    /// If it is not JSON in a known format. Events of other buckets or keys are ignored.
    pub fn take_notification(&self, body: &[u8]) -> Result<usize, NotificationError> {
        let is_taken = |event: &StoreEvent| match event {
            StoreEvent::Object { bucket, key } => matches!(self.look(bucket, key), Look::Comes(_)),
            StoreEvent::Test | StoreEvent::Other(_) => false,
        };
        let events = events::read(body)?;
        self.notified.store(true, Ordering::Relaxed);
        Ok(events.iter().filter(|event| is_taken(event)).count())
    }

    /// Has a key looked at. One with a NUL matches no domain, as in a listing: Postgres refuses it, and with it every key
    /// that is looked at together with it.
    pub(crate) fn look(&self, bucket: &str, key: &str) -> Look {
        self.notified.store(true, Ordering::Relaxed);
        let is_ours = bucket == &*self.bucket && !key.contains('\0');
        let matches = |it: &&Waiting| is_ours && self.settings.name_of(it.domain, key) == Name::File;
        let Some(waiting) = self.domains.iter().find(matches) else {
            metrics::HINTS.with_label_values(&["ignored"]).inc();
            if bucket == &*self.bucket {
                self.unmatched.notify_one();
            }
            return Look::Unmatched;
        };
        let mut keys = waiting.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX && !keys.contains_key(key) {
            metrics::HINTS.with_label_values(&["dropped"]).inc();
            waiting.missed.store(true, Ordering::Relaxed);
            return Look::Full;
        }
        let (tell, told) = oneshot::channel();
        let asking = keys.entry(key.to_owned()).or_default();
        // Senders of HTTP notifications do not wait for the result.
        asking.retain(|tell| !tell.is_closed());
        asking.push(tell);
        metrics::HINTS.with_label_values(&["taken"]).inc();
        waiting.came.notify_one();
        Look::Comes(told)
    }

    /// Waits for keys of a domain; for ever if there is no such domain. Takes none if it is dropped before its end.
    pub(crate) async fn wait_for_keys(&self, domain: &Domain) -> Keys {
        let Some(waiting) = self.waiting(domain) else {
            return std::future::pending().await;
        };
        loop {
            let keys = self.take_keys(domain);
            if !keys.is_empty() {
                return keys;
            }
            waiting.came.notified().await;
        }
    }

    /// Takes the keys of a domain that wait now.
    pub(crate) fn take_keys(&self, domain: &Domain) -> Keys {
        let waiting = self.waiting(domain);
        let take =
            |waiting: &Waiting| std::mem::take(&mut *waiting.keys.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.map(take).unwrap_or_default()
    }

    /// Waits for keys of a domain, but gives `None` once a listing is due, even if keys wait, so that a steady stream of
    /// announcements does not delay it: from `until` on, or from `soon` on if keys were missed or a listing is wanted.
    pub(crate) async fn wait_until(&self, domain: &Domain, soon: Instant, until: Instant) -> Option<Keys> {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let is_due = self.waiting(domain).is_some_and(|waiting| is_set(&waiting.missed) || is_set(&waiting.wanted));
        let until = if is_due { until.min(soon) } else { until };
        // A timeout checks first whether the result is ready, and only then the time.
        if Instant::now() >= until {
            return None;
        }
        tokio::time::timeout_at(until, self.wait_for_keys(domain)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hints() -> Hints {
        let mut settings = IngestSettings::default();
        settings.patterns.insert("health".into(), vec!["sick people/".into()]);
        Hints::new("raw", &freshet_topics::DOMAINS, &settings)
    }

    fn record(bucket: &str, key: &str) -> String {
        format!(
            r#"{{"eventName":"ObjectCreated:Put","s3":{{"bucket":{{"name":"{bucket}"}},"object":{{"key":"{key}","size":1}}}}}}"#
        )
    }

    #[tokio::test]
    async fn what_is_told_waits_for_its_domain() {
        let hints = hints();
        let health = freshet_topics::domains::by_name("health").expect("declared");
        for (key, expected) in [("health/a.csv", "health/a.csv"), ("sick+people/%C3%A4%2B1.csv", "sick people/ä+1.csv")]
        {
            let body = format!(r#"{{"Records":[{}]}}"#, record("raw", key));
            assert_eq!(hints.take_notification(body.as_bytes()).expect("a notification"), 1, "{body}");
            assert_eq!(hints.wait_for_keys(health).await.into_keys().collect::<Vec<_>>(), [expected]);
        }
    }

    #[tokio::test]
    async fn who_asks_hears_what_the_look_came_to_or_that_it_was_broken_off() {
        let hints = hints();
        let health = freshet_topics::domains::by_name("health").expect("declared");
        let ask = || match hints.look("raw", "health/a.csv") {
            Look::Comes(told) => told,
            other => panic!("{other:?}"),
        };
        let (one, other) = (ask(), ask());
        drop(ask());
        for tell in hints.wait_for_keys(health).await.remove("health/a.csv").expect("asked for") {
            _ = tell.send(Looked::Settled);
        }
        assert_eq!((one.await, other.await), (Ok(Looked::Settled), Ok(Looked::Settled)));
        let third = ask();
        drop(hints.wait_for_keys(health).await);
        assert!(third.await.is_err());
    }

    #[test]
    fn what_matches_no_domain_is_passed_over_and_what_is_no_notification_refused() {
        let hints = hints();
        let keys = [("other", "health/a.csv"), ("raw", "readme.txt"), ("raw", "health/"), ("raw", "health/a%00.csv")];
        for (bucket, key) in keys {
            let body = format!(r#"{{"Records":[{}]}}"#, record(bucket, key));
            assert_eq!(hints.take_notification(body.as_bytes()).expect("a notification"), 0, "{body}");
        }
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"raw"}"#;
        let by_sns = serde_json::json!({"Type": "Notification", "Message": test}).to_string();
        for first in [test, &by_sns] {
            assert_eq!(hints.take_notification(first.as_bytes()).expect("S3's own first message"), 0);
        }
        assert!(matches!(hints.look("raw", "health/a\0.csv"), Look::Unmatched));
        for wrong in ["", "[]", "{}", "nonsense", r#"{"Records":[{}]}"#] {
            assert!(hints.take_notification(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn who_tells_without_a_pause_keeps_no_listing_from_its_turn() {
        let hints = hints();
        let health = freshet_topics::domains::by_name("health").expect("declared");
        let until = Instant::now() + Duration::from_millis(200);
        let deadline = until + Duration::from_secs(10);
        let mut looks = 0;
        hints.look("raw", "health/a.csv");
        while hints.wait_until(health, until, until).await.is_some() {
            looks += 1;
            assert!(Instant::now() < deadline, "no end after {looks} looks");
            hints.look("raw", "health/a.csv");
        }
        assert!(looks > 0);
        // Keys that wait then are not lost.
        assert_eq!(hints.wait_for_keys(health).await.len(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_unmatched_objects_is_woken_by_an_object_of_the_bucket_alone() {
        let hints = hints();
        hints.look("other", "readme.txt");
        hints.look("raw", "health/a.csv");
        let woken = tokio::time::timeout(Duration::from_millis(10), hints.wait_for_unmatched()).await;
        assert!(woken.is_err(), "that is in another bucket, and this of a domain");
        hints.look("raw", "readme.txt");
        hints.wait_for_unmatched().await;
    }

    #[tokio::test]
    async fn hints_are_bounded() {
        let hints = hints();
        let dropped = metrics::HINTS.with_label_values(&["dropped"]);
        let before = dropped.get();
        for at in 0..KEYS_MAX + 10 {
            hints.look("raw", &format!("climate/{at}.csv"));
        }
        // A key that waits already takes no further place.
        assert!(matches!(hints.look("raw", "climate/0.csv"), Look::Comes(_)));
        assert_eq!(dropped.get() - before, 10);
        let climate = freshet_topics::domains::by_name("climate").expect("declared");
        assert_eq!(hints.wait_for_keys(climate).await.len(), KEYS_MAX);
    }

    #[tokio::test]
    async fn a_listing_is_due_soon_once_keys_were_missed_or_one_is_wanted() {
        let hints = hints();
        let climate = freshet_topics::domains::by_name("climate").expect("declared");
        let drop_one = || (0..=KEYS_MAX).for_each(|at| _ = hints.look("raw", &format!("climate/{at}.csv")));
        let fail_one = || hints.miss(climate);
        let want = || hints.want_listing(climate);
        for (make_due, missed) in [(&drop_one as &dyn Fn(), true), (&fail_one, true), (&want, false)] {
            make_due();
            // No key comes any more, as at the end of a burst.
            hints.take_keys(climate);
            let (soon, until) = (Instant::now(), Instant::now() + Duration::from_secs(3_600));
            let waited = tokio::time::timeout(Duration::from_secs(10), hints.wait_until(climate, soon, until)).await;
            assert!(waited.expect("a listing is due").is_none());
            assert_eq!(hints.take_missed(climate), missed, "only a missed key concerns whoever's turn it is not");
            assert!(!hints.take_missed(climate), "the listing has begun");
            let waited = tokio::time::timeout(Duration::from_millis(10), hints.wait_until(climate, soon, until)).await;
            assert!(waited.is_err(), "none is due");
        }
    }
}
