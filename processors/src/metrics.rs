//! Metrics of the processors. `docs/metrics.md` lists their names and meanings.

use std::sync::LazyLock;
use std::time::Duration;

use freshet_sinks::apply::Applied;
use freshet_sinks::apply::REFUSED_BY_DATABASE;
use freshet_topics::Domain;
use freshet_topics::judge::{EXTRA_CELLS, MALFORMED_MESSAGE, REQUIRED_EMPTY, STRAY_QUOTE, UNCASTABLE};
use prometheus::{
    HistogramVec, IntCounterVec, IntGaugeVec, exponential_buckets, register_histogram_vec, register_int_counter_vec,
    register_int_gauge_vec,
};

macro_rules! counter {
    ($name:expr, $help:expr, $labels:expr) => {
        LazyLock::new(|| register_int_counter_vec!($name, $help, $labels).expect("declared once, with a valid name"))
    };
}

static ROWS_APPLIED: LazyLock<IntCounterVec> =
    counter!("freshet_rows_applied_total", "Rows written to the domain's table.", &["domain"]);
static ROWS_COPIED: LazyLock<IntCounterVec> =
    counter!("freshet_rows_copied_total", "Of those, rows written by COPY, because their keys were new.", &["domain"]);
static ROWS_STALE: LazyLock<IntCounterVec> =
    counter!("freshet_rows_stale_total", "Rows that lost to newer data.", &["domain"]);
static ROWS_DUPLICATE: LazyLock<IntCounterVec> =
    counter!("freshet_rows_duplicate_total", "Rows that were received before and are skipped.", &["domain"]);
static ROWS_PASSED_OVER: LazyLock<IntCounterVec> = counter!(
    "freshet_rows_passed_over_total",
    "Rows sent by another ledger, or by another life of this one; they are not applied.",
    &["domain"]
);
static ROWS_REJECTED: LazyLock<IntCounterVec> =
    counter!("freshet_rows_rejected_total", "Rows that cannot load, by rule.", &["domain", "rule"]);
static VALUES_CORRECTED: LazyLock<IntCounterVec> = counter!(
    "freshet_values_corrected_total",
    "Changes made to values, by column and rule.",
    &["domain", "column", "rule"]
);
static VALUES_WARNED: LazyLock<IntCounterVec> = counter!(
    "freshet_values_warned_total",
    "Values that break a rule and load as they are, by column and rule.",
    &["domain", "column", "rule"]
);
static APPLY_RETRIES: LazyLock<IntCounterVec> =
    counter!("freshet_apply_retries_total", "Transactions tried again after a transient error.", &["domain"]);
static PROCESSOR_RESTARTS: LazyLock<IntCounterVec> =
    counter!("freshet_processor_restarts_total", "Times a processor left its group and joined again.", &["domain"]);
static REBALANCES: LazyLock<IntCounterVec> = counter!(
    "freshet_rebalances_total",
    "Times partitions were assigned to this process, or taken from it.",
    &["domain", "event"]
);
static ASSIGNED_PARTITIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "freshet_assigned_partitions",
        "Partitions that this process reads, without halted ones.",
        &["domain"]
    )
    .expect("declared once, with a valid name")
});
static BATCH_ROWS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = exponential_buckets(1.0, 4.0, 8).expect("valid buckets");
    register_histogram_vec!("freshet_batch_rows", "Rows in a transaction.", &["domain"], buckets)
        .expect("declared once, with a valid name")
});
static BATCH_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.001, 2.0, 14).expect("valid buckets");
    register_histogram_vec!(
        "freshet_batch_duration_seconds",
        "Time to apply a batch, retries included.",
        &["domain"],
        buckets
    )
    .expect("declared once, with a valid name")
});

/// The rules that reject rows of any domain, besides those of its contract.
const REJECTING: [&str; 6] =
    [REQUIRED_EMPTY, UNCASTABLE, EXTRA_CELLS, STRAY_QUOTE, MALFORMED_MESSAGE, REFUSED_BY_DATABASE];

