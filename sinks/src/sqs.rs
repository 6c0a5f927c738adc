//! How the client of the event queue is configured.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;

use crate::s3::{self, S3Settings};

/// A client for the event queue of the store in these settings, with the store's login. `endpoint` is the address of an
/// SQS-compatible queue, empty for AWS; `region` is empty if it is the store's. It does not connect until it is used.
pub async fn client(store: &S3Settings, endpoint: &str, region: &str) -> Client {
    let region = if region.is_empty() { &store.region } else { region };
    let shared = s3::shared(store, region).await;
    let mut builder = Builder::from(&shared);
    if !endpoint.is_empty() {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.build())
}
