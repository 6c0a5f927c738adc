//! Parses the notifications of stores, in any of their formats. Pure: bytes in, keys or an error out.
//!
//! | from | looks like | key is |
//! |---|---|---|
//! | S3, MinIO | `Records[].s3` | URL-encoded, with `+` for a space |
//! | SNS | `Type`, and one of the other shapes as text in `Message` | as in that |
//! | EventBridge | `detail-type`, `detail` | as it is |
//! | SeaweedFS | `key`: `/buckets/BUCKET/KEY`, or where the bucket is versioned what is behind the key | as it is |
//! | S3's own first message | `Event`: `s3:TestEvent` | – |

mod queue;
mod seen;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

pub use queue::EventQueue;
pub(crate) use queue::run;
pub(crate) use seen::forget;

/// One event of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// Something was written under this key.
    Object {
        /// The bucket.
        bucket: String,
        /// The key, decoded.
        key: String,
    },
    /// S3's own first message to a new receiver.
    Test,
    /// Something that needs no action: a deletion, a change of tags, an unknown kind of event.
    Other(String),
}

/// The bytes are not a notification.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// They are not JSON, or a part of it is of another type.
    #[error("read the notification: {0}")]
    Json(#[from] serde_json::Error),
    /// They are JSON of another shape.
    #[error("read the notification: it has none of the formats that stores send")]
    Shape,
}

/// The fields used in any of the formats; other fields are ignored.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    #[serde(rename = "Type")]
    sns_type: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    detail: Option<serde_json::Value>,
    #[serde(rename = "Event")]
    event: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventSource")]
    source: Option<String>,
    #[serde(rename = "eventName")]
    name: Option<String>,
    s3: Option<Entity>,
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

/// Reads a notification.
///
/// # Errors
/// If it is not JSON, or not in one of the known formats.
pub fn read(body: &[u8]) -> Result<Vec<StoreEvent>, NotificationError> {
    let envelope: Envelope = serde_json::from_slice(body)?;
    match (&envelope.message, envelope.sns_type.as_deref()) {
        (Some(message), None | Some("Notification")) => of(serde_json::from_str(message)?),
        // SNS asks for the confirmation of a subscription.
        (Some(_), Some(kind)) => Ok(vec![StoreEvent::Other(kind.to_owned())]),
        (None, _) => of(envelope),
    }
}

/// The events in any format but that of SNS.
fn of(envelope: Envelope) -> Result<Vec<StoreEvent>, NotificationError> {
    if let Some(records) = envelope.records {
        return records.into_iter().map(of_record).collect();
    }
    if let Some(detail) = envelope.detail {
        return of_event(envelope.detail_type, detail).map(|event| vec![event]);
    }
    if let Some(event) = envelope.event {
        return Ok(vec![if event == "s3:TestEvent" { StoreEvent::Test } else { StoreEvent::Other(event) }]);
    }
    let path = envelope.key.ok_or(NotificationError::Shape)?;
    let object = path.strip_prefix("/buckets/").and_then(|path| path.split_once('/'));
    Ok(vec![match object {
        Some((bucket, key)) => StoreEvent::Object { bucket: bucket.to_owned(), key: unversioned(key).to_owned() },
        None => StoreEvent::Other(path),
    }])
}

/// | event | read as |
/// |---|---|
/// | `ObjectCreated:…` (MinIO: `s3:ObjectCreated:…`), or none named | the object |
/// | another | other |
fn of_record(record: Record) -> Result<StoreEvent, NotificationError> {
    let Record { source, name, s3 } = record;
    let is_created = |name: &String| name.trim_start_matches("s3:").starts_with("ObjectCreated");
    match (s3, name) {
        (Some(s3), name) if name.as_ref().is_none_or(is_created) => {
            Ok(StoreEvent::Object { bucket: s3.bucket.name, key: decoded(&s3.object.key) })
        }
        (_, Some(name)) => Ok(StoreEvent::Other(name)),
        (_, None) => source.map(StoreEvent::Other).ok_or(NotificationError::Shape),
    }
}

/// An event of EventBridge: `Object Created`, or anything else that a rule may match.
fn of_event(kind: Option<String>, detail: serde_json::Value) -> Result<StoreEvent, NotificationError> {
    match kind {
        Some(kind) if kind != "Object Created" => Ok(StoreEvent::Other(kind)),
        _ => {
            let entity: Entity = serde_json::from_value(detail)?;
            Ok(StoreEvent::Object { bucket: entity.bucket.name, key: entity.object.key })
        }
    }
}

/// The key of the object that SeaweedFS stores at a path of a bucket.
///
/// | path | key |
/// |---|---|
/// | `health/a.csv` | the same |
/// | `health/a.csv.versions/v_0123abcd` | `health/a.csv` |
/// | `health/a.csv.versions` | `health/a.csv` |
/// | `health/v_1/a.csv.versions` | `health/v_1/a.csv` |
fn unversioned(path: &str) -> &str {
    let of_version = || path.rsplit_once("/v_")?.0.strip_suffix(".versions");
    path.strip_suffix(".versions").or_else(of_version).unwrap_or(path)
}

