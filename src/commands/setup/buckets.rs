//! The two buckets. With versioning, a file can be read as it was when it was found, and an overwritten pointer or copy
//! can be recovered.
//!
//! The pointer and the copies are overwritten up to once a second, and old versions would pile up for ever. So when
//! setup turns on versioning for the outputs, it also sets how long old versions are kept: as long as freshet keeps
//! outputs that are no longer current. The same rule ends uploads in parts that a killed publisher did not end. If
//! versioning was already on, its lifecycle is left to the owner, and setup only says if there is none. freshet never
//! expires files in the raw bucket.

use std::error::Error;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint, BucketVersioningStatus,
    CreateBucketConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
    NoncurrentVersionExpiration, VersioningConfiguration,
};

use super::{Finding, Mode, Standing};
use crate::ready;
use crate::roles::Services;

/// Where a bucket needs no location constraint, and may have none.
const DEFAULT_REGION: &str = "us-east-1";
/// What freshet writes lies under it; what else is in the bucket is not ours to bound.
const OUTPUTS_PREFIX: &str = "metrics/";
/// An upload in parts that takes longer is not going on any more: the parts of one object take minutes.
const UPLOAD_DAYS_MAX: i32 = 7;

pub(super) async fn prepare(services: &Services, mode: Mode) -> Vec<Finding> {
    let config = &services.config.s3;
    // Only AWS itself takes the region as a place; look-alikes have one place.
    let region = services.s3.config().region().map(|region| region.as_ref().to_owned());
    let place = region.filter(|region| config.endpoint.is_empty() && region != DEFAULT_REGION);
    let keep_days = i32::try_from(services.config.metrics.keep_days.max(1)).unwrap_or(i32::MAX);
    let mut buckets = vec![(&config.raw_bucket, None), (&config.processed_bucket, Some(keep_days))];
    buckets.dedup_by_key(|(bucket, _)| *bucket);
    let each = buckets.into_iter().map(async |(bucket, keep_days)| {
        let store = if config.endpoint.is_empty() { "S3" } else { &config.endpoint };
        let wanted = Wanted { bucket, store, place: place.as_deref(), keep_days };
        let (standing, said) = prepare_one(&services.s3, &wanted, mode).await;
        Finding::new("bucket", &format!("s3://{bucket}"), standing, said)
    });
    futures::future::join_all(each).await
}

/// A bucket as it should be.
struct Wanted<'a> {
    bucket: &'a str,
    /// Where it is looked for, for people.
    store: &'a str,
    /// The region to make it in, where that has to be said.
    place: Option<&'a str>,
    /// How many days the old versions of outputs are kept; `None` where it is none of freshet's business.
    keep_days: Option<i32>,
}

type Outcome = (Standing, String);

async fn prepare_one(client: &Client, wanted: &Wanted<'_>, mode: Mode) -> Outcome {
    let made = match client.head_bucket().bucket(wanted.bucket).send().await {
        Ok(_) => false,
        Err(error) if status(&error) == Some(404) && mode == Mode::Plan => {
            return (Standing::Would, format!("would be created, with versioning{}", also_kept(wanted.keep_days)));
        }
        Err(error) if status(&error) == Some(404) => match create(client, wanted).await {
            Ok(made) => made,
            Err(said) => return (Standing::Failed, said),
        },
        Err(error) if status(&error).is_none() => {
            let said = format!("cannot look at it (no answer from {}: {})", wanted.store, ready::cause_of(&error));
            return (Standing::Failed, said);
        }
        Err(error) => return (Standing::Failed, refused("look at it", "s3:ListBucket", &error)),
    };
    version(client, wanted, made, mode).await
}

/// Whether this very request made the bucket: somebody else may have made it meanwhile.
async fn create(client: &Client, wanted: &Wanted<'_>) -> Result<bool, String> {
    let location = wanted.place.map(|place| {
        CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(place)).build()
    });
    let request = client.create_bucket().bucket(wanted.bucket).set_create_bucket_configuration(location);
    match request.send().await {
        Ok(_) => Ok(true),
        Err(error) => match error.as_service_error() {
            Some(service) if service.is_bucket_already_owned_by_you() => Ok(false),
            Some(service) if service.is_bucket_already_exists() => {
                Err("belongs to another account: choose another name (s3.raw_bucket, s3.processed_bucket)".into())
            }
            _ => Err(refused("make it", "s3:CreateBucket", &error)),
        },
    }
}

