//! What `docs/deploy.md` tells to allow is what the code asks for, no more and no less. Its SQL and its ACLs are used by
//! [`crate::flow`]; its settings are checked with those of all pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use freshet::config::secrets::SECRETS;
use serde_json::Value;

use crate::settings::blocks;

/// What an operation of the SDK needs.
const ACTIONS: [(&str, &[&str]); 25] = [
    ("head_bucket", &["s3:ListBucket"]),
    ("list_objects_v2", &["s3:ListBucket"]),
    ("head_object", &["s3:GetObject"]),
    ("get_object", &["s3:GetObject"]),
    // Of a pinned version.
    ("set_version_id", &["s3:GetObjectVersion"]),
    ("put_object", &["s3:PutObject"]),
    ("copy_object", &["s3:GetObject", "s3:PutObject"]),
    ("create_multipart_upload", &["s3:PutObject"]),
    ("upload_part", &["s3:PutObject"]),
    ("complete_multipart_upload", &["s3:PutObject"]),
    ("abort_multipart_upload", &["s3:AbortMultipartUpload"]),
    ("delete_object", &["s3:DeleteObject"]),
    ("delete_objects", &["s3:DeleteObject"]),
    ("create_bucket", &["s3:CreateBucket"]),
    ("get_bucket_versioning", &["s3:GetBucketVersioning"]),
    ("put_bucket_versioning", &["s3:PutBucketVersioning"]),
    ("get_bucket_lifecycle_configuration", &["s3:GetLifecycleConfiguration"]),
    ("put_bucket_lifecycle_configuration", &["s3:PutLifecycleConfiguration"]),
    ("list_buckets", &["s3:ListAllMyBuckets"]),
    ("list_object_versions", &["s3:ListBucketVersions"]),
    // The page says in words that setup needs these two where there is a queue.
    ("get_bucket_notification_configuration", &["s3:GetBucketNotification"]),
    ("put_bucket_notification_configuration", &["s3:PutBucketNotification"]),
    ("receive_message", &["sqs:ReceiveMessage"]),
    ("delete_message_batch", &["sqs:DeleteMessage"]),
    ("change_message_visibility", &["sqs:ChangeMessageVisibility"]),
];

/// Where each role's operations are, besides that every role's bucket is looked for; last those of a listener that reads a
/// queue.
const ROLES: [(&str, &[&str]); 4] = [
    ("ingest", &["ingest/src"]),
    ("metrics", &["sinks/src/outputs.rs", "sinks/src/outputs", "processors/src"]),
    ("setup", &["src/commands/setup/buckets.rs"]),
    ("events", &["ingest/src/events"]),
];

fn sources(path: &Path, text: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("read a folder").flatten() {
            sources(&entry.path(), text);
        }
    } else {
        let file = fs::read_to_string(path).expect("read a file");
        text.push_str(file.split("#[cfg(test)]").next().expect("a beginning"));
    }
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

#[test]
fn the_iam_policies_name_what_the_code_asks_of_s3_and_the_queue() {
    let policies = blocks("deploy.md", "json");
    assert_eq!(policies.len(), ROLES.len());
    for (policy, (role, places)) in policies.iter().zip(ROLES) {
        let policy: Value = serde_json::from_str(policy).expect("the policy is JSON");
        assert_eq!(policy["Version"], "2012-10-17");
        let statements = policy["Statement"].as_array().expect("statements");
        let allowed: BTreeSet<&str> = statements.iter().flat_map(|it| strings(&it["Action"])).collect();
        let mut text = String::new();
        for place in places {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(place), &mut text);
        }
        let asked = |operation: &str| {
            text.contains(&format!(".{operation}(")) || (operation == "head_bucket" && role != "events")
        };
        let needed = ACTIONS.iter().filter(|(operation, _)| asked(operation)).flat_map(|(_, actions)| *actions);
        // A listener that reads no queue needs nothing of one.
        let needed = needed.filter(|action| action.starts_with("sqs:") == (role == "events"));
        assert_eq!(allowed, needed.copied().collect::<BTreeSet<_>>(), "{role}");
        for statement in statements {
            assert_eq!(statement["Effect"], "Allow", "{role}");
            // Actions on objects name objects, those on buckets none.
            let of_objects =
                strings(&statement["Action"]).iter().all(|it| it.contains("Object") || it.contains("Multipart"));
            for resource in strings(&statement["Resource"]) {
                assert_eq!(resource.contains('/'), of_objects, "{role}: {resource}");
            }
        }
    }
}

#[test]
fn every_operation_that_the_code_asks_for_is_known_here() {
    let mut text = String::new();
    for place in ["src", "ingest/src", "sinks/src", "processors/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(place), &mut text);
    }
    let known: BTreeSet<&str> = ACTIONS.iter().map(|(operation, _)| *operation).collect();
    let words = text
        .split(|it: char| !(it.is_ascii_lowercase() || it == '_' || it == '.'))
        .filter_map(|it| it.rsplit_once('.'));
    let is_operation = |word: &str| {
        let (verb, object) = word.split_once('_').unwrap_or((word, ""));
        let verbs = ["get", "put", "head", "list", "delete", "create", "copy", "upload", "complete", "abort"];
        verbs.contains(&verb)
            && ["object", "objects", "objects_v", "bucket", "buckets", "part", "multipart_upload"]
                .iter()
                .any(|it| object == *it || object.starts_with("bucket_"))
    };
    for (_, word) in words.filter(|(_, word)| is_operation(word)) {
        assert!(known.contains(word) || known.contains(&*format!("{word}2")), "{word}: say what it needs in ACTIONS");
    }
}

#[test]
fn every_secret_is_in_the_table() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy.md")).expect("read the page");
    for (section, key) in SECRETS {
        let row = format!("| `{section}.{key}` | `FRESHET__{}__{}_FILE` |", section.to_uppercase(), key.to_uppercase());
        assert!(page.contains(&row), "{row}");
    }
    assert_eq!(page.matches("_FILE` |").count(), SECRETS.len());
    let default = freshet::config::DEFAULT;
    assert_eq!(default.matches("(secret)").count() - 1, SECRETS.len(), "each is marked, and the mark is explained");
}
