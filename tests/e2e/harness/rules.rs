//! A pipeline whose rules are wrong, as they were before somebody noticed.

use freshet_processors::Context;
use freshet_topics::{Column, DOMAINS, Domain, Instead, Limit, Otherwise, Rule, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::World;

static ZERO: Value = Value::Int(0);
static NOTHING: Value = Value::Double(0.0);
static ZERO_YEAR: &[Rule] =
    &[Rule { name: "negative_to_zero", limits: &[Limit::Minimum(&ZERO)], otherwise: Otherwise::Zero }];
static REJECTED_PROBABILITY: &[Rule] =
    &[Rule { name: "negative", limits: &[Limit::Minimum(&NOTHING)], otherwise: Otherwise::Reject }];

/// The domains with rules that were wrong: negative cases stay, malaria cases that do not cast reject their row, a
/// projection's year is never negative (which is part of the key), beds are not capped, a population may be negative,
/// and an impossible probability rejects its row.
pub(crate) fn wrong() -> Vec<&'static Domain> {
    let each = DOMAINS.iter().map(|domain| {
        let mut columns: Vec<Column> = domain.columns.to_vec();
        for column in &mut columns {
            match (domain.name, column.name) {
                ("health", "dengue_cases") | ("locations", "population") => column.rules = &[],
                ("health", "malaria_cases") => column.uncastable = Instead::Reject,
                ("health", "projection_year") => column.rules = ZERO_YEAR,
                ("climate", "flood_probability") => column.rules = REJECTED_PROBABILITY,
                _ => {}
            }
        }
        let row_rules = if domain.name == "hospital" { &[] } else { domain.row_rules };
        &*Box::leak(Box::new(Domain { columns: Vec::leak(columns), row_rules, ..**domain }))
    });
    each.collect()
}

/// Processors with rules of their own. Dropping them stops them.
pub(crate) struct Processors {
    tasks: Vec<JoinHandle<()>>,
    shutdown: CancellationToken,
}

impl Processors {
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        for task in self.tasks.drain(..) {
            task.await.expect("the processor drains");
        }
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    /// Runs a listener and a processor for this domain alone.
    pub(crate) fn pipeline(&self, domain: &'static Domain) -> Processors {
        let mut processors = self.process(vec![domain]);
        let (services, shutdown) = (self.services.clone(), processors.shutdown.clone());
        let context = freshet_ingest::Context {
            settings: services.config.ingest,
            kafka: services.config.kafka,
            pool: services.pool,
            s3: services.s3,
            raw_bucket: services.config.s3.raw_bucket,
            versions: services.config.s3.versions,
            domains: vec![domain],
            listener: format!("{} listener", self.name()),
            hints: services.hints,
            events: None,
        };
        let listener = async move { freshet_ingest::run(context, shutdown).await.expect("listen") };
        processors.tasks.push(tokio::spawn(listener));
        processors
    }

    /// Runs a processor for each of these domains.
    pub(crate) fn process(&self, domains: Vec<&'static Domain>) -> Processors {
        let shutdown = CancellationToken::new();
        let run = |domain: &'static Domain| {
            let context = Context {
                domain,
                settings: self.services.config.process.clone(),
                kafka: self.services.config.kafka.clone(),
                pool: self.services.pool.clone(),
                owner: format!("{} {}", self.name(), domain.name),
            };
            tokio::spawn(freshet_processors::run(context, shutdown.clone()))
        };
        let tasks = domains.into_iter().map(run).collect();
        Processors { tasks, shutdown }
    }
}