/// Makes every metric appear, at zero, before the first event: a rate over a counter that starts at its first event
/// misses that event.
pub(crate) fn declare(domain: &Domain) {
    let rejecting: Vec<&str> = REJECTING.into_iter().chain(domain.rejecting_rules()).collect();
    for (column, rule) in domain.warning_rules() {
        VALUES_WARNED.with_label_values(&[domain.name, column, rule]);
    }
    for (column, rule) in domain.correcting_rules() {
        VALUES_CORRECTED.with_label_values(&[domain.name, column, rule]);
    }
    let domain = domain.name;
    let counters = [
        &ROWS_APPLIED,
        &ROWS_COPIED,
        &ROWS_STALE,
        &ROWS_DUPLICATE,
        &ROWS_PASSED_OVER,
        &APPLY_RETRIES,
        &PROCESSOR_RESTARTS,
    ];
    for counter in counters {
        counter.with_label_values(&[domain]);
    }
    for rule in rejecting {
        ROWS_REJECTED.with_label_values(&[domain, rule]);
    }
    for event in ["assigned", "revoked"] {
        REBALANCES.with_label_values(&[domain, event]);
    }
    ASSIGNED_PARTITIONS.with_label_values(&[domain]);
    BATCH_ROWS.with_label_values(&[domain]);
    BATCH_DURATION.with_label_values(&[domain]);
}

/// Records that partitions were assigned, and how many of them are read.
pub(crate) fn assigned(domain: &str, partitions: usize) {
    REBALANCES.with_label_values(&[domain, "assigned"]).inc();
    ASSIGNED_PARTITIONS.with_label_values(&[domain]).set(partitions as i64);
}

/// Records that all partitions were given back.
pub(crate) fn revoked(domain: &str) {
    REBALANCES.with_label_values(&[domain, "revoked"]).inc();
    ASSIGNED_PARTITIONS.with_label_values(&[domain]).set(0);
}

/// Counts an applied batch.
pub(crate) fn applied(domain: &str, applied: &Applied, duration: Duration) {
    ROWS_APPLIED.with_label_values(&[domain]).inc_by(applied.applied);
    if applied.by_copy {
        ROWS_COPIED.with_label_values(&[domain]).inc_by(applied.applied);
    }
    ROWS_STALE.with_label_values(&[domain]).inc_by(applied.stale);
    ROWS_DUPLICATE.with_label_values(&[domain]).inc_by(applied.duplicate);
    ROWS_PASSED_OVER.with_label_values(&[domain]).inc_by(applied.passed_over);
    for (rule, count) in &applied.rejected {
        ROWS_REJECTED.with_label_values(&[domain, rule]).inc_by(*count);
    }
    for ((column, rule), count) in &applied.corrected {
        VALUES_CORRECTED.with_label_values(&[domain, column, rule]).inc_by(*count);
    }
    for ((column, rule), count) in &applied.warned {
        VALUES_WARNED.with_label_values(&[domain, column, rule]).inc_by(*count);
    }
    let Applied { stale, duplicate, passed_over, .. } = applied;
    let rows = applied.applied + stale + duplicate + passed_over + applied.rejected.values().sum::<u64>();
    BATCH_ROWS.with_label_values(&[domain]).observe(rows as f64);
    BATCH_DURATION.with_label_values(&[domain]).observe(duration.as_secs_f64());
}

/// Counts a transaction that is retried.
pub(crate) fn retried(domain: &str) {
    APPLY_RETRIES.with_label_values(&[domain]).inc();
}

/// Counts a processor that joins its group again.
pub(crate) fn restarted(domain: &str) {
    PROCESSOR_RESTARTS.with_label_values(&[domain]).inc();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use freshet_topics::{Pipeline, judge};
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn every_correction_of_the_shipped_tests_is_counted_from_zero() {
        let pipeline = Pipeline::shipped();
        for domain in pipeline.domains {
            declare(domain);
        }
        let families = VALUES_CORRECTED.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        // Labels are in the order of their names.
        let declared: BTreeSet<Vec<&str>> =
            metrics.map(|metric| metric.get_label().iter().map(|label| label.value()).collect()).collect();
        let mut corrected = 0;
        for examples in pipeline.examples {
            for example in &examples.rows {
                let judged = judge::row(examples.domain, &examples.raw_row(example));
                for (_, note) in judged.corrections.iter() {
                    corrected += 1;
                    let labels = vec![note.column, examples.domain.name, note.rule];
                    assert!(declared.contains(&labels), "{labels:?} is not declared");
                }
            }
        }
        assert!(corrected > 0, "the tests correct something");
    }
}
