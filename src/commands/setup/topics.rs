//! The topics: made where they are missing, compared where they are there. Kafka's own tools change them.

use freshet_topics::catalog::{self, CatalogError, TopicReport};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::{DOMAINS, Domain};

use super::{Finding, Standing};

pub(super) async fn prepare(settings: &KafkaSettings, dry_run: bool) -> Vec<Finding> {
    let each = DOMAINS.iter().map(async |domain| {
        let (standing, said) = prepare_one(settings, domain, dry_run).await;
        Finding::new("topic", &domain.topic(&settings.topic_prefix), standing, said)
    });
    futures::future::join_all(each).await
}

async fn prepare_one(settings: &KafkaSettings, domain: &Domain, dry_run: bool) -> (Standing, String) {
    let found = match dry_run {
        true => catalog::inspect(settings, domain).await,
        false => catalog::ensure(settings, domain).await.map(Some),
    };
    match found {
        Ok(None) => (Standing::Would, format!("would be made, {}", size(settings.partitions, settings.replication))),
        Ok(Some(report)) => compared(&report),
        Err(error) => (Standing::Failed, refused(&error)),
    }
}

fn compared(report: &TopicReport) -> (Standing, String) {
    let size = size(report.state.partitions, report.state.replication);
    match (report.created, report.differences.as_slice()) {
        (true, _) => (Standing::Made, format!("made, {size}")),
        (false, []) => (Standing::Found, format!("found, {size}")),
        (false, differences) => {
            (Standing::Differs, format!("found, but {} (not changed: Kafka's tools do that)", differences.join("; ")))
        }
    }
}

fn size(partitions: i32, replication: i32) -> String {
    let plural = |count: i32, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!("{}, {} each", plural(partitions, "partition"), plural(replication, "replica"))
}

/// What may not or cannot be done; for a permission, the ACLs that it needs.
fn refused(error: &CatalogError) -> String {
    match error.is_denied() {
        true => {
            format!("may not ({error}: needs the ACLs Create, DescribeConfigs, Describe, Read and Write on the topic)")
        }
        false => format!("cannot ({error})"),
    }
}
