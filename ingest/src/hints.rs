//! Hints: a store tells that an object came, and its domain's discovery looks at that key at once.
//!
//! Nothing rests on them. A hint that is wrong costs a request, one that is lost or dropped costs the time until the
//! next listing, and what is registered is what the listing of the key shows, never what the hint says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use freshet_topics::Domain;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;
use crate::names::Name;
use crate::settings::IngestSettings;

/// Keys of a domain that wait to be looked at. More than these come with the next listing, which is cheaper then.
const KEYS_MAX: usize = 1_000;

/// What stores tell, by domain. Clones share it.
#[derive(Clone)]
pub struct Hints {
    bucket: Arc<str>,
    settings: Arc<IngestSettings>,
    domains: Arc<[Waiting]>,
}

struct Waiting {
    domain: &'static Domain,
    keys: Mutex<BTreeSet<String>>,
    came: Notify,
}

/// The body is no notification.
#[derive(Debug, thiserror::Error)]
#[error("read the notification: {0}")]
pub struct NotNotification(#[from] serde_json::Error);

impl Hints {
    /// For the raw bucket and its domains.
    pub fn new(bucket: &str, domains: &[&'static Domain], settings: &IngestSettings) -> Self {
        let waiting = domains.iter().map(|domain| Waiting { domain, keys: Mutex::default(), came: Notify::new() });
        Hints { bucket: bucket.into(), settings: Arc::new(settings.clone()), domains: waiting.collect() }
    }

    /// Takes what a store sent; gives how many keys will be looked at.
    ///
    /// # Errors
    /// If it is not JSON in a shape that is known. What is known and concerns other buckets or keys is passed over.
    pub fn take_notification(&self, body: &[u8]) -> Result<usize, NotNotification> {
        Ok(keys(body)?.into_iter().filter(|(bucket, key)| self.take(bucket, key)).count())
    }

    fn take(&self, bucket: &str, key: &str) -> bool {
        let matches = |it: &&Waiting| self.settings.name_of(it.domain, key) == Name::File && bucket == &*self.bucket;
        let Some(waiting) = self.domains.iter().find(matches) else {
            metrics::HINTS.with_label_values(&["ignored"]).inc();
            return false;
        };
        let mut keys = waiting.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX && !keys.contains(key) {
            metrics::HINTS.with_label_values(&["dropped"]).inc();
            return false;
        }
        keys.insert(key.to_owned());
        metrics::HINTS.with_label_values(&["taken"]).inc();
        waiting.came.notify_one();
        true
    }

    /// Waits for keys of a domain; for ever if there is no such domain. Dropped before its end, it takes none.
    pub(crate) async fn of(&self, domain: &Domain) -> BTreeSet<String> {
        let Some(waiting) = self.domains.iter().find(|waiting| waiting.domain == domain) else {
            return std::future::pending().await;
        };
        loop {
            let keys = std::mem::take(&mut *waiting.keys.lock().unwrap_or_else(PoisonError::into_inner));
            if !keys.is_empty() {
                return keys;
            }
            waiting.came.notified().await;
        }
    }

    /// The same, `None` from `until` on: even if keys wait, so that those who tell without a pause keep no listing from
    /// its turn.
    pub(crate) async fn wait_until(&self, domain: &Domain, until: Instant) -> Option<BTreeSet<String>> {
        // What is ready counts more to a timeout than that its time is over.
        if Instant::now() >= until {
            return None;
        }
        tokio::time::timeout_at(until, self.of(domain)).await.ok()
    }
}

/// The shapes of a notification; what else they hold is passed over.
#[derive(Deserialize)]
#[serde(untagged)]
enum Notification {
    /// S3 (as SQS and Lambda get it), MinIO.
    S3 {
        #[serde(rename = "Records")]
        records: Vec<Record>,
    },
    /// SNS with the above inside.
    Sns {
        #[serde(rename = "Message")]
        message: String,
    },
    /// EventBridge.
    Event { detail: Entity },
    /// SeaweedFS: `/buckets/BUCKET/KEY`, or where the bucket is versioned what is behind the key.
    Path { key: String },
    /// S3's own first message.
    Test {
        #[serde(rename = "Event")]
        _event: TestEvent,
    },
}

#[derive(Deserialize)]
enum TestEvent {
    #[serde(rename = "s3:TestEvent")]
    Sent,
}

#[derive(Deserialize)]
struct Record {
    s3: Entity,
}

#[derive(Deserialize)]
struct Entity {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// The buckets and keys that a notification names.
///
/// | from | key is |
/// |---|---|
/// | S3, MinIO, SNS | URL-encoded, with `+` for a space |
/// | EventBridge, SeaweedFS | as it is |
fn keys(body: &[u8]) -> Result<Vec<(String, String)>, serde_json::Error> {
    let of_records =
        |records: Vec<Record>| records.into_iter().map(|it| (it.s3.bucket.name, decoded(&it.s3.object.key))).collect();
    Ok(match serde_json::from_slice(body)? {
        Notification::S3 { records } => of_records(records),
        Notification::Sns { message } => match serde_json::from_str(&message)? {
            Notification::S3 { records } => of_records(records),
            _ => Vec::new(),
        },
        Notification::Event { detail } => vec![(detail.bucket.name, detail.object.key)],
        Notification::Path { key } => {
            let path = key.strip_prefix("/buckets/").and_then(|path| path.split_once('/'));
            path.map(|(bucket, key)| (bucket.to_owned(), unversioned(key).to_owned())).into_iter().collect()
        }
        Notification::Test { .. } => Vec::new(),
    })
}

/// The key that SeaweedFS keeps at a path of a bucket.
///
/// | path | key |
/// |---|---|
/// | `health/a.csv` | the same |
/// | `health/a.csv.versions/v_0123abcd` | `health/a.csv` |
/// | `health/a.csv.versions` | `health/a.csv` |
fn unversioned(path: &str) -> &str {
    let versions = path.rsplit_once("/v_").map_or(path, |(versions, _)| versions);
    versions.strip_suffix(".versions").unwrap_or(path)
}

fn decoded(key: &str) -> String {
    let spaces: Cow<str> = if key.contains('+') { key.replace('+', " ").into() } else { key.into() };
    percent_decode_str(&spaces).decode_utf8_lossy().into_owned()
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
    async fn every_shape_names_its_keys() {
        let s3 = |key| format!(r#"{{"Records":[{}]}}"#, record("raw", key));
        // With the entry as it is now, which holds more than this.
        let weed = |path| {
            format!(
                r#"{{"key":"/buckets/raw/{path}","event_type":"update","message":{{"new_entry":{{"name":"a"}},"delete_chunks":true}}}}"#
            )
        };
        let sns = serde_json::json!({"Type": "Notification", "Message": s3("health/a.csv")}).to_string();
        let event =
            r#"{"detail-type":"Object Created","detail":{"bucket":{"name":"raw"},"object":{"key":"health/a+b.csv"}}}"#;
        let cases = [
            (s3("health/a.csv"), "health/a.csv"),
            (s3("sick+people/%C3%A4%2B1.csv"), "sick people/ä+1.csv"),
            (sns, "health/a.csv"),
            (event.to_owned(), "health/a+b.csv"),
            (weed("health/a.csv"), "health/a.csv"),
            (weed("health/v_1/a+b.csv"), "health/v_1/a+b.csv"),
            (weed("health/v_1.csv"), "health/v_1.csv"),
            (weed("health/a.csv.versions/v_644fdb0e5eb1d8ce1f4a"), "health/a.csv"),
            (weed("health/a.csv.versions"), "health/a.csv"),
        ];
        let hints = hints();
        let health = freshet_topics::domains::by_name("health").expect("declared");
        for (body, expected) in cases {
            assert_eq!(hints.take_notification(body.as_bytes()).expect("a notification"), 1, "{body}");
            assert_eq!(hints.of(health).await.into_iter().collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn what_is_nobodys_is_passed_over_and_what_is_no_notification_refused() {
        let hints = hints();
        for (bucket, key) in [("other", "health/a.csv"), ("raw", "readme.txt"), ("raw", "health/")] {
            let body = format!(r#"{{"Records":[{}]}}"#, record(bucket, key));
            assert_eq!(hints.take_notification(body.as_bytes()).expect("a notification"), 0, "{body}");
        }
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"raw"}"#;
        let by_sns = serde_json::json!({"Type": "Notification", "Message": test}).to_string();
        for first in [test, &by_sns] {
            assert_eq!(hints.take_notification(first.as_bytes()).expect("S3's own first message"), 0);
        }
        for wrong in ["", "[]", "{}", "nonsense", r#"{"Records":[{}]}"#, r#"{"Event":"s3:Other"}"#] {
            assert!(hints.take_notification(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn who_tells_without_a_pause_keeps_no_listing_from_its_turn() {
        let hints = hints();
        let health = freshet_topics::domains::by_name("health").expect("declared");
        let until = Instant::now() + Duration::from_millis(20);
        let deadline = until + Duration::from_secs(10);
        let mut looks = 0;
        hints.take("raw", "health/a.csv");
        while hints.wait_until(health, until).await.is_some() {
            looks += 1;
            assert!(Instant::now() < deadline, "no end after {looks} looks");
            hints.take("raw", "health/a.csv");
        }
        assert!(looks > 0);
        // What waits then is not lost.
        assert_eq!(hints.of(health).await.len(), 1);
    }

    #[tokio::test]
    async fn hints_are_bounded() {
        let hints = hints();
        let dropped = metrics::HINTS.with_label_values(&["dropped"]);
        let before = dropped.get();
        for at in 0..KEYS_MAX + 10 {
            hints.take("raw", &format!("climate/{at}.csv"));
        }
        // One that waits already takes no place.
        assert!(hints.take("raw", "climate/0.csv"));
        assert_eq!(dropped.get() - before, 10);
        let climate = freshet_topics::domains::by_name("climate").expect("declared");
        assert_eq!(hints.of(climate).await.len(), KEYS_MAX);
    }
}
