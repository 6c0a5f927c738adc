//! Real faults of real processes, one test each: killed, frozen, cut off, told the wrong thing. Nothing is lost, nothing
//! is counted twice, and what cannot go on says why.

mod brokers;
mod clocks;
mod files;
mod foreign;
mod listeners;
mod memberships;
mod network;
mod postgres;
mod processors;
mod publishers;
mod refusals;
mod replays;
mod store;

use std::time::Duration;

use crate::harness::World;

/// How long a role may take to come to its failpoint; it starts in a second.
const AT_ITS_POINT_WITHIN: Duration = Duration::from_secs(30);

/// Rows in a domain's topic, each as often as it was written there.
async fn rows_in_topic(world: &World, domain: &str) -> i64 {
    world.records(domain).await.values().map(|record| record.rows).sum()
}

/// Rows that were received more than once.
async fn duplicates(world: &World) -> i64 {
    world.query("SELECT coalesce(sum(duplicate), 0)::bigint FROM pipeline.progress").await
}

/// All oracles, and that nothing had to be mended: what is missing is published again, which only the ledger remembers.
async fn all_hold_and_nothing_was_missing(world: &World) {
    world.all_hold().await;
    let repairs: i64 = world.query("SELECT sum(repairs)::bigint FROM pipeline.objects").await;
    assert_eq!(repairs, 0, "rows were missing and had to be published again");
}