/// Turns versioning on if it is off. A store without versioning is used as it is.
async fn version(client: &Client, wanted: &Wanted<'_>, made: bool, mode: Mode) -> Outcome {
    let (unchanged, there) = if made { (Standing::Made, "created") } else { (Standing::Found, "found") };
    let without = || (unchanged, format!("{there}; this store does not support versioning"));
    let found = match client.get_bucket_versioning().bucket(wanted.bucket).send().await {
        Ok(answer) => answer.status,
        Err(error) if is_unknown(&error) => return without(),
        Err(error) => {
            let said = refused("read its versioning", "s3:GetBucketVersioning", &error);
            return (Standing::Differs, format!("{there}, but {said}"));
        }
    };
    if found == Some(BucketVersioningStatus::Enabled) {
        // Who may not look at its lifecycle is told nothing about it.
        let is_unbounded = matches!(days_to_set(client, wanted).await, Ok(Some(_)));
        let bounds = if is_unbounded { "; no lifecycle rule: old versions of outputs are never deleted" } else { "" };
        return (unchanged, format!("{there}, versioning on{bounds}"));
    }
    let was = if found.is_some() { "suspended" } else { "off" };
    let stays = |refused: String| {
        let said = format!("{there}, versioning {was}, but {refused}: it stays {was}");
        (Standing::Differs, format!("{said}, because old versions of outputs would never be deleted"))
    };
    if mode == Mode::Plan {
        let said = format!("{there}, versioning {was}: would be turned on");
        return match days_to_set(client, wanted).await {
            Ok(days) => (Standing::Would, said + &also_kept(days)),
            Err(refused) => stays(refused),
        };
    }
    // Before versioning is on: if the rule is refused, the next setup finds versioning off, and tries both again.
    let bounds = match bound_versions(client, wanted).await {
        Ok(days) => also_kept(days),
        Err(refused) => return stays(refused),
    };
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let turned = client.put_bucket_versioning().bucket(wanted.bucket).versioning_configuration(on).send().await;
    match turned {
        Ok(_) if made => (Standing::Made, format!("created, versioning on{bounds}")),
        Ok(_) => (Standing::Made, format!("found, versioning turned on (was {was}){bounds}")),
        Err(error) if is_unknown(&error) => without(),
        Err(error) => {
            let said = refused("turn versioning on", "s3:PutBucketVersioning", &error);
            (Standing::Differs, format!("{there}, versioning {was}, but {said}"))
        }
    }
}

/// Ends a sentence about versioning with how long old versions are kept, if that is set.
fn also_kept(days: Option<i32>) -> String {
    let kept = |days: i32| format!(", old versions of outputs kept {days} day{}", if days == 1 { "" } else { "s" });
    days.map_or(String::new(), kept)
}

/// After how many days the store is to end old versions of outputs; `None` where the bucket has rules of its own, or
/// the store knows none.
async fn days_to_set(client: &Client, wanted: &Wanted<'_>) -> Result<Option<i32>, String> {
    let Some(days) = wanted.keep_days else { return Ok(None) };
    match client.get_bucket_lifecycle_configuration().bucket(wanted.bucket).send().await {
        Ok(_) => Ok(None),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => Ok(Some(days)),
        Err(error) => Err(refused("read its lifecycle", "s3:GetLifecycleConfiguration", &error)),
    }
}

/// Has the store end old versions of outputs, unless the bucket has rules of its own. Gives after how many days.
async fn bound_versions(client: &Client, wanted: &Wanted<'_>) -> Result<Option<i32>, String> {
    let Some(days) = days_to_set(client, wanted).await? else { return Ok(None) };
    let rule = LifecycleRule::builder()
        .id("freshet: old versions of outputs")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix(OUTPUTS_PREFIX).build())
        .noncurrent_version_expiration(NoncurrentVersionExpiration::builder().noncurrent_days(days).build())
        // What a deletion leaves once the last version is gone.
        .expiration(LifecycleExpiration::builder().expired_object_delete_marker(true).build())
        .abort_incomplete_multipart_upload(
            AbortIncompleteMultipartUpload::builder().days_after_initiation(UPLOAD_DAYS_MAX).build(),
        )
        .build();
    let rules = rule.and_then(|rule| BucketLifecycleConfiguration::builder().rules(rule).build());
    let rules = rules.map_err(|error| format!("cannot expire its old versions ({error})"))?;
    let request = client.put_bucket_lifecycle_configuration().bucket(wanted.bucket).lifecycle_configuration(rules);
    match request.send().await {
        Ok(_) => Ok(Some(days)),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(refused("bound its versions", "s3:PutLifecycleConfiguration", &error)),
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// 501 is the answer of a store that knows the request and does not do it, 405 of one that does not know it.
fn is_unknown<E>(error: &SdkError<E>) -> bool {
    matches!(status(error), Some(405 | 501))
}

/// What may not or cannot be done, with the permission that it needs.
fn refused<E>(what: &str, permission: &str, error: &SdkError<E>) -> String
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match (status(error), error.code()) {
        // The answer to a HEAD has no body, and so no code.
        (Some(403), None) => format!("may not {what} (access denied: needs {permission})"),
        (Some(401 | 403), Some(code)) => format!("may not {what} ({code}: needs {permission})"),
        (Some(status), Some(code)) => format!("cannot {what} ({status} {code}: {})", error.message().unwrap_or("")),
        _ => format!("cannot {what} ({})", ready::cause_of(error)),
    }
}