fn decoded(key: &str) -> String {
    let spaces: Cow<str> = if key.contains('+') { key.replace('+', " ").into() } else { key.into() };
    percent_decode_str(&spaces).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(key: &str) -> StoreEvent {
        StoreEvent::Object { bucket: "raw".into(), key: key.into() }
    }

    fn s3(event: &str, key: &str) -> String {
        let s3 = serde_json::json!({"bucket": {"name": "raw"}, "object": {"key": key, "size": 1}});
        serde_json::json!({"Records": [{"eventSource": "aws:s3", "eventName": event, "s3": s3}]}).to_string()
    }

    fn bridge(kind: &str, key: &str) -> String {
        let detail = serde_json::json!({"version": "0", "bucket": {"name": "raw"}, "object": {"key": key}});
        serde_json::json!({"source": "aws.s3", "detail-type": kind, "detail": detail}).to_string()
    }

    fn sns(message: &str) -> String {
        serde_json::json!({"Type": "Notification", "TopicArn": "arn", "Message": message}).to_string()
    }

    /// With the present entry, which has more fields than these.
    fn weed(path: &str) -> String {
        format!(r#"{{"key":"/buckets/raw/{path}","message":{{"new_entry":{{"name":"a"}},"delete_chunks":true}}}}"#)
    }

    #[test]
    fn every_shape_is_read() {
        let put = "ObjectCreated:Put";
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"raw"}"#;
        let other = |kind: &str| StoreEvent::Other(kind.into());
        let cases = [
            (s3(put, "health/a.csv"), object("health/a.csv")),
            (s3("s3:ObjectCreated:CompleteMultipartUpload", "a"), object("a")),
            (s3(put, "sick+people/%C3%A4%2B1.csv"), object("sick people/ä+1.csv")),
            (s3(put, "50%25.csv"), object("50%.csv")),
            (s3(put, "50%.csv"), object("50%.csv")),
            (s3("ObjectRemoved:Delete", "health/a.csv"), other("ObjectRemoved:Delete")),
            (s3("ObjectTagging:Put", "health/a.csv"), other("ObjectTagging:Put")),
            (sns(&s3(put, "health/a+b.csv")), object("health/a b.csv")),
            (sns(&bridge("Object Created", "health/a+b.csv")), object("health/a+b.csv")),
            (bridge("Object Created", "health/a+b%20.csv"), object("health/a+b%20.csv")),
            (bridge("Object Deleted", "health/a.csv"), other("Object Deleted")),
            (r#"{"detail-type":"Scheduled Event","detail":{}}"#.into(), other("Scheduled Event")),
            (weed("health/a.csv"), object("health/a.csv")),
            (weed("health/v_1/a+b.csv"), object("health/v_1/a+b.csv")),
            (weed("health/a.csv.versions/v_644fdb0e5eb1d8ce1f4a"), object("health/a.csv")),
            (weed("health/a.csv.versions"), object("health/a.csv")),
            (weed("health/v_1/a.csv.versions"), object("health/v_1/a.csv")),
            (weed("health/v_1/a.csv.versions/v_644fdb0e5eb1d8ce1f4a"), object("health/v_1/a.csv")),
            (r#"{"key":"/topics/x"}"#.into(), other("/topics/x")),
            (test.into(), StoreEvent::Test),
            (sns(test), StoreEvent::Test),
            (r#"{"Event":"s3:Other"}"#.into(), other("s3:Other")),
            (
                r#"{"Type":"SubscriptionConfirmation","Message":"You have chosen"}"#.into(),
                other("SubscriptionConfirmation"),
            ),
            (r#"{"Records":[{"eventSource":"aws:ses","ses":{}}]}"#.into(), other("aws:ses")),
        ];
        for (body, expected) in cases {
            assert_eq!(read(body.as_bytes()).expect("a notification"), [expected], "{body}");
        }
        assert_eq!(read(br#"{"Records":[]}"#).expect("says nothing"), []);
    }

    #[test]
    fn what_is_no_notification_is_refused() {
        let twice = sns(&sns(&s3("ObjectCreated:Put", "a")));
        let cases =
            ["", "[]", "{}", "nonsense", "null", "7", r#"{"Records":[{}]}"#, r#"{"Records":"x"}"#, r#"{"key":5}"#];
        let more = [r#"{"detail-type":"Object Created","detail":{}}"#, r#"{"Message":"hello"}"#, &twice];
        for wrong in cases.into_iter().chain(more) {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(deep.as_bytes()).is_err());
        assert!(read(format!(r#"{{"detail":{deep}"#).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            _ = read(&bytes);
        }

        #[test]
        fn any_key_ends_in_an_answer(key in ".*", event in ".*") {
            for body in [s3("ObjectCreated:Put", &key), s3(&event, &key), bridge(&event, &key), sns(&key), weed("x")] {
                _ = read(body.as_bytes());
            }
            prop_assert_eq!(read(bridge("Object Created", &key).as_bytes()).expect("a notification"), [object(&key)]);
        }
    }
}
