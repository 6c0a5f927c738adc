//! `freshet rejects retry`: loads rejects that changed rules now accept.
//!
//! It is a replay in place ([`freshet_processors::replay`]) of the part of the topic that holds the rejects, restricted to
//! their files. So it has the guarantees of a replay: old data never overwrites new data, a row counts once, and rows
//! of these files in this part that the rules now refuse are removed from the table.
//!
//! What a retry has loaded is no reject any more. So one that was interrupted cannot be found by the rejects of now, and
//! is continued as it is recorded, before anything else is retried.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use freshet_processors::replay::{self, Point, ReplayContext, Request};
use freshet_sinks::replay::{self as replays, Kind, Replay};
use freshet_topics::Domain;
use indicatif::MultiProgress;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::extent::Extent;
use super::{Which, without};
use crate::commands::confirm::confirm;
use crate::commands::halted;
use crate::commands::replay::{bar, context, show};
use crate::commands::terminal::{Look, counted, thousands};
use crate::ready;
use crate::roles::Services;

/// Examples that a dry run shows of each kind.
const EXAMPLES: usize = 3;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    pub(super) json: bool,
}

pub(super) async fn run(
    services: &Services,
    domains: &[&'static Domain],
    which: &Which,
    how: How,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<ExitCode> {
    // The lock of a replay is a session's.
    ready::require_sessions(&services.pool).await?;
    if !without::tell(services, domains, which).await? {
        return Ok(ExitCode::FAILURE);
    }
    halted::warn(&services.pool, domains).await;
    let mut done = Vec::new();
    for domain in domains {
        let ended = of_domain(services, domain, which, how, look, shutdown).await;
        match ended.with_context(|| format!("retry the rejects of {}", domain.name))? {
            Some(outcome) => done.push(outcome),
            None => return Ok(ExitCode::FAILURE),
        }
    }
    if how.json {
        crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&done).context("write JSON")?));
    }
    Ok(ExitCode::SUCCESS)
}

/// The result; `None` if the user did not agree.
async fn of_domain(
    services: &Services,
    domain: &'static Domain,
    which: &Which,
    how: How,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<Option<Value>> {
    let context = context(services, domain, None);
    if !how.dry_run && !continue_interrupted(&context, how, look, shutdown).await? {
        return Ok(None);
    }
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let extent = Extent::of(&services.pool, domain, &topic, which).await.context("read the rejects")?;
    let rejects = extent.count();
    let Some(request) = extent.request() else {
        if !how.json {
            println!("{}: no such row was rejected", domain.name);
        }
        return Ok(Some(json!({ "domain": domain.name, "rejects": 0, "load_now": 0 })));
    };
    let what = format!("{} of {}", counted(rejects, "reject"), counted(extent.file_count, "file"));
    if how.dry_run {
        let work = async |progress: &_| replay::preview(&context, &request, EXAMPLES, progress, shutdown).await;
        let (preview, took) = bar::during(&MultiProgress::new(), domain.name, work).await?;
        if !how.json {
            let names = show::file_names(&context.pool, &preview.examples).await?;
            println!("{}: {what} would be judged again", domain.name);
            println!("{}", show::preview(domain, &preview, &names, took, look));
        }
        let would_load: u64 = preview.corrected.accepted_anew.values().sum();
        return Ok(Some(json!({ "domain": domain.name, "rejects": rejects, "would_load": would_load })));
    }
    if !how.json {
        println!(
            "{}: {what} will be judged again by the rules of this program, and so will the other rows of these files \
             between them in the topic; newer data is not overwritten",
            domain.name
        );
    }
    if !confirm("Judge them again?", how.yes)? {
        return Ok(None);
    }
    let (replay, took) = replayed(&context, &request, shutdown).await?;
    let still = extent.still_rejected(&services.pool, domain).await.context("count what is still rejected")?;
    let loaded = rejects - still;
    if !how.json {
        println!("{}", show::in_place(domain, &replay, took, look));
        println!("{}: {} now load, {} are still rejected", domain.name, thousands(loaded), thousands(still));
    }
    Ok(Some(json!({ "domain": domain.name, "rejects": rejects, "load_now": loaded, "still_rejected": still })))
}

/// Continues a retry of the domain that was interrupted, if there is one; `false` if the user did not agree.
async fn continue_interrupted(
    context: &ReplayContext,
    how: How,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<bool> {
    let domain = context.domain;
    let unfinished = replays::unfinished(&context.pool, domain.name).await.context("look for an unfinished replay")?;
    let Some(unfinished) = unfinished else { return Ok(true) };
    let Some(request) = request_of_retry(&unfinished) else { return Ok(true) };
    if !how.json {
        let unfinished = show::unfinished(&unfinished);
        println!("{}: an unfinished replay of a part of the topic is continued first: {unfinished}", domain.name);
    }
    if !confirm("Continue it?", how.yes)? {
        return Ok(false);
    }
    let (replay, took) = replayed(context, &request, shutdown).await?;
    if !how.json {
        println!("{}", show::in_place(domain, &replay, took, look));
    }
    Ok(true)
}

/// The request of an unfinished replay, if a retry may have begun it: it is in place, and begins and ends at offsets.
fn request_of_retry(unfinished: &Replay) -> Option<Request> {
    let request = Request::read(&unfinished.request).filter(|_| unfinished.kind == Kind::InPlace)?;
    matches!((&request.from, &request.to), (Point::Offsets(_), Some(Point::Offsets(_)))).then_some(request)
}

/// Replays in place, with a bar. Returns what was done, and how long it took.
async fn replayed(
    context: &ReplayContext,
    request: &Request,
    shutdown: &CancellationToken,
) -> Result<(Replay, Duration)> {
    let work = async |progress: &_| replay::in_place(context, request, progress, shutdown).await;
    Ok(bar::during(&MultiProgress::new(), context.domain.name, work).await?)
}
