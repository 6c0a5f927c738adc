//! What `status` and `demo` look at outside Postgres: the raw bucket, the outputs, and Kafka's ends.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use aws_sdk_s3::primitives::ByteStream;
use freshet_ingest::object::ObjectReader;
use freshet_topics::log::LogClient;

use super::status::{Dropped, Outputs, Outside};
use crate::roles::Services;

/// Every object of the raw bucket that belongs to a domain.
///
/// # Errors
/// If S3 does not answer or refuses.
pub async fn dropped(services: &Services) -> anyhow::Result<Vec<Dropped>> {
    let reader = ObjectReader::new(services.s3.clone());
    let (ingest, domains) = (&services.config.ingest, services.config.pipeline.domains);
    let mut pages = reader.list_pages(&services.config.s3.raw_bucket, "");
    let mut found = Vec::new();
    while let Some(page) = pages.next().await.context("list the raw bucket")? {
        found.extend(
            page.into_iter()
                .filter(|object| {
                    domains.iter().any(|domain| domain.matches(&object.key, ingest.patterns_of(domain.name)))
                })
                .map(|object| Dropped {
                    key: object.key,
                    etag: object.etag,
                    size_bytes: object.size_bytes,
                    last_modified: object.last_modified,
                }),
        );
    }
    Ok(found)
}

/// What S3 shows of the derived outputs.
///
/// # Errors
/// If S3 does not answer or refuses.
pub async fn outputs(services: &Services) -> anyhow::Result<Outputs> {
    Outputs::read(&services.s3, &services.config.s3.processed_bucket).await
}

/// Outputs and Kafka's ends for a status. Whatever does not answer is left out, with a warning: a status is
/// wanted most when something is down.
pub async fn outside(services: &Services) -> Outside {
    let outputs =
        outputs(services).await.map_err(|error| eprintln!("freshet: the outputs are left out: {error:#}")).ok();
    let mut high_watermarks = BTreeMap::new();
    let log = LogClient::new(&services.config.kafka);
    for domain in services.config.pipeline.domains {
        let topic = domain.topic(&services.config.kafka.topic_prefix);
        match log.ends(&topic).await {
            Ok(ends) if ends.is_empty() => {
                eprintln!("freshet: lag is counted from the ledger: topic {topic} does not exist");
                break;
            }
            Ok(ends) => {
                let high = ends.into_iter().map(|(partition, ends)| (partition, ends.high)).collect();
                high_watermarks.insert(domain.name.to_owned(), high);
            }
            Err(error) => {
                eprintln!("freshet: lag is counted from the ledger: {error}");
                break;
            }
        }
    }
    Outside { high_watermarks, outputs }
}

/// Drops a file in the raw bucket.
///
/// # Errors
/// If the file cannot be read, or S3 does not take it.
pub async fn put(services: &Services, key: &str, path: &Path) -> anyhow::Result<()> {
    let body = ByteStream::from_path(path).await.with_context(|| format!("read {}", path.display()))?;
    let bucket = &services.config.s3.raw_bucket;
    let request = services.s3.put_object().bucket(bucket).key(key).body(body);
    request.send().await.with_context(|| format!("drop s3://{bucket}/{key}"))?;
    Ok(())
}
