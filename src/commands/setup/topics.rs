//! The topics: created if missing, otherwise compared with the settings. Kafka's own tools change them.

use freshet_topics::Domain;
use freshet_topics::catalog::{self, CatalogError, TopicReport};
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::kafka::access::Unreachable;
use freshet_topics::log::LogClient;
use sqlx::PgPool;

use super::{Finding, Mode, Standing};
use crate::commands::halted::{self, KnownTopic, partitions};
use crate::commands::terminal::thousands;
use crate::commands::topics::unfit;
use crate::roles::Services;

/// The ACLs that setup needs on a topic.
const NEEDED_ACLS: &str = "Create, Describe, DescribeConfigs, Read and Write";

pub(super) async fn prepare(services: &Services, mode: Mode) -> Vec<Finding> {
    let (settings, domains) = (&services.config.kafka, services.config.pipeline.domains);
    // Postgres out of reach is a finding of its own.
    let known = halted::known_topics(&services.pool, domains).await.unwrap_or_default();
    let each = domains.iter().map(async |domain| {
        let known = known.get(domain.name).cloned().unwrap_or_default();
        let (standing, said) = prepare_one(settings, domain, &known, mode).await;
        Finding::new("topic", &domain.topic(&settings.topic_prefix), standing, said)
    });
    futures::future::join_all(each).await
}

async fn prepare_one(settings: &KafkaSettings, domain: &Domain, known: &KnownTopic, mode: Mode) -> (Standing, String) {
    let found = match mode {
        Mode::Plan => catalog::inspect(settings, domain).await,
        Mode::Make => catalog::ensure(settings, domain, known.stream).await.map(Some),
    };
    match found {
        Ok(None) => (Standing::Would, format!("would be created, {}", size(settings.partitions, settings.replication))),
        Ok(Some(report)) => {
            let (standing, said) = compared(&report, unfit(domain, &report, known), mode);
            // An operator has to end a halt; it is no reason not to start the others.
            (standing, known.halted().map_or(said.clone(), |halted| format!("{said}; {halted}")))
        }
        Err(error) => (Standing::Failed, refused(&settings.brokers, &error)),
    }
}

/// Adds to what was found of a topic that its messages are another ledger's: those of a domain that this one has no file of.
/// Asked after the schema, and left unsaid where Kafka or Postgres does not answer, which is said elsewhere.
pub(super) async fn say_whose(services: &Services, findings: &mut [Finding]) {
    let settings = &services.config.kafka;
    let log = LogClient::new(settings);
    for domain in services.config.pipeline.domains {
        let topic = domain.topic(&settings.topic_prefix);
        let Some(finding) = findings.iter_mut().find(|it| it.kind == "topic" && it.name == topic) else { continue };
        if finding.standing == Standing::Failed || !knows_no_file(&services.pool, domain).await {
            continue;
        }
        let Ok(ends) = log.ends(&topic).await else { continue };
        // Record 0 of a partition is the stream's.
        let messages: i64 = ends.values().map(|ends| (ends.high - ends.low.max(1)).max(0)).sum();
        if messages > 0 {
            finding.said += &format!(
                "; holds {} messages of another ledger, whose rows will be skipped (docs/restore.md)",
                thousands(messages)
            );
        }
    }
}

async fn knows_no_file(pool: &PgPool, domain: &Domain) -> bool {
    let is_there = sqlx::query_scalar("SELECT to_regclass('pipeline.objects') IS NOT NULL").fetch_one(pool).await;
    match is_there {
        Ok(true) => sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM pipeline.objects WHERE domain = $1)")
            .bind(domain.name)
            .fetch_one(pool)
            .await
            .unwrap_or(false),
        Ok(false) => true,
        Err(_) => false,
    }
}

fn compared(report: &TopicReport, unfit: Option<String>, mode: Mode) -> (Standing, String) {
    let size = size(report.state.partitions, report.state.replication);
    if let Some(unfit) = unfit {
        return (Standing::Differs, format!("found, but {unfit}"));
    }
    let marked = match report.marked.len() == report.state.firsts.len() {
        true => format!("found empty, {size}"),
        false => format!("found, {size}, {} empty", partitions(&report.marked)),
    };
    match (report.created, report.differences.as_slice(), report.marked.as_slice()) {
        (true, ..) => (Standing::Made, format!("created, {size}")),
        (false, [], []) => (Standing::Found, format!("found, {size}")),
        (false, [], _) if mode == Mode::Plan => (Standing::Would, format!("{marked}: would be marked as freshet's")),
        (false, [], _) => (Standing::Made, format!("{marked}, and marked as freshet's")),
        (false, differences, _) => {
            (Standing::Differs, format!("found, but {} (not changed: use Kafka's tools)", differences.join("; ")))
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
