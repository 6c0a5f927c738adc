//! The topics: made where they are missing, compared where they are there. Kafka's own tools change them.

use freshet_topics::catalog::{self, CatalogError, TopicReport};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::kafka::access::Unreachable;
use freshet_topics::{DOMAINS, Domain};

use super::{Finding, Standing};

/// What all that setup does with a topic asks for.
const NEEDED_ACLS: &str = "Create, Describe, DescribeConfigs, Read and Write";

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
        Ok(Some(report)) => compared(&report, dry_run),
        Err(error) => (Standing::Failed, refused(&settings.brokers, &error)),
    }
}

fn compared(report: &TopicReport, dry_run: bool) -> (Standing, String) {
    let size = size(report.state.partitions, report.state.replication);
    match (report.created, report.differences.as_slice()) {
        (true, _) => (Standing::Made, format!("made, {size}")),
        (false, []) if report.marked && dry_run => {
            (Standing::Would, format!("found empty, {size}: would be marked as freshet's"))
        }
        (false, []) if report.marked => (Standing::Made, format!("found empty, {size}, and marked as freshet's")),
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
fn refused(brokers: &str, error: &CatalogError) -> String {
    match error {
        CatalogError::Kafka { action, source, .. } if error.is_denied() => {
            format!("may not {action} this topic ({source}: needs the ACLs {NEEDED_ACLS} on it)")
        }
        CatalogError::Kafka { action, .. } if error.is_out_of_reach() => {
            format!("cannot {action} this topic (no answer from Kafka at {brokers})")
        }
        CatalogError::Unreachable { action, source: Unreachable::Silent(_), .. } => {
            format!("cannot {action} this topic (no answer from Kafka at {brokers})")
        }
        CatalogError::Unreachable { action, source: Unreachable::Refused(reason), .. } => {
            format!("cannot {action} this topic (Kafka at {brokers}: {reason})")
        }
        CatalogError::Kafka { action, source, .. } => format!("cannot {action} this topic ({source})"),
        error => format!("cannot use it ({error})"),
    }
}
