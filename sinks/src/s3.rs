//! How every S3 client of freshet is configured.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, Credentials, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use serde::Deserialize;

use crate::metrics::{self, ThrottledBy};

/// Settings of the section `s3`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address of an S3 look-alike, `http://host:port`; empty for AWS itself (or the local stack's own).
    pub endpoint: String,
    /// Region of the buckets; empty: from the environment or the profile.
    pub region: String,
    /// Bucket into which CSV files are dropped.
    pub raw_bucket: String,
    /// Bucket that receives the derived outputs.
    pub processed_bucket: String,
    /// Access key; empty: the AWS default credential chain.
    pub access_key_id: String,
    /// Secret of the access key.
    pub secret_access_key: String,
}

impl Default for S3Settings {
    fn default() -> Self {
        S3Settings {
            endpoint: String::new(),
            region: String::new(),
            raw_bucket: "freshet-raw".into(),
            processed_bucket: "freshet-processed".into(),
            access_key_id: String::new(),
            secret_access_key: String::new(),
        }
    }
}

/// Keys are never shown.
impl std::fmt::Debug for S3Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("raw_bucket", &self.raw_bucket)
            .field("processed_bucket", &self.processed_bucket)
            .finish_non_exhaustive()
    }
}

/// No attempt waits longer for the connection than this; the SDK tries three times with back-off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No attempt waits longer for the first byte of an answer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A whole attempt, uploads of an 8 MiB part over a slow line included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);

/// A client for the configured store. It does not connect until it is used.
///
/// Look-alikes are addressed by path, and get checksums only where S3 itself demands them: many refuse the
/// trailing checksums that the SDK sends by default.
pub async fn client(settings: &S3Settings) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts);
    if !settings.region.is_empty() {
        loader = loader.region(Region::new(settings.region.clone()));
    }
    if !settings.access_key_id.is_empty() {
        let keys =
            Credentials::new(&settings.access_key_id, &settings.secret_access_key, None, None, "freshet settings");
        loader = loader.credentials_provider(keys);
    }
    metrics::declare();
    let shared = loader.load().await;
    let mut builder = aws_sdk_s3::config::Builder::from(&shared).interceptor(Counted);
    if !settings.endpoint.is_empty() {
        builder = builder
            .endpoint_url(&settings.endpoint)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Client::from_conf(builder.build())
}

/// Counts every attempt of every request.
#[derive(Debug)]
struct Counted;

impl Intercept for Counted {
    fn name(&self) -> &'static str {
        "freshet counts"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("unknown", Metadata::name);
        let outcome = outcome(context.response().map(|response| response.status().as_u16()));
        metrics::S3_REQUESTS.with_label_values(&[operation, outcome]).inc();
        if outcome == "throttled" {
            metrics::throttled(ThrottledBy::Store);
        }
        Ok(())
    }
}

/// What became of an attempt, from the status of its answer.
///
/// | status | outcome |
/// |---|---|
/// | 2xx, 3xx | ok |
/// | 429, 503 (SlowDown) | throttled |
/// | another 4xx, such as 404 of a deleted object or 412 of a condition | refused |
/// | another 5xx, or no answer | failed |
fn outcome(status: Option<u16>) -> &'static str {
    match status {
        Some(200..=399) => "ok",
        Some(429 | 503) => "throttled",
        Some(400..=499) => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_by_what_became_of_it() {
        let cases = [
            (Some(200), "ok"),
            (Some(304), "ok"),
            (Some(404), "refused"),
            (Some(412), "refused"),
            (Some(429), "throttled"),
            (Some(503), "throttled"),
            (Some(500), "failed"),
            (None, "failed"),
        ];
        for (status, expected) in cases {
            assert_eq!(outcome(status), expected, "{status:?}");
        }
    }
}
