//! The two buckets. Versioning lets a file be read as it was when it was found, and an overwritten pointer or copy
//! be had back.

use std::error::Error;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration,
};

use super::{Finding, Standing};
use crate::roles::Services;

/// Where a bucket needs no location constraint, and may have none.
const DEFAULT_REGION: &str = "us-east-1";

pub(super) async fn prepare(services: &Services, dry_run: bool) -> Vec<Finding> {
    let config = &services.config.s3;
    // Only AWS itself takes the region as a place; look-alikes have one place.
    let region = services.s3.config().region().map(|region| region.as_ref().to_owned());
    let place = region.filter(|region| config.endpoint.is_empty() && region != DEFAULT_REGION);
    let mut buckets = vec![&config.raw_bucket, &config.processed_bucket];
    buckets.dedup();
    let each = buckets.into_iter().map(async |bucket| {
        let (standing, said) = prepare_one(&services.s3, bucket, place.as_deref(), dry_run).await;
        Finding::new("bucket", &format!("s3://{bucket}"), standing, said)
    });
    futures::future::join_all(each).await
}

type Outcome = (Standing, String);

async fn prepare_one(client: &Client, bucket: &str, place: Option<&str>, dry_run: bool) -> Outcome {
    let made = match client.head_bucket().bucket(bucket).send().await {
        Ok(_) => false,
        Err(error) if status(&error) == Some(404) && dry_run => {
            return (Standing::Would, "would be made, with versioning".into());
        }
        Err(error) if status(&error) == Some(404) => match create(client, bucket, place).await {
            Ok(made) => made,
            Err(said) => return (Standing::Failed, said),
        },
        Err(error) => return (Standing::Failed, refused("look at it", "s3:ListBucket", &error)),
    };
    version(client, bucket, made, dry_run).await
}

/// Whether this very request made the bucket: somebody else may have made it meanwhile.
async fn create(client: &Client, bucket: &str, place: Option<&str>) -> Result<bool, String> {
    let location = place.map(|place| {
        CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(place)).build()
    });
    let request = client.create_bucket().bucket(bucket).set_create_bucket_configuration(location);
    match request.send().await {
        Ok(_) => Ok(true),
        Err(error) => match error.as_service_error() {
            Some(service) if service.is_bucket_already_owned_by_you() => Ok(false),
            Some(service) if service.is_bucket_already_exists() => {
                Err("is somebody else's: choose another name (s3.raw_bucket, s3.processed_bucket)".into())
            }
            _ => Err(refused("make it", "s3:CreateBucket", &error)),
        },
    }
}

/// Turns versioning on where it is off. A store that knows no versioning is used as it is.
async fn version(client: &Client, bucket: &str, made: bool, dry_run: bool) -> Outcome {
    let (unchanged, there) = if made { (Standing::Made, "made") } else { (Standing::Found, "found") };
    let without = || (unchanged, format!("{there}; this store has no versioning, and goes without"));
    let found = match client.get_bucket_versioning().bucket(bucket).send().await {
        Ok(answer) => answer.status,
        Err(error) if knows_no_versioning(&error) => return without(),
        Err(error) => {
            let said = refused("read its versioning", "s3:GetBucketVersioning", &error);
            return (Standing::Differs, format!("{there}, but {said}"));
        }
    };
    if found == Some(BucketVersioningStatus::Enabled) {
        return (unchanged, format!("{there}, versioning on"));
    }
    let was = if found.is_some() { "suspended" } else { "off" };
    if dry_run {
        return (Standing::Would, format!("{there}, versioning {was}: would be turned on"));
    }
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    match client.put_bucket_versioning().bucket(bucket).versioning_configuration(on).send().await {
        Ok(_) if made => (Standing::Made, "made, versioning on".into()),
        Ok(_) => (Standing::Made, format!("found, versioning turned on (was {was})")),
        Err(error) if knows_no_versioning(&error) => without(),
        Err(error) => {
            let said = refused("turn versioning on", "s3:PutBucketVersioning", &error);
            (Standing::Differs, format!("{there}, versioning {was}, but {said}"))
        }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// 501 is the answer of a store that knows the request and does not do it, 405 of one that does not know it.
fn knows_no_versioning<E>(error: &SdkError<E>) -> bool {
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
        _ => format!("cannot {what} ({})", DisplayErrorContext(error)),
    }
}
